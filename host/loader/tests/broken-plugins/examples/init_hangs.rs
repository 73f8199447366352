//! `init` never returns.

use broken_plugins::{Faulty, forever};

plugin_abi::export_plugin!("init-hangs", || Faulty::new().init(|_| forever()));
