//! What the dispatcher needs from the daemon. The real one is `HostBackend`; tests drive the dispatcher with another.
//!
//! Every method may be called from several tasks at once. Errors are texts for the reply: the dispatcher puts the
//! operation's name in front (`set_tags: <text>`), so a registry error arrives here as `registry: <its text>`.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pilot_net::node::Datagram;
use pilot_wire::addr::Addr;
use plugin_abi::{HandshakeService, PolicyManager, WebhookManager};
use serde_json::{Map, Value};
use tokio::sync::broadcast;

/// A future that borrows from the object it was asked of.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
/// A JSON object.
pub type Object = Map<String, Value>;

/// A reliable stream as the dispatcher uses it. Dropping the last handle closes it.
pub trait IpcStream: Send + Sync {
    /// The daemon-wide connection id, never 0.
    fn id(&self) -> u32;
    /// The peer's address and port.
    fn remote(&self) -> (Addr, u16);
    /// The next bytes in order; `None` at the end, whatever ended it. Cancel-safe.
    fn read(&self) -> Later<'_, Option<Bytes>>;
    /// Queues bytes; waits while the peer takes none.
    fn write(&self, data: Bytes) -> Later<'_, Result<(), String>>;
    /// Sends the end after everything written; idempotent.
    fn close(&self);
}

/// A bound port. Dropping it releases the port before any later bind is looked at.
pub trait IpcListener: Send + Sync {
    /// The next stream; `None` once the daemon closed the port. Cancel-safe.
    fn accept(&self) -> Later<'_, Option<Arc<dyn IpcStream>>>;
}

/// News from the event bus.
pub trait IpcEvents: Send {
    /// Resolves when at least one event came since the last call; `false` when none will come any more.
    fn changed(&mut self) -> Later<'_, bool>;
}

/// Who needs the registry's handshake inbox to be looked at first (handshake.md section 5, "Poll schedule").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inbox {
    /// Somebody lists, approves or rejects.
    Look,
    /// Somebody waits for this node's trust.
    WaitFor(u32),
}

/// What a client's request changed at the registry, for those who cache it.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The node has another name, or none (empty).
    Hostname(String),
    /// The node is public or private now.
    Visibility(bool),
    /// The node has other tags.
    Tags(Vec<String>),
    /// The node left the registry.
    Deregistered,
    /// The node joined a network; the registry's whole answer, which may hold `rules` and `expr_policy`.
    Joined(u16, Object),
    /// The node left a network.
    Left(u16),
}

/// The daemon behind the socket.
pub trait IpcBackend: Send + Sync + 'static {
    /// This node's id; 0 before registration.
    fn node_id(&self) -> u32;
    /// The identity's public key, base64; `None` without an identity.
    fn public_key(&self) -> Option<String>;
    /// Ed25519 signature by the identity.
    fn sign(&self, message: &[u8]) -> Option<[u8; 64]>;
    /// The configured admin token; empty when there is none.
    fn admin_token(&self) -> String;

    /// Opens a stream: policy gate, trust, engine. Dropping the future cancels the dial.
    fn dial(&self, to: Addr, port: u16) -> Later<'_, Result<Arc<dyn IpcStream>, String>>;
    /// Binds a port: `port N already bound` when taken.
    fn bind(&self, port: u16) -> Later<'_, Result<Box<dyn IpcListener>, String>>;
    /// Closes a stream that no local client opened or accepted; unknown ids are fine.
    fn close_connection(&self, id: u32) -> Later<'_, ()>;
    /// Hands a datagram to the tunnel.
    fn send_datagram(&self, to: Addr, port: u16, data: Bytes) -> Later<'_, Result<(), String>>;
    /// Sends a datagram to every member of a network; the caller has checked the token.
    fn broadcast(&self, network: u16, port: u16, data: Bytes) -> Later<'_, Result<(), String>>;
    /// Datagrams for any port, from now on.
    fn datagrams(&self) -> broadcast::Receiver<Datagram>;
    /// Events whose topic matches `pattern` (plugin-contract.md section 4).
    fn events(&self, pattern: &str) -> Box<dyn IpcEvents>;

    /// The info object (ipc.md section 8), uncut.
    fn info(&self) -> Later<'_, Object>;
    /// The health object (ipc.md section 8). Must not wait for the network.
    fn health(&self) -> Later<'_, Object>;

    /// Returns when no plugin with a service is being replaced, after some seconds in any case; at once mostly. Requests
    /// that need such a service wait here, so that a reload does not show.
    fn settled(&self) -> Later<'_, ()>;
    /// The handshake plugin's service.
    fn handshake(&self) -> Option<Arc<dyn HandshakeService>>;
    /// Sends a handshake request, one at a time per peer; `Ok(false)` when one already runs. Blocks.
    fn handshake_request(&self, node: u32, justification: &str) -> Result<bool, String>;
    /// Looks into the registry's handshake inbox unless that just happened; waits at most 3 s.
    fn poll_inbox(&self, why: Inbox) -> Later<'_, ()>;

    /// One registry operation as this node, signed where it needs to be (registry.md section 2.3).
    fn registry(&self, op: &'static str, params: Object) -> Later<'_, Result<Object, String>>;
    /// A request changed something at the registry; called before its reply goes out, except for networks, where it is
    /// called after (ipc.md section 11).
    fn changed(&self, change: Change) -> Later<'_, ()>;

    /// The webhook plugin's controls.
    fn webhook(&self) -> Option<Arc<dyn WebhookManager>>;
    /// The policy plugin's manager.
    fn policy(&self) -> Option<Arc<dyn PolicyManager>>;
    /// Forgets tunnel and relay of a peer, so that the next dial tries the direct path; the reply of ipc.md section 13,
    /// or `None` when this daemon cannot.
    fn prefer_direct(&self, node: u32) -> Later<'_, Option<Object>>;
    /// A new key pair, proven to the registry and saved; `None` when this daemon cannot.
    fn rotate_key(&self) -> Later<'_, Option<Result<Object, String>>>;

    /// The plugins that were found, with state and reason: an array of objects.
    fn plugins(&self) -> Value;
    /// One round trip between the two engines.
    fn ping(&self, peer: Addr) -> Later<'_, Result<Duration, String>>;
    /// Asks the daemon to stop; returns at once.
    fn stop(&self);
    /// A host request the dispatcher does not know (`pilot_wire::ipc::command::HOST`); `None` when the daemon neither.
    fn host_request<'a>(&'a self, op: &'a str, params: Object) -> Later<'a, Option<Result<Value, String>>>;
}
