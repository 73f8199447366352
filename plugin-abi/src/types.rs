//! Value types of the plain face: what plugins and the host hand to each other. No behaviour beyond text forms.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use serde_json::Value;

/// An Ed25519 public key, 32 raw bytes (identity.md, "Keys and encodings").
pub type PublicKey = [u8; 32];
/// An Ed25519 signature, 64 raw bytes (identity.md, "Keys and encodings").
pub type Signature = [u8; 64];

/// A 48-bit overlay address: network (16 bits) and node (32 bits) (packet.md section 1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Addr {
    /// Network number; 0 is the backbone.
    pub network: u16,
    /// Node number; the node's identity in every network.
    pub node: u32,
}

impl Addr {
    /// The backbone address of `node` (network 0).
    pub const fn backbone(node: u32) -> Self {
        Addr { network: 0, node }
    }

    /// Both numbers zero: "no address yet".
    pub const fn is_zero(self) -> bool {
        self.network == 0 && self.node == 0
    }

    /// Packs into the low 48 bits: network above node.
    pub const fn to_u64(self) -> u64 {
        ((self.network as u64) << 32) | self.node as u64
    }

    /// Unpacks the low 48 bits; higher bits are ignored.
    pub const fn from_u64(v: u64) -> Self {
        Addr { network: (v >> 32) as u16, node: v as u32 }
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:04X}.{:04X}.{:04X}", self.network, self.network, self.node >> 16, self.node & 0xFFFF)
    }
}

impl FromStr for Addr {
    type Err = crate::Error;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let bad = || crate::Error::invalid(format!("invalid address: {s:?} (expected N:XXXX.YYYY.YYYY)"));
        let (net, rest) = s.split_once(':').ok_or_else(bad)?;
        if net.is_empty() || !net.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        let network: u16 = net.parse().map_err(|_| bad())?;
        let mut groups = [0u16; 3];
        let mut parts = rest.split('.');
        for group in &mut groups {
            let p = parts.next().ok_or_else(bad)?;
            if p.len() != 4 || !p.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(bad());
            }
            *group = u16::from_str_radix(p, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() || groups[0] != network {
            return Err(bad());
        }
        Ok(Addr { network, node: (u32::from(groups[1]) << 16) | u32::from(groups[2]) })
    }
}

/// The four endpoint values of a stream (plugin-contract.md section 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ConnectionInfo {
    /// Our address: for an accepted stream the destination address of its SYN.
    pub local: Addr,
    /// Our port.
    pub local_port: u16,
    /// The peer's address.
    pub remote: Addr,
    /// The peer's port.
    pub remote_port: u16,
}

/// One event of the bus (plugin-contract.md section 4).
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Dotted topic, for example `trust.changed`.
    pub topic: String,
    /// This node's id when the event was published; 0 before registration.
    pub node_id: u32,
    /// When it was published.
    pub time: SystemTime,
    /// The payload map, or `None`.
    pub payload: Option<serde_json::Map<String, Value>>,
}

/// One event of the bus whose payload is still text; see [`Subscription::recv_text`](crate::Subscription::recv_text).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventText {
    /// As [`Event::topic`].
    pub topic: String,
    /// As [`Event::node_id`].
    pub node_id: u32,
    /// As [`Event::time`].
    pub time: SystemTime,
    /// The payload map as a JSON object, or `None`.
    pub payload: Option<String>,
}

/// A stored grant of trust (plugin-contract.md section 5).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct HandshakeTrustRecord {
    /// The trusted node.
    pub node_id: u32,
    /// Its key at grant time, base64; empty when the grant is not bound to a key.
    pub public_key: String,
    /// When trust was granted, Unix seconds.
    pub approved_at: i64,
    /// Both sides had asked.
    pub mutual: bool,
    /// The shared network that granted it, or 0.
    pub network: u16,
}

/// A request that waits for a decision (plugin-contract.md section 5).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct HandshakePendingRecord {
    /// Who asks.
    pub node_id: u32,
    /// The key presented, base64; may be empty.
    pub public_key: String,
    /// What they wrote, cleaned.
    pub justification: String,
    /// When it arrived, Unix seconds.
    pub received_at: i64,
}

/// What this daemon is (plugin-contract.md section 2).
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct VersionInfo {
    /// For example `v0.1.0`.
    pub version: String,
    /// Commit id, or empty in development builds.
    pub commit: String,
    /// UTC text, or empty.
    pub build_time: String,
}

/// Counters of the current webhook client (plugin-contract.md section 6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct WebhookStats {
    /// Events dropped because the queue was full.
    pub dropped: u64,
    /// Events skipped while the circuit breaker was open.
    pub circuit_skips: u64,
}

/// The event types that the engine passes to policies (seed 001, `PolicyEvent*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PolicyEvent {
    /// An inbound stream request.
    Connect,
    /// An outbound stream request.
    Dial,
    /// A datagram, either direction.
    Datagram,
    /// A member entered the network.
    Join,
    /// A member left the network.
    Leave,
    /// The policy's periodic cycle.
    Cycle,
}

impl PolicyEvent {
    /// The contract's text constant.
    pub const fn as_str(self) -> &'static str {
        match self {
            PolicyEvent::Connect => "connect",
            PolicyEvent::Dial => "dial",
            PolicyEvent::Datagram => "datagram",
            PolicyEvent::Join => "join",
            PolicyEvent::Leave => "leave",
            PolicyEvent::Cycle => "cycle",
        }
    }

    /// The inverse of [`as_str`](Self::as_str).
    pub fn parse(s: &str) -> Option<Self> {
        [Self::Connect, Self::Dial, Self::Datagram, Self::Join, Self::Leave, Self::Cycle]
            .into_iter()
            .find(|e| e.as_str() == s)
    }
}

/// Direction of a datagram at the port gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Towards this node.
    #[default]
    In,
    /// Away from this node.
    Out,
}

impl Direction {
    /// `in` or `out`, as the policy language names it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Direction::In => "in",
            Direction::Out => "out",
        }
    }
}

/// One question to the port gate (plugin-contract.md section 7, policy.md section 5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortGate {
    /// `Connect`, `Dial` or `Datagram`.
    pub event: PolicyEvent,
    /// The destination port.
    pub port: u16,
    /// The other node.
    pub peer: u32,
    /// Payload bytes of a datagram, else 0.
    pub payload_size: u32,
    /// Direction of a datagram.
    pub direction: Direction,
    /// This node's member tags in the runner's network.
    pub local_tags: Vec<String>,
    /// The peer's tags as the registry told them; empty when unknown.
    pub node_info_tags: Vec<String>,
}
