//! Builds the test libraries, and stands in for a host: a plugins directory and a fake daemon per plugin.

#![allow(dead_code)] // each test file that includes this uses a part of it

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use pilot_loader::{LoadError, Loaded, Loader, LoaderConfig, OpenVia, TrustPolicy};
use plugin_abi::Daemon;
use plugin_abi::test_kit::FakeDaemon;
use tempfile::TempDir;

#[path = "../nested_cargo/mod.rs"]
mod nested_cargo;

/// The library of one example in `broken-plugins/examples`.
pub fn library(example: &str) -> PathBuf {
    static BUILT: LazyLock<PathBuf> = LazyLock::new(|| {
        let manifest = root().join("host/loader/tests/broken-plugins/Cargo.toml");
        build_with(&manifest, &["--examples"], &[]).join("examples")
    });
    BUILT.join(format!("lib{example}.so"))
}

/// The library of `examples/hello-plugin`.
pub fn hello() -> PathBuf {
    static BUILT: LazyLock<PathBuf> =
        LazyLock::new(|| build_with(&root().join("examples/hello-plugin/Cargo.toml"), &[], &[]));
    BUILT.join("libhello_plugin.so")
}

/// The library of `examples/every-ability`.
pub fn every_ability() -> PathBuf {
    static BUILT: LazyLock<PathBuf> =
        LazyLock::new(|| build_with(&root().join("examples/every-ability/Cargo.toml"), &[], &[]));
    BUILT.join("libevery_ability.so")
}

/// The top of the source tree.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The workspace's target directory.
pub fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap()
}

/// Builds a crate that is not in the workspace, into the workspace's target directory, so that dependencies that are built
/// already are used again. The result is where the libraries are.
pub fn build_with(manifest: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> PathBuf {
    build_in(target(), manifest, arguments, environment)
}

/// The same, into another target directory: for an environment that build scripts watch, which would have everything in the
/// workspace's compiled again, and once more afterwards.
pub fn build_in(
    target_dir: &Path,
    manifest: &Path,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> PathBuf {
    // One at a time: cargo would wait for its lock anyway, and say so in the middle of other tests.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(|e| e.into_inner());
    let output = nested_cargo::cargo()
        .args(["build", "--quiet", "--manifest-path"])
        .arg(manifest)
        .arg("--target-dir")
        .arg(target_dir)
        .args(arguments)
        .args(test_target().iter().flat_map(|triple| ["--target", triple]))
        // plugin-abi is built anew in any case, and without optimisation that takes half as long.
        .args(["--config", "profile.dev.package.plugin-abi.opt-level = 0"])
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "building {}:\n{errors}", manifest.display());
    match test_target() {
        Some(triple) => target_dir.join(triple).join("debug"),
        None => target_dir.join("debug"),
    }
}

/// The triple that `scripts/sanitize` builds everything for: flags for a named target do not reach build scripts.
fn test_target() -> Option<String> {
    std::env::var("PILOT_TEST_TARGET").ok()
}

/// A plugins directory, and what the host did with it.
pub struct Rack {
    dir: TempDir,
    config: LoaderConfig,
    daemons: Arc<Mutex<BTreeMap<String, Arc<FakeDaemon>>>>,
    started: Arc<Mutex<Vec<String>>>,
}

impl Rack {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let plugins = dir.path().join("plugins");
        std::fs::create_dir(&plugins).unwrap();
        let config = LoaderConfig { dir: plugins, ..LoaderConfig::default() };
        Rack { dir, config, daemons: Arc::default(), started: Arc::default() }
    }

    pub fn dir(&self) -> PathBuf {
        self.config.dir.clone()
    }

    /// Puts an example's library into the directory.
    pub fn put(self, example: &str, name: &str) -> Self {
        self.copy(&library(example), name)
    }

    pub fn copy(self, from: &Path, name: &str) -> Self {
        let bytes = std::fs::read(from).unwrap();
        self.write(name, &bytes)
    }

    pub fn write(self, name: &str, bytes: &[u8]) -> Self {
        std::fs::write(self.dir().join(name), bytes).unwrap();
        self
    }

    pub fn disable(mut self, plugin: &str) -> Self {
        self.config.disabled.insert(plugin.to_owned());
        self
    }

    pub fn init_timeout(mut self, limit: Duration) -> Self {
        self.config.init_timeout = limit;
        self
    }

    pub fn open_via(mut self, via: OpenVia) -> Self {
        self.config.open_via = via;
        self
    }

    pub fn trust(mut self, policy: TrustPolicy) -> Self {
        self.config.trust = policy;
        self
    }

    /// Changes anything else of the configuration.
    pub fn configure(mut self, change: impl FnOnce(&mut LoaderConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// The state directory that the fake daemons name.
    pub fn state(&self) -> &Path {
        self.dir.path()
    }

    /// Tells the `chameleon` what to do in its next `init`, one act per line.
    pub fn tell(&self, acts: &str) {
        std::fs::write(self.state().join("chameleon.do"), acts).unwrap();
    }

    /// As an update does it: the file is replaced by rename, never written into.
    pub fn replace(&self, name: &str, bytes: &[u8]) {
        let fresh = self.dir().join(format!("{name}.new"));
        std::fs::write(&fresh, bytes).unwrap();
        std::fs::rename(fresh, self.dir().join(name)).unwrap();
    }

    pub fn load(&self) -> Result<Loaded, LoadError> {
        let (state, daemons, started) =
            (self.dir.path().to_owned(), self.daemons.clone(), self.started.clone());
        Loader::new(self.config.clone()).load(move |name: &str| {
            let daemon = FakeDaemon::new(&state);
            daemons.lock().unwrap().insert(name.to_owned(), daemon.clone());
            started.lock().unwrap().push(name.to_owned());
            daemon as Arc<dyn Daemon>
        })
    }

    /// Names in the order in which the host asked for their daemon handle, which is right before `init`.
    pub fn started(&self) -> Vec<String> {
        self.started.lock().unwrap().clone()
    }

    pub fn daemon(&self, name: &str) -> Arc<FakeDaemon> {
        self.daemons.lock().unwrap()[name].clone()
    }
}
