//! What a connection wants to send, one segment at a time: planned first, so that the caller can see its length before it
//! decides, then committed.

use pilot_wire::packet::{Flags, Header, Protocol};
use pilot_wire::sack;

use super::{Conn, Fin, Phase, Replies};
use crate::config::Config;
use crate::stream::send::DataPlan;
use crate::stream::seq::Isn;
use crate::time::{Duration, Instant};

/// Waits after each SYN (stream.md section 8, newest); a dial ends when the last is over.
pub(super) const SYN_WAITS: [Duration; 8] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
];
/// Our FIN is sent this often at most.
const MAX_FINS: u32 = 6;

/// A segment ready to be put into a packet.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) header: Header,
    pub(crate) payload: Payload,
    kind: Kind,
}

/// What follows the header.
#[derive(Debug)]
pub(crate) enum Payload {
    Empty,
    Blocks(Vec<sack::Block>),
    Data(DataPlan),
}

impl Payload {
    /// Its length in bytes.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Empty => 0,
            Self::Blocks(blocks) => sack::encoded_len(blocks.len()),
            Self::Data(plan) => plan.len as usize,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Reset,
    Syn,
    SynAck,
    FinAck,
    Fin,
    LastAck,
    Ack,
    Data(DataPlan),
}

impl Conn {
    /// The next segment to send, if there is one. Nothing changes until [`Conn::commit`].
    pub(crate) fn plan(&mut self, now: Instant, enhanced: bool) -> Option<Segment> {
        let kind = self.next_kind(now)?;
        let payload = match kind {
            Kind::Data(plan) => Payload::Data(plan),
            Kind::Ack => match self.rx.blocks(enhanced) {
                blocks if blocks.is_empty() => Payload::Empty,
                blocks => Payload::Blocks(blocks),
            },
            _ => Payload::Empty,
        };
        Some(Segment { header: self.header(kind), payload, kind })
    }

    /// Whether a SYN was repeated so often that the peer may be of February 2026 and read only its own cipher (tunnel.md
    /// section 3, "Interoperating with Feb").
    pub(crate) fn wants_both_forms(&self) -> bool {
        matches!(self.phase, Phase::SynSent(opening) if opening.sent >= 3)
    }

    fn next_kind(&mut self, now: Instant) -> Option<Kind> {
        if self.replies.reset {
            return Some(Kind::Reset);
        }
        match &self.phase {
            Phase::SynSent(opening) => return opening.due.then_some(Kind::Syn),
            Phase::Open | Phase::Closing { .. } => {}
            Phase::FinWait(fin) if fin.due => return Some(Kind::Fin),
            Phase::FinWait(_) | Phase::TimeWait { .. } => {
                return match self.replies {
                    Replies { fin_ack: true, .. } => Some(Kind::FinAck),
                    Replies { last_ack: true, .. } => Some(Kind::LastAck),
                    _ => None,
                };
            }
            Phase::Closed => return None,
        }
        if self.replies.syn_ack {
            return Some(Kind::SynAck);
        }
        // With a hole the peer waits for blocks or duplicates, which data cannot carry.
        if self.rx.wants_ack() && self.rx.parked() > 0 {
            return Some(Kind::Ack);
        }
        if let Some(plan) = self.tx.plan(now) {
            return Some(Kind::Data(plan));
        }
        if matches!(self.phase, Phase::Closing { .. }) && self.tx.is_drained() {
            return Some(Kind::Fin);
        }
        self.rx.wants_ack().then_some(Kind::Ack)
    }

    fn header(&self, kind: Kind) -> Header {
        let (flags, seq, ack, window) = match kind {
            Kind::Reset => (Flags::RST, 0, 0, 0),
            Kind::Syn => (Flags::SYN, Isn(0).wire(0), 0, self.rx.window()),
            Kind::SynAck => (Flags::SYN | Flags::ACK, Isn(0).wire(0), self.rx.wire(1), self.rx.window()),
            Kind::Fin => (Flags::FIN, Isn(0).wire(self.tx.next_offset()), 0, 0),
            Kind::FinAck => (Flags::FIN | Flags::ACK, self.next_seq(), self.ack_number(), 0),
            Kind::LastAck | Kind::Ack => (Flags::ACK, self.next_seq(), self.ack_number(), self.rx.window()),
            Kind::Data(plan) => (Flags::ACK, Isn(0).wire(plan.start), self.ack_number(), self.rx.window()),
        };
        Header {
            flags,
            protocol: Protocol::STREAM,
            src: self.info.local,
            dst: self.info.remote,
            src_port: self.info.local_port,
            dst_port: self.info.remote_port,
            seq,
            ack,
            window,
        }
    }

    /// The number of what carries no data: next to send.
    fn next_seq(&self) -> u32 {
        Isn(0).wire(self.tx.next_offset() + u64::from(self.fin_sent))
    }

    fn ack_number(&self) -> u32 {
        self.rx.wire(self.rx.next() + u64::from(self.fin_taken))
    }

    /// Appends a planned segment's payload.
    pub(crate) fn copy_payload(&self, segment: &Segment, out: &mut Vec<u8>) {
        match &segment.payload {
            Payload::Empty => {}
            Payload::Blocks(blocks) => sack::encode(blocks, out),
            Payload::Data(plan) => self.tx.copy(*plan, out),
        }
    }

    /// A planned segment was sealed and goes out.
    pub(crate) fn commit(&mut self, now: Instant, config: &Config, enhanced: bool, segment: &Segment) {
        self.said = now;
        match segment.kind {
            Kind::Reset => self.replies.reset = false,
            Kind::Syn => {
                if let Phase::SynSent(opening) = &mut self.phase {
                    if opening.sent == 0 {
                        opening.first_sent = now;
                    }
                    let wait = SYN_WAITS[(opening.sent as usize).min(SYN_WAITS.len() - 1)];
                    opening.sent += 1;
                    (opening.next, opening.due) = (Some(now + wait), false);
                }
            }
            Kind::SynAck => self.replies.syn_ack = false,
            Kind::FinAck => self.replies.fin_ack = false,
            Kind::LastAck => self.replies.last_ack = false,
            Kind::Fin => self.commit_fin(now, config),
            Kind::Ack => {
                let blocks = matches!(segment.payload, Payload::Blocks(_));
                self.rx.ack_sent(enhanced, true, blocks, segment.header.window);
            }
            Kind::Data(plan) => {
                self.tx.sent(now, plan);
                self.rx.ack_sent(enhanced, false, false, segment.header.window);
            }
        }
    }

    fn commit_fin(&mut self, now: Instant, config: &Config) {
        self.fin_sent = true;
        let (at, sent) = match &self.phase {
            Phase::FinWait(fin) => (fin.at, fin.sent + 1),
            _ => (self.tx.next_offset(), 1),
        };
        let next = (sent < MAX_FINS).then(|| now + self.tx.rtt().rto(sent - 1));
        // However short the stay is set: an end that was said once and lost would leave the peer's open.
        let until = next.unwrap_or(Instant::ZERO).max(now + config.time_wait);
        self.phase = Phase::FinWait(Fin { at, sent, due: false, next, until });
    }
}
