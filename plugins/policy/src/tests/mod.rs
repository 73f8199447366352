//! The plugin's parts together, on the fake daemon: recorded vectors, and what the fact sheet says in prose.

mod behaviour;
mod plugin;
mod vectors;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use plugin_abi::test_kit::FakeDaemon;
use plugin_abi::{
    Direction, Error, HandshakePendingRecord, HandshakeService, HandshakeTrustRecord, PolicyEvent, PortGate,
    Result,
};
use serde_json::{Map, Value, json};

use crate::clock::Clock;
use crate::compiled::Policy;
use crate::document::Document;
use crate::runner::{Environment, Kind, Runner};
use crate::workers::Workers;

/// Stands still until a test moves it.
#[derive(Default)]
struct TestClock(Mutex<Duration>);

impl TestClock {
    fn advance(&self, by: Duration) {
        *self.0.lock().unwrap() += by;
    }
}

impl Clock for TestClock {
    fn wall(&self) -> Timestamp {
        "2026-11-21T00:51:42Z".parse::<Timestamp>().unwrap() + *self.0.lock().unwrap()
    }

    fn monotonic(&self) -> Duration {
        *self.0.lock().unwrap()
    }
}

/// A trust store that does what it is told.
#[derive(Default)]
struct FakeTrust {
    trusted: Mutex<Vec<HandshakeTrustRecord>>,
    revoked: Mutex<Vec<u32>>,
    requests: Mutex<Vec<(u32, String)>>,
}

impl HandshakeService for FakeTrust {
    fn is_trusted(&self, node: u32) -> bool {
        self.trusted.lock().unwrap().iter().any(|record| record.node_id == node)
    }

    fn is_trusted_with_key(&self, node: u32, _key: &str) -> bool {
        self.is_trusted(node)
    }

    fn trusted_peers(&self) -> Vec<HandshakeTrustRecord> {
        self.trusted.lock().unwrap().clone()
    }

    fn pending_requests(&self) -> Vec<HandshakePendingRecord> {
        Vec::new()
    }

    fn pending_count(&self) -> u32 {
        0
    }

    fn send_request(&self, peer: u32, justification: &str) -> Result<()> {
        self.requests.lock().unwrap().push((peer, justification.to_owned()));
        Ok(())
    }

    fn approve(&self, _peer: u32) -> Result<()> {
        Ok(())
    }

    fn reject(&self, _peer: u32, _reason: &str) -> Result<()> {
        Ok(())
    }

    fn revoke_trust(&self, peer: u32) -> Result<()> {
        if !self.is_trusted(peer) {
            return Err(Error::other(format!("node {peer} was not trusted")));
        }
        self.trusted.lock().unwrap().retain(|record| record.node_id != peer);
        self.revoked.lock().unwrap().push(peer);
        Ok(())
    }

    fn wait_for_trust(&self, peer: u32, _timeout: Duration) -> bool {
        self.is_trusted(peer)
    }

    fn process_relayed_request(&self, _from: u32, _justification: &str) {}

    fn process_relayed_approval(&self, _from: u32) {}

    fn process_relayed_rejection(&self, _from: u32) {}

    fn stop(&self) {}
}

/// A runner for one network on a fake daemon, not started: the test says when something happens.
struct Rig {
    dir: tempfile::TempDir,
    daemon: Arc<FakeDaemon>,
    clock: Arc<TestClock>,
    trust: Arc<FakeTrust>,
    runner: Arc<Runner>,
    /// The registry's answer; `None`: the call fails.
    nodes: Arc<Mutex<Option<Value>>>,
}

impl Rig {
    /// For network 7, with the state file `snapshot`.
    fn new(document: &str, snapshot: Value) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("policy_7.json"), snapshot.to_string()).unwrap();
        let daemon = FakeDaemon::new(dir.path());
        let (clock, trust) = (Arc::<TestClock>::default(), Arc::<FakeTrust>::default());
        plugin_abi::Daemon::register_handshake_service(daemon.as_ref(), trust.clone());
        let nodes = Arc::new(Mutex::new(Some(json!([]))));
        let answer = nodes.clone();
        daemon.on_list_nodes(move |_, _| match answer.lock().unwrap().clone() {
            Some(nodes) => Ok(Map::from_iter([("nodes".to_owned(), nodes)])),
            None => Err(Error::other("the registry is down")),
        });
        let workers = Workers::new();
        let policy = compile(document, &workers).unwrap();
        let environment = Environment { daemon: daemon.clone(), workers, clock: clock.clone() };
        let runner = Runner::new(7, policy, Kind::Policy, environment);
        Rig { dir, daemon, clock, trust, runner, nodes }
    }

    fn set_nodes(&self, nodes: Value) {
        *self.nodes.lock().unwrap() = Some(nodes);
    }

    fn registry_fails(&self) {
        *self.nodes.lock().unwrap() = None;
    }

    /// Topic and payload of everything published from the `from`-th event on.
    fn published(&self, from: usize) -> Vec<(String, Value)> {
        let payload = |e: plugin_abi::Event| (e.topic, e.payload.map_or(json!(null), Value::Object));
        self.daemon.events().into_iter().skip(from).map(payload).collect()
    }

    fn saved(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.dir.path().join("policy_7.json")).unwrap()).unwrap()
    }
}

fn compile(document: &str, workers: &Arc<Workers>) -> std::result::Result<Policy, String> {
    let document = Document::parse(document.as_bytes()).map_err(|e| e.to_string())?;
    Policy::compile(document, workers)
}

fn connect(peer: u32, port: u16) -> PortGate {
    PortGate {
        event: PolicyEvent::Connect,
        port,
        peer,
        payload_size: 0,
        direction: Direction::In,
        local_tags: vec![],
        node_info_tags: vec![],
    }
}
