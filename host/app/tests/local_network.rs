//! The main job with real processes: a rendezvous, two hosts with four plugins each, trust, a message, a file.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod support;

use std::process::Command;

use support::*;

fn two_hosts(dir: &std::path::Path, rendezvous: &Rendezvous) -> (Host, Host) {
    let plugins = dir.join("plugins");
    stage(&plugins, &PLUGINS);
    (Host::start(dir, "alice", rendezvous, &plugins), Host::start(dir, "bob", rendezvous, &plugins))
}

#[test]
fn trust_message_file_and_orderly_end() {
    let dir = temp_dir();
    let rendezvous = Rendezvous::start();
    let (mut alice, mut bob) = two_hosts(dir.path(), &rendezvous);
    for host in [&alice, &bob] {
        assert_eq!(host.plugin_lines("plugin started"), PLUGINS);
        let listed: Vec<_> = host.ok(&["plugins"])["plugins"].as_array().unwrap().clone();
        assert_eq!(listed.iter().map(|p| p["name"].as_str().unwrap()).collect::<Vec<_>>(), PLUGINS);
    }
    befriend(&alice, &bob);
    let bob_id = bob.node_id().to_string();

    let sent = alice.ok(&["send-message", &bob_id, "--data", "hello"]);
    assert_eq!(sent["ack"], "ACK TEXT 5 bytes");
    let inbox = bob.ok(&["inbox"]);
    assert_eq!(inbox["messages"][0]["data"], "hello");
    assert_eq!(inbox["messages"][0]["from"], alice.ok(&["info"])["address"]);

    let file = dir.path().join("payload.bin");
    std::fs::write(&file, noise(5 << 20, 7)).unwrap();
    alice.ok(&["send-file", &bob_id, file.to_str().unwrap()]);
    let arrived = files(&bob.state().join("received"));
    assert_eq!(arrived.len(), 1);
    assert_eq!(sha256(&arrived[0]), sha256(&file));

    let ping = alice.ok(&["ping", &bob_id, "--count", "2"]);
    assert!(
        ping["results"].as_array().unwrap().iter().all(|r| r["rtt_ms"].is_number() && r["error"].is_null()),
        "{ping}"
    );

    // One by pilotctl, one by Ctrl-C.
    alice.ok(&["daemon", "stop"]);
    bob.process.signal("-INT");
    for host in [&mut alice, &mut bob] {
        assert_eq!(host.process.wait_exit().code(), Some(0));
        let mut reverse = PLUGINS;
        reverse.reverse();
        assert_eq!(host.plugin_lines("plugin stopped"), reverse);
        assert!(!host.socket().exists());
    }
}

#[test]
fn a_private_stranger_reaches_nothing() {
    let dir = temp_dir();
    let rendezvous = Rendezvous::start();
    let (alice, bob) = two_hosts(dir.path(), &rendezvous);
    let bob_id = bob.node_id().to_string();
    let refused = alice.fails(&["send-message", &bob_id, "--data", "psst"]);
    assert_eq!(refused["code"], "trust_required", "{refused}");
    assert!(files(&bob.state().join("inbox")).is_empty());

    // Trust opens the way, its end closes it again, and not only at the sender's own gate.
    befriend(&alice, &bob);
    alice.ok(&["send-message", &bob_id, "--data", "hello"]);
    assert_eq!(files(&bob.state().join("inbox")).len(), 1);
    bob.ok(&["untrust", &alice.node_id().to_string()]);
    let refused = alice.fails(&["send-message", &bob_id, "--data", "still there?", "--timeout", "3s"]);
    assert_eq!(refused["status"], "error");
    assert_eq!(files(&bob.state().join("inbox")).len(), 1);
}

#[test]
fn a_killed_receiver_leaves_no_half_file() {
    let dir = temp_dir();
    let rendezvous = Rendezvous::start();
    let (alice, mut bob) = two_hosts(dir.path(), &rendezvous);
    befriend(&alice, &bob);
    let bob_id = bob.node_id().to_string();
    let file = dir.path().join("payload.bin");
    std::fs::write(&file, noise(64 << 20, 11)).unwrap();

    let mut sender = Command::new(env!("CARGO_BIN_EXE_pilotctl"))
        .arg("--socket")
        .arg(alice.socket())
        .args(["--json", "send-file", &bob_id, file.to_str().unwrap()])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let received = bob.state().join("received");
    eventually("the transfer's start", || {
        files(&received.join(".partial"))
            .iter()
            .any(|f| f.metadata().is_ok_and(|m| m.len() > 1 << 20))
            .then_some(())
    });
    bob.process.signal("-KILL");
    bob.process.wait_exit();
    assert!(files(&received).is_empty(), "a half file has a final name: {:?}", files(&received));
    let _ = sender.kill();
    let _ = sender.wait();

    // The next start is clean, and the same file arrives whole.
    let plugins = dir.path().join("plugins");
    let bob = Host::start(dir.path(), "bob", &rendezvous, &plugins);
    assert_eq!(bob.node_id().to_string(), bob_id, "the identity survived");
    alice.ok(&["send-file", &bob_id, file.to_str().unwrap()]);
    let arrived = files(&received);
    assert_eq!(arrived.len(), 1);
    assert_eq!(sha256(&arrived[0]), sha256(&file));
}

#[test]
fn a_policy_document_gates_connects() {
    let dir = temp_dir();
    let rendezvous = Rendezvous::start();
    let plugins = dir.path().join("plugins");
    stage(&plugins, &PLUGINS);
    let document = dir.path().join("policy.json");
    std::fs::write(
        &document,
        r#"{"version":1,"rules":[{"name":"no-data","on":"connect","match":"port == 1001","actions":[{"type":"deny"}]}]}"#,
    )
    .unwrap();
    let config = dir.path().join("pilot.toml");
    std::fs::write(&config, format!("[plugin.policy]\ndocument = {:?}\n", document.to_str().unwrap()))
        .unwrap();
    let alice = Host::start(dir.path(), "alice", &rendezvous, &plugins);
    let bob =
        Host::start_with(dir.path(), "bob", &rendezvous, &plugins, &["--config", config.to_str().unwrap()]);
    befriend(&alice, &bob);
    let bob_id = bob.node_id().to_string();
    // Port 7 (echo) is open, port 1001 is not: the same trust, another verdict.
    let ping = alice.ok(&["ping", &bob_id, "--count", "1"]);
    assert!(ping["results"][0]["error"].is_null(), "{ping}");
    alice.fails(&["send-message", &bob_id, "--data", "x", "--timeout", "3s"]);
    assert!(files(&bob.state().join("inbox")).is_empty());
}

#[test]
fn without_a_registry_the_host_brings_its_own() {
    let dir = temp_dir();
    let plugins = dir.path().join("plugins");
    stage(&plugins, &PLUGINS);
    let config = dir.path().join("pilot.toml");
    std::fs::write(&config, "[rendezvous]\nregistry = \"127.0.0.1:0\"\nbeacon = \"127.0.0.1:0\"\n").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilot-host"));
    command.arg("run").arg("--config").arg(&config).arg("--plugins").arg(&plugins);
    command.arg("--state-dir").arg(dir.path().join("solo")).arg("--socket").arg(dir.path().join("solo.sock"));
    let process = Process::spawn("solo", &mut command);
    process.wait_line("no registry is configured");
    process.wait_line("daemon running");
    let mut solo = Host::of(process, dir.path(), "solo");
    assert_eq!(solo.node_id(), 1);
    solo.process.signal("-TERM");
    assert_eq!(solo.process.wait_exit().code(), Some(0));
}
