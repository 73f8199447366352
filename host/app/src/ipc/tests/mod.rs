//! The dispatcher behind a real socket, with a daemon made of channels: order of frames, silence where it is due, what
//! happens when a client leaves, and every family's answers.

pub(crate) mod fake;
pub(crate) mod peer;
mod requests;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pilot_net::node::Datagram;
use pilot_wire::ipc::{Frame, Incoming, Push, Reply, Request, command, decode_frame};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use self::fake::{Fake, HANGING, PEER, REFUSED};
use super::*;

/// A daemon's socket in a directory of its own.
struct House {
    dir: TempDir,
    daemon: Arc<Fake>,
    serving: Serving,
}

impl House {
    fn open() -> House {
        let dir = tempfile::tempdir().unwrap();
        let daemon = Fake::new();
        let server = bind(&dir.path().join("s"), None).unwrap();
        let serving = serve(server, Arc::clone(&daemon) as Arc<dyn IpcBackend>);
        House { dir, daemon, serving }
    }

    async fn client(&self) -> Raw {
        let socket = UnixStream::connect(self.dir.path().join("s")).await.unwrap();
        Raw { socket, buf: BytesMut::new() }
    }
}

/// A client that sees every frame in its order.
struct Raw {
    socket: UnixStream,
    buf: BytesMut,
}

impl Raw {
    async fn send(&mut self, request: Request) {
        self.bytes(&request.encode().unwrap().to_vec()).await;
    }

    async fn bytes(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }

    async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = decode_frame(&mut self.buf).unwrap() {
                return Some(frame);
            }
            let read = self.socket.read_buf(&mut self.buf);
            let n = tokio::time::timeout(Duration::from_secs(10), read)
                .await
                .expect("the daemon answers")
                .unwrap();
            if n == 0 {
                return None;
            }
        }
    }

    async fn next(&mut self) -> Incoming {
        Incoming::decode(self.frame().await.expect("the connection is open")).unwrap()
    }

    async fn ask(&mut self, request: Request) -> Incoming {
        self.send(request).await;
        self.next().await
    }

    async fn json(&mut self, request: Request) -> Value {
        match self.ask(request).await {
            Incoming::Reply(Reply::Json { body, .. }) => serde_json::from_slice(&body).unwrap(),
            other => panic!("not JSON: {other:?}"),
        }
    }

    async fn error(&mut self, request: Request) -> String {
        match self.ask(request).await {
            Incoming::Reply(Reply::Error { message }) => message,
            other => panic!("not an error: {other:?}"),
        }
    }

    async fn dial(&mut self, port: u16) -> u32 {
        match self.ask(Request::Dial { to: PEER, port }).await {
            Incoming::Reply(Reply::DialOk { conn }) => conn,
            other => panic!("not connected: {other:?}"),
        }
    }

    /// The next frame is the answer to a health request: nothing else was said before.
    async fn nothing_more(&mut self) {
        match self.ask(Request::Health).await {
            Incoming::Reply(Reply::Json { command: command::HEALTH_OK, .. }) => {}
            other => panic!("stray frame: {other:?}"),
        }
    }
}

fn recv(conn: u32, data: &'static str) -> Incoming {
    Incoming::Push(Push::Recv { conn, data: data.into() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dial_ok_precedes_the_first_data_and_the_end() {
    let house = House::open();
    *house.daemon.greeting.lock().unwrap() = Some("early".into());
    let mut client = house.client().await;
    for _ in 0..50 {
        let conn = client.dial(7).await;
        assert_eq!(client.next().await, recv(conn, "early"));
        house.daemon.remote(conn).end();
        assert_eq!(client.next().await, Incoming::Closed { conn });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bind_ok_then_accept_then_data() {
    let house = House::open();
    *house.daemon.greeting.lock().unwrap() = Some("early".into());
    let mut client = house.client().await;
    for port in 5000..5020 {
        assert_eq!(client.ask(Request::Bind { port }).await, Incoming::Reply(Reply::BindOk { port }));
        let conn = house.daemon.arrive(port).id;
        let accept = Push::Accept { port, conn, remote: PEER, remote_port: 50_000 };
        assert_eq!(client.next().await, Incoming::Push(accept));
        assert_eq!(client.next().await, recv(conn, "early"));
    }
    assert_eq!(client.error(Request::Bind { port: 5000 }).await, "port 5000 already bound");
}

#[tokio::test]
async fn nobody_is_told_what_was_not_asked() {
    let house = House::open();
    let mut client = house.client().await;
    client.bytes(&[0, 0, 0, 3, command::SEND, 0, 0]).await; // short
    client.send(Request::Send { conn: 99_999, data: "x".into() }).await; // unknown
    client.bytes(&[0, 0, 0, 4, command::SEND_TO, 0, 0, 1]).await; // short
    client.send(Request::SendTo { to: PEER, port: REFUSED, data: "x".into() }).await; // fails
    client.send(Request::CancelDials).await;
    client.bytes(&[0, 0, 0, 0]).await; // empty frame
    client.nothing_more().await;
}

#[tokio::test]
async fn every_refusal_is_one_reply() {
    let house = House::open();
    let mut client = house.client().await;
    for (bytes, text) in [
        (&[0, 0, 0, 2, command::BIND, 0][..], "bind: missing port"),
        (&[0, 0, 0, 2, 0x1D, 1], "unknown command: 0x1D"),
        (&[0, 0, 0, 1, 0x99], "unknown command: 0x99"),
        (&[0, 0, 0, 5, command::DIAL_OK, 0, 0, 0, 1], "unknown command: 0x04"),
        (&[0, 0, 0, 2, command::HANDSHAKE, 9], "handshake: unknown sub-command 0x09"),
        (&[0, 0, 0, 1, command::ROTATE_KEY], "unknown command: 0x25"),
        (&[0, 0, 0, 5, command::PREFER_DIRECT, 0, 0, 0, 1], "unknown command: 0x2D"),
    ] {
        client.bytes(bytes).await;
        assert_eq!(client.next().await, Incoming::Reply(Reply::error(text)));
    }
    client.nothing_more().await;
}

#[tokio::test]
async fn sends_keep_their_order_and_precede_the_close() {
    let house = House::open();
    house.daemon.credit.store(0, Ordering::SeqCst);
    let mut client = house.client().await;
    let conn = client.dial(7).await;
    for text in ["one", "two", "three"] {
        client.send(Request::Send { conn, data: text.into() }).await;
    }
    // The peer takes nothing yet; the close is answered all the same.
    assert_eq!(client.ask(Request::Close { conn }).await, Incoming::Closed { conn });
    let log = &house.daemon.log;
    assert_eq!(log.count(&format!("close {conn}")), 0);
    house.daemon.remote(conn).writable.add_permits(3);
    log.saw(&format!("close {conn}")).await;
    let wanted: Vec<String> = ["one", "two", "three"].map(|t| format!("write {conn} {t}")).into();
    assert_eq!(log.all().into_iter().filter(|l| l.starts_with("write")).collect::<Vec<_>>(), wanted);
    // The receive side ends later, and is told as a push.
    house.daemon.remote(conn).end();
    assert_eq!(client.next().await, Incoming::Closed { conn });
    client.nothing_more().await;
}

#[tokio::test]
async fn close_is_answered_for_any_id_and_works_across_clients() {
    let house = House::open();
    let (mut owner, mut other) = (house.client().await, house.client().await);
    assert_eq!(owner.ask(Request::Close { conn: 77 }).await, Incoming::Closed { conn: 77 });
    house.daemon.log.saw("close foreign 77").await;
    let conn = owner.dial(7).await;
    assert_eq!(other.ask(Request::Close { conn }).await, Incoming::Closed { conn });
    house.daemon.log.saw(&format!("close {conn}")).await;
    other.send(Request::Send { conn, data: "late".into() }).await;
    other.nothing_more().await;
    owner.nothing_more().await;
}

#[tokio::test]
async fn a_failed_dial_is_answered_once() {
    let house = House::open();
    let mut client = house.client().await;
    assert_eq!(client.error(Request::Dial { to: PEER, port: REFUSED }).await, "connection refused");
    client.nothing_more().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_dials_to_one_port_take_turns() {
    let house = House::open();
    let (mut greedy, mut modest) = (house.client().await, house.client().await);
    let hanging = format!("dial {PEER} {HANGING}");
    let under_way = async |count: usize| {
        let reached = async {
            while house.daemon.log.count(&hanging) < count {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), reached).await.expect("the dials are under way");
    };
    for _ in 0..3 * turns::AT_A_TIME {
        greedy.send(Request::Dial { to: PEER, port: HANGING }).await;
    }
    under_way(turns::AT_A_TIME).await;
    // Its other dials and other clients' do not stand in that line.
    greedy.dial(7).await;
    assert_eq!(house.daemon.log.count(&hanging), turns::AT_A_TIME);
    modest.send(Request::Dial { to: PEER, port: HANGING }).await;
    under_way(turns::AT_A_TIME + 1).await;
    // Those that wait are cancelled with those that do not.
    greedy.send(Request::CancelDials).await;
    greedy.nothing_more().await;
    greedy.send(Request::Dial { to: PEER, port: HANGING }).await;
    under_way(turns::AT_A_TIME + 2).await;
    assert_eq!(house.daemon.log.count(&hanging), turns::AT_A_TIME + 2);
}

#[tokio::test]
async fn cancelled_dials_are_dropped_in_silence() {
    let house = House::open();
    let mut client = house.client().await;
    client.send(Request::Dial { to: PEER, port: HANGING }).await;
    house.daemon.log.saw(&format!("dial {PEER} {HANGING}")).await;
    client.send(Request::CancelDials).await;
    house.daemon.log.saw("dial dropped").await;
    client.nothing_more().await;
    // Later dials are not affected.
    client.dial(7).await;
}

#[tokio::test]
async fn a_client_that_leaves_is_cleaned_up_after() {
    let house = House::open();
    house.daemon.credit.store(0, Ordering::SeqCst);
    let mut client = house.client().await;
    client.ask(Request::Bind { port: 5000 }).await;
    let dialled = client.dial(7).await;
    let accepted = house.daemon.arrive(5000).id;
    client.next().await;
    client.send(Request::Send { conn: dialled, data: "last words".into() }).await;
    client.send(Request::Dial { to: PEER, port: HANGING }).await;
    house.daemon.log.saw(&format!("dial {PEER} {HANGING}")).await;
    drop(client);
    let log = &house.daemon.log;
    log.saw("unbind 5000").await;
    log.saw("dial dropped").await;
    log.saw(&format!("close {accepted}")).await;
    // What was queued goes out before the end.
    assert_eq!(log.count(&format!("close {dialled}")), 0);
    house.daemon.remote(dialled).writable.add_permits(1);
    log.saw(&format!("close {dialled}")).await;
    assert_eq!(log.count(&format!("write {dialled} last words")), 1);
    // The port is free for the next one.
    let mut next = house.client().await;
    assert_eq!(next.ask(Request::Bind { port: 5000 }).await, Incoming::Reply(Reply::BindOk { port: 5000 }));
}

#[tokio::test]
async fn data_sent_right_before_leaving_is_delivered() {
    let house = House::open();
    let mut client = house.client().await;
    let conn = client.dial(7).await;
    house.daemon.remote(conn).feed("unread");
    for _ in 0..200 {
        client.send(Request::Send { conn, data: "x".into() }).await;
    }
    client.send(Request::Close { conn }).await;
    drop(client);
    house.daemon.log.saw(&format!("close {conn}")).await;
    assert_eq!(house.daemon.log.count(&format!("write {conn} x")), 200);
}

#[tokio::test]
async fn a_client_that_does_not_read_stalls_only_itself() {
    let house = House::open();
    let (mut slow, mut quick) = (house.client().await, house.client().await);
    let stalled = slow.dial(7).await;
    let remote = house.daemon.remote(stalled);
    let piece = Bytes::from(vec![0; 64 << 10]);
    for _ in 0..2000 {
        remote.feed(piece.clone());
    }
    // The other client's stream moves on, piece by piece, while the first is stuck.
    let flowing = quick.dial(7).await;
    for _ in 0..2000 {
        house.daemon.remote(flowing).feed(piece.clone());
        assert!(matches!(quick.next().await, Incoming::Push(Push::Recv { conn, .. }) if conn == flowing));
    }
    quick.nothing_more().await;
    // Its own stream was read only as far as its queue and socket go: 128 MiB are not in memory.
    assert!(remote.reads.load(Ordering::SeqCst) < 600);
    slow.nothing_lost(stalled, 2000).await;
}

impl Raw {
    /// Reads `pieces` of 64 KiB of one stream.
    async fn nothing_lost(&mut self, wanted: u32, pieces: usize) {
        let mut bytes = 0;
        while bytes < pieces * (64 << 10) {
            match self.next().await {
                Incoming::Push(Push::Recv { conn, data }) if conn == wanted => bytes += data.len(),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_stream_that_takes_nothing_does_not_stop_another_clients_sends() {
    let house = House::open();
    house.daemon.credit.store(0, Ordering::SeqCst);
    let (mut stuck, mut free) = (house.client().await, house.client().await);
    let conn = stuck.dial(7).await;
    let flood = async {
        for _ in 0..16 {
            stuck.send(Request::Send { conn, data: vec![b'x'; 1 << 19].into() }).await;
        }
    };
    let blocked = tokio::time::timeout(Duration::from_millis(200), flood).await;
    assert!(blocked.is_err(), "the client's own socket fills up");
    house.daemon.credit.store(10, Ordering::SeqCst);
    let conn = free.dial(7).await;
    free.send(Request::Send { conn, data: "through".into() }).await;
    house.daemon.log.saw(&format!("write {conn} through")).await;
}

#[tokio::test]
async fn ports_are_released_in_both_dialects() {
    let house = House::open();
    let mut client = house.client().await;
    for (request, v1) in [(Request::Unbind { port: 5000 }, false), (Request::UnbindV1 { port: 5000 }, true)] {
        client.ask(Request::Bind { port: 5000 }).await;
        let conn = house.daemon.arrive(5000).id;
        client.next().await;
        assert_eq!(client.ask(request).await, Incoming::Reply(Reply::UnbindOk { v1, port: 5000 }));
        // Free at once, and the accepted stream lives on.
        house.daemon.remote(conn).feed("still here");
        assert_eq!(client.next().await, recv(conn, "still here"));
    }
    assert_eq!(
        client.error(Request::Unbind { port: 5000 }).await,
        "unbind: port is not owned by this client"
    );
    assert_eq!(client.error(Request::UnbindV1 { port: 5000 }).await, "unbind: port 5000 not owned by client");
    client.ask(Request::Bind { port: 5001 }).await;
    let mut thief = house.client().await;
    assert_eq!(thief.error(Request::Unbind { port: 5001 }).await, "unbind: port is not owned by this client");
}

#[tokio::test]
async fn datagrams_reach_every_client_and_are_confirmed_on_request() {
    let house = House::open();
    let (mut a, mut b) = (house.client().await, house.client().await);
    a.nothing_more().await;
    b.nothing_more().await;
    let datagram = Datagram { from: PEER, src_port: 49_170, dst_port: 5001, data: "hello".into() };
    house.daemon.datagrams.send(datagram).unwrap();
    let push = Push::Datagram { from: PEER, src_port: 49_170, dst_port: 5001, data: "hello".into() };
    assert_eq!(a.next().await, Incoming::Push(push.clone()));
    assert_eq!(b.next().await, Incoming::Push(push));

    let confirmed = |port| Request::SendToConfirmed { to: PEER, port, data: "d".into() };
    assert_eq!(
        a.ask(confirmed(5)).await,
        Incoming::Reply(Reply::Done { command: command::SEND_TO_CONFIRMED_OK })
    );
    assert_eq!(a.error(confirmed(REFUSED)).await, "sendto: no route");
}

#[tokio::test]
async fn one_client_owns_a_bounded_number_of_streams() {
    let house = House::open();
    let mut client = house.client().await;
    for _ in 0..4096 {
        client.dial(7).await;
    }
    let dial = Request::Dial { to: PEER, port: 7 };
    assert_eq!(client.error(dial).await, "dial: per-client connection quota (4096) reached");
    client.ask(Request::Close { conn: 1 }).await;
    client.dial(7).await;
}

#[tokio::test]
async fn shutdown_flushes_and_removes_the_socket() {
    let house = House::open();
    let mut client = house.client().await;
    let conn = client.dial(7).await;
    house.daemon.remote(conn).feed("before the end");
    client.send(Request::Send { conn, data: "farewell".into() }).await;
    client.send(Request::Health).await;
    house.daemon.log.saw(&format!("write {conn} farewell")).await;
    house.serving.shutdown().await;
    let mut frames = 0;
    while client.frame().await.is_some() {
        frames += 1;
    }
    assert!(frames >= 1);
    assert!(!house.dir.path().join("s").exists());
    house.daemon.log.saw(&format!("close {conn}")).await;
}

#[tokio::test]
async fn oversized_frame_ends_the_client_without_a_word() {
    let house = House::open();
    let mut client = house.client().await;
    client.bytes(&[0x00, 0x10, 0x00, 0x01, command::INFO]).await;
    assert!(client.frame().await.is_none());
}
