//! Key exchange and tunnel rules row by row: tunnel.md sections 4 to 7. Two engines, or one and a hand that plays the other.

use pilot_wire::tunnel::{Frame, KeyRequest, SealedHeader, Trailer};
use pilot_wire::{packet, tunnel};

use super::peer::Abilities;
use super::*;
use crate::query::Resolution;
use pilot_wire::beacon;

const A: u32 = 1;
const B: u32 = 2;

fn addr(node: u32) -> SocketAddr {
    format!("198.51.100.{node}:4000").parse().unwrap()
}

fn at(ms: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(ms)
}

fn identity(node: u32) -> Arc<Identity> {
    Arc::new(Identity::generate([u8::try_from(node).unwrap(); 32]))
}

/// One engine with a registry that knows nodes 1 to 9.
struct Node {
    engine: Engine,
    node: u32,
    known: bool,
    trusted: bool,
}

impl Node {
    fn with(node: u32, config: Config) -> Self {
        let mut engine = Engine::new(config, [u8::try_from(node).unwrap(); 32], at(0));
        engine.set_identity(identity(node));
        engine.set_node(node, false, &[]);
        Self { engine, node, known: true, trusted: true }
    }

    fn new(node: u32) -> Self {
        Self::with(node, Config { admit_all: true, ..Config::default() })
    }

    fn answer(&mut self, now: Instant) -> usize {
        let mut count = 0;
        while let Some((id, query)) = self.engine.poll_query() {
            count += 1;
            let answer = match query {
                Query::Resolve { node } => {
                    Answer::Resolved(Resolution { real_addr: Some(addr(node)), ..Resolution::default() })
                }
                Query::PeerKey { node } => Answer::PeerKey {
                    key: self.known.then(|| identity(node).public_key()),
                    trusted: self.trusted,
                },
                _ => Answer::Admit(Verdict::Allow),
            };
            self.engine.answer(now, id, answer);
        }
        count
    }

    /// Everything it wants to send, one datagram each.
    fn out(&mut self, now: Instant) -> Vec<(SocketAddr, Vec<u8>)> {
        self.answer(now);
        let mut sent = Vec::new();
        let mut buf = Vec::new();
        while let Some(t) = self.engine.poll_transmit(now, &mut buf, 1) {
            sent.push((t.to, std::mem::take(&mut buf)));
        }
        sent
    }

    /// The magics of what it wants to send; sealed frames left out.
    fn exchanges(&mut self, now: Instant) -> String {
        let letters = self.out(now).into_iter().map(|(_, d)| char::from(d[3])).filter(|l| *l != 'S');
        letters.collect()
    }

    fn hear(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        self.engine.handle_datagram(now, from, &mut datagram.to_vec());
        self.answer(now);
    }

    fn topics(&mut self) -> Vec<&'static str> {
        std::iter::from_fn(|| self.engine.poll_event())
            .filter_map(|e| if let Event::Notice(n) = e { Some(n.topic()) } else { None })
            .collect()
    }

    fn peer(&self, node: u32) -> &Peer {
        &self.engine.peers[&node]
    }

    fn has_session(&self, node: u32) -> bool {
        self.engine.peers.get(&node).is_some_and(|p| p.session.is_some())
    }

    fn pila(&self, trailer: Trailer) -> Vec<u8> {
        self.engine.me.exchange_frame(trailer).unwrap()
    }

    fn pilk(&self) -> Vec<u8> {
        self.engine.me.request_frame().to_vec()
    }

    /// A sealed frame with any packet in it.
    fn sealed(&mut self, to: u32, header: &Header, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; tunnel::SEALED_HEADER_LEN];
        packet::encode_into(header, payload, &mut frame).unwrap();
        let session = self.engine.peers.get_mut(&to).unwrap().session.as_mut().unwrap();
        session.seal(self.node, &mut frame, 0);
        frame
    }
}

/// Two nodes with a tunnel, `ms` after it was made.
fn tunnel_of_two() -> (Node, Node) {
    let (mut a, mut b) = (Node::new(A), Node::new(B));
    a.engine.ping(at(0), Addr::backbone(B), b"").unwrap();
    for _ in 0..4 {
        for (_, d) in a.out(at(0)) {
            b.hear(at(0), addr(A), &d);
        }
        for (_, d) in b.out(at(0)) {
            a.hear(at(0), addr(B), &d);
        }
    }
    assert!(a.has_session(B) && b.has_session(A));
    a.topics();
    b.topics();
    (a, b)
}

fn control(src: u32, dst: u32, flags: Flags) -> Header {
    Header {
        flags,
        protocol: Protocol::CONTROL,
        src: Addr::backbone(src),
        dst: Addr::backbone(dst),
        src_port: 0,
        dst_port: 0,
        seq: 9,
        ack: 0,
        window: 0,
    }
}

#[test]
fn first_contact_is_one_pila_each_and_one_in_return() {
    let (mut a, mut b) = (Node::new(A), Node::new(B));
    a.engine.ping(at(0), Addr::backbone(B), b"").unwrap();
    assert_eq!(a.exchanges(at(0)), "A");
    b.hear(at(0), addr(A), &a.pila(Trailer::NONE));
    assert_eq!(b.exchanges(at(0)), "A");
    assert_eq!(b.topics(), ["tunnel.peer_added", "tunnel.established"]);
    a.hear(at(0), addr(B), &b.pila(Trailer::NONE));
    assert_eq!(a.exchanges(at(0)), "A");
    b.hear(at(0), addr(A), &a.pila(Trailer::NONE));
    assert_eq!(b.exchanges(at(0)), "", "the key is unchanged and the peer was just heard");
    assert!(b.topics().is_empty(), "a duplicate within 250 ms");
}

#[test]
fn the_beacons_address_never_becomes_a_peers() {
    let (mut a, mut b) = tunnel_of_two();
    b.engine.set_beacon(Some(addr(9)));
    let frame = a.sealed(B, &control(A, B, Flags::NONE), b"ping");
    b.hear(at(100), addr(9), &frame);
    assert_eq!(b.peer(A).path.direct(), Some(addr(A)));
    assert_eq!(b.out(at(100)).first().map(|(to, _)| *to), Some(addr(A)), "answered where the peer is");
    // A key exchange is not charged to anybody, so it is not taken.
    let stranger = Node::new(3);
    b.hear(at(100), addr(9), &stranger.pila(Trailer::NONE));
    assert!(!b.has_session(3));
}

#[test]
fn a_dialler_that_goes_away_while_the_host_decides_leaves_no_stream() {
    let (mut a, mut b) = tunnel_of_two();
    b.engine.config.admit_all = false;
    let dialled = a.engine.dial(at(100), Addr::backbone(B), 7).unwrap();
    for (_, mut d) in a.out(at(100)) {
        b.engine.handle_datagram(at(100), addr(A), &mut d);
    }
    let (id, query) = b.engine.poll_query().unwrap();
    assert!(matches!(query, Query::AdmitSyn { dst_port: 7, .. }), "{query:?}");
    a.engine.close(at(101), dialled);
    for (_, mut d) in a.out(at(101)) {
        b.engine.handle_datagram(at(101), addr(A), &mut d);
    }
    b.engine.answer(at(102), id, Answer::Admit(Verdict::Allow));
    assert!(b.engine.snapshot().conns.is_empty());
}

#[test]
fn an_unchanged_key_is_answered_after_six_silent_seconds_once_a_second() {
    let (mut a, mut b) = tunnel_of_two();
    let pila = a.pila(Trailer::NONE);
    b.hear(at(300), addr(A), &pila);
    assert_eq!(b.exchanges(at(300)), "");
    assert_eq!(b.topics(), ["tunnel.established"], "but said");
    let session = b.peer(A).session.as_ref().unwrap().installed;
    b.hear(at(6001), addr(A), &pila);
    b.hear(at(6500), addr(A), &pila);
    assert_eq!(b.exchanges(at(6500)), "A");
    b.hear(at(7001), addr(A), &pila);
    assert_eq!(b.exchanges(at(7001)), "A");
    assert_eq!(b.peer(A).session.as_ref().unwrap().installed, session, "never replaced");
    let keepalive = control(A, B, Flags::NONE);
    let frame = a.sealed(B, &keepalive, &[]);
    b.hear(at(7002), addr(A), &frame);
    b.hear(at(9000), addr(A), &pila);
    assert_eq!(b.exchanges(at(9000)), "");
    b.hear(at(9500), addr(A), &a.pila(Trailer::REQUEST));
    assert_eq!(b.exchanges(at(9500)), "A", "asked for");
}

#[test]
fn a_key_request_of_a_known_node_is_always_answered_and_never_installed() {
    let (a, mut b) = (Node::new(A), Node::new(B));
    for ms in [0, 300, 600] {
        b.hear(at(ms), addr(A), &a.pilk());
        assert_eq!(b.exchanges(at(ms)), "A");
    }
    assert!(!b.has_session(A));
}

#[test]
fn a_key_request_of_a_node_without_identity_is_installed() {
    let (a, mut b) = (Node::new(A), Node::new(B));
    b.known = false;
    b.hear(at(0), addr(A), &a.pilk());
    assert_eq!(b.exchanges(at(0)), "A");
    assert!(!b.peer(A).session.as_ref().unwrap().authenticated);
    b.hear(at(4000), addr(A), &a.pilk());
    assert_eq!(b.exchanges(at(4000)), "", "the key is unchanged");
    let mut wary = Node::with(B, Config { allow_unauthenticated: false, ..Config::default() });
    wary.known = false;
    wary.hear(at(0), addr(A), &a.pilk());
    assert!(wary.engine.peers.is_empty() && wary.exchanges(at(0)).is_empty());
}

#[test]
fn sessions_without_identity_are_limited() {
    let mut b = Node::with(B, Config { max_unauthenticated: 3, ..Config::default() });
    b.known = false;
    for node in 10..20 {
        let request = KeyRequest { node, x25519: [u8::try_from(node).unwrap(); 32] };
        b.hear(at(0), addr(node), &request.to_bytes());
    }
    assert_eq!(b.engine.peers.len(), 3);
}

#[test]
fn five_key_exchanges_a_second_from_one_address() {
    let (a, mut b) = (Node::new(A), Node::new(B));
    for _ in 0..9 {
        b.hear(at(0), addr(A), &a.pilk());
    }
    assert_eq!(b.exchanges(at(0)), "AAAAA");
    b.hear(at(0), addr(3), &a.pilk());
    assert_eq!(b.exchanges(at(0)), "A", "another address has its own bucket");
}

#[test]
fn a_failed_lookup_is_remembered_for_three_seconds() {
    let (a, mut b) = (Node::new(A), Node::new(B));
    b.known = false;
    let pila = a.pila(Trailer::NONE);
    b.engine.handle_datagram(at(0), addr(A), &mut pila.clone());
    assert_eq!(b.answer(at(0)), 1);
    b.engine.handle_datagram(at(2999), addr(A), &mut pila.clone());
    assert_eq!(b.answer(at(2999)), 0);
    b.known = true;
    b.engine.handle_datagram(at(3000), addr(A), &mut pila.clone());
    assert_eq!(b.answer(at(3000)), 1);
    assert!(b.has_session(A));
}

#[test]
fn another_identity_than_the_cached_one_is_looked_up_once_more() {
    let (mut a, mut b) = tunnel_of_two();
    a.engine.set_identity(identity(7)); // rotated, and the registry does not know it yet
    let pila = a.pila(Trailer::NONE);
    b.engine.handle_datagram(at(1000), addr(A), &mut pila.clone());
    assert_eq!(b.answer(at(1000)), 0, "the registry was asked a moment ago");
    b.engine.handle_datagram(at(4000), addr(A), &mut pila.clone());
    assert_eq!(b.answer(at(4000)), 1);
    assert_eq!(b.exchanges(at(4000)), "");
}

#[test]
fn the_strict_gate_lets_only_trusted_nodes_have_a_key() {
    let a = Node::new(A);
    let mut b = Node::with(B, Config { strict: true, ..Config::default() });
    b.trusted = false;
    b.hear(at(0), addr(A), &a.pila(Trailer::NONE));
    b.hear(at(0), addr(A), &a.pilk());
    assert!(!b.has_session(A) && b.exchanges(at(0)).is_empty());
    let mut b = Node::with(B, Config { strict: true, ..Config::default() });
    b.hear(at(0), addr(A), &a.pila(Trailer::NONE));
    assert!(b.has_session(A));
}

#[test]
fn a_packet_in_somebody_elses_name_is_dropped_and_reported() {
    let (mut a, mut b) = tunnel_of_two();
    let frame = a.sealed(B, &control(3, B, Flags::NONE), b"ping");
    b.hear(at(100), addr(A), &frame);
    assert!(b.out(at(100)).is_empty());
    assert_eq!(b.topics(), ["security.src_spoofed"]);
    let old_keepalive = a.sealed(B, &control(0, 0, Flags::ACK), &[]);
    b.hear(at(200), addr(A), &old_keepalive);
    assert!(b.topics().is_empty());
    assert_eq!(b.peer(A).heard, at(200));
    let not_empty = a.sealed(B, &control(0, 0, Flags::ACK), b"x");
    b.hear(at(300), addr(A), &not_empty);
    assert_eq!(b.topics(), ["security.src_spoofed"]);
}

#[test]
fn pings_are_answered_and_answers_are_not() {
    let (mut a, mut b) = tunnel_of_two();
    let mut ping = control(A, B, Flags::NONE);
    ping.src_port = 77;
    let frame = a.sealed(B, &ping, b"payload");
    b.hear(at(100), addr(A), &frame);
    let (_, pong) = b.out(at(100)).remove(0);
    let Ok(Frame::Sealed(header, body)) = tunnel::decode(&pong) else { panic!("not sealed") };
    let mut body = body.to_vec();
    let session = a.engine.peers.get_mut(&B).unwrap().session.as_mut().unwrap();
    let plain = session.open(at(100), &header, &mut body).unwrap();
    let p = packet::decode(plain).unwrap();
    assert_eq!((p.header.flags, p.header.seq, p.header.ack, p.payload), (Flags::ACK, 9, 10, &b"payload"[..]));
    assert_eq!((p.header.src_port, p.header.dst_port, p.header.dst.node), (0, 77, A));
    for (flags, port, payload) in
        [(Flags::ACK, 0, &b"pong"[..]), (Flags::NONE, 5, b"x"), (Flags::ACK, 0, b""), (Flags::NONE, 0, b"")]
    {
        let mut h = control(A, B, flags);
        h.dst_port = port;
        let frame = a.sealed(B, &h, payload);
        b.hear(at(200), addr(A), &frame);
        assert!(b.out(at(200)).is_empty(), "{flags:?} to port {port}");
    }
}

#[test]
fn peers_of_our_kind_recognise_each_other_and_go_peers_are_left_alone() {
    let (a, b) = tunnel_of_two();
    for (node, other) in [(&a, B), (&b, A)] {
        assert_eq!(node.peer(other).abilities, Abilities::Enhanced { segment: 32_768 });
        assert_eq!(node.engine.limits(other).outstanding, 65_535);
    }
    // One that does not answer: four hellos, then never again.
    let (mut a, mut b) = (Node::new(A), Node::new(B));
    b.hear(at(0), addr(A), &a.pila(Trailer::NONE));
    a.hear(at(0), addr(B), &b.pila(Trailer::NONE));
    let mut hellos = 0;
    for ms in (0..20_000).step_by(100) {
        a.engine.handle_timeout(at(ms));
        hellos += a.out(at(ms)).iter().filter(|(_, d)| d.starts_with(b"PILS")).count();
    }
    assert_eq!(hellos, 4);
    assert_eq!(a.engine.limits(B).outstanding, 128);
}

#[test]
fn plaintext_is_neither_sent_nor_taken() {
    let (mut a, mut b) = tunnel_of_two();
    let mut plain = tunnel::MAGIC_PLAIN.to_vec();
    packet::encode_into(&control(A, B, Flags::NONE), b"ping", &mut plain).unwrap();
    b.hear(at(100), addr(A), &plain);
    assert!(b.out(at(100)).is_empty());
    assert!(a.out(at(100)).is_empty());
}

#[test]
fn our_own_prefix_in_the_peers_frame_makes_us_change_it() {
    let (mut a, mut b) = tunnel_of_two();
    let prefix = |n: &mut Node, to| {
        let frame = n.sealed(to, &control(n.node, to, Flags::NONE), &[]);
        (SealedHeader::decode(&frame).unwrap().prefix, frame)
    };
    let (ours, _) = prefix(&mut b, A);
    a.engine.peers.get_mut(&B).unwrap().session.as_mut().unwrap().change_prefix(ours);
    let (_, frame) = prefix(&mut a, B);
    b.hear(at(100), addr(A), &frame);
    assert_ne!(prefix(&mut b, A).0, ours);
}

#[test]
fn only_so_many_peers_may_wait_for_a_key() {
    let config = Config { max_pending_peers: 3, ..Config::default() };
    let mut a = Node::with(A, config);
    for node in 10..13 {
        a.engine.send_datagram(at(0), Addr::backbone(node), 5, b"x").unwrap();
    }
    let refused = a.engine.send_datagram(at(0), Addr::backbone(13), 5, b"x");
    assert_eq!(refused, Err(SendError::TooManyPending));
    assert_eq!(a.engine.send_datagram(at(0), Addr::backbone(10), 5, b"y"), Ok(()));
    a.engine.remove_peer(at(0), 10);
    assert_eq!(a.engine.send_datagram(at(0), Addr::backbone(13), 5, b"x"), Ok(()));
}

#[test]
fn a_changed_key_salvages_what_may_be_lost() {
    let (mut a, _) = tunnel_of_two();
    for i in 0..6_u8 {
        a.engine.send_datagram(at(100), Addr::backbone(B), 5, &[i]).unwrap();
    }
    a.out(at(100)); // all lost: the peer is starting anew
    let mut b = Node::new(B);
    b.engine.me = Me::new([99; 32]);
    b.engine.set_identity(identity(B));
    b.engine.set_node(B, false, &[]);
    b.hear(at(200), addr(A), &a.pila(Trailer::NONE));
    a.hear(at(200), addr(B), &b.pila(Trailer::NONE));
    for (_, d) in a.out(at(200)) {
        b.hear(at(200), addr(A), &d);
    }
    let got: Vec<u8> = std::iter::from_fn(|| b.engine.poll_event())
        .filter_map(|e| if let Event::Datagram { data, .. } = e { Some(data[0]) } else { None })
        .collect();
    assert_eq!(got, [2, 3, 4, 5]);
    assert!(a.topics().contains(&"tunnel.desync_salvage"));
}

#[test]
fn a_dial_starts_on_the_relay_when_the_key_came_by_it() {
    let mut a = Node::new(A);
    let beacon: SocketAddr = "192.0.2.1:9001".parse().unwrap();
    a.engine.set_beacon(Some(beacon));
    let b = Node::new(B);
    let mut wrapped = beacon::relay_deliver_header(B).to_vec();
    wrapped.extend_from_slice(&b.pila(Trailer::NONE));
    a.hear(at(0), beacon, &wrapped);
    assert!(a.has_session(B));
    a.out(at(0));
    a.engine.dial(at(10), Addr::backbone(B), 80).unwrap();
    let sent = a.out(at(10));
    assert!(!sent.is_empty() && sent.iter().all(|(to, d)| *to == beacon && d[0] == 5));
}
