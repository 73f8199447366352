//! `init` panics, with a formatted text.

use broken_plugins::Faulty;

plugin_abi::export_plugin!("init-panics", || Faulty::new().init(|d| panic!("node {}", d.node_id())));
