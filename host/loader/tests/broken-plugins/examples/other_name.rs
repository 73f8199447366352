//! The header names one plugin, the code another.

use plugin_abi::header::{FLAG_UNWIND, HEADER_LEN, encode};

#[used]
#[unsafe(no_mangle)]
#[unsafe(link_section = ".pilot_plugin")]
pub static PILOT_PLUGIN_HEADER: [u8; HEADER_LEN] = encode("handshake", "0.1.0", FLAG_UNWIND);

struct Impostor;

impl plugin_abi::abi::Export for Impostor {
    const NAME: &'static str = "impostor";
    fn create(_: &str) -> plugin_abi::abi::AbiResult<plugin_abi::abi::PluginArc> {
        std::process::abort()
    }
}

#[used]
#[unsafe(no_mangle)]
pub static PILOT_PLUGIN_ROOT: plugin_abi::abi_stable::library::LibHeader =
    plugin_abi::abi::lib_header::<Impostor>();
