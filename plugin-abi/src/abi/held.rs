//! One of our objects while the other side holds it. Here because letting go of it without a trace takes unsafe code.

use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::sync::Arc;

use crate::guard;

/// A reference whose end is contained: the last one may go on the other side's thread, and a panic in our object's `Drop`
/// must not unwind into it. Without a flag for "let go of already", which every call would look at.
pub(crate) struct Held<T: ?Sized>(ManuallyDrop<Arc<T>>);

impl<T: ?Sized> Held<T> {
    pub(crate) fn new(object: Arc<T>) -> Self {
        Held(ManuallyDrop::new(object))
    }
}

impl<T: ?Sized> Deref for Held<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized> Drop for Held<T> {
    fn drop(&mut self) {
        // SAFETY: this is the only place that takes it, it runs once, and nobody sees the field after a drop.
        let object = unsafe { ManuallyDrop::take(&mut self.0) };
        if let Err(text) = guard::drop_contained(object) {
            tracing::error!(
                panic = text,
                "an object panicked while it was dropped by the other side of the border"
            );
        }
    }
}
