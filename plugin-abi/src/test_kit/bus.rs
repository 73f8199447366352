//! An event bus with the contract's rules (plugin-contract.md section 4).

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::api::Subscription;
use crate::types::Event;
use crate::{Error, ErrorKind, Result};

/// Events that a subscriber may leave unread; the next ones are dropped for it.
pub const BUS_BUFFER: usize = 1024;

/// Whether `pattern` selects `topic`: `*` or empty everything, `a.*` everything below `a`, else exact equality.
pub fn topic_matches(pattern: &str, topic: &str) -> bool {
    match pattern {
        "" | "*" => true,
        _ => match pattern.strip_suffix(".*") {
            Some(prefix) => topic.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.')),
            None => pattern == topic,
        },
    }
}

/// The subscribers; the daemon makes the events.
#[derive(Default)]
pub(super) struct Subscribers(Mutex<Vec<Arc<Queue>>>);

impl Subscribers {
    pub(super) fn deliver(&self, event: &Event) {
        let queues: Vec<_> = {
            let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            queues.retain(|q| !q.lock().cancelled);
            queues.iter().filter(|q| topic_matches(&q.pattern, &event.topic)).cloned().collect()
        };
        for queue in queues {
            let mut state = queue.lock();
            if !state.cancelled && state.events.len() < BUS_BUFFER {
                state.events.push_back(event.clone());
                queue.changed.notify_all();
            }
        }
    }

    pub(super) fn subscribe(&self, pattern: &str) -> Arc<dyn Subscription> {
        let queue =
            Arc::new(Queue { pattern: pattern.to_owned(), state: Mutex::default(), changed: Condvar::new() });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&queue));
        Arc::new(Handle(queue))
    }

    /// How many subscriptions are alive.
    pub(super) fn count(&self) -> usize {
        let queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        queues.iter().filter(|q| !q.lock().cancelled).count()
    }
}

struct Queue {
    pattern: String,
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    events: VecDeque<Event>,
    cancelled: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The subscriber's end; dropping it cancels.
struct Handle(Arc<Queue>);

impl Subscription for Handle {
    fn recv(&self, timeout: Duration) -> Result<Option<Event>> {
        let deadline = Instant::now().checked_add(timeout);
        let mut state = self.0.lock();
        loop {
            if let Some(event) = state.events.pop_front() {
                return Ok(Some(event));
            }
            if state.cancelled {
                return Err(Error::new(ErrorKind::Closed, "subscription cancelled"));
            }
            let left = deadline.map_or(Duration::MAX, |d| d.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Ok(None);
            }
            state = self.0.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn cancel(&self) {
        self.0.lock().cancelled = true;
        self.0.changed.notify_all();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.cancel();
    }
}
