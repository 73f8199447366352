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
