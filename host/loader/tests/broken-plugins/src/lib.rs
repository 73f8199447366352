//! What the broken plugins share: one that behaves, and one with a fault at a chosen place.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use plugin_abi::{Daemon, Plugin, Result};

/// Behaves, and says so.
#[derive(Default)]
pub struct Quiet(Mutex<Option<Arc<dyn Daemon>>>);

impl Plugin for Quiet {
    fn init(&self, daemon: Arc<dyn Daemon>) -> Result<()> {
        tracing::info!(node = daemon.node_id(), "started");
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(daemon);
        Ok(())
    }

    fn shutdown(&self, _: Duration) -> Result<()> {
        tracing::info!("stopped");
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(())
    }
}

type Init = fn(Arc<dyn Daemon>) -> Result<()>;
type Shutdown = fn(Duration) -> Result<()>;

/// Behaves except where told otherwise.
pub struct Faulty(Init, Shutdown);

impl Faulty {
    /// Without fault so far.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Faulty(|_| Ok(()), |_| Ok(()))
    }

    /// Does this in `init`.
    pub fn init(self, f: Init) -> Self {
        Faulty(f, self.1)
    }

    /// Does this in `shutdown`.
    pub fn shutdown(self, f: Shutdown) -> Self {
        Faulty(self.0, f)
    }
}

impl Plugin for Faulty {
    fn init(&self, daemon: Arc<dyn Daemon>) -> Result<()> {
        (self.0)(daemon)
    }

    fn shutdown(&self, deadline: Duration) -> Result<()> {
        (self.1)(deadline)
    }
}

/// Waits for what never comes.
pub fn forever() -> ! {
    loop {
        std::thread::park();
    }
}
