//! Which connections are being served: how many there may be, and how all of them end at shutdown. Called by the service.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use plugin_abi::Connection;

/// Set once, when the plugin shuts down. Looked at by everything that waits.
#[derive(Clone, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Whether the plugin is shutting down.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    fn set(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// The table of connections.
pub(crate) struct Connections {
    max: usize,
    max_per_peer: usize,
    stop: Stop,
    state: Mutex<State>,
    /// Notified when a connection ends.
    ended: Condvar,
}

#[derive(Default)]
struct State {
    next: u64,
    live: HashMap<u64, (u32, Arc<dyn Connection>)>,
}

impl Connections {
    pub fn new(max: usize, max_per_peer: usize) -> Arc<Connections> {
        let stop = Stop::default();
        Arc::new(Connections { max, max_per_peer, stop, state: Mutex::default(), ended: Condvar::new() })
    }

    /// The flag that [`stop`](Self::stop) sets.
    pub fn stop_flag(&self) -> Stop {
        self.stop.clone()
    }

    /// A seat for `conn`, or the reason why there is none.
    pub fn admit(self: &Arc<Self>, conn: &Arc<dyn Connection>) -> Result<Seat, String> {
        let node = conn.info().remote.node;
        let mut state = self.lock();
        if self.stop.is_set() {
            return Err("shutting down".into());
        }
        if state.live.len() >= self.max {
            return Err(format!("too many connections (max {}), try again later", self.max));
        }
        if state.live.values().filter(|(other, _)| *other == node).count() >= self.max_per_peer {
            return Err(format!("too many connections from your node (max {})", self.max_per_peer));
        }
        let number = state.next;
        state.next += 1;
        state.live.insert(number, (node, conn.clone()));
        Ok(Seat { connections: self.clone(), number })
    }

    /// Ends every connection: their readers are woken and see the flag.
    pub fn stop(&self) {
        self.stop.set();
        let live: Vec<_> = self.lock().live.values().map(|(_, conn)| conn.clone()).collect();
        for conn in live {
            conn.close();
        }
    }

    /// Waits until no connection is served any more, at most until `until`; gives how many are left.
    pub fn wait_until_empty(&self, until: Instant) -> usize {
        let mut state = self.lock();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if state.live.is_empty() || left == Duration::ZERO {
                return state.live.len();
            }
            state = self.ended.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one connection; free again when dropped.
pub(crate) struct Seat {
    connections: Arc<Connections>,
    number: u64,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.connections.lock().live.remove(&self.number);
        self.connections.ended.notify_all();
    }
}
