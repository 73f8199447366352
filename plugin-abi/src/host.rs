//! The host's side of the border: what the loader needs and plugins never touch.
//!
//! The loader opens a file, hands the address of its root symbol to [`Module::check`](crate::abi::open::Module::check),
//! and gets plain [`Plugin`] objects from it. Each instance has a [`Supervisor`] that remembers whether
//! it panicked.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::SystemTime;

use crate::api::Daemon;
use crate::bridge::{Border, Link};
use crate::{Error, ErrorKind, Plugin, abi};

pub use crate::abi::open::{Fit, Module, OpenError};

/// Faults that the ledger of one instance keeps; older ones make room.
pub const LEDGER: usize = 32;

/// One fault of a plugin instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The method at the border, or what the plugin named.
    pub op: String,
    /// The panic's text, or what the plugin said.
    pub message: String,
    /// When it was noted.
    pub at: SystemTime,
    /// Who contained it.
    pub source: FaultSource,
}

/// Who contained a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultSource {
    /// The border: the host's call came back as a panic. The instance has failed.
    Border,
    /// The plugin itself, which then reported it. The instance goes on.
    Plugin,
}

/// Watches one plugin instance. Shared by every object that this instance hands to the host.
///
/// After the first panic that reaches the border the instance is *failed*: its state may be half-changed, so nothing of
/// it is called any more except `shutdown`, gates answer "deny", and [`failure`](Self::failure) says why. Faults that
/// the plugin contains itself, and reports, are only counted.
pub struct Supervisor {
    name: String,
    /// Weak: the daemon holds objects that hold this. The loader keeps the strong one while the plugin runs.
    daemon: Mutex<Option<Weak<dyn Daemon>>>,
    failure: OnceLock<String>,
    /// Set after `failure`: what every call looks at.
    failed: Arc<AtomicBool>,
    ledger: Mutex<Ledger>,
    observer: Option<Observer>,
}

/// Called with each fault, on the thread that noticed it and outside of every lock.
type Observer = Box<dyn Fn(&Fault) + Send + Sync>;

#[derive(Default)]
struct Ledger {
    total: u64,
    last: VecDeque<Fault>,
}

impl Supervisor {
    /// For one instance of plugin `name`.
    pub fn new(name: impl Into<String>) -> Arc<Self> {
        Self::make(name.into(), None)
    }

    /// As [`new`](Self::new); `observer` is called with each fault, on the thread that noticed it, so it must not wait
    /// for the plugin.
    pub fn observed(name: impl Into<String>, observer: impl Fn(&Fault) + Send + Sync + 'static) -> Arc<Self> {
        Self::make(name.into(), Some(Box::new(observer)))
    }

    fn make(name: String, observer: Option<Observer>) -> Arc<Self> {
        Arc::new(Supervisor {
            name,
            daemon: Mutex::new(None),
            failure: OnceLock::new(),
            failed: Arc::default(),
            ledger: Mutex::default(),
            observer,
        })
    }

    /// Panics at the border are also reported to `daemon`, as [`Daemon::report_fault`] of this plugin. Only a weak
    /// reference is kept.
    pub fn attach(&self, daemon: &Arc<dyn Daemon>) {
        *self.daemon.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::downgrade(daemon));
    }

    /// The plugin's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text of the panic that made this instance fail.
    #[inline]
    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// Panics caught at the border plus faults that the plugin reported.
    pub fn faults(&self) -> u64 {
        self.ledger_lock().total
    }

    /// The last [`LEDGER`] faults, oldest first.
    pub fn ledger(&self) -> Vec<Fault> {
        self.ledger_lock().last.iter().cloned().collect()
    }

    fn ledger_lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, op: &str, message: &str, source: FaultSource) {
        let mut ledger = self.ledger_lock();
        ledger.total += 1;
        if ledger.last.len() == LEDGER {
            ledger.last.pop_front();
        }
        // Reports come from the plugin: their size is its choice, our memory is not.
        let clip = |text: &str| text.chars().take(512).collect();
        let fault = Fault { op: clip(op), message: clip(message), at: SystemTime::now(), source };
        ledger.last.push_back(fault.clone());
        drop(ledger);
        if let Some(observer) = &self.observer {
            observer(&fault);
        }
    }

    /// Whether the instance must not be called any more; read before every call.
    pub(crate) fn failed(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.failed)
    }

    /// The answer of a failed instance.
    pub(crate) fn not_called(&self) -> Error {
        // Not `Panicked`: this call did not reach the plugin, so there is nothing new to count.
        Error::new(
            ErrorKind::Closed,
            format!(
                "plugin \"{}\" has failed ({}) and is not called",
                self.name,
                self.failure().unwrap_or_default()
            ),
        )
    }

    pub(crate) fn panicked(&self, op: &str, message: &str) {
        // The first cause is the interesting one. Set before anybody is told: who hears of it finds the instance failed.
        let _ = self.failure.set(message.to_owned());
        self.failed.store(true, Ordering::Release);
        self.note(op, message, FaultSource::Border);
        tracing::error!(plugin = self.name, op, message, "plugin panicked; it is not called any more");
        let daemon = self.daemon.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(daemon) = daemon.and_then(|d| d.upgrade()) {
            daemon.report_fault(op, message);
        }
    }

    /// Notes a fault that the plugin reported: from the border, or from whoever stands in for a plugin that runs in
    /// another process.
    pub fn reported(&self, op: &str, message: &str) {
        self.note(op, message, FaultSource::Plugin);
    }
}

/// Puts a border around a plugin that is linked into this program, so that its panics are contained and counted as those
/// of a library are.
pub fn contain(plugin: Arc<dyn Plugin>, supervisor: Arc<Supervisor>) -> Box<dyn Plugin> {
    let lent = plugin.lend(&Link::to_host());
    adopt_plugin(lent, supervisor)
}

/// The plain face of an instance that [`Module::create`] made.
pub(crate) fn adopt_plugin(instance: abi::PluginArc, supervisor: Arc<Supervisor>) -> Box<dyn Plugin> {
    Box::new(<dyn Plugin>::adopt(instance, &Link::to_plugin(supervisor)))
}
