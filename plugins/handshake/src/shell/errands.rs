//! Registry calls that nobody waits for: a bounded queue and one worker, so that they reach the registry in the order
//! in which they were decided.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

use super::lock;
use crate::protocol::effect::Errand;

/// Most errands that wait. When full the new one is dropped with a warning: the daemon reports all trust again when it
/// registers again, and a peer asks again.
pub const MAX_ERRANDS: usize = 1024;

/// The queue.
#[derive(Default)]
pub struct Errands {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Errand>,
    busy: bool,
    closed: bool,
}

impl Errands {
    /// Queues an errand; `false` when it was dropped.
    pub fn push(&self, errand: Errand) -> bool {
        let mut state = lock(&self.state);
        if state.closed || state.waiting.len() >= MAX_ERRANDS {
            return false;
        }
        state.waiting.push_back(errand);
        self.changed.notify_all();
        true
    }

    /// The worker's loop: runs `f` for each errand until the queue is closed and empty.
    pub fn run(&self, mut f: impl FnMut(Errand)) {
        while let Some(errand) = self.next() {
            // Marked idle again also when `f` panics: a drain must not wait for a dead worker.
            let _busy = Busy(self);
            f(errand);
        }
    }

    fn next(&self) -> Option<Errand> {
        let mut state = lock(&self.state);
        loop {
            if let Some(errand) = state.waiting.pop_front() {
                state.busy = true;
                return Some(errand);
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes no more, waits until everything queued is done, and gives up on the rest at `deadline`. The number given
    /// up.
    pub fn drain(&self, deadline: Instant) -> usize {
        let mut state = lock(&self.state);
        state.closed = true;
        self.changed.notify_all();
        while state.busy || !state.waiting.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let given_up = state.waiting.len() + usize::from(state.busy);
                state.waiting.clear();
                return given_up;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        0
    }
}

struct Busy<'a>(&'a Errands);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).busy = false;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn in_order_until_drained() {
        let errands = Errands::default();
        for peer in 0..5 {
            assert!(errands.push(Errand::ReportTrust(peer)));
        }
        let mut done = Vec::new();
        std::thread::scope(|s| {
            s.spawn(|| errands.run(|e| done.push(e)));
            assert_eq!(errands.drain(Instant::now() + Duration::from_secs(10)), 0);
        });
        assert_eq!(done, (0..5).map(Errand::ReportTrust).collect::<Vec<_>>());
        assert!(!errands.push(Errand::ReportTrust(9)), "closed");
    }

    #[test]
    fn bounded_in_number_and_in_patience() {
        let errands = Errands::default();
        for peer in 0..MAX_ERRANDS as u32 {
            assert!(errands.push(Errand::ReportTrust(peer)));
        }
        assert!(!errands.push(Errand::ReportTrust(9)));
        assert_eq!(errands.drain(Instant::now()), MAX_ERRANDS, "nobody works");
    }
}
