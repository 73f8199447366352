//! Who may use the local socket: this user, the members of a configured group, nobody else. Needs root, to be somebody
//! else by `setpriv`; prints that it was skipped otherwise.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};

use crate::support::*;
use serde_json::Value;

/// A user that owns nothing here, and a group nobody is in.
const STRANGER: &str = "64321";
const GROUP: &str = "54321";

fn may_become_others() -> bool {
    let root = rustix::process::geteuid().is_root();
    let tool = Command::new("setpriv").arg("--version").output().is_ok_and(|o| o.status.success());
    if !(root && tool) {
        println!("skipped: only root can be another user (setpriv)");
    }
    root && tool
}

/// `pilotctl --json info` as somebody else. The tool is copied to where everybody may run it.
fn as_other(dir: &Path, socket: &Path, groups: &[&str]) -> Output {
    let tool = dir.join("pilotctl");
    if !tool.exists() {
        std::fs::copy(env!("CARGO_BIN_EXE_pilotctl"), &tool).unwrap();
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", STRANGER, "--regid", STRANGER]).args(groups);
    command.arg(tool).args(["--json", "info", "--socket"]).arg(socket);
    finished(command.env("PILOT_HOME", "/nonexistent"), b"")
}

fn code(out: &Output) -> Value {
    serde_json::from_slice::<Value>(&out.stderr).unwrap()["code"].clone()
}

#[test]
fn strangers_stay_outside_and_the_group_may_come_in() {
    if !may_become_others() {
        return;
    }
    let dir = temp_dir();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let rendezvous = Rendezvous::start();
    let plugins = dir.path().join("plugins");
    stage(&plugins, &["handshake"]);
    let alone = Host::start(dir.path(), "alone", &rendezvous, &plugins);
    let shared = Host::start_with(dir.path(), "shared", &rendezvous, &plugins, &["--socket-group", GROUP]);
    let mode = |host: &Host| {
        let meta = host.socket().metadata().unwrap();
        (meta.mode() & 0o777, meta.gid().to_string())
    };
    assert_eq!(mode(&alone).0, 0o600);
    assert_eq!(mode(&shared), (0o660, GROUP.to_owned()));

    let refused = as_other(dir.path(), &alone.socket(), &["--clear-groups"]);
    assert_eq!((refused.status.code(), code(&refused)), (Some(1), "permission_denied".into()));
    let refused = as_other(dir.path(), &alone.socket(), &["--groups", GROUP]);
    assert_eq!(code(&refused), "permission_denied");
    let refused = as_other(dir.path(), &shared.socket(), &["--clear-groups"]);
    assert_eq!(code(&refused), "permission_denied");

    let member = as_other(dir.path(), &shared.socket(), &["--groups", GROUP]);
    assert!(member.status.success(), "{}", String::from_utf8_lossy(&member.stderr));
    let info: Value = serde_json::from_slice(&member.stdout).unwrap();
    assert_eq!(info["data"]["node_id"], shared.node_id());
    println!("another user: refused at 0600 and at 0660; a member of the group is served");

    // A file that everybody may open is not enough either: the daemon looks who it is.
    std::fs::set_permissions(alone.socket(), std::fs::Permissions::from_mode(0o666)).unwrap();
    let refused = as_other(dir.path(), &alone.socket(), &["--clear-groups"]);
    assert_eq!(refused.status.code(), Some(1));
    alone.process.wait_line("refused a local client of another user");
    println!("with the mode opened by hand, the daemon itself refuses");
}
