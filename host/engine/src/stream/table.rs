//! All connections of an engine: by id, by their four values, by peer; and the queue of those that want to send.
//!
//! Called by the engine. Lookups on the packet path are two hash lookups. Does not decide who may connect.
//!
//! A stream that is over stays known for a while (`TIME_WAIT`: it answers a repeated FIN), but takes no place from a new
//! one: it counts for no port, and leaves when the table is full ([`Conns::rest`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use pilot_wire::addr::Addr;
use pilot_wire::packet::Header;
use pilot_wire::ports;

use super::conn::Conn;
use crate::event::{ConnId, ConnInfo};
use crate::map::{Keyed, NumMap};

/// Ephemeral ports.
const EPHEMERAL: usize = (ports::EPHEMERAL_MAX - ports::EPHEMERAL_MIN) as usize + 1;

/// What identifies a stream whatever network its peer writes into its address (stream.md section 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Tuple {
    local_port: u16,
    node: u32,
    remote_port: u16,
}

impl Tuple {
    /// Of a stream with these ends.
    pub(crate) const fn of(info: &ConnInfo) -> Self {
        Self { local_port: info.local_port, node: info.remote.node, remote_port: info.remote_port }
    }

    /// The stream that a packet from a peer belongs to.
    pub(crate) const fn received(h: &Header) -> Self {
        Self { local_port: h.dst_port, node: h.src.node, remote_port: h.src_port }
    }

    /// The stream that a packet of ours belongs to.
    pub(crate) const fn sent(h: &Header) -> Self {
        Self { local_port: h.src_port, node: h.dst.node, remote_port: h.dst_port }
    }
}

/// Streams of one local port that own their four values.
#[derive(Clone, Copy, Default)]
struct PortUse {
    live: usize,
    resting: usize,
}

/// The table.
pub(crate) struct Conns {
    by_id: NumMap<ConnId, Box<Conn>>,
    /// Streams that still own their four values. Usually one id per entry.
    by_tuple: NumMap<Tuple, Vec<ConnId>>,
    by_peer: NumMap<u32, BTreeSet<ConnId>>,
    per_port: NumMap<u16, PortUse>,
    /// Entries of it that are ephemeral ports.
    ephemeral_in_use: usize,
    /// Streams that are over and that nobody holds any more, in the order they came to rest.
    resting: BTreeMap<u64, ConnId>,
    rests: u64,
    last_id: u32,
    next_ephemeral: u16,
    ready: VecDeque<ConnId>,
}

impl Conns {
    pub(crate) fn new(hash: Keyed, first_ephemeral: u16) -> Self {
        Self {
            by_id: NumMap::with_hasher(hash),
            by_tuple: NumMap::with_hasher(hash),
            by_peer: NumMap::with_hasher(hash),
            per_port: NumMap::with_hasher(hash),
            ephemeral_in_use: 0,
            resting: BTreeMap::new(),
            rests: 0,
            last_id: 0,
            next_ephemeral: first_ephemeral,
            ready: VecDeque::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// An id that names no stream.
    pub(crate) fn fresh_id(&mut self) -> ConnId {
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            let id = ConnId(self.last_id);
            if self.last_id != 0 && !self.by_id.contains_key(&id) {
                return id;
            }
        }
    }

    /// The next ephemeral port that no stream uses and `is_bound` does not name. When all 16384 are taken, one on which
    /// streams only rest, the one that has rested longest first; but none that rests with the same other end (`node`,
    /// `port`), because a Go peer that rests too would not begin anew (stream.md section 2), unless `begins_anew`.
    pub(crate) fn fresh_port(
        &mut self,
        (node, remote_port): (u32, u16),
        begins_anew: bool,
        is_bound: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        let tries = if self.ephemeral_in_use < EPHEMERAL { EPHEMERAL } else { 0 };
        for _ in 0..tries {
            let port = self.next_ephemeral;
            self.next_ephemeral = port.checked_add(1).unwrap_or(ports::EPHEMERAL_MIN);
            if !self.per_port.contains_key(&port) && !is_bound(port) {
                return Some(port);
            }
        }
        let usable = |port: &u16| {
            let rests = *port >= ports::EPHEMERAL_MIN && self.on_port(*port) == 0 && !is_bound(*port);
            let tuple = Tuple { local_port: *port, node, remote_port };
            rests && (begins_anew || !self.by_tuple.contains_key(&tuple))
        };
        self.resting.values().filter_map(|id| Some(self.get(*id)?.info.local_port)).find(usable)
    }

    /// Streams on a local port; those that rest are not counted.
    pub(crate) fn on_port(&self, port: u16) -> usize {
        self.per_port.get(&port).map_or(0, |in_use| in_use.live)
    }

    /// Adds a stream. One that rests with the same four values gives way.
    pub(crate) fn insert(&mut self, conn: Conn) {
        let (id, tuple) = (conn.id, Tuple::of(&conn.info));
        let old = self.by_tuple.get(&tuple).map_or(&[][..], Vec::as_slice);
        for rests in old.iter().copied().filter(|id| self.rests(*id)).collect::<Vec<_>>() {
            self.remove(rests);
        }
        self.by_tuple.entry(tuple).or_default().push(id);
        self.by_peer.entry(tuple.node).or_default().insert(id);
        let in_use = self.per_port.entry(tuple.local_port).or_default();
        if in_use.live + in_use.resting == 0 {
            self.ephemeral_in_use += usize::from(tuple.local_port >= ports::EPHEMERAL_MIN);
        }
        in_use.live += 1;
        self.by_id.insert(id, Box::new(conn));
    }

    fn rests(&self, id: ConnId) -> bool {
        self.get(id).is_some_and(|c| c.resting.is_some())
    }

    /// Notes that a stream is over and nobody holds it: from now on it counts for no port and leaves when there is no room.
    pub(crate) fn rest(&mut self, id: ConnId) {
        let Some(conn) = self.by_id.get_mut(&id).filter(|c| c.resting.is_none()) else { return };
        self.rests += 1;
        conn.resting = Some(self.rests);
        self.resting.insert(self.rests, id);
        if let Some(in_use) = self.per_port.get_mut(&conn.info.local_port) {
            in_use.live -= 1;
            in_use.resting += 1;
        }
    }

    /// Whether there is room for a stream below `max`; makes it if streams rest, the one that has rested longest first.
    pub(crate) fn make_room(&mut self, max: usize) -> bool {
        while self.len() >= max {
            let Some((_, id)) = self.resting.first_key_value() else { return false };
            self.remove(*id);
        }
        true
    }

    pub(crate) fn get(&self, id: ConnId) -> Option<&Conn> {
        self.by_id.get(&id).map(Box::as_ref)
    }

    pub(crate) fn get_mut(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.by_id.get_mut(&id).map(Box::as_mut)
    }

    /// The stream a packet belongs to: the exact address if there is one, else the node; a live one before a dead one.
    pub(crate) fn find(&self, h: &Header) -> Option<ConnId> {
        let ids = self.by_tuple.get(&Tuple::received(h))?;
        if let [only] = ids.as_slice() {
            return Some(*only);
        }
        let rank =
            |id: &&ConnId| self.get(**id).map(|c| (!c.is_over(), c.info.remote == h.src)).unwrap_or_default();
        ids.iter().max_by_key(rank).copied()
    }

    /// The ids of a peer's streams, in the order they were opened.
    pub(crate) fn of_peer(&self, node: u32) -> impl Iterator<Item = ConnId> {
        self.by_peer.get(&node).into_iter().flatten().copied()
    }

    /// Whether a peer has a stream that needs its tunnel.
    pub(crate) fn peer_is_used(&self, node: u32) -> bool {
        self.of_peer(node).any(|id| self.get(id).is_some_and(Conn::is_live))
    }

    /// All streams, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Conn> {
        self.by_id.values().map(Box::as_ref)
    }

    /// Puts a stream into the queue of those that may have something to send.
    pub(crate) fn queue(&mut self, id: ConnId) {
        if let Some(conn) = self.by_id.get_mut(&id)
            && !conn.queued
        {
            conn.queued = true;
            self.ready.push_back(id);
        }
    }

    /// Takes the next stream out of that queue.
    pub(crate) fn next_ready(&mut self) -> Option<ConnId> {
        while let Some(id) = self.ready.pop_front() {
            if let Some(conn) = self.by_id.get_mut(&id) {
                conn.queued = false;
                return Some(id);
            }
        }
        None
    }

    /// Frees the four values of a stream that is over, so that a new one can have them.
    pub(crate) fn release_tuple(&mut self, id: ConnId) {
        let Some((tuple, rests)) = self.get(id).map(|c| (Tuple::of(&c.info), c.resting.is_some())) else {
            return;
        };
        let Some(ids) = self.by_tuple.get_mut(&tuple) else { return };
        let before = ids.len();
        ids.retain(|other| *other != id);
        let (removed, empty) = (ids.len() < before, ids.is_empty());
        if empty {
            self.by_tuple.remove(&tuple);
        }
        if removed && let Some(in_use) = self.per_port.get_mut(&tuple.local_port) {
            if rests {
                in_use.resting -= 1;
            } else {
                in_use.live -= 1;
            }
            if in_use.live + in_use.resting == 0 {
                self.per_port.remove(&tuple.local_port);
                self.ephemeral_in_use -= usize::from(tuple.local_port >= ports::EPHEMERAL_MIN);
            }
        }
    }

    /// Forgets a stream.
    pub(crate) fn remove(&mut self, id: ConnId) {
        self.release_tuple(id);
        let Some(conn) = self.by_id.remove(&id) else { return };
        if let Some(order) = conn.resting {
            self.resting.remove(&order);
        }
        if let Some(ids) = self.by_peer.get_mut(&conn.info.remote.node) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_peer.remove(&conn.info.remote.node);
            }
        }
    }
}

/// Our address in the conversation a packet belongs to, as the source of an answer.
pub(crate) const fn answer_info(h: &Header) -> ConnInfo {
    let local: Addr = h.dst;
    ConnInfo { local, local_port: h.dst_port, remote: h.src, remote_port: h.src_port }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::stream::send::Limits;
    use crate::time::Instant;

    const PEER: u32 = 2;
    const ITS_PORT: u16 = 80;

    fn table() -> Conns {
        Conns::new(Keyed::new(1, 3), ports::EPHEMERAL_MIN)
    }

    fn add(conns: &mut Conns, local_port: u16) -> ConnId {
        let id = conns.fresh_id();
        let (local, remote) = (Addr::backbone(1), Addr::backbone(PEER));
        let info = ConnInfo { local, local_port, remote, remote_port: ITS_PORT };
        let limits = Limits { segment: 1152, outstanding: 128, enhanced: false, local: false };
        conns.insert(Conn::dial(Instant::ZERO, id, info, limits, &Config::default()));
        id
    }

    #[test]
    fn what_rests_counts_for_no_port_and_leaves_when_the_table_is_full() {
        let mut conns = table();
        let (first, second) = (add(&mut conns, 1000), add(&mut conns, 1001));
        assert_eq!((conns.on_port(1000), conns.on_port(1001)), (1, 1));
        conns.rest(second);
        conns.rest(first);
        conns.rest(first);
        assert_eq!((conns.on_port(1000), conns.on_port(1001), conns.len()), (0, 0, 2));
        assert!(conns.make_room(3) && conns.len() == 2, "there was room");
        assert!(conns.make_room(2));
        assert!(conns.get(second).is_none() && conns.get(first).is_some(), "the one that has rested longest");
        let third = add(&mut conns, 1002);
        assert!(conns.make_room(2) && conns.get(first).is_none());
        assert!(!conns.make_room(1), "a live one does not give way");
        conns.remove(third);
        assert!(conns.resting.is_empty() && conns.per_port.is_empty() && conns.by_tuple.is_empty());
        assert!(conns.by_peer.is_empty());
    }

    #[test]
    fn a_port_on_which_streams_rest_is_used_last() {
        let mut conns = table();
        let there = (PEER, ITS_PORT);
        let mut resting = Vec::new();
        for n in 0..EPHEMERAL {
            let port = conns.fresh_port(there, false, |_| false).unwrap();
            assert_eq!(usize::from(port - ports::EPHEMERAL_MIN), n, "in turn, none twice");
            resting.push(add(&mut conns, port));
        }
        assert_eq!(conns.fresh_port(there, true, |_| false), None, "all live");
        for id in [resting[7], resting[5]] {
            conns.rest(id);
        }
        let port = |n: u16| Some(ports::EPHEMERAL_MIN + n);
        assert_eq!(conns.fresh_port(there, false, |_| false), None, "a Go peer would not begin anew");
        assert_eq!(conns.fresh_port((PEER, 81), false, |_| false), port(7), "another end is no matter");
        assert_eq!(conns.fresh_port(there, true, |_| false), port(7), "has rested longest");
        assert_eq!(conns.fresh_port(there, true, |p| Some(p) == port(7)), port(5), "bound");
        let new = add(&mut conns, ports::EPHEMERAL_MIN + 5);
        assert!(conns.get(resting[5]).is_none() && conns.get(new).is_some(), "the old one gave way");
        conns.remove(resting[9]);
        assert_eq!(conns.fresh_port(there, true, |_| false), port(9), "free before resting");
    }
}
