//! The sending half's clockwork: looking for losses again, probing a silent tail, timeouts, probes of a closed window.

use super::{GaveUp, Repair, Sender};
use crate::time::{Duration, Instant};

/// A segment is transmitted this often by the clock before the stream is given up.
const MAX_TIMEOUTS: u32 = 8;
/// A closed window is probed this often before the stream is given up.
const MAX_PROBES: u32 = 30;
const MAX_PROBE: Duration = Duration::from_secs(30);
/// A tail is not probed earlier than this.
const MIN_TAIL_WAIT: Duration = Duration::from_millis(5);
/// Longest delay of a lone acknowledgement: 40 ms by the peers' timers, 5 ms by ours.
const PEER_ACK_DELAY: Duration = Duration::from_millis(45);
const OWN_ACK_DELAY: Duration = Duration::from_millis(6);

impl Sender {
    /// When [`Sender::on_timer`] wants to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let window_probe = self.window_probe_due();
        [self.look_again, self.paced_until, self.tail_due(), self.timeout_due(), window_probe]
            .into_iter()
            .flatten()
            .min()
    }

    fn window_probe_due(&self) -> Option<Instant> {
        let waiting = self.window == Some(0) && self.next < self.buffer.end() && self.board.is_empty();
        self.persist.filter(|_| waiting).map(|p| p.at)
    }

    fn timeout_due(&self) -> Option<Instant> {
        if self.board.is_empty() || (self.board.in_flight() == 0 && self.forced > 0) {
            return None;
        }
        let wait = match self.persist {
            Some(persist) if self.window == Some(0) => persist.wait,
            _ => self.rtt.rto(self.timeouts),
        };
        Some(self.timer_base + wait)
    }

    fn tail_due(&self) -> Option<Instant> {
        // After a timeout once more: what the clock repeats may be lost like anything else, and the next one is far.
        let quiet = (matches!(self.repair, Repair::None) || self.timeouts > 0) && !self.tail_probed;
        if !quiet || self.board.in_flight() == 0 || self.window == Some(0) {
            return None;
        }
        let lone = match (self.board.len(), self.limits.enhanced) {
            (1, true) => OWN_ACK_DELAY,
            (1, false) => PEER_ACK_DELAY,
            _ => Duration::ZERO,
        };
        let wait = (self.rtt.smoothed()? * 2 + lone).max(MIN_TAIL_WAIT);
        Some(self.last_sent + wait)
    }

    /// Runs what is due.
    ///
    /// # Errors
    /// [`GaveUp`] when the peer has acknowledged nothing for too long.
    pub(crate) fn on_timer(&mut self, now: Instant) -> Result<(), GaveUp> {
        if self.look_again.is_some_and(|t| t <= now) {
            self.look_for_losses(now);
        }
        // Whatever may be sent now is planned anew after this.
        self.paced_until = self.paced_until.filter(|t| *t > now);
        if self.window_probe_due().is_some_and(|t| t <= now) {
            self.count_probe(now)?;
            self.forced = self.forced.max(1);
        } else if self.timeout_due().is_some_and(|t| t <= now) {
            self.on_timeout(now)?;
        } else if self.tail_due().is_some_and(|t| t <= now) {
            self.tail_probed = true;
            if self.timeouts == 0 {
                self.timer_base = now;
            }
            self.board.lose_last();
            self.forced = self.forced.max(1);
        }
        Ok(())
    }

    fn count_probe(&mut self, now: Instant) -> Result<(), GaveUp> {
        self.probes += 1;
        if self.probes > MAX_PROBES {
            return Err(GaveUp);
        }
        if let Some(persist) = &mut self.persist {
            persist.wait = (persist.wait * 2).min(MAX_PROBE);
            persist.at = now + persist.wait;
        }
        Ok(())
    }

    fn on_timeout(&mut self, now: Instant) -> Result<(), GaveUp> {
        self.timer_base = now;
        if self.window == Some(0) {
            self.count_probe(now)?;
        } else {
            self.timeouts += 1;
            if self.timeouts >= MAX_TIMEOUTS {
                return Err(GaveUp);
            }
            if self.timeouts == 1 {
                self.cc.on_timeout(now);
            }
            self.repair = Repair::Slow(self.next);
            self.tail_probed = false;
        }
        self.board.lose_all();
        // Two from the second time on, as QUIC probes: eight silent timeouts on end then mean a peer that is gone, not a
        // path that loses one datagram in five each way.
        self.forced = if self.timeouts > 1 { 2 } else { 1 };
        Ok(())
    }
}
