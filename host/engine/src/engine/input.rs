//! The way in: one datagram at a time, from the socket to the stream, datagram or control message inside.
//!
//! A datagram whose first byte is below 0x10 is the beacon's, everything else a tunnel frame. What is malformed, unknown or
//! from the wrong place is dropped without an answer. Sealed frames are opened in place (tunnel.md section 6).

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use pilot_wire::packet::{self, Flags, Header, Packet, Protocol};
use pilot_wire::tunnel::{self, SEALED_HEADER_LEN, SealedHeader};
use pilot_wire::{beacon, ports};

use super::keys::Via;
use super::questions::Purpose;
use super::{Engine, fragments};
use crate::event::Event;
use crate::notice::Notice;
use crate::query::{Query, Verdict};
use crate::time::Instant;
use crate::tunnel::session::Refusal;

impl Engine {
    /// See [`Engine::handle_datagram`].
    pub(super) fn on_datagram(&mut self, now: Instant, from: SocketAddr, data: &mut [u8]) {
        self.stats.pkts_recv += 1;
        self.stats.bytes_recv += data.len() as u64;
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        if tunnel::is_beacon_message(data) {
            if self.me.beacon == Some(from) {
                self.on_beacon_message(now, data);
            }
        } else {
            // The beacon wraps what it relays. If it ever does not, its address must not become that of a peer.
            let via = if self.me.beacon == Some(from) { Via::Relay } else { Via::Direct(from) };
            self.on_frame(now, via, None, data);
        }
    }

    fn on_beacon_message(&mut self, now: Instant, data: &mut [u8]) {
        let (sender, header_len) = match beacon::decode(data) {
            Ok(beacon::Message::DiscoverReply { observed }) => {
                self.on_observed(now, observed);
                self.events.offer(Event::ObservedAddr(observed));
                return;
            }
            Ok(beacon::Message::PunchCommand { peer }) => {
                if is_public(peer) && !self.config.relay_only {
                    self.punch(peer);
                    self.on_punch_command(now, peer);
                }
                return;
            }
            Ok(beacon::Message::Notify { kind: beacon::NOTIFY_HANDSHAKE }) => {
                self.events.offer(Event::BeaconNotify);
                return;
            }
            Ok(beacon::Message::RelayDeliver { sender, .. }) => (sender, beacon::RELAY_DELIVER_HEADER_LEN),
            Ok(beacon::Message::RelayDeliverDest { sender, dest, .. }) if dest == self.me.node => {
                (sender, beacon::RELAY_DELIVER_DEST_HEADER_LEN)
            }
            _ => return,
        };
        if let Some(frame) = data.get_mut(header_len..) {
            self.on_frame(now, Via::Relay, Some(sender), frame);
        }
    }

    /// A tunnel frame. `relayed_for` is who the beacon says it is from; only a hint.
    fn on_frame(&mut self, now: Instant, via: Via, relayed_for: Option<u32>, frame: &mut [u8]) {
        match frame.first_chunk::<4>() {
            Some(&tunnel::MAGIC_SEALED) => self.on_sealed(now, via, frame),
            Some(&(tunnel::MAGIC_KEY_EXCHANGE | tunnel::MAGIC_KEY_REQUEST)) => {
                self.on_exchange(now, via, relayed_for, frame);
            }
            Some(&fragments::MAGIC) => {
                let whole = self.fragments.take(now, via, relayed_for, frame);
                // A frame in pieces is not itself made of pieces.
                if let Some(mut whole) = whole.filter(|w| !w.starts_with(&fragments::MAGIC)) {
                    self.on_frame(now, via, relayed_for, &mut whole);
                }
            }
            // Plaintext is never accepted; a punch has done its work in the NATs on the way.
            _ => {}
        }
    }

    fn on_sealed(&mut self, now: Instant, via: Via, frame: &mut [u8]) {
        let Some(header) = SealedHeader::decode(frame) else { return };
        let node = header.sender;
        let Some(peer) = self.peers.get_mut(&node).filter(|p| p.session.is_some()) else {
            self.on_no_key(now, node, via);
            return;
        };
        let opened = peer.open(now, &header, &mut frame[SEALED_HEADER_LEN..], &mut self.scratch);
        let (packet, session) = match (opened, &mut peer.session) {
            (Ok(packet), Some(session)) => (packet, session),
            (Err(refusal), _) => return self.on_refused(now, via, &header, refusal),
            (Ok(_), None) => return,
        };
        self.stats.opened += 1;
        if session.collides(header.prefix) {
            session.change_prefix(self.rng.bytes());
        }
        let Ok(packet) = packet::decode(packet) else { return };
        let keepalive = is_keepalive(&packet);
        if packet.header.src.node != node && !(keepalive && packet.header.src.node == 0) {
            self.events.notice(Notice::SrcSpoofed { peer: node, claimed: packet.header.src.node });
            return;
        }
        self.note_heard(now, node, via);
        if !keepalive {
            self.on_packet(now, &packet);
        } else if packet.header.flags.contains(Flags::ACK) && matches!(via, Via::Direct(_)) {
            self.answer_direct_probe(now, node);
        }
    }

    fn on_refused(&mut self, now: Instant, via: Via, header: &SealedHeader, refusal: Refusal) {
        let node = header.sender;
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let Some(session) = &mut peer.session else { return };
        match refusal {
            Refusal::Forged => {
                self.stats.not_opened += 1;
                // Junk from elsewhere must not be able to end the session.
                let expected = match via {
                    Via::Direct(from) => peer.path.direct() == Some(from),
                    Via::Relay => true,
                };
                if expected {
                    session.count_forged();
                }
            }
            Refusal::Replay => {
                self.events.notice(Notice::NonceReplay { peer: node, counter: header.counter });
            }
            Refusal::Outside | Refusal::Stale => {}
            Refusal::Exhausted => return self.drop_session(now, node, via),
        }
        if session.is_spent(now) {
            self.drop_session(now, node, via);
        }
    }

    /// A frame of this peer opened: it lives, and this is a way to it.
    fn note_heard(&mut self, now: Instant, node: u32, via: Via) {
        let has_beacon = match via {
            Via::Direct(_) => false,
            Via::Relay => self.may_relay(now, node),
        };
        let Some(peer) = self.peers.get_mut(&node) else { return };
        peer.heard = now;
        if peer.exchange != super::peer::Exchange::Idle {
            peer.exchange = super::peer::Exchange::Idle;
        }
        if let Some((since, probes_sent)) = peer.watch.reset.take() {
            let silent_for_seconds = now.since(since).as_secs();
            self.events.notice(Notice::PathRecovered { peer: node, silent_for_seconds, probes_sent });
        }
        peer.watch.probes = 0;
        match via {
            Via::Direct(from) => peer.path.heard_direct(now, from),
            Via::Relay if peer.path.heard_relayed(now, has_beacon) => {
                self.note_relayed(node);
            }
            Via::Relay => {}
        }
    }

    /// A packet from the peer whose tunnel it came through.
    fn on_packet(&mut self, now: Instant, packet: &Packet<'_>) {
        let h = &packet.header;
        match h.protocol {
            Protocol::CONTROL => return self.on_control(now, h, packet.payload),
            Protocol::STREAM | Protocol::DATAGRAM if h.dst.node == self.me.node => {}
            _ => return,
        }
        if let Some(peer) = self.peers.get_mut(&h.src.node) {
            peer.used = now;
        }
        if h.protocol == Protocol::STREAM {
            self.on_stream_packet(now, h, packet.payload);
        } else if !packet.payload.is_empty() {
            self.on_data_packet(now, h, packet.payload);
        }
    }

    /// A datagram: delivered when the host admits it.
    fn on_data_packet(&mut self, now: Instant, h: &Header, payload: &[u8]) {
        let payload = Bytes::copy_from_slice(payload);
        if self.config.admit_all {
            self.deliver_datagram(h, payload);
            return;
        }
        let query = Query::AdmitDatagram {
            peer: h.src.node,
            src: h.src,
            dst: h.dst,
            src_port: h.src_port,
            dst_port: h.dst_port,
            size: payload.len(),
        };
        self.questions.ask(now, query, Purpose::Datagram { header: *h, payload });
    }

    /// The host has decided about a datagram.
    pub(super) fn on_datagram_verdict(&mut self, h: &Header, payload: Bytes, verdict: Verdict) {
        match verdict {
            Verdict::Allow => self.deliver_datagram(h, payload),
            Verdict::Untrusted => self.events.notice(Notice::DatagramRejected { dst_port: h.dst_port }),
            Verdict::PortDenied => self.events.notice(Notice::DatagramPortRejected {
                src: h.src.node,
                dst_port: h.dst_port,
                network: h.dst.network,
            }),
        }
    }

    fn deliver_datagram(&mut self, h: &Header, data: Bytes) {
        let (src, src_port, dst_port) = (h.src, h.src_port, h.dst_port);
        self.events.notice(Notice::Datagram { src, src_port, dst_port, size: data.len() });
        self.events.offer(Event::Datagram { from: src, src_port, to: h.dst, dst_port, data });
    }
}

/// An empty control packet between ports 0: it only says that its sender lives.
fn is_keepalive(packet: &Packet<'_>) -> bool {
    let h = &packet.header;
    h.protocol == Protocol::CONTROL
        && h.dst_port == ports::PING
        && h.src_port == ports::PING
        && packet.payload.is_empty()
        && !h.flags.contains(Flags::SYN)
}

/// Whether a punch command's target can be behind somebody else's NAT: never this machine or a private network, where the
/// beacon has no business to send us.
fn is_public(target: SocketAddr) -> bool {
    match target.ip().to_canonical() {
        IpAddr::V4(ip) => !(ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_unspecified()),
        IpAddr::V6(ip) => {
            !(ip.is_loopback() || ip.is_unspecified() || ip.is_unique_local() || ip.is_unicast_link_local())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn punch_commands_go_to_public_addresses_only() {
        for bad in [
            "127.0.0.1:1",
            "10.0.0.1:1",
            "169.254.1.1:1",
            "0.0.0.0:1",
            "[::1]:1",
            "[fe80::1]:1",
            "[fd00::1]:1",
        ] {
            assert!(!is_public(bad.parse().unwrap()), "{bad}");
        }
        for good in ["198.51.100.7:1", "[2001:db8::1]:1"] {
            assert!(is_public(good.parse().unwrap()), "{good}");
        }
    }
}
