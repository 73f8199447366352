//! Two nodes and a third: who asks, who is asked, and what is decided.
//!
//! A second direct request of the same node within ten minutes is a replay (handshake.md section 4), so every request
//! here is the first one between its two nodes.

use super::{Script, Seat};
use crate::support::*;

/// Waits until a list of a host (`pending`, `trust`) has a node, or has it no more.
pub fn listed(host: &Host, list: &str, node: u64, wanted: bool) {
    let member = if list == "trust" { "trusted" } else { list };
    eventually(&format!("node {node} in {}'s {list}: {wanted}", host.name), || {
        let rows = host.ok(&[list])[member].as_array().cloned().unwrap();
        (rows.iter().any(|r| r["node_id"] == node) == wanted).then_some(())
    });
}

#[test]
fn asking_and_deciding() {
    let dir = temp_dir();
    let mut s = Script::new("trust", dir.path());
    let rendezvous = Rendezvous::start();
    let plugins = dir.path().join("plugins");
    stage(&plugins, &PLUGINS);
    let start = |name: &str| Host::start(dir.path(), name, &rendezvous, &plugins);
    let (alice, bob, carol, dave) = (start("alice"), start("bob"), start("carol"), start("dave"));
    let ids = [&alice, &bob, &carol, &dave].map(|host| host.node_id());
    assert_eq!(ids, [1, 2, 3, 4]);
    let [a, b, c, d] = [&alice, &bob, &carol, &dave].map(Seat::at);

    s.part("Nobody yet");
    s.both(&a, &["pending"]);
    s.both(&a, &["trust"]);
    s.both(&a, &["untrust", "2"]);
    s.both(&a, &["handshake", "bob"]);
    s.both(&a, &["handshake", "77", "who are you"]);
    s.both(&a, &["handshake", "1", "me"]);

    s.part("Alice, carol and dave ask bob");
    s.run(&a, &["handshake", "2", "we work together"]);
    listed(&bob, "pending", 1, true);
    s.json(&c, &["handshake", "0:0000.0000.0002", "me too"]);
    listed(&bob, "pending", 3, true);
    s.both(&b, &["pending"]);
    // The newest stands first, and the lower number within one second.
    s.run(&b, &["approve", "3"]);
    s.json(&b, &["approve", "1"]);
    listed(&alice, "trust", 2, true);
    listed(&carol, "trust", 2, true);
    listed(&bob, "trust", 3, true);
    listed(&bob, "trust", 1, true);
    let waiting = Script::begin(&d, &["handshake", "2", "--wait=50ms"]);
    s.end(waiting);
    listed(&bob, "pending", 4, true);
    s.run(&b, &["reject", "4", "not today"]);
    listed(&bob, "pending", 4, false);
    s.both(&b, &["pending"]);

    s.part("Rejected again, and asked the other way round with a wait");
    s.run(&d, &["handshake", "1", "hello"]);
    listed(&alice, "pending", 4, true);
    s.json(&a, &["reject", "4"]);
    let waiting = Script::begin(&c, &["--json", "handshake", "4", "--wait=50s"]);
    listed(&dave, "pending", 3, true);
    dave.ok(&["approve", "3"]);
    s.end(waiting);

    s.part("Trust");
    s.both(&b, &["trust"]);
    s.both(&b, &["trust", "--search", "3"]);
    s.both(&b, &["trust", "--limit", "1"]);
    s.both(&a, &["prefer-direct", "bob"]);
    s.run(&a, &["untrust", "bob"]);
    s.json(&c, &["untrust", "2"]);
    s.both(&a, &["send-message", "2", "--data", "hello"]);
    s.finish();
}
