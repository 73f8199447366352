//! What a node is told to be: names, precedence of settings, what the runner keeps to itself (netrunner.md sections 1 and 5,
//! "AddNode"). Pure: texts in, texts out; files and processes are `node.rs`'s.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use pilot_net::control::{BackendError, BackendResult};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Longest name of a node, a snapshot or a placed file.
const MAX_NAME: usize = 64;
/// Largest placed file (netrunner.md section 5, "Map meaning for Pilot").
pub(super) const MAX_FILE: usize = 1 << 20;
/// Nodes of one cluster; a request for more is refused before anything starts.
pub(super) const MAX_NODES: usize = 1000;
/// Names in the cluster directory that are not nodes.
const TAKEN: [&str; 2] = ["services", "runner.json"];
/// Options that the runner decides; a request that sets one is refused.
const MANAGED: [(&str, &[&str]); 5] = [
    ("node", &["state_dir", "identity"]),
    ("ipc", &["socket"]),
    ("plugins", &["dir"]),
    ("registry", &[]),
    ("beacon", &[]),
];
/// Ends of keys whose values are secrets.
const SECRET: [&str; 3] = ["token", "password", "secret"];

/// An error with a text that clients may match.
pub(super) fn fault<T>(text: impl Into<String>) -> BackendResult<T> {
    Err(BackendError::new(text))
}

/// Per-plugin settings, stored upgrade texts, and files for the state directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Maps {
    /// Plugin name to a JSON object.
    pub chains: BTreeMap<String, String>,
    /// Kept and written, without effect.
    pub upgrades: BTreeMap<String, String>,
    /// File name to content.
    pub files: BTreeMap<String, String>,
}

impl Maps {
    /// Checks every key and value.
    pub(super) fn checked(self) -> BackendResult<Self> {
        for (name, text) in &self.chains {
            check_file_name("chain config", name)?;
            object(&format!("chain config {name:?}"), text)?;
        }
        for name in self.upgrades.keys() {
            check_file_name("upgrade config", name)?;
        }
        for (name, content) in &self.files {
            check_file_name("chain config file", name)?;
            if name.starts_with("identity") {
                return fault(format!("option {name:?} is managed by the runner"));
            }
            if content.len() > MAX_FILE {
                return fault(format!("chain config file {name:?} is larger than {MAX_FILE} bytes"));
            }
        }
        Ok(self)
    }

    /// These, with `over` laid on top, key by key.
    pub(super) fn over(mut self, over: &Maps) -> Self {
        let lay = |into: &mut BTreeMap<String, String>, from: &BTreeMap<String, String>| {
            into.extend(from.iter().map(|(k, v)| (k.clone(), v.clone())));
        };
        lay(&mut self.chains, &over.chains);
        lay(&mut self.upgrades, &over.upgrades);
        lay(&mut self.files, &over.files);
        self
    }
}

/// One node, as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NodeSpec {
    pub name: String,
    /// The host program, absolute.
    pub exec: PathBuf,
    /// Its plugins; `None`: none.
    pub plugin_dir: Option<PathBuf>,
    /// The request's JSON, as given.
    pub config: Option<String>,
    /// The cluster's, the request's on top.
    pub maps: Maps,
    /// Networks to join; `None` leaves it to the configuration.
    pub networks: Option<Vec<u16>>,
    /// UDP port, kept for the node's life.
    pub port: u16,
    /// For snapshots: whether it was paused.
    #[serde(default)]
    pub paused: bool,
}

/// What the runner decides for a node.
pub(super) struct Managed<'a> {
    pub state_dir: &'a Path,
    pub socket: &'a Path,
    pub plugins: &'a Path,
    pub registry: &'a str,
    pub beacon: &'a str,
}

/// Whether `name` may be a node's or a snapshot's: also a directory's name, so nothing that leads elsewhere.
pub(super) fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(plain) && name != "." && name != ".."
}

/// Refuses what cannot be a node's name.
pub(super) fn check_name(name: &str) -> BackendResult<()> {
    if is_name(name) && !TAKEN.contains(&name) {
        return Ok(());
    }
    fault(format!(
        "invalid node name {name:?}: use 1 to {MAX_NAME} letters, digits, dots, underscores, hyphens"
    ))
}

fn check_file_name(what: &str, name: &str) -> BackendResult<()> {
    if is_name(name) {
        return Ok(());
    }
    fault(format!("{what}: invalid name {name:?}: use letters, digits, dots, underscores, hyphens"))
}

/// The next free `node<k>`, k from 1.
pub(super) fn next_name(taken: impl Fn(&str) -> bool) -> String {
    let mut k = 1_u64;
    loop {
        let name = format!("node{k}");
        if !taken(&name) {
            return name;
        }
        k += 1;
    }
}

/// A JSON object; `None` for an empty text.
pub(super) fn object(what: &str, text: &str) -> BackendResult<Option<Map<String, Value>>> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(Some(map)),
        Ok(_) => fault(format!("{what} is not a JSON object")),
        Err(e) => fault(format!("{what} is not a JSON object: {e}")),
    }
}

/// A node's own configuration: an object that leaves the runner's options alone.
pub(super) fn node_config(text: Option<&str>) -> BackendResult<Map<String, Value>> {
    let map = object("node config", text.unwrap_or_default())?.unwrap_or_default();
    refuse_managed(&map, &MANAGED)?;
    Ok(map)
}

/// The cluster's global configuration: as a node's, but it may name an outside registry and beacon.
pub(super) fn global_config(text: Option<&str>) -> BackendResult<Map<String, Value>> {
    let map = object("global node config", text.unwrap_or_default())?.unwrap_or_default();
    refuse_managed(&map, &MANAGED[..3])?;
    Ok(map)
}

fn refuse_managed(map: &Map<String, Value>, managed: &[(&str, &[&str])]) -> BackendResult<()> {
    for (table, keys) in managed {
        match map.get(*table) {
            Some(_) if keys.is_empty() => return fault(format!("option {table:?} is managed by the runner")),
            Some(Value::Object(inner)) => {
                if let Some(key) = keys.iter().find(|k| inner.contains_key(**k)) {
                    return fault(format!("option \"{table}.{key}\" is managed by the runner"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// The text at `table.key` of a configuration.
pub(super) fn text_at<'a>(map: &'a Map<String, Value>, table: &str, key: &str) -> Option<&'a str> {
    map.get(table)?.get(key)?.as_str().filter(|text| !text.is_empty())
}

/// The UDP port that a configuration asks for; `None` leaves it to the runner.
pub(super) fn wanted_port(map: &Map<String, Value>) -> BackendResult<Option<u16>> {
    let Some(listen) = text_at(map, "node", "listen") else { return Ok(None) };
    let address = match listen.strip_prefix(':') {
        Some(port) => format!("127.0.0.1:{port}"),
        None => listen.to_owned(),
    };
    match address.parse::<SocketAddr>() {
        Ok(address) => Ok(Some(address.port()).filter(|port| *port != 0)),
        Err(_) => fault(format!("node config: {listen:?} is not an address; write IP:PORT")),
    }
}

/// Network ids of a `WhitelistedChains` text.
pub(super) fn networks(text: &str) -> BackendResult<Vec<u16>> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| match part.parse::<u16>() {
            Ok(id) if id > 0 => Ok(id),
            _ => fault(format!("{part:?} is not a network id; write decimal ids with commas between them")),
        })
        .collect()
}

/// Lays `from` over `into`, tables into tables.
pub(super) fn lay(into: &mut Map<String, Value>, from: Map<String, Value>) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Object(below)), Value::Object(above)) => lay(below, above),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// The node's `pilot.toml`: global configuration, plugin tables, the node's own keys, then what the runner decides.
pub(super) fn settings(
    global: &Map<String, Value>,
    node: &NodeSpec,
    managed: &Managed<'_>,
) -> BackendResult<String> {
    let mut merged = Map::new();
    if let Some(hostname) = hostname(&node.name) {
        lay(&mut merged, table(json!({ "node": { "hostname": hostname } })));
    }
    lay(&mut merged, global.clone());
    for (plugin, text) in &node.maps.chains {
        if let Some(settings) = object(&format!("chain config {plugin:?}"), text)? {
            lay(&mut merged, table(json!({ "plugin": { plugin.as_str(): settings } })));
        }
    }
    lay(&mut merged, node_config(node.config.as_deref())?);
    if let Some(networks) = &node.networks {
        lay(&mut merged, table(json!({ "node": { "networks": networks } })));
    }
    let ip = text_at(&merged, "node", "listen")
        .and_then(|listen| listen.parse::<SocketAddr>().ok())
        .map_or_else(|| "127.0.0.1".to_owned(), |listen| listen.ip().to_string());
    let listen = match ip.contains(':') {
        true => format!("[{ip}]:{}", node.port),
        false => format!("{ip}:{}", node.port),
    };
    lay(
        &mut merged,
        table(json!({
            "node": { "state_dir": managed.state_dir, "identity": managed.state_dir.join("identity.json"), "listen": listen },
            "registry": { "addr": managed.registry },
            "beacon": { "addr": managed.beacon },
            "ipc": { "socket": managed.socket },
            "plugins": { "dir": managed.plugins },
        })),
    );
    toml::to_string(&merged)
        .map_err(|e| BackendError::new(format!("node config cannot be written as TOML: {e}")))
}

fn table(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// The node's name as a host name, where it can be one.
fn hostname(name: &str) -> Option<String> {
    let name = name.to_ascii_lowercase();
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    (plain && name.len() <= 63 && !name.starts_with('-') && !name.ends_with('-')).then_some(name)
}

/// A JSON text with the values of secrets replaced; a text that is none is hidden whole.
pub(super) fn mask(text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    match serde_json::from_str::<Value>(text) {
        Ok(mut value) => {
            mask_value(&mut value);
            value.to_string()
        }
        Err(_) => "\"***\"".to_owned(),
    }
}

fn mask_value(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let key = key.to_ascii_lowercase();
                match value {
                    Value::String(text) if SECRET.iter().any(|s| key.ends_with(s)) => "***".clone_into(text),
                    other => mask_value(other),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(mask_value),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str) -> NodeSpec {
        NodeSpec {
            name: name.into(),
            exec: "/bin/host".into(),
            plugin_dir: None,
            config: None,
            maps: Maps::default(),
            networks: None,
            port: 4711,
            paused: false,
        }
    }

    fn managed() -> Managed<'static> {
        Managed {
            state_dir: Path::new("/c/n/state"),
            socket: Path::new("/c/n/run/pilot.sock"),
            plugins: Path::new("/plugins"),
            registry: "127.0.0.1:9000",
            beacon: "127.0.0.1:9001",
        }
    }

    #[test]
    fn names_cannot_lead_elsewhere() {
        for good in ["a", "node1", "A.b_c-9", &"x".repeat(64)] {
            check_name(good).unwrap();
        }
        for bad in ["", ".", "..", "../x", "a/b", "a b", "ä", "services", "runner.json", &"x".repeat(65)] {
            assert!(check_name(bad).unwrap_err().0.starts_with("invalid node name"), "{bad:?}");
        }
        assert_eq!(next_name(|n| n == "node1"), "node2");
    }

    #[test]
    fn precedence_low_to_high() {
        let mut node = spec("Node-1");
        node.config = Some(r#"{"node":{"public":true},"plugin":{"webhook":{"url":"http://c"}}}"#.into());
        node.maps.chains.insert("webhook".into(), r#"{"url":"http://b","secret":"s"}"#.into());
        let global =
            table(json!({ "node": { "public": false, "hostname": "g" }, "log": { "level": "debug" } }));
        let text = settings(&global, &node, &managed()).unwrap();
        let read: toml::Table = toml::from_str(&text).unwrap();
        assert_eq!(read["node"]["public"].as_bool(), Some(true));
        assert_eq!(read["node"]["hostname"].as_str(), Some("g"));
        assert_eq!(read["node"]["listen"].as_str(), Some("127.0.0.1:4711"));
        assert_eq!(read["plugin"]["webhook"]["url"].as_str(), Some("http://c"));
        assert_eq!(read["plugin"]["webhook"]["secret"].as_str(), Some("s"));
        assert_eq!(read["log"]["level"].as_str(), Some("debug"));
        assert_eq!(read["registry"]["addr"].as_str(), Some("127.0.0.1:9000"));
        let plain = settings(&Map::new(), &spec("Node-1"), &managed()).unwrap();
        assert!(plain.contains("hostname = \"node-1\""), "{plain}");
    }

    #[test]
    fn what_the_runner_decides_is_refused() {
        let refused = |text: &str| node_config(Some(text)).unwrap_err().0;
        assert_eq!(
            refused(r#"{"node":{"state_dir":"/"}}"#),
            "option \"node.state_dir\" is managed by the runner"
        );
        assert_eq!(refused(r#"{"registry":{}}"#), "option \"registry\" is managed by the runner");
        assert!(global_config(Some(r#"{"registry":{"addr":"x:1"}}"#)).is_ok());
        assert!(refused("[1]").contains("not a JSON object"));
        assert!(node_config(Some(" ")).unwrap().is_empty());
        let files = |name: &str| Maps {
            files: BTreeMap::from([(name.to_owned(), String::new())]),
            ..Maps::default()
        };
        assert!(files("../x").checked().is_err() && files("a/b").checked().is_err());
        assert!(files("identity.json").checked().is_err());
        assert!(files("policy.json").checked().is_ok());
    }

    #[test]
    fn ports_and_networks() {
        let port = |listen: &str| wanted_port(&table(json!({ "node": { "listen": listen } })));
        assert_eq!(port("127.0.0.1:5"), Ok(Some(5)));
        assert_eq!(port(":5"), Ok(Some(5)));
        assert_eq!(port("0.0.0.0:0"), Ok(None));
        assert!(port("x").is_err());
        assert_eq!(networks("1, 65535"), Ok(vec![1, 65535]));
        assert_eq!(networks(""), Ok(vec![]));
        assert!(networks("0").is_err() && networks("1,x").is_err() && networks("65536").is_err());
    }

    #[test]
    fn secrets_are_masked() {
        let text = mask(r#"{"a":[{"join_token":"x"}],"secret":"y","port":1}"#);
        let shown: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(shown, json!({"a": [{"join_token": "***"}], "secret": "***", "port": 1}));
        assert_eq!(mask(""), "");
    }
}
