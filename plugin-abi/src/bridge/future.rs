//! Futures on their way across: a panic in a poll or in a drop ends the future, not the process that polls it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::guard;

/// Wraps `future`; its output, or the text of its panic, goes through `finish`.
///
/// Used on both sides: where the future is made, so that the panic stays in its own library, and where it arrives,
/// because a library that does without this wrapper would panic in our poll. Not boxed here: what takes the future
/// further boxes it once.
pub(crate) fn contain<F, P, T>(future: F, finish: P) -> Contained<F, P>
where
    F: Future + Unpin,
    P: FnOnce(Result<F::Output, String>) -> T,
{
    Contained { state: Some((future, finish)) }
}

/// See [`contain`].
pub(crate) struct Contained<F, P> {
    /// `None` once finished; it then never wakes again.
    state: Option<(F, P)>,
}

// The future inside is `Unpin` itself, and `finish` is never pinned.
impl<F: Unpin, P> Unpin for Contained<F, P> {}

impl<F, P, T> Future for Contained<F, P>
where
    F: Future + Unpin,
    P: FnOnce(Result<F::Output, String>) -> T,
{
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let this = self.get_mut();
        let Some((future, _)) = &mut this.state else { return Poll::Pending };
        let outcome = match guard::catch(|| Pin::new(future).poll(cx)) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(value)) => Ok(value),
            Err(text) => Err(text),
        };
        match this.discard() {
            Some(finish) => Poll::Ready(finish(outcome)),
            None => Poll::Pending,
        }
    }
}

impl<F, P> Contained<F, P> {
    /// Drops the future inside a guard and hands out what is to be done with its outcome.
    fn discard(&mut self) -> Option<P> {
        let (future, finish) = self.state.take()?;
        if let Err(text) = guard::drop_contained(future) {
            tracing::error!(panic = text, "a future panicked while it was dropped");
        }
        Some(finish)
    }
}

impl<F, P> Drop for Contained<F, P> {
    fn drop(&mut self) {
        self.discard();
    }
}
