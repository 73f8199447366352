//! What is done to one node of a running cluster (netrunner.md section 5). Operations on a node queue in order; the
//! cluster's end goes before them.

use std::sync::Arc;

use pilot_net::control::{AddNode, BackendResult, RestartNode};
use tokio::sync::MutexGuard;

use super::Runner;
use super::cluster::{Cluster, STOPPED};
use super::node::{Node, STOP_LIMIT, port_is_free};
use super::spec::{MAX_NODES, Maps, NodeSpec, check_name, fault, networks, node_config, wanted_port};

/// Waits for the node's turn.
pub(super) async fn turn<'a>(cluster: &Cluster, node: &'a Node) -> BackendResult<MutexGuard<'a, ()>> {
    let turn = tokio::select! {
        biased;
        () = cluster.stop.cancelled() => return fault(STOPPED),
        turn = node.ops.lock() => turn,
    };
    // It may have been removed while we waited.
    match cluster.node(&node.name) {
        Some(same) if std::ptr::eq(&*same, node) => Ok(turn),
        _ => fault(format!("node {:?} not found", node.name)),
    }
}

/// AddNode.
pub(super) async fn add(runner: &Runner, cluster: &Arc<Cluster>, request: AddNode) -> BackendResult<()> {
    let name = match request.name.is_empty() {
        true => Runner::free_name(cluster),
        false => request.name,
    };
    check_name(&name)?;
    if cluster.node(&name).is_some() {
        return fault(format!("repeated node name {name:?}"));
    }
    if cluster.nodes().len() >= MAX_NODES {
        return fault(format!("too many nodes: one cluster has at most {MAX_NODES}"));
    }
    let own = Maps {
        chains: request.chain_configs,
        upgrades: request.upgrade_configs,
        files: request.chain_config_files,
    };
    let config = request.node_config.filter(|text| !text.trim().is_empty());
    let mut specs = [NodeSpec {
        exec: match request.exec_path.is_empty() {
            true => cluster.plan.exec.clone(),
            false => runner.exec(&request.exec_path)?,
        },
        plugin_dir: match request.plugin_dir.is_empty() {
            true => cluster.plan.plugin_dir.clone(),
            false => runner.plugin_dir(&request.plugin_dir)?,
        },
        maps: cluster.plan.maps.clone().over(&own.checked()?),
        networks: None,
        port: wanted_port(&node_config(config.as_deref())?)?.unwrap_or(0),
        paused: false,
        config,
        name,
    }];
    cluster.assign_ports(&mut specs)?;
    let [spec] = specs;
    let fresh = !cluster.root.join(&spec.name).exists();
    let node = cluster.enlist(spec.clone())?;
    let started = async {
        let _turn = turn(cluster, &node).await?;
        cluster.launch(&node, spec).await
    };
    let outcome = started.await;
    if outcome.is_err() {
        node.end(STOP_LIMIT).await;
        cluster.forget(&node.name);
        if fresh {
            let _ = std::fs::remove_dir_all(&node.dir);
        }
    }
    outcome
}

/// RemoveNode.
pub(super) async fn remove(cluster: &Arc<Cluster>, name: &str) -> BackendResult<()> {
    let node = cluster.named(name)?;
    let _turn = turn(cluster, &node).await?;
    cluster.peers.drop_of(name).await;
    let code = node.end(STOP_LIMIT).await;
    cluster.forget(name);
    ended_well(name, code)
}

fn ended_well(name: &str, code: Option<i32>) -> BackendResult<()> {
    match code {
        Some(code) => fault(format!("node {name:?} exited with exit code: {code}")),
        None => Ok(()),
    }
}

/// RestartNode. Everything is checked before the old process is stopped.
pub(super) async fn restart(
    runner: &Runner,
    cluster: &Arc<Cluster>,
    request: RestartNode,
) -> BackendResult<()> {
    let node = cluster.named(&request.name)?;
    let _turn = turn(cluster, &node).await?;
    let old = node.spec();
    let changes = Maps {
        chains: request.chain_configs,
        upgrades: request.upgrade_configs,
        files: request.chain_config_files,
    };
    let spec = NodeSpec {
        exec: match request.exec_path.as_deref() {
            None | Some("") => old.exec,
            Some(path) => runner.exec(path)?,
        },
        plugin_dir: match request.plugin_dir.is_empty() {
            true => old.plugin_dir,
            false => runner.plugin_dir(&request.plugin_dir)?,
        },
        networks: match request.whitelisted_chains.as_deref() {
            None => old.networks,
            Some(text) => Some(networks(text)?),
        },
        maps: old.maps.over(&changes.checked()?),
        paused: false,
        ..old
    };
    if !spec.exec.is_file() {
        return fault(format!("exec path does not exist: {}", spec.exec.display()));
    }
    node.write_files(&spec, &cluster.global, &cluster.services)?;
    cluster.peers.drop_of(&node.name).await;
    node.end(STOP_LIMIT).await;
    start_again(cluster, &node, spec).await
}

async fn start_again(cluster: &Arc<Cluster>, node: &Node, spec: NodeSpec) -> BackendResult<()> {
    let started = async {
        if cluster.stop.is_cancelled() {
            return fault(STOPPED);
        }
        port_is_free(spec.port)?;
        cluster.launch(node, spec).await
    };
    let outcome = started.await;
    if outcome.is_err() {
        node.set_lost();
    }
    outcome
}

/// PauseNode.
pub(super) async fn pause(cluster: &Arc<Cluster>, name: &str) -> BackendResult<()> {
    let node = cluster.named(name)?;
    let _turn = turn(cluster, &node).await?;
    let outcome = node.pause().await;
    cluster.changes.bump();
    outcome
}

/// ResumeNode. A node that was killed while it was stopped is started again.
pub(super) async fn resume(cluster: &Arc<Cluster>, name: &str) -> BackendResult<()> {
    let node = cluster.named(name)?;
    let _turn = turn(cluster, &node).await?;
    let alive = node.resume()?;
    cluster.changes.bump();
    if alive {
        return Ok(());
    }
    tracing::warn!(node = name, "runner: the node died while it was paused; it is started again");
    let spec = NodeSpec { paused: false, ..node.spec() };
    node.end(STOP_LIMIT).await;
    start_again(cluster, &node, spec).await
}
