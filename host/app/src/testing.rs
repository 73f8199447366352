//! A real host inside a test, for plugin authors and for this project's own tests: engine, registry, local socket and
//! plugins in this process, the rendezvous beside it, everything on loopback and in a temporary directory.
//!
//! ```no_run
//! # struct Mine;
//! # impl plugin_abi::Plugin for Mine {
//! #     fn init(&self, _: std::sync::Arc<dyn plugin_abi::Daemon>) -> plugin_abi::Result<()> { Ok(()) }
//! #     fn shutdown(&self, _: std::time::Duration) -> plugin_abi::Result<()> { Ok(()) }
//! # }
//! # fn demo() -> anyhow::Result<()> {
//! let network = pilot_host::testing::TestNetwork::start()?;
//! network.plugin("mine", || Mine)?;                     // linked in, not from a file: break points work
//! let host = network.host("a", "[plugin.mine]\nlimit = 3\n")?;
//! host.daemon().publish("a.topic", None);               // a handle of the test's own, with every ability
//! host.stop()?;                                         // shuts down as a host does, and says what went wrong
//! # Ok(()) }
//! ```
//!
//! Plugins are registered for the whole process ([`plugin_abi::registry`]), so every host of the process runs them, each
//! with an instance of its own. Files are not loaded; `plugin check` and the loader's own tests are for those.

use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use pilot_net::rendezvous::RendezvousServer;
use plugin_abi::export::IntoPlugin;
use plugin_abi::registry::{Factory, register_plugin};
use plugin_abi::{Daemon, ErrorKind, Plugin};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Overrides};
use crate::core::Core;
use crate::face::PluginDaemon;
use crate::{embedded, run};

/// The name of the test's own handle, as a plugin's would be.
const TEST: &str = "test";
/// How long a host may take to come up or to register; a busy machine is not a failure.
const PATIENCE: Duration = Duration::from_secs(60);
/// The test's own handle may do everything.
const RULES: &str = "\
[plugins]
probe = false
[plugins.settings.test.capabilities]
ports = ['*']
publish = ['*']
subscribe = ['*']
dial = ['*']
sign = ['']
registry = ['*']
services = ['trust-checker', 'handshake', 'policy', 'webhook']
actions = ['admin-token', 'trust', 'tunnels', 'tags', 'webhook']
";

/// A rendezvous on loopback and a directory; the hosts of one test find each other through it.
pub struct TestNetwork {
    rendezvous: Option<RendezvousServer>,
    runtime: tokio::runtime::Runtime,
    dir: tempfile::TempDir,
}

impl TestNetwork {
    /// Starts the rendezvous, which takes nodes without UDP too ([`compat_url`](Self::compat_url)).
    ///
    /// # Errors
    /// When this machine has no loopback, ports or disk to give.
    pub fn start() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let overrides = Overrides {
            rendezvous_registry: Some("127.0.0.1:0".into()),
            rendezvous_beacon: Some("127.0.0.1:0".into()),
            rendezvous_compat: Some("127.0.0.1:0".into()),
            ..Overrides::default()
        };
        let settings = Config::load(None, &overrides)?.rendezvous;
        let rendezvous = runtime.block_on(embedded::start(&settings))?;
        // Socket paths have a limit of about 100 bytes, which the default directory may use up.
        let dir = tempfile::Builder::new().prefix("pilot-t").tempdir_in("/tmp")?;
        Ok(TestNetwork { rendezvous: Some(rendezvous), runtime, dir })
    }

    /// Where its beacon takes nodes over a WebSocket.
    pub fn compat_url(&self) -> Option<String> {
        let addr = self.rendezvous.as_ref()?.compat_addr()?;
        Some(format!("ws://{addr}{}", pilot_wire::compat::PATH))
    }

    /// Registers a plugin for the hosts of this process that start from now on. The constructor is what
    /// `export_plugin!` takes; a name that is registered already keeps its first constructor.
    ///
    /// # Errors
    /// An empty name.
    pub fn plugin<P: IntoPlugin>(
        &self,
        name: &str,
        constructor: impl Fn() -> P + Send + Sync + 'static,
    ) -> anyhow::Result<()> {
        let factory: Factory = Arc::new(move || {
            let plugin: Box<dyn Plugin> = Box::new(constructor().into_plugin()?);
            Ok(Some(plugin))
        });
        match register_plugin(name, Some(factory)) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// Starts a host called `name` with `settings`, TOML as in `pilot.toml`, and waits until it has registered.
    ///
    /// # Errors
    /// What keeps a host from starting: a bad setting, a plugin that refuses.
    pub fn host(&self, name: &str, settings: &str) -> anyhow::Result<TestHost> {
        let rendezvous = self.rendezvous.as_ref().context("the rendezvous is stopped")?;
        let dir = self.dir.path().join(name);
        let plugins = dir.join("plugins");
        std::fs::create_dir_all(&plugins)?;
        let file = dir.join("pilot.toml");
        std::fs::write(&file, format!("{RULES}{settings}"))?;
        let socket = dir.join("sock");
        let config = Config::load(
            Some(&file),
            &Overrides {
                state_dir: Some(dir.join("state")),
                hostname: Some(name.to_owned()),
                listen: Some("127.0.0.1:0".into()),
                registry: Some(rendezvous.registry_addr().to_string()),
                beacon: Some(rendezvous.beacon_addr().to_string()),
                socket: Some(socket.clone()),
                plugins_dir: Some(plugins),
                ..Overrides::default()
            },
        )?;
        let stop = CancellationToken::new();
        let (up, wait) = mpsc::sync_channel(1);
        let token = stop.clone();
        // As much stack as a program's own first thread has, which is what a host starts on.
        let thread = std::thread::Builder::new().name(format!("host-{name}")).stack_size(8 << 20);
        let thread = thread.spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            let outcome = runtime.block_on(run::run_until(config, token, |core| {
                let _ = up.send(core.clone());
            }));
            runtime.shutdown_background();
            outcome
        })?;
        let Ok(core) = wait.recv_timeout(PATIENCE) else {
            stop.cancel();
            let ended = thread.join().map_err(|_| anyhow::anyhow!("the host panicked"))?;
            return Err(ended.err().unwrap_or_else(|| anyhow::anyhow!("the host did not come up")));
        };
        let host = TestHost { core, stop, thread: Some(thread), socket };
        let deadline = Instant::now() + PATIENCE;
        while host.core.node_id() == 0 {
            anyhow::ensure!(Instant::now() < deadline, "the host did not register");
            std::thread::park_timeout(Duration::from_millis(5));
        }
        Ok(host)
    }
}

impl Drop for TestNetwork {
    fn drop(&mut self) {
        if let Some(server) = self.rendezvous.take() {
            self.runtime.block_on(server.shutdown());
        }
    }
}

/// One running host. Dropping it stops it too, and hides what went wrong.
pub struct TestHost {
    core: Arc<Core>,
    stop: CancellationToken,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
    socket: PathBuf,
}

impl TestHost {
    /// Its node id.
    pub fn node_id(&self) -> u32 {
        self.core.node_id()
    }

    /// Its local socket, for clients.
    pub fn socket(&self) -> &PathBuf {
        &self.socket
    }

    /// A handle as plugins have it, with every ability; each call gives a new one that replaces the former.
    pub fn daemon(&self) -> Arc<dyn Daemon> {
        Arc::new(PluginDaemon::new(self.core.clone(), TEST))
    }

    /// Stops it as SIGTERM would, plugins included.
    ///
    /// # Errors
    /// What the host says at its end.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.end()
    }

    fn end(&mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(outcome)) => outcome,
            Some(Err(_)) => anyhow::bail!("the host panicked"),
        }
    }
}

impl Drop for TestHost {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Notes what happens to it.
    struct Noted(Arc<Mutex<Vec<String>>>);

    impl Plugin for Noted {
        fn init(&self, daemon: Arc<dyn Daemon>) -> plugin_abi::Result<()> {
            self.0.lock().unwrap().push(format!("init {}", daemon.config()));
            Ok(())
        }

        fn shutdown(&self, _: Duration) -> plugin_abi::Result<()> {
            self.0.lock().unwrap().push("shutdown".into());
            Ok(())
        }
    }

    #[test]
    fn a_linked_plugin_lives_in_a_real_host() {
        let notes = Arc::new(Mutex::new(Vec::new()));
        let network = TestNetwork::start().unwrap();
        let shared = notes.clone();
        network.plugin("noted", move || Noted(shared.clone())).unwrap();
        let host = network.host("a", "[plugin.noted]\nlimit = 3\n").unwrap();
        assert_eq!(*notes.lock().unwrap(), ["init {\"limit\":3}"]);
        let daemon = host.daemon();
        assert_eq!(daemon.node_id(), host.node_id());
        let events = daemon.bus().subscribe("a.topic");
        daemon.publish("a.topic", None);
        assert!(events.recv(PATIENCE).unwrap().is_some());
        drop((events, daemon));
        host.stop().unwrap();
        assert_eq!(notes.lock().unwrap().last().map(String::as_str), Some("shutdown"));
        assert!(network.host("b", "[plugins]\nnonsense = 1\n").is_err());
    }
}
