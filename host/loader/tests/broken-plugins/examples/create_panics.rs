//! The constructor panics.

fn make() -> broken_plugins::Quiet {
    panic!("cannot be made")
}

plugin_abi::export_plugin!("create-panics", make);
