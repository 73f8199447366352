//! How far two versions of the treaty may differ. Each variant is a copy of plugin-abi with a small edit, built by
//! cargo together with a plugin and a small host, and the two sides really meet in one process: the released treaty
//! (`frozen/`) with today's, newer ones with older ones, and changed ones, which are refused.
//!
//! The rules under test are at the top of `plugin_abi::abi`: methods may be appended with a default body, in either
//! direction; everything else is another interface and is refused before any of it is called.

#![allow(clippy::unwrap_used)] // the helpers are test code too, which clippy only knows of test functions

mod rack;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use pilot_loader::{Code, PluginState, conformance};
use sha2::{Digest, Sha256};

use rack::{Rack, build_in, build_with, library, root, target};

/// An edit: file below `plugin-abi/src`, or [`MANIFEST`]; text that is there once, text instead.
type Edit = (&'static str, &'static str, &'static str);

/// plugin-abi's own Cargo.toml.
const MANIFEST: &str = "Cargo.toml";

/// Methods appended to both sides; the plugin's node id is what its host's (missing) new method says. And what does not
/// matter: the next minor version, and another name for a parameter.
const NEWER: &[Edit] = &[
    (MANIFEST, "\nversion = \"1.1.0\"", "\nversion = \"1.2.0\""),
    ("abi/mod.rs", "ABI_MINOR: u16 = 1;", "ABI_MINOR: u16 = 2;"),
    (
        "abi/traits.rs",
        "fn unbind(&self, port: u16) -> AbiResult<()>;",
        "fn unbind(&self, number: u16) -> AbiResult<()>;",
    ),
    (
        "abi/traits.rs",
        "        self.report_fault(op, message)\n    }",
        "        self.report_fault(op, message)\n    }
         fn newest(&self) -> AbiResult<u32> { abi_stable::std_types::ROk(4711) }",
    ),
    (
        "abi/traits.rs",
        "fn shutdown(&self, deadline_ms: u64) -> AbiResult<()>;",
        "fn shutdown(&self, deadline_ms: u64) -> AbiResult<()>;
         fn greet(&self) -> AbiResult<u32> { abi_stable::std_types::ROk(17) }",
    ),
    (
        "bridge/daemon.rs",
        "match self.object.asks_node_id() {",
        "match Some(self.call_or(\"Daemon.node_id\", 0, |d| d.newest())) {",
    ),
    (
        "bridge/plugin.rs",
        "let lent = daemon.lend(&self.link);",
        "let lent = daemon.lend(&self.link); assert_eq!(self.call_or(\"greet\", 0, |p| p.greet()), 17);",
    ),
];

/// A method returns another type.
const OTHER_RETURN: &[Edit] = &[
    ("abi/traits.rs", "fn node_id(&self) -> AbiResult<u32>;", "fn node_id(&self) -> AbiResult<u64>;"),
    ("abi/traits.rs", "self.node_id().unwrap_or(0)", "self.node_id().unwrap_or(0) as u32"),
    (
        "bridge/daemon.rs",
        "fn node_id(&self) -> AbiResult<u32> {\n        self.guard(\"Daemon.node_id\", |d| Ok(d.node_id()))",
        "fn node_id(&self) -> AbiResult<u64> {\n        self.guard(\"Daemon.node_id\", |d| Ok(d.node_id().into()))",
    ),
    (
        "bridge/daemon.rs",
        "self.call_or(\"Daemon.node_id\", 0, |d| d.node_id())",
        "self.call_or(\"Daemon.node_id\", 0, |d| d.node_id()) as u32",
    ),
];

/// A value struct has a field more.
const OTHER_STRUCT: &[Edit] = &[
    ("abi/values.rs", "pub circuit_skips: u64,\n", "pub circuit_skips: u64,\n    pub late: u64,\n"),
    (
        "bridge/services.rs",
        "Ok(WebhookCounters { dropped, circuit_skips })",
        "Ok(WebhookCounters { dropped, circuit_skips, late: 0 })",
    ),
];

/// A method takes one argument more.
const OTHER_ARGUMENT: &[Edit] = &[
    (
        "abi/traits.rs",
        "fn remove_peer(&self, node: u32) -> AbiResult<()>;",
        "fn remove_peer(&self, node: u32, now: bool) -> AbiResult<()>;",
    ),
    (
        "bridge/stream.rs",
        "fn remove_peer(&self, node: u32) -> AbiResult<()> {",
        "fn remove_peer(&self, node: u32, _now: bool) -> AbiResult<()> {",
    ),
    ("bridge/stream.rs", "(), |t| t.remove_peer(node));", "(), |t| t.remove_peer(node, true));"),
];

/// Two methods have changed places.
const OTHER_ORDER: &[Edit] = &[(
    "abi/traits.rs",
    "fn id(&self) -> AbiResult<u32>;\n    fn info(&self) -> AbiResult<ConnInfo>;",
    "fn info(&self) -> AbiResult<ConnInfo>;\n    fn id(&self) -> AbiResult<u32>;",
)];

/// A field of a value struct has another name, and the same type and place.
const OTHER_FIELD: &[Edit] = &[
    ("abi/values.rs", "pub circuit_skips: u64,", "pub skipped: u64,"),
    (
        "bridge/services.rs",
        "Ok(WebhookCounters { dropped, circuit_skips })",
        "Ok(WebhookCounters { dropped, skipped: circuit_skips })",
    ),
    ("bridge/services.rs", "circuit_skips: c.circuit_skips }", "circuit_skips: c.skipped }"),
];

/// The next major version of the same interface.
const OTHER_MAJOR: &[Edit] = &[
    (MANIFEST, "\nversion = \"1.1.0\"", "\nversion = \"2.0.0\""),
    ("abi/mod.rs", "ABI_MAJOR: u16 = 1;", "ABI_MAJOR: u16 = 2;"),
    ("abi/mod.rs", "ABI_MINOR: u16 = 1;", "ABI_MINOR: u16 = 0;"),
];

/// What the witness logs on the daemon of [`frozen/host.rs`](frozen/host.rs), whichever treaty either side was built for.
const SEEN: &str = r#"hello {"treaty":1}
facts {"addr":"0:0000.0000.1267","config":"{\"limit\":3}","key":true,"node":4711,"signed":true,"version":"v0.0.0-test"}
trust {"three":"None","two":"Some(\"even 2\")"}
bound {"port":7007,"taken":"Some((AlreadyExists, \"port 7007 already bound\"))"}
event {"payload":"Some(\"[true,null]\")","topic":"witness.event"}
future {"refused":"Some(Refused)"}
registry {"answer":"Err(Registry)"}
seen all {}
goodbye {}
hook Some((true, "", 4)), faults [("witness-broken", "on purpose")]
"#;

/// The treaty as it was released, unpacked, and a plugin and a host built against it.
fn frozen() -> &'static Variant {
    static BUILT: LazyLock<Variant> = LazyLock::new(|| {
        let archive = root().join("host/loader/tests/frozen/plugin-abi-1.0.0.crate");
        let noted = std::fs::read_to_string(archive.with_extension("crate.sha256")).unwrap();
        let hash = hex::encode(Sha256::digest(std::fs::read(&archive).unwrap()));
        assert!(noted.starts_with(&hash), "the released treaty was changed: {hash}");
        let at = target().join("tmp/treaty/released");
        std::fs::create_dir_all(&at).unwrap();
        let unpacked = Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(&at).status().unwrap();
        assert!(unpacked.success());
        Variant::of("frozen", &at.join("plugin-abi-1.0.0"), &[])
    });
    &BUILT
}

/// Today's treaty, and the same two built against it.
fn today() -> &'static Variant {
    static BUILT: LazyLock<Variant> = LazyLock::new(|| Variant::make("today", &[]));
    &BUILT
}

#[test]
fn the_released_treaty_and_todays_work_together_both_ways() {
    for (host, plugin) in [(frozen(), frozen()), (frozen(), today()), (today(), frozen()), (today(), today())]
    {
        assert_eq!(host.run(plugin), SEEN, "{} plugin in {} host", plugin.name, host.name);
    }
    // And the real loader with a file of the release: header, trust, open, init, shutdown.
    let rack = Rack::new().copy(&frozen().plugin(), "w.so");
    let loaded = rack.load().unwrap();
    rack.daemon("witness").wait_for_log("seen all").unwrap();
    loaded.shutdown(Duration::from_secs(10)).into_result().unwrap();
    assert!(rack.daemon("witness").wait_for_log("goodbye").is_some());
}

#[test]
fn a_newer_plugin_runs_in_older_hosts_and_older_plugins_in_a_newer_host() {
    let newer = Variant::make("newer", NEWER);
    // The plugin asks a method that this host does not have: its default body answers.
    let rack = Rack::new().copy(&newer.plugin(), "p.so");
    let loaded = rack.load().unwrap();
    let line = rack.daemon("witness").wait_for_log("facts").unwrap();
    assert_eq!(line.fields["node"], 4711);
    loaded.shutdown(Duration::from_secs(10)).into_result().unwrap();
    assert_eq!(frozen().run(&newer), SEEN, "newer plugin in the released host");
    // The other way round.
    assert_eq!(newer.run(frozen()), SEEN, "released plugin in the newer host");
    assert_eq!(newer.run(today()), SEEN, "today's plugin in the newer host");
}

/// Each plugin is measured against this host alone, whatever was opened before it.
#[test]
fn plugins_of_several_treaties_live_in_one_host() {
    let newer = Variant::make("newer", NEWER);
    for variant in [frozen(), &newer, today(), frozen(), &newer] {
        let rack = Rack::new().copy(&variant.plugin(), "w.so");
        let loaded = rack.load().unwrap_or_else(|e| panic!("{} after others: {e}", variant.name));
        rack.daemon("witness").wait_for_log("seen all").unwrap();
        loaded.shutdown(Duration::from_secs(10)).into_result().unwrap();
    }
}

/// An interface that is refused: what it is called, its edits, the refusal of its plugin in this host, and the words of
/// its own host about a plugin of today.
type Refused = (&'static str, &'static [Edit], Code, &'static str, &'static str);

/// Two that always run; the other four are built for the long tests (`PILOT_LONG=1`).
const REFUSED: [Refused; 6] = [
    (
        "other-argument",
        OTHER_ARGUMENT,
        Code::OtherLayout,
        "(at create.init.tunnels.remove_peer)",
        "too many fields, expected 4, found 3 (at create.init.tunnels.remove_peer)",
    ),
    (
        "other-struct",
        OTHER_STRUCT,
        Code::OtherLayout,
        "incompatible type size, expected 16, found 24 (at create.init.register_webhook_manager.stats)",
        "expected 24, found 16",
    ),
    (
        "other-return",
        OTHER_RETURN,
        Code::OtherLayout,
        "expected u32, found u64 (at create.init.node_id",
        "expected u64, found u32",
    ),
    ("other-order", OTHER_ORDER, Code::OtherLayout, "found field_name:info", "expected field_name:info"),
    (
        "other-field",
        OTHER_FIELD,
        Code::OtherLayout,
        "expected field_name:circuit_skips",
        "expected field_name:skipped",
    ),
    (
        "other-major",
        OTHER_MAJOR,
        Code::OtherTreaty,
        "built for treaty 2, this host speaks treaty 1.",
        "incompatible package versions, expected 2.0.0, found 1.1.0",
    ),
];

#[test]
fn a_changed_interface_is_refused_both_ways_and_costs_the_host_nothing() {
    let long = std::env::var_os("PILOT_LONG").is_some();
    let rack = Rack::new().put("good", "good.so");
    let loaded = rack.load().unwrap();
    for (name, edits, code, words, of_its_host) in &REFUSED[..if long { REFUSED.len() } else { 2 }] {
        let other = Variant::make(name, edits);
        std::fs::copy(other.plugin(), rack.dir().join("witness.so")).unwrap();
        let error = loaded.start("witness").unwrap_err();
        assert_eq!(error.code(), code.as_str(), "{name}: {error}");
        assert!(error.to_string().contains(words), "{name}: {error}");
        println!("{name}: {error}");
        assert_eq!(rack.started(), ["good"], "{name}: nothing of it was called");
        for old in [frozen(), today()] {
            // The summary names one difference; the release has others as well.
            let (refused, of_old) = (other.run(old), old.run(&other));
            println!("  its host, {} plugin: {refused}  {} host: {of_old}", old.name, old.name);
            assert!(
                refused.starts_with("refused: ") && of_old.starts_with("refused: "),
                "{name}: {refused}{of_old}"
            );
            assert!(refused.contains(of_its_host) || old.name == "frozen", "{name}: {refused}");
        }
    }
    // The host goes on, with what it had and with what fits.
    assert_eq!(loaded.plugin("good").unwrap().state, PluginState::Running);
    std::fs::copy(frozen().plugin(), rack.dir().join("witness.so")).unwrap();
    loaded.start("witness").unwrap();
    rack.daemon("witness").wait_for_log("seen all").unwrap();
    loaded.shutdown(Duration::from_secs(10)).into_result().unwrap();
    rack.daemon("good").wait_for_log("stopped").unwrap();
}

/// Nothing with Rust's own layout crosses the border: a plugin whose every such layout is shuffled uses the whole treaty
/// in today's host and in the released one, and another one passes the conformance kit. It stands in for a plugin of another compiler
/// version. Part of the long tests (`PILOT_LONG=1`), because everything below the plugin has to be built again.
#[test]
fn a_plugin_with_shuffled_layouts_runs() {
    if std::env::var_os("PILOT_LONG").is_none() {
        return;
    }
    // With a target named, the flags do not reach build scripts and macros.
    let triple = plugin_abi::header::TARGET;
    let shuffled = [("RUSTC_BOOTSTRAP", "1"), ("RUSTFLAGS", "-Zrandomize-layout -Zlayout-seed=20260801")];
    let plain = today().plugin();
    let workspace = target().join("tmp/treaty/today/Cargo.toml");
    let shuffled_dir = target().join("shuffled");
    build_in(&shuffled_dir, &workspace, &["--package", "treaty-plugin-today", "--target", triple], &shuffled);
    let library = shuffled_dir.join(triple).join("debug").join(plain.file_name().unwrap());
    assert_ne!(std::fs::read(&library).unwrap(), std::fs::read(plain).unwrap());
    for host in [today(), frozen()] {
        assert_eq!(host.run_file(&library), SEEN, "shuffled plugin in {} host", host.name);
    }
    let rack = Rack::new().copy(&library, "witness.so");
    let loaded = rack.load().unwrap();
    rack.daemon("witness").wait_for_log("seen all").unwrap();
    loaded.shutdown(Duration::from_secs(10)).into_result().unwrap();
    // The witness has faults on purpose, so the kit judges another one.
    let example = root().join("examples/hello-plugin/Cargo.toml");
    build_in(&shuffled_dir, &example, &["--target", triple], &shuffled);
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["conformance_entry", "--exact", "--nocapture", "--quiet"])
        .env(CHECKED, shuffled_dir.join(triple).join("debug/libhello_plugin.so"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("conformance of the shuffled plugin:\n{said}");
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let steps = said.lines().filter(|l| l.starts_with("pass ") || l.starts_with("note ")).count();
    assert_eq!(steps, conformance::STEPS.len(), "{said}");
}

/// The file that [`conformance_entry`] is to check.
const CHECKED: &str = "PILOT_LOADER_TEST_CHECKED";

/// Not a test of its own: the conformance kit on one file, alone in its process, when the environment names it.
#[test]
fn conformance_entry() {
    let Some(file) = std::env::var_os(CHECKED) else { return };
    let state = tempfile::tempdir().unwrap();
    conformance::check(Path::new(&file), &conformance::Settings::new(state.path()), &mut |progress| {
        if let conformance::Progress::End(finding) = progress {
            println!("{} {}: {}", finding.verdict.as_str(), finding.step, finding.text);
            assert_ne!(finding.verdict, conformance::Verdict::Fail, "{}", finding.text);
        }
    });
}

/// A small workspace below the target directory: a treaty, and the witness and the small host built against it.
struct Variant {
    name: &'static str,
    built: PathBuf,
}

impl Variant {
    /// Of today's treaty, edited.
    fn make(name: &'static str, edits: &[Edit]) -> Self {
        Self::of(name, &root().join("plugin-abi"), edits)
    }

    fn of(name: &'static str, treaty: &Path, edits: &[Edit]) -> Self {
        let top = target().join("tmp/treaty").join(name);
        // Everything lies one folder deeper than in the real workspace. Cargo tells packages of workspaces apart by
        // their path below the workspace's top: with the same path, this build's objects and the real ones would
        // overwrite each other in the target directory.
        let dir = top.join(name);
        let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
        let (_, rest) = manifest.split_once("exclude = [").unwrap();
        let (_, rest) = rest.split_once('\n').unwrap();
        let rest = rest.replace("path = \"", &format!("path = \"{name}/"));
        // Whatever its version is.
        let (before, after) = rest.split_once("\nplugin-abi = {").unwrap();
        let (_, after) = after.split_once('\n').unwrap();
        let rest = format!("{before}\nplugin-abi = {{ path = \"{name}/plugin-abi\" }}\n{after}");
        let members = ["plugin-abi", "plugin", "host"].map(|m| format!("\"{name}/{m}\"")).join(", ");
        write(
            &top.join("Cargo.toml"),
            &format!("[workspace]\nresolver = \"3\"\nmembers = [{members}]\n{rest}"),
        );
        copy(&root().join("Cargo.lock"), &top.join("Cargo.lock"));
        copy_tree(treaty, &dir.join("plugin-abi"), edits);
        let package = |kind: &str, more: &str| {
            format!(
                "[package]\nname = \"treaty-{kind}-{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n{more}"
            )
        };
        write(
            &dir.join("plugin/Cargo.toml"),
            &package(
                "plugin",
                "[lib]\ncrate-type = [\"cdylib\"]\n[dependencies]\n\
                 plugin-abi.workspace = true\nserde_json.workspace = true\ntracing.workspace = true\n",
            ),
        );
        write(
            &dir.join("host/Cargo.toml"),
            &package(
                "host",
                "[dependencies]\nlibloading.workspace = true\nserde_json.workspace = true\n\
                 plugin-abi = { workspace = true, features = [\"test-kit\"] }\n",
            ),
        );
        let sources = root().join("host/loader/tests/frozen");
        copy(&sources.join("witness.rs"), &dir.join("plugin/src/lib.rs"));
        copy(&sources.join("host.rs"), &dir.join("host/src/main.rs"));
        let built = build_with(&top.join("Cargo.toml"), &["--workspace"], &[]);
        Variant { name, built }
    }

    fn plugin(&self) -> PathBuf {
        let plugin = self.built.join(format!("libtreaty_plugin_{}.so", self.name.replace('-', "_")));
        // A stale or foreign file would prove anything.
        assert_ne!(std::fs::read(&plugin).unwrap(), std::fs::read(library("good")).unwrap());
        plugin
    }

    /// What this treaty's host prints about the other's plugin.
    fn run(&self, other: &Variant) -> String {
        self.run_file(&other.plugin())
    }

    fn run_file(&self, plugin: &Path) -> String {
        let host = self.built.join(format!("treaty-host-{}", self.name));
        let output = Command::new(host).arg(plugin).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// Copies sources and applies the edits; a text that is not there exactly once is a mistake in this test.
fn copy_tree(from: &Path, to: &Path, edits: &[Edit]) {
    let manifest = std::fs::read_to_string(from.join(MANIFEST)).unwrap();
    write(&to.join(MANIFEST), &edited(manifest, Path::new(MANIFEST), edits));
    if from.join("build.rs").exists() {
        copy(&from.join("build.rs"), &to.join("build.rs"));
    }
    copy_sources(&from.join("src"), &to.join("src"), Path::new(""), edits);
}

fn copy_sources(from: &Path, to: &Path, below: &Path, edits: &[Edit]) {
    for entry in std::fs::read_dir(from.join(below)).unwrap() {
        let entry = entry.unwrap();
        let inner = below.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_sources(from, to, &inner, edits);
            continue;
        }
        let text = std::fs::read_to_string(entry.path()).unwrap();
        write(&to.join(&inner), &edited(text, &inner, edits));
    }
}

fn edited(mut text: String, path: &Path, edits: &[Edit]) -> String {
    for (_, old, new) in edits.iter().filter(|e| Path::new(e.0) == path) {
        assert_eq!(text.matches(old).count(), 1, "{} must have once: {old}", path.display());
        text = text.replace(old, new);
    }
    text
}

fn copy(from: &Path, to: &Path) {
    write(to, &std::fs::read_to_string(from).unwrap());
}

/// Leaves a file alone that has this text already: cargo goes by time stamps.
fn write(path: &Path, text: &str) {
    if std::fs::read_to_string(path).is_ok_and(|there| there == text) {
        return;
    }
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}
