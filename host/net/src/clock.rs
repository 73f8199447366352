//! The one place that reads the monotonic clock for the engine. Engines get a number; tests make one up.

use std::time::Duration;

use pilot_engine::time::Instant;

/// Maps the system's monotonic clock onto the engine's time line, which starts when the clock is made.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    base: std::time::Instant,
}

impl Clock {
    /// A time line that starts now.
    pub fn start() -> Self {
        Clock { base: std::time::Instant::now() }
    }

    /// The present moment on the engine's time line.
    pub fn now(&self) -> Instant {
        Instant::from_nanos(u64::try_from(self.base.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// The runtime's instant at which the engine's `deadline` is due.
    pub fn deadline(&self, deadline: Instant) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.base + Duration::from_nanos(deadline.as_nanos()))
    }
}
