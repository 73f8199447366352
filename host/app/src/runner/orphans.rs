//! What a runner that was killed may have left behind: processes that `runner.json` of its clusters lists, if they still are
//! what it says (netrunner.md section 6). The kernel ends children with their runner, so there should be none.

use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal};
use serde::Deserialize;

use super::process::start_time;

#[derive(Deserialize)]
struct Manifest {
    runner: Entry,
    processes: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    pid: i32,
    start_time: Option<u64>,
    exec: Option<std::path::PathBuf>,
}

impl Entry {
    /// Whether the process of that number is still the one that was started then.
    fn is_alive(&self) -> bool {
        self.start_time.is_some() && start_time(self.pid) == self.start_time
    }

    /// Kills it if it is what it should be; `true` when it was.
    fn end(&self) -> bool {
        let Some(pid) = Pid::from_raw(self.pid) else { return false };
        // Opened first, looked at then: what is looked at is what is signalled, whoever has the number later.
        let Ok(process) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return false };
        let runs = std::fs::read_link(format!("/proc/{}/exe", self.pid)).ok();
        let same = self.is_alive() && self.exec.is_some() && runs == self.exec;
        same && rustix::process::pidfd_send_signal(process, Signal::KILL).is_ok()
    }
}

/// Ends the orphans of all clusters in `root` whose runner is gone.
pub(super) fn end_all(root: &Path) {
    let Ok(entries) = std::fs::read_dir(root) else { return };
    for dir in entries.flatten().map(|e| e.path()) {
        let Ok(text) = std::fs::read(dir.join("runner.json")) else { continue };
        let Ok(manifest) = serde_json::from_slice::<Manifest>(&text) else { continue };
        if manifest.runner.is_alive() {
            continue;
        }
        for process in manifest.processes.iter().filter(|p| p.end()) {
            tracing::warn!(pid = process.pid, cluster = %dir.display(), "runner: ended a process that an earlier runner left");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_is_listed_and_still_the_same_is_ended() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("network_x");
        std::fs::create_dir(&dir).unwrap();
        let mut child = std::process::Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let exe = || std::fs::read_link(format!("/proc/{pid}/exe")).ok().filter(|e| e.ends_with("sleep"));
        let exec = loop {
            if let Some(exec) = exe() {
                break exec;
            }
            std::thread::yield_now();
        };
        let write = |started: Option<u64>, runner: i32| {
            let manifest = json!({
                "runner": { "pid": runner, "start_time": start_time(runner) },
                "processes": [{ "pid": pid, "start_time": started, "exec": exec }],
            });
            std::fs::write(dir.join("runner.json"), manifest.to_string()).unwrap();
        };
        let own = i32::try_from(std::process::id()).unwrap();
        let started = start_time(pid);
        write(started, own);
        end_all(root.path());
        assert!(child.try_wait().unwrap().is_none(), "its runner lives");
        write(started.map(|t| t + 1), 0);
        end_all(root.path());
        assert!(child.try_wait().unwrap().is_none(), "another process has the number");
        write(started, 0);
        end_all(root.path());
        assert!(!child.wait().unwrap().success());
    }
}
