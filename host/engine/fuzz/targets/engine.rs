//! A script of datagrams, commands and times against one engine. The input is read as operations (see [`World::step`]):
//! raw datagrams from strangers and from the beacon, packets sealed by a peer with a real key (so that arbitrary bytes reach
//! the stream layer), recorded datagrams sent again or changed, answers of every kind to the engine's questions, commands
//! of an application, and time that stands, passes or jumps.
//!
//! Beyond panics it checks that nothing grows without bound and that polling always comes to an end.
#![no_main]

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pilot_engine::time::{Duration, Instant};
use pilot_engine::tunnel::kdf;
use pilot_engine::{Answer, Config, ConnId, Engine, Event, Identity, Query, Resolution, Verdict};
use pilot_wire::addr::Addr;
use pilot_wire::packet::{self, Flags, Header, Protocol};
use pilot_wire::tunnel::{Frame, KeyExchange, SealedHeader, Trailer, signed_message};
use pilot_wire::{beacon, tunnel};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use x25519_dalek::{PublicKey, StaticSecret};

const OWN: u32 = 1;
const PEER: u32 = 2;
const OPERATIONS: usize = 400;
const RECORDED: usize = 32;

/// Reads the script.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    fn long(&mut self) -> u32 {
        u32::from_be_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    fn bytes(&mut self, most: usize) -> &'a [u8] {
        let len = usize::from(self.byte()).min(most).min(self.0.len());
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        taken
    }
}

/// A peer whose key the engine accepts.
struct Peer {
    identity: Identity,
    secret: StaticSecret,
    key: Option<LessSafeKey>,
    counter: u64,
    prefix: [u8; 4],
}

impl Peer {
    fn new() -> Self {
        Self {
            identity: Identity::generate([2; 32]),
            secret: StaticSecret::from([22; 32]),
            key: None,
            counter: 0,
            prefix: [7; 4],
        }
    }

    fn exchange(&self, trailer: Trailer) -> Vec<u8> {
        let public = *PublicKey::from(&self.secret).as_bytes();
        let signature = self.identity.sign(&signed_message(PEER, &public));
        let ed25519 = self.identity.public_key();
        let mut frame = Vec::new();
        KeyExchange { node: PEER, x25519: &public, ed25519: &ed25519, signature: &signature, trailer }
            .encode(&mut frame);
        frame
    }

    fn hear(&mut self, frame: &[u8]) {
        if let Ok(Frame::KeyExchange(kex)) = tunnel::decode(frame)
            && let Some(shared) = kdf::shared_secret(&self.secret, kex.x25519)
        {
            let key = UnboundKey::new(&AES_256_GCM, kdf::tunnel_key(&shared).as_slice()).expect("32 bytes");
            self.key = Some(LessSafeKey::new(key));
        }
    }

    fn seal(&mut self, h: &Header, payload: &[u8]) -> Option<Vec<u8>> {
        let key = self.key.as_ref()?;
        self.counter += 1;
        let header = SealedHeader { sender: PEER, prefix: self.prefix, counter: self.counter };
        let mut body = Vec::new();
        packet::encode_into(h, payload, &mut body).ok()?;
        let nonce = Nonce::assume_unique_for_key(header.nonce());
        key.seal_in_place_append_tag(nonce, Aad::from(header.associated_data()), &mut body).ok()?;
        Some([header.to_bytes().as_slice(), &body].concat())
    }
}

struct World {
    engine: Engine,
    now: Instant,
    peer: Peer,
    conns: Vec<ConnId>,
    recorded: Vec<Vec<u8>>,
}

fn address(kind: u8) -> SocketAddr {
    match kind % 4 {
        0 => beacon_addr(),
        1 => peer_addr(),
        2 => SocketAddr::from(([203, 0, 113, kind], 1000 + u16::from(kind))),
        _ => SocketAddr::from(([127, 0, 0, 1], 4000)),
    }
}

fn beacon_addr() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 9001))
}

fn peer_addr() -> SocketAddr {
    SocketAddr::from(([198, 51, 100, 2], 4000))
}

impl World {
    fn new(setting: u8) -> Self {
        let config = Config {
            admit_all: setting & 1 != 0,
            strict: setting & 2 != 0,
            relay_only: setting & 4 != 0,
            legacy_feb: setting & 8 != 0,
            recv_buffer: if setting & 16 != 0 { 4000 } else { 64_000 },
            send_buffer: 32_000,
            stream_memory: if setting & 32 != 0 { 20_000 } else { 1 << 20 },
            max_conns: 24,
            max_queries: 16,
            ..Config::default()
        };
        let now = Instant::from_nanos(1);
        let mut engine = Engine::new(config, [1; 32], now);
        engine.set_identity(Arc::new(Identity::generate([1; 32])));
        engine.set_node(OWN, setting & 64 != 0, &[0, 5]);
        engine.set_beacon((setting & 128 == 0).then(beacon_addr));
        engine.set_wall_clock(now, 1 << 60);
        engine.bind(1000).expect("nothing is bound");
        Self { engine, now, peer: Peer::new(), conns: Vec::new(), recorded: Vec::new() }
    }

    fn give(&mut self, from: SocketAddr, mut datagram: Vec<u8>) {
        if self.recorded.len() < RECORDED {
            self.recorded.push(datagram.clone());
        }
        self.engine.handle_datagram(self.now, from, &mut datagram);
    }

    /// The header of a packet from the peer; ports and numbers are near enough to real ones to hit something.
    fn header(&self, s: &mut Script<'_>) -> Header {
        let shape = s.byte();
        let conn = self.conns.get(usize::from(s.byte()) % self.conns.len().max(1));
        let info = conn.and_then(|c| self.engine.conn_info(*c));
        let (src_port, dst_port) = match info {
            Some(i) if shape & 1 != 0 => (i.remote_port, i.local_port),
            _ => (s.word(), [1000, 7, 0, 0x5048, 444][usize::from(s.byte() % 5)]),
        };
        let small = shape & 2 != 0;
        Header {
            flags: Flags::from_bits(s.byte()),
            protocol: [Protocol::STREAM, Protocol::DATAGRAM, Protocol::CONTROL][usize::from(s.byte() % 3)],
            src: Addr::new(u16::from(shape & 4), if shape & 8 != 0 { s.long() } else { PEER }),
            dst: Addr::new(u16::from(shape & 4), if shape & 16 != 0 { s.long() } else { OWN }),
            src_port,
            dst_port,
            seq: if small { s.word().into() } else { s.long() },
            ack: if small { s.word().into() } else { s.long() },
            window: s.word(),
        }
    }

    fn step(&mut self, s: &mut Script<'_>) {
        let now = self.now;
        match s.byte() % 20 {
            0 => self.now = now + Duration::from_micros(s.word().into()),
            1 => self.now = now + Duration::from_millis(s.word().into()),
            2 => self.now = now + Duration::from_secs(s.word().into()),
            3 => self.now = self.engine.poll_timeout().unwrap_or(now).max(now),
            4 => {
                let (from, datagram) = (address(s.byte()), s.bytes(255).to_vec());
                self.give(from, datagram);
            }
            5 => {
                let kind = s.byte();
                let trailer = Trailer { capabilities: s.byte().into(), flags: u64::from(kind & 3) };
                let frame = self.peer.exchange(trailer);
                self.via(kind, frame);
            }
            6..=9 => {
                let header = self.header(s);
                let kind = s.byte();
                let payload = s.bytes(255);
                if kind & 64 != 0 {
                    self.peer.prefix = [kind; 4];
                }
                if let Some(frame) = self.peer.seal(&header, payload) {
                    self.via(kind, frame);
                }
            }
            10 => {
                let (which, at, bit) = (s.byte(), s.word(), s.byte());
                if let Some(old) = self.recorded.get(usize::from(which) % RECORDED) {
                    let mut again = old.clone();
                    let len = again.len().max(1);
                    if bit & 128 != 0 {
                        again.truncate(usize::from(at) % len);
                    } else if let Some(byte) = again.get_mut(usize::from(at) % len) {
                        *byte ^= bit;
                    }
                    self.engine.handle_datagram(now, address(bit), &mut again);
                }
            }
            11 => {
                if let Ok(conn) = self.engine.dial(
                    now,
                    Addr::new(0, [PEER, 3, s.long()][usize::from(s.byte() % 3)]),
                    s.word(),
                ) {
                    self.conns.push(conn);
                }
            }
            12 => self.with_conn(s, |e, c, s| {
                _ = e.write(now, c, Bytes::from(vec![s.byte(); usize::from(s.word())]))
            }),
            13 => self.with_conn(s, |e, c, s| _ = e.read(now, c, usize::from(s.word()).max(1))),
            14 => self.with_conn(s, |e, c, _| e.close(now, c)),
            15 => self.with_conn(s, |e, c, _| e.reset(now, c)),
            16 => {
                let _ = self.engine.send_datagram(now, Addr::backbone(PEER), s.word(), s.bytes(255));
                let _ = self.engine.ping(now, Addr::backbone(PEER), s.bytes(64));
            }
            17 => match s.byte() % 6 {
                0 => self.engine.remove_peer(now, PEER),
                1 => self.engine.discover(now),
                2 => self.engine.handle_send_error(now, address(s.byte())),
                3 => _ = self.engine.prefer_direct(now, PEER),
                4 => self.engine.open_reply_window(now, s.long()),
                _ => self.engine.set_beacon((s.byte() & 1 == 0).then(beacon_addr)),
            },
            18 => {
                while let Some(conn) = self.engine.accept(1000) {
                    self.conns.push(conn);
                }
            }
            _ => self.answer(s),
        }
        self.engine.handle_timeout(self.now);
    }

    fn via(&mut self, kind: u8, frame: Vec<u8>) {
        if kind & 32 == 0 {
            return self.give(peer_addr(), frame);
        }
        let mut datagram = Vec::new();
        beacon::Message::RelayDeliver { sender: PEER, frame: &frame }.encode(&mut datagram);
        self.give(beacon_addr(), datagram);
    }

    fn with_conn(&mut self, s: &mut Script<'_>, run: impl FnOnce(&mut Engine, ConnId, &mut Script<'_>)) {
        let which = usize::from(s.byte());
        if let Some(conn) = self.conns.get(which % self.conns.len().max(1)).copied() {
            run(&mut self.engine, conn, s);
        }
    }

    /// Answers a question, rightly or not, or leaves it.
    fn answer(&mut self, s: &mut Script<'_>) {
        let Some((id, query)) = self.engine.poll_query() else { return };
        let how = s.byte();
        let answer = match (how % 8, query) {
            (0, _) => return,
            (1, _) => Answer::Failed("no".into()),
            (2, _) => Answer::Admit(Verdict::Untrusted),
            (3, _) => Answer::PeerKey { key: None, trusted: false },
            (_, Query::Resolve { .. }) => Answer::Resolved(Resolution {
                real_addr: (how & 16 == 0).then(|| address(how)),
                lan_addrs: vec![address(how)],
                relay_only: how & 32 != 0,
            }),
            (_, Query::PeerKey { .. }) => {
                Answer::PeerKey { key: Some(self.peer.identity.public_key()), trusted: how & 16 == 0 }
            }
            _ => Answer::Admit(Verdict::Allow),
        };
        self.engine.answer(self.now, id, answer);
    }

    /// Takes everything out and looks at the bounds.
    fn drain(&mut self) {
        let mut buf = Vec::new();
        let mut sent = 0;
        while let Some(t) = self.engine.poll_transmit(self.now, &mut buf, 10) {
            assert_eq!(buf.len(), t.size);
            let run = std::mem::take(&mut buf);
            for datagram in run.chunks(t.segment_size.unwrap_or(t.size)) {
                assert!(!datagram.is_empty() && datagram.len() <= 65_507);
                self.peer.hear(datagram.get(9..).filter(|_| datagram[0] == 5).unwrap_or(datagram));
            }
            sent += t.size;
            assert!(sent < 4 << 20, "polling does not end");
        }
        while let Some(event) = self.engine.poll_event() {
            if let Event::Closed { conn, .. } | Event::DialFailed { conn, .. } = event {
                let _ = self.engine.read(self.now, conn, usize::MAX);
            }
        }
    }

    fn check(&self) {
        let picture = self.engine.snapshot();
        assert!(picture.peers.len() <= OPERATIONS && picture.conns.len() <= 24);
        for conn in &picture.conns {
            assert!(conn.in_flight <= 64 << 10 && conn.ooo_buf <= 8192, "{conn:?}");
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut script = Script(data);
    let mut world = World::new(script.byte());
    for _ in 0..OPERATIONS {
        if script.0.is_empty() {
            break;
        }
        world.step(&mut script);
        world.drain();
        world.check();
    }
});
