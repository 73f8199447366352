//! From judged bytes to something that can be started: where a plugin's code is, and the one function that makes an
//! instance of it, wherever it runs.

use std::sync::Arc;
use std::time::Duration;

use plugin_abi::host::{Supervisor, contain};
use plugin_abi::registry::Factory;
use plugin_abi::{Error, Plugin, Result};

use crate::child::{AfterCrash, ChildPlugin, ChildSpec, ChildWatch, Crash, Program};
use crate::config::{Isolation, LoaderConfig};
use crate::info::PluginInfo;
use crate::inspect::Inspection;
use crate::ledger::{Kind, Ledger};
use crate::open::{self, Opened};
use crate::refusal::{Code, Refusal};
use crate::scan::PluginFile;

/// Where the code of one version of a plugin is.
pub(crate) enum Image {
    /// Mapped into this process.
    Mapped(Opened),
    /// Judged bytes that only a child process opens.
    ForChild(PluginFile),
    /// Linked into the host's program.
    Linked(Factory),
}

/// One version of a plugin: what is known about it and its code. Instances are made from it, more than one if need be: a
/// reload that fails goes back to the former version.
pub(crate) struct Version {
    pub(crate) info: PluginInfo,
    pub(crate) image: Image,
}

impl Version {
    /// Opens a judged file, or keeps its bytes for a child.
    pub(crate) fn open(
        config: &LoaderConfig,
        file: PluginFile,
        inspection: Inspection,
        info: PluginInfo,
    ) -> std::result::Result<Self, Refusal> {
        let image = match info.isolation {
            Isolation::Process => Image::ForChild(file),
            Isolation::InProcess if open::mapped() >= config.max_mapped_copies => {
                let reason = format!(
                    "{} plugin libraries are mapped, which is the limit; code is never unmapped",
                    open::mapped()
                );
                let remedy = format!(
                    "restart the host, or raise [plugins] max_mapped_copies (each copy of this one holds up to {} KiB)",
                    file.bytes.len().div_ceil(1024)
                );
                return Err(Refusal::new(Code::TooManyCopies, &file.path, reason, remedy).of(&info.name));
            }
            Isolation::InProcess => {
                if let Some(probe) = &config.probe {
                    probe.judge(&file, &inspection, &config.host_version)?;
                }
                Image::Mapped(open::open(&file, &inspection, &config.open_via)?)
            }
        };
        Ok(Version { info, image })
    }
}

/// What every instance gets from the host besides its daemon handle.
pub(crate) struct Making<'a> {
    /// The host's settings.
    pub(crate) config: &'a LoaderConfig,
    /// Remembers whether this instance panicked.
    pub(crate) supervisor: Arc<Supervisor>,
}

/// A fresh instance.
pub(crate) struct Made {
    pub(crate) plugin: Box<dyn Plugin>,
    /// The same once more, where it is a process: for looking at it.
    pub(crate) child: Option<Arc<ChildPlugin>>,
}

impl From<Box<dyn Plugin>> for Made {
    fn from(plugin: Box<dyn Plugin>) -> Self {
        Made { plugin, child: None }
    }
}

/// Makes a fresh instance of `version`. Runs the plugin's constructor, nothing else of it.
///
/// # Errors
/// The constructor's error, [`Panicked`](plugin_abi::ErrorKind::Panicked), or that no child could be started.
pub(crate) fn make_instance(version: &Version, making: &Making<'_>) -> Result<Made> {
    match &version.image {
        Image::Mapped(opened) => {
            let made = opened.module.create(&making.config.host_version, Arc::clone(&making.supervisor))?;
            Ok(made.into())
        }
        Image::Linked(factory) => match factory()? {
            Some(plugin) => Ok(contain(plugin.into(), Arc::clone(&making.supervisor)).into()),
            None => Err(Error::other("factory returned nil")),
        },
        Image::ForChild(file) => {
            let child = Arc::new(start_child(&version.info.name, file, making)?);
            Ok(Made { plugin: Box::new(Arc::clone(&child)), child: Some(child) })
        }
    }
}

fn start_child(name: &str, file: &PluginFile, making: &Making<'_>) -> Result<ChildPlugin> {
    let config = making.config;
    let children = &config.children;
    let program = match &children.program {
        Some(program) => program.clone(),
        None => Program::own()?,
    };
    let mut limits = children.limits_of(name).clone();
    // Before the set's own patience ends, so that a child that hangs in `init` is ended and counted as crashed.
    limits.init = config.init_timeout - (config.init_timeout / 10).min(Duration::from_millis(500));
    // The ledger decides, because its memory is longer than this process's.
    limits.restarts.quarantine = 0;
    let spec = ChildSpec {
        name: name.to_owned(),
        path: file.path.clone(),
        program,
        open_via: config.open_via.clone(),
        host_version: config.host_version.clone(),
        limits,
    };
    let watch = LedgerWatch {
        plugin: name.to_owned(),
        supervisor: Arc::clone(&making.supervisor),
        ledger: Arc::clone(&config.ledger),
    };
    ChildPlugin::create(spec, &file.bytes, Arc::new(watch))
}

/// Enters what happens to a child in the books, and lets them decide whether it is started again.
struct LedgerWatch {
    plugin: String,
    supervisor: Arc<Supervisor>,
    ledger: Arc<Ledger>,
}

impl ChildWatch for LedgerWatch {
    fn started(&self, pid: u32) {
        tracing::info!(plugin = self.plugin, pid, "plugin process runs");
    }

    fn fault(&self, op: &str, message: &str) {
        self.supervisor.reported(op, message);
    }

    fn late(&self, calls: u64) {
        let text = format!("{calls} calls were not answered in time");
        self.ledger.note_many(&self.plugin, Kind::Overrun, calls, "call", &text);
    }

    fn crashed(&self, crash: &Crash, planned: AfterCrash) -> AfterCrash {
        // A panic was noted as one already.
        if !crash.panicked {
            self.ledger.note(&self.plugin, Kind::Crash, "process", &crash.to_string());
        }
        // Then the set is stopping it, or did not start it because of faults before.
        if self.ledger.quarantined(&self.plugin).is_some() { AfterCrash::Quarantine } else { planned }
    }
}

/// A supervisor whose faults go to the ledger.
pub(crate) fn supervisor(name: &str, ledger: &Arc<Ledger>) -> Arc<Supervisor> {
    let (plugin, ledger) = (name.to_owned(), Arc::downgrade(ledger));
    Supervisor::observed(name, move |fault| {
        if let Some(ledger) = ledger.upgrade() {
            ledger.note(&plugin, Kind::Panic, &fault.op, &fault.message);
        }
    })
}
