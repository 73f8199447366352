//! A token bucket: so many a second, with one second's worth at once.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Lets `rate` calls a second pass; 0 lets all pass.
pub(super) struct Bucket {
    rate: u32,
    state: Mutex<State>,
}

struct State {
    tokens: f64,
    at: Instant,
    suppressed: u64,
}

impl Bucket {
    pub(super) fn new(rate: u32) -> Self {
        let state = State { tokens: f64::from(rate), at: Instant::now(), suppressed: 0 };
        Bucket { rate, state: Mutex::new(state) }
    }

    pub(super) fn rate(&self) -> u32 {
        self.rate
    }

    /// Whether this one passes; one that does not is counted.
    pub(super) fn take(&self) -> bool {
        self.rate == 0 || self.take_at(Instant::now())
    }

    fn take_at(&self, now: Instant) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let gained = now.saturating_duration_since(state.at).as_secs_f64() * f64::from(self.rate);
        state.tokens = (state.tokens + gained).min(f64::from(self.rate));
        state.at = now;
        if state.tokens >= 1.0 {
            state.tokens -= 1.0;
            return true;
        }
        state.suppressed += 1;
        false
    }

    /// How many did not pass since this was asked last.
    pub(super) fn suppressed(&self) -> u64 {
        std::mem::take(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner).suppressed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_second_at_once_then_at_the_rate() {
        let bucket = Bucket::new(3);
        let start = bucket.state.lock().unwrap().at;
        let passed = |at: Instant| (0..5).filter(|_| bucket.take_at(at)).count();
        assert_eq!(passed(start), 3);
        assert_eq!(bucket.suppressed(), 2);
        assert_eq!(passed(start + Duration::from_millis(400)), 1);
        assert_eq!(passed(start + Duration::from_secs(60)), 3, "idle time is not saved up");
        assert_eq!(bucket.suppressed(), 6);
        assert_eq!(bucket.suppressed(), 0);
        assert!((0..1000).all(|_| Bucket::new(0).take()));
    }
}
