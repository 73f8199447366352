//! The rendezvous server through its sockets, and the registry client against it.
#![allow(clippy::unwrap_used)] // a test that cannot go on says so by its panic

mod compat;
mod services;
mod ws;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer, SigningKey};
use pilot_net::registry_client::{Registration, RegistryClient, RegistryError};
use pilot_net::rendezvous::{RedbStore, RendezvousConfig, RendezvousServer};
use pilot_rendezvous::{Change, RecordKey, Store, StoreError};
use pilot_wire::beacon::{self, Message};
use pilot_wire::registry::{MSG_ERROR, PREAMBLE, decode_error, read_frame, read_message, write_raw_message};
use serde_json::{Map, Value, json};

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn config() -> RendezvousConfig {
    RendezvousConfig {
        registry_addr: loopback(),
        beacon_addr: loopback(),
        admin_token: Some("sekrit".into()),
        ..RendezvousConfig::default()
    }
}

/// A client with a key made of one byte.
fn client(registry: SocketAddr, seed: u8) -> RegistryClient {
    let key = SigningKey::from_bytes(&[seed; 32]);
    RegistryClient::new(registry.to_string(), move |message: &[u8]| Some(key.sign(message).to_bytes()))
}

fn registration(seed: u8) -> Registration {
    let key = SigningKey::from_bytes(&[seed; 32]);
    Registration {
        public_key: STANDARD.encode(key.verifying_key().as_bytes()),
        listen_addr: format!("127.0.0.1:{}", 4000 + u16::from(seed)),
        lan_addrs: vec!["10.0.0.1:4000".into()],
        version: "test".into(),
        ..Registration::default()
    }
}

async fn registered(registry: SocketAddr, seed: u8) -> RegistryClient {
    let client = client(registry, seed);
    let answer = client.register(&registration(seed)).await.unwrap();
    assert_eq!((answer.node_id, client.node()), (client.node(), answer.node_id));
    client
}

fn params(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

#[tokio::test]
async fn two_nodes_find_each_other() {
    let server = RendezvousServer::bind(config()).await.unwrap();
    let (a, b) = (registered(server.registry_addr(), 1).await, registered(server.registry_addr(), 2).await);
    assert_eq!((a.node(), b.node(), server.node_count()), (1, 2, 2));

    assert!(a.heartbeat().await.unwrap().time > 1_700_000_000);
    let info = a.lookup(2).await.unwrap();
    assert_eq!((info.address.as_str(), info.public, info.networks), ("0:0000.0000.0002", false, vec![0]));
    assert_eq!(info.public_key, registration(2).public_key);
    let denied = a.resolve(2).await.unwrap_err();
    assert_eq!(denied.to_string(), "registry: request failed");
    assert!(!denied.is_transport());

    a.request_handshake(2, "let me in").await.unwrap();
    let inbox = b.poll_handshakes().await.unwrap();
    assert_eq!((inbox.requests[0].from_node_id, inbox.requests[0].justification.as_str()), (1, "let me in"));
    b.respond_handshake(1, true).await.unwrap();
    assert!(a.poll_handshakes().await.unwrap().responses[0].accept);
    assert!(a.check_trust(1, 2).await.unwrap());
    let found = a.resolve(2).await.unwrap();
    assert_eq!((found.real_addr.as_str(), found.key_age_days), ("127.0.0.1:4002", Some(0)));
    assert_eq!(found.lan_addrs, ["10.0.0.1:4000"]);

    b.revoke_trust(1).await.unwrap();
    assert!(a.resolve(2).await.is_err());
    b.report_trust(1).await.unwrap();
    assert!(a.resolve(2).await.is_ok());

    assert_eq!(b.set_hostname("beta").await.unwrap(), "beta");
    b.set_visibility(true).await.unwrap();
    assert_eq!(a.resolve_hostname("beta").await.unwrap().node_id, 2);
    assert!(a.resolve_hostname("gamma").await.unwrap_err().is_not_found());

    let create = json!({"name": "team", "admin_token": "sekrit"});
    let network = a.call_signed("create_network", params(create)).await.unwrap();
    assert_eq!(network["network_id"], 1);
    assert_eq!(b.join_network(1, "").await.unwrap()["address"], "1:0001.0000.0002");
    assert_eq!(a.list_nodes(1).await.unwrap().len(), 2);
    assert_eq!(a.list_networks().await.unwrap().len(), 2);
    b.leave_network(1).await.unwrap();
    b.call_signed("deregister", Map::new()).await.unwrap();
    assert!(a.lookup(2).await.unwrap_err().is_not_found());
    server.shutdown().await;
}

#[tokio::test]
async fn a_registry_behind_tls_is_reached_by_its_fingerprint_only() {
    use pilot_net::tls::{ClientTls, ServerTls};
    let tls = ServerTls::self_signed(None).unwrap();
    let pin = tls.fingerprint().to_owned();
    let server = RendezvousServer::bind(RendezvousConfig { tls: Some(tls), ..config() }).await.unwrap();
    let with = |pin: &str| {
        client(server.registry_addr(), 1).tls(Some(ClientTls::pinned(pin).unwrap())).connections(1)
    };
    let good = with(&pin);
    assert_eq!(good.register(&registration(1)).await.unwrap().node_id, 1);
    assert!(good.heartbeat().await.unwrap().time > 1_700_000_000);
    assert_eq!(good.lookup(1).await.unwrap().public_key, registration(1).public_key);
    let limit = Duration::from_secs(60);
    let other = tokio::time::timeout(limit, with(&"0".repeat(64)).register(&registration(1))).await.unwrap();
    let text = other.unwrap_err().to_string();
    assert!(text.contains(&format!("certificate fingerprint mismatch: got {pin}")), "{text}");
    let addr = server.registry_addr();
    let in_the_clear = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(addr).unwrap();
        write_raw_message(&mut stream, br#"{"type":"lookup","node_id":1}"#).unwrap();
        read_message(&mut stream).is_err()
    });
    assert!(in_the_clear.await.unwrap());
    good.heartbeat().await.unwrap();
}

#[tokio::test]
async fn a_waiting_handshake_is_announced_by_the_beacon() {
    let server = RendezvousServer::bind(config()).await.unwrap();
    let a = registered(server.registry_addr(), 1).await;
    let b = registered(server.registry_addr(), 2).await;
    let beacon = server.beacon_addr();
    let socket = tokio::net::UdpSocket::bind(loopback()).await.unwrap();
    let mut discover = Vec::new();
    Message::Discover { node: b.node(), key: None }.encode(&mut discover);
    socket.send_to(&discover, beacon).await.unwrap();
    let mut buffer = [0; 64];
    let (len, from) = socket.recv_from(&mut buffer).await.unwrap();
    assert_eq!(from, beacon);
    let observed = Message::DiscoverReply { observed: socket.local_addr().unwrap() };
    assert_eq!(beacon::decode(&buffer[..len]), Ok(observed));
    a.request_handshake(2, "").await.unwrap();
    let (len, _) =
        tokio::time::timeout(Duration::from_secs(10), socket.recv_from(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(beacon::decode(&buffer[..len]), Ok(Message::Notify { kind: beacon::NOTIFY_HANDSHAKE }));
    server.shutdown().await;
}

#[tokio::test]
async fn the_beacon_relays_what_comes_in_bulk() {
    let server = RendezvousServer::bind(config()).await.unwrap();
    let beacon = server.beacon_addr();
    let (a, b) = (UdpSocket::bind(loopback()).unwrap(), UdpSocket::bind(loopback()).unwrap());
    let relayed = tokio::task::spawn_blocking(move || {
        let mut message = Vec::new();
        Message::Discover { node: 7, key: None }.encode(&mut message);
        b.send_to(&message, beacon).unwrap();
        b.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut buffer = [0; 2048];
        b.recv_from(&mut buffer).unwrap();
        let mut seen = Vec::new();
        for n in 0..200_u32 {
            message.clear();
            let frame = [&n.to_be_bytes()[..], &[7; 1000][..usize::try_from(n % 3).unwrap() + 990]].concat();
            Message::Relay { sender: 1, dest: 7, frame: &frame }.encode(&mut message);
            a.send_to(&message, beacon).unwrap();
            // In steps, so that no socket buffer is asked for more than it holds.
            if n % 20 == 19 {
                for _ in 0..20 {
                    let (len, _) = b.recv_from(&mut buffer).unwrap();
                    let Ok(Message::RelayDeliver { sender: 1, frame }) = beacon::decode(&buffer[..len])
                    else {
                        panic!()
                    };
                    let number = u32::from_be_bytes(frame[..4].try_into().unwrap());
                    assert_eq!(frame.len(), 994 + usize::try_from(number % 3).unwrap());
                    seen.push(number);
                }
            }
        }
        seen
    });
    assert_eq!(relayed.await.unwrap(), (0..200).collect::<Vec<_>>(), "in order, each with its own length");
    server.shutdown().await;
}

#[tokio::test]
async fn shutdown_waits_for_no_idle_connection_and_frees_the_address() {
    let server = RendezvousServer::bind(config()).await.unwrap();
    let (registry, beacon) = (server.registry_addr(), server.beacon_addr());
    let a = registered(registry, 1).await;
    a.heartbeat().await.unwrap();
    tokio::time::timeout(Duration::from_secs(2), server.shutdown()).await.expect("at once");
    let again = RendezvousConfig { registry_addr: registry, beacon_addr: beacon, ..config() };
    let server = RendezvousServer::bind(again).await.unwrap();
    // The client reconnects by itself; this registry does not know it, and says so.
    let error = a.heartbeat().await.unwrap_err();
    assert!(error.refusal().is_some_and(|text| text.contains("node not found")), "{error}");
    a.register(&registration(1)).await.unwrap();
    a.heartbeat().await.unwrap();
    server.shutdown().await;
}

/// A raw connection that gives up after a while instead of hanging.
fn raw(server: &RendezvousServer) -> TcpStream {
    let stream = TcpStream::connect(server.registry_addr()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Whether the server closes the connection without a word.
fn is_closed(mut stream: TcpStream) -> bool {
    let mut rest = Vec::new();
    // A reset is an end too: the server had unread bytes.
    match stream.read_to_end(&mut rest) {
        Ok(_) => rest.is_empty(),
        Err(e) => e.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

fn ask(stream: &mut TcpStream, request: &str) -> Map<String, Value> {
    write_raw_message(stream, request.as_bytes()).unwrap();
    read_message(stream).unwrap()
}

/// Runs blocking socket code beside the server.
async fn blocking<T: Send + 'static>(
    server: RendezvousServer,
    work: impl FnOnce(&RendezvousServer) -> T + Send + 'static,
) -> T {
    let (server, result) = tokio::task::spawn_blocking(move || {
        let result = work(&server);
        (server, result)
    })
    .await
    .unwrap();
    server.shutdown().await;
    result
}

#[tokio::test]
async fn what_is_no_message_closes_the_connection_without_a_word() {
    let server = RendezvousServer::bind(config()).await.unwrap();
    blocking(server, |server| {
        let bad: &[&[u8]] = &[
            &[0, 0, 0, 0],
            &[0, 0, 0, 2, b'[', b']'],
            &[0, 0, 0, 1, b'{'],
            &[4, 0, 0, 1],
            &[0xFF; 8],
            b"GET / HTTP/1.1\r\n\r\n",
        ];
        for bytes in bad {
            let mut stream = raw(server);
            stream.write_all(bytes).unwrap();
            assert!(is_closed(stream), "{bytes:?}");
        }
        let mut stream = raw(server);
        assert_eq!(ask(&mut stream, "null")["error"], "request failed", "null is an empty object");
        assert_eq!(ask(&mut stream, r#"{"type":"list_networks"}"#)["type"], "list_networks_ok");
    })
    .await;
}

#[tokio::test]
async fn binary_mode_knows_its_version_and_its_lengths() {
    let server = RendezvousServer::bind(config()).await.unwrap();
    blocking(server, |server| {
        let mut stream = raw(server);
        stream.write_all(b"PILT\x02").unwrap();
        let (kind, payload) = read_frame(&mut stream).unwrap();
        assert_eq!((kind, decode_error(&payload)), (MSG_ERROR, "unsupported wire version 2".to_owned()));
        assert!(is_closed(stream));
        for bad in [[0, 0, 0, 0, 1], [4, 0, 0, 1, 1]] {
            let mut stream = raw(server);
            stream.write_all(&PREAMBLE).unwrap();
            stream.write_all(&bad).unwrap();
            assert!(is_closed(stream));
        }
        let mut stream = raw(server);
        stream.write_all(&PREAMBLE).unwrap();
        stream.write_all(&[0, 0, 0, 1, 0x42]).unwrap();
        assert_eq!(read_frame(&mut stream).unwrap().0, MSG_ERROR, "an unknown type is answered");
        stream.write_all(&[0, 0, 0, 5, 2, 0, 0, 0, 9]).unwrap();
        assert_eq!(decode_error(&read_frame(&mut stream).unwrap().1), "node 9: not found");
    })
    .await;
}

#[tokio::test]
async fn slow_and_silent_clients_are_not_waited_for() {
    let mut config = config();
    config.limits.idle = Duration::from_millis(300);
    let server = RendezvousServer::bind(config).await.unwrap();
    blocking(server, |server| {
        assert!(is_closed(raw(server)), "silent");
        let mut half = raw(server);
        half.write_all(&[0, 0, 1, 0, b'{']).unwrap();
        assert!(is_closed(half), "the rest never comes");
        let mut drip = raw(server);
        drip.write_all(&[0, 0, 1, 0]).unwrap();
        // Each byte alone comes in time; the request does not.
        while drip.write_all(b" ").is_ok() {
            let mut byte = [0];
            drip.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            match drip.read(&mut byte) {
                Ok(0) => break,
                Ok(_) => panic!("an answer to half a request"),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
    })
    .await;
}

#[tokio::test]
async fn large_requests_share_one_budget() {
    let mut config = config();
    config.limits.request_memory = 1 << 20;
    let server = RendezvousServer::bind(config).await.unwrap();
    blocking(server, |server| {
        let announced = 32_u32 << 20;
        let mut greedy = raw(server);
        greedy.write_all(&announced.to_be_bytes()).unwrap();
        // More than the budget; the server may hang up at any point of it.
        let sent = (0..64).all(|_| greedy.write_all(&[b' '; 64 << 10]).is_ok());
        assert!(!sent || is_closed(greedy));
        let text = format!(r#"{{"type":"lookup","node_id":1,"pad":"{}"}}"#, "x".repeat(700 << 10));
        assert_eq!(
            ask(&mut raw(server), &text)["error"],
            "node 1: node not found",
            "the budget is free again"
        );
    })
    .await;
}

#[tokio::test]
async fn a_request_of_a_million_pieces_is_none() {
    let mut config = config();
    config.limits.request_elements = 10_000;
    let server = RendezvousServer::bind(config).await.unwrap();
    blocking(server, |server| {
        let list = |n: usize| format!(r#"{{"type":"lookup","node_id":1,"pad":[{}0]}}"#, "0,".repeat(n));
        assert_eq!(ask(&mut raw(server), &list(9_000))["type"], "error");
        let mut stream = raw(server);
        write_raw_message(&mut stream, list(11_000).as_bytes()).unwrap();
        assert!(is_closed(stream));
    })
    .await;
}

#[tokio::test]
async fn connections_over_the_limit_are_closed_at_once() {
    let mut config = config();
    config.limits.connections = 2;
    let server = RendezvousServer::bind(config).await.unwrap();
    blocking(server, |server| {
        let mut kept: Vec<_> = (0..2).map(|_| raw(server)).collect();
        for stream in &mut kept {
            ask(stream, "{}");
        }
        assert!(is_closed(raw(server)));
        ask(&mut kept[0], "{}");
        drop(kept);
        // The places come free when the server has noticed.
        let again = || {
            let mut stream = raw(server);
            write_raw_message(&mut stream, b"{}").is_ok() && read_message(&mut stream).is_ok()
        };
        assert!((0..1000).any(|_| again()));
    })
    .await;
}

#[tokio::test]
async fn garbage_does_not_disturb_the_others() {
    let server = RendezvousServer::bind(config()).await.unwrap();
    blocking(server, |server| {
        let mut honest = raw(server);
        let udp = UdpSocket::bind(loopback()).unwrap();
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for round in 0..100 {
            let bytes: Vec<u8> = (0..next() % 300).map(|_| (next() >> 56) as u8).collect();
            let mut stream = raw(server);
            let _ = match round % 3 {
                0 => stream.write_all(&bytes),
                1 => write_raw_message(&mut stream, &bytes).map_err(std::io::Error::other),
                _ => stream.write_all(&PREAMBLE).and_then(|()| stream.write_all(&bytes)),
            };
            let _ = udp.send_to(&bytes, server.beacon_addr());
        }
        assert_eq!(ask(&mut honest, r#"{"type":"list_networks"}"#)["type"], "list_networks_ok");
    })
    .await;
}

#[tokio::test]
async fn a_store_keeps_everything_across_an_orderly_end() {
    let dir = tempfile::tempdir().unwrap();
    let config = || RendezvousConfig { data_dir: Some(dir.path().join("deep/er")), ..config() };
    let server = RendezvousServer::bind(config()).await.unwrap();
    let a = registered(server.registry_addr(), 1).await;
    a.set_hostname("alpha").await.unwrap();
    let second = RendezvousServer::bind(config()).await.unwrap_err();
    assert!(second.to_string().starts_with("registry store: open "), "{second}");
    server.shutdown().await;
    let server = RendezvousServer::bind(config()).await.unwrap();
    let a = client(server.registry_addr(), 1);
    a.set_node(1);
    a.heartbeat().await.unwrap();
    assert_eq!(a.lookup(1).await.unwrap().hostname, "alpha");
    server.shutdown().await;
}

/// A store in memory that can be told to fail.
#[derive(Clone, Default)]
struct Fickle {
    records: Arc<Mutex<BTreeMap<RecordKey, Vec<u8>>>>,
    fails: Arc<std::sync::atomic::AtomicBool>,
}

impl Store for Fickle {
    fn load(&mut self) -> Result<Vec<(RecordKey, Vec<u8>)>, StoreError> {
        Ok(self.records.lock().unwrap().clone().into_iter().collect())
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        if self.fails.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(StoreError::new("write changes", "the disk is full"));
        }
        let mut records = self.records.lock().unwrap();
        for change in changes {
            match &change.value {
                Some(value) => drop(records.insert(change.key, value.to_vec())),
                None => drop(records.remove(&change.key)),
            }
        }
        Ok(())
    }
}

#[tokio::test]
async fn nothing_is_acknowledged_that_is_not_stored() {
    let store = Fickle::default();
    let server = RendezvousServer::bind_with(config(), Some(Box::new(store.clone()))).await.unwrap();
    let a = registered(server.registry_addr(), 1).await;
    let stored = || store.records.lock().unwrap().len();
    let before = stored();
    store.fails.store(true, std::sync::atomic::Ordering::SeqCst);
    let refused = a.set_hostname("alpha").await.unwrap_err();
    assert_eq!(refused.to_string(), "registry: request failed");
    assert!(client(server.registry_addr(), 2).register(&registration(2)).await.is_err());
    assert_eq!(stored(), before);
    a.lookup(1).await.unwrap();
    store.fails.store(false, std::sync::atomic::Ordering::SeqCst);
    let c = registered(server.registry_addr(), 3).await;
    assert_eq!(c.node(), 3, "the refused number was given away all the same");
    server.shutdown().await;
    let server = RendezvousServer::bind_with(config(), Some(Box::new(store.clone()))).await.unwrap();
    let a = client(server.registry_addr(), 1);
    assert_eq!(a.lookup(1).await.unwrap().hostname, "alpha", "what the registry had done was written later");
    assert_eq!(registered(server.registry_addr(), 4).await.node(), 4);
    server.shutdown().await;
}

const CHILD: &str = "PILOT_TEST_RENDEZVOUS_DIR";

/// Not a test of its own: the process that the next test kills.
#[test]
fn killed_server() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = RendezvousConfig { data_dir: Some(dir.into()), ..config() };
    let server = runtime.block_on(RendezvousServer::bind(config)).unwrap();
    println!("\nlistening on {}", server.registry_addr());
    std::thread::park();
}

#[tokio::test]
async fn every_acknowledged_change_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "killed_server", "--nocapture"])
        .env(CHILD, dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let addr = lines.find_map(|line| line.unwrap().strip_prefix("listening on ").map(str::to_owned)).unwrap();
    let registry: SocketAddr = addr.parse().unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    // Many at once, and the process dies in the middle of it.
    for seed in 1..=20 {
        tasks.spawn(async move {
            let client = client(registry, seed).connections(1);
            let mut done = 0;
            // Once the process is gone, nobody waits for five reconnects.
            let patience = Duration::from_millis(400);
            let what = registration(seed);
            let Ok(Ok(answer)) = tokio::time::timeout(10 * patience, client.register(&what)).await else {
                return (seed, 0, done);
            };
            while done < 1000 {
                let params = params(json!({"tags": [format!("t{done}")]}));
                let call = client.call_signed("set_tags", params);
                match tokio::time::timeout(patience, call).await {
                    Ok(Ok(_)) => done += 1,
                    _ => break,
                }
            }
            (seed, answer.node_id, done)
        });
    }
    tokio::time::timeout(Duration::from_secs(60), async {
        let probe = client(registry, 99);
        // Kill it when all are there and the first one has got somewhere.
        let far = |tags: &[String]| tags.first().is_some_and(|t| t[1..].parse::<u32>().unwrap() > 10);
        while probe.lookup(20).await.is_err() || !far(&probe.lookup(1).await.unwrap().tags) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let acknowledged: Vec<(u8, u32, u32)> = tasks.join_all().await;

    let server = RendezvousServer::bind(RendezvousConfig { data_dir: Some(dir.path().into()), ..config() })
        .await
        .unwrap();
    let probe = client(server.registry_addr(), 99);
    for (seed, node, done) in acknowledged.into_iter().filter(|(_, node, _)| *node != 0) {
        let found = probe.lookup(node).await.unwrap();
        assert_eq!(found.public_key, registration(seed).public_key);
        let last = found.tags.first().map_or(0, |t| t[1..].parse::<u32>().unwrap() + 1);
        // The one that was under way may be there or not.
        assert!(last == done || last == done + 1, "node {node}: {done} acknowledged, {last} stored");
    }
    server.shutdown().await;
}

#[test]
fn a_directory_that_is_none_says_so() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = RedbStore::open(file.path()).unwrap_err();
    assert!(error.to_string().contains("make "), "{error}");
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let server = RendezvousServer::bind(config()).await.unwrap();
    let error =
        RendezvousServer::bind(RendezvousConfig { registry_addr: server.registry_addr(), ..config() })
            .await
            .unwrap_err();
    assert!(error.to_string().contains(&server.registry_addr().to_string()), "{error}");
    let error = RendezvousServer::bind(RendezvousConfig { beacon_addr: server.beacon_addr(), ..config() })
        .await
        .unwrap_err();
    assert!(error.to_string().contains("(UDP)"), "{error}");
    server.shutdown().await;
}

#[tokio::test]
async fn a_closed_client_says_so() {
    let server = RendezvousServer::bind(config()).await.unwrap();
    let a = registered(server.registry_addr(), 1).await;
    a.close();
    let error = a.heartbeat().await.unwrap_err();
    assert!(matches!(error, RegistryError::Closed));
    assert_eq!(error.to_string(), "client closed");
    server.shutdown().await;
}
