//! How far two versions of the treaty may differ. Each variant is a copy of plugin-abi with a small edit, built by
//! cargo together with a plugin (and once with a host), and the two sides really meet in one process.
//!
//! The rules under test are at the top of `plugin_abi::abi`: methods may be appended with a default body, in either
//! direction; everything else is another interface and is refused before any of it is called.

#![allow(clippy::unwrap_used)] // the helpers are test code too, which clippy only knows of test functions

mod rack;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pilot_loader::Code;
use plugin_abi::Daemon;
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

#[test]
fn a_newer_plugin_runs_in_this_host_and_an_older_one_in_a_newer_host() {
    let variant = Variant::make("newer", NEWER, true);
    let rack = Rack::new().copy(&variant.plugin(), "p.so");
    let loaded = rack.load().unwrap();
    let line = rack.daemon("newer").wait_for_log("evolved").unwrap();
    assert_eq!(
        line.fields["node"], 4711,
        "a method that this host does not have answers with its default body"
    );
    loaded.shutdown(Duration::from_secs(10)).into_result().unwrap();

    // The other way round: the host of the variant, and the plugin of today.
    let rack = Rack::new().put("good", "good.so");
    let output = Command::new(variant.host()).arg(rack.dir()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "good ran\n");
}

#[test]
fn another_return_type_is_refused() {
    let variant = Variant::make("other-return", OTHER_RETURN, false);
    let error = Rack::new().copy(&variant.plugin(), "p.so").load().unwrap_err();
    let refusal = &error.refusals[0];
    assert_eq!(refusal.code, Code::OtherLayout);
    assert!(refusal.reason.contains("expected u32, found u64"), "{error}");
    assert!(refusal.reason.contains("(at create.init.node_id"), "{error}");
}

#[test]
fn a_longer_value_struct_is_refused() {
    let variant = Variant::make("other-struct", OTHER_STRUCT, false);
    let error = Rack::new().copy(&variant.plugin(), "p.so").load().unwrap_err();
    let refusal = &error.refusals[0];
    assert_eq!(refusal.code, Code::OtherLayout);
    let text =
        "incompatible type size, expected 16, found 24 (at create.init.register_webhook_manager.stats)";
    assert!(refusal.reason.contains(text), "{error}");
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

/// A small workspace below the target directory.
struct Variant {
    name: &'static str,
    built: PathBuf,
}

impl Variant {
    fn make(name: &'static str, edits: &[Edit], with_host: bool) -> Self {
        let top = target().join("tmp/treaty").join(name);
        // Everything lies one folder deeper than in the real workspace. Cargo tells packages of workspaces apart by
        // their path below the workspace's top: with the same path, this build's objects and the real ones would
        // overwrite each other in the target directory.
        let dir = top.join(name);
        let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
        let (_, rest) = manifest.split_once("exclude = [").unwrap();
        let (_, rest) = rest.split_once('\n').unwrap();
        let rest = rest.replace("path = \"", &format!("path = \"{name}/"));
        let mut members = format!("\"{name}/plugin-abi\", \"{name}/plugin\"");
        if with_host {
            members += &format!(", \"{name}/host/loader\", \"{name}/host/probe\"");
        }
        write(
            &top.join("Cargo.toml"),
            &format!("[workspace]\nresolver = \"3\"\nmembers = [{members}]\n{rest}"),
        );
        copy(&root().join("Cargo.lock"), &top.join("Cargo.lock"));
        copy_tree(&root().join("plugin-abi"), &dir.join("plugin-abi"), edits);
        let dependencies = "plugin-abi.workspace = true\ntracing.workspace = true";
        write(
            &dir.join("plugin/Cargo.toml"),
            &format!(
                "[package]\nname = \"treaty-{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\
                 [lib]\ncrate-type = [\"cdylib\"]\n[dependencies]\n{dependencies}\n"
            ),
        );
        write(&dir.join("plugin/src/lib.rs"), &PLUGIN.replace("NAME", name));
        if with_host {
            copy_tree(&root().join("host/loader"), &dir.join("host/loader"), &[]);
            write(
                &dir.join("host/probe/Cargo.toml"),
                "[package]\nname = \"treaty-host\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[dependencies]\n\
                 pilot-loader.workspace = true\nplugin-abi = { workspace = true, features = [\"test-kit\"] }\n",
            );
            write(&dir.join("host/probe/src/main.rs"), HOST);
        }
        let built = build_with(&top.join("Cargo.toml"), &["--workspace"], &[]);
        Variant { name, built }
    }

    fn plugin(&self) -> PathBuf {
        let plugin = self.built.join(format!("libtreaty_{}.so", self.name.replace('-', "_")));
        // A stale or foreign file would prove anything.
        assert_ne!(std::fs::read(&plugin).unwrap(), std::fs::read(library("good")).unwrap());
        plugin
    }

    fn host(&self) -> PathBuf {
        self.built.join("treaty-host")
    }
}

const PLUGIN: &str = r#"
use std::{sync::Arc, time::Duration};
use plugin_abi::{Daemon, Plugin, Result};

struct Evolved;

impl Plugin for Evolved {
    fn init(&self, daemon: Arc<dyn Daemon>) -> Result<()> {
        tracing::info!(node = daemon.node_id(), "evolved");
        Ok(())
    }
    fn shutdown(&self, _: Duration) -> Result<()> {
        Ok(())
    }
}

plugin_abi::export_plugin!("NAME", || Evolved);
"#;

const HOST: &str = r#"
use std::{path::PathBuf, sync::Arc, time::Duration};
use pilot_loader::{Loader, LoaderConfig};
use plugin_abi::{Daemon, test_kit::FakeDaemon};

fn main() {
    let dir: PathBuf = std::env::args_os().nth(1).expect("a directory").into();
    let loader = Loader::new(LoaderConfig { dir, ..LoaderConfig::default() });
    let daemon = FakeDaemon::new(".");
    let loaded = loader.load(|_| daemon.clone() as Arc<dyn Daemon>).unwrap_or_else(|e| panic!("{e}"));
    daemon.wait_for_log("started").expect("the plugin's line");
    loaded.shutdown(Duration::from_secs(10)).into_result().expect("a clean shutdown");
    for plugin in loaded.plugins() {
        println!("{} ran", plugin.name);
    }
}
"#;

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
