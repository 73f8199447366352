//! What a host does when its surroundings are not as they should be: plugins added, removed, broken or hanging; a bad
//! configuration; a taken socket.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod support;

use std::process::Command;

use support::*;

#[test]
fn removing_a_plugin_needs_no_rebuild() {
    let dir = temp_dir();
    let rendezvous = Rendezvous::start();
    let plugins = dir.path().join("plugins");
    stage(&plugins, &PLUGINS);
    let mut host = Host::start(dir.path(), "host", &rendezvous, &plugins);
    host.process.signal("-TERM");
    assert_eq!(host.process.wait_exit().code(), Some(0));
    std::fs::remove_file(plugins.join("webhook.so")).unwrap();
    let host = Host::start(dir.path(), "host", &rendezvous, &plugins);
    assert_eq!(host.plugin_lines("plugin started"), ["dataexchange", "handshake", "policy"]);
}

#[test]
fn a_file_that_is_no_plugin_is_named_with_reason_and_remedy() {
    let dir = temp_dir();
    let rendezvous = Rendezvous::start();
    let plugins = dir.path().join("plugins");
    stage(&plugins, &PLUGINS);
    std::fs::write(plugins.join("broken.so"), "this is text\n").unwrap();
    let mut command = Host::command(dir.path(), "host", &rendezvous, &plugins);
    let mut process = Process::spawn("host", &mut command);
    assert_eq!(process.wait_exit().code(), Some(1));
    let line = process.wait_line("broken.so");
    assert!(line.contains("expected an ELF shared library"), "{line}");
    assert!(line.contains("remove") || line.contains("rebuild"), "no remedy in {line}");
    let started = process.lines_with("msg=\"plugin started\"").len();
    assert_eq!(process.lines_with("msg=\"plugin stopped\"").len(), started);
    assert!(!dir.path().join("host.sock").exists());
}

#[test]
fn a_missing_plugins_directory_is_an_error_with_a_remedy() {
    let dir = temp_dir();
    let rendezvous = Rendezvous::start();
    let mut command = Host::command(dir.path(), "host", &rendezvous, &dir.path().join("nowhere"));
    let mut process = Process::spawn("host", &mut command);
    assert_eq!(process.wait_exit().code(), Some(1));
    let line = process.wait_line("nowhere");
    assert!(line.contains("--plugins"), "no remedy in {line}");
}

#[test]
fn a_plugin_that_hangs_in_shutdown_costs_its_own_deadline_only() {
    let dir = temp_dir();
    let rendezvous = Rendezvous::start();
    let plugins = dir.path().join("plugins");
    stage(&plugins, &["handshake", "webhook"]);
    stage_faulty(&plugins, "shutdown_hangs");
    let config = dir.path().join("pilot.toml");
    std::fs::write(&config, "[plugins]\nshutdown_timeout = \"1s\"\n").unwrap();
    let mut host =
        Host::start_with(dir.path(), "host", &rendezvous, &plugins, &["--config", config.to_str().unwrap()]);
    host.process.signal("-TERM");
    let asked = std::time::Instant::now();
    assert_eq!(host.process.wait_exit().code(), Some(0));
    assert!(asked.elapsed() < std::time::Duration::from_secs(10), "took {:?}", asked.elapsed());
    assert_eq!(host.plugin_lines("plugin stopped"), ["webhook", "shutdown-hangs", "handshake"]);
    assert!(host.process.wait_line("deadline exceeded").contains("shutdown-hangs"));
    assert!(!host.socket().exists());
}

#[test]
fn a_plugin_that_fails_to_start_takes_down_what_had_started_in_reverse() {
    for (example, reason) in [("init_fails", "init"), ("init_panics", "panicked")] {
        let dir = temp_dir();
        let rendezvous = Rendezvous::start();
        let plugins = dir.path().join("plugins");
        stage(&plugins, &PLUGINS);
        stage_faulty(&plugins, example);
        let mut command = Host::command(dir.path(), "host", &rendezvous, &plugins);
        let mut process = Process::spawn("host", &mut command);
        assert_eq!(process.wait_exit().code(), Some(1));
        let line = process.wait_line("plugins not loaded");
        assert!(line.contains(&format!("{example}.so")) && line.contains(reason), "{line}");
        let down: Vec<_> = line.match_indices("was shut down again").collect();
        assert_eq!(down.len(), 2, "dataexchange and handshake had started: {line}");
        assert!(
            line.find("\\\"handshake\\\" was shut") < line.find("\\\"dataexchange\\\" was shut"),
            "{line}"
        );
        assert!(!dir.path().join("host.sock").exists());
    }
}

#[test]
fn a_bad_configuration_names_file_line_and_key_and_exits_78() {
    let dir = temp_dir();
    let config = dir.path().join("pilot.toml");
    std::fs::write(&config, "[node]\npublic = false\nlisten = \"nonsense\"\n").unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_pilot-host"))
        .arg("run")
        .arg("--config")
        .arg(&config)
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(78));
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(text.contains(&format!("{}:3: node.listen:", config.display())), "{text}");
}

#[test]
fn the_example_configuration_is_valid() {
    let dir = temp_dir();
    let example =
        Command::new(env!("CARGO_BIN_EXE_pilot-host")).args(["config", "example"]).output().unwrap();
    let file = dir.path().join("pilot.toml");
    std::fs::write(&file, example.stdout).unwrap();
    let check =
        Command::new(env!("CARGO_BIN_EXE_pilot-host")).args(["config", "check"]).arg(&file).status().unwrap();
    assert_eq!(check.code(), Some(0));
}

#[test]
fn a_second_host_does_not_take_a_live_socket() {
    let dir = temp_dir();
    let rendezvous = Rendezvous::start();
    let plugins = dir.path().join("plugins");
    stage(&plugins, &["handshake"]);
    let host = Host::start(dir.path(), "host", &rendezvous, &plugins);
    let mut command = Host::command(dir.path(), "other", &rendezvous, &plugins);
    command.arg("--socket").arg(host.socket());
    // The later flag wins in clap only for options that allow it, so build the line anew.
    let mut command = {
        let mut c = Command::new(env!("CARGO_BIN_EXE_pilot-host"));
        let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let first = args.iter().position(|a| a == "--socket").unwrap();
        c.args(args.iter().enumerate().filter(|(i, _)| *i != first && *i != first + 1).map(|(_, a)| a));
        c
    };
    let mut process = Process::spawn("other", &mut command);
    assert_eq!(process.wait_exit().code(), Some(1));
    process.wait_line(host.socket().to_str().unwrap());
    host.ok(&["health"]);
}
