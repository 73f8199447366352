//! What one running host is made of, shared by its plugins' handles, the local socket and the background tasks.
//! Holds state and the operations that need several parts at once; starts nothing by itself (`run` does).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pilot_engine::identity::Identity;
use pilot_net::bus::Bus;
use pilot_net::compat::{Client, Credentials};
use pilot_net::identity_file;
use pilot_net::node::{DialError, Node, Stream};
use pilot_net::registry_client::RegistryClient;
use pilot_wire::addr::Addr;
use plugin_abi::{Direction, PolicyEvent, PolicyManager, PortGate};
use serde_json::{Map, Value};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::config::Config;
use crate::face::Plugins;
use crate::history::History;
use crate::services::{Decider, Services};

/// Longest a dial may take before the caller is told (stream.md section 8: 17.25 s of SYNs plus the key wait).
pub const DIAL_LIMIT: Duration = Duration::from_secs(28);

/// Wake-ups for the membership task, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nudge {
    /// An own handshake request went out to this node: watch the inbox closely for a while.
    OwnRequest(u32),
    /// A local client is about to look at trust: poll the inbox now unless that just happened.
    ClientLooks,
    /// A local client waits for this node's trust: poll only if an own request to it is young.
    ClientWaits(u32),
}

/// One host.
pub struct Core {
    /// The configuration that the host started with; see [`Core::current`] for what a reload may change.
    pub config: Config,
    current: RwLock<Arc<Config>>,
    /// Streams and datagrams.
    pub node: Node,
    /// The transport, when it is not UDP.
    pub compat: Option<Client>,
    /// Services that plugins provide.
    pub services: Services,
    /// The runtime that host tasks and plugin futures run on.
    pub runtime: Handle,
    /// Cancelled when the host is asked to stop.
    pub stop: CancellationToken,
    /// When the host started.
    pub started: Instant,
    /// To the membership task.
    pub nudges: mpsc::Sender<(Nudge, tokio::sync::oneshot::Sender<()>)>,
    /// Recent events, for local clients.
    pub history: Arc<History>,
    identity: RwLock<Option<Arc<Identity>>>,
    /// Held while the key is being replaced.
    rotation: tokio::sync::Mutex<()>,
    registry: RwLock<Option<Arc<RegistryClient>>>,
    node_id: AtomicU32,
    public: AtomicBool,
    hostname: RwLock<String>,
    endpoint: RwLock<String>,
    networks: RwLock<BTreeSet<u16>>,
    networks_asked: Mutex<Option<Instant>>,
    member_tags: RwLock<HashMap<u16, Vec<String>>>,
    peers: RwLock<HashMap<u32, PeerFacts>>,
    handshakes_in_flight: Mutex<HashSet<u32>>,
    failure: Mutex<Option<String>>,
    /// What the host keeps for each plugin: rules, log lines, counts, and what its instance holds.
    pub plugins: Plugins,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("node_id", &self.node_id()).finish_non_exhaustive()
    }
}

/// What the registry said about a peer last.
#[derive(Clone, Debug, Default)]
struct PeerFacts {
    key: String,
    tags: Vec<String>,
}

/// How long the registry's word on this node's networks is believed while somebody looks.
const NETWORKS_LIFE: Duration = Duration::from_secs(10);
/// Peers whose registry facts are remembered; beyond it the table starts anew.
const PEER_FACTS: usize = 16_384;

impl Core {
    /// A host that is not registered yet.
    pub fn new(
        config: Config,
        node: Node,
        identity: Arc<Identity>,
        stop: CancellationToken,
        nudges: mpsc::Sender<(Nudge, tokio::sync::oneshot::Sender<()>)>,
    ) -> Self {
        let plugins = Plugins::new(&config);
        let public = config.node.public;
        let hostname = config.node.hostname.clone();
        Core {
            current: RwLock::new(Arc::new(config.clone())),
            config,
            node,
            compat: None,
            services: Services::default(),
            runtime: Handle::current(),
            stop,
            started: Instant::now(),
            nudges,
            history: Arc::default(),
            identity: RwLock::new(Some(identity)),
            rotation: tokio::sync::Mutex::default(),
            registry: RwLock::new(None),
            node_id: AtomicU32::new(0),
            public: AtomicBool::new(public),
            hostname: RwLock::new(hostname),
            endpoint: RwLock::new(String::new()),
            networks: RwLock::default(),
            networks_asked: Mutex::default(),
            member_tags: RwLock::default(),
            peers: RwLock::default(),
            handshakes_in_flight: Mutex::default(),
            failure: Mutex::default(),
            plugins,
        }
    }

    /// The same host over the compat transport, if there is one.
    #[must_use]
    pub fn over(self, compat: Option<Client>) -> Self {
        Self { compat, ..self }
    }

    /// How datagrams travel, by its name in `info` (ipc.md section 8).
    pub fn transport(&self) -> &'static str {
        if self.compat.is_some() { "compat" } else { "udp" }
    }

    /// Makes the first compat connection; nothing over UDP, or when there was one already.
    ///
    /// # Errors
    /// The start failure's text (wss.md section 6).
    pub async fn connect_compat(self: &Arc<Self>) -> Result<(), String> {
        let Some(compat) = &self.compat else { return Ok(()) };
        let core = Arc::downgrade(self);
        let who = move || {
            let core = core.upgrade()?;
            let node = Some(core.node_id()).filter(|n| *n != 0)?;
            Some(Credentials { node, identity: core.identity()? })
        };
        compat.connect(who).await.map_err(|e| format!("compat connect: compat dial: {e}"))
    }

    /// The host cannot go on: it stops in order, and its program fails with this reason.
    pub fn fail(&self, why: String) {
        if self.stop.is_cancelled() {
            return; // it stops already; what breaks on the way is no reason
        }
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
        self.stop.cancel();
    }

    /// Why it could not go on.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The configuration as it was read last.
    pub fn current(&self) -> Arc<Config> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A reload read a new one.
    pub fn set_current(&self, config: Config) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }

    /// This node's id, 0 before registration.
    pub fn node_id(&self) -> u32 {
        self.node_id.load(Ordering::Acquire)
    }

    /// This node's backbone address, zero before registration.
    pub fn addr(&self) -> Addr {
        Addr { network: 0, node: self.node_id() }
    }

    /// Whether strangers may connect.
    pub fn is_public(&self) -> bool {
        self.public.load(Ordering::Acquire)
    }

    /// The registered name, or empty.
    pub fn hostname(&self) -> String {
        self.hostname.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes a new name.
    pub fn set_hostname(&self, name: &str) {
        *self.hostname.write().unwrap_or_else(PoisonError::into_inner) = name.to_owned();
    }

    /// The address the registry knows for us, as text; empty before registration.
    pub fn endpoint(&self) -> String {
        self.endpoint.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Registration succeeded: engine, bus and everybody who asks learn the node id.
    pub async fn registered(&self, node_id: u32, endpoint: &str) {
        let before = self.node_id.swap(node_id, Ordering::AcqRel);
        if let Some(compat) = self.compat.as_ref().filter(|_| before != 0 && before != node_id) {
            compat.renew(); // the connection belongs to the other number
        }
        *self.endpoint.write().unwrap_or_else(PoisonError::into_inner) = endpoint.to_owned();
        self.node.bus().set_node_id(node_id);
        let public = self.is_public();
        self.node.configure(move |engine, _| engine.set_node(node_id, public, &[])).await;
    }

    /// Visibility changed at the registry.
    pub async fn set_public(&self, public: bool) {
        self.public.store(public, Ordering::Release);
        let node_id = self.node_id();
        self.node.configure(move |engine, _| engine.set_node(node_id, public, &[])).await;
    }

    /// The identity.
    pub fn identity(&self) -> Option<Arc<Identity>> {
        self.identity.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the key pair: the new key is on disk before the registry learns of it, and in use only once the registry
    /// has taken it (ipc.md section 13, "rotate key"). Gives the registry's answer.
    ///
    /// # Errors
    /// `registry connection not initialized`, the registry's refusal, or what the file system said; the old key then
    /// stays. When nobody can say whether the registry took the new key, both are kept and the error names the file.
    pub async fn rotate_key(&self) -> Result<Map<String, Value>, String> {
        let _one_at_a_time = self.rotation.lock().await;
        let registry = self.registry().ok_or("registry connection not initialized")?;
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|e| format!("no randomness: {e}"))?;
        let fresh = Arc::new(Identity::generate(seed));
        let path = &self.config.node.identity;
        let mut next = path.clone().into_os_string();
        next.push(".next");
        let next = std::path::PathBuf::from(next);
        identity_file::save(&next, &fresh).map_err(|e| format!("cannot write {}: {e}", next.display()))?;
        let key = STANDARD.encode(fresh.public_key());
        let params = Map::from_iter([("new_public_key".to_owned(), Value::from(key.as_str()))]);
        let mut answer = match registry.call_signed("rotate_key", params).await {
            Ok(answer) => answer,
            Err(e) if e.is_transport() => {
                return Err(format!(
                    "{e}; whether the registry took the new key is unknown, it is kept in {}",
                    next.display()
                ));
            }
            Err(e) => {
                let _ = std::fs::remove_file(&next);
                return Err(e.to_string());
            }
        };
        *self.identity.write().unwrap_or_else(PoisonError::into_inner) = Some(fresh.clone());
        self.node.configure(move |engine, _| engine.set_identity(fresh)).await;
        std::fs::rename(&next, path).map_err(|e| {
            format!("the key is new, but {} could not be moved to {}: {e}", next.display(), path.display())
        })?;
        tracing::info!(public_key = key, "key rotated");
        answer.entry("public_key").or_insert_with(|| key.into());
        Ok(answer)
    }

    /// The registry connection, or none before it is set up.
    pub fn registry(&self) -> Option<Arc<RegistryClient>> {
        self.registry.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Installs the registry connection.
    pub fn set_registry(&self, client: Arc<RegistryClient>) {
        *self.registry.write().unwrap_or_else(PoisonError::into_inner) = Some(client);
    }

    /// The event bus.
    pub fn bus(&self) -> &Bus {
        self.node.bus()
    }

    /// The networks this node is a member of, ascending, as far as the registry has told; the backbone (0) is one.
    pub fn networks(&self) -> Vec<u16> {
        let networks = self.networks.read().unwrap_or_else(PoisonError::into_inner);
        std::iter::once(0).chain(networks.iter().copied().filter(|n| *n != 0)).collect()
    }

    /// Notes a membership that began or ended.
    pub fn note_network(&self, network: u16, member: bool) {
        let mut networks = self.networks.write().unwrap_or_else(PoisonError::into_inner);
        if member {
            networks.insert(network)
        } else {
            networks.remove(&network)
        };
    }

    /// Asks the registry which networks this node is in.
    pub async fn learn_networks(&self) {
        let Some(registry) = self.registry() else { return };
        *self.networks_asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        let networks = match registry.lookup(self.node_id()).await {
            Ok(found) => found.networks.into_iter().collect(),
            Err(e) if e.is_transport() => return,
            // It does not know this node: a member of nothing.
            Err(_) => BTreeSet::new(),
        };
        *self.networks.write().unwrap_or_else(PoisonError::into_inner) = networks;
    }

    /// Somebody looks at the memberships: administrators may have changed them, so the registry is asked for the next look.
    /// Nobody waits for it, and a node that nobody looks at asks nothing.
    pub fn refresh_networks(self: &Arc<Self>) {
        let asked = *self.networks_asked.lock().unwrap_or_else(PoisonError::into_inner);
        if self.node_id() != 0 && asked.is_none_or(|at| at.elapsed() >= NETWORKS_LIFE) {
            let core = Arc::clone(self);
            self.runtime.spawn(async move { core.learn_networks().await });
        }
    }

    /// Replaces the cached tags of this node in `network` (plugin-contract.md section 2, `SetMemberTags`).
    pub fn set_member_tags(&self, network: u16, tags: Vec<String>) {
        self.member_tags.write().unwrap_or_else(PoisonError::into_inner).insert(network, tags);
    }

    /// Remembers what the registry said about a peer: its key (base64) and tags, for the trust and port gates.
    pub fn note_peer(&self, node: u32, key: &str, tags: Vec<String>) {
        let mut table = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        if table.len() >= PEER_FACTS && !table.contains_key(&node) {
            table.clear();
        }
        table.insert(node, PeerFacts { key: key.to_owned(), tags });
    }

    /// The peer's registered key, base64; empty when unknown.
    pub fn peer_key_text(&self, node: u32) -> String {
        let table = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        table.get(&node).map(|p| p.key.clone()).unwrap_or_default()
    }

    fn peer_tags(&self, node: u32) -> Vec<String> {
        let table = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        table.get(&node).map(|p| p.tags.clone()).unwrap_or_default()
    }

    /// Runs a future to its end from a plain thread. Works on runtime threads as well, where `block_on` would panic.
    pub fn wait<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let (tx, rx) = std::sync::mpsc::sync_channel(1);
        let work = async move {
            let _ = tx.send(future.await);
        };
        self.runtime.spawn(work.in_current_span());
        rx.recv().ok()
    }

    /// The policies' word on a port (plugin-contract.md section 7, "Engine rule"): the runner of `network`, and every
    /// other runner whose table has the peer; any "no" is a no, and all are asked. Free when no policy manager is there.
    /// Waits while the policy plugin is being reloaded, and asks its successor.
    pub async fn port_allowed(
        self: &Arc<Self>,
        event: PolicyEvent,
        network: u16,
        peer: u32,
        port: u16,
        size: u32,
        direction: Direction,
    ) -> bool {
        // More than one replacement during one question is not worth waiting for.
        for _ in 0..3 {
            let manager = match self.services.policy.decide().await {
                Decider::Nobody => return true,
                Decider::Refuse => return false,
                Decider::Ask(manager) => manager,
            };
            let gate = PortGate {
                event,
                port,
                peer,
                payload_size: size,
                direction,
                local_tags: Vec::new(),
                node_info_tags: Vec::new(),
            };
            let (core, asked) = (self.clone(), manager.clone());
            let task = tokio::task::spawn_blocking(move || core.ask_policies(asked.as_ref(), network, gate));
            // A gate that cannot answer denies.
            if !task.await.unwrap_or(false) {
                return false;
            }
            // A manager that was being shut down meanwhile had fewer and fewer runners: its "yes" does not count.
            if self.services.policy.get().is_some_and(|now| Arc::ptr_eq(&now, &manager)) {
                return true;
            }
        }
        false
    }

    fn ask_policies(&self, manager: &dyn PolicyManager, network: u16, gate: PortGate) -> bool {
        let node_info_tags = self.peer_tags(gate.peer);
        let mut allowed = true;
        for runner in manager.all() {
            let id = runner.network_id();
            if id != network && !runner.has_member(gate.peer) {
                continue;
            }
            let local_tags = self
                .member_tags
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .get(&id)
                .cloned()
                .unwrap_or_default();
            let node_info_tags = node_info_tags.clone();
            allowed &= runner.evaluate_port_gate(&PortGate { local_tags, node_info_tags, ..gate.clone() });
        }
        allowed
    }

    /// Opens a stream: outbound policy first, then the engine.
    ///
    /// # Errors
    /// The texts of stream.md section 8.
    pub async fn dial(self: &Arc<Self>, to: Addr, port: u16) -> Result<Stream, DialError> {
        if !self.port_allowed(PolicyEvent::Dial, to.network, to.node, port, 0, Direction::Out).await {
            return Err(DialError(format!("port {port} not allowed by network {} policy", to.network)));
        }
        match tokio::time::timeout(DIAL_LIMIT, self.node.dial(to, port)).await {
            Ok(result) => result,
            Err(_) => Err(DialError("dial timeout".into())),
        }
    }

    /// Sends a datagram: outbound policy first, then the engine.
    ///
    /// # Errors
    /// A text for people (plugin-contract.md section 2, `SendDatagram`).
    pub async fn send_datagram(
        self: &Arc<Self>,
        to: Addr,
        port: u16,
        data: bytes::Bytes,
    ) -> Result<(), String> {
        if to.node == u32::MAX {
            return Err("broadcast address requires admin token: use BroadcastDatagram".into());
        }
        let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
        if !self.port_allowed(PolicyEvent::Datagram, to.network, to.node, port, size, Direction::Out).await {
            let mut payload = Map::new();
            payload.insert("direction".into(), "out".into());
            payload.insert("dst_node_id".into(), to.node.into());
            payload.insert("dst_port".into(), port.into());
            payload.insert("network".into(), to.network.into());
            self.bus().publish("datagram.port_rejected", Some(payload));
            return Err(format!("port {port} not allowed by network {} policy", to.network));
        }
        self.node.send_datagram(to, port, data).await.map_err(|e| e.to_string())
    }

    /// One signed registry operation as this node.
    ///
    /// # Errors
    /// `registry connection not initialized`, or the client's error.
    pub async fn registry_call(
        &self,
        op: &str,
        params: Map<String, Value>,
    ) -> Result<Map<String, Value>, String> {
        let registry = self.registry().ok_or("registry connection not initialized")?;
        registry.call_signed(op, params).await.map_err(|e| e.to_string())
    }

    /// Asks `node` for trust through the handshake service, one request at a time per peer. `Ok(false)`: one already
    /// runs. Blocks.
    ///
    /// # Errors
    /// `handshake service not registered`, else the service's error.
    pub fn handshake_request(&self, node: u32, reason: &str) -> Result<bool, plugin_abi::Error> {
        let service = self.services.handshake.get().ok_or_else(no_handshake)?;
        let lock = || self.handshakes_in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        if !lock().insert(node) {
            return Ok(false);
        }
        let result = service.send_request(node, reason);
        lock().remove(&node);
        result?;
        if !service.is_trusted(node) {
            let (tx, _) = tokio::sync::oneshot::channel();
            // A full queue only delays the answer to the next regular poll.
            let _ = self.nudges.try_send((Nudge::OwnRequest(node), tx));
        }
        Ok(true)
    }

    /// Has the registry's inbox polled if the schedule allows it, and waits for that at most 3 s (handshake.md
    /// section 5, "Poll schedule").
    pub async fn poll_inbox(&self, why: Nudge) {
        let (tx, rx) = tokio::sync::oneshot::channel();
        if self.nudges.try_send((why, tx)).is_ok() {
            let _ = tokio::time::timeout(Duration::from_secs(3), rx).await;
        }
    }
}

/// The contract's error when no handshake plugin is loaded.
pub fn no_handshake() -> plugin_abi::Error {
    plugin_abi::Error::other("handshake service not registered")
}
