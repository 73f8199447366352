//! The registry operations of the handshake (handshake.md section 5): what is asked, and what an answer says.
//!
//! Called by the service and by the worker. The daemon adds this node's id and signature to each operation.

use plugin_abi::{Daemon, Error};
use serde_json::{Map, Value};

use crate::protocol::effect::Errand;

/// The daemon's text when it runs without a registry.
const NO_REGISTRY: &str = "registry connection not initialized";

/// What the registry knows about a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeRecord {
    /// Its key, base64; empty when it has none.
    pub public_key: String,
    /// The networks it is a member of.
    pub networks: Vec<u16>,
}

impl NodeRecord {
    /// Reads the answer to a lookup.
    pub fn of(reply: &Map<String, Value>) -> Self {
        let networks = reply.get("networks").and_then(Value::as_array).into_iter().flatten();
        NodeRecord {
            public_key: reply.get("public_key").and_then(Value::as_str).unwrap_or_default().to_owned(),
            networks: networks.filter_map(Value::as_u64).filter_map(|n| n.try_into().ok()).collect(),
        }
    }
}

/// Looks a node up. Blocks for a round trip.
///
/// # Errors
/// The registry's, or that there is none.
pub fn lookup(daemon: &dyn Daemon, node: u32) -> Result<NodeRecord, Error> {
    let mut params = Map::new();
    params.insert("node_id".into(), node.into());
    Ok(NodeRecord::of(&daemon.registry_call("lookup", params)?))
}

/// The first of our networks, the backbone aside, that `peer` is in too. Any failed lookup: none. Blocks.
pub fn shared_network(daemon: &dyn Daemon, peer: u32) -> Option<u16> {
    let ours = lookup(daemon, daemon.node_id()).ok()?;
    let theirs = lookup(daemon, peer).ok()?;
    ours.networks.into_iter().find(|network| *network != 0 && theirs.networks.contains(network))
}

/// The request through the registry: operation and members.
pub fn request_handshake(to: u32, justification: &str) -> (&'static str, Map<String, Value>) {
    let mut params = Map::new();
    params.insert("to_node_id".into(), to.into());
    params.insert("justification".into(), justification.into());
    ("request_handshake", params)
}

/// An errand as operation and members.
pub fn errand(errand: Errand) -> (&'static str, Map<String, Value>) {
    let mut params = Map::new();
    let mut with = |name: &str, value: Value| params.insert(name.to_owned(), value);
    let op = match errand {
        Errand::ReportTrust(peer) => {
            with("peer_id", peer.into());
            "report_trust"
        }
        Errand::RevokeTrust(peer) => {
            with("peer_id", peer.into());
            "revoke_trust"
        }
        Errand::Respond { peer, accept } => {
            with("peer_id", peer.into());
            with("accept", accept.into());
            "respond_handshake"
        }
        Errand::Backfill(peer) => {
            with("node_id", peer.into());
            "lookup"
        }
    };
    (op, params)
}

/// Whether a registry call failed because this daemon has no registry at all.
pub fn is_absent(error: &Error) -> bool {
    error.message() == NO_REGISTRY
}
