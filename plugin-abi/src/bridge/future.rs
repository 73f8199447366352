//! Futures on their way across: a panic in a poll or in a drop ends the future, not the process that polls it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::api::BoxFuture;
use crate::guard;

/// Wraps `future`; when a poll panics, the output is `on_panic(text)`.
///
/// Used on both sides: where the future is made, so that the panic stays in its own library, and where it arrives,
/// because a library that does without this wrapper would panic in our poll.
pub(crate) fn contain<T: Send + 'static>(
    future: BoxFuture<T>,
    on_panic: impl FnOnce(String) -> T + Send + 'static,
) -> BoxFuture<T> {
    Box::pin(Contained { state: Some((future, Box::new(on_panic))) })
}

type OnPanic<T> = Box<dyn FnOnce(String) -> T + Send>;

struct Contained<T> {
    /// `None` once finished; it then never wakes again.
    state: Option<(BoxFuture<T>, OnPanic<T>)>,
}

impl<T> Future for Contained<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let Some((future, _)) = &mut self.state else { return Poll::Pending };
        match guard::catch(|| future.as_mut().poll(cx)) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(value)) => {
                self.discard();
                Poll::Ready(value)
            }
            Err(text) => match self.discard() {
                Some(on_panic) => Poll::Ready(on_panic(text)),
                None => Poll::Pending,
            },
        }
    }
}

impl<T> Contained<T> {
    /// Drops the future inside a guard and hands out what is to be done on a panic.
    fn discard(&mut self) -> Option<OnPanic<T>> {
        let (future, on_panic) = self.state.take()?;
        if let Err(text) = guard::drop_contained(future) {
            tracing::error!(panic = text, "a future panicked while it was dropped");
        }
        Some(on_panic)
    }
}

impl<T> Drop for Contained<T> {
    fn drop(&mut self) {
        self.discard();
    }
}
