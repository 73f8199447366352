//! A cluster as a table and as JSON.

use pilot_net::control::{ClusterInfo, NodeInfo};
use serde_json::{Value, json};

use crate::ctl::out::{Cell, Out, row};

/// What a node is doing, from what the runner says about it.
fn state(node: &NodeInfo, uris: &[String]) -> &'static str {
    match (node.paused, uris.contains(&node.uri)) {
        (true, _) => "paused",
        (false, true) if node.id.is_empty() => "starting",
        (false, true) => "running",
        (false, false) => "exited",
    }
}

/// For people.
pub(super) fn table(out: &Out, info: &ClusterInfo, uris: &[String]) -> String {
    let rows = info.nodes.iter().map(|node| {
        let state = match state(node, uris) {
            "running" => Cell::good("running"),
            "exited" => Cell::bad("exited"),
            other => Cell::dim(other),
        };
        row![node.name.clone(), state, node.id.clone(), node.uri.clone()]
    });
    let nodes = out.table(&["NAME", "STATE", "ADDRESS", "URI"], &[], rows.collect());
    let chains: Vec<_> =
        info.custom_chains.iter().map(|c| format!("{} ({})", c.chain_id, c.chain_name)).collect();
    let facts = out.facts(&[
        ("healthy", if info.healthy { "yes" } else { "no" }.to_owned()),
        ("networks", chains.join(", ")),
        ("files", info.root_data_dir.clone()),
    ]);
    format!("{nodes}\n\n{facts}")
}

/// For scripts.
pub(super) fn json(info: &ClusterInfo, uris: &[String]) -> Value {
    let node = |n: &NodeInfo| {
        json!({
            "name": n.name, "state": state(n, uris), "address": n.id, "uri": n.uri, "exec": n.exec_path,
            "plugin_dir": n.plugin_dir, "log_dir": n.log_dir, "state_dir": n.db_dir, "paused": n.paused,
            "networks": n.whitelisted_subnets, "config": String::from_utf8_lossy(&n.config),
        })
    };
    json!({
        "running": true,
        "healthy": info.healthy,
        "runner_pid": info.pid,
        "root": info.root_data_dir,
        "nodes": info.nodes.iter().map(node).collect::<Vec<_>>(),
        "networks": info.custom_chains.iter()
            .map(|c| json!({ "id": c.chain_id, "name": c.chain_name }))
            .collect::<Vec<_>>(),
    })
}
