//! The gallery: each broken plugin of `broken-plugins/` is a real library, built by this test with cargo, and each is
//! refused or contained with a text that says why. That this process reaches its end is part of every assertion.
//!
//! The same files meet a running daemon, which answers on its socket after each of them, in `host/app/tests`: `plugins.rs`
//! (refusals, signatures, faults, sinks, logs), `author.rs` (what only a probe can find out), `isolation.rs` (crashes),
//! `reload.rs`. Other versions of the treaty are in `treaty.rs`, replacement and quarantine in `supervision.rs`.

#![allow(clippy::unwrap_used)] // the helpers are test code too, which clippy only knows of test functions

mod rack;

use std::time::Duration;

use pilot_loader::inspect::inspect;
use pilot_loader::scan::read_file;
use pilot_loader::trust::sign;
use pilot_loader::{
    Code, FaultSource, LoadError, OpenVia, PluginState, Probe, Trust, TrustMode, TrustPolicy,
};
use plugin_abi::header::{HEADER_LEN, MAGIC};
use plugin_abi::{Daemon, ErrorKind};
use rack::{Rack, every_ability, hello, library};

/// The one refusal of a load that failed before anything was started.
fn refusal(error: &LoadError) -> (Code, &str, &str) {
    assert_eq!(error.refusals.len(), 1, "{error}");
    let r = &error.refusals[0];
    assert!(!r.remedy.is_empty() && error.to_string().contains(&r.path.display().to_string()), "{error}");
    (r.code, &r.reason, &r.remedy)
}

#[test]
fn a_good_plugin_lives_and_logs() {
    let rack = Rack::new().put("good", "good.so");
    let loaded = rack.load().unwrap();
    let info = loaded.plugin("good").unwrap();
    assert_eq!((info.name.as_str(), info.version.as_str(), info.treaty), ("good", "0.1.0", (1, 1)));
    assert_eq!(info.state, PluginState::Running);
    assert_eq!(info.path, rack.dir().join("good.so"));
    assert_eq!((info.sha256.len(), info.faults), (64, 0));
    let line = rack.daemon("good").wait_for_log("started").unwrap();
    assert_eq!(
        (line.level, line.target.as_str(), line.fields["node"].as_u64()),
        (3, "broken_plugins", Some(1))
    );
    loaded.shutdown(Duration::from_secs(10)).into_result().unwrap();
    rack.daemon("good").wait_for_log("stopped").unwrap();
    assert_eq!(loaded.plugin("good").unwrap().state, PluginState::Stopped);
    assert!(loaded.shutdown(Duration::from_secs(10)).steps.is_empty(), "a second shutdown does nothing");
}

#[test]
fn started_in_name_order_and_stopped_in_reverse() {
    // File names sort the other way round: the plugin's name counts.
    let rack = Rack::new().put("omega", "1.so").put("good", "2.so").put("alpha", "3.so");
    let loaded = rack.load().unwrap();
    assert_eq!(rack.started(), ["alpha", "good", "omega"]);
    let names: Vec<_> = loaded.plugins().into_iter().map(|p| p.name).collect();
    assert_eq!(names, ["alpha", "good", "omega"]);
    let report = loaded.shutdown(Duration::from_secs(10));
    let stopped: Vec<_> = report.steps.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(stopped, ["omega", "good", "alpha"]);
}

#[test]
fn one_bad_file_means_nothing_is_opened() {
    let rack =
        Rack::new().put("alpha", "alpha.so").write("notes.so", b"not a library").write("empty.so", b"");
    let error = rack.load().unwrap_err();
    assert_eq!(error.refusals[0].code, Code::Size, "{error}");
    let rack =
        Rack::new().put("alpha", "alpha.so").write("notes.so", b"not a library").put("no_header", "x.so");
    let error = rack.load().unwrap_err();
    let codes: Vec<_> = error.refusals.iter().map(|r| r.code).collect();
    assert_eq!(codes, [Code::NotElf, Code::NoHeader], "all that is wrong is named at once: {error}");
    assert!(rack.started().is_empty());
}

#[test]
fn files_that_are_no_plugins() {
    let error = Rack::new().write("notes.so", b"to do: buy milk").load().unwrap_err();
    let (code, reason, remedy) = refusal(&error);
    assert_eq!(code, Code::NotElf);
    assert_eq!(reason, "starts with \"to do: b\", expected an ELF shared library");
    assert_eq!(remedy, "remove it from the plugins directory, or build it again");

    let whole = std::fs::read(library("good")).unwrap();
    let error = Rack::new().write("half.so", &whole[..whole.len() / 2]).load().unwrap_err();
    assert_eq!(refusal(&error).0, Code::NotElf);

    let error = Rack::new().put("no_header", "x.so").load().unwrap_err();
    let (code, reason, remedy) = refusal(&error);
    assert_eq!(code, Code::NoHeader);
    assert_eq!(reason, "is a library without a plugin header (section .pilot_plugin)");
    assert!(remedy.contains("export_plugin!"));
}

#[test]
fn headers_that_this_host_refuses() {
    let patched = |at: usize, bytes: &[u8]| {
        let mut file = std::fs::read(library("good")).unwrap();
        let header =
            file.windows(HEADER_LEN).position(|w| w.starts_with(&MAGIC) && w[32..36] == *b"good").unwrap();
        file[header + at..header + at + bytes.len()].copy_from_slice(bytes);
        Rack::new().write("good.so", &file).load().unwrap_err()
    };
    let cases: [(usize, &[u8], Code, &str); 6] = [
        (0, b"SOME", Code::BadHeader, "plugin header starts with \"SOMET-PLUGIN"),
        (20, &[2, 0], Code::OtherTreaty, "built for treaty 2, this host speaks treaty 1."),
        (16, &[12, 0, 0, 0], Code::BadHeader, "plugin header of 12 bytes, expected at least 208"),
        (24, &[0], Code::PanicAbort, "built with panic=abort, expected panic=unwind"),
        (160, b"sparc6", Code::OtherTarget, "built for sparc6-unknown-linux-gnu, this host runs on "),
        (32, b"G", Code::BadHeader, "the header's name field is not valid"),
    ];
    for (at, bytes, code, text) in cases {
        let error = patched(at, bytes);
        let (found, reason, _) = refusal(&error);
        assert_eq!(found, code, "{error}");
        assert!(reason.starts_with(text), "{error}");
    }
}

#[test]
fn libraries_whose_code_does_not_fit() {
    let error = Rack::new().put("no_root", "x.so").load().unwrap_err();
    assert_eq!(refusal(&error).1, "has a plugin header but no symbol PILOT_PLUGIN_ROOT");
    assert_eq!(refusal(&error).0, Code::NoRoot);

    let error = Rack::new().put("other_abi", "x.so").load().unwrap_err();
    assert_eq!(refusal(&error).0, Code::OtherLayout);
    assert_eq!(
        refusal(&error).1,
        "not a plugin of this treaty: its root symbol is no library header, expected the one that export_plugin! writes"
    );

    let error = Rack::new().put("other_layout", "x.so").load().unwrap_err();
    let (code, reason, remedy) = refusal(&error);
    assert_eq!(code, Code::OtherLayout);
    let text = "other interface layout: mismatched package, expected plugin-abi, found broken-plugins (at ";
    assert!(reason.starts_with(text) && reason.len() < 700, "a summary of hundreds of lines: {error}");
    assert_eq!(remedy, "rebuild it with the plugin-abi version of this host");

    let error = Rack::new().put("other_name", "x.so").load().unwrap_err();
    assert_eq!(refusal(&error).0, Code::NameMismatch);
    assert_eq!(refusal(&error).1, "the header names plugin \"handshake\", its code says \"impostor\"");

    let error = Rack::new().put("missing_symbol", "x.so").load().unwrap_err();
    assert_eq!(refusal(&error).0, Code::OpenFailed);
    assert!(refusal(&error).1.contains("pilot_nobody_has_this"), "{error}");
}

#[test]
fn two_files_of_one_name() {
    let rack = Rack::new().put("good", "a.so").put("good", "b.so");
    let error = rack.load().unwrap_err();
    let (code, reason, remedy) = refusal(&error);
    assert_eq!(code, Code::DuplicateName);
    let first = rack.dir().join("a.so");
    assert_eq!(reason, format!("daemonapi: plugin already registered: good (by {})", first.display()));
    assert_eq!(
        (error.refusals[0].path.clone(), remedy),
        (rack.dir().join("b.so"), "remove one of the two files")
    );
}

#[test]
fn constructors_that_fail_unwind_what_runs() {
    for (name, cause) in [
        ("create_fails", "daemonapi: plugin \"create-fails\" create: no licence"),
        ("create_panics", "daemonapi: plugin \"create-panics\" create: create panicked: cannot be made"),
    ] {
        let rack = Rack::new().put("alpha", "a.so").put(name, "b.so").put("omega", "c.so");
        let error = rack.load().unwrap_err();
        assert_eq!((refusal(&error).0, refusal(&error).1), (Code::CreateFailed, cause));
        assert_eq!(rack.started(), ["alpha"]);
        assert_eq!(error.unwound.steps[0].name, "alpha");
        assert!(error.to_string().ends_with("plugin \"alpha\" was shut down again"), "{error}");
        rack.daemon("alpha").wait_for_log("stopped").unwrap();
    }
}

#[test]
fn starts_that_fail_unwind_what_runs() {
    for (name, code, cause) in [
        ("init_fails", Code::InitFailed, "daemonapi: plugin \"init-fails\" init: no disk"),
        ("init_panics", Code::InitFailed, "daemonapi: plugin \"init-panics\" init: init panicked: node 1"),
        ("init_hangs", Code::InitTimeout, "daemonapi: plugin \"init-hangs\" init: deadline exceeded"),
    ] {
        let rack = Rack::new().init_timeout(Duration::from_secs(2)).put("alpha", "a.so").put(name, "b.so");
        let rack = rack.put("omega", "c.so");
        let error = rack.load().unwrap_err();
        assert_eq!((refusal(&error).0, refusal(&error).1), (code, cause));
        assert!(!rack.started().contains(&"omega".to_owned()));
        assert_eq!(error.unwound.steps.len(), 1, "the failed one gets no shutdown: {error}");
        rack.daemon("alpha").wait_for_log("stopped").unwrap();
    }
}

#[test]
fn a_plugin_that_panics_when_asked_fails_closed_and_alone() {
    let rack = Rack::new().put("alpha", "a.so").put("method_panics", "b.so");
    let loaded = rack.load().unwrap();
    let daemon = rack.daemon("method-panics");
    assert_eq!(daemon.wait_for_fault("worker").as_deref(), Some("in a thread"));
    assert_eq!(daemon.wait_for_fault("spawned future").as_deref(), Some("in a future"));
    assert_eq!(
        loaded.plugin("method-panics").unwrap().state,
        PluginState::Running,
        "faults of its own are counted"
    );
    let checker = daemon.trust_checker().unwrap();
    assert_eq!(checker.is_trusted(7), None, "a checker that breaks trusts nobody");
    let why = "TrustChecker.is_trusted panicked: asked about 7";
    assert_eq!(daemon.wait_for_fault("TrustChecker.is_trusted").as_deref(), Some(why));
    let info = loaded.plugin("method-panics").unwrap();
    assert_eq!((info.state, info.faults), (PluginState::Failed(why.into()), 3));
    let logged = daemon.wait_for_log("panicked: asked about 7").unwrap();
    assert!(logged.fields["location"].as_str().unwrap().contains("method_panics.rs"), "{logged:?}");
    assert_eq!(checker.is_trusted(8), None);
    assert_eq!(loaded.plugin("method-panics").unwrap().faults, 3, "a failed plugin is not called again");
    let ledger = loaded.faults("method-panics");
    assert_eq!((ledger[2].op.as_str(), ledger[2].source), ("TrustChecker.is_trusted", FaultSource::Border));
    assert!(ledger[..2].iter().all(|f| f.source == FaultSource::Plugin));
    assert_eq!(loaded.plugin("alpha").unwrap().state, PluginState::Running);
    loaded.shutdown(Duration::from_secs(10)).into_result().unwrap();
    drop(loaded);
}

#[test]
fn shutdowns_that_go_wrong_do_not_stop_the_walk() {
    let rack = Rack::new().put("alpha", "a.so").put("shutdown_fails", "b.so");
    let rack = rack.put("shutdown_hangs", "c.so").put("shutdown_panics", "d.so");
    let loaded = rack.load().unwrap();
    let report = loaded.shutdown(Duration::from_secs(1));
    assert_eq!(report.steps[1].error.as_ref().unwrap().kind(), ErrorKind::TimedOut);
    assert_eq!(
        report.into_result().unwrap_err().message(),
        "daemonapi: 3 plugin shutdown error(s): plugin \"shutdown-panics\" shutdown: shutdown panicked: not now; \
         plugin \"shutdown-hangs\" shutdown: deadline exceeded; plugin \"shutdown-fails\" shutdown: queue not empty"
    );
    let states: Vec<_> = loaded.plugins().into_iter().map(|p| (p.name, p.state.as_str())).collect();
    let expected = [("alpha", "stopped"), ("shutdown-fails", "error"), ("shutdown-hangs", "stuck")];
    assert_eq!(states[..3], expected.map(|(n, s)| (n.to_owned(), s)));
    rack.daemon("alpha").wait_for_log("stopped").unwrap();
}

#[test]
fn a_plugin_that_panics_when_dropped() {
    let rack = Rack::new().put("drop_panics", "a.so");
    let loaded = rack.load().unwrap();
    loaded.shutdown(Duration::from_secs(10)).into_result().unwrap();
    drop(loaded);
}

#[test]
fn two_hosts_in_one_process_share_nothing() {
    let (one, two) = (Rack::new().put("good", "good.so"), Rack::new().put("good", "good.so"));
    let (first, second) = (one.load().unwrap(), two.load().unwrap());
    first.shutdown(Duration::from_secs(10)).into_result().unwrap();
    one.daemon("good").wait_for_log("stopped").unwrap();
    assert_eq!(
        two.daemon("good").logs().len(),
        1,
        "each load has statics of its own, the log bridge's included"
    );
    second.shutdown(Duration::from_secs(10)).into_result().unwrap();
    two.daemon("good").wait_for_log("stopped").unwrap();
}

#[test]
fn opened_from_a_private_copy() {
    let copies = tempfile::tempdir().unwrap();
    let rack = Rack::new().put("good", "good.so").open_via(OpenVia::PrivateCopy(copies.path().into()));
    let loaded = rack.load().unwrap();
    assert_eq!(std::fs::read_dir(copies.path()).unwrap().count(), 0, "the copy is removed once it is mapped");
    loaded.shutdown(Duration::from_secs(10)).into_result().unwrap();
    rack.daemon("good").wait_for_log("stopped").unwrap();
}

#[test]
fn only_signed_or_allowed_files_when_the_operator_says_so() {
    let seed = [9; 32];
    let rack = Rack::new().put("good", "good.so").put("alpha", "alpha.so");
    let [good, alpha] = ["good.so", "alpha.so"].map(|f| read_file(&rack.dir().join(f)).unwrap());
    let line = sign(&good, &inspect(&good).unwrap(), &seed);
    let key = line.split(' ').nth(1).unwrap().to_owned();
    let hash = inspect(&alpha).unwrap().sha256;
    let policy = |hashes: &[&str]| TrustPolicy::new(TrustMode::Enforce, hashes, [&key]).unwrap();
    let rack = rack.trust(policy(&[])).write("good.so.sig", line.as_bytes());
    let error = rack.load().unwrap_err();
    assert_eq!((refusal(&error).0, error.refusals[0].plugin.as_deref()), (Code::NotTrusted, Some("alpha")));
    let rack = rack.trust(policy(&[&hash]));
    let loaded = rack.load().unwrap();
    assert_eq!(loaded.plugin("good").unwrap().trust, Trust::Signed(key.clone()));
    assert_eq!(loaded.plugin("alpha").unwrap().trust, Trust::AllowListed);
    loaded.shutdown(Duration::from_secs(10)).into_result().unwrap();
    // The file was changed after it was signed.
    let mut changed = good.bytes;
    changed.push(0);
    let error = rack.write("good.so", &changed).load().unwrap_err();
    assert_eq!(refusal(&error).0, Code::BadSignature);
    assert_eq!(refusal(&error).1, format!("the signature by key {key} is wrong"));
}

/// What was judged is what runs: the file on the disk is replaced after it was judged and before it is opened, in the
/// moment in which a child process tries it out.
#[test]
fn a_file_that_changes_after_it_was_judged_changes_nothing() {
    let seed = [9; 32];
    let rack = Rack::new().put("good", "good.so");
    let judged = read_file(&rack.dir().join("good.so")).unwrap();
    let line = sign(&judged, &inspect(&judged).unwrap(), &seed);
    let key = line.split(' ').nth(1).unwrap().to_owned();
    // Another library, which would be refused and says another name.
    let (file, other) = (rack.dir().join("good.so"), library("create_panics"));
    let swap = format!(
        "cat > /dev/null; cp '{}' '{1}.new'; mv '{1}.new' '{1}'; echo 'pilot-plugin-probe {{}}'",
        other.display(),
        file.display()
    );
    let probe = Probe {
        program: "/bin/sh".into(),
        arguments: vec!["-c".into(), swap.into()],
        memory: None,
        deadline: Duration::from_secs(60),
    };
    let policy = TrustPolicy::new(TrustMode::Enforce, [""; 0], [&key]).unwrap();
    let mut rack =
        rack.trust(policy).write("good.so.sig", line.as_bytes()).configure(|c| c.probe = Some(probe));
    for via in [OpenVia::Memory, OpenVia::PrivateCopy(rack.state().to_owned())] {
        rack.replace("good.so", &judged.bytes);
        rack = rack.open_via(via);
        let loaded = rack.load().unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), std::fs::read(&other).unwrap(), "it was replaced");
        assert_eq!(loaded.plugin("good").unwrap().trust, Trust::Signed(key.clone()));
        rack.daemon("good").wait_for_log("started").unwrap();
        loaded.shutdown(Duration::from_secs(10)).into_result().unwrap();
    }
    // At the next start it is judged for what it is.
    assert_eq!(refusal(&rack.load().unwrap_err()).0, Code::BadSignature);
}

#[test]
fn disabled_plugins_are_left_alone() {
    let rack = Rack::new().put("alpha", "a.so").put("init_fails", "b.so").disable("init-fails");
    let loaded = rack.load().unwrap();
    assert_eq!(loaded.plugins().len(), 1);
    loaded.shutdown(Duration::from_secs(10)).into_result().unwrap();
}

#[test]
fn an_empty_directory_is_no_error_and_a_missing_one_is() {
    assert!(Rack::new().load().unwrap().plugins().is_empty());
    let rack = Rack::new();
    std::fs::remove_dir(rack.dir()).unwrap();
    let error = rack.load().unwrap_err();
    assert_eq!(refusal(&error).1, "the plugins directory does not exist");
}

#[test]
fn inspection_runs_nothing() {
    let path = library("create_panics");
    let found = inspect(&read_file(&path).unwrap()).unwrap();
    assert_eq!(found.header.name, "create-panics");
    assert!(found.header.rustc.starts_with("rustc "));
}

#[test]
fn the_third_party_example() {
    let rack = Rack::new().copy(&hello(), "hello.so");
    let loaded = rack.load().unwrap();
    let daemon = rack.daemon("hello");
    daemon.wait_for_log("hello").unwrap();
    daemon.publish("node.registered", None);
    loaded.shutdown(Duration::from_secs(10)).into_result().unwrap();
    assert_eq!(daemon.wait_for_log("goodbye").unwrap().fields["seen"], 1);
    assert_eq!(daemon.subscriptions(), 0);
}

#[test]
fn the_third_party_example_with_every_ability() {
    let rack = Rack::new().copy(&every_ability(), "every.so");
    let loaded = rack.load().unwrap();
    let daemon = rack.daemon("every-ability");
    daemon.wait_for_log("starting").unwrap();
    assert_eq!(daemon.bound_ports(), [7100]);
    let stream = daemon.connect(7100).unwrap();
    stream.write(b"Ada").unwrap();
    let mut answer = [0; 16];
    let n = stream.read(&mut answer).unwrap();
    assert_eq!(&answer[..n], b"hello Ada");
    // A dial from its own runtime, a tick from its task on the host's, a fault of one visitor.
    daemon.publish("node.registered", None);
    assert_eq!(daemon.wait_for_log("not reached").unwrap().fields["error"], "connection refused");
    daemon.wait_for_event("plugin.every-ability.tick").unwrap();
    daemon.connect(7100).unwrap().write(b"\x01").unwrap();
    assert_eq!(daemon.wait_for_fault("greet").as_deref(), Some("a visitor said the word"));
    loaded.shutdown(Duration::from_secs(10)).into_result().unwrap();
    assert!(daemon.bound_ports().is_empty() && daemon.subscriptions() == 0);
}
