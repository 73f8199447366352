//! The sending half of a stream: what may be sent now, what must be sent again, and when to wake up.
//!
//! Called by [`super::conn::Conn`] with offsets, never with wire numbers. Rules: stream.md sections 3, 5 and 6. Does not
//! build packets and does not know states; opening and closing are the connection's business.

mod timers;

use bytes::Bytes;
use pilot_wire::sack;

use super::cc::{Acked, Bbr, Controller, Cubic};
use super::pacer::Pacer;
use super::rtt::Rtt;
use super::scoreboard::{Delivery, Scoreboard};
use super::sendbuf::SendBuffer;
use crate::time::{Duration, Instant};

/// First wait before a closed window is probed; doubles.
const FIRST_PROBE: Duration = Duration::from_millis(500);
/// No answer to a segment is on its way for longer.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// Duplicate acknowledgements without blocks that mean a loss.
const DUPLICATES: u32 = 3;
/// An unsent rest begins with this when it could be taken for a SACK.
const SACK_GUARD_LEN: u32 = 4;

/// What the path and the peer allow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Largest segment, bytes of payload.
    pub(crate) segment: usize,
    /// Most segments unacknowledged, whatever the window says.
    pub(crate) outstanding: usize,
    /// The peer is one of ours: large windows, acknowledgements within 5 ms, SACK counts as duplicate.
    pub(crate) enhanced: bool,
    /// The path does not leave this machine.
    pub(crate) local: bool,
}

/// A range of data to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DataPlan {
    /// Offset of the first byte.
    pub(crate) start: u64,
    /// Bytes.
    pub(crate) len: u32,
    /// It was sent before.
    pub(crate) repeat: bool,
}

/// The parts of an incoming segment that concern this half.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AckInput<'a> {
    /// Next byte the peer expects.
    pub(crate) ack: u64,
    /// The window, unless the segment does not really carry one.
    pub(crate) window: Option<u16>,
    /// It carried nothing else.
    pub(crate) empty: bool,
    /// Selectively acknowledged ranges.
    pub(crate) blocks: &'a [(u64, u64)],
}

/// Why repairing a loss began; ends when everything sent before is acknowledged.
#[derive(Clone, Copy, Debug)]
enum Repair {
    None,
    /// Found by acknowledgements; the window was reduced once.
    Fast(u64),
    /// Found by the clock; the window grows again at once.
    Slow(u64),
}

/// The peer's window is closed.
#[derive(Clone, Copy, Debug)]
struct Persist {
    at: Instant,
    wait: Duration,
}

/// Counters for status output.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SendStats {
    pub(crate) bytes: u64,
    pub(crate) segments: u64,
    pub(crate) repeats: u64,
    pub(crate) fast_repeats: u64,
    pub(crate) sacks: u64,
    pub(crate) duplicates: u64,
}

/// The sending half.
#[derive(Debug)]
pub(crate) struct Sender {
    buffer: SendBuffer,
    board: Scoreboard,
    rtt: Rtt,
    cc: Box<dyn Controller>,
    pacer: Pacer,
    /// Something could be sent, but not before then.
    paced_until: Option<Instant>,
    /// First unacknowledged offset.
    una: u64,
    /// Next offset never sent.
    next: u64,
    /// The peer's window in segments; `None` before it said anything.
    window: Option<u16>,
    duplicates: u32,
    repair: Repair,
    /// Timeouts in a row without progress.
    timeouts: u32,
    probes: u32,
    /// The retransmission timer counts from here; meaningful while something is outstanding.
    timer_base: Instant,
    last_sent: Instant,
    /// The tail of this flight was probed already.
    tail_probed: bool,
    look_again: Option<Instant>,
    persist: Option<Persist>,
    /// Segments that may be sent although the window is full: the first repetition of a repair, probes.
    forced: u32,
    /// Up to here a short rest is not held back.
    push: u64,
    limits: Limits,
    stats: SendStats,
}

/// The clock found the peer dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GaveUp;

impl Sender {
    /// A sender whose first data byte has offset 1.
    pub(crate) fn new(now: Instant, limits: Limits) -> Self {
        Self {
            buffer: SendBuffer::new(1),
            board: Scoreboard::default(),
            rtt: Rtt::default(),
            cc: controller(limits),
            pacer: Pacer::new(now),
            paced_until: None,
            una: 1,
            next: 1,
            window: None,
            duplicates: 0,
            repair: Repair::None,
            timeouts: 0,
            probes: 0,
            timer_base: now,
            last_sent: now,
            tail_probed: false,
            look_again: None,
            persist: None,
            forced: 0,
            push: 1,
            limits,
            stats: SendStats::default(),
        }
    }

    /// What the path and the peer allow from now on.
    pub(crate) fn set_limits(&mut self, limits: Limits) {
        if self.limits.local != limits.local && self.next == 1 {
            self.cc = controller(limits); // the path became known after the dial
        }
        if self.limits.segment != limits.segment {
            self.cc.set_segment(limits.segment as u64);
        }
        self.limits = limits;
    }

    /// Queues data; the caller has checked [`Sender::buffered`].
    pub(crate) fn push(&mut self, data: Bytes) {
        let big = data.len() >= self.limits.segment;
        self.buffer.push(data);
        if big {
            self.push = self.buffer.end();
        }
    }

    /// Nothing more will be written: no short rest is held back any more.
    pub(crate) fn flush(&mut self) {
        self.push = self.buffer.end();
    }

    /// Gives up everything that is not acknowledged or not sent.
    pub(crate) fn clear(&mut self) {
        self.buffer.clear(self.next);
        self.board = Scoreboard::default();
        self.persist = None;
        self.look_again = None;
        self.una = self.next;
    }

    /// Bytes written and not acknowledged.
    pub(crate) fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Bytes the path holds in flight, as far as the controller knows; 0 on this machine, where that means nothing.
    pub(crate) fn path_holds(&self) -> usize {
        if self.limits.local { 0 } else { usize::try_from(self.cc.window()).unwrap_or(usize::MAX) }
    }

    /// Whether everything written was acknowledged.
    pub(crate) fn is_drained(&self) -> bool {
        self.una == self.buffer.end()
    }

    /// Whether the peer's last window was zero.
    pub(crate) fn window_is_closed(&self) -> bool {
        self.window == Some(0)
    }

    /// Whether every segment sent was acknowledged.
    pub(crate) fn nothing_outstanding(&self) -> bool {
        self.board.is_empty()
    }

    /// Whether an acknowledgement of something sent can still be on its way.
    pub(crate) fn may_be_answered(&self, now: Instant) -> bool {
        !self.board.is_empty() || now.since(self.last_sent) < ANSWER_TIME
    }

    /// The next offset never sent: the sequence number of what carries no data.
    pub(crate) fn next_offset(&self) -> u64 {
        self.next
    }

    /// First unacknowledged offset.
    pub(crate) fn una(&self) -> u64 {
        self.una
    }

    pub(crate) fn rtt(&self) -> &Rtt {
        &self.rtt
    }

    /// A sample from the opening exchange.
    pub(crate) fn sample_rtt(&mut self, rtt: Duration) {
        self.rtt.sample(rtt);
    }

    /// The next data to send, if any may be sent now. Sending it is reported by [`Sender::sent`].
    pub(crate) fn plan(&mut self, now: Instant) -> Option<DataPlan> {
        self.paced_until = None;
        let plan = self.plan_unpaced()?;
        if self.forced == 0
            && let Some(rate) = self.cc.pace()
        {
            self.paced_until = self.pacer.wait(now, rate, self.limits.segment as u64);
        }
        self.paced_until.is_none().then_some(plan)
    }

    fn plan_unpaced(&mut self) -> Option<DataPlan> {
        let window = self.cc.window();
        if self.board.has_lost()
            && let Some((start, len)) = self.board.first_lost()
        {
            let fits = self.board.in_flight() == 0 || self.board.in_flight() + u64::from(len) <= window;
            return (fits || self.forced > 0).then_some(DataPlan { start, len, repeat: true });
        }
        let unsent = self.buffer.end() - self.next;
        if unsent == 0 {
            if self.board.in_flight() < window {
                self.board.rate.limited_by_application(self.board.in_flight());
            }
            return None;
        }
        if self.window == Some(0) && self.board.is_empty() {
            // Every peer answers one byte of data with its window; an empty probe is answered by nobody.
            return (self.forced > 0).then_some(DataPlan { start: self.next, len: 1, repeat: false });
        }
        let room = self.window.map_or(self.limits.outstanding, usize::from).min(self.limits.outstanding);
        if self.board.len() >= room || self.board.in_flight() >= window {
            return None;
        }
        let full = u32::try_from(self.limits.segment).unwrap_or(u32::MAX);
        let len = u32::try_from(unsent).unwrap_or(u32::MAX).min(full);
        if len < full && self.next + u64::from(len) > self.push && self.board.has_short() {
            return None; // more may be written until the short segment before is acknowledged
        }
        let len = if self.looks_like_sack(len) { SACK_GUARD_LEN } else { len };
        Some(DataPlan { start: self.next, len, repeat: false })
    }

    /// Whether the next segment would be swallowed as a SACK by every peer (stream.md section 6).
    fn looks_like_sack(&self, len: u32) -> bool {
        if len < 5 || self.buffer.byte(self.next) != Some(sack::PREFIX[0]) {
            return false;
        }
        let mut head = Vec::with_capacity(sack::encoded_len(sack::MAX_BLOCKS));
        let most = sack::encoded_len(sack::MAX_BLOCKS).min(len as usize);
        self.buffer.copy(self.next, most, &mut head);
        sack::decode(&head).is_some()
    }

    /// Records that a planned range was sent.
    pub(crate) fn sent(&mut self, now: Instant, plan: DataPlan) {
        if self.board.is_empty() {
            self.timer_base = now;
        }
        self.last_sent = now;
        self.pacer.sent(plan.len);
        self.forced = self.forced.saturating_sub(1);
        self.stats.segments += 1;
        if plan.repeat {
            self.stats.repeats += 1;
            self.stats.fast_repeats += u64::from(!matches!(self.repair, Repair::Slow(_)));
            self.board.repeated(now, plan.start);
        } else {
            let short = (plan.len as usize) < self.limits.segment;
            self.board.sent(now, plan.start, plan.len, short);
            self.next = plan.start + u64::from(plan.len);
            self.stats.bytes += u64::from(plan.len);
        }
    }

    /// Appends the bytes of a planned range.
    pub(crate) fn copy(&self, plan: DataPlan, out: &mut Vec<u8>) {
        self.buffer.copy(plan.start, plan.len as usize, out);
    }

    /// Takes in acknowledgement, blocks and window of a segment; true when there was progress.
    pub(crate) fn on_ack(&mut self, now: Instant, input: AckInput<'_>) -> bool {
        if input.ack > self.next {
            return false; // acknowledges what was never sent
        }
        let in_flight = self.board.in_flight();
        let min = self.rtt.min();
        let advanced = input.ack > self.una;
        let mut delivery = Delivery::default();
        if advanced {
            delivery = self.board.acknowledge(now, input.ack, min);
            self.una = input.ack;
            // Half a segment acknowledged is no progress: it goes again as a whole, so its bytes stay.
            self.buffer.release(self.board.first().unwrap_or(input.ack));
        }
        self.stats.sacks += u64::from(!input.blocks.is_empty());
        for block in input.blocks {
            let part = self.board.selectively_acknowledge(now, *block, min);
            delivery.bytes += part.bytes;
            delivery.rtt = part.rtt.or(delivery.rtt);
        }
        if let Some(rtt) = delivery.rtt {
            self.rtt.sample(rtt);
        }
        let same_window = input.window == self.window;
        self.on_window(now, input.window, input.ack);
        if delivery.bytes > 0 {
            (self.timeouts, self.probes, self.tail_probed) = (0, 0, false);
            self.timer_base = now;
        }
        if advanced {
            self.duplicates = 0;
        } else if input.ack == self.una
            && input.empty
            && in_flight > 0
            && self.window != Some(0) // then it answers a probe
            && (same_window || !input.blocks.is_empty())
        {
            self.duplicates += 1;
            self.stats.duplicates += 1;
            if self.duplicates == DUPLICATES && !self.board.has_sacked() && self.board.lose_first(1) > 0 {
                self.begin_repair(now);
            }
        }
        if let Repair::Fast(end) | Repair::Slow(end) = self.repair
            && self.una >= end
        {
            self.repair = Repair::None;
        }
        let lost = self.look_for_losses(now);
        if delivery.bytes > 0 {
            let window = self.cc.window();
            let limited = if window < self.cc.ssthresh() {
                in_flight * 2 >= window
            } else {
                in_flight + 4 * self.limits.segment as u64 >= window
            };
            let acked = Acked {
                now,
                bytes: delivery.bytes,
                lost,
                in_flight: self.board.in_flight(),
                limited,
                repairing: matches!(self.repair, Repair::Fast(_)),
                rtt: delivery.rtt,
                sample: self.board.rate.sample(now, self.rtt.min()),
            };
            self.cc.on_ack(acked, &self.rtt);
        }
        delivery.bytes > 0 || advanced
    }

    /// Takes the window of a segment whose acknowledgement is not older than what is known.
    fn on_window(&mut self, now: Instant, window: Option<u16>, ack: u64) {
        let Some(window) = window else { return };
        if ack < self.una {
            return;
        }
        let reopened = self.window == Some(0) && window > 0;
        self.window = Some(window);
        if reopened {
            self.persist = None;
            self.probes = 0;
            // What was sent against the closed window was most likely thrown away.
            self.board.lose_all();
        } else if window == 0 && self.persist.is_none() {
            self.persist = Some(Persist { at: now + FIRST_PROBE, wait: FIRST_PROBE });
        }
    }

    /// Gives the bytes newly considered lost.
    fn look_for_losses(&mut self, now: Instant) -> u64 {
        let losses = self.board.find_losses(now, self.rtt.min(), self.rtt.smoothed().unwrap_or_default());
        self.look_again = losses.again;
        if losses.bytes > 0 {
            self.begin_repair(now);
        }
        losses.bytes
    }

    fn begin_repair(&mut self, now: Instant) {
        if matches!(self.repair, Repair::None) {
            self.repair = Repair::Fast(self.next);
            self.cc.on_loss(now);
            self.forced = self.forced.max(1);
        }
    }

    /// What was in flight may be gone for a reason other than congestion (the peer has a new key): send the first
    /// segments again. Gives how many.
    pub(crate) fn resend_first(&mut self, now: Instant, count: usize) -> usize {
        self.timeouts = 0;
        self.timer_base = now;
        let found = self.board.lose_first(count);
        self.forced = self.forced.max(u32::try_from(found).unwrap_or(0));
        found
    }

    /// Status output.
    pub(crate) fn status(&self) -> SendStatus {
        SendStatus {
            window: self.cc.window(),
            ssthresh: self.cc.ssthresh(),
            in_flight: self.board.in_flight(),
            unacked: self.board.len(),
            peer_window: self.window.unwrap_or(0),
            repairing: !matches!(self.repair, Repair::None),
            stats: self.stats,
        }
    }
}

/// CUBIC on this machine, a model of the path elsewhere.
fn controller(limits: Limits) -> Box<dyn Controller> {
    if limits.local { Box::new(Cubic::new()) } else { Box::new(Bbr::new()) }
}

/// A picture of the sending half.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SendStatus {
    pub(crate) window: u64,
    pub(crate) ssthresh: u64,
    pub(crate) in_flight: u64,
    pub(crate) unacked: usize,
    pub(crate) peer_window: u16,
    pub(crate) repairing: bool,
    pub(crate) stats: SendStats,
}

#[cfg(test)]
mod tests;
