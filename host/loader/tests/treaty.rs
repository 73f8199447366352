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

use pilot_loader::Code;
use plugin_abi::Daemon;
use sha2::{Digest, Sha256};

use rack::{Rack, build_with, library, root, target};

/// An edit: file below `plugin-abi/src`, text that is there once, text instead.
type Edit = (&'static str, &'static str, &'static str);

/// Methods appended to both sides; the plugin's node id is what its host's (missing) new method says.
const NEWER: &[Edit] = &[
    (
        "abi/traits.rs",
        "fn sleep(&self, duration_ms: u64) -> AbiResult<FfiFuture<()>>;",
        "fn sleep(&self, duration_ms: u64) -> AbiResult<FfiFuture<()>>;
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
        "self.call_or(\"Daemon.node_id\", 0, |d| d.node_id())",
        "self.call_or(\"Daemon.node_id\", 0, |d| d.newest())",
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

#[test]
fn a_changed_signature_is_refused_both_ways() {
    let other = Variant::make("other-return", OTHER_RETURN);
    let error = Rack::new().copy(&other.plugin(), "p.so").load().unwrap_err();
    let refusal = &error.refusals[0];
    assert_eq!(refusal.code, Code::OtherLayout);
    assert!(refusal.reason.contains("expected u32, found u64"), "{error}");
    assert!(refusal.reason.contains("(at create.init.node_id"), "{error}");
    for old in [frozen(), today()] {
        for (refused, difference) in
            [(other.run(old), "expected u64, found u32"), (old.run(&other), "expected u32, found u64")]
        {
            assert!(refused.starts_with("refused: other interface layout: "), "{refused}");
            // The summary names one difference; the release has others as well.
            assert!(refused.contains(difference) || old.name == "frozen", "{refused}");
        }
    }
}

#[test]
fn a_longer_value_struct_is_refused_both_ways() {
    let other = Variant::make("other-struct", OTHER_STRUCT);
    let error = Rack::new().copy(&other.plugin(), "p.so").load().unwrap_err();
    let refusal = &error.refusals[0];
    assert_eq!(refusal.code, Code::OtherLayout);
    let text =
        "incompatible type size, expected 16, found 24 (at create.init.register_webhook_manager.stats)";
    assert!(refusal.reason.contains(text), "{error}");
    let refused = other.run(frozen());
    assert!(refused.starts_with("refused: ") && refused.contains("expected 24, found 16"), "{refused}");
}

/// Nothing with Rust's own layout crosses the border: a plugin whose every such layout is shuffled works all the same.
/// It stands in for a plugin of another compiler version. Part of the long tests (`PILOT_LONG=1`), because everything
/// below the plugin has to be built again.
#[test]
fn a_plugin_with_shuffled_layouts_runs() {
    if std::env::var_os("PILOT_LONG").is_none() {
        return;
    }
    let hello = root().join("examples/hello-plugin/Cargo.toml");
    // With a target named, the flags do not reach build scripts and macros.
    let triple = plugin_abi::header::TARGET;
    let shuffled = [("RUSTC_BOOTSTRAP", "1"), ("RUSTFLAGS", "-Zrandomize-layout -Zlayout-seed=20260801")];
    build_with(&hello, &["--target", triple], &shuffled);
    let library = target().join(triple).join("debug/libhello_plugin.so");
    let rack = Rack::new().copy(&library, "hello.so");
    let loaded = rack.load().unwrap();
    let daemon = rack.daemon("hello");
    daemon.wait_for_log("hello").unwrap();
    daemon.publish("node.registered", Some([("ids".to_owned(), vec![1, 2].into())].into_iter().collect()));
    loaded.shutdown(Duration::from_secs(10)).into_result().unwrap();
    assert_eq!(daemon.wait_for_log("goodbye").unwrap().fields["seen"], 1);
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
        let host = self.built.join(format!("treaty-host-{}", self.name));
        let output = Command::new(host).arg(other.plugin()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// Copies sources and applies the edits; a text that is not there exactly once is a mistake in this test.
fn copy_tree(from: &Path, to: &Path, edits: &[Edit]) {
    copy(&from.join("Cargo.toml"), &to.join("Cargo.toml"));
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
        let mut text = std::fs::read_to_string(entry.path()).unwrap();
        for (_, old, new) in edits.iter().filter(|e| Path::new(e.0) == inner) {
            assert_eq!(text.matches(old).count(), 1, "{} must have once: {old}", inner.display());
            text = text.replace(old, new);
        }
        write(&to.join(&inner), &text);
    }
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
