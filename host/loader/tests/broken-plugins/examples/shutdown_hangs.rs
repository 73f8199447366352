//! `shutdown` never returns.

use broken_plugins::{Faulty, forever};

plugin_abi::export_plugin!("shutdown-hangs", || Faulty::new().shutdown(|_| forever()));
