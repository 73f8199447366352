//! The recorded vectors that are about behaviour, against the plugins as they ship: the real `.so` files, opened by the
//! loader, on a fake daemon. (Vectors about bytes run against the codecs, in `pilot-wire` and in the plugins' own crates;
//! there the clock stands still as well, so every recorded byte is compared.)
//!
//! What differs on purpose is in `host/wire/tests/vectors/differences.toml` and nowhere else.

#![allow(clippy::unwrap_used)] // the helpers are test code too, which clippy only knows of test functions

mod dataexchange;
mod handshake;
#[path = "../nested_cargo/mod.rs"]
mod nested_cargo;
mod policy;
mod webhook;

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use pilot_loader::{Loaded, Loader, LoaderConfig};
use plugin_abi::Daemon;
use plugin_abi::test_kit::{FakeDaemon, PATIENCE};
use serde_json::{Map, Value};
use tempfile::TempDir;

/// Where the libraries of the workspace are; they are built first (a no-op when they are fresh).
static LIBRARIES: LazyLock<PathBuf> = LazyLock::new(|| {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let mut cargo = nested_cargo::cargo();
    cargo
        .args(nested_cargo::WORKSPACE_LIBRARIES)
        .args([env!("CARGO_CRATE_NAME"), "--target-dir"])
        .arg(target);
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    assert!(cargo.current_dir(workspace).status().unwrap().success(), "building the plugins failed");
    target.join("debug")
});

/// One plugin, loaded from its file.
struct Running {
    dir: TempDir,
    daemon: Arc<FakeDaemon>,
    loaded: Option<Loaded>,
}

impl Running {
    /// Loads the library of `name`; `prepare` sees the daemon and the state directory before `init`.
    fn start(name: &str, prepare: impl FnOnce(&FakeDaemon, &Path)) -> Running {
        let dir = tempfile::tempdir().unwrap();
        let plugins = dir.path().join("plugins");
        std::fs::create_dir(&plugins).unwrap();
        let library = LIBRARIES.join(format!("libpilot_plugin_{name}.so"));
        std::fs::copy(library, plugins.join(format!("{name}.so"))).unwrap();
        let state = dir.path().join("state");
        std::fs::create_dir(&state).unwrap();
        let daemon = FakeDaemon::new(&state);
        prepare(&daemon, &state);
        let config = LoaderConfig { dir: plugins, ..LoaderConfig::default() };
        let handle = daemon.clone();
        let give = move |_: &str| handle.clone() as Arc<dyn Daemon>;
        let loaded = Loader::new(config).load(give).unwrap();
        assert_eq!(loaded.plugins().iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), [name]);
        Running { dir, daemon, loaded: Some(loaded) }
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Ends the plugin in good order; nothing of it may have failed.
    fn stop(&mut self) {
        if let Some(loaded) = self.loaded.take() {
            loaded.shutdown(Duration::from_secs(10)).into_result().unwrap();
            assert_eq!(self.daemon.faults(), []);
        }
    }

    /// Topic and payload of everything published so far.
    fn published(&self) -> Vec<(String, Value)> {
        let show = |e: plugin_abi::Event| (e.topic, e.payload.map_or(Value::Null, Value::Object));
        self.daemon.events().into_iter().map(show).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop();
        }
    }
}

fn list<'a>(map: &'a Map<String, Value>, key: &str) -> &'a [Value] {
    map.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Waits for a condition that a thread of the plugin brings about.
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "did not happen: {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}
