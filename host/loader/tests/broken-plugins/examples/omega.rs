//! Without fault; last in the order.

plugin_abi::export_plugin!("omega", broken_plugins::Quiet::default);
