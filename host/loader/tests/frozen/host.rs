//! The smallest host: opens each file that it is given, runs it on the test kit's daemon, and prints what the plugin
//! logged, or why it was refused. Built against whichever treaty is under test; uses nothing that 1.0 did not have.

use std::sync::Arc;
use std::time::Duration;

use libloading::os::unix::Library;
use plugin_abi::Daemon;
use plugin_abi::abi::ROOT_SYMBOL;
use plugin_abi::host::{Module, Supervisor};
use plugin_abi::registry::shutdown_one;
use plugin_abi::test_kit::FakeDaemon;

fn main() {
    for path in std::env::args_os().skip(1) {
        // SAFETY: a test's own library, built a moment ago; its initialisers are the compiler's.
        let library = unsafe { Library::new(&path) }.expect("the file opens");
        // SAFETY: the symbol is looked up, and its address taken as such.
        let root = unsafe { library.get::<*const ()>(ROOT_SYMBOL.to_bytes_with_nul()) }
            .expect("it has a root symbol");
        let root = root.as_raw_ptr();
        std::mem::forget(library);
        // SAFETY: the library was leaked, and `export_plugin!` made the symbol.
        let module = match unsafe { Module::check(root.cast_const().cast()) } {
            Ok(module) => module,
            Err(e) => {
                println!("refused: {e}");
                continue;
            }
        };
        let supervisor = Supervisor::new(module.name());
        let plugin = module.create("frozen", supervisor.clone()).expect("the constructor works");
        let plugin: Arc<dyn plugin_abi::Plugin> = plugin.into();
        let daemon = FakeDaemon::new(".");
        daemon.set_node_id(4711);
        daemon.set_identity([9; 32], |_| [7; 64]);
        daemon.set_config(serde_json::json!({ "limit": 3 }));
        plugin.init(daemon.clone() as Arc<dyn Daemon>).expect("it starts");
        let hook =
            daemon.webhook_manager().map(|h| (h.set_url("bad").is_err(), h.url(), h.stats().circuit_skips));
        shutdown_one("plugin", plugin, Duration::from_secs(10)).expect("it stops");
        for line in daemon.logs().iter().filter(|l| l.target != "panic") {
            println!("{} {}", line.message, serde_json::Value::Object(line.fields.clone()));
        }
        println!("hook {hook:?}, faults {:?}", daemon.faults());
    }
}
