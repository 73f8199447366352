//! The daemon as one plugin sees it: the only place where the host's own types meet the treaty's (`plugin_abi`).
//! One handle per plugin, so that logs, faults and configuration carry its name.

mod parts;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use plugin_abi::api::BoxFuture;
use plugin_abi::{
    Addr, Connection, Daemon, Error, ErrorKind, EventBus, HandshakeService, HandshakeTrustRecord,
    PolicyManager, PortAllocator, PublicKey, Result, Signature, TrustChecker, TunnelRegistry, VersionInfo,
    WebhookManager,
};
use serde_json::{Map, Value};
use tracing::{Level, warn};

use crate::core::{Core, no_handshake};

pub use parts::{PluginPorts, to_abi_addr, to_wire_addr};

/// The handle of one plugin.
pub struct PluginDaemon {
    core: Arc<Core>,
    name: String,
}

impl PluginDaemon {
    /// A handle for the plugin called `name`.
    pub fn new(core: Arc<Core>, name: &str) -> Self {
        PluginDaemon { core, name: name.to_owned() }
    }
}

fn registry_error(text: String) -> Error {
    Error::new(ErrorKind::Registry, text)
}

fn stopped() -> Error {
    Error::new(ErrorKind::Closed, "the host is shut down")
}

impl Daemon for PluginDaemon {
    fn node_id(&self) -> u32 {
        self.core.node_id()
    }

    fn addr(&self) -> Addr {
        to_abi_addr(self.core.addr())
    }

    fn identity(&self) -> Option<PublicKey> {
        self.core.identity().map(|i| i.public_key())
    }

    fn identity_path(&self) -> Option<PathBuf> {
        Some(self.core.config.node.identity.clone())
    }

    fn sign(&self, message: &[u8]) -> Option<Signature> {
        self.core.identity().map(|i| i.sign(message))
    }

    fn admin_token(&self) -> String {
        self.core.config.node.admin_token.clone()
    }

    fn trust_auto_approve(&self) -> bool {
        self.core.config.node.trust_auto_approve
    }

    fn dial(&self, addr: Addr, port: u16, timeout: Duration) -> Result<Arc<dyn Connection>> {
        let core = self.core.clone();
        let to = to_wire_addr(addr);
        let dialled = self
            .core
            .wait(async move { tokio::time::timeout(timeout, core.dial(to, port)).await })
            .ok_or_else(stopped)?;
        match dialled {
            Ok(Ok(stream)) => Ok(parts::connection(stream)),
            Ok(Err(e)) => Err(parts::dial_error(e)),
            Err(_) => Err(Error::new(ErrorKind::TimedOut, "dial timeout")),
        }
    }

    fn dial_async(&self, addr: Addr, port: u16) -> BoxFuture<Result<Arc<dyn Connection>>> {
        let core = self.core.clone();
        Box::pin(async move {
            // On a host task: the future itself may be polled by a runtime that is not ours.
            let runtime = core.runtime.clone();
            let task = runtime.spawn({
                let core = core.clone();
                async move { core.dial(to_wire_addr(addr), port).await }
            });
            match AbortOnDrop(task).await {
                Ok(Ok(stream)) => Ok(parts::connection(stream)),
                Ok(Err(e)) => Err(parts::dial_error(e)),
                Err(_) => Err(stopped()),
            }
        })
    }

    fn send_datagram(&self, addr: Addr, port: u16, data: &[u8]) -> Result<()> {
        let core = self.core.clone();
        let data = bytes::Bytes::copy_from_slice(data);
        self.core
            .wait(async move { core.send_datagram(to_wire_addr(addr), port, data).await })
            .ok_or_else(stopped)?
            .map_err(Error::other)
    }

    fn ports(&self) -> Arc<dyn PortAllocator> {
        Arc::new(parts::Ports::new(self.core.clone()))
    }

    fn tunnels(&self) -> Arc<dyn TunnelRegistry> {
        Arc::new(parts::Tunnels::new(self.core.clone()))
    }

    fn bus(&self) -> Arc<dyn EventBus> {
        Arc::new(parts::HostBus::new(self.core.bus().clone()))
    }

    fn publish(&self, topic: &str, payload: Option<Map<String, Value>>) {
        self.core.bus().publish(topic, payload);
    }

    fn registry_call(&self, op: &str, params: Map<String, Value>) -> Result<Map<String, Value>> {
        let core = self.core.clone();
        let op = op.to_owned();
        self.core
            .wait(async move { core.registry_call(&op, params).await })
            .ok_or_else(stopped)?
            .map_err(registry_error)
    }

    fn list_nodes(&self, network: u16, token: &str) -> Result<Map<String, Value>> {
        let mut params = Map::new();
        params.insert("network_id".into(), network.into());
        if !token.is_empty() {
            params.insert("admin_token".into(), token.into());
        }
        self.registry_call("list_nodes", params)
    }

    fn set_member_tags(&self, network: u16, tags: Vec<String>) {
        self.core.set_member_tags(network, tags);
    }

    fn trust_checker(&self) -> Option<Arc<dyn TrustChecker>> {
        self.core.services.trust_checker.get()
    }

    fn register_trust_checker(&self, checker: Arc<dyn TrustChecker>) {
        self.core.services.trust_checker.set(checker);
    }

    fn handshake_service(&self) -> Option<Arc<dyn HandshakeService>> {
        self.core.services.handshake.get()
    }

    fn register_handshake_service(&self, service: Arc<dyn HandshakeService>) {
        self.core.services.handshake.set(service);
    }

    fn register_policy_manager(&self, manager: Arc<dyn PolicyManager>) {
        self.core.services.policy.set(manager);
    }

    fn register_webhook_manager(&self, manager: Arc<dyn WebhookManager>) {
        self.core.services.webhook.set(manager);
    }

    fn trusted_peers(&self) -> Vec<HandshakeTrustRecord> {
        self.core.services.handshake.get().map(|s| s.trusted_peers()).unwrap_or_default()
    }

    fn handshake_revoke_trust(&self, node: u32) -> Result<()> {
        self.core.services.handshake.get().ok_or_else(no_handshake)?.revoke_trust(node)
    }

    fn handshake_send_request(&self, node: u32, reason: &str) -> Result<()> {
        match self.core.handshake_request(node, reason)? {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Busy, "handshake already in flight to this peer")),
        }
    }

    fn open_reply_window(&self, node: u32) {
        let target = self.core.node.clone();
        let _ = self.core.wait(async move { target.open_reply_window(node).await });
    }

    fn set_webhook_url(&self, url: &str) {
        if let Some(manager) = self.core.services.webhook.get()
            && let Err(e) = manager.set_url(url)
        {
            warn!(error = %e, "webhook URL refused");
        }
    }

    fn version_info(&self) -> VersionInfo {
        crate::version::info()
    }

    fn config(&self) -> Value {
        self.core.config.plugin_table(&self.name)
    }

    fn state_dir(&self) -> PathBuf {
        self.core.config.node.state_dir.clone()
    }

    fn log_enabled(&self, level: u8, _target: &str) -> bool {
        // All plugin lines share one target in the host, so its level decides.
        match to_level(level) {
            Level::ERROR => tracing::enabled!(target: "plugin", Level::ERROR),
            Level::WARN => tracing::enabled!(target: "plugin", Level::WARN),
            Level::INFO => tracing::enabled!(target: "plugin", Level::INFO),
            Level::DEBUG => tracing::enabled!(target: "plugin", Level::DEBUG),
            _ => tracing::enabled!(target: "plugin", Level::TRACE),
        }
    }

    fn log(&self, level: u8, target: &str, message: &str, fields: &Map<String, Value>) {
        let plugin = self.name.as_str();
        let message = clip(message);
        let extra = if fields.is_empty() { String::new() } else { Value::Object(fields.clone()).to_string() };
        let fields = (!extra.is_empty()).then(|| clip(&extra).to_owned());
        macro_rules! emit {
            ($level:expr) => {
                match fields {
                    Some(f) => tracing::event!(target: "plugin", $level, plugin, at = target, fields = %f, "{message}"),
                    None => tracing::event!(target: "plugin", $level, plugin, at = target, "{message}"),
                }
            };
        }
        match to_level(level) {
            Level::ERROR => emit!(Level::ERROR),
            Level::WARN => emit!(Level::WARN),
            Level::INFO => emit!(Level::INFO),
            Level::DEBUG => emit!(Level::DEBUG),
            _ => emit!(Level::TRACE),
        }
    }

    fn report_fault(&self, op: &str, message: &str) {
        warn!(plugin = %self.name, op, "plugin fault: {}", clip(message));
        let mut payload = Map::new();
        payload.insert("plugin".into(), self.name.as_str().into());
        payload.insert("op".into(), op.into());
        payload.insert("panic".into(), clip(message).into());
        self.core.bus().publish(&format!("plugin.{}.panic", self.name), Some(payload));
    }

    fn spawn(&self, future: BoxFuture<()>) {
        self.core.runtime.spawn(future);
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<()> {
        // A task of ours, because timers belong to the runtime that made them.
        let task = self.core.runtime.spawn(tokio::time::sleep(duration));
        Box::pin(async move {
            let _ = AbortOnDrop(task).await;
        })
    }
}

/// Longest plugin text that reaches the log, bytes.
const CLIP: usize = 8 << 10;

fn clip(text: &str) -> &str {
    &text[..text.floor_char_boundary(CLIP.min(text.len()))]
}

fn to_level(level: u8) -> Level {
    match level {
        0 | 1 => Level::ERROR,
        2 => Level::WARN,
        3 => Level::INFO,
        4 => Level::DEBUG,
        _ => Level::TRACE,
    }
}

/// A task that ends with the future that waits for it.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Future for AbortOnDrop<T> {
    type Output = std::result::Result<T, tokio::task::JoinError>;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        std::pin::Pin::new(&mut self.0).poll(cx)
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
