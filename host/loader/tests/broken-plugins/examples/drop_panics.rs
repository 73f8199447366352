//! Panics when the host lets go of it.

use std::{sync::Arc, time::Duration};

use plugin_abi::{Daemon, Plugin, Result};

struct Bomb;

impl Plugin for Bomb {
    fn init(&self, _: Arc<dyn Daemon>) -> Result<()> {
        Ok(())
    }
    fn shutdown(&self, _: Duration) -> Result<()> {
        Ok(())
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("not without me");
    }
}

plugin_abi::export_plugin!("drop-panics", || Bomb);
