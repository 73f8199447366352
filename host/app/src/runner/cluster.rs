//! One cluster: its services, its nodes, its picture for callers, its end. The runner (`mod.rs`) owns at most one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pilot_net::control::{BackendError, BackendResult, ChainInfo, ClusterInfo};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::node::{Node, STOP_LIMIT, free_ports, make_dir, port_is_free, write};
use super::peers::Peers;
use super::process::{Nursery, start_time};
use super::services::Services;
use super::spec::{Maps, NodeSpec, fault, global_config};

/// How often health is looked at while somebody waits for it and nothing changes.
const HEALTH_POLL: Duration = Duration::from_millis(500);
/// Longest a fresh evaluation may take.
const EVALUATION: Duration = Duration::from_secs(2);
/// The text of a wait that took too long, as Go callers know it.
const TOO_LATE: &str = "context deadline exceeded";
/// The text for everything that is interrupted by the cluster's end.
pub(super) const STOPPED: &str = "network stopped";

/// Counts changes; streams push when it moves.
#[derive(Clone, Debug)]
pub(super) struct Changes(Arc<watch::Sender<u64>>);

impl Changes {
    pub(super) fn new() -> Self {
        Changes(Arc::new(watch::Sender::new(0)))
    }

    pub(super) fn bump(&self) {
        self.0.send_modify(|n| *n = n.wrapping_add(1));
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}

/// What all nodes have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plan {
    /// The host program, unless a node has its own.
    pub exec: PathBuf,
    /// Likewise.
    pub plugin_dir: Option<PathBuf>,
    /// The global configuration's JSON, as given.
    pub global: Option<String>,
    /// Likewise for the maps.
    pub maps: Maps,
    /// Whether a port that is not free may be replaced by another.
    pub reassign: bool,
}

/// A provisioned overlay network; kept with snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Chain {
    pub id: u16,
    pub name: String,
    /// The blueprint, tokens masked.
    pub blueprint: String,
}

/// See the module.
pub(super) struct Cluster {
    pub root: PathBuf,
    pub plan: Plan,
    pub global: Map<String, Value>,
    pub services: Services,
    pub peers: Peers,
    nodes: Mutex<BTreeMap<String, Arc<Node>>>,
    chains: Mutex<Vec<Chain>>,
    /// Cancelled when its end begins: waits and queued operations give up.
    pub stop: CancellationToken,
    /// Whether it has come up; until then only looking is allowed.
    ready: AtomicBool,
    healthy: AtomicBool,
    pub nursery: Nursery,
    pub changes: Changes,
    /// Where sockets go whose paths would be too long; made when the first one is.
    short: Mutex<Option<tempfile::TempDir>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cluster {
    /// Starts the services below `root`, which exists; there are no nodes yet.
    pub(super) async fn found(
        root: PathBuf,
        plan: Plan,
        services_exec: &Path,
        nursery: &Nursery,
        changes: &Changes,
    ) -> BackendResult<Arc<Cluster>> {
        let global = global_config(plan.global.as_deref())?;
        let bump = changes.clone();
        let services = Services::start(nursery, services_exec, &root, &global, move || bump.bump()).await?;
        Ok(Arc::new(Cluster {
            root,
            plan,
            global,
            services,
            peers: Peers::default(),
            nodes: Mutex::default(),
            chains: Mutex::default(),
            stop: CancellationToken::new(),
            ready: AtomicBool::new(false),
            healthy: AtomicBool::new(false),
            nursery: nursery.clone(),
            changes: changes.clone(),
            short: Mutex::new(None),
        }))
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    pub(super) fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
        self.changes.bump();
    }

    /// All nodes, by name.
    pub(super) fn nodes(&self) -> Vec<Arc<Node>> {
        lock(&self.nodes).values().cloned().collect()
    }

    pub(super) fn node(&self, name: &str) -> Option<Arc<Node>> {
        lock(&self.nodes).get(name).cloned()
    }

    /// The node, or the error of the calls that manage nodes.
    pub(super) fn named(&self, name: &str) -> BackendResult<Arc<Node>> {
        self.node(name).ok_or_else(|| BackendError::new(format!("node {name:?} not found")))
    }

    /// Takes it out of the list.
    pub(super) fn forget(&self, name: &str) {
        lock(&self.nodes).remove(name);
        self.keep_manifest();
        self.changes.bump();
    }

    pub(super) fn chains(&self) -> Vec<Chain> {
        lock(&self.chains).clone()
    }

    /// Adds a network, or replaces what is known about it.
    pub(super) fn note_chain(&self, chain: Chain) {
        let mut chains = lock(&self.chains);
        chains.retain(|c| c.id != chain.id);
        chains.push(chain);
        chains.sort_by_key(|c| c.id);
        drop(chains);
        self.changes.bump();
    }

    /// Ports: what a configuration or a snapshot asks for must be free (or may be replaced); the rest is chosen.
    pub(super) fn assign_ports(&self, specs: &mut [NodeSpec]) -> BackendResult<()> {
        let mut taken: BTreeSet<u16> = self.nodes().iter().map(|n| n.spec().port).collect();
        for spec in specs.iter_mut().filter(|s| s.port != 0) {
            let free = match taken.contains(&spec.port) {
                true => fault(format!("port {} is not free: another node of this cluster has it", spec.port)),
                false => port_is_free(spec.port),
            };
            match free {
                Ok(()) => {
                    taken.insert(spec.port);
                }
                Err(_) if self.plan.reassign => spec.port = 0,
                Err(e) => return Err(e),
            }
        }
        let missing = specs.iter().filter(|s| s.port == 0).count();
        let mut found = free_ports(missing, &taken)?.into_iter();
        for spec in specs.iter_mut().filter(|s| s.port == 0) {
            spec.port = found.next().unwrap_or_default();
        }
        Ok(())
    }

    /// Lists a node that is not started yet.
    pub(super) fn enlist(&self, spec: NodeSpec) -> BackendResult<Arc<Node>> {
        let name = spec.name.clone();
        let mut nodes = lock(&self.nodes);
        if nodes.contains_key(&name) {
            return fault(format!("repeated node name {name:?}"));
        }
        let node = Node::new(&self.root, spec, || {
            let mut short = lock(&self.short);
            if short.is_none() {
                *short = Some(tempfile::Builder::new().prefix("pilot-run-").tempdir_in("/tmp")?);
            }
            Ok(short.as_ref().map(|dir| dir.path().to_owned()).unwrap_or_default())
        });
        let node = Arc::new(
            node.map_err(|e| BackendError::new(format!("node {name:?}: no place for its socket: {e}")))?,
        );
        nodes.insert(name, node.clone());
        Ok(node)
    }

    /// Writes a node's files and starts it.
    pub(super) async fn launch(&self, node: &Node, spec: NodeSpec) -> BackendResult<()> {
        node.write_files(&spec, &self.global, &self.services)?;
        let bump = self.changes.clone();
        let outcome = node.launch(&self.nursery, spec, move || bump.bump()).await;
        self.keep_manifest();
        self.changes.bump();
        outcome
    }

    /// Asks every node that is not paused. `Err`: the name of one whose process is gone.
    pub(super) async fn evaluate(&self) -> Result<bool, String> {
        let mut asked = JoinSet::new();
        let mut gone = None;
        for node in self.nodes() {
            if node.is_lost() {
                gone.get_or_insert_with(|| node.name.clone());
            } else if !node.is_paused() {
                asked.spawn(async move { node.probe().await });
            }
        }
        let all = async {
            let mut well = true;
            while let Some(answer) = asked.join_next().await {
                well &= answer.unwrap_or(false);
            }
            well
        };
        let well = timeout(EVALUATION, all).await.unwrap_or(false) && gone.is_none();
        let well = well && !self.stop.is_cancelled();
        if self.healthy.swap(well, Ordering::AcqRel) != well {
            self.changes.bump();
        }
        gone.map_or(Ok(well), Err)
    }

    /// Waits until all nodes are well, at most `limit`.
    pub(super) async fn wait_for_healthy(&self, limit: Duration) -> BackendResult<()> {
        let mut changes = self.changes.subscribe();
        let wait = async {
            loop {
                changes.mark_unchanged();
                match self.evaluate().await {
                    Ok(true) => return Ok(()),
                    Ok(false) => {}
                    // A node of a cluster that is ending is no accident.
                    Err(_) if self.stop.is_cancelled() => {}
                    Err(name) => return fault(format!("node {name:?} stopped unexpectedly")),
                }
                let _ = timeout(HEALTH_POLL, changes.changed()).await;
            }
        };
        tokio::select! {
            () = self.stop.cancelled() => fault(STOPPED),
            outcome = timeout(limit, wait) => outcome.unwrap_or_else(|_| fault(TOO_LATE)),
        }
    }

    /// What callers see of it.
    pub(super) fn info(&self) -> ClusterInfo {
        let nodes = self.nodes();
        let chains = self.chains();
        let chain = |c: &Chain| ChainInfo {
            chain_name: c.name.clone(),
            vm_id: "pilot-network".into(),
            vm_name: "blueprint".into(),
            chain_id: c.id.to_string(),
            subnet_id: c.id.to_string(),
            genesis: c.blueprint.clone().into_bytes(),
        };
        ClusterInfo {
            node_names: nodes.iter().map(|n| n.name.clone()).collect(),
            nodes: nodes.iter().map(|n| n.info()).collect(),
            pid: i32::try_from(std::process::id()).unwrap_or(0),
            root_data_dir: self.root.display().to_string(),
            healthy: self.healthy.load(Ordering::Acquire),
            custom_chains: chains.iter().map(chain).collect(),
            subnets: chains.iter().map(|c| c.id.to_string()).collect(),
            network_id: 0,
        }
    }

    /// Ends it: synthetic peers, nodes side by side, then the services. Afterwards nothing of it runs.
    pub(super) async fn end(&self) -> ClusterInfo {
        self.stop.cancel();
        self.peers.clear().await;
        let mut ending = JoinSet::new();
        for node in self.nodes() {
            ending.spawn(async move {
                // An operation in progress may start a process: it gets its time, and no more.
                let _turn = timeout(STOP_LIMIT, node.ops.lock()).await;
                if let Some(code) = node.end(STOP_LIMIT).await {
                    tracing::warn!(node = node.name, code, "runner: node ended with an error");
                }
            });
        }
        while ending.join_next().await.is_some() {}
        if let Some(services) = &self.services.process {
            services.end(STOP_LIMIT).await;
        }
        self.healthy.store(false, Ordering::Release);
        self.keep_manifest();
        *lock(&self.short) = None;
        self.changes.bump();
        ClusterInfo { node_names: Vec::new(), nodes: Vec::new(), healthy: false, ..self.info() }
    }

    /// Writes `runner.json`: which processes belong to this cluster, each with its start time, so that a later runner can
    /// tell what is left of this one from strangers.
    pub(super) fn keep_manifest(&self) {
        let entry = |name: &str, pid: i32, exec: &Path| {
            start_time(pid)
                .map(|started| json!({ "name": name, "pid": pid, "start_time": started, "exec": exec }))
        };
        let mut processes: Vec<_> = self
            .nodes()
            .iter()
            .filter_map(|n| {
                entry(&n.name, n.process().filter(|p| p.status().is_none())?.pid(), &n.spec().exec)
            })
            .collect();
        let services = self.services.process.as_ref().filter(|p| p.status().is_none());
        processes.extend(services.and_then(|p| entry("services", p.pid(), &self.plan.exec)));
        let own = i32::try_from(std::process::id()).unwrap_or(0);
        let manifest = json!({
            "version": 1,
            "runner": { "pid": own, "start_time": start_time(own) },
            "processes": processes,
        });
        if let Err(e) = write(&self.root.join("runner.json"), format!("{manifest:#}\n").as_bytes()) {
            tracing::warn!(error = %e, dir = %self.root.display(), "runner: the list of processes cannot be written");
        }
    }
}

/// A new directory `network_<time>` below `base`, mode 0700; a second one of the same second has a number.
pub(super) fn make_root(base: &Path) -> BackendResult<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let failed = |e: &dyn std::fmt::Display| {
        BackendError::new(format!("cannot make a cluster directory in {}: {e}", base.display()))
    };
    make_dir(base).map_err(|e| failed(&e))?;
    let now = jiff::Zoned::now().strftime("%Y%m%d_%H%M%S").to_string();
    for attempt in 1..=1000 {
        let name = match attempt {
            1 => format!("network_{now}"),
            n => format!("network_{now}_{n}"),
        };
        let path = base.join(name);
        match std::fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return std::path::absolute(&path).map_err(|e| failed(&e)),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(failed(&e)),
        }
    }
    Err(failed(&"too many of this second"))
}
