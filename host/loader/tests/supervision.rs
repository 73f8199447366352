//! One plugin at a time, with real libraries: stop, start, reload and its ways back, quarantine, the limit on mapped
//! copies. The `chameleon` of `broken-plugins` does what the file `chameleon.do` says.

#![allow(clippy::unwrap_used)] // the helpers are test code too, which clippy only knows of test functions

mod rack;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pilot_loader::ledger::{Ledger, Limits};
use pilot_loader::{ChangeError, Code, Loaded, PluginState};
use rack::{Rack, library};

/// These tests count the process's descriptors, threads and mappings: one at a time.
fn alone() -> impl Drop {
    static ONE: Mutex<()> = Mutex::new(());
    struct Guard(#[allow(dead_code)] std::sync::MutexGuard<'static, ()>);
    impl Drop for Guard {
        fn drop(&mut self) {}
    }
    Guard(ONE.lock().unwrap_or_else(|e| e.into_inner()))
}

fn chameleon() -> Rack {
    let rack = Rack::new().put("alpha", "alpha.so").put("chameleon", "chameleon.so");
    rack.configure(|c| {
        c.init_timeout = Duration::from_secs(2);
        c.shutdown_timeout = Duration::from_secs(1);
    })
}

fn state(loaded: &Loaded, name: &str) -> &'static str {
    loaded.plugin(name).unwrap().state.as_str()
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not happen in time");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

fn refusal(error: ChangeError) -> pilot_loader::Refusal {
    match error {
        ChangeError::Refused(r) | ChangeError::RolledBack(r) => r,
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_is_stopped_and_started_and_the_others_do_not_notice() {
    let _one = alone();
    let rack = chameleon();
    let loaded = rack.load().unwrap();
    let first = rack.daemon("chameleon");
    assert_eq!(loaded.stop("chameleon").unwrap().state, PluginState::Stopped);
    assert_eq!((state(&loaded, "chameleon"), state(&loaded, "alpha")), ("stopped", "running"));
    assert!(matches!(loaded.stop("chameleon"), Err(ChangeError::NotRunning(PluginState::Stopped))));
    let info = loaded.start("chameleon").unwrap();
    assert_eq!((info.state, info.starts), (PluginState::Running, 2));
    assert!(matches!(loaded.start("chameleon"), Err(ChangeError::Running)));
    assert!(!Arc::ptr_eq(&first, &rack.daemon("chameleon")), "each instance has a handle of its own");
    assert_eq!(loaded.restart("chameleon").unwrap().starts, 3);
    assert_eq!(refusal(loaded.stop("nobody").unwrap_err()).code, Code::NotFound);
    let report = loaded.shutdown(Duration::from_secs(5));
    let names: Vec<_> = report.steps.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["chameleon", "alpha"]);
    assert!(matches!(loaded.start("chameleon"), Err(ChangeError::Closing)));
}

#[test]
fn a_reload_runs_other_code_than_before_and_a_restart_the_same() {
    let _one = alone();
    let rack = chameleon();
    let loaded = rack.load().unwrap();
    let begins = |starts: i64| {
        let line = rack.daemon("chameleon").wait_for_log("begins").unwrap();
        assert_eq!(line.fields["starts"], starts, "counted in the library's own static");
    };
    begins(1);
    loaded.restart("chameleon").unwrap();
    begins(2);
    loaded.reload("chameleon").unwrap();
    begins(1);
    let before = loaded.plugin("chameleon").unwrap().sha256;
    let mut other = std::fs::read(library("chameleon")).unwrap();
    other.push(0); // behind the last section: the same plugin, another file
    rack.replace("chameleon.so", &other);
    assert_ne!(loaded.reload("chameleon").unwrap().sha256, before);
    // And under another file name.
    std::fs::rename(rack.dir().join("chameleon.so"), rack.dir().join("renamed.so")).unwrap();
    assert!(loaded.reload("chameleon").unwrap().path.ends_with("renamed.so"));
}

#[test]
fn a_new_file_is_started_without_a_restart_of_the_host() {
    let _one = alone();
    let rack = Rack::new().put("alpha", "alpha.so");
    let loaded = rack.load().unwrap();
    assert_eq!(refusal(loaded.start("omega").unwrap_err()).code, Code::NotFound);
    let rack = rack.put("omega", "anything.so");
    // Somebody else's broken file is not omega's.
    std::os::unix::fs::symlink("/nowhere", rack.dir().join("link.so")).unwrap();
    loaded.start("omega").unwrap();
    assert_eq!(rack.started(), ["alpha", "omega"]);
    assert_eq!(refusal(loaded.start("link").unwrap_err()).code, Code::NotAFile);
    let rack = rack.put("omega", "twice.so");
    std::fs::remove_file(rack.dir().join("anything.so")).unwrap();
    loaded.reload("omega").unwrap();
    let _rack = rack.put("good", "z.so").put("good", "zz.so");
    assert_eq!(refusal(loaded.start("good").unwrap_err()).code, Code::DuplicateName);
}

#[test]
fn a_file_that_is_refused_leaves_the_running_one_alone() {
    let _one = alone();
    let rack = chameleon();
    let loaded = rack.load().unwrap();
    let daemon = rack.daemon("chameleon");
    let good = std::fs::read(library("chameleon")).unwrap();
    for (bytes, code) in [(&b"text"[..], Code::NotElf), (&good[..good.len() / 2], Code::NotElf)] {
        rack.replace("chameleon.so", bytes);
        assert_eq!(refusal(loaded.reload("chameleon").unwrap_err()).code, code);
    }
    std::fs::remove_file(rack.dir().join("chameleon.so")).unwrap();
    assert_eq!(refusal(loaded.reload("chameleon").unwrap_err()).code, Code::NotFound);
    assert_eq!(loaded.plugin("chameleon").unwrap().starts, 1);
    assert!(Arc::ptr_eq(&daemon, &rack.daemon("chameleon")), "the first instance still runs");
}

#[test]
fn a_start_that_fails_goes_back_to_the_former_version() {
    let _one = alone();
    let rack = chameleon();
    let loaded = rack.load().unwrap();
    let sha256 = loaded.plugin("chameleon").unwrap().sha256;
    let mut other = std::fs::read(library("chameleon")).unwrap();
    other.push(0);
    rack.replace("chameleon.so", &other);
    // The acts are read by the new instance and by the one that comes back; only the new one's copy has not started yet.
    for (act, code) in [("fail", Code::InitFailed), ("panic", Code::InitFailed), ("hang", Code::InitTimeout)]
    {
        rack.tell(act);
        let error = loaded.reload("chameleon").unwrap_err();
        let ChangeError::Lost { new, former } = &error else { panic!("{error}") };
        assert_eq!((new.code, former.code), (code, code), "{error}");
        assert_eq!(state(&loaded, "chameleon"), "failed");
        rack.tell("");
        loaded.restart("chameleon").unwrap();
        rack.tell("fail once");
        let error = loaded.reload("chameleon").unwrap_err();
        let ChangeError::RolledBack(new) = &error else { panic!("{error}") };
        assert_eq!(new.code, Code::InitFailed);
        assert_eq!(state(&loaded, "chameleon"), "running");
        rack.tell("");
    }
    assert_ne!(loaded.reload("chameleon").unwrap().sha256, sha256);
    let counted = loaded.ledger().counters("chameleon");
    assert_eq!((counted.panics, counted.overruns), (2, 2), "new and former, once each");
}

#[test]
fn shutdowns_that_go_wrong_do_not_stop_a_reload() {
    let _one = alone();
    let rack = chameleon();
    rack.tell("shutdown fail");
    let loaded = rack.load().unwrap();
    for (next, overruns, panics) in [("shutdown panic", 0, 0), ("shutdown hang", 0, 1), ("", 1, 1)] {
        rack.tell(next);
        assert_eq!(loaded.reload("chameleon").unwrap().state, PluginState::Running);
        let counted = loaded.ledger().counters("chameleon");
        assert_eq!((counted.overruns, counted.panics), (overruns, panics));
    }
    assert_eq!(loaded.stop("chameleon").unwrap().state, PluginState::Stopped);
}

#[test]
fn too_many_faults_are_a_quarantine_that_can_be_lifted() {
    let _one = alone();
    let limits = Limits { quarantine_after: 3, quarantine_window: Duration::from_secs(600) };
    let ledger = Arc::new(Ledger::in_memory(limits));
    let rack = chameleon().configure(|c| c.ledger = ledger.clone());
    rack.tell("thread-panic 2");
    let loaded = rack.load().unwrap();
    rack.daemon("chameleon").wait_for_fault("worker").unwrap();
    eventually("two faults", || ledger.counters("chameleon").panics == 2);
    assert_eq!(state(&loaded, "chameleon"), "running");
    rack.tell("thread-panic 1");
    let _ = loaded.restart("chameleon");
    eventually("quarantine", || state(&loaded, "chameleon") == "quarantined");
    assert_eq!(state(&loaded, "alpha"), "running");
    assert!(matches!(loaded.start("chameleon"), Err(ChangeError::Quarantined(_))));
    assert!(matches!(loaded.reload("chameleon"), Err(ChangeError::Quarantined(_))));
    // A host that starts with this ledger leaves it out, and starts.
    let again = rack.load().unwrap();
    let why = again.plugin("chameleon").unwrap().state.reason().unwrap().to_owned();
    assert!(why.starts_with("3 faults within 600s; the last was a panic in worker: "), "{why}");
    assert_eq!(state(&again, "alpha"), "running");
    rack.tell("");
    again.lift("chameleon").unwrap();
    assert_eq!(state(&again, "chameleon"), "stopped");
    assert_eq!(again.start("chameleon").unwrap().state, PluginState::Running);
    assert!(matches!(again.lift("chameleon"), Err(ChangeError::NotQuarantined)));
    assert_eq!(again.plugin("chameleon").unwrap().counters.panics, 3, "the counts stay");
}

#[test]
fn a_plugin_that_fails_every_start_of_the_host_is_left_out_in_the_end() {
    let _one = alone();
    let path = tempfile::tempdir().unwrap();
    let file = path.path().join("faults.json");
    let limits = Limits { quarantine_after: 3, quarantine_window: Duration::from_secs(600) };
    let rack = chameleon();
    rack.tell("panic");
    let mut rack = rack;
    for _ in 0..3 {
        rack = rack.configure(|c| c.ledger = Arc::new(Ledger::open(&file, limits)));
        let error = rack.load().unwrap_err();
        assert_eq!(error.refusals[0].code, Code::InitFailed);
        rack = rack.configure(|c| c.ledger = Arc::default()); // drops, and so writes, the first
    }
    rack = rack.configure(|c| c.ledger = Arc::new(Ledger::open(&file, limits)));
    let loaded = rack.load().unwrap();
    assert_eq!((state(&loaded, "chameleon"), state(&loaded, "alpha")), ("quarantined", "running"));
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
fn reloads_keep_no_descriptor_and_no_thread_and_end_at_the_limit() {
    let _one = alone();
    let rack = chameleon();
    rack.tell("subscribe *\nbind 700\nthread-panic 0");
    let loaded = rack.load().unwrap();
    loaded.reload("chameleon").unwrap();
    let (mapped, _) = loaded.mapped_copies();
    let before = (descriptors(), threads());
    for _ in 0..20 {
        loaded.reload("chameleon").unwrap();
    }
    assert_eq!(loaded.mapped_copies().0, mapped + 20);
    assert!(descriptors() <= before.0, "{} descriptors before, {} after", before.0, descriptors());
    eventually("the end of all threads of old instances", || threads() <= before.1);
    // A host with a low limit says when it is reached; what runs goes on.
    let rack = rack.configure(|c| c.max_mapped_copies = mapped + 23);
    let full = rack.load().unwrap();
    full.reload("chameleon").unwrap();
    let error = refusal(full.reload("chameleon").unwrap_err());
    assert_eq!(error.code, Code::TooManyCopies);
    assert!(error.remedy.contains("max_mapped_copies"), "{error}");
    assert_eq!(state(&full, "chameleon"), "running");
    full.restart("chameleon").unwrap();
}
