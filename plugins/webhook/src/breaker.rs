//! The circuit breaker: five failures in a row stop the requests for a while (webhook.md section 2).
//!
//! | state | event arrives | success | failure |
//! |---|---|---|---|
//! | closed | try it | count = 0 | count + 1; at five: open |
//! | open | skip it | | |
//! | open, cooldown over | try it (the probe) | closed, count = 0 | open again at once |

use std::time::{Duration, Instant};

/// Failures in a row that open the breaker.
pub const THRESHOLD: u32 = 5;

/// The breaker of one client.
#[derive(Debug)]
pub struct Breaker {
    failures: u32,
    open_until: Option<Instant>,
    cooldown: Duration,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(cooldown: Duration) -> Self {
        Breaker { failures: 0, open_until: None, cooldown }
    }

    /// Whether an event may be tried now.
    pub fn admits(&self, now: Instant) -> bool {
        self.open_until.is_none_or(|until| now >= until)
    }

    /// An event arrived.
    pub fn succeeded(&mut self) {
        self.failures = 0;
        self.open_until = None;
    }

    /// An event was given up after its last attempt.
    pub fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= THRESHOLD {
            self.open_until = now.checked_add(self.cooldown);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fifth_failure_opens_and_a_failed_probe_opens_again() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut breaker = Breaker::new(30 * second);
        for _ in 0..4 {
            breaker.failed(start);
            assert!(breaker.admits(start));
        }
        breaker.failed(start);
        assert!(!breaker.admits(start + 29 * second));
        assert!(breaker.admits(start + 30 * second));
        breaker.failed(start + 30 * second);
        assert!(!breaker.admits(start + 59 * second));
        breaker.succeeded();
        assert!(breaker.admits(start + 59 * second));
        breaker.failed(start + 59 * second);
        assert!(breaker.admits(start + 59 * second), "counting starts anew");
    }
}
