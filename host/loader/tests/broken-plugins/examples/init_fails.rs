//! `init` gives an error.

use broken_plugins::Faulty;
use plugin_abi::Error;

plugin_abi::export_plugin!("init-fails", || Faulty::new().init(|_| Err(Error::other("no disk"))));
