//! What an operator may choose about a registry and a beacon. Filled in by the driver from its configuration; the
//! defaults are those of the newest peer (registry.md, beacon.md) unless a field says otherwise.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// Settings of a [`Registry`](crate::Registry).
#[derive(Clone, Debug)]
pub struct Settings {
    /// The server-wide secret of registry.md section 2.4. `None` or empty: every admin operation is refused.
    pub admin_token: Option<String>,
    /// The beacon's public `host:port`, which stands in for the address of relay-only nodes. `None`: they have none.
    pub beacon_addr: Option<String>,
    /// Nodes silent for longer are removed from the directory.
    pub reap_after: Duration,
    /// The most nodes one [`sweep`](crate::Registry::sweep) removes.
    pub reap_batch: usize,
    /// The most live nodes; further new keys are refused.
    pub max_nodes: usize,
    /// A heartbeat's signature is checked unless one was verified for that node within this time. The peers use 120 s;
    /// zero, the default, checks each one, so that nobody else can keep a dead node in the directory.
    pub heartbeat_verify_every: Duration,
    /// Demands a signed time stamp no further off than this in every heartbeat (the peer's strict mode, off there too).
    pub heartbeat_skew: Option<Duration>,
    /// Demands a signature in every registration (the peer's strict mode, off there too).
    pub signed_registration: bool,
    /// Accepts key rotations signed the old way, without naming the new key. Such a signature can be replayed with any
    /// key, so this is off.
    pub legacy_rotation: bool,
    /// New keys per source address and minute. `None`: no limit, as the newest peer has none.
    pub registrations_per_minute: Option<u32>,
    /// Addresses without limits on registrations and (by the driver) on requests per second. None by default.
    pub unlimited: Vec<IpAddr>,
    /// Handshake requests waiting for one node; further ones are refused.
    pub inbox_requests: usize,
    /// Handshake answers waiting for one node; the oldest gives way. The peers keep any number.
    pub inbox_responses: usize,
    /// Relayed requests to one node that it may still accept; the oldest gives way. The peers keep any number.
    pub inbox_awaiting: usize,
    /// Trust pairs one node may take part in; further ones are refused. The peers keep any number.
    pub trust_per_node: usize,
    /// Network invitations waiting for one node; further ones are refused.
    pub inbox_invites: usize,
    /// How long an invitation stands.
    pub invite_lifetime: Duration,
    /// Entries in the audit log; the oldest gives way.
    pub audit_entries: usize,
    /// Secret of those who may follow this registry. `None` or empty: nobody may.
    pub replication_token: Option<String>,
    /// This registry follows another one: it answers what only reads, refuses everything else, and throws nobody out.
    pub standby: bool,
    /// Beacons in the list; further ones are refused. The peers keep any number.
    pub max_beacons: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            admin_token: None,
            beacon_addr: None,
            reap_after: Duration::from_secs(30 * 60),
            reap_batch: 10_000,
            max_nodes: 1_000_000,
            heartbeat_verify_every: Duration::ZERO,
            heartbeat_skew: None,
            signed_registration: false,
            legacy_rotation: false,
            registrations_per_minute: None,
            unlimited: Vec::new(),
            inbox_requests: 100,
            inbox_responses: 1_000,
            inbox_awaiting: 1_000,
            trust_per_node: 100_000,
            inbox_invites: 100,
            invite_lifetime: Duration::from_secs(30 * 24 * 3600),
            audit_entries: 1_000,
            replication_token: None,
            standby: false,
            max_beacons: 1_000,
        }
    }
}

/// Settings of a [`Beacon`](crate::Beacon).
#[derive(Clone, Debug)]
pub struct BeaconSettings {
    /// This beacon's number among several.
    pub id: u32,
    /// The other beacons, which get a Sync every [`sync_interval`](Self::sync_interval). None: no cluster.
    pub peers: Vec<SocketAddr>,
    /// Believes a Sync only if it comes from one of `peers`. The peer's default is to believe everyone's.
    pub sync_from_peers_only: bool,
    /// How often the other beacons hear of our nodes.
    pub sync_interval: Duration,
    /// The most nodes in the table; new ones are then ignored.
    pub max_nodes: usize,
    /// The most nodes learned from other beacons; further ones are ignored.
    pub max_gossip: usize,
    /// A node not heard of for longer is forgotten at the next sweep.
    pub node_lifetime: Duration,
    /// A beacon not heard of for longer is forgotten with all it announced.
    pub gossip_lifetime: Duration,
    /// How often the two lifetimes are looked at.
    pub sweep_interval: Duration,
    /// A node's endpoint changes at most this often. The reply to a Discover is sent in any case.
    pub endpoint_interval: Duration,
    /// Relayed datagrams per second and source endpoint; surplus is dropped. `None`: no limit.
    pub relay_per_second: Option<u32>,
    /// Least time between two accepted punch requests from whomever.
    pub punch_interval: Duration,
    /// Least time between two accepted punch requests from one address.
    pub punch_interval_per_source: Duration,
    /// Addresses without relay and punch limits. Loopback by default: all nodes of one machine share it.
    pub unlimited: Vec<IpAddr>,
    /// Sources the limits keep count of at one time; while there are more, further ones are dropped.
    pub max_sources: usize,
    /// Least time between two notifications to one node; one that comes too early is sent when it is time.
    pub notify_interval: Duration,
    /// Demands a punch grant signed by the target, whose key must be known.
    pub punch_grants: bool,
}

impl Default for BeaconSettings {
    fn default() -> Self {
        Self {
            id: 0,
            peers: Vec::new(),
            sync_from_peers_only: false,
            sync_interval: Duration::from_secs(10),
            max_nodes: 500_000,
            max_gossip: 500_000,
            node_lifetime: Duration::from_secs(600),
            gossip_lifetime: Duration::from_secs(90),
            sweep_interval: Duration::from_secs(60),
            endpoint_interval: Duration::from_secs(30),
            relay_per_second: Some(4_000),
            punch_interval: Duration::from_millis(100),
            punch_interval_per_source: Duration::from_secs(1),
            unlimited: vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            max_sources: 100_000,
            notify_interval: Duration::from_secs(2),
            punch_grants: false,
        }
    }
}
