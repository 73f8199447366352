//! `Daemon` for the fake: settings read back, calls recorded.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::{FakeDaemon, LogLine, SentDatagram, run};
use crate::api::{
    BoxFuture, Connection, Daemon, EventBus, HandshakeService, PolicyManager, PortAllocator, Subscription,
    TrustChecker, TunnelRegistry, WebhookManager,
};
use crate::types::{Addr, HandshakeTrustRecord, PublicKey, Signature, VersionInfo};
use crate::{Error, ErrorKind, Result};

impl Daemon for FakeDaemon {
    fn node_id(&self) -> u32 {
        self.lock().node_id
    }

    fn addr(&self) -> Addr {
        Addr::backbone(self.lock().node_id)
    }

    fn identity(&self) -> Option<PublicKey> {
        self.lock().identity
    }

    fn identity_path(&self) -> Option<PathBuf> {
        self.lock().identity_path.clone()
    }

    fn sign(&self, message: &[u8]) -> Option<Signature> {
        let sign = self.lock().sign.clone()?;
        Some(sign(message))
    }

    fn admin_token(&self) -> String {
        self.lock().admin_token.clone()
    }

    fn trust_auto_approve(&self) -> bool {
        self.lock().trust_auto_approve
    }

    fn dial(&self, addr: Addr, port: u16, _timeout: Duration) -> Result<Arc<dyn Connection>> {
        self.dial_now(addr, port)
    }

    fn dial_async(&self, addr: Addr, port: u16) -> BoxFuture<Result<Arc<dyn Connection>>> {
        let me = self.me.clone();
        Box::pin(async move {
            let daemon = me.upgrade().ok_or_else(|| Error::new(ErrorKind::Closed, "the daemon is gone"))?;
            daemon.dial_now(addr, port)
        })
    }

    fn send_datagram(&self, addr: Addr, port: u16, data: &[u8]) -> Result<()> {
        self.record(|s| s.datagrams.push(SentDatagram { addr, port, data: data.to_vec() }));
        Ok(())
    }

    fn ports(&self) -> Arc<dyn PortAllocator> {
        self.ports.clone()
    }

    fn tunnels(&self) -> Arc<dyn TunnelRegistry> {
        Arc::new(Tables(self.me.clone()))
    }

    fn bus(&self) -> Arc<dyn EventBus> {
        Arc::new(Tables(self.me.clone()))
    }

    fn publish(&self, topic: &str, payload: Option<Map<String, Value>>) {
        self.publish_event(topic, payload);
    }

    fn registry_call(&self, op: &str, params: Map<String, Value>) -> Result<Map<String, Value>> {
        let handler = self.lock().registry.clone();
        let answer = match handler {
            Some(handler) => handler(op, &params),
            None => Err(Error::new(ErrorKind::Registry, "registry connection not initialized")),
        };
        // Recorded after it was answered: who waits for the record may rely on the answer's effects.
        self.record(|s| s.registry_calls.push((op.to_owned(), params)));
        answer
    }

    fn list_nodes(&self, network: u16, token: &str) -> Result<Map<String, Value>> {
        let handler = self.lock().list_nodes.clone();
        match handler {
            Some(handler) => handler(network, token),
            None => {
                let mut params = Map::new();
                params.insert("network_id".into(), network.into());
                params.insert("admin_token".into(), token.into());
                self.registry_call("list_nodes", params)
            }
        }
    }

    fn set_member_tags(&self, network: u16, tags: Vec<String>) {
        self.record(|s| {
            s.member_tags.insert(network, tags);
        });
    }

    fn trust_checker(&self) -> Option<Arc<dyn TrustChecker>> {
        self.lock().trust_checker.clone()
    }

    fn register_trust_checker(&self, checker: Arc<dyn TrustChecker>) {
        drop(self.record(|s| s.trust_checker.replace(checker)));
    }

    fn handshake_service(&self) -> Option<Arc<dyn HandshakeService>> {
        self.lock().handshake_service.clone()
    }

    fn register_handshake_service(&self, service: Arc<dyn HandshakeService>) {
        drop(self.record(|s| s.handshake_service.replace(service)));
    }

    fn register_policy_manager(&self, manager: Arc<dyn PolicyManager>) {
        drop(self.record(|s| s.policy_manager.replace(manager)));
    }

    fn register_webhook_manager(&self, manager: Arc<dyn WebhookManager>) {
        drop(self.record(|s| s.webhook_manager.replace(manager)));
    }

    fn trusted_peers(&self) -> Vec<HandshakeTrustRecord> {
        self.handshake_service().map(|s| s.trusted_peers()).unwrap_or_default()
    }

    fn handshake_revoke_trust(&self, node: u32) -> Result<()> {
        self.service()?.revoke_trust(node)
    }

    fn handshake_send_request(&self, node: u32, reason: &str) -> Result<()> {
        self.service()?.send_request(node, reason)
    }

    fn open_reply_window(&self, node: u32) {
        self.record(|s| s.reply_windows.push(node));
    }

    fn set_webhook_url(&self, url: &str) {
        let manager = self.webhook_manager();
        if let Some(manager) = manager {
            // The real daemon has validated the URL before this point and ignores the rest.
            let _ = manager.set_url(url);
        }
    }

    fn version_info(&self) -> VersionInfo {
        self.lock().version.clone()
    }

    fn config(&self) -> Value {
        self.lock().config.clone()
    }

    fn state_dir(&self) -> PathBuf {
        self.lock().state_dir.clone()
    }

    fn log_enabled(&self, level: u8, _target: &str) -> bool {
        level <= self.lock().log_level
    }

    fn log(&self, level: u8, target: &str, message: &str, fields: &Map<String, Value>) {
        let line =
            LogLine { level, target: target.to_owned(), message: message.to_owned(), fields: fields.clone() };
        self.record(|s| s.logs.push(line));
    }

    fn report_fault(&self, op: &str, message: &str) {
        self.record(|s| s.faults.push((op.to_owned(), message.to_owned())));
    }

    fn spawn(&self, future: BoxFuture<()>) {
        run::spawn(future);
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<()> {
        run::sleep(duration)
    }
}

impl FakeDaemon {
    fn service(&self) -> Result<Arc<dyn HandshakeService>> {
        self.handshake_service()
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "handshake service not registered"))
    }
}

/// Tunnel table and bus are views of the daemon; weak, so that a plugin that keeps one does not keep the daemon.
struct Tables(std::sync::Weak<FakeDaemon>);

impl TunnelRegistry for Tables {
    fn remove_peer(&self, node: u32) {
        if let Some(daemon) = self.0.upgrade() {
            daemon.record(|s| s.removed_peers.push(node));
        }
    }
}

impl EventBus for Tables {
    fn publish(&self, topic: &str, payload: Option<Map<String, Value>>) {
        if let Some(daemon) = self.0.upgrade() {
            daemon.publish_event(topic, payload);
        }
    }

    fn subscribe(&self, pattern: &str) -> Arc<dyn Subscription> {
        match self.0.upgrade() {
            Some(daemon) => daemon.subscribers.subscribe(pattern),
            None => {
                let none = super::Subscribers::default().subscribe(pattern);
                none.cancel();
                none
            }
        }
    }
}
