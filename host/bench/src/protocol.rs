//! What the parent and its child processes say to each other: one JSON object per line, requests on the child's standard
//! input, one reply per request on its standard output. A child ends when its input ends. Not a wire format of Pilot.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// What the parent asks of a child.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Whom every later load goes to. Answered by [`Reply::Done`] once that peer can be reached.
    Target(Target),
    /// Send `bytes` in all over `streams` parallel streams and wait until the peer confirms every byte. With `verify`
    /// the peer also compares what it got. Answered by [`Reply::Took`].
    Transfer {
        /// Streams at once.
        streams: u32,
        /// Bytes in all.
        bytes: u64,
        /// Compare the contents too.
        verify: bool,
    },
    /// Open `count` streams, `parallel` at a time, exchange one byte on each and close it. Answered by [`Reply::Took`].
    Dial {
        /// Streams in all.
        count: u32,
        /// Streams at a time.
        parallel: u32,
    },
    /// Open `count` more streams, exchange one byte on each and keep them open. Answered by [`Reply::Done`].
    Hold {
        /// Streams to add.
        count: u32,
    },
    /// Measure `count` round trips one after another. Answered by [`Reply::Pings`].
    Ping {
        /// Round trips.
        count: u32,
    },
    /// The counters of the tunnel socket. Answered by [`Reply::Counters`].
    Counters,
}

/// A peer, in the terms of the role that is asked to reach it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Target {
    /// A Pilot node.
    Node(u32),
    /// A QUIC server and its only certificate, DER in base64.
    Quic {
        /// Where it listens.
        addr: SocketAddr,
        /// Whom to trust.
        certificate: String,
    },
    /// A TLS server and its only certificate, DER in base64.
    Tls {
        /// Where it listens.
        addr: SocketAddr,
        /// Whom to trust.
        certificate: String,
    },
    /// A UDP echo server.
    Udp(SocketAddr),
    /// A TCP server.
    Tcp(SocketAddr),
    /// A rendezvous.
    Rendezvous {
        /// Its registry.
        registry: SocketAddr,
        /// Its beacon.
        beacon: SocketAddr,
        /// Where that takes WebSocket clients, over TLS.
        compat: SocketAddr,
        /// The fingerprint of the certificate there.
        pin: String,
    },
}

/// What a child answers. The first line of every child is its own address as a [`Reply::Ready`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Reply {
    /// The child is up.
    Ready(Target),
    /// Done, nothing to report.
    Done,
    /// A load was carried in this many nanoseconds.
    Took(u64),
    /// Round trips in nanoseconds.
    Pings {
        /// As the layer that sends and receives the datagrams measures them.
        inner: Vec<u64>,
        /// As the caller sees them, its own wake-up included.
        called: Vec<u64>,
    },
    /// Bytes of UDP payload since the start.
    Counters {
        /// Sent.
        sent: u64,
        /// Received.
        received: u64,
    },
    /// The request failed; a text for people.
    Failed(String),
}
