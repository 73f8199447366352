//! The registry's client: requests over a small pool of long-lived TCP connections, signed where the protocol asks for it.
//!
//! Called by the daemon's membership task, the admission of peers, and plugins through the host. Each connection carries
//! one request at a time; each reconnects on its own (registry.md section 5):
//!
//! * a transport failure (no answer at all) reconnects up to five times, waiting 0.5 s, doubling to at most 10 s, and
//!   sends the request once more; an answer that is an error never reconnects;
//! * 5 s to dial, 5 s to write, 30 s for a whole answer.
//!
//! With standbys configured, a registry that cannot be reached is passed over for the next one at once, and asked again
//! after ten seconds. A standby answers what only reads; what it refuses counts as not delivered.
//!
//! A call that is dropped half way costs its connection and nothing else; but a dropped `poll_handshakes` loses what the
//! registry has already taken out of the inbox, so let those run to their end.
//!
//! Keeps no state about the node but its number. When to register, poll and report is the membership machine's business.

#[cfg(test)]
mod client_vectors;
mod connection;
mod error;
mod replies;
mod servers;
mod signing;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pilot_wire::registry::{MessageError, challenge, encode_message};
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::compat::Proxy;
use crate::tls::ClientTls;
use connection::Connection;
pub use error::{ReconnectError, RegistryError, TransportError};
pub use replies::{
    HandshakeInbox, Heartbeat, NodeInfo, Registered, Registration, RelayedRequest, RelayedResponse, Resolved,
};
use servers::Servers;

/// Makes an Ed25519 signature over the bytes it is given; `None` when there is no identity to sign with.
pub type Signer = Arc<dyn Fn(&[u8]) -> Option<[u8; 64]> + Send + Sync>;

const RECONNECT_ATTEMPTS: u32 = 5;
const RECONNECT_FIRST: Duration = Duration::from_millis(500);
const RECONNECT_MAX: Duration = Duration::from_secs(10);
/// Connections when nothing else is asked for: one for slow answers, one for everything else.
const CONNECTIONS: usize = 2;

/// A client of one registry. Cheap to share by reference or in an `Arc`; all methods take `&self`.
pub struct RegistryClient {
    servers: Servers,
    has_standbys: bool,
    tls: Option<ClientTls>,
    proxy: Option<Proxy>,
    signer: Option<Signer>,
    node: AtomicU32,
    slots: Semaphore,
    /// How many connections are kept open between requests, at most.
    kept: usize,
    /// Connections and the registries they lead to.
    idle: Mutex<Vec<(usize, Connection)>>,
    closed: CancellationToken,
}

impl fmt::Debug for RegistryClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryClient")
            .field("addr", &self.addr())
            .field("node", &self.node())
            .finish_non_exhaustive()
    }
}

impl RegistryClient {
    /// A client of the registry at `addr` (`host:port`, looked up at each dial). Nothing is dialled before the first
    /// request.
    pub fn new(
        addr: impl Into<String>,
        signer: impl Fn(&[u8]) -> Option<[u8; 64]> + Send + Sync + 'static,
    ) -> Self {
        Self::with(addr.into(), Some(Arc::new(signer)), CONNECTIONS)
    }

    /// A client without a key; it can only do what needs no signature.
    pub fn unsigned(addr: impl Into<String>) -> Self {
        Self::with(addr.into(), None, CONNECTIONS)
    }

    /// The same client with at most this many connections (at least one). To be called before the first request.
    #[must_use]
    pub fn connections(self, count: usize) -> Self {
        Self { slots: Semaphore::new(count.max(1)), kept: count.max(1), ..self }
    }

    /// The same client over TLS, in the clear with `None`. To be called before the first request.
    #[must_use]
    pub fn tls(self, tls: Option<ClientTls>) -> Self {
        Self { tls, ..self }
    }

    /// The same client through an HTTP proxy, which looks the registry's name up. To be called before the first request.
    #[must_use]
    pub fn proxy(self, proxy: Option<Proxy>) -> Self {
        Self { proxy, ..self }
    }

    /// The same client with further registries, which are asked when the first one cannot be reached. To be called before
    /// the first request.
    #[must_use]
    pub fn standbys(self, addrs: impl IntoIterator<Item = String>) -> Self {
        let addrs: Vec<String> = std::iter::once(self.addr().to_owned()).chain(addrs).collect();
        Self { has_standbys: addrs.len() > 1, servers: Servers::new(addrs), ..self }
    }

    fn with(addr: String, signer: Option<Signer>, connections: usize) -> Self {
        Self {
            servers: Servers::new(vec![addr]),
            has_standbys: false,
            tls: None,
            proxy: None,
            signer,
            node: AtomicU32::new(0),
            slots: Semaphore::new(connections),
            kept: connections,
            idle: Mutex::default(),
            closed: CancellationToken::new(),
        }
    }

    /// The registry's address as configured.
    pub fn addr(&self) -> &str {
        self.servers.addr(0)
    }

    /// Our node number; 0 before a registration succeeded.
    pub fn node(&self) -> u32 {
        self.node.load(Ordering::Acquire)
    }

    /// Sets our node number. [`register`](Self::register) does so itself.
    pub fn set_node(&self, node: u32) {
        self.node.store(node, Ordering::Release);
    }

    /// Closes all connections; requests that run or come later end with [`RegistryError::Closed`].
    pub fn close(&self) {
        self.closed.cancel();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// One request as it is: `params` and the operation's name, nothing added.
    ///
    /// # Errors
    /// [`RegistryError`]; [`is_transport`](RegistryError::is_transport) tells the registry's refusals from failures to
    /// reach it.
    pub async fn call(
        &self,
        op: &str,
        mut params: Map<String, Value>,
    ) -> Result<Map<String, Value>, RegistryError> {
        params.insert("type".into(), op.into());
        let mut message = Vec::new();
        encode_message(&params, &mut message).map_err(|e| match e {
            MessageError::TooLarge { len } => RegistryError::TooLarge { len },
            other => RegistryError::Malformed { what: other.to_string() },
        })?;
        tokio::select! {
            biased;
            () = self.closed.cancelled() => Err(RegistryError::Closed),
            answer = self.exchange(&message) => check(answer?),
        }
    }

    /// One request as this node: adds our node number and, where the protocol asks for one, our signature. Operations
    /// that are not signed go out as they are.
    ///
    /// # Errors
    /// As [`call`](Self::call); [`RegistryError::NoSigner`] and [`RegistryError::EmptySignature`] before anything is
    /// sent.
    pub async fn call_signed(
        &self,
        op: &str,
        mut params: Map<String, Value>,
    ) -> Result<Map<String, Value>, RegistryError> {
        let own = self.node();
        if let Some(signing) = signing::signing(op, own, &params) {
            params.insert(signing.sender.into(), own.into());
            if let Some(challenge) = signing.challenge {
                let admin = signing.admin_instead && params.contains_key("admin_token");
                match self.sign(&challenge) {
                    Ok(signature) => {
                        params.insert("signature".into(), signature.into());
                        // A secret that is not needed stays here (registry.md section 3.3).
                        if admin {
                            params.remove("admin_token");
                        }
                    }
                    Err(RegistryError::NoSigner) if admin => {}
                    Err(e) => return Err(e),
                }
            }
        }
        self.call(op, params).await
    }

    fn sign(&self, challenge: &str) -> Result<String, RegistryError> {
        let signer = self.signer.as_ref().ok_or(RegistryError::NoSigner)?;
        let signature = signer(challenge.as_bytes());
        let signature =
            signature.ok_or_else(|| RegistryError::EmptySignature { challenge: challenge.to_owned() })?;
        Ok(STANDARD.encode(signature))
    }

    async fn exchange(&self, message: &[u8]) -> Result<Map<String, Value>, RegistryError> {
        match self.attempt(message, true).await {
            Ok(answer) => Ok(answer),
            Err(_) => self.reconnect(message).await,
        }
    }

    /// Sends a message to the first registry that can be reached and takes it; over an open connection, if wanted and
    /// there is one.
    async fn attempt(&self, message: &[u8], reuse: bool) -> Result<Map<String, Value>, Missed> {
        // The semaphore is never closed.
        let _slot = self.slots.acquire().await.map_err(|_| Missed::Closed)?;
        if reuse && let Some((server, connection)) = self.take_idle() {
            match connection.exchange(message).await {
                Ok((connection, answer)) => {
                    self.give_back(server, connection);
                    if !is_standby(&answer) {
                        return Ok(answer);
                    }
                }
                // Perhaps only this connection was lost, so the registry gets a moment before it is dialled again.
                Err(e) if !self.has_standbys => return Err(Missed::Exchange(e)),
                Err(_) => {}
            }
        }
        let mut missed = Missed::Dial(io::ErrorKind::NotConnected.into());
        for server in self.servers.order() {
            let addr = self.servers.addr(server);
            let dialled = Connection::dial(addr, self.tls.as_ref(), self.proxy.as_ref()).await;
            missed = match dialled {
                Err(e) => {
                    self.servers.note(server, false);
                    Missed::Dial(e)
                }
                Ok(connection) => match connection.exchange(message).await {
                    Err(e) => {
                        self.servers.note(server, false);
                        Missed::Exchange(e)
                    }
                    Ok((connection, answer)) => {
                        self.servers.note(server, true);
                        self.give_back(server, connection);
                        if !is_standby(&answer) {
                            return Ok(answer);
                        }
                        Missed::Dial(io::Error::other("only a standby answers, and it takes no changes"))
                    }
                },
            };
        }
        Err(missed)
    }

    /// Tries again for a while. No place among the connections is held while waiting, so other requests go on.
    async fn reconnect(&self, message: &[u8]) -> Result<Map<String, Value>, RegistryError> {
        let mut wait = RECONNECT_FIRST;
        let mut cause = io::Error::from(io::ErrorKind::NotConnected);
        for _ in 0..RECONNECT_ATTEMPTS {
            tokio::time::sleep(wait).await;
            wait = (2 * wait).min(RECONNECT_MAX);
            match self.attempt(message, false).await {
                Ok(answer) => return Ok(answer),
                // Another certificate than the pinned one: waiting does not change it.
                Err(Missed::Dial(e)) if e.kind() == io::ErrorKind::InvalidData => {
                    return Err(ReconnectError { attempts: RECONNECT_ATTEMPTS, cause: e }.into());
                }
                Err(Missed::Dial(e)) => cause = e,
                // It was sent once more, which is enough.
                Err(Missed::Exchange(e)) => return Err(e.into()),
                Err(Missed::Closed) => return Err(RegistryError::Closed),
            }
        }
        Err(ReconnectError { attempts: RECONNECT_ATTEMPTS, cause }.into())
    }

    /// An open connection to the registry that should be asked. Those to others are of no more use.
    fn take_idle(&self) -> Option<(usize, Connection)> {
        let preferred = self.servers.preferred();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((server, connection)) = idle.pop() {
            if server == preferred && connection.is_idle() {
                return Some((server, connection));
            }
        }
        None
    }

    fn give_back(&self, server: usize, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // Checked under the lock that `close` takes after cancelling, so no connection outlives it.
        if !self.closed.is_cancelled() {
            // More come together only while requests go from one registry to the next.
            if idle.len() >= self.kept {
                idle.remove(0);
            }
            idle.push((server, connection));
        }
    }
}

/// Why no registry took a message.
enum Missed {
    Dial(io::Error),
    Exchange(TransportError),
    Closed,
}

/// Whether a registry refused because it only follows another one. Ours say so; the text for it is hidden.
fn is_standby(answer: &Map<String, Value>) -> bool {
    answer.get("standby").is_some_and(|flag| flag == true)
}

/// The common operations, typed. All of them fail as [`call`](RegistryClient::call) and
/// [`call_signed`](RegistryClient::call_signed) do.
impl RegistryClient {
    /// Registers, signed when we can, and remembers our node number.
    ///
    /// # Errors
    /// As [`call`](Self::call); [`RegistryError::Incomplete`] when the answer lacks number or address.
    pub async fn register(&self, what: &Registration) -> Result<Registered, RegistryError> {
        let mut params = Map::new();
        params.insert("listen_addr".into(), what.listen_addr.as_str().into());
        params.insert("public_key".into(), what.public_key.as_str().into());
        let texts = [("owner", &what.owner), ("hostname", &what.hostname), ("version", &what.version)];
        for (key, value) in texts.into_iter().filter(|(_, value)| !value.is_empty()) {
            params.insert(key.into(), value.as_str().into());
        }
        if !what.lan_addrs.is_empty() {
            params.insert("lan_addrs".into(), what.lan_addrs.clone().into());
        }
        if what.relay_only {
            params.insert("relay_only".into(), true.into());
        }
        if self.signer.is_some() {
            let signature = self.sign(&challenge::register(&what.listen_addr, &what.public_key))?;
            params.insert("signature".into(), signature.into());
        }
        let registered = Registered::read(&self.call("register", params).await?)?;
        self.set_node(registered.node_id);
        Ok(registered)
    }

    /// A sign of life.
    ///
    /// # Errors
    /// As [`call_signed`](Self::call_signed).
    pub async fn heartbeat(&self) -> Result<Heartbeat, RegistryError> {
        Ok(Heartbeat::read(&self.call_signed("heartbeat", Map::new()).await?))
    }

    /// Where a node is, if we may know.
    ///
    /// # Errors
    /// As [`call_signed`](Self::call_signed).
    pub async fn resolve(&self, node: u32) -> Result<Resolved, RegistryError> {
        Ok(Resolved::read(&self.call_signed("resolve", object(json!({"node_id": node}))).await?))
    }

    /// What everyone may know about a node.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn lookup(&self, node: u32) -> Result<NodeInfo, RegistryError> {
        Ok(NodeInfo::read(&self.call("lookup", object(json!({"node_id": node}))).await?))
    }

    /// Empties our handshake inbox and gives what was in it. Never abandon this half way.
    ///
    /// # Errors
    /// As [`call_signed`](Self::call_signed).
    pub async fn poll_handshakes(&self) -> Result<HandshakeInbox, RegistryError> {
        Ok(HandshakeInbox::read(&self.call_signed("poll_handshakes", Map::new()).await?))
    }

    /// Leaves a handshake request in another node's inbox.
    ///
    /// # Errors
    /// As [`call_signed`](Self::call_signed).
    pub async fn request_handshake(&self, to: u32, justification: &str) -> Result<(), RegistryError> {
        let params = json!({"to_node_id": to, "justification": justification});
        self.call_signed("request_handshake", object(params)).await.map(drop)
    }

    /// Answers a relayed handshake request.
    ///
    /// # Errors
    /// As [`call_signed`](Self::call_signed).
    pub async fn respond_handshake(&self, peer: u32, accept: bool) -> Result<(), RegistryError> {
        self.call_signed("respond_handshake", object(json!({"peer_id": peer, "accept": accept})))
            .await
            .map(drop)
    }

    /// Makes a trust pair with another node.
    ///
    /// # Errors
    /// As [`call_signed`](Self::call_signed).
    pub async fn report_trust(&self, peer: u32) -> Result<(), RegistryError> {
        self.call_signed("report_trust", object(json!({"peer_id": peer}))).await.map(drop)
    }

    /// Ends a trust pair with another node.
    ///
    /// # Errors
    /// As [`call_signed`](Self::call_signed).
    pub async fn revoke_trust(&self, peer: u32) -> Result<(), RegistryError> {
        self.call_signed("revoke_trust", object(json!({"peer_id": peer}))).await.map(drop)
    }

    /// Whether two nodes form a trust pair or share a network.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn check_trust(&self, node: u32, peer: u32) -> Result<bool, RegistryError> {
        let answer = self.call("check_trust", object(json!({"node_id": node, "peer_id": peer}))).await?;
        Ok(replies::flag(&answer, "trusted"))
    }

    /// Whether everyone may resolve us.
    ///
    /// # Errors
    /// As [`call_signed`](Self::call_signed).
    pub async fn set_visibility(&self, public: bool) -> Result<(), RegistryError> {
        self.call_signed("set_visibility", object(json!({"public": public}))).await.map(drop)
    }

    /// Takes a hostname, or gives ours up with "". Returns the name the registry now has for us.
    ///
    /// # Errors
    /// As [`call_signed`](Self::call_signed).
    pub async fn set_hostname(&self, hostname: &str) -> Result<String, RegistryError> {
        let answer = self.call_signed("set_hostname", object(json!({"hostname": hostname}))).await?;
        Ok(replies::text(&answer, "hostname"))
    }

    /// The node number behind a hostname, asked for as ourselves.
    ///
    /// # Errors
    /// As [`call`](Self::call); [`RegistryError::Incomplete`] when the answer has no number.
    pub async fn resolve_hostname(&self, hostname: &str) -> Result<NodeInfo, RegistryError> {
        let mut params = json!({"hostname": hostname});
        if self.node() != 0 {
            params["requester_id"] = self.node().into();
        }
        let found = NodeInfo::read(&self.call("resolve_hostname", object(params)).await?);
        if found.node_id == 0 {
            return Err(RegistryError::Incomplete { op: "resolve_hostname", what: "node_id" });
        }
        Ok(found)
    }

    /// The members of a network, as the registry lists them.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn list_nodes(&self, network: u16) -> Result<Vec<Map<String, Value>>, RegistryError> {
        let answer = self.call("list_nodes", object(json!({"network_id": network}))).await?;
        Ok(replies::objects(&answer, "nodes"))
    }

    /// All networks, as the registry lists them.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn list_networks(&self) -> Result<Vec<Map<String, Value>>, RegistryError> {
        Ok(replies::objects(&self.call("list_networks", Map::new()).await?, "networks"))
    }

    /// Joins a network; `token` is "" unless the network asks for one. Gives the whole answer (address, rules, policy).
    ///
    /// # Errors
    /// As [`call_signed`](Self::call_signed).
    pub async fn join_network(&self, network: u16, token: &str) -> Result<Map<String, Value>, RegistryError> {
        let params = json!({"network_id": network, "token": token, "inviter_id": 0});
        self.call_signed("join_network", object(params)).await
    }

    /// Leaves a network.
    ///
    /// # Errors
    /// As [`call_signed`](Self::call_signed).
    pub async fn leave_network(&self, network: u16) -> Result<(), RegistryError> {
        self.call_signed("leave_network", object(json!({"network_id": network}))).await.map(drop)
    }
}

/// An answer with the member `error` is a refusal; one without `type` is none at all, unless it is empty.
fn check(answer: Map<String, Value>) -> Result<Map<String, Value>, RegistryError> {
    match answer.get("error") {
        Some(Value::String(text)) => return Err(RegistryError::Refused { text: text.clone() }),
        Some(other) => return Err(RegistryError::Refused { text: other.to_string() }),
        None => {}
    }
    if !answer.is_empty() && !answer.contains_key("type") {
        return Err(RegistryError::Malformed { what: "missing \"type\" field".into() });
    }
    Ok(answer)
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
