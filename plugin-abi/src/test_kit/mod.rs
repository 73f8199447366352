//! A daemon for plugin tests (feature `test-kit`): everything in memory, everything recorded, nothing on the network.
//!
//! ```
//! # use std::{sync::Arc, time::Duration};
//! # use plugin_abi::{Daemon, Plugin, test_kit::FakeDaemon};
//! # fn demo(plugin: &dyn Plugin) -> plugin_abi::Result<()> {
//! let daemon = FakeDaemon::new(std::env::temp_dir());
//! daemon.set_node_id(7);
//! plugin.init(daemon.clone())?;
//! let stream = daemon.connect(1001)?;                        // the plugin's listener gets the other end
//! stream.write(b"hello")?;
//! let event = daemon.wait_for_event("message.received");     // published by the plugin
//! plugin.shutdown(Duration::from_secs(5))?;
//! # Ok(()) }
//! ```
//!
//! It does not judge: there is no trust gate, no policy and no registry behind it but what a test puts there.

mod bus;
mod daemon;
mod ports;
mod run;
mod stream;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Map, Value};

use crate::api::{Connection, HandshakeService, PolicyManager, TrustChecker, WebhookManager};
use crate::types::{Addr, ConnectionInfo, Event, PublicKey, Signature, VersionInfo};
use crate::{Daemon, Error, ErrorKind, Result};

pub use bus::{BUS_BUFFER, topic_matches};
pub use ports::ACCEPT_QUEUE;
pub use run::{SLEEP_THREAD, SPAWN_THREAD};
pub use stream::{STREAM_BUFFER, stream_pair};

use bus::Subscribers;
use ports::Ports;

/// How long the `wait_` methods wait before they give up.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// One line that a plugin logged.
#[derive(Clone, Debug, PartialEq)]
pub struct LogLine {
    /// 1 error .. 5 trace.
    pub level: u8,
    /// The `tracing` target, or what the plugin gave.
    pub target: String,
    /// The text.
    pub message: String,
    /// Structured extras.
    pub fields: Map<String, Value>,
}

/// A datagram that a plugin sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentDatagram {
    /// Where to.
    pub addr: Addr,
    /// Which port there.
    pub port: u16,
    /// The payload.
    pub data: Vec<u8>,
}

type DialHandler = Arc<dyn Fn(Addr, u16) -> Result<Arc<dyn Connection>> + Send + Sync>;
type RegistryHandler = Arc<dyn Fn(&str, &Map<String, Value>) -> Result<Map<String, Value>> + Send + Sync>;
type ListHandler = Arc<dyn Fn(u16, &str) -> Result<Map<String, Value>> + Send + Sync>;
type SignHandler = Arc<dyn Fn(&[u8]) -> Signature + Send + Sync>;

/// The fake. Every setting may change at any time; every record can be read at any time.
pub struct FakeDaemon {
    me: Weak<FakeDaemon>,
    state: Mutex<State>,
    changed: Condvar,
    subscribers: Subscribers,
    ports: Arc<Ports>,
}

struct State {
    node_id: u32,
    identity: Option<PublicKey>,
    sign: Option<SignHandler>,
    identity_path: Option<PathBuf>,
    admin_token: String,
    trust_auto_approve: bool,
    config: Value,
    state_dir: PathBuf,
    version: VersionInfo,
    log_level: u8,

    dial: Option<DialHandler>,
    peers: Vec<Weak<FakeDaemon>>,
    registry: Option<RegistryHandler>,
    list_nodes: Option<ListHandler>,

    trust_checker: Option<Arc<dyn TrustChecker>>,
    handshake_service: Option<Arc<dyn HandshakeService>>,
    policy_manager: Option<Arc<dyn PolicyManager>>,
    webhook_manager: Option<Arc<dyn WebhookManager>>,

    events: Vec<Event>,
    logs: Vec<LogLine>,
    dials: Vec<(Addr, u16)>,
    datagrams: Vec<SentDatagram>,
    registry_calls: Vec<(String, Map<String, Value>)>,
    faults: Vec<(String, String)>,
    removed_peers: Vec<u32>,
    reply_windows: Vec<u32>,
    member_tags: HashMap<u16, Vec<String>>,
    next_port: u16,
}

impl FakeDaemon {
    /// A daemon with node id 1, no identity, and `state_dir` (give it a fresh temporary directory).
    pub fn new(state_dir: impl Into<PathBuf>) -> Arc<FakeDaemon> {
        let state = State {
            node_id: 1,
            identity: None,
            sign: None,
            identity_path: None,
            admin_token: String::new(),
            trust_auto_approve: false,
            config: Value::Object(Map::new()),
            state_dir: state_dir.into(),
            version: VersionInfo { version: "v0.0.0-test".into(), ..VersionInfo::default() },
            log_level: 5,
            dial: None,
            peers: Vec::new(),
            registry: None,
            list_nodes: None,
            trust_checker: None,
            handshake_service: None,
            policy_manager: None,
            webhook_manager: None,
            events: Vec::new(),
            logs: Vec::new(),
            dials: Vec::new(),
            datagrams: Vec::new(),
            registry_calls: Vec::new(),
            faults: Vec::new(),
            removed_peers: Vec::new(),
            reply_windows: Vec::new(),
            member_tags: HashMap::new(),
            next_port: 49_152,
        };
        Arc::new_cyclic(|me| FakeDaemon {
            me: me.clone(),
            state: Mutex::new(state),
            changed: Condvar::new(),
            subscribers: Subscribers::default(),
            ports: Arc::default(),
        })
    }

    // ---- settings

    /// What `node_id` and `addr` say; 0 is "not registered yet".
    pub fn set_node_id(&self, node: u32) {
        self.lock().node_id = node;
    }

    /// The identity: its public key and what signs with it.
    pub fn set_identity(&self, key: PublicKey, sign: impl Fn(&[u8]) -> Signature + Send + Sync + 'static) {
        let mut state = self.lock();
        state.identity = Some(key);
        state.sign = Some(Arc::new(sign));
    }

    /// Takes the identity away.
    pub fn clear_identity(&self) {
        let mut state = self.lock();
        state.identity = None;
        state.sign = None;
    }

    /// Where the identity file would be; plugins put their state beside it.
    pub fn set_identity_path(&self, path: Option<PathBuf>) {
        self.lock().identity_path = path;
    }

    /// The admin token.
    pub fn set_admin_token(&self, token: &str) {
        self.lock().admin_token = token.to_owned();
    }

    /// The auto-approve switch.
    pub fn set_trust_auto_approve(&self, on: bool) {
        self.lock().trust_auto_approve = on;
    }

    /// The plugin's configuration table.
    pub fn set_config(&self, config: Value) {
        self.lock().config = config;
    }

    /// What `version_info` says.
    pub fn set_version_info(&self, version: VersionInfo) {
        self.lock().version = version;
    }

    /// The highest level that `log_enabled` admits; 5 (trace) at first.
    pub fn set_log_level(&self, level: u8) {
        self.lock().log_level = level;
    }

    /// Answers dials that no peer of [`add_peer`](Self::add_peer) answers. Without it: `connection refused`.
    pub fn on_dial(&self, f: impl Fn(Addr, u16) -> Result<Arc<dyn Connection>> + Send + Sync + 'static) {
        self.lock().dial = Some(Arc::new(f));
    }

    /// Asked before each bind: an error is what the plugin gets, as where its capabilities leave the port out. May wait,
    /// as a busy host does.
    pub fn on_bind(&self, f: impl Fn(u16) -> Result<()> + Send + Sync + 'static) {
        self.ports.on_bind(f);
    }

    /// Dials to `peer`'s node id arrive at `peer`'s listeners from now on (one way; call it on both for both).
    pub fn add_peer(&self, peer: &Arc<FakeDaemon>) {
        self.lock().peers.push(Arc::downgrade(peer));
    }

    /// Answers registry calls. Without it: `registry connection not initialized`.
    pub fn on_registry_call(
        &self,
        f: impl Fn(&str, &Map<String, Value>) -> Result<Map<String, Value>> + Send + Sync + 'static,
    ) {
        self.lock().registry = Some(Arc::new(f));
    }

    /// Answers `list_nodes(network, token)`. Without it: a registry call of type `list_nodes`.
    pub fn on_list_nodes(&self, f: impl Fn(u16, &str) -> Result<Map<String, Value>> + Send + Sync + 'static) {
        self.lock().list_nodes = Some(Arc::new(f));
    }

    // ---- acting as the network

    /// Opens a stream to a port that the plugin has bound, as backbone node 2; the result is the remote's end.
    ///
    /// # Errors
    /// [`Refused`](ErrorKind::Refused) when nothing listens or the accept queue is full.
    pub fn connect(&self, port: u16) -> Result<Arc<dyn Connection>> {
        self.connect_from(Addr::backbone(2), port)
    }

    /// As [`connect`](Self::connect), from another address.
    pub fn connect_from(&self, from: Addr, port: u16) -> Result<Arc<dyn Connection>> {
        let remote_port = {
            let mut state = self.lock();
            state.next_port = state.next_port.checked_add(1).unwrap_or(49_152);
            state.next_port
        };
        let local = Addr { network: from.network, node: self.lock().node_id };
        let info = ConnectionInfo { local, local_port: port, remote: from, remote_port };
        let (ours, theirs) = stream_pair(info);
        self.ports.deliver(port, ours)?;
        Ok(theirs)
    }

    // ---- records

    /// Events published so far, in order.
    pub fn events(&self) -> Vec<Event> {
        self.lock().events.clone()
    }

    /// Waits for an event whose topic `pattern` selects, also one from before; `None` after [`PATIENCE`].
    pub fn wait_for_event(&self, pattern: &str) -> Option<Event> {
        self.wait_for(|s| s.events.iter().find(|e| topic_matches(pattern, &e.topic)).cloned())
    }

    /// Waits for the `n`-th event (from 1) that `pattern` selects.
    pub fn wait_for_nth_event(&self, pattern: &str, n: usize) -> Option<Event> {
        let skip = n.saturating_sub(1);
        self.wait_for(|s| s.events.iter().filter(|e| topic_matches(pattern, &e.topic)).nth(skip).cloned())
    }

    /// Lines logged so far.
    pub fn logs(&self) -> Vec<LogLine> {
        self.lock().logs.clone()
    }

    /// Waits for a line that contains `text`.
    pub fn wait_for_log(&self, text: &str) -> Option<LogLine> {
        self.wait_for(|s| s.logs.iter().find(|l| l.message.contains(text)).cloned())
    }

    /// Dials so far, also failed ones.
    pub fn dials(&self) -> Vec<(Addr, u16)> {
        self.lock().dials.clone()
    }

    /// Datagrams sent so far.
    pub fn datagrams(&self) -> Vec<SentDatagram> {
        self.lock().datagrams.clone()
    }

    /// Registry calls so far, type and members.
    pub fn registry_calls(&self) -> Vec<(String, Map<String, Value>)> {
        self.lock().registry_calls.clone()
    }

    /// Waits for a registry call of type `op`; the result is its members.
    pub fn wait_for_registry_call(&self, op: &str) -> Option<Map<String, Value>> {
        self.wait_for(|s| s.registry_calls.iter().find(|c| c.0 == op).map(|c| c.1.clone()))
    }

    /// Faults reported so far: operation and text.
    pub fn faults(&self) -> Vec<(String, String)> {
        self.lock().faults.clone()
    }

    /// Waits for a fault of operation `op`; the result is its text.
    pub fn wait_for_fault(&self, op: &str) -> Option<String> {
        self.wait_for(|s| s.faults.iter().find(|f| f.0 == op).map(|f| f.1.clone()))
    }

    /// Peers whose tunnel was removed.
    pub fn removed_peers(&self) -> Vec<u32> {
        self.lock().removed_peers.clone()
    }

    /// Peers whose reply window was opened.
    pub fn reply_windows(&self) -> Vec<u32> {
        self.lock().reply_windows.clone()
    }

    /// The member tags that a plugin set for `network`.
    pub fn member_tags(&self, network: u16) -> Option<Vec<String>> {
        self.lock().member_tags.get(&network).cloned()
    }

    /// Ports that are bound, ascending.
    pub fn bound_ports(&self) -> Vec<u16> {
        self.ports.bound()
    }

    /// Subscriptions that were not cancelled: 0 after a clean shutdown.
    pub fn subscriptions(&self) -> usize {
        self.subscribers.count()
    }

    /// Drops every service that a plugin registered, as the host does after its shutdown.
    pub fn forget_services(&self) {
        let former = self.record(|s| {
            (
                (s.trust_checker.take(), s.handshake_service.take()),
                (s.policy_manager.take(), s.webhook_manager.take()),
            )
        });
        drop(former);
    }

    /// The policy manager that a plugin registered.
    pub fn policy_manager(&self) -> Option<Arc<dyn PolicyManager>> {
        self.lock().policy_manager.clone()
    }

    /// The webhook manager that a plugin registered.
    pub fn webhook_manager(&self) -> Option<Arc<dyn WebhookManager>> {
        self.lock().webhook_manager.clone()
    }

    // ---- inside

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the records and wakes who waits for them. What `f` takes out is dropped by the caller, outside of the lock.
    fn record<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let replaced = f(&mut self.lock());
        self.changed.notify_all();
        replaced
    }

    fn wait_for<T>(&self, look: impl Fn(&State) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.lock();
        loop {
            if let Some(found) = look(&state) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn publish_event(&self, topic: &str, payload: Option<Map<String, Value>>) {
        let event =
            Event { topic: topic.to_owned(), node_id: self.lock().node_id, time: SystemTime::now(), payload };
        // Subscribers first: a test that saw the record may rely on the delivery.
        self.subscribers.deliver(&event);
        self.record(|s| s.events.push(event));
    }

    fn dial_now(&self, addr: Addr, port: u16) -> Result<Arc<dyn Connection>> {
        self.record(|s| s.dials.push((addr, port)));
        let (peers, handler, me) = {
            let state = self.lock();
            (state.peers.clone(), state.dial.clone(), Addr { network: addr.network, node: state.node_id })
        };
        let peer = peers.iter().filter_map(Weak::upgrade).find(|p| p.node_id() == addr.node);
        match (peer, handler) {
            (Some(peer), _) => peer.connect_from(me, port),
            (None, Some(handler)) => handler(addr, port),
            (None, None) => Err(Error::new(ErrorKind::Refused, "connection refused")),
        }
    }
}
