//! What a rendezvous server can be told: addresses, secrets, where to keep its records, and its limits.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use pilot_rendezvous::{BeaconSettings, Settings};

use super::compat::CompatListen;
use crate::tls::{ClientTls, ServerTls};

/// Configuration of a [`RendezvousServer`](super::RendezvousServer).
#[derive(Clone, Debug)]
pub struct RendezvousConfig {
    /// TCP address of the registry; port 0 picks a free one. An unspecified IPv6 address serves IPv4 too.
    pub registry_addr: SocketAddr,
    /// UDP address of the beacon; as above.
    pub beacon_addr: SocketAddr,
    /// Secret of the admin operations; takes precedence over the one in `registry`. `None`: there are no admin
    /// operations.
    pub admin_token: Option<String>,
    /// Directory of the registry's store, made when it is missing. `None`: everything is forgotten at the end.
    pub data_dir: Option<PathBuf>,
    /// Rules of the registry. Its beacon address, when not set, becomes the bound one, unless that is unspecified: nodes
    /// that are reached through relay only need it.
    pub registry: Settings,
    /// Rules of the beacon.
    pub beacon: BeaconSettings,
    /// Where the beacon takes nodes that come over a WebSocket. `None`: it does not.
    pub compat: Option<CompatListen>,
    /// Bounds of the TCP side.
    pub limits: Limits,
    /// TLS on the registry's port; `None`: in the clear, as most peers expect it.
    pub tls: Option<ServerTls>,
    /// Follow this primary: serve what it has, refuse what would change it.
    pub follow: Option<Follow>,
    /// Where the dashboard listens (HTTP); port 0 picks a free one. `None`: there is none.
    pub dashboard_addr: Option<SocketAddr>,
    /// Secret that shows the networks' names on the dashboard (`?token=`). `None` or empty: nobody sees them.
    pub dashboard_token: Option<String>,
}

/// A primary to follow.
#[derive(Clone, Debug)]
pub struct Follow {
    /// Its registry's `host:port`.
    pub addr: String,
    /// Its replication token.
    pub token: String,
    /// How to believe it is the right one, when it speaks TLS.
    pub tls: Option<ClientTls>,
}

impl Default for RendezvousConfig {
    /// The usual ports on loopback, nothing kept.
    fn default() -> Self {
        Self {
            registry_addr: (Ipv4Addr::LOCALHOST, 9000).into(),
            beacon_addr: (Ipv4Addr::LOCALHOST, 9001).into(),
            admin_token: None,
            data_dir: None,
            registry: Settings::default(),
            beacon: BeaconSettings::default(),
            compat: None,
            limits: Limits::default(),
            tls: None,
            follow: None,
            dashboard_addr: None,
            dashboard_token: None,
        }
    }
}

/// Bounds of the TCP side (registry.md sections 1 and 4). The defaults are the newest peer's unless a field says
/// otherwise. Those on requests per second do not count the sources that the registry's settings call unlimited.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time; further ones are accepted and closed. The peer allows 1,100,000.
    pub connections: usize,
    /// Connections accepted per second during the first minute; the rest waits for the next second.
    pub accepts_per_second: u32,
    /// A connection that has not delivered its next request after this time is closed.
    pub idle: Duration,
    /// An answer that the client has not taken after this time closes the connection.
    pub write: Duration,
    /// Bytes that the bodies of all requests being read may hold together, beyond the first 64 KiB of each; a connection
    /// that would go over it is closed. The peer has no such bound.
    pub request_memory: usize,
    /// Members and elements in one request; a request with more is taken for no request. The peer has no such bound, but
    /// no operation comes near it.
    pub request_elements: usize,
    /// Standbys that may follow at a time; further ones are refused.
    pub standbys: usize,
    /// A connection older than 5 s that has made more requests per second than this waits 10 ms before each answer.
    pub slow_above: u32,
    /// A connection older than 5 s that has made more requests per second than this is closed.
    pub close_above: u32,
    /// Requests per second of all connections older than 5 s together; whoever makes one more is closed. `None`: any
    /// number.
    pub close_above_together: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 65_536,
            accepts_per_second: 1_000,
            idle: Duration::from_secs(300),
            write: pilot_wire::registry::WRITE_MESSAGE_DEADLINE,
            request_memory: 256 << 20,
            request_elements: 1_000_000,
            standbys: 16,
            slow_above: 100,
            close_above: 500,
            close_above_together: Some(1_000),
        }
    }
}
