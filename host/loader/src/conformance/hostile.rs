//! A daemon whose every method breaks: the worst host that a plugin can meet. On the way to the plugin each panic
//! becomes an error or a safe answer, and what the plugin makes of that must not reach beyond itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use plugin_abi::api::BoxFuture;
use plugin_abi::{
    Addr, Connection, Daemon, Error, EventBus, HandshakeService, HandshakeTrustRecord, PolicyManager,
    PortAllocator, PublicKey, Result, Signature, TrustChecker, TunnelRegistry, VersionInfo, WebhookManager,
};
use serde_json::{Map, Value};

/// What the panics say.
pub(super) const TEXT: &str = "a daemon that breaks on purpose";

/// See the module's documentation.
pub(super) struct Hostile;

fn broken<T>() -> T {
    // Not a mistake: the point of this daemon. `resume_unwind` does not call the panic hook, so nothing is printed.
    std::panic::resume_unwind(Box::new(TEXT))
}

fn refused<T>() -> Result<T> {
    Err(Error::other(TEXT))
}

impl Daemon for Hostile {
    fn treaty(&self) -> (u16, u16) {
        broken()
    }
    fn node_id(&self) -> u32 {
        broken()
    }
    fn addr(&self) -> Addr {
        broken()
    }
    fn identity(&self) -> Option<PublicKey> {
        broken()
    }
    fn identity_path(&self) -> Option<PathBuf> {
        broken()
    }
    fn sign(&self, _: &[u8]) -> Option<Signature> {
        broken()
    }
    fn admin_token(&self) -> String {
        broken()
    }
    fn trust_auto_approve(&self) -> bool {
        broken()
    }
    fn dial(&self, _: Addr, _: u16, _: Duration) -> Result<Arc<dyn Connection>> {
        refused()
    }
    fn dial_async(&self, _: Addr, _: u16) -> BoxFuture<Result<Arc<dyn Connection>>> {
        Box::pin(async { broken() })
    }
    fn send_datagram(&self, _: Addr, _: u16, _: &[u8]) -> Result<()> {
        refused()
    }
    fn ports(&self) -> Arc<dyn PortAllocator> {
        broken()
    }
    fn tunnels(&self) -> Arc<dyn TunnelRegistry> {
        broken()
    }
    fn bus(&self) -> Arc<dyn EventBus> {
        broken()
    }
    fn publish(&self, _: &str, _: Option<Map<String, Value>>) {
        broken()
    }
    fn registry_call(&self, _: &str, _: Map<String, Value>) -> Result<Map<String, Value>> {
        broken()
    }
    fn list_nodes(&self, _: u16, _: &str) -> Result<Map<String, Value>> {
        broken()
    }
    fn set_member_tags(&self, _: u16, _: Vec<String>) {
        broken()
    }
    fn trust_checker(&self) -> Option<Arc<dyn TrustChecker>> {
        broken()
    }
    fn register_trust_checker(&self, _: Arc<dyn TrustChecker>) {
        broken()
    }
    fn handshake_service(&self) -> Option<Arc<dyn HandshakeService>> {
        broken()
    }
    fn register_handshake_service(&self, _: Arc<dyn HandshakeService>) {
        broken()
    }
    fn register_policy_manager(&self, _: Arc<dyn PolicyManager>) {
        broken()
    }
    fn register_webhook_manager(&self, _: Arc<dyn WebhookManager>) {
        broken()
    }
    fn trusted_peers(&self) -> Vec<HandshakeTrustRecord> {
        broken()
    }
    fn handshake_revoke_trust(&self, _: u32) -> Result<()> {
        broken()
    }
    fn handshake_send_request(&self, _: u32, _: &str) -> Result<()> {
        broken()
    }
    fn open_reply_window(&self, _: u32) {
        broken()
    }
    fn set_webhook_url(&self, _: &str) {
        broken()
    }
    fn version_info(&self) -> VersionInfo {
        broken()
    }
    fn config(&self) -> Value {
        broken()
    }
    fn state_dir(&self) -> PathBuf {
        broken()
    }
    fn log_enabled(&self, _: u8, _: &str) -> bool {
        broken()
    }
    fn log(&self, _: u8, _: &str, _: &str, _: &Map<String, Value>) {
        broken()
    }
    fn report_fault(&self, _: &str, _: &str) {
        broken()
    }
    fn spawn(&self, _: BoxFuture<()>) {
        broken()
    }
    fn sleep(&self, _: Duration) -> BoxFuture<()> {
        Box::pin(async { broken() })
    }
}
