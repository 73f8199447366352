//! The plugin of `scripts/bench abi`. It serves what the host calls ([`Service`], [`Runner`]), and runs the loops of
//! [`loops`] from inside its library when it is told to, by a policy "document" that names the loop.
//!
//! The measuring program links the same crate as an ordinary library: that copy is the twin, with nothing but `dyn`
//! between the two sides.
#![forbid(unsafe_code)]

pub mod loops;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use plugin_abi::{
    Daemon, Error, HandshakePendingRecord, HandshakeService, HandshakeTrustRecord, Plugin, PolicyManager,
    PolicyRunner, PortGate, Result,
};
use serde_json::{Map, Value};

/// The plugin.
#[derive(Default)]
pub struct Subject;

impl Plugin for Subject {
    fn init(&self, daemon: Arc<dyn Daemon>) -> Result<()> {
        daemon.register_handshake_service(Arc::new(Service));
        let manager = Manager { daemon: OnceLock::new(), nanos: Arc::default() };
        // The daemon holds the manager, and the manager the daemon: fine for a process that ends after the measurement.
        let _ = manager.daemon.set(Arc::clone(&daemon));
        daemon.register_policy_manager(Arc::new(manager));
        Ok(())
    }

    fn shutdown(&self, _deadline: Duration) -> Result<()> {
        Ok(())
    }
}

plugin_abi::export_plugin!("bench", Subject::default);

/// A trust store that trusts even numbers: as little work as a lookup can be.
pub struct Service;

impl HandshakeService for Service {
    fn is_trusted(&self, node: u32) -> bool {
        node & 1 == 0
    }

    fn is_trusted_with_key(&self, node: u32, _key: &str) -> bool {
        self.is_trusted(node)
    }

    fn trusted_peers(&self) -> Vec<HandshakeTrustRecord> {
        Vec::new()
    }

    fn pending_requests(&self) -> Vec<HandshakePendingRecord> {
        Vec::new()
    }

    fn pending_count(&self) -> u32 {
        0
    }

    fn send_request(&self, _peer: u32, _justification: &str) -> Result<()> {
        Ok(())
    }

    fn approve(&self, _peer: u32) -> Result<()> {
        Ok(())
    }

    fn reject(&self, _peer: u32, _reason: &str) -> Result<()> {
        Ok(())
    }

    fn revoke_trust(&self, _peer: u32) -> Result<()> {
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

/// Runs a loop of [`loops`] as if it were a policy: `start(_, {"loop": NAME, "times": N})`; the runner's status says
/// how long it took.
struct Manager {
    daemon: OnceLock<Arc<dyn Daemon>>,
    nanos: Arc<AtomicU64>,
}

impl PolicyManager for Manager {
    fn start(&self, _network: u16, document_json: &str) -> Result<()> {
        let document: Value = serde_json::from_str(document_json)?;
        let daemon = self.daemon.get().ok_or_else(|| Error::other("no daemon yet"))?;
        let name = document["loop"].as_str().unwrap_or_default();
        let times = document["times"].as_u64().unwrap_or(0);
        let took = loops::run(name, daemon, times)?;
        self.nanos.store(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        Ok(())
    }

    fn stop(&self, _network: u16) {}

    fn get(&self, _network: u16) -> Option<Arc<dyn PolicyRunner>> {
        Some(Arc::new(Runner(Arc::clone(&self.nanos))))
    }

    fn all(&self) -> Vec<Arc<dyn PolicyRunner>> {
        Vec::new()
    }

    fn stop_all(&self) {}

    fn load_persisted(&self) -> Result<Vec<u16>> {
        Ok(Vec::new())
    }
}

/// A policy of one rule.
#[derive(Default)]
pub struct Runner(Arc<AtomicU64>);

impl PolicyRunner for Runner {
    fn network_id(&self) -> u16 {
        0
    }

    fn has_member(&self, _node: u32) -> bool {
        true
    }

    fn evaluate_port_gate(&self, gate: &PortGate) -> bool {
        gate.port == 1001 && gate.local_tags.iter().any(|t| t == "files")
    }

    fn evaluate_actions(&self, _event: &str, _context: &Map<String, Value>) {}

    fn status(&self) -> Map<String, Value> {
        Map::from_iter([("nanos".to_owned(), self.0.load(Ordering::Relaxed).into())])
    }

    fn peer_list(&self) -> Vec<Value> {
        Vec::new()
    }

    fn force_cycle(&self) -> Result<Map<String, Value>> {
        Ok(Map::new())
    }

    fn reconcile_now(&self) -> Result<u32> {
        Ok(0)
    }

    fn policy_json(&self) -> String {
        String::new()
    }

    fn stop(&self) {}
}
