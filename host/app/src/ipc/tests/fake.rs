//! A daemon made of channels: every stream, listener and answer is in the test's hands, and everything it is asked is
//! written to a log that tests can wait for.

use std::collections::HashMap;
use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use pilot_net::node::Datagram;
use pilot_wire::addr::Addr;
use plugin_abi::{
    Error, HandshakePendingRecord, HandshakeService, HandshakeTrustRecord, PolicyManager, WebhookManager,
    WebhookStats,
};
use serde_json::{Value, json};
use tokio::sync::{Mutex as AsyncMutex, Semaphore, broadcast, mpsc, watch};

use super::peer::{Far, looped};
use crate::ipc::*;

/// Dialling these ports has a fixed outcome; all others connect.
pub const REFUSED: u16 = 1;
pub const HANGING: u16 = 2;

pub const SELF: u32 = 2;
pub const PEER: Addr = Addr { network: 0, node: 7 };

#[derive(Clone)]
pub struct Log(watch::Sender<Vec<String>>);

impl Log {
    pub fn add(&self, line: impl Into<String>) {
        self.0.send_modify(|lines| lines.push(line.into()));
    }

    /// Waits until the log holds the line.
    pub async fn saw(&self, line: &str) {
        let wait =
            async { self.0.subscribe().wait_for(|lines| lines.iter().any(|l| l == line)).await.map(drop) };
        if tokio::time::timeout(Duration::from_secs(10), wait).await.is_err() {
            panic!("never saw {line:?}: {:?}", self.0.borrow());
        }
    }

    pub fn count(&self, line: &str) -> usize {
        self.0.borrow().iter().filter(|l| *l == line).count()
    }

    pub fn all(&self) -> Vec<String> {
        self.0.borrow().clone()
    }
}

/// One stream. The test puts received data in with `feed` and sees what was written in the log.
pub struct FakeStream {
    id: u32,
    remote: (Addr, u16),
    log: Log,
    incoming: AsyncMutex<mpsc::UnboundedReceiver<Bytes>>,
    pub reads: Arc<AtomicU32>,
    /// Permits to write; closed means the stream is broken.
    writable: Arc<Semaphore>,
    closed: AtomicBool,
}

/// The test's end of a stream.
#[derive(Clone)]
pub struct Remote {
    pub id: u32,
    feed: Arc<Mutex<Option<mpsc::UnboundedSender<Bytes>>>>,
    pub reads: Arc<AtomicU32>,
    pub writable: Arc<Semaphore>,
}

impl Remote {
    pub fn feed(&self, data: impl Into<Bytes>) {
        self.feed.lock().unwrap().as_ref().unwrap().send(data.into()).unwrap();
    }

    pub fn end(&self) {
        self.feed.lock().unwrap().take();
    }
}

impl IpcStream for FakeStream {
    fn id(&self) -> u32 {
        self.id
    }

    fn remote(&self) -> (Addr, u16) {
        self.remote
    }

    fn read(&self) -> Later<'_, Option<Bytes>> {
        Box::pin(async {
            let data = self.incoming.lock().await.recv().await;
            self.reads.fetch_add(1, Ordering::SeqCst);
            data
        })
    }

    fn write(&self, data: Bytes) -> Later<'_, Result<(), String>> {
        Box::pin(async move {
            self.writable.acquire().await.map_err(|_| "connection closed".to_owned())?.forget();
            self.log.add(format!("write {} {}", self.id, String::from_utf8_lossy(&data)));
            Ok(())
        })
    }

    fn close(&self) {
        if !self.closed.swap(true, Ordering::SeqCst) {
            self.log.add(format!("close {}", self.id));
        }
    }
}

impl Drop for FakeStream {
    fn drop(&mut self) {
        self.close();
    }
}

struct FakeListener {
    port: u16,
    daemon: Weak<Fake>,
    incoming: AsyncMutex<mpsc::UnboundedReceiver<Arc<dyn IpcStream>>>,
}

impl IpcListener for FakeListener {
    fn accept(&self) -> Later<'_, Option<Arc<dyn IpcStream>>> {
        Box::pin(async { self.incoming.lock().await.recv().await })
    }
}

impl Drop for FakeListener {
    fn drop(&mut self) {
        let Some(daemon) = self.daemon.upgrade() else { return };
        daemon.ports.lock().unwrap().remove(&self.port);
        daemon.log.add(format!("unbind {}", self.port));
    }
}

struct HangingDial(Log);

impl Drop for HangingDial {
    fn drop(&mut self) {
        self.0.add("dial dropped");
    }
}

pub struct Fake {
    me: Weak<Fake>,
    pub log: Log,
    next_id: AtomicU32,
    /// The test's ends of dialled streams.
    pub remotes: Mutex<HashMap<u32, Remote>>,
    /// What a dialled stream has received before anybody reads it.
    pub greeting: Mutex<Option<Bytes>>,
    /// Permits given to new streams' writers.
    pub credit: AtomicU32,
    ports: Mutex<HashMap<u16, mpsc::UnboundedSender<Arc<dyn IpcStream>>>>,
    pub datagrams: broadcast::Sender<Datagram>,
    pub trust: Mutex<Option<Arc<FakeTrust>>>,
    pub hook: Mutex<Option<Arc<dyn WebhookManager>>>,
    pub token: Mutex<String>,
    pub news: watch::Sender<u32>,
    /// Who answers at which port of the peer; other ports get a plain [`FakeStream`].
    pub services: Mutex<HashMap<u16, Service>>,
    /// Laid over the info object.
    pub more_info: Mutex<Object>,
    /// The registry's answer to a lookup, by node; others are unknown.
    pub nodes: Mutex<HashMap<u64, Value>>,
    /// Answers to host requests.
    pub paths: Mutex<Value>,
}

/// Starts a service on the far end of a stream.
pub type Service = Arc<dyn Fn(Far) + Send + Sync>;

impl Fake {
    pub fn new() -> Arc<Fake> {
        Arc::new_cyclic(|me| Fake {
            me: me.clone(),
            log: Log(watch::channel(Vec::new()).0),
            next_id: AtomicU32::new(1),
            remotes: Mutex::default(),
            greeting: Mutex::default(),
            credit: AtomicU32::new(1 << 20),
            ports: Mutex::default(),
            datagrams: broadcast::channel(64).0,
            trust: Mutex::new(Some(Arc::new(FakeTrust::default()))),
            hook: Mutex::default(),
            token: Mutex::default(),
            news: watch::channel(0).0,
            services: Mutex::default(),
            more_info: Mutex::default(),
            nodes: Mutex::default(),
            paths: Mutex::default(),
        })
    }

    pub fn stream(&self) -> (Arc<dyn IpcStream>, Remote) {
        let id = self.next_id.fetch_add(1, Ordering::SeqCst);
        let (feed, incoming) = mpsc::unbounded_channel();
        let writable = Arc::new(Semaphore::new(self.credit.load(Ordering::SeqCst) as usize));
        let reads = Arc::new(AtomicU32::new(0));
        let remote = Remote {
            id,
            feed: Arc::new(Mutex::new(Some(feed))),
            reads: Arc::clone(&reads),
            writable: Arc::clone(&writable),
        };
        if let Some(greeting) = self.greeting.lock().unwrap().clone() {
            remote.feed(greeting);
        }
        self.remotes.lock().unwrap().insert(id, remote.clone());
        let stream = FakeStream {
            id,
            remote: (PEER, 50_000),
            log: self.log.clone(),
            incoming: AsyncMutex::new(incoming),
            reads,
            writable,
            closed: AtomicBool::new(false),
        };
        (Arc::new(stream), remote)
    }

    pub fn remote(&self, id: u32) -> Remote {
        self.remotes.lock().unwrap()[&id].clone()
    }

    /// A stream arrives on a bound port.
    pub fn arrive(&self, port: u16) -> Remote {
        let (stream, remote) = self.stream();
        assert!(self.ports.lock().unwrap()[&port].send(stream).is_ok());
        remote
    }
}

impl IpcBackend for Fake {
    fn node_id(&self) -> u32 {
        SELF
    }

    fn public_key(&self) -> Option<String> {
        Some("a2V5".to_owned())
    }

    fn sign(&self, message: &[u8]) -> Option<[u8; 64]> {
        self.log.add(format!("sign {}", String::from_utf8_lossy(message)));
        Some([7; 64])
    }

    fn admin_token(&self) -> String {
        self.token.lock().unwrap().clone()
    }

    fn dial(&self, to: Addr, port: u16) -> Later<'_, Result<Arc<dyn IpcStream>, String>> {
        Box::pin(async move {
            self.log.add(format!("dial {to} {port}"));
            match port {
                REFUSED => Err("connection refused".to_owned()),
                HANGING => {
                    let _dropped = HangingDial(self.log.clone());
                    pending().await
                }
                _ => match self.services.lock().unwrap().get(&port) {
                    Some(service) => {
                        let (near, far) = looped(self.next_id.fetch_add(1, Ordering::SeqCst));
                        service(far);
                        Ok(near)
                    }
                    None => Ok(self.stream().0),
                },
            }
        })
    }

    fn bind(&self, port: u16) -> Later<'_, Result<Box<dyn IpcListener>, String>> {
        Box::pin(async move {
            let mut ports = self.ports.lock().unwrap();
            if ports.contains_key(&port) {
                return Err(format!("port {port} already bound"));
            }
            let (tx, incoming) = mpsc::unbounded_channel();
            ports.insert(port, tx);
            let incoming = AsyncMutex::new(incoming);
            Ok(Box::new(FakeListener { port, daemon: self.me.clone(), incoming }) as Box<dyn IpcListener>)
        })
    }

    fn close_connection(&self, id: u32) -> Later<'_, ()> {
        self.log.add(format!("close foreign {id}"));
        Box::pin(async {})
    }

    fn send_datagram(&self, to: Addr, port: u16, data: Bytes) -> Later<'_, Result<(), String>> {
        self.log.add(format!("datagram {to} {port} {}", String::from_utf8_lossy(&data)));
        Box::pin(async move { if port == REFUSED { Err("no route".to_owned()) } else { Ok(()) } })
    }

    fn broadcast(&self, network: u16, port: u16, _: Bytes) -> Later<'_, Result<(), String>> {
        self.log.add(format!("broadcast {network} {port}"));
        Box::pin(async { Ok(()) })
    }

    fn datagrams(&self) -> broadcast::Receiver<Datagram> {
        self.datagrams.subscribe()
    }

    fn events(&self, _: &str) -> Box<dyn IpcEvents> {
        struct News(watch::Receiver<u32>);
        impl IpcEvents for News {
            fn changed(&mut self) -> Later<'_, bool> {
                Box::pin(async { self.0.changed().await.is_ok() })
            }
        }
        Box::new(News(self.news.subscribe()))
    }

    fn info(&self) -> Later<'_, Object> {
        self.log.add("info");
        let mut info = json!({ "node_id": SELF, "peers": 0 }).as_object().unwrap().clone();
        info.extend(self.more_info.lock().unwrap().clone());
        Box::pin(async { info })
    }

    fn health(&self) -> Later<'_, Object> {
        Box::pin(async { json!({ "status": "ok" }).as_object().unwrap().clone() })
    }

    fn settled(&self) -> Later<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn handshake(&self) -> Option<Arc<dyn HandshakeService>> {
        self.trust.lock().unwrap().clone().map(|t| t as Arc<dyn HandshakeService>)
    }

    fn handshake_request(&self, node: u32, justification: &str) -> Result<bool, String> {
        self.log.add(format!("handshake {node} {justification}"));
        Ok(node != 8)
    }

    fn poll_inbox(&self, why: Inbox) -> Later<'_, ()> {
        self.log.add(format!("poll {why:?}"));
        Box::pin(async {})
    }

    fn registry(&self, op: &'static str, params: Object) -> Later<'_, Result<Object, String>> {
        self.log.add(format!("registry {op} {}", Value::from(params.clone())));
        let answer = match (op, params.get("hostname").and_then(Value::as_str)) {
            ("resolve_hostname", Some("nobody")) => Err("registry: hostname \"nobody\" not found".to_owned()),
            ("resolve_hostname", Some(name)) => Ok(
                json!({ "type": "resolve_hostname_ok", "hostname": name, "node_id": 9, "address": "0:0000.0000.0009", "public": true }),
            ),
            ("lookup", _) => {
                let node = params["node_id"].as_u64().unwrap();
                let known = self.nodes.lock().unwrap().get(&node).cloned();
                known.ok_or_else(|| format!("registry: node {node}: node not found"))
            }
            _ => Ok(json!({ "type": format!("{op}_ok") })),
        };
        Box::pin(async move { answer.map(|v| v.as_object().unwrap().clone()) })
    }

    fn changed(&self, change: Change) -> Later<'_, ()> {
        self.log.add(format!("changed {change:?}"));
        Box::pin(async {})
    }

    fn webhook(&self) -> Option<Arc<dyn WebhookManager>> {
        self.hook.lock().unwrap().clone()
    }

    fn policy(&self) -> Option<Arc<dyn PolicyManager>> {
        None
    }

    fn prefer_direct(&self, _: u32) -> Later<'_, Option<Object>> {
        Box::pin(async { None })
    }

    fn rotate_key(&self) -> Later<'_, Option<Result<Object, String>>> {
        Box::pin(async { None })
    }

    fn plugins(&self) -> Value {
        json!([{ "name": "handshake", "state": "running" }])
    }

    fn ping(&self, peer: Addr) -> Later<'_, Result<Duration, String>> {
        Box::pin(async move { if peer == PEER { Ok(Duration::from_micros(1500)) } else { pending().await } })
    }

    fn stop(&self) {
        self.log.add("stop");
    }

    fn host_request<'a>(&'a self, op: &'a str, _: Object) -> Later<'a, Option<Result<Value, String>>> {
        let answer = match op {
            "extra" => Some(Err("not today".to_owned())),
            "paths" => Some(Ok(self.paths.lock().unwrap().clone())),
            _ => None,
        };
        Box::pin(async move { answer })
    }
}

/// A trust store: node 5 is trusted, node 6 waits.
#[derive(Default)]
pub struct FakeTrust {
    pub granted: Mutex<Vec<u32>>,
    pub changed: std::sync::Condvar,
}

impl HandshakeService for FakeTrust {
    fn is_trusted(&self, node: u32) -> bool {
        node == 5 || self.granted.lock().unwrap().contains(&node)
    }

    fn is_trusted_with_key(&self, node: u32, _: &str) -> bool {
        self.is_trusted(node)
    }

    fn trusted_peers(&self) -> Vec<HandshakeTrustRecord> {
        let record = |node_id, approved_at| HandshakeTrustRecord {
            node_id,
            public_key: String::new(),
            approved_at,
            mutual: true,
            network: 0,
        };
        vec![record(5, 100), record(4, 200)]
    }

    fn pending_requests(&self) -> Vec<HandshakePendingRecord> {
        vec![HandshakePendingRecord {
            node_id: 6,
            public_key: "a2V5".to_owned(),
            justification: "hello".to_owned(),
            received_at: 300,
        }]
    }

    fn pending_count(&self) -> u32 {
        1
    }

    fn send_request(&self, _: u32, _: &str) -> plugin_abi::Result<()> {
        Ok(())
    }

    fn approve(&self, _: u32) -> plugin_abi::Result<()> {
        Ok(())
    }

    fn reject(&self, _: u32, _: &str) -> plugin_abi::Result<()> {
        Ok(())
    }

    fn revoke_trust(&self, node: u32) -> plugin_abi::Result<()> {
        match node {
            5 => Ok(()),
            _ => Err(Error::other(format!("node {node} was not trusted"))),
        }
    }

    fn wait_for_trust(&self, node: u32, timeout: Duration) -> bool {
        let granted = self.granted.lock().unwrap();
        let (granted, _) = self.changed.wait_timeout_while(granted, timeout, |g| !g.contains(&node)).unwrap();
        granted.contains(&node)
    }

    fn process_relayed_request(&self, _: u32, _: &str) {}

    fn process_relayed_approval(&self, _: u32) {}

    fn process_relayed_rejection(&self, _: u32) {}

    fn stop(&self) {}
}

/// Accepts http only.
pub struct FakeHook;

impl WebhookManager for FakeHook {
    fn set_url(&self, url: &str) -> plugin_abi::Result<()> {
        match url.is_empty() || url.starts_with("http:") {
            true => Ok(()),
            false => Err(Error::invalid("URL must use http or https scheme, got \"ftp\"")),
        }
    }

    fn url(&self) -> String {
        String::new()
    }

    fn stats(&self) -> WebhookStats {
        WebhookStats::default()
    }
}
