//! The webhook plugin: every event of the daemon's bus, as an HTTP request to one URL.
//!
//! ```text
//!   bus --bridge--> queue (1024) --worker--> POST <url>, up to 3 attempts, breaker
//! ```
//!
//! The URL comes from the configuration, from the file `webhook_url` in the state directory, or from a person at run
//! time (through the [`WebhookManager`](plugin_abi::WebhookManager) that this plugin installs). Delivery is best
//! effort: events are lost when the queue is full, when the endpoint refuses them, and while the breaker is open; gaps
//! in `event_id` show it.
//!
//! Configuration, `[plugin.webhook]`, all optional:
//!
//! | member | meaning | default |
//! |---|---|---|
//! | `url` | where events go; empty: the saved URL | empty |
//! | `secret` | signs each body (header `X-Pilot-Signature-256`) | none |
//! | `ca_file` | PEM file with the only authorities to trust for `https` | the well-known ones |
//! | `timeout_ms` | one attempt | 5000 |
//! | `backoff_ms` | before the second attempt, doubled before the third | 1000 |
//! | `cooldown_ms` | how long the breaker stays open | 30000 |
//! | `spool_dir` | undelivered events wait here on disk and are delivered after a restart | none: in memory |
//! | `spool_max_bytes` | how much may wait there | 16 MiB |
//!
//! With a spool an event that could not be delivered stays at the front and is tried again, so nothing is skipped while the
//! breaker is open; a 4xx status still loses it, because repeating does not help.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod body;
mod breaker;
mod client;
mod clock;
mod config;
mod gourl;
mod http;
mod manager;
mod saved;
mod spool;
mod target;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use plugin_abi::{Daemon, Plugin, Result};

use clock::{Clock, SystemClock};
use config::Config;
use manager::Manager;

/// What is kept of a shutdown deadline after the queue was worked off.
const RESERVE: Duration = Duration::from_millis(250);

/// The plugin: nothing before `init`, nothing after `shutdown`.
pub struct Webhook {
    clock: Arc<dyn Clock>,
    manager: Mutex<Option<Arc<Manager>>>,
}

impl Webhook {
    /// A plugin on the system's clocks.
    pub fn new() -> Self {
        Webhook { clock: Arc::new(SystemClock), manager: Mutex::new(None) }
    }
}

impl Default for Webhook {
    fn default() -> Self {
        Self::new()
    }
}

impl Plugin for Webhook {
    fn init(&self, daemon: Arc<dyn Daemon>) -> Result<()> {
        let mut config = Config::read(&daemon.config())?;
        config.spool_dir = config.spool_dir.map(|dir| daemon.state_dir().join(dir));
        let manager = Arc::new(Manager::new(Arc::clone(&daemon), config, Arc::clone(&self.clock)));
        manager.start()?;
        daemon.register_webhook_manager(Arc::clone(&manager) as _);
        *lock(&self.manager) = Some(manager);
        Ok(())
    }

    fn shutdown(&self, deadline: Duration) -> Result<()> {
        let manager = lock(&self.manager).take();
        manager.map_or(Ok(()), |manager| manager.stop(deadline.saturating_sub(RESERVE)))
    }
}

plugin_abi::export_plugin!("webhook", Webhook::new);

/// Locks, also after a contained panic of another thread: what the mutexes here guard is whole between two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
