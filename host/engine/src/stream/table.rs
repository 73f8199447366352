//! All connections of an engine: by id, by their four values, by peer; and the queue of those that want to send.
//!
//! Called by the engine. Lookups on the packet path are two hash lookups. Does not decide who may connect.

use std::collections::VecDeque;

use pilot_wire::addr::Addr;
use pilot_wire::packet::Header;
use pilot_wire::ports;

use super::conn::Conn;
use crate::event::{ConnId, ConnInfo};
use crate::map::{Keyed, NumMap};

/// What identifies a stream whatever network its peer writes into its address (stream.md section 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Tuple {
    local_port: u16,
    node: u32,
    remote_port: u16,
}

impl Tuple {
    fn of(info: &ConnInfo) -> Self {
        Self { local_port: info.local_port, node: info.remote.node, remote_port: info.remote_port }
    }
}

/// The table.
pub(crate) struct Conns {
    by_id: NumMap<ConnId, Box<Conn>>,
    /// Streams that still own their four values. Usually one id per entry.
    by_tuple: NumMap<Tuple, Vec<ConnId>>,
    by_peer: NumMap<u32, Vec<ConnId>>,
    per_port: NumMap<u16, usize>,
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

    /// The next ephemeral port that no stream uses and `is_bound` does not name; `None` when all 16384 are taken.
    pub(crate) fn fresh_port(&mut self, is_bound: impl Fn(u16) -> bool) -> Option<u16> {
        for _ in ports::EPHEMERAL_MIN..=ports::EPHEMERAL_MAX {
            let port = self.next_ephemeral;
            self.next_ephemeral = port.checked_add(1).unwrap_or(ports::EPHEMERAL_MIN);
            if !self.per_port.contains_key(&port) && !is_bound(port) {
                return Some(port);
            }
        }
        None
    }

    /// Streams on a local port.
    pub(crate) fn on_port(&self, port: u16) -> usize {
        self.per_port.get(&port).copied().unwrap_or(0)
    }

    pub(crate) fn insert(&mut self, conn: Conn) {
        let (id, tuple) = (conn.id, Tuple::of(&conn.info));
        self.by_tuple.entry(tuple).or_default().push(id);
        self.by_peer.entry(tuple.node).or_default().push(id);
        *self.per_port.entry(tuple.local_port).or_default() += 1;
        self.by_id.insert(id, Box::new(conn));
    }

    pub(crate) fn get(&self, id: ConnId) -> Option<&Conn> {
        self.by_id.get(&id).map(Box::as_ref)
    }

    pub(crate) fn get_mut(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.by_id.get_mut(&id).map(Box::as_mut)
    }

    /// The stream a packet belongs to: the exact address if there is one, else the node; a live one before a dead one.
    pub(crate) fn find(&self, h: &Header) -> Option<ConnId> {
        let tuple = Tuple { local_port: h.dst_port, node: h.src.node, remote_port: h.src_port };
        let ids = self.by_tuple.get(&tuple)?;
        if let [only] = ids.as_slice() {
            return Some(*only);
        }
        let rank =
            |id: &&ConnId| self.get(**id).map(|c| (!c.is_over(), c.info.remote == h.src)).unwrap_or_default();
        ids.iter().max_by_key(rank).copied()
    }

    /// The ids of a peer's streams.
    pub(crate) fn of_peer(&self, node: u32) -> &[ConnId] {
        self.by_peer.get(&node).map_or(&[], Vec::as_slice)
    }

    /// Whether a peer has a stream that needs its tunnel.
    pub(crate) fn peer_is_used(&self, node: u32) -> bool {
        self.of_peer(node).iter().any(|id| self.get(*id).is_some_and(Conn::is_live))
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
        let Some(tuple) = self.get(id).map(|c| Tuple::of(&c.info)) else { return };
        let Some(ids) = self.by_tuple.get_mut(&tuple) else { return };
        let before = ids.len();
        ids.retain(|other| *other != id);
        let (removed, empty) = (ids.len() < before, ids.is_empty());
        if empty {
            self.by_tuple.remove(&tuple);
        }
        if removed && let Some(count) = self.per_port.get_mut(&tuple.local_port) {
            *count -= 1;
            if *count == 0 {
                self.per_port.remove(&tuple.local_port);
            }
        }
    }

    /// Forgets a stream.
    pub(crate) fn remove(&mut self, id: ConnId) {
        self.release_tuple(id);
        if let Some(conn) = self.by_id.remove(&id)
            && let Some(ids) = self.by_peer.get_mut(&conn.info.remote.node)
        {
            ids.retain(|other| *other != id);
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
