//! The daemon of this suite: every method does as little as it can, so that what is measured is the way there and back.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pilot_bench_plugin::loops::{ECHO, TOPIC};
use pilot_net::bus::{Bus, BusSubscription};
use pilot_net::queue::Waited;
use plugin_abi::api::BoxFuture;
use plugin_abi::{
    Addr, Connection, ConnectionInfo, Daemon, Error, ErrorKind, Event, EventBus, EventText, HandshakeService,
    HandshakeTrustRecord, PolicyManager, PortAllocator, PublicKey, Result, Signature, Subscription,
    TrustChecker, TunnelRegistry, VersionInfo, WebhookManager,
};
use serde_json::{Map, Value, json};

type Registered = (Option<Arc<dyn HandshakeService>>, Option<Arc<dyn PolicyManager>>);

/// See the module's documentation.
#[derive(Default)]
pub(super) struct BenchDaemon {
    registered: Mutex<Registered>,
    bus: Bus,
    spawned: Mutex<Option<BoxFuture<()>>>,
}

impl BenchDaemon {
    /// The future that was spawned last.
    pub(super) fn spawned(&self) -> Option<BoxFuture<()>> {
        self.spawned.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What the plugin registered in its `init`.
    pub(super) fn registered(&self) -> Option<(Arc<dyn HandshakeService>, Arc<dyn PolicyManager>)> {
        let registered = self.registered.lock().unwrap_or_else(PoisonError::into_inner);
        registered.0.clone().zip(registered.1.clone())
    }
}

fn nothing<T>() -> Result<T> {
    Err(Error::unsupported("this daemon only measures"))
}

impl Daemon for BenchDaemon {
    fn node_id(&self) -> u32 {
        7
    }

    fn addr(&self) -> Addr {
        Addr::backbone(7)
    }

    fn identity(&self) -> Option<PublicKey> {
        None
    }

    fn identity_path(&self) -> Option<PathBuf> {
        None
    }

    fn sign(&self, _message: &[u8]) -> Option<Signature> {
        None
    }

    fn admin_token(&self) -> String {
        String::new()
    }

    fn trust_auto_approve(&self) -> bool {
        false
    }

    fn dial(&self, _addr: Addr, port: u16, _timeout: Duration) -> Result<Arc<dyn Connection>> {
        Ok(stream(port))
    }

    fn dial_async(&self, _addr: Addr, port: u16) -> BoxFuture<Result<Arc<dyn Connection>>> {
        Box::pin(std::future::ready(Ok(stream(port))))
    }

    fn send_datagram(&self, _addr: Addr, _port: u16, _data: &[u8]) -> Result<()> {
        nothing()
    }

    fn ports(&self) -> Arc<dyn PortAllocator> {
        Arc::new(Tables)
    }

    fn tunnels(&self) -> Arc<dyn TunnelRegistry> {
        Arc::new(Tables)
    }

    fn bus(&self) -> Arc<dyn EventBus> {
        Arc::new(HostBus(self.bus.clone()))
    }

    fn publish(&self, topic: &str, payload: Option<Map<String, Value>>) {
        self.bus.publish(topic, payload);
    }

    fn registry_call(&self, _op: &str, _params: Map<String, Value>) -> Result<Map<String, Value>> {
        nothing()
    }

    fn list_nodes(&self, _network: u16, _token: &str) -> Result<Map<String, Value>> {
        nothing()
    }

    fn set_member_tags(&self, _network: u16, _tags: Vec<String>) {}

    fn trust_checker(&self) -> Option<Arc<dyn TrustChecker>> {
        None
    }

    fn register_trust_checker(&self, _checker: Arc<dyn TrustChecker>) {}

    fn handshake_service(&self) -> Option<Arc<dyn HandshakeService>> {
        None
    }

    fn register_handshake_service(&self, service: Arc<dyn HandshakeService>) {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner).0 = Some(service);
    }

    fn register_policy_manager(&self, manager: Arc<dyn PolicyManager>) {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner).1 = Some(manager);
    }

    fn register_webhook_manager(&self, _manager: Arc<dyn WebhookManager>) {}

    fn trusted_peers(&self) -> Vec<HandshakeTrustRecord> {
        Vec::new()
    }

    fn handshake_revoke_trust(&self, _node: u32) -> Result<()> {
        nothing()
    }

    fn handshake_send_request(&self, _node: u32, _reason: &str) -> Result<()> {
        nothing()
    }

    fn open_reply_window(&self, _node: u32) {}

    /// Publishes one batch for the fan-out rows.
    fn set_webhook_url(&self, _url: &str) {
        for number in 0..64 {
            let payload = json!({
                "peer_node_id": number, "state": "granted", "reason": "same_network", "size": 4096,
            });
            let Value::Object(payload) = payload else { continue };
            self.bus.publish(TOPIC, Some(payload));
        }
    }

    fn version_info(&self) -> VersionInfo {
        VersionInfo::default()
    }

    fn config(&self) -> Value {
        Value::Object(Map::new())
    }

    fn state_dir(&self) -> PathBuf {
        PathBuf::new()
    }

    fn log_enabled(&self, _level: u8, _target: &str) -> bool {
        false
    }

    fn log(&self, _level: u8, _target: &str, _message: &str, _fields: &Map<String, Value>) {}

    fn report_fault(&self, op: &str, message: &str) {
        eprintln!("bench: the plugin reports a fault in {op}: {message}");
    }

    fn spawn(&self, future: BoxFuture<()>) {
        *self.spawned.lock().unwrap_or_else(PoisonError::into_inner) = Some(future);
    }

    fn sleep(&self, _duration: Duration) -> BoxFuture<()> {
        Box::pin(std::future::ready(()))
    }
}

fn stream(port: u16) -> Arc<dyn Connection> {
    if port == ECHO { Arc::new(Echo::default()) } else { Arc::new(Sink(vec![0; 64 << 10])) }
}

/// Takes everything, gives zeros.
struct Sink(Vec<u8>);

impl Connection for Sink {
    fn id(&self) -> u32 {
        1
    }

    fn info(&self) -> ConnectionInfo {
        ConnectionInfo::default()
    }

    fn read(&self, buf: &mut [u8]) -> Result<usize> {
        let n = buf.len().min(self.0.len());
        buf[..n].copy_from_slice(&self.0[..n]);
        Ok(n)
    }

    fn write(&self, data: &[u8]) -> Result<()> {
        std::hint::black_box(data.first());
        Ok(())
    }

    fn set_read_timeout(&self, _timeout: Option<Duration>) -> Result<()> {
        Ok(())
    }

    fn close(&self) {}
}

/// Gives back what it was sent.
#[derive(Default)]
struct Echo(Mutex<Vec<u8>>);

impl Connection for Echo {
    fn id(&self) -> u32 {
        2
    }

    fn info(&self) -> ConnectionInfo {
        ConnectionInfo::default()
    }

    fn read(&self, buf: &mut [u8]) -> Result<usize> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let n = buf.len().min(held.len());
        buf[..n].copy_from_slice(&held[..n]);
        held.drain(..n);
        Ok(n)
    }

    fn write(&self, data: &[u8]) -> Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(data);
        Ok(())
    }

    fn set_read_timeout(&self, _timeout: Option<Duration>) -> Result<()> {
        Ok(())
    }

    fn close(&self) {}
}

struct Tables;

impl PortAllocator for Tables {
    fn bind(&self, _port: u16) -> Result<Arc<dyn plugin_abi::Listener>> {
        nothing()
    }

    fn unbind(&self, _port: u16) {}
}

impl TunnelRegistry for Tables {
    fn remove_peer(&self, _node: u32) {}
}

/// The host's own bus, adapted as the host adapts it.
struct HostBus(Bus);

impl EventBus for HostBus {
    fn publish(&self, topic: &str, payload: Option<Map<String, Value>>) {
        self.0.publish(topic, payload);
    }

    fn subscribe(&self, pattern: &str) -> Arc<dyn Subscription> {
        Arc::new(HostSubscription(self.0.subscribe(pattern)))
    }
}

struct HostSubscription(BusSubscription);

impl Subscription for HostSubscription {
    fn recv(&self, timeout: Duration) -> Result<Option<Event>> {
        match self.0.next_blocking(timeout) {
            Waited::Item(e) => Ok(Some(Event {
                topic: e.topic.clone(),
                node_id: e.node_id,
                time: e.time,
                payload: e.payload.clone(),
            })),
            Waited::TimedOut => Ok(None),
            Waited::Closed => Err(Error::new(ErrorKind::Closed, "subscription cancelled")),
        }
    }

    fn recv_text(&self, timeout: Duration) -> Result<Option<EventText>> {
        match self.0.next_blocking(timeout) {
            Waited::Item(e) => Ok(Some(EventText {
                topic: e.topic.clone(),
                node_id: e.node_id,
                time: e.time,
                payload: e.payload_text().map(str::to_owned),
            })),
            Waited::TimedOut => Ok(None),
            Waited::Closed => Err(Error::new(ErrorKind::Closed, "subscription cancelled")),
        }
    }

    fn cancel(&self) {
        self.0.cancel();
    }
}
