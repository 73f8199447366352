//! Containment of panics. Everything that runs on behalf of the other side of the border, and every plugin thread made
//! by [`crate::task::spawn_thread`], runs inside [`catch`].
//!
//! It cannot contain `abort`, `exit`, a stack overflow, or a build with panic=abort.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `f`; a panic becomes `Err` with its text.
///
/// State that `f` changed half-way stays as it is: the caller decides whether to go on using it.
///
/// Inlined into each adapter: around a call that does not panic it costs nothing that can be measured.
#[inline]
pub fn catch<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(value) => Ok(value),
        Err(payload) => Err(defuse(payload)),
    }
}

#[cold]
fn defuse(payload: Box<dyn Any + Send>) -> String {
    let text = text_of(payload.as_ref());
    // Dropping the payload could panic again, this time outside of any guard.
    std::mem::forget(payload);
    text
}

/// Drops `value`; a panic in its `Drop` is swallowed and its text returned.
pub fn drop_contained<T>(value: T) -> Result<(), String> {
    catch(move || drop(value))
}

pub(crate) fn text_of(payload: &(dyn Any + Send)) -> String {
    if let Some(s) = payload.downcast_ref::<&'static str>() {
        (*s).to_owned()
    } else if let Some(s) = payload.downcast_ref::<String>() {
        s.clone()
    } else {
        "a payload that is not text".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("in drop");
        }
    }

    #[test]
    fn texts_of_all_payload_kinds() {
        assert_eq!(catch(|| 7), Ok(7));
        assert_eq!(catch(|| panic!("plain")), Err::<(), _>("plain".into()));
        assert_eq!(catch(|| panic!("with {}", 1)), Err::<(), _>("with 1".into()));
        let odd = catch(|| std::panic::panic_any(Bomb));
        assert_eq!(odd, Err::<(), _>("a payload that is not text".into()));
    }

    #[test]
    fn a_panic_in_drop_is_contained() {
        assert_eq!(drop_contained(Bomb), Err("in drop".into()));
    }
}
