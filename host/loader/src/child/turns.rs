//! Who reads next on a session's socket, without a lock: how many threads wait for their turn and how many there are.
//! Used by [`session`](super::session) alone, whose reader is a mutex; this keeps the books about who waits for it.
//!
//! The promise: **whoever leaves the reader because [`has_successor`](Turns::has_successor) said so leaves a thread behind
//! that takes it.** A waiting thread is counted before it waits and is taken off the count only by itself, when it has the
//! reader ([`took`](Turns::took)). So while one thread holds the reader the number cannot fall, and what that thread sees
//! above zero stays above zero until it lets go. For that the number must never be higher than the waiting threads, not for
//! a moment: [`rejoin`](Turns::rejoin) looks and counts in one step. `tests/turns-model` has loom run this very file through its interleavings.

use super::atomic::{AtomicUsize, Ordering};

/// Threads that wait for their turn at reading; more end when they have nothing to do.
const IDLE_THREADS: usize = 4;

/// The books of one session.
pub(super) struct Turns {
    /// Threads that wait for the reader, the one that holds it left out.
    idle: AtomicUsize,
    threads: AtomicUsize,
    most_idle: usize,
    most: usize,
}

impl Turns {
    /// For at most `most` threads.
    pub fn new(most: usize) -> Self {
        Self::with(most, IDLE_THREADS)
    }

    /// As [`new`](Self::new), with another number of threads that may wait.
    pub fn with(most: usize, most_idle: usize) -> Self {
        Turns { idle: AtomicUsize::new(0), threads: AtomicUsize::new(0), most_idle, most }
    }

    /// A thread that will wait for the reader is about to be made; `false` when there are enough.
    pub fn join(&self) -> bool {
        let counted = count(&self.threads, self.most);
        if counted {
            self.idle.fetch_add(1, Ordering::AcqRel);
        }
        counted
    }

    /// The thread of [`join`](Self::join) could not be made. Only whoever holds the reader may find that out.
    pub fn withdraw(&self) {
        self.idle.fetch_sub(1, Ordering::AcqRel);
        self.leave();
    }

    /// The calling thread has got the reader.
    pub fn took(&self) {
        self.idle.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether a thread waits that will have the reader next. Asked by whoever holds it.
    pub fn has_successor(&self) -> bool {
        self.idle.load(Ordering::Acquire) > 0
    }

    /// The calling thread has served its call. `true`: it is counted as waiting and must take the reader now; `false`:
    /// enough others wait, and it ends.
    pub fn rejoin(&self) -> bool {
        let counted = count(&self.idle, self.most_idle);
        if !counted {
            self.leave();
        }
        counted
    }

    /// The calling thread ends.
    pub fn leave(&self) {
        self.threads.fetch_sub(1, Ordering::AcqRel);
    }
}

/// One more, unless there are `most`; in one step.
fn count(number: &AtomicUsize, most: usize) -> bool {
    let next = |n| (n < most).then_some(n + 1);
    number.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).is_ok()
}
