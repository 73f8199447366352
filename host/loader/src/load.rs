//! The start of the host: every plugin of the directory or none.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use plugin_abi::ErrorKind;
use plugin_abi::registry::{
    self, Registry, ShutdownReport, ShutdownStep, StartFailure, StartStep, shutdown_all,
};

use crate::config::{LoaderConfig, PluginHost};
use crate::info::{PluginInfo, PluginState};
use crate::inspect::{Inspection, inspect};
use crate::instance::{Image, Version};
use crate::judge::{duplicate, judge_all};
use crate::refusal::{Code, Refusal};
use crate::scan::scan;
use crate::set::{Loaded, Set, Slot};

/// Why nothing was loaded. What had been started was shut down again.
#[derive(Debug)]
pub struct LoadError {
    /// At least one. Files are judged together, so that one attempt names all that are wrong.
    pub refusals: Vec<Refusal>,
    /// How the shutdown of the plugins went that had been started before the failure.
    pub unwound: ShutdownReport,
}

impl From<Vec<Refusal>> for LoadError {
    fn from(refusals: Vec<Refusal>) -> Self {
        LoadError { refusals, unwound: ShutdownReport::default() }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("plugins not loaded")?;
        for refusal in &self.refusals {
            write!(f, "\n  {refusal}")?;
        }
        for ShutdownStep { name, error } in &self.unwound.steps {
            match error {
                None => write!(f, "\n  plugin \"{name}\" was shut down again")?,
                Some(e) => write!(f, "\n  plugin \"{name}\" was shut down again: {e}")?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for LoadError {}

/// Loads the plugins of one directory.
#[derive(Clone, Debug)]
pub struct Loader {
    config: LoaderConfig,
}

impl Loader {
    /// With this configuration.
    pub fn new(config: LoaderConfig) -> Self {
        Loader { config }
    }

    /// Judges every file of the directory and opens none: for listings.
    pub fn inspect_all(&self) -> Result<Vec<(PathBuf, Result<Inspection, Refusal>)>, Vec<Refusal>> {
        let files = scan(&self.config.dir)?;
        Ok(files.into_iter().map(|f| (f.path.clone(), inspect(&f))).collect())
    }

    /// Loads every plugin or none: the files of the directory, and what is registered in the process-wide table
    /// ([`plugin_abi::registry::register_plugin`]). Plugins in quarantine are listed and not opened.
    ///
    /// Blocks: call it from a thread that may wait. A directory without plugins gives an empty set.
    ///
    /// # Errors
    /// When any file is refused, or the first constructor or `init` fails; see [`LoadError`].
    pub fn load(&self, host: impl PluginHost) -> Result<Loaded, LoadError> {
        let set = Set::new(self.config.clone(), Box::new(host));
        let registry = Registry::new();
        for slot in self.open_all()? {
            let name = slot.name().to_owned();
            let slot = set.add(slot);
            let Some(factory) = set.factory(&slot) else { continue };
            registry.register(&name, Some(factory)).map_err(|e| {
                // Not reachable while `open_all` refuses duplicates and `Header::parse` bad names.
                let refusal = Refusal::new(Code::DuplicateName, slot.path(), e.to_string(), "rename it");
                vec![refusal.of(&name)]
            })?;
        }
        let daemon_for = |name: &str| set.daemon_for(name);
        let (started, failure) = registry.load_all(&daemon_for, self.config.init_timeout);
        match failure {
            None => Ok(set.running(started)),
            Some(failure) => {
                set.note_failed_start(&failure.name, failure.step, &failure.error);
                let path = set.slot(&failure.name).map(|s| s.path()).unwrap_or_default();
                let unwound = shutdown_all(started, self.config.shutdown_timeout);
                set.note_shutdowns(&unwound);
                Err(LoadError { refusals: vec![refused_start(failure, path)], unwound })
            }
        }
    }

    /// Reads and judges everything before anything is opened, opens everything before anything is started.
    fn open_all(&self) -> Result<Vec<Arc<Slot>>, Vec<Refusal>> {
        let config = &self.config;
        let judged = judge_all(config)?;
        let mut refusals = Vec::new();
        let mut slots = Vec::with_capacity(judged.len());
        for name in registry::registered().into_iter().filter(|n| !config.disabled.contains(n)) {
            if let Some(file) = judged.get(&name) {
                refusals.push(duplicate(&name, "the host's own program".as_ref(), &file.file.path));
            } else if let Some(factory) = registry::factory(&name) {
                let info = PluginInfo::linked(&name, &config.host_version);
                slots.push(Slot::new(Version { info, image: Image::Linked(factory) }));
            }
        }
        for (name, judged) in judged {
            if let Some(why) = config.ledger.quarantined(&name) {
                tracing::warn!(plugin = name, reason = why.reason, "plugin is in quarantine and not started");
                slots.push(Slot::closed(judged.info, PluginState::Quarantined(why.reason)));
                continue;
            }
            match Version::open(config, judged.file, judged.inspection, judged.info) {
                Ok(version) => slots.push(Slot::new(version)),
                Err(refusal) => refusals.push(refusal),
            }
        }
        if refusals.is_empty() { Ok(slots) } else { Err(refusals) }
    }
}

/// A constructor or an `init` that failed, as a refusal.
pub(crate) fn refused_start(failure: StartFailure, path: PathBuf) -> Refusal {
    let (code, remedy) = match (failure.step, failure.error.kind()) {
        (StartStep::Create, _) => (Code::CreateFailed, "see the reason; the plugin's constructor refused"),
        (StartStep::Init, ErrorKind::TimedOut) => {
            (Code::InitTimeout, "raise the init timeout, or disable the plugin in the configuration")
        }
        (StartStep::Init, _) => {
            (Code::InitFailed, "remove the cause, or disable the plugin in the configuration")
        }
    };
    Refusal::new(code, path, failure.error.to_string(), remedy).of(&failure.name)
}
