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

    // ---- every interleaving: the two lock-free protocols of this crate (this state, and a pipe's "dirty" flag), as
    // machines of single atomic steps. Each has one atomic that is only changed by read-modify-write or by its one
    // reader, so steps in some order are all that the hardware can do.

    /// Visits every state that can be reached; a state from which nothing can happen is an end.
    fn explore<S: Clone + Eq + std::hash::Hash>(
        start: S,
        next: impl Fn(&S) -> Vec<S>,
        mut end: impl FnMut(&S),
    ) -> usize {
        let mut seen = std::collections::HashSet::from([start.clone()]);
        let mut open = vec![start];
        while let Some(state) = open.pop() {
            let following = next(&state);
            if following.is_empty() {
                end(&state);
            }
            open.extend(following.into_iter().filter(|s| seen.insert(s.clone())));
        }
        seen.len()
    }

    /// Two that leave work and wake, and the driver that takes it and sleeps.
    #[derive(Clone, PartialEq, Eq, Hash)]
    struct Alarm {
        state: u8,
        readable: bool,
        work: u8,
        driver: u8,
        wakers: [u8; 2],
    }

    fn alarm_steps(s: &Alarm, looks_first: bool) -> Vec<Alarm> {
        let mut all = Vec::new();
        for (i, at) in s.wakers.iter().enumerate() {
            let mut n = s.clone();
            match at {
                0 => {
                    n.work += 1;
                    n.wakers[i] = 1;
                }
                1 => {
                    n.wakers[i] = if n.state == ASLEEP { 2 } else { 3 };
                    n.state = NOTED;
                }
                2 => {
                    n.readable = true;
                    n.wakers[i] = 3;
                }
                _ => continue,
            }
            all.push(n);
        }
        let mut n = s.clone();
        let (begin, look) = if looks_first { (1, 0) } else { (0, 1) };
        match s.driver {
            at if at == begin => {
                n.state = BUSY;
                n.driver += 1;
            }
            at if at == look => {
                n.work = 0;
                n.driver += 1;
            }
            2 if s.state == BUSY => {
                n.state = ASLEEP;
                n.driver = 3;
            }
            2 => n.driver = 0,
            _ if s.readable => {
                n.readable = false;
                n.driver = 0;
            }
            _ => return all,
        }
        all.push(n);
        all
    }

    #[test]
    fn no_interleaving_loses_a_wake_up() {
        let start = Alarm { state: NOTED, readable: false, work: 0, driver: 0, wakers: [0, 0] };
        let states = explore(start.clone(), |s| alarm_steps(s, false), |end| assert_eq!(end.work, 0));
        assert!(states > 100, "{states} states");
        // The same with the driver's two steps the wrong way round: the explorer sees what is lost.
        let mut lost = false;
        explore(start, |s| alarm_steps(s, true), |end| lost |= end.work > 0);
        assert!(lost);
    }

    /// Two that put bytes into a pipe and mark it, and the driver that takes marked pipes.
    #[derive(Clone, PartialEq, Eq, Hash)]
    struct Marked {
        dirty: bool,
        listed: u8,
        bytes: u8,
        driver: u8,
        writers: [u8; 2],
    }

    fn marked_steps(s: &Marked, clears_last: bool) -> Vec<Marked> {
        let mut all = Vec::new();
        for (i, at) in s.writers.iter().enumerate() {
            let mut n = s.clone();
            match at {
                0 => {
                    n.bytes += 1;
                    n.writers[i] = 1;
                }
                1 => {
                    n.writers[i] = if n.dirty { 3 } else { 2 };
                    n.dirty = true;
                }
                2 => {
                    n.listed += 1;
                    n.writers[i] = 3;
                }
                _ => continue,
            }
            all.push(n);
        }
        let mut n = s.clone();
        let (clear, take) = if clears_last { (2, 1) } else { (1, 2) };
        match s.driver {
            0 if s.listed > 0 => {
                n.listed -= 1;
                n.driver = 1;
            }
            0 => return all,
            at if at == clear => n.dirty = false,
            at if at == take => n.bytes = 0,
            _ => return all,
        }
        if s.driver > 0 {
            n.driver = (s.driver + 1) % 3;
        }
        all.push(n);
        all
    }

    #[test]
    fn no_interleaving_leaves_bytes_in_a_pipe_that_is_not_listed() {
        let start = Marked { dirty: false, listed: 0, bytes: 0, driver: 0, writers: [0, 0] };
        explore(start.clone(), |s| marked_steps(s, false), |end| assert_eq!(end.bytes, 0));
        let mut lost = false;
        explore(start, |s| marked_steps(s, true), |end| lost |= end.bytes > 0);
        assert!(lost, "clearing after taking would lose bytes");
    }
}
