//! `shutdown` panics.

use broken_plugins::Faulty;

plugin_abi::export_plugin!("shutdown-panics", || Faulty::new().shutdown(|_| panic!("not now")));
