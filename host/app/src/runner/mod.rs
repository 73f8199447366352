//! The network runner: a cluster of host processes on this machine, driven over the control protocol
//! (netrunner.md; `pilot_net::control` carries the calls).
//!
//! | part | what it is |
//! |---|---|
//! | `spec` | names, settings and their precedence, error texts; pure |
//! | `process` | child processes that are never left behind |
//! | `node`, `services` | one host; the registry and beacon of a cluster |
//! | `cluster` | all of them, their health and their end |
//! | `operations` | add, remove, restart, pause, resume |
//! | `chains` | overlay networks from blueprints |
//! | `peers` | synthetic peers that send what no host would |
//! | `snapshot` | a cluster as files, and back |
//! | `orphans` | what a runner that was killed may have left |
//! | `serve` | `pilot-host runner serve` |
//!
//! A call that changes something runs in a task of its own: a caller that hangs up half way does not leave half a change.
//! The lock on the phase is held for moments, never while something is awaited.

mod chains;
mod cluster;
mod node;
mod operations;
mod orphans;
mod peers;
pub mod process;
pub mod serve;
mod services;
mod snapshot;
mod spec;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pilot_net::control::{
    AddNode, Backend, BackendError, BackendResult, ChainSpec, ClusterInfo, Created, LoadSnapshot,
    RestartNode, SendOutboundMessage, Start,
};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::cluster::{Changes, Cluster, Plan, STOPPED, make_root};
use self::process::Nursery;
use self::spec::{MAX_NODES, Maps, NodeSpec, check_name, fault, next_name, node_config, wanted_port};

const NOT_BOOTSTRAPPED: &str = "not bootstrapped";
const ALREADY: &str = "already bootstrapped";
/// Nodes of a cluster for which no number is given (netrunner.md section 3).
const DEFAULT_NODES: u32 = 5;
/// Nodes that are started at a time: enough to keep the machine busy, few enough that each gets somewhere.
const STARTING: usize = 8;

/// What a runner is allowed and where it keeps things.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The host program, for nodes whose request names none, and for the cluster's registry.
    pub exec: PathBuf,
    /// Plugins, likewise; `None`: none.
    pub plugin_dir: Option<PathBuf>,
    /// Trees that programs and plugins of requests must be in.
    pub allow: Vec<PathBuf>,
    /// Clusters' directories are made in it.
    pub root: PathBuf,
    /// Snapshots are kept in it.
    pub snapshots: PathBuf,
    /// How long a cluster may take to become healthy.
    pub healthy_limit: Duration,
}

/// The backend of the control protocol over processes of this machine. Cheap to clone; the children die with the process,
/// [`Backend::stop`] ends them in good order.
#[derive(Clone)]
pub struct Runner(Arc<Inner>);

struct Inner {
    settings: Settings,
    nursery: Nursery,
    phase: Mutex<Phase>,
    changes: Changes,
    /// Snapshots are written and removed one at a time.
    snapshots: tokio::sync::Mutex<()>,
}

/// Where the runner is between clusters.
enum Phase {
    Empty,
    /// A cluster is being founded; cancel to give up.
    Claimed(CancellationToken),
    Up(Arc<Cluster>),
    Ending,
}

/// Runs a change to its end, whether or not its caller stays.
async fn detached<T: Send + 'static>(change: impl Future<Output = T> + Send + 'static) -> T {
    match tokio::spawn(change).await {
        Ok(outcome) => outcome,
        // It panicked: so does the call, which the server reports as such. Tasks are not cancelled while callers wait.
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    }
}

impl Runner {
    /// A runner without a cluster.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn new(settings: Settings) -> std::io::Result<Self> {
        Ok(Runner(Arc::new(Inner {
            settings,
            nursery: Nursery::new()?,
            phase: Mutex::new(Phase::Empty),
            changes: Changes::new(),
            snapshots: tokio::sync::Mutex::default(),
        })))
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.0.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_phase(&self, phase: Phase) {
        *self.phase() = phase;
        self.0.changes.bump();
    }

    /// The cluster, up or coming up.
    fn cluster(&self) -> BackendResult<Arc<Cluster>> {
        match &*self.phase() {
            Phase::Up(cluster) => Ok(cluster.clone()),
            Phase::Ending => fault(STOPPED),
            Phase::Empty | Phase::Claimed(_) => fault(NOT_BOOTSTRAPPED),
        }
    }

    /// The cluster, once it is up.
    fn ready(&self) -> BackendResult<Arc<Cluster>> {
        let cluster = self.cluster()?;
        if cluster.is_ready() { Ok(cluster) } else { fault(NOT_BOOTSTRAPPED) }
    }

    /// Takes the empty runner for a new cluster.
    fn claim(&self) -> BackendResult<CancellationToken> {
        let mut phase = self.phase();
        if !matches!(*phase, Phase::Empty) {
            return fault(ALREADY);
        }
        let token = CancellationToken::new();
        *phase = Phase::Claimed(token.clone());
        Ok(token)
    }

    /// A program that may be started: absolute, links resolved, in an allowed tree.
    fn exec(&self, path: &str) -> BackendResult<PathBuf> {
        if path.is_empty() {
            return Ok(self.0.settings.exec.clone());
        }
        let found = self.allowed(path, "exec path does not exist", "exec path is invalid")?;
        use std::os::unix::fs::PermissionsExt;
        match std::fs::metadata(&found) {
            Ok(meta) if meta.is_file() && meta.permissions().mode() & 0o111 != 0 => Ok(found),
            _ => fault(format!("exec path is invalid: {path} is no program")),
        }
    }

    /// A plugin directory that may be used.
    fn plugin_dir(&self, path: &str) -> BackendResult<Option<PathBuf>> {
        if path.is_empty() {
            return Ok(self.0.settings.plugin_dir.clone());
        }
        let found = self.allowed(path, "plugin dir does not exist", "plugin dir is invalid")?;
        if found.is_dir() { Ok(Some(found)) } else { fault("plugin dir does not exist") }
    }

    fn allowed(&self, path: &str, missing: &str, invalid: &str) -> BackendResult<PathBuf> {
        if !Path::new(path).is_absolute() || path.contains('\0') {
            return fault(format!("{invalid}: {path:?} is not an absolute path"));
        }
        let found =
            std::fs::canonicalize(path).map_err(|e| BackendError::new(format!("{missing}: {path}: {e}")))?;
        let within = |tree: &PathBuf| std::fs::canonicalize(tree).is_ok_and(|tree| found.starts_with(tree));
        if self.0.settings.allow.iter().any(within) {
            return Ok(found);
        }
        fault(format!("{invalid}: {path} is outside what this runner may use; start it with --exec-allow"))
    }

    /// The plan of a start request, checked.
    fn plan(&self, start: &Start) -> BackendResult<(Plan, Vec<NodeSpec>)> {
        let maps = Maps {
            chains: start.chain_configs.clone(),
            upgrades: start.upgrade_configs.clone(),
            files: start.chain_config_files.clone(),
        };
        let plan = Plan {
            exec: self.exec(&start.exec_path)?,
            plugin_dir: self.plugin_dir(&start.plugin_dir)?,
            global: start.global_node_config.clone().filter(|text| !text.trim().is_empty()),
            maps: maps.checked()?,
            reassign: start.reassign_ports_if_used.unwrap_or(false),
        };
        spec::global_config(plan.global.as_deref())?;
        let names: Vec<(String, Option<String>)> = match start.custom_node_configs.is_empty() {
            false => start.custom_node_configs.iter().map(|(n, c)| (n.clone(), Some(c.clone()))).collect(),
            true => {
                let count = start.num_nodes.unwrap_or(DEFAULT_NODES);
                (1..=count.min(MAX_NODES as u32 + 1)).map(|k| (format!("node{k}"), None)).collect()
            }
        };
        if names.is_empty() {
            return fault("not enough nodes specified for start");
        }
        if names.len() > MAX_NODES {
            return fault(format!("too many nodes: one cluster has at most {MAX_NODES}"));
        }
        let specs = names.into_iter().map(|(name, config)| {
            check_name(&name)?;
            let config = config.filter(|text| !text.trim().is_empty());
            let own = node_config(config.as_deref())?;
            Ok(NodeSpec {
                name,
                exec: plan.exec.clone(),
                plugin_dir: plan.plugin_dir.clone(),
                config,
                maps: plan.maps.clone(),
                networks: None,
                port: wanted_port(&own)?.unwrap_or(0),
                paused: false,
            })
        });
        let specs = specs.collect::<BackendResult<Vec<_>>>()?;
        Ok((plan, specs))
    }

    /// Where a request wants its cluster directory.
    fn root_base(&self, wanted: Option<&str>) -> BackendResult<PathBuf> {
        match wanted.filter(|w| !w.is_empty()) {
            None => Ok(self.0.settings.root.clone()),
            Some(path) if Path::new(path).is_absolute() && !path.contains('\0') => Ok(path.into()),
            Some(path) => fault(format!("root data dir {path:?} is not an absolute path")),
        }
    }

    /// Founds a cluster and brings `specs` up; on any failure everything is stopped again and the runner is empty.
    /// `before` puts files where nodes will look for them.
    async fn bring_up(
        &self,
        token: CancellationToken,
        root: PathBuf,
        plan: Plan,
        mut specs: Vec<NodeSpec>,
    ) -> BackendResult<Arc<Cluster>> {
        let inner = &self.0;
        let founding = Cluster::found(root, plan, &inner.settings.exec, &inner.nursery, &inner.changes);
        let founded = tokio::select! {
            () = token.cancelled() => fault(STOPPED),
            founded = founding => founded,
        };
        let cluster = match founded {
            Ok(cluster) => cluster,
            Err(e) => {
                self.set_phase(Phase::Empty);
                return Err(e);
            }
        };
        let listed = cluster.assign_ports(&mut specs).and_then(|()| {
            specs.iter().map(|s| cluster.enlist(s.clone())).collect::<BackendResult<Vec<_>>>()
        });
        {
            let mut phase = self.phase();
            if !token.is_cancelled() {
                *phase = Phase::Up(cluster.clone());
            }
        }
        self.0.changes.bump();
        let came_up = async {
            let nodes = listed?;
            if token.is_cancelled() {
                return fault(STOPPED);
            }
            launch_all(&cluster, nodes, &specs).await?;
            cluster.wait_for_healthy(self.0.settings.healthy_limit).await?;
            for spec in specs.iter().filter(|s| s.paused) {
                cluster.named(&spec.name)?.pause().await?;
            }
            Ok(())
        };
        match came_up.await {
            Ok(()) => {
                cluster.set_ready();
                Ok(cluster)
            }
            Err(e) => {
                // Whoever asked for a stop in the meantime ends it.
                let ours = {
                    let mut phase = self.phase();
                    let ours = !matches!(*phase, Phase::Ending);
                    if ours {
                        *phase = Phase::Ending;
                    }
                    ours
                };
                if ours {
                    cluster.end().await;
                    self.set_phase(Phase::Empty);
                }
                Err(e)
            }
        }
    }

    async fn start_now(&self, token: CancellationToken, start: Start) -> BackendResult<Created> {
        let prepared = self.plan(&start).and_then(|(plan, specs)| {
            let root = make_root(&self.root_base(start.root_data_dir.as_deref())?)?;
            Ok((plan, specs, root))
        });
        let (plan, specs, root) = match prepared {
            Ok(prepared) => prepared,
            Err(e) => {
                self.set_phase(Phase::Empty);
                return Err(e);
            }
        };
        let cluster = self.bring_up(token, root, plan, specs).await?;
        Ok(Created { cluster: Some(cluster.info()), ids: Vec::new() })
    }

    /// Ends the cluster, if there is one.
    async fn stop_now(&self) -> Option<ClusterInfo> {
        let mut changes = self.0.changes.subscribe();
        loop {
            changes.mark_unchanged();
            let ending = {
                let mut phase = self.phase();
                match &*phase {
                    Phase::Empty => return None,
                    Phase::Claimed(token) => {
                        token.cancel();
                        None
                    }
                    Phase::Up(cluster) => {
                        let cluster = cluster.clone();
                        *phase = Phase::Ending;
                        Some(cluster)
                    }
                    Phase::Ending => None,
                }
            };
            match ending {
                Some(cluster) => {
                    let last = cluster.end().await;
                    self.set_phase(Phase::Empty);
                    return Some(last);
                }
                // Somebody else is at it.
                None => {
                    let _ = changes.changed().await;
                }
            }
        }
    }

    /// A free node name.
    fn free_name(cluster: &Cluster) -> String {
        next_name(|name| cluster.node(name).is_some() || cluster.root.join(name).exists())
    }
}

/// Starts nodes a few at a time; the first failure ends it.
async fn launch_all(
    cluster: &Arc<Cluster>,
    nodes: Vec<Arc<node::Node>>,
    specs: &[NodeSpec],
) -> BackendResult<()> {
    let mut starting = JoinSet::new();
    for (node, spec) in nodes.into_iter().zip(specs) {
        if starting.len() >= STARTING {
            finished(starting.join_next().await)?;
        }
        if cluster.stop.is_cancelled() {
            return fault(STOPPED);
        }
        let (cluster, spec) = (cluster.clone(), spec.clone());
        starting.spawn(async move {
            let _turn = node.ops.lock().await;
            cluster.launch(&node, spec).await
        });
    }
    while let Some(done) = starting.join_next().await {
        finished(Some(done))?;
    }
    Ok(())
}

fn finished(done: Option<Result<BackendResult<()>, tokio::task::JoinError>>) -> BackendResult<()> {
    match done {
        None => Ok(()),
        Some(Ok(outcome)) => outcome,
        Some(Err(e)) => fault(format!("starting a node failed: {e}")),
    }
}

impl Backend for Runner {
    async fn health(&self) -> BackendResult<Option<ClusterInfo>> {
        let cluster = self.cluster()?;
        let _ = cluster.evaluate().await;
        Ok(Some(cluster.info()))
    }

    async fn wait_for_healthy(&self) -> BackendResult<Option<ClusterInfo>> {
        let cluster = self.cluster()?;
        cluster.wait_for_healthy(self.0.settings.healthy_limit).await?;
        Ok(Some(ClusterInfo { healthy: true, ..cluster.info() }))
    }

    async fn uris(&self) -> BackendResult<Vec<String>> {
        let nodes = self.cluster()?.nodes();
        let mut uris: Vec<_> =
            nodes.iter().filter(|n| n.is_alive() && !n.is_paused()).map(|n| n.uri()).collect();
        uris.sort();
        Ok(uris)
    }

    async fn status(&self) -> BackendResult<Option<ClusterInfo>> {
        Ok(Some(self.cluster()?.info()))
    }

    async fn snapshot(&self) -> Option<ClusterInfo> {
        self.cluster().ok().map(|cluster| cluster.info())
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    async fn start(&self, request: Start) -> BackendResult<Created> {
        let token = self.claim()?;
        let runner = self.clone();
        detached(async move { runner.start_now(token, request).await }).await
    }

    async fn stop(&self) -> BackendResult<Option<ClusterInfo>> {
        let runner = self.clone();
        Ok(detached(async move { runner.stop_now().await }).await)
    }

    async fn add_node(&self, request: AddNode) -> BackendResult<Option<ClusterInfo>> {
        let (runner, cluster) = (self.clone(), self.ready()?);
        detached(
            async move { operations::add(&runner, &cluster, request).await.map(|()| Some(cluster.info())) },
        )
        .await
    }

    async fn remove_node(&self, name: String) -> BackendResult<Option<ClusterInfo>> {
        let cluster = self.ready()?;
        detached(async move { operations::remove(&cluster, &name).await.map(|()| Some(cluster.info())) })
            .await
    }

    async fn restart_node(&self, request: RestartNode) -> BackendResult<Option<ClusterInfo>> {
        let (runner, cluster) = (self.clone(), self.ready()?);
        detached(async move {
            operations::restart(&runner, &cluster, request).await.map(|()| Some(cluster.info()))
        })
        .await
    }

    async fn pause_node(&self, name: String) -> BackendResult<Option<ClusterInfo>> {
        let cluster = self.ready()?;
        detached(async move { operations::pause(&cluster, &name).await.map(|()| Some(cluster.info())) }).await
    }

    async fn resume_node(&self, name: String) -> BackendResult<Option<ClusterInfo>> {
        let cluster = self.ready()?;
        detached(async move { operations::resume(&cluster, &name).await.map(|()| Some(cluster.info())) })
            .await
    }

    async fn attach_peer(&self, node: String) -> BackendResult<(Option<ClusterInfo>, String)> {
        let cluster = self.ready()?;
        detached(async move {
            let id = peers::attach(&cluster, &node).await?;
            Ok((Some(cluster.info()), id))
        })
        .await
    }

    async fn send_outbound_message(&self, request: SendOutboundMessage) -> BackendResult<bool> {
        let cluster = self.ready()?;
        peers::send(&cluster, request).await
    }

    async fn create_chains(&self, specs: Vec<ChainSpec>) -> BackendResult<Created> {
        let cluster = self.ready()?;
        detached(async move {
            let ids = chains::create(&cluster, specs).await?;
            Ok(Created { cluster: Some(cluster.info()), ids })
        })
        .await
    }

    async fn save_snapshot(&self, name: String) -> BackendResult<String> {
        let runner = self.clone();
        detached(async move { snapshot::save(&runner, &name).await }).await
    }

    async fn save_hot_snapshot(&self, name: String) -> BackendResult<String> {
        let runner = self.clone();
        detached(async move { snapshot::save_hot(&runner, &name).await }).await
    }

    async fn load_snapshot(&self, request: LoadSnapshot) -> BackendResult<Option<ClusterInfo>> {
        let token = self.claim()?;
        let runner = self.clone();
        detached(async move { snapshot::load(&runner, token, request).await.map(Some) }).await
    }

    async fn remove_snapshot(&self, name: String) -> BackendResult<()> {
        let runner = self.clone();
        detached(async move { snapshot::remove(&runner, &name).await }).await
    }

    async fn snapshot_names(&self) -> BackendResult<Vec<String>> {
        snapshot::names(&self.0.settings.snapshots)
    }

    async fn reserved(&self) -> BackendError {
        match self.ready() {
            Ok(_) => BackendError::unsupported(),
            Err(e) => e,
        }
    }
}
