//! The errors of the engine's commands, one enum per question a caller asks.
//!
//! Texts that clients of other peers match on are fixed (packet.md section 2, stream.md section 8, tunnel.md section 5) and
//! tested below.

use thiserror::Error;

/// Why a port could not be bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BindError {
    /// Someone listens there already, or the engine itself does (ports 0 and 7).
    #[error("port {port} already bound")]
    AlreadyBound {
        /// The port asked for.
        port: u16,
    },
}

/// Why a stream could not be opened: at once from [`Engine::dial`](crate::Engine::dial), or later in
/// [`Event::DialFailed`](crate::Event::DialFailed).
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DialError {
    /// The peer answered with a reset: nobody listens there, or it refuses.
    #[error("connection refused")]
    Refused,
    /// No answer to any SYN.
    #[error("dial timeout")]
    Timeout,
    /// No answer, and there never was a key to encrypt a SYN with.
    #[error("dial timeout: key exchange with peer did not complete")]
    NoKey,
    /// The target is this node.
    #[error("dial to self")]
    ToSelf,
    /// All local ports of the ephemeral range are in use towards somebody.
    #[error("ephemeral ports exhausted")]
    PortsExhausted,
    /// The registry does not know where the node is.
    #[error("{0}")]
    Unresolved(String),
    /// This node has no number yet, so nobody could answer it.
    #[error("node is not registered yet")]
    NotRegistered,
    /// A broadcast address names nobody to talk to.
    #[error("cannot dial a broadcast address")]
    Broadcast,
    /// The engine's limit of streams or peers is reached.
    #[error("too many open connections")]
    TooMany,
    /// The caller closed the stream before it was open.
    #[error("connection closed")]
    Cancelled,
}

/// Why data was not taken for a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WriteError {
    /// No such stream, or it was closed on this side.
    #[error("connection closed")]
    Closed,
    /// The stream is not open yet, or not any more.
    #[error("connection not established")]
    NotEstablished,
}

/// Why nothing can be read from a stream any more, other than its clean end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// No such stream, or it was closed on this side.
    #[error("connection closed")]
    Closed,
    /// The stream ended with data missing.
    #[error("{0}")]
    Aborted(CloseReason),
}

/// Why a datagram or ping was not sent.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SendError {
    /// The peer's queue of packets that wait for a key is full, or its key exchange was just given up.
    #[error("pending queue full: newest packet dropped (peer_node_id={node})")]
    PendingFull {
        /// The peer.
        node: u32,
    },
    /// Too many peers have packets waiting for a key.
    #[error("too many pending key exchanges")]
    TooManyPending,
    /// The payload cannot travel in one datagram.
    #[error("payload too large: {len} bytes (max {max})")]
    TooLarge {
        /// Bytes given.
        len: usize,
        /// Bytes possible.
        max: usize,
    },
    /// Broadcasts are a list of single sends, made above the engine.
    #[error("broadcast address requires admin token: use BroadcastDatagram")]
    Broadcast,
    /// This node has no number yet, so nobody could answer it.
    #[error("node is not registered yet")]
    NotRegistered,
    /// The target is this node.
    #[error("send to self")]
    ToSelf,
    /// All local ports of the ephemeral range are in use.
    #[error("ephemeral ports exhausted")]
    PortsExhausted,
    /// Too many pings are waiting for their pong.
    #[error("too many pings in flight")]
    TooManyPings,
    /// The engine's limit of peers is reached.
    #[error("too many peers")]
    TooManyPeers,
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// This side closed it.
    #[error("connection closed")]
    Local,
    /// The peer closed it after sending everything.
    #[error("connection closed by peer")]
    Finished,
    /// The peer reset it.
    #[error("connection reset by peer")]
    Reset,
    /// The peer ended it although data is missing that it will not send again.
    #[error("connection closed by peer with data missing")]
    Truncated,
    /// The peer stopped acknowledging.
    #[error("connection timed out: peer does not acknowledge")]
    Unacknowledged,
    /// Nothing was heard from the peer.
    #[error("connection timed out: idle")]
    Idle,
    /// Keepalives were not returned.
    #[error("connection timed out: peer is dead")]
    DeadPeer,
    /// The tunnel to the peer was removed by the host.
    #[error("peer removed")]
    PeerRemoved,
    /// Nobody accepted it before its port was unbound, or the accept queue was full.
    #[error("connection was not accepted")]
    NotAccepted,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_other_peers_match_on() {
        assert_eq!(DialError::Refused.to_string(), "connection refused");
        assert_eq!(DialError::Timeout.to_string(), "dial timeout");
        assert_eq!(DialError::NoKey.to_string(), "dial timeout: key exchange with peer did not complete");
        assert_eq!(DialError::ToSelf.to_string(), "dial to self");
        assert_eq!(DialError::PortsExhausted.to_string(), "ephemeral ports exhausted");
        assert_eq!(WriteError::NotEstablished.to_string(), "connection not established");
        assert_eq!(BindError::AlreadyBound { port: 80 }.to_string(), "port 80 already bound");
        assert_eq!(
            SendError::PendingFull { node: 9 }.to_string(),
            "pending queue full: newest packet dropped (peer_node_id=9)"
        );
        assert_eq!(SendError::TooManyPending.to_string(), "too many pending key exchanges");
        assert_eq!(
            SendError::TooLarge { len: 65_536, max: 65_535 }.to_string(),
            "payload too large: 65536 bytes (max 65535)"
        );
    }
}
