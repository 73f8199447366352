//! The root symbol is not the library header of any version.

use plugin_abi::header::{FLAG_UNWIND, HEADER_LEN, encode};

#[used]
#[unsafe(no_mangle)]
#[unsafe(link_section = ".pilot_plugin")]
pub static PILOT_PLUGIN_HEADER: [u8; HEADER_LEN] = encode("other-abi", "0.1.0", FLAG_UNWIND);

#[used]
#[unsafe(no_mangle)]
pub static PILOT_PLUGIN_ROOT: [u64; 64] = [0x5AFE; 64];
