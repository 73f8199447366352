//! Just enough of a runtime for `Daemon::spawn` and `Daemon::sleep`: one thread per future.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crate::api::BoxFuture;

/// Runs `future` on a thread of its own.
pub(super) fn spawn(mut future: BoxFuture<()>) {
    thread::spawn(move || {
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
            thread::spawn(move || {
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
