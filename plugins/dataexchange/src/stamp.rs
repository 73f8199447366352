//! Times and numbers: the stamp and sequence number in file names, the `received_at` of a message, the nanoseconds of a
//! timing reply. Called by the stores and the session.
//!
//! The clock is an object, so that tests say what time it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Where the plugin gets the time from.
pub(crate) trait Clock: Send + Sync {
    /// The time of day.
    fn wall(&self) -> Timestamp;
    /// Time that only moves forward, from an arbitrary start.
    fn monotonic(&self) -> Duration;
}

/// The clock of this machine.
pub(crate) struct SystemClock(Instant);

impl SystemClock {
    pub fn new() -> Self {
        SystemClock(Instant::now())
    }
}

impl Clock for SystemClock {
    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Names what arrives: one sequence for messages and files alike, from 1 at each start (dataexchange.md section 3).
pub(crate) struct Stamps {
    clock: Arc<dyn Clock>,
    zone: TimeZone,
    last: AtomicU64,
}

impl Stamps {
    pub fn new(clock: Arc<dyn Clock>, zone: TimeZone) -> Self {
        Stamps { clock, zone, last: AtomicU64::new(0) }
    }

    /// `YYYYMMDD-HHMMSS.mmm` in local time, milliseconds cut.
    pub fn stamp(&self) -> String {
        let now = self.clock.wall();
        let local = now.to_zoned(self.zone.clone());
        format!("{}.{:03}", local.strftime("%Y%m%d-%H%M%S"), local.millisecond())
    }

    /// The next number, from 1.
    pub fn next(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The time of day as RFC 3339 with up to nine fractional digits and the local offset, `Z` for UTC.
    pub fn rfc3339(&self) -> String {
        let local = self.clock.wall().to_zoned(self.zone.clone());
        let mut text = local.strftime("%Y-%m-%dT%H:%M:%S").to_string();
        let nanoseconds = local.subsec_nanosecond();
        if nanoseconds != 0 {
            text.push('.');
            text.push_str(format!("{nanoseconds:09}").trim_end_matches('0'));
        }
        if local.offset().is_zero() {
            text.push('Z');
        } else {
            text.push_str(&local.strftime("%:z").to_string());
        }
        text
    }

    /// Unix nanoseconds. Exact until the year 2262, the last one that fits.
    pub fn unix_nanoseconds(&self) -> i64 {
        i64::try_from(self.clock.wall().as_nanosecond()).unwrap_or(i64::MAX)
    }

    /// Time that only moves forward.
    pub fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    /// The time of day.
    pub fn wall(&self) -> Timestamp {
        self.clock.wall()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(&'static str);

    impl Clock for Fixed {
        fn wall(&self) -> Timestamp {
            self.0.parse().unwrap()
        }

        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }
    }

    fn stamps(time: &'static str, offset_hours: i8) -> Stamps {
        Stamps::new(Arc::new(Fixed(time)), jiff::tz::offset(offset_hours).to_time_zone())
    }

    #[test]
    fn a_stamp_is_local_and_cuts_to_milliseconds() {
        assert_eq!(stamps("2026-11-21T00:51:42.9999Z", 9).stamp(), "20261121-095142.999");
        assert_eq!(stamps("2026-01-02T03:04:05Z", 0).stamp(), "20260102-030405.000");
    }

    #[test]
    fn received_at_drops_trailing_zeros_and_knows_utc() {
        assert_eq!(stamps("2026-11-21T00:51:42Z", 9).rfc3339(), "2026-11-21T09:51:42+09:00");
        assert_eq!(stamps("2026-11-21T00:51:42.12Z", 0).rfc3339(), "2026-11-21T00:51:42.12Z");
        assert_eq!(
            stamps("2026-11-21T00:51:42.000000001Z", -3).rfc3339(),
            "2026-11-20T21:51:42.000000001-03:00"
        );
    }

    #[test]
    fn the_sequence_starts_at_one() {
        let stamps = stamps("2026-11-21T00:51:42Z", 0);
        assert_eq!((stamps.next(), stamps.next()), (1, 2));
    }
}
