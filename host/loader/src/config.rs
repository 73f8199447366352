//! What the host tells the loader: where plugins are, how long they may take, who may be opened, and where each runs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use plugin_abi::Daemon;

use crate::child::{ChildLimits, Program};
use crate::info::{PluginInfo, PluginState};
use crate::ledger::Ledger;
use crate::open::OpenVia;
use crate::probe::Probe;
use crate::trust::{Trust, TrustPolicy};

/// The project's own plugins: trusted with the daemon's address space by name.
pub const FIRST_PARTY: [&str; 4] = ["dataexchange", "handshake", "policy", "webhook"];

/// Where a plugin's code runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// In the daemon's own process: fast, and a crash of the plugin is a crash of the daemon. Panics are contained.
    InProcess,
    /// In a child of the daemon: a crash costs the daemon nothing, a call costs a round trip over a socket.
    Process,
}

impl Isolation {
    /// As the configuration spells it: `in-process`, `process`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Isolation::InProcess => "in-process",
            Isolation::Process => "process",
        }
    }

    /// The inverse of [`as_str`](Self::as_str).
    pub fn parse(text: &str) -> Option<Self> {
        [Isolation::InProcess, Isolation::Process].into_iter().find(|i| i.as_str() == text)
    }
}

/// Which plugin runs where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsolationPolicy {
    /// The operator's word, by plugin name.
    pub by_name: BTreeMap<String, Isolation>,
    /// For plugins without such a word that are neither signed by a known key, nor on the allow-list, nor one of
    /// [`FIRST_PARTY`]; all those run in-process.
    pub strangers: Isolation,
}

impl Default for IsolationPolicy {
    fn default() -> Self {
        IsolationPolicy { by_name: BTreeMap::new(), strangers: Isolation::InProcess }
    }
}

impl IsolationPolicy {
    /// Where the plugin `name` runs whose file is vouched for by `trust`.
    pub fn of(&self, name: &str, trust: &Trust) -> Isolation {
        match (self.by_name.get(name), trust) {
            (Some(word), _) => *word,
            (None, Trust::Unvouched) if !FIRST_PARTY.contains(&name) => self.strangers,
            (None, _) => Isolation::InProcess,
        }
    }
}

/// How plugins with a process of their own are run.
#[derive(Clone, Debug, Default)]
pub struct Children {
    /// What becomes the child; `None`: the running program with the subcommand `plugin-child`.
    pub program: Option<Program>,
    /// Limits. Those of `init` and of the number of crashes are not used: the init timeout and the ledger's limits stand
    /// for them.
    pub limits: ChildLimits,
    /// Other limits for single plugins.
    pub by_name: BTreeMap<String, ChildLimits>,
}

impl Children {
    /// The limits of the plugin `name`.
    pub fn limits_of(&self, name: &str) -> &ChildLimits {
        self.by_name.get(name).unwrap_or(&self.limits)
    }
}

/// Where plugins are and how long they may take.
#[derive(Clone, Debug)]
pub struct LoaderConfig {
    /// The plugins directory.
    pub dir: PathBuf,
    /// Names of plugins whose files are left alone.
    pub disabled: BTreeSet<String>,
    /// What each `init` gets.
    pub init_timeout: Duration,
    /// What the `shutdown` of a plugin gets when it is stopped, reloaded or quarantined by itself; and what those that
    /// run already get together when a later one fails to start with the host.
    pub shutdown_timeout: Duration,
    /// The host's version, handed to each constructor.
    pub host_version: String,
    /// Which files are wanted.
    pub trust: TrustPolicy,
    /// How bytes are opened.
    pub open_via: OpenVia,
    /// How files are tried out that this host has not opened before; `None` opens them at once. Only those that run
    /// in-process: the others are in a child anyway.
    pub probe: Option<Probe>,
    /// Where each plugin runs.
    pub isolation: IsolationPolicy,
    /// How plugins with a process of their own are run.
    pub children: Children,
    /// Libraries that this process maps at most. Code is never unmapped, so each reload in-process maps one more (about
    /// a megabyte each); a reload beyond this is refused until the host is restarted.
    pub max_mapped_copies: usize,
    /// Where faults are noted, and what says who is in quarantine.
    pub ledger: Arc<Ledger>,
}

impl Default for LoaderConfig {
    /// The directory `plugins` beside the working directory, 10 s for each `init`, 5 s to shut down, everything
    /// in-process, 1,200 mapped copies, a ledger in memory.
    fn default() -> Self {
        LoaderConfig {
            dir: "plugins".into(),
            disabled: BTreeSet::new(),
            init_timeout: Duration::from_secs(10),
            shutdown_timeout: Duration::from_secs(5),
            host_version: env!("CARGO_PKG_VERSION").to_owned(),
            trust: TrustPolicy::default(),
            open_via: OpenVia::default(),
            probe: None,
            isolation: IsolationPolicy::default(),
            children: Children::default(),
            max_mapped_copies: 1200,
            ledger: Arc::default(),
        }
    }
}

/// The host as a set of plugins needs it. A closure `Fn(&str) -> Arc<dyn Daemon>` is one that only hands out handles.
///
/// All methods are called from threads that may wait, never under a lock of the set.
pub trait PluginHost: Send + Sync + 'static {
    /// A fresh handle for a new instance of a plugin; asked for right before its `init`.
    fn daemon_for(&self, plugin: &PluginInfo) -> Arc<dyn Daemon>;

    /// The running instance of `plugin` is about to be shut down, with or without a successor; it can still be asked.
    fn stopping(&self, plugin: &str) {
        let _ = plugin;
    }

    /// The running instance of `plugin` is about to be shut down and a successor is to take its place: what it holds
    /// (ports, subscriptions, services) is kept for that one.
    fn handing_over(&self, plugin: &str) {
        let _ = plugin;
    }

    /// An instance of `plugin` has been started. What it did not take of its predecessor's is let go.
    fn started(&self, plugin: &str) {
        let _ = plugin;
    }

    /// No instance of `plugin` runs any more, and none is about to: what it holds is released, what it decided is
    /// decided without it, which for a plugin that failed means "no".
    fn ended(&self, plugin: &str, state: &PluginState) {
        let _ = (plugin, state);
    }
}

impl<F> PluginHost for F
where
    F: Fn(&str) -> Arc<dyn Daemon> + Send + Sync + 'static,
{
    fn daemon_for(&self, plugin: &PluginInfo) -> Arc<dyn Daemon> {
        self(&plugin.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_run_where_the_policy_says_and_others_in_process() {
        let mut policy = IsolationPolicy { strangers: Isolation::Process, ..IsolationPolicy::default() };
        policy.by_name.insert("webhook".into(), Isolation::Process);
        policy.by_name.insert("mine".into(), Isolation::InProcess);
        let signed = Trust::Signed("00".into());
        for (name, trust, expected) in [
            ("other", &Trust::Unvouched, Isolation::Process),
            ("other", &Trust::AllowListed, Isolation::InProcess),
            ("other", &signed, Isolation::InProcess),
            ("policy", &Trust::Unvouched, Isolation::InProcess),
            ("webhook", &signed, Isolation::Process),
            ("mine", &Trust::Unvouched, Isolation::InProcess),
        ] {
            assert_eq!(policy.of(name, trust), expected, "{name} {trust}");
        }
        assert_eq!(Isolation::parse("process"), Some(Isolation::Process));
        assert_eq!(Isolation::parse("Process"), None);
    }
}
