//! `shutdown` gives an error.

use broken_plugins::Faulty;
use plugin_abi::Error;

plugin_abi::export_plugin!("shutdown-fails", || Faulty::new()
    .shutdown(|_| Err(Error::other("queue not empty"))));
