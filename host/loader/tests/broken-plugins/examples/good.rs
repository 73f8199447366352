//! A plugin without fault: says when it starts and when it stops.

plugin_abi::export_plugin!("good", broken_plugins::Quiet::default);
