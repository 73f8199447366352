//! A node looked at, and its names and settings at the registry.

use std::process::{Child, Stdio};

use serde_json::Value;

use super::{Script, Seat};
use crate::support::*;

/// Somebody at a terminal who has not typed anything yet.
struct Typing(Child);

impl Drop for Typing {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn looking_at_a_node() {
    let dir = temp_dir();
    let mut s = Script::new("node", dir.path());
    let rendezvous = Rendezvous::start();
    let plugins = dir.path().join("plugins");
    stage(&plugins, &PLUGINS);
    let start = |name: &str| Host::start(dir.path(), name, &rendezvous, &plugins);
    let (alice, bob) = (start("alice"), start("bob"));
    let [a, b] = [&alice, &bob].map(Seat::at);

    s.part("Alone");
    s.both(&a, &["info"]);
    s.both(&a, &["health"]);
    s.both(&a, &["peers"]);
    s.both(&a, &["connections"]);
    s.both(&a, &["info", "--watch=100ms", "--rounds", "1"]);
    s.both(&a, &["set-public", "--watch"]);

    s.part("With a peer");
    befriend(&alice, &bob);
    let bound = bob.ok(&["info"])["ports"].as_u64().unwrap() + 1;
    // A stream that stays while it is looked at.
    let waiting = Running::start(&mut b.command(&["recv", "4000", "--timeout", "10m"]), b"");
    eventually("a port of bob's own", || (bob.ok(&["info"])["ports"] == bound).then_some(()));
    let mut open = a.command(&["connect", "2", "4000"]);
    let open =
        Typing(open.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let id = eventually("a stream", || {
        let rows = alice.ok(&["connections"])["connections"].as_array().cloned().unwrap();
        let row = rows.iter().find(|r| r["remote_port"] == 4000)?;
        (row["state"] == "ESTABLISHED").then(|| row["id"].to_string())
    });
    eventually("what opens and closes on the way is over", || {
        let streams = |host: &Host| host.ok(&["connections"])["total"].as_u64().unwrap();
        (streams(&alice) == 1 && streams(&bob) == 1).then_some(())
    });
    s.both(&a, &["peers"]);
    s.both(&a, &["peers", "--search", "nobody"]);
    s.both(&a, &["connections"]);
    drop(waiting);
    s.run(&a, &["disconnect", &id]);
    s.json(&a, &["disconnect", "4294967295"]);
    drop(open);

    s.part("Events");
    s.both(&b, &["events", "--topic", "handshake.approved"]);
    s.both(&a, &["events", "--topic", "nothing.*"]);
    s.both(&a, &["events", "--topic", "node.*", "--follow", "--count", "1"]);

    s.part("Signed requests");
    s.run(&a, &["sign-request", "--audience", "example.com", "--body", "hello"]);
    let signed = s.json(&a, &["sign-request", "--audience", "example.com", "--body", "hello"]);
    let member = |v: &Value, key: &str| v[key].as_str().unwrap_or_default().to_owned();
    let (envelope, signature) = (member(&signed, "envelope"), member(&signed, "signature"));
    s.both(&b, &["verify-request", "--envelope", &envelope, "--signature", &signature, "--standing"]);
    s.both(&b, &["verify-request", "--envelope", "hello", "--signature", &signature]);
    s.both(&a, &["sign-request", "--audience", "Example Inc", "--body", "hello"]);
    s.finish();
}
