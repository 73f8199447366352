//! A node's names, settings and key at the registry.

use super::{Script, Seat};
use crate::support::*;

#[test]
fn names_and_settings() {
    let dir = temp_dir();
    let mut s = Script::new("registry", dir.path());
    let rendezvous = Rendezvous::start();
    let plugins = dir.path().join("plugins");
    stage(&plugins, &PLUGINS);
    let start = |name: &str| Host::start(dir.path(), name, &rendezvous, &plugins);
    let (alice, bob) = (start("alice"), start("bob"));
    let [a, b] = [&alice, &bob].map(Seat::at);

    s.part("Names");
    s.both(&a, &["find", "bob"]);
    s.both(&a, &["find", "nobody"]);
    s.both(&a, &["lookup", "1"]);
    s.both(&a, &["lookup", "2"]);
    s.both(&a, &["lookup", "77"]);
    s.run(&b, &["set-public"]);
    s.json(&b, &["set-public"]);
    s.both(&a, &["find", "bob"]);
    s.both(&a, &["lookup", "bob"]);
    s.run(&b, &["set-private"]);
    s.json(&b, &["set-private"]);
    s.both(&a, &["set-hostname", "alicia"]);
    s.both(&a, &["set-hostname", "not a name"]);
    s.both(&a, &["set-hostname", "bob"]);
    s.both(&a, &["clear-hostname"]);
    s.both(&a, &["set-tags", "web", "eu"]);
    s.both(&a, &["set-tags", "a", "b", "c", "d"]);
    s.both(&a, &["clear-tags"]);

    s.part("Webhook");
    s.both(&a, &["set-webhook", "http://127.0.0.1:1/events"]);
    s.both(&a, &["set-webhook", "http://169.254.169.254/"]);
    s.both(&a, &["clear-webhook"]);

    s.part("Key");
    s.both(&a, &["key-info"]);
    s.both(&a, &["key-info", "bob"]);
    s.both(&a, &["key-expiry", "2030-01-01T00:00:00Z"]);
    s.both(&a, &["key-expiry", "tomorrow"]);
    s.both(&a, &["rotate-key"]);
    s.both(&a, &["key-info"]);
    s.both(&a, &["verify", "--badge", "no badge", "--badge-sig", "bm8="]);
    s.both(&a, &["recovery", "enroll", "--enrollment", "{}", "--enrollment-sig", "bm8="]);

    s.part("Leaving and coming back");
    s.both(&b, &["deregister"]);
    s.both(&b, &["register"]);
    s.finish();
}
