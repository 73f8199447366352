//! The recorded frames of the local socket, replayed: each request against a live host over its socket, each answer of
//! the recording against the client library of `pilotctl` (ipc.md section 15).
//!
//! Requests, binary replies and error texts are compared byte by byte; JSON replies by structure, because their values
//! depend on the run. Where the newest version deliberately answers otherwise than the recorded one, the entry stands in
//! [`DIFFERENCES`] with what is answered instead and the section that says so.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod support;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::BytesMut;
use pilot_net::ipc::Client;
use pilot_vectors::{Entry, load};
use pilot_wire::ipc::{Frame, Incoming, Reply, Request, command, decode_frame};
use serde_json::Value;
use support::*;

/// What is answered where the newest version and the recorded one differ.
enum Instead {
    /// Nothing, and the connection stays usable.
    Silence,
    /// This error.
    Error(&'static str),
}
use Instead::{Error, Silence};

/// Recorded from v1.9.0, answered as the newest version does.
const DIFFERENCES: [(&str, Instead); 11] = [
    // Section 6 and 7: sends are silent in every case.
    ("req_send_rejected", Silence),
    ("req_send_to_rejected", Silence),
    ("req_send_to_rejected_3", Silence),
    // Section 9: "a request to the own node ...; do not copy that".
    ("req_handshake_request_3", Error("handshake request: ")),
    // Section 14: 0x1D is unknown to the newest version.
    ("req_set_task_exec", Error("unknown command: 0x1D")),
    ("req_set_task_exec_2", Error("unknown command: 0x1D")),
    // Section 14: 0x25 with a body is optional, and this host has no other transports to be told of.
    ("req_set_peer_endpoints_v190", Error("set_peer_endpoints: ")),
    ("req_set_peer_endpoints_v190_rejected", Error("set_peer_endpoints: ")),
    // Section 12, "versions": scores went with the managed engine.
    ("req_managed_score", Error("managed")),
    // webhook.md section 4: the newest texts have no "webhook" in front.
    ("req_set_webhook_rejected", Error("URL must use http or https scheme, got \"ftp\"")),
    ("req_set_webhook_rejected_2", Error("URL cannot target link-local address 169.254.169.254")),
];

/// Entries that need the networks of the second act.
const WITH_NETWORKS: [&str; 11] = [
    "req_network_invite",
    "req_network_join",
    "req_network_respond_invite",
    "req_managed_policy_set_v190",
    "req_managed_status",
    "req_managed_cycle",
    "req_managed_rankings",
    "req_managed_score",
    "req_managed_member_tags_get",
    "req_managed_reconcile_newest_request",
    "new_broadcast_ok",
];

/// Entries that were recorded at the other node.
const AT_PEER: [&str; 3] = ["req_network_join", "req_network_respond_invite", "req_dial_rejected_5"];

/// Members that the newest version need not have: those of info that only the recorded fork has (section 8, last row of
/// the table), and the count of members, which the newest registry tells administrators only (registry.md section 3.3).
const NOT_ALWAYS: [&str; 8] = [
    "members",
    "turn_endpoint",
    "outbound_turn_only",
    "no_registry_endpoint",
    "pkts_sent_by_tier",
    "bytes_sent_by_tier",
    "capabilities",
    "tcp_endpoint",
];

/// The admin token of the second act's broadcast.
const TOKEN: &str = "tok";

/// A client of the socket that knows only bytes.
struct Raw {
    socket: UnixStream,
    buf: BytesMut,
}

impl Raw {
    fn open(path: &Path) -> Raw {
        let socket = UnixStream::connect(path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Raw { socket, buf: BytesMut::new() }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    /// The next frame; `None` at the end of the connection.
    fn frame(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(frame) = decode_frame(&mut self.buf).unwrap() {
                return Some(bytes_of(&frame));
            }
            let mut chunk = [0; 4096];
            let n = self.socket.read(&mut chunk).expect("the host answers");
            if n == 0 {
                return None;
            }
            self.buf.extend_from_slice(&chunk[..n]);
        }
    }

    fn next(&mut self) -> Vec<u8> {
        self.frame().expect("the connection is open")
    }

    /// Nothing was said but the answer to this: health is answered in arrival order.
    fn nothing_more(&mut self) {
        self.send(&[0, 0, 0, 1, command::HEALTH]);
        let frame = self.next();
        assert_eq!(frame[4], command::HEALTH_OK, "a stray frame: {}", hex::encode(&frame));
    }

    fn dial(&mut self, node: u32, port: u16) -> u32 {
        let mut frame = vec![0, 0, 0, 9, command::DIAL, 0, 0];
        frame.extend(node.to_be_bytes());
        frame.extend(port.to_be_bytes());
        self.send(&frame);
        let reply = self.next();
        assert_eq!(reply[4], command::DIAL_OK, "{}", hex::encode(&reply));
        u32::from_be_bytes(reply[5..9].try_into().unwrap())
    }
}

fn bytes_of(frame: &Frame) -> Vec<u8> {
    let mut out = (1 + frame.body.len() as u32).to_be_bytes().to_vec();
    out.push(frame.command);
    out.extend_from_slice(&frame.body);
    out
}

/// The frame with the connection id after the command replaced.
fn with_conn(bytes: &[u8], conn: u32) -> Vec<u8> {
    let mut out = bytes.to_vec();
    out[5..9].copy_from_slice(&conn.to_be_bytes());
    out
}

fn error_text(frame: &[u8]) -> Option<&str> {
    (frame.len() >= 7 && frame[4] == command::ERROR).then(|| std::str::from_utf8(&frame[7..]).unwrap())
}

/// Every member of `recorded` is in `live` with the same JSON type; lists are compared by their first rows.
fn same_structure(at: &str, recorded: &Value, live: &Value) {
    match (recorded, live) {
        (Value::Object(r), Value::Object(l)) => {
            for (key, value) in r {
                let at = format!("{at}.{key}");
                match l.get(key) {
                    Some(found) => same_structure(&at, value, found),
                    None => assert!(NOT_ALWAYS.contains(&key.as_str()), "{at} is missing: {live}"),
                }
            }
        }
        (Value::Array(r), Value::Array(l)) => {
            if let (Some(r), Some(l)) = (r.first(), l.first()) {
                same_structure(&format!("{at}[0]"), r, l);
            }
        }
        // The recorded peers write null for an empty list.
        (Value::Null, Value::Array(_)) | (Value::Array(_), Value::Null) => {}
        _ => {
            let kind = |v: &Value| match v {
                Value::Null => "null",
                Value::Bool(_) => "bool",
                Value::Number(_) => "number",
                Value::String(_) => "text",
                Value::Array(_) => "list",
                Value::Object(_) => "object",
            };
            assert_eq!(kind(recorded), kind(live), "{at}: recorded {recorded}, live {live}");
        }
    }
}

/// Compares an answer with the recorded one: JSON by structure, everything else by bytes.
fn same_answer(name: &str, recorded: &[u8], live: &[u8]) {
    match (serde_json::from_slice::<Value>(&recorded[5..]), recorded[4]) {
        (Ok(Value::Object(r)), code) if code != command::ERROR => {
            assert_eq!(code, live[4], "{name}: {}", String::from_utf8_lossy(&live[5..]));
            let l: Value = serde_json::from_slice(&live[5..]).unwrap();
            assert_eq!(r.get("type"), l.get("type"), "{name}: {l}");
            same_structure(name, &Value::Object(r), &l);
        }
        (_, command::ERROR) => assert_eq!(error_text(recorded), error_text(live), "{name}"),
        (_, command::DIAL_OK) => {
            assert_eq!((live[4], live.len()), (command::DIAL_OK, recorded.len()), "{name}");
        }
        _ => assert_eq!(hex::encode(recorded), hex::encode(live), "{name}"),
    }
}

/// Two nodes that trust each other, numbered as in the recording: the peer is 1, the recorded host is 2.
struct World {
    _rendezvous: Rendezvous,
    peer: Host,
    host: Host,
    /// A third one, with an admin token.
    admin: Host,
}

impl World {
    fn open(dir: &Path) -> World {
        let rendezvous = Rendezvous::start_with(&["--admin-token", TOKEN]);
        let plugins = dir.join("plugins");
        stage(&plugins, &PLUGINS);
        let peer = Host::start_with(dir, "peer-b", &rendezvous, &plugins, &["--public"]);
        let host = Host::start(dir, "peer-a", &rendezvous, &plugins);
        let admin = Host::start_with(dir, "boss", &rendezvous, &plugins, &["--admin-token", TOKEN]);
        assert_eq!((peer.node_id(), host.node_id(), admin.node_id()), (1, 2, 3));
        befriend(&host, &peer);
        World { _rendezvous: rendezvous, peer, host, admin }
    }

    fn socket(&self, name: &str) -> PathBuf {
        match name {
            "new_broadcast_ok" => self.admin.socket(),
            _ if AT_PEER.contains(&name) => self.peer.socket(),
            _ => self.host.socket(),
        }
    }

    /// Network 1 is open, 2 asks for a token, 3 is by invitation; the host owns all three.
    fn make_networks(&self) {
        let make = |id: u64, name: &str, extra: &[&str]| {
            let mut args = vec!["network", "create", "--name", name, "--node-id", "2"];
            args.extend(extra);
            assert_eq!(self.admin.ok(&args)["network_id"], id);
        };
        make(1, "open", &[]);
        make(2, "closed", &["--join-rule", "token", "--token", "sekret"]);
        make(3, "guests", &["--join-rule", "invite", "--enterprise"]);
        self.admin.ok(&["network", "join", "1"]);
        self.peer.ok(&["network", "join", "1"]);
    }
}

fn replay(world: &World, e: &Entry) {
    let name = e.name.as_str();
    let mut client = Raw::open(&world.socket(name));
    let request = e.bytes[..].get(4).copied();
    // Streams have the numbers of this run.
    let wants_stream = matches!(request, Some(command::SEND | command::CLOSE))
        && e.fields.get("conn_id").and_then(Value::as_u64).is_some_and(|id| id != 99_999);
    if wants_stream {
        let conn = client.dial(1, 7);
        let frame = with_conn(&e.bytes, conn);
        client.send(&frame);
        if request == Some(command::SEND) {
            // The echo comes back as the recorded push would.
            let mut back = Vec::new();
            while back.len() < frame.len() - 9 {
                let push = client.next();
                assert_eq!((push[4], &push[5..9]), (command::RECV, &conn.to_be_bytes()[..]), "{name}");
                back.extend_from_slice(&push[9..]);
            }
            assert_eq!(back, frame[9..], "{name}");
        } else {
            assert_eq!(
                hex::encode(client.next()),
                hex::encode(with_conn(&[0, 0, 0, 5, 9, 0, 0, 0, 0], conn))
            );
            return;
        }
        return client.nothing_more();
    }
    if let Some((_, instead)) = DIFFERENCES.iter().find(|(n, _)| *n == name) {
        client.send(&e.bytes);
        if let Error(text) = instead {
            let frame = client.next();
            let said = error_text(&frame).unwrap_or_default();
            assert!(said.starts_with(text), "{name}: {}", String::from_utf8_lossy(&frame));
        }
        return client.nothing_more();
    }
    if name == "new_unbind_ok" {
        client.send(&[0, 0, 0, 3, command::BIND, 0x13, 0x88]);
        assert_eq!(client.next(), [0, 0, 0, 3, command::BIND_OK, 0x13, 0x88]);
    }
    client.send(&e.bytes);
    if let Some(recorded) = e.fields.get("reply_hex").and_then(Value::as_str) {
        let live = client.next();
        same_answer(name, &hex::decode(recorded).unwrap(), &live);
    } else {
        let mut buf = BytesMut::from(&e.bytes[..]);
        let decoded = decode_frame(&mut buf).unwrap().filter(|_| request.is_some());
        if let Some(Ok(r)) = decoded.map(Request::decode)
            && r.expects_reply()
        {
            // Recorded from the newest driver against a daemon that did not know the request: exactly one answer.
            let live = client.next();
            let good = r.command() + 1;
            assert!([good, command::ERROR].contains(&live[4]), "{name}: {}", hex::encode(&live));
            if let Some(text) = error_text(&live) {
                assert!(!text.contains("unknown"), "{name}: {text}");
            }
        }
    }
    client.nothing_more();
}

/// The three entries about frames as such.
fn replay_framing(world: &World, e: &Entry) {
    let mut client = Raw::open(&world.host.socket());
    match e.name.as_str() {
        "framing_max_length_prefix" => {
            // The longest frame is read whole; it is an unknown connection's data, so nothing is said about it.
            let mut frame = e.bytes.clone();
            frame.push(command::SEND);
            frame.resize(4 + (1 << 20), 0);
            client.send(&frame);
            client.nothing_more();
            // One byte more is the end.
            client.send(&[0, 0x10, 0, 1]);
            assert_eq!(client.frame(), None);
        }
        "framing_truncated_then_close" => {
            client.send(&e.bytes);
            client.socket.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(client.frame(), None);
        }
        "framing_two_pipelined" => {
            client.send(&e.bytes);
            let mut codes = [client.next()[4], client.next()[4]];
            codes.sort_unstable();
            assert_eq!(codes, [command::HANDSHAKE_OK, command::HEALTH_OK]);
        }
        other => panic!("{other}: a framing entry without a rule"),
    }
}

/// What the host pushes by itself, against the recorded pushes.
fn replay_pushes(world: &World, entries: &[Entry]) {
    let recorded = |name: &str| &entries.iter().find(|e| e.name == name).unwrap().bytes;
    // A stream arrives on port 5000: the roles are those of the recording, where node 2 dialled node 1.
    let (mut server, mut dialler) = (Raw::open(&world.peer.socket()), Raw::open(&world.host.socket()));
    server.send(&[0, 0, 0, 3, command::BIND, 0x13, 0x88]);
    assert_eq!(server.next()[4], command::BIND_OK);
    let conn = dialler.dial(1, 5000);
    let accept = server.next();
    let mut wanted = recorded("push_accept").clone();
    let accepted = u32::from_be_bytes(accept[7..11].try_into().unwrap());
    wanted[7..11].copy_from_slice(&accept[7..11]);
    wanted[17..19].copy_from_slice(&accept[17..19]);
    assert_eq!(hex::encode(&accept), hex::encode(wanted), "push_accept");
    // Its data and its end.
    let mut send = vec![0, 0, 0, 11, command::SEND];
    send.extend(conn.to_be_bytes());
    send.extend(b"ping-0");
    dialler.send(&send);
    assert_eq!(server.next(), with_conn(recorded("push_recv"), accepted), "push_recv");
    dialler.send(&with_conn(&[0, 0, 0, 5, command::CLOSE, 0, 0, 0, 0], conn));
    assert_eq!(server.next(), with_conn(recorded("push_close_ok"), accepted), "push_close_ok");
    // A datagram goes to every client, whether it bound the port or not.
    let mut bystander = Raw::open(&world.peer.socket());
    bystander.nothing_more();
    let mut datagram = vec![0, 0, 0, 0x13, command::SEND_TO, 0, 0, 0, 0, 0, 1, 0x13, 0x89];
    datagram.extend(b"datagram-1");
    dialler.send(&datagram);
    for client in [&mut server, &mut bystander] {
        let push = client.next();
        let mut wanted = recorded("push_recv_from").clone();
        wanted[11..13].copy_from_slice(&push[11..13]);
        assert_eq!(hex::encode(push), hex::encode(wanted), "push_recv_from");
    }
    // A close of nothing.
    let mut client = Raw::open(&world.host.socket());
    client.send(&with_conn(&[0, 0, 0, 5, command::CLOSE, 0, 0, 0, 0], 99_999));
    assert_eq!(&client.next(), recorded("push_close_ok_3"), "push_close_ok_3");
}

#[test]
fn vectors_against_a_live_host() {
    let Some(entries) = load("ipc") else { return println!("vectors: ipc: not in the folder, skipped") };
    let dir = temp_dir();
    let world = World::open(dir.path());
    let (mut ran, mut failures) = (0, Vec::new());
    let mut check = |e: &Entry, act: &dyn Fn(&Entry)| {
        ran += 1;
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| act(e))).is_err() {
            failures.push(e.name.clone());
        }
    };
    let requests = |e: &&Entry| e.fields["direction"] == "client_to_daemon" && e.kind != "framing";
    for e in entries.iter().filter(|e| requests(e) && !WITH_NETWORKS.contains(&e.name.as_str())) {
        check(e, &|e| replay(&world, e));
    }
    for e in entries.iter().filter(|e| e.kind == "framing") {
        check(e, &|e| replay_framing(&world, e));
    }
    let pushes = entries.iter().filter(|e| e.fields["direction"] == "daemon_to_client").count();
    replay_pushes(&world, &entries);
    world.make_networks();
    for name in WITH_NETWORKS {
        let e = entries.iter().find(|e| e.name == name).expect("the entry is in the file");
        check(e, &|e| replay(&world, e));
    }
    println!("vectors: ipc: live host answered {ran} requests; {pushes} pushes compared by their four kinds");
    assert!(failures.is_empty(), "{} failed:\n  {}", failures.len(), failures.join("\n  "));
}

/// A daemon that answers as the recorded one did: one exchange for each connection.
fn recorded_daemon(path: &Path, exchanges: Vec<(Vec<u8>, Vec<u8>)>) -> std::thread::JoinHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        for (request, reply) in exchanges {
            let (mut socket, _) = listener.accept().unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            let mut asked = vec![0; request.len()];
            socket.read_exact(&mut asked).unwrap();
            assert_eq!(hex::encode(asked), hex::encode(request));
            socket.write_all(&reply).unwrap();
        }
    })
}

/// The other direction: our client asks with the recorded bytes and understands the recorded answers.
#[test]
fn vectors_against_our_client() {
    let Some(entries) = load("ipc") else { return println!("vectors: ipc: not in the folder, skipped") };
    let mut asked = Vec::new();
    for e in entries.iter().filter(|e| e.fields["direction"] == "client_to_daemon" && e.kind != "framing") {
        let Some(reply) = e.fields.get("reply_hex").and_then(Value::as_str) else { continue };
        let mut buf = BytesMut::from(&e.bytes[..]);
        let Ok(request) = Request::decode(decode_frame(&mut buf).unwrap().unwrap()) else { continue };
        let reply = hex::decode(reply).unwrap();
        let known = |r: &[u8]| {
            let frame = decode_frame(&mut BytesMut::from(r)).unwrap().unwrap();
            !matches!(Incoming::decode(frame), Ok(Incoming::Unknown { .. }))
        };
        // One-way for the newest version, and questions of the older fork, which this client never asks.
        if !known(&reply) || !request.expects_reply() || request.encode().unwrap().to_vec() != e.bytes {
            continue;
        }
        asked.push((e.name.clone(), request, e.bytes.clone(), reply));
    }
    let dir = temp_dir();
    let path = dir.path().join("recorded.sock");
    let exchanges = asked.iter().map(|(_, _, request, reply)| (request.clone(), reply.clone())).collect();
    let daemon = recorded_daemon(&path, exchanges);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (name, request, _, reply) in &asked {
        let mut buf = BytesMut::from(&reply[..]);
        let wanted = Incoming::decode(decode_frame(&mut buf).unwrap().unwrap()).unwrap();
        let answer = runtime.block_on(async {
            let client = Client::connect(&path).await.unwrap();
            client.request_within(request, PATIENCE).await
        });
        match (wanted, answer) {
            (Incoming::Reply(Reply::Error { message }), Err(error)) => {
                assert_eq!(error.daemon_text(), Some(message.as_str()), "{name}");
            }
            (Incoming::Reply(wanted), Ok(got)) => assert_eq!(wanted, got, "{name}"),
            (Incoming::Closed { conn }, Ok(got)) => {
                assert_eq!(got, Reply::CloseOk { conn }, "{name}");
            }
            (wanted, got) => panic!("{name}: recorded {wanted:?}, got {got:?}"),
        }
    }
    daemon.join().unwrap();
    println!("vectors: ipc: our client asked {} recorded requests and read their answers", asked.len());
    assert!(!asked.is_empty());
}
