//! Without fault; first in the order.

plugin_abi::export_plugin!("alpha", broken_plugins::Quiet::default);
