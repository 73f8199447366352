//! A controller that models the path instead of waiting for losses, after BBR (draft-ietf-ccwg-bbr).
//!
//! It keeps the highest delivery rate of the last round trips and the lowest round trip time of the last seconds, sends at
//! that rate and keeps about twice their product in flight. A loss by itself says nothing here, so a path that loses one
//! datagram in a hundred is used nearly as well as a clean one; a loss rate that only an overflowing queue produces ends
//! the start. Used for every path that leaves the machine; over loopback, where a round trip takes microseconds, CUBIC
//! without pacing is quicker.
//!
//! | mode | pace | window | ends |
//! |---|---|---|---|
//! | `Startup` | 2.77 | 2 | three rounds without a quarter more, or much more lost than before |
//! | `Drain` | 0.35 | 2 | in flight is down to the product |
//! | `ProbeBandwidth` | 1.25 and what is usually lost, 0.75, then six times 1 | 2 | - |
//! | `ProbeRtt` | 1 | 0.5 | after 200 ms; every 10 s without a new lowest round trip time |

use super::{Acked, Controller, INITIAL_WINDOW};
use crate::stream::rtt::Rtt;
use crate::time::{Duration, Instant};

/// Gains in hundredths.
const STARTUP: u64 = 277;
const DRAIN: u64 = 35;
const CYCLE: [u64; 8] = [125, 75, 100, 100, 100, 100, 100, 100];
const WINDOW: u64 = 200;
const PROBE_RTT_WINDOW: u64 = 50;
/// Rounds a delivery rate counts.
const RATE_ROUNDS: u64 = 10;
/// The pipe is full when the rate grew by less than a quarter in this many rounds.
const FULL_ROUNDS: u32 = 3;
/// Bytes in a hundred that a round may lose beyond twice what earlier rounds did, before the start ends: a queue overflows.
const START_LOSS: u64 = 5;
/// Fewer lost segments in a round say nothing.
const START_LOST_SEGMENTS: u64 = 8;
/// Losses that probes make up for, in thousandths; more is no accident any more.
const MOST_COMPENSATED: u64 = 300;
/// A lowest round trip time counts this long.
const MIN_RTT_AGE: Duration = Duration::from_secs(10);
const PROBE_RTT: Duration = Duration::from_millis(200);
/// The window is never below this many segments.
const LEAST_SEGMENTS: u64 = 4;
/// Round trip time assumed before the first sample, for the first flight's pace.
const FIRST_RTT: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Startup,
    Drain,
    ProbeBandwidth { phase: usize, since: Instant },
    ProbeRtt { until: Instant },
}

/// The highest of the last rounds' rates.
#[derive(Clone, Copy, Debug, Default)]
struct Highest {
    /// The best of each of two halves of the time it covers, with the round that half began in.
    halves: [(u64, u64); 2],
}

impl Highest {
    fn update(&mut self, round: u64, rate: u64) {
        let [older, newer] = self.halves;
        self.halves = match round.saturating_sub(newer.0) {
            0..RATE_ROUNDS if round < newer.0 + RATE_ROUNDS / 2 => [older, (newer.0, newer.1.max(rate))],
            0..RATE_ROUNDS => [newer, (round, rate)],
            _ => [(round, 0), (round, rate)],
        };
    }

    fn get(&self) -> u64 {
        self.halves[0].1.max(self.halves[1].1)
    }
}

/// The controller.
#[derive(Debug)]
pub(crate) struct Bbr {
    segment: u64,
    mode: Mode,
    window: u64,
    rate: Highest,
    round: u64,
    /// A round is over when what was delivered at its start was exceeded by something sent after it.
    round_ends: u64,
    min_rtt: Option<(Duration, Instant)>,
    filled: bool,
    full_rate: u64,
    full_rounds: u32,
    /// Delivered and lost since the round began, and in all rounds before.
    round_bytes: (u64, u64),
    earlier_bytes: (u64, u64),
    /// Bytes usually lost, in thousandths.
    usual_loss: u64,
    smoothed: Duration,
}

impl Bbr {
    pub(crate) fn new() -> Self {
        Self {
            segment: 1152,
            mode: Mode::Startup,
            window: INITIAL_WINDOW,
            rate: Highest::default(),
            round: 0,
            round_ends: 0,
            min_rtt: None,
            filled: false,
            full_rate: 0,
            full_rounds: 0,
            round_bytes: (0, 0),
            earlier_bytes: (0, 0),
            usual_loss: 0,
            smoothed: FIRST_RTT,
        }
    }

    /// The bandwidth-delay product in hundredths of `gain`, with room for a few bursts and delayed acknowledgements.
    fn product(&self, gain: u64) -> u64 {
        let rtt = self.min_rtt.map_or(self.smoothed, |(rtt, _)| rtt);
        let bytes = u128::from(self.rate.get()) * rtt.as_nanos() / 1_000_000_000;
        u64::try_from(bytes * u128::from(gain) / 100).unwrap_or(u64::MAX)
    }

    fn begin_probing(&mut self, now: Instant) {
        // Not with the draining phase, and not in step with other streams of the same moment.
        let phase = [0, 2, 3, 4, 5, 6, 7][usize::try_from(now.as_nanos() / 1000 % 7).unwrap_or(0)];
        self.mode = Mode::ProbeBandwidth { phase, since: now };
    }

    fn count_round(&mut self, acked: &Acked) -> bool {
        self.round_bytes.0 += acked.bytes;
        self.round_bytes.1 += acked.lost;
        let Some(sample) = acked.sample.filter(|s| s.prior_delivered >= self.round_ends) else {
            return false;
        };
        self.round += 1;
        self.round_ends = sample.delivered;
        true
    }

    /// Whether the start has found the path's limit.
    fn look_for_limit(&mut self, app_limited: bool) {
        let (delivered, lost) = std::mem::take(&mut self.round_bytes);
        self.usual_loss = (7 * self.usual_loss + lost * 1000 / (delivered + lost).max(1)) / 8;
        if self.filled {
            return;
        }
        let usual = self.earlier_bytes.1 * 100 / (self.earlier_bytes.0 + self.earlier_bytes.1).max(1);
        self.earlier_bytes = (self.earlier_bytes.0 + delivered, self.earlier_bytes.1 + lost);
        let overflows = lost * 100 > (delivered + lost) * (2 * usual + START_LOSS);
        if overflows && lost >= START_LOST_SEGMENTS * self.segment {
            self.filled = true;
        } else if self.rate.get() >= self.full_rate + self.full_rate / 4 {
            (self.full_rate, self.full_rounds) = (self.rate.get(), 0);
        } else if !app_limited {
            self.full_rounds += 1;
            self.filled = self.full_rounds >= FULL_ROUNDS;
        }
    }

    fn update_min_rtt(&mut self, acked: &Acked) {
        let now = acked.now;
        let expired = self.min_rtt.is_some_and(|(_, at)| now.since(at) > MIN_RTT_AGE);
        if let Some(rtt) = acked.rtt
            && self.min_rtt.is_none_or(|(min, _)| rtt <= min)
        {
            self.min_rtt = Some((rtt, now));
        } else if expired && !matches!(self.mode, Mode::ProbeRtt { .. } | Mode::Startup) {
            self.mode = Mode::ProbeRtt { until: now + PROBE_RTT.max(self.smoothed) };
        }
        if let Mode::ProbeRtt { until } = self.mode
            && now >= until
        {
            // What is measured now is as low as it gets.
            self.min_rtt = Some((acked.rtt.unwrap_or(self.smoothed), now));
            self.begin_probing(now);
        }
    }

    fn advance(&mut self, acked: &Acked) {
        let now = acked.now;
        match self.mode {
            Mode::Startup if self.filled => self.mode = Mode::Drain,
            Mode::Drain if acked.in_flight <= self.product(100) => self.begin_probing(now),
            Mode::ProbeBandwidth { phase, since } => {
                let rtt = self.min_rtt.map_or(self.smoothed, |(rtt, _)| rtt);
                let over = now.since(since) > rtt;
                let next = match CYCLE[phase] {
                    // Long enough to see what it brings; short enough to empty what it queued.
                    125 => over && (acked.lost > 0 || acked.in_flight >= self.product(125)),
                    75 => over || acked.in_flight <= self.product(100),
                    _ => over,
                };
                if next || now.since(since) > 4 * rtt {
                    self.mode = Mode::ProbeBandwidth { phase: (phase + 1) % CYCLE.len(), since: now };
                }
            }
            _ => {}
        }
    }

    fn set_window(&mut self, bytes: u64) {
        let gain = if matches!(self.mode, Mode::ProbeRtt { .. }) { PROBE_RTT_WINDOW } else { WINDOW };
        let target = self.product(gain).saturating_add(3 * LEAST_SEGMENTS * self.segment);
        self.window = if self.filled {
            self.window.saturating_add(bytes).min(target)
        } else {
            // The start: whatever arrives makes room for as much again.
            self.window.saturating_add(bytes).min(target.saturating_mul(2).max(INITIAL_WINDOW))
        };
        self.window = self.window.max(LEAST_SEGMENTS * self.segment);
    }
}

impl Controller for Bbr {
    fn set_segment(&mut self, bytes: u64) {
        self.segment = bytes;
        self.window = self.window.max(LEAST_SEGMENTS * bytes);
    }

    fn on_ack(&mut self, acked: Acked, rtt: &Rtt) {
        self.smoothed = rtt.smoothed().unwrap_or(FIRST_RTT);
        let new_round = self.count_round(&acked);
        if let Some(sample) = acked.sample
            && (!sample.app_limited || sample.rate >= self.rate.get())
        {
            self.rate.update(self.round, sample.rate);
        }
        if new_round {
            self.look_for_limit(acked.sample.is_some_and(|s| s.app_limited));
        }
        self.advance(&acked);
        self.update_min_rtt(&acked);
        self.set_window(acked.bytes);
    }

    fn on_loss(&mut self, _now: Instant) {}

    fn on_timeout(&mut self, _now: Instant) {
        // Nothing is known to be in flight: begin small; acknowledgements bring it back within a few round trips.
        self.window = LEAST_SEGMENTS * self.segment;
    }

    fn window(&self) -> u64 {
        self.window
    }

    fn ssthresh(&self) -> u64 {
        if self.filled { self.product(100) } else { u64::MAX }
    }

    fn pace(&self) -> Option<u64> {
        let gain = match self.mode {
            Mode::Startup => STARTUP,
            Mode::Drain => DRAIN,
            // A probe that loses a fifth on the way must still arrive faster than what is known.
            Mode::ProbeBandwidth { phase: 0, .. } => {
                CYCLE[0] * 1000 / (1000 - self.usual_loss.min(MOST_COMPENSATED))
            }
            Mode::ProbeBandwidth { phase, .. } => CYCLE[phase],
            Mode::ProbeRtt { .. } => 100,
        };
        let rate = match self.rate.get() {
            0 => {
                let first = u128::from(INITIAL_WINDOW) * 1_000_000_000;
                u64::try_from(first / self.smoothed.as_nanos().max(1)).unwrap_or(u64::MAX)
            }
            rate => rate,
        };
        let least = 1000 * LEAST_SEGMENTS;
        Some(u64::try_from(u128::from(rate) * u128::from(gain) / 100).unwrap_or(u64::MAX).max(least))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::rate::Sample;

    fn at(ms: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(ms)
    }

    /// A path with a fixed rate and round trip time, `loss` in hundredths: one acknowledgement per round.
    struct Road {
        bbr: Bbr,
        rtt: Rtt,
        now: u64,
        delivered: u64,
        before: u64,
    }

    impl Road {
        fn new() -> Self {
            Self { bbr: Bbr::new(), rtt: Rtt::default(), now: 0, delivered: 0, before: 0 }
        }

        fn round(&mut self, rate: u64, rtt_ms: u64, loss: u64) {
            let offered = self.bbr.window().min(self.bbr.pace().unwrap() * rtt_ms / 1000);
            let bytes = offered.min(rate * rtt_ms / 1000) * (100 - loss) / 100;
            self.now += rtt_ms;
            self.rtt.sample(Duration::from_millis(rtt_ms));
            let prior_delivered = self.before;
            (self.before, self.delivered) = (self.delivered, self.delivered + bytes);
            let sample = Sample {
                rate: bytes * 1000 / rtt_ms,
                app_limited: false,
                prior_delivered,
                delivered: self.delivered,
            };
            let acked = Acked {
                now: at(self.now),
                bytes,
                lost: offered * loss / 100,
                in_flight: bytes,
                limited: true,
                repairing: loss > 0,
                rtt: Some(Duration::from_millis(rtt_ms)),
                sample: Some(sample),
            };
            self.bbr.on_ack(acked, &self.rtt);
        }
    }

    #[test]
    fn it_finds_the_rate_and_stays_there() {
        let mut road = Road::new();
        for _ in 0..60 {
            road.round(10_000_000, 50, 0);
        }
        assert!(road.bbr.filled);
        let rate = road.bbr.rate.get();
        assert!((9_000_000..=10_000_000).contains(&rate), "{rate}");
        let product = 10_000_000 / 20;
        assert!((product..=3 * product).contains(&road.bbr.window()), "{}", road.bbr.window());
    }

    #[test]
    fn random_losses_do_not_slow_it_down() {
        let mut road = Road::new();
        for _ in 0..60 {
            road.round(10_000_000, 50, 5);
        }
        assert!(road.bbr.rate.get() > 9_000_000, "{}", road.bbr.rate.get());
        // Nor do they keep it down once it is slow.
        road.bbr.rate = Highest { halves: [(road.bbr.round, 300_000); 2] };
        for _ in 0..400 {
            road.round(10_000_000, 50, 20);
        }
        assert!(road.bbr.rate.get() > 7_500_000, "{}", road.bbr.rate.get());
    }

    #[test]
    fn a_path_that_became_slow_is_believed_after_ten_rounds() {
        let mut road = Road::new();
        for _ in 0..40 {
            road.round(10_000_000, 50, 0);
        }
        for _ in 0..25 {
            road.round(1_000_000, 50, 0);
        }
        assert!(road.bbr.rate.get() <= 1_000_000, "{}", road.bbr.rate.get());
    }

    #[test]
    fn the_round_trip_time_is_measured_again_when_it_only_rises() {
        let mut road = Road::new();
        road.round(10_000_000, 20, 0);
        for _ in 0..400 {
            road.round(10_000_000, 60, 0);
        }
        assert_eq!(road.bbr.min_rtt.unwrap().0, Duration::from_millis(60));
    }

    #[test]
    fn a_timeout_leaves_four_segments() {
        let mut bbr = Bbr::new();
        bbr.on_timeout(at(1));
        assert_eq!(bbr.window(), 4 * 1152);
    }
}
