//! The policy of one network at work: a table of peers, a gate that the engine asks, and a loop that keeps the table in
//! step with the registry (policy.md sections 4 to 6). Made by the manager; called by the engine and by clients.
//!
//! | module | job |
//! |---|---|
//! | `table`, `store` | the peers, and their file |
//! | `gate` | the answer to connect, dial and datagram |
//! | `members` | bootstrap, reconcile, join and leave |
//! | `cycle` | the periodic pass over peers and fleet, and every action that is not a verdict |
//! | `views` | what clients are shown |
//!
//! Locks: `turn` is held for a whole bootstrap, reconcile, cycle or action event, which may wait for the network; `table`
//! only for moments and never while anything waits, so that a gate is never kept waiting.

mod cycle;
mod gate;
mod members;
pub(crate) mod store;
mod table;
mod views;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use pilot_wire::goduration::GoDuration;
use plugin_abi::{Daemon, PolicyRunner, PortGate, Result};
use serde_json::{Map, Value};

use crate::clock::Clock;
use crate::compiled::{Directive, Policy};
use crate::workers::Workers;
use members::Backoff;
use store::Store;
use table::Table;

/// How often the table is compared with the registry.
const RECONCILE_EVERY: Duration = Duration::from_secs(5);
/// The shortest cycle, whatever the document says.
const MIN_CYCLE: Duration = Duration::from_secs(1);
/// The cycle of a document whose cycle cannot be read; validation does not let one pass.
const FALLBACK_CYCLE: Duration = Duration::from_secs(24 * 3600);

/// What all runners share.
#[derive(Clone)]
pub(crate) struct Environment {
    pub daemon: Arc<dyn Daemon>,
    pub workers: Arc<Workers>,
    pub clock: Arc<dyn Clock>,
}

/// Where a runner's document is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A policy: the table holds every member that the document lets in.
    Policy,
    /// Rules of a managed network, turned into a document (policy.md section 7): the table holds `links` members at most,
    /// chosen at random; only a cycle changes who they are, and none younger than `grace` is dropped.
    Managed {
        /// Protection of new peers.
        grace: Duration,
    },
}

/// The policy of one network.
pub(crate) struct Runner {
    network: u16,
    policy: Arc<Policy>,
    /// `Some`: a managed network, see [`Kind`].
    managed: Option<Duration>,
    daemon: Arc<dyn Daemon>,
    workers: Arc<Workers>,
    clock: Arc<dyn Clock>,
    store: Store,
    table: Mutex<Table>,
    turn: Mutex<Backoff>,
    /// One writer of the file at a time.
    saving: Mutex<()>,
    control: Mutex<Control>,
    /// Notified when `control` changes.
    changed: Condvar,
}

#[derive(Default)]
struct Control {
    stopped: bool,
    /// A gate has changed tags since the last save.
    unsaved: bool,
    thread: Option<JoinHandle<()>>,
}

impl Runner {
    /// With the state saved for `network`, if any. Does nothing until [`start`](Self::start).
    pub fn new(network: u16, policy: Policy, kind: Kind, environment: Environment) -> Arc<Runner> {
        let Environment { daemon, workers, clock } = environment;
        let managed = match kind {
            Kind::Policy => None,
            Kind::Managed { grace } => Some(grace),
        };
        let store = Store::new(&daemon.state_dir(), network, managed.is_some());
        let table = Mutex::new(store.load(clock.wall()));
        Arc::new(Runner {
            network,
            policy: Arc::new(policy),
            managed,
            daemon,
            workers,
            clock,
            store,
            table,
            turn: Mutex::default(),
            saving: Mutex::default(),
            control: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// Starts the loop, once; not after [`stop`](PolicyRunner::stop).
    pub fn start(self: &Arc<Self>) -> Result<()> {
        let mut control = self.control();
        if control.stopped || control.thread.is_some() {
            return Ok(());
        }
        let runner = self.clone();
        let thread = plugin_abi::spawn_thread(self.daemon.clone(), "policy.runner", move || runner.run())?;
        control.thread = Some(thread);
        Ok(())
    }

    fn run(&self) {
        let started = self.clock.monotonic();
        let cycle = self.cycle_period();
        let mut reconcile_at = started + RECONCILE_EVERY;
        let mut cycle_at = cycle.map(|period| started + period);
        self.bootstrap();
        loop {
            let next = cycle_at.map_or(reconcile_at, |at| at.min(reconcile_at));
            if !self.wait_until(next) {
                return;
            }
            let now = self.clock.monotonic();
            if now >= reconcile_at {
                self.reconcile();
                reconcile_at = self.clock.monotonic() + RECONCILE_EVERY;
            }
            if let (Some(period), Some(at)) = (cycle, cycle_at)
                && now >= at
            {
                self.cycle();
                cycle_at = Some(self.clock.monotonic() + period);
            }
        }
    }

    /// Waits for a moment, saving what gates change meanwhile; `false` when the runner is stopped.
    fn wait_until(&self, at: Duration) -> bool {
        let mut control = self.control();
        loop {
            if control.stopped {
                return false;
            }
            if std::mem::take(&mut control.unsaved) {
                drop(control);
                self.save();
                control = self.control();
                continue;
            }
            let left = at.saturating_sub(self.clock.monotonic());
            if left.is_zero() {
                return true;
            }
            control = self.changed.wait_timeout(control, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// `None`: no cycle.
    fn cycle_period(&self) -> Option<Duration> {
        let text = self.policy.document.cycle()?;
        let period = text.parse::<GoDuration>().ok().and_then(|d| Duration::try_from(d).ok());
        Some(period.unwrap_or(FALLBACK_CYCLE).max(MIN_CYCLE))
    }

    /// Tells the loop to end, without waiting for it.
    pub fn ask_to_stop(&self) {
        self.control().stopped = true;
        self.changed.notify_all();
    }

    /// Reads the saved state again, which another runner of the same network has just written.
    pub fn reload(&self) {
        *self.table() = self.store.load(self.clock.wall());
    }

    /// The threads that this runner shares with the others.
    #[cfg(test)]
    pub fn workers(&self) -> Arc<Workers> {
        self.workers.clone()
    }

    fn is_stopped(&self) -> bool {
        self.control().stopped
    }

    /// Lets the loop save soon; the caller does not wait for the disk.
    fn save_soon(&self) {
        self.control().unsaved = true;
        self.changed.notify_all();
    }

    /// Writes the table to its file. A failure is logged; the next save may do better.
    pub fn save(&self) {
        let _one = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let table = self.table().clone();
        if let Err(error) = self.store.save(&table) {
            tracing::warn!(network_id = self.network, %error, "policy state not saved");
        }
    }

    /// Unix seconds, for `since`.
    fn now_seconds(&self) -> f64 {
        self.clock.wall().as_nanosecond() as f64 / 1e9
    }

    fn publish(&self, topic: &str, payload: Value) {
        if let Value::Object(map) = payload {
            self.daemon.publish(topic, Some(map));
        }
    }

    /// The effect of a `webhook` directive: an event whose data is a copy, with network and rule on top.
    fn publish_webhook(&self, directive: &Directive) {
        let params = self.policy.params(directive);
        let event = params.and_then(|p| p.get("event")).and_then(Value::as_str).unwrap_or_default();
        let data = params.and_then(|p| p.get("data")).and_then(Value::as_object);
        let mut payload = data.cloned().unwrap_or_default();
        payload.insert("network_id".into(), self.network.into());
        payload.insert("rule".into(), self.policy.rule_name(directive).into());
        self.daemon.publish(&format!("policy.{event}"), Some(payload));
    }

    /// The effect of a `log` directive.
    fn log(&self, directive: &Directive) {
        let text = |key: &str| {
            let params = self.policy.params(directive);
            params.and_then(|p| p.get(key)).and_then(Value::as_str).unwrap_or_default()
        };
        let (network_id, rule, message) = (self.network, self.policy.rule_name(directive), text("message"));
        match text("level") {
            "warn" => tracing::warn!(network_id, rule, "policy: {message}"),
            _ => tracing::info!(network_id, rule, "policy: {message}"),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Every change of the table is a single step, so a panic elsewhere leaves it usable.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self) -> MutexGuard<'_, Backoff> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PolicyRunner for Runner {
    fn network_id(&self) -> u16 {
        self.network
    }

    fn has_member(&self, node: u32) -> bool {
        self.table().peers.contains_key(&node)
    }

    fn evaluate_port_gate(&self, gate: &PortGate) -> bool {
        self.gate(gate)
    }

    fn evaluate_actions(&self, event: &str, context: &Map<String, Value>) {
        self.actions(event, context);
    }

    fn status(&self) -> Map<String, Value> {
        self.status_view()
    }

    fn peer_list(&self) -> Vec<Value> {
        self.peer_view()
    }

    fn force_cycle(&self) -> Result<Map<String, Value>> {
        Ok(self.cycle())
    }

    fn reconcile_now(&self) -> Result<u32> {
        self.reconcile();
        Ok(u32::try_from(self.table().peers.len()).unwrap_or(u32::MAX))
    }

    fn policy_json(&self) -> String {
        self.policy.document.to_json()
    }

    fn stop(&self) {
        self.ask_to_stop();
        let thread = self.control().thread.take();
        if let Some(thread) = thread {
            // A panic in the loop was reported when it happened.
            let _ = thread.join();
        }
        let unsaved = std::mem::take(&mut self.control().unsaved);
        if unsaved {
            self.save();
        }
    }
}
