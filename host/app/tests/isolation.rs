//! Plugins in processes of their own, with real hosts: the four that come with the host do all their work there, and one
//! that crashes a hundred times costs the daemon and the others nothing.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use support::*;

fn host(dir: &Path, name: &str, rendezvous: &Rendezvous, plugins: &Path, config: &str) -> Host {
    let file = dir.join(format!("{name}.toml"));
    std::fs::write(&file, config).unwrap();
    Host::start_with(dir, name, rendezvous, plugins, &["--config", file.to_str().unwrap()])
}

/// The plugins as `pilotctl plugins` lists them, by name.
fn plugin(host: &Host, name: &str) -> Value {
    let list = host.ok(&["plugins"])["plugins"].as_array().unwrap().clone();
    list.into_iter().find(|p| p["name"] == name).unwrap_or_else(|| panic!("no {name}"))
}

fn kill(signal: &str, pid: u64) -> bool {
    Command::new("kill")
        .args([signal, &pid.to_string()])
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap()
        .success()
}

#[test]
fn the_four_work_in_processes_of_their_own() {
    let dir = temp_dir();
    let rendezvous = Rendezvous::start();
    let plugins = dir.path().join("plugins");
    stage(&plugins, &PLUGINS);
    let isolated = PLUGINS.map(|p| format!("[plugins.settings.{p}]\nisolation = \"process\"\n")).concat();
    let mut alice = host(dir.path(), "alice", &rendezvous, &plugins, &isolated);
    let bob = host(dir.path(), "bob", &rendezvous, &plugins, &isolated);
    let pids = |host: &Host| -> BTreeSet<u64> {
        let running = PLUGINS.iter().map(|p| plugin(host, p)).filter(|p| p["state"] == "running");
        running.filter(|p| p["isolation"] == "process").filter_map(|p| p["pid"].as_u64()).collect()
    };
    assert_eq!((pids(&alice).len(), pids(&bob).len()), (4, 4));
    assert!(!pids(&alice).contains(&u64::from(alice.process.pid())));
    let shown = alice.ok(&["plugins", "status", "policy"]);
    assert_eq!((&shown["isolation"], shown["process_restarts"].as_u64()), (&Value::from("process"), Some(0)));

    befriend(&alice, &bob);
    let bob_id = bob.node_id().to_string();
    let exchange = |text: &str, bytes: usize| {
        let sent = alice.ok(&["send-message", &bob_id, "--data", text]);
        assert_eq!(sent["ack"], format!("ACK TEXT {} bytes", text.len()));
        let file = dir.path().join(format!("{text}.bin"));
        std::fs::write(&file, noise(bytes, bytes as u64)).unwrap();
        alice.ok(&["send-file", &bob_id, file.to_str().unwrap()]);
        let arrived = files(&bob.state().join("received"));
        let sum = sha256(&file);
        assert!(arrived.iter().any(|f| sha256(f) == sum), "{arrived:?}");
    };
    exchange("hello", 5 << 20);

    // All of them die at once; what they kept on disk, trust for one, is theirs again.
    let before = pids(&bob);
    for pid in &before {
        assert!(kill("-KILL", *pid));
    }
    eventually("four new processes", || {
        let now = pids(&bob);
        (now.len() == 4 && now.is_disjoint(&before)).then_some(())
    });
    for name in PLUGINS {
        let shown = bob.ok(&["plugins", "status", name]);
        assert_eq!(
            (shown["crashes"].as_u64(), shown["process_restarts"].as_u64()),
            (Some(1), Some(1)),
            "{shown}"
        );
        assert!(shown["recent_faults"][0]["text"].as_str().unwrap().contains("killed by SIGKILL"), "{shown}");
    }
    eventually("trust read again", || {
        let trusted = bob.ok(&["trust"]);
        (trusted["trusted"].as_array().unwrap().len() == 1).then_some(())
    });
    exchange("again", 1 << 20);

    // The host takes its children along, whichever way it goes.
    let (of_alice, of_bob) = (pids(&alice), pids(&bob));
    alice.process.signal("-TERM");
    assert_eq!(alice.process.wait_exit().code(), Some(0));
    bob.process.signal("-KILL");
    eventually("the end of all children", || {
        let left = of_alice.iter().chain(&of_bob).filter(|pid| kill("-0", **pid)).count();
        (left == 0).then_some(())
    });
}

/// Ports, streams and subscriptions of a crashed process are gone at once, long before the next one starts: its peers
/// notice, another plugin may have the port, and the next process gets it again.
#[test]
fn what_a_crashed_plugin_held_is_free_at_once() {
    let dir = temp_dir();
    let rendezvous = Rendezvous::start();
    let plugins = dir.path().join("plugins");
    stage(&plugins, &["handshake"]);
    let alice = host(dir.path(), "alice", &rendezvous, &plugins, "");
    let with_more = dir.path().join("more");
    stage(&with_more, &["handshake"]);
    stage_faulty(&with_more, "isolated");
    stage_faulty(&with_more, "chameleon");
    let rules = "ports = [7007]\npublish = [\"*\"]\nsubscribe = [\"*\"]\n";
    let config = format!(
        "[plugins]\nquarantine_after = 0\n[plugins.settings.isolated]\nisolation = \"process\"\n\
         [plugins.settings.isolated.process]\nrestart_pause = \"1h\"\nlongest_restart_pause = \"1h\"\n\
         [plugins.settings.isolated.capabilities]\n{rules}[plugins.settings.chameleon.capabilities]\n{rules}"
    );
    let bob = host(dir.path(), "bob", &rendezvous, &with_more, &config);
    bob.ok(&["plugins", "stop", "chameleon"]);
    befriend(&alice, &bob);
    let bob_id = bob.node_id().to_string();
    let echo = || alice.ctl(&["connect", &bob_id, "7007", "--message", "hello", "--timeout", "5s"]);
    assert!(echo().status.success());

    // A stream that is open when the process dies: it ends, and nobody waits for a timeout.
    let pid = plugin(&bob, "isolated")["pid"].as_u64().unwrap();
    let started = std::time::Instant::now();
    alice.ctl(&["connect", &bob_id, "7007", "--message", "do segv", "--timeout", "50s"]);
    assert!(started.elapsed() < Duration::from_secs(40), "the stream was left open");
    bob.process.wait_line("plugin process crashed");
    eventually("the end of the process", || (!kill("-0", pid)).then_some(()));
    let shown = plugin(&bob, "isolated");
    assert_eq!((&shown["crashes"], &shown["pid"]), (&1.into(), &Value::Null), "{shown}");
    // What is left of its streams is the engine's memory of them.
    let held = bob.ok(&["connections"])["connections"].clone();
    let open: Vec<_> = held.as_array().unwrap().iter().filter(|c| c["local_port"] == 7007).collect();
    assert!(open.iter().all(|c| c["state"] != "ESTABLISHED"), "{open:?}");
    let refused = echo();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("connection refused"), "{refused:?}");

    // The port is really free, and comes back once it is free again.
    std::fs::write(bob.state().join("chameleon.do"), "bind 7007").unwrap();
    bob.ok(&["plugins", "start", "chameleon"]);
    let greeted = alice.ok(&["connect", &bob_id, "7007", "--message", "x", "--timeout", "5s"]);
    assert!(greeted.to_string().contains("chameleon in"), "{greeted}");
    bob.ok(&["plugins", "stop", "chameleon"]);
    bob.ok(&["plugins", "restart", "isolated"]);
    let echoed = echo();
    assert!(String::from_utf8_lossy(&echoed.stdout).contains("hello"), "{echoed:?}");
    assert_eq!(bob.ok(&["health"])["status"], "ok");
}

#[test]
fn a_plugin_that_crashes_again_and_again_harms_nobody() {
    // A hundred takes a while in a debug build on a busy machine.
    let crashes: u64 = if std::env::var_os("PILOT_LONG").is_some() { 100 } else { 20 };
    let dir = temp_dir();
    let rendezvous = Rendezvous::start();
    let plugins = dir.path().join("plugins");
    stage(&plugins, &["dataexchange", "handshake"]);
    let alice = host(dir.path(), "alice", &rendezvous, &plugins, "");
    let with_third = dir.path().join("more");
    stage(&with_third, &["dataexchange", "handshake"]);
    stage_faulty(&with_third, "isolated");
    let config = format!(
        "[plugins]\nquarantine_after = {crashes}\nquarantine_window = \"1h\"\n\
         [plugins.settings.isolated]\nisolation = \"process\"\n\
         [plugins.settings.isolated.process]\nlongest_restart_pause = \"100ms\"\n\
         [plugins.settings.isolated.capabilities]\nports = [7007]\npublish = [\"*\"]\nsubscribe = [\"*\"]\n"
    );
    let bob = host(dir.path(), "bob", &rendezvous, &with_third, &config);
    befriend(&alice, &bob);
    let bob_id = bob.node_id().to_string();

    // Another plugin's streams go on all the while.
    let file = dir.path().join("payload.bin");
    std::fs::write(&file, noise(256 << 10, 7)).unwrap();
    let done = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            let mut sent = 0;
            while !done.load(Ordering::Acquire) {
                alice.ok(&["send-file", &bob_id, file.to_str().unwrap()]);
                sent += 1;
            }
            sent
        });
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for n in 1..=crashes {
                let runs = eventually("a process", || {
                    let lines = bob.process.lines_with("plugin process runs");
                    (lines.len() as u64 == n).then(|| lines.last().cloned().unwrap())
                });
                let pid: u64 = field(&runs, "pid").parse().unwrap();
                if n % 5 == 0 {
                    // A null pointer in the plugin's own code, by way of its port.
                    alice.ctl(&["connect", &bob_id, "7007", "--message", "do segv", "--timeout", "2s"]);
                } else {
                    assert!(kill("-SEGV", pid));
                }
                eventually("its crash", || {
                    // A first signal from outside only makes Rust's handler for stack overflows step aside.
                    let crashed = bob.process.lines_with("plugin process crashed").len() as u64 >= n;
                    if !crashed && n % 5 != 0 {
                        kill("-SEGV", pid);
                    }
                    crashed.then_some(())
                });
                if n % 10 == 0 {
                    assert_eq!(bob.ok(&["health"])["status"], "ok");
                }
            }
        }));
        done.store(true, Ordering::Release);
        let sent = traffic.join().unwrap();
        if let Err(payload) = failed {
            std::panic::resume_unwind(payload);
        }
        sent
    });
    assert!(sent > 0);
    let arrived = files(&bob.state().join("received"));
    assert_eq!(arrived.len(), sent);
    let sum = sha256(&file);
    assert!(arrived.iter().all(|f| sha256(f) == sum));

    // The books are right, and it is out.
    eventually("quarantine", || (plugin(&bob, "isolated")["state"] == "quarantined").then_some(()));
    let shown = bob.ok(&["plugins", "status", "isolated"]);
    assert_eq!(shown["crashes"].as_u64(), Some(crashes), "{shown}");
    // Between them is what the ledger noted of the calls that a plugin without capabilities was refused.
    let faults = shown["recent_faults"].as_array().unwrap();
    let mut texts = faults.iter().filter(|f| f["kind"] == "crash").map(|f| f["text"].as_str().unwrap());
    assert!(texts.next().is_some_and(|t| t.contains("killed by SIGSEGV")), "{shown}");
    assert!(texts.all(|t| t.contains("killed by SIGSEGV")), "{shown}");
    for name in ["dataexchange", "handshake"] {
        let other = plugin(&bob, name);
        assert_eq!(
            (&other["state"], &other["starts"], &other["faults"]),
            (&"running".into(), &1.into(), &0.into())
        );
    }

    // From each crash to the next running process, by the daemon's own clock.
    let time = |line: &String| -> jiff::Timestamp {
        line.split(' ').next().unwrap()["time=".len()..].parse().unwrap()
    };
    let crashed: Vec<_> = bob.process.lines_with("plugin process crashed").iter().map(time).collect();
    let runs: Vec<_> = bob.process.lines_with("plugin process runs").iter().map(time).collect();
    let pauses = crashed.iter().zip(&runs[1..]).map(|(c, r)| r.duration_since(*c));
    let longest = pauses.max().map(|d| Duration::try_from(d).unwrap()).unwrap();
    println!("{crashes} crashes; longest way back {longest:?}; {sent} files arrived meanwhile");
    assert!(longest < Duration::from_secs(1), "{longest:?}");

    assert_eq!(bob.fails(&["plugins", "start", "isolated"])["code"], "permission_denied");
    bob.ok(&["plugins", "lift", "isolated"]);
    let lifted = plugin(&bob, "isolated");
    assert!(lifted["state"] == "running" && lifted["pid"].is_u64(), "{lifted}");
    let echoed = alice.ok(&["connect", &bob_id, "7007", "--message", "hello"]);
    assert!(echoed.to_string().contains("hello"), "{echoed}");
}
