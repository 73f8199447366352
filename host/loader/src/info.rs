//! What is known about a plugin, for listings and for those who decide.

use std::path::PathBuf;

use crate::child::ChildStatus;
use crate::config::Isolation;
use crate::inspect::Inspection;
use crate::ledger::Counters;
use crate::trust::Trust;

/// How a plugin is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PluginState {
    /// Being created or in its `init`.
    Starting,
    /// Started and in use.
    Running,
    /// Its old instance is being shut down, or its new one started.
    Reloading,
    /// Its process crashed and is being started again. The text is the last crash.
    Restarting(String),
    /// Panicked at the border and is not called any more, or could not be started. The text says which and why.
    Failed(String),
    /// Too many faults; not started until that is lifted. The text is the ledger's reason.
    Quarantined(String),
    /// Shut down.
    Stopped,
    /// Shut down with an error.
    StoppedWithError(String),
    /// Its shutdown missed the deadline and may still be running.
    Stuck,
}

impl PluginState {
    /// One word: `starting`, `running`, `reloading`, `restarting`, `failed`, `quarantined`, `stopped`, `error`, `stuck`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            PluginState::Starting => "starting",
            PluginState::Running => "running",
            PluginState::Reloading => "reloading",
            PluginState::Restarting(_) => "restarting",
            PluginState::Failed(_) => "failed",
            PluginState::Quarantined(_) => "quarantined",
            PluginState::Stopped => "stopped",
            PluginState::StoppedWithError(_) => "error",
            PluginState::Stuck => "stuck",
        }
    }

    /// Why, where there is a why.
    pub fn reason(&self) -> Option<&str> {
        match self {
            PluginState::Restarting(why)
            | PluginState::Failed(why)
            | PluginState::Quarantined(why)
            | PluginState::StoppedWithError(why) => Some(why),
            PluginState::Stuck => Some("shutdown missed its deadline"),
            PluginState::Starting | PluginState::Running | PluginState::Reloading | PluginState::Stopped => {
                None
            }
        }
    }
}

/// What is known about a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginInfo {
    /// The registration key.
    pub name: String,
    /// The plugin's own version.
    pub version: String,
    /// The file it was read from; empty for a plugin that is linked into the host.
    pub path: PathBuf,
    /// SHA-256 of that file when it was read, lower-case hex.
    pub sha256: String,
    /// What vouches for that file.
    pub trust: Trust,
    /// Treaty version it was built for.
    pub treaty: (u16, u16),
    /// The compiler that built it.
    pub rustc: String,
    /// Where it runs.
    pub isolation: Isolation,
    /// Its process, where it has one: the number while it runs, crashes and restarts of this instance.
    pub child: Option<ChildStatus>,
    /// How it is.
    pub state: PluginState,
    /// Panics of the present instance: caught at the border, or reported by the plugin itself.
    pub faults: u64,
    /// What the ledger counted, over all instances and runs of the host.
    pub counters: Counters,
    /// Instances that were started in this run of the host.
    pub starts: u64,
}

impl PluginInfo {
    /// Of a file that was judged and accepted.
    pub(crate) fn of_file(inspection: Inspection, path: PathBuf, trust: Trust, isolation: Isolation) -> Self {
        let Inspection { header, sha256 } = inspection;
        PluginInfo {
            name: header.name,
            version: header.version,
            path,
            sha256,
            trust,
            treaty: (header.abi_major, header.abi_minor),
            rustc: header.rustc,
            isolation,
            child: None,
            state: PluginState::Stopped,
            faults: 0,
            counters: Counters::default(),
            starts: 0,
        }
    }

    /// Of a plugin that is linked into the host's program.
    pub(crate) fn linked(name: &str, host_version: &str) -> Self {
        PluginInfo {
            name: name.to_owned(),
            version: host_version.to_owned(),
            path: PathBuf::new(),
            sha256: String::new(),
            trust: Trust::Linked,
            treaty: (plugin_abi::abi::ABI_MAJOR, plugin_abi::abi::ABI_MINOR),
            rustc: String::new(),
            isolation: Isolation::InProcess,
            child: None,
            state: PluginState::Stopped,
            faults: 0,
            counters: Counters::default(),
            starts: 0,
        }
    }
}
