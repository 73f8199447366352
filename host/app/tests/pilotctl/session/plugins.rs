//! Plugins: what is loaded, stopped, started, replaced.

use super::{Script, Seat};
use crate::support::*;

#[test]
fn plugins_come_and_go() {
    let dir = temp_dir();
    let mut s = Script::new("plugins", dir.path());
    let rendezvous = Rendezvous::start();
    let plugins = dir.path().join("plugins");
    stage(&plugins, &PLUGINS);
    let alice = Host::start(dir.path(), "alice", &rendezvous, &plugins);
    let a = Seat::at(&alice);

    s.part("What is loaded");
    s.both(&a, &["plugins"]);
    s.both(&a, &["plugins", "list"]);
    s.both(&a, &["plugins", "status", "webhook"]);
    s.both(&a, &["plugins", "status", "nothing"]);
    s.both(&a, &["plugins", "logs", "handshake", "--lines", "1"]);

    s.part("One at a time");
    s.both(&a, &["plugins", "stop", "webhook"]);
    s.run(&a, &["plugins"]);
    s.both(&a, &["plugins", "start", "webhook"]);
    s.run(&a, &["plugins", "restart", "webhook"]);
    s.json(&a, &["plugins", "restart", "webhook"]);
    s.run(&a, &["plugins", "reload", "webhook"]);
    s.json(&a, &["plugins", "reload", "webhook"]);
    s.both(&a, &["plugins", "reload", "nothing"]);
    s.both(&a, &["plugins", "lift", "webhook"]);

    s.part("A picture of all");
    s.run(&a, &["top", "--once", "--height", "24"]);
    s.json(&a, &["top", "--once"]);
    s.finish();
}
