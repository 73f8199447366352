//! From the address of a library's root symbol to a checked [`Module`]. Called by the loader only, after the static
//! header of the very same bytes was judged.

use std::fmt;
use std::sync::Arc;

use abi_stable::StableAbi;
use abi_stable::abi_stability::abi_checking::{
    AbiInstabilityErrors, CheckingGlobals, check_layout_compatibility_with_globals,
};
use abi_stable::library::{AbiHeader, AbiHeaderRef, LibraryError};
use abi_stable::std_types::{RErr, ROk};
use abi_stable::type_layout::TypeLayout;

use super::PluginMod_Ref;
use crate::host::{Supervisor, adopt_plugin};
use crate::{Error, Plugin, Result};

/// A plugin library whose interface was checked. Its code stays mapped for the life of the process.
#[derive(Clone, Copy)]
pub struct Module {
    root: PluginMod_Ref,
    fit: Fit,
}

/// How the two views of the interface fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Each is a prefix of the other.
    Same,
    /// The plugin's begins with this host's.
    PluginNewer,
    /// This host's begins with the plugin's.
    HostNewer,
}

/// Why a library's root module is not usable. Each variant carries a sentence; `Layout` also the full comparison.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// The symbol is not an abi_stable library header of a version that this host understands.
    Header(String),
    /// Neither interface is a prefix of the other.
    Layout {
        /// Expected, found, and where.
        summary: String,
        /// The whole comparison: hundreds of lines, for the debug log.
        full: String,
    },
    /// The library's own root function failed.
    Root(String),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Header(text) => write!(f, "not a plugin of this treaty: {text}"),
            OpenError::Layout { summary, .. } => write!(f, "other interface layout: {summary}"),
            OpenError::Root(text) => write!(f, "the library's root function failed: {text}"),
        }
    }
}

impl std::error::Error for OpenError {}

impl Module {
    /// Checks a library's root module: header, C-ABI self test, version, and layout in both directions.
    ///
    /// # Safety
    /// `symbol` is the address of the symbol [`ROOT_SYMBOL`](super::ROOT_SYMBOL) in a library that is never unloaded,
    /// and that symbol is a static that begins with an abi_stable `AbiHeader` (every `export_plugin!` makes one). The
    /// static header, which names treaty and target, is what the caller bases this on; a library that lies there can
    /// do as it likes anyway, since opening it has already run its code.
    pub unsafe fn check(symbol: *const ()) -> std::result::Result<Module, OpenError> {
        if symbol.is_null() || !symbol.addr().is_multiple_of(align_of::<usize>()) {
            return Err(OpenError::Header("the root symbol has no usable address".into()));
        }
        // SAFETY: `AbiHeaderRef` is `repr(transparent)` over a non-null reference to an `AbiHeader`; the caller
        // promises that one lies at `symbol` for the rest of the process.
        let header = unsafe { std::mem::transmute::<*const (), AbiHeaderRef>(symbol) };
        let library = header.upgrade().map_err(|e| OpenError::Header(unlike(&e)))?;
        let mine = <PluginMod_Ref as StableAbi>::LAYOUT;
        let theirs = library.layout().ok_or_else(|| OpenError::Header("it carries no layout".into()))?;
        // Either side may be the older one: its view must be a prefix of the newer one's.
        let fit = match (begins_with(mine, theirs), begins_with(theirs, mine)) {
            (Ok(()), Ok(())) => Fit::Same,
            (Ok(()), Err(_)) => Fit::PluginNewer,
            (Err(_), Ok(())) => Fit::HostNewer,
            (Err(e), Err(_)) => {
                return Err(OpenError::Layout { summary: summary(&e), full: e.to_string() });
            }
        };
        // SAFETY: one of the two interfaces is a prefix of the other; every accessor of a prefix type looks at the
        // provider's own field mask before it reads, and each method after the last prefix field has a default body
        // (the rules at the top of `abi`).
        let root = unsafe { library.init_root_module_with_unchecked_layout::<PluginMod_Ref>() };
        Ok(Module { root: root.map_err(|e| OpenError::Root(short(&e.to_string())))?, fit })
    }

    /// Which side's interface is the newer one.
    pub fn fit(&self) -> Fit {
        self.fit
    }

    /// The registration key as the library's code says it; must equal the static header's.
    pub fn name(&self) -> String {
        self.root.name()().into_string()
    }

    /// Makes a fresh instance.
    ///
    /// # Errors
    /// The constructor's error, or [`Panicked`](crate::ErrorKind::Panicked).
    pub fn create(&self, host_version: &str, supervisor: Arc<Supervisor>) -> Result<Box<dyn Plugin>> {
        match self.root.create()(host_version.into()) {
            ROk(instance) => Ok(adopt_plugin(instance, supervisor)),
            RErr(e) => Err(Error::from(e)),
        }
    }
}

/// Whether the interface `whole` begins with the interface `part`.
///
/// Each comparison has a memory of its own. abi_stable's shared one keeps a single view per type for the life of the
/// process, so that after a plugin of an older treaty a newer one would be measured against that plugin instead of this
/// host. Plugins never see each other's objects, only this host's adapters, so each pair stands by itself.
fn begins_with(
    part: &'static TypeLayout,
    whole: &'static TypeLayout,
) -> std::result::Result<(), AbiInstabilityErrors> {
    check_layout_compatibility_with_globals(part, whole, &CheckingGlobals::new())
}

/// One line for a root symbol that this host does not understand.
fn unlike(e: &LibraryError) -> String {
    match e {
        LibraryError::InvalidAbiHeader(found) if found.magic_string != AbiHeader::VALUE.magic_string => {
            "its root symbol is no library header, expected the one that export_plugin! writes".into()
        }
        LibraryError::InvalidAbiHeader(found) => format!(
            "its root symbol is a library header of version {}.{}, expected {}.{}",
            found.abi_major,
            found.abi_minor,
            AbiHeader::VALUE.abi_major,
            AbiHeader::VALUE.abi_minor
        ),
        LibraryError::InvalidCAbi { expected, found } => clip(
            &format!("it passes values to C functions in another way, expected {expected}, found {found}"),
            300,
        ),
        other => short(&other.to_string()),
    }
}

/// One line for the innermost difference: what, expected and found, where.
fn summary(e: &AbiInstabilityErrors) -> String {
    let told = e.errors.iter().filter(|e| !e.errs.is_empty()).max_by_key(|e| e.stack_trace.len());
    let Some(told) = told else { return short(&e.to_string()) };
    let levels = told.stack_trace.iter().map(|level| short(&level.found.to_string()));
    let place: Vec<String> =
        levels.filter_map(|l| l.strip_prefix("field_name:").and_then(authored)).collect();
    // The library's text is laid out over many lines: "Error:what", "Expected:", a value, "Found:", a value.
    let text = told.to_string();
    let block = text.find("\nError:").map_or(text.as_str(), |at| &text[at + "\nError:".len()..]);
    let block = block.split("\nError:").next().unwrap_or(block);
    let block = block.replace("\nExpected:", ", expected ").replace("\nFound:", ", found ");
    let block = block.split_whitespace().collect::<Vec<_>>().join(" ").replace(" ,", ",");
    format!("{} (at {})", clip(&block, 300), clip(&place.join("."), 300))
}

/// The names that the treaty's authors gave; abi_stable has many of its own on the way.
fn authored(name: &str) -> Option<String> {
    let generated = ["__returns", "obj", "vtable"].contains(&name)
        || ["field_", "param_"].iter().any(|p| name.starts_with(p))
        || name.bytes().all(|b| b.is_ascii_digit());
    (!generated).then(|| name.to_owned())
}

/// The first line that says something.
fn short(text: &str) -> String {
    clip(text.lines().map(str::trim).find(|l| !l.is_empty()).unwrap_or("no details"), 200)
}

fn clip(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}
