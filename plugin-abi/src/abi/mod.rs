//! What really crosses the `.so` border: ffi-safe traits, value structs, the root module. The only room of this crate
//! with unsafe code; everything else here and in every plugin is safe Rust.
//!
//! Rules of the treaty (they make the two-way layout check of [`open`] sound, so never bend them inside one major
//! version): value structs are frozen; methods are only appended, after the last one marked `last_prefix_field`, and
//! with a default body; the root module's fields are only appended; what an integer means never changes.
//!
//! Data crosses in few shapes: addresses as `u64` (48 bits used), times as Unix milliseconds, spans as milliseconds,
//! open maps as JSON text, paths as raw bytes, errors as code and message, bulk data as borrowed slices.

#![allow(unsafe_code, missing_docs, non_camel_case_types)]

mod asked;
mod held;
pub mod open;
mod traits;
mod values;

use abi_stable::library::{CheckTypeLayout, LibHeader, RootModule, RootModuleResult};
use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::sabi_types::VersionStrings;
use abi_stable::std_types::{RStr, RString};
use abi_stable::{StableAbi, declare_root_module_statics, package_version_strings};

pub(crate) use asked::{Asked, Bare};
pub(crate) use held::Held;
pub use traits::*;
pub use values::*;

/// The treaty's major version: plugins of another major are refused. It is this crate's major version.
pub const ABI_MAJOR: u16 = 1;
/// The treaty's minor version: differences are fine in both directions. It is this crate's minor version.
pub const ABI_MINOR: u16 = 1;

/// The name of the exported symbol that holds the root module's [`LibHeader`].
pub const ROOT_SYMBOL: &std::ffi::CStr = c"PILOT_PLUGIN_ROOT";

/// What a plugin library offers: its name and its constructor.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginMod_Ref)))]
#[sabi(missing_field(panic))]
pub struct PluginMod {
    /// The registration key, the same text as in the static header.
    pub name: extern "C" fn() -> RString,
    /// Builds a fresh instance; no state is shared between two of them.
    #[sabi(last_prefix_field)]
    pub create: extern "C" fn(host_version: RStr<'_>) -> AbiResult<PluginArc>,
}

impl RootModule for PluginMod_Ref {
    declare_root_module_statics! {PluginMod_Ref}
    const BASE_NAME: &'static str = "pilot_plugin";
    const NAME: &'static str = "pilot_plugin";
    const VERSION_STRINGS: VersionStrings = package_version_strings!();
}

/// One exported plugin, as the macro describes it.
pub trait Export {
    /// The registration key.
    const NAME: &'static str;
    /// Builds an instance. Must not unwind: `export_plugin!` generates this through [`crate::export::create`].
    fn create(host_version: &str) -> AbiResult<PluginArc>;
}

/// The static that [`ROOT_SYMBOL`] names, for the plugin `E`.
pub const fn lib_header<E: Export>() -> LibHeader {
    // SAFETY: `from_constructor::<M>` requires that the constructor's result was made from a `PrefixRef<M>`.
    // `construct::<E>` calls `root::<E>`, whose result is a `PluginMod_Ref`, which is `M` here.
    unsafe { LibHeader::from_constructor::<PluginMod_Ref>(construct::<E>, CheckTypeLayout::Yes) }
}

extern "C" fn construct<E: Export>() -> RootModuleResult {
    abi_stable::library::__call_root_module_loader(root::<E>)
}

fn root<E: Export>() -> PluginMod_Ref {
    PluginMod { name: name::<E>, create: create::<E> }.leak_into_prefix()
}

extern "C" fn name<E: Export>() -> RString {
    RString::from(E::NAME)
}

extern "C" fn create<E: Export>(host_version: RStr<'_>) -> AbiResult<PluginArc> {
    E::create(host_version.as_str())
}

const _: () = {
    // The numbers above are written out because they are part of the refusal texts; they must follow Cargo.toml.
    assert!(crate::header::parse_u16(env!("CARGO_PKG_VERSION_MAJOR")) == ABI_MAJOR);
    assert!(crate::header::parse_u16(env!("CARGO_PKG_VERSION_MINOR")) == ABI_MINOR);
};
