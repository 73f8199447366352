//! The daemon as an isolated plugin sees it. What never changes was sent with `init` and is answered here; futures run
//! here; everything else asks the host.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use plugin_abi::api::BoxFuture;
use plugin_abi::{
    Addr, Connection, Daemon, Error, EventBus, HandshakeService, HandshakeTrustRecord, PolicyManager,
    PortAllocator, PublicKey, Result, Signature, TrustChecker, TunnelRegistry, VersionInfo, WebhookManager,
};
use serde_json::{Map, Value};

use super::executor::Executor;
use super::home::Home;
use super::stream::{ChildBus, ChildPorts, ChildStream, ChildTunnels};
use crate::child::frame::Raw;
use crate::child::link::Link;
use crate::child::message::{Answer, Facts, Handshake, Mention, Service, ToHost, map_from, map_text, unpack};
use crate::child::outbox::Patience;
use crate::child::services::{AskTrust, Pace, RemoteChecker, RemoteHandshake};

pub(super) struct ChildDaemon {
    link: Arc<Link>,
    facts: Facts,
    config: Value,
    home: Arc<Home>,
    executor: Arc<Executor>,
}

impl ChildDaemon {
    pub fn new(link: &Arc<Link>, facts: Facts, home: &Arc<Home>) -> Self {
        let config = serde_json::from_str(&facts.config_json).unwrap_or_else(|_| Value::Object(Map::new()));
        ChildDaemon {
            link: Arc::clone(link),
            facts,
            config,
            home: Arc::clone(home),
            executor: Arc::default(),
        }
    }

    fn ask(&self, op: &'static str, call: &ToHost) -> Result<(Answer, Raw)> {
        Ok(self.link.call(op, call, &[], None)?)
    }

    fn done(&self, op: &'static str, call: &ToHost) -> Result<()> {
        unpack!(self.ask(op, call), op, Answer::Done => ())
    }

    fn map(&self, op: &'static str, call: &ToHost) -> Result<Map<String, Value>> {
        map_from(&unpack!(self.ask(op, call), op, Answer::Text(text) => text)?)
    }

    fn there(&self, op: &'static str, call: &ToHost) -> bool {
        unpack!(self.ask(op, call), op, Answer::Flag(yes) => yes).unwrap_or(false)
    }
}

/// An event to the host's bus.
pub(super) fn publish(link: &Link, topic: &str, payload: Option<Map<String, Value>>) {
    let payload = payload.map(|p| Value::Object(p).to_string());
    let _ = link.note(&Mention::Publish { topic: topic.to_owned(), payload }, Patience::Endless);
}

/// Gives back what a dial brought to nobody, or stops the dial.
fn dial_unwanted(link: &Link, outcome: Result<Answer, u32>) {
    let note = match outcome {
        Ok(Answer::Stream(stream)) => Mention::ReleaseStream { stream: stream.handle },
        Ok(_) => return,
        Err(call) => Mention::Cancel { call },
    };
    let _ = link.note(&note, Patience::Endless);
}

impl Daemon for ChildDaemon {
    fn treaty(&self) -> (u16, u16) {
        self.facts.treaty
    }

    fn node_id(&self) -> u32 {
        let id = unpack!(self.ask("node_id", &ToHost::NodeId), "node_id", Answer::Number(n) => n);
        id.ok().and_then(|n| u32::try_from(n).ok()).unwrap_or(0)
    }

    fn addr(&self) -> Addr {
        let addr = unpack!(self.ask("addr", &ToHost::Addr), "addr", Answer::Number(n) => n);
        addr.map(Addr::from_u64).unwrap_or_default()
    }

    fn identity(&self) -> Option<PublicKey> {
        match self.ask("identity", &ToHost::Identity) {
            Ok((Answer::Data, raw)) => PublicKey::try_from(&*raw).ok(),
            _ => None,
        }
    }

    fn identity_path(&self) -> Option<PathBuf> {
        self.facts.identity_path.clone()
    }

    fn sign(&self, message: &[u8]) -> Option<Signature> {
        match self.link.call("sign", &ToHost::Sign, message, None) {
            Ok((Answer::Data, raw)) => Signature::try_from(&*raw).ok(),
            _ => None,
        }
    }

    fn admin_token(&self) -> String {
        let answer = self.ask("admin_token", &ToHost::AdminToken);
        unpack!(answer, "admin_token", Answer::Text(text) => text).unwrap_or_default()
    }

    fn trust_auto_approve(&self) -> bool {
        self.facts.trust_auto_approve
    }

    fn dial(&self, addr: Addr, port: u16, timeout: Duration) -> Result<Arc<dyn Connection>> {
        let answer = self.ask("dial", &ToHost::Dial { addr: addr.to_u64(), port, timeout });
        let stream = unpack!(answer, "dial", Answer::Stream(stream) => stream)?;
        Ok(ChildStream::adopt(&self.link, &stream))
    }

    fn dial_async(&self, addr: Addr, port: u16) -> BoxFuture<Result<Arc<dyn Connection>>> {
        let link = Arc::clone(&self.link);
        Box::pin(async move {
            let ask = ToHost::DialAsync { addr: addr.to_u64(), port };
            let answer = link.call_async("dial_async", &ask, dial_unwanted)?.await;
            let stream = unpack!(answer, "dial_async", Answer::Stream(stream) => stream)?;
            Ok(ChildStream::adopt(&link, &stream))
        })
    }

    fn send_datagram(&self, addr: Addr, port: u16, data: &[u8]) -> Result<()> {
        let ask = ToHost::SendDatagram { addr: addr.to_u64(), port };
        let answer = self.link.call("send_datagram", &ask, data, None).map_err(Error::from);
        unpack!(answer, "send_datagram", Answer::Done => ())
    }

    fn ports(&self) -> Arc<dyn PortAllocator> {
        Arc::new(ChildPorts(Arc::clone(&self.link)))
    }

    fn tunnels(&self) -> Arc<dyn TunnelRegistry> {
        Arc::new(ChildTunnels(Arc::clone(&self.link)))
    }

    fn bus(&self) -> Arc<dyn EventBus> {
        Arc::new(ChildBus(Arc::clone(&self.link)))
    }

    fn publish(&self, topic: &str, payload: Option<Map<String, Value>>) {
        publish(&self.link, topic, payload);
    }

    fn registry_call(&self, op: &str, params: Map<String, Value>) -> Result<Map<String, Value>> {
        let params = map_text(&params)?;
        self.map("registry_call", &ToHost::RegistryCall { op: op.to_owned(), params })
    }

    fn list_nodes(&self, network: u16, token: &str) -> Result<Map<String, Value>> {
        self.map("list_nodes", &ToHost::ListNodes { network, token: token.to_owned() })
    }

    fn set_member_tags(&self, network: u16, tags: Vec<String>) {
        let _ = self.done("set_member_tags", &ToHost::SetMemberTags { network, tags });
    }

    fn trust_checker(&self) -> Option<Arc<dyn TrustChecker>> {
        let there = self.there("trust_checker", &ToHost::HasTrustChecker);
        there.then(|| Arc::new(RemoteChecker(Arc::clone(&self.link))) as _)
    }

    fn register_trust_checker(&self, checker: Arc<dyn TrustChecker>) {
        self.home.set_checker(checker);
        let _ = self.done("register_trust_checker", &ToHost::Register(Service::TrustChecker));
    }

    fn handshake_service(&self) -> Option<Arc<dyn HandshakeService>> {
        let there = self.there("handshake_service", &ToHost::HasHandshake);
        there.then(|| Arc::new(RemoteHandshake(Arc::clone(&self.link))) as _)
    }

    fn register_handshake_service(&self, service: Arc<dyn HandshakeService>) {
        self.home.set_handshake(service);
        let _ = self.done("register_handshake_service", &ToHost::Register(Service::Handshake));
    }

    fn register_policy_manager(&self, manager: Arc<dyn PolicyManager>) {
        self.home.set_policy(manager);
        let _ = self.done("register_policy_manager", &ToHost::Register(Service::Policy));
    }

    fn register_webhook_manager(&self, manager: Arc<dyn WebhookManager>) {
        self.home.set_webhook(manager);
        let _ = self.done("register_webhook_manager", &ToHost::Register(Service::Webhook));
    }

    fn trusted_peers(&self) -> Vec<HandshakeTrustRecord> {
        let answer = self.ask("trusted_peers", &ToHost::TrustedPeers);
        unpack!(answer, "trusted_peers", Answer::Trusted(list) => list).unwrap_or_default()
    }

    fn handshake_revoke_trust(&self, node: u32) -> Result<()> {
        self.done("handshake_revoke_trust", &ToHost::RevokeTrust { node })
    }

    fn handshake_send_request(&self, node: u32, reason: &str) -> Result<()> {
        self.done("handshake_send_request", &ToHost::SendRequest { node, reason: reason.to_owned() })
    }

    fn open_reply_window(&self, node: u32) {
        let _ = self.done("open_reply_window", &ToHost::OpenReplyWindow { node });
    }

    fn set_webhook_url(&self, url: &str) {
        let _ = self.done("set_webhook_url", &ToHost::SetWebhookUrl { url: url.to_owned() });
    }

    fn version_info(&self) -> VersionInfo {
        self.facts.version.clone()
    }

    fn config(&self) -> Value {
        self.config.clone()
    }

    fn state_dir(&self) -> PathBuf {
        self.facts.state_dir.clone()
    }

    fn log_enabled(&self, level: u8, _target: &str) -> bool {
        self.home.logs.enabled(level)
    }

    fn log(&self, level: u8, target: &str, message: &str, fields: &Map<String, Value>) {
        if self.home.logs.enabled(level) {
            self.home.logs.put(level, target, message, map_text(fields).unwrap_or_else(|_| "{}".to_owned()));
        }
    }

    fn report_fault(&self, op: &str, message: &str) {
        let clip = |text: &str| text[..text.floor_char_boundary(text.len().min(4096))].to_owned();
        let fault = Mention::Fault { op: clip(op), message: clip(message), failed: self.home.failed() };
        // What led to it was logged before: keep the order.
        self.home.logs.flush();
        let _ = self.link.note(&fault, Patience::Endless);
    }

    fn spawn(&self, future: BoxFuture<()>) {
        self.executor.spawn(future);
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<()> {
        self.executor.sleep(duration)
    }
}

impl AskTrust for Arc<Link> {
    fn handshake(&self, op: &'static str, ask: Handshake, _: Pace) -> Result<(Answer, Raw)> {
        Ok(self.call(op, &ToHost::Handshake(ask), &[], None)?)
    }

    fn check(&self, node: u32) -> Result<(Answer, Raw)> {
        Ok(self.call("is_trusted", &ToHost::TrustCheck { node }, &[], None)?)
    }
}
