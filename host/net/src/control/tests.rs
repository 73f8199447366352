//! Both ends over loopback, and clients that do not keep to the rules.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pilot_wire::zap::{Request, TypeOctet, encode_frame, keep_alive_frame};
use pilot_wire::zwing::{Identity, Initiator, SEEDS_LEN, SeenAnswers};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

use super::keys::Keys;
use super::secured::{FrameReader, FrameWriter, LinkError, initiate};
use super::*;

/// A backend that answers with what it was asked.
#[derive(Default)]
struct Mock {
    waiting: AtomicUsize,
    dropped: Notify,
    changes: watch::Sender<u64>,
}

fn cluster(note: impl Into<String>) -> Option<ClusterInfo> {
    Some(ClusterInfo { root_data_dir: note.into(), ..ClusterInfo::default() })
}

type Maybe = BackendResult<Option<ClusterInfo>>;

impl Backend for Mock {
    /// What the recorded exchanges say.
    async fn ping(&self) -> BackendResult<i32> {
        Ok(42)
    }

    async fn health(&self) -> Maybe {
        Ok(None)
    }

    /// Never answers; counts how many wait, and says when one is dropped.
    async fn wait_for_healthy(&self) -> Maybe {
        struct Leave<'a>(&'a Mock);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                self.0.waiting.fetch_sub(1, Ordering::SeqCst);
                self.0.dropped.notify_one();
            }
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let _leave = Leave(self);
        std::future::pending().await
    }

    async fn uris(&self) -> BackendResult<Vec<String>> {
        Ok(vec!["unix:///a".into()])
    }

    async fn status(&self) -> Maybe {
        Err(BackendError::new("not bootstrapped"))
    }

    async fn snapshot(&self) -> Option<ClusterInfo> {
        cluster(self.changes.borrow().to_string())
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    async fn start(&self, request: Start) -> BackendResult<Created> {
        Ok(Created { cluster: cluster(request.exec_path), ids: vec!["7".into()] })
    }

    async fn stop(&self) -> Maybe {
        Ok(None)
    }

    async fn add_node(&self, request: AddNode) -> Maybe {
        Ok(cluster(request.name))
    }

    async fn remove_node(&self, name: String) -> Maybe {
        if name == "nope" { Err(BackendError::new("node not found")) } else { Ok(cluster(name)) }
    }

    async fn restart_node(&self, request: RestartNode) -> Maybe {
        Ok(cluster(request.name))
    }

    async fn pause_node(&self, name: String) -> Maybe {
        panic!("cannot pause {name}")
    }

    async fn resume_node(&self, name: String) -> Maybe {
        Ok(cluster(name))
    }

    async fn attach_peer(&self, node: String) -> BackendResult<(Option<ClusterInfo>, String)> {
        Ok((None, format!("peer of {node}")))
    }

    async fn send_outbound_message(&self, request: SendOutboundMessage) -> BackendResult<bool> {
        Ok(request.body == b"yes")
    }

    async fn create_chains(&self, specs: Vec<ChainSpec>) -> BackendResult<Created> {
        Ok(Created { cluster: None, ids: specs.into_iter().map(|s| s.name).collect() })
    }

    async fn save_snapshot(&self, name: String) -> BackendResult<String> {
        Ok(format!("/cold/{name}"))
    }

    async fn save_hot_snapshot(&self, name: String) -> BackendResult<String> {
        Ok(format!("/hot/{name}"))
    }

    async fn load_snapshot(&self, request: LoadSnapshot) -> Maybe {
        Ok(cluster(request.snapshot_name))
    }

    async fn remove_snapshot(&self, _: String) -> BackendResult<()> {
        Ok(())
    }

    async fn snapshot_names(&self) -> BackendResult<Vec<String>> {
        Ok(vec!["a".into(), "b".into()])
    }
}

/// Waits, but not for ever.
async fn soon<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("in time")
}

fn keys(seed: u8) -> Keys {
    Keys::from_seeds([seed; SEEDS_LEN])
}

/// Accepts the holder of these keys.
fn only(keys: &Keys) -> Expect {
    Expect::OneOf(vec![Expected::from_bytes(keys.identity().public().signing_identity()).unwrap()])
}

const SERVER: u8 = 1;
const CALLER: u8 = 2;
const STRANGER: u8 = 3;

async fn server(config: ServerConfig) -> (Server, Arc<Mock>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = Arc::new(Mock::default());
    let server = serve(listener, &keys(SERVER), config, Arc::clone(&backend)).unwrap();
    (server, backend)
}

fn expecting() -> ServerConfig {
    ServerConfig { expect: only(&keys(CALLER)), ..ServerConfig::default() }
}

async fn client(server: &Server) -> Client {
    Client::dial(server.address(), &keys(CALLER), &ClientConfig::new(only(&keys(SERVER)))).await.unwrap()
}

type Raw = (FrameReader<TcpStream>, FrameWriter<TcpStream>);

/// A caller that may write what it likes.
async fn raw(server: &Server) -> Raw {
    let stream = TcpStream::connect(server.address()).await.unwrap();
    let initiator = Initiator::new(keys(CALLER).fresh().unwrap(), only(&keys(SERVER)));
    let (reader, writer, _) = initiate(stream, initiator, None).await.unwrap();
    (reader, writer)
}

#[tokio::test]
async fn every_call_reaches_its_method() {
    let (server, _backend) = server(expecting()).await;
    let c = client(&server).await;
    let note = |c: Option<ClusterInfo>| c.unwrap().root_data_dir;
    assert_eq!(c.ping().await, Ok(42));
    assert_eq!(c.rpc_version().await, Ok(1));
    assert_eq!(c.health().await, Ok(None));
    assert_eq!(c.status().await, Err(CallError::Remote("not bootstrapped".into())));
    assert_eq!(c.status().await.unwrap_err().to_string(), "remote error: not bootstrapped");
    assert_eq!(c.uris().await.unwrap(), ["unix:///a"]);
    let start = Start { exec_path: "/bin/x".into(), ..Start::default() };
    let created = c.start(start).await.unwrap();
    assert_eq!((note(created.cluster), created.ids), ("/bin/x".into(), vec!["7".to_owned()]));
    assert_eq!(c.stop().await, Ok(None));
    let add = AddNode { name: "n1".into(), ..AddNode::default() };
    assert_eq!(note(c.add_node(add).await.unwrap()), "n1");
    assert_eq!(note(c.remove_node("n2").await.unwrap()), "n2");
    let restart = RestartNode { name: "n3".into(), ..RestartNode::default() };
    assert_eq!(note(c.restart_node(restart).await.unwrap()), "n3");
    assert_eq!(note(c.resume_node("n4").await.unwrap()), "n4");
    assert_eq!(c.attach_peer("n5").await.unwrap(), "peer of n5");
    for (body, sent) in [("yes", true), ("no", false)] {
        let message = SendOutboundMessage { body: body.into(), ..SendOutboundMessage::default() };
        assert_eq!(c.send_outbound_message(message).await, Ok(sent));
    }
    let spec = ChainSpec { name: "net".into(), ..ChainSpec::default() };
    assert_eq!(c.create_chains(vec![spec]).await.unwrap().ids, ["net"]);
    assert_eq!(c.save_snapshot("s", false).await.unwrap(), "/cold/s");
    assert_eq!(c.save_snapshot("s", true).await.unwrap(), "/hot/s");
    let load = LoadSnapshot { snapshot_name: "s".into(), ..LoadSnapshot::default() };
    assert_eq!(note(c.load_snapshot(load).await.unwrap()), "s");
    assert_eq!(c.remove_snapshot("s").await, Ok(()));
    assert_eq!(c.snapshot_names().await.unwrap(), ["a", "b"]);
    let reserved = Request::Reserved(pilot_wire::zap::Rpc::TransformElasticChains);
    let refused = c.call(&reserved).await;
    assert_eq!(refused, Err(CallError::Remote("unsupported by this backend".into())));
    server.stop().await;
    assert_eq!(c.ping().await, Err(CallError::Closed));
}

#[tokio::test]
async fn a_panic_answers_its_own_call_and_nobody_elses() {
    let (server, _backend) = server(expecting()).await;
    let c = client(&server).await;
    let paused = c.pause_node("n1").await;
    assert_eq!(paused, Err(CallError::Remote("handler panic: cannot pause n1".into())));
    assert_eq!(c.rpc_version().await, Ok(1));
}

#[tokio::test]
async fn strangers_and_impostors_are_refused() {
    let (server, _backend) = server(expecting()).await;
    // The server does not know the caller: it closes without a word.
    let stranger =
        Client::dial(server.address(), &keys(STRANGER), &ClientConfig::new(only(&keys(SERVER)))).await;
    assert!(matches!(stranger, Err(DialError::Handshake(LinkError::Io(_)))), "{stranger:?}");
    // The caller does not know the server.
    let impostor =
        Client::dial(server.address(), &keys(CALLER), &ClientConfig::new(only(&keys(STRANGER)))).await;
    let text = impostor.unwrap_err().to_string();
    assert_eq!(text, "control: zwing: remote identity does not match expected");
    // The rules unless told otherwise let nobody in.
    let (closed, _backend) = self::server(ServerConfig::default()).await;
    let nobody = Client::dial(closed.address(), &keys(CALLER), &ClientConfig::new(only(&keys(SERVER)))).await;
    assert!(nobody.is_err());
    assert_eq!(client(&server).await.rpc_version().await, Ok(1));
}

#[tokio::test]
async fn static_keys_remember_what_they_saw() {
    // A server that pins all 3200 bytes.
    let whole = Expect::OneOf(vec![Expected::Whole(keys(CALLER).identity().public().clone())]);
    let (server, _backend) = server(ServerConfig { expect: whole, ..ServerConfig::default() }).await;
    let fresh = Client::dial(server.address(), &keys(CALLER), &ClientConfig::new(only(&keys(SERVER)))).await;
    assert!(fresh.is_err(), "fresh keys are not the pinned ones");
    let seen = Arc::new(Mutex::new(SeenAnswers::default()));
    let config =
        ClientConfig { static_keys: Some(Arc::clone(&seen)), ..ClientConfig::new(only(&keys(SERVER))) };
    for count in 1..=2 {
        let c = Client::dial(server.address(), &keys(CALLER), &config).await.unwrap();
        assert_eq!(c.rpc_version().await, Ok(1));
        assert_eq!(seen.lock().unwrap().hashes().count(), count);
    }
}

/// A server in the middle that plays a recorded answer to whoever comes.
#[tokio::test]
async fn a_replayed_answer_is_refused() {
    let identity = || Identity::from_seeds(&[CALLER; SEEDS_LEN]);
    let initiator = Initiator::new(identity(), Expect::Any);
    let random = pilot_wire::zwing::Encapsulation { m: [4; 32].into(), x25519: [5; 32].into() };
    let hello = &initiator.hello()[4..];
    let server = keys(SERVER).identity();
    let (recorded, ..) = pilot_wire::zwing::respond(&server, &Expect::Any, hello, &random).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut hello = vec![0; 4 + pilot_wire::zwing::MESSAGE_1_LEN];
            stream.read_exact(&mut hello).await.unwrap();
            stream.write_all(&recorded).await.unwrap();
        }
    });
    let fresh = ClientConfig::new(only(&keys(SERVER)));
    let text = Client::dial(address, &keys(CALLER), &fresh).await.unwrap_err().to_string();
    assert_eq!(text, "control: zwing: AEAD authentication failed");
    let seen = Some(Arc::new(Mutex::new(SeenAnswers::default())));
    let config = ClientConfig { static_keys: seen, ..fresh };
    Client::dial(address, &keys(CALLER), &config).await.unwrap();
    let text = Client::dial(address, &keys(CALLER), &config).await.unwrap_err().to_string();
    assert_eq!(text, "control: zwing: the answer was used before");
}

#[tokio::test]
async fn ten_thousand_calls_in_flight_are_bounded() {
    let (server, backend) = server(expecting()).await;
    let (mut reader, mut writer) = raw(&server).await;
    let send = tokio::spawn(async move {
        for id in 1..=10_000 {
            let mut frame = Vec::new();
            Request::WaitForHealthy.encode(id, &mut frame).unwrap();
            writer.write(&frame).await.unwrap();
        }
        writer
    });
    // Refusals come for what exceeds the limit, unless they find no room either.
    let (kind, payload) = soon(reader.next()).await.unwrap().unwrap();
    assert!(kind.is_error());
    assert_eq!(&payload[4..], b"too many concurrent requests");
    let other = client(&server).await;
    assert_eq!(other.rpc_version().await, Ok(1));
    assert!(backend.waiting.load(Ordering::SeqCst) <= MAX_CALLS);
    drop(reader);
    drop(send.await);
    // All of them are dropped with their connection.
    while backend.waiting.load(Ordering::SeqCst) > 0 {
        soon(backend.dropped.notified()).await;
    }
}

#[tokio::test]
async fn a_wait_ends_with_its_caller() {
    let (server, backend) = server(expecting()).await;
    let c = client(&server).await;
    let waiting = tokio::spawn({
        let c = c.clone();
        async move { c.wait_for_healthy().await }
    });
    soon(async {
        while backend.waiting.load(Ordering::SeqCst) == 0 {
            c.ping().await.unwrap();
        }
    })
    .await;
    waiting.abort();
    let _ = waiting.await;
    drop(c);
    soon(backend.dropped.notified()).await;
    assert_eq!(backend.waiting.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn frames_that_cannot_be_followed_end_their_connection_only() {
    let (server, _backend) = server(expecting()).await;
    let good = client(&server).await;
    // A frame above 16 MiB.
    let (mut reader, mut writer) = raw(&server).await;
    writer.write(&[0x01, 0, 0, 1, 60]).await.unwrap();
    assert!(matches!(soon(reader.next()).await, Ok(None) | Err(_)));
    // The first half of a frame.
    let (mut reader, mut writer) = raw(&server).await;
    writer.write(&[0, 0, 0, 4, 60, 0]).await.unwrap();
    writer.finish().await;
    assert!(matches!(soon(reader.next()).await, Ok(None) | Err(_)));
    // Frames without an id are skipped.
    let (mut reader, mut writer) = raw(&server).await;
    let mut frames = vec![0, 0, 0, 3, 60, 1, 2, 3];
    Request::RpcVersion.encode(9, &mut frames).unwrap();
    writer.write(&frames).await.unwrap();
    let (kind, payload) = soon(reader.next()).await.unwrap().unwrap();
    assert_eq!((kind, payload), (TypeOctet(61).success(), vec![0, 0, 0, 9, 0, 0, 0, 1]));
    // A frame in as many records as it has octets.
    let mut frame = Vec::new();
    Request::RpcVersion.encode(10, &mut frame).unwrap();
    for octet in frame {
        writer.write(&[octet]).await.unwrap();
    }
    assert_eq!(soon(reader.next()).await.unwrap().unwrap().1[..4], [0, 0, 0, 10]);
    // Bytes that are no record.
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(&[0xFF; 64]).await.unwrap();
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0);
    assert_eq!(good.rpc_version().await, Ok(1));
}

#[tokio::test]
async fn silent_callers_keep_nobody_out() {
    let config = ServerConfig { max_half_open: 4, max_connections: 6, ..expecting() };
    let (server, _backend) = server(config).await;
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(TcpStream::connect(server.address()).await.unwrap());
    }
    // Nothing is free: the one who has been silent longest makes room, the others may still speak.
    let c = client(&server).await;
    assert_eq!(c.rpc_version().await, Ok(1));
    assert_eq!(silent.remove(0).read(&mut [0; 8]).await.unwrap_or(0), 0, "closed");
    let other = client(&server).await;
    assert_eq!(other.rpc_version().await, Ok(1));
    // Whoever has proved to be there is not half open any more, and stays.
    for _ in 0..20 {
        silent.push(TcpStream::connect(server.address()).await.unwrap());
        assert_eq!(c.rpc_version().await, Ok(1));
    }
}

/// Whoever has seen one handshake can play its first message as often as he likes.
#[tokio::test]
async fn replayed_hellos_cost_what_they_may_and_keep_nobody_out() {
    let config = ServerConfig { max_half_open: 4, ..expecting() };
    let (server, _backend) = server(config).await;
    let recorded = Initiator::new(keys(CALLER).fresh().unwrap(), only(&keys(SERVER))).hello().to_vec();
    let mut answered = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(&recorded).await.unwrap();
        let mut answer = vec![0; 4 + pilot_wire::zwing::MESSAGE_2_LEN];
        stream.read_exact(&mut answer).await.unwrap();
        answered.push((stream, answer));
    }
    assert_ne!(answered[0].1, answered[1].1, "each has keys of its own, which the replayer does not have");
    // A record that is sealed with none of them.
    let (stream, _) = answered.last_mut().unwrap();
    stream.write_all(&[0, 0, 0, 20]).await.unwrap();
    stream.write_all(&[7; 20]).await.unwrap();
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0, "closed");
    assert_eq!(client(&server).await.rpc_version().await, Ok(1));
}

#[tokio::test(start_paused = true)]
async fn handshakes_are_spread_over_time() {
    let pace = server::Pace::default();
    for rest in [0, 1000] {
        tokio::time::advance(server::HANDSHAKE_GAP * rest).await;
        let began = tokio::time::Instant::now();
        for _ in 0..=server::HANDSHAKE_BURST {
            pace.turn().await;
        }
        assert_eq!(began.elapsed(), Duration::ZERO, "a burst, and one");
        for _ in 0..50 {
            pace.turn().await;
        }
        assert_eq!(began.elapsed(), server::HANDSHAKE_GAP * 50);
    }
}

#[tokio::test]
async fn keep_alive_frames_while_nothing_else_is_said() {
    let config = ServerConfig { keep_alive: Some(Duration::from_millis(5)), ..expecting() };
    let (server, _backend) = server(config).await;
    let (mut reader, mut writer) = raw(&server).await;
    let mut wait = Vec::new();
    Request::WaitForHealthy.encode(1, &mut wait).unwrap();
    writer.write(&wait).await.unwrap();
    for _ in 0..3 {
        let (kind, payload) = soon(reader.next()).await.unwrap().unwrap();
        let mut frame = Vec::new();
        encode_frame(kind, &mut frame, |out| out.extend_from_slice(&payload)).unwrap();
        assert_eq!(frame, keep_alive_frame());
    }
    // Our own client does not notice them.
    assert_eq!(client(&server).await.rpc_version().await, Ok(1));
}

#[tokio::test]
async fn a_stream_pushes_changes_and_ends_when_asked() {
    let (server, backend) = server(expecting()).await;
    let c = client(&server).await;
    let mut stream = c.stream_status(Duration::from_secs(3600)).await.unwrap();
    let note = |s: Option<Option<ClusterInfo>>| s.unwrap().unwrap().root_data_dir;
    assert_eq!(note(soon(stream.next()).await.unwrap()), "0");
    backend.changes.send_replace(5);
    assert_eq!(note(soon(stream.next()).await.unwrap()), "5");
    drop(stream);
    // Its task is gone when the server has no receiver left.
    soon(backend.changes.closed()).await;
    assert_eq!(c.rpc_version().await, Ok(1));
    // A slow reader keeps the newest.
    let mut stream = c.stream_status(Duration::from_secs(3600)).await.unwrap();
    assert_eq!(note(soon(stream.next()).await.unwrap()), "5");
    server.stop().await;
    assert_eq!(soon(stream.next()).await, Err(CallError::Closed));
}

/// The recorded exchanges, against a live server.
#[tokio::test]
async fn exchange_vectors_with_a_live_server() {
    let (server, _backend) = server(expecting()).await;
    for entry in pilot_vectors::load("zap").unwrap_or_default().iter().filter(|e| e.kind == "exchange") {
        let (mut reader, mut writer) = raw(&server).await;
        let mut octets = entry.bytes.clone();
        let answer = entry.fields.get("response_hex").and_then(|v| v.as_str());
        if answer.is_none() {
            // Nothing may come for it, so what comes is for the next call.
            Request::RpcVersion.encode(77, &mut octets).unwrap();
        }
        writer.write(&octets).await.unwrap();
        let (kind, payload) = soon(reader.next()).await.unwrap().unwrap();
        let mut frame = Vec::new();
        encode_frame(kind, &mut frame, |out| out.extend_from_slice(&payload)).unwrap();
        match answer {
            Some(answer) => assert_eq!(hex::encode(frame), answer, "{}", entry.name),
            None => assert_eq!(frame[5..9], [0, 0, 0, 77], "{}", entry.name),
        }
    }
}
