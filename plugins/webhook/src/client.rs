//! Delivers events to one URL: a bounded queue and one worker, strictly in order (webhook.md section 2).
//!
//! Called by the manager, which makes a new client for each URL. Knows nothing of the bus or of HTTP.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use plugin_abi::{Daemon, Result, WebhookStats, spawn_thread};
use serde_json::Value;

use crate::body::{QueuedEvent, signature};
use crate::breaker::Breaker;
use crate::clock::Clock;
use crate::config::Config;
use crate::http::{Outcome, Transport};
use crate::lock;

/// Events that wait. When full the new event is dropped and counted.
pub const QUEUE: usize = 1024;
/// Attempts for one event.
const ATTEMPTS: u32 = 3;

/// One client; dropping it without [`close`](Self::close) abandons what is queued.
pub struct Client {
    shared: Arc<Shared>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    dropped: AtomicU64,
    skipped: AtomicU64,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<QueuedEvent>,
    last_id: u64,
    /// The worker has an event in hand.
    busy: bool,
    /// No more events are taken.
    closed: bool,
    /// The worker ends after the attempt it is in.
    abandoned: bool,
}

impl State {
    /// Events that are queued or being delivered.
    fn in_hand(&self) -> usize {
        self.queue.len() + usize::from(self.busy)
    }
}

impl Client {
    /// Starts the worker.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(
        daemon: Arc<dyn Daemon>,
        transport: impl Transport + 'static,
        config: &Config,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            dropped: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            clock,
        });
        let worker = Worker {
            shared: Arc::clone(&shared),
            transport,
            breaker: Breaker::new(config.cooldown),
            secret: config.secret.clone().into_bytes(),
            backoff: config.backoff,
        };
        let handle = spawn_thread(daemon, "webhook-worker", move || worker.run())?;
        Ok(Client { shared, worker: Mutex::new(Some(handle)) })
    }

    /// Queues an event; never blocks. After `close` nothing happens.
    pub fn emit(&self, topic: String, node_id: u32, data: Option<Value>) {
        let timestamp = self.shared.clock.now();
        let mut state = lock(&self.shared.state);
        if state.closed {
            return;
        }
        state.last_id += 1;
        if state.queue.len() >= QUEUE {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let event_id = state.last_id;
        state.queue.push_back(QueuedEvent { event_id, event: topic, node_id, timestamp, data });
        self.shared.changed.notify_all();
    }

    /// Counters since the start of this client.
    pub fn stats(&self) -> WebhookStats {
        WebhookStats {
            dropped: self.shared.dropped.load(Ordering::Relaxed),
            circuit_skips: self.shared.skipped.load(Ordering::Relaxed),
        }
    }

    /// Takes no more events and waits up to `patience` until the queued ones are worked off, with all their attempts.
    /// What is left then is given up; its number is the result. The attempt under way ends by its own timeout.
    pub fn close(&self, patience: Duration) -> usize {
        let deadline = Instant::now() + patience;
        lock(&self.shared.state).closed = true;
        self.shared.changed.notify_all();
        let mut state = self.idle(deadline);
        let left = state.in_hand();
        if left > 0 {
            state.abandoned = true;
            state.queue.clear();
            self.shared.changed.notify_all();
            return left;
        }
        drop(state);
        if let Some(worker) = lock(&self.worker).take() {
            // It has nothing left to do; its panic, if any, was reported.
            let _ = worker.join();
        }
        0
    }

    /// Waits until nothing is queued or in hand, or for the deadline.
    fn idle(&self, deadline: Instant) -> MutexGuard<'_, State> {
        let mut state = lock(&self.shared.state);
        while state.in_hand() > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let mut state = lock(&self.shared.state);
        state.closed = true;
        state.abandoned = true;
        self.shared.changed.notify_all();
    }
}

struct Worker<T> {
    shared: Arc<Shared>,
    transport: T,
    breaker: Breaker,
    secret: Vec<u8>,
    backoff: Duration,
}

/// Counts the event in hand as done, also when its delivery panics.
struct Busy<'a>(&'a Shared);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).busy = false;
        self.0.changed.notify_all();
    }
}

impl<T: Transport> Worker<T> {
    fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        while let Some(event) = self.next() {
            let _busy = Busy(&shared);
            if self.breaker.admits(shared.clock.instant()) {
                self.deliver(&event);
            } else {
                shared.skipped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn next(&self) -> Option<QueuedEvent> {
        let mut state = lock(&self.shared.state);
        loop {
            if state.abandoned {
                return None;
            }
            if let Some(event) = state.queue.pop_front() {
                state.busy = true;
                return Some(event);
            }
            if state.closed {
                return None;
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn deliver(&mut self, event: &QueuedEvent) {
        let body = event.body();
        let signature = (!self.secret.is_empty()).then(|| signature(&self.secret, body.as_bytes()));
        let mut cause = String::new();
        for attempt in 0..ATTEMPTS {
            if attempt > 0 && !self.pause(self.backoff * (1 << (attempt - 1))) {
                return;
            }
            match self.transport.post(body.as_bytes(), signature.as_deref()) {
                Outcome::Delivered => return self.breaker.succeeded(),
                Outcome::Refused(cause) => {
                    // Says nothing about whether the endpoint is alive.
                    let event_id = event.event_id;
                    return tracing::warn!(event_id, event = event.event, cause, "event refused and lost");
                }
                Outcome::Failed(why) => cause = why,
            }
        }
        let event_id = event.event_id;
        tracing::warn!(event_id, event = event.event, cause, "event lost after {ATTEMPTS} attempts");
        self.breaker.failed(self.shared.clock.instant());
    }

    /// Waits; `false` when the client was abandoned meanwhile.
    fn pause(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        let mut state = lock(&self.shared.state);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if state.abandoned || left.is_zero() {
                return !state.abandoned;
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
