//! Handshake, policy and webhook with real processes: trust by direct path and by relay, a policy in a network of three,
//! documents tried out with `pilotctl policy test`, events at an HTTP receiver that is a process of its own.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use support::cluster::Cluster;
use support::*;

const TOKEN: &str = "an admin token of this test";

fn plugins(dir: &Path) -> std::path::PathBuf {
    let plugins = dir.join("plugins");
    stage(&plugins, &PLUGINS);
    plugins
}

fn trust_file(host: &Node) -> Value {
    let read = std::fs::read(host.state().join("trust.json")).ok();
    read.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

fn row(host: &Node, list: &str, node: u64) -> Option<Value> {
    let member = if list == "trust" { "trusted" } else { list };
    host.ok(&[list])[member].as_array()?.iter().find(|r| r["node_id"] == node).cloned()
}

#[test]
fn trust_by_the_direct_path_and_by_relay() {
    // A private host is silent to strangers, on port 444 as well; only a public one can be asked directly.
    let public = json!({"node": {"public": true}});
    let cluster = Cluster::start(&[("alice", json!({})), ("bob", public), ("carol", json!({}))], &json!({}));
    let (alice, bob, carol) = (cluster.node("alice"), cluster.node("bob"), cluster.node("carol"));
    let (a, b, c) = (alice.node_id(), bob.node_id(), carol.node_id());

    // Direct: the request carries the key, and the record is bound to it.
    alice.ok(&["handshake", &b.to_string(), "by the direct path"]);
    let pending = eventually("the direct request", || row(&bob, "pending", a));
    assert_eq!(pending["justification"], "by the direct path");
    assert!(!pending["public_key"].as_str().unwrap().is_empty(), "a direct request has a key: {pending}");
    bob.ok(&["approve", &a.to_string()]);
    let record = eventually("trust", || row(&alice, "trust", b));
    assert!(!record["public_key"].as_str().unwrap().is_empty(), "{record}");

    // Relayed, both ways: carol is away when she is asked, alice when she is answered.
    cluster.signal("carol", "-KILL");
    alice.ok(&["handshake", &c.to_string(), "through the registry"]);
    eventually("the own request on disk", || {
        trust_file(&alice)["outgoing"].as_array()?.iter().any(|r| r["node_id"] == c).then_some(())
    });
    cluster.signal("alice", "-TERM");
    let carol = cluster.restart("carol");
    assert_eq!(carol.node_id(), c);
    let pending = eventually("the relayed request", || row(&carol, "pending", a));
    assert_eq!(
        (&pending["justification"], &pending["public_key"]),
        (&json!("through the registry"), &json!(""))
    );
    carol.ok(&["approve", &a.to_string()]);
    let alice = cluster.restart("alice");
    eventually("the relayed approval", || row(&alice, "trust", c));
    // The keys come from the registry afterwards, on both sides.
    for (host, node) in [(&alice, c), (&carol, a)] {
        eventually("the key", || {
            row(host, "trust", node).filter(|r| !r["public_key"].as_str().unwrap().is_empty())
        });
    }
    println!(
        "direct: key with the request; relayed: request and approval through the registry, keys from it"
    );
}

/// Gate, tag, prune and fill for a network of three.
fn document(max_peers: u32) -> Value {
    json!({"version": 1, "config": {"max_peers": max_peers}, "rules": [
        {"name": "greet", "on": "join", "match": "true", "actions": [{"type": "tag", "params": {"add": ["met"]}}]},
        {"name": "met-only", "on": "connect", "match": "port == 1001 and not has_tag(peer_tags, \"met\")",
            "actions": [{"type": "deny"}]},
        {"name": "no-control", "on": "connect", "match": "port == 1", "actions": [{"type": "deny"}]},
        {"name": "mark", "on": "cycle", "match": "peer_id != nil and has_tag(peer_tags, \"met\")",
            "actions": [{"type": "tag", "params": {"add": ["seen-by-cycle"]}}]},
        {"name": "turn-over", "on": "cycle", "match": "peer_id == nil and peer_count >= 2",
            "actions": [{"type": "prune", "params": {"count": 1, "by": "age"}}, {"type": "fill", "params": {"count": 5}}]}]})
}

#[test]
fn a_policy_in_a_network_of_three_does_what_its_document_says() {
    let all = json!({"node": {"public": true, "admin_token": TOKEN}});
    let cluster = Cluster::start(&["alice", "bob", "carol"].map(|name| (name, json!({}))), &all);
    let net = cluster.network(&json!({"name": "three", "network_admin_token": TOKEN}));
    let (alice, bob, carol) = (cluster.node("alice"), cluster.node("bob"), cluster.node("carol"));
    let set = |host: &Node, document: &Value| {
        let file = cluster.runner.dir.join("policy.json");
        std::fs::write(&file, document.to_string()).unwrap();
        host.ok(&["policy", "set", "--net", &net, "--file", file.to_str().unwrap(), "--admin-token", TOKEN])
    };
    set(&bob, &document(0));
    let peers =
        |host: &Node| host.ok(&["managed", "rankings", "--net", &net])["rankings"].as_array().cloned();
    let status = |host: &Node| host.ok(&["managed", "status", "--net", &net]);
    eventually("both members in bob's table", || (status(&bob)["peers"] == 2).then_some(()));
    println!("status: {}", status(&bob));
    println!("rankings: {:?}", peers(&bob));

    // Tag: both were told to be new, and the cycle's pass over the peers found that tag.
    let cycle = bob.ok(&["managed", "cycle", "--net", &net]);
    println!("cycle: {cycle}");
    assert_eq!((&cycle["pruned"], &cycle["filled"], &cycle["peers"]), (&json!(1), &json!(1), &json!(2)));
    let saved = || -> Value {
        let path = bob.state().join(format!("policy_{net}.json"));
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    };
    let tags: Vec<Value> =
        saved()["peers"].as_object().unwrap().values().map(|p| p["tags"].clone()).collect();
    // One was pruned and came back by fill, without tags; the other has both.
    assert!(tags.contains(&json!(["met", "seen-by-cycle"])), "{tags:?}");

    // Gate: the peer that lost its tag is kept from port 1001, the tagged one is not.
    let bob_id = bob.node_id().to_string();
    let tagged = |host: &Node| saved()["peers"][host.node_id().to_string()]["tags"].is_array();
    let (with, without) = if tagged(&alice) { (&alice, &carol) } else { (&carol, &alice) };
    let sent = with.ok(&["send-message", &bob_id, "--data", "let me in"]);
    assert_eq!(sent["ack"], "ACK TEXT 9 bytes");
    without.fails(&["send-message", &bob_id, "--data", "me too", "--timeout", "3s"]);
    assert_eq!(files(&bob.state().join("inbox")).len(), 1);
    let ping = without.ok(&["ping", &bob_id, "--count", "1"]);
    assert!(ping["results"][0]["error"].is_null(), "other ports stay open: {ping}");

    // Prune and fill within max_peers: two are one too many, and the place is taken again.
    set(&bob, &document(1));
    let cycle = bob.ok(&["managed", "cycle", "--net", &net]);
    assert_eq!(cycle["pruned"], 1, "{cycle}");
    assert_eq!((&cycle["filled"], &cycle["peers"]), (&json!(0), &json!(1)), "{cycle}");

    // State survives a restart; the document comes back when the registry has it, else from whoever set it.
    let before = saved()["cycle_num"].clone();
    let bob = cluster.restart("bob");
    set(&bob, &document(0));
    assert!(status(&bob)["cycle_num"].as_u64() >= before.as_u64(), "{}", status(&bob));
}

#[test]
fn a_policy_is_tried_before_it_is_set() {
    let dir = temp_dir();
    let plugins = plugins(dir.path());
    let rendezvous = Rendezvous::start();
    let host = Host::start(dir.path(), "alice", &rendezvous, &plugins);
    let file = dir.path().join("gate.json");
    std::fs::write(&file, document(0).to_string()).unwrap();
    let file = file.to_str().unwrap();
    let run = |event: &str, context: &[&str]| {
        let mut args = vec!["policy", "test", file, "--event", event];
        context.iter().for_each(|c| args.extend(["--context", c]));
        host.ctl(&args)
    };
    let denied = run("connect", &["port=1001", r#"{"peer_tags": ["stranger"]}"#]);
    assert_eq!(denied.status.code(), Some(1));
    let answer: Value = serde_json::from_slice(&denied.stdout).unwrap();
    let data = &answer["data"];
    let outcomes: Vec<&Value> = data["rules"].as_array().unwrap().iter().map(|r| &r["outcome"]).collect();
    assert_eq!(outcomes, ["other event", "match", "not reached", "other event", "other event"]);
    assert_eq!((&data["verdict"], &data["because"]), (&json!("deny"), &json!("rule \"met-only\" decides")));
    assert_eq!(run("connect", &["port=1001", "peer_tags=met"]).status.code(), Some(0));
    let refused = run("connect", &["portal=7"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("portal is not a variable of connect events"));
    assert_eq!(host.ok(&["policy", "validate", file])["valid"], true);
    assert_eq!(host.ok(&["policy", "get", "--net", "0"])["engine"], "none", "nothing was put in force");

    // For people: a table and a sentence.
    let shown = Command::new(env!("CARGO_BIN_EXE_pilotctl"))
        .arg("--socket")
        .arg(host.socket())
        .args(["policy", "test", file, "--event", "connect", "--context", "port=1001"])
        .output()
        .unwrap();
    println!("{}", String::from_utf8_lossy(&shown.stdout));
    assert!(String::from_utf8_lossy(&shown.stdout).contains("deny: rule \"met-only\" decides"));
}

const SECRET: &str = "a webhook secret";

/// The receiver's process: this test program again, see [`HttpReceiver::start`]. Does nothing in an ordinary run.
#[test]
fn http_receiver_process() {
    let Ok(address) = std::env::var("PILOT_TEST_RECEIVER") else { return };
    let listener = TcpListener::bind(address).unwrap();
    let status = std::sync::Arc::new(std::sync::Mutex::new("200".to_owned()));
    let plan = status.clone();
    // The test says by a line which status comes from now on; the end of input is the end of this process.
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            // Said before anybody can be answered that way.
            let mut plan = plan.lock().unwrap();
            *plan = line;
            println!("RECEIVER {}", json!({"plan": true}));
        }
        std::process::exit(0);
    });
    println!("RECEIVER {}", json!({"listening": listener.local_addr().unwrap().to_string()}));
    for stream in listener.incoming().map_while(Result::ok) {
        let status = status.lock().unwrap().clone();
        if let Ok(seen) = serve(&stream, &status) {
            println!("RECEIVER {seen}");
        }
    }
}

fn serve(stream: &TcpStream, status: &str) -> std::io::Result<Value> {
    let mut input = BufReader::new(stream);
    let mut line = || {
        let mut text = String::new();
        input.read_line(&mut text).map(|_| text.trim_end().to_owned())
    };
    let first = line()?;
    let mut headers = Vec::new();
    while let Some((name, value)) = line()?.split_once(": ") {
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let header = |name: &str| headers.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v.as_str());
    let mut body = Vec::new();
    input.take(header("content-length").parse().unwrap_or(0)).read_to_end(&mut body)?;
    let location = match status {
        "307" => "Location: http://169.254.169.254/latest/meta-data\r\n",
        _ => "",
    };
    let mut output = stream;
    write!(output, "HTTP/1.1 {status} X\r\n{location}Content-Length: 0\r\nConnection: close\r\n\r\n")?;
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(&body);
    let signed = header("x-pilot-signature-256") == hex::encode(mac.finalize().into_bytes());
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    Ok(json!({"request": first, "signed": signed, "status": status, "body": body}))
}

struct HttpReceiver {
    process: Child,
    seen: Receiver<Value>,
    address: String,
}

impl HttpReceiver {
    fn start(address: &str) -> HttpReceiver {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "http_receiver_process", "--nocapture"])
            .env("PILOT_TEST_RECEIVER", address)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (tx, seen) = channel();
        let stdout = process.stdout.take().unwrap();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // The harness of the other process talks on the same line before.
                if let Some((_, text)) = line.split_once("RECEIVER ") {
                    let _ = tx.send(serde_json::from_str(text).unwrap());
                }
            }
        });
        let listening: Value = seen.recv_timeout(PATIENCE).unwrap();
        let address = listening["listening"].as_str().unwrap().to_owned();
        HttpReceiver { process, seen, address }
    }

    /// Every request that is accepted from now on has this status. One that was under way when the plan changed may still
    /// be seen afterwards; each says which status it had.
    fn answer(&mut self, status: u16) {
        writeln!(self.process.stdin.as_mut().unwrap(), "{status}").unwrap();
        // What was asked before is looked at no more.
        self.until(|seen| seen["plan"] == true);
    }

    /// What is seen up to what `last` is looking for, all of it within [`PATIENCE`].
    fn until(&self, mut last: impl FnMut(&Value) -> bool) -> Vec<Value> {
        let (deadline, mut all) = (Instant::now() + PATIENCE, Vec::new());
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let seen = self.seen.recv_timeout(left).unwrap_or_else(|e| panic!("not in time ({e}): {all:?}"));
            let end = last(&seen);
            all.push(seen);
            if end {
                return all;
            }
        }
    }
}

impl Drop for HttpReceiver {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A rejection publishes exactly one event, and `n` says which one it was.
fn event(host: &Host, n: u32) {
    host.ok(&["reject", &n.to_string(), "because"]);
}

fn is_event(seen: &Value, n: u32) -> bool {
    seen["body"]["event"] == "handshake.rejected" && seen["body"]["data"]["peer_node_id"] == n
}

fn webhook_host(dir: &Path, rendezvous: &Rendezvous, address: &str, more: &str) -> Host {
    let config = dir.join("webhook.toml");
    let table = format!(
        "[plugin.webhook]\nurl = \"http://{address}/hook\"\nsecret = \"{SECRET}\"\nbackoff_ms = 20\ncooldown_ms = 300\n{more}\n"
    );
    std::fs::write(&config, table).unwrap();
    Host::start_with(dir, "alice", rendezvous, &plugins(dir), &["--config", config.to_str().unwrap()])
}

#[test]
fn a_receiver_sees_signature_order_retries_and_breaker() {
    let dir = temp_dir();
    let rendezvous = Rendezvous::start();
    let mut receiver = HttpReceiver::start("127.0.0.1:0");
    let host = webhook_host(dir.path(), &rendezvous, &receiver.address, "");
    for n in 1..=3 {
        event(&host, n);
    }
    let seen = receiver.until(|s| is_event(s, 3));
    assert!(seen.iter().all(|s| s["signed"] == true && s["request"] == "POST /hook HTTP/1.1"), "{seen:?}");
    let mut ids: Vec<u64> = seen.iter().map(|s| s["body"]["event_id"].as_u64().unwrap()).collect();
    // One that was answered too late for its sender comes once more.
    ids.dedup();
    assert_eq!(ids, (1..=ids.len() as u64).collect::<Vec<_>>(), "all, in order, from 1");
    let topics: Vec<&str> = seen.iter().map(|s| s["body"]["event"].as_str().unwrap()).collect();
    assert!(topics.contains(&"node.registered"), "{topics:?}");

    // Three attempts each; the fifth failure in a row opens the breaker, and the next event costs no request. The host has
    // events of its own among ours, so what counts is how each was answered, not how many there were.
    receiver.answer(500);
    let skips = || host.ok(&["info"])["webhook_circuit_skips"].as_u64();
    let mut n = 10;
    eventually("a skipped event", || {
        n += 1;
        event(&host, n);
        skips().filter(|skipped| *skipped >= 1)
    });
    let mut tries = std::collections::BTreeMap::<u64, u32>::new();
    // The breaker counts a failure before the receiver's line about it has come through the pipe.
    receiver.until(|seen| {
        if seen["status"] == "500" {
            *tries.entry(seen["body"]["event_id"].as_u64().unwrap()).or_default() += 1;
        }
        tries.values().take(5).filter(|n| **n == 3).count() == 5
    });

    // After the cooldown one event is the probe; it opens the way again.
    receiver.answer(200);
    let mut probe = Value::Null;
    eventually("the probe", || {
        n += 1;
        event(&host, n);
        probe = receiver.seen.try_iter().find(|s| s["status"] == "200")?;
        Some(())
    });
    // Everything that was queued meanwhile has gone before a further event arrives.
    n += 1;
    event(&host, n);
    receiver.until(|s| is_event(s, n));
    println!(
        "signature, order, 3 attempts each ({tries:?}), {:?} skipped, probe {}",
        skips(),
        probe["body"]["event_id"]
    );

    // A redirect to a cloud's metadata service is a refusal, not a request.
    receiver.answer(307);
    n += 1;
    event(&host, n);
    receiver.until(|s| is_event(s, n));
    host.process.wait_line("redirect to http://169.254.169.254/latest/meta-data not followed");
    let refused = host.fails(&["set-webhook", "http://169.254.169.254/"]);
    assert!(refused["message"].as_str().unwrap().contains("link-local address 169.254.169.254"), "{refused}");
}

#[test]
fn undelivered_events_survive_a_kill_and_are_delivered_in_order() {
    let dir = temp_dir();
    let rendezvous = Rendezvous::start();
    let receiver = HttpReceiver::start("127.0.0.1:0");
    let address = receiver.address.clone();
    let mut host = webhook_host(dir.path(), &rendezvous, &address, "spool_dir = \"events\"");
    event(&host, 1);
    receiver.until(|s| is_event(s, 1));
    drop(receiver);
    for n in 2..=20 {
        event(&host, n);
    }
    eventually("the events on disk", || {
        let logs = files(&host.state().join("events"));
        let text: String =
            logs.iter().map(|f| String::from_utf8_lossy(&std::fs::read(f).unwrap()).into_owned()).collect();
        text.contains("\"peer_node_id\":20").then_some(())
    });
    host.process.signal("-KILL");
    host.process.wait_exit();

    let receiver = HttpReceiver::start(&address);
    let host = Host::start_with(
        dir.path(),
        "alice",
        &rendezvous,
        &dir.path().join("plugins"),
        &["--config", dir.path().join("webhook.toml").to_str().unwrap()],
    );
    event(&host, 21);
    let seen = receiver.until(|s| is_event(s, 21));
    assert!(seen.iter().all(|s| s["signed"] == true), "{seen:?}");
    let numbers: Vec<u64> = seen
        .iter()
        .filter(|s| s["body"]["event"] == "handshake.rejected")
        .map(|s| s["body"]["data"]["peer_node_id"].as_u64().unwrap())
        .collect();
    // The one that was on its way when the process died may come twice; none is missing, none out of order.
    let mut once = numbers.clone();
    once.dedup();
    assert_eq!(once, (2..=21).collect::<Vec<u64>>(), "{numbers:?}");
}

/// The example of `examples/secure-echo`: two hosts that prove themselves to each other on port 443.
#[test]
fn a_third_partys_plugin_talks_through_the_secure_channel() {
    let dir = temp_dir();
    let plugins = plugins(dir.path());
    stage_example(&plugins, "secure-echo");
    let rendezvous = Rendezvous::start();
    let start = |name: &str, table: &str| {
        let config = dir.path().join(format!("{name}.toml"));
        let capabilities = "[plugins.settings.secure-echo.capabilities]\nports = [443]\ndial = [\"*:*:443\"]\n\
            sign = [\"pilot-secure-auth:\"]\nregistry = [\"lookup\"]\n";
        std::fs::write(&config, format!("{capabilities}{table}")).unwrap();
        let extra = ["--public", "--config", config.to_str().unwrap()];
        Host::start_with(dir.path(), name, &rendezvous, &plugins, &extra)
    };
    let bob = start("bob", "");
    let alice = start("alice", &format!("[plugin.secure-echo]\ncall = [{}]\n", bob.node_id()));
    let line = alice.process.wait_line("secure-echo called");
    assert!(line.contains("hello through the secure channel"), "{line}");
    println!("{line}");
}
