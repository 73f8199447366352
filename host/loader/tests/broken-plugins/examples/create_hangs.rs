//! The constructor never returns.

use broken_plugins::{Quiet, forever};

plugin_abi::export_plugin!("create-hangs", || -> Quiet { forever() });
