//! Deadlines of peers and streams: a heap whose entries may be out of date.
//!
//! A deadline that moves later, as most do with every packet, costs nothing: the old entry stays, wakes the engine early,
//! and is replaced then. Only one that moves earlier is entered anew. Each owner notes the time of its valid entry.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::event::ConnId;
use crate::time::{Duration, Instant};

/// Whose deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    Conn(ConnId),
    Peer(u32),
}

/// The heap.
#[derive(Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Timer)>>,
}

impl Timers {
    /// Sees to it that `timer` fires at `deadline` or earlier. `entered` is its owner's note.
    pub(crate) fn arm(&mut self, timer: Timer, entered: &mut Option<Instant>, deadline: Option<Instant>) {
        if let Some(deadline) = deadline
            && entered.is_none_or(|at| deadline < at)
        {
            *entered = Some(deadline);
            self.heap.push(Reverse((deadline, timer)));
        }
    }

    /// As [`Timers::arm`], after the timer has fired: never before the next tick, so that a deadline nobody can meet does
    /// not keep the engine busy.
    pub(crate) fn rearm(
        &mut self,
        now: Instant,
        timer: Timer,
        entered: &mut Option<Instant>,
        deadline: Option<Instant>,
    ) {
        const TICK: Duration = Duration::from_millis(1);
        self.arm(timer, entered, deadline.map(|d| d.max(now + TICK)));
    }

    /// The first entry.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes the first entry that is due.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<(Instant, Timer)> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_is_free_and_earlier_is_entered() {
        let at = Instant::from_nanos;
        let (mut t, mut entered) = (Timers::default(), None);
        let timer = Timer::Peer(1);
        t.arm(timer, &mut entered, Some(at(50)));
        t.arm(timer, &mut entered, Some(at(90)));
        assert_eq!(t.heap.len(), 1);
        t.arm(timer, &mut entered, Some(at(20)));
        assert_eq!((t.heap.len(), t.next(), entered), (2, Some(at(20)), Some(at(20))));
        assert_eq!(t.pop_due(at(19)), None);
        assert_eq!(t.pop_due(at(60)), Some((at(20), timer)));
        assert_eq!(t.pop_due(at(60)), Some((at(50), timer)), "out of date: the owner ignores it");
    }
}
