//! The ffi-safe mirrors of the plain traits in [`crate::api`], method for method; read the plain docs for the meaning.
//! Nobody implements these by hand: [`crate::bridge`] adapts in both directions.
//!
//! Every method returns an [`AbiResult`], also where the plain one cannot fail: a contained panic has to arrive
//! somewhere. Borrowed arguments live for the call only.
//!
//! The exceptions are named `bare_...`: questions that are asked for every stream, frame or log line and whose answer fits
//! into a register. They answer just that, so that the caller's adapter has nothing to do after the call and becomes a
//! jump into the other library (a call and the comparison after it cost as much again as the whole plain call). Whoever
//! contains a panic there gives the safe answer, and a plugin says it through [`Daemon::report_panic`] before it answers.

use abi_stable::sabi_trait;
use abi_stable::std_types::{RArc, ROption, RSlice, RSliceMut, RStr, RString, RVec};
use async_ffi::FfiFuture;

use super::asked::asked;
use super::values::{AbiResult, ConnInfo, Event, KeyBytes, SignatureBytes, WebhookCounters};

/// What a method that one side does not have yet answers with.
fn newer<T>(method: &str) -> AbiResult<T> {
    abi_stable::std_types::RErr(crate::api::unsupported_error(method).into())
}

/// Mirror of [`crate::Plugin`].
#[sabi_trait]
pub trait Plugin: Send + Sync {
    fn init(&self, daemon: DaemonArc) -> AbiResult<()>;
    #[sabi(last_prefix_field)]
    fn shutdown(&self, deadline_ms: u64) -> AbiResult<()>;
}
/// A plugin instance.
pub type PluginArc = Plugin_TO<'static, RArc<()>>;

/// Mirror of [`crate::Daemon`].
#[sabi_trait]
pub trait Daemon: Send + Sync {
    /// Major version in the upper 16 bits, minor in the lower: lets a plugin ask before it relies on newer methods.
    fn treaty(&self) -> AbiResult<u32>;
    fn node_id(&self) -> AbiResult<u32>;
    fn addr(&self) -> AbiResult<u64>;
    fn identity(&self) -> AbiResult<ROption<KeyBytes>>;
    fn identity_path(&self) -> AbiResult<ROption<RVec<u8>>>;
    fn sign(&self, message: RSlice<'_, u8>) -> AbiResult<ROption<SignatureBytes>>;
    fn admin_token(&self) -> AbiResult<RString>;
    fn trust_auto_approve(&self) -> AbiResult<bool>;

    fn dial(&self, addr: u64, port: u16, timeout_ms: u64) -> AbiResult<ConnectionArc>;
    fn dial_async(&self, addr: u64, port: u16) -> AbiResult<FfiFuture<AbiResult<ConnectionArc>>>;
    fn send_datagram(&self, addr: u64, port: u16, data: RSlice<'_, u8>) -> AbiResult<()>;

    fn ports(&self) -> AbiResult<PortAllocatorArc>;
    fn tunnels(&self) -> AbiResult<TunnelRegistryArc>;
    fn bus(&self) -> AbiResult<EventBusArc>;
    fn publish(&self, topic: RStr<'_>, payload_json: RStr<'_>) -> AbiResult<()>;

    fn registry_call(&self, op: RStr<'_>, params_json: RStr<'_>) -> AbiResult<RString>;
    fn list_nodes(&self, network: u16, token: RStr<'_>) -> AbiResult<RString>;
    fn set_member_tags(&self, network: u16, tags: RVec<RString>) -> AbiResult<()>;

    fn trust_checker(&self) -> AbiResult<ROption<TrustCheckerArc>>;
    fn register_trust_checker(&self, checker: TrustCheckerArc) -> AbiResult<()>;
    fn handshake_service(&self) -> AbiResult<ROption<HandshakeServiceArc>>;
    fn register_handshake_service(&self, service: HandshakeServiceArc) -> AbiResult<()>;
    fn register_policy_manager(&self, manager: PolicyManagerArc) -> AbiResult<()>;
    fn register_webhook_manager(&self, manager: WebhookManagerArc) -> AbiResult<()>;

    /// A JSON array of trust records.
    fn trusted_peers(&self) -> AbiResult<RString>;
    fn handshake_revoke_trust(&self, node: u32) -> AbiResult<()>;
    fn handshake_send_request(&self, node: u32, reason: RStr<'_>) -> AbiResult<()>;
    fn open_reply_window(&self, node: u32) -> AbiResult<()>;
    fn set_webhook_url(&self, url: RStr<'_>) -> AbiResult<()>;

    fn version_info(&self) -> AbiResult<RString>;
    fn config(&self) -> AbiResult<RString>;
    fn state_dir(&self) -> AbiResult<RVec<u8>>;

    fn log_enabled(&self, level: u8, target: RStr<'_>) -> AbiResult<bool>;
    fn log(&self, level: u8, target: RStr<'_>, message: RStr<'_>, fields_json: RStr<'_>) -> AbiResult<()>;
    fn report_fault(&self, op: RStr<'_>, message: RStr<'_>) -> AbiResult<()>;

    fn spawn(&self, future: FfiFuture<()>) -> AbiResult<()>;
    #[sabi(last_prefix_field)]
    fn sleep(&self, duration_ms: u64) -> AbiResult<FfiFuture<()>>;
    /// Treaty 1.1. `node_id`; 0 for a panic.
    fn bare_node_id(&self) -> u32 {
        self.node_id().unwrap_or(0)
    }
    /// Treaty 1.1. `addr`; 0 for a panic.
    fn bare_addr(&self) -> u64 {
        self.addr().unwrap_or(0)
    }
    /// Treaty 1.1. `log_enabled`; `false` for a panic.
    fn bare_log_enabled(&self, level: u8, target: RStr<'_>) -> bool {
        self.log_enabled(level, target).unwrap_or(false)
    }
    /// Treaty 1.1. The plugin's adapter contained a panic in method `op`, whose answer has no room for it.
    fn report_panic(&self, op: RStr<'_>, message: RStr<'_>) -> AbiResult<()> {
        self.report_fault(op, message)
    }
}
/// The engine.
pub type DaemonArc = Daemon_TO<'static, RArc<()>>;

asked! {
    Daemon_trait for DaemonArc;
    asks_node_id is bare_node_id() -> u32;
    asks_addr is bare_addr() -> u64;
    asks_log_enabled is bare_log_enabled(level: u8, target: RStr<'_>) -> bool;
}

/// Mirror of [`crate::Connection`].
#[sabi_trait]
pub trait Connection: Send + Sync {
    fn id(&self) -> AbiResult<u32>;
    fn info(&self) -> AbiResult<ConnInfo>;
    fn read(&self, buf: RSliceMut<'_, u8>) -> AbiResult<usize>;
    fn write(&self, data: RSlice<'_, u8>) -> AbiResult<()>;
    /// Milliseconds from now; none clears the deadline.
    fn set_read_timeout(&self, timeout_ms: ROption<u64>) -> AbiResult<()>;
    #[sabi(last_prefix_field)]
    fn close(&self) -> AbiResult<()>;
}
/// A stream.
pub type ConnectionArc = Connection_TO<'static, RArc<()>>;

/// Mirror of [`crate::Listener`].
#[sabi_trait]
pub trait Listener: Send + Sync {
    fn port(&self) -> AbiResult<u16>;
    fn accept(&self) -> AbiResult<ROption<ConnectionArc>>;
    #[sabi(last_prefix_field)]
    fn close(&self) -> AbiResult<()>;
}
/// A bound port.
pub type ListenerArc = Listener_TO<'static, RArc<()>>;

/// Mirror of [`crate::PortAllocator`].
#[sabi_trait]
pub trait PortAllocator: Send + Sync {
    fn bind(&self, port: u16) -> AbiResult<ListenerArc>;
    #[sabi(last_prefix_field)]
    fn unbind(&self, port: u16) -> AbiResult<()>;
}
/// The port table.
pub type PortAllocatorArc = PortAllocator_TO<'static, RArc<()>>;

/// Mirror of [`crate::TunnelRegistry`].
#[sabi_trait]
pub trait TunnelRegistry: Send + Sync {
    #[sabi(last_prefix_field)]
    fn remove_peer(&self, node: u32) -> AbiResult<()>;
}
/// The tunnel table.
pub type TunnelRegistryArc = TunnelRegistry_TO<'static, RArc<()>>;

/// Mirror of [`crate::EventBus`].
#[sabi_trait]
pub trait EventBus: Send + Sync {
    fn publish(&self, topic: RStr<'_>, payload_json: RStr<'_>) -> AbiResult<()>;
    #[sabi(last_prefix_field)]
    fn subscribe(&self, pattern: RStr<'_>) -> AbiResult<SubscriptionArc>;
}
/// The event bus.
pub type EventBusArc = EventBus_TO<'static, RArc<()>>;

/// Mirror of [`crate::Subscription`].
#[sabi_trait]
pub trait Subscription: Send + Sync {
    fn recv(&self, timeout_ms: u64) -> AbiResult<ROption<Event>>;
    #[sabi(last_prefix_field)]
    fn cancel(&self) -> AbiResult<()>;
}
/// A subscription.
pub type SubscriptionArc = Subscription_TO<'static, RArc<()>>;

/// Mirror of [`crate::TrustChecker`].
#[sabi_trait]
pub trait TrustChecker: Send + Sync {
    #[sabi(last_prefix_field)]
    fn is_trusted(&self, node: u32) -> AbiResult<ROption<RString>>;
}
/// A trust checker.
pub type TrustCheckerArc = TrustChecker_TO<'static, RArc<()>>;

/// Mirror of [`crate::HandshakeService`].
#[sabi_trait]
pub trait HandshakeService: Send + Sync {
    fn is_trusted(&self, node: u32) -> AbiResult<bool>;
    fn is_trusted_with_key(&self, node: u32, key: RStr<'_>) -> AbiResult<bool>;
    /// A JSON array of trust records.
    fn trusted_peers(&self) -> AbiResult<RString>;
    /// A JSON array of pending records.
    fn pending_requests(&self) -> AbiResult<RString>;
    fn pending_count(&self) -> AbiResult<u32>;
    fn send_request(&self, peer: u32, justification: RStr<'_>) -> AbiResult<()>;
    fn approve(&self, peer: u32) -> AbiResult<()>;
    fn reject(&self, peer: u32, reason: RStr<'_>) -> AbiResult<()>;
    fn revoke_trust(&self, peer: u32) -> AbiResult<()>;
    fn wait_for_trust(&self, peer: u32, timeout_ms: u64) -> AbiResult<bool>;
    fn process_relayed_request(&self, from: u32, justification: RStr<'_>) -> AbiResult<()>;
    fn process_relayed_approval(&self, from: u32) -> AbiResult<()>;
    fn process_relayed_rejection(&self, from: u32) -> AbiResult<()>;
    #[sabi(last_prefix_field)]
    fn stop(&self) -> AbiResult<()>;
    /// Treaty 1.1. `is_trusted`; `false` for a panic.
    fn bare_is_trusted(&self, node: u32) -> bool {
        self.is_trusted(node).unwrap_or(false)
    }
    /// Treaty 1.1. `is_trusted_with_key`; `false` for a panic.
    fn bare_is_trusted_with_key(&self, node: u32, key: RStr<'_>) -> bool {
        self.is_trusted_with_key(node, key).unwrap_or(false)
    }
}
/// A handshake service.
pub type HandshakeServiceArc = HandshakeService_TO<'static, RArc<()>>;

asked! {
    HandshakeService_trait for HandshakeServiceArc;
    asks_is_trusted is bare_is_trusted(node: u32) -> bool;
    asks_is_trusted_with_key is bare_is_trusted_with_key(node: u32, key: RStr<'_>) -> bool;
}

/// Mirror of [`crate::PolicyManager`].
#[sabi_trait]
pub trait PolicyManager: Send + Sync {
    fn start(&self, network: u16, document_json: RStr<'_>) -> AbiResult<()>;
    fn stop(&self, network: u16) -> AbiResult<()>;
    fn get(&self, network: u16) -> AbiResult<ROption<PolicyRunnerArc>>;
    fn all(&self) -> AbiResult<RVec<PolicyRunnerArc>>;
    fn stop_all(&self) -> AbiResult<()>;
    #[sabi(last_prefix_field)]
    fn load_persisted(&self) -> AbiResult<RVec<u16>>;
    /// Treaty 1.1.
    fn explain(&self, _document: RStr<'_>, _event: RStr<'_>, _context_json: RStr<'_>) -> AbiResult<RString> {
        newer("PolicyManager.explain")
    }
}
/// A policy manager.
pub type PolicyManagerArc = PolicyManager_TO<'static, RArc<()>>;

/// Mirror of [`crate::PolicyRunner`].
#[sabi_trait]
pub trait PolicyRunner: Send + Sync {
    fn network_id(&self) -> AbiResult<u16>;
    fn has_member(&self, node: u32) -> AbiResult<bool>;
    /// `event` is the contract's text constant, `direction` is `in` or `out`.
    fn evaluate_port_gate(
        &self,
        event: RStr<'_>,
        port: u16,
        peer: u32,
        payload_size: u32,
        direction: RStr<'_>,
        local_tags: RSlice<'_, RStr<'_>>,
        node_info_tags: RSlice<'_, RStr<'_>>,
    ) -> AbiResult<bool>;
    fn evaluate_actions(&self, event: RStr<'_>, context_json: RStr<'_>) -> AbiResult<()>;
    fn status(&self) -> AbiResult<RString>;
    /// A JSON array.
    fn peer_list(&self) -> AbiResult<RString>;
    fn force_cycle(&self) -> AbiResult<RString>;
    fn reconcile_now(&self) -> AbiResult<u32>;
    fn policy_json(&self) -> AbiResult<RString>;
    #[sabi(last_prefix_field)]
    fn stop(&self) -> AbiResult<()>;
}
/// A policy runner.
pub type PolicyRunnerArc = PolicyRunner_TO<'static, RArc<()>>;

/// Mirror of [`crate::WebhookManager`].
#[sabi_trait]
pub trait WebhookManager: Send + Sync {
    fn set_url(&self, url: RStr<'_>) -> AbiResult<()>;
    fn url(&self) -> AbiResult<RString>;
    #[sabi(last_prefix_field)]
    fn stats(&self) -> AbiResult<WebhookCounters>;
}
/// A webhook manager.
pub type WebhookManagerArc = WebhookManager_TO<'static, RArc<()>>;
