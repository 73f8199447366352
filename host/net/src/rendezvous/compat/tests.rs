//! The WebSocket side against a client made of bytes: the recorded exchanges over loopback, and every time limit against
//! a made-up clock. The beacon's task is played by the test.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicI64;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer as _, SigningKey};
use pilot_vectors::Entry;
use pilot_wire::compat::auth::{Challenge, OK, Reply};
use pilot_wire::compat::http::{head_end, upgrade_request};
use pilot_wire::compat::{
    AUTH_TIMEOUT, Close, GO_CLIENT_MAX_MESSAGE, HEAD_TIMEOUT, IDLE_LIMIT, MAX_MESSAGE, PATH, WRITE_TIMEOUT,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::time::Instant;

use super::*;
use crate::tls::{ClientTls, ServerTls};

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
/// The sample key of RFC 6455, which the recorded requests use too.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// A WebSocket side whose keys, clock and nonce are the test's.
struct Rig {
    shared: Shared,
    bridge: Bridge,
    clock: Arc<AtomicI64>,
    nonce: Arc<Mutex<[u8; 32]>>,
    keys: Arc<Mutex<BTreeMap<u32, [u8; 32]>>>,
}

impl Rig {
    fn new(max_clients: usize) -> Self {
        let clock = Arc::new(AtomicI64::new(1_780_000_000));
        let nonce = Arc::new(Mutex::new([0x5A; 32]));
        let keys = Arc::new(Mutex::new(BTreeMap::from([(7, own_key().verifying_key().to_bytes())])));
        let (ticking, random, known) = (clock.clone(), nonce.clone(), keys.clone());
        let senses = Senses {
            now: Arc::new(move || ticking.load(Ordering::Relaxed)),
            nonce: Arc::new(move || Ok(*random.lock().unwrap())),
            max_age: CompatListen::CHALLENGE_MAX_AGE.into(),
        };
        let key_of = Arc::new(move |node| known.lock().unwrap().get(&node).copied());
        let (shared, bridge) =
            Shared::new(key_of, senses, max_clients, TaskTracker::new(), CancellationToken::new());
        Self { shared, bridge, clock, nonce, keys }
    }

    /// A connection that is not on any network.
    fn connect(&self, buffer: usize) -> Raw<DuplexStream> {
        let (near, far) = duplex(buffer);
        let shared = self.shared.clone();
        let stranger = shared.strangers.clone().try_acquire_owned().unwrap();
        tokio::spawn(async move { door::serve(far, stranger, &shared).await });
        Raw(near)
    }

    /// A listener on loopback.
    async fn listen(&self, certificate: Option<Certificate>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(run(listener, certificate, self.shared.clone()));
        addr
    }

    /// The next attachment, let in.
    async fn attached(&mut self) -> (u32, u64, Client) {
        match self.bridge.messages.recv().await.unwrap() {
            FromClient::Attach { node, connection, client, done } => {
                done.send(()).unwrap();
                (node, connection, client)
            }
            other => panic!("{other:?}"),
        }
    }

    /// The next message.
    async fn message(&mut self) -> Bytes {
        match self.bridge.messages.recv().await.unwrap() {
            FromClient::Message { data, .. } => data,
            other => panic!("{other:?}"),
        }
    }

    async fn detached(&mut self) -> (u32, u64) {
        match self.bridge.messages.recv().await.unwrap() {
            FromClient::Detach { node, connection } => (node, connection),
            other => panic!("{other:?}"),
        }
    }

    /// A connection whose node 7 has met the challenge.
    async fn inside(&mut self, buffer: usize) -> (Raw<DuplexStream>, Client) {
        let mut raw = self.connect(buffer);
        raw.upgrade().await;
        raw.meet(7, &own_key()).await;
        let (node, _, client) = self.attached().await;
        assert_eq!((node, raw.frame().await), (7, (TEXT, OK.into())));
        (raw, client)
    }
}

fn own_key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

/// A frame as a client sends it.
fn masked(kind: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];
    let mut frame = vec![0x80 | kind];
    match payload.len() {
        len @ 0..126 => frame.push(0x80 | len as u8),
        len @ 126..65_536 => {
            frame.push(0x80 | 126);
            frame.extend((len as u16).to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// The payload of a close frame.
fn farewell(close: Close) -> (u8, Vec<u8>) {
    (CLOSE, [&close.code.to_be_bytes()[..], close.reason.as_bytes()].concat())
}

/// The client's end, by hand.
struct Raw<S>(S);

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    async fn exactly(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    /// The head of an answer.
    async fn head(&mut self) -> String {
        let mut bytes = Vec::new();
        while head_end(&bytes).is_none() {
            bytes.push(self.0.read_u8().await.unwrap());
        }
        String::from_utf8(bytes).unwrap()
    }

    async fn upgrade(&mut self) {
        self.send(&upgrade_request("b", PATH, KEY)).await;
        let head = self.head().await;
        assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    }

    /// Type and payload of the next frame, which no server masks.
    async fn frame(&mut self) -> (u8, Vec<u8>) {
        let head = self.exactly(2).await;
        let len = match head[1] {
            126 => usize::from(self.0.read_u16().await.unwrap()),
            127 => usize::try_from(self.0.read_u64().await.unwrap()).unwrap(),
            len => usize::from(len),
        };
        assert_eq!(head[0] & 0xF0, 0x80);
        (head[0] & 0x0F, self.exactly(len).await)
    }

    /// Answers the challenge as `node` with `key`.
    async fn meet(&mut self, node: u32, key: &SigningKey) {
        let (kind, text) = self.frame().await;
        assert_eq!(kind, TEXT);
        let asked = Challenge::decode(&text).unwrap();
        let signature = key.sign(asked.signed_bytes(node).as_bytes()).to_bytes();
        let reply = Reply::encode(node, key.verifying_key().as_bytes(), &signature);
        self.send(&masked(TEXT, reply.as_bytes())).await;
    }

    async fn ends(&mut self) {
        assert_eq!(self.0.read(&mut [0]).await.unwrap(), 0);
    }
}

// ---- the recorded exchanges

#[test]
fn recorded_exchanges_with_a_live_server() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    pilot_vectors::run("pilot-net compat beacon", &["wss"], |_, entry| runtime.block_on(recorded(entry)));
}

async fn recorded(entry: &Entry) {
    let mut rig = Rig::new(100);
    let addr = rig.listen(None).await;
    let mut raw = Raw(TcpStream::connect(addr).await.unwrap());
    match entry.kind.as_str() {
        "http" => http(entry, &rig, raw).await,
        "upgrade" => {
            raw.send(&entry.bytes).await;
            assert!(raw.head().await.contains("\r\nSec-Websocket-Protocol: pilot.v1\r\n"));
            assert_eq!(raw.frame().await.0, TEXT);
        }
        "auth" => {
            // This beacon's challenge has a time; those of old ones are the client's business.
            let Some(ts) = entry.fields.get("ts").and_then(|ts| ts.as_i64()) else { return };
            rig.asks(entry.text("nonce"), ts);
            let node = u32::try_from(entry.number("node_id")).unwrap();
            rig.knows(node, entry.text("public_key"));
            raw.upgrade().await;
            assert_eq!(raw.frame().await, (TEXT, entry.text("challenge_text").into()));
            raw.send(&masked(TEXT, &entry.bytes)).await;
            assert_eq!(rig.attached().await.0, node);
            assert_eq!(raw.frame().await, (TEXT, entry.text("ok_text").into()));
        }
        "reply" => {
            let asked = &entry.fields["challenge"];
            rig.asks(asked["nonce"].as_str().unwrap(), asked["ts"].as_i64().unwrap());
            rig.knows(4242, entry.text("registered_public_key"));
            raw.upgrade().await;
            assert_eq!(raw.frame().await.0, TEXT);
            raw.send(&masked(TEXT, &entry.bytes)).await;
            if entry.fields["accept"].as_bool().unwrap() {
                assert_eq!(rig.attached().await.0, 4242);
                assert_eq!(raw.frame().await, (TEXT, OK.into()));
            } else {
                assert_eq!(raw.frame().await, farewell(Close::AUTH_FAILED));
                raw.ends().await;
            }
        }
        "freshness" => {
            raw.upgrade().await;
            let asked = raw.frame().await.1;
            rig.clock.fetch_add(i64::try_from(entry.number("age_s")).unwrap(), Ordering::Relaxed);
            let signed = Challenge::decode(&asked).unwrap().signed_bytes(7);
            let key = own_key();
            let signature = key.sign(signed.as_bytes()).to_bytes();
            let reply = Reply::encode(7, key.verifying_key().as_bytes(), &signature);
            raw.send(&masked(TEXT, reply.as_bytes())).await;
            if entry.fields["accept"].as_bool().unwrap() {
                assert_eq!(rig.attached().await.0, 7);
            } else {
                assert_eq!(raw.frame().await, farewell(Close::AUTH_FAILED));
            }
        }
        "ws" => frames(entry, &mut rig, raw).await,
        "read" => limits(entry, &mut rig, raw).await,
        kind => panic!("no rule for kind {kind}"),
    }
}

impl Rig {
    fn asks(&self, nonce: &str, ts: i64) {
        *self.nonce.lock().unwrap() = hex::decode(nonce).unwrap().try_into().unwrap();
        self.clock.store(ts, Ordering::Relaxed);
    }

    fn knows(&self, node: u32, key: &str) {
        self.keys.lock().unwrap().insert(node, STANDARD.decode(key).unwrap().try_into().unwrap());
    }
}

async fn http(entry: &Entry, rig: &Rig, mut raw: Raw<TcpStream>) {
    rig.asks(&format!("{}5a", "11".repeat(31)), 1_780_000_001);
    raw.send(entry.text("request_text").as_bytes()).await;
    if entry.error {
        let answer = entry.text("response_text");
        assert_eq!(String::from_utf8(raw.exactly(answer.len()).await).unwrap(), answer);
        if answer.contains("\r\nConnection: close\r\n") {
            raw.ends().await;
        }
        return;
    }
    // Head, challenge, and the end of a challenge that was not met: here by a message that is no text.
    raw.send(&masked(BINARY, b"x")).await;
    assert_eq!(raw.exactly(entry.bytes.len()).await, entry.bytes);
    raw.ends().await;
}

async fn frames(entry: &Entry, rig: &mut Rig, mut raw: Raw<TcpStream>) {
    rig.knows(4242, &STANDARD.encode(own_key().verifying_key()));
    raw.upgrade().await;
    if entry.fields.get("code").and_then(|c| c.as_u64()) == Some(1008) {
        raw.meet(4242, &SigningKey::from_bytes(&[8; 32])).await;
        assert_eq!(raw.exactly(entry.bytes.len()).await, entry.bytes);
        return;
    }
    raw.meet(4242, &own_key()).await;
    let (_, _, client) = rig.attached().await;
    assert_eq!(raw.frame().await, (TEXT, OK.into()));
    if entry.fields.contains_key("code") {
        assert_eq!(entry.text("reason"), Close::REPLACED.reason);
        client.replace();
        assert_eq!(raw.exactly(entry.bytes.len()).await, entry.bytes);
        return;
    }
    let payload = entry.hex("payload_hex");
    let kind = if entry.text("opcode") == "ping" { PING } else { BINARY };
    assert_eq!(masked(kind, &payload), entry.bytes);
    raw.send(&entry.bytes).await;
    match kind {
        PING => assert_eq!(raw.frame().await, (PONG, payload)),
        _ => assert_eq!(rig.message().await, payload),
    }
}

async fn limits(entry: &Entry, rig: &mut Rig, mut raw: Raw<TcpStream>) {
    let len = usize::try_from(entry.number("message_bytes")).unwrap();
    raw.upgrade().await;
    raw.meet(7, &own_key()).await;
    let (_, _, client) = rig.attached().await;
    assert_eq!(raw.frame().await, (TEXT, OK.into()));
    let message = vec![0xA5; len];
    if entry.name.contains("client") {
        // What such a client takes is sent to it, and nothing larger.
        client.send(&vec![1; len + 1]);
        client.send(&message);
        assert_eq!((raw.frame().await, len), ((BINARY, message), GO_CLIENT_MAX_MESSAGE));
        return;
    }
    // The close may come while the last of it is still being sent.
    let _ = raw.0.write_all(&masked(BINARY, &message)).await;
    if entry.fields["accept"].as_bool().unwrap() {
        assert_eq!((rig.message().await, len), (message.into(), MAX_MESSAGE));
    } else {
        let (kind, payload) = raw.frame().await;
        let code = u16::try_from(entry.number("close_code")).unwrap();
        assert_eq!((kind, &payload[..2]), (CLOSE, &code.to_be_bytes()[..]));
    }
}

// ---- time limits

#[tokio::test(start_paused = true)]
async fn a_head_has_five_seconds() {
    let rig = Rig::new(1);
    let began = Instant::now();
    let mut raw = rig.connect(4096);
    raw.send(b"GET /health HTTP/1.1\r\nHost: b\r\n\r\nGET /v1/com").await;
    assert!(raw.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
    raw.ends().await;
    assert_eq!(began.elapsed().as_secs(), HEAD_TIMEOUT.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_challenge_has_ten_seconds() {
    let rig = Rig::new(1);
    let mut raw = rig.connect(4096);
    raw.upgrade().await;
    let began = Instant::now();
    assert_eq!(raw.frame().await.0, TEXT);
    raw.send(&masked(PING, b"1")).await;
    assert_eq!(raw.frame().await.0, PONG);
    assert_eq!(raw.frame().await, farewell(Close::AUTH_FAILED));
    assert_eq!(began.elapsed().as_secs(), AUTH_TIMEOUT.as_secs());
}

#[tokio::test(start_paused = true)]
async fn data_keeps_a_client_and_pings_do_not() {
    let mut rig = Rig::new(1);
    let (mut raw, _client) = rig.inside(4096).await;
    let mut last = Instant::now();
    for kind in [BINARY, TEXT] {
        sleep(Duration::from_secs(80)).await;
        raw.send(&masked(kind, b"x")).await;
        last = Instant::now();
        if kind == BINARY {
            assert_eq!(rig.message().await, b"x"[..]);
        }
    }
    for _ in 0..2 {
        sleep(Duration::from_secs(30)).await;
        raw.send(&masked(PING, b"1")).await;
        assert_eq!(raw.frame().await, (PONG, b"1".into()));
    }
    assert_eq!(rig.detached().await, (7, 0));
    assert_eq!(raw.frame().await, farewell(Close::READ_LOOP_EXIT));
    assert_eq!(last.elapsed().as_secs(), IDLE_LIMIT.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_dropped() {
    let mut rig = Rig::new(1);
    let (mut raw, client) = rig.inside(4096).await;
    let message = vec![3; 1000];
    for _ in 0..2 * client::QUEUE {
        client.send(&message);
    }
    let began = Instant::now();
    let traffic = rig.bridge.counts.traffic();
    assert_eq!(traffic.sent + traffic.lost, 2 * client::QUEUE as u64);
    assert!(traffic.sent <= client::QUEUE as u64, "the queue has a bound");
    // It talks, so it is not idle.
    sleep(Duration::from_secs(60)).await;
    raw.send(&masked(BINARY, b"x")).await;
    assert_eq!(rig.message().await, b"x"[..]);
    assert_eq!(rig.detached().await, (7, 0));
    assert_eq!(began.elapsed().as_secs(), WRITE_TIMEOUT.as_secs());
}

#[tokio::test]
async fn a_queue_is_bounded_in_bytes_too() {
    let counts = Arc::new(Counts::default());
    let (client, _outgoing) = Client::new(counts.clone());
    let message = vec![0; GO_CLIENT_MAX_MESSAGE];
    for _ in 0..client::QUEUE {
        client.send(&message);
    }
    let most = client::QUEUE_BYTES / GO_CLIENT_MAX_MESSAGE;
    assert_eq!(counts.traffic().sent, most as u64);
}

// ---- places, ends, certificates

#[tokio::test]
async fn a_full_house_says_so_and_a_place_comes_back() {
    let mut rig = Rig::new(1);
    let (first, _client) = rig.inside(4096).await;
    let mut second = rig.connect(4096);
    second.send(&upgrade_request("b", PATH, KEY)).await;
    let answer = second.head().await;
    assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
    assert_eq!(second.exactly(17).await, b"wss: at capacity\n");
    second.send(b"GET /health HTTP/1.1\r\nHost: b\r\n\r\n").await;
    assert!(second.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
    drop(first);
    assert_eq!(rig.detached().await, (7, 0));
    // On the same connection: the refusal did not end it.
    while rig.shared.places.available_permits() == 0 {
        tokio::task::yield_now().await;
    }
    second.upgrade().await;
}

#[tokio::test]
async fn what_is_no_request_is_refused() {
    let rig = Rig::new(1);
    for request in [&b"\xFF\xFF\r\n\r\n"[..], b"nonsense\r\n\r\n", &[b'a'; 20 << 10]] {
        let mut raw = rig.connect(32 << 10);
        raw.send(request).await;
        assert!(raw.head().await.starts_with("HTTP/1.1 400 Bad Request\r\n"));
        assert_eq!(raw.exactly(23).await, b"malformed HTTP request\n");
        raw.ends().await;
    }
}

#[tokio::test]
async fn a_server_that_stops_says_so_to_everyone() {
    let mut rig = Rig::new(10);
    let (mut inside, _client) = rig.inside(4096).await;
    let mut coming = rig.connect(4096);
    coming.upgrade().await;
    assert_eq!(coming.frame().await.0, TEXT);
    rig.shared.stop.cancel();
    assert_eq!(inside.frame().await, farewell(Close::BEACON_STOPS));
    assert_eq!(coming.frame().await, farewell(Close { code: 1001, reason: "server shutting down" }));
    inside.ends().await;
}

#[tokio::test]
async fn a_client_that_says_goodbye_is_answered() {
    let mut rig = Rig::new(10);
    let (mut raw, _client) = rig.inside(4096).await;
    let goodbye = farewell(Close { code: 1000, reason: "bye" });
    raw.send(&masked(CLOSE, &goodbye.1)).await;
    assert_eq!(raw.frame().await, goodbye);
    raw.ends().await;
    assert_eq!(rig.detached().await, (7, 0));
}

#[tokio::test]
async fn a_changed_certificate_is_shown_without_a_restart() {
    let [first, second] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let old = ServerTls::self_signed(Some(first.path())).unwrap().fingerprint().to_owned();
    let new = ServerTls::self_signed(Some(second.path())).unwrap().fingerprint().to_owned();
    let files = CertificateFiles {
        certificate: first.path().join("tls-cert.pem"),
        key: first.path().join("tls-key.pem"),
    };
    let rig = Rig::new(1);
    let addr = rig.listen(Some(Certificate::load(files).unwrap())).await;
    let connect = |pin: &str| {
        let connector = ClientTls::pinned(pin).unwrap().connector();
        async move {
            let tcp = TcpStream::connect(addr).await.unwrap();
            connector.connect("localhost".try_into().unwrap(), tcp).await
        }
    };
    let mut raw = Raw(connect(&old).await.unwrap());
    raw.upgrade().await;
    connect(&new).await.unwrap_err();
    for name in ["tls-cert.pem", "tls-key.pem"] {
        std::fs::copy(second.path().join(name), first.path().join(name)).unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    while connect(&new).await.is_err() {
        assert!(Instant::now() < deadline, "the new certificate is not shown");
        sleep(Duration::from_millis(50)).await;
    }
    connect(&old).await.unwrap_err();
    // Who was inside stays.
    assert_eq!(raw.frame().await.0, TEXT);
}
