//! CUBIC (RFC 9438) with the slow start exit of HyStart++ (RFC 9406).
//!
//! Unlike the peers' Reno it fills long fat paths in seconds, and on short ones it is never slower than Reno. Acknowledged
//! bytes are counted, not acknowledgements, because ours are coalesced.

use super::{Acked, Controller, INITIAL_WINDOW};
use crate::stream::rtt::Rtt;
use crate::time::{Duration, Instant};

/// Multiplicative decrease.
const BETA: f64 = 0.7;
/// Aggressiveness, in segments per second cubed.
const C: f64 = 0.4;
/// Reno-friendly increase per round trip below the last maximum: 3 (1 - BETA) / (1 + BETA).
const ALPHA: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);

/// RTT rise that ends slow start: at least, at most, and as a part of the minimum.
const MIN_RISE: Duration = Duration::from_millis(4);
const MAX_RISE: Duration = Duration::from_millis(16);
const RISE_DIVISOR: u32 = 8;
/// Samples of a round before its minimum means something.
const ROUND_SAMPLES: u32 = 8;
/// Conservative slow start grows by this fraction, for this many rounds.
const CSS_DIVISOR: u64 = 4;
const CSS_ROUNDS: u32 = 5;

/// The growth curve since the last reduction.
#[derive(Clone, Copy, Debug)]
struct Epoch {
    start: Instant,
    /// Seconds until the window is back at the last maximum.
    k: f64,
    /// Where the curve flattens, bytes.
    origin: f64,
    /// What Reno would have, bytes.
    reno: f64,
}

/// HyStart++: watches for the queue building up in slow start.
#[derive(Clone, Copy, Debug, Default)]
struct HyStart {
    /// A round ends after this many more acknowledged bytes.
    round_left: u64,
    samples: u32,
    round_min: Option<Duration>,
    last_min: Option<Duration>,
    /// Rounds in conservative slow start, and the RTT that led there.
    css: Option<(u32, Duration)>,
}

/// The controller.
#[derive(Debug)]
pub(crate) struct Cubic {
    segment: u64,
    window: u64,
    ssthresh: u64,
    /// The window before the last reduction, lowered when two reductions come in a row.
    last_max: f64,
    epoch: Option<Epoch>,
    hystart: HyStart,
}

impl Cubic {
    pub(crate) fn new() -> Self {
        Self {
            segment: 1152,
            window: INITIAL_WINDOW,
            ssthresh: u64::MAX,
            last_max: 0.0,
            epoch: None,
            hystart: HyStart::default(),
        }
    }

    fn floor(&self) -> u64 {
        2 * self.segment
    }

    fn slow_start(&mut self, acked: Acked, rtt: &Rtt) {
        let bytes = if self.hystart.css.is_some() { acked.bytes / CSS_DIVISOR } else { acked.bytes };
        self.window = self.window.saturating_add(bytes).min(self.ssthresh.max(self.window));
        if self.hystart.on_ack(acked.bytes, self.window, rtt) {
            self.ssthresh = self.window;
        }
    }

    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn avoid_congestion(&mut self, acked: Acked, rtt: &Rtt) {
        let (window, segment) = (self.window as f64, self.segment as f64);
        let epoch = self.epoch.get_or_insert_with(|| {
            let below = (self.last_max - window).max(0.0);
            Epoch {
                start: acked.now,
                k: (below / segment / C).cbrt(),
                origin: window.max(self.last_max),
                reno: window,
            }
        });
        let t = acked.now.since(epoch.start).as_secs_f64();
        let curve = |t: f64| epoch.origin + C * (t - epoch.k).powi(3) * segment;
        let alpha = if epoch.reno < self.last_max { ALPHA } else { 1.0 };
        epoch.reno += alpha * segment * acked.bytes as f64 / window;
        let next = if curve(t) < epoch.reno {
            epoch.reno
        } else {
            let ahead = t + rtt.smoothed().unwrap_or_default().as_secs_f64();
            let target = curve(ahead).clamp(window, 1.5 * window);
            window + (target - window) * acked.bytes as f64 / window
        };
        self.window = (next.max(window) as u64).max(self.floor());
    }

    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn reduce(&mut self) {
        let window = self.window as f64;
        // Fast convergence: a flow that lost before it was back at its maximum gives room to others.
        self.last_max = if window < self.last_max { window * (1.0 + BETA) / 2.0 } else { window };
        self.ssthresh = ((window * BETA) as u64).max(self.floor());
        self.epoch = None;
        self.hystart = HyStart::default();
    }
}

impl HyStart {
    /// Counts an acknowledgement of slow start; true when slow start should end.
    fn on_ack(&mut self, bytes: u64, window: u64, rtt: &Rtt) -> bool {
        let sample = rtt.latest();
        self.samples += 1;
        self.round_min = Some(self.round_min.map_or(sample, |m| m.min(sample)));
        if self.samples >= ROUND_SAMPLES
            && let (Some(round), Some(last)) = (self.round_min, self.last_min)
        {
            let rise = (last / RISE_DIVISOR).clamp(MIN_RISE, MAX_RISE);
            match self.css {
                None if round >= last + rise => self.css = Some((0, last)),
                // The rise was noise: back to full slow start.
                Some((_, base)) if round < base => self.css = None,
                _ => {}
            }
        }
        if bytes < self.round_left {
            self.round_left -= bytes;
            return false;
        }
        self.round_left = window;
        self.samples = 0;
        self.last_min = self.round_min.take();
        if let Some((rounds, _)) = &mut self.css {
            *rounds += 1;
            return *rounds >= CSS_ROUNDS;
        }
        false
    }
}

impl Controller for Cubic {
    fn set_segment(&mut self, bytes: u64) {
        self.segment = bytes;
        self.window = self.window.max(self.floor());
    }

    fn on_ack(&mut self, acked: Acked, rtt: &Rtt) {
        if acked.repairing {
            // The window was reduced once for this flight and stays until it is repaired.
        } else if !acked.limited {
            // The window was not used up, so nothing was learnt about it; and the curve must not run ahead meanwhile.
            self.epoch = None;
        } else if self.window < self.ssthresh {
            self.slow_start(acked, rtt);
        } else {
            self.avoid_congestion(acked, rtt);
        }
    }

    fn on_loss(&mut self, _now: Instant) {
        self.reduce();
        self.window = self.ssthresh;
    }

    fn on_timeout(&mut self, _now: Instant) {
        self.reduce();
        self.window = self.floor();
    }

    fn window(&self) -> u64 {
        self.window
    }

    fn ssthresh(&self) -> u64 {
        self.ssthresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(ms)
    }

    fn rtt(ms: u64) -> Rtt {
        let mut r = Rtt::default();
        r.sample(Duration::from_millis(ms));
        r
    }

    fn acked(now: Instant, bytes: u64) -> Acked {
        let (in_flight, repairing) = (bytes, false);
        Acked { now, bytes, lost: 0, in_flight, limited: true, repairing, rtt: None, sample: None }
    }

    #[test]
    fn slow_start_doubles_per_round_trip() {
        let mut c = Cubic::new();
        c.on_ack(acked(at(0), INITIAL_WINDOW), &rtt(50));
        assert_eq!(c.window(), 2 * INITIAL_WINDOW);
        c.on_ack(Acked { limited: false, ..acked(at(1), INITIAL_WINDOW) }, &rtt(50));
        assert_eq!(c.window(), 2 * INITIAL_WINDOW, "unused window does not grow");
    }

    #[test]
    fn a_loss_takes_three_tenths_and_a_timeout_nearly_all() {
        let mut c = Cubic::new();
        c.on_ack(acked(at(0), 59_040), &rtt(50));
        assert_eq!(c.window(), 100_000);
        c.on_loss(at(1));
        assert_eq!((c.window(), c.ssthresh()), (70_000, 70_000));
        c.on_timeout(at(2));
        assert_eq!((c.window(), c.ssthresh()), (2304, 49_000));
    }

    #[test]
    fn the_curve_comes_back_to_the_old_maximum_and_goes_on() {
        let (mut c, r) = (Cubic::new(), rtt(100));
        c.window = 1_152_000;
        c.on_loss(at(0));
        let k_ms = ((0.3 * 1000.0 / C).cbrt() * 1000.0) as u64;
        let mut now = 0;
        while now < k_ms {
            now += 100;
            let w = c.window();
            c.on_ack(acked(at(now), w), &r);
        }
        assert!((1_100_000..=1_250_000).contains(&c.window()), "{}", c.window());
        while now < 3 * k_ms {
            now += 100;
            let w = c.window();
            c.on_ack(acked(at(now), w), &r);
        }
        assert!(c.window() > 2_000_000, "{}", c.window());
    }

    #[test]
    fn a_rising_round_trip_ends_slow_start_without_a_loss() {
        let mut c = Cubic::new();
        let mut now = 0;
        for round in 0..12_u64 {
            // Rounds 0 to 2 at 50 ms, then the queue adds 15 ms per round.
            let r = rtt(50 + 15 * round.saturating_sub(2));
            let window = c.window();
            for _ in 0..16 {
                now += 1;
                c.on_ack(acked(at(now), window / 16), &r);
            }
        }
        assert!(c.ssthresh() < u64::MAX);
        assert!(c.window() < INITIAL_WINDOW << 6, "{}", c.window());
    }
}
