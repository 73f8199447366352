//! The way out: packets become sealed datagrams, either at once (datagrams, control) or when the driver polls (streams).
//!
//! Streams are built straight into the driver's buffer: header, payload, cipher and tag in place, as a run of equally long
//! datagrams. What has no key yet waits in its peer's queue (tunnel.md section 5); stream segments never do, their
//! connection keeps them.

use std::collections::VecDeque;
use std::net::SocketAddr;

use pilot_wire::beacon::{RELAY_HEADER_LEN, relay_header};
use pilot_wire::packet::{self, Flags, HEADER_LEN, Header};
use pilot_wire::tunnel::{SEALED_HEADER_LEN, TAG_LEN};

use super::path::Route;
use super::peer::{Exchange, Peer};
use super::{Engine, Transmit};
use crate::error::SendError;
use crate::event::ConnId;
use crate::time::Instant;
use crate::tunnel::session::{Profile, Session};

/// Datagrams that wait for the driver; further ones are dropped, as a full socket would.
const MAX_OUTBOX: usize = 8192;
/// A run of datagrams is at most this long, so that the driver can hand it over as one (a UDP packet's limit).
const MAX_RUN: usize = 65_000;

/// Datagrams that are ready to go, oldest first.
#[derive(Default)]
pub(crate) struct Outbox {
    queue: VecDeque<(SocketAddr, Vec<u8>)>,
}

impl Outbox {
    pub(crate) fn push(&mut self, to: SocketAddr, datagram: Vec<u8>) {
        if self.queue.len() < MAX_OUTBOX {
            self.queue.push_back((to, datagram));
        }
    }

    /// Appends the first datagram to `buf`, and those behind it that can go in the same run.
    fn take_run(&mut self, buf: &mut Vec<u8>, max_segments: usize) -> Option<(Transmit, u64)> {
        let (to, first) = self.queue.pop_front()?;
        let (begin, mut count, mut last_len) = (buf.len(), 1, first.len());
        buf.extend_from_slice(&first);
        while count < max_segments
            && last_len == first.len()
            && let Some((next_to, next)) = self.queue.front()
            && *next_to == to
            && next.len() <= first.len()
            && buf.len() - begin + next.len() <= MAX_RUN
        {
            buf.extend_from_slice(next);
            (count, last_len) = (count + 1, next.len());
            self.queue.pop_front();
        }
        let segment_size = (count > 1).then_some(first.len());
        Some((Transmit { to, size: buf.len() - begin, segment_size }, count as u64))
    }

    /// Queues a frame on a route; wraps it for the beacon where needed.
    pub(crate) fn push_frame(&mut self, route: Route, own: u32, dest: u32, frame: Vec<u8>) {
        match route {
            Route::Direct(to) => self.push(to, frame),
            Route::Relay(beacon) => {
                let mut wrapped = Vec::with_capacity(RELAY_HEADER_LEN + frame.len());
                wrapped.extend_from_slice(&relay_header(own, dest));
                wrapped.extend_from_slice(&frame);
                self.push(beacon, wrapped);
            }
        }
    }
}

/// Who a sealed frame is from and for, and how it goes.
#[derive(Clone, Copy)]
struct Envelope {
    own: u32,
    dest: u32,
    route: Route,
}

impl Envelope {
    /// Bytes around a packet on this route.
    const fn overhead(&self) -> usize {
        let wrap = if matches!(self.route, Route::Relay(_)) { RELAY_HEADER_LEN } else { 0 };
        wrap + SEALED_HEADER_LEN + TAG_LEN
    }

    /// Appends a datagram to `buf`; `packet` appends the packet's bytes.
    fn seal(&self, session: &mut Session, buf: &mut Vec<u8>, packet: impl FnOnce(&mut Vec<u8>)) {
        if matches!(self.route, Route::Relay(_)) {
            buf.extend_from_slice(&relay_header(self.own, self.dest));
        }
        let frame = buf.len();
        buf.extend_from_slice(&[0; SEALED_HEADER_LEN]);
        packet(buf);
        session.seal(self.own, buf, frame);
    }

    /// A datagram with an empty packet in the cipher of February 2026, for a peer that may speak nothing else.
    fn seal_legacy(&self, session: &mut Session, header: &Header) -> Vec<u8> {
        let mut datagram = Vec::with_capacity(self.overhead() + HEADER_LEN);
        if matches!(self.route, Route::Relay(_)) {
            datagram.extend_from_slice(&relay_header(self.own, self.dest));
        }
        let frame = datagram.len();
        datagram.extend_from_slice(&[0; SEALED_HEADER_LEN + HEADER_LEN]);
        packet::write_in_place(header, &mut datagram[frame + SEALED_HEADER_LEN..])
            .expect("an empty packet fits its header");
        session.seal_as(Profile::Legacy, self.own, &mut datagram, frame);
        datagram
    }
}

impl Engine {
    /// Sends a packet to `node`, or queues it until there is a key.
    pub(super) fn send_packet(
        &mut self,
        now: Instant,
        node: u32,
        header: &Header,
        payload: &[u8],
    ) -> Result<(), SendError> {
        let mut packet = Vec::with_capacity(HEADER_LEN + payload.len());
        packet::encode_into(header, payload, &mut packet)
            .map_err(|_| SendError::TooLarge { len: payload.len(), max: packet::MAX_PAYLOAD })?;
        let relay_only = self.config.relay_only;
        let peer = self.use_peer(now, node).ok_or(SendError::TooManyPeers)?;
        if peer.session.is_some() && self.route_of(node).is_some() {
            self.seal_now(now, node, &packet, true);
            return Ok(());
        }
        let (max_peers, max_packets) = (self.config.max_pending_peers, self.config.max_pending_packets);
        let peers_waiting = self.pending_peers;
        let peer = self.peers.get_mut(&node).ok_or(SendError::TooManyPeers)?;
        let given_up = matches!(peer.exchange, Exchange::GivenUp { until } if now < until);
        let hopeless = given_up || !peer.path.is_hopeful(self.me.beacon) && !relay_only;
        if hopeless || peer.pending.len() >= max_packets {
            return Err(SendError::PendingFull { node });
        }
        if peer.pending.is_empty() {
            if peers_waiting >= max_peers {
                return Err(SendError::TooManyPending);
            }
            self.pending_peers += 1;
        }
        peer.pending.push_back(packet);
        self.start_exchange(now, node);
        Ok(())
    }

    /// Seals a packet and queues the datagram. Does nothing without session and route.
    pub(super) fn seal_now(&mut self, now: Instant, node: u32, packet: &[u8], remember: bool) {
        let Some(route) = self.route_of(node) else { return };
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let Some(session) = &mut peer.session else { return };
        let envelope = Envelope { own: self.me.node, dest: node, route };
        let mut datagram = Vec::with_capacity(envelope.overhead() + packet.len());
        envelope.seal(session, &mut datagram, |buf| buf.extend_from_slice(packet));
        if remember {
            peer.remember(now, packet);
        }
        self.outbox.push(route.to(), datagram);
        self.note_sent(now, node, route);
    }

    /// Sends what waited for a key.
    pub(super) fn flush_pending(&mut self, now: Instant, node: u32) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if peer.pending.is_empty() {
            return;
        }
        self.pending_peers -= 1;
        for packet in std::mem::take(&mut peer.pending) {
            self.seal_now(now, node, &packet, true);
        }
    }

    /// Drops what waits for a key that will not come.
    pub(super) fn drop_pending(&mut self, node: u32) {
        if let Some(peer) = self.peers.get_mut(&node)
            && !peer.pending.is_empty()
        {
            peer.pending.clear();
            self.pending_peers -= 1;
        }
    }

    /// Where frames for `node` go now.
    pub(super) fn route_of(&self, node: u32) -> Option<Route> {
        self.peers.get(&node)?.path.route(self.me.beacon, self.config.relay_only)
    }

    fn note_sent(&mut self, now: Instant, node: u32, route: Route) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        peer.said = now;
        if matches!(route, Route::Direct(_)) && peer.path.sent_direct(now) && self.may_relay(now, node) {
            if let Some(peer) = self.peers.get_mut(&node) {
                peer.path.use_relay(false);
            }
            self.note_relayed(node);
        }
    }

    /// See [`Engine::poll_transmit`].
    pub(super) fn transmit(
        &mut self,
        now: Instant,
        buf: &mut Vec<u8>,
        max_segments: usize,
    ) -> Option<Transmit> {
        loop {
            if let Some((transmit, datagrams)) = self.outbox.take_run(buf, max_segments) {
                return Some(self.count(transmit, datagrams));
            }
            let id = self.conns.next_ready()?;
            let sent = self.transmit_conn(now, id, buf, max_segments.max(1));
            self.settle_conn(now, id);
            if sent.is_some() {
                return sent;
            }
        }
    }

    fn count(&mut self, transmit: Transmit, datagrams: u64) -> Transmit {
        self.stats.pkts_sent += datagrams;
        self.stats.bytes_sent += transmit.size as u64;
        transmit
    }

    /// Builds a run of a stream's segments.
    fn transmit_conn(
        &mut self,
        now: Instant,
        id: ConnId,
        buf: &mut Vec<u8>,
        max_segments: usize,
    ) -> Option<Transmit> {
        let node = self.conns.get(id)?.info.remote.node;
        let ready = self.peers.get(&node).is_some_and(|p| p.session.is_some());
        let Some(route) = self.route_of(node).filter(|_| ready) else {
            self.wait_for_tunnel(now, id, node);
            return None;
        };
        let limits = self.limits(node);
        let envelope = Envelope { own: self.me.node, dest: node, route };
        let peer = self.peers.get_mut(&node)?;
        let session = peer.session.as_mut()?;
        let conn = self.conns.get_mut(id)?;
        conn.set_limits(limits);
        let (begin, mut count, mut first_len) = (buf.len(), 0, 0);
        let mut more = false;
        while let Some(segment) = conn.plan(now, limits.enhanced) {
            let len = envelope.overhead() + HEADER_LEN + segment.payload.len();
            // Datagrams of a run are equally long, only the last one may be shorter.
            more = count >= max_segments
                || (count > 0 && (len > first_len || buf.len() - begin + len > MAX_RUN));
            if more {
                break;
            }
            envelope.seal(session, buf, |buf| {
                let packet = buf.len();
                buf.extend_from_slice(&[0; HEADER_LEN]);
                conn.copy_payload(&segment, buf);
                packet::write_in_place(&segment.header, &mut buf[packet..])
                    .expect("a planned segment fits the length field");
            });
            if self.config.legacy_feb && conn.wants_both_forms() && session.is_unproven() {
                self.outbox.push(route.to(), envelope.seal_legacy(session, &segment.header));
            }
            conn.commit(now, &self.config, limits.enhanced, &segment);
            if segment.header.flags.contains(Flags::RST) {
                self.resets.said(now, segment.header);
            }
            count += 1;
            if count == 1 {
                first_len = len;
            } else if len < first_len {
                more = true;
                break;
            }
        }
        if count == 0 {
            return None;
        }
        if more || count == max_segments {
            self.conns.queue(id);
        }
        self.note_sent(now, node, route);
        let segment_size = (count > 1).then_some(first_len);
        let transmit = Transmit { to: route.to(), size: buf.len() - begin, segment_size };
        Some(self.count(transmit, count as u64))
    }

    /// A stream wants to send, but there is no key or no way: sees to it. It is queued again when there is.
    fn wait_for_tunnel(&mut self, now: Instant, id: ConnId, node: u32) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.is_over() {
            conn.forget_replies();
            return;
        }
        if self.use_peer(now, node).is_some() {
            self.start_exchange(now, node);
        }
    }

    /// A peer that is used now, made when it is new; `None` when there are too many.
    pub(super) fn use_peer(&mut self, now: Instant, node: u32) -> Option<&mut Peer> {
        let known = self.peers.contains_key(&node);
        if !known && self.peers.len() >= self.config.max_peers {
            return None;
        }
        if !known {
            self.add_peer(now, node);
        }
        let peer = self.peers.get_mut(&node)?;
        peer.used = now;
        Some(peer)
    }
}
