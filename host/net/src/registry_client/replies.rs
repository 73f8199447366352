//! The answers of the registry's common operations as types, and how they are read from JSON (registry.md section 3).
//!
//! Missing members read as empty, wrong ones too, as with every peer; only what an answer is useless without is demanded.

use serde_json::{Map, Value};

use super::error::RegistryError;

/// What a node says about itself when it registers. Empty members are not sent, except the address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registration {
    /// Our own key, base64.
    pub public_key: String,
    /// `host:port` under which we can be reached, or "".
    pub listen_addr: String,
    /// Who the node belongs to.
    pub owner: String,
    /// The wanted hostname.
    pub hostname: String,
    /// `host:port` in the local network.
    pub lan_addrs: Vec<String>,
    /// Version of this program.
    pub version: String,
    /// Reachable through the beacon's relay only.
    pub relay_only: bool,
}

/// The answer to a registration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registered {
    /// Our node number.
    pub node_id: u32,
    /// Our backbone address as text.
    pub address: String,
    /// The hostname that we have, if any.
    pub hostname: String,
    /// Why the wanted hostname is not ours, if it is not.
    pub hostname_error: String,
    /// The address that the registry stored, if it says so.
    pub observed_addr: String,
}

/// Where a node is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// `host:port`; "" when the registry does not know.
    pub real_addr: String,
    /// `host:port` in the node's own local network.
    pub lan_addrs: Vec<String>,
    /// Reachable through the beacon's relay only; `real_addr` is then the beacon's.
    pub relay_only: bool,
    /// Age of the node's key in days, when known.
    pub key_age_days: Option<u32>,
}

/// What everyone may know about a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeInfo {
    /// The node.
    pub node_id: u32,
    /// Its backbone address as text.
    pub address: String,
    /// Its Ed25519 key, base64.
    pub public_key: String,
    /// Whether everyone may resolve it.
    pub public: bool,
    /// Its hostname, or "".
    pub hostname: String,
    /// The networks it is a member of, the backbone (0) included.
    pub networks: Vec<u16>,
    /// Its tags.
    pub tags: Vec<String>,
    /// `host:port` of a public node, else "".
    pub real_addr: String,
    /// Its program's version, or "".
    pub version: String,
}

/// What waited in the handshake inbox. The registry has forgotten it by now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HandshakeInbox {
    /// Requests to us.
    pub requests: Vec<RelayedRequest>,
    /// Answers to our requests.
    pub responses: Vec<RelayedResponse>,
}

/// A relayed handshake request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelayedRequest {
    /// Who asks.
    pub from_node_id: u32,
    /// Why; not cleaned yet.
    pub justification: String,
    /// Unix seconds.
    pub timestamp: i64,
}

/// A relayed answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelayedResponse {
    /// Who answers.
    pub from_node_id: u32,
    /// Yes or no.
    pub accept: bool,
    /// Unix seconds.
    pub timestamp: i64,
}

/// A live heartbeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// The registry's clock, unix seconds.
    pub time: i64,
    /// Our key expires in less than a day.
    pub key_expiry_warning: bool,
}

type Answer = Map<String, Value>;

impl Registered {
    pub(super) fn read(answer: &Answer) -> Result<Self, RegistryError> {
        let missing = |what| RegistryError::Incomplete { op: "register", what };
        let address = answer.get("address").and_then(Value::as_str).ok_or_else(|| missing("address"))?;
        Ok(Self {
            node_id: number(answer, "node_id").ok_or_else(|| missing("node_id"))?,
            address: address.to_owned(),
            hostname: text(answer, "hostname"),
            hostname_error: text(answer, "hostname_error"),
            observed_addr: text(answer, "observed_addr"),
        })
    }
}

impl Resolved {
    pub(super) fn read(answer: &Answer) -> Self {
        Self {
            real_addr: text(answer, "real_addr"),
            lan_addrs: texts(answer, "lan_addrs"),
            relay_only: flag(answer, "relay_only"),
            key_age_days: number(answer, "key_age_days"),
        }
    }
}

impl NodeInfo {
    pub(super) fn read(answer: &Answer) -> Self {
        let networks = answer.get("networks").and_then(Value::as_array).into_iter().flatten();
        Self {
            node_id: number(answer, "node_id").unwrap_or(0),
            address: text(answer, "address"),
            public_key: text(answer, "public_key"),
            public: flag(answer, "public"),
            hostname: text(answer, "hostname"),
            networks: networks.filter_map(|n| u16::try_from(n.as_u64()?).ok()).collect(),
            tags: texts(answer, "tags"),
            real_addr: text(answer, "real_addr"),
            version: text(answer, "version"),
        }
    }
}

impl HandshakeInbox {
    /// Elements without a sender are skipped.
    pub(super) fn read(answer: &Answer) -> Self {
        let entries = |key: &str| {
            let list = answer.get(key).and_then(Value::as_array).into_iter().flatten();
            list.filter_map(Value::as_object)
                .filter_map(|e| Some((number(e, "from_node_id")?, e)))
                .collect::<Vec<_>>()
        };
        let request = |(from_node_id, e): (u32, &Answer)| RelayedRequest {
            from_node_id,
            justification: text(e, "justification"),
            timestamp: seconds(e, "timestamp"),
        };
        let response = |(from_node_id, e): (u32, &Answer)| RelayedResponse {
            from_node_id,
            accept: flag(e, "accept"),
            timestamp: seconds(e, "timestamp"),
        };
        Self {
            requests: entries("requests").into_iter().map(request).collect(),
            responses: entries("responses").into_iter().map(response).collect(),
        }
    }
}

impl Heartbeat {
    pub(super) fn read(answer: &Answer) -> Self {
        Self { time: seconds(answer, "time"), key_expiry_warning: flag(answer, "key_expiry_warning") }
    }
}

pub(super) fn flag(answer: &Answer, key: &str) -> bool {
    answer.get(key).and_then(Value::as_bool).unwrap_or(false)
}

pub(super) fn text(answer: &Answer, key: &str) -> String {
    answer.get(key).and_then(Value::as_str).unwrap_or("").to_owned()
}

/// The elements of an array that are objects; other ones are skipped.
pub(super) fn objects(answer: &Answer, key: &str) -> Vec<Answer> {
    answer
        .get(key)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object)
        .cloned()
        .collect()
}

fn texts(answer: &Answer, key: &str) -> Vec<String> {
    let list = answer.get(key).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// A number that fits 32 bits; fractions are cut off.
fn number(answer: &Answer, key: &str) -> Option<u32> {
    let value = answer.get(key)?.as_f64()?;
    (0.0..=f64::from(u32::MAX)).contains(&value).then_some(value as u32)
}

fn seconds(answer: &Answer, key: &str) -> i64 {
    answer.get(key).and_then(Value::as_f64).map_or(0, |n| n as i64)
}
