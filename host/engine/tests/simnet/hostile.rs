//! What strangers can send: forged, recorded, cut, mutated and random datagrams. Nothing of it may panic, move bytes,
//! open streams or end what is open.

use std::net::SocketAddr;
use std::sync::Arc;

use pilot_engine::time::Instant;
use pilot_engine::{Config, Engine, Identity};
use pilot_wire::addr::Addr;
use proptest::prelude::*;

use crate::net::{Dice, Link, Net, PORT, beacon_addr, ms, pattern, secs};

fn open() -> Config {
    Config { admit_all: true, ..Config::default() }
}

fn stranger() -> SocketAddr {
    "203.0.113.66:6666".parse().unwrap()
}

#[test]
fn recorded_datagrams_change_nothing() {
    let mut net = Net::pair(31, Link::default(), &open());
    net.tap = Some(Vec::new());
    let (a, b) = net.connect(0, 1);
    let first = pattern(200_000, 1);
    net.hosts[0].send(a, first.clone(), false);
    net.run(secs(5), |n| n.hosts[1].stream(b).data.len() == first.len());
    let tape = net.tap.take().unwrap();
    // Everything again, from its own source and from elsewhere, interleaved with new data.
    net.pass(secs(70));
    let second = pattern(300_000, 2);
    net.hosts[0].send(a, second.clone(), true);
    for (i, (from, to, data)) in tape.iter().enumerate() {
        let from = if i % 2 == 0 { *from } else { stranger() };
        net.inject(from, *to, data.clone());
        if i % 16 == 0 {
            net.pass(ms(1));
        }
    }
    net.run(secs(60), |n| n.hosts[1].stream(b).finished);
    let got = &net.hosts[1].stream(b).data;
    assert!(got[..first.len()] == first && got[first.len()..] == second);
    assert_eq!(net.hosts[1].accepted.len(), 1);
    assert!(net.hosts[1].topics().contains(&"security.nonce_replay"));
    assert_eq!(net.hosts[0].engine.snapshot().peers[0].endpoint, Some(net.hosts[1].addr));
}

#[test]
fn a_recorded_key_exchange_of_a_former_life_does_not_take_the_tunnel() {
    let mut net = Net::pair(32, Link::default(), &open());
    net.tap = Some(Vec::new());
    net.connect(0, 1);
    let tape = net.tap.take().unwrap();
    net.restart(0);
    net.hosts[1].accepted.clear();
    let (a, b) = net.connect(0, 1);
    let data = pattern(5_000_000, 1);
    net.hosts[0].send(a, data.clone(), true);
    let from_first_life = net.hosts[0].addr;
    let old: Vec<_> =
        tape.into_iter().filter(|(f, _, d)| *f == from_first_life && d.starts_with(b"PILA")).collect();
    assert!(!old.is_empty());
    let started = net.now;
    while !net.hosts[1].stream(b).finished {
        let (_, to, frame) = old[0].clone();
        net.inject(stranger(), to, frame);
        net.pass(ms(50));
        assert!(net.now.since(started) < secs(10));
    }
    assert!(net.hosts[1].stream(b).data == data);
}

#[test]
fn junk_in_a_peers_name_does_not_end_its_session() {
    let mut net = Net::pair(33, Link::default(), &open());
    let (a, b) = net.connect(0, 1);
    net.pass(secs(5));
    let kinds = net.hosts[1].kinds.clone();
    let mut dice = Dice::new(1);
    for _ in 0..200 {
        let mut junk = b"PILS".to_vec();
        junk.extend_from_slice(&1_u32.to_be_bytes());
        junk.extend((0..60).map(|_| u8::try_from(dice.roll(256)).unwrap()));
        let to = net.hosts[1].addr;
        net.inject(stranger(), to, junk);
    }
    net.pass(secs(1));
    assert_eq!(net.hosts[1].kinds.get(&b'A'), kinds.get(&b'A'), "no new key exchange");
    assert_eq!(net.hosts[1].engine.snapshot().encryption_failure, 200);
    net.hosts[0].send(a, pattern(1000, 1), true);
    net.run(secs(2), |n| n.hosts[1].stream(b).finished);
}

#[test]
fn an_unknown_sender_is_answered_once_in_three_seconds() {
    let mut net = Net::pair(34, Link::default(), &open());
    for _ in 0..60 {
        let mut frame = b"PILS".to_vec();
        frame.extend_from_slice(&77_u32.to_be_bytes());
        frame.extend_from_slice(&[9; 40]);
        let to = net.hosts[1].addr;
        net.inject(stranger(), to, frame);
        net.pass(ms(100));
    }
    let kinds = &net.hosts[1].kinds;
    assert_eq!((kinds[&b'A'], kinds[&b'K']), (2, 2));
    assert!(net.hosts[1].engine.snapshot().peers.is_empty(), "nothing is remembered of a stranger");
}

#[test]
fn a_key_exchange_must_be_signed_by_the_registered_identity() {
    let mut net = Net::pair(35, Link::default(), &open());
    // Somebody else claims to be node 1.
    let mut impostor = Engine::new(open(), [66; 32], net.now);
    impostor.set_identity(Arc::new(Identity::generate([66; 32])));
    impostor.set_node(1, false, &[]);
    let now = net.now;
    impostor.dial(now, Addr::backbone(2), PORT).unwrap();
    let (id, _) = impostor.poll_query().unwrap();
    let resolution = pilot_engine::Resolution { real_addr: Some(net.hosts[1].addr), ..Default::default() };
    impostor.answer(now, id, pilot_engine::Answer::Resolved(resolution));
    let mut frame = Vec::new();
    impostor.poll_transmit(now, &mut frame, 1).unwrap();
    assert!(frame.starts_with(b"PILA"));
    let to = net.hosts[1].addr;
    net.inject(stranger(), to, frame.clone());
    net.pass(secs(1));
    assert!(net.hosts[1].engine.snapshot().peers.is_empty());
    // Nor does it help once the real one is there.
    net.connect(0, 1);
    net.inject(stranger(), to, frame);
    net.pass(secs(1));
    assert_eq!(net.hosts[1].engine.snapshot().peers[0].endpoint, Some(net.hosts[0].addr));
}

#[test]
fn messages_of_a_false_beacon_are_ignored() {
    let mut net = Net::new(37, Link::default()).with_beacon();
    net.add(open());
    net.pass(secs(1));
    let observed = net.hosts[0].engine.snapshot().observed;
    assert_eq!(observed, Some(net.hosts[0].addr));
    let to = net.hosts[0].addr;
    let before = net.hosts[0].sent;
    net.inject(stranger(), to, vec![2, 4, 9, 9, 9, 9, 1, 1]);
    net.inject(stranger(), to, vec![4, 4, 9, 9, 9, 9, 1, 1]);
    net.pass(secs(1));
    assert_eq!(net.hosts[0].engine.snapshot().observed, observed);
    assert_eq!(net.hosts[0].sent, before);
    net.inject(beacon_addr(), to, vec![4, 4, 9, 9, 9, 9, 1, 1]);
    net.inject(beacon_addr(), to, vec![4, 4, 10, 9, 9, 9, 1, 1]);
    net.pass(secs(1));
    assert_eq!(net.hosts[0].sent, before + 3, "three punches to the public address, none to the private one");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Anything at all, also as a message of the beacon.
    #[test]
    fn arbitrary_datagrams_never_panic(
        datagrams in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..40),
        kinds in proptest::collection::vec(0_usize..12, 40),
    ) {
        let mut engine = Engine::new(open(), [1; 32], Instant::ZERO);
        engine.set_identity(Arc::new(Identity::generate([1; 32])));
        engine.set_node(1, false, &[]);
        engine.set_beacon(Some(beacon_addr()));
        let heads: [&[u8]; 12] =
            [b"", b"PILS", b"PILA", b"PILK", b"PILT", b"PILP", b"PILF", &[2], &[4], &[6], &[9], &[10]];
        for (datagram, kind) in datagrams.into_iter().zip(kinds) {
            let mut bytes = heads[kind].to_vec();
            bytes.extend_from_slice(&datagram);
            let from = if kind > 6 { beacon_addr() } else { stranger() };
            engine.handle_datagram(Instant::ZERO, from, &mut bytes);
        }
    }

    /// Real traffic with bytes changed, cut off and repeated does not disturb the stream it belongs to.
    #[test]
    fn mutated_traffic_does_no_harm(seed in any::<u64>()) {
        let mut net = Net::pair(seed, Link::default(), &open());
        net.tap = Some(Vec::new());
        let (a, b) = net.connect(0, 1);
        let data = pattern(100_000, seed);
        net.hosts[0].send(a, data.clone(), true);
        let started = net.now;
        while !net.hosts[1].stream(b).finished {
            let tape = net.tap.take().unwrap();
            net.tap = Some(Vec::new());
            for (from, to, mut bytes) in tape.into_iter().take(50) {
                let at = usize::try_from(net.dice.roll(bytes.len() as u64)).unwrap();
                let how = net.dice.roll(4);
                match how {
                    0 => bytes.truncate(at),
                    1 => bytes[at] ^= 1 << net.dice.roll(8),
                    2 => bytes.extend_from_slice(&[0; 7]),
                    _ => {}
                }
                // An unchanged copy that is faster than the original moves the endpoint, as any roaming peer does.
                let spoofed = how == 3 || net.dice.roll(2) == 0;
                let host = usize::from(to == net.hosts[1].addr);
                let now = net.now;
                net.hosts[host].engine.handle_datagram(now, if spoofed { from } else { stranger() }, &mut bytes);
            }
            net.pass(ms(20));
            prop_assert!(net.now.since(started) < secs(60));
        }
        prop_assert!(net.hosts[1].stream(b).data == data);
    }
}
