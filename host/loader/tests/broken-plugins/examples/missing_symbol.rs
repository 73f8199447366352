//! Needs a function that nobody has.

unsafe extern "C" {
    fn pilot_nobody_has_this() -> u32;
}

fn make() -> broken_plugins::Quiet {
    // SAFETY: never reached; the library cannot be opened.
    unsafe { pilot_nobody_has_this() };
    broken_plugins::Quiet::default()
}

plugin_abi::export_plugin!("missing-symbol", make);
