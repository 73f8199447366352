//! Just enough of a runtime for `Daemon::spawn` and `Daemon::sleep`: one thread per future.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crate::api::BoxFuture;

/// The threads of spawned futures, as the system names them: what looks for threads that were left behind wants to know.
pub const SPAWN_THREAD: &str = "fake-spawn";
/// The threads of [`Daemon::sleep`](crate::Daemon::sleep); they end when the time is over, whoever still waits.
pub const SLEEP_THREAD: &str = "fake-sleep";

/// Runs `future` on a thread of its own.
pub(super) fn spawn(mut future: BoxFuture<()>) {
    named(SPAWN_THREAD, move || {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut cx = Context::from_waker(&waker);
        while future.as_mut().poll(&mut cx).is_pending() {
            thread::park();
        }
    });
}

/// A future that a timer thread completes.
pub(super) fn sleep(duration: Duration) -> BoxFuture<()> {
    Box::pin(Sleep { until: Instant::now().checked_add(duration), waker: Arc::default(), started: false })
}

fn named(name: &str, f: impl FnOnce() + Send + 'static) {
    // As `thread::spawn`, which has no name to give: a test process without a thread to spare is no place to go on.
    thread::Builder::new().name(name.to_owned()).spawn(f).expect("the system has a thread for a test");
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

struct Sleep {
    until: Option<Instant>,
    waker: Arc<Mutex<Option<Waker>>>,
    started: bool,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // A duration beyond the clock's range never ends.
        let Some(until) = self.until else { return Poll::Pending };
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Poll::Ready(());
        }
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        if !self.started {
            self.started = true;
            let waker = Arc::clone(&self.waker);
            named(SLEEP_THREAD, move || {
                thread::sleep(left);
                let waker = waker.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(waker) = waker {
                    waker.wake();
                }
            });
        }
        Poll::Pending
    }
}
