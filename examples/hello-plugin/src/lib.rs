//! A plugin in one file: it greets, and counts the events about this node on the daemon's bus until it is told to stop.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use plugin_abi::{Daemon, Plugin, Result, Subscription, spawn_thread};

#[derive(Default)]
struct Hello(Mutex<Option<(Arc<dyn Subscription>, JoinHandle<()>)>>);

impl Plugin for Hello {
    fn init(&self, daemon: Arc<dyn Daemon>) -> Result<()> {
        tracing::info!(host = daemon.version_info().version, "hello");
        let events = daemon.bus().subscribe("node.*");
        let source = Arc::clone(&events);
        let thread = spawn_thread(daemon, "hello-counter", move || {
            let mut seen = 0_u64;
            while let Ok(event) = source.recv(Duration::from_secs(1)) {
                seen += u64::from(event.is_some());
            }
            tracing::info!(seen, "goodbye");
        })?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((events, thread));
        Ok(())
    }

    fn shutdown(&self, _deadline: Duration) -> Result<()> {
        let Some((events, thread)) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() else { return Ok(()) };
        events.cancel(); // recv reports "closed" once the buffer is empty
        let _ = thread.join();
        Ok(())
    }
}

plugin_abi::export_plugin!("hello", Hello::default);
