//! The host's side of the border: what the loader needs and plugins never touch.
//!
//! The loader opens a file, hands the address of its root symbol to [`Module::check`](crate::abi::open::Module::check),
//! and gets plain [`Plugin`] objects from it. Each instance has a [`Supervisor`] that remembers whether
//! it panicked.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use crate::api::Daemon;
use crate::bridge::{Border, Link};
use crate::{Error, ErrorKind, Plugin, Result, abi};

pub use crate::abi::open::{Module, OpenError};

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
    faults: AtomicU64,
}

impl Supervisor {
    /// For one instance of plugin `name`.
    pub fn new(name: impl Into<String>) -> Arc<Self> {
        Arc::new(Supervisor {
            name: name.into(),
            daemon: Mutex::new(None),
            failure: OnceLock::new(),
            faults: AtomicU64::new(0),
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
    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// Panics caught at the border plus faults that the plugin reported.
    pub fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    pub(crate) fn admit(&self) -> Result<()> {
        match self.failure() {
            None => Ok(()),
            // Not `Panicked`: this call did not reach the plugin, so there is nothing new to count.
            Some(why) => Err(Error::new(
                ErrorKind::Closed,
                format!("plugin \"{}\" has failed ({why}) and is not called", self.name),
            )),
        }
    }

    pub(crate) fn panicked(&self, op: &str, message: &str) {
        self.faults.fetch_add(1, Ordering::Relaxed);
        // The first cause is the interesting one.
        let _ = self.failure.set(message.to_owned());
        tracing::error!(plugin = self.name, op, message, "plugin panicked; it is not called any more");
        let daemon = self.daemon.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(daemon) = daemon.and_then(|d| d.upgrade()) {
            daemon.report_fault(op, message);
        }
    }

    pub(crate) fn reported(&self) {
        self.faults.fetch_add(1, Ordering::Relaxed);
    }
}

/// The plain face of an instance that [`Module::create`] made.
pub(crate) fn adopt_plugin(instance: abi::PluginArc, supervisor: Arc<Supervisor>) -> Box<dyn Plugin> {
    Box::new(<dyn Plugin>::adopt(instance, &Link::to_plugin(supervisor)))
}
