//! From judged bytes to something that can be started: where a plugin's code is, and the one function that makes an
//! instance of it, wherever it runs.

use std::sync::Arc;
use std::time::Duration;

use plugin_abi::host::{Supervisor, contain};
use plugin_abi::registry::Factory;
use plugin_abi::{Error, Plugin, Result};

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
    #[expect(dead_code, reason = "read by the process proxy")]
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
                let remedy = "restart the host, or raise [plugins] max_mapped_copies (about 1 MB each)";
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
    /// Handed to the constructor.
    pub(crate) host_version: &'a str,
    /// What each `init` gets; a child must be up within it.
    #[expect(dead_code, reason = "read by the process proxy")]
    pub(crate) init_timeout: Duration,
    /// Remembers whether this instance panicked.
    pub(crate) supervisor: Arc<Supervisor>,
    /// Where faults are noted.
    #[expect(dead_code, reason = "read by the process proxy")]
    pub(crate) ledger: Arc<Ledger>,
}

/// Makes a fresh instance of `version`. Runs the plugin's constructor, nothing else of it.
///
/// # Errors
/// The constructor's error, [`Panicked`](plugin_abi::ErrorKind::Panicked), or that no child could be started.
pub(crate) fn make_instance(version: &Version, making: &Making<'_>) -> Result<Box<dyn Plugin>> {
    match &version.image {
        Image::Mapped(opened) => opened.module.create(making.host_version, Arc::clone(&making.supervisor)),
        Image::Linked(factory) => match factory()? {
            Some(plugin) => Ok(contain(plugin.into(), Arc::clone(&making.supervisor))),
            None => Err(Error::other("factory returned nil")),
        },
        Image::ForChild(_) => Err(Error::unsupported("this host has no child processes for plugins")),
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
