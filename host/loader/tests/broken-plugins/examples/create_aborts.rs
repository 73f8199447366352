//! The constructor ends the process.

fn make() -> broken_plugins::Quiet {
    std::process::abort()
}

plugin_abi::export_plugin!("create-aborts", make);
