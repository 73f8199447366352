//! Dials of one client to the same port of the same peer take turns, so that one client's hundreds leave room for another's
//! one.
//!
//! To a peer, all local clients are one source of new streams, and it lets in ten of those a second without a word about
//! the rest (stream.md section 7, gate 5). Whoever has a thousand dials under way would win nearly each of those places.
//! Used by `session`; knows nothing of what a dial is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use pilot_wire::addr::Addr;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Dials of one client to one port of one peer that are under way at a time; the others wait, first come, first served. A
/// client's requests in flight bound how many wait.
pub(super) const AT_A_TIME: usize = 16;

/// The lines in which one client's dials wait.
#[derive(Default)]
pub(super) struct Turns(Mutex<HashMap<(u32, u16), Weak<Semaphore>>>);

impl Turns {
    /// Waits for a turn; it ends when the permit is dropped. Cancel-safe: a dropped call has left the line.
    pub(super) async fn wait(&self, to: Addr, port: u16) -> Option<OwnedSemaphorePermit> {
        let line = self.line((to.node, port));
        // Never closed; and a dial without a turn would be no harm.
        line.acquire_owned().await.ok()
    }

    fn line(&self, key: (u32, u16)) -> Arc<Semaphore> {
        // Nobody panics while holding it.
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = lines.get(&key).and_then(Weak::upgrade) {
            return line;
        }
        // Only lines with somebody in them stay, so there are never more than requests in flight.
        lines.retain(|_, line| line.strong_count() > 0);
        let line = Arc::new(Semaphore::new(AT_A_TIME));
        lines.insert(key, Arc::downgrade(&line));
        line
    }
}
