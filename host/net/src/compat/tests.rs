//! The client against scripted beacons on loopback: the recorded vectors, keepalive, limits, reconnecting, trust, proxies,
//! and two whole nodes with a small relay between them.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use pilot_engine::identity::{Identity, verify};
use pilot_engine::{Answer, Config, Engine, Query};
use pilot_vectors::Entry;
use pilot_wire::addr::Addr;
use pilot_wire::beacon::{self, Message as Beacon};
use pilot_wire::compat::auth::{self, Challenge, Reply};
use pilot_wire::compat::http::{self, upgrade_answer};
use pilot_wire::compat::{BEACON_PLACEHOLDER, Close, Url};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;
use crate::bus::Bus;
use crate::clock::Clock;
use crate::node::{Node, NodeFeeds};
use crate::tls::{ClientTls, ServerTls};
use crate::transport;
use crate::websocket::{accept_value, close_frame, read_head};

const PATIENCE: Duration = Duration::from_secs(20);

/// The beacon's end of a connection.
type Peer = WebSocketStream<Box<dyn transport::Bytes>>;

/// A beacon that treats each upgraded connection by a script; gives its port.
async fn beacon<F>(tls: Option<ServerTls>, script: impl Fn(u32, Peer) -> F + Send + 'static) -> u16
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(serve(listener, tls, script));
    port
}

async fn serve<F>(listener: TcpListener, tls: Option<ServerTls>, script: impl Fn(u32, Peer) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut count = 0;
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut stream: Box<dyn transport::Bytes> = match &tls {
            None => Box::new(tcp),
            Some(tls) => match tls.acceptor().accept(tcp).await {
                Ok(stream) => Box::new(stream),
                Err(_) => continue,
            },
        };
        let mut rest = Vec::new();
        let Ok(Some(head)) = read_head(&mut stream, &mut rest).await else { continue };
        match http::answer(&head, false) {
            http::Answer::Plain { bytes, .. } => {
                stream.write_all(&bytes).await.unwrap();
                stream.flush().await.unwrap();
            }
            http::Answer::Upgrade { key, subprotocol } => {
                assert_eq!(subprotocol.as_deref(), Some("pilot.v1"));
                let answer = upgrade_answer(&accept_value(&key), subprotocol.as_deref());
                stream.write_all(&answer).await.unwrap();
                let peer = WebSocketStream::from_partially_read(stream, rest, Role::Server, None).await;
                tokio::spawn(script(count, peer));
                count += 1;
            }
        }
    }
}

async fn text_of(peer: &mut Peer) -> Option<String> {
    match peer.next().await? {
        Ok(Message::Text(text)) => Some(text.as_str().to_owned()),
        _ => None,
    }
}

/// Sets a challenge and believes any answer; gives the node.
async fn welcome(peer: &mut Peer) -> u32 {
    let asked = Challenge { nonce: "ab".into(), ts: Some(7) };
    peer.send(Message::text(asked.encode())).await.unwrap();
    let reply = Reply::decode(text_of(peer).await.unwrap().as_bytes()).unwrap();
    peer.send(Message::text(auth::OK)).await.unwrap();
    reply.node
}

fn config(port: u16) -> CompatConfig {
    let url: Url = format!("ws://127.0.0.1:{port}/v1/compat").parse().unwrap();
    let nobody = "0".repeat(64);
    CompatConfig::new(url, ClientTls::pinned(&nobody).unwrap())
}

fn who(node: u32) -> impl Fn() -> Option<Credentials> + Send + Sync + 'static {
    let identity = Arc::new(Identity::generate([7; 32]));
    move || Some(Credentials { node, identity: identity.clone() })
}

/// Waits until `condition` gives something.
async fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(tokio::time::Instant::now() < end, "{what} did not happen in time");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

fn is_connected(client: &Client) -> Option<()> {
    (client.status().state == State::Connected).then_some(())
}

// ---- vectors

/// What a scripted beacon saw of the client.
#[derive(Debug, PartialEq)]
enum Seen {
    Reply(String),
    Closed(u16, String),
}

async fn challenged(question: String, node: u32, seed: [u8; 32]) -> (Result<(), DialError>, Vec<Seen>) {
    let (saw, mut seen) = mpsc::unbounded_channel();
    let port = beacon(None, move |_, mut peer| {
        let (question, saw) = (question.clone(), saw.clone());
        async move {
            peer.send(Message::text(question)).await.unwrap();
            match peer.next().await {
                Some(Ok(Message::Text(text))) => {
                    saw.send(Seen::Reply(text.as_str().to_owned())).unwrap();
                    peer.send(Message::text(auth::OK)).await.unwrap();
                }
                Some(Ok(Message::Close(Some(frame)))) => {
                    saw.send(Seen::Closed(frame.code.into(), frame.reason.to_string())).unwrap();
                }
                other => panic!("{other:?}"),
            }
        }
    })
    .await;
    let identity = Arc::new(Identity::generate(seed));
    let (client, _datagrams) = Client::new(config(port)).unwrap();
    let outcome =
        within(client.connect(move || Some(Credentials { node, identity: identity.clone() }))).await;
    let first = within(seen.recv()).await.unwrap();
    client.close().await;
    (outcome, vec![first])
}

#[test]
fn vectors() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    pilot_vectors::run("pilot-net compat client", &["wss"], |_, entry| runtime.block_on(vector(entry)));
}

async fn vector(entry: &Entry) {
    let node = || u32::try_from(entry.number("node_id")).unwrap();
    match entry.kind.as_str() {
        "auth" => {
            let seed = entry.hex("seed_hex").try_into().unwrap();
            let (outcome, seen) = challenged(entry.text("challenge_text").into(), node(), seed).await;
            outcome.unwrap();
            assert_eq!(seen, [Seen::Reply(entry.text("reply_text").into())]);
        }
        "challenge" => {
            let question = String::from_utf8(entry.bytes.clone()).unwrap();
            let accepted = entry.fields["accept"] == true;
            let seed = if accepted { entry.hex("seed_hex").try_into().unwrap() } else { [1; 32] };
            let (outcome, seen) = challenged(question, node(), seed).await;
            if !accepted {
                assert!(matches!(outcome, Err(DialError::Auth(_))), "{outcome:?}");
                let Close { code, reason } = Close::AUTH_FAILED;
                assert_eq!(seen, [Seen::Closed(code, reason.into())]);
                return;
            }
            outcome.unwrap();
            let [Seen::Reply(text)] = seen.as_slice() else { panic!("{seen:?}") };
            let reply = Reply::decode(text.as_bytes()).unwrap();
            assert_eq!(reply.signature, entry.hex("sig_hex"));
            let key = Identity::generate(seed).public_key();
            assert!(verify(&key, entry.text("signed_string").as_bytes(), &reply.signature));
        }
        "read" => {
            // The limit named there is the Go client's; ours takes that and what a beacon takes.
            let bytes = usize::try_from(entry.number("message_bytes")).unwrap();
            let taken = largest_taken(bytes).await;
            let ours = bytes <= pilot_wire::compat::MAX_MESSAGE || entry.fields["accept"] == true;
            assert!(!ours || taken, "{bytes} bytes are taken");
        }
        kind => panic!("no rule for kind {kind}"),
    }
}

/// Whether a message of this size arrives at the driver.
async fn largest_taken(bytes: usize) -> bool {
    let port = beacon(None, move |_, mut peer| async move {
        welcome(&mut peer).await;
        peer.send(Message::Binary(vec![6; bytes].into())).await.unwrap();
        while let Some(Ok(_)) = peer.next().await {}
    })
    .await;
    let (client, mut datagrams) = Client::new(config(port)).unwrap();
    within(client.connect(who(7))).await.unwrap();
    let taken = eventually("a message or a loss", || {
        let mut got = None;
        datagrams.receive(|_, data| got = Some(data.len() == bytes)).unwrap();
        got.or((client.status().state != State::Connected).then_some(false))
    })
    .await;
    client.close().await;
    taken
}

#[tokio::test]
async fn a_message_over_the_limit_ends_the_connection_with_1009() {
    let (saw, mut seen) = mpsc::unbounded_channel();
    let port = beacon(None, move |n, mut peer| {
        let saw = saw.clone();
        async move {
            welcome(&mut peer).await;
            if n == 0 {
                peer.send(Message::Binary(vec![6; 70_000].into())).await.unwrap();
            }
            while let Some(Ok(message)) = peer.next().await {
                if let Message::Close(Some(frame)) = message {
                    let _ = saw.send(u16::from(frame.code));
                }
            }
        }
    })
    .await;
    let (client, _datagrams) = Client::new(config(port)).unwrap();
    within(client.connect(who(7))).await.unwrap();
    assert_eq!(within(seen.recv()).await, Some(1009));
    eventually("the next connection", || (client.status().reconnects == 1).then_some(())).await;
    client.close().await;
}

// ---- keepalive

#[tokio::test]
async fn pings_count_from_one_and_discovers_are_sent_at_once_and_regularly() {
    let (saw, mut seen) = mpsc::unbounded_channel();
    let port = beacon(None, move |_, mut peer| {
        let saw = saw.clone();
        async move {
            welcome(&mut peer).await;
            while let Some(Ok(message)) = peer.next().await {
                let _ = saw.send(message);
            }
        }
    })
    .await;
    let mut settings = config(port);
    settings.timing.ping_interval = Duration::from_millis(30);
    settings.timing.keepalive = Duration::from_millis(40);
    let (client, _datagrams) = Client::new(settings).unwrap();
    within(client.connect(who(0x0102_0304))).await.unwrap();
    let (mut pings, mut discovers) = (Vec::new(), 0);
    let mut first = true;
    while pings.len() < 3 || discovers < 3 {
        match within(seen.recv()).await.unwrap() {
            Message::Ping(payload) => pings.push(String::from_utf8(payload.to_vec()).unwrap()),
            Message::Binary(data) => {
                assert_eq!(data.as_ref(), [1, 1, 2, 3, 4]);
                discovers += 1;
            }
            other => panic!("{other:?}"),
        }
        assert!(!std::mem::take(&mut first) || discovers == 1, "the first message is a Discover");
    }
    assert_eq!(pings[..3], ["1", "2", "3"]);
    assert_eq!(client.status().reconnects, 0, "answered pings keep the connection");
    client.close().await;
}

#[tokio::test]
async fn a_beacon_that_does_not_answer_pings_is_left_with_1008() {
    let (saw, mut seen) = mpsc::unbounded_channel();
    // It speaks the handshake and then reads frames without ever flushing a pong.
    let port = beacon(None, move |_, mut peer| {
        let saw = saw.clone();
        async move {
            welcome(&mut peer).await;
            let mut raw = peer.into_inner();
            let mut all = Vec::new();
            let mut piece = [0; 1024];
            while let Ok(n) = raw.read(&mut piece).await
                && n > 0
            {
                all.extend_from_slice(&piece[..n]);
            }
            let _ = saw.send(all);
        }
    })
    .await;
    let mut settings = config(port);
    settings.timing.ping_interval = Duration::from_millis(20);
    settings.timing.pong_wait = Duration::from_millis(60);
    let (client, _datagrams) = Client::new(settings).unwrap();
    within(client.connect(who(7))).await.unwrap();
    let bytes = within(seen.recv()).await.unwrap();
    // The close is the last frame: masked, 2 bytes of code and the reason.
    let Close { code, reason } = Close::PING_TIMEOUT;
    let (mask, masked) = bytes[bytes.len() - 4 - 2 - reason.len()..].split_at(4);
    let plain: Vec<u8> = masked.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m).collect();
    assert_eq!(plain, [&code.to_be_bytes(), reason.as_bytes()].concat());
    client.close().await;
}

// ---- losing and finding the beacon

#[tokio::test]
async fn every_close_leads_to_a_new_connection_and_sends_fail_in_between() {
    let port = beacon(None, |n, mut peer| async move {
        welcome(&mut peer).await;
        match n {
            0 => drop(peer.close(Some(close_frame(Close::REPLACED))).await),
            1 => drop(peer), // without a word
            _ => while let Some(Ok(_)) = peer.next().await {},
        }
    })
    .await;
    let mut settings = config(port);
    settings.timing.backoff_first = Duration::from_millis(50);
    let (client, datagrams) = Client::new(settings).unwrap();
    within(client.connect(who(7))).await.unwrap();
    let message = [5, 0, 0, 0, 7, 0, 0, 0, 8, b'P'];
    let mut refused = false;
    eventually("two new connections", || {
        let sent = datagrams.send(BEACON_PLACEHOLDER, &message, None);
        refused |= sent.is_err_and(|e| e.to_string() == "compat transport: reconnecting");
        (client.status().reconnects == 2).then_some(())
    })
    .await;
    assert!(refused, "a send without a connection fails at once");
    eventually("a send", || datagrams.send(BEACON_PLACEHOLDER, &message, None).ok()).await;
    client.close().await;
    client.close().await;
    let closed = datagrams.send(BEACON_PLACEHOLDER, &message, None).unwrap_err();
    assert_eq!(closed.to_string(), "compat transport: closed");
}

#[tokio::test]
async fn failed_attempts_do_not_end_the_search() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let stay = |_, mut peer: Peer| async move {
        welcome(&mut peer).await;
        while let Some(Ok(_)) = peer.next().await {}
    };
    // The first beacon closes its only connection and is gone.
    let once = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut stream: Box<dyn transport::Bytes> = Box::new(tcp);
        let head = read_head(&mut stream, &mut Vec::new()).await.unwrap().unwrap();
        let answer = upgrade_answer(&accept_value(head.first("Sec-WebSocket-Key")), None);
        stream.write_all(&answer).await.unwrap();
        let mut peer = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
        welcome(&mut peer).await;
    });
    let mut settings = config(addr.port());
    (settings.timing.backoff_first, settings.timing.backoff_max) =
        (Duration::from_millis(5), Duration::from_millis(20));
    let (client, mut datagrams) = Client::new(settings).unwrap();
    within(client.connect(who(7))).await.unwrap();
    once.await.unwrap();
    eventually("a failed attempt", || {
        client.status().last_error.contains("wss dial: connect to").then_some(())
    })
    .await;
    datagrams.receive(|_, _| panic!("nothing was sent")).unwrap();
    tokio::spawn(serve(TcpListener::bind(addr).await.unwrap(), None, stay));
    eventually("a connection", || is_connected(&client)).await;
    assert_eq!(client.status().last_error, "");
    client.close().await;
}

#[tokio::test]
async fn a_close_interrupts_a_dial_and_a_wait_and_says_1000() {
    // Somebody who accepts and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, mut datagrams) = Client::new(config(silent.local_addr().unwrap().port())).unwrap();
    let dialling = tokio::spawn({
        let client = client.clone();
        async move { client.connect(who(7)).await }
    });
    let _accepted = silent.accept().await.unwrap();
    within(client.close()).await;
    assert_eq!(within(dialling).await.unwrap(), Err(DialError::Closed));
    assert_eq!(datagrams.receive(|_, _| ()).unwrap_err().to_string(), "compat transport: closed");

    let (saw, mut seen) = mpsc::unbounded_channel();
    let port = beacon(None, move |_, mut peer| {
        let saw = saw.clone();
        async move {
            welcome(&mut peer).await;
            while let Some(Ok(message)) = peer.next().await {
                let _ = saw.send(message);
            }
        }
    })
    .await;
    let (client, datagrams) = Client::new(config(port)).unwrap();
    within(client.connect(who(7))).await.unwrap();
    datagrams.send(BEACON_PLACEHOLDER, &[5, 0, 0, 0, 7, 0, 0, 0, 8], None).unwrap();
    within(client.close()).await;
    let mut relayed = 0;
    let frame = loop {
        match within(seen.recv()).await.unwrap() {
            Message::Close(frame) => break frame.unwrap(),
            Message::Binary(data) if data[0] == 5 => relayed += 1,
            _ => {}
        }
    };
    assert_eq!((u16::from(frame.code), frame.reason.as_str(), relayed), (1000, "", 1));
}

#[tokio::test]
async fn a_renewed_connection_answers_with_the_new_number() {
    let (saw, mut seen) = mpsc::unbounded_channel();
    let port = beacon(None, move |_, mut peer| {
        let saw = saw.clone();
        async move {
            let _ = saw.send(welcome(&mut peer).await);
            while let Some(Ok(_)) = peer.next().await {}
        }
    })
    .await;
    let mut settings = config(port);
    settings.timing.backoff_first = Duration::from_millis(5);
    let (client, _datagrams) = Client::new(settings).unwrap();
    let identity = Arc::new(Identity::generate([7; 32]));
    let number = Arc::new(AtomicU64::new(7));
    let present = number.clone();
    let credentials = move || {
        let node = u32::try_from(present.load(Ordering::Relaxed)).unwrap();
        Some(Credentials { node, identity: identity.clone() })
    };
    within(client.connect(credentials)).await.unwrap();
    number.store(8, Ordering::Relaxed);
    client.renew();
    assert_eq!((within(seen.recv()).await, within(seen.recv()).await), (Some(7), Some(8)));
    client.close().await;
}

#[tokio::test]
async fn a_beacon_that_refuses_is_quoted() {
    let port = beacon(None, |_, mut peer| async move {
        let asked = Challenge { nonce: "ab".into(), ts: Some(7) };
        peer.send(Message::text(asked.encode())).await.unwrap();
        text_of(&mut peer).await.unwrap();
        let _ = peer.close(Some(close_frame(Close::AUTH_FAILED))).await;
        while let Some(Ok(_)) = peer.next().await {}
    })
    .await;
    let (client, _datagrams) = Client::new(config(port)).unwrap();
    let refused = within(client.connect(who(7))).await.unwrap_err().to_string();
    assert_eq!(refused, "wss auth: the beacon closed with 1008 auth failed");
    let mut elsewhere = config(port);
    elsewhere.url = format!("ws://127.0.0.1:{port}/elsewhere").parse().unwrap();
    let (client, _datagrams) = Client::new(elsewhere).unwrap();
    let refused = within(client.connect(who(7))).await.unwrap_err().to_string();
    assert!(refused.starts_with("wss dial: upgrade at") && refused.contains("404 Not Found"), "{refused}");
    let mut hasty = config(TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port());
    hasty.timing.dial_timeout = Duration::from_millis(1);
    let (client, _datagrams) = Client::new(hasty).unwrap();
    let refused = within(client.connect(who(7))).await.unwrap_err().to_string();
    assert!(refused.starts_with("wss dial: "), "{refused}");
}

#[tokio::test]
async fn a_full_queue_stops_the_reading_and_loses_nothing() {
    const MESSAGES: u32 = 600;
    let port = beacon(None, |_, mut peer| async move {
        welcome(&mut peer).await;
        for n in 0..MESSAGES {
            let message = [&[6, 0, 0, 0, 9], n.to_be_bytes().as_slice(), &[0; 500]].concat();
            peer.feed(Message::Binary(message.into())).await.unwrap();
        }
        peer.flush().await.unwrap();
        while let Some(Ok(_)) = peer.next().await {}
    })
    .await;
    let mut settings = config(port);
    settings.receive_queue = 4;
    let (client, mut datagrams) = Client::new(settings).unwrap();
    within(client.connect(who(7))).await.unwrap();
    let received = || client.status().received;
    // Four wait, one is held; more is not read.
    eventually("a full queue", || (received() == 5).then_some(())).await;
    let mut next = 0;
    eventually("every message", || {
        let taken = datagrams.receive(|_, data| {
            assert_eq!(data[5..9], u32::to_be_bytes(next));
            next += 1;
        });
        assert!(taken.unwrap().datagrams <= 5);
        (next == MESSAGES).then_some(())
    })
    .await;
    client.close().await;
}

// ---- trust and proxies

/// A self-signed certificate for localhost in `dir`, and the file a client may take as its root.
fn certificate(dir: &std::path::Path) -> (ServerTls, std::path::PathBuf) {
    (ServerTls::self_signed(Some(dir)).unwrap(), dir.join("tls-cert.pem"))
}

async fn patient(_: u32, mut peer: Peer) {
    welcome(&mut peer).await;
    while let Some(Ok(_)) = peer.next().await {}
}

#[tokio::test]
async fn a_pinned_client_believes_its_root_and_nobody_else() {
    let (good, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (server, root) = certificate(good.path());
    let (_, other_root) = certificate(other.path());
    let port = beacon(Some(server), patient).await;
    let pinned = |root: &std::path::Path| {
        let mut settings = config(port);
        settings.url = format!("wss://localhost:{port}/v1/compat").parse().unwrap();
        settings.tls = ClientTls::roots(root).unwrap();
        settings.trust_hint = format!("trust is pinned to {}", root.display());
        Client::new(settings).unwrap()
    };
    let (client, _datagrams) = pinned(&root);
    within(client.connect(who(7))).await.unwrap();
    client.close().await;
    let (client, _datagrams) = pinned(&other_root);
    let refused = within(client.connect(who(7))).await.unwrap_err().to_string();
    assert!(refused.starts_with("wss dial: TLS with localhost:"), "{refused}");
    assert!(refused.contains("certificate") && refused.contains("trust is pinned to"), "{refused}");
}

/// A proxy that forwards to loopback whatever name it is asked for; what it was asked goes to `asked`.
async fn proxy(refuse: bool, asked: mpsc::UnboundedSender<String>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut buffer = Vec::new();
            let head = read_head(&mut near, &mut buffer).await.unwrap().unwrap();
            let _ = asked.send(format!("{} {}", head.start[1], head.first("Proxy-Authorization")));
            if refuse {
                near.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").await.unwrap();
                continue;
            }
            let port: u16 = head.start[1].rsplit_once(':').unwrap().1.parse().unwrap();
            let mut far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            near.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
        }
    });
    own
}

#[tokio::test]
async fn a_proxy_is_asked_by_name() {
    let (asked, mut questions) = mpsc::unbounded_channel();
    let port = beacon(None, patient).await;
    let way = proxy(false, asked).await;
    let mut settings = config(port);
    // A name that nobody but the proxy can resolve.
    settings.url = format!("ws://beacon.invalid:{port}/v1/compat").parse().unwrap();
    settings.proxy = Some(format!("http://user:pa%20ss@127.0.0.1:{way}").parse().unwrap());
    let (client, _datagrams) = Client::new(settings.clone()).unwrap();
    within(client.connect(who(7))).await.unwrap();
    client.close().await;
    let question = within(questions.recv()).await.unwrap();
    assert_eq!(question, format!("beacon.invalid:{port} Basic dXNlcjpwYSBzcw=="));

    let (asked, _questions) = mpsc::unbounded_channel();
    let way = proxy(true, asked).await;
    settings.proxy = Some(format!("http://127.0.0.1:{way}").parse().unwrap());
    let (client, _datagrams) = Client::new(settings.clone()).unwrap();
    let refused = within(client.connect(who(7))).await.unwrap_err().to_string();
    assert!(refused.contains("refused to connect to beacon.invalid") && refused.contains("403"), "{refused}");
    let looked = within(check(&settings.url, settings.proxy.as_ref())).await;
    assert!(matches!(looked, Check::NotOpened(_)), "{looked:?}");
}

#[tokio::test]
async fn the_registry_is_reached_through_the_proxy_too() {
    let (asked, mut questions) = mpsc::unbounded_channel();
    let registry = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = registry.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = registry.accept().await.unwrap();
        for _ in 0..2 {
            let mut request = vec![0; usize::try_from(stream.read_u32().await.unwrap()).unwrap()];
            stream.read_exact(&mut request).await.unwrap();
            let answer = br#"{"type":"pong"}"#;
            stream.write_u32(u32::try_from(answer.len()).unwrap()).await.unwrap();
            stream.write_all(answer).await.unwrap();
        }
    });
    let way: Proxy = format!("http://127.0.0.1:{}", proxy(false, asked).await).parse().unwrap();
    let client = crate::registry_client::RegistryClient::unsigned(format!("registry.invalid:{port}"));
    let client = client.proxy(Some(way));
    // Twice over one connection: an idle one is known to be good.
    for _ in 0..2 {
        let answer = within(client.call("ping", serde_json::Map::new())).await.unwrap();
        assert_eq!(answer["type"], "pong");
    }
    assert_eq!(within(questions.recv()).await.unwrap(), format!("registry.invalid:{port} "));
}

#[tokio::test]
async fn the_check_of_auto_knows_a_beacon_by_its_426() {
    let dir = tempfile::tempdir().unwrap();
    let plain = beacon(None, patient).await;
    let secure = beacon(Some(certificate(dir.path()).0), patient).await;
    let look = |url: String| async move { check(&url.parse().unwrap(), None).await };
    assert_eq!(look(format!("ws://127.0.0.1:{plain}/v1/compat")).await, Check::Answered);
    // Certificates are the dial's business.
    assert_eq!(look(format!("wss://127.0.0.1:{secure}/v1/compat")).await, Check::Answered);
    assert!(matches!(look(format!("ws://127.0.0.1:{plain}/other")).await, Check::Failed(_)));
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    assert!(matches!(look(format!("ws://{nobody}/v1/compat")).await, Check::NotOpened(_)));
}

#[tokio::test]
async fn the_udp_probe_asks_for_node_zero_and_wants_an_answer() {
    let answering = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addr = answering.local_addr().unwrap();
    tokio::spawn(async move {
        let mut data = [0; 64];
        // The first attempt is lost.
        answering.recv_from(&mut data).await.unwrap();
        let (n, from) = answering.recv_from(&mut data).await.unwrap();
        assert_eq!(beacon::decode(&data[..n]), Ok(Beacon::Discover { node: 0, key: None }));
        let mut reply = Vec::new();
        Beacon::DiscoverReply { observed: from }.encode(&mut reply);
        answering.send_to(&reply, from).await.unwrap();
    });
    assert!(udp_answers(addr).await);
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    assert!(!udp_answers(silent.local_addr().unwrap()).await);
}

// ---- whole nodes

/// A relay between connections, as a beacon is one; anything that is neither Discover nor Relay fails the test.
#[derive(Clone, Default)]
struct Relay {
    clients: Arc<Mutex<HashMap<u32, mpsc::UnboundedSender<Bytes>>>>,
    relayed: Arc<AtomicU64>,
    foreign: Arc<AtomicU64>,
}

impl Relay {
    async fn serve(self, mut peer: Peer) {
        let node = welcome(&mut peer).await;
        let (queue, messages) = mpsc::unbounded_channel();
        self.clients.lock().unwrap().insert(node, queue);
        let (sink, source) = peer.split();
        tokio::select! {
            () = Self::deliver(sink, messages) => {}
            () = self.read(node, source) => {}
        }
    }

    async fn deliver(mut sink: SplitSink<Peer, Message>, mut messages: mpsc::UnboundedReceiver<Bytes>) {
        while let Some(message) = messages.recv().await {
            if sink.send(Message::Binary(message)).await.is_err() {
                return;
            }
        }
    }

    async fn read(&self, node: u32, mut source: SplitStream<Peer>) {
        while let Some(Ok(message)) = source.next().await {
            let Message::Binary(data) = message else { continue };
            match beacon::decode(&data) {
                Ok(Beacon::Relay { sender, dest, frame }) if sender == node => {
                    self.relayed.fetch_add(1, Ordering::Relaxed);
                    let mut delivery = Vec::new();
                    Beacon::RelayDeliver { sender, frame }.encode(&mut delivery);
                    if let Some(queue) = self.clients.lock().unwrap().get(&dest) {
                        let _ = queue.send(delivery.into());
                    }
                }
                Ok(Beacon::Discover { node: own, .. }) if own == node => {}
                _ => drop(self.foreign.fetch_add(1, Ordering::Relaxed)),
            }
        }
    }
}

/// A node over the compat transport; its peers' keys and addresses come from `keys`, as the registry would give them.
async fn compat_node(port: u16, node: u32, keys: HashMap<u32, [u8; 32]>) -> (Node, Client) {
    let clock = Clock::start();
    let mut seed = [0; 32];
    seed[..4].copy_from_slice(&node.to_be_bytes());
    let identity = Arc::new(Identity::generate(seed));
    let settings = Config { relay_only: true, ..Config::default() };
    let mut engine = Engine::new(settings, seed, clock.now());
    engine.set_identity(identity.clone());
    engine.set_node(node, true, &[]);
    engine.set_beacon(Some(BEACON_PLACEHOLDER));
    let mut settings = config(port);
    settings.timing.backoff_first = Duration::from_millis(20);
    let (client, datagrams) = Client::new(settings).unwrap();
    let (handle, NodeFeeds { mut queries, .. }) = Node::spawn(engine, datagrams, clock, Bus::new()).unwrap();
    let answering = handle.clone();
    tokio::spawn(async move {
        while let Some((id, query)) = queries.recv().await {
            let answer = match query {
                // A UDP node's address, which must not be used from here.
                Query::Resolve { .. } => Answer::Resolved(pilot_engine::Resolution {
                    real_addr: Some("198.51.100.7:4000".parse().unwrap()),
                    lan_addrs: vec!["10.0.0.7:4000".parse().unwrap()],
                    relay_only: false,
                }),
                Query::PeerKey { node } => Answer::PeerKey { key: keys.get(&node).copied(), trusted: true },
                _ => Answer::Admit(pilot_engine::Verdict::Allow),
            };
            answering.answer(id, answer).await;
        }
    });
    within(client.connect(move || Some(Credentials { node, identity: identity.clone() }))).await.unwrap();
    (handle, client)
}

fn key_of(node: u32) -> [u8; 32] {
    let mut seed = [0; 32];
    seed[..4].copy_from_slice(&node.to_be_bytes());
    Identity::generate(seed).public_key()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_stream_through_a_relay_that_loses_its_connections_meanwhile() {
    const TOTAL: usize = 4 << 20;
    let relay = Relay::default();
    let serving = relay.clone();
    let port = beacon(None, move |_, peer| serving.clone().serve(peer)).await;
    let keys: HashMap<u32, [u8; 32]> = [1, 2].map(|n| (n, key_of(n))).into();
    let (a, a_transport) = compat_node(port, 1, keys.clone()).await;
    let (b, b_transport) = compat_node(port, 2, keys).await;
    let listener = b.bind(1000).await.unwrap();
    let receiving = tokio::spawn(async move {
        let stream = listener.accept().await.unwrap();
        let mut all = Vec::new();
        while let Some(chunk) = stream.read().await.unwrap() {
            all.extend_from_slice(&chunk);
        }
        all
    });
    let stream = within(a.dial(Addr::backbone(2), 1000)).await.unwrap();
    let data: Vec<u8> = (0..TOTAL).map(|i| u8::try_from((i * 31 + i / 251) % 256).unwrap()).collect();
    for (n, piece) in data.chunks(64 << 10).enumerate() {
        within(stream.write(Bytes::copy_from_slice(piece))).await.unwrap();
        if n == 20 {
            // Both connections end; the stream must not notice more than a pause.
            relay.clients.lock().unwrap().clear();
            eventually("both back", || {
                let back = [&a_transport, &b_transport].iter().all(|c| c.status().reconnects >= 1);
                (back && relay.clients.lock().unwrap().len() == 2).then_some(())
            })
            .await;
        }
    }
    stream.close();
    assert!(tokio::time::timeout(Duration::from_secs(60), receiving).await.unwrap().unwrap() == data);
    assert!(relay.relayed.load(Ordering::Relaxed) > 1000);
    assert_eq!(relay.foreign.load(Ordering::Relaxed), 0, "every frame to a peer is wrapped for the beacon");
    within(a_transport.close()).await;
    within(b_transport.close()).await;
}
