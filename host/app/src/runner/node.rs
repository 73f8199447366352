//! One node of a cluster: its directory, its process, what is known about it. Operations on a node queue behind `ops`; the
//! state behind `live` is locked for moments only.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pilot_net::control::{BackendError, BackendResult, NodeInfo};
use pilot_net::ipc::Client;
use pilot_wire::addr::Addr;
use pilot_wire::ipc::Request;
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use super::process::{Nursery, Process};
use super::services::Services;
use super::spec::{Managed, NodeSpec, fault, mask, settings};
use crate::config::{Config, Overrides};

/// How long a node that is asked to end may take.
pub(super) const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How long a node may take to show that it is frozen.
const FREEZE_LIMIT: Duration = Duration::from_secs(2);
/// A node that ends within this time has failed to start.
const EARLY: Duration = Duration::from_millis(500);
/// How long a node may take to answer a question.
pub(super) const PROBE_LIMIT: Duration = Duration::from_secs(1);
/// Longest socket path that hosts accept.
const MAX_SOCKET: usize = 100;

/// See the module.
pub(super) struct Node {
    pub name: String,
    pub dir: PathBuf,
    pub socket: PathBuf,
    /// Held during an operation, so that conflicting ones queue in order.
    pub ops: tokio::sync::Mutex<()>,
    live: Mutex<Live>,
}

/// What changes.
struct Live {
    spec: NodeSpec,
    process: Option<Process>,
    paused: bool,
    /// Being ended, or not started yet: its absence is no accident.
    stopping: bool,
    /// Overlay address, once known.
    address: Option<Addr>,
}

/// What a healthy node says about itself.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub address: Addr,
    /// Whether everything is as it should be.
    pub well: bool,
}

impl Node {
    /// A node below `root`; nothing is started. `short` is where its socket goes when the path would be too long.
    pub(super) fn new(
        root: &Path,
        spec: NodeSpec,
        short: impl FnOnce() -> std::io::Result<PathBuf>,
    ) -> std::io::Result<Node> {
        let dir = root.join(&spec.name);
        let mut socket = dir.join("run/pilot.sock");
        if socket.as_os_str().len() > MAX_SOCKET {
            socket = short()?.join(format!("{}.sock", spec.port));
        }
        let live = Live { spec: spec.clone(), process: None, paused: false, stopping: true, address: None };
        Ok(Node { name: spec.name, dir, socket, ops: tokio::sync::Mutex::default(), live: Mutex::new(live) })
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Its settings, with whether it is paused now.
    pub(super) fn spec(&self) -> NodeSpec {
        let live = self.live();
        NodeSpec { paused: live.paused, ..live.spec.clone() }
    }

    pub(super) fn process(&self) -> Option<Process> {
        self.live().process.clone()
    }

    pub(super) fn is_paused(&self) -> bool {
        self.live().paused
    }

    /// Whether it has a process that lives, paused or not.
    pub(super) fn is_alive(&self) -> bool {
        self.live().process.as_ref().is_some_and(|p| p.status().is_none())
    }

    /// Whether it is gone although nobody asked for that.
    pub(super) fn is_lost(&self) -> bool {
        let live = self.live();
        let alive = live.process.as_ref().is_some_and(|p| p.status().is_none());
        !alive && !live.paused && !live.stopping
    }

    /// It was to be started again, and was not.
    pub(super) fn set_lost(&self) {
        self.live().stopping = false;
    }

    pub(super) fn address(&self) -> Option<Addr> {
        self.live().address
    }

    /// The node's control endpoint.
    pub(super) fn uri(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// The picture of it that callers get.
    pub(super) fn info(&self) -> NodeInfo {
        let live = self.live();
        let spec = &live.spec;
        let path = |p: &Path| p.display().to_string();
        let networks = spec.networks.as_deref().unwrap_or_default().iter().map(u16::to_string);
        NodeInfo {
            name: self.name.clone(),
            exec_path: path(&spec.exec),
            uri: self.uri(),
            id: live.address.map(|a| a.to_string()).unwrap_or_default(),
            log_dir: path(&self.dir.join("logs")),
            db_dir: path(&self.state_dir()),
            config: mask(spec.config.as_deref().unwrap_or_default()).into_bytes(),
            plugin_dir: spec.plugin_dir.as_deref().map(path).unwrap_or_default(),
            whitelisted_subnets: networks.collect::<Vec<_>>().join(","),
            paused: live.paused,
        }
    }

    /// Writes what the host is started with, checked as the host will check it.
    pub(super) fn write_files(
        &self,
        spec: &NodeSpec,
        global: &Map<String, Value>,
        services: &Services,
    ) -> BackendResult<()> {
        let io = |e: std::io::Error| {
            BackendError::new(format!("node {:?}: cannot write {}: {e}", self.name, self.dir.display()))
        };
        let none = self.dir.join("plugins");
        let plugins = spec.plugin_dir.as_deref().unwrap_or(&none);
        let (state, upgrades) = (self.state_dir(), self.dir.join("upgrades"));
        let managed = Managed {
            state_dir: &state,
            socket: &self.socket,
            plugins,
            registry: &services.registry,
            beacon: &services.beacon,
        };
        let text = settings(global, spec, &managed)?;
        for dir in [&self.dir, &state, &self.dir.join("logs"), &self.dir.join("run")] {
            make_dir(dir).map_err(io)?;
        }
        if spec.plugin_dir.is_none() {
            make_dir(&none).map_err(io)?;
        }
        let (file, fresh) = (self.dir.join("pilot.toml"), self.dir.join("pilot.toml.new"));
        write(&fresh, text.as_bytes()).map_err(io)?;
        if let Err(e) = Config::load(Some(&fresh), &Overrides::default()) {
            let _ = fs::remove_file(&fresh);
            return fault(format!("node config: {}: {}", e.key, e.message));
        }
        fs::rename(&fresh, &file).map_err(io)?;
        write(&self.dir.join("config.json"), spec.config.as_deref().unwrap_or("{}").as_bytes())
            .map_err(io)?;
        for (name, content) in &spec.maps.files {
            write(&state.join(name), content.as_bytes()).map_err(io)?;
        }
        if !spec.maps.upgrades.is_empty() {
            make_dir(&upgrades).map_err(io)?;
            for (name, content) in &spec.maps.upgrades {
                write(&upgrades.join(name), content.as_bytes()).map_err(io)?;
            }
            tracing::info!(node = self.name, "runner: upgrade configs are kept and have no effect");
        }
        Ok(())
    }

    /// Starts the process and watches its first moments: ends early with success when it answers, with an error when it
    /// is gone.
    pub(super) async fn launch(
        &self,
        nursery: &Nursery,
        spec: NodeSpec,
        changed: impl FnOnce() + Send + 'static,
    ) -> BackendResult<()> {
        let config = self.dir.join("pilot.toml");
        let args = [OsStr::new("run"), OsStr::new("--config"), config.as_os_str()];
        // What a host that was killed left behind.
        let _ = fs::remove_file(&self.socket);
        let started = nursery.spawn(&spec.exec, &args, &[], &self.dir.join("logs"), changed).await;
        let process = match started {
            Ok(process) => process,
            Err(e) => {
                let text = format!("node {:?} cannot be started: {}: {e}", self.name, spec.exec.display());
                *self.live() =
                    Live { spec, process: None, paused: false, stopping: false, address: self.address() };
                return fault(text);
            }
        };
        *self.live() = Live {
            spec,
            process: Some(process.clone()),
            paused: false,
            stopping: false,
            address: self.address(),
        };
        let answers = async {
            while self.ask().await.is_none() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            status = async { let status = process.ended().await; process.drained().await; status } => fault(format!(
                "node {:?} exited with exit code: {}: {}", self.name, exit_code(status), process.tail()
            )),
            _ = timeout(EARLY, answers) => Ok(()),
        }
    }

    /// What the node says; `None` when it does not answer in time.
    pub(super) async fn ask(&self) -> Option<Facts> {
        let question = async {
            let client = Client::connect(&self.socket).await.ok()?;
            let info = client.json(&Request::Info).await.ok()?;
            let plugins = client.json(&Request::Host { op: "plugins".into(), params: Map::new() }).await.ok();
            Some((info, plugins.unwrap_or_else(|| json!({}))))
        };
        let (info, plugins) = timeout(PROBE_LIMIT, question).await.ok()??;
        let registered = info["node_id"].as_u64().is_some_and(|id| id != 0);
        let rows = plugins["plugins"].as_array().map(Vec::as_slice).unwrap_or_default();
        let started = rows.iter().all(|row| row["state"] == "running");
        let address = info["address"].as_str().and_then(|a| a.parse().ok()).unwrap_or_default();
        Some(Facts { address, well: registered && started })
    }

    /// A fresh look: whether it is well. Paused nodes are not asked.
    pub(super) async fn probe(&self) -> bool {
        if !self.is_alive() || self.is_paused() {
            return false;
        }
        match self.ask().await {
            Some(facts) => {
                if !facts.address.is_zero() {
                    self.live().address = Some(facts.address);
                }
                facts.well
            }
            None => false,
        }
    }

    /// Ends the process, if there is one; its exit code when that is not 0.
    pub(super) async fn end(&self, limit: Duration) -> Option<i32> {
        self.live().stopping = true;
        let process = self.process()?;
        let ended_before = process.status().is_some();
        let status = process.end(limit).await;
        let mut live = self.live();
        live.paused = false;
        live.process = None;
        let code = exit_code(status);
        tracing::info!(node = self.name, code, "runner: node ended");
        (code != 0 && !ended_before).then_some(code)
    }

    /// SIGSTOP, confirmed.
    pub(super) async fn pause(&self) -> BackendResult<()> {
        if self.is_paused() {
            return fault("node has been paused already");
        }
        let stopped = || fault(format!("node {:?} stopped unexpectedly", self.name));
        let Some(process) = self.process() else { return stopped() };
        if process.freeze(FREEZE_LIMIT).await {
            self.live().paused = true;
            return Ok(());
        }
        match process.status() {
            Some(_) => stopped(),
            None => fault(format!("node {:?} did not stop within {} s", self.name, FREEZE_LIMIT.as_secs())),
        }
    }

    /// SIGCONT. `false`: it died meanwhile and must be started again.
    pub(super) fn resume(&self) -> BackendResult<bool> {
        let mut live = self.live();
        if !live.paused {
            return fault("node has not been paused");
        }
        live.paused = false;
        Ok(live.process.as_ref().is_some_and(|p| {
            p.thaw();
            !p.is_gone()
        }))
    }
}

/// The number that error texts carry: the exit code, or the negative of the signal.
fn exit_code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().or_else(|| status.signal().map(|s| -s)).unwrap_or(-1)
}

/// A directory with mode 0700; one that exists is kept.
pub(super) fn make_dir(path: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Replaces a file, mode 0600.
pub(super) fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut temp =
        tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o600)).tempfile_in(dir)?;
    temp.write_all(bytes)?;
    temp.persist(path)?;
    Ok(())
}

/// Whether a UDP port of this machine is free, else why not.
pub(super) fn port_is_free(port: u16) -> BackendResult<()> {
    match UdpSocket::bind((IpAddr::from(Ipv4Addr::LOCALHOST), port)) {
        Ok(_) => Ok(()),
        Err(e) => fault(format!("port {port} is not free: {e}")),
    }
}

/// `count` different free UDP ports, none of `taken`.
pub(super) fn free_ports(count: usize, taken: &BTreeSet<u16>) -> BackendResult<Vec<u16>> {
    // All are held until the last is found, so that none is found twice.
    let mut held = Vec::new();
    let mut ports = Vec::with_capacity(count);
    while ports.len() < count {
        let socket = UdpSocket::bind((IpAddr::from(Ipv4Addr::LOCALHOST), 0));
        let found = socket.and_then(|s| Ok((s.local_addr()?.port(), s)));
        let (port, socket) = found.map_err(|e| BackendError::new(format!("no free UDP port: {e}")))?;
        held.push(socket);
        if !taken.contains(&port) {
            ports.push(port);
        }
    }
    Ok(ports)
}
