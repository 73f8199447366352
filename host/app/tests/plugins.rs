//! Plugins of a running host, one at a time, with real processes: each fault of the gallery, and the daemon answering on
//! its socket after it; rules, logs and counts as an operator sees them.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod support;

use std::path::{Path, PathBuf};

use serde_json::Value;
use support::*;

/// A host with some plugins, and the `chameleon`, which does what `tell` says at its next start.
struct House {
    /// The plugin that the host starts with.
    anchor: String,
    host: Host,
    plugins: PathBuf,
    _rendezvous: Rendezvous,
    _dir: tempfile::TempDir,
}

const ALL: &str = "ports = [\"*\"]\npublish = [\"*\"]\nsubscribe = [\"*\"]\ndial = [\"*\"]\nsign = [\"\"]\n\
                   registry = [\"*\"]\nservices = [\"trust-checker\", \"policy\"]\n\
                   actions = [\"admin-token\", \"trust\", \"tunnels\", \"tags\", \"webhook\"]\n\
                   publishes_per_second = 0\n";

impl House {
    fn new(config: &str) -> House {
        Self::with(config, &["handshake"], &[])
    }

    fn with(config: &str, own: &[&str], extra: &[&str]) -> House {
        let dir = temp_dir();
        let rendezvous = Rendezvous::start();
        let plugins = dir.path().join("plugins");
        stage(&plugins, own);
        let file = dir.path().join("pilot.toml");
        std::fs::write(&file, config).unwrap();
        let mut args = vec!["--config", file.to_str().unwrap()];
        args.extend(extra);
        let host = Host::start_with(dir.path(), "host", &rendezvous, &plugins, &args);
        House { anchor: own[0].to_owned(), host, plugins, _rendezvous: rendezvous, _dir: dir }
    }

    fn tell(&self, acts: &str) {
        std::fs::write(self.host.state().join("chameleon.do"), acts).unwrap();
    }

    /// Stages the chameleon and starts it.
    fn chameleon(&self, acts: &str) {
        stage_faulty(&self.plugins, "chameleon");
        self.tell(acts);
        self.host.ok(&["plugins", "start", "chameleon"]);
    }

    fn status(&self, name: &str) -> Value {
        self.host.ok(&["plugins", "status", name])
    }

    /// The outcome that the chameleon has logged for an act.
    fn outcome(&self, act: &str) -> String {
        eventually(&format!("the outcome of {act:?}"), || {
            let answer = self.host.ok(&["plugins", "logs", "chameleon", "-n", "200"]);
            let lines = answer["lines"].as_array().unwrap();
            let line = lines.iter().rev().find(|l| l["fields"]["act"] == act)?;
            Some(line["fields"]["outcome"].as_str().unwrap().to_owned())
        })
    }

    /// The daemon answers, and the plugin it started with runs.
    fn is_well(&self) {
        assert_eq!(self.host.ok(&["health"])["status"], "ok");
        assert_eq!(self.status(&self.anchor)["state"], "running");
    }
}

fn code_of(failure: &Value) -> String {
    let text = failure["message"].as_str().unwrap();
    let start = text.rfind('[').unwrap_or_else(|| panic!("no code in {text}"));
    text[start + 1..].split(']').next().unwrap().to_owned()
}

/// Every refusal, each with a real file put into the directory of a running host.
#[test]
fn files_that_are_refused_leave_the_daemon_answering() {
    let mark = std::env::temp_dir().join(format!("pilot-gallery-{}", std::process::id()));
    // The host inherits it: the constructor in one of the files would write there.
    let dir = temp_dir();
    let rendezvous = Rendezvous::start();
    let plugins = dir.path().join("plugins");
    stage(&plugins, &["handshake"]);
    let mut command = Host::command(dir.path(), "host", &rendezvous, &plugins);
    let process = Process::spawn("host", command.env("PILOT_GALLERY_MARK", &mark));
    process.wait_line("daemon running");
    let host = Host::of(process, dir.path(), "host");

    let good = std::fs::read(faulty("good")).unwrap();
    let at = good.windows(40).position(|w| w.starts_with(b"PILOT-PLUGIN") && w[32..36] == *b"good").unwrap();
    let patched = |offset: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at + offset..at + offset + bytes.len()].copy_from_slice(bytes);
        file
    };
    let rows: Vec<(&str, Vec<u8>, &str, &str)> = vec![
        ("text", b"this is text\n".to_vec(), "not-elf", "expected an ELF shared library"),
        ("half", good[..good.len() / 2].to_vec(), "not-elf", "damaged"),
        ("no-header", std::fs::read(faulty("no_header")).unwrap(), "no-header", "without a plugin header"),
        ("constructor", std::fs::read(faulty("constructor")).unwrap(), "no-header", "export_plugin!"),
        ("good", patched(0, b"SOME"), "bad-header", "rebuild"),
        ("good", patched(16, &[12, 0, 0, 0]), "bad-header", "expected at least 208"),
        ("good", patched(20, &[2, 0]), "other-treaty", "built for treaty 2, this host speaks treaty 1."),
        ("good", patched(24, &[0]), "panic-abort", "panic = \"unwind\""),
        ("good", patched(160, b"sparc6"), "other-target", "sparc6"),
        ("no-root", std::fs::read(faulty("no_root")).unwrap(), "no-root", "PILOT_PLUGIN_ROOT"),
        ("other-abi", std::fs::read(faulty("other_abi")).unwrap(), "other-layout", "rebuild"),
        ("other-layout", std::fs::read(faulty("other_layout")).unwrap(), "other-layout", "rebuild"),
        ("missing-symbol", std::fs::read(faulty("missing_symbol")).unwrap(), "open-failed", "pilot_nobody"),
        ("create-fails", std::fs::read(faulty("create_fails")).unwrap(), "create-failed", "create"),
        ("create-panics", std::fs::read(faulty("create_panics")).unwrap(), "create-failed", "panicked"),
        ("init-fails", std::fs::read(faulty("init_fails")).unwrap(), "init-failed", "no disk"),
        ("init-panics", std::fs::read(faulty("init_panics")).unwrap(), "init-failed", "panicked"),
    ];
    for (name, bytes, code, words) in rows {
        let path = plugins.join(format!("{name}.so"));
        std::fs::write(&path, bytes).unwrap();
        let failure = host.fails(&["plugins", "start", name]);
        let text = failure["message"].as_str().unwrap();
        assert_eq!(code_of(&failure), code, "{name}: {text}");
        assert!(text.contains(words) && text.contains(path.to_str().unwrap()), "{name}: {text}");
        println!("{code:>14}  {}", text.replace(plugins.to_str().unwrap(), "DIR"));
        assert_eq!(host.ok(&["health"])["status"], "ok");
        std::fs::remove_file(path).unwrap();
    }
    // The header of one plugin around the code of another.
    std::fs::copy(faulty("other_name"), plugins.join("x.so")).unwrap();
    std::fs::remove_file(plugins.join("handshake.so")).unwrap();
    assert_eq!(code_of(&host.fails(&["plugins", "reload", "handshake"])), "name-mismatch");
    std::fs::remove_file(plugins.join("x.so")).unwrap();
    assert_eq!(code_of(&host.fails(&["plugins", "reload", "handshake"])), "not-found");
    // Two files of one name.
    for file in ["a.so", "b.so"] {
        std::fs::copy(faulty("good"), plugins.join(file)).unwrap();
    }
    let failure = host.fails(&["plugins", "start", "good"]);
    assert_eq!(code_of(&failure), "duplicate-name");
    let text = failure["message"].as_str().unwrap();
    assert!(text.contains("a.so") && text.contains("b.so"), "{text}");
    // What could be changed by others.
    std::fs::remove_file(plugins.join("b.so")).unwrap();
    let mode = |mode: u32| {
        std::fs::set_permissions(plugins.join("a.so"), std::os::unix::fs::PermissionsExt::from_mode(mode))
            .unwrap();
    };
    mode(0o666);
    // Named as its file, because what is inside is not even read.
    assert_eq!(code_of(&host.fails(&["plugins", "start", "a"])), "file-unsafe");
    assert_eq!(code_of(&host.fails(&["plugins", "start", "good"])), "not-found");
    mode(0o644);
    host.ok(&["plugins", "start", "good"]);
    let states = host.ok(&["plugins"])["plugins"].clone();
    assert_eq!(
        states.as_array().unwrap().iter().find(|p| p["name"] == "handshake").unwrap()["state"],
        "running"
    );
    assert!(!mark.exists(), "a file without a header has run code");
}

#[test]
fn without_a_voucher_nothing_is_started_where_that_is_enforced() {
    let dir = temp_dir();
    let own = dir.path().join("own");
    stage(&own, &["handshake"]);
    let allowed = sha256(&own.join("handshake.so"));
    let house = House::new(&format!("[plugins]\ntrust = \"enforce\"\nallow = [\"{allowed}\"]\n"));
    assert_eq!(house.status("handshake")["trust"], "allow-listed");
    stage_faulty(&house.plugins, "good");
    assert_eq!(code_of(&house.host.fails(&["plugins", "start", "good"])), "not-trusted");
    // The very file that runs, changed by one byte.
    let file = house.plugins.join("handshake.so");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes.push(0);
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, bytes).unwrap();
    assert_eq!(code_of(&house.host.fails(&["plugins", "reload", "handshake"])), "not-trusted");
    house.is_well();
}

/// By the operator's key: a good signature is enough, and a wrong one is fatal whatever else is said.
#[test]
fn a_wrong_signature_is_refused_by_a_running_host() {
    let dir = temp_dir();
    let tool = |args: &[&str]| {
        let out = std::process::Command::new(env!("CARGO_BIN_EXE_pilot-host"))
            .arg("plugin")
            .args(args)
            .arg("--json")
            .output()
            .unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice::<Value>(&out.stdout).unwrap()
    };
    let [key, stranger] = ["key", "stranger"].map(|n| dir.path().join(n).to_str().unwrap().to_owned());
    let public = tool(&["keygen", &key])["key"].as_str().unwrap().to_owned();
    tool(&["keygen", &stranger]);
    let own = dir.path().join("own");
    stage(&own, &["handshake"]);
    let allowed = sha256(&own.join("handshake.so"));
    let good = std::fs::read(faulty("good")).unwrap();
    let good_hash = sha256(&faulty("good"));
    for (mode, allow) in [("enforce", ""), ("warn", ""), ("enforce", good_hash.as_str())] {
        let house = House::new(&format!(
            "[plugins]\ntrust = \"{mode}\"\ntrusted_keys = [\"{public}\"]\nallow = [\"{allowed}\"{}]\n",
            if allow.is_empty() { String::new() } else { format!(", \"{allow}\"") }
        ));
        let file = house.plugins.join("good.so");
        let signature = house.plugins.join("good.so.sig");
        std::fs::write(&file, &good).unwrap();
        tool(&["sign", file.to_str().unwrap(), "--key", &key]);
        house.host.ok(&["plugins", "start", "good"]);
        assert_eq!(house.status("good")["trust"], format!("signed by {public}"));
        let line = std::fs::read_to_string(&signature).unwrap();
        let refused = |what: &str| {
            let failure = house.host.fails(&["plugins", "reload", "good"]);
            let text = failure["message"].as_str().unwrap();
            assert_eq!(code_of(&failure), "bad-signature", "{mode}, {what}: {text}");
            println!("{mode}, {what}: {text}");
            assert_eq!(house.status("good")["state"], "running", "the one that was good goes on");
            house.is_well();
        };
        // The last digit of the signature.
        let (most, last) = line.trim_end().split_at(line.trim_end().len() - 1);
        let other = if last == "0" { '1' } else { '0' };
        std::fs::write(&signature, format!("{most}{other}\n")).unwrap();
        refused("one digit changed");
        std::fs::write(&signature, "ed25519 00 00\n").unwrap();
        refused("no signature at all");
        std::fs::write(&signature, &line).unwrap();
        let longer = [&good[..], b"x"].concat();
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, &longer).unwrap();
        refused("another file");
        // Put right again; and what somebody else signed well is signed by nobody.
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, &good).unwrap();
        house.host.ok(&["plugins", "reload", "good"]);
        std::fs::remove_file(&signature).unwrap();
        tool(&["sign", file.to_str().unwrap(), "--key", &stranger]);
        match (mode, allow) {
            ("enforce", "") => {
                assert_eq!(code_of(&house.host.fails(&["plugins", "reload", "good"])), "not-trusted");
            }
            (_, allow) => {
                house.host.ok(&["plugins", "reload", "good"]);
                let by = if allow.is_empty() { "unvouched" } else { "allow-listed" };
                assert_eq!(house.status("good")["trust"], by);
            }
        }
        house.is_well();
    }
}

/// Readers of events that panic over what they read: the daemon goes on, other readers get everything, the books are
/// kept, and the plugin is still there.
#[test]
fn sinks_that_panic_are_counted_and_harm_nobody() {
    let house = House::new(&format!(
        "[plugins]\nquarantine_after = 0\n[plugins.settings.chameleon.capabilities]\n{ALL}"
    ));
    house.chameleon("sink test.sink\nsink test.*\npublish test.sink 3");
    eventually("both panics", || (house.status("chameleon")["panics"] == 2).then_some(()));
    let status = house.status("chameleon");
    assert_eq!((&status["state"], &status["starts"]), (&"running".into(), &1.into()), "{status}");
    let faults = status["recent_faults"].as_array().unwrap();
    assert_eq!(faults.len(), 2, "{status}");
    assert!(
        faults.iter().all(|f| f["text"].as_str().unwrap().contains("cannot stand test.sink")),
        "{status}"
    );
    assert_eq!(house.host.ok(&["info"])["plugin_panics"]["chameleon"], 2);
    let read = house.host.ok(&["events", "--topic", "test.sink"])["events"].clone();
    let numbers: Vec<_> = read.as_array().unwrap().iter().map(|e| e["payload"]["i"].clone()).collect();
    assert_eq!(numbers, [0, 1, 2], "what others read is complete");
    house.is_well();
    // The same again: counted on, over a restart of the plugin.
    house.host.ok(&["plugins", "restart", "chameleon"]);
    eventually("two more", || (house.status("chameleon")["panics"] == 4).then_some(()));
    assert_eq!(house.host.ok(&["plugins", "stop", "chameleon"])["state"], "stopped");
    house.is_well();
}

/// Lines below the host's level are not even put together in the plugin, and the level may change while it runs.
#[test]
fn the_level_of_the_log_reaches_into_a_running_plugin() {
    let dir = temp_dir();
    let rendezvous = Rendezvous::start();
    let plugins = dir.path().join("plugins");
    stage_faulty(&plugins, "chameleon");
    let file = dir.path().join("pilot.toml");
    let level = |level: &str| {
        let text = format!("[log]\nlevel = \"{level}\"\n[plugins]\nlog_rate = 1000\n");
        std::fs::write(&file, text).unwrap();
    };
    level("info");
    std::fs::create_dir_all(dir.path().join("host")).unwrap();
    std::fs::write(dir.path().join("host/chameleon.do"), "whisper").unwrap();
    let host =
        Host::start_with(dir.path(), "host", &rendezvous, &plugins, &["--config", file.to_str().unwrap()]);
    let said = |n: usize, heard: bool| {
        let lines = eventually("the plugin to notice", || {
            let lines = host.process.lines_with("msg=whispers");
            (lines.len() >= n).then_some(lines)
        });
        assert!(lines[n - 1].contains(&format!("\\\"heard\\\":{heard}")), "{}", lines[n - 1]);
    };
    said(1, false);
    assert_eq!(host.process.lines_with("msg=whisper ").len(), 0);
    level("info,plugin=debug");
    host.process.signal("-HUP");
    said(2, true);
    host.process.wait_line("msg=whisper ");
    level("info");
    host.process.signal("-HUP");
    said(3, false);
    host.ok(&["plugins", "stop", "chameleon"]);
    let put_together = host.process.wait_line("msg=whispered");
    let came = host.process.lines_with("msg=whisper ").len();
    assert!(put_together.contains(&format!("\\\"put_together\\\":{came}}}")), "{came} lines, {put_together}");
    assert_eq!(host.ok(&["health"])["status"], "ok");
}

/// Panics in every place that the host or the plugin itself can contain, then a plugin that hangs at both ends.
#[test]
fn faults_of_a_running_plugin_cost_the_daemon_nothing() {
    let config = format!(
        "[plugins]\ninit_timeout = \"1s\"\nshutdown_timeout = \"1s\"\nquarantine_after = 0\n\
         [plugins.settings.chameleon.capabilities]\n{ALL}"
    );
    let house = House::new(&config);
    house.chameleon("thread-panic 2\nfuture-panic");
    eventually("three faults", || (house.status("chameleon")["panics"] == 3).then_some(()));
    let info = house.host.ok(&["info"]);
    assert_eq!((&info["recovered_total"], &info["plugin_panics"]["chameleon"]), (&3.into(), &3.into()));
    let status = house.status("chameleon");
    assert_eq!((&status["state"], &status["healthy"]), (&"running".into(), &false.into()));
    let events = house.host.ok(&["events", "--topic", "plugin.chameleon.*"])["events"].clone();
    let events = events.as_array().unwrap();
    let panics: Vec<_> = events.iter().filter(|e| e["topic"] == "plugin.chameleon.panic").collect();
    assert_eq!(panics.len(), 3, "{events:?}");
    let keys: Vec<_> = panics[0]["payload"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["op", "panic", "plugin", "plugin_panics", "recovered_total"]);
    let unhealthy: Vec<_> = events.iter().filter(|e| e["topic"] == "plugin.chameleon.unhealthy").collect();
    assert_eq!(unhealthy.len(), 1);
    assert_eq!(unhealthy[0]["payload"]["plugin_panics"], 3);
    house.is_well();
    for (act, state, counter, counted) in
        [("panic", "failed", "panics", 5), ("hang", "failed", "overruns", 2), ("fail", "failed", "panics", 5)]
    {
        house.tell("");
        let _ = house.host.ctl(&["plugins", "start", "chameleon"]);
        house.tell(act);
        house.host.fails(&["plugins", "restart", "chameleon"]);
        let status = house.status("chameleon");
        assert_eq!((status["state"].as_str(), &status[counter]), (Some(state), &counted.into()), "{act}");
        house.is_well();
    }
    for (end, state) in [("hang", "stuck"), ("panic", "error"), ("fail", "error"), ("well", "stopped")] {
        house.tell(&format!("shutdown {end}"));
        house.host.ok(&["plugins", "start", "chameleon"]);
        assert_eq!(house.host.ok(&["plugins", "stop", "chameleon"])["state"], state, "{end}");
        house.is_well();
    }
}

/// The policy gate and the trust check: "no" from a plugin that panics, from one in quarantine, and while there is none
/// to ask.
#[test]
fn decisions_fail_closed() {
    let config = format!("[plugins]\nquarantine_after = 2\n[plugins.settings.chameleon.capabilities]\n{ALL}");
    // Without the handshake plugin pilotctl cannot ask for trust first, and dials.
    let house = House::with(&config, &["webhook"], &["--public"]);
    let dial = || house.host.ctl(&["connect", "77", "7", "--message", "x", "--timeout", "2s"]);
    let denied = || String::from_utf8_lossy(&dial().stderr).contains("not allowed by network 0 policy");
    assert!(!denied(), "without a policy plugin nothing is denied");
    stage_faulty(&house.plugins, "chameleon");
    house.tell("fail");
    house.host.fails(&["plugins", "start", "chameleon"]);
    assert!(denied(), "it would have registered a policy, and did not come so far");
    house.chameleon("policy allow");
    assert!(!denied());
    house.tell("policy deny");
    house.host.ok(&["plugins", "reload", "chameleon"]);
    assert!(denied());
    house.tell("policy panic");
    house.host.ok(&["plugins", "reload", "chameleon"]);
    assert!(denied(), "the call panics");
    assert_eq!(house.status("chameleon")["state"], "failed");
    assert!(denied(), "it is not called any more");
    house.is_well();
    // The second panic within the window.
    house.host.ok(&["plugins", "restart", "chameleon"]);
    assert!(denied());
    eventually("quarantine", || (house.status("chameleon")["state"] == "quarantined").then_some(()));
    assert!(denied(), "in quarantine");
    assert_eq!(code_of(&house.host.fails(&["plugins", "start", "chameleon"])), "quarantined");
    house.tell("policy allow");
    house.host.ok(&["plugins", "lift", "chameleon"]);
    assert!(!denied());
    // Stopped by hand while a policy was in force.
    house.host.ok(&["plugins", "stop", "chameleon"]);
    assert!(denied());
    house.host.ok(&["plugins", "start", "chameleon"]);
    assert!(!denied());
    house.is_well();
}

#[test]
fn quarantine_holds_over_a_restart_of_the_host_and_gates_stay_shut() {
    let config = format!("[plugins]\nquarantine_after = 1\n[plugins.settings.chameleon.capabilities]\n{ALL}");
    let dir = temp_dir();
    let rendezvous = Rendezvous::start();
    let plugins = dir.path().join("plugins");
    stage_faulty(&plugins, "chameleon");
    let file = dir.path().join("pilot.toml");
    std::fs::write(&file, config).unwrap();
    let start = || {
        Host::start_with(
            dir.path(),
            "host",
            &rendezvous,
            &plugins,
            &["--config", file.to_str().unwrap(), "--public"],
        )
    };
    let dial = |host: &Host| {
        let out = host.ctl(&["connect", "77", "7", "--message", "x", "--timeout", "2s"]);
        String::from_utf8_lossy(&out.stderr).into_owned()
    };
    std::fs::create_dir_all(dir.path().join("host")).unwrap();
    std::fs::write(dir.path().join("host/chameleon.do"), "policy panic").unwrap();
    let mut host = start();
    assert!(dial(&host).contains("not allowed"));
    eventually("quarantine", || {
        (host.ok(&["plugins", "status", "chameleon"])["state"] == "quarantined").then_some(())
    });
    host.process.signal("-TERM");
    assert_eq!(host.process.wait_exit().code(), Some(0));
    let host = start();
    let status = host.ok(&["plugins", "status", "chameleon"]);
    assert_eq!(
        (&status["state"], &status["starts"], &status["panics"]),
        (&"quarantined".into(), &0.into(), &1.into())
    );
    assert!(dial(&host).contains("not allowed"), "it provides policies, and nobody can be asked for them");
    std::fs::write(dir.path().join("host/chameleon.do"), "policy allow").unwrap();
    host.ok(&["plugins", "lift", "chameleon"]);
    assert!(!dial(&host).contains("not allowed"));
}

#[test]
fn an_unknown_plugin_may_next_to_nothing_and_is_told_what_would_allow_it() {
    let acts = [
        ("bind 700", "ports = [700]"),
        ("subscribe *", "subscribe = [\\\"*\\\"]"),
        ("dial 77 7", "dial = [\\\"0:77:7\\\"]"),
        ("datagram 77 7", "dial = [\\\"0:77:7\\\"]"),
        ("registry list_nodes", "registry = [\\\"list_nodes\\\"]"),
        ("sign hello", "false"),
        ("token", "true"),
        ("peers", "false"),
    ];
    let script: Vec<_> =
        acts.iter().map(|(act, _)| *act).chain(["publish foreign.topic", "policy deny"]).collect();
    let house = House::with("[node]\nadmin_token = \"secret\"\n", &["handshake"], &["--public"]);
    house.chameleon(&script.join("\n"));
    for (act, words) in acts {
        let outcome = house.outcome(act);
        assert!(outcome.contains(words), "{act}: {outcome}");
        println!("{act}: {outcome}");
    }
    let status = house.status("chameleon");
    assert_eq!((&status["refused_calls"], &status["state"]), (&10.into(), &"running".into()));
    let out = house.host.ctl(&["connect", "77", "7", "--message", "x", "--timeout", "2s"]);
    assert!(!String::from_utf8_lossy(&out.stderr).contains("not allowed"), "its policies do not count");
    house.is_well();
}

#[test]
fn what_is_allowed_is_done() {
    let rules = "[node]\nadmin_token = \"secret\"\n[plugins.settings.chameleon.capabilities]\nports = [\"700-710\"]\n\
                 subscribe = [\"*\"]\nsign = [\"hello\"]\nactions = [\"admin-token\", \"trust\"]\ndials_per_second = 1\n\
                 dial = [\"*:77:*\"]\n";
    let house = House::new(rules);
    house.chameleon(
        "bind 700\nbind 711\nsubscribe *\nsign hello\nsign other\ntoken\npeers\ndatagram 77 7\ndatagram 77 8\ndatagram 78 7",
    );
    for (act, words) in [
        ("bind 700", "bound"),
        ("bind 711", "ports = [711]"),
        ("subscribe *", "Ok(None)"),
        ("sign hello", "true"),
        ("sign other", "false"),
        ("token", "false"),
        ("peers", "true"),
        ("datagram 77 8", "dials_per_second = 10"),
        ("datagram 78 7", "dial = ["),
    ] {
        let outcome = house.outcome(act);
        assert!(outcome.contains(words), "{act}: {outcome}");
    }
    assert!(!house.outcome("datagram 77 7").contains("may not"));
}

#[test]
fn a_plugin_that_talks_too_much_is_cut_short_and_the_cut_is_said() {
    let house = House::new("[plugins]\nlog_rate = 20\n");
    house.chameleon("log 5000");
    house.host.ok(&["plugins", "stop", "chameleon"]);
    let line = house.host.process.wait_line("suppressed");
    assert!(line.contains("lines of plugin") && line.contains("log_lines_per_second"), "{line}");
    let lines = house.host.process.lines_with("msg=chatter");
    assert!(lines.len() < 200, "{} lines came through", lines.len());
    assert!(lines[0].contains("plugin=chameleon") && lines[0].contains("at=chameleon"), "{}", lines[0]);
    let kept = house.host.ok(&["plugins", "logs", "chameleon", "-n", "3"]);
    assert_eq!(kept["lines"].as_array().unwrap().len(), 3);
    house.is_well();
}

#[test]
fn operators_see_what_they_need() {
    let house = House::new("");
    let out = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pilotctl"));
        command.arg("--socket").arg(house.host.socket()).args(args);
        let out = command.output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
    };
    stage_faulty(&house.plugins, "chameleon");
    house.tell("");
    assert_eq!(out(&["plugins", "start", "chameleon"]).1.trim(), "chameleon 0.1.0 started");
    assert_eq!(out(&["plugins", "reload", "chameleon"]).1.trim(), "chameleon 0.1.0 reloaded");
    assert_eq!(out(&["plugins", "stop", "chameleon"]).1.trim(), "chameleon 0.1.0 stopped");
    let (code, text) = out(&["plugins", "stop", "chameleon"]);
    assert!(code == Some(1) && text.contains("it does not run (stopped); `start` it"), "{text}");
    let (code, text) = out(&["plugins", "reload", "nobody"]);
    assert!(code == Some(1) && text.contains("holds no file of a plugin called \"nobody\""), "{text}");
    assert_eq!(house.host.fails(&["plugins", "reload", "nobody"])["code"], "not_found");
    let (_, list) = out(&["plugins"]);
    assert!(list.contains("chameleon") && list.contains("stopped") && list.contains("handshake"), "{list}");
    let (_, status) = out(&["plugins", "status", "handshake"]);
    for word in ["SHA-256", "in-process", "running", "Treaty", "Mapped copies"] {
        assert!(status.contains(word), "{word} is missing in {status}");
    }
    let (_, logs) = out(&["plugins", "logs", "chameleon"]);
    assert!(logs.contains("INFO chameleon: begins starts=1"), "{logs}");
    assert!(Path::new(house.status("handshake")["path"].as_str().unwrap()).exists());
}
