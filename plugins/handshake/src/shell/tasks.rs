//! The plugin's threads: who starts one counts it, everybody can learn that it is time to end, and the end is waited
//! for with a bound.

use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use plugin_abi::{Daemon, Result, spawn_thread};

use super::lock;

/// A group of threads with one end.
#[derive(Default)]
pub struct Tasks {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    running: usize,
    closed: bool,
    handles: Vec<JoinHandle<()>>,
}

/// Counts one thread down when it ends, also by a panic.
struct Running(Arc<Tasks>);

impl Drop for Running {
    fn drop(&mut self) {
        lock(&self.0.state).running -= 1;
        self.0.changed.notify_all();
    }
}

impl Tasks {
    /// Starts a thread in the group. Panics in it are contained and reported to the daemon.
    pub fn spawn(
        self: &Arc<Self>,
        daemon: Arc<dyn Daemon>,
        name: &str,
        f: impl FnOnce() + Send + 'static,
    ) -> Result<()> {
        lock(&self.state).running += 1;
        let running = Running(Arc::clone(self));
        let handle = spawn_thread(daemon, name, move || {
            let _running = running;
            f();
        })?;
        let mut state = lock(&self.state);
        state.handles.retain(|h| !h.is_finished());
        state.handles.push(handle);
        Ok(())
    }

    /// Waits until fewer than `limit` threads run. `false`: the group was closed instead.
    pub fn admit(&self, limit: usize) -> bool {
        let mut state = lock(&self.state);
        while !state.closed && state.running >= limit {
            state = self.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        !state.closed
    }

    /// Says that it is time to end.
    pub fn close(&self) {
        lock(&self.state).closed = true;
        self.changed.notify_all();
    }

    /// Whether it is time to end.
    pub fn is_closed(&self) -> bool {
        lock(&self.state).closed
    }

    /// Waits until all threads ended; the number of those that did not by `deadline`.
    pub fn join(&self, deadline: Instant) -> usize {
        let mut state = lock(&self.state);
        while state.running > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return state.running;
            }
            state =
                self.changed.wait_timeout(state, left).unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
        let handles = std::mem::take(&mut state.handles);
        drop(state);
        for handle in handles {
            // Each is past its last statement of ours; its panic, if any, was reported.
            let _ = handle.join();
        }
        0
    }
}
