//! The life of a set of plugins: load all or none, say how they are, shut down in reverse.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use plugin_abi::host::{Fault, Module, Supervisor};
use plugin_abi::registry::{
    Factory, Registry, ShutdownReport, ShutdownStep, StartStep, Started, shutdown_all, shutdown_one,
};
use plugin_abi::{Daemon, Error, ErrorKind};

use crate::inspect::{Inspection, inspect};

use crate::open::{OpenVia, open};
use crate::refusal::{Code, Refusal};
use crate::scan::{PluginFile, scan};
use crate::trust::{Trust, TrustPolicy};

/// Where plugins are and how long they may take.
#[derive(Clone, Debug)]
pub struct LoaderConfig {
    /// The plugins directory.
    pub dir: PathBuf,
    /// Names of plugins whose files are left alone.
    pub disabled: BTreeSet<String>,
    /// What each `init` gets.
    pub init_timeout: Duration,
    /// What the plugins that run already get together when a later one fails to start.
    pub shutdown_timeout: Duration,
    /// The host's version, handed to each constructor.
    pub host_version: String,
    /// Which files are wanted.
    pub trust: TrustPolicy,
    /// How bytes are opened.
    pub open_via: OpenVia,
}

impl Default for LoaderConfig {
    /// The directory `plugins` beside the working directory, 10 s for each `init`, 5 s to unwind.
    fn default() -> Self {
        LoaderConfig {
            dir: "plugins".into(),
            disabled: BTreeSet::new(),
            init_timeout: Duration::from_secs(10),
            shutdown_timeout: Duration::from_secs(5),
            host_version: env!("CARGO_PKG_VERSION").to_owned(),
            trust: TrustPolicy::default(),
            open_via: OpenVia::default(),
        }
    }
}

/// How a plugin is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PluginState {
    /// Started and in use.
    Running,
    /// Panicked at the border; not called any more. The text is the panic's.
    Failed(String),
    /// Shut down.
    Stopped,
    /// Shut down with an error.
    StoppedWithError(String),
    /// Its shutdown missed the deadline and may still be running.
    Stuck,
}

impl PluginState {
    /// One word: `running`, `failed`, `stopped`, `error`, `stuck`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            PluginState::Running => "running",
            PluginState::Failed(_) => "failed",
            PluginState::Stopped => "stopped",
            PluginState::StoppedWithError(_) => "error",
            PluginState::Stuck => "stuck",
        }
    }

    /// Why, where there is a why.
    pub fn reason(&self) -> Option<&str> {
        match self {
            PluginState::Failed(why) | PluginState::StoppedWithError(why) => Some(why),
            PluginState::Stuck => Some("shutdown missed its deadline"),
            PluginState::Running | PluginState::Stopped => None,
        }
    }
}

/// What is known about a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginInfo {
    /// The registration key.
    pub name: String,
    /// The plugin's own version.
    pub version: String,
    /// The file it was read from.
    pub path: PathBuf,
    /// SHA-256 of that file when it was read, lower-case hex.
    pub sha256: String,
    /// What vouches for that file.
    pub trust: Trust,
    /// Treaty version it was built for.
    pub treaty: (u16, u16),
    /// The compiler that built it.
    pub rustc: String,
    /// How it is.
    pub state: PluginState,
    /// Panics caught at the border plus faults that it reported itself.
    pub faults: u64,
}

/// Why nothing was loaded. What had been started was shut down again.
#[derive(Debug)]
pub struct LoadError {
    /// At least one. Files are judged together, so that one attempt names all that are wrong.
    pub refusals: Vec<Refusal>,
    /// How the shutdown of the plugins went that had been started before the failure.
    pub unwound: ShutdownReport,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("plugins not loaded")?;
        for refusal in &self.refusals {
            write!(f, "\n  {refusal}")?;
        }
        for ShutdownStep { name, error } in &self.unwound.steps {
            match error {
                None => write!(f, "\n  plugin \"{name}\" was shut down again")?,
                Some(e) => write!(f, "\n  plugin \"{name}\" was shut down again: {e}")?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for LoadError {}

/// Loads the plugins of one directory.
#[derive(Clone, Debug)]
pub struct Loader {
    config: LoaderConfig,
}

impl Loader {
    /// With this configuration.
    pub fn new(config: LoaderConfig) -> Self {
        Loader { config }
    }

    /// Judges every file of the directory and opens none: for listings.
    pub fn inspect_all(&self) -> Result<Vec<(PathBuf, Result<Inspection, Refusal>)>, Vec<Refusal>> {
        let files = scan(&self.config.dir)?;
        Ok(files.into_iter().map(|f| (f.path.clone(), inspect(&f))).collect())
    }

    /// Loads every plugin or none. `daemon_for(name)` gives each its own handle; it is called right before `init`.
    ///
    /// Blocks: call it from a thread that may wait. A directory without plugins gives an empty set.
    ///
    /// # Errors
    /// When any file is refused, or the first constructor or `init` fails; see [`LoadError`].
    pub fn load(&self, daemon_for: impl Fn(&str) -> Arc<dyn Daemon>) -> Result<Loaded, LoadError> {
        let opened =
            self.open_all().map_err(|refusals| LoadError { refusals, unwound: ShutdownReport::default() })?;
        let registry = Registry::new();
        let slots: BTreeMap<String, Slot> = opened.into_iter().map(|o| (o.info.name.clone(), o)).collect();
        for (name, slot) in &slots {
            registry.register(name, Some(slot.factory(&self.config.host_version))).map_err(|e| {
                // Not reachable while `open_all` refuses duplicates and `Header::parse` bad names.
                let refusal =
                    Refusal::new(Code::DuplicateName, &slot.info.path, e.to_string(), "rename it").of(name);
                LoadError { refusals: vec![refusal], unwound: ShutdownReport::default() }
            })?;
        }
        let attach = |name: &str| {
            let daemon = daemon_for(name);
            if let Some(slot) = slots.get(name) {
                slot.attach(&daemon);
            }
            daemon
        };
        let (started, failure) = registry.load_all(&attach, self.config.init_timeout);
        let Some(failure) = failure else {
            return Ok(Loaded { slots, started: Mutex::new(started) });
        };
        let (code, remedy) = match (failure.step, failure.error.kind()) {
            (StartStep::Create, _) => {
                (Code::CreateFailed, "see the reason; the plugin's constructor refused")
            }
            (StartStep::Init, ErrorKind::TimedOut) => {
                (Code::InitTimeout, "raise the init timeout, or disable the plugin in the configuration")
            }
            (StartStep::Init, _) => {
                (Code::InitFailed, "remove the cause, or disable the plugin in the configuration")
            }
        };
        let path = slots.get(&failure.name).map(|s| s.info.path.clone()).unwrap_or_default();
        let refusal = Refusal::new(code, path, failure.error.to_string(), remedy).of(&failure.name);
        Err(LoadError {
            refusals: vec![refusal],
            unwound: shutdown_all(started, self.config.shutdown_timeout),
        })
    }

    /// Reads and judges everything before anything is opened, opens everything before anything is started.
    fn open_all(&self) -> Result<Vec<Slot>, Vec<Refusal>> {
        let mut refusals = Vec::new();
        let mut accepted: BTreeMap<String, (PluginFile, Inspection, Trust)> = BTreeMap::new();
        for file in scan(&self.config.dir)? {
            match inspect(&file) {
                Err(refusal) => {
                    if refusal.plugin.as_ref().is_none_or(|name| !self.config.disabled.contains(name)) {
                        refusals.push(refusal);
                    }
                }
                Ok(found) if self.config.disabled.contains(&found.header.name) => {
                    tracing::info!(plugin = found.header.name, path = %file.path.display(), "plugin is disabled");
                }
                Ok(found) => match accepted.get(&found.header.name) {
                    Some((first, ..)) => {
                        refusals.push(duplicate(&found.header.name, &first.path, &file.path))
                    }
                    None => match self.config.trust.judge(&file, &found) {
                        Err(refusal) => refusals.push(refusal),
                        Ok(trust) => {
                            accepted.insert(found.header.name.clone(), (file, found, trust));
                        }
                    },
                },
            }
        }
        if !refusals.is_empty() {
            return Err(refusals);
        }
        let mut slots = Vec::with_capacity(accepted.len());
        for (file, inspection, trust) in accepted.into_values() {
            match open(&file, &inspection, &self.config.open_via) {
                Ok(module) => slots.push(Slot::new(file.path, inspection, trust, module)),
                Err(refusal) => refusals.push(refusal),
            }
        }
        if refusals.is_empty() { Ok(slots) } else { Err(refusals) }
    }
}

fn duplicate(name: &str, first: &std::path::Path, second: &std::path::Path) -> Refusal {
    let reason = format!("daemonapi: plugin already registered: {name} (by {})", first.display());
    Refusal::new(Code::DuplicateName, second, reason, "remove one of the two files").of(name)
}

/// One opened plugin.
struct Slot {
    info: PluginInfo,
    module: Module,
    live: Arc<Mutex<Live>>,
}

/// What changes while it lives.
#[derive(Default)]
struct Live {
    supervisor: Option<Arc<Supervisor>>,
    /// The strong reference that the supervisor's weak one needs.
    daemon: Option<Arc<dyn Daemon>>,
    ended: Option<PluginState>,
}

impl Slot {
    fn new(path: PathBuf, inspection: Inspection, trust: Trust, module: Module) -> Self {
        let Inspection { header, sha256 } = inspection;
        let info = PluginInfo {
            name: header.name,
            version: header.version,
            path,
            sha256,
            trust,
            treaty: (header.abi_major, header.abi_minor),
            rustc: header.rustc,
            state: PluginState::Running,
            faults: 0,
        };
        Slot { info, module, live: Arc::default() }
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn factory(&self, host_version: &str) -> Factory {
        let (module, live, name) = (self.module, Arc::clone(&self.live), self.info.name.clone());
        let host_version = host_version.to_owned();
        Arc::new(move || {
            let supervisor = Supervisor::new(&name);
            live.lock().unwrap_or_else(PoisonError::into_inner).supervisor = Some(Arc::clone(&supervisor));
            module.create(&host_version, supervisor).map(Some)
        })
    }

    /// Faults of this instance are reported to its own daemon handle.
    fn attach(&self, daemon: &Arc<dyn Daemon>) {
        let mut live = self.live();
        if let Some(supervisor) = &live.supervisor {
            supervisor.attach(daemon);
        }
        live.daemon = Some(Arc::clone(daemon));
    }

    fn end(&self, error: Option<&Error>) {
        let ended = match error {
            None => PluginState::Stopped,
            Some(e) if e.kind() == ErrorKind::TimedOut => PluginState::Stuck,
            Some(e) => PluginState::StoppedWithError(e.to_string()),
        };
        let mut live = self.live();
        let stuck = ended == PluginState::Stuck;
        live.ended = Some(ended);
        // A call that is still running keeps its handle.
        let daemon = if stuck { None } else { live.daemon.take() };
        drop(live);
        drop(daemon);
    }

    fn info(&self) -> PluginInfo {
        let live = self.live();
        let supervisor = live.supervisor.as_ref();
        let failed = || supervisor.and_then(|s| s.failure()).map(|why| PluginState::Failed(why.to_owned()));
        PluginInfo {
            state: live.ended.clone().or_else(failed).unwrap_or(PluginState::Running),
            faults: supervisor.map_or(0, |s| s.faults()),
            ..self.info.clone()
        }
    }
}

/// Plugins that were started. Dropping it does not shut them down: that takes a deadline.
pub struct Loaded {
    slots: BTreeMap<String, Slot>,
    started: Mutex<Vec<Started>>,
}

impl Loaded {
    /// All plugins, by name.
    pub fn plugins(&self) -> Vec<PluginInfo> {
        self.slots.values().map(Slot::info).collect()
    }

    /// One plugin.
    pub fn plugin(&self, name: &str) -> Option<PluginInfo> {
        self.slots.get(name).map(Slot::info)
    }

    /// The last faults of one plugin, oldest first; see [`plugin_abi::host::LEDGER`].
    pub fn faults(&self, name: &str) -> Vec<Fault> {
        let supervisor = self.slots.get(name).and_then(|s| s.live().supervisor.clone());
        supervisor.map(|s| s.ledger()).unwrap_or_default()
    }

    /// Shuts down in reverse order of the start, one after another, each on a thread of its own. `deadline` is for each
    /// plugin by itself, so one that hangs takes nothing from the others; a plugin that misses it is counted, left
    /// behind, and the walk goes on.
    ///
    /// Blocks for at most `deadline` per plugin. Repeating it does nothing and reports nothing.
    pub fn shutdown(&self, deadline: Duration) -> ShutdownReport {
        let started = std::mem::take(&mut *self.started.lock().unwrap_or_else(PoisonError::into_inner));
        let mut report = ShutdownReport::default();
        for Started { name, plugin } in started.into_iter().rev() {
            let error = shutdown_one(&name, plugin, deadline).err();
            if let Some(slot) = self.slots.get(&name) {
                slot.end(error.as_ref());
            }
            report.steps.push(ShutdownStep { name, error });
        }
        report
    }
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.plugins()).finish()
    }
}
