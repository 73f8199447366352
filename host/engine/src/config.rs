//! Every number and switch of the engine, with the fact sheets' values as defaults.
//!
//! Built by the host from its configuration file before the engine starts; read-only afterwards. Protocol constants that a
//! peer relies on (key derivation, window arithmetic, frame layouts) are not settings and live beside the code.

use std::collections::BTreeSet;

use crate::time::Duration;

/// A choice of peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peers {
    /// Every one.
    All,
    /// These node ids.
    Only(BTreeSet<u32>),
}

impl Peers {
    /// Whether `node` is one of them.
    pub fn contains(&self, node: u32) -> bool {
        match self {
            Peers::All => true,
            Peers::Only(nodes) => nodes.contains(&node),
        }
    }
}

impl Default for Peers {
    /// Nobody.
    fn default() -> Self {
        Peers::Only(BTreeSet::new())
    }
}

/// Settings of one engine. `Default` is a private node that follows the newest peers.
#[derive(Clone, Debug)]
pub struct Config {
    // ---- trust and path
    /// Accept every SYN and datagram without asking the host (a public node without port policies).
    pub admit_all: bool,
    /// Ask the host also before key exchanges are accepted and pings are answered (tunnel.md section 4, step 3).
    pub strict: bool,
    /// This node wants to be reached through the beacon only: no hole punching, all sends relayed.
    pub relay_only: bool,
    /// Also speak the cipher of the February 2026 peers (tunnel.md section 3, "Interoperating with Feb").
    pub legacy_feb: bool,
    /// Answer on port 7 with what comes in (stream.md section 12). When off, the port is like any other.
    pub echo: bool,
    /// Install a key of a node for which the registry knows no identity (PILK); when off, such peers stay unreachable.
    pub allow_unauthenticated: bool,

    // ---- tunnel upkeep (tunnel.md section 7)
    /// A peer that nothing was sent to for this long gets a tunnel keepalive.
    pub keepalive: Duration,
    /// A peer without application traffic and open streams for this long gets no upkeep any more.
    pub idle: Duration,
    /// An idle peer is forgotten when no frame came from it for this long.
    pub forget: Duration,
    /// How long a resolved endpoint is used before the registry is asked again.
    pub resolve_ttl: Duration,

    // ---- bounds of the tunnel layer
    /// Peers with a tunnel or on the way to one; further ones are refused.
    pub max_peers: usize,
    /// Peers reached through the beacon; a further one stays on its direct way, or unreachable (tunnel.md section 7).
    pub max_relayed: usize,
    /// Sessions installed without an identity behind them (tunnel.md section 4).
    pub max_unauthenticated: usize,
    /// Peers that may have packets waiting for a key (tunnel.md section 5).
    pub max_pending_peers: usize,
    /// Packets that wait for one peer's key; the newest is refused when full.
    pub max_pending_packets: usize,
    /// Identity keys remembered; the oldest leaves when full.
    pub max_cached_keys: usize,

    // ---- questions to the host
    /// A question without an answer for this long is dropped, and what waited for it with it.
    pub query_timeout: Duration,
    /// Questions in flight; what would need another one is dropped.
    pub max_queries: usize,

    // ---- streams
    /// Bytes a stream's application may leave unread; also the base of the advertised window.
    pub recv_buffer: usize,
    /// The same for a stream whose application reads so much per round trip that the window would hold the peer back.
    pub recv_buffer_max: usize,
    /// Received bytes held for all streams together. Beyond it a stream gets no more than 64 KiB that its application has
    /// not read, and nothing ahead of a hole; what does not fit counts as lost on the way and comes again.
    pub stream_memory: usize,
    /// Bytes a stream takes from its application before [`crate::Engine::write`] takes no more.
    pub send_buffer: usize,
    /// The same for a stream on a path that holds more in flight.
    pub send_buffer_max: usize,
    /// Largest segment on a path that is not known to carry more (bytes of payload).
    pub segment: usize,
    /// Largest segment over the loopback device (at most 4096 towards a peer that may be a Go peer).
    pub loopback_segment: usize,
    /// Largest segment over the loopback device towards a peer that is known to take it.
    pub jumbo_segment: usize,
    /// Streams waiting in one port's accept queue; a further one is reset (stream.md section 2).
    pub accept_queue: usize,
    /// Streams on one local port.
    pub max_conns_per_port: usize,
    /// Streams in all.
    pub max_conns: usize,
    /// New streams per second from one peer; the bucket holds one second's worth.
    pub syn_rate_per_peer: u32,
    /// New streams per second in all.
    pub syn_rate: u32,
    /// Peers whose new streams neither rate counts (stream.md section 7, gate 5).
    pub syn_exempt: Peers,
    /// A stream that was silent for this long sends a keepalive segment (stream.md section 9).
    pub stream_keepalive: Duration,
    /// A stream that was silent for this long is closed.
    pub stream_idle: Duration,
    /// How long a closing stream may go without progress before its unacknowledged data is given up.
    pub linger: Duration,
    /// How long a closed stream stays known.
    pub time_wait: Duration,

    // ---- queues towards the host
    /// Events not yet polled; datagrams and notices beyond it are dropped and counted.
    pub max_events: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            admit_all: false,
            strict: false,
            relay_only: false,
            legacy_feb: false,
            echo: true,
            allow_unauthenticated: true,
            keepalive: Duration::from_secs(25),
            idle: Duration::from_secs(120),
            forget: Duration::from_secs(300),
            resolve_ttl: Duration::from_secs(60),
            max_peers: 65_536,
            max_relayed: 4096,
            max_unauthenticated: 16_384,
            max_pending_peers: 256,
            max_pending_packets: 64,
            max_cached_keys: 65_536,
            query_timeout: Duration::from_secs(5),
            max_queries: 4096,
            recv_buffer: 4 << 20,
            recv_buffer_max: 16 << 20,
            stream_memory: 256 << 20,
            send_buffer: 4 << 20,
            send_buffer_max: 10 << 20,
            segment: 1152,
            loopback_segment: 4096,
            jumbo_segment: 16_000,
            accept_queue: 64,
            max_conns_per_port: 1024,
            max_conns: 65_536,
            syn_rate_per_peer: 10,
            syn_rate: 100,
            syn_exempt: Peers::default(),
            stream_keepalive: Duration::from_secs(30),
            stream_idle: Duration::from_secs(120),
            linger: Duration::from_secs(10),
            time_wait: Duration::from_secs(10),
            max_events: 16_384,
        }
    }
}
