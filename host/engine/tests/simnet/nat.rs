//! Every pair of NATs, and what else happens to a way: beacons that start anew, routers that forget, processes that stop,
//! clocks that jump, paths that shrink.

use pilot_engine::{CloseReason, Config};

use crate::net::{Link, Nat, NatKind, Net, PORT, beacon_addr, ms, pattern, secs};

use NatKind::{FullCone, PortRestricted, Restricted, Symmetric};

const KINDS: [Option<NatKind>; 5] =
    [None, Some(FullCone), Some(Restricted), Some(PortRestricted), Some(Symmetric)];

fn world(kinds: [Option<NatKind>; 2]) -> Net {
    let mut net = Net::new(41, Link::default()).with_beacon();
    for (i, kind) in kinds.into_iter().enumerate() {
        let host = net.add(Config { admit_all: true, ..Config::default() });
        net.hosts[host].nat = kind.map(|kind| Nat::new(kind, &format!("203.0.113.{}", i + 1)));
    }
    net.hosts[1].engine.bind(PORT).unwrap();
    net.pass(secs(1));
    net
}

fn is_relayed(net: &Net, host: usize) -> bool {
    net.hosts[host].engine.snapshot().peers[0].relay
}

fn is_direct(net: &Net) -> bool {
    !is_relayed(net, 0) && !is_relayed(net, 1)
}

/// A hole can be punched unless both ends would have to know a port of the other that nobody has seen.
fn theory_allows_direct(a: Option<NatKind>, b: Option<NatKind>) -> bool {
    let narrow = |k| matches!(k, Some(PortRestricted | Symmetric));
    let unforeseeable = |k| k == Some(Symmetric);
    !(unforeseeable(a) && narrow(b) || unforeseeable(b) && narrow(a))
}

/// Bytes pass in both directions within a few seconds.
fn prove(net: &mut Net, (a, b): (pilot_engine::ConnId, pilot_engine::ConnId), seed: u64) {
    let before = (
        net.hosts[0].streams.get(&a).map_or(0, |s| s.data.len()),
        net.hosts[1].streams.get(&b).map_or(0, |s| s.data.len()),
    );
    net.hosts[0].send(a, pattern(40_000, seed), false);
    net.hosts[1].send(b, pattern(40_000, seed), false);
    net.run(secs(30), |n| {
        n.hosts[1].stream(b).data.len() == before.1 + 40_000
            && n.hosts[0].streams.get(&a).is_some_and(|s| s.data.len() == before.0 + 40_000)
    });
}

#[test]
fn every_pair_of_nats_is_direct_where_theory_allows_and_relayed_elsewhere() {
    for a in KINDS {
        for b in KINDS {
            println!("{a:?} to {b:?}");
            let mut net = world([a, b]);
            let ends = net.connect(0, 1);
            prove(&mut net, ends, 1);
            if theory_allows_direct(a, b) {
                let took = net.run(secs(20), is_direct);
                assert!(took <= secs(20), "{a:?} to {b:?}");
                net.tap = Some(Vec::new());
                prove(&mut net, ends, 2);
                let through = net
                    .tap
                    .take()
                    .unwrap()
                    .iter()
                    .filter(|(_, to, d)| *to == beacon_addr() && d.len() > 200)
                    .count();
                assert_eq!(through, 0, "{a:?} to {b:?}: data still goes through the beacon");
            } else {
                net.pass(secs(60));
                assert!(is_relayed(&net, 0) && is_relayed(&net, 1), "{a:?} to {b:?}");
                prove(&mut net, ends, 2);
            }
        }
    }
}

#[test]
fn a_relayed_pair_goes_straight_within_20_s_of_the_moment_it_can() {
    for better in [None, Some(FullCone), Some(Restricted)] {
        let mut net = world([Some(Symmetric), Some(Symmetric)]);
        let ends = net.connect(0, 1);
        net.pass(secs(47));
        assert!(is_relayed(&net, 0) && is_relayed(&net, 1));
        // Another router; the host notices with its next question to the beacon, which comes at once here.
        net.hosts[1].nat = better.map(|kind| Nat::new(kind, "203.0.113.2"));
        let now = net.now;
        net.hosts[1].engine.discover(now);
        let took = net.run(secs(25), is_direct);
        assert!(took <= secs(20), "{better:?}: {took:?}");
        prove(&mut net, ends, 3);
    }
}

#[test]
fn a_beacon_that_is_killed_and_restarted_costs_no_stream() {
    for outage in [2, 10, 18] {
        let mut net = world([Some(Symmetric), Some(Symmetric)]);
        let ends = net.connect(0, 1);
        prove(&mut net, ends, 1);
        let (one, two) = (pattern(600_000, 5), ends);
        let before = net.hosts[1].stream(ends.1).data.len();
        net.hosts[0].send(ends.0, one.clone(), false);
        net.pass(ms(30));
        net.beacon_up = false;
        net.pass(secs(outage));
        net.restart_beacon();
        let took = net.run(secs(40), |n| n.hosts[1].stream(two.1).data.len() == before + one.len());
        assert!(net.hosts[1].stream(two.1).data[before..] == one, "{outage} s");
        assert!(took < secs(20), "{outage} s without a beacon, then {took:?}");
        prove(&mut net, ends, 6);
    }
    // A direct pair does not even notice.
    let mut net = world([Some(Restricted), Some(Restricted)]);
    let ends = net.connect(0, 1);
    net.run(secs(20), is_direct);
    net.beacon_up = false;
    net.pass(secs(60));
    prove(&mut net, ends, 1);
    assert!(net.hosts[0].topics().contains(&"tunnel.inbound_dead"));
    net.restart_beacon();
    net.run(secs(6), |n| n.hosts[0].topics().contains(&"tunnel.inbound_recovered"));
}

#[test]
fn a_router_that_forgets_its_mappings_is_noticed_and_everything_found_again() {
    for kind in [FullCone, Restricted, PortRestricted, Symmetric] {
        let mut net = world([Some(kind), None]);
        let ends = net.connect(0, 1);
        net.run(secs(20), is_direct);
        prove(&mut net, ends, 1);
        net.hosts[0].nat.as_mut().unwrap().reboot();
        // Nothing of the host's own makes it send; the peer speaks into the void.
        net.hosts[1].send(ends.1, pattern(40_000, 8), false);
        let before = net.hosts[0].stream(ends.0).data.len();
        let took = net.run(secs(30), |n| n.hosts[0].stream(ends.0).data.len() == before + 40_000);
        assert!(took <= secs(27), "{kind:?}: {took:?}");
        let observed = net.hosts[0].engine.snapshot().observed;
        assert!(observed.is_some_and(|o| o.ip() == net.hosts[0].nat.as_ref().unwrap().ip));
    }
}

#[test]
fn an_address_that_changes_is_told_to_every_peer_at_once() {
    let mut net = world([Some(FullCone), None]);
    let ends = net.connect(0, 1);
    prove(&mut net, ends, 1);
    net.hosts[0].nat = Some(Nat::new(FullCone, "203.0.113.77"));
    let now = net.now;
    net.hosts[0].engine.discover(now);
    let moved = |n: &Net| {
        let peer = n.hosts[1].engine.snapshot().peers[0].endpoint;
        peer.is_some_and(|e| e.ip() == n.hosts[0].nat.as_ref().unwrap().ip)
    };
    let took = net.run(secs(5), moved);
    assert!(took <= ms(100), "{took:?}");
    prove(&mut net, ends, 2);
}

#[test]
fn a_process_that_was_stopped_goes_on_or_says_why_not() {
    for (stopped, seconds) in [(0, 5), (1, 5), (0, 90), (1, 90)] {
        let mut net = Net::pair(43, Link::default(), &Config { admit_all: true, ..Config::default() });
        let (a, b) = net.connect(0, 1);
        let data = pattern(30_000_000, 1);
        net.hosts[0].send(a, data.clone(), true);
        net.run(secs(10), |n| n.hosts[1].stream(b).data.len() > 1_000_000);
        net.hosts[stopped].frozen = true;
        net.pass(secs(seconds));
        net.thaw(stopped);
        // The tunnel carries something new within five seconds.
        let thawed = net.now;
        net.hosts[0].connected.clear();
        let accepted = net.hosts[1].accepted.len();
        let again = net.dial(0, 1);
        net.run(secs(5), |n| n.hosts[0].connected.contains(&again) && n.hosts[1].accepted.len() > accepted);
        assert!(net.now.since(thawed) < secs(5));
        // The old stream ends well or with a reason on both sides.
        net.run(secs(150), |n| {
            let ended = |h: usize, c| n.hosts[h].streams.get(&c).is_some_and(|s| s.closed.is_some());
            n.hosts[1].stream(b).finished || (ended(1, b) && (ended(0, a) || stopped == 0))
        });
        let receiver = net.hosts[1].stream(b);
        match seconds {
            5 => assert!(
                receiver.finished && receiver.data == data,
                "stopped {stopped}: {:?}",
                receiver.closed
            ),
            _ => {
                assert!(data.starts_with(&receiver.data), "stopped {stopped}");
                let clear = [
                    CloseReason::Finished,
                    CloseReason::Reset,
                    CloseReason::DeadPeer,
                    CloseReason::Unacknowledged,
                ];
                assert!(receiver.closed.is_some_and(|why| clear.contains(&why)), "{:?}", receiver.closed);
            }
        }
    }
}

#[test]
fn a_clock_that_jumps_ahead_ends_nothing_that_is_alive() {
    let mut net = Net::pair(44, Link::default(), &Config { admit_all: true, ..Config::default() });
    let ends = net.connect(0, 1);
    for (i, jump) in [1, 30, 45].into_iter().enumerate() {
        net.hosts[0].frozen = true;
        net.hosts[1].frozen = true;
        net.pass(secs(jump));
        net.thaw(0);
        net.thaw(1);
        prove(&mut net, ends, i as u64);
    }
    // A clock that does not move, or is read late, is harmless as well.
    let (now, late) = (net.now, pilot_engine::time::Instant::from_nanos(5));
    net.hosts[0].engine.handle_timeout(late);
    net.hosts[0].engine.handle_timeout(now);
    net.hosts[0].engine.handle_datagram(late, beacon_addr(), &mut [1, 2, 3]);
    prove(&mut net, ends, 9);
}

#[test]
fn a_path_that_shrinks_to_the_least_any_network_carries_is_still_used() {
    let mut net = world([None, None]);
    let ends = net.connect(0, 1);
    net.hosts[0].send(ends.0, pattern(3_000_000, 1), false);
    net.run(secs(10), |n| n.hosts[1].stream(ends.1).data.len() > 500_000);
    net.mtu = 1232; // IPv6's minimum less its headers
    net.run(secs(10), |n| n.hosts[1].stream(ends.1).data.len() == 3_000_000);
    // And through the beacon.
    let mut net = world([Some(Symmetric), Some(Symmetric)]);
    net.mtu = 1232;
    let ends = net.connect(0, 1);
    prove(&mut net, ends, 2);
}
