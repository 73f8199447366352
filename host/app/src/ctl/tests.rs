//! Commands against the real dispatcher with a daemon made of channels: data, codes and hints as scripts see them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use clap::Parser;
use pilot_wire::ports;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::cli::Cli;
use super::context::Context;
use super::fail::{Failure, code};
use super::out::{Out, Report, failed, success};
use super::{cmd, values};
use crate::ipc::tests::fake::{Fake, REFUSED};
use crate::ipc::tests::peer::{Receiver, echo};
use crate::ipc::{IpcBackend, Serving, bind, serve};

/// A daemon, its socket, and the tool's own directory.
struct House {
    dir: TempDir,
    daemon: Arc<Fake>,
    _serving: Serving,
}

impl House {
    fn open() -> House {
        let dir = tempfile::tempdir().unwrap();
        let daemon = Fake::new();
        let socket = bind(&dir.path().join("s"), None).unwrap();
        let _serving = serve(socket, Arc::clone(&daemon) as Arc<dyn IpcBackend>);
        daemon.services.lock().unwrap().insert(ports::ECHO, Arc::new(|far| drop(tokio::spawn(echo(far)))));
        House { dir, daemon, _serving }
    }

    /// Somebody takes messages and files at the peer's port 1001.
    fn receiver(&self, receiver: Receiver) -> Arc<Receiver> {
        let receiver = Arc::new(receiver);
        let serving = Arc::clone(&receiver);
        let service = move |far| drop(tokio::spawn(Arc::clone(&serving).serve(far)));
        self.daemon.services.lock().unwrap().insert(ports::DATA_EXCHANGE, Arc::new(service));
        receiver
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn context(&self, json: bool) -> Context {
        Context {
            out: Out::plain(json),
            verbose: false,
            socket: self.path("s"),
            home: self.path("home"),
            config: Map::new(),
        }
    }

    async fn run(&self, line: &[&str]) -> Result<Report, Failure> {
        let cli = Cli::try_parse_from([&["pilotctl"], line].concat()).unwrap();
        cmd::run(&self.context(true), cli.command).await
    }

    async fn ok(&self, line: &[&str]) -> Value {
        let report = self.run(line).await.unwrap_or_else(|f| panic!("{line:?}: {f:?}"));
        assert_eq!(report.exit, 0);
        report.data.unwrap()
    }

    async fn fails(&self, line: &[&str]) -> Failure {
        self.run(line).await.expect_err("the command should fail")
    }

    fn file(&self, name: &str, size: usize) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, noise(size)).unwrap();
        path
    }
}

/// Bytes without a short period.
fn noise(size: usize) -> Vec<u8> {
    let mut x = 0x2545_F491_4F6C_DD1D_u64;
    let step = |_| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x as u8
    };
    (0..size).map(step).collect()
}

fn str(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn envelopes() {
    assert_eq!(
        success(&json!({ "b": 1, "a": "<&>" })),
        r#"{"data":{"a":"\u003c\u0026\u003e","b":1},"status":"ok"}"#
    );
    assert_eq!(success(&json!([])), r#"{"data":[],"status":"ok"}"#);
    let failure = Failure::new(code::NOT_RUNNING, "daemon is not running");
    assert_eq!(
        failed(&failure),
        r#"{"code":"not_running","error":"daemon is not running","message":"daemon is not running","status":"error"}"#
    );
    assert_eq!(
        failed(&failure.hint("start it")),
        concat!(
            r#"{"code":"not_running","error":"daemon is not running","hint":"start it","#,
            r#""message":"daemon is not running","status":"error"}"#
        )
    );
}

#[test]
fn every_command_has_sound_arguments() {
    use clap::CommandFactory;
    Cli::command().debug_assert();
}

#[tokio::test]
async fn without_a_daemon() {
    let house = House::open();
    let mut context = house.context(true);
    context.socket = house.path("nobody");
    let cli = Cli::try_parse_from(["pilotctl", "info"]).unwrap();
    let failure = cmd::run(&context, cli.command).await.unwrap_err();
    assert_eq!(failure.code, code::NOT_RUNNING);
    assert_eq!(failure.message, "daemon is not running");
    let hint = failure.hint.unwrap();
    assert!(hint.starts_with("start the daemon with: pilotctl daemon start  (tried "), "{hint}");
    assert!(hint.ends_with("/nobody)"), "{hint}");
}

#[tokio::test]
async fn looking_at_the_daemon() {
    let house = House::open();
    let info = json!({
        "peer_list": [
            { "node_id": 7, "endpoint": "127.0.0.1:4000", "encrypted": true, "authenticated": true, "relay": false,
              "path": "lan", "last_heard_ms": 1240, "rtt_ms": 3, "loss": 0.012, "rekeys": 1 },
            { "node_id": 8, "endpoint": "", "encrypted": false, "authenticated": false, "relay": true },
        ],
        "conn_list": null,
    });
    *house.daemon.more_info.lock().unwrap() = info.as_object().unwrap().clone();
    assert_eq!(house.ok(&["info"]).await["node_id"], 2);
    assert_eq!(house.ok(&["health"]).await, json!({ "status": "ok" }));
    let peers = house.ok(&["peers"]).await;
    assert_eq!(
        (peers["total"].clone(), peers["peers"][0]["endpoint"].clone()),
        (json!(2), json!("127.0.0.1:4000"))
    );
    assert_eq!(house.ok(&["peers", "--search", "9"]).await, json!({ "peers": [], "total": 0 }));
    assert_eq!(house.ok(&["connections"]).await, json!({ "connections": [], "total": 0 }));
    assert_eq!(house.ok(&["plugins"]).await["plugins"][0]["name"], "handshake");
    assert_eq!(house.ok(&["disconnect", "99"]).await, json!({ "conn_id": 99 }));

    let text = house.run(&["peers"]).await.unwrap().text;
    assert_eq!(
        text,
        "NODE ID  ENDPOINT        PATH   LAST HEARD   RTT   LOSS  REKEYS  ENCRYPTED  AUTHENTICATED\n\
         \u{20}     7  127.0.0.1:4000  lan     1.2 s ago  3 ms  1.2 %       1  yes        yes\n\
         \u{20}     8  -               relay           -     -      -       -  no         no"
    );
}

#[tokio::test]
async fn trust_commands() {
    let house = House::open();
    assert_eq!(house.ok(&["handshake", "7", "a", "reason"]).await, json!({ "node_id": 7, "status": "sent" }));
    house.daemon.log.saw("handshake 7 a reason").await;
    assert_eq!(house.ok(&["pending"]).await["pending"][0]["justification"], "hello");
    assert_eq!(house.ok(&["approve", "6"]).await, json!({ "node_id": 6, "status": "approved" }));
    assert_eq!(
        house.ok(&["reject", "0:0000.0000.0006"]).await,
        json!({ "node_id": 6, "status": "rejected" })
    );
    let trust = house.ok(&["trust", "--limit", "1"]).await;
    assert_eq!((trust["trusted"].as_array().unwrap().len(), trust["total"].clone()), (1, json!(2)));
    assert_eq!(house.ok(&["untrust", "5"]).await, json!({ "node_id": 5 }));
    let failure = house.fails(&["untrust", "77"]).await;
    assert_eq!(failure.code, code::CONNECTION_FAILED);
    assert!(failure.message.contains("node 77 was not trusted"), "{failure:?}");
}

#[tokio::test]
async fn names() {
    let house = House::open();
    let found = house.ok(&["find", "bob"]).await;
    assert_eq!(
        found,
        json!({ "hostname": "bob", "node_id": 9, "address": "0:0000.0000.0009", "public": true })
    );
    let failure = house.fails(&["find", "nobody"]).await;
    assert_eq!(failure.code, code::NOT_FOUND);
    assert_eq!(failure.message, "cannot find \"nobody\" \u{2014} hostname not found or no mutual trust");
    assert_eq!(failure.hint.unwrap(), "establish trust first: pilotctl handshake nobody \"reason\"");
    let failure = house.fails(&["ping", "nobody"]).await;
    assert_eq!(failure.code, code::NOT_FOUND);
    assert_eq!(
        failure.message,
        "cannot resolve \"nobody\" \u{2014} is the hostname correct and is there mutual trust? (see: pilotctl handshake)"
    );
    let failure = house.fails(&["set-tags", "a", "b", "c", "d"]).await;
    assert_eq!(
        (failure.code, failure.message.as_str()),
        (code::INVALID_ARGUMENT, "set-tags: maximum 3 tags allowed, got 4")
    );
    house.ok(&["set-hostname", "carol"]).await;
    let saved: Value =
        serde_json::from_slice(&std::fs::read(house.path("home/config.json")).unwrap()).unwrap();
    assert_eq!(saved, json!({ "hostname": "carol" }));
}

#[tokio::test]
async fn a_message_and_its_answer() {
    let house = House::open();
    let receiver = house.receiver(Receiver::default());
    let mut sent = house.ok(&["send-message", "5", "--data", "hello"]).await;
    assert!(sent["rtt_ms"].is_f64());
    sent.as_object_mut().unwrap().remove("rtt_ms");
    assert_eq!(
        sent,
        json!({
            "target": "5", "to": "0:0000.0000.0005", "type": "text", "bytes": 5, "ack": "ACK TEXT 5 bytes",
            "seq": 1, "reused": false
        })
    );
    let many = house
        .ok(&["send-message", "5", "--data", "{}", "--type", "json", "--count", "3", "--reuse-conn"])
        .await;
    assert_eq!(many["results"].as_array().unwrap().len(), 3);
    assert_eq!(
        (many["results"][2]["reused"].clone(), many["reuse_conn"].clone()),
        (json!(true), json!(true))
    );
    let messages = receiver.messages.lock().unwrap().clone();
    assert_eq!(messages[0], (1, b"hello".to_vec()));
    assert_eq!(messages.len(), 4);
    assert!(messages[1..].iter().all(|m| m == &(3, b"{}".to_vec())));
}

#[tokio::test]
async fn a_private_stranger_is_not_dialled() {
    let house = House::open();
    house.receiver(Receiver::default());
    house.daemon.nodes.lock().unwrap().insert(7, json!({ "node_id": 7, "public": false }));
    let failure = house.fails(&["send-message", "7", "--data", "psst"]).await;
    assert_eq!(failure.code, code::TRUST_REQUIRED);
    assert_eq!(failure.hint.unwrap(), "run: pilotctl handshake 0:0000.0000.0007");
    assert!(!house.daemon.log.all().iter().any(|l| l.starts_with("dial")));
    assert_eq!(house.fails(&["send-message", "8", "--data", "x"]).await.code, code::NOT_FOUND);
}

#[tokio::test]
async fn a_public_stranger_is_asked_for_trust_on_the_way() {
    let house = House::open();
    let trust = house.daemon.trust.lock().unwrap().clone().unwrap();
    house.receiver(Receiver::default());
    house.daemon.nodes.lock().unwrap().insert(7, json!({ "node_id": 7, "public": true }));
    house.ok(&["send-message", "7", "--data", "x", "--no-auto-handshake"]).await;
    assert_eq!(house.daemon.log.count("handshake 7 "), 0);
    let grant = async {
        house.daemon.log.saw("handshake 7 ").await;
        trust.granted.lock().unwrap().push(7);
        trust.changed.notify_all();
    };
    tokio::join!(house.ok(&["send-message", "7", "--data", "x"]), grant);
}

#[tokio::test]
async fn an_unreachable_peer() {
    let house = House::open();
    let failure = house.fails(&["connect", "5", &REFUSED.to_string(), "--message", "x"]).await;
    assert_eq!(failure.code, code::CONNECTION_FAILED);
    assert_eq!(failure.message, format!("cannot connect to 0:0000.0000.0005 port {REFUSED}"));
    let hint = failure.hint.unwrap();
    assert_eq!(
        hint,
        "check that 0:0000.0000.0005 is reachable: pilotctl ping 0:0000.0000.0005  (connection refused)"
    );
}

#[tokio::test]
async fn a_file_is_streamed_and_resumes() {
    let house = House::open();
    let receiver = house.receiver(Receiver::default());
    let size = 3_000_001;
    let path = house.file("a..b.bin", size);
    let sent = house.ok(&["send-file", "5", str(&path)]).await;
    assert_eq!(sent["filename"], "a..b.bin");
    assert_eq!((sent["bytes"].clone(), sent["method"].clone()), (json!(size), json!("stream")));
    assert_eq!(
        (sent["resumed_bytes"].clone(), sent["ack"].clone()),
        (json!(0), json!("ACK FILE 3000001 bytes"))
    );
    assert_eq!(sent["destination"], "0:0000.0000.0005");
    assert!(sent["elapsed_ms"].is_f64() && sent["throughput_mbps"].is_f64());
    assert_eq!(receiver.files.lock().unwrap()[0], ("a..b.bin".to_owned(), noise(size)));

    *receiver.partial.lock().unwrap() = noise(size)[..2_000_000].to_vec();
    *receiver.streamed.lock().unwrap() = 0;
    let sent = house.ok(&["send-file", "5", str(&path)]).await;
    assert_eq!(sent["resumed_bytes"], 2_000_000);
    assert_eq!(*receiver.streamed.lock().unwrap(), 1_000_001);
    assert_eq!(receiver.files.lock().unwrap()[1].1, noise(size));
}

#[tokio::test]
async fn empty_and_odd_sizes_arrive_whole() {
    let house = House::open();
    let receiver = house.receiver(Receiver::default());
    for (i, size) in [0, 1, 49_151, 49_152, 49_153, 786_432, 786_433].into_iter().enumerate() {
        let path = house.file("f", size);
        house.ok(&["send-file", "5", str(&path)]).await;
        assert_eq!(receiver.files.lock().unwrap()[i].1, noise(size), "{size} bytes");
    }
}

#[tokio::test]
async fn an_old_receiver_gets_one_frame_over_a_new_connection() {
    let house = House::open();
    let receiver = house.receiver(Receiver { old: true, ..Receiver::default() });
    let path = house.file("a..b.bin", 100_000);
    let sent = house.ok(&["send-file", "5", str(&path)]).await;
    assert_eq!(
        (sent["method"].clone(), sent["ack"].clone()),
        (json!("frame"), json!("ACK FILE 100000 bytes"))
    );
    // A name that the oldest receivers would refuse is changed on the way.
    assert_eq!(receiver.files.lock().unwrap()[0], ("a.b.bin".to_owned(), noise(100_000)));
    assert_eq!(house.daemon.log.count("dial 0:0000.0000.0005 1001"), 2);

    let large = house.file("large", 17 << 20);
    let failure = house.fails(&["send-file", "5", str(&large)]).await;
    assert!(failure.message.contains("too large for one frame"), "{failure:?}");
}

#[tokio::test]
async fn a_refused_file_is_a_failure() {
    let house = House::open();
    house.receiver(Receiver { refuses: Some("receiver disk quota exceeded"), ..Receiver::default() });
    let path = house.file("f", 10);
    let failure = house.fails(&["send-file", "5", str(&path)]).await;
    assert_eq!(
        (failure.code, failure.message.as_str()),
        (code::INTERNAL, "receiver: receiver disk quota exceeded")
    );
    assert_eq!(house.fails(&["send-file", "5", "/no/such/file"]).await.code, code::NOT_FOUND);
    assert_eq!(house.fails(&["send-file", "5", "/"]).await.code, code::INVALID_ARGUMENT);
}

#[tokio::test]
async fn pings_are_measured_one_by_one() {
    let house = House::open();
    let data = house.ok(&["ping", "5", "--count", "3", "--interval", "0"]).await;
    assert_eq!(data["timeout"], false);
    let results = data["results"].as_array().unwrap();
    for (seq, r) in results.iter().enumerate() {
        assert_eq!((r["seq"].clone(), r["bytes"].clone()), (json!(seq), json!(6)));
        assert!(r["rtt_ms"].as_f64().unwrap() > 0.0 && r["error"].is_null());
    }
    house.daemon.services.lock().unwrap().remove(&ports::ECHO);
    let data = house.ok(&["ping", "5", "--count", "1", "--timeout", "100ms"]).await;
    assert_eq!(data["results"][0]["error"], "no response within 100ms");
    assert_eq!(data["timeout"], true);
    house.daemon.credit.store(1, Ordering::SeqCst);
    let trace = house.ok(&["traceroute", "5", "--timeout", "100ms"]).await;
    assert_eq!(trace["error"], "no response within 100ms");
}

#[tokio::test]
async fn bench_moves_all_bytes() {
    let house = House::open();
    let data = house.ok(&["bench", "5", "2"]).await;
    assert_eq!((data["sent_bytes"].clone(), data["recv_bytes"].clone()), (json!(2 << 20), json!(2 << 20)));
    assert!(data["total_mbps"].as_f64().unwrap() > 0.0);
}

#[tokio::test]
async fn mailboxes_are_where_the_daemon_says() {
    let house = House::open();
    let (inbox, received) = (house.path("elsewhere/inbox"), house.path("elsewhere/received"));
    *house.daemon.paths.lock().unwrap() = json!({ "inbox_dir": str(&inbox), "received_dir": str(&received) });
    assert_eq!(house.ok(&["inbox"]).await, json!({ "messages": [], "total": 0, "dir": str(&inbox) }));
    assert_eq!(house.fails(&["inbox", "--clear"]).await.code, code::NOT_FOUND);
    std::fs::create_dir_all(&inbox).unwrap();
    std::fs::create_dir_all(received.join(".partial")).unwrap();
    for (n, from) in [(1, "0:0000.0000.0005"), (2, "0:0000.0000.0006"), (3, "0:0000.0000.0005")] {
        let message = json!({
            "bytes": 2, "data": format!("m{n}"), "data_encoding": "utf8", "from": from, "type": "TEXT",
            "received_at": format!("2026-11-21T09:51:4{n}+09:00")
        });
        std::fs::write(inbox.join(format!("TEXT-20261121-09514{n}.000-00000{n}.json")), message.to_string())
            .unwrap();
    }
    std::fs::write(inbox.join("notes.txt"), "not a message").unwrap();
    std::fs::write(inbox.join("broken.json"), "{").unwrap();
    let all = house.ok(&["inbox"]).await;
    assert_eq!(all["total"], 3);
    assert_eq!(all["messages"][0]["data"], "m3", "newest first");
    assert_eq!(all["messages"][0]["id"], "TEXT-20261121-095143.000-000003");
    let from = house.ok(&["inbox", "--from", "5", "--limit", "1"]).await;
    assert_eq!((from["total"].clone(), from["messages"].as_array().unwrap().len()), (json!(2), 1));
    let since =
        house.ok(&["inbox", "--since", "2026-11-21T00:51:42Z", "--before", "2026-11-21T00:51:43Z"]).await;
    assert_eq!(since["messages"][0]["data"], "m2");
    let one = house.run(&["inbox", "read", "TEXT-20261121-095141.000-000001"]).await.unwrap();
    assert_eq!((one.text.as_str(), one.data.unwrap()["from"].clone()), ("m1", json!("0:0000.0000.0005")));
    assert_eq!(house.fails(&["inbox", "read", "../x"]).await.code, code::NOT_FOUND);
    assert_eq!(house.ok(&["inbox", "--clear"]).await, json!({ "cleared": 4 }));
    assert!(inbox.join("notes.txt").exists());

    std::fs::write(received.join("a-20261121-095141.000-000001.bin"), "12345").unwrap();
    std::fs::write(received.join(".partial/x"), "half").unwrap();
    let files = house.ok(&["received"]).await;
    assert_eq!((files["total"].clone(), files["files"][0]["bytes"].clone()), (json!(1), json!(5)));
    assert_eq!(files["files"][0]["name"], "a-20261121-095141.000-000001.bin");
    assert_eq!(house.ok(&["received", "--clear"]).await, json!({ "cleared": 1 }));
    assert!(received.join(".partial/x").exists(), "unfinished transfers are not files yet");
}

#[tokio::test]
async fn waiting_for_a_reply() {
    let house = House::open();
    house.receiver(Receiver::default());
    let inbox = house.path("inbox");
    std::fs::create_dir_all(&inbox).unwrap();
    *house.daemon.paths.lock().unwrap() = json!({ "inbox_dir": str(&inbox) });
    let answer = async {
        house.daemon.log.saw("dial 0:0000.0000.0005 1001").await;
        let message =
            json!({ "from": "0:0000.0000.0005", "data": "yes", "received_at": "2026-11-21T00:00:00Z" });
        std::fs::write(inbox.join("TEXT-x.json"), message.to_string()).unwrap();
    };
    let (sent, ()) =
        tokio::join!(house.ok(&["send-message", "5", "--data", "well?", "--wait", "20s"]), answer);
    assert_eq!(sent["reply"]["data"], "yes");
    let failure = house.fails(&["send-message", "5", "--data", "well?", "--wait", "50ms"]).await;
    assert_eq!((failure.code, failure.message.as_str()), (code::TIMEOUT, "no response within 50ms"));
}

#[tokio::test]
async fn the_catalogue_knows_every_command() {
    let house = House::open();
    let catalogue = house.ok(&["context"]).await;
    let commands = catalogue["commands"].as_object().unwrap();
    for name in ["info", "daemon start", "send-file", "network join", "inbox", "inbox read", "completions"] {
        assert!(commands.contains_key(name), "{name}");
    }
    for (name, command) in commands {
        assert_ne!(values::text(command, "returns"), "", "{name} stands in returns.rs");
    }
    assert!(!values::text(&commands["send-file"], "description").is_empty());
    assert!(house.run(&["completions", "bash"]).await.unwrap().text.contains("send-file"));
}
