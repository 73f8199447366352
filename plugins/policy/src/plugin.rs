//! The plugin object, and what it does when the node joins or leaves a network (policy.md section 6.2). Called by the host
//! through plugin-abi.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use plugin_abi::{Daemon, Error, ErrorKind, Event, Plugin, PolicyManager, Result, Subscription};
use serde_json::Value;

use crate::clock::{Clock, SystemClock};
use crate::config::LocalPolicy;
use crate::manager::Manager;
use crate::runner::Environment;
use crate::workers::Workers;

/// How long one wait for an event lasts; a cancelled subscription ends it at once.
const EVENT_WAIT: Duration = Duration::from_secs(1);

/// The plugin: policies by network.
pub(crate) struct PolicyPlugin {
    clock: Arc<dyn Clock>,
    manager: Arc<Manager>,
    listening: Mutex<Option<Listening>>,
}

struct Listening {
    subscription: Arc<dyn Subscription>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl PolicyPlugin {
    /// With the clock of this machine.
    pub fn new() -> PolicyPlugin {
        PolicyPlugin::with_clock(Arc::new(SystemClock::new()))
    }

    /// With a clock of the caller's.
    pub fn with_clock(clock: Arc<dyn Clock>) -> PolicyPlugin {
        PolicyPlugin { clock, manager: Arc::default(), listening: Mutex::new(None) }
    }
}

impl Plugin for PolicyPlugin {
    fn init(&self, daemon: Arc<dyn Daemon>) -> Result<()> {
        let local = LocalPolicy::parse(&daemon.config(), &daemon.state_dir())?;
        let workers = Workers::new();
        self.manager.open(Environment { daemon: daemon.clone(), workers, clock: self.clock.clone() });
        if let Some(local) = local {
            let path = local.path.display();
            let started = local.read().and_then(|text| self.manager.start(local.network, &text));
            if let Err(e) = started {
                self.manager.close();
                return Err(Error::new(e.kind(), format!("local policy {path}: {e}")));
            }
            tracing::info!(network_id = local.network, %path, "local policy in force");
        }
        daemon.register_policy_manager(self.manager.clone());
        let subscription = daemon.bus().subscribe("network.*");
        let stop = Arc::new(AtomicBool::new(false));
        let parts = (self.manager.clone(), subscription.clone(), stop.clone());
        let thread = plugin_abi::spawn_thread(daemon, "policy.bus", move || {
            let (manager, subscription, stop) = parts;
            listen(&manager, subscription.as_ref(), &stop);
        })?;
        let listening = Listening { subscription, stop, thread };
        *self.listening.lock().unwrap_or_else(PoisonError::into_inner) = Some(listening);
        Ok(())
    }

    /// Stops every runner, with what it still has to save.
    fn shutdown(&self, deadline: Duration) -> Result<()> {
        let listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner).take();
        let manager = self.manager.clone();
        let (done, waiting) = mpsc::channel::<()>();
        // A runner may be waiting for the registry, so the wait has to happen where it can be left behind.
        std::thread::Builder::new().name("policy.shutdown".into()).spawn(move || {
            let _done = done;
            if let Some(Listening { subscription, stop, thread }) = listening {
                stop.store(true, Ordering::Release);
                subscription.cancel();
                // A panic in it was reported when it happened.
                let _ = thread.join();
            }
            manager.close();
        })?;
        match waiting.recv_timeout(deadline) {
            Err(RecvTimeoutError::Timeout) => Err(Error::new(ErrorKind::TimedOut, "deadline exceeded")),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => Ok(()),
        }
    }
}

/// Reacts to events until the subscription ends.
fn listen(manager: &Manager, subscription: &dyn Subscription, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        match subscription.recv(EVENT_WAIT) {
            Ok(Some(event)) => react(manager, &event),
            Ok(None) => {}
            Err(_) => return,
        }
    }
}

fn react(manager: &Manager, event: &Event) {
    let member = |key: &str| event.payload.as_ref().and_then(|payload| payload.get(key));
    let network = member("network_id").and_then(|id| id.as_u64().or_else(|| id.as_f64().map(|f| f as u64)));
    let Some(network) = network.and_then(|n| u16::try_from(n).ok()).filter(|n| *n != 0) else { return };
    match event.topic.as_str() {
        "network.joined" => {
            let Some(document) = member("expr_policy").and_then(document_text) else { return };
            if manager.get(network).is_some() {
                return;
            }
            if let Err(error) = manager.start(network, &document) {
                tracing::warn!(network_id = network, %error, "network policy not started");
            }
        }
        "network.left" => manager.stop(network),
        _ => {}
    }
}

/// A policy comes as text, as an object, or as bytes of text.
fn document_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Object(_) => Some(value.to_string()),
        Value::Array(bytes) => {
            let bytes: Option<Vec<u8>> =
                bytes.iter().map(|b| b.as_u64().and_then(|b| u8::try_from(b).ok())).collect();
            String::from_utf8(bytes?).ok()
        }
        _ => None,
    }
}
