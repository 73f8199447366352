//! Just enough of a runtime for `Daemon::spawn` and `Daemon::sleep` in the child: two threads that poll, one that keeps
//! time. All three start when they are first needed.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use plugin_abi::api::BoxFuture;

/// Threads that poll futures. One that blocks in a poll must not stop all.
const THREADS: usize = 2;

/// Futures that were spawned, and timers.
pub(super) struct Executor {
    ready: Mutex<VecDeque<Arc<Task>>>,
    work: Condvar,
    pollers: Once,
    timers: Mutex<BinaryHeap<Reverse<Timer>>>,
    tick: Condvar,
    clock: Once,
}

impl Default for Executor {
    fn default() -> Self {
        Executor {
            ready: Mutex::default(),
            work: Condvar::new(),
            pollers: Once::new(),
            timers: Mutex::default(),
            tick: Condvar::new(),
            clock: Once::new(),
        }
    }
}

/// A spawned future. Its place in the queue is taken at most once.
struct Task {
    future: Mutex<Option<BoxFuture<()>>>,
    queued: Mutex<bool>,
    executor: Arc<Executor>,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        let mut queued = lock(&self.queued);
        if !std::mem::replace(&mut *queued, true) {
            drop(queued);
            let executor = Arc::clone(&self.executor);
            lock(&executor.ready).push_back(self);
            executor.work.notify_one();
        }
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Executor {
    /// Runs `future` to its end on one of the threads.
    pub fn spawn(self: &Arc<Self>, future: BoxFuture<()>) {
        self.pollers.call_once(|| {
            for _ in 0..THREADS {
                let executor = Arc::clone(self);
                start("executor", move || executor.poll_tasks());
            }
        });
        let task =
            Task { future: Mutex::new(Some(future)), queued: Mutex::new(false), executor: Arc::clone(self) };
        Arc::new(task).wake();
    }

    /// Resolves after `duration`; a duration beyond the clock's range never ends.
    pub fn sleep(self: &Arc<Self>, duration: Duration) -> BoxFuture<()> {
        let until = Instant::now().checked_add(duration);
        Box::pin(Sleep { until, executor: Arc::clone(self), slot: None })
    }

    fn poll_tasks(&self) {
        loop {
            let mut ready = lock(&self.ready);
            let task = loop {
                match ready.pop_front() {
                    Some(task) => break task,
                    None => ready = self.work.wait(ready).unwrap_or_else(PoisonError::into_inner),
                }
            };
            drop(ready);
            // Before the poll: a wake during it queues the task again.
            *lock(&task.queued) = false;
            let waker = Waker::from(Arc::clone(&task));
            let mut place = lock(&task.future);
            let Some(future) = place.as_mut() else { continue };
            let polled = catch_unwind(AssertUnwindSafe(|| {
                future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending()
            }));
            if !matches!(polled, Ok(true)) {
                // The border contains panics of a plugin's futures; this is for one that slipped through.
                let _ = catch_unwind(AssertUnwindSafe(|| drop(place.take())));
            }
        }
    }

    fn wake_at(self: &Arc<Self>, at: Instant, slot: Arc<Mutex<Option<Waker>>>) {
        self.clock.call_once(|| {
            let executor = Arc::clone(self);
            start("timer", move || executor.keep_time());
        });
        lock(&self.timers).push(Reverse(Timer { at, slot }));
        self.tick.notify_one();
    }

    fn keep_time(&self) {
        let mut timers = lock(&self.timers);
        loop {
            let now = Instant::now();
            while timers.peek().is_some_and(|t| t.0.at <= now) {
                let Some(Reverse(timer)) = timers.pop() else { break };
                let waker = lock(&timer.slot).take();
                if let Some(waker) = waker {
                    drop(timers);
                    waker.wake();
                    timers = lock(&self.timers);
                }
            }
            timers = match timers.peek().map(|t| t.0.at.saturating_duration_since(now)) {
                None => self.tick.wait(timers).unwrap_or_else(PoisonError::into_inner),
                Some(left) => self.tick.wait_timeout(timers, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }
}

fn start(name: &str, f: impl FnOnce() + Send + 'static) {
    if std::thread::Builder::new().name(name.to_owned()).spawn(f).is_err() {
        tracing::error!(name, "the system has no thread to give");
    }
}

struct Timer {
    at: Instant,
    slot: Arc<Mutex<Option<Waker>>>,
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}
impl Eq for Timer {}
impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timer {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

struct Sleep {
    until: Option<Instant>,
    executor: Arc<Executor>,
    /// Shared with the timer, once there is one. A timer whose sleep was dropped finds it empty.
    slot: Option<Arc<Mutex<Option<Waker>>>>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(until) = self.until else { return Poll::Pending };
        if until <= Instant::now() {
            return Poll::Ready(());
        }
        match &self.slot {
            Some(slot) => *lock(slot) = Some(cx.waker().clone()),
            None => {
                let slot = Arc::new(Mutex::new(Some(cx.waker().clone())));
                self.slot = Some(Arc::clone(&slot));
                self.executor.wake_at(until, slot);
            }
        }
        // The timer may have rung between the look at the clock and the waker's way into the slot.
        if until <= Instant::now() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(slot) = &self.slot {
            lock(slot).take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn futures_run_and_sleep_in_order() {
        let executor = Arc::<Executor>::default();
        let (tx, rx) = mpsc::channel();
        for ms in [40u64, 5, 20] {
            let (tx, inner) = (tx.clone(), Arc::clone(&executor));
            executor.spawn(Box::pin(async move {
                inner.sleep(Duration::from_millis(ms)).await;
                tx.send(ms).unwrap();
            }));
        }
        executor.spawn(Box::pin(async { panic!("one that slipped through") }));
        assert_eq!([rx.recv().unwrap(), rx.recv().unwrap(), rx.recv().unwrap()], [5, 20, 40]);
    }

    #[test]
    fn a_wake_during_a_poll_is_not_lost() {
        let executor = Arc::<Executor>::default();
        let (tx, rx) = mpsc::channel();
        let mut left = 1000;
        executor.spawn(Box::pin(std::future::poll_fn(move |cx| {
            left -= 1;
            if left == 0 {
                tx.send(()).unwrap();
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })));
        rx.recv_timeout(Duration::from_secs(30)).unwrap();
    }
}
