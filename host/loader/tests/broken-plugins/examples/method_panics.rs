//! Starts well, then panics in everything that the host asks, in a thread, and in a future.

use std::sync::Arc;

use broken_plugins::Faulty;
use plugin_abi::{Daemon, Result, TrustChecker, spawn_thread};

struct Checker;

impl TrustChecker for Checker {
    fn is_trusted(&self, node: u32) -> Option<String> {
        panic!("asked about {node}")
    }
}

fn init(daemon: Arc<dyn Daemon>) -> Result<()> {
    daemon.register_trust_checker(Arc::new(Checker));
    daemon.spawn(Box::pin(async { panic!("in a future") }));
    let thread = spawn_thread(daemon, "worker", || panic!("in a thread"))?;
    thread.join().map_err(|_| plugin_abi::Error::other("the thread was not contained"))
}

plugin_abi::export_plugin!("method-panics", || Faulty::new().init(init));
