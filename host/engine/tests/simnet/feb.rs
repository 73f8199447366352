//! A peer of February 2026, played by hand: its own key derivation, no associated data, a new session for every key exchange
//! (tunnel.md section 3, "Interoperating with Feb").

use std::net::SocketAddr;
use std::sync::Arc;

use pilot_engine::time::Instant;
use pilot_engine::tunnel::kdf::{legacy_tunnel_key, shared_secret};
use pilot_engine::{Answer, Config, Engine, Event, Identity, Query, Resolution};
use pilot_wire::addr::Addr;
use pilot_wire::packet::{self, Flags, Header, Protocol};
use pilot_wire::tunnel::{self, Frame, KeyExchange, SealedHeader, Trailer};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::net::PORT;

const OURS: u32 = 1;
const THEIRS: u32 = 2;

fn theirs_addr() -> SocketAddr {
    "198.51.100.2:4000".parse().unwrap()
}

/// The old peer.
struct Feb {
    identity: Identity,
    secret: StaticSecret,
    key: Option<LessSafeKey>,
    counter: u64,
}

impl Feb {
    fn new() -> Self {
        Self {
            identity: Identity::generate([2; 32]),
            secret: StaticSecret::from([22; 32]),
            key: None,
            counter: 0,
        }
    }

    /// Accepts any key exchange and answers with its own.
    fn on_exchange(&mut self, kex: &KeyExchange<'_>) -> Vec<u8> {
        let shared = shared_secret(&self.secret, kex.x25519).unwrap();
        let key = UnboundKey::new(&AES_256_GCM, legacy_tunnel_key(&shared).as_slice()).unwrap();
        (self.key, self.counter) = (Some(LessSafeKey::new(key)), 0);
        let public = *PublicKey::from(&self.secret).as_bytes();
        let signature = self.identity.sign(&tunnel::signed_message(THEIRS, &public));
        let mut frame = Vec::new();
        KeyExchange {
            node: THEIRS,
            x25519: &public,
            ed25519: &self.identity.public_key(),
            signature: &signature,
            trailer: Trailer::NONE,
        }
        .encode(&mut frame);
        frame
    }

    fn open(&self, header: &SealedHeader, body: &[u8]) -> Option<Vec<u8>> {
        let mut body = body.to_vec();
        let nonce = Nonce::assume_unique_for_key(header.nonce());
        self.key.as_ref()?.open_in_place(nonce, Aad::empty(), &mut body).ok().map(|p| p.to_vec())
    }

    fn seal(&mut self, h: &Header, payload: &[u8]) -> Vec<u8> {
        self.counter += 1;
        let header = SealedHeader { sender: THEIRS, prefix: [7; 4], counter: self.counter };
        let mut body = Vec::new();
        packet::encode_into(h, payload, &mut body).unwrap();
        let nonce = Nonce::assume_unique_for_key(header.nonce());
        self.key.as_ref().unwrap().seal_in_place_append_tag(nonce, Aad::empty(), &mut body).unwrap();
        [header.to_bytes().as_slice(), &body].concat()
    }
}

fn answer_questions(now: Instant, engine: &mut Engine, feb: &Feb) {
    while let Some((id, query)) = engine.poll_query() {
        let answer = match query {
            Query::Resolve { .. } => {
                Answer::Resolved(Resolution { real_addr: Some(theirs_addr()), ..Resolution::default() })
            }
            _ => Answer::PeerKey { key: Some(feb.identity.public_key()), trusted: true },
        };
        engine.answer(now, id, answer);
    }
}

#[test]
fn a_dial_reaches_a_february_peer_by_trying_both_ciphers() {
    let mut now = Instant::from_nanos(1);
    let mut feb = Feb::new();
    let mut engine = Engine::new(Config { legacy_feb: true, ..Config::default() }, [1; 32], now);
    engine.set_identity(Arc::new(Identity::generate([1; 32])));
    engine.set_node(OURS, false, &[]);
    let conn = engine.dial(now, Addr::backbone(THEIRS), PORT).unwrap();
    let mut unreadable = 0;
    let mut readable_after_open = 0;
    let mut got = Vec::new();
    for _ in 0..40 {
        answer_questions(now, &mut engine, &feb);
        let mut buf = Vec::new();
        let mut answers = Vec::new();
        while let Some(t) = engine.poll_transmit(now, &mut buf, 1) {
            let frame = std::mem::take(&mut buf);
            assert_eq!(frame.len(), t.size);
            match tunnel::decode(&frame).unwrap() {
                Frame::KeyExchange(kex) => answers.push(feb.on_exchange(&kex)),
                Frame::Sealed(header, body) => match feb.open(&header, body) {
                    None => unreadable += 1,
                    Some(plain) => {
                        let p = packet::decode(&plain).unwrap();
                        let h = p.header;
                        if h.flags == Flags::SYN {
                            let syn_ack = Header {
                                flags: Flags::SYN | Flags::ACK,
                                src: h.dst,
                                dst: h.src,
                                src_port: h.dst_port,
                                dst_port: h.src_port,
                                seq: 0,
                                ack: 1,
                                window: 512,
                                ..h
                            };
                            answers.push(feb.seal(&syn_ack, b""));
                        } else if h.protocol == Protocol::STREAM {
                            readable_after_open += 1;
                            got.extend_from_slice(p.payload);
                        }
                    }
                },
                other => panic!("{other:?}"),
            }
        }
        for mut answer in answers {
            engine.handle_datagram(now, theirs_addr(), &mut answer);
        }
        while let Some(event) = engine.poll_event() {
            if matches!(event, Event::Connected { .. }) {
                engine.write(now, conn, "to the past".into()).unwrap();
            }
        }
        if got == b"to the past" {
            break;
        }
        now = engine.poll_timeout().unwrap_or(now).max(now);
        engine.handle_timeout(now);
    }
    assert_eq!(got, b"to the past");
    assert!(unreadable >= 3, "it begins with what newer peers read");
    assert!(readable_after_open >= 1);
    assert!(now.since(Instant::from_nanos(1)).as_secs() < 5);
}
