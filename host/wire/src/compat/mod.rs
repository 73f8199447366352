//! The compat transport: what a daemon without UDP and a beacon say to each other over one WebSocket (wss.md).
//!
//! Called by the client transport and by the beacon's WebSocket side, both in `pilot-net`. Here are names, numbers, the
//! challenge ([`auth`]) and the HTTP head in front of it ([`http`]). WebSocket framing is a library's work; the binary
//! messages behind `auth_ok` are those of [`beacon`](crate::beacon), one per message, nothing around them.

pub mod auth;
pub mod http;
mod url;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

pub use url::{Url, UrlError};

/// Path of the WebSocket on a beacon.
pub const PATH: &str = "/v1/compat";
/// Path of the beacon's sign of life: 200, empty.
pub const HEALTH_PATH: &str = "/health";
/// Where a daemon connects when nothing is configured (wss.md section 1).
pub const DEFAULT_URL: &str = "wss://beacon.pilotprotocol.network/v1/compat";
/// The subprotocol a client offers. A beacon that does not name it is fine.
pub const SUBPROTOCOL: &str = "pilot.v1";

/// Limit of one dial: names, TCP, proxy, TLS, upgrade and challenge together.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(20);
/// Time between two pings of a client.
pub const PING_INTERVAL: Duration = Duration::from_secs(30);
/// How long a client waits for a pong before it gives a connection up.
pub const PONG_WAIT: Duration = Duration::from_secs(10);
/// Received messages that wait for the daemon; beyond it nothing more is read from the socket.
pub const RECEIVE_QUEUE: usize = 256;
/// First wait before a redial; doubles after each failed one.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(250);
/// Longest wait before a redial.
pub const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A beacon drops a client that sent no data message for this long; pings do not count.
pub const IDLE_LIMIT: Duration = Duration::from_secs(90);
/// A client sends a data message (Discover) at least this often; the sheet says "under 60 s".
pub const DATA_KEEPALIVE: Duration = Duration::from_secs(45);
/// Limit of the whole challenge at the beacon.
pub const AUTH_TIMEOUT: Duration = Duration::from_secs(10);
/// Limit for the head of an HTTP request at the beacon.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// A client that takes no message for this long is dropped by the beacon.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(90);
/// Largest message either of our sides takes, bytes; the Go client takes [`GO_CLIENT_MAX_MESSAGE`].
pub const MAX_MESSAGE: usize = 65_536;
/// Largest message a Go client takes, bytes.
pub const GO_CLIENT_MAX_MESSAGE: usize = 32_768;

/// What stands for the own address where a UDP socket would have one.
pub const LOCAL_PLACEHOLDER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 0);
/// What stands for the beacon's address: every received datagram comes from it.
pub const BEACON_PLACEHOLDER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), 0);

/// A reason to close: WebSocket code and text (wss.md section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Close {
    /// RFC 6455 status code.
    pub code: u16,
    /// ASCII, shorter than 123 bytes.
    pub reason: &'static str,
}

impl Close {
    /// The challenge failed, whoever says so.
    pub const AUTH_FAILED: Self = Self { code: 1008, reason: "auth failed" };
    /// The same node has authenticated again.
    pub const REPLACED: Self = Self { code: 1000, reason: "replaced" };
    /// The beacon drops a client whose connection broke or fell silent.
    pub const READ_LOOP_EXIT: Self = Self { code: 1000, reason: "read loop exit" };
    /// The beacon drops a client that takes nothing.
    pub const WRITE_ERROR: Self = Self { code: 1000, reason: "write error: timeout" };
    /// The beacon stops.
    pub const BEACON_STOPS: Self = Self { code: 1001, reason: "beacon shutting down" };
    /// A message over [`MAX_MESSAGE`].
    pub const TOO_LARGE: Self = Self { code: 1009, reason: "message too large" };
    /// No pong within [`PONG_WAIT`].
    pub const PING_TIMEOUT: Self = Self { code: 1008, reason: "idle ping timeout" };
    /// The client ends.
    pub const CLIENT_ENDS: Self = Self { code: 1000, reason: "" };
}
