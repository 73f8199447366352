//! What the engine tells its host: stream events, datagrams, pongs, and notices for the event bus.
//!
//! Polled with [`Engine::poll_event`](crate::Engine::poll_event) after every call that took the time. Stream events are
//! edge-triggered: `Readable` comes once and again only after a read found nothing; `Writable` only after a write was
//! cut short.

use std::fmt;
use std::net::SocketAddr;

use bytes::Bytes;
use pilot_wire::addr::Addr;

pub use crate::error::CloseReason;
use crate::error::DialError;
pub use crate::notice::Notice;
use crate::time::Duration;

/// Names a stream; never reused during the life of an engine (it wraps after 2^32 streams).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u32);

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PingId(pub u64);

/// The four endpoint values of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnInfo {
    /// Our address: for an accepted stream the destination of its SYN.
    pub local: Addr,
    /// Our port.
    pub local_port: u16,
    /// The peer's address.
    pub remote: Addr,
    /// The peer's port.
    pub remote_port: u16,
}

/// Something the host should know.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A dial succeeded; the stream can be written.
    Connected {
        /// The stream.
        conn: ConnId,
    },
    /// A dial failed; the id is void.
    DialFailed {
        /// The stream that was to be.
        conn: ConnId,
        /// Why.
        error: DialError,
    },
    /// A stream waits in the accept queue of a port; take it with [`Engine::accept`](crate::Engine::accept).
    Incoming {
        /// The bound port.
        port: u16,
        /// The stream.
        conn: ConnId,
    },
    /// There is something to read, or the end of the stream.
    Readable {
        /// The stream.
        conn: ConnId,
    },
    /// There is room in the send buffer again.
    Writable {
        /// The stream.
        conn: ConnId,
    },
    /// The stream is over in both directions. What was received can still be read, until the host calls
    /// [`Engine::close`](crate::Engine::close), which also frees it.
    Closed {
        /// The stream.
        conn: ConnId,
        /// How it ended.
        reason: CloseReason,
    },
    /// A datagram for a local port arrived and was admitted.
    Datagram {
        /// The sender.
        from: Addr,
        /// The sender's port.
        src_port: u16,
        /// The address it was sent to.
        to: Addr,
        /// Our port.
        dst_port: u16,
        /// Its payload, never empty.
        data: Bytes,
    },
    /// A ping came back.
    Pong {
        /// The ping.
        id: PingId,
        /// Time from sending to receiving.
        rtt: Duration,
    },
    /// A ping was not answered within 10 seconds, or could not be sent.
    PingFailed {
        /// The ping.
        id: PingId,
    },
    /// The beacon says that the registry holds a relayed handshake for us: poll it now.
    BeaconNotify,
    /// The beacon told us how it sees our endpoint.
    ObservedAddr(SocketAddr),
    /// An entry for the event bus.
    Notice(Notice),
}
