//! Both ends against each other and against raw sockets, each in its own temporary directory.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use bytes::Bytes;
use pilot_wire::addr::Addr;
use pilot_wire::ipc::{Push, Reply, Request, command};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::*;

const PEER: Addr = Addr { network: 0, node: 7 };

fn dir() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pilot.sock");
    (dir, path)
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn default_path_follows_the_runtime_directory() {
    assert_eq!(default_in(None), Path::new("/tmp/pilot.sock"));
    assert_eq!(default_in(Some("".into())), Path::new("/tmp/pilot.sock"));
    assert_eq!(default_in(Some("/run/user/1".into())), Path::new("/run/user/1/pilot.sock"));
}

#[tokio::test]
async fn bound_socket_is_private_and_leaves_nothing_behind() {
    let (dir, path) = dir();
    let server = IpcServer::bind(&path).unwrap();
    let meta = std::fs::metadata(&path).unwrap();
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    assert_eq!(names(dir.path()), ["pilot.sock"]);
    drop(server);
    assert!(names(dir.path()).is_empty());
}

#[tokio::test]
async fn dead_socket_is_taken_over_and_a_live_one_is_not() {
    let (dir, path) = dir();
    drop(StdListener::bind(&path).unwrap());
    assert!(path.exists(), "a plain listener leaves its file behind");
    let first = IpcServer::bind(&path).unwrap();
    let error = IpcServer::bind(&path).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, BindError::InUse { .. }));
    assert!(
        text.contains(path.to_str().unwrap()) && text.contains(&format!("process {}", std::process::id())),
        "{text}"
    );
    assert_eq!(names(dir.path()), ["pilot.sock"]);
    drop(first);
    IpcServer::bind(&path).unwrap();
}

#[tokio::test]
async fn what_is_not_ours_stays() {
    let (_dir, path) = dir();
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(IpcServer::bind(&path), Err(BindError::NotASocket { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    std::fs::remove_file(&path).unwrap();

    let server = IpcServer::bind(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "somebody else's").unwrap();
    drop(server);
    assert!(path.exists());
}

#[tokio::test]
async fn missing_directory_is_named() {
    let (_dir, path) = dir();
    let text = IpcServer::bind(&path.join("sub/pilot.sock")).unwrap_err().to_string();
    assert!(text.contains("sub/pilot.sock"), "{text}");
}

#[tokio::test]
async fn long_paths_bind_and_connect() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("d".repeat(120));
    std::fs::create_dir(&deep).unwrap();
    let path = deep.join("pilot.sock");
    let server = IpcServer::bind(&path).unwrap();
    assert!(matches!(IpcServer::bind(&path), Err(BindError::InUse { .. })));
    let (client, connection) = tokio::join!(Client::connect(&path), server.accept());
    drop((client.unwrap(), connection));
}

#[test]
fn one_of_many_starters_wins() {
    let (_dir, path) = dir();
    drop(StdListener::bind(&path).unwrap());
    let start = Arc::new(Barrier::new(8));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let (path, start) = (path.clone(), Arc::clone(&start));
            std::thread::spawn(move || {
                start.wait();
                bind::bind(&path, None)
            })
        })
        .collect();
    let outcomes: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
    assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), 1, "{outcomes:?}");
    StdStream::connect(&path).unwrap();
}

#[tokio::test]
async fn clients_beyond_the_limit_see_an_end() {
    let (_dir, path) = dir();
    let server = IpcServer::limited(&path, 1);
    let first = tokio::net::UnixStream::connect(&path).await.unwrap();
    let served = server.accept().await;
    let mut second = tokio::net::UnixStream::connect(&path).await.unwrap();
    let third = tokio::select! {
        _ = server.accept() => panic!("the limit is one"),
        end = second.read_u8() => end,
    };
    assert_eq!(third.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    drop((served, first));
    let (again, _) = tokio::join!(tokio::net::UnixStream::connect(&path), server.accept());
    again.unwrap();
}

/// A daemon's end for tests: raw frames in, typed frames out.
struct Daemon {
    reader: FrameReader,
    outbox: Outbox,
}

impl Daemon {
    async fn next(&mut self) -> Option<Request> {
        self.reader.next().await.unwrap().map(|frame| Request::decode(frame).unwrap())
    }

    async fn reply(&self, reply: Reply) {
        self.outbox.send(reply.encode().unwrap()).await.unwrap();
    }

    async fn push(&self, push: Push) {
        self.outbox.send(push.encode().unwrap()).await.unwrap();
    }
}

async fn pair() -> (TempDir, Client, Daemon) {
    let (dir, path) = dir();
    let server = IpcServer::bind(&path).unwrap();
    let (client, connection) = tokio::join!(Client::connect(&path), server.accept());
    let Connection { reader, outbox, writer } = connection;
    tokio::spawn(writer.run(CancellationToken::new()));
    (dir, client.unwrap(), Daemon { reader, outbox })
}

#[tokio::test]
async fn requests_take_turns_and_errors_carry_the_text() {
    let (_dir, client, mut daemon) = pair().await;
    let serve = async {
        for _ in 0..2 {
            match daemon.next().await {
                Some(Request::Health) => {
                    daemon.reply(Reply::json(command::HEALTH_OK, &serde_json::json!({"status": "ok"}))).await
                }
                Some(Request::Deregister) => daemon.reply(Reply::error("deregister: no")).await,
                other => panic!("{other:?}"),
            }
        }
    };
    let ask = async { tokio::join!(client.json(&Request::Health), client.json(&Request::Deregister)) };
    let ((health, deregister), ()) = tokio::join!(ask, serve);
    assert_eq!(health.unwrap()["status"], "ok");
    assert_eq!(deregister.unwrap_err().to_string(), "daemon: deregister: no");
}

#[tokio::test]
async fn stream_keeps_order_and_an_early_end() {
    let (_dir, client, mut daemon) = pair().await;
    let serve = async {
        assert_eq!(daemon.next().await, Some(Request::Dial { to: PEER, port: 7 }));
        daemon.reply(Reply::DialOk { conn: 3 }).await;
        daemon.push(Push::Recv { conn: 3, data: "a".into() }).await;
        daemon.push(Push::Recv { conn: 3, data: "b".into() }).await;
        daemon.push(Push::Closed { conn: 3 }).await;
    };
    let (stream, ()) = tokio::join!(client.dial(PEER, 7, Duration::from_secs(5)), serve);
    // The end is here before anybody reads.
    daemon.push(Push::Datagram { from: PEER, src_port: 1, dst_port: 9, data: "d".into() }).await;
    assert_eq!(client.recv_datagram(9).await.unwrap().data, "d");
    let stream = stream.unwrap();
    assert_eq!(stream.read().await, Some("a".into()));
    assert_eq!(stream.read().await, Some("b".into()));
    assert_eq!(stream.read().await, None);
}

#[tokio::test]
async fn writes_are_split_and_close_follows() {
    let (_dir, client, mut daemon) = pair().await;
    let body = Bytes::from((0..2_500_000u32).map(|i| i as u8).collect::<Vec<_>>());
    let (stream, _) = tokio::join!(client.dial(PEER, 7, Duration::from_secs(5)), async {
        daemon.next().await;
        daemon.reply(Reply::DialOk { conn: 1 }).await;
    });
    let stream = stream.unwrap();
    let send = async {
        stream.write(body.clone()).await.unwrap();
        stream.close().await.unwrap();
    };
    let receive = async {
        let (mut got, mut sizes) = (Vec::new(), Vec::new());
        loop {
            match daemon.next().await.unwrap() {
                Request::Send { conn: 1, data } => {
                    sizes.push(data.len());
                    got.extend_from_slice(&data);
                }
                Request::Close { conn: 1 } => return (got, sizes),
                other => panic!("{other:?}"),
            }
        }
    };
    let ((), (got, sizes)) = tokio::join!(send, receive);
    assert_eq!(got, body);
    assert_eq!(sizes, [1_048_512, 1_048_512, 402_976]);
}

#[tokio::test]
async fn accepted_streams_and_a_dropped_listener() {
    let (_dir, client, mut daemon) = pair().await;
    let (listener, ()) = tokio::join!(client.bind(5000), async {
        assert_eq!(daemon.next().await, Some(Request::Bind { port: 5000 }));
        daemon.reply(Reply::BindOk { port: 5000 }).await;
        for conn in [8, 9] {
            daemon.push(Push::Accept { port: 5000, conn, remote: PEER, remote_port: 49_152 }).await;
            daemon.push(Push::Recv { conn, data: "x".into() }).await;
        }
        // A port nobody bound here.
        daemon.push(Push::Accept { port: 5001, conn: 10, remote: PEER, remote_port: 49_153 }).await;
        assert_eq!(daemon.next().await, Some(Request::Close { conn: 10 }));
    });
    let listener = listener.unwrap();
    let accepted = listener.accept().await.unwrap();
    assert_eq!((accepted.remote, accepted.remote_port, accepted.stream.id()), (PEER, 49_152, 8));
    assert_eq!(accepted.stream.read().await, Some("x".into()));
    drop(listener);
    assert_eq!(daemon.next().await, Some(Request::Close { conn: 9 }));
    assert_eq!(daemon.next().await, Some(Request::Unbind { port: 5000 }));
}

#[tokio::test(start_paused = true)]
async fn dial_timeout_cancels_and_stays_in_step() {
    let (_dir, client, mut daemon) = pair().await;
    let error = client.dial(PEER, 7, Duration::from_secs(30)).await.unwrap_err();
    assert_eq!(error.to_string(), "dial timeout");
    assert!(matches!(daemon.next().await, Some(Request::Dial { .. })));
    assert_eq!(daemon.next().await, Some(Request::CancelDials));
    // The dial went through after all: the client lets go of it.
    daemon.reply(Reply::DialOk { conn: 5 }).await;
    assert_eq!(daemon.next().await, Some(Request::Close { conn: 5 }));
    let (info, ()) = tokio::join!(client.json(&Request::Info), async {
        assert_eq!(daemon.next().await, Some(Request::Info));
        daemon.reply(Reply::json(command::INFO_OK, &serde_json::json!({}))).await;
    });
    info.unwrap();
}

#[tokio::test]
async fn end_of_the_daemon_reaches_everybody() {
    let (_dir, client, daemon) = pair().await;
    let (answer, ()) = tokio::join!(client.json(&Request::Info), async move {
        let mut daemon = daemon;
        daemon.next().await;
        drop(daemon);
    });
    assert!(matches!(answer, Err(ClientError::Closed)));
    assert!(matches!(client.json(&Request::Info).await, Err(ClientError::Closed)));
    assert_eq!(client.recv_datagram(1).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_reads_is_disconnected() {
    let (_dir, path) = dir();
    let server = IpcServer::bind(&path).unwrap();
    let _silent = StdStream::connect(&path).unwrap();
    let Connection { outbox, writer, .. } = server.accept().await;
    let writer = tokio::spawn(writer.run(CancellationToken::new()));
    let frame = Push::Recv { conn: 1, data: vec![0; 64 << 10].into() }.encode().unwrap();
    let mut queued = 0;
    while outbox.send(frame.clone()).await.is_ok() {
        queued += 1;
        assert!(queued < 2 * QUEUE_FRAMES, "the queue is bounded");
    }
    assert_eq!(writer.await.unwrap().unwrap_err().kind(), std::io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn queued_frames_are_flushed_at_shutdown() {
    let (_dir, path) = dir();
    let server = IpcServer::bind(&path).unwrap();
    let mut socket = tokio::net::UnixStream::connect(&path).await.unwrap();
    let Connection { outbox, writer, reader } = server.accept().await;
    let shutdown = CancellationToken::new();
    for port in 0..10 {
        outbox.send(Reply::BindOk { port }.encode().unwrap()).await.unwrap();
    }
    shutdown.cancel();
    writer.run(shutdown).await.unwrap();
    drop(reader);
    let mut got = Vec::new();
    socket.read_to_end(&mut got).await.unwrap();
    assert_eq!(got.len(), 10 * 7);
    assert_eq!(outbox.send(Reply::BindOk { port: 1 }.encode().unwrap()).await, Err(Gone));
}

#[tokio::test]
async fn oversized_and_cut_frames_end_the_reader() {
    let (_dir, path) = dir();
    let server = IpcServer::bind(&path).unwrap();
    let mut socket = tokio::net::UnixStream::connect(&path).await.unwrap();
    let mut connection = server.accept().await;
    socket.write_all(&[0x00, 0x10, 0x00, 0x01]).await.unwrap();
    assert!(matches!(connection.reader.next().await, Err(ReadError::TooLarge(_))));

    let mut socket = tokio::net::UnixStream::connect(&path).await.unwrap();
    let mut connection = server.accept().await;
    socket.write_all(&[0, 0, 0, 1, 0x21, 0, 0, 0, 10, 0x0D]).await.unwrap();
    drop(socket);
    assert_eq!(connection.reader.next().await.unwrap().unwrap().command, command::HEALTH);
    assert!(matches!(connection.reader.next().await, Err(ReadError::Io(_))));
}
