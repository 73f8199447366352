//! What time it is: for the events' time stamps and for the breaker. Pauses are not measured by it; they are waits with
//! a bound.

use std::time::Instant;

use jiff::Timestamp;

/// Tells the time, twice.
pub trait Clock: Send + Sync {
    /// The wall clock.
    fn now(&self) -> Timestamp;
    /// The monotonic clock.
    fn instant(&self) -> Instant;
}

/// The system's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn instant(&self) -> Instant {
        Instant::now()
    }
}
