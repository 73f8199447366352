//! What an author goes through, with the real program: a new crate that builds, passes its test and logs in a running
//! host; the conformance check of good and bad plugins; the probe that keeps a crash out of the daemon.

#![allow(clippy::unwrap_used)] // the helpers are test code too, which clippy only knows of test functions

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use pilot_host::plugin_cmd::PROBE;
use pilot_loader::{Code, Loader, LoaderConfig, Probe};
use plugin_abi::Daemon;
use plugin_abi::test_kit::FakeDaemon;
use serde_json::Value;
use support::{Host, Rendezvous, stage_faulty, temp_dir};

const HOST: &str = env!("CARGO_BIN_EXE_pilot-host");

fn plugin(args: &[&str]) -> Output {
    Command::new(HOST).arg("plugin").args(args).output().unwrap()
}

fn json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text)
        .unwrap_or_else(|e| panic!("{e}: {text}{}", String::from_utf8_lossy(&output.stderr)))
}

/// One of the gallery's libraries, in a directory of its own.
fn faulty(dir: &Path, example: &str) -> PathBuf {
    stage_faulty(dir, example);
    dir.join(format!("{example}.so"))
}

/// Checks one of the gallery's plugins quickly: what a step found, and the exit code.
fn check(example: &str) -> (Option<i32>, Value) {
    let dir = temp_dir();
    let file = faulty(dir.path(), example);
    let output = plugin(&["check", file.to_str().unwrap(), "--json", "--deadline", "2", "--reloads", "2"]);
    (output.status.code(), json(&output))
}

fn step<'a>(report: &'a Value, id: &str) -> (&'a str, &'a str) {
    let steps = report["steps"].as_array().unwrap();
    let found = steps.iter().find(|s| s["step"] == id).unwrap_or_else(|| panic!("no {id}: {report}"));
    (found["verdict"].as_str().unwrap(), found["found"].as_str().unwrap())
}

#[test]
fn a_good_plugin_conforms() {
    let (code, report) = check("good");
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(report["conforms"], true);
    for id in ["header", "layout", "init", "work", "shutdown", "leftovers", "containment", "reload"] {
        assert_eq!(step(&report, id).0, "pass", "{report}");
    }
    assert!(step(&report, "logs").1.contains("started"), "{report}");
    assert!(step(&report, "reload").1.starts_with("2 times, nothing left behind"), "{report}");
}

#[test]
fn each_fault_is_found_at_its_step_and_the_tool_survives_it() {
    let dir = temp_dir();
    std::fs::write(dir.path().join("notes.so"), "to do: buy milk").unwrap();
    let output = plugin(&["check", dir.path().join("notes.so").to_str().unwrap(), "--json"]);
    assert_eq!((output.status.code(), step(&json(&output), "header").0), (Some(1), "fail"));

    for (example, at, verdict, text) in [
        ("create_panics", "create", "fail", "create panicked: cannot be made"),
        ("create_aborts", "create", "fail", "it ended its process: signal: 6 (SIGABRT)"),
        ("init_fails", "init", "fail", "no disk"),
        ("init_exits", "init", "fail", "it ended its process: exit status: 0, as if it were alone in it"),
        ("init_hangs", "init", "fail", "did not return within its deadline"),
        ("method_panics", "work", "fail", "fault(s), the first in "),
        ("shutdown_hangs", "shutdown", "fail", "did not return within its deadline"),
        (
            "leaves_things",
            "leftovers",
            "fail",
            "1 thread(s): keeper; bound ports: [7007]; 1 reference(s) to the daemon",
        ),
        ("other_layout", "layout", "fail", "[other-layout]"),
    ] {
        let (code, report) = check(example);
        assert_eq!(code, Some(1), "{example}: {report}");
        let (found, said) = step(&report, at);
        assert_eq!(found, verdict, "{example}: {report}");
        assert!(said.contains(text), "{example}: {report}");
    }
}

#[test]
fn a_file_that_crashes_or_hangs_when_opened_never_reaches_the_daemon() {
    let dir = temp_dir();
    let memory = dir.path().join("probed.json");
    let load = |example: &str, deadline: Duration| {
        let plugins = dir.path().join(example);
        faulty(&plugins, example);
        let mut probe = Probe::with_this_program(&PROBE, Some(memory.clone()));
        probe.program = HOST.into();
        probe.deadline = deadline;
        let config = LoaderConfig { dir: plugins, probe: Some(probe), ..LoaderConfig::default() };
        let daemon = FakeDaemon::new(dir.path());
        Loader::new(config).load(move |_: &str| daemon.clone() as Arc<dyn Daemon>)
    };
    let patient = Duration::from_secs(60);

    let refusal = load("create_aborts", patient).unwrap_err().refusals.remove(0);
    assert_eq!(refusal.code, Code::ProbeFailed);
    assert_eq!(
        refusal.reason,
        "ended its process: signal: 6 (SIGABRT) (core dumped) in a child process"
            .replace(" (core dumped)", "")
    );
    assert!(refusal.remedy.contains("get a mended version"), "{refusal}");
    // Remembered: not run again.
    let refusal = load("create_aborts", Duration::ZERO).unwrap_err().refusals.remove(0);
    assert!(refusal.reason.starts_with("was probed before, at Unix time "), "{refusal}");

    let refusal = load("create_hangs", Duration::from_secs(2)).unwrap_err().refusals.remove(0);
    assert_eq!(
        (refusal.code, refusal.reason.as_str()),
        (Code::ProbeFailed, "did not open within 2s in a child process")
    );

    // What fails in an orderly way keeps its own code.
    let refusal = load("create_panics", patient).unwrap_err().refusals.remove(0);
    assert_eq!(refusal.code, Code::CreateFailed, "{refusal}");
    let refusal = load("no_root", patient).unwrap_err().refusals.remove(0);
    assert_eq!(refusal.code, Code::NoRoot, "{refusal}");

    let loaded = load("good", patient).unwrap();
    loaded.shutdown(Duration::from_secs(10)).into_result().unwrap();
    let known = std::fs::read_to_string(&memory).unwrap();
    assert!(known.contains("\"good\"") && known.contains("\"create-aborts\""), "{known}");
    let again = load("good", Duration::ZERO).unwrap();
    again.shutdown(Duration::from_secs(10)).into_result().unwrap();
}

#[test]
fn a_new_crate_passes_its_test_builds_and_logs_in_a_running_host() {
    let dir = temp_dir();
    let made =
        json(&plugin(&["new", "hello", "--json", "--path", dir.path().join("hello").to_str().unwrap()]));
    let package = Path::new(made["dir"].as_str().unwrap()).to_owned();
    let target = Path::new(HOST).ancestors().nth(2).unwrap();
    for command in ["test", "build"] {
        let output = support::nested_cargo::cargo()
            .args([command, "--quiet", "--target-dir"])
            .arg(target)
            .args(["--config", "profile.dev.package.plugin-abi.opt-level = 0"])
            .current_dir(&package)
            .output()
            .unwrap();
        assert!(output.status.success(), "cargo {command}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let plugins = dir.path().join("plugins");
    std::fs::create_dir(&plugins).unwrap();
    std::fs::copy(target.join("debug/libhello.so"), plugins.join("libhello.so")).unwrap();
    let checked =
        plugin(&["check", plugins.join("libhello.so").to_str().unwrap(), "--json", "--reloads", "2"]);
    assert_eq!(checked.status.code(), Some(0), "{}", json(&checked));

    let rendezvous = Rendezvous::start();
    let host = Host::start(dir.path(), "a", &rendezvous, &plugins);
    host.process.wait_line("hello from hello");
    host.process.signal("-TERM");
}
