//! SIGHUP in the middle of a transfer: webhook URL, log level and policy change, the transfer does not notice, and a
//! plugin file that was replaced on the disk is left alone. 64 MiB; 1 GiB with `PILOT_LONG=1`.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use crate::sink::sink;
use crate::support::*;
use serde_json::Value;

fn document(path: &Path, denied: &str) {
    let text = format!(
        r#"{{"version":1,"rules":[{{"name":"no","on":"connect","match":"port == {denied}","actions":[{{"type":"deny"}}]}}]}}"#
    );
    std::fs::write(path, text).unwrap();
}

#[test]
fn a_reload_in_the_middle_of_a_transfer() {
    let long = std::env::var_os("PILOT_LONG").is_some();
    let dir = temp_dir();
    let rendezvous = Rendezvous::start();
    let plugins = dir.path().join("plugins");
    stage(&plugins, &PLUGINS);
    let ((old_url, old_hook), (new_url, new_hook)) = (sink(), sink());
    let policy = dir.path().join("policy.json");
    document(&policy, "4242");
    let config = dir.path().join("pilot.toml");
    let write = |level: &str, url: &str| {
        let text = format!(
            "[log]\nlevel = {level:?}\n[plugin.webhook]\nurl = {url:?}\n[plugin.policy]\ndocument = {:?}\n",
            policy.to_str().unwrap()
        );
        std::fs::write(&config, text).unwrap();
    };
    write("info", &old_url);
    let alice = Host::start(dir.path(), "alice", &rendezvous, &plugins);
    let bob =
        Host::start_with(dir.path(), "bob", &rendezvous, &plugins, &["--config", config.to_str().unwrap()]);
    befriend(&alice, &bob);
    let bob_id = bob.node_id().to_string();
    let ping =
        |host: &Host| host.ok(&["ping", &bob_id, "--count", "1", "--timeout", "2s"])["results"][0].clone();
    assert_eq!(ping(&alice)["error"], Value::Null, "port 7 is open at first");
    old_hook.recv_timeout(PATIENCE).expect("events go to the first URL");
    let tunnels = || bob.ok(&["events", "--topic", "tunnel.*", "--limit", "256"])["total"].clone();
    let (before, files_before) = (tunnels(), bob.ok(&["plugins"]));

    let file = dir.path().join("payload.bin");
    let size: u64 = if long { 1 << 30 } else { 64 << 20 };
    let block = noise(4 << 20, 5);
    let mut out = std::fs::File::create(&file).unwrap();
    (0..size / block.len() as u64).for_each(|_| out.write_all(&block).unwrap());
    drop(out);
    let mut sender = Command::new(env!("CARGO_BIN_EXE_pilotctl"));
    sender
        .arg("--socket")
        .arg(alice.socket())
        .args(["--json", "send-file", "--timeout", "10m", &bob_id])
        .arg(&file);
    let mut sender = Running::start(&mut sender, b"");
    let partial = bob.state().join("received/.partial");
    eventually("the transfer's start", || {
        files(&partial).iter().any(|f| f.metadata().is_ok_and(|m| m.len() > 1 << 20)).then_some(())
    });
    // The small file would be through before the reload; its sender holds its breath meanwhile.
    let signal = |pid: u32, name: &str| {
        assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
    };
    if !long {
        signal(sender.pid(), "-STOP");
    }
    document(&policy, "7");
    write("debug", &new_url);
    // A plugin's file on the disk is another one now.
    std::fs::write(dir.path().join("other.so"), b"not a plugin").unwrap();
    std::fs::rename(dir.path().join("other.so"), plugins.join("webhook.so")).unwrap();
    bob.process.signal("-HUP");
    let line = bob.process.wait_line("configuration reloaded");
    assert!(line.contains("log.level") && line.contains("plugin"), "{line}");
    assert!(!sender.ended(), "the transfer is still under way");
    println!("reloaded while the transfer was under way: {line}");

    // Everything is live at once, and the transfer's own stream is not asked again.
    bob.process.wait_line("level=DEBUG");
    assert_ne!(ping(&alice)["error"], Value::Null, "port 7 is closed now");
    if !long {
        signal(sender.pid(), "-CONT");
    }
    let sent = sender.output();
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    let body = new_hook.recv_timeout(PATIENCE).expect("events go to the second URL").body;
    let body = String::from_utf8(body).unwrap();
    assert!(body.contains("\"event\""), "{body}");
    let arrived = files(&bob.state().join("received"));
    assert_eq!(sha256(&arrived[0]), sha256(&file));
    assert_eq!(tunnels(), before, "no tunnel was dropped or made");
    assert_eq!(bob.ok(&["plugins"])["plugins"], files_before["plugins"], "plugins are left alone");

    // A mistake changes nothing, and a later good file is taken.
    std::fs::write(&config, "[log]\nlevel = 7\n").unwrap();
    bob.process.signal("-HUP");
    bob.process.wait_line("the configuration was not reloaded");
    assert_ne!(ping(&alice)["error"], Value::Null);
    println!("{} MiB arrived whole; webhook URL, log level and policy are live", size >> 20);
}
