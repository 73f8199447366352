//! Whether the driver's thread sleeps, or looks a few times more first. Going to sleep and being woken takes longer than a
//! peer on the same network takes to answer; but who looks without end takes a whole core. So it looks again only while the
//! last sleeps were so short that looking would have been the cheaper way, and gives up after [`WINDOW`].
//!
//! Called by the driver between its turns. Knows nothing of what is waited for.

use std::time::Duration;

use pilot_engine::time::Instant;

/// How long to look: about what a sleep and a wake-up cost, twice (once for each end of a round trip). An idle node, and
/// one whose datagrams come more than this apart, never looks.
const WINDOW: Duration = Duration::from_micros(50);
/// Sleeps in a row that were shorter than that before looking begins.
const SHORT: u8 = 4;

/// What the last sleeps were like.
#[derive(Debug, Default)]
pub(super) struct Lookout {
    short: u8,
    until: Option<Instant>,
}

impl Lookout {
    /// A sleep took from `begin` to `end`; `woken`: by something to do, not by a timer.
    pub(super) fn slept(&mut self, begin: Instant, end: Instant, woken: bool) {
        let was_short = woken && end.since(begin) < WINDOW;
        self.short = if was_short { (self.short + 1).min(SHORT) } else { 0 };
        self.until = None;
    }

    /// A turn is over in which there was something to do, or not: whether to look again at once.
    pub(super) fn looks_again(&mut self, now: Instant, was_busy: bool) -> bool {
        if self.short < SHORT {
            return false;
        }
        if was_busy || self.until.is_none() {
            self.until = Some(now + WINDOW);
        }
        self.until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(us: u64) -> Instant {
        Instant::ZERO + Duration::from_micros(us)
    }

    #[test]
    fn looks_only_after_short_sleeps_and_not_for_long() {
        let mut lookout = Lookout::default();
        for n in 0..u64::from(SHORT) {
            assert!(!lookout.looks_again(at(n), true));
            lookout.slept(at(100 * n), at(100 * n + 49), true);
        }
        assert!(lookout.looks_again(at(1000), true) && lookout.looks_again(at(1049), false));
        assert!(lookout.looks_again(at(1049), true), "something came: from here on again");
        assert!(lookout.looks_again(at(1098), false) && !lookout.looks_again(at(1099), false));
        // What was waited for came soon after all: worth looking the next time too.
        lookout.slept(at(1100), at(1120), true);
        assert!(lookout.looks_again(at(1121), false));
    }

    #[test]
    fn one_long_sleep_or_a_timer_ends_it() {
        for (length, woken) in [(50, true), (10, false)] {
            let mut lookout = Lookout::default();
            (0..SHORT).for_each(|_| lookout.slept(at(0), at(1), true));
            assert!(lookout.looks_again(at(1), true));
            lookout.slept(at(0), at(length), woken);
            assert!(!lookout.looks_again(at(100), true));
        }
    }
}
