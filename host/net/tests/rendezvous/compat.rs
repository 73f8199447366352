//! Nodes behind a WebSocket through a whole rendezvous: registered at its registry, proved to its beacon, and in exchange
//! with UDP nodes and with each other (wss.md).

use std::time::Instant;

use pilot_net::rendezvous::CompatListen;
use tokio::net::UdpSocket as AsyncUdp;
use tokio::time::timeout;

use super::services::get;
use super::ws::{Event, Ws};
use super::*;

/// How long something may take that happens at once on a machine with time.
const PATIENCE: Duration = Duration::from_secs(30);

fn compat() -> RendezvousConfig {
    RendezvousConfig { compat: Some(CompatListen::plain(loopback())), ..config() }
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

/// A server with the registered nodes 1 to `nodes`, node n with the key of seed n.
async fn server(config: RendezvousConfig, nodes: u8) -> RendezvousServer {
    let server = RendezvousServer::bind(config).await.unwrap();
    for seed in 1..=nodes {
        assert_eq!(registered(server.registry_addr(), seed).await.node(), u32::from(seed));
    }
    server
}

async fn enter(server: &RendezvousServer, seed: u8) -> Ws {
    Ws::enter(server.compat_addr().unwrap(), seed.into(), &key(seed)).await
}

fn delivery(sender: u32, frame: &[u8]) -> Vec<u8> {
    [&beacon::relay_deliver_header(sender)[..], frame].concat()
}

async fn expect(ws: &mut Ws, want: Vec<u8>) {
    let got = timeout(PATIENCE, ws.next()).await.unwrap();
    assert_eq!(got, Event::Binary(want.into()));
}

async fn expect_close(ws: &mut Ws, code: u16, reason: &str) {
    let got = timeout(PATIENCE, ws.next()).await.unwrap();
    assert_eq!(got, Event::Closed(code, reason.into()));
    assert_eq!(timeout(PATIENCE, ws.next()).await.unwrap(), Event::Gone);
}

/// A UDP node that has announced itself as `node`.
async fn udp(server: &RendezvousServer, node: u32) -> AsyncUdp {
    let socket = AsyncUdp::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server.beacon_addr()).await.unwrap();
    let mut discover = Vec::new();
    Message::Discover { node, key: None }.encode(&mut discover);
    socket.send(&discover).await.unwrap();
    assert_eq!(receive(&socket).await.first(), Some(&beacon::DISCOVER_REPLY));
    socket
}

async fn receive(socket: &AsyncUdp) -> Vec<u8> {
    let mut buffer = vec![0; 65_535];
    let len = timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().unwrap();
    buffer.truncate(len);
    buffer
}

#[tokio::test]
async fn nodes_with_and_without_udp_reach_each_other() {
    let server = server(compat(), 3).await;
    let udp = udp(&server, 1).await;
    let (mut b, mut c) = (enter(&server, 2).await, enter(&server, 3).await);
    b.relay(2, 1, b"PILSup").await;
    assert_eq!(receive(&udp).await, delivery(2, b"PILSup"));
    let relay = [&beacon::relay_header(1, 3)[..], b"PILSdown"].concat();
    udp.send(&relay).await.unwrap();
    expect(&mut c, delivery(1, b"PILSdown")).await;
    b.relay(2, 3, b"PILSacross").await;
    expect(&mut c, delivery(2, b"PILSacross")).await;
    // In another's name, too short, empty, of no known type, a text: dropped, and the connection stays.
    b.relay(3, 1, b"forged").await;
    for message in [&[5, 0, 0, 0, 2][..], &[], &[0xEE, 1]] {
        b.send(message.to_vec()).await;
    }
    futures_util::SinkExt::send(&mut b.0, tokio_tungstenite::tungstenite::Message::text("{}")).await.unwrap();
    b.relay(2, 1, b"PILSlast").await;
    assert_eq!(receive(&udp).await, delivery(2, b"PILSlast"));
    server.shutdown().await;
    expect_close(&mut b, 1001, "beacon shutting down").await;
    expect_close(&mut c, 1001, "beacon shutting down").await;
}

#[tokio::test]
async fn other_beacons_learn_of_a_node_that_discovers() {
    let peer = AsyncUdp::bind("127.0.0.1:0").await.unwrap();
    let mut config = compat();
    config.beacon.id = 9;
    config.beacon.peers = vec![peer.local_addr().unwrap()];
    config.beacon.sync_interval = Duration::from_millis(1);
    let server = server(config, 1).await;
    let mut ws = enter(&server, 1).await;
    ws.send(vec![1, 0, 0, 0, 1]).await;
    let began = Instant::now();
    // One goes out every second; an early one may be empty.
    while receive(&peer).await != [7, 0, 0, 0, 9, 0, 1, 0, 0, 0, 1] {
        assert!(began.elapsed() < PATIENCE);
    }
    // And so a frame comes from there.
    peer.send_to(&[&beacon::relay_header(70, 1)[..], b"x"].concat(), server.beacon_addr()).await.unwrap();
    expect(&mut ws, delivery(70, b"x")).await;
    server.shutdown().await;
}

#[tokio::test]
async fn the_newer_connection_wins() {
    let server = server(compat(), 2).await;
    let (mut old, mut other) = (enter(&server, 1).await, enter(&server, 2).await);
    let mut new = enter(&server, 1).await;
    expect_close(&mut old, 1000, "replaced").await;
    // The old one's end, however late, does not touch the new one.
    drop(old);
    for round in 0..50_u8 {
        other.relay(2, 1, &[round]).await;
        expect(&mut new, delivery(2, &[round])).await;
    }
    new.relay(1, 2, b"mine").await;
    expect(&mut other, delivery(1, b"mine")).await;
    server.shutdown().await;
}

#[tokio::test]
async fn who_cannot_prove_a_registered_key_is_refused() {
    let server = server(compat(), 2).await;
    let addr = server.compat_addr().unwrap();
    for (node, seed) in [(1, 2), (77, 1), (0, 1)] {
        let mut ws = Ws::connect(addr).await.unwrap();
        assert_eq!(ws.answer(node, &key(seed)).await, Event::Closed(1008, "auth failed".into()));
    }
    enter(&server, 1).await;
    server.shutdown().await;
}

/// A beacon whose challenges are good for the second they were made in.
#[tokio::test]
async fn an_expired_challenge_is_refused() {
    let mut config = compat();
    config.compat = Some(CompatListen { challenge_max_age: 0, ..CompatListen::plain(loopback()) });
    let server = server(config, 1).await;
    let addr = server.compat_addr().unwrap();
    let began = Instant::now();

    let mut late = Ws::connect(addr).await.unwrap();
    let asked = late.challenge().await;
    // The beacon's clock is this machine's.
    while unix_now() <= asked.ts.unwrap() {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The right node, the right key, the right signature.
    assert_eq!(late.reply(&asked, 1, &key(1)).await, Event::Closed(1008, "auth failed".into()));
    assert_eq!(timeout(PATIENCE, late.next()).await.unwrap(), Event::Gone);

    // In time it is let in: at the second attempt if a second ended during the first.
    loop {
        assert!(began.elapsed() < PATIENCE);
        match Ws::connect(addr).await.unwrap().answer(1, &key(1)).await {
            Event::Text(text) => {
                assert_eq!(text, pilot_wire::compat::auth::OK);
                break;
            }
            refused => assert_eq!(refused, Event::Closed(1008, "auth failed".into())),
        }
    }
    server.shutdown().await;
}

fn unix_now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_secs().try_into().unwrap()
}

#[tokio::test]
async fn a_message_over_the_limit_ends_its_connection_only() {
    let server = server(compat(), 2).await;
    let (mut a, mut b) = (enter(&server, 1).await, enter(&server, 2).await);
    a.send(vec![5; 65_537]).await;
    let closed = timeout(PATIENCE, a.next()).await.unwrap();
    assert!(matches!(closed, Event::Closed(1009, _)), "{closed:?}");
    let udp = udp(&server, 7).await;
    b.relay(2, 7, b"x").await;
    assert_eq!(receive(&udp).await, delivery(2, b"x"));
    server.shutdown().await;
}

#[tokio::test]
async fn places_are_counted_and_figures_shown() {
    let mut config = compat();
    config.compat = Some(CompatListen { max_clients: 1, ..CompatListen::plain(loopback()) });
    config.dashboard_addr = Some(loopback());
    let server = server(config, 2).await;
    let mut ws = enter(&server, 1).await;
    let refused = Ws::connect(server.compat_addr().unwrap()).await.err().unwrap();
    assert!(refused.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{refused}");
    ws.relay(1, 1, b"to myself").await;
    expect(&mut ws, delivery(1, b"to myself")).await;
    let dashboard = server.dashboard_addr().unwrap();
    let (stats, metrics) =
        tokio::task::spawn_blocking(move || (get(dashboard, "/api/stats").1, get(dashboard, "/metrics").1))
            .await
            .unwrap();
    for want in ["\"compat_clients\":1", "\"compat_messages_received\":1", "\"compat_messages_sent\":1"] {
        assert!(stats.contains(want), "{stats}");
    }
    assert!(metrics.contains("\npilot_compat_clients 1\n"), "{metrics}");
    server.shutdown().await;
}

/// One client takes nothing for as long as the test lasts. What is for it piles up to a bound and is lost beyond; two
/// others exchange messages as if it were not there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_slows_nobody() {
    let mut config = compat();
    config.beacon.relay_per_second = None;
    let server = server(config, 4).await;
    let silent = enter(&server, 1).await;
    let (mut flooder, mut b, mut c) =
        (enter(&server, 2).await, enter(&server, 3).await, enter(&server, 4).await);
    let flood = tokio::spawn(async move {
        // More than kernel buffers and queue hold.
        let frame = vec![9; 30_000];
        for _ in 0..800 {
            flooder.relay(2, 1, &frame).await;
        }
        // All of it was worked on when this comes back.
        flooder.relay(2, 2, b"done").await;
        expect(&mut flooder, delivery(2, b"done")).await;
    });
    let (mut rounds, mut slowest) = (0_u32, Duration::ZERO);
    while !flood.is_finished() || rounds < 100 {
        let began = Instant::now();
        b.relay(3, 4, b"ping").await;
        expect(&mut c, delivery(3, b"ping")).await;
        c.relay(4, 3, b"pong").await;
        expect(&mut b, delivery(4, b"pong")).await;
        slowest = slowest.max(began.elapsed());
        rounds += 1;
    }
    flood.await.unwrap();
    // A write limit of 90 s would show.
    assert!(slowest < Duration::from_secs(10), "{slowest:?}");
    drop(silent);
    server.shutdown().await;
}
