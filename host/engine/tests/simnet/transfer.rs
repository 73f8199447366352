//! Bytes arrive complete, in order and once, whatever the link does.

use pilot_engine::config::Peers;
use pilot_engine::{Config, Verdict};
use pilot_wire::addr::Addr;

use crate::net::{Link, Net, PORT, ms, pattern, secs};

/// One stream each way, then clean ends.
fn exchange(seed: u64, link: Link, len: usize) -> Net {
    let mut net = Net::pair(seed, link, &Config { admit_all: seed.is_multiple_of(2), ..Config::default() });
    let (a, b) = net.connect(0, 1);
    let (there, back) = (pattern(len, seed), pattern(len / 3, seed + 1));
    net.hosts[0].send(a, there.clone(), false);
    net.hosts[1].send(b, back.clone(), false);
    net.run(secs(900), |n| {
        n.hosts[1].stream(b).data.len() >= there.len()
            && n.hosts[0].streams.get(&a).is_some_and(|s| s.data.len() >= back.len())
    });
    net.hosts[0].engine.close(net.now, a);
    net.run(secs(60), |n| n.hosts[1].stream(b).finished);
    assert!(net.hosts[1].stream(b).data == there, "seed {seed}, {link:?}");
    assert!(net.hosts[0].stream(a).data == back, "seed {seed}, {link:?}");
    net.hosts[1].engine.close(net.now, b);
    net
}

#[test]
fn every_byte_arrives_in_order_and_once() {
    for seed in 0..20_u64 {
        for loss in [0, 10, 50, 200] {
            for latency in [1, 50, 200] {
                let link = Link {
                    loss,
                    repeat: if seed.is_multiple_of(3) { 20 } else { 0 },
                    latency: ms(latency),
                    jitter: if seed.is_multiple_of(2) { ms(latency / 4) } else { ms(0) },
                    rate: None,
                };
                exchange(seed, link, 60_000 + 997 * usize::try_from(seed).unwrap());
            }
        }
    }
}

#[test]
fn a_long_clean_path_is_filled_quickly() {
    let link = Link { latency: ms(50), ..Link::default() };
    let mut net = Net::pair(1, link, &Config { admit_all: true, ..Config::default() });
    let (a, b) = net.connect(0, 1);
    let data = pattern(20_000_000, 1);
    net.hosts[0].send(a, data.clone(), true);
    let took = net.run(secs(60), |n| n.hosts[1].stream(b).finished);
    assert!(net.hosts[1].stream(b).data == data);
    // 100 ms round trips: slow start takes about 7, then 4 MiB windows.
    assert!(took < secs(2), "{took:?}");
}

#[test]
fn a_narrow_link_is_used_well_without_a_collapse() {
    // 10 Mbit/s, 40 ms round trip, one bandwidth-delay product of buffer.
    let link = Link { latency: ms(20), rate: Some((1_250_000, 50_000)), ..Link::default() };
    let mut net = Net::pair(1, link, &Config { admit_all: true, ..Config::default() });
    let (a, b) = net.connect(0, 1);
    let data = pattern(12_500_000, 1);
    net.hosts[0].send(a, data.clone(), true);
    let took = net.run(secs(60), |n| n.hosts[1].stream(b).finished);
    assert!(net.hosts[1].stream(b).data == data);
    assert!(took < secs(13), "10 s at full rate, took {took:?}");
}

#[test]
fn many_streams_share_one_tunnel() {
    let link = Link { loss: 20, latency: ms(5), jitter: ms(2), ..Link::default() };
    let config = Config { admit_all: true, syn_rate: 1000, syn_rate_per_peer: 1000, ..Config::default() };
    let mut net = Net::pair(7, link, &config);
    let conns: Vec<_> = (0..40).map(|_| net.dial(0, 1)).collect();
    net.run(secs(60), |n| {
        n.hosts[0].connected.len() == conns.len() && n.hosts[1].accepted.len() == conns.len()
    });
    for (i, conn) in conns.iter().enumerate() {
        net.hosts[0].send(*conn, pattern(20_000, i as u64), true);
    }
    net.run(secs(120), |n| n.hosts[1].streams.values().all(|s| s.finished));
    let mut got: Vec<_> = net.hosts[1].streams.values().map(|s| s.data.clone()).collect();
    let mut sent: Vec<_> = (0..conns.len()).map(|i| pattern(20_000, i as u64)).collect();
    got.sort();
    sent.sort();
    assert!(got == sent);
    net.pass(secs(60));
    assert_eq!(net.hosts[0].engine.snapshot().conns.len(), 0, "nothing of a closed stream stays");
}

#[test]
fn a_peer_opens_ten_streams_a_second_unless_it_is_exempt() {
    let took = |syn_exempt| {
        let config = Config { admit_all: true, syn_exempt, ..Config::default() };
        let mut net = Net::pair(8, Link { latency: ms(5), ..Link::default() }, &config);
        for _ in 0..40 {
            net.dial(0, 1);
        }
        net.run(secs(60), |n| n.hosts[1].accepted.len() == 40)
    };
    assert!(took(Peers::All) < secs(1));
    assert!(took(Peers::default()) > secs(2));
}

#[test]
fn without_echo_its_port_is_like_any_other() {
    let on = Config { admit_all: true, ..Config::default() };
    let off = Config { echo: false, ..on.clone() };
    let mut net = Net::pair(9, Link { latency: ms(5), ..Link::default() }, &off);
    let to = Addr::backbone(2);
    let now = net.now;
    net.hosts[0].engine.dial(now, to, 7).unwrap();
    net.run(secs(10), |n| n.hosts[0].failed.iter().any(|(_, why)| why == "connection refused"));
    assert!(net.hosts[1].engine.bind(7).is_ok(), "nobody has it");
    let mut net = Net::pair(9, Link { latency: ms(5), ..Link::default() }, &on);
    assert!(net.hosts[1].engine.bind(7).is_err(), "the engine has it");
}

#[test]
fn a_slow_reader_stops_the_sender_and_lets_it_go_on() {
    let config = Config { admit_all: true, recv_buffer: 50_000, ..Config::default() };
    let mut net = Net::pair(3, Link { latency: ms(5), ..Link::default() }, &config);
    let (a, b) = net.connect(0, 1);
    net.hosts[1].reads = false;
    let data = pattern(400_000, 3);
    net.hosts[0].send(a, data.clone(), true);
    net.pass(secs(20));
    let row = &net.hosts[0].engine.snapshot().conns[0];
    assert_eq!(row.peer_recv_win, 0);
    assert!(row.bytes_sent < 110_000, "{row:?}");
    net.hosts[1].reads = true;
    // Nothing wakes the reader but the application itself.
    let now = net.now;
    read_all(&mut net, 1, b);
    let took = net.run(secs(60), |n| n.hosts[1].stream(b).finished);
    assert!(net.hosts[1].stream(b).data == data);
    assert!(took < secs(2), "the window update came at once, not with a probe: {took:?} from {now:?}");
}

fn read_all(net: &mut Net, host: usize, conn: pilot_engine::ConnId) {
    while let Ok(pilot_engine::Read::Data(data)) = net.hosts[host].engine.read(net.now, conn, 65_536) {
        net.hosts[host].streams.get_mut(&conn).unwrap().data.extend_from_slice(&data);
    }
}

#[test]
fn data_that_looks_like_a_sack_passes() {
    let mut net = Net::pair(5, Link { loss: 50, ..Link::default() }, &Config::default());
    let (a, b) = net.connect(0, 1);
    let mut data = Vec::new();
    for i in 0..300_u32 {
        data.extend_from_slice(b"SACK\x02");
        data.extend_from_slice(&i.to_be_bytes());
        data.extend_from_slice(&[0; 12]);
    }
    net.hosts[0].send(a, data.clone(), true);
    net.run(secs(120), |n| n.hosts[1].stream(b).finished);
    assert!(net.hosts[1].stream(b).data == data);
}

#[test]
fn echo_writes_back_and_stamps_traces() {
    let mut net = Net::pair(5, Link::default(), &Config { admit_all: true, ..Config::default() });
    let now = net.now;
    net.hosts[1].engine.set_wall_clock(now, 1_700_000_000_000_000_000);
    let addr = Addr::backbone(net.hosts[1].node);
    let conn = net.hosts[0].engine.dial(now, addr, 7).unwrap();
    net.run(secs(10), |n| n.hosts[0].connected.contains(&conn));
    net.hosts[0].send(conn, &b"TRCE12345678 and more"[..], false);
    net.run(secs(10), |n| n.hosts[0].streams.get(&conn).is_some_and(|s| s.data.len() >= 20));
    let answer = net.hosts[0].stream(conn).data.clone();
    assert_eq!((answer.len(), &answer[..12]), (20, &b"TRCE12345678"[..]));
    let stamp = u64::from_be_bytes(answer[12..].try_into().unwrap());
    assert!((1_700_000_000_000_000_000..1_700_000_010_000_000_000).contains(&stamp));
    let data = pattern(500_000, 9);
    net.hosts[0].send(conn, data.clone(), false);
    net.run(secs(60), |n| n.hosts[0].stream(conn).data.len() >= 20 + data.len());
    assert!(net.hosts[0].stream(conn).data[20..] == data);
}

#[test]
fn datagrams_and_pings_pass_the_gates() {
    let mut net = Net::pair(5, Link::default(), &Config::default());
    let (now, to) = (net.now, Addr::backbone(2));
    net.hosts[0].engine.send_datagram(now, to, 99, b"one").unwrap();
    net.hosts[0].engine.send_datagram(now, to, 99, b"").unwrap();
    net.hosts[0].engine.ping(now, to, b"").unwrap();
    net.hosts[0].engine.ping(now, to, b"payload").unwrap();
    net.run(secs(10), |n| n.hosts[1].datagrams.len() == 1 && n.hosts[0].pongs == 2);
    assert_eq!(net.hosts[1].datagrams[0].2, "one");
    assert!(net.hosts[1].topics().contains(&"data.datagram"));
    net.hosts[1].verdict = Verdict::Untrusted;
    let now = net.now;
    net.hosts[0].engine.send_datagram(now, to, 99, b"two").unwrap();
    net.hosts[0].engine.ping(now, to, b"x").unwrap();
    net.run(secs(10), |n| n.hosts[0].pongs == 3);
    net.pass(secs(1));
    assert_eq!(net.hosts[1].datagrams.len(), 1);
    assert!(net.hosts[1].topics().contains(&"datagram.rejected"));
    assert_eq!(net.hosts[0].engine.bind(PORT), Ok(()));
}
