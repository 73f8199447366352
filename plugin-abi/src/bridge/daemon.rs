//! The engine. The host lends it once per plugin; objects that the plugin registers come in over the same link.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use abi_stable::std_types::{RErr, ROk, ROption, RSlice, RStr, RString, RVec};
use async_ffi::{FfiFuture, FutureExt};
use serde_json::{Map, Value};

use super::future::contain;
use super::stream::Gone;
use super::{
    Border, Host, Local, Remote, adopt_option, border, from_json, json, panicked, payload_from_json,
    payload_json, to_ms,
};
use crate::abi::{self, AbiResult, Asked, Daemon_TO, KeyBytes, SignatureBytes};
use crate::api::{self, BoxFuture};
use crate::types::{Addr, HandshakeTrustRecord, PublicKey, Signature, VersionInfo};
use crate::{Error, Result};

border!(Daemon, DaemonArc, asked);

/// A future of ours that yields nothing; a panic in it is reported as a fault of `op`.
fn lend_task(future: BoxFuture<()>, on_panic: impl FnOnce(String) + Send + 'static) -> FfiFuture<()> {
    contain(future, move |outcome| outcome.unwrap_or_else(on_panic)).into_ffi()
}

impl<T: api::Daemon + ?Sized + 'static> abi::Daemon for Local<T> {
    fn treaty(&self) -> AbiResult<u32> {
        self.guard("Daemon.treaty", |d| {
            let (major, minor) = d.treaty();
            Ok(u32::from(major) << 16 | u32::from(minor))
        })
    }

    #[inline]
    fn node_id(&self) -> AbiResult<u32> {
        self.guard("Daemon.node_id", |d| Ok(d.node_id()))
    }

    #[inline]
    fn addr(&self) -> AbiResult<u64> {
        self.guard("Daemon.addr", |d| Ok(d.addr().to_u64()))
    }

    fn identity(&self) -> AbiResult<ROption<KeyBytes>> {
        self.guard("Daemon.identity", |d| Ok(d.identity().map(|bytes| KeyBytes { bytes }).into()))
    }

    fn identity_path(&self) -> AbiResult<ROption<RVec<u8>>> {
        self.guard("Daemon.identity_path", |d| Ok(d.identity_path().map(path_to_bytes).into()))
    }

    fn sign(&self, message: RSlice<'_, u8>) -> AbiResult<ROption<SignatureBytes>> {
        self.guard("Daemon.sign", |d| {
            Ok(d.sign(message.as_slice()).map(|bytes| SignatureBytes { bytes }).into())
        })
    }

    fn admin_token(&self) -> AbiResult<RString> {
        self.guard("Daemon.admin_token", |d| Ok(d.admin_token().into()))
    }

    fn trust_auto_approve(&self) -> AbiResult<bool> {
        self.guard("Daemon.trust_auto_approve", |d| Ok(d.trust_auto_approve()))
    }

    fn dial(&self, addr: u64, port: u16, timeout_ms: u64) -> AbiResult<abi::ConnectionArc> {
        self.guard("Daemon.dial", |d| {
            let connection = d.dial(Addr::from_u64(addr), port, Duration::from_millis(timeout_ms))?;
            Ok(connection.lend(&self.link))
        })
    }

    fn dial_async(&self, addr: u64, port: u16) -> AbiResult<FfiFuture<AbiResult<abi::ConnectionArc>>> {
        let link = self.link.clone();
        self.guard("Daemon.dial_async", |d| {
            let dial = d.dial_async(Addr::from_u64(addr), port);
            let lent = contain(dial, move |outcome| match outcome {
                Ok(Ok(connection)) => ROk(connection.lend(&link)),
                Ok(Err(e)) => RErr(e.into()),
                Err(text) => RErr(panicked("Daemon.dial_async", &text).into()),
            });
            Ok(lent.into_ffi())
        })
    }

    #[inline]
    fn send_datagram(&self, addr: u64, port: u16, data: RSlice<'_, u8>) -> AbiResult<()> {
        self.guard("Daemon.send_datagram", |d| d.send_datagram(Addr::from_u64(addr), port, data.as_slice()))
    }

    fn ports(&self) -> AbiResult<abi::PortAllocatorArc> {
        self.guard("Daemon.ports", |d| Ok(d.ports().lend(&self.link)))
    }

    fn tunnels(&self) -> AbiResult<abi::TunnelRegistryArc> {
        self.guard("Daemon.tunnels", |d| Ok(d.tunnels().lend(&self.link)))
    }

    fn bus(&self) -> AbiResult<abi::EventBusArc> {
        self.guard("Daemon.bus", |d| Ok(d.bus().lend(&self.link)))
    }

    #[inline]
    fn publish(&self, topic: RStr<'_>, payload: RStr<'_>) -> AbiResult<()> {
        self.guard("Daemon.publish", |d| {
            d.publish(topic.as_str(), payload_from_json(payload.as_str())?);
            Ok(())
        })
    }

    fn registry_call(&self, op: RStr<'_>, params_json: RStr<'_>) -> AbiResult<RString> {
        self.guard("Daemon.registry_call", |d| {
            json(&d.registry_call(op.as_str(), from_json(params_json.as_str())?)?)
        })
    }

    fn list_nodes(&self, network: u16, token: RStr<'_>) -> AbiResult<RString> {
        self.guard("Daemon.list_nodes", |d| json(&d.list_nodes(network, token.as_str())?))
    }

    fn set_member_tags(&self, network: u16, tags: RVec<RString>) -> AbiResult<()> {
        self.guard("Daemon.set_member_tags", |d| {
            d.set_member_tags(network, tags.into_iter().map(RString::into_string).collect());
            Ok(())
        })
    }

    fn trust_checker(&self) -> AbiResult<ROption<abi::TrustCheckerArc>> {
        self.guard("Daemon.trust_checker", |d| Ok(d.trust_checker().map(|t| t.lend(&self.link)).into()))
    }

    fn register_trust_checker(&self, checker: abi::TrustCheckerArc) -> AbiResult<()> {
        self.guard("Daemon.register_trust_checker", |d| {
            d.register_trust_checker(<dyn api::TrustChecker>::adopt(checker, &self.link));
            Ok(())
        })
    }

    fn handshake_service(&self) -> AbiResult<ROption<abi::HandshakeServiceArc>> {
        self.guard("Daemon.handshake_service", |d| {
            Ok(d.handshake_service().map(|s| s.lend(&self.link)).into())
        })
    }

    fn register_handshake_service(&self, service: abi::HandshakeServiceArc) -> AbiResult<()> {
        self.guard("Daemon.register_handshake_service", |d| {
            d.register_handshake_service(<dyn api::HandshakeService>::adopt(service, &self.link));
            Ok(())
        })
    }

    fn register_policy_manager(&self, manager: abi::PolicyManagerArc) -> AbiResult<()> {
        self.guard("Daemon.register_policy_manager", |d| {
            d.register_policy_manager(<dyn api::PolicyManager>::adopt(manager, &self.link));
            Ok(())
        })
    }

    fn register_webhook_manager(&self, manager: abi::WebhookManagerArc) -> AbiResult<()> {
        self.guard("Daemon.register_webhook_manager", |d| {
            d.register_webhook_manager(<dyn api::WebhookManager>::adopt(manager, &self.link));
            Ok(())
        })
    }

    fn trusted_peers(&self) -> AbiResult<RString> {
        self.guard("Daemon.trusted_peers", |d| json(&d.trusted_peers()))
    }

    fn handshake_revoke_trust(&self, node: u32) -> AbiResult<()> {
        self.guard("Daemon.handshake_revoke_trust", |d| d.handshake_revoke_trust(node))
    }

    fn handshake_send_request(&self, node: u32, reason: RStr<'_>) -> AbiResult<()> {
        self.guard("Daemon.handshake_send_request", |d| d.handshake_send_request(node, reason.as_str()))
    }

    fn open_reply_window(&self, node: u32) -> AbiResult<()> {
        self.guard("Daemon.open_reply_window", |d| {
            d.open_reply_window(node);
            Ok(())
        })
    }

    fn set_webhook_url(&self, url: RStr<'_>) -> AbiResult<()> {
        self.guard("Daemon.set_webhook_url", |d| {
            d.set_webhook_url(url.as_str());
            Ok(())
        })
    }

    fn version_info(&self) -> AbiResult<RString> {
        self.guard("Daemon.version_info", |d| json(&d.version_info()))
    }

    fn config(&self) -> AbiResult<RString> {
        self.guard("Daemon.config", |d| json(&d.config()))
    }

    fn state_dir(&self) -> AbiResult<RVec<u8>> {
        self.guard("Daemon.state_dir", |d| Ok(path_to_bytes(d.state_dir())))
    }

    #[inline]
    fn log_enabled(&self, level: u8, target: RStr<'_>) -> AbiResult<bool> {
        self.guard("Daemon.log_enabled", |d| Ok(d.log_enabled(level, target.as_str())))
    }

    fn log(&self, level: u8, target: RStr<'_>, message: RStr<'_>, fields_json: RStr<'_>) -> AbiResult<()> {
        self.guard("Daemon.log", |d| {
            let fields = payload_from_json(fields_json.as_str())?.unwrap_or_default();
            d.log(level, target.as_str(), message.as_str(), &fields);
            Ok(())
        })
    }

    fn report_fault(&self, op: RStr<'_>, message: RStr<'_>) -> AbiResult<()> {
        self.link.reported(op.as_str(), message.as_str());
        self.guard("Daemon.report_fault", |d| {
            d.report_fault(op.as_str(), message.as_str());
            Ok(())
        })
    }

    fn spawn(&self, future: FfiFuture<()>) -> AbiResult<()> {
        let link = self.link.clone();
        self.guard("Daemon.spawn", |d| {
            d.spawn(Box::pin(contain(future, move |outcome| {
                outcome.unwrap_or_else(|text| link.failed("spawned future", &text));
            })));
            Ok(())
        })
    }

    fn sleep(&self, duration_ms: u64) -> AbiResult<FfiFuture<()>> {
        self.guard("Daemon.sleep", |d| {
            Ok(lend_task(d.sleep(Duration::from_millis(duration_ms)), |text| {
                tracing::error!(panic = text, "the host's timer panicked");
            }))
        })
    }

    #[inline]
    fn bare_node_id(&self) -> u32 {
        self.bare("Daemon.node_id", 0, |d| d.node_id())
    }

    #[inline]
    fn bare_addr(&self) -> u64 {
        self.bare("Daemon.addr", 0, |d| d.addr().to_u64())
    }

    #[inline]
    fn bare_log_enabled(&self, level: u8, target: RStr<'_>) -> bool {
        self.bare("Daemon.log_enabled", false, |d| d.log_enabled(level, target.as_str()))
    }

    fn report_panic(&self, op: RStr<'_>, message: RStr<'_>) -> AbiResult<()> {
        self.link.failed(op.as_str(), message.as_str());
        ROk(())
    }
}

impl Host {
    /// Another reference to the same engine: the generated type is not `Clone`.
    fn share(&self) -> Self {
        let object = Daemon_TO::from_sabi(self.object.obj.shallow_clone());
        Remote { object: self.link.asked(object), link: self.link.clone() }
    }

    // How it is asked where it has no `bare_...` method, or may not be asked at all. Out of line, so that the other way is
    // a jump.

    #[cold]
    #[inline(never)]
    pub(super) fn node_id_1_0(&self) -> u32 {
        self.call_or("Daemon.node_id", 0, |d| d.node_id())
    }

    #[cold]
    #[inline(never)]
    pub(super) fn addr_1_0(&self) -> u64 {
        self.call_or("Daemon.addr", 0, |d| d.addr())
    }

    #[cold]
    #[inline(never)]
    pub(super) fn log_enabled_1_0(&self, level: u8, target: &str) -> bool {
        self.call_or("Daemon.log_enabled", false, |d| d.log_enabled(level, target.into()))
    }

    /// Tells the host that a method of this plugin panicked.
    pub(super) fn report_panic(&self, op: &str, message: &str) {
        self.call_or("Daemon.report_panic", (), |d| d.report_panic(op.into(), message.into()));
    }
}

impl api::Daemon for Host {
    fn treaty(&self) -> (u16, u16) {
        let packed = self.call_or("Daemon.treaty", 0, |d| d.treaty());
        ((packed >> 16) as u16, packed as u16)
    }

    fn node_id(&self) -> u32 {
        match self.object.asks_node_id() {
            Some(node) => node,
            None => self.node_id_1_0(),
        }
    }

    fn addr(&self) -> Addr {
        Addr::from_u64(match self.object.asks_addr() {
            Some(addr) => addr,
            None => self.addr_1_0(),
        })
    }

    fn identity(&self) -> Option<PublicKey> {
        self.call("Daemon.identity", |d| d.identity()).ok()?.into_option().map(|k| k.bytes)
    }

    fn identity_path(&self) -> Option<PathBuf> {
        let path = self.call("Daemon.identity_path", |d| d.identity_path()).ok()?;
        path.into_option().map(path_from_bytes)
    }

    fn sign(&self, message: &[u8]) -> Option<Signature> {
        let signature = self.call("Daemon.sign", |d| d.sign(RSlice::from_slice(message))).ok()?;
        signature.into_option().map(|s| s.bytes)
    }

    fn admin_token(&self) -> String {
        self.call("Daemon.admin_token", |d| d.admin_token()).map(RString::into_string).unwrap_or_default()
    }

    fn trust_auto_approve(&self) -> bool {
        self.call_or("Daemon.trust_auto_approve", false, |d| d.trust_auto_approve())
    }

    fn dial(&self, addr: Addr, port: u16, timeout: Duration) -> Result<Arc<dyn api::Connection>> {
        let connection = self.call("Daemon.dial", |d| d.dial(addr.to_u64(), port, to_ms(timeout)))?;
        Ok(<dyn api::Connection>::adopt(connection, &self.link))
    }

    fn dial_async(&self, addr: Addr, port: u16) -> BoxFuture<Result<Arc<dyn api::Connection>>> {
        let link = self.link.clone();
        match self.call("Daemon.dial_async", |d| d.dial_async(addr.to_u64(), port)) {
            Err(e) => Box::pin(std::future::ready(Err(e))),
            Ok(dial) => Box::pin(contain(dial, move |outcome| match outcome {
                Ok(ROk(connection)) => Ok(<dyn api::Connection>::adopt(connection, &link)),
                Ok(RErr(e)) => Err(Error::from(e)),
                Err(text) => Err(panicked("Daemon.dial_async", &text)),
            })),
        }
    }

    fn send_datagram(&self, addr: Addr, port: u16, data: &[u8]) -> Result<()> {
        self.call("Daemon.send_datagram", |d| d.send_datagram(addr.to_u64(), port, RSlice::from_slice(data)))
    }

    fn ports(&self) -> Arc<dyn api::PortAllocator> {
        self.table::<dyn api::PortAllocator>("Daemon.ports", |d| d.ports())
            .unwrap_or_else(|e| Arc::new(Gone(e)))
    }

    fn tunnels(&self) -> Arc<dyn api::TunnelRegistry> {
        self.table::<dyn api::TunnelRegistry>("Daemon.tunnels", |d| d.tunnels())
            .unwrap_or_else(|e| Arc::new(Gone(e)))
    }

    fn bus(&self) -> Arc<dyn api::EventBus> {
        self.table::<dyn api::EventBus>("Daemon.bus", |d| d.bus()).unwrap_or_else(|e| Arc::new(Gone(e)))
    }

    fn publish(&self, topic: &str, payload: Option<Map<String, Value>>) {
        let Ok(text) = payload_json(payload.as_ref()) else { return };
        self.call_or("Daemon.publish", (), |d| d.publish(topic.into(), text.as_str().into()));
    }

    fn registry_call(&self, op: &str, params: Map<String, Value>) -> Result<Map<String, Value>> {
        let params = json(&params)?;
        let answer = self.call("Daemon.registry_call", |d| d.registry_call(op.into(), params.as_rstr()))?;
        from_json(&answer)
    }

    fn list_nodes(&self, network: u16, token: &str) -> Result<Map<String, Value>> {
        from_json(&self.call("Daemon.list_nodes", |d| d.list_nodes(network, token.into()))?)
    }

    fn set_member_tags(&self, network: u16, tags: Vec<String>) {
        let tags = tags.into_iter().map(RString::from).collect();
        self.call_or("Daemon.set_member_tags", (), |d| d.set_member_tags(network, tags));
    }

    fn trust_checker(&self) -> Option<Arc<dyn api::TrustChecker>> {
        self.call("Daemon.trust_checker", |d| d.trust_checker())
            .ok()
            .and_then(|t| adopt_option(t, &self.link))
    }

    fn register_trust_checker(&self, checker: Arc<dyn api::TrustChecker>) {
        let lent = checker.lend(&self.link);
        self.call_or("Daemon.register_trust_checker", (), |d| d.register_trust_checker(lent));
    }

    fn handshake_service(&self) -> Option<Arc<dyn api::HandshakeService>> {
        let service = self.call("Daemon.handshake_service", |d| d.handshake_service()).ok()?;
        adopt_option(service, &self.link)
    }

    fn register_handshake_service(&self, service: Arc<dyn api::HandshakeService>) {
        let lent = service.lend(&self.link);
        self.call_or("Daemon.register_handshake_service", (), |d| d.register_handshake_service(lent));
    }

    fn register_policy_manager(&self, manager: Arc<dyn api::PolicyManager>) {
        let lent = manager.lend(&self.link);
        self.call_or("Daemon.register_policy_manager", (), |d| d.register_policy_manager(lent));
    }

    fn register_webhook_manager(&self, manager: Arc<dyn api::WebhookManager>) {
        let lent = manager.lend(&self.link);
        self.call_or("Daemon.register_webhook_manager", (), |d| d.register_webhook_manager(lent));
    }

    fn trusted_peers(&self) -> Vec<HandshakeTrustRecord> {
        let text = self.call("Daemon.trusted_peers", |d| d.trusted_peers());
        text.and_then(|t| from_json(&t)).unwrap_or_default()
    }

    fn handshake_revoke_trust(&self, node: u32) -> Result<()> {
        self.call("Daemon.handshake_revoke_trust", |d| d.handshake_revoke_trust(node))
    }

    fn handshake_send_request(&self, node: u32, reason: &str) -> Result<()> {
        self.call("Daemon.handshake_send_request", |d| d.handshake_send_request(node, reason.into()))
    }

    fn open_reply_window(&self, node: u32) {
        self.call_or("Daemon.open_reply_window", (), |d| d.open_reply_window(node));
    }

    fn set_webhook_url(&self, url: &str) {
        self.call_or("Daemon.set_webhook_url", (), |d| d.set_webhook_url(url.into()));
    }

    fn version_info(&self) -> VersionInfo {
        let text = self.call("Daemon.version_info", |d| d.version_info());
        text.and_then(|t| from_json(&t)).unwrap_or_default()
    }

    fn config(&self) -> Value {
        let text = self.call("Daemon.config", |d| d.config());
        text.and_then(|t| from_json(&t)).unwrap_or_else(|_| Value::Object(Map::new()))
    }

    fn state_dir(&self) -> PathBuf {
        path_from_bytes(self.call_or("Daemon.state_dir", RVec::new(), |d| d.state_dir()))
    }

    fn log_enabled(&self, level: u8, target: &str) -> bool {
        match self.object.asks_log_enabled(level, target.into()) {
            Some(enabled) => enabled,
            None => self.log_enabled_1_0(level, target),
        }
    }

    fn log(&self, level: u8, target: &str, message: &str, fields: &Map<String, Value>) {
        let fields = if fields.is_empty() { RString::new() } else { json(fields).unwrap_or_default() };
        self.call_or("Daemon.log", (), |d| d.log(level, target.into(), message.into(), fields.as_rstr()));
    }

    fn report_fault(&self, op: &str, message: &str) {
        self.call_or("Daemon.report_fault", (), |d| d.report_fault(op.into(), message.into()));
    }

    fn spawn(&self, future: BoxFuture<()>) {
        let daemon = self.share();
        let task = lend_task(future, move |text| api::Daemon::report_fault(&daemon, "spawned future", &text));
        self.call_or("Daemon.spawn", (), |d| d.spawn(task));
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<()> {
        match self.call("Daemon.sleep", |d| d.sleep(to_ms(duration))) {
            Ok(sleep) => Box::pin(contain(sleep, |_| ())),
            Err(_) => Box::pin(std::future::ready(())),
        }
    }
}

impl Host {
    /// Fetches one of the tables.
    fn table<T: Border + ?Sized>(
        &self,
        op: &str,
        f: impl FnOnce(&Asked<abi::DaemonArc>) -> AbiResult<T::Ffi>,
    ) -> Result<Arc<T>> {
        Ok(T::adopt(self.call(op, f)?, &self.link))
    }
}

fn path_to_bytes(path: PathBuf) -> RVec<u8> {
    path.as_os_str().as_bytes().to_vec().into()
}

fn path_from_bytes(bytes: RVec<u8>) -> PathBuf {
    OsString::from_vec(bytes.into_vec()).into()
}
