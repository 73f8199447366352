//! Control packets: ping and pong, path probes, and the hello by which peers of this kind recognise each other.
//!
//! Sheets: stream.md section 11 (ping), tunnel.md section 7 (keepalive, probes) and section 8.7 (hello). Go peers drop
//! control packets to any port but 0 without a word, so the hello costs them nothing:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | ASCII `PHDP` |
//! | 4 | 1 | version, 1 |
//! | 5 | 1 | 0 |
//! | 6 | 2 | largest stream segment its sender takes, bytes |
//!
//! Ports [`HELLO_PORT`] on both sides; flags 0 asks, flag ACK answers. Longer ones are read as far as known.

use std::collections::BTreeMap;

use bytes::Bytes;
use pilot_wire::addr::Addr;
use pilot_wire::packet::{Flags, Header, Protocol};
use pilot_wire::ports;

use super::Engine;
use super::peer::Abilities;
use super::questions::Purpose;
use crate::error::SendError;
use crate::event::{Event, PingId};
use crate::query::{Query, Verdict};
use crate::time::{Duration, Instant};

/// An unassigned port; "PH" in ASCII.
pub(crate) const HELLO_PORT: u16 = 0x5048;
const HELLO_MAGIC: &[u8; 4] = b"PHDP";
const HELLO_VERSION: u8 = 1;
const HELLO_LEN: usize = 8;
/// Waits before a hello is repeated; after the last the peer counts as a Go peer until it has a new key.
const HELLO_WAITS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(9)];
/// The largest segment we take.
const LARGEST_SEGMENT: u16 = 32_768;

/// A ping without an answer for this long has failed.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Pings in flight.
const MAX_PINGS: usize = 1024;
/// Payload of the watch's probes.
pub(crate) const PATH_PROBE: &[u8] = b"pathprobe.v1";

/// Pings that wait for their pong.
#[derive(Default)]
pub(crate) struct Pings {
    last: u64,
    waiting: BTreeMap<u64, (u32, Instant)>,
}

impl Pings {
    /// When the oldest ping fails.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|(_, (_, sent))| *sent + PING_TIMEOUT)
    }

    fn expired(&mut self, now: Instant) -> Option<PingId> {
        let entry = self.waiting.first_entry().filter(|e| now >= e.get().1 + PING_TIMEOUT)?;
        Some(PingId(entry.remove_entry().0))
    }
}

/// The low half of a ping's number travels as its sequence number.
#[allow(clippy::cast_possible_truncation)]
const fn ping_seq(id: u64) -> u32 {
    id as u32
}

impl Engine {
    fn control_header(&self, dst: Addr, port: u16, flags: Flags, seq: u32) -> Header {
        Header {
            flags,
            protocol: Protocol::CONTROL,
            src: Addr::new(dst.network, self.me.node),
            dst,
            src_port: port,
            dst_port: port,
            seq,
            ack: 0,
            window: 0,
        }
    }

    /// See [`Engine::ping`].
    pub(super) fn send_ping(
        &mut self,
        now: Instant,
        peer: Addr,
        payload: &[u8],
    ) -> Result<PingId, SendError> {
        self.check_target(peer)?;
        if self.pings.waiting.len() >= MAX_PINGS {
            return Err(SendError::TooManyPings);
        }
        self.pings.last += 1;
        let id = self.pings.last;
        // The newest peers take an empty one for a keepalive.
        let number = id.to_be_bytes();
        let payload = if payload.is_empty() { number.as_slice() } else { payload };
        let header = self.control_header(peer, ports::PING, Flags::NONE, ping_seq(id));
        self.send_packet(now, peer.node, &header, payload)?;
        self.pings.waiting.insert(id, (peer.node, now));
        Ok(PingId(id))
    }

    /// Reports the pings that stayed unanswered.
    pub(super) fn expire_pings(&mut self, now: Instant) {
        while let Some(id) = self.pings.expired(now) {
            self.events.push(Event::PingFailed { id });
        }
    }

    /// A control packet other than a keepalive.
    pub(super) fn on_control(&mut self, now: Instant, h: &Header, payload: &[u8]) {
        let is_answer = h.flags.contains(Flags::ACK);
        match h.dst_port {
            HELLO_PORT => self.on_hello(now, h.src.node, is_answer, payload),
            ports::PING if is_answer => self.on_pong(now, h),
            // What carries ACK is never answered: two such peers would never stop.
            ports::PING if h.flags == Flags::NONE && !payload.is_empty() => self.on_ping(now, h, payload),
            _ => {}
        }
    }

    fn on_pong(&mut self, now: Instant, h: &Header) {
        // Pings are few and recent, and the number's low half is enough to tell them apart.
        let found =
            self.pings.waiting.iter().find(|(id, (node, _))| ping_seq(**id) == h.seq && *node == h.src.node);
        if let Some((id, (_, sent))) = found.map(|(id, ping)| (*id, *ping)) {
            self.pings.waiting.remove(&id);
            if let Some(peer) = self.peers.get_mut(&h.src.node) {
                peer.rtt = Some(now.since(sent));
            }
            self.events.push(Event::Pong { id: PingId(id), rtt: now.since(sent) });
        }
    }

    fn on_ping(&mut self, now: Instant, h: &Header, payload: &[u8]) {
        if self.config.strict && !self.me.public_node {
            let query = Query::AdmitPing { peer: h.src.node };
            let payload = Bytes::copy_from_slice(payload);
            self.questions.ask(now, query, Purpose::Ping { header: *h, payload });
        } else {
            self.answer_ping(now, h, payload);
        }
    }

    /// The host has decided about a ping.
    pub(super) fn on_ping_verdict(&mut self, now: Instant, h: &Header, payload: &[u8], verdict: Verdict) {
        if verdict == Verdict::Allow {
            self.answer_ping(now, h, payload);
        }
    }

    fn answer_ping(&mut self, now: Instant, h: &Header, payload: &[u8]) {
        let src = if h.dst.node == 0 { Addr::new(h.dst.network, self.me.node) } else { h.dst };
        if src.node != self.me.node {
            return;
        }
        let pong = Header {
            flags: Flags::ACK,
            protocol: Protocol::CONTROL,
            src,
            dst: h.src,
            src_port: ports::PING,
            dst_port: h.src_port,
            seq: h.seq,
            ack: h.seq.wrapping_add(1),
            window: 0,
        };
        self.send_control(now, h.src.node, &pong, payload);
    }

    /// Sends a control packet if there is a session; nothing is queued and no key exchange is started for it.
    fn send_control(&mut self, now: Instant, node: u32, header: &Header, payload: &[u8]) {
        let mut packet = Vec::with_capacity(pilot_wire::packet::HEADER_LEN + payload.len());
        if pilot_wire::packet::encode_into(header, payload, &mut packet).is_ok() {
            self.seal_now(now, node, &packet, false);
        }
    }

    /// Says that we live (newest form: no flags, destination zero).
    pub(super) fn send_keepalive(&mut self, now: Instant, node: u32) {
        let mut header = self.control_header(Addr::ZERO, ports::PING, Flags::NONE, 0);
        header.src = Addr::backbone(self.me.node);
        self.send_control(now, node, &header, &[]);
    }

    /// Asks a silent peer to answer.
    pub(super) fn send_path_probe(&mut self, now: Instant, node: u32) {
        let header = self.control_header(Addr::backbone(node), ports::PING, Flags::NONE, 0);
        self.send_control(now, node, &header, PATH_PROBE);
    }

    /// One of the probes that show a relayed peer that the direct way works.
    pub(super) fn send_direct_probe(&mut self, now: Instant, node: u32) {
        let header = self.control_header(Addr::backbone(node), ports::PING, Flags::ACK, 1);
        let mut packet = Vec::new();
        if pilot_wire::packet::encode_into(&header, &[], &mut packet).is_ok() {
            self.seal_direct(now, node, &packet);
        }
    }

    /// Tells the peer of a new session what we can do, and asks the same; repeated a few times.
    pub(super) fn send_hello(&mut self, now: Instant, node: u32) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let Abilities::Unknown { asked, .. } = peer.abilities else { return };
        let next = HELLO_WAITS.get(asked as usize).map(|wait| now + *wait);
        peer.abilities = Abilities::Unknown { asked: asked + 1, next };
        self.say_hello(now, node, Flags::NONE);
        self.arm_peer(node);
    }

    fn say_hello(&mut self, now: Instant, node: u32, flags: Flags) {
        let header = self.control_header(Addr::backbone(node), HELLO_PORT, flags, 0);
        let mut body = [0; HELLO_LEN];
        body[..4].copy_from_slice(HELLO_MAGIC);
        body[4] = HELLO_VERSION;
        body[6..].copy_from_slice(&LARGEST_SEGMENT.to_be_bytes());
        self.send_control(now, node, &header, &body);
    }

    fn on_hello(&mut self, now: Instant, node: u32, is_answer: bool, payload: &[u8]) {
        let Some(&[m0, m1, m2, m3, version, _, s0, s1]) = payload.first_chunk::<HELLO_LEN>() else { return };
        if &[m0, m1, m2, m3] != HELLO_MAGIC || version < HELLO_VERSION {
            return;
        }
        let segment = usize::from(u16::from_be_bytes([s0, s1])).max(self.config.segment);
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.abilities = Abilities::Enhanced { segment };
        }
        if !is_answer {
            self.say_hello(now, node, Flags::ACK);
        }
    }
}
