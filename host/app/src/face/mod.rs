//! The daemon as one plugin sees it: the only place where the host's own types meet the treaty's (`plugin_abi`).
//!
//! Each instance of a plugin has one handle, [`PluginDaemon`]. It carries the plugin's name for logs and faults, asks the
//! plugin's rules ([`capability`](crate::capability)) before each call that reaches beyond the plugin, and notes what the
//! instance holds (`claims`), so that it can be given to a successor. What outlives instances is in [`Plugins`].

mod bucket;
mod claims;
mod log;
mod parts;
mod plugins;

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use plugin_abi::api::BoxFuture;
use plugin_abi::{
    Addr, Connection, Daemon, Error, ErrorKind, EventBus, HandshakeService, HandshakeTrustRecord,
    PolicyManager, PortAllocator, PublicKey, Result, Signature, TrustChecker, TunnelRegistry, VersionInfo,
    WebhookManager,
};
use serde_json::{Map, Value};
use tracing::{Instrument as _, debug_span, warn};

use crate::capability::{Action, Denial, Service};
use crate::core::{Core, no_handshake};
use crate::services::{Owner, Slot};
use claims::Claims;

pub use parts::{to_abi_addr, to_wire_addr};
pub use plugins::{LEDGER_FILE, Plugins, Record, UNHEALTHY};

/// One instance of a plugin, as the parts of its handle share it.
struct Instance {
    core: Arc<Core>,
    record: Arc<Record>,
    claims: Arc<Claims>,
    number: u64,
}

impl Instance {
    fn publish(&self, topic: &str, payload: Option<Map<String, Value>>) {
        let record = &self.record;
        // Nobody waits for an answer here; both refusals are counted and in the log.
        if record.check("publish", record.rules.publish(topic)).is_ok()
            && record.pace("publish", &record.publishes, "publishes_per_second").is_ok()
        {
            self.core.bus().publish(topic, payload);
        }
    }

    fn may(&self, op: &str, judged: std::result::Result<(), Denial>) -> bool {
        self.record.check(op, judged).is_ok()
    }

    /// A registration, unless it is not allowed or comes from an instance whose time is over.
    fn provide<T: ?Sized>(&self, service: Service, slot: &Slot<T>, object: Arc<T>) {
        if !self.claims.is_retired() && self.may("register", self.record.rules.provide(service)) {
            slot.set(object, Owner { plugin: self.record.name.clone(), instance: self.number });
        }
    }
}

/// The handle of one instance of a plugin.
pub struct PluginDaemon {
    instance: Arc<Instance>,
}

impl PluginDaemon {
    /// A handle for a new instance of the plugin called `name`. What the host keeps of a predecessor is waiting in it.
    pub fn new(core: Arc<Core>, name: &str) -> Self {
        let record = core.plugins.record(name);
        let number = core.plugins.next_instance();
        let mut current = record.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let former = current.take();
        let kept = former.map(|c| c.seize(&core)).unwrap_or_default();
        let claims = Arc::new(Claims::after(kept));
        *current = Some(claims.clone());
        drop(current);
        PluginDaemon { instance: Arc::new(Instance { core, record, claims, number }) }
    }

    fn core(&self) -> &Arc<Core> {
        &self.instance.core
    }

    /// The span of a call that reaches beyond the plugin.
    fn asks(&self, op: &'static str) -> tracing::Span {
        debug_span!("plugin.asks", plugin = self.instance.record.name, op)
    }

    fn may(&self, op: &str, judged: std::result::Result<(), Denial>) -> bool {
        self.instance.may(op, judged)
    }

    fn act(&self, op: &str, action: Action) -> Result<()> {
        self.instance.record.check(op, self.instance.record.rules.act(action))
    }

    /// May reach this peer now, by its rules and at its pace.
    fn reach(&self, op: &str, addr: Addr, port: u16) -> Result<()> {
        let record = &self.instance.record;
        record.check(op, record.rules.dial(addr, port))?;
        record.pace(op, &record.dials, "dials_per_second")
    }

    /// The handshake service for a plugin that may use it. While that is being reloaded, plugins wait as gates do.
    fn handshake(&self, op: &str) -> Result<Arc<dyn HandshakeService>> {
        self.act(op, Action::Trust)?;
        self.service(|core| &core.services.handshake).ok_or_else(no_handshake)
    }

    fn service<T: ?Sized + Send + Sync + 'static>(&self, slot: fn(&Core) -> &Slot<T>) -> Option<Arc<T>> {
        let name = &self.instance.record.name;
        if let Some(service) = slot(self.core()).get_for(name) {
            return Some(service);
        }
        if !slot(self.core()).is_pending_for_others(name) {
            return None;
        }
        let core = self.core().clone();
        self.core().wait(async move { drop(slot(&core).decide().await) });
        slot(self.core()).get_for(name)
    }
}

/// The plugin's running instance is about to be shut down for good or for a successor: what it has in force is noted.
pub fn stopping(core: &Core, plugin: &str) {
    core.services.stopping(plugin);
}

/// A successor is to come: gates wait for it, and what the instance holds is taken from it.
pub fn hand_over(core: &Core, plugin: &str) {
    core.services.hand_over(plugin);
    let record = core.plugins.record(plugin);
    let mut current = record.claims.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(claims) = current.take() {
        // Waits, in the shape of an instance that never starts, for the handle of the successor.
        *current = Some(Arc::new(Claims::after(claims.seize(core))));
    }
}

/// An instance of the plugin runs.
pub fn started(core: &Core, plugin: &str) {
    let record = core.plugins.record(plugin);
    let claims = record.claims.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some(claims) = claims {
        claims.settle();
    }
    core.services.settle(plugin);
}

/// No instance of the plugin runs any more. `failed`: not by anybody's wish.
pub fn ended(core: &Core, plugin: &str, failed: bool) {
    let record = core.plugins.record(plugin);
    let ample = pilot_loader::FIRST_PARTY.contains(&plugin);
    core.services.end(plugin, failed, |service| {
        // The four may register anything and each does what its name says.
        if ample { service.as_str() == plugin } else { record.rules.provide(service).is_ok() }
    });
    let claims = record.claims.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(claims) = claims {
        claims.release();
    }
    record.say_suppressed();
}

fn registry_error(text: String) -> Error {
    Error::new(ErrorKind::Registry, text)
}

fn stopped() -> Error {
    Error::new(ErrorKind::Closed, "the host is shut down")
}

impl Daemon for PluginDaemon {
    fn node_id(&self) -> u32 {
        self.core().node_id()
    }

    fn addr(&self) -> Addr {
        to_abi_addr(self.core().addr())
    }

    fn identity(&self) -> Option<PublicKey> {
        self.core().identity().map(|i| i.public_key())
    }

    fn identity_path(&self) -> Option<PathBuf> {
        Some(self.core().config.node.identity.clone())
    }

    fn sign(&self, message: &[u8]) -> Option<Signature> {
        if !self.may("sign", self.instance.record.rules.sign(message)) {
            return None;
        }
        self.core().identity().map(|i| i.sign(message))
    }

    fn admin_token(&self) -> String {
        match self.act("admin_token", Action::AdminToken) {
            Ok(()) => self.core().config.node.admin_token.clone(),
            Err(_) => String::new(),
        }
    }

    fn trust_auto_approve(&self) -> bool {
        self.core().config.node.trust_auto_approve
    }

    fn dial(&self, addr: Addr, port: u16, timeout: Duration) -> Result<Arc<dyn Connection>> {
        let _span = self.asks("dial").entered();
        self.reach("dial", addr, port)?;
        let core = self.core().clone();
        let to = to_wire_addr(addr);
        let dialled = self
            .core()
            .wait(async move { tokio::time::timeout(timeout, core.dial(to, port)).await })
            .ok_or_else(stopped)?;
        match dialled {
            Ok(Ok(stream)) => Ok(parts::connection(stream)),
            Ok(Err(e)) => Err(parts::dial_error(e)),
            Err(_) => Err(Error::new(ErrorKind::TimedOut, "dial timeout")),
        }
    }

    fn dial_async(&self, addr: Addr, port: u16) -> BoxFuture<Result<Arc<dyn Connection>>> {
        if let Err(e) = self.reach("dial", addr, port) {
            return Box::pin(std::future::ready(Err(e)));
        }
        let (core, span) = (self.core().clone(), self.asks("dial_async"));
        Box::pin(async move {
            // On a host task: the future itself may be polled by a runtime that is not ours.
            let runtime = core.runtime.clone();
            let task = runtime.spawn({
                let core = core.clone();
                async move { core.dial(to_wire_addr(addr), port).await }.instrument(span)
            });
            match AbortOnDrop(task).await {
                Ok(Ok(stream)) => Ok(parts::connection(stream)),
                Ok(Err(e)) => Err(parts::dial_error(e)),
                Err(_) => Err(stopped()),
            }
        })
    }

    fn send_datagram(&self, addr: Addr, port: u16, data: &[u8]) -> Result<()> {
        let _span = self.asks("send_datagram").entered();
        self.reach("send_datagram", addr, port)?;
        let core = self.core().clone();
        let data = bytes::Bytes::copy_from_slice(data);
        self.core()
            .wait(async move { core.send_datagram(to_wire_addr(addr), port, data).await })
            .ok_or_else(stopped)?
            .map_err(Error::other)
    }

    fn ports(&self) -> Arc<dyn PortAllocator> {
        Arc::new(parts::Ports { instance: self.instance.clone() })
    }

    fn tunnels(&self) -> Arc<dyn TunnelRegistry> {
        Arc::new(parts::Tunnels { instance: self.instance.clone() })
    }

    fn bus(&self) -> Arc<dyn EventBus> {
        Arc::new(parts::HostBus { instance: self.instance.clone() })
    }

    fn publish(&self, topic: &str, payload: Option<Map<String, Value>>) {
        self.instance.publish(topic, payload);
    }

    fn registry_call(&self, op: &str, params: Map<String, Value>) -> Result<Map<String, Value>> {
        let _span = self.asks("registry_call").entered();
        let record = &self.instance.record;
        record.check("registry_call", record.rules.registry(op))?;
        record.pace("registry_call", &record.registry_calls, "registry_calls_per_second")?;
        let core = self.core().clone();
        let op = op.to_owned();
        self.core()
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
        if self.act("set_member_tags", Action::Tags).is_ok() {
            self.core().set_member_tags(network, tags);
        }
    }

    fn trust_checker(&self) -> Option<Arc<dyn TrustChecker>> {
        self.service(|core| &core.services.trust_checker)
    }

    fn register_trust_checker(&self, checker: Arc<dyn TrustChecker>) {
        self.instance.provide(Service::TrustChecker, &self.core().services.trust_checker, checker);
    }

    fn handshake_service(&self) -> Option<Arc<dyn HandshakeService>> {
        self.handshake("handshake_service").ok()
    }

    fn register_handshake_service(&self, service: Arc<dyn HandshakeService>) {
        self.instance.provide(Service::Handshake, &self.core().services.handshake, service);
    }

    fn register_policy_manager(&self, manager: Arc<dyn PolicyManager>) {
        self.instance.provide(Service::Policy, &self.core().services.policy, manager);
    }

    fn register_webhook_manager(&self, manager: Arc<dyn WebhookManager>) {
        self.instance.provide(Service::Webhook, &self.core().services.webhook, manager);
    }

    fn trusted_peers(&self) -> Vec<HandshakeTrustRecord> {
        self.handshake("trusted_peers").map(|s| s.trusted_peers()).unwrap_or_default()
    }

    fn handshake_revoke_trust(&self, node: u32) -> Result<()> {
        self.handshake("revoke_trust")?.revoke_trust(node)
    }

    fn handshake_send_request(&self, node: u32, reason: &str) -> Result<()> {
        self.act("send_request", Action::Trust)?;
        match self.core().handshake_request(node, reason)? {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Busy, "handshake already in flight to this peer")),
        }
    }

    fn open_reply_window(&self, node: u32) {
        if self.act("open_reply_window", Action::Trust).is_err() {
            return;
        }
        let target = self.core().node.clone();
        let _ = self.core().wait(async move { target.open_reply_window(node).await });
    }

    fn set_webhook_url(&self, url: &str) {
        if self.act("set_webhook_url", Action::Webhook).is_ok()
            && let Some(manager) = self.service(|core| &core.services.webhook)
            && let Err(e) = manager.set_url(url)
        {
            warn!(error = %e, "webhook URL refused");
        }
    }

    fn version_info(&self) -> VersionInfo {
        crate::version::info()
    }

    fn config(&self) -> Value {
        self.core().current().plugin_table(&self.instance.record.name)
    }

    fn state_dir(&self) -> PathBuf {
        self.core().config.node.state_dir.clone()
    }

    fn log_enabled(&self, level: u8, _target: &str) -> bool {
        self.instance.record.log_enabled(level)
    }

    fn log(&self, level: u8, target: &str, message: &str, fields: &Map<String, Value>) {
        self.instance.record.log(level, target, message, fields);
    }

    fn report_fault(&self, op: &str, message: &str) {
        let record = &self.instance.record;
        let (recovered_total, panics) = self.core().plugins.count_panic(record);
        let (op, message) = (log::clip(op), log::clip(message));
        warn!(plugin = record.name, op, plugin_panics = panics, "plugin fault: {message}");
        let count = |payload: &mut Map<String, Value>| {
            payload.insert("plugin".into(), record.name.as_str().into());
            payload.insert("plugin_panics".into(), panics.into());
            payload.insert("recovered_total".into(), recovered_total.into());
        };
        let mut payload = Map::new();
        payload.insert("op".into(), op.into());
        payload.insert("panic".into(), message.into());
        count(&mut payload);
        self.core().bus().publish(&format!("plugin.{}.panic", record.name), Some(payload));
        if panics == UNHEALTHY {
            let mut payload = Map::new();
            count(&mut payload);
            self.core().bus().publish(&format!("plugin.{}.unhealthy", record.name), Some(payload));
        }
    }

    fn spawn(&self, future: BoxFuture<()>) {
        self.core().runtime.spawn(future);
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<()> {
        // A task of ours, because timers belong to the runtime that made them.
        let task = self.core().runtime.spawn(tokio::time::sleep(duration));
        Box::pin(async move {
            let _ = AbortOnDrop(task).await;
        })
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
