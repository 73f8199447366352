//! A header, and nothing behind it.

use plugin_abi::header::{FLAG_UNWIND, HEADER_LEN, encode};

#[used]
#[unsafe(no_mangle)]
#[unsafe(link_section = ".pilot_plugin")]
pub static PILOT_PLUGIN_HEADER: [u8; HEADER_LEN] = encode("no-root", "0.1.0", FLAG_UNWIND);
