//! Questions the engine asks its host, and the host's answers.
//!
//! The engine never calls a registry, a trust store or a policy: what needs one is parked (bounded by
//! [`Config::max_queries`](crate::Config::max_queries)), the question comes out of
//! [`Engine::poll_query`](crate::Engine::poll_query), and the host answers whenever it can with
//! [`Engine::answer`](crate::Engine::answer). A question that stays unanswered for
//! [`Config::query_timeout`](crate::Config::query_timeout) counts as failed; an answer after that is ignored.

use std::net::SocketAddr;

use pilot_wire::addr::Addr;

/// Names one question; unique for the life of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueryId(pub u64);

/// What the engine wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Query {
    /// Where is this node? Answer with [`Answer::Resolved`]. Asked at most once at a time per node.
    Resolve {
        /// The node to find.
        node: u32,
    },
    /// Which identity key does the registry hold for this node? Answer with [`Answer::PeerKey`].
    PeerKey {
        /// The node in question.
        node: u32,
    },
    /// May this peer open a stream? Answer with [`Answer::Admit`]. (stream.md section 7, gates 3 and 4.)
    AdmitSyn {
        /// Node number of the peer, proven by its tunnel.
        peer: u32,
        /// The stream's source address.
        src: Addr,
        /// The address it was sent to: one of ours, in some network.
        dst: Addr,
        /// Source port.
        src_port: u16,
        /// Our port.
        dst_port: u16,
        /// Our own recent contact with this peer covers the port: skip the trust gate, ask only the port policy.
        reply_window: bool,
    },
    /// May this peer's datagram be delivered? Answer with [`Answer::Admit`]. (stream.md section 7, "Datagrams".)
    AdmitDatagram {
        /// Node number of the peer, proven by its tunnel.
        peer: u32,
        /// Source address.
        src: Addr,
        /// The address it was sent to.
        dst: Addr,
        /// Source port.
        src_port: u16,
        /// Our port.
        dst_port: u16,
        /// Bytes of payload.
        size: usize,
    },
    /// May this peer be answered a ping? Only asked with [`Config::strict`](crate::Config::strict).
    AdmitPing {
        /// Node number of the peer, proven by its tunnel.
        peer: u32,
    },
}

/// What the host found out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// To [`Query::Resolve`].
    Resolved(Resolution),
    /// To [`Query::PeerKey`].
    PeerKey {
        /// The registered Ed25519 key; `None` when the registry knows none for this node.
        key: Option<[u8; 32]>,
        /// Whether the host trusts the node now; decides the strict gate and what notices may say about the peer.
        trusted: bool,
    },
    /// To the three `Admit` questions.
    Admit(Verdict),
    /// The question could not be answered; the text is for people.
    Failed(String),
}

/// Where a node can be reached (registry "resolve").
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolution {
    /// Its public endpoint; `None` when it has none.
    pub real_addr: Option<SocketAddr>,
    /// Its endpoints inside its own network.
    pub lan_addrs: Vec<SocketAddr>,
    /// It wants to be reached through the beacon only.
    pub relay_only: bool,
}

/// Whether a peer may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Let it in.
    Allow,
    /// The peer is not trusted: silence, notice `syn.rejected` or `datagram.rejected`.
    Untrusted,
    /// A network's port policy forbids it: silence, notice `syn.port_rejected` or `datagram.port_rejected`.
    PortDenied,
}
