//! Finding a way to a peer, losing it, and finding another: relay, punching, moving addresses, restarts, silence.

use pilot_engine::{CloseReason, Config};
use pilot_wire::addr::Addr;

use crate::net::{Link, Net, ms, pattern, secs};

fn open() -> Config {
    Config { admit_all: true, ..Config::default() }
}

fn with_beacon(config: &Config) -> Net {
    let mut net = Net::new(21, Link::default()).with_beacon();
    for _ in 0..2 {
        net.add(config.clone());
    }
    net.hosts[1].engine.bind(crate::net::PORT).unwrap();
    net.pass(secs(1));
    net
}

fn is_relayed(net: &Net, host: usize) -> bool {
    net.hosts[host].engine.snapshot().peers[0].relay
}

#[test]
fn two_nodes_that_cannot_reach_each_other_use_the_beacon() {
    let mut net = with_beacon(&open());
    net.hosts[0].direct_blocked = true;
    net.hosts[1].direct_blocked = true;
    let (a, b) = net.connect(0, 1);
    assert!(is_relayed(&net, 0) && is_relayed(&net, 1));
    let data = pattern(200_000, 1);
    net.hosts[0].send(a, data.clone(), true);
    net.run(secs(60), |n| n.hosts[1].stream(b).finished);
    assert!(net.hosts[1].stream(b).data == data);
}

#[test]
fn a_relayed_pair_goes_straight_when_it_can_again() {
    let mut net = with_beacon(&open());
    net.hosts[0].direct_blocked = true;
    net.hosts[1].direct_blocked = true;
    let (a, b) = net.connect(0, 1);
    net.pass(secs(30));
    assert!(is_relayed(&net, 0));
    net.hosts[0].direct_blocked = false;
    net.hosts[1].direct_blocked = false;
    net.run(secs(60), |n| !is_relayed(n, 0) && !is_relayed(n, 1));
    net.hosts[0].send(a, pattern(1000, 1), false);
    net.run(secs(5), |n| n.hosts[1].stream(b).data.len() == 1000);
}

#[test]
fn a_way_that_breaks_under_a_stream_is_replaced_by_the_relay() {
    let mut net = with_beacon(&open());
    let (a, b) = net.connect(0, 1);
    net.hosts[0].send(a, pattern(10_000, 1), false);
    net.run(secs(5), |n| n.hosts[1].stream(b).data.len() == 10_000);
    net.hosts[0].direct_blocked = true;
    net.hosts[1].direct_blocked = true;
    let data = pattern(500_000, 2);
    net.hosts[0].send(a, data, false);
    net.run(secs(40), |n| n.hosts[1].stream(b).data.len() == 510_000);
    assert!(is_relayed(&net, 0));
    assert!(net.hosts[0].topics().contains(&"tunnel.relay_activated"));
}

#[test]
fn a_peer_that_wants_the_relay_gets_nothing_else() {
    let mut net = Net::new(21, Link::default()).with_beacon();
    net.add(open());
    net.add(Config { relay_only: true, ..open() });
    net.hosts[1].engine.bind(crate::net::PORT).unwrap();
    net.pass(secs(1));
    net.relay_only = vec![2];
    net.tap = Some(Vec::new());
    let (a, b) = net.connect(0, 1);
    net.hosts[0].send(a, pattern(50_000, 1), false);
    net.run(secs(20), |n| n.hosts[1].stream(b).data.len() == 50_000);
    net.pass(secs(60));
    let (from, to) = (net.hosts[0].addr, net.hosts[1].addr);
    assert!(!net.tap.unwrap().iter().any(|(f, t, _)| *f == from && *t == to));
}

#[test]
fn a_node_that_wants_the_relay_sends_nothing_else() {
    let mut net = Net::new(21, Link::default()).with_beacon();
    net.add(Config { relay_only: true, ..open() });
    net.add(open());
    net.hosts[1].engine.bind(crate::net::PORT).unwrap();
    net.relay_only = vec![1];
    net.tap = Some(Vec::new());
    net.pass(secs(1));
    let (a, b) = net.connect(0, 1);
    net.hosts[0].send(a, pattern(50_000, 1), false);
    net.run(secs(20), |n| n.hosts[1].stream(b).data.len() == 50_000);
    let (from, to) = (net.hosts[0].addr, net.hosts[1].addr);
    assert!(!net.tap.unwrap().iter().any(|(f, t, _)| (*f, *t) == (from, to) || (*f, *t) == (to, from)));
}

#[test]
fn a_moving_endpoint_is_followed() {
    let mut net = Net::pair(5, Link::default(), &open());
    let (a, b) = net.connect(0, 1);
    let data = pattern(2_000_000, 1);
    net.hosts[0].send(a, data.clone(), true);
    net.run(secs(5), |n| n.hosts[1].stream(b).data.len() > 100_000);
    net.hosts[0].addr = "203.0.113.9:7777".parse().unwrap();
    net.run(secs(30), |n| n.hosts[1].stream(b).finished);
    assert!(net.hosts[1].stream(b).data == data);
    assert_eq!(net.hosts[1].engine.snapshot().peers[0].endpoint, Some(net.hosts[0].addr));
}

#[test]
fn a_restarted_acceptor_is_reached_again() {
    for restarted in [0, 1] {
        let mut net = Net::pair(6, Link::default(), &open());
        let (a, _) = net.connect(0, 1);
        net.hosts[0].send(a, pattern(1000, 1), false);
        net.pass(secs(5));
        net.restart(restarted);
        let _ = net.hosts[1].engine.bind(crate::net::PORT);
        net.hosts[0].connected.clear();
        let started = net.now;
        let (a, b) = net.connect(0, 1);
        assert!(net.now.since(started) < secs(2), "restarted {restarted}: {:?}", net.now.since(started));
        net.hosts[0].send(a, pattern(3000, 2), true);
        net.run(secs(5), |n| n.hosts[1].stream(b).finished);
        assert_eq!(net.hosts[1].stream(b).data.len(), 3000);
    }
}

#[test]
fn a_peer_that_started_anew_elsewhere_is_found_by_the_next_dial() {
    for beacon in [false, true] {
        let mut net = match beacon {
            false => Net::pair(6, Link::default(), &open()),
            true => with_beacon(&open()),
        };
        net.connect(0, 1);
        net.pass(secs(5));
        net.restart(1);
        net.hosts[1].addr = "198.51.100.2:5999".parse().unwrap();
        let _ = net.hosts[1].engine.bind(crate::net::PORT);
        net.hosts[0].connected.clear();
        let started = net.now;
        let (a, b) = net.connect(0, 1);
        assert!(net.now.since(started) < secs(5), "beacon {beacon}: {:?}", net.now.since(started));
        net.hosts[0].send(a, pattern(3000, 2), true);
        net.run(secs(5), |n| n.hosts[1].stream(b).finished);
        assert_eq!(net.hosts[1].stream(b).data.len(), 3000);
    }
}

#[test]
fn streams_of_a_peers_former_life_end() {
    let mut net = Net::pair(6, Link::default(), &open());
    let (a, _) = net.connect(0, 1);
    net.pass(secs(5));
    net.restart(1);
    net.hosts[1].engine.bind(crate::net::PORT).unwrap();
    // The peer says so at the first keepalive of the stream.
    net.run(secs(40), |n| n.hosts[0].streams.get(&a).is_some_and(|s| s.closed.is_some()));
    assert_eq!(net.hosts[0].stream(a).closed, Some(CloseReason::Reset));
}

#[test]
fn a_restart_during_a_transfer_is_noticed_by_the_sender() {
    let mut net = Net::pair(6, Link::default(), &open());
    let (a, b) = net.connect(0, 1);
    net.hosts[0].send(a, pattern(50_000_000, 1), true);
    net.run(secs(5), |n| n.hosts[1].stream(b).data.len() > 1_000_000);
    net.restart(1);
    // The peer says so as soon as there is a tunnel again.
    net.run(secs(20), |n| n.hosts[0].streams.get(&a).is_some_and(|s| s.closed.is_some()));
    assert_eq!(net.hosts[0].stream(a).closed, Some(CloseReason::Reset));
}

#[test]
fn both_may_turn_to_each_other_at_once() {
    let mut net = Net::pair(8, Link::default(), &open());
    net.hosts[0].engine.bind(crate::net::PORT).unwrap();
    net.dial(0, 1);
    net.dial(1, 0);
    net.run(secs(2), |n| n.hosts.iter().all(|h| h.connected.len() == 1 && h.accepted.len() == 1));
    // A PILA each, and an answer each: nothing escalates.
    assert!(net.hosts.iter().all(|h| h.kinds[&b'A'] <= 3), "{:?}", net.hosts[0].kinds);
}

#[test]
fn used_tunnels_are_kept_open_and_unused_ones_forgotten() {
    let mut net = Net::pair(9, Link::default(), &open());
    let now = net.now;
    net.hosts[0].engine.send_datagram(now, Addr::backbone(2), 5, b"hello").unwrap();
    net.pass(secs(100));
    let kept = net.hosts[0].sent;
    assert!(kept >= 6, "a keepalive every 25 to 30 s: {kept}");
    net.pass(secs(60));
    let quiet = net.hosts[0].sent;
    net.pass(secs(60));
    assert_eq!(net.hosts[0].sent, quiet, "idle");
    assert_eq!(net.hosts[0].engine.snapshot().peers.len(), 1);
    net.pass(secs(300));
    assert!(net.hosts.iter().all(|h| h.engine.snapshot().peers.is_empty()));
    // And back.
    net.connect(0, 1);
}

#[test]
fn a_registry_outage_does_not_matter_to_those_who_know_each_other() {
    let mut net = Net::pair(10, Link::default(), &open());
    net.connect(0, 1);
    net.registry_up = false;
    net.pass(secs(90));
    net.connect(0, 1);
    net.restart(1);
    net.hosts[1].engine.bind(crate::net::PORT).unwrap();
    // The restarted node knows nobody's key and cannot ask.
    net.dial(0, 1);
    net.pass(secs(10));
    assert_eq!(net.hosts[1].accepted.len(), 0);
    net.registry_up = true;
    net.pass(secs(40));
    net.connect(0, 1);
}

#[test]
fn a_silent_peer_is_probed_and_its_path_reset() {
    let mut net = Net::pair(12, Link::default(), &open());
    let (a, b) = net.connect(0, 1);
    net.hosts[1].cut_off = true;
    net.pass(secs(100));
    assert!(!net.hosts[0].engine.snapshot().peers[0].encrypted, "session given up");
    net.hosts[1].cut_off = false;
    net.run(secs(40), |n| n.hosts[0].topics().contains(&"tunnel.path_recovered"));
    net.hosts[0].send(a, pattern(1000, 1), false);
    net.run(secs(5), |n| n.hosts[1].stream(b).data.len() == 1000);
}

#[test]
fn packets_wait_for_the_key_in_order_and_not_too_many() {
    let mut net = Net::pair(13, Link { latency: ms(100), ..Link::default() }, &open());
    let now = net.now;
    let engine = &mut net.hosts[0].engine;
    let sent: Vec<bool> =
        (0..70_u8).map(|i| engine.send_datagram(now, Addr::backbone(2), 5, &[i]).is_ok()).collect();
    assert_eq!(sent.iter().filter(|ok| **ok).count(), 64);
    net.run(secs(2), |n| n.hosts[1].datagrams.len() == 64);
    let order: Vec<u8> = net.hosts[1].datagrams.iter().map(|d| d.2[0]).collect();
    assert_eq!(order, (0..64).collect::<Vec<_>>());
}
