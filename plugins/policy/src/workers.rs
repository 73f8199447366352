//! Threads that expressions run on: with a stack that no expression within its limits can exhaust, and given up when one
//! takes too long (policy.md section 9). Called by `compiled`.
//!
//! A thread cannot be killed. One that does not come back in time is left to itself and replaced; when as many as
//! [`MAX_STUCK`] are in that state, new work is refused until one returns, so that a bad document costs a bounded number
//! of threads and its gates fail (closed, unless the document says otherwise).

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Nesting and operator limits allow a few hundred levels; the engine was measured at thousands of levels in this.
const STACK: usize = 64 << 20;
/// Threads that work at the same time.
const MAX_WORKING: usize = 4;
/// Threads given up at the same time.
const MAX_STUCK: usize = 4;
/// How long work waits for a free thread.
const PATIENCE: Duration = Duration::from_millis(100);

type Job = Box<dyn FnOnce() + Send>;
/// How a thread is reached. It travels with the job, so that a waiting thread holds none itself and ends when the last
/// one is dropped.
type Inbox = Sender<Message>;

struct Message {
    job: Job,
    back: Inbox,
}

/// The threads.
pub(crate) struct Workers {
    state: Mutex<State>,
    /// Notified when a thread becomes free or a stuck one returns.
    freed: Condvar,
}

#[derive(Default)]
struct State {
    idle: Vec<(u64, Inbox)>,
    /// Threads that are idle or work in time.
    alive: usize,
    /// Threads that were given up and still run.
    stuck: HashSet<u64>,
    next: u64,
    closed: bool,
}

/// Why work was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WorkError {
    /// It took too long.
    #[error("expression evaluation timed out")]
    TimedOut,
    /// It ended without a result.
    #[error("expression panic: see the log")]
    Panicked,
    /// It was not started.
    #[error("no thread to evaluate expressions: {0}")]
    NoThread(String),
}

/// The results of one piece of work, as they come.
pub(crate) struct Results<T> {
    workers: Arc<Workers>,
    worker: u64,
    receiver: Receiver<T>,
}

impl Workers {
    pub fn new() -> Arc<Workers> {
        Arc::new(Workers { state: Mutex::default(), freed: Condvar::new() })
    }

    /// Starts `work` on a thread; it hands its results to the function it is given.
    pub fn start<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&dyn Fn(T)) + Send + 'static,
    ) -> Result<Results<T>, WorkError> {
        let (worker, inbox) = self.take()?;
        let (results, receiver) = mpsc::channel();
        let job: Job = Box::new(move || {
            work(&|result| {
                // Nobody listens any more when the work was given up.
                let _ = results.send(result);
            });
        });
        let message = Message { job, back: inbox.clone() };
        inbox.send(message).map_err(|_| WorkError::NoThread("it ended".into()))?;
        Ok(Results { workers: self.clone(), worker, receiver })
    }

    /// Runs `work` to its end, at most for `time`.
    pub fn run<T: Send + 'static>(
        self: &Arc<Self>,
        time: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, WorkError> {
        let mut results = self.start(move |give: &dyn Fn(T)| give(work()))?;
        results.next(time)?.ok_or(WorkError::Panicked)
    }

    /// Ends idle threads, and working ones when they are done. Later work is refused.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.alive -= state.idle.len();
        state.idle.clear();
        self.freed.notify_all();
    }

    fn take(self: &Arc<Self>) -> Result<(u64, Inbox), WorkError> {
        let until = Instant::now() + PATIENCE;
        let mut state = self.lock();
        loop {
            if state.closed {
                return Err(WorkError::NoThread("shutting down".into()));
            }
            if state.stuck.len() >= MAX_STUCK {
                let text = format!("{MAX_STUCK} expressions do not end");
                return Err(WorkError::NoThread(text));
            }
            if let Some(idle) = state.idle.pop() {
                return Ok(idle);
            }
            if state.alive < MAX_WORKING {
                state.next += 1;
                state.alive += 1;
                let number = state.next;
                drop(state);
                return self.spawn(number);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(WorkError::NoThread("all are busy".into()));
            }
            state = self.freed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn spawn(self: &Arc<Self>, number: u64) -> Result<(u64, Inbox), WorkError> {
        let (inbox, messages) = mpsc::channel::<Message>();
        let workers = Arc::downgrade(self);
        let body = move || {
            while let Ok(Message { job, back }) = messages.recv() {
                // The panic hook has logged it; the caller sees that no result came.
                let _ = catch_unwind(AssertUnwindSafe(job));
                if !workers.upgrade().is_some_and(|w| w.returned(number, back)) {
                    return;
                }
            }
        };
        let spawned =
            std::thread::Builder::new().name("policy.expression".into()).stack_size(STACK).spawn(body);
        match spawned {
            Ok(_) => Ok((number, inbox)),
            Err(e) => {
                self.lock().alive -= 1;
                Err(WorkError::NoThread(e.to_string()))
            }
        }
    }

    /// A thread has finished its job; says whether it is to wait for another one.
    fn returned(&self, number: u64, inbox: Inbox) -> bool {
        let mut state = self.lock();
        self.freed.notify_all();
        if state.stuck.remove(&number) {
            return false;
        }
        if state.closed {
            state.alive -= 1;
            return false;
        }
        state.idle.push((number, inbox));
        true
    }

    fn give_up(&self, number: u64) {
        let mut state = self.lock();
        let is_back = state.closed || state.idle.iter().any(|(idle, _)| *idle == number);
        if !is_back && state.stuck.insert(number) {
            state.alive -= 1;
            tracing::warn!(stuck = state.stuck.len(), "an expression does not end; its thread was given up");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Results<T> {
    /// The next result within `time`; `None` when the work has ended. After an error there are no more.
    pub fn next(&mut self, time: Duration) -> Result<Option<T>, WorkError> {
        match self.receiver.recv_timeout(time) {
            Ok(result) => Ok(Some(result)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => {
                self.workers.give_up(self.worker);
                Err(WorkError::TimedOut)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    #[test]
    fn a_thread_is_used_again() {
        let workers = Workers::new();
        let names: Vec<_> =
            (0..20).map(|_| workers.run(LONG, || std::thread::current().id()).unwrap()).collect();
        let distinct: HashSet<_> = names.into_iter().collect();
        assert!(distinct.len() <= MAX_WORKING);
    }

    #[test]
    fn results_come_one_by_one() {
        let workers = Workers::new();
        let mut results = workers.start(|give: &dyn Fn(u32)| (1..=3).for_each(give)).unwrap();
        let mut got = Vec::new();
        while let Some(n) = results.next(LONG).unwrap() {
            got.push(n);
        }
        assert_eq!(got, [1, 2, 3]);
    }

    #[test]
    fn what_does_not_end_is_given_up_and_bounded() {
        let workers = Workers::new();
        let (release, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        for _ in 0..MAX_STUCK {
            let gate = gate.clone();
            let wait = move || {
                let _ = gate.lock().unwrap_or_else(PoisonError::into_inner).recv();
            };
            assert_eq!(workers.run(Duration::from_millis(1), wait), Err(WorkError::TimedOut));
        }
        let refused = workers.run(LONG, || ()).unwrap_err();
        assert!(matches!(refused, WorkError::NoThread(_)), "{refused}");
        // One comes back: there is work again.
        release.send(()).unwrap();
        let mut state = workers.lock();
        while state.stuck.len() >= MAX_STUCK {
            state = workers.freed.wait(state).unwrap();
        }
        drop(state);
        assert_eq!(workers.run(LONG, || 5), Ok(5));
    }

    #[test]
    fn a_panic_costs_the_result_only() {
        let workers = Workers::new();
        assert_eq!(workers.run(LONG, || -> u8 { panic!("as the test wants") }), Err(WorkError::Panicked));
        assert_eq!(workers.run(LONG, || 5), Ok(5));
    }

    #[test]
    fn nothing_runs_after_the_end() {
        struct OnExit(Sender<()>);
        impl Drop for OnExit {
            fn drop(&mut self) {
                let _ = self.0.send(());
            }
        }
        thread_local!(static EXIT: std::cell::RefCell<Option<OnExit>> = const { std::cell::RefCell::new(None) });

        let workers = Workers::new();
        let (exit, exited) = mpsc::channel();
        workers.run(LONG, move || EXIT.set(Some(OnExit(exit)))).unwrap();
        workers.close();
        assert!(workers.run(LONG, || 5).is_err());
        exited.recv_timeout(LONG).expect("the thread has ended");
    }

    #[test]
    fn the_stack_is_deep() {
        fn down(n: u32) -> u32 {
            let room = std::hint::black_box([n; 256]);
            if n == 0 { room[0] } else { down(n - 1) + 1 }
        }
        assert_eq!(Workers::new().run(LONG, || down(20_000)), Ok(20_000));
    }
}
