//! The plugins of a running host, as a set: listed together, shut down together in reverse order, and each started,
//! stopped and replaced by itself (`change`) without the others noticing.
//!
//! Made by [`Loader::load`](crate::Loader::load), held by the host. One change of a plugin at a time; different plugins
//! change independently. No lock is held while a plugin's code runs, except the one that says "this plugin is changing".

mod change;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use plugin_abi::host::{Fault, Supervisor};
use plugin_abi::registry::{Factory, ShutdownReport, ShutdownStep, StartStep, Started, shutdown_one};
use plugin_abi::{Daemon, Error, ErrorKind, Plugin};

pub use change::ChangeError;

use crate::child::{ChildPlugin, ChildState, ChildStatus};
use crate::config::{LoaderConfig, PluginHost};
use crate::info::{PluginInfo, PluginState};
use crate::instance::{Making, Version, make_instance, supervisor};
use crate::ledger::{Kind, Ledger};
use crate::open;

/// A running instance and what the host holds for it.
struct Live {
    plugin: Arc<dyn Plugin>,
    supervisor: Arc<Supervisor>,
    /// The plugin once more, where it is a process.
    child: Option<Arc<ChildPlugin>>,
    /// The strong reference that the supervisor's weak one needs.
    _daemon: Option<Arc<dyn Daemon>>,
}

/// What changes while a plugin is known.
struct Now {
    /// Without state and counts: those are asked for.
    info: PluginInfo,
    /// `None` while nothing was opened, as for a plugin that came up in quarantine.
    version: Option<Arc<Version>>,
    live: Option<Live>,
    state: PluginState,
    starts: u64,
}

/// An instance on its way from the constructor to the end of `init`.
#[derive(Default)]
struct Birth {
    supervisor: Option<Arc<Supervisor>>,
    child: Option<Arc<ChildPlugin>>,
    daemon: Option<Arc<dyn Daemon>>,
}

/// One plugin of the set.
pub(crate) struct Slot {
    name: String,
    /// Held while the plugin is started, stopped or replaced.
    changing: Mutex<()>,
    now: Mutex<Now>,
    birth: Mutex<Birth>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in this module can panic between two steps of a change to what these guard.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Slot {
    /// A plugin whose code is there and of which nothing runs yet.
    pub(crate) fn new(version: Version) -> Arc<Self> {
        let info = version.info.clone();
        Self::with(info, Some(Arc::new(version)), PluginState::Stopped)
    }

    /// A plugin that is known and not opened.
    pub(crate) fn closed(info: PluginInfo, state: PluginState) -> Arc<Self> {
        Self::with(info, None, state)
    }

    fn with(info: PluginInfo, version: Option<Arc<Version>>, state: PluginState) -> Arc<Self> {
        Arc::new(Slot {
            name: info.name.clone(),
            changing: Mutex::new(()),
            now: Mutex::new(Now { info, version, live: None, state, starts: 0 }),
            birth: Mutex::default(),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn path(&self) -> PathBuf {
        lock(&self.now).info.path.clone()
    }

    fn info(&self, ledger: &Ledger) -> PluginInfo {
        let counters = ledger.counters(&self.name);
        let now = lock(&self.now);
        let supervisor = now.live.as_ref().map(|l| &l.supervisor);
        let failed = supervisor.and_then(|s| s.failure()).map(|why| PluginState::Failed(why.to_owned()));
        let child = now.live.as_ref().and_then(|l| l.child.as_ref()).map(|c| c.status());
        let state = match (&now.state, &child) {
            (PluginState::Running, Some(child)) => child_state(child),
            (PluginState::Running, None) => failed.unwrap_or(PluginState::Running),
            (other, _) => other.clone(),
        };
        let faults = supervisor.map_or(0, |s| s.faults());
        PluginInfo { child, state, faults, counters, starts: now.starts, ..now.info.clone() }
    }
}

/// How a plugin is whose instance is in use and lives in a process.
fn child_state(child: &ChildStatus) -> PluginState {
    let last = || child.last.last().map(ToString::to_string).unwrap_or_default();
    match &child.state {
        ChildState::Starting | ChildState::Pausing => PluginState::Restarting(last()),
        // Until the set has stopped it.
        ChildState::Quarantined => PluginState::Quarantined(last()),
        ChildState::Failed(why) => PluginState::Failed(why.clone()),
        ChildState::Running | ChildState::Stopped => PluginState::Running,
    }
}

/// The set behind [`Loaded`].
pub(crate) struct Set {
    config: LoaderConfig,
    host: Box<dyn PluginHost>,
    slots: Mutex<BTreeMap<String, Arc<Slot>>>,
    /// Names in the order in which they were first started; shutdown goes backwards.
    order: Mutex<Vec<String>>,
    closing: AtomicBool,
}

impl Set {
    pub(crate) fn new(config: LoaderConfig, host: Box<dyn PluginHost>) -> Arc<Self> {
        let set = Set {
            config,
            host,
            slots: Mutex::default(),
            order: Mutex::default(),
            closing: AtomicBool::new(false),
        };
        let set = Arc::new(set);
        let weak = Arc::downgrade(&set);
        set.config.ledger.on_quarantine(move |plugin, why| {
            let Some(set) = weak.upgrade() else { return };
            let (plugin, reason) = (plugin.to_owned(), why.reason.clone());
            // A thread of its own: the fault may have been noted inside a call of the very plugin that is to end.
            let thread = std::thread::Builder::new().name(format!("{plugin} quarantine"));
            if let Err(e) = thread.spawn(move || set.enforce_quarantine(&plugin, &reason)) {
                tracing::error!(error = %e, "no thread to stop a plugin in quarantine; it ends with the host");
            }
        });
        set
    }

    pub(crate) fn add(&self, slot: Arc<Slot>) -> Arc<Slot> {
        lock(&self.slots).insert(slot.name.clone(), Arc::clone(&slot));
        slot
    }

    pub(crate) fn slot(&self, name: &str) -> Option<Arc<Slot>> {
        lock(&self.slots).get(name).cloned()
    }

    fn ledger(&self) -> &Arc<Ledger> {
        &self.config.ledger
    }

    /// Makes instances of the slot's present version; `None` for a slot that is not open.
    pub(crate) fn factory(self: &Arc<Self>, slot: &Arc<Slot>) -> Option<Factory> {
        let version = lock(&slot.now).version.clone()?;
        let (set, slot) = (Arc::downgrade(self), Arc::clone(slot));
        Some(Arc::new(move || {
            let set = set.upgrade().ok_or_else(|| Error::new(ErrorKind::Closed, "the host is shut down"))?;
            set.make(&slot, &version).map(Some)
        }))
    }

    /// Runs the constructor of `version`.
    fn make(&self, slot: &Slot, version: &Version) -> plugin_abi::Result<Box<dyn Plugin>> {
        let supervisor = supervisor(&slot.name, self.ledger());
        lock(&slot.birth).supervisor = Some(Arc::clone(&supervisor));
        let made = make_instance(version, &Making { config: &self.config, supervisor })?;
        lock(&slot.birth).child = made.child;
        Ok(made.plugin)
    }

    /// The daemon handle of the instance that is being started; its faults are reported there from now on.
    pub(crate) fn daemon_for(&self, name: &str) -> Arc<dyn Daemon> {
        let Some(slot) = self.slot(name) else {
            // Not reachable: only plugins of the set are started.
            return self.host.daemon_for(&PluginInfo::linked(name, &self.config.host_version));
        };
        let daemon = self.host.daemon_for(&slot.info(self.ledger()));
        let mut birth = lock(&slot.birth);
        if let Some(supervisor) = &birth.supervisor {
            supervisor.attach(&daemon);
        }
        birth.daemon = Some(Arc::clone(&daemon));
        daemon
    }

    /// The instance of `slot` is up.
    fn settle(&self, slot: &Slot, plugin: Arc<dyn Plugin>) {
        let birth = std::mem::take(&mut *lock(&slot.birth));
        // Present whenever an instance was made; a set without one would only lose its fault reports.
        let supervisor = birth.supervisor.unwrap_or_else(|| supervisor(&slot.name, self.ledger()));
        let mut now = lock(&slot.now);
        now.live = Some(Live { plugin, supervisor, child: birth.child, _daemon: birth.daemon });
        now.state = PluginState::Running;
        now.starts += 1;
        drop(now);
        let mut order = lock(&self.order);
        if !order.contains(&slot.name) {
            order.push(slot.name.clone());
        }
        drop(order);
        self.host.started(&slot.name);
    }

    /// All plugins of the start are up.
    pub(crate) fn running(self: Arc<Self>, started: Vec<Started>) -> Loaded {
        for Started { name, plugin } in started {
            if let Some(slot) = self.slot(&name) {
                self.settle(&slot, plugin);
            }
        }
        for slot in lock(&self.slots).values().cloned().collect::<Vec<_>>() {
            let state = lock(&slot.now).state.clone();
            if matches!(state, PluginState::Quarantined(_)) {
                self.host.ended(&slot.name, &state);
            } else if let Some(why) = self.ledger().quarantined(&slot.name) {
                // Its process used up its chances while others were still in their `init`.
                self.enforce_quarantine(&slot.name, &why.reason);
            }
        }
        Loaded { set: self }
    }

    /// Notes what of a failed start is a fault: a missed deadline, and a panic that no supervisor saw.
    pub(crate) fn note_failed_start(&self, name: &str, step: StartStep, error: &Error) {
        if let Some(slot) = self.slot(name) {
            *lock(&slot.birth) = Birth::default();
        }
        let text = error.message();
        match (step, error.kind()) {
            (StartStep::Create, ErrorKind::Panicked) => {
                self.ledger().note(name, Kind::Panic, "create", text);
            }
            (StartStep::Init, ErrorKind::TimedOut) if text.ends_with("deadline exceeded") => {
                self.ledger().note(name, Kind::Overrun, "init", text);
            }
            _ => {}
        }
    }

    /// Notes the deadlines that were missed.
    pub(crate) fn note_shutdowns(&self, report: &ShutdownReport) {
        for ShutdownStep { name, error } in &report.steps {
            self.note_shutdown(name, error.as_ref());
        }
    }

    fn note_shutdown(&self, name: &str, error: Option<&Error>) {
        if let Some(e) = error.filter(|e| e.kind() == ErrorKind::TimedOut) {
            self.ledger().note(name, Kind::Overrun, "shutdown", e.message());
        }
    }

    /// Shuts the running instance down, if there is one, and says how that went. The slot's state is the caller's.
    fn end(&self, slot: &Slot, deadline: Duration) -> Option<Ended> {
        let live = lock(&slot.now).live.take()?;
        let error = shutdown_one(&slot.name, live.plugin, deadline).err();
        self.note_shutdown(&slot.name, error.as_ref());
        let state = match &error {
            None => PluginState::Stopped,
            Some(e) if e.kind() == ErrorKind::TimedOut => PluginState::Stuck,
            Some(e) => PluginState::StoppedWithError(e.to_string()),
        };
        Some(Ended { state, error })
    }
}

/// How a shutdown went.
struct Ended {
    state: PluginState,
    error: Option<Error>,
}

/// The plugins of a host. Clones are the same set. Dropping it does not shut them down: that takes a deadline.
#[derive(Clone)]
pub struct Loaded {
    set: Arc<Set>,
}

impl Loaded {
    /// All plugins, by name.
    pub fn plugins(&self) -> Vec<PluginInfo> {
        let slots: Vec<_> = lock(&self.set.slots).values().cloned().collect();
        slots.iter().map(|s| s.info(self.set.ledger())).collect()
    }

    /// One plugin.
    pub fn plugin(&self, name: &str) -> Option<PluginInfo> {
        self.set.slot(name).map(|s| s.info(self.set.ledger()))
    }

    /// The last faults of the running instance, oldest first; see [`plugin_abi::host::LEDGER`].
    pub fn faults(&self, name: &str) -> Vec<Fault> {
        let slot = self.set.slot(name);
        let supervisor =
            slot.and_then(|s| lock(&s.now).live.as_ref().map(|live| Arc::clone(&live.supervisor)));
        supervisor.map(|s| s.ledger()).unwrap_or_default()
    }

    /// The ledger that the set notes faults in.
    pub fn ledger(&self) -> &Arc<Ledger> {
        self.set.ledger()
    }

    /// Libraries that are mapped into this process, old ones included, and the limit. The count is the process's.
    pub fn mapped_copies(&self) -> (usize, usize) {
        (open::mapped(), self.set.config.max_mapped_copies)
    }

    /// Shuts down in reverse order of the start, one after another, each on a thread of its own. `deadline` is for each
    /// plugin by itself, so one that hangs takes nothing from the others; a plugin that misses it is counted, left
    /// behind, and the walk goes on. No plugin of the set can be started after this.
    ///
    /// Blocks for at most `deadline` per plugin, and for a change of one that is under way. Repeating it does nothing and
    /// reports nothing.
    pub fn shutdown(&self, deadline: Duration) -> ShutdownReport {
        self.set.closing.store(true, Ordering::SeqCst);
        let order = std::mem::take(&mut *lock(&self.set.order));
        let mut report = ShutdownReport::default();
        for name in order.into_iter().rev() {
            let Some(slot) = self.set.slot(&name) else { continue };
            let _turn = lock(&slot.changing);
            let Some(ended) = self.set.end(&slot, deadline) else { continue };
            lock(&slot.now).state = ended.state;
            report.steps.push(ShutdownStep { name, error: ended.error });
        }
        report
    }
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.plugins()).finish()
    }
}
