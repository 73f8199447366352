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
use crate::spool::Spool;

/// Events that wait. When full the new event is dropped and counted.
pub const QUEUE: usize = 1024;
/// Attempts for one event.
const ATTEMPTS: u32 = 3;
/// How often a spool looks whether the breaker lets it go on.
const SPOOL_LOOK: Duration = Duration::from_millis(100);

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
    /// In memory; unused with a spool.
    queue: VecDeque<Waiting>,
    spool: Option<Spool>,
    last_id: u64,
    /// The worker has an event in hand.
    busy: bool,
    /// No more events are taken.
    closed: bool,
    /// The worker ends after the attempt it is in.
    abandoned: bool,
}

/// An event in its final form.
struct Waiting {
    topic: String,
    body: String,
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Delivered, or refused for good.
    Done,
    /// Given up after its last attempt.
    Failed,
    /// The client was abandoned in between.
    Cut,
}

impl State {
    /// Events that are queued or being delivered.
    fn in_hand(&self) -> usize {
        let spooled = self.spool.as_ref().is_some_and(|spool| !self.abandoned && !spool.is_empty());
        self.queue.len() + usize::from(self.busy || spooled)
    }

    /// `false`: there is no room.
    fn push(&mut self, topic: String, body: String) -> bool {
        match &mut self.spool {
            Some(spool) => spool.push(&body),
            None if self.queue.len() >= QUEUE => false,
            None => {
                self.queue.push_back(Waiting { topic, body });
                true
            }
        }
    }

    /// The next event; one of the spool stays there until [`done`](Self::done).
    fn take(&mut self) -> Option<Waiting> {
        match &self.spool {
            Some(spool) => {
                spool.front().map(|body| Waiting { topic: "spooled".into(), body: body.to_owned() })
            }
            None => self.queue.pop_front(),
        }
    }

    fn done(&mut self) {
        if let Some(spool) = &mut self.spool {
            spool.pop();
        }
    }
}

impl Client {
    /// Starts the worker. With a `spool` events wait on disk, and none is lost because the endpoint is away.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(
        daemon: Arc<dyn Daemon>,
        transport: impl Transport + 'static,
        config: &Config,
        clock: Arc<dyn Clock>,
        spool: Option<Spool>,
    ) -> Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State { spool, ..State::default() }),
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
        let event = QueuedEvent { event_id: state.last_id, event: topic, node_id, timestamp, data };
        let body = event.body();
        if state.push(event.event, body) {
            self.shared.changed.notify_all();
        } else {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counters since the start of this client.
    pub fn stats(&self) -> WebhookStats {
        WebhookStats {
            dropped: self.shared.dropped.load(Ordering::Relaxed),
            circuit_skips: self.shared.skipped.load(Ordering::Relaxed),
        }
    }

    /// Takes no more events and waits up to `patience` until the queued ones are worked off, with all their attempts.
    /// What is left then is given up; its number is the result. With a spool nothing is given up, and an endpoint that
    /// fails is not waited for. The attempt under way ends by its own timeout.
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
            // What is on disk is not given up: the next start delivers it.
            return if state.spool.is_some() { 0 } else { left };
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
        let spools = lock(&shared.state).spool.is_some();
        while let Some(event) = self.next() {
            let _busy = Busy(&shared);
            if !self.breaker.admits(shared.clock.instant()) {
                if spools {
                    // It stays where it is; the end of the cooldown is looked for now and then.
                    if !self.pause(SPOOL_LOOK) || self.gives_up() {
                        return;
                    }
                } else {
                    shared.skipped.fetch_add(1, Ordering::Relaxed);
                }
                continue;
            }
            match self.deliver(&event, spools) {
                End::Done => {
                    let mut state = lock(&shared.state);
                    if state.abandoned {
                        // Another client may have the spool by now; it delivers this one once more.
                        return;
                    }
                    state.done();
                }
                End::Cut => return,
                End::Failed if spools && self.gives_up() => return,
                End::Failed => {}
            }
        }
    }

    /// With a spool, an end that is asked for does not wait for an endpoint that fails.
    fn gives_up(&self) -> bool {
        let mut state = lock(&self.shared.state);
        if state.closed {
            state.abandoned = true;
            self.shared.changed.notify_all();
        }
        state.closed
    }

    fn next(&self) -> Option<Waiting> {
        let mut state = lock(&self.shared.state);
        loop {
            if state.abandoned {
                return None;
            }
            if let Some(event) = state.take() {
                state.busy = true;
                return Some(event);
            }
            if state.closed {
                return None;
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn deliver(&mut self, event: &Waiting, spools: bool) -> End {
        let body = event.body.as_bytes();
        let signature = (!self.secret.is_empty()).then(|| signature(&self.secret, body));
        let topic = &event.topic;
        let mut cause = String::new();
        for attempt in 0..ATTEMPTS {
            if attempt > 0 && !self.pause(self.backoff * (1 << (attempt - 1))) {
                return End::Cut;
            }
            match self.transport.post(body, signature.as_deref()) {
                Outcome::Delivered => {
                    self.breaker.succeeded();
                    return End::Done;
                }
                Outcome::Refused(cause) => {
                    // Says nothing about whether the endpoint is alive.
                    tracing::warn!(event = topic, cause, "event refused and lost");
                    return End::Done;
                }
                Outcome::Failed(why) => cause = why,
            }
        }
        let fate = if spools { "waits on disk" } else { "lost" };
        tracing::warn!(event = topic, cause, "event {fate} after {ATTEMPTS} attempts");
        self.breaker.failed(self.shared.clock.instant());
        End::Failed
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
