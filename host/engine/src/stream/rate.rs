//! How fast a flight is delivered: a rate sample per acknowledgement, as the congestion controller needs it.
//!
//! Every transmission notes how much had been delivered when it left; when it arrives, what was delivered in between,
//! divided by the longer of the time it took to send and the time it took to acknowledge, is a rate the path has carried
//! (draft-cheng-iccrg-delivery-rate-estimation). Part of the scoreboard; knows bytes and times only.

use crate::time::{Duration, Instant};

/// What a transmission remembers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Departure {
    delivered: u64,
    delivered_at: Instant,
    first_sent: Instant,
    app_limited: bool,
}

/// A measured rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Bytes per second.
    pub(crate) rate: u64,
    /// The application had too little to send meanwhile: the path may carry more.
    pub(crate) app_limited: bool,
    /// Bytes that had been delivered when the newest of these segments left: tells round trips apart.
    pub(crate) prior_delivered: u64,
    /// Bytes delivered by now.
    pub(crate) delivered: u64,
}

/// The counters of one stream.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sampler {
    delivered: u64,
    delivered_at: Instant,
    first_sent: Instant,
    /// Until this much is delivered, samples are limited by the application.
    limited_until: u64,
    /// The newest transmission that the current acknowledgement covers, and when it left.
    newest: Option<(Departure, Instant)>,
}

impl Sampler {
    /// Something leaves; `idle` when nothing else is in flight.
    pub(crate) fn departs(&mut self, now: Instant, idle: bool) -> Departure {
        if idle {
            (self.first_sent, self.delivered_at) = (now, now);
        }
        Departure {
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first_sent: self.first_sent,
            app_limited: self.limited_until > self.delivered,
        }
    }

    /// A segment that left at `sent` has arrived.
    pub(crate) fn arrived(&mut self, now: Instant, bytes: u64, departure: Departure, sent: Instant) {
        self.delivered += bytes;
        self.delivered_at = now;
        if self.newest.is_none_or(|(n, at)| (departure.delivered, sent) >= (n.delivered, at)) {
            self.newest = Some((departure, sent));
        }
    }

    /// The acknowledgement is taken in completely.
    pub(crate) fn sample(&mut self, now: Instant, min_rtt: Duration) -> Option<Sample> {
        let (departure, sent) = self.newest.take()?;
        self.first_sent = sent;
        let interval = sent.since(departure.first_sent).max(now.since(departure.delivered_at));
        if interval.is_zero() || interval < min_rtt {
            return None;
        }
        let bytes = u128::from(self.delivered - departure.delivered);
        let rate = u64::try_from(bytes * 1_000_000_000 / interval.as_nanos()).unwrap_or(u64::MAX);
        Some(Sample {
            rate,
            app_limited: departure.app_limited,
            prior_delivered: departure.delivered,
            delivered: self.delivered,
        })
    }

    /// The application has nothing more to send while `in_flight` bytes are under way and more might be.
    pub(crate) fn limited_by_application(&mut self, in_flight: u64) {
        self.limited_until = self.delivered + in_flight.max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(ms)
    }

    #[test]
    fn a_flight_acknowledged_at_once_is_rated_by_the_time_it_took() {
        let mut s = Sampler::default();
        let flight: Vec<_> = (0..10).map(|i| s.departs(at(0), i == 0)).collect();
        for departure in flight {
            s.arrived(at(100), 1000, departure, at(0));
        }
        let sample = s.sample(at(100), Duration::ZERO).unwrap();
        assert_eq!((sample.rate, sample.prior_delivered, sample.delivered), (100_000, 0, 10_000));
        assert_eq!(s.sample(at(101), Duration::ZERO), None, "one sample per acknowledgement");
    }

    #[test]
    fn compressed_acknowledgements_do_not_exceed_the_rate_of_sending() {
        let mut s = Sampler::default();
        // One segment every 10 ms; then all acknowledgements come at once.
        let flight: Vec<_> = (0..10).map(|i| (s.departs(at(10 * i), i == 0), at(10 * i))).collect();
        for (departure, sent) in flight {
            s.arrived(at(200), 1000, departure, sent);
        }
        let sample = s.sample(at(200), Duration::ZERO).unwrap();
        assert_eq!(sample.rate, 50_000);
    }

    #[test]
    fn what_the_application_limited_says_so() {
        let mut s = Sampler::default();
        s.limited_by_application(500);
        let d = s.departs(at(0), true);
        s.arrived(at(10), 1000, d, at(0));
        assert!(s.sample(at(10), Duration::ZERO).unwrap().app_limited);
        let d = s.departs(at(10), true);
        s.arrived(at(20), 1000, d, at(10));
        assert!(!s.sample(at(20), Duration::ZERO).unwrap().app_limited);
    }
}
