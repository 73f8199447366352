//! The host as a service: what the service manager is told and when, the other program name with its flags, metrics.

use std::io::{Read, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

use crate::support::*;

/// The notifications so far, and the next one.
struct Manager(UnixDatagram);

impl Manager {
    fn listen(path: &Path) -> Manager {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Manager(socket)
    }

    fn next(&self) -> String {
        let mut buffer = [0; 4096];
        let n = self.0.recv(&mut buffer).expect("the host tells its manager");
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    }

    /// Everything up to and including the first message with `line`.
    fn until(&self, line: &str) -> Vec<String> {
        let mut seen = Vec::new();
        loop {
            seen.push(self.next());
            if seen.last().is_some_and(|m| m.lines().any(|l| l == line)) {
                return seen;
            }
        }
    }
}

#[test]
fn the_service_manager_is_told() {
    let dir = temp_dir();
    let rendezvous = Rendezvous::start();
    let plugins = dir.path().join("plugins");
    stage(&plugins, &PLUGINS);
    let path = dir.path().join("notify");
    let manager = Manager::listen(&path);
    let mut command = Host::command(dir.path(), "solo", &rendezvous, &plugins);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "600000");
    let mut process = Process::spawn("solo", &mut command);
    let before = manager.until("READY=1");
    assert!(before.iter().all(|m| !m.contains("WATCHDOG=1")), "{before:?}");
    // Ready means registered, with every plugin up: the lines are written already, only their reader may be behind.
    eventually("the lines from before", || {
        let lines =
            ["msg=\"daemon registered\"", "msg=\"plugin started\""].map(|l| process.lines_with(l).len());
        (lines == [1, PLUGINS.len()]).then_some(())
    });
    for _ in 0..3 {
        manager.until("WATCHDOG=1");
    }
    process.signal("-HUP");
    manager.until("RELOADING=1");
    manager.until("READY=1");
    process.signal("-TERM");
    manager.until("STOPPING=1");
    assert_eq!(process.wait_exit().code(), Some(0));
}

#[test]
fn a_stopped_data_plane_gives_no_sign_of_life() {
    let dir = temp_dir();
    let rendezvous = Rendezvous::start();
    let plugins = dir.path().join("plugins");
    stage(&plugins, &["handshake"]);
    let path = dir.path().join("notify");
    let manager = Manager::listen(&path);
    let mut command = Host::command(dir.path(), "solo", &rendezvous, &plugins);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "600000");
    let process = Process::spawn("solo", &mut command);
    manager.until("READY=1");
    manager.until("WATCHDOG=1");
    process.signal("-STOP");
    // What was on its way, then silence for more than the watchdog's time.
    manager.0.set_read_timeout(Some(std::time::Duration::from_millis(900))).unwrap();
    let mut buffer = [0; 512];
    while manager.0.recv(&mut buffer).is_ok() {}
    process.signal("-CONT");
    manager.0.set_read_timeout(Some(PATIENCE)).unwrap();
    manager.until("WATCHDOG=1");
}

/// As the scripts of other daemons start theirs: another name, one dash, no subcommand, a `config.json`.
#[test]
fn the_other_name_and_its_flags() {
    let dir = temp_dir();
    let rendezvous = Rendezvous::start();
    let plugins = dir.path().join("plugins");
    stage(&plugins, &PLUGINS);
    let program = dir.path().join("pilot-daemon");
    if std::fs::hard_link(env!("CARGO_BIN_EXE_pilot-host"), &program).is_err() {
        // Another file system.
        std::fs::copy(env!("CARGO_BIN_EXE_pilot-host"), &program).unwrap();
    }
    let config = dir.path().join("config.json");
    let json = serde_json::json!({
        "registry": rendezvous.registry, "beacon": rendezvous.beacon, "hostname": "from-json", "log_level": "debug",
        "webhook": "http://127.0.0.1:9/hook", "consent": { "telemetry": false }, "something_else": 7,
    });
    std::fs::write(&config, json.to_string()).unwrap();
    let mut command = Command::new(&program);
    command.arg("-config").arg(&config).args([
        "-listen",
        "127.0.0.1:0",
        "-email",
        "me@example.org",
        "-encrypt",
    ]);
    command.arg("-identity").arg(dir.path().join("id.json")).arg("-socket").arg(dir.path().join("solo.sock"));
    command.args(["-hostname=from-flag", "-keepalive", "20s", "--state-dir"]).arg(dir.path().join("solo"));
    command.arg("--plugins").arg(&plugins);
    command.args([
        "-no-echo",
        "-reply-whitelist",
        "2,3",
        "-security-profile",
        "enterprise",
        "-sandbox",
        "-sandbox-dir",
    ]);
    command.arg(dir.path());
    let process = Process::spawn("solo", &mut command);
    process.wait_line("daemon running");
    process.wait_line("level=DEBUG");
    process.wait_line("reply-whitelist is accepted and has no effect");
    process.wait_line("security profile enterprise: nothing more than engine.strict");
    let comm = std::fs::read_to_string(format!("/proc/{}/comm", process.pid())).unwrap();
    assert_eq!(comm.trim(), "pilot-daemon", "the name that other tools look for");
    let host = Host::of(process, dir.path(), "solo");
    assert_eq!(host.ok(&["info"])["hostname"], "from-flag", "a flag beats the file");

    let wrong = |args: &[&str]| Command::new(&program).args(args).output().unwrap();
    assert_eq!(wrong(&["-no-such-flag"]).status.code(), Some(2));
    assert_eq!(wrong(&["-encrypt=false"]).status.code(), Some(2));
    assert_eq!(wrong(&["-registry-tls", "-no-dataexchange"]).status.code(), Some(78), "TLS to whom?");
    assert_eq!(wrong(&["-security-profile", "paranoid"]).status.code(), Some(2));
    assert_eq!(wrong(&["-rekey-whitelist", "everybody"]).status.code(), Some(78));
    let outside =
        wrong(&["-sandbox", "-sandbox-dir", plugins.to_str().unwrap(), "-socket", "/tmp/outside.sock"]);
    assert_eq!(outside.status.code(), Some(78), "{}", String::from_utf8_lossy(&outside.stderr));
    assert!(String::from_utf8_lossy(&outside.stderr).contains("outside the sandbox"));
    let help = String::from_utf8(wrong(&["run", "--help"]).stdout).unwrap();
    for flag in ["--no-echo", "--reply-whitelist", "--rekey-whitelist", "--sandbox", "--security-profile"] {
        assert!(help.contains(flag), "{flag} is not in the help");
    }
    let version = wrong(&["-version"]);
    assert_eq!(version.status.code(), Some(0));
    std::fs::write(&config, "{\"networks\": \"one\"}").unwrap();
    let bad = wrong(&["-config", config.to_str().unwrap()]);
    assert_eq!(bad.status.code(), Some(78), "{}", String::from_utf8_lossy(&bad.stderr));
    assert!(String::from_utf8_lossy(&bad.stderr).contains("networks"));
}

fn scrape(addr: &str, path: &str) -> String {
    let mut stream = std::net::TcpStream::connect(addr).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn metrics_of_node_plugins_peers_and_paths() {
    let dir = temp_dir();
    let rendezvous = Rendezvous::start();
    let plugins = dir.path().join("plugins");
    stage(&plugins, &PLUGINS);
    let alice = Host::start_with(dir.path(), "alice", &rendezvous, &plugins, &["--metrics", "127.0.0.1:0"]);
    let bob = Host::start_with(dir.path(), "bob", &rendezvous, &plugins, &["--public"]);
    let bob_id = bob.node_id();
    alice.ok(&["ping", &bob_id.to_string(), "--count", "1"]);
    let addr = field(&alice.process.wait_line("metrics listening"), "addr");
    let text = scrape(&addr, "/metrics");
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    for line in [
        "pilot_registered 1".to_owned(),
        format!("pilot_peer_session{{peer=\"{bob_id}\"}} 1"),
        format!("pilot_peer_path{{peer=\"{bob_id}\",path=\"direct\",endpoint=\"127.0.0.1:"),
        "pilot_plugin_running{plugin=\"webhook\",version=\"".to_owned(),
        "pilot_plugin_faults_total{plugin=\"handshake\"} 0".to_owned(),
        "# TYPE pilot_sent_bytes counter".to_owned(),
        "# EOF".to_owned(),
    ] {
        assert!(text.lines().any(|l| l.starts_with(&line)), "no line {line:?} in:\n{text}");
    }
    assert!(scrape(&addr, "/").starts_with("HTTP/1.1 404"));
}
