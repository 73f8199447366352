//! The engine's own entries for the event bus: typed here, turned into topic and JSON map only when somebody publishes
//! them (plugin-contract.md section 4.1, newest form).
//!
//! Made all over the engine, rendered by the driver. Ids that the newest peers do not show in clear appear as
//! [`redacted`].

use pilot_wire::addr::Addr;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::event::{ConnId, ConnInfo};

/// One entry of the event bus.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// `tunnel.peer_added`: first use of a peer.
    PeerAdded {
        /// The peer.
        peer: u32,
    },
    /// `tunnel.established`: a session was installed or confirmed.
    TunnelEstablished {
        /// The peer; left out of the payload when the host does not trust it.
        peer: Option<u32>,
        /// Its key was signed by its registered identity.
        authenticated: bool,
        /// The key exchange came through the beacon.
        relay: bool,
        /// It replaced an older session.
        rekeyed: bool,
    },
    /// `tunnel.relay_activated`: frames for the peer go through the beacon from now on.
    RelayActivated {
        /// The peer.
        peer: u32,
    },
    /// `tunnel.desync_salvage`: what the old session may have lost was sent again.
    DesyncSalvage {
        /// The peer.
        peer: u32,
        /// Packets and stream segments sent again.
        replayed: usize,
    },
    /// `tunnel.rekey_gave_up`: a key exchange stayed unanswered.
    RekeyGaveUp {
        /// The peer.
        peer: u32,
    },
    /// `tunnel.path_recovered`: a peer answered again after the path was reset.
    PathRecovered {
        /// The peer.
        peer: u32,
        /// Whole seconds of silence.
        silent_for_seconds: u64,
        /// Probes sent meanwhile.
        probes_sent: u32,
    },
    /// `tunnel.inbound_dead`: the beacon does not answer; nobody may be able to reach us.
    InboundDead {
        /// Whole seconds since the first unanswered question.
        silent_for_seconds: u64,
    },
    /// `tunnel.inbound_recovered`: the beacon answers again and knows us.
    InboundRecovered {
        /// Whole seconds of silence.
        silent_for_seconds: u64,
    },
    /// `security.nonce_replay`: a frame came twice.
    NonceReplay {
        /// The peer, shown as a hash.
        peer: u32,
        /// The frame's counter.
        counter: u64,
    },
    /// `security.src_spoofed`: a packet inside a peer's tunnel claims to come from someone else.
    SrcSpoofed {
        /// The tunnel's peer, shown as a hash.
        peer: u32,
        /// The node it claims to be, shown as a hash.
        claimed: u32,
    },
    /// `security.syn_rate_limited`: too many new streams in all.
    SynRateLimited {
        /// Who was refused, shown as a hash.
        src: Addr,
        /// Its port.
        src_port: u16,
    },
    /// `syn.rejected`: an untrusted peer wanted a stream.
    SynRejected {
        /// Our port.
        dst_port: u16,
    },
    /// `syn.port_rejected`: a port policy forbade a stream.
    SynPortRejected {
        /// The peer.
        src: u32,
        /// Our port.
        dst_port: u16,
        /// The network whose policy spoke.
        network: u16,
    },
    /// `conn.syn_received`: a stream was let in.
    SynReceived(Opened),
    /// `conn.established`: a stream is open.
    Established(Opened),
    /// `conn.accept_queue_full`: a stream was reset because nobody accepts.
    AcceptQueueFull {
        /// Our port.
        port: u16,
        /// The peer.
        src: Addr,
        /// Its port.
        src_port: u16,
        /// How often this has happened on all ports.
        drops_total: u64,
    },
    /// `conn.fin`: the peer closed a stream.
    Fin(Ended),
    /// `conn.rst`: the peer reset a stream.
    Rst(Ended),
    /// `conn.idle_timeout`: a stream was silent for too long.
    IdleTimeout(Ended),
    /// `conn.dead_peer`: a stream's keepalives were not returned.
    DeadPeer(Ended),
    /// `datagram.rejected`: an untrusted peer sent a datagram.
    DatagramRejected {
        /// Our port.
        dst_port: u16,
    },
    /// `datagram.port_rejected`: a port policy forbade a datagram.
    DatagramPortRejected {
        /// The peer.
        src: u32,
        /// Our port.
        dst_port: u16,
        /// The network whose policy spoke.
        network: u16,
    },
    /// `data.datagram`: a datagram was delivered.
    Datagram {
        /// The sender.
        src: Addr,
        /// Its port.
        src_port: u16,
        /// Our port.
        dst_port: u16,
        /// Bytes of payload.
        size: usize,
    },
    /// `file.delivered`: we closed an established stream to a data exchange port.
    FileDelivered {
        /// The peer.
        remote: Addr,
        /// Its port.
        remote_port: u16,
        /// The stream.
        conn: ConnId,
    },
}

/// What the `conn.` notices of a beginning stream say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Who opened it.
    pub src: Addr,
    /// From which port.
    pub src_port: u16,
    /// To which port.
    pub dst_port: u16,
    /// The stream.
    pub conn: ConnId,
}

/// What the `conn.` notices of an ending stream say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The stream.
    pub conn: ConnId,
    /// Its two ends.
    pub info: ConnInfo,
}

impl Notice {
    /// The bus topic.
    pub const fn topic(&self) -> &'static str {
        match self {
            Self::PeerAdded { .. } => "tunnel.peer_added",
            Self::TunnelEstablished { .. } => "tunnel.established",
            Self::RelayActivated { .. } => "tunnel.relay_activated",
            Self::DesyncSalvage { .. } => "tunnel.desync_salvage",
            Self::RekeyGaveUp { .. } => "tunnel.rekey_gave_up",
            Self::PathRecovered { .. } => "tunnel.path_recovered",
            Self::InboundDead { .. } => "tunnel.inbound_dead",
            Self::InboundRecovered { .. } => "tunnel.inbound_recovered",
            Self::NonceReplay { .. } => "security.nonce_replay",
            Self::SrcSpoofed { .. } => "security.src_spoofed",
            Self::SynRateLimited { .. } => "security.syn_rate_limited",
            Self::SynRejected { .. } => "syn.rejected",
            Self::SynPortRejected { .. } => "syn.port_rejected",
            Self::SynReceived(_) => "conn.syn_received",
            Self::Established(_) => "conn.established",
            Self::AcceptQueueFull { .. } => "conn.accept_queue_full",
            Self::Fin(_) => "conn.fin",
            Self::Rst(_) => "conn.rst",
            Self::IdleTimeout(_) => "conn.idle_timeout",
            Self::DeadPeer(_) => "conn.dead_peer",
            Self::DatagramRejected { .. } => "datagram.rejected",
            Self::DatagramPortRejected { .. } => "datagram.port_rejected",
            Self::Datagram { .. } => "data.datagram",
            Self::FileDelivered { .. } => "file.delivered",
        }
    }

    /// The bus payload.
    pub fn payload(&self) -> Map<String, Value> {
        let value = match self {
            Self::PeerAdded { peer } | Self::RelayActivated { peer } | Self::RekeyGaveUp { peer } => {
                json!({ "peer_node_id": peer })
            }
            Self::TunnelEstablished { peer, authenticated, relay, rekeyed } => {
                let mut map = json!({ "authenticated": authenticated, "relay": relay, "rekeyed": rekeyed });
                if let Some(peer) = peer {
                    map["peer_node_id"] = json!(peer);
                }
                map
            }
            Self::DesyncSalvage { peer, replayed } => json!({ "peer_node_id": peer, "replayed": replayed }),
            Self::PathRecovered { peer, silent_for_seconds, probes_sent } => json!({
                "peer_node_id": peer, "silent_for_seconds": silent_for_seconds, "probes_sent": probes_sent
            }),
            Self::InboundDead { silent_for_seconds } | Self::InboundRecovered { silent_for_seconds } => {
                json!({ "silent_for_seconds": silent_for_seconds })
            }
            Self::NonceReplay { peer, counter } => {
                json!({ "peer_hash": redacted(&peer.to_string()), "counter": counter })
            }
            Self::SrcSpoofed { peer, claimed } => json!({
                "peer_hash": redacted(&peer.to_string()), "claimed_src_hash": redacted(&claimed.to_string())
            }),
            Self::SynRateLimited { src, src_port } => {
                json!({ "src_addr_hash": redacted(&src.to_string()), "src_port": src_port })
            }
            Self::SynRejected { dst_port } | Self::DatagramRejected { dst_port } => {
                json!({ "dst_port": dst_port })
            }
            Self::SynPortRejected { src, dst_port, network }
            | Self::DatagramPortRejected { src, dst_port, network } => {
                json!({ "src_node_id": src, "dst_port": dst_port, "network": network })
            }
            Self::SynReceived(o) | Self::Established(o) => json!({
                "src_addr": o.src.to_string(), "src_port": o.src_port, "dst_port": o.dst_port, "conn_id": o.conn.0
            }),
            Self::AcceptQueueFull { port, src, src_port, drops_total } => json!({
                "port": port, "src_addr": src.to_string(), "src_port": src_port, "drops_total": drops_total
            }),
            Self::Fin(e) | Self::Rst(e) | Self::IdleTimeout(e) | Self::DeadPeer(e) => json!({
                "remote_addr": e.info.remote.to_string(), "remote_port": e.info.remote_port,
                "local_port": e.info.local_port, "conn_id": e.conn.0
            }),
            Self::Datagram { src, src_port, dst_port, size } => json!({
                "src_addr": src.to_string(), "src_port": src_port, "dst_port": dst_port, "size": size
            }),
            Self::FileDelivered { remote, remote_port, conn } => {
                json!({ "remote_addr": remote.to_string(), "remote_port": remote_port, "conn_id": conn.0 })
            }
        };
        match value {
            Value::Object(map) => map,
            // Every arm above is an object literal.
            _ => Map::new(),
        }
    }
}

/// How an id appears where it must not be shown: lower-case hex of the first 8 bytes of the SHA-256 of its text.
pub fn redacted(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(8).map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_keys_are_those_of_the_newest_peer() {
        let n = Notice::TunnelEstablished { peer: None, authenticated: true, relay: false, rekeyed: false };
        assert_eq!(n.topic(), "tunnel.established");
        assert_eq!(
            Value::Object(n.payload()),
            json!({"authenticated": true, "relay": false, "rekeyed": false})
        );
        let info = ConnInfo {
            local: Addr::backbone(1),
            local_port: 80,
            remote: Addr::new(1, 0xF291_0004),
            remote_port: 50_000,
        };
        let n = Notice::Fin(Ended { conn: ConnId(7), info });
        assert_eq!(
            Value::Object(n.payload()),
            json!({"remote_addr": "1:0001.F291.0004", "remote_port": 50_000, "local_port": 80, "conn_id": 7})
        );
    }

    #[test]
    fn redaction_is_a_short_hash_of_the_text() {
        // SHA-256("abc") starts with ba7816bf 8f01cfea.
        assert_eq!(redacted("abc"), "ba7816bf8f01cfea");
    }
}
