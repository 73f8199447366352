//! Floods: much of what a hostile peer or a stranger can send, next to an honest stream. Limits hold, memory is bounded, and
//! the stream keeps at least half of its speed.
//!
//! Speed is measured as work: the time this process needs to move the honest bytes through both engines, once alone and
//! once with a hostile datagram handed in for every honest one. No link and no other process is involved.

use std::net::SocketAddr;
use std::sync::Arc;

use pilot_engine::time::Instant;
use pilot_engine::tunnel::kdf;
use pilot_engine::{Answer, Config, Engine, Event, Identity, Query, Read, Resolution};
use pilot_wire::addr::Addr;
use pilot_wire::packet::{self, Flags, Header, Protocol};
use pilot_wire::sack::{self, Block};
use pilot_wire::tunnel::{self, Frame, KeyExchange, SealedHeader, Trailer};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::net::{Dice, PORT, beacon_addr, ms, pattern};

const HONEST: [u32; 2] = [1, 2];
const ROGUE: u32 = 66;

fn addr(node: u32) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, u8::try_from(node).unwrap()], 4000))
}

fn identity(node: u32) -> Arc<Identity> {
    Arc::new(Identity::generate([u8::try_from(node).unwrap(); 32]))
}

/// A registered node that speaks the protocol by hand and keeps none of its rules.
struct Rogue {
    secret: StaticSecret,
    key: Option<LessSafeKey>,
    counter: u64,
    dice: Dice,
    /// What it saw of the honest ones' traffic.
    recorded: Vec<Vec<u8>>,
}

impl Rogue {
    fn new() -> Self {
        let secret = StaticSecret::from([66; 32]);
        Self { secret, key: None, counter: 0, dice: Dice::new(66), recorded: Vec::new() }
    }

    fn exchange(&self, node: u32, identity: &Identity) -> Vec<u8> {
        let public = *PublicKey::from(&self.secret).as_bytes();
        let signature = identity.sign(&tunnel::signed_message(node, &public));
        let mut frame = Vec::new();
        let ed25519 = identity.public_key();
        KeyExchange {
            node,
            x25519: &public,
            ed25519: &ed25519,
            signature: &signature,
            trailer: Trailer::NONE,
        }
        .encode(&mut frame);
        frame
    }

    fn hear(&mut self, frame: &[u8]) {
        if let Ok(Frame::KeyExchange(kex)) = tunnel::decode(frame) {
            let shared = kdf::shared_secret(&self.secret, kex.x25519).unwrap();
            let key = UnboundKey::new(&AES_256_GCM, kdf::tunnel_key(&shared).as_slice()).unwrap();
            self.key = Some(LessSafeKey::new(key));
        }
    }

    fn seal(&mut self, packet: &[u8]) -> Vec<u8> {
        self.counter += 1;
        let header = SealedHeader { sender: ROGUE, prefix: [6; 4], counter: self.counter };
        let mut body = packet.to_vec();
        let nonce = Nonce::assume_unique_for_key(header.nonce());
        let aad = Aad::from(header.associated_data());
        self.key.as_ref().unwrap().seal_in_place_append_tag(nonce, aad, &mut body).unwrap();
        [header.to_bytes().as_slice(), &body].concat()
    }

    fn segment(&mut self, flags: Flags, ports: (u16, u16), seq: u32, payload: &[u8]) -> Vec<u8> {
        let header = Header {
            flags,
            protocol: Protocol::STREAM,
            src: Addr::backbone(ROGUE),
            dst: Addr::backbone(HONEST[1]),
            src_port: ports.0,
            dst_port: ports.1,
            seq,
            ack: 1,
            window: u16::MAX,
        };
        let mut packet = Vec::new();
        packet::encode_into(&header, payload, &mut packet).unwrap();
        self.seal(&packet)
    }

    fn stranger(&mut self) -> SocketAddr {
        let part = |dice: &mut Dice| u8::try_from(dice.roll(255)).unwrap();
        SocketAddr::from(([11, part(&mut self.dice), part(&mut self.dice), 1], 1024))
    }

    /// One hostile datagram of a kind, and where it claims to come from.
    fn attack(&mut self, kind: Attack) -> (SocketAddr, Vec<u8>) {
        let roll = self.dice.roll(1 << 31);
        let low = u16::try_from(roll & 0xFFFF).unwrap();
        let number = u32::try_from(roll).unwrap();
        match kind {
            Attack::Syn => (addr(ROGUE), self.segment(Flags::SYN, (low, PORT), number, b"")),
            Attack::SynToEcho => (addr(ROGUE), self.segment(Flags::SYN, (low, 7), number, b"")),
            // Data far ahead of what its own stream has had: wants to be kept.
            Attack::Holes => {
                let seq = 2 + number % 8_000_000;
                (addr(ROGUE), self.segment(Flags::ACK, (5000 + low % 8, PORT), seq, &[0; 900]))
            }
            Attack::Exchange => (self.stranger(), self.exchange(ROGUE, &identity(ROGUE))),
            Attack::ForgedExchange => (self.stranger(), self.exchange(HONEST[0], &identity(ROGUE))),
            // The right identity, a fresh key, and a signature that is not one.
            Attack::BadSignature => {
                let mut frame = self.exchange(HONEST[0], &identity(HONEST[0]));
                frame[8..12].copy_from_slice(&number.to_be_bytes());
                (self.stranger(), frame)
            }
            Attack::KeyRequest => {
                let mut frame = b"PILK".to_vec();
                frame.extend_from_slice(&number.to_be_bytes());
                frame.extend_from_slice(&[low.to_be_bytes()[1]; 32]);
                (self.stranger(), frame)
            }
            Attack::Replay => {
                let which = usize::try_from(roll).unwrap() % self.recorded.len().max(1);
                let frame = self.recorded.get(which).cloned().unwrap_or_default();
                (if roll & 1 == 0 { addr(HONEST[0]) } else { self.stranger() }, frame)
            }
            Attack::Spoof => {
                let mut frame = b"PILS".to_vec();
                frame.extend_from_slice(&HONEST[0].to_be_bytes());
                frame.resize(1200, low.to_be_bytes()[0]);
                (addr(HONEST[0]), frame)
            }
            Attack::LyingLength => {
                let mut packet = Vec::new();
                let header = Header {
                    flags: Flags::ACK,
                    protocol: Protocol::STREAM,
                    src: Addr::backbone(ROGUE),
                    dst: Addr::backbone(HONEST[1]),
                    src_port: 5000,
                    dst_port: PORT,
                    seq: 1,
                    ack: 1,
                    window: 9,
                };
                packet::encode_into(&header, &[1; 50], &mut packet).unwrap();
                packet[2..4].copy_from_slice(&low.to_be_bytes());
                (addr(ROGUE), self.seal(&packet))
            }
            Attack::LyingSack => {
                let mut payload = Vec::new();
                let block = Block { left: number, right: number.wrapping_add(1 << 30) };
                sack::encode(&[block; 4], &mut payload);
                (addr(ROGUE), self.segment(Flags::ACK, (5000, PORT), 1, &payload))
            }
            Attack::FalseBeacon => (self.stranger(), vec![6, 0, 0, 0, 1, b'P', b'I', b'L', b'S', 1, 2, 3]),
            Attack::RelayedJunk => {
                let mut frame = vec![6];
                frame.extend_from_slice(&number.to_be_bytes());
                frame.extend_from_slice(b"PILA");
                frame.resize(141, 3);
                (beacon_addr(), frame)
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Attack {
    Syn,
    SynToEcho,
    Holes,
    Exchange,
    ForgedExchange,
    BadSignature,
    KeyRequest,
    Replay,
    Spoof,
    LyingLength,
    LyingSack,
    FalseBeacon,
    RelayedJunk,
}

const ATTACKS: [Attack; 13] = [
    Attack::Syn,
    Attack::SynToEcho,
    Attack::Holes,
    Attack::Exchange,
    Attack::ForgedExchange,
    Attack::BadSignature,
    Attack::KeyRequest,
    Attack::Replay,
    Attack::Spoof,
    Attack::LyingLength,
    Attack::LyingSack,
    Attack::FalseBeacon,
    Attack::RelayedJunk,
];

/// Two engines joined without a link: what one sends the other has.
struct Pair {
    engines: [Engine; 2],
    now: Instant,
    received: Vec<u8>,
}

impl Pair {
    fn new() -> Self {
        let now = Instant::from_nanos(1);
        let engines = HONEST.map(|node| {
            // A private node with a small budget, so that its limits are reached.
            let config = Config { stream_memory: 4 << 20, max_conns: 200, ..Config::default() };
            let mut engine = Engine::new(config, [u8::try_from(node).unwrap(); 32], now);
            engine.set_identity(identity(node));
            engine.set_node(node, false, &[]);
            engine.set_beacon(Some(beacon_addr()));
            engine.bind(PORT).unwrap();
            engine
        });
        Self { engines, now, received: Vec::new() }
    }

    /// Lets one engine do what it can; gives its datagrams for the other honest one.
    fn pump(&mut self, i: usize, rogue: &mut Rogue) -> Vec<Vec<u8>> {
        let (now, engine) = (self.now, &mut self.engines[i]);
        while let Some((id, query)) = engine.poll_query() {
            let answer = match query {
                Query::Resolve { node } => {
                    Answer::Resolved(Resolution { real_addr: Some(addr(node)), ..Resolution::default() })
                }
                Query::PeerKey { node } if node < 255 => {
                    Answer::PeerKey { key: Some(identity(node).public_key()), trusted: true }
                }
                Query::PeerKey { .. } => Answer::PeerKey { key: None, trusted: false },
                _ => Answer::Admit(pilot_engine::Verdict::Allow),
            };
            engine.answer(now, id, answer);
        }
        while let Some(event) = engine.poll_event() {
            if let Event::Incoming { port, .. } = event
                && let Some(conn) = engine.accept(port)
                && engine.conn_info(conn).is_some_and(|c| c.remote.node == ROGUE)
            {
                continue; // an application that never reads
            }
            if let Event::Readable { conn } = event
                && engine.conn_info(conn).is_some_and(|c| c.remote.node != ROGUE)
            {
                while let Ok(Read::Data(data)) = engine.read(now, conn, usize::MAX) {
                    self.received.extend_from_slice(&data);
                }
            }
        }
        let (mut out, mut buf) = (Vec::new(), Vec::new());
        while let Some(t) = engine.poll_transmit(now, &mut buf, 16) {
            let run = std::mem::take(&mut buf);
            for datagram in run.chunks(t.segment_size.unwrap_or(t.size)) {
                if t.to == addr(HONEST[1 - i]) {
                    out.push(datagram.to_vec());
                } else if t.to == addr(ROGUE) || datagram.starts_with(b"PILA") {
                    rogue.hear(datagram);
                }
            }
        }
        out
    }

    /// Moves `len` bytes from the first to the second; `flood` hands in that many hostile datagrams per honest one.
    fn transfer(
        &mut self,
        len: usize,
        rogue: &mut Rogue,
        attacks: &[Attack],
        flood: usize,
    ) -> std::time::Duration {
        let data = pattern(len, 1);
        let now = self.now;
        let conn = self.engines[0].dial(now, Addr::backbone(HONEST[1]), PORT).unwrap();
        self.received.clear();
        let mut rest = bytes::Bytes::from(data.clone());
        // Made beforehand: the attacker's work is not ours.
        let datagrams = flood * (len / 1000 + 20);
        let mut hostile: Vec<_> =
            (0..datagrams).map(|i| rogue.attack(attacks[i % attacks.len()])).rev().collect();
        let started = std::time::Instant::now();
        while self.received.len() < len {
            if let Ok(taken) = self.engines[0].write(self.now, conn, rest.clone()) {
                let _ = rest.split_to(taken);
            }
            #[allow(clippy::needless_range_loop)] // both engines and both names are indexed
            for from in 0..2 {
                for mut datagram in self.pump(from, rogue) {
                    if from == 0 && rogue.recorded.len() < 500 {
                        rogue.recorded.push(datagram.clone());
                    }
                    if from == 0 {
                        for _ in 0..flood {
                            let Some((source, mut datagram)) = hostile.pop() else { break };
                            self.engines[1].handle_datagram(self.now, source, &mut datagram);
                        }
                    }
                    self.engines[1 - from].handle_datagram(self.now, addr(HONEST[from]), &mut datagram);
                }
            }
            self.now += ms(1);
            for engine in &mut self.engines {
                engine.handle_timeout(self.now);
            }
            assert!(started.elapsed().as_secs() < 100, "{} of {len} beside {attacks:?}", self.received.len());
        }
        assert!(self.received == data);
        started.elapsed()
    }

    fn admit(&mut self, rogue: &mut Rogue) {
        let mut hello = rogue.exchange(ROGUE, &identity(ROGUE));
        self.engines[1].handle_datagram(self.now, addr(ROGUE), &mut hello);
        for _ in 0..3 {
            self.pump(1, rogue);
        }
        assert!(rogue.key.is_some());
        for port in 5000..5008 {
            let mut syn = rogue.segment(Flags::SYN, (port, PORT), 0, b"");
            self.engines[1].handle_datagram(self.now, addr(ROGUE), &mut syn);
            self.pump(1, rogue);
        }
    }
}

/// Resident memory of this process, bytes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn limits_hold_under_every_flood_and_the_stream_goes_on() {
    for attack in ATTACKS {
        let (mut pair, mut rogue) = (Pair::new(), Rogue::new());
        pair.admit(&mut rogue);
        let before = resident();
        pair.transfer(1_500_000, &mut rogue, &[attack], 12);
        let s = pair.engines[1].snapshot();
        assert!(s.conns.len() <= 200, "{attack:?}: {} streams", s.conns.len());
        assert!(s.peers.len() <= 16_384 + 2, "{attack:?}: {} peers", s.peers.len());
        let parked: usize = s.conns.iter().map(|c| c.ooo_buf).sum();
        assert!(parked * 900 <= 5 << 20, "{attack:?}: {parked} segments kept");
        let honest = s.peers.iter().find(|p| p.node == HONEST[0]).unwrap();
        assert_eq!(honest.endpoint, Some(addr(HONEST[0])), "{attack:?}");
        assert_eq!(honest.rekeys, 0, "{attack:?}: its session was replaced");
        let grown = resident().saturating_sub(before);
        assert!(grown < 64 << 20, "{attack:?}: {} MiB more", grown >> 20);
    }
}

#[test]
fn streams_opened_under_a_flood_of_syns_stay_within_the_rates() {
    let (mut pair, mut rogue) = (Pair::new(), Rogue::new());
    pair.admit(&mut rogue);
    let opened = |pair: &Pair| pair.engines[1].snapshot().conns.len();
    let before = opened(&pair);
    for _ in 0..1000 {
        let (source, mut syn) = rogue.attack(Attack::Syn);
        pair.engines[1].handle_datagram(pair.now, source, &mut syn);
        pair.pump(1, &mut rogue);
    }
    assert!(opened(&pair) <= before + 10, "ten a second from one peer");
}

#[test]
fn an_honest_stream_keeps_half_its_speed_beside_a_flood() {
    // The rest of this machine has moods: a flood must be that expensive in each of a few tries to fail this.
    let (bytes, tries) =
        if std::env::var_os("PILOT_LONG").is_some() { (64_000_000, 5) } else { (16_000_000, 5) };
    for attack in ATTACKS {
        let mut best = 0.0_f64;
        for _ in 0..tries {
            let (mut pair, mut rogue) = (Pair::new(), Rogue::new());
            pair.admit(&mut rogue);
            let alone = pair.transfer(bytes, &mut rogue, &[attack], 0);
            let flooded = pair.transfer(bytes, &mut rogue, &[attack], 1);
            best = best.max(alone.as_secs_f64() / flooded.as_secs_f64());
            if best >= 0.5 {
                break;
            }
        }
        println!("flood of {attack:?}, one per honest datagram: {:.0} % of the speed alone", 100.0 * best);
        assert!(best >= 0.5, "{attack:?}: {best:.2}");
    }
}
