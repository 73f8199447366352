//! The constructor gives an error.

use plugin_abi::{Error, Result};

plugin_abi::export_plugin!("create-fails", || -> Result<broken_plugins::Quiet> {
    Err(Error::other("no licence"))
});
