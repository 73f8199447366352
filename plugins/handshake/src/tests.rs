//! The whole plugin on fake daemons: what crosses port 444, the registry, the bus and the disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ed25519_dalek::{Signer, SigningKey};
use jiff::{SignedDuration, Timestamp};
use plugin_abi::test_kit::FakeDaemon;
use plugin_abi::{Addr, Connection, Daemon, Error, ErrorKind, HandshakeService, Plugin, Result};
use serde_json::{Map, Value, json};

use crate::Handshake;
use crate::protocol::message::{Kind, Message, PORT, signed_text};
use crate::protocol::text::to_base64;
use crate::shell::clock::Clock;
use crate::shell::lock;

mod inbound;
mod lifecycle;
mod requests;

/// A clock that a test moves.
struct ManualClock(Mutex<Timestamp>);

impl ManualClock {
    fn new() -> Arc<Self> {
        Arc::new(ManualClock(Mutex::new(Timestamp::from_second(1_780_000_000).expect("in range"))))
    }

    fn advance(&self, seconds: i64) {
        let mut now = lock(&self.0);
        *now = now.saturating_add(SignedDuration::from_secs(seconds)).expect("in range");
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *lock(&self.0)
    }
}

/// What a registry knows: keys and networks of nodes. Every other operation succeeds with nothing.
#[derive(Default)]
struct FakeRegistry {
    nodes: Mutex<BTreeMap<u32, (String, Vec<u16>)>>,
    /// Operations that fail, with their text.
    failing: Mutex<BTreeMap<String, String>>,
}

impl FakeRegistry {
    fn call(&self, op: &str, params: &Map<String, Value>) -> Result<Map<String, Value>> {
        if let Some(text) = lock(&self.failing).get(op) {
            return Err(Error::new(ErrorKind::Registry, text.clone()));
        }
        if op != "lookup" {
            return Ok(Map::new());
        }
        let node = params["node_id"].as_u64().expect("node_id") as u32;
        match lock(&self.nodes).get(&node) {
            Some((key, networks)) => {
                let reply = json!({"node_id": node, "public_key": key, "networks": networks});
                Ok(reply.as_object().expect("an object").clone())
            }
            None => Err(Error::new(ErrorKind::Registry, format!("node {node}: node not found"))),
        }
    }

    fn fail(&self, op: &str, text: &str) {
        lock(&self.failing).insert(op.into(), text.into());
    }
}

/// One node: daemon, plugin, key, folder.
struct Node {
    id: u32,
    daemon: Arc<FakeDaemon>,
    plugin: Handshake,
    key: SigningKey,
    folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
}

impl Node {
    /// Not started yet, so that a test can still set things.
    fn new(id: u32, registry: &Arc<FakeRegistry>, clock: &Arc<ManualClock>) -> Node {
        let folder = tempfile::tempdir().expect("tempdir");
        let daemon = FakeDaemon::new(folder.path());
        let key = SigningKey::from_bytes(&[id as u8; 32]);
        daemon.set_node_id(id);
        let signer = key.clone();
        daemon.set_identity(key.verifying_key().to_bytes(), move |message| signer.sign(message).to_bytes());
        daemon.set_identity_path(Some(folder.path().join("identity.json")));
        let known = Arc::clone(registry);
        daemon.on_registry_call(move |op, params| known.call(op, params));
        lock(&registry.nodes).insert(id, (to_base64(key.verifying_key().as_bytes()), vec![0]));
        let plugin = Handshake { clock: Arc::clone(clock) as _, ..Handshake::new() };
        Node { id, daemon, plugin, key, folder, clock: Arc::clone(clock) }
    }

    fn start(self) -> Node {
        self.plugin.init(self.daemon.clone()).expect("init");
        self
    }

    fn service(&self) -> Arc<dyn HandshakeService> {
        self.daemon.handshake_service().expect("registered")
    }

    fn stop(&self) {
        self.plugin.shutdown(Duration::from_secs(10)).expect("shutdown");
    }

    fn state_file(&self) -> PathBuf {
        self.folder.path().join("trust.json")
    }

    fn key_text(&self) -> String {
        to_base64(self.key.verifying_key().as_bytes())
    }

    /// A message of this node to `to`, signed.
    fn message(&self, to: u32, kind: Kind, text: &str) -> Message {
        let signature = to_base64(&self.key.sign(signed_text(self.id, to).as_bytes()).to_bytes());
        let (justification, reason) = if kind == Kind::Request { (text, "") } else { ("", text) };
        Message {
            kind: kind.as_str().into(),
            node_id: self.id,
            public_key: self.key_text(),
            justification: justification.into(),
            signature,
            reason: reason.into(),
            timestamp: self.clock.now().as_second(),
        }
    }

    /// Topics published so far.
    fn topics(&self) -> Vec<String> {
        self.daemon.events().into_iter().map(|e| e.topic).collect()
    }

    fn calls(&self, op: &str) -> usize {
        self.daemon.registry_calls().iter().filter(|(name, _)| name == op).count()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A failed test must not leave threads that write into a deleted folder.
        let _ = self.plugin.shutdown(Duration::from_secs(1));
    }
}

/// Two nodes that can dial each other, sharing a registry and a clock.
fn pair() -> (Node, Node, Arc<FakeRegistry>) {
    let (registry, clock) = (Arc::<FakeRegistry>::default(), ManualClock::new());
    let a = Node::new(1, &registry, &clock);
    let b = Node::new(2, &registry, &clock);
    a.daemon.add_peer(&b.daemon);
    b.daemon.add_peer(&a.daemon);
    (a, b, registry)
}

/// Writes bytes to a node's port 444 as `from` and waits until they were handled: the receiver closes then.
fn deliver(to: &Node, from: u32, parts: &[&[u8]]) {
    let stream = to.daemon.connect_from(Addr::backbone(from), PORT).expect("port 444 is bound");
    for part in parts {
        stream.write(part).expect("writes");
    }
    wait_for_close(stream.as_ref());
}

fn wait_for_close(stream: &dyn Connection) {
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("settable");
    assert_eq!(stream.read(&mut [0; 64]).expect("closed within the limit"), 0, "nothing is ever answered");
}

/// Waits for a condition that another thread brings about.
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "did not happen: {what}");
        std::thread::yield_now();
    }
}

/// The state file as it is now; `null` before the first save.
fn saved(path: &Path) -> Value {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).expect("a reader never sees half a file"),
        Err(_) => Value::Null,
    }
}
