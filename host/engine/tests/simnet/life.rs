//! The lives of streams: how they begin, who is let in, how they end, and what remains.

use pilot_engine::stream::State;
use pilot_engine::{CloseReason, Config, DialError, Query, Verdict};
use pilot_wire::addr::Addr;

use crate::net::{Link, Net, PORT, ms, pattern, secs};

fn open() -> Config {
    Config { admit_all: true, ..Config::default() }
}

fn pair(config: &Config) -> Net {
    Net::pair(11, Link::default(), config)
}

fn error(net: &Net, host: usize) -> &str {
    &net.hosts[host].failed.last().unwrap().1
}

#[test]
fn nobody_listens() {
    let mut net = pair(&open());
    let now = net.now;
    net.hosts[0].engine.dial(now, Addr::backbone(2), 4444).unwrap();
    net.run(secs(5), |n| !n.hosts[0].failed.is_empty());
    assert_eq!(error(&net, 0), "connection refused");
    net.pass(secs(1));
    assert!(net.hosts[0].engine.snapshot().conns.is_empty());
}

#[test]
fn some_dials_fail_at_once() {
    let mut net = pair(&open());
    let now = net.now;
    let engine = &mut net.hosts[0].engine;
    assert_eq!(engine.dial(now, Addr::backbone(1), PORT), Err(DialError::ToSelf));
    assert_eq!(engine.dial(now, Addr::broadcast(3), PORT), Err(DialError::Broadcast));
    engine.set_node(0, false, &[]);
    assert_eq!(engine.dial(now, Addr::backbone(2), PORT), Err(DialError::NotRegistered));
}

#[test]
fn a_node_the_registry_does_not_know() {
    let mut net = pair(&open());
    let now = net.now;
    net.hosts[0].engine.dial(now, Addr::backbone(99), PORT).unwrap();
    net.run(secs(1), |n| !n.hosts[0].failed.is_empty());
    assert_eq!(error(&net, 0), "node not found");
}

#[test]
fn a_silent_node_costs_six_key_exchanges_and_then_says_so() {
    let mut net = pair(&open());
    net.hosts[1].cut_off = true;
    net.dial(0, 1);
    let took = net.run(secs(40), |n| !n.hosts[0].failed.is_empty());
    assert_eq!(error(&net, 0), "dial timeout: key exchange with peer did not complete");
    assert_eq!(took.as_secs(), 24);
    assert_eq!(net.hosts[0].kinds[&b'A'], 6);
    assert_eq!(net.hosts[0].kinds[&b'K'], 5, "a key request with every repeat");
    assert!(net.hosts[0].topics().contains(&"tunnel.rekey_gave_up"));
    let now = net.now;
    let refused = net.hosts[0].engine.send_datagram(now, Addr::backbone(2), 1, b"x");
    assert!(refused.unwrap_err().to_string().starts_with("pending queue full: newest packet dropped"));
}

#[test]
fn a_node_that_stops_answering_times_out_after_eight_syns() {
    let mut net = pair(&open());
    net.connect(0, 1);
    net.hosts[1].cut_off = true;
    net.dial(0, 1);
    let took = net.run(secs(40), |n| !n.hosts[0].failed.is_empty());
    assert_eq!(error(&net, 0), "dial timeout");
    assert_eq!(took.as_millis(), 17_250);
}

#[test]
fn an_untrusted_peer_hears_nothing() {
    let mut net = pair(&Config::default());
    net.hosts[1].verdict = Verdict::Untrusted;
    let now = net.now;
    net.hosts[0].engine.ping(now, Addr::backbone(2), b"").unwrap();
    net.run(secs(5), |n| n.hosts[0].pongs == 1);
    net.pass(secs(1));
    let before = net.hosts[1].sent;
    net.dial(0, 1);
    net.pass(secs(10));
    assert_eq!(net.hosts[1].sent, before, "not even a reset");
    net.run(secs(10), |n| !n.hosts[0].failed.is_empty());
    assert_eq!(error(&net, 0), "dial timeout");
    assert!(net.hosts[1].topics().contains(&"syn.rejected"));
    assert!(net.hosts[1].accepted.is_empty());
    net.hosts[1].verdict = Verdict::PortDenied;
    net.dial(0, 1);
    net.pass(secs(1));
    assert!(net.hosts[1].topics().contains(&"syn.port_rejected"));
}

#[test]
fn a_decision_that_never_comes_is_a_lost_syn() {
    let mut net = pair(&Config::default());
    let now = net.now;
    net.hosts[0].engine.ping(now, Addr::backbone(2), b"").unwrap();
    net.run(secs(5), |n| n.hosts[0].pongs == 1);
    // A host that does not poll its questions.
    let config = Config { max_queries: 0, ..Config::default() };
    let mut deaf = Net::pair(11, Link::default(), &config);
    deaf.dial(0, 1);
    deaf.run(secs(60), |n| !n.hosts[0].failed.is_empty());
    assert!(deaf.hosts[1].accepted.is_empty());
}

#[test]
fn the_question_says_whether_we_turned_to_the_peer_first() {
    let mut net = pair(&Config::default());
    net.connect(0, 1);
    net.hosts[0].engine.bind(444).unwrap();
    net.hosts[0].engine.bind(80).unwrap();
    for port in [444, 80] {
        let now = net.now;
        net.hosts[1].engine.dial(now, Addr::backbone(1), port).unwrap();
    }
    net.run(secs(5), |n| n.hosts[1].connected.len() == 2);
    let windows: Vec<(u16, bool)> = net.hosts[0]
        .asked
        .iter()
        .filter_map(|q| match q {
            Query::AdmitSyn { dst_port, reply_window, .. } => Some((*dst_port, *reply_window)),
            _ => None,
        })
        .collect();
    assert_eq!(windows, [(444, true), (80, false)]);
    net.pass(secs(301));
    let now = net.now;
    net.hosts[1].engine.dial(now, Addr::backbone(1), 444).unwrap();
    net.run(secs(5), |n| n.hosts[1].connected.len() == 3);
    assert!(matches!(net.hosts[0].asked.last(), Some(Query::AdmitSyn { reply_window: false, .. })));
}

#[test]
fn a_full_accept_queue_resets() {
    let mut net = pair(&Config { accept_queue: 2, ..open() });
    net.hosts[1].accepts = false;
    for _ in 0..3 {
        net.dial(0, 1);
    }
    net.run(secs(5), |n| n.hosts[0].connected.len() == 2 && n.hosts[0].failed.len() == 1);
    assert_eq!(error(&net, 0), "connection refused");
    assert!(net.hosts[1].topics().contains(&"conn.accept_queue_full"));
    assert_eq!(net.hosts[1].engine.snapshot().accept_queue_drops, 1);
    net.hosts[1].engine.unbind(PORT);
    net.run(secs(5), |n| {
        n.hosts[0].streams.values().filter(|s| s.closed == Some(CloseReason::Reset)).count() == 2
    });
}

#[test]
fn ten_streams_a_second_from_one_peer() {
    let mut net = pair(&open());
    for _ in 0..15 {
        net.dial(0, 1);
    }
    net.pass(ms(200));
    assert_eq!(net.hosts[1].accepted.len(), 10);
    net.run(secs(5), |n| n.hosts[1].accepted.len() == 15);
}

#[test]
fn a_close_is_a_clean_end_for_the_peer_and_nothing_remains() {
    for seed in 0..10 {
        let link = Link { loss: 100, repeat: 50, jitter: ms(9), ..Link::default() };
        let mut net = Net::pair(seed, link, &open());
        let (a, b) = net.connect(0, 1);
        let data = pattern(30_000, seed);
        net.hosts[0].send(a, data.clone(), true);
        net.run(secs(60), |n| n.hosts[1].stream(b).finished);
        assert!(net.hosts[1].stream(b).data == data);
        assert_eq!(net.hosts[1].stream(b).closed, Some(CloseReason::Finished));
        assert!(!net.hosts[0].streams.contains_key(&a), "no events after close");
        let now = net.now;
        net.hosts[1].engine.close(now, b);
        net.run(secs(60), |n| n.hosts.iter().all(|h| h.engine.snapshot().conns.is_empty()));
    }
}

#[test]
fn both_may_close_at_once() {
    let mut net = pair(&open());
    let (a, b) = net.connect(0, 1);
    let now = net.now;
    net.hosts[0].engine.close(now, a);
    net.hosts[1].engine.close(now, b);
    net.pass(secs(1));
    let states: Vec<_> = net.hosts.iter().flat_map(|h| h.engine.snapshot().conns).map(|c| c.state).collect();
    assert_eq!(states, [State::TimeWait, State::TimeWait]);
    let before: u64 = net.hosts.iter().map(|h| h.sent).sum();
    net.pass(secs(8));
    assert_eq!(net.hosts.iter().map(|h| h.sent).sum::<u64>(), before, "no storm");
    net.pass(secs(10));
    assert!(net.hosts.iter().all(|h| h.engine.snapshot().conns.is_empty()));
}

#[test]
fn a_reset_ends_the_peer_at_once() {
    let mut net = pair(&open());
    let (a, b) = net.connect(0, 1);
    net.hosts[0].send(a, pattern(1000, 1), false);
    net.run(secs(5), |n| n.hosts[1].stream(b).data.len() == 1000);
    let now = net.now;
    net.hosts[0].engine.reset(now, a);
    net.run(secs(5), |n| n.hosts[1].stream(b).aborted.is_some());
    assert_eq!(net.hosts[1].stream(b).closed, Some(CloseReason::Reset));
    assert!(net.hosts[1].topics().contains(&"conn.rst"));
    assert!(net.hosts[0].engine.snapshot().conns.is_empty());
}

#[test]
fn a_lost_reset_is_said_again() {
    let mut net = pair(&open());
    // The first is lost, then the first repeat too.
    for outage in [100, 1000] {
        let (a, b) = net.connect(0, 1);
        net.hosts[0].cut_off = true;
        let now = net.now;
        net.hosts[0].engine.reset(now, a);
        net.pass(ms(outage));
        net.hosts[0].cut_off = false;
        assert_eq!(net.hosts[1].stream(b).closed, None);
        net.run(secs(5), |n| n.hosts[1].stream(b).closed == Some(CloseReason::Reset));
    }
    // Said no oftener than that, and nothing is kept for it.
    net.pass(secs(5));
    let before = net.hosts[0].sent;
    net.pass(secs(5));
    assert_eq!(net.hosts[0].sent, before);
    assert!(net.hosts[0].engine.snapshot().conns.is_empty());
}

#[test]
fn a_stream_that_only_one_end_holds_ends_as_soon_as_that_end_speaks() {
    let mut net = pair(&open());
    // It speaks by itself after the keepalive time at the latest, long before the idle time is over.
    for (writes, within) in [(true, secs(2)), (false, secs(31))] {
        let (a, b) = net.connect(0, 1);
        net.pass(secs(1));
        net.hosts[0].cut_off = true;
        let now = net.now;
        net.hosts[0].engine.reset(now, a);
        net.pass(secs(4));
        net.hosts[0].cut_off = false;
        assert_eq!(net.hosts[1].stream(b).closed, None, "every reset was lost");
        if writes {
            net.hosts[1].send(b, pattern(1_000_000, 3), false);
        }
        net.run(within, |n| n.hosts[1].stream(b).closed == Some(CloseReason::Reset));
    }
    net.pass(secs(5));
    assert!(net.hosts[0].engine.snapshot().conns.is_empty());
}

/// Whatever a dialler does and whenever it goes away, the peer's end follows at once; with loss, after the last repeat.
#[test]
fn of_hundreds_of_streams_that_end_anyhow_none_stays_with_the_peer() {
    for (loss, seed) in [(0, 1), (0, 2), (0, 3), (5, 4), (5, 5)] {
        let link = Link { loss, jitter: ms(3), ..Link::default() };
        let config = Config {
            time_wait: secs(1),
            max_conns_per_port: 65_535,
            syn_rate: 10_000,
            syn_rate_per_peer: 10_000,
            ..open()
        };
        let mut net = Net::pair(seed, link, &config);
        let mut held = Vec::new();
        for _ in 0..2_000 {
            let (now, engine) = (net.now, &mut net.hosts[0].engine);
            match net.dice.roll(4) {
                0 => held.push(engine.dial(now, Addr::backbone(2), 7).unwrap()),
                1 => {
                    for conn in &held {
                        // One that is not open yet takes nothing.
                        let _ = engine.write(now, *conn, vec![7; 1 + net.dice.roll(60_000) as usize].into());
                    }
                }
                _ if held.is_empty() => {}
                way => {
                    let conn = held.swap_remove(net.dice.roll(held.len() as u64) as usize);
                    if way == 2 { engine.close(now, conn) } else { engine.reset(now, conn) }
                }
            }
            let pause = net.dice.roll(15);
            net.pass(ms(pause));
        }
        let now = net.now;
        held.iter().for_each(|conn| net.hosts[0].engine.reset(now, *conn));
        net.pass(secs(if loss == 0 { 15 } else { 25 }));
        for host in &net.hosts {
            let left = host.engine.snapshot().conns;
            assert!(
                left.is_empty(),
                "node {}, loss {loss}, seed {seed}: {} left: {left:?}",
                host.node,
                left.len()
            );
        }
    }
}

#[test]
fn closed_streams_take_no_places_from_new_ones() {
    let config =
        Config { max_conns_per_port: 4, max_conns: 32, syn_rate: 1000, syn_rate_per_peer: 1000, ..open() };
    let mut net = pair(&config);
    for n in 1..=200 {
        let (a, b) = net.connect(0, 1);
        let now = net.now;
        net.hosts[n % 2].engine.close(now, [a, b][n % 2]);
        net.run(secs(5), |n| {
            n.hosts.iter().all(|h| h.engine.snapshot().conns.iter().all(|c| c.state == State::TimeWait))
        });
        let now = net.now;
        net.hosts[1 - n % 2].engine.close(now, [b, a][n % 2]);
        assert!(net.hosts.iter().all(|h| h.engine.snapshot().conns.len() <= 32), "memory stays bounded");
    }
    assert!(net.hosts.iter().any(|h| h.engine.snapshot().conns.len() == 32), "and is used");
    assert!(net.hosts[0].failed.is_empty());
    net.pass(secs(11));
    assert!(net.hosts.iter().all(|h| h.engine.snapshot().conns.is_empty()));
}

#[test]
fn a_dial_that_is_called_off_does_not_leave_half_a_stream() {
    let mut net = pair(&open());
    net.connect(0, 1);
    let second = net.dial(0, 1);
    net.pass(ms(12)); // the SYN has arrived, its answer has not
    let now = net.now;
    net.hosts[0].engine.close(now, second);
    net.run(secs(5), |n| n.hosts[1].streams.values().any(|s| s.closed == Some(CloseReason::Reset)));
    assert_eq!(net.hosts[0].connected.len(), 1);
    assert!(net.hosts[0].failed.is_empty());
}

#[test]
fn idle_streams_live_while_both_ends_do() {
    let mut net = pair(&open());
    let (a, b) = net.connect(0, 1);
    net.pass(secs(1800));
    net.hosts[0].send(a, pattern(100, 1), false);
    net.run(secs(5), |n| n.hosts[1].stream(b).data.len() == 100);
    net.hosts[0].cut_off = true;
    net.hosts[1].cut_off = true;
    net.run(secs(200), |n| n.hosts.iter().all(|h| h.streams.values().any(|s| s.closed.is_some())));
    assert_eq!(net.hosts[1].stream(b).closed, Some(CloseReason::DeadPeer));
    assert!(net.hosts[1].topics().contains(&"conn.dead_peer"));
}

#[test]
fn unacknowledged_data_ends_a_stream_sooner() {
    let mut net = pair(&open());
    let (a, _) = net.connect(0, 1);
    net.hosts[1].cut_off = true;
    net.hosts[0].send(a, pattern(100, 1), false);
    net.run(secs(60), |n| n.hosts[0].streams.get(&a).is_some_and(|s| s.closed.is_some()));
    assert_eq!(net.hosts[0].stream(a).closed, Some(CloseReason::Unacknowledged));
}

#[test]
fn status_shows_what_is_going_on() {
    let mut net = pair(&open());
    let (a, _) = net.connect(0, 1);
    net.hosts[0].send(a, pattern(50_000, 1), false);
    net.pass(secs(2));
    let s = net.hosts[0].engine.snapshot();
    assert_eq!((s.node, s.peers.len(), s.conns.len(), s.key_exchanges_pending), (1, 1, 1, 0));
    assert!(s.peers[0].encrypted && s.peers[0].authenticated && s.peers[0].enhanced && !s.peers[0].relay);
    let row = &s.conns[0];
    assert_eq!((row.state.text(), row.bytes_sent, row.in_flight), ("ESTABLISHED", 50_000, 0));
    assert_eq!(row.srtt.as_millis(), 20);
    assert_eq!((row.local_addr.to_string().as_str(), row.remote_port), ("0:0000.0000.0001", PORT));
    assert!(s.encryption_success > 0 && s.encryption_failure == 0 && s.bytes_sent > 50_000);
    assert_eq!(net.hosts[1].engine.snapshot().ports, [PORT]);
}
