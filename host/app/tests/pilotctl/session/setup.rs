//! The tool before there is a daemon, and the daemon as a process that the tool starts and stops.

use super::{Script, Seat};
use crate::support::*;

#[test]
fn first_steps() {
    let dir = temp_dir();
    let mut s = Script::new("setup", dir.path());
    let rendezvous = Rendezvous::start();
    let plugins = dir.path().join("plugins");
    stage(&plugins, &PLUGINS);
    let host = env!("CARGO_BIN_EXE_pilot-host");
    let me = Seat::new(dir.path(), "solo").with("PILOT_DAEMON_BIN", host);

    s.part("The tool itself");
    s.run(&me, &["version"]);
    s.run(&me, &["quickstart"]);
    s.both(&me, &["context", "ping"]);
    s.both(&me, &["context", "pong"]);
    s.both(&me, &["ping"]);
    s.both(&me, &["ping", "2", "--timeout", "soon"]);
    s.both(&me, &["network"]);
    s.run(&me, &["completions", "csh"]);
    s.json(&me, &["pong"]);

    s.part("Configuration");
    s.run(&me, &["init", "--registry", &rendezvous.registry, "--beacon", &rendezvous.beacon]);
    s.json(&me, &["init", "--hostname", "solo"]);
    s.run(&me, &["config", "--set", "log-level=info"]);
    s.json(&me, &["config", "--set", "email=solo@example.com"]);
    s.both(&me, &["config", "--set", "nothing"]);
    s.both(&me, &["config"]);

    s.part("Without a daemon");
    s.both(&me, &["info"]);
    s.both(&me, &["inbox"]);
    s.both(&me, &["received"]);
    s.both(&me, &["inbox", "--clear"]);
    s.both(&me, &["set-webhook", "http://127.0.0.1:1/events"]);
    s.both(&me, &["set-webhook", "ftp://example.com"]);
    s.both(&me, &["clear-webhook"]);
    s.both(&me, &["daemon", "status"]);
    s.both(&me, &["daemon", "status", "--check"]);
    s.both(&me, &["daemon", "stop"]);

    s.part("The daemon as a process");
    // Whatever fails below, no daemon stays behind.
    struct StopAtEnd<'a>(&'a Seat);
    impl Drop for StopAtEnd<'_> {
        fn drop(&mut self) {
            finished(&mut self.0.command(&["daemon", "stop"]), b"");
        }
    }
    let _stop = StopAtEnd(&me);
    let start = ["daemon", "start", "--listen", "127.0.0.1:0", "--wait", "60s", "--plugins"];
    let start = [&start[..], &[plugins.to_str().unwrap()]].concat();
    s.run(&me, &start);
    s.both(&me, &start);
    s.both(&me, &["daemon", "status"]);
    s.run(&me, &["daemon", "status", "--check"]);
    s.run(&me, &["daemon", "stop"]);
    s.json(&me, &start);
    s.json(&me, &["daemon", "stop"]);
    let nowhere = ["daemon", "start", "--listen", "127.0.0.1:0", "--plugins", "/nonexistent"];
    let out = s.run(&me, &nowhere);
    assert_eq!(out.status.code(), Some(1));
    s.finish();
}
