//! A library that is no plugin at all.

/// Something to export.
#[unsafe(no_mangle)]
pub extern "C" fn seven() -> u32 {
    7
}
