//! A connection's clockwork: repeats, probes, delayed acknowledgements, keepalives, and the ends that time brings.

use super::output::SYN_WAITS;
use super::{Conn, Cx, Fin, Phase};
use crate::config::Config;
use crate::error::{CloseReason, DialError};
use crate::notice::Notice;
use crate::stream::send::GaveUp;
use crate::time::{Duration, Instant};

/// SYNs that go unanswered before the relay is tried (stream.md section 8).
const DIRECT_SYNS: u32 = 3;
/// How long a dial may wait for a key before its own schedule begins (stream.md section 8).
const KEY_WAIT: Duration = Duration::from_secs(10);
/// How long data missing in front of a FIN is waited for: some peers never send it.
const EARLY_FIN_WAIT: Duration = Duration::from_secs(10);

/// Something a connection wants of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// The direct path does not answer: try the relay.
    TryRelay,
    /// The dial failed: a relay tried for its sake was no help.
    DialFailed,
}

impl Conn {
    /// When [`Conn::on_timer`] wants to be called.
    pub(crate) fn deadline(&self, config: &Config) -> Option<Instant> {
        match &self.phase {
            // What is due waits to be sent, for as long as there is no key.
            Phase::SynSent(o) => Some(o.next.filter(|_| !o.due).unwrap_or(o.started + no_key_limit())),
            Phase::Open | Phase::Closing { .. } => {
                let linger = match self.phase {
                    Phase::Closing { progress } => Some(progress + config.linger),
                    _ => None,
                };
                let early_fin = self.early_fin.map(|fin| fin.since + EARLY_FIN_WAIT);
                let keepalive = Some(self.said + config.stream_keepalive);
                let idle = Some(self.heard + config.stream_idle);
                let parts = [self.tx.deadline(), self.rx.ack_deadline(), linger, early_fin, keepalive, idle];
                parts.into_iter().flatten().min()
            }
            Phase::FinWait(fin) => Some(fin.next.filter(|_| !fin.due).unwrap_or(fin.until).min(fin.until)),
            Phase::TimeWait { until } => Some(*until),
            Phase::Closed => None,
        }
    }

    /// Runs what is due.
    pub(crate) fn on_timer(&mut self, cx: &mut Cx<'_>) -> Option<Wish> {
        match self.phase {
            Phase::SynSent(_) => return self.on_dial_timer(cx),
            Phase::Open | Phase::Closing { .. } => self.on_open_timer(cx),
            Phase::FinWait(fin) => self.on_fin_timer(cx.now, fin),
            Phase::TimeWait { until } if until <= cx.now => self.phase = Phase::Closed,
            Phase::TimeWait { .. } | Phase::Closed => {}
        }
        None
    }

    fn on_dial_timer(&mut self, cx: &mut Cx<'_>) -> Option<Wish> {
        let Phase::SynSent(opening) = &mut self.phase else { return None };
        let Some(next) = opening.next.filter(|_| !opening.due) else {
            if cx.now >= opening.started + no_key_limit() {
                self.fail_dial(cx, DialError::NoKey);
                return Some(Wish::DialFailed);
            }
            return None;
        };
        if next > cx.now {
            return None;
        }
        if opening.sent as usize >= SYN_WAITS.len() {
            self.fail_dial(cx, DialError::Timeout);
            // The peer may hold its end of the stream: only its answers were lost.
            self.replies.reset = true;
            return Some(Wish::DialFailed);
        }
        opening.due = true;
        (opening.sent == DIRECT_SYNS).then_some(Wish::TryRelay)
    }

    fn on_open_timer(&mut self, cx: &mut Cx<'_>) {
        let now = cx.now;
        self.rx.on_timer(now);
        if let Err(GaveUp) = self.tx.on_timer(now) {
            return self.abort(cx, CloseReason::Unacknowledged, true);
        }
        if let Phase::Closing { progress } = self.phase
            && now >= progress + cx.config.linger
        {
            // A FIN would claim that everything was delivered.
            return self.abort(cx, CloseReason::Unacknowledged, true);
        }
        if self.early_fin.is_some_and(|fin| now >= fin.since + EARLY_FIN_WAIT) {
            return self.end_truncated(cx);
        }
        let idle = cx.config.stream_idle;
        if now >= self.heard + idle {
            if now >= cx.peer_heard + idle {
                let node_alive = cx.peer_heard > self.heard;
                return self.end_idle(cx, if node_alive { CloseReason::Idle } else { CloseReason::DeadPeer });
            }
            self.heard = cx.peer_heard; // the node lives, and its stack does not speak on idle streams
        }
        if now >= self.said + cx.config.stream_keepalive {
            self.rx.acknowledge_now();
            self.rx.rest();
            self.said = now;
        }
    }

    fn end_truncated(&mut self, cx: &mut Cx<'_>) {
        cx.events.notice(Notice::Fin(self.ended()));
        self.abort(cx, CloseReason::Truncated, true);
    }

    /// Nothing was heard for too long: closed with FIN (stream.md section 9).
    fn end_idle(&mut self, cx: &mut Cx<'_>, reason: CloseReason) {
        cx.events.notice(match reason {
            CloseReason::Idle => Notice::IdleTimeout(self.ended()),
            _ => Notice::DeadPeer(self.ended()),
        });
        self.tx.clear();
        self.rx.abandon();
        let until = cx.now + cx.config.time_wait;
        self.phase = Phase::FinWait(Fin { at: self.tx.next_offset(), sent: 0, due: true, next: None, until });
        self.finish(cx, reason);
    }

    fn on_fin_timer(&mut self, now: Instant, mut fin: Fin) {
        if fin.next.is_some_and(|t| t <= now) {
            (fin.due, fin.next) = (true, None);
            self.phase = Phase::FinWait(fin);
        } else if now >= fin.until {
            self.phase = Phase::Closed;
        }
    }
}

/// A dial without a key waits for one, and then as long as a dial with a key does.
fn no_key_limit() -> Duration {
    KEY_WAIT + SYN_WAITS.iter().sum::<Duration>()
}
