//! Messages, files, streams, datagrams and topics between two nodes that trust each other.

use super::{Script, Seat};
use crate::support::*;

#[test]
fn two_who_trust_each_other() {
    let dir = temp_dir();
    let mut s = Script::new("talk", dir.path());
    let rendezvous = Rendezvous::start_with(&["--admin-token", "sesame"]);
    let plugins = dir.path().join("plugins");
    stage(&plugins, &PLUGINS);
    stage_example(&plugins, "event-stream");
    let config = dir.path().join("pilot.toml");
    std::fs::write(&config, EVENT_STREAM_SETTINGS).unwrap();
    let start = |name: &str, more: &[&str]| {
        let more = [&["--config", config.to_str().unwrap()], more].concat();
        Host::start_with(dir.path(), name, &rendezvous, &plugins, &more)
    };
    let (alice, bob) = (start("alice", &["--admin-token", "sesame"]), start("bob", &[]));
    let _carol = start("carol", &[]);
    let [a, b] = [&alice, &bob].map(Seat::at);

    s.part("Strangers");
    s.both(&a, &["send-message", "2", "--data", "hello"]);
    s.both(&a, &["send-message", "nobody", "--data", "hello"]);
    s.both(&a, &["ping", "77", "--count", "1"]);
    befriend(&alice, &bob);

    s.part("Messages");
    s.both(&a, &["send-message", "bob", "--data", "hello, bob"]);
    s.run(&a, &["send-message", "2", "--data", "{\"n\": 1}", "--type", "json"]);
    s.run_with(&a, &["send-message", "2", "--data", "-"], "from standard input");
    s.both(&a, &["send-message", "2", "--data", "three times", "--count", "3", "--reuse-conn"]);
    s.both(&a, &["send-message", "2", "--data", "measured", "--trace"]);
    s.both(&a, &["send-message", "2"]);
    s.both(&a, &["send-message", "2", "--data", "no json", "--type", "json"]);
    // Somebody answers.
    let asked = Script::begin(&a, &["send-message", "2", "--data", "a question", "--wait", "50s"]);
    eventually("the question", || {
        let total = bob.ok(&["inbox", "--limit", "0"])["messages"].as_array().cloned().unwrap();
        total.iter().any(|m| m["data"] == "a question").then_some(())
    });
    bob.ok(&["send-message", "1", "--data", "an answer"]);
    s.end(asked);
    s.both(&a, &["send-message", "2", "--data", "no answer", "--wait", "100ms"]);

    s.part("The inbox");
    s.both(&b, &["inbox", "--limit", "2"]);
    s.both(&b, &["inbox", "--latest"]);
    s.both(&a, &["inbox", "--from", "2"]);
    let id = alice.ok(&["inbox"])["messages"][0]["id"].as_str().unwrap().to_owned();
    s.both(&a, &["inbox", "read", &id]);
    s.both(&a, &["inbox", "read", "nothing"]);
    s.run(&a, &["inbox", "--clear"]);
    s.json(&a, &["inbox", "--clear"]);
    s.both(&a, &["inbox"]);

    s.part("Files");
    let file = a.home.join("report.txt");
    std::fs::write(&file, "all is well\n".repeat(1000)).unwrap();
    s.both(&a, &["send-file", "bob", "report.txt"]);
    s.both(&a, &["send-file", "bob", "report.txt", "--no-stream"]);
    s.both(&a, &["send-file", "bob", "nothing.txt"]);
    s.both(&b, &["received"]);
    s.run(&b, &["received", "--clear"]);
    s.json(&b, &["received", "--clear"]);
    s.both(&b, &["received"]);

    s.part("Measuring");
    s.both(&a, &["ping", "bob", "--count", "2", "--interval", "10ms"]);
    s.both(&a, &["traceroute", "bob"]);
    s.both(&a, &["bench", "bob", "0.25"]);
    s.both(&a, &["bench", "bob", "0"]);

    s.part("Streams");
    s.both(&a, &["send", "bob", "7", "--data", "echo"]);
    s.both(&a, &["connect", "bob", "7", "--message", "echo"]);
    s.run_with(&a, &["connect", "bob", "7"], "through a pipe\n");
    s.both(&a, &["connect", "bob", "4242", "--message", "nobody is there"]);
    s.both(&a, &["recv", "4000", "--timeout", "50ms"]);
    s.both(&a, &["recv", "1001"]);
    let bound = bob.ok(&["info"])["ports"].as_u64().unwrap() + 1;
    for json in [false, true] {
        let args = if json { &["--json", "recv", "4000"][..] } else { &["recv", "4000"] };
        let waiting = Script::begin(&b, args);
        eventually("the port", || (bob.ok(&["info"])["ports"] == bound).then_some(()));
        // Nobody answers on that port; what was sent arrives all the same.
        alice.ctl(&["send", "2", "4000", "--data", "to a port", "--timeout", "2s"]);
        s.end(waiting);
    }

    s.part("Datagrams");
    s.both(&a, &["dgram", "bob", "5000", "--data", "to a port"]);
    s.both(&b, &["listen", "5000", "--timeout", "50ms"]);
    for json in [false, true] {
        let args = ["--json", "listen", "5000", "--count", "1"];
        let mut waiting = Script::begin(&b, &args[usize::from(!json)..]);
        eventually("a datagram", || {
            alice.ok(&["dgram", "2", "5000", "--data", "again"]);
            waiting.running.ended().then_some(())
        });
        s.end(waiting);
    }
    s.both(&a, &["broadcast", "0", "to all"]);
    let admin = Seat::at(&alice).with("PILOT_ADMIN_TOKEN", "sesame");
    s.both(&admin, &["broadcast", "0", "to all", "--port", "5000"]);
    let wrong = Seat::at(&alice).with("PILOT_ADMIN_TOKEN", "open up");
    s.both(&wrong, &["broadcast", "0", "to all"]);

    s.part("Topics");
    s.both(&a, &["publish", "bob", "news", "--data", "nobody follows"]);
    for json in [false, true] {
        let args = ["--json", "subscribe", "bob", "news", "--count", "1"];
        let mut waiting = Script::begin(&a, &args[usize::from(!json)..]);
        eventually("an event", || {
            alice.ok(&["publish", "2", "news", "--data", "it rains"]);
            waiting.running.ended().then_some(())
        });
        s.end(waiting);
    }
    s.both(&a, &["subscribe", "bob", "*", "--timeout", "50ms"]);
    s.finish();
}
