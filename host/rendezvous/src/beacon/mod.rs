//! The beacon: tells nodes how they look from outside, introduces two nodes to each other, and passes frames on between
//! nodes that cannot reach each other.
//!
//! Called by the UDP driver with every datagram and about once a second for what time brings. Datagrams to send go to the
//! caller's closure while the call lasts; a relayed frame is rewritten in place and never copied. Nothing here is
//! authenticated (the base protocol has no means to): a node number leads to whoever announced it, and identity is proved
//! inside the tunnel. Fact sheet: beacon.md section 2.
//!
//! Two deviations, both invisible to peers that work: number 0, under which nodes discover before they are registered, is
//! answered but not stored, so it can never be a target; and a punch request cannot move a node's endpoint more often than
//! a Discover can.

pub(crate) mod bridge;
mod limits;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use pilot_wire::beacon::{
    self, Grant, Message, NOTIFY_HANDSHAKE, RELAY_DELIVER_DEST, decode, encode_sync, punch_grant_challenge,
    relay_deliver_header,
};

use crate::key::PublicKey;
use crate::settings::BeaconSettings;
use bridge::{bridge_addr, bridged_node};
use limits::{PunchLimit, RelayLimit};

/// The present moment on both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Since an arbitrary start; never runs backwards.
    pub elapsed: Duration,
    /// Unix seconds, for what is signed with a date.
    pub unix: i64,
}

/// A node that announced itself.
#[derive(Clone, Debug)]
struct Entry {
    endpoint: SocketAddr,
    /// When `endpoint` was last written.
    stored: Duration,
    seen: Duration,
    /// Asked for deliveries that name their destination.
    names_dest: bool,
    key: Option<PublicKey>,
    notified: Option<Duration>,
}

/// Another beacon, and what it announced.
#[derive(Clone, Debug)]
struct Neighbour {
    heard: Duration,
    nodes: Vec<u32>,
}

/// The table of endpoints and the rules for passing datagrams between them.
#[derive(Debug)]
pub struct Beacon {
    settings: BeaconSettings,
    nodes: BTreeMap<u32, Entry>,
    /// Nodes that are connected over a WebSocket, proved by their keys.
    bridged: BTreeSet<u32>,
    gossip: BTreeMap<u32, SocketAddr>,
    neighbours: BTreeMap<SocketAddr, Neighbour>,
    relay_limit: RelayLimit,
    punch_limit: PunchLimit,
    /// Nodes to be notified as soon as their interval is over. Holds only nodes of the table.
    waiting: BTreeSet<u32>,
    swept: Duration,
    synced: Duration,
    scratch: Vec<u8>,
}

impl Beacon {
    /// A beacon that knows no one.
    pub fn new(settings: BeaconSettings) -> Self {
        Self {
            relay_limit: RelayLimit::new(settings.relay_per_second, settings.max_sources),
            punch_limit: PunchLimit::new(
                settings.punch_interval,
                settings.punch_interval_per_source,
                settings.max_sources,
            ),
            settings,
            nodes: BTreeMap::new(),
            bridged: BTreeSet::new(),
            gossip: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            waiting: BTreeSet::new(),
            swept: Duration::ZERO,
            synced: Duration::ZERO,
            scratch: Vec::new(),
        }
    }

    /// Handles one datagram from `from` (an IPv4 peer in its IPv4 spelling). `known_key` is asked for the key of a node
    /// when a punch grant has to be checked; a registry in the same process knows it.
    ///
    /// What is to be sent goes to `send` before this returns. Malformed datagrams, unknown types, surplus over a limit
    /// and messages for nodes that are not here are dropped without an answer.
    pub fn handle_datagram(
        &mut self,
        now: Moment,
        from: SocketAddr,
        datagram: &mut [u8],
        known_key: impl FnOnce(u32) -> Option<[u8; 32]>,
        send: &mut dyn FnMut(SocketAddr, &[u8]),
    ) {
        let message = decode(datagram);
        if let Some(own) = bridged_node(from) {
            // The pipe says who it is; a client speaks for itself only, and a hole cannot be punched into a pipe.
            let honest = match message {
                Ok(Message::Discover { node, .. } | Message::DiscoverEx { node, .. }) => node == own,
                Ok(Message::Relay { sender, .. }) => sender == own,
                _ => false,
            };
            if !honest || !self.bridged.contains(&own) {
                return;
            }
        }
        match message {
            Ok(Message::Discover { node, key }) => self.discover(now, from, node, key, false, send),
            Ok(Message::DiscoverEx { node, key }) => self.discover(now, from, node, key, true, send),
            Ok(Message::PunchRequest { requester, target, grant }) => {
                if !self.settings.punch_grants || self.granted(now, requester, target, grant, known_key) {
                    self.punch(now, from, requester, target, send);
                }
            }
            Ok(Message::Relay { sender, dest, .. }) => self.relay(now, from, sender, dest, datagram, send),
            Ok(Message::Sync { nodes, .. }) => {
                let nodes = nodes.iter().collect();
                self.sync(now, from, nodes);
            }
            // Answers of a beacon, which only nodes have a use for; and what is no message.
            Ok(_) | Err(_) => {}
        }
    }

    /// Does what is due: forgets nodes and beacons that have fallen silent, tells other beacons about ours, sends
    /// notifications that had to wait. To be called about once a second.
    pub fn handle_timeout(&mut self, now: Moment, send: &mut dyn FnMut(SocketAddr, &[u8])) {
        let due: Vec<u32> = self.waiting.iter().copied().collect();
        for node in due {
            self.notify(now, node, send);
        }
        let elapsed = now.elapsed;
        if elapsed.saturating_sub(self.swept) >= self.settings.sweep_interval {
            self.swept = elapsed;
            self.sweep(elapsed);
        }
        if !self.settings.peers.is_empty()
            && elapsed.saturating_sub(self.synced) >= self.settings.sync_interval
        {
            self.synced = elapsed;
            self.scratch.clear();
            encode_sync(self.settings.id, self.nodes.keys().copied(), &mut self.scratch);
            for peer in &self.settings.peers {
                send(*peer, &self.scratch);
            }
        }
    }

    /// Tells a node that the registry holds a handshake message for it: at once, or when the node's interval is over.
    /// A node that is not here finds out by its next poll.
    pub fn notify(&mut self, now: Moment, node: u32, send: &mut dyn FnMut(SocketAddr, &[u8])) {
        let interval = self.settings.notify_interval;
        let Some(entry) = self.nodes.get_mut(&node) else {
            self.waiting.remove(&node);
            return;
        };
        if entry.notified.is_some_and(|at| now.elapsed.saturating_sub(at) < interval) {
            self.waiting.insert(node);
            return;
        }
        entry.notified = Some(now.elapsed);
        self.waiting.remove(&node);
        self.scratch.clear();
        Message::Notify { kind: NOTIFY_HANDSHAKE }.encode(&mut self.scratch);
        send(entry.endpoint, &self.scratch);
    }

    /// The number of nodes in the table.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    fn discover(
        &mut self,
        now: Moment,
        from: SocketAddr,
        node: u32,
        key: Option<&[u8; 32]>,
        names_dest: bool,
        send: &mut dyn FnMut(SocketAddr, &[u8]),
    ) {
        let full = !self.learn(now.elapsed, from, node);
        // Over a WebSocket there is no endpoint to tell.
        if full || bridged_node(from).is_some() {
            return;
        }
        if let Some(entry) = self.nodes.get_mut(&node).filter(|e| e.endpoint == from) {
            entry.names_dest = names_dest;
            entry.key = entry.key.or(key.copied().map(PublicKey::from_bytes));
        }
        self.scratch.clear();
        Message::DiscoverReply { observed: from }.encode(&mut self.scratch);
        send(from, &self.scratch);
    }

    /// Stores or refreshes a node's endpoint; false when the node is new and the table full.
    fn learn(&mut self, now: Duration, from: SocketAddr, node: u32) -> bool {
        if node == 0 {
            return true;
        }
        if let Some(entry) = self.nodes.get_mut(&node) {
            if entry.endpoint == from {
                entry.seen = now;
            } else if now.saturating_sub(entry.stored) >= self.settings.endpoint_interval {
                entry.endpoint = from;
                entry.stored = now;
                entry.seen = now;
            }
            return true;
        }
        if self.nodes.len() >= self.settings.max_nodes {
            return false;
        }
        self.gossip.remove(&node);
        let entry =
            Entry { endpoint: from, stored: now, seen: now, names_dest: false, key: None, notified: None };
        self.nodes.insert(node, entry);
        true
    }

    fn punch(
        &mut self,
        now: Moment,
        from: SocketAddr,
        requester: u32,
        target: u32,
        send: &mut dyn FnMut(SocketAddr, &[u8]),
    ) {
        if !self.is_unlimited(from) && !self.punch_limit.take(now.elapsed, from.ip()) {
            return;
        }
        self.learn(now.elapsed, from, requester);
        let Some(peer) = self.nodes.get(&target).map(|entry| entry.endpoint) else { return };
        if bridged_node(peer).is_some() {
            return;
        }
        for (to, other) in [(from, peer), (peer, from)] {
            self.scratch.clear();
            Message::PunchCommand { peer: other }.encode(&mut self.scratch);
            send(to, &self.scratch);
        }
    }

    fn granted(
        &self,
        now: Moment,
        requester: u32,
        target: u32,
        grant: Option<Grant<'_>>,
        known_key: impl FnOnce(u32) -> Option<[u8; 32]>,
    ) -> bool {
        let Some(grant) = grant.filter(|g| now.unix <= g.expiry) else { return false };
        let announced = || self.nodes.get(&target).and_then(|entry| entry.key);
        let key = known_key(target).map(PublicKey::from_bytes).or_else(announced);
        let challenge = punch_grant_challenge(requester, target, grant.expiry);
        key.is_some_and(|key| key.verify(challenge.as_bytes(), grant.signature))
    }

    /// `datagram` is the whole relay message; its header is overwritten with that of the delivery.
    fn relay(
        &mut self,
        now: Moment,
        from: SocketAddr,
        sender: u32,
        dest: u32,
        datagram: &mut [u8],
        send: &mut dyn FnMut(SocketAddr, &[u8]),
    ) {
        if !self.is_unlimited(from) && !self.relay_limit.take(now.elapsed, from) {
            return;
        }
        if self.bridged.contains(&dest) {
            deliver(datagram, sender, bridge_addr(dest), send);
        } else if let Some(entry) = self.nodes.get(&dest).filter(|e| bridged_node(e.endpoint).is_none()) {
            if entry.names_dest {
                datagram[0] = RELAY_DELIVER_DEST;
                send(entry.endpoint, datagram);
            } else {
                deliver(datagram, sender, entry.endpoint, send);
            }
        } else if let Some(neighbour) = self.gossip.get(&dest).filter(|n| **n != from) {
            // Not back to where it came from: two beacons that each believe the other has it would play ping-pong.
            send(*neighbour, datagram);
        }
    }

    fn sync(&mut self, now: Moment, from: SocketAddr, nodes: Vec<u32>) {
        if self.settings.sync_from_peers_only && !self.settings.peers.contains(&from) {
            return;
        }
        self.forget_neighbour(from);
        let mut kept = Vec::new();
        for node in nodes {
            let room = self.gossip.len() < self.settings.max_gossip || self.gossip.contains_key(&node);
            if node != 0 && room && !self.nodes.contains_key(&node) {
                self.gossip.insert(node, from);
                kept.push(node);
            }
        }
        if !kept.is_empty() {
            self.neighbours.insert(from, Neighbour { heard: now.elapsed, nodes: kept });
        }
    }

    fn forget_neighbour(&mut self, neighbour: SocketAddr) {
        let Some(old) = self.neighbours.remove(&neighbour) else { return };
        for node in old.nodes {
            // Another beacon may have announced it since.
            if self.gossip.get(&node) == Some(&neighbour) {
                self.gossip.remove(&node);
            }
        }
    }

    fn sweep(&mut self, now: Duration) {
        let lifetime = self.settings.node_lifetime;
        self.nodes.retain(|_, entry| now.saturating_sub(entry.seen) <= lifetime);
        let lifetime = self.settings.gossip_lifetime;
        let silent = |n: &Neighbour| now.saturating_sub(n.heard) > lifetime;
        let silent: Vec<_> = self.neighbours.iter().filter(|(_, n)| silent(n)).map(|(at, _)| *at).collect();
        for neighbour in silent {
            self.forget_neighbour(neighbour);
        }
    }

    fn is_unlimited(&self, from: SocketAddr) -> bool {
        self.settings.unlimited.contains(&from.ip())
    }
}

/// Turns a relay message into its delivery, in place.
fn deliver(datagram: &mut [u8], sender: u32, to: SocketAddr, send: &mut dyn FnMut(SocketAddr, &[u8])) {
    // The delivery's header is four bytes shorter, so it begins inside the relay's.
    let cut = beacon::RELAY_HEADER_LEN - beacon::RELAY_DELIVER_HEADER_LEN;
    let delivery = &mut datagram[cut..];
    delivery[..beacon::RELAY_DELIVER_HEADER_LEN].copy_from_slice(&relay_deliver_header(sender));
    send(to, delivery);
}
