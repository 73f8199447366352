//! Round trip time and retransmission timeout after RFC 6298, with the peers' clamps (stream.md section 5).

use crate::time::Duration;

/// Timeout before the first sample.
const INITIAL_RTO: Duration = Duration::from_secs(1);
/// No timeout is shorter.
const MIN_RTO: Duration = Duration::from_millis(200);
/// No timeout is longer, however often it was doubled.
pub(crate) const MAX_RTO: Duration = Duration::from_secs(10);
/// Least part of the timeout that the variation contributes.
const GRANULARITY: Duration = Duration::from_millis(10);

/// The estimator.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rtt {
    smoothed: Option<Duration>,
    variation: Duration,
    min: Duration,
    latest: Duration,
}

impl Rtt {
    /// Takes a sample, never from a segment that was sent more than once.
    pub(crate) fn sample(&mut self, rtt: Duration) {
        self.latest = rtt;
        match self.smoothed {
            None => {
                (self.smoothed, self.variation, self.min) = (Some(rtt), rtt / 2, rtt);
            }
            Some(smoothed) => {
                self.variation = self.variation * 3 / 4 + smoothed.abs_diff(rtt) / 4;
                self.smoothed = Some(smoothed * 7 / 8 + rtt / 8);
                self.min = self.min.min(rtt);
            }
        }
    }

    /// The smoothed value, once there is one.
    pub(crate) fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }

    pub(crate) fn variation(&self) -> Duration {
        self.variation
    }

    /// The least sample; zero before the first.
    pub(crate) fn min(&self) -> Duration {
        self.min
    }

    /// The last sample; zero before the first.
    pub(crate) fn latest(&self) -> Duration {
        self.latest
    }

    /// The timeout after `doublings` timeouts in a row.
    pub(crate) fn rto(&self, doublings: u32) -> Duration {
        let base = self.smoothed.map_or(INITIAL_RTO, |s| s + GRANULARITY.max(self.variation * 4));
        let factor = 1_u32.checked_shl(doublings.min(16)).unwrap_or(u32::MAX);
        base.max(MIN_RTO).saturating_mul(factor).min(MAX_RTO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn rfc_6298_with_the_sheets_clamps() {
        let mut r = Rtt::default();
        assert_eq!(r.rto(0), ms(1000));
        assert_eq!(r.rto(2), ms(4000));
        assert_eq!(r.rto(9), ms(10_000));
        r.sample(ms(100));
        assert_eq!((r.smoothed(), r.variation()), (Some(ms(100)), ms(50)));
        assert_eq!(r.rto(0), ms(300));
        r.sample(ms(180));
        assert_eq!(
            (r.smoothed(), r.variation()),
            (Some(ms(110)), ms(37) + Duration::from_micros(500) + ms(20))
        );
        let mut fast = Rtt::default();
        fast.sample(Duration::from_micros(50));
        assert_eq!(fast.rto(0), ms(200));
        assert_eq!(fast.rto(1), ms(400));
        assert_eq!((fast.min(), fast.latest()), (Duration::from_micros(50), Duration::from_micros(50)));
    }
}
