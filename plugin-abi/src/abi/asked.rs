//! An object of the other side that is asked through its `bare_...` methods ([`traits`](super::traits)).

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The object, and one flag for all that speaks against asking it. What a call looks at is that flag alone: whether the
/// object has the methods was looked at once, when it came.
pub(crate) struct Asked<A> {
    object: A,
    /// Set: it may not be asked. Clear: it may, and its table has every `bare_...` method.
    closed: Arc<AtomicBool>,
}

/// What has `bare_...` methods, unless it is of treaty 1.0.
pub(crate) trait Bare {
    /// Whether the table has all of them.
    fn has_bare(&self) -> bool;
}

impl<A: Bare> Asked<A> {
    /// `failed` is set when the other side has failed, and never cleared.
    pub(crate) fn new(object: A, failed: Arc<AtomicBool>) -> Self {
        let closed = if object.has_bare() { failed } else { Arc::new(AtomicBool::new(true)) };
        Asked { object, closed }
    }

    /// Whether it may be asked. If so, the table has every `bare_...` method.
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        !self.closed.load(Ordering::Acquire)
    }
}

impl<A> Deref for Asked<A> {
    type Target = A;

    #[inline]
    fn deref(&self) -> &A {
        &self.object
    }
}

/// The questions of one interface: each calls its `bare_...` method, or says that it may not be asked. The methods that
/// `#[sabi_trait]` generates look for theirs in each call, and answer with the default body where it is missing.
macro_rules! asked {
    (
        $generated:ident for $arc:ident;
        $($asks:ident is $bare:ident($($name:ident: $type:ty),*) -> $answer:ty;)+
    ) => {
        impl super::asked::Bare for $arc {
            fn has_bare(&self) -> bool {
                let table = $generated::VTable_Ref(self.obj.sabi_et_vtable());
                $(table.$bare().is_some())&&+
            }
        }

        impl super::Asked<$arc> {
            $(
                #[inline]
                pub(crate) fn $asks(&self $(, $name: $type)*) -> Option<$answer> {
                    if !self.is_open() {
                        return None;
                    }
                    let method = $generated::VTable_Ref(self.obj.sabi_et_vtable()).$bare();
                    // SAFETY: `is_open` says that the table has the method, which `has_bare` saw there; tables are
                    // statics that never change.
                    let method = unsafe { method.unwrap_unchecked() };
                    // SAFETY: the table was made together with the object (`from_ptr`) and both are kept together in
                    // `obj`, so its methods take this object; the interface is the checked one.
                    Some(unsafe { method(self.obj.sabi_as_rref() $(, $name)*) })
                }
            )+
        }
    };
}
pub(super) use asked;
