//! The beacon rule by rule against a made-up clock, the recorded exchange with a v1.9.0 beacon, and arbitrary datagrams.

use ed25519_dalek::{Signer, SigningKey};
use pilot_wire::beacon::relay_header;
use proptest::prelude::*;

use super::*;

struct Rig {
    beacon: Beacon,
    now: Moment,
    keys: BTreeMap<u32, [u8; 32]>,
}

type Sent = Vec<(SocketAddr, Vec<u8>)>;

fn at(port: u16) -> SocketAddr {
    // Not loopback, which has no limits.
    SocketAddr::from(([192, 0, 2, 1], port))
}

impl Rig {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut BeaconSettings)) -> Self {
        let mut settings = BeaconSettings::default();
        change(&mut settings);
        let now = Moment { elapsed: Duration::from_secs(1000), unix: 1_800_000_000 };
        Self { beacon: Beacon::new(settings), now, keys: BTreeMap::new() }
    }

    fn pass(&mut self, millis: u64) {
        self.now.elapsed += Duration::from_millis(millis);
    }

    fn raw(&mut self, from: SocketAddr, datagram: &[u8]) -> Sent {
        let mut sent = Vec::new();
        let keys = &self.keys;
        self.beacon.handle_datagram(
            self.now,
            from,
            &mut datagram.to_vec(),
            |node| keys.get(&node).copied(),
            &mut |to, bytes| sent.push((to, bytes.to_vec())),
        );
        sent
    }

    fn send(&mut self, from: SocketAddr, message: Message<'_>) -> Sent {
        let mut datagram = Vec::new();
        message.encode(&mut datagram);
        self.raw(from, &datagram)
    }

    fn discover(&mut self, port: u16, node: u32) -> Sent {
        self.send(at(port), Message::Discover { node, key: None })
    }

    fn relay(&mut self, port: u16, dest: u32, frame: &[u8]) -> Sent {
        self.send(at(port), Message::Relay { sender: 77, dest, frame })
    }

    fn punch(&mut self, from: SocketAddr, requester: u32, target: u32) -> Sent {
        self.send(from, Message::PunchRequest { requester, target, grant: None })
    }

    fn timeout(&mut self) -> Sent {
        let mut sent = Vec::new();
        self.beacon.handle_timeout(self.now, &mut |to, bytes| sent.push((to, bytes.to_vec())));
        sent
    }

    fn notify(&mut self, node: u32) -> Sent {
        let mut sent = Vec::new();
        self.beacon.notify(self.now, node, &mut |to, bytes| sent.push((to, bytes.to_vec())));
        sent
    }
}

fn reply(port: u16) -> Vec<u8> {
    let mut out = Vec::new();
    Message::DiscoverReply { observed: at(port) }.encode(&mut out);
    out
}

fn command(peer: SocketAddr) -> Vec<u8> {
    let mut out = Vec::new();
    Message::PunchCommand { peer }.encode(&mut out);
    out
}

fn delivery(frame: &[u8]) -> Vec<u8> {
    [&relay_deliver_header(77)[..], frame].concat()
}

#[test]
fn recorded_exchange_vectors() {
    // Kept across entries: each one builds on those before.
    let mut rig = Rig::new();
    pilot_vectors::run("pilot-rendezvous", &["beacon"], |_, entry| {
        // Entries without a sender are layouts; the wire crate has them.
        let Some(sender) = entry.fields.get("sender").and_then(serde_json::Value::as_u64) else { return };
        let endpoint =
            |node: u64| -> SocketAddr { entry.text(&format!("node_{node}_endpoint")).parse().unwrap() };
        rig.pass(2_000);
        if entry.kind == "discover_ex" && entry.hex(&format!("received_by_node_{sender}_hex")).is_empty() {
            // The recorded beacon did not know this type. One that does replies to it (and delivers in another form from
            // then on, so this is no step of the exchange).
            let sent = Rig::new().raw(endpoint(sender), &entry.hex("sent_hex"));
            assert_eq!(sent[0].1.first(), Some(&beacon::DISCOVER_REPLY), "{}", entry.name);
            return;
        }
        let sent = rig.raw(endpoint(sender), &entry.hex("sent_hex"));
        for node in [1, 2] {
            let got: Vec<u8> = sent
                .iter()
                .filter(|(to, _)| *to == endpoint(node))
                .flat_map(|(_, bytes)| bytes.clone())
                .collect();
            let want = entry.hex(&format!("received_by_node_{node}_hex"));
            assert_eq!(got, want, "{}: node {node}", entry.name);
        }
    });
}

#[test]
fn a_node_learns_how_it_looks() {
    let mut rig = Rig::new();
    assert_eq!(rig.discover(1, 7), [(at(1), reply(1))]);
    let v6: SocketAddr = "[2001:db8::1]:4000".parse().unwrap();
    let sent = rig.send(v6, Message::Discover { node: 8, key: None });
    assert_eq!(decode(&sent[0].1), Ok(Message::DiscoverReply { observed: v6 }));
}

#[test]
fn number_zero_is_answered_but_leads_nowhere() {
    let mut rig = Rig::new();
    assert_eq!(rig.discover(1, 0), [(at(1), reply(1))]);
    assert_eq!(rig.relay(2, 0, b"x"), []);
    assert_eq!(rig.beacon.node_count(), 0);
}

#[test]
fn frames_are_passed_on_whole() {
    let mut rig = Rig::new();
    rig.discover(1, 7);
    assert_eq!(rig.relay(2, 7, b"PILSframe"), [(at(1), delivery(b"PILSframe"))]);
    assert_eq!(rig.relay(2, 7, b""), [(at(1), delivery(b""))]);
    assert_eq!(rig.relay(2, 8, b"x"), [], "nobody there");
    let big = vec![9; 60_000];
    assert_eq!(rig.relay(2, 7, &big), [(at(1), delivery(&big))]);
    assert_eq!(rig.raw(at(2), &relay_header(77, 7)[..8]), [], "cut off");
}

#[test]
fn a_node_that_asks_gets_the_destination_too() {
    let mut rig = Rig::new();
    rig.send(at(1), Message::DiscoverEx { node: 7, key: None });
    rig.send(at(1), Message::DiscoverEx { node: 8, key: None });
    let sent = rig.relay(2, 8, b"x");
    assert_eq!(decode(&sent[0].1), Ok(Message::RelayDeliverDest { sender: 77, dest: 8, frame: b"x" }));
    rig.discover(1, 7);
    assert_eq!(rig.relay(2, 7, b"x"), [(at(1), delivery(b"x"))], "until it asks the other way");
}

#[test]
fn endpoints_move_only_now_and_then() {
    let mut rig = Rig::new();
    rig.discover(1, 7);
    rig.pass(29_999);
    assert_eq!(rig.discover(2, 7), [(at(2), reply(2))], "answered all the same");
    assert_eq!(rig.relay(3, 7, b"x")[0].0, at(1));
    rig.pass(1);
    rig.discover(2, 7);
    assert_eq!(rig.relay(3, 7, b"x")[0].0, at(2));
}

#[test]
fn two_nodes_are_introduced() {
    let mut rig = Rig::new();
    rig.discover(1, 7);
    assert_eq!(rig.punch(at(2), 8, 7), [(at(2), command(at(1))), (at(1), command(at(2)))]);
    rig.pass(1000);
    assert_eq!(rig.punch(at(3), 9, 99), [], "nobody there");
    assert_eq!(rig.relay(1, 8, b"x")[0].0, at(2), "the requester is known now");
}

#[test]
fn punch_requests_are_rationed() {
    let mut rig = Rig::new();
    let other = |n: u8| SocketAddr::from(([192, 0, 2, n], 1));
    rig.discover(1, 7);
    assert_eq!(rig.punch(other(10), 10, 7).len(), 2);
    rig.pass(99);
    assert_eq!(rig.punch(other(11), 11, 7), [], "100 ms between any two");
    rig.pass(1);
    assert_eq!(rig.punch(other(11), 11, 7).len(), 2);
    rig.pass(800);
    assert_eq!(rig.punch(other(10), 10, 7), [], "1 s for one address");
    rig.pass(200);
    assert_eq!(rig.punch(other(10), 10, 7).len(), 2);
    let local: SocketAddr = "127.0.0.1:9".parse().unwrap();
    assert_eq!(rig.punch(local, 12, 7).len(), 2, "loopback is not rationed");
}

#[test]
fn relaying_is_rationed_per_source() {
    let mut rig = Rig::with(|s| s.relay_per_second = Some(3));
    rig.discover(1, 7);
    let through = |rig: &mut Rig, port| (0..10).filter(|_| !rig.relay(port, 7, b"x").is_empty()).count();
    assert_eq!((through(&mut rig, 2), through(&mut rig, 3)), (3, 3));
    rig.pass(1000);
    assert_eq!(through(&mut rig, 2), 3);
}

#[test]
fn tables_are_bounded() {
    let mut rig = Rig::with(|s| {
        s.max_nodes = 2;
        s.max_gossip = 2;
        s.max_sources = 2;
    });
    rig.discover(1, 1);
    rig.discover(2, 2);
    assert_eq!(rig.discover(3, 3), [], "a new number finds no place and gets no reply");
    assert_eq!(rig.discover(1, 1).len(), 1);
    assert_eq!(
        (rig.relay(4, 1, b"x").len(), rig.relay(5, 1, b"x").len(), rig.relay(6, 1, b"x").len()),
        (1, 1, 0)
    );
    rig.sync(9, &[50, 51, 52]);
    assert_eq!(rig.beacon.gossip.len(), 2);
}

#[test]
fn nodes_age_out() {
    let mut rig = Rig::new();
    rig.discover(1, 7);
    rig.pass(590_000);
    rig.punch(at(2), 8, 7);
    rig.timeout();
    rig.pass(10_001);
    rig.timeout();
    assert_eq!(rig.relay(3, 7, b"x").len(), 1, "only swept once a minute");
    rig.pass(50_000);
    rig.timeout();
    assert_eq!(rig.relay(3, 7, b"x"), []);
    assert_eq!(rig.relay(3, 8, b"x").len(), 1, "asking for a punch is a sign of life");
}

impl Rig {
    fn sync(&mut self, port: u16, nodes: &[u32]) -> Sent {
        let mut datagram = Vec::new();
        encode_sync(5, nodes.iter().copied(), &mut datagram);
        self.raw(at(port), &datagram)
    }
}

#[test]
fn other_beacons_nodes_are_reached_through_them() {
    let mut rig = Rig::new();
    rig.discover(1, 7);
    assert_eq!(rig.sync(9, &[7, 50, 51]), []);
    let forwarded = [&relay_header(77, 50)[..], b"x"].concat();
    assert_eq!(rig.relay(2, 50, b"x"), [(at(9), forwarded)], "as it came");
    assert_eq!(rig.relay(2, 7, b"x")[0].0, at(1), "our own nodes come first");
    assert_eq!(rig.relay(9, 50, b"x"), [], "not back");
    rig.sync(9, &[51]);
    assert_eq!(rig.relay(2, 50, b"x"), [], "each message replaces the one before");
    rig.sync(8, &[51]);
    rig.sync(9, &[]);
    assert_eq!(rig.relay(2, 51, b"x")[0].0, at(8), "another beacon has it meanwhile");
    rig.pass(90_001);
    rig.timeout();
    assert_eq!(rig.relay(2, 51, b"x"), [], "a silent beacon is forgotten");
    assert!(rig.beacon.neighbours.is_empty() && rig.beacon.gossip.is_empty());
}

#[test]
fn a_lying_count_is_dropped() {
    let mut rig = Rig::new();
    rig.raw(at(9), &[7, 0, 0, 0, 5, 0, 2, 0, 0, 0, 50]);
    assert!(rig.beacon.gossip.is_empty());
}

#[test]
fn a_beacon_tells_its_peers_and_may_believe_only_them() {
    let mut rig = Rig::with(|s| {
        s.id = 3;
        s.peers = vec![at(9)];
        s.sync_from_peers_only = true;
    });
    rig.discover(1, 7);
    let sent = rig.timeout();
    assert_eq!(sent, [(at(9), vec![7, 0, 0, 0, 3, 0, 1, 0, 0, 0, 7])]);
    rig.pass(9_000);
    assert_eq!(rig.timeout(), []);
    rig.pass(1_000);
    assert_eq!(rig.timeout().len(), 1);
    rig.sync(8, &[50]);
    assert_eq!(rig.relay(2, 50, b"x"), []);
    rig.sync(9, &[50]);
    assert_eq!(rig.relay(2, 50, b"x").len(), 1);
}

#[test]
fn notifications_are_spaced_but_not_lost() {
    let mut rig = Rig::new();
    assert_eq!(rig.notify(7), [], "not here");
    rig.discover(1, 7);
    assert_eq!(rig.notify(7), [(at(1), vec![0x0A, 1])]);
    rig.pass(500);
    assert_eq!(rig.notify(7), []);
    assert_eq!(rig.notify(7), []);
    rig.pass(500);
    assert_eq!(rig.timeout(), []);
    rig.pass(1000);
    assert_eq!(rig.timeout(), [(at(1), vec![0x0A, 1])], "as soon as it may");
    rig.pass(10_000);
    assert_eq!(rig.timeout(), [], "once");
}

#[test]
fn grants_are_checked_when_the_operator_wants_it() {
    let target = SigningKey::from_bytes(&[9; 32]);
    let key = *target.verifying_key().as_bytes();
    let expiry = 1_800_000_000;
    let sign = |text: &str| target.sign(text.as_bytes()).to_bytes();
    let good = sign("punch-grant:8:7:1800000000");
    let mut rig = Rig::with(|s| s.punch_grants = true);
    rig.send(at(1), Message::Discover { node: 7, key: Some(&key) });
    let ask = |rig: &mut Rig, signature: &[u8; 64], expiry| {
        rig.pass(2000);
        let grant = Some(Grant { expiry, signature });
        rig.send(at(2), Message::PunchRequest { requester: 8, target: 7, grant }).len()
    };
    rig.pass(2000);
    assert_eq!(rig.punch(at(2), 8, 7), [], "none");
    assert_eq!(ask(&mut rig, &good, expiry), 2);
    assert_eq!(ask(&mut rig, &sign("punch-grant:9:7:1800000000"), expiry), 0, "another pair");
    assert_eq!(ask(&mut rig, &good, expiry + 1), 0, "another date");
    rig.keys.insert(7, [1; 32]);
    assert_eq!(ask(&mut rig, &good, expiry), 0, "the registry's key counts first");
    rig.keys.clear();
    rig.now.unix += 1;
    assert_eq!(ask(&mut rig, &good, expiry), 0, "expired");
}

proptest! {
    /// Whatever comes in: no panic, and no more goes out than came in, but for two small messages.
    #[test]
    fn arbitrary_datagrams_are_survived(
        datagrams in proptest::collection::vec((0_u16..4, proptest::collection::vec(any::<u8>(), 0..64)), 0..50)
    ) {
        let mut rig = Rig::new();
        for (port, mut datagram) in datagrams {
            if let Some(kind) = datagram.first_mut() {
                *kind %= 12;
            }
            rig.pass(700);
            let sent = rig.raw(at(port), &datagram);
            let total: usize = sent.iter().map(|(_, bytes)| bytes.len()).sum();
            prop_assert!(total <= datagram.len() + 40);
            rig.timeout();
        }
    }
}
