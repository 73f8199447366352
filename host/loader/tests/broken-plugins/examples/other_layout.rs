//! The right symbols around a root module of another shape: its constructor takes a number.
#![allow(non_camel_case_types)]

use abi_stable::{
    StableAbi, library::*, prefix_type::PrefixTypeTrait, sabi_types::VersionStrings, std_types::*,
};
use plugin_abi::abi::{AbiResult, PluginArc};
use plugin_abi::header::{FLAG_UNWIND, HEADER_LEN, encode};

#[used]
#[unsafe(no_mangle)]
#[unsafe(link_section = ".pilot_plugin")]
pub static PILOT_PLUGIN_HEADER: [u8; HEADER_LEN] = encode("other-layout", "0.1.0", FLAG_UNWIND);

#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginMod_Ref)))]
#[sabi(missing_field(panic))]
pub struct PluginMod {
    pub name: extern "C" fn() -> RString,
    #[sabi(last_prefix_field)]
    pub create: extern "C" fn(host_version: u32) -> AbiResult<PluginArc>,
}

impl RootModule for PluginMod_Ref {
    abi_stable::declare_root_module_statics! {PluginMod_Ref}
    const BASE_NAME: &'static str = "pilot_plugin";
    const NAME: &'static str = "pilot_plugin";
    const VERSION_STRINGS: VersionStrings = VersionStrings::new("1.0.0");
}

extern "C" fn name() -> RString {
    "other-layout".into()
}

extern "C" fn create(_: u32) -> AbiResult<PluginArc> {
    std::process::abort()
}

extern "C" fn construct() -> RootModuleResult {
    __call_root_module_loader(|| PluginMod { name, create }.leak_into_prefix())
}

#[used]
#[unsafe(no_mangle)]
pub static PILOT_PLUGIN_ROOT: LibHeader =
    // SAFETY: the constructor's module is of the type that is named here.
    unsafe { LibHeader::from_constructor::<PluginMod_Ref>(construct, CheckTypeLayout::Yes) };
