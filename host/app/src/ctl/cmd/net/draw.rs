//! The nodes of a cluster and the paths between them, drawn: as text, for Graphviz, as a picture. What is drawn is what the
//! nodes themselves say about their peers.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use pilot_net::control::ClusterInfo;
use pilot_net::ipc::Client;
use pilot_wire::ipc::Request;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::args::Format;

/// How long a node may take to answer.
const LIMIT: Duration = Duration::from_secs(1);

/// One node.
#[derive(Clone, Debug, Default, PartialEq)]
struct Vertex {
    name: String,
    address: String,
    paused: bool,
    answers: bool,
}

/// A path between two nodes, each named by its place in the list; the smaller first.
#[derive(Clone, Debug, PartialEq)]
struct Edge {
    path: String,
    rtt_ms: Option<u64>,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Graph {
    nodes: Vec<Vertex>,
    edges: BTreeMap<(usize, usize), Edge>,
}

impl Graph {
    /// Asks every node that is not paused.
    pub(super) async fn look(info: &ClusterInfo) -> Graph {
        let mut graph = Graph::default();
        let mut asked = JoinSet::new();
        for (index, node) in info.nodes.iter().enumerate() {
            graph.nodes.push(Vertex {
                name: node.name.clone(),
                address: node.id.clone(),
                paused: node.paused,
                answers: false,
            });
            if let Some(socket) = node.uri.strip_prefix("unix://").filter(|_| !node.paused) {
                let socket = socket.to_owned();
                asked.spawn(async move { (index, peers(Path::new(&socket)).await) });
            }
        }
        while let Some(answer) = asked.join_next().await {
            let Ok((index, Some(info))) = answer else { continue };
            graph.nodes[index].answers = true;
            graph.enter(index, &info);
        }
        graph
    }

    /// Enters what a node says about its peers.
    fn enter(&mut self, index: usize, info: &Value) {
        for peer in info["peer_list"].as_array().map(Vec::as_slice).unwrap_or_default() {
            let Some(node) = peer["node_id"].as_u64().and_then(|n| u32::try_from(n).ok()) else { continue };
            let address = pilot_wire::addr::Addr::backbone(node).to_string();
            let Some(other) = self.nodes.iter().position(|n| n.address == address) else { continue };
            if other == index || peer["encrypted"] != true {
                continue;
            }
            let edge = Edge {
                path: peer["path"].as_str().unwrap_or("direct").to_owned(),
                rtt_ms: peer["rtt_ms"].as_u64(),
            };
            let ends = (index.min(other), index.max(other));
            // Of the two sides the one that measured a round trip counts.
            let known = self.edges.entry(ends).or_insert_with(|| edge.clone());
            if known.rtt_ms.is_none() {
                *known = edge;
            }
        }
    }

    pub(super) fn json(&self) -> Value {
        let name = |i: usize| self.nodes[i].name.as_str();
        json!({
            "nodes": self.nodes.iter().map(|n| json!({
                "name": n.name, "address": n.address, "paused": n.paused, "answers": n.answers,
            })).collect::<Vec<_>>(),
            "paths": self.edges.iter().map(|((a, b), e)| json!({
                "from": name(*a), "to": name(*b), "path": e.path, "rtt_ms": e.rtt_ms,
            })).collect::<Vec<_>>(),
        })
    }

    pub(super) fn drawn(&self, format: Format) -> String {
        match format {
            Format::Text => self.text(),
            Format::Dot => self.dot(),
            Format::Svg => self.svg(),
        }
    }

    fn state(node: &Vertex) -> &'static str {
        match (node.paused, node.answers) {
            (true, _) => "paused",
            (_, true) => "running",
            _ => "does not answer",
        }
    }

    fn label(edge: &Edge) -> String {
        match edge.rtt_ms {
            Some(ms) => format!("{} {ms} ms", edge.path),
            None => edge.path.clone(),
        }
    }

    /// Each node with its peers below it.
    fn text(&self) -> String {
        let mut out = String::new();
        let width = self.nodes.iter().map(|n| n.name.len()).max().unwrap_or(0);
        for (index, node) in self.nodes.iter().enumerate() {
            let _ = writeln!(out, "{:<width$}  {}  {}", node.name, node.address, Self::state(node));
            let mut peers: Vec<(usize, &Edge)> = self
                .edges
                .iter()
                .filter_map(|((a, b), edge)| match (index == *a, index == *b) {
                    (true, _) => Some((*b, edge)),
                    (_, true) => Some((*a, edge)),
                    _ => None,
                })
                .collect();
            peers.sort_by_key(|(other, _)| *other);
            let last = peers.len().saturating_sub(1);
            for (place, (other, edge)) in peers.into_iter().enumerate() {
                let branch = if place == last { "└" } else { "├" };
                let line = if edge.path == "direct" { "───" } else { "┄┄┄" };
                let _ =
                    writeln!(out, "{branch}{line} {:<width$}  {}", self.nodes[other].name, Self::label(edge));
            }
        }
        let _ = write!(out, "\n{} nodes, {} paths", self.nodes.len(), self.edges.len());
        out
    }

    fn dot(&self) -> String {
        let mut out = String::from("graph pilot {\n  layout=circo;\n  node [shape=box, style=rounded];\n");
        for node in &self.nodes {
            let style = if node.answers { "rounded" } else { "rounded,dashed" };
            let _ = writeln!(
                out,
                "  {:?} [label=\"{}\\n{}\", style=\"{style}\"];",
                node.name, node.name, node.address
            );
        }
        for ((a, b), edge) in &self.edges {
            let style = if edge.path == "direct" { "solid" } else { "dashed" };
            let (a, b) = (&self.nodes[*a].name, &self.nodes[*b].name);
            let _ = writeln!(out, "  {a:?} -- {b:?} [label={:?}, style={style}];", Self::label(edge));
        }
        out.push('}');
        out
    }

    /// The nodes in a circle.
    fn svg(&self) -> String {
        let count = self.nodes.len().max(1) as f64;
        // Names need room between neighbours.
        let radius = (count * 16.0).max(120.0);
        let size = 2.0 * radius + 160.0;
        let at = |i: usize| {
            let angle = std::f64::consts::TAU * i as f64 / count - std::f64::consts::FRAC_PI_2;
            (size / 2.0 + radius * angle.cos(), size / 2.0 + radius * angle.sin())
        };
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {size:.0} {size:.0}\" font-family=\"sans-serif\" font-size=\"11\" text-anchor=\"middle\">\n"
        );
        for ((a, b), edge) in &self.edges {
            let ((x1, y1), (x2, y2)) = (at(*a), at(*b));
            let dash = if edge.path == "direct" { "" } else { " stroke-dasharray=\"6 4\"" };
            let (a, b) = (&self.nodes[*a].name, &self.nodes[*b].name);
            let _ = writeln!(
                out,
                "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#789\"{dash}><title>{a} - {b}: {}</title></line>",
                escaped(&Self::label(edge))
            );
        }
        for (index, node) in self.nodes.iter().enumerate() {
            let (x, y) = at(index);
            let fill = match Self::state(node) {
                "running" => "#cde8cd",
                "paused" => "#eee3bb",
                _ => "#f0c8c8",
            };
            let _ = writeln!(
                out,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"24\" fill=\"{fill}\" stroke=\"#456\"><title>{} {}</title></circle>\n<text x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
                escaped(&node.address),
                Self::state(node),
                y + 4.0,
                escaped(&node.name),
            );
        }
        out.push_str("</svg>");
        out
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

async fn peers(socket: &Path) -> Option<Value> {
    let ask = async { Client::connect(socket).await.ok()?.json(&Request::Info).await.ok() };
    timeout(LIMIT, ask).await.ok()?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph() -> Graph {
        let node = |name: &str, node: u32, paused| Vertex {
            name: name.into(),
            address: pilot_wire::addr::Addr::backbone(node).to_string(),
            paused,
            answers: !paused,
        };
        let mut graph = Graph {
            nodes: vec![node("a", 1, false), node("bb", 2, false), node("c", 3, true)],
            ..Graph::default()
        };
        graph.enter(
            0,
            &json!({ "peer_list": [
            { "node_id": 2, "encrypted": true, "path": "direct" },
            { "node_id": 3, "encrypted": true, "path": "relay", "rtt_ms": 7 },
            { "node_id": 9, "encrypted": true },
        ] }),
        );
        graph.enter(
            1,
            &json!({ "peer_list": [
            { "node_id": 1, "encrypted": true, "path": "direct", "rtt_ms": 1 },
            { "node_id": 3, "encrypted": false },
        ] }),
        );
        graph
    }

    #[test]
    fn text_shows_every_path_from_both_ends() {
        let expected = "\
a   0:0000.0000.0001  running
├─── bb  direct 1 ms
└┄┄┄ c   relay 7 ms
bb  0:0000.0000.0002  running
└─── a   direct 1 ms
c   0:0000.0000.0003  paused
└┄┄┄ a   relay 7 ms

3 nodes, 2 paths";
        assert_eq!(graph().drawn(Format::Text), expected);
    }

    #[test]
    fn dot_and_svg_name_everything_once() {
        let (dot, svg) = (graph().drawn(Format::Dot), graph().drawn(Format::Svg));
        assert!(dot.contains("\"a\" -- \"c\" [label=\"relay 7 ms\", style=dashed];"), "{dot}");
        assert_eq!(dot.matches(" -- ").count(), 2);
        assert_eq!((svg.matches("<circle").count(), svg.matches("<line").count()), (3, 2));
        assert_eq!(graph().json()["paths"].as_array().map(Vec::len), Some(2));
        assert_eq!(escaped("<a&\"b\">"), "&lt;a&amp;&quot;b&quot;&gt;");
    }
}
