//! One plugin at a time: start, stop, restart, reload, quarantine and back.
//!
//! A reload goes side by side as far as two instances of one plugin may: the new bytes are judged, opened and their
//! constructor has run before the old instance hears of it. Then the host keeps what the old one holds (ports,
//! subscriptions, services), the old one is shut down, the new one starts and takes those over. When it fails, a fresh
//! instance of the former version takes them. `init` of the new and the life of the old do not overlap, because plugins
//! keep files: two stores on one file lose what the first one writes last.
//!
//! | State | Asked | Next |
//! |---|---|---|
//! | running, failed | reload | reloading, then running the new; or running the old again; or failed |
//! | running, failed | stop | stopped, error or stuck |
//! | stopped, error, stuck, failed | start | running, or failed |
//! | any | last straw | quarantined |
//! | quarantined | lift | stopped; then start |

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, TryLockError};

use plugin_abi::registry::{self, Factory, StartFailure, start_one};
use plugin_abi::{Error, Plugin};

use super::{Live, Loaded, Set, Slot, lock};
use crate::info::{PluginInfo, PluginState};
use crate::instance::{Image, Version};
use crate::judge::judge_one;
use crate::load::refused_start;
use crate::refusal::Refusal;

/// Why a plugin was not changed, or not as asked.
#[derive(Debug)]
#[non_exhaustive]
pub enum ChangeError {
    /// Neither known nor in the directory, or its file is refused. The running instance, if any, was not touched.
    Refused(Refusal),
    /// The configuration disables it.
    Disabled,
    /// It is being started, stopped or replaced at this moment.
    Busy,
    /// The host is shutting down.
    Closing,
    /// It runs already.
    Running,
    /// It does not run.
    NotRunning(PluginState),
    /// It is in quarantine for this reason.
    Quarantined(String),
    /// It is not in quarantine.
    NotQuarantined,
    /// The new instance did not start; a fresh instance of the former version runs.
    RolledBack(Refusal),
    /// Neither the new instance nor a fresh one of the former version started; nothing runs.
    Lost {
        /// Why the new one did not.
        new: Box<Refusal>,
        /// Why the former one did not.
        former: Box<Refusal>,
    },
}

impl ChangeError {
    /// A stable code for programs.
    pub fn code(&self) -> &'static str {
        match self {
            ChangeError::Refused(r) | ChangeError::RolledBack(r) => r.code.as_str(),
            ChangeError::Lost { new, .. } => new.code.as_str(),
            ChangeError::Disabled => "disabled",
            ChangeError::Busy => "busy",
            ChangeError::Closing => "closing",
            ChangeError::Running => "running",
            ChangeError::NotRunning(_) => "not-running",
            ChangeError::Quarantined(_) => "quarantined",
            ChangeError::NotQuarantined => "not-quarantined",
        }
    }
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChangeError::Refused(refusal) => refusal.fmt(f),
            ChangeError::Disabled => {
                f.write_str("the configuration disables it; enable it there and restart")
            }
            ChangeError::Busy => f.write_str("it is being started, stopped or replaced; try again"),
            ChangeError::Closing => f.write_str("the host is shutting down"),
            ChangeError::Running => f.write_str("it runs already; `reload` replaces it"),
            ChangeError::NotRunning(state) => write!(f, "it does not run ({}); `start` it", state.as_str()),
            ChangeError::Quarantined(why) => write!(f, "it is in quarantine ({why}); `lift` that first"),
            ChangeError::NotQuarantined => f.write_str("it is not in quarantine"),
            ChangeError::RolledBack(refusal) => {
                write!(f, "the new one did not start, the former version runs again: {refusal}")
            }
            ChangeError::Lost { new, former } => write!(
                f,
                "the new one did not start ({new}), and neither did the former version ({former}); it does not run"
            ),
        }
    }
}

impl std::error::Error for ChangeError {}

impl Loaded {
    /// Starts a plugin that does not run: a known one from its file as it is now, or one whose file is new in the
    /// directory. Blocks for at most the init timeout.
    ///
    /// # Errors
    /// [`ChangeError`]; nothing runs then.
    pub fn start(&self, name: &str) -> Result<PluginInfo, ChangeError> {
        let slot = self.set.slot_or_file(name)?;
        let _turn = self.set.turn(&slot)?;
        self.set.start(&slot)?;
        Ok(slot.info(self.set.ledger()))
    }

    /// Shuts a plugin down by itself; it stays down until it is started or the host is. Blocks for at most the shutdown
    /// timeout. How the shutdown went is in the state of the result.
    ///
    /// # Errors
    /// [`ChangeError`]; nothing was changed then.
    pub fn stop(&self, name: &str) -> Result<PluginInfo, ChangeError> {
        let slot = self.set.known(name)?;
        let _turn = self.set.turn(&slot)?;
        self.set.host.stopping(name);
        let Some(ended) = self.set.end(&slot, self.set.config.shutdown_timeout) else {
            return Err(ChangeError::NotRunning(lock(&slot.now).state.clone()));
        };
        self.set.over(&slot, ended.state);
        Ok(slot.info(self.set.ledger()))
    }

    /// Replaces the running instance by one of the file as it is now; see the top of this file for how. Of a plugin that
    /// does not run, the file as it is now is started. Blocks for at most the shutdown timeout and twice the init
    /// timeout.
    ///
    /// # Errors
    /// [`ChangeError`]; only with [`Lost`](ChangeError::Lost) nothing runs afterwards that did before.
    pub fn reload(&self, name: &str) -> Result<PluginInfo, ChangeError> {
        let slot = self.set.slot_or_file(name)?;
        let _turn = self.set.turn(&slot)?;
        if lock(&slot.now).live.is_none() {
            self.set.start(&slot)?;
        } else {
            let version = self.set.version_of_file(&slot)?;
            self.set.replace(&slot, version)?;
        }
        Ok(slot.info(self.set.ledger()))
    }

    /// As [`reload`](Self::reload) with the code that runs now, whatever became of its file.
    ///
    /// # Errors
    /// As [`reload`](Self::reload).
    pub fn restart(&self, name: &str) -> Result<PluginInfo, ChangeError> {
        let slot = self.set.known(name)?;
        let _turn = self.set.turn(&slot)?;
        let (version, runs) = {
            let now = lock(&slot.now);
            (now.version.clone(), now.live.is_some())
        };
        match version {
            Some(version) if runs => self.set.replace(&slot, version)?,
            _ => self.set.start(&slot)?,
        }
        Ok(slot.info(self.set.ledger()))
    }

    /// Ends a plugin's quarantine; it can be started again.
    ///
    /// # Errors
    /// [`ChangeError::NotQuarantined`].
    pub fn lift(&self, name: &str) -> Result<(), ChangeError> {
        if !self.set.ledger().lift(name) {
            return Err(ChangeError::NotQuarantined);
        }
        tracing::info!(plugin = name, "quarantine is lifted");
        if let Some(slot) = self.set.slot(name) {
            let mut now = lock(&slot.now);
            if matches!(now.state, PluginState::Quarantined(_)) {
                now.state = PluginState::Stopped;
            }
        }
        Ok(())
    }
}

impl Set {
    fn known(&self, name: &str) -> Result<Arc<Slot>, ChangeError> {
        match self.slot(name) {
            Some(slot) => Ok(slot),
            // The same words as for a file that is not there.
            None => Err(ChangeError::Refused(judge_unknown(name, &self.config))),
        }
    }

    /// A known plugin, or one whose file is in the directory.
    fn slot_or_file(&self, name: &str) -> Result<Arc<Slot>, ChangeError> {
        if let Some(slot) = self.slot(name) {
            return Ok(slot);
        }
        if self.config.disabled.contains(name) {
            return Err(ChangeError::Disabled);
        }
        let judged = judge_one(&self.config, name, None).map_err(ChangeError::Refused)?;
        let slot = Slot::closed(judged.info, PluginState::Stopped);
        let mut slots = lock(&self.slots);
        // Somebody else may have been faster.
        Ok(Arc::clone(slots.entry(name.to_owned()).or_insert(slot)))
    }

    /// The right to change this plugin.
    fn turn<'a>(&self, slot: &'a Slot) -> Result<MutexGuard<'a, ()>, ChangeError> {
        let turn = match slot.changing.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(ChangeError::Busy),
        };
        if self.closing.load(Ordering::SeqCst) {
            return Err(ChangeError::Closing);
        }
        match self.ledger().quarantined(&slot.name) {
            Some(why) => Err(ChangeError::Quarantined(why.reason)),
            None => Ok(turn),
        }
    }

    /// Judges and opens the plugin's file as it is now. A linked plugin has no file and one version.
    fn version_of_file(&self, slot: &Slot) -> Result<Arc<Version>, ChangeError> {
        let (last, linked) = {
            let now = lock(&slot.now);
            let linked = now.version.clone().filter(|v| matches!(v.image, Image::Linked(_)));
            (now.info.path.clone(), linked)
        };
        if let Some(version) = linked {
            return Ok(version);
        }
        let judged = judge_one(&self.config, &slot.name, Some(&last)).map_err(ChangeError::Refused)?;
        Version::open(&self.config, judged.file, judged.inspection, judged.info)
            .map(Arc::new)
            .map_err(ChangeError::Refused)
    }

    fn start(self: &Arc<Self>, slot: &Arc<Slot>) -> Result<(), ChangeError> {
        if lock(&slot.now).live.is_some() {
            return Err(ChangeError::Running);
        }
        let version = self.version_of_file(slot)?;
        self.adopt(slot, &version, PluginState::Starting);
        let made = self.make(slot, &version);
        self.start_made(slot, made).map_err(|refusal| {
            self.over(slot, PluginState::Failed(refusal.reason.clone()));
            ChangeError::Refused(refusal)
        })
    }

    /// Replaces the running instance by a new one of `version`.
    fn replace(self: &Arc<Self>, slot: &Arc<Slot>, version: Arc<Version>) -> Result<(), ChangeError> {
        // A constructor that fails has cost nothing yet.
        let made = self.make(slot, &version);
        if let Err(e) = made {
            return Err(ChangeError::Refused(self.failed(slot, create_failed(&slot.name, e))));
        }
        let former = lock(&slot.now).version.clone();
        let birth = std::mem::take(&mut *lock(&slot.birth));
        self.adopt(slot, &version, PluginState::Reloading);
        self.host.stopping(&slot.name);
        self.host.handing_over(&slot.name);
        if let Some(ended) = self.end(slot, self.config.shutdown_timeout)
            && let Some(e) = ended.error
        {
            tracing::warn!(plugin = slot.name, error = %e, "the old instance did not shut down well; its successor starts");
        }
        *lock(&slot.birth) = birth;
        let Err(new) = self.start_made(slot, made) else { return Ok(()) };
        tracing::error!(plugin = slot.name, reason = %new, "the new instance did not start; going back");
        let Some(former) = former else {
            self.over(slot, PluginState::Failed(new.reason.clone()));
            return Err(ChangeError::Refused(new));
        };
        self.adopt(slot, &former, PluginState::Reloading);
        // What the new one had taken by the time it failed.
        self.host.handing_over(&slot.name);
        let made = self.make(slot, &former);
        match self.start_made(slot, made) {
            Ok(()) => Err(ChangeError::RolledBack(new)),
            Err(former) => {
                self.over(slot, PluginState::Failed(new.reason.clone()));
                Err(ChangeError::Lost { new: Box::new(new), former: Box::new(former) })
            }
        }
    }

    /// From now on the slot speaks of this version.
    fn adopt(&self, slot: &Slot, version: &Arc<Version>, state: PluginState) {
        let mut now = lock(&slot.now);
        now.info = version.info.clone();
        now.version = Some(Arc::clone(version));
        now.state = state;
    }

    /// Starts an instance that was made, or says why it was not.
    fn start_made(&self, slot: &Arc<Slot>, made: plugin_abi::Result<Box<dyn Plugin>>) -> Result<(), Refusal> {
        let instance = std::sync::Mutex::new(Some(made));
        let take: Factory = Arc::new(move || match lock(&instance).take() {
            Some(made) => made.map(Some),
            None => Ok(None),
        });
        match start_one(&slot.name, &take, &|name| self.daemon_for(name), self.config.init_timeout) {
            Ok(plugin) => {
                self.settle(slot, plugin);
                Ok(())
            }
            Err((step, error)) => {
                Err(self.failed(slot, StartFailure { name: slot.name.clone(), step, error }))
            }
        }
    }

    fn failed(&self, slot: &Slot, failure: StartFailure) -> Refusal {
        self.note_failed_start(&slot.name, failure.step, &failure.error);
        refused_start(failure, slot.path())
    }

    /// Nothing of the plugin runs any more.
    fn over(&self, slot: &Slot, state: PluginState) {
        lock(&slot.now).state = state.clone();
        self.host.ended(&slot.name, &state);
    }

    /// Stops what the ledger has put in quarantine.
    pub(super) fn enforce_quarantine(&self, name: &str, reason: &str) {
        let Some(slot) = self.slot(name) else { return };
        let _turn = lock(&slot.changing);
        if self.closing.load(Ordering::SeqCst) || self.ledger().quarantined(name).is_none() {
            return;
        }
        self.end(&slot, self.config.shutdown_timeout);
        self.over(&slot, PluginState::Quarantined(reason.to_owned()));
    }
}

fn create_failed(name: &str, error: Error) -> StartFailure {
    let text = format!("daemonapi: plugin \"{name}\" create: {error}");
    StartFailure {
        name: name.to_owned(),
        step: registry::StartStep::Create,
        error: Error::new(error.kind(), text),
    }
}

fn judge_unknown(name: &str, config: &crate::config::LoaderConfig) -> Refusal {
    use crate::refusal::Code;
    let reason = format!("no plugin called \"{name}\" is loaded");
    let remedy = "`pilotctl plugins` lists the names that are known";
    Refusal::new(Code::NotFound, &config.dir, reason, remedy).of(name)
}

/// Keeps the compiler's word that a live instance can be dropped on any thread.
const _: fn() = || {
    fn sendable<T: Send>() {}
    sendable::<Live>();
};
