//! A bounded queue that both async tasks and plain threads can wait on: plugins live on threads, the host on a runtime.
//! Used by the bus, listeners and streams. Never blocks a producer: a full queue says so.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Why [`Queue::push`] refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The queue holds its capacity.
    Full,
    /// The queue was closed.
    Closed,
}

/// What a timed wait gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited<T> {
    /// An item.
    Item(T),
    /// Nothing came in time.
    TimedOut,
    /// The queue is closed and empty.
    Closed,
}

struct State<T> {
    items: VecDeque<T>,
    closed: bool,
    dropped: u64,
}

/// A bounded first-in first-out queue. Items queued before `close` are still handed out.
pub struct Queue<T> {
    state: Mutex<State<T>>,
    capacity: usize,
    thread: Condvar,
    task: Notify,
}

impl<T> std::fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

impl<T> Queue<T> {
    /// A queue of at most `capacity` items.
    pub fn new(capacity: usize) -> Self {
        Queue {
            state: Mutex::new(State { items: VecDeque::new(), closed: false, dropped: 0 }),
            capacity,
            thread: Condvar::new(),
            task: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // A panic while the lock is held cannot leave the deque half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends, or gives the item back with the reason; a refusal for lack of room is counted.
    pub fn push(&self, item: T) -> Result<(), (T, Refused)> {
        let mut state = self.lock();
        if state.closed {
            return Err((item, Refused::Closed));
        }
        if state.items.len() >= self.capacity {
            state.dropped += 1;
            return Err((item, Refused::Full));
        }
        state.items.push_back(item);
        drop(state);
        self.thread.notify_one();
        self.task.notify_one();
        Ok(())
    }

    /// How many items wait.
    pub fn len(&self) -> usize {
        self.lock().items.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the oldest item if there is one.
    pub fn try_pop(&self) -> Option<T> {
        self.lock().items.pop_front()
    }

    /// Waits for an item; `None` once closed and empty.
    pub async fn pop(&self) -> Option<T> {
        loop {
            let notified = self.task.notified();
            {
                let mut state = self.lock();
                if let Some(item) = state.items.pop_front() {
                    let more = !state.items.is_empty() || state.closed;
                    drop(state);
                    if more {
                        // The permit may have been merged with another; pass it on.
                        self.task.notify_one();
                    }
                    return Some(item);
                }
                if state.closed {
                    self.task.notify_one();
                    return None;
                }
            }
            notified.await;
        }
    }

    /// Blocks this thread for at most `timeout` (`None`: for ever).
    pub fn pop_blocking(&self, timeout: Option<Duration>) -> Waited<T> {
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        let mut state = self.lock();
        loop {
            if let Some(item) = state.items.pop_front() {
                return Waited::Item(item);
            }
            if state.closed {
                return Waited::Closed;
            }
            state = match deadline {
                None => self.thread.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Waited::TimedOut;
                    }
                    self.thread.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Refuses further items and wakes all waiters. Idempotent.
    pub fn close(&self) {
        self.lock().closed = true;
        self.thread.notify_all();
        self.task.notify_one();
    }

    /// Closes, and takes what was queued with it: for a successor that gets those items first.
    pub fn close_and_take(&self) -> Vec<T> {
        let mut state = self.lock();
        state.closed = true;
        let items = state.items.drain(..).collect();
        drop(state);
        self.thread.notify_all();
        self.task.notify_one();
        items
    }

    /// Whether `close` was called.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// How many items were refused because the queue was full.
    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn full_queue_refuses_and_counts() {
        let q = Queue::new(1);
        assert!(q.push(1).is_ok());
        assert_eq!(q.push(2), Err((2, Refused::Full)));
        assert_eq!(q.dropped(), 1);
        assert_eq!(q.try_pop(), Some(1));
    }

    #[test]
    fn closed_queue_drains_then_ends() {
        let q = Queue::new(4);
        q.push(1).unwrap();
        q.close();
        assert_eq!(q.push(2), Err((2, Refused::Closed)));
        assert_eq!(q.pop_blocking(None), Waited::Item(1));
        assert_eq!(q.pop_blocking(None), Waited::Closed);
    }

    #[test]
    fn what_was_queued_can_go_to_a_successor() {
        let q = Queue::new(4);
        q.push(1).unwrap();
        q.push(2).unwrap();
        assert_eq!(q.close_and_take(), [1, 2]);
        assert_eq!(q.push(3), Err((3, Refused::Closed)));
        assert_eq!(q.pop_blocking(None), Waited::Closed);
    }

    #[test]
    fn timed_wait_ends() {
        let q = Queue::<u8>::new(1);
        assert_eq!(q.pop_blocking(Some(Duration::ZERO)), Waited::TimedOut);
    }

    #[tokio::test]
    async fn every_waiting_task_gets_its_item() {
        let q = Arc::new(Queue::new(64));
        let tasks: Vec<_> = (0..8)
            .map(|_| {
                let q = q.clone();
                tokio::spawn(async move { q.pop().await })
            })
            .collect();
        for i in 0..8 {
            q.push(i).unwrap();
        }
        let mut got = Vec::new();
        for t in tasks {
            got.push(t.await.unwrap().unwrap());
        }
        got.sort_unstable();
        assert_eq!(got, (0..8).collect::<Vec<_>>());
        q.close();
        assert_eq!(q.pop().await, None);
    }
}
