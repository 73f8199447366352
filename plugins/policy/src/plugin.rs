//! The plugin object, and what it does when the node joins or leaves a network (policy.md section 6.2). Called by the host
//! through plugin-abi.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use plugin_abi::{Daemon, Error, ErrorKind, Event, Plugin, PolicyManager, Result, Subscription};
use serde_json::{Map, Value};

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
    stop: Arc<AtomicBool>,
    /// What each thread listens to, and the thread.
    threads: Vec<(Arc<dyn Subscription>, JoinHandle<()>)>,
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
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        let networks = daemon.bus().subscribe("network.*");
        let parts = (self.manager.clone(), networks.clone(), stop.clone());
        let thread = plugin_abi::spawn_thread(daemon.clone(), "policy.bus", move || {
            let (manager, subscription, stop) = parts;
            listen(&manager, subscription.as_ref(), &stop);
        })?;
        threads.push((networks, thread));
        let registrations = daemon.bus().subscribe("node.*");
        let parts = (self.manager.clone(), daemon.clone(), registrations.clone(), stop.clone());
        let thread = plugin_abi::spawn_thread(daemon, "policy.restore", move || {
            let (manager, daemon, subscription, stop) = parts;
            restore(&manager, daemon.as_ref(), subscription.as_ref(), &stop);
        })?;
        threads.push((registrations, thread));
        let listening = Listening { stop, threads };
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
            if let Some(Listening { stop, threads }) = listening {
                stop.store(true, Ordering::Release);
                threads.iter().for_each(|(subscription, _)| subscription.cancel());
                for (_, thread) in threads {
                    // A panic in it was reported when it happened.
                    let _ = thread.join();
                }
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
            put_in_force(manager, network, member("expr_policy"), member("rules"));
        }
        "network.left" => manager.stop(network),
        _ => {}
    }
}

/// Starts what a network asks of its members: its policy, else its rules. One that is in force is kept.
fn put_in_force(manager: &Manager, network: u16, policy: Option<&Value>, rules: Option<&Value>) {
    if manager.get(network).is_some() {
        return;
    }
    let started = match (policy.and_then(document_text), rules.and_then(document_text)) {
        (Some(document), _) => manager.start(network, &document),
        (None, Some(rules)) => manager.start_rules(network, &rules),
        (None, None) => return,
    };
    match started {
        Ok(()) => tracing::info!(network_id = network, "network policy in force"),
        Err(error) => tracing::warn!(network_id = network, %error, "network policy not started"),
    }
}

/// After each registration: the policies of the networks that this node is a member of already. State files hold no
/// policy; the registry does (policy.md section 4).
fn restore(manager: &Manager, daemon: &dyn Daemon, subscription: &dyn Subscription, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        match subscription.recv(EVENT_WAIT) {
            Ok(Some(event)) if matches!(event.topic.as_str(), "node.registered" | "node.reregistered") => {
                if let Err(error) = restore_all(manager, daemon) {
                    tracing::warn!(%error, "policies of this node's networks not restored");
                }
            }
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

fn restore_all(manager: &Manager, daemon: &dyn Daemon) -> Result<()> {
    let ask = |op: &str, name: &str, value: Value| {
        let params = if name.is_empty() { Map::new() } else { Map::from_iter([(name.to_owned(), value)]) };
        daemon.registry_call(op, params)
    };
    let own = ask("lookup", "node_id", daemon.node_id().into())?;
    let mine: Vec<&Value> =
        own.get("networks").and_then(Value::as_array).into_iter().flatten().filter(|n| **n != 0).collect();
    if mine.is_empty() {
        return Ok(());
    }
    let answer = ask("list_networks", "", Value::Null)?;
    for network in answer.get("networks").and_then(Value::as_array).into_iter().flatten() {
        let Some(id) = network["id"].as_u64().and_then(|id| u16::try_from(id).ok()) else { continue };
        if !mine.contains(&&network["id"]) || manager.get(id).is_some() {
            continue;
        }
        let mut policy = None;
        if network["has_expr_policy"] == true {
            policy = ask("get_expr_policy", "network_id", id.into())?.remove("expr_policy");
        }
        put_in_force(manager, id, policy.as_ref(), network.get("rules"));
    }
    Ok(())
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
