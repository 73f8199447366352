//! What scripts rely on in `pilotctl`: exit codes, which stream says what, and the daemon as a process.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::*;

/// The tool with a home of its own and nobody behind its socket.
fn ctl(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(CTL);
    command.args(args).env("PILOT_HOME", dir).env("PILOT_SOCKET", dir.join("nobody.sock"));
    command.env("PILOT_DAEMON_BIN", env!("CARGO_BIN_EXE_pilot-host"));
    for key in ["PILOT_REGISTRY", "PILOT_CONFIG", "PILOT_ADMIN_TOKEN", "PILOT_PLUGINS_DIR"] {
        command.env_remove(key);
    }
    finished(&mut command, b"")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn usage_goes_to_standard_error() {
    let dir = temp_dir();
    for (args, exit, error) in [
        (&[][..], 2, "Usage: pilotctl"),
        (&["--help"], 2, "Usage: pilotctl"),
        (&["frobnicate"], 2, "unknown command: frobnicate\n\n"),
        (&["ping", "--help"], 0, "Usage: pilotctl ping"),
        (&["ping"], 1, "error: the following required arguments were not provided: <PEER>\nhint:  "),
        (&["network"], 1, "error: pilotctl network needs a subcommand\nhint:  "),
        (&["ping", "x", "--timeout", "soon"], 1, "error: invalid value 'soon'"),
    ] {
        let out = ctl(dir.path(), args);
        assert_eq!(out.status.code(), Some(exit), "{args:?}");
        assert_eq!(text(&out.stdout), "", "{args:?}");
        assert!(text(&out.stderr).contains(error), "{args:?}: {}", text(&out.stderr));
    }
}

#[test]
fn failures_are_one_json_line_on_standard_error() {
    let dir = temp_dir();
    for (args, code) in [
        (&["frobnicate", "--json"][..], "invalid_argument"),
        (&["--json", "ping"], "invalid_argument"),
        (&["info", "-json"], "not_running"),
        (&["--json", "daemon", "stop"], "not_running"),
        (&["--json", "inbox", "--clear"], "not_found"),
    ] {
        let out = ctl(dir.path(), args);
        assert_eq!(out.status.code(), Some(1), "{args:?}");
        assert_eq!(text(&out.stdout), "", "{args:?}");
        let line = text(&out.stderr);
        assert_eq!(line.lines().count(), 1, "{line}");
        let envelope: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&envelope["status"], &envelope["code"]), (&"error".into(), &code.into()), "{line}");
    }
    let out = ctl(dir.path(), &["info"]);
    let wanted = format!(
        "error: daemon is not running\nhint:  start the daemon with: pilotctl daemon start  (tried {})\n",
        dir.path().join("nobody.sock").display()
    );
    assert_eq!(text(&out.stderr), wanted);
}

#[test]
fn files_need_no_daemon() {
    let dir = temp_dir();
    let out = ctl(dir.path(), &["--json", "config", "--set", "registry=127.0.0.1:9000"]);
    assert_eq!(
        text(&out.stdout),
        "{\"data\":{\"key\":\"registry\",\"value\":\"127.0.0.1:9000\"},\"status\":\"ok\"}\n"
    );
    let file = dir.path().join(".pilot/config.json");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(file.parent().unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let out = ctl(dir.path(), &["--json", "set-webhook", "http://127.0.0.1:1/x"]);
    let data: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(data["data"], serde_json::json!({ "webhook": "http://127.0.0.1:1/x", "applied": false }));
    let shown: Value = serde_json::from_slice(&ctl(dir.path(), &["config", "--json"]).stdout).unwrap();
    assert_eq!(shown["data"]["registry"], "127.0.0.1:9000");
    assert_eq!(shown["data"]["webhook"], "http://127.0.0.1:1/x");
    let version = ctl(dir.path(), &["version", "--json"]);
    assert_eq!(text(&version.stdout), format!("pilotctl v{}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_daemon_as_a_process() {
    let dir = temp_dir();
    let rendezvous = Rendezvous::start();
    let plugins = dir.path().join("plugins");
    stage(&plugins, &["handshake"]);
    let plugins = plugins.to_str().unwrap();
    let start = |extra: &[&str]| {
        let mut args = vec!["--json", "daemon", "start", "--listen", "127.0.0.1:0", "--plugins", plugins];
        args.extend(["--registry", &rendezvous.registry, "--beacon", &rendezvous.beacon]);
        args.extend(extra);
        ctl(dir.path(), &args)
    };
    // Whatever fails below, no daemon stays behind.
    struct StopAtEnd<'a>(&'a Path);
    impl Drop for StopAtEnd<'_> {
        fn drop(&mut self) {
            ctl(self.0, &["daemon", "stop"]);
        }
    }
    let _stop = StopAtEnd(dir.path());
    let started = start(&["--hostname", "solo"]);
    assert!(started.status.success(), "{}", text(&started.stderr));
    let data: Value = serde_json::from_slice(&started.stdout).unwrap();
    let data = &data["data"];
    assert_eq!((&data["node_id"], &data["hostname"]), (&1.into(), &"solo".into()));
    let pid_file = dir.path().join(".pilot/pilot.pid");
    assert_eq!(std::fs::read_to_string(&pid_file).unwrap(), data["pid"].to_string());

    let again: Value = serde_json::from_slice(&start(&[]).stderr).unwrap();
    assert_eq!(again["code"], "already_exists");
    assert_eq!(ctl(dir.path(), &["daemon", "status", "--check"]).status.code(), Some(0));
    let status: Value =
        serde_json::from_slice(&ctl(dir.path(), &["--json", "daemon", "status"]).stdout).unwrap();
    assert_eq!((&status["data"]["pid"], &status["data"]["responsive"]), (&data["pid"], &true.into()));

    let stopped: Value =
        serde_json::from_slice(&ctl(dir.path(), &["--json", "daemon", "stop"]).stdout).unwrap();
    assert_eq!(stopped["data"], serde_json::json!({ "pid": data["pid"] }));
    assert!(!dir.path().join("nobody.sock").exists());
    assert!(!pid_file.exists());
    assert_eq!(ctl(dir.path(), &["daemon", "status", "--check"]).status.code(), Some(1));
}

#[test]
fn a_daemon_that_cannot_start_says_why() {
    let dir = temp_dir();
    let nowhere = dir.path().join("nowhere");
    let args =
        ["--json", "daemon", "start", "--listen", "127.0.0.1:0", "--plugins", nowhere.to_str().unwrap()];
    let out = ctl(dir.path(), &args);
    let failure: Value = serde_json::from_slice(&out.stderr).unwrap();
    assert_eq!(failure["code"], "internal");
    let message = failure["message"].as_str().unwrap();
    assert!(message.contains("ended during its start") && message.contains("nowhere"), "{message}");
}
