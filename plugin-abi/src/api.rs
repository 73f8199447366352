//! The plain face: ordinary traits with std types. Plugins implement [`Plugin`] and, where they serve,
//! [`TrustChecker`], [`HandshakeService`], [`PolicyManager`], [`PolicyRunner`], [`WebhookManager`]; the host implements
//! the rest. Every trait is object safe, `Send + Sync`, and callable from any thread.
//!
//! "Blocks" in a doc line means: may wait for the network; never call it from a future that the host polls.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::bridge::crossing;
use crate::types::{
    Addr, ConnectionInfo, Event, EventText, HandshakePendingRecord, HandshakeTrustRecord, PortGate,
    PublicKey, Signature, VersionInfo, WebhookStats,
};
use crate::{Error, Result};

/// A boxed future that either side may poll.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// A plugin instance (seed 001, `Plugin`; plugin-contract.md section 1). One factory call makes one instance; no state is
/// shared between instances. The name is the registration key given to `export_plugin!`.
pub trait Plugin: Send + Sync {
    /// Called once, after the engine object, the bus and the port table are usable and before registration with the
    /// registry, so `node_id()` may still be 0. The handle stays valid until [`shutdown`](Self::shutdown) returns.
    /// An error stops the start of the host.
    fn init(&self, daemon: Arc<dyn Daemon>) -> Result<()>;

    /// Called once, in reverse order of `init`, after `daemon.shutting_down` was published. Must return within
    /// `deadline`; the host goes on without it afterwards. Stop your threads and drop the daemon handle here.
    fn shutdown(&self, deadline: Duration) -> Result<()>;

    crossing!(Plugin_TO, PluginArc);
}

impl<P: Plugin + ?Sized> Plugin for Arc<P> {
    fn init(&self, daemon: Arc<dyn Daemon>) -> Result<()> {
        (**self).init(daemon)
    }

    fn shutdown(&self, deadline: Duration) -> Result<()> {
        (**self).shutdown(deadline)
    }
}

/// The engine as a plugin sees it (seed 001, `Daemon`; plugin-contract.md section 2).
pub trait Daemon: Send + Sync {
    /// The treaty's (major, minor) version on the host's side. Methods that are newer than the host's treaty return
    /// [`Unsupported`](crate::ErrorKind::Unsupported) or their safe answer; ask here before relying on one.
    fn treaty(&self) -> (u16, u16) {
        (crate::abi::ABI_MAJOR, crate::abi::ABI_MINOR)
    }
    /// This node's id; 0 before registration, and it can change when the node registers again.
    fn node_id(&self) -> u32;
    /// This node's backbone address; zero before registration.
    fn addr(&self) -> Addr;
    /// The identity's public key, or `None` before it is loaded. Read it anew for each use: keys rotate.
    fn identity(&self) -> Option<PublicKey>;
    /// Where the identity file is; `None` means in memory. Plugins keep their state beside it.
    fn identity_path(&self) -> Option<PathBuf>;
    /// Ed25519 signature over `message`, or `None` without an identity. The private key never crosses the border.
    fn sign(&self, message: &[u8]) -> Option<Signature>;
    /// The admin token, empty when not configured.
    fn admin_token(&self) -> String;
    /// Whether every handshake request is to be approved; fixed at start.
    fn trust_auto_approve(&self) -> bool;

    /// Opens a fresh stream; blocks until it is established, refused or `timeout` passes (errors: plugin-contract.md
    /// section 2, `DialConnectionContext`).
    fn dial(&self, addr: Addr, port: u16, timeout: Duration) -> Result<Arc<dyn Connection>>;
    /// As [`dial`](Self::dial) without blocking; dropping the future cancels the dial.
    fn dial_async(&self, addr: Addr, port: u16) -> BoxFuture<Result<Arc<dyn Connection>>>;
    /// Sends one datagram, unacknowledged (plugin-contract.md section 2, `SendDatagram`).
    fn send_datagram(&self, addr: Addr, port: u16, data: &[u8]) -> Result<()>;

    /// The port table.
    fn ports(&self) -> Arc<dyn PortAllocator>;
    /// The tunnel table.
    fn tunnels(&self) -> Arc<dyn TunnelRegistry>;
    /// The event bus.
    fn bus(&self) -> Arc<dyn EventBus>;
    /// Same as `bus().publish(..)`.
    fn publish(&self, topic: &str, payload: Option<Map<String, Value>>);

    /// One registry operation as this node: `op` is the registry's `type`, `params` its members. The daemon adds
    /// `node_id` and the signature where the operation needs one (registry.md section 2.3). Blocks for a round trip;
    /// without a registry: `registry connection not initialized`.
    fn registry_call(&self, op: &str, params: Map<String, Value>) -> Result<Map<String, Value>>;
    /// `list_nodes` of a network (plugin-contract.md section 2, `RegConnListNodes`). Blocks.
    fn list_nodes(&self, network: u16, token: &str) -> Result<Map<String, Value>>;
    /// Replaces the daemon's cache of this node's tags in `network`; the registry is not told (plugin-contract.md
    /// section 2, `SetMemberTags`).
    fn set_member_tags(&self, network: u16, tags: Vec<String>);

    /// The registered trust checker; the last registration wins.
    fn trust_checker(&self) -> Option<Arc<dyn TrustChecker>>;
    /// Installs a trust checker.
    fn register_trust_checker(&self, checker: Arc<dyn TrustChecker>);
    /// The registered handshake service.
    fn handshake_service(&self) -> Option<Arc<dyn HandshakeService>>;
    /// Installs the handshake service.
    fn register_handshake_service(&self, service: Arc<dyn HandshakeService>);
    /// Installs the policy manager.
    fn register_policy_manager(&self, manager: Arc<dyn PolicyManager>);
    /// Installs the webhook manager.
    fn register_webhook_manager(&self, manager: Arc<dyn WebhookManager>);

    /// The handshake service's trusted peers; empty without a service.
    fn trusted_peers(&self) -> Vec<HandshakeTrustRecord>;
    /// Revokes trust; `handshake service not registered`, else the service's error. Blocks.
    fn handshake_revoke_trust(&self, node: u32) -> Result<()>;
    /// Sends a handshake request; one at a time per peer (`handshake already in flight to this peer`). Opens the reply
    /// window of that peer. Blocks.
    fn handshake_send_request(&self, node: u32, reason: &str) -> Result<()>;
    /// Opens the reply window of `node`: for five minutes its SYNs to ports 444 and 1001 pass the trust gate
    /// (stream.md section 7). Filled only by own actions.
    fn open_reply_window(&self, node: u32);
    /// Hands `url` to the webhook manager; no-op without one.
    fn set_webhook_url(&self, url: &str);

    /// Version, commit and build time of the host.
    fn version_info(&self) -> VersionInfo;
    /// This plugin's own table of the configuration (`[plugin.NAME]`), as JSON; an empty object when there is none.
    fn config(&self) -> Value;
    /// The host's state directory (`~/.pilot` unless configured).
    fn state_dir(&self) -> PathBuf;

    /// Whether a line of this level (1 error .. 5 trace) and target would be kept. Cheap.
    fn log_enabled(&self, level: u8, target: &str) -> bool;
    /// One log line; `fields` are structured extras. The host adds the plugin's name.
    fn log(&self, level: u8, target: &str, message: &str, fields: &Map<String, Value>);
    /// Reports a fault that the plugin contained itself (a panic in one of its threads, say). `op` names where.
    fn report_fault(&self, op: &str, message: &str);

    /// Runs a future on the host's runtime. It must not use timers or sockets of a runtime of its own there.
    fn spawn(&self, future: BoxFuture<()>);
    /// Resolves after `duration`, on the host's timer.
    fn sleep(&self, duration: Duration) -> BoxFuture<()>;

    crossing!(Daemon_TO, DaemonArc);
}

/// A reliable stream (seed 001, `Connection` and `ConnReadWriter`; plugin-contract.md section 3).
pub trait Connection: Send + Sync {
    /// The daemon-wide connection id.
    fn id(&self) -> u32;
    /// The four endpoint values.
    fn info(&self) -> ConnectionInfo;
    /// Blocks until at least one byte is there; 0 means end of stream. A deadline that passes gives
    /// `pilot: read deadline exceeded` ([`TimedOut`](crate::ErrorKind::TimedOut)).
    fn read(&self, buf: &mut [u8]) -> Result<usize>;
    /// Blocks until all bytes are accepted, or fails.
    fn write(&self, data: &[u8]) -> Result<()>;
    /// Deadline for this and later reads, from now; `None` clears it.
    fn set_read_timeout(&self, timeout: Option<Duration>) -> Result<()>;
    /// Sends FIN after everything written was acknowledged; idempotent.
    fn close(&self);

    crossing!(Connection_TO, ConnectionArc);
}

/// Streams that arrive on one bound port (plugin-contract.md section 3). Dropping it unbinds.
pub trait Listener: Send + Sync {
    /// The bound port.
    fn port(&self) -> u16;
    /// Blocks; `None` once closed, and always after that.
    fn accept(&self) -> Option<Arc<dyn Connection>>;
    /// Releases the port; idempotent. Streams queued before are still handed out.
    fn close(&self);

    crossing!(Listener_TO, ListenerArc);
}

/// The port table (plugin-contract.md section 3).
pub trait PortAllocator: Send + Sync {
    /// Binds a port: `port <p> already bound` when taken.
    fn bind(&self, port: u16) -> Result<Arc<dyn Listener>>;
    /// Releases a port of this plugin; unknown ports are ignored.
    fn unbind(&self, port: u16);

    crossing!(PortAllocator_TO, PortAllocatorArc);
}

/// The tunnel table (plugin-contract.md section 3).
pub trait TunnelRegistry: Send + Sync {
    /// Drops session keys, queues and routes of a peer; unknown peers are ignored.
    fn remove_peer(&self, node: u32);

    crossing!(TunnelRegistry_TO, TunnelRegistryArc);
}

/// Publish and subscribe inside the daemon (plugin-contract.md section 4).
pub trait EventBus: Send + Sync {
    /// Never blocks. A subscriber whose buffer (1024) is full loses this event.
    fn publish(&self, topic: &str, payload: Option<Map<String, Value>>);
    /// `*` or empty: everything; `a.*`: everything below `a`; else exact equality.
    fn subscribe(&self, pattern: &str) -> Arc<dyn Subscription>;

    crossing!(EventBus_TO, EventBusArc);
}

/// A subscription in pull form; dropping it cancels.
pub trait Subscription: Send + Sync {
    /// Blocks up to `timeout` for the next event. `Ok(None)`: nothing came; `Err` of kind `Closed`: cancelled and empty.
    fn recv(&self, timeout: Duration) -> Result<Option<Event>>;
    /// As [`recv`](Self::recv), the payload as JSON text. The border asks for this form, because text is what crosses; a
    /// bus that keeps the text of an event writes it once for all its subscribers.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    fn recv_text(&self, timeout: Duration) -> Result<Option<EventText>> {
        let Some(event) = self.recv(timeout)? else { return Ok(None) };
        let payload = event.payload.as_ref().map(serde_json::to_string).transpose()?;
        Ok(Some(EventText { topic: event.topic, node_id: event.node_id, time: event.time, payload }))
    }
    /// Stops delivery; buffered events may still be read. Idempotent.
    fn cancel(&self);

    crossing!(Subscription_TO, SubscriptionArc);
}

/// Answers "is this node on an allow-list" (plugin-contract.md section 6).
pub trait TrustChecker: Send + Sync {
    /// The display name when listed, else `None`.
    fn is_trusted(&self, node: u32) -> Option<String>;

    crossing!(TrustChecker_TO, TrustCheckerArc);
}

/// The trust store and its protocol (plugin-contract.md section 5, handshake.md).
pub trait HandshakeService: Send + Sync {
    /// In-memory lookup.
    fn is_trusted(&self, node: u32) -> bool;
    /// As `is_trusted`, but a grant bound to another key does not count; `key` is base64, empty when unknown.
    fn is_trusted_with_key(&self, node: u32, key: &str) -> bool;
    /// Copies, in no particular order.
    fn trusted_peers(&self) -> Vec<HandshakeTrustRecord>;
    /// Copies, in no particular order.
    fn pending_requests(&self) -> Vec<HandshakePendingRecord>;
    /// How many requests wait.
    fn pending_count(&self) -> u32;
    /// Asks `peer` for trust: directly, else by the registry (`handshake relay: <cause>`). Blocks.
    fn send_request(&self, peer: u32, justification: &str) -> Result<()>;
    /// Approves; success when nothing is pending. Blocks.
    fn approve(&self, peer: u32) -> Result<()>;
    /// Rejects; always success. Blocks.
    fn reject(&self, peer: u32, reason: &str) -> Result<()>;
    /// Revokes: `node <id> was not trusted` when it was not. Blocks.
    fn revoke_trust(&self, peer: u32) -> Result<()>;
    /// Blocks until trusted (`true`) or the timeout (`false`).
    fn wait_for_trust(&self, peer: u32, timeout: Duration) -> bool;
    /// A request from the registry inbox.
    fn process_relayed_request(&self, from: u32, justification: &str);
    /// An approval from the registry inbox.
    fn process_relayed_approval(&self, from: u32);
    /// A rejection from the registry inbox.
    fn process_relayed_rejection(&self, from: u32);
    /// Drains background calls; idempotent.
    fn stop(&self);

    crossing!(HandshakeService_TO, HandshakeServiceArc);
}

/// Policies by network (plugin-contract.md section 7, policy.md).
pub trait PolicyManager: Send + Sync {
    /// Parses, compiles and starts a runner; the old one stays on an error.
    fn start(&self, network: u16, document_json: &str) -> Result<()>;
    /// No-op when absent; waits for the runner.
    fn stop(&self, network: u16);
    /// The runner of a network.
    fn get(&self, network: u16) -> Option<Arc<dyn PolicyRunner>>;
    /// All runners, in no particular order.
    fn all(&self) -> Vec<Arc<dyn PolicyRunner>>;
    /// Stops every runner; repeatable.
    fn stop_all(&self);
    /// Notes the networks that have saved state; starts nothing.
    fn load_persisted(&self) -> Result<Vec<u16>>;
    /// Says what a document would do on `event` in `context`, rule by rule, without putting it in force; with an empty
    /// `event` whether it is valid and what is in it. Both answers are for people: members `rules` (each with `rule`,
    /// `outcome` and, where it matched, `directives`), `verdict` on gate events, `because`. Errors of kind `Invalid` name
    /// what is wrong with document, event or context. Blocks for the evaluation. Since treaty 1.1.
    fn explain(
        &self,
        document_json: &str,
        event: &str,
        context: &Map<String, Value>,
    ) -> Result<Map<String, Value>> {
        let _ = (document_json, event, context);
        Err(unsupported_error("PolicyManager.explain"))
    }

    crossing!(PolicyManager_TO, PolicyManagerArc);
}

/// The policy of one network (plugin-contract.md section 7).
pub trait PolicyRunner: Send + Sync {
    /// Its network.
    fn network_id(&self) -> u16;
    /// Whether the peer is in its table.
    fn has_member(&self, node: u32) -> bool;
    /// The port gate: `true` lets it pass. Callers treat a failure of the call itself as `false`.
    fn evaluate_port_gate(&self, gate: &PortGate) -> bool;
    /// Runs the rules of an action event (`cycle`, `join`, `leave`).
    fn evaluate_actions(&self, event: &str, context: &Map<String, Value>);
    /// Status object (policy.md section 6.1).
    fn status(&self) -> Map<String, Value>;
    /// Peers, oldest first.
    fn peer_list(&self) -> Vec<Value>;
    /// Runs a cycle now and returns its result.
    fn force_cycle(&self) -> Result<Map<String, Value>>;
    /// Reconciles with the registry now; returns the number of peers.
    fn reconcile_now(&self) -> Result<u32>;
    /// The document.
    fn policy_json(&self) -> String;
    /// Stops the loop; repeatable.
    fn stop(&self);

    crossing!(PolicyRunner_TO, PolicyRunnerArc);
}

/// The webhook's controls (plugin-contract.md section 6, webhook.md).
pub trait WebhookManager: Send + Sync {
    /// Hot swap; empty disables. Errors only for a URL that webhook.md section 4 refuses.
    fn set_url(&self, url: &str) -> Result<()>;
    /// The URL in use; empty when off.
    fn url(&self) -> String;
    /// Counters of the current client; zeros when off.
    fn stats(&self) -> WebhookStats;

    crossing!(WebhookManager_TO, WebhookManagerArc);
}

/// What a method answers with that an older treaty does not have.
pub(crate) fn unsupported_error(method: &str) -> Error {
    Error::unsupported(format!("{method} is not supported by this side of the treaty"))
}
