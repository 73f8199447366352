//! The server's end, as its tasks see it coming. Called by all of them; nothing here waits for anyone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

/// Goes off once, for all clones.
///
/// A token alone would do, but looking at one takes two locks. Tens of thousands of connections look before each request,
/// so they look at the flag.
#[derive(Clone, Debug, Default)]
pub(super) struct Stop {
    begun: Arc<AtomicBool>,
    token: CancellationToken,
}

impl Stop {
    /// Wakes whoever waits.
    pub fn begin(&self) {
        // Before anyone wakes: who was woken finds it set.
        self.begun.store(true, Ordering::Release);
        self.token.cancel();
    }

    /// Whether it has gone off, or is just about to wake those who wait for it.
    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    /// Returns when it goes off.
    pub async fn wait(&self) {
        self.token.cancelled().await;
    }

    /// For those who wait next to something else.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }
}
