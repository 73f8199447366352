//! `init` ends the process as if it were its own.

use broken_plugins::Faulty;

plugin_abi::export_plugin!("init-exits", || Faulty::new().init(|_| std::process::exit(0)));
