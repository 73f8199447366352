//! How tasks and threads wake the driver's thread: one eventfd, written only when the driver really sleeps.
//!
//! The driver runs on a thread of its own and sleeps in `ppoll` on the tunnel socket and this descriptor. Whoever leaves
//! work for it (a command, stream bytes) leaves the work first and calls [`Waker::wake`] then; while the driver is busy
//! that costs one atomic swap.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// The driver works and will look at everything that was left before its turn began.
const BUSY: u8 = 0;
/// Something was left since then: it must not sleep before another turn.
const NOTED: u8 = 1;
/// It sleeps, or is about to.
const ASLEEP: u8 = 2;

/// The driver's alarm clock.
#[derive(Debug)]
pub(super) struct Waker {
    state: AtomicU8,
    event: OwnedFd,
}

impl Waker {
    /// # Errors
    /// When the process may have no more descriptors.
    pub(super) fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { state: AtomicU8::new(NOTED), event })
    }

    /// Sees to it that the driver looks at what was left before this call.
    pub(super) fn wake(&self) {
        if self.state.swap(NOTED, Ordering::AcqRel) == ASLEEP {
            // Fails only when the counter is at its limit, and then the descriptor is readable as it should be.
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }

    /// A turn begins: whether something was left since the last one. What is left from now on is noted anew.
    pub(super) fn begin_turn(&self) -> bool {
        self.state.swap(BUSY, Ordering::AcqRel) == NOTED
    }

    /// Whether the driver may sleep; if so, the next [`wake`](Self::wake) makes the descriptor readable.
    pub(super) fn may_sleep(&self) -> bool {
        self.state.compare_exchange(BUSY, ASLEEP, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The descriptor was readable: makes it quiet again.
    pub(super) fn hush(&self) {
        let _ = rustix::io::read(&self.event, &mut [0_u8; 8]);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    fn is_readable(waker: &Waker) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(waker, PollFlags::IN)], Some(&now)).unwrap() == 1
    }

    #[test]
    fn only_a_sleeper_costs_a_system_call() {
        let waker = Waker::new().unwrap();
        assert!(!waker.may_sleep(), "what was there before the first turn counts as noted");
        assert!(waker.begin_turn());
        waker.wake();
        assert!(!is_readable(&waker) && !waker.may_sleep());
        assert!(waker.begin_turn() && waker.may_sleep());
        waker.wake();
        waker.wake();
        assert!(is_readable(&waker));
        waker.hush();
        assert!(waker.begin_turn() && !waker.begin_turn());
        assert!(!is_readable(&waker) && waker.may_sleep());
    }
}
