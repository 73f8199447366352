//! What an incoming segment does to a connection. Order of the tests: SYN, SYN-ACK, FIN, RST, ACK; others are ignored.

use pilot_wire::packet::{Flags, Header};
use pilot_wire::sack;

use super::{Conn, Cx, EarlyFin, Owner, Phase};
use crate::error::{CloseReason, DialError};
use crate::event::Event;
use crate::notice::Notice;
use crate::stream::recv::Receiver;
use crate::stream::send::AckInput;
use crate::stream::seq::Isn;
use crate::time::Instant;

/// Echo answers a chunk of at least this many bytes that starts with the mark with a time stamp (stream.md section 12).
const TRACE_MIN: usize = 12;
const TRACE_MARK: &[u8] = b"TRCE";

impl Conn {
    /// Takes a segment of this stream.
    pub(crate) fn on_segment(&mut self, cx: &mut Cx<'_>, h: &Header, payload: &[u8]) {
        self.heard = cx.now;
        let f = h.flags;
        if f.contains(Flags::SYN) {
            if f.contains(Flags::ACK) { self.on_syn_ack(cx, h) } else { self.on_syn_again(h) }
        } else if f.contains(Flags::FIN) {
            self.on_fin(cx, h);
        } else if f.contains(Flags::RST) {
            self.on_reset(cx);
        } else if f.contains(Flags::ACK) {
            self.on_ack(cx, h, payload);
        }
        self.tell_writable(cx);
    }

    /// The peer did not get our SYN-ACK.
    fn on_syn_again(&mut self, h: &Header) {
        let open = matches!(self.phase, Phase::Open | Phase::Closing { .. });
        if open && !self.dialled && self.rx.offset(h.seq) == Some(0) {
            self.replies.syn_ack = true;
        }
    }

    fn on_syn_ack(&mut self, cx: &mut Cx<'_>, h: &Header) {
        match self.phase {
            Phase::SynSent(opening) if h.ack == Isn(0).wire(1) && opening.sent > 0 => {
                self.rx = Receiver::new(h.seq, cx.config.recv_buffer, cx.config.recv_buffer_max, false);
                if opening.sent == 1 {
                    self.tx.sample_rtt(cx.now.since(opening.first_sent));
                }
                self.phase = Phase::Open;
                self.last_heard_numbers = (h.seq.wrapping_add(1), h.ack);
                self.take_window(cx.now, Some(h.window));
                self.rx.acknowledge_now();
                cx.events.push(Event::Connected { conn: self.id });
            }
            // A repeated one: the peer may still wait for our acknowledgement.
            Phase::Open | Phase::Closing { .. } if self.dialled => self.rx.acknowledge_now(),
            _ => {}
        }
    }

    fn on_reset(&mut self, cx: &mut Cx<'_>) {
        match self.phase {
            Phase::SynSent(_) => self.fail_dial(cx, DialError::Refused),
            Phase::Closed => {}
            _ => {
                cx.events.notice(Notice::Rst(self.ended()));
                self.abort(cx, CloseReason::Reset, false);
            }
        }
    }

    fn on_fin(&mut self, cx: &mut Cx<'_>, h: &Header) {
        let Some(at) = self.rx.offset(h.seq) else { return };
        let is_answer = h.flags.contains(Flags::ACK);
        match self.phase {
            Phase::Open | Phase::Closing { .. } => self.on_fin_while_open(cx, at),
            Phase::FinWait(_) => {
                // Nothing that is still missing matters: the application closed.
                self.replies.fin_ack = !is_answer;
                self.fin_taken = true;
                self.enter_time_wait(cx.now, cx.config.time_wait);
            }
            Phase::TimeWait { .. } => {
                self.replies.last_ack = true;
                self.enter_time_wait(cx.now, cx.config.time_wait);
            }
            Phase::SynSent(_) | Phase::Closed => {}
        }
    }

    fn on_fin_while_open(&mut self, cx: &mut Cx<'_>, at: u64) {
        let next = self.rx.next();
        let latest = self.early_fin.map_or(at, |fin| fin.at.max(at));
        if at > next || (at < next && latest > next) {
            // Data is missing in front of it, or this is an echo from before that data: ask for it.
            let since = self.early_fin.map_or(cx.now, |fin| fin.since);
            self.early_fin = (latest > next).then_some(EarlyFin { at: latest, since });
            self.rx.acknowledge_now();
        } else if at < next {
            self.rx.acknowledge_now(); // long past: contradicts what was received
        } else if latest > at || self.rx.highest() > at {
            // An empty FIN in the place of data: the peer closed and will never send that data (May does this).
            self.end_by_peer(cx, CloseReason::Truncated);
        } else {
            self.end_by_peer(cx, CloseReason::Finished);
        }
    }

    /// The peer's FIN is in order, or nothing better will come.
    fn end_by_peer(&mut self, cx: &mut Cx<'_>, reason: CloseReason) {
        self.early_fin = None;
        self.fin_taken = true;
        self.replies.fin_ack = true;
        cx.events.notice(Notice::Fin(self.ended()));
        self.tx.clear();
        self.enter_time_wait(cx.now, cx.config.time_wait);
        self.finish(cx, reason);
    }

    pub(super) fn enter_time_wait(&mut self, now: Instant, stay: crate::time::Duration) {
        self.phase = Phase::TimeWait { until: now + stay };
        self.rx.abandon();
        if self.released {
            self.rx.discard();
        }
    }

    fn on_ack(&mut self, cx: &mut Cx<'_>, h: &Header, payload: &[u8]) {
        match &mut self.phase {
            Phase::Open | Phase::Closing { .. } => {}
            Phase::FinWait(fin) => {
                if Isn(0).offset(h.ack, fin.at).is_some_and(|ack| ack > fin.at) {
                    fin.next = None;
                }
                return;
            }
            Phase::SynSent(_) | Phase::TimeWait { .. } | Phase::Closed => return,
        }
        let Some(at) = self.rx.offset(h.seq) else { return };
        if let Some(answered) = self.answered.take() {
            self.tx.sample_rtt(cx.now.since(answered));
        }
        let blocks = self.read_sack(cx.now, payload);
        let window = self.window_of(h, payload);
        self.last_heard_numbers = (h.seq, h.ack);
        if let Some(ack) = Isn(0).offset(h.ack, self.tx.una()) {
            let empty = payload.is_empty() || !matches!(blocks, Sack::Data);
            let input = AckInput { ack, window, empty, blocks: blocks.ranges() };
            if self.tx.on_ack(cx.now, input)
                && let Phase::Closing { progress } = &mut self.phase
            {
                *progress = cx.now;
            }
        }
        if self.tx.window_is_closed()
            && let Phase::Closing { progress } = &mut self.phase
        {
            *progress = cx.now; // alive, only slow
        }
        match blocks {
            Sack::Data if payload.is_empty() => {
                // Nobody else tells a peer that probes with empty segments that the window is open again.
                if self.rx.advertised() == 0 {
                    self.rx.acknowledge_now();
                }
            }
            Sack::Data => self.on_data(cx, at, payload),
            Sack::Blocks(..) => {}
        }
        self.run_echo(cx);
    }

    fn on_data(&mut self, cx: &mut Cx<'_>, at: u64, payload: &[u8]) {
        self.rx.set_pressed(cx.pressed);
        self.rx.tune(cx.now, payload.len(), self.tx.rtt().smoothed());
        if !self.rx.on_data(cx.now, cx.pieces, at, payload) {
            return;
        }
        if self.rx.unread() > 0 {
            self.tell_readable(cx);
        }
        if let Some(fin) = self.early_fin
            && fin.at <= self.rx.next()
        {
            let reason =
                if fin.at == self.rx.next() { CloseReason::Finished } else { CloseReason::Truncated };
            self.end_by_peer(cx, reason);
        }
    }

    /// The segment's window, unless it is a zero that means "not set" (stream.md section 3, "Treat a received window").
    fn window_of(&self, h: &Header, payload: &[u8]) -> Option<u16> {
        let keepalive = payload.is_empty()
            && self.last_heard_numbers == (h.seq, h.ack)
            && !self.tx.window_is_closed()
            && self.tx.nothing_outstanding();
        (h.window != 0 || !keepalive).then_some(h.window)
    }

    pub(super) fn take_window(&mut self, now: Instant, window: Option<u16>) {
        let ack = self.tx.una();
        self.tx.on_ack(now, AckInput { ack, window, empty: false, blocks: &[] });
    }

    /// Decides whether a payload is a list of blocks or data (stream.md section 6, stricter than the Go peers').
    ///
    /// A list has exactly its length, and names only what we have sent. The sheet would also ask for a sequence number
    /// equal to the highest seen and for blocks that are still unacknowledged; but a list that was overtaken on the way
    /// fulfils neither, and taking it for data would corrupt the stream. So when in doubt it is a list, for as long as an
    /// answer to something we sent can still be on its way: data is repeated longer than that.
    fn read_sack(&self, now: Instant, payload: &[u8]) -> Sack {
        let Some(blocks) = sack::decode(payload) else { return Sack::Data };
        if payload.len() != sack::encoded_len(blocks.len()) || !self.tx.may_be_answered(now) {
            return Sack::Data;
        }
        let mut ranges = [(0, 0); sack::MAX_BLOCKS];
        for (range, block) in ranges.iter_mut().zip(blocks.iter()) {
            let offset = |wire| Isn(0).offset(wire, self.tx.una());
            let (Some(left), Some(right)) = (offset(block.left), offset(block.right)) else {
                return Sack::Data;
            };
            if left >= right || right > self.tx.next_offset() {
                return Sack::Data;
            }
            *range = (left.max(self.tx.una()), right.max(self.tx.una()));
        }
        Sack::Blocks(ranges, blocks.len())
    }

    /// Writes back what came in for the echo service, as far as there is room.
    pub(super) fn run_echo(&mut self, cx: &Cx<'_>) {
        if self.owner != Owner::Echo || !matches!(self.phase, Phase::Open) {
            return;
        }
        while self.tx.buffered() < cx.config.send_buffer
            && let Some(chunk) = self.rx.read(usize::MAX)
        {
            match (chunk.get(..TRACE_MIN), cx.unix_nanos) {
                (Some(head), Some(unix)) if head.starts_with(TRACE_MARK) => {
                    let mut answer = head.to_vec();
                    answer.extend_from_slice(&unix.to_be_bytes());
                    self.tx.push(answer.into());
                }
                _ => self.tx.push(chunk),
            }
        }
    }
}

/// What a payload turned out to be.
enum Sack {
    Data,
    Blocks([(u64, u64); sack::MAX_BLOCKS], usize),
}

impl Sack {
    fn ranges(&self) -> &[(u64, u64)] {
        match self {
            Self::Blocks(ranges, len) => &ranges[..*len],
            Self::Data => &[],
        }
    }
}
