//! A picture of the engine for people and status commands (ipc.md section 8). Plain data, nothing is kept alive by it.

use std::net::SocketAddr;

use pilot_wire::addr::Addr;

use crate::event::ConnId;
use crate::stream::State;
use crate::time::Duration;

/// Everything the engine can say about itself. Counters count from the engine's start.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Our node number; 0 before registration.
    pub node: u32,
    /// Our endpoint as the beacon saw it last.
    pub observed: Option<SocketAddr>,
    /// The beacon in use.
    pub beacon: Option<SocketAddr>,
    /// Bytes of datagrams handed to the driver.
    pub bytes_sent: u64,
    /// Bytes of datagrams taken from the driver.
    pub bytes_recv: u64,
    /// Datagrams handed to the driver.
    pub pkts_sent: u64,
    /// Datagrams taken from the driver.
    pub pkts_recv: u64,
    /// Ports with a listener, the built-in ones not counted, ascending.
    pub ports: Vec<u16>,
    /// Sealed frames that opened.
    pub encryption_success: u64,
    /// Sealed frames that did not open.
    pub encryption_failure: u64,
    /// Key exchanges that wait for an answer.
    pub key_exchanges_pending: usize,
    /// Peers reached through the beacon.
    pub relay_peers: usize,
    /// Streams reset because an accept queue was full.
    pub accept_queue_drops: u64,
    /// Events dropped because the host did not poll.
    pub events_dropped: u64,
    /// One row per known peer, ascending by node number.
    pub peers: Vec<PeerRow>,
    /// One row per stream, ascending by id.
    pub conns: Vec<ConnRow>,
}

/// One peer.
#[derive(Clone, Debug)]
pub struct PeerRow {
    /// Its node number.
    pub node: u32,
    /// Where frames for it go; `None` while that is being found out.
    pub endpoint: Option<SocketAddr>,
    /// There is a session.
    pub encrypted: bool,
    /// The session's key was signed by the node's registered identity.
    pub authenticated: bool,
    /// Frames go through the beacon.
    pub relay: bool,
    /// It has shown to be a peer with the large-window data plane.
    pub enhanced: bool,
    /// Which way frames take.
    pub path: PathKind,
    /// Frames that come straight do not end the relay.
    pub pinned: bool,
    /// Time since the last frame that opened; `None` before the first.
    pub heard: Option<Duration>,
    /// The shortest smoothed round trip of its streams, or its last ping's; `None` before either.
    pub rtt: Option<Duration>,
    /// Frames it sent that never arrived, in thousandths of those since its last change of key or prefix.
    pub loss_permille: u32,
    /// How often its key changed while we knew it.
    pub rekeys: u64,
}

/// The way frames to a peer take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathKind {
    /// None is known yet.
    None,
    /// Straight to its public address.
    Direct,
    /// Straight to an address in a network of ours.
    Lan,
    /// Through the beacon.
    Relay,
}

impl PathKind {
    /// The word of status output.
    pub const fn text(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Direct => "direct",
            Self::Lan => "lan",
            Self::Relay => "relay",
        }
    }
}

/// One stream, with the counters of ipc.md section 8.
#[derive(Clone, Debug)]
pub struct ConnRow {
    /// Its id.
    pub id: ConnId,
    /// Our address.
    pub local_addr: Addr,
    /// Our port.
    pub local_port: u16,
    /// The peer's address.
    pub remote_addr: Addr,
    /// The peer's port.
    pub remote_port: u16,
    /// Its state; prints as the text of stream.md section 2.
    pub state: State,
    /// Congestion window in bytes.
    pub cong_win: u64,
    /// Slow start threshold in bytes; `u64::MAX` before the first loss.
    pub ssthresh: u64,
    /// Bytes sent and neither acknowledged nor considered lost.
    pub in_flight: u64,
    /// Smoothed round trip time; zero before the first sample.
    pub srtt: Duration,
    /// Its variation.
    pub rttvar: Duration,
    /// Segments sent and not yet cumulatively acknowledged.
    pub unacked: usize,
    /// Segments waiting for earlier data.
    pub ooo_buf: usize,
    /// The peer's last window, in segments.
    pub peer_recv_win: u16,
    /// Our last window, in segments.
    pub recv_win: u16,
    /// A loss is being repaired.
    pub in_recovery: bool,
    /// Payload bytes sent, first transmissions only.
    pub bytes_sent: u64,
    /// Payload bytes received in order.
    pub bytes_recv: u64,
    /// Data segments sent, repeats included.
    pub segs_sent: u64,
    /// Data segments received, repeats included.
    pub segs_recv: u64,
    /// Segments sent again for whatever reason.
    pub retransmits: u64,
    /// Segments sent again before a timeout.
    pub fast_retx: u64,
    /// Segments received that carried SACK blocks.
    pub sack_recv: u64,
    /// Segments sent that carried SACK blocks.
    pub sack_sent: u64,
    /// Duplicate acknowledgements received.
    pub dup_acks: u64,
}
