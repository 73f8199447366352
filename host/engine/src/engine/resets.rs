//! Resets said again: no peer acknowledges one, so a single lost datagram would leave the other end of the stream open
//! until it gives up by itself, up to two minutes later.
//!
//! Called by the engine for streams that were open or dialled, and for those that only the peer still holds; the refusal of
//! a SYN is not repeated, because the SYN is. A peer that heard the first ignores the others (stream.md section 2, "FIN, RST,
//! ACK, data for an unknown connection"); one that has begun a new stream with the same four values is spared
//! ([`Resets::forget`]).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use pilot_wire::packet::{HEADER_LEN, Header, encode_into};

use super::Engine;
use crate::map::NumMap;
use crate::stream::table::Tuple;
use crate::time::{Duration, Instant};

/// How long after the one before each repeat is sent.
const WAITS: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];
/// Resets that are to be said again; further ones are said once.
const MAX: usize = 4096;

#[derive(Clone, Copy)]
struct Again {
    header: Header,
    at: Instant,
    repeats: usize,
}

/// What is to be said again, and when.
pub(crate) struct Resets {
    waiting: NumMap<Tuple, Again>,
    /// Bounds the table too: each of its entries has one here. One whose reset was forgotten stays until it is due.
    due: BinaryHeap<Reverse<(Instant, Tuple)>>,
}

impl Resets {
    pub(crate) fn new(hash: crate::map::Keyed) -> Self {
        Self { waiting: NumMap::with_hasher(hash), due: BinaryHeap::new() }
    }

    /// A stream's reset was sent.
    pub(crate) fn said(&mut self, now: Instant, header: Header) {
        self.wait(now, header, 0);
    }

    fn wait(&mut self, now: Instant, header: Header, repeats: usize) {
        let Some(wait) = WAITS.get(repeats).filter(|_| self.due.len() < MAX) else { return };
        let (tuple, at) = (Tuple::sent(&header), now + *wait);
        self.waiting.insert(tuple, Again { header, at, repeats });
        self.due.push(Reverse((at, tuple)));
    }

    /// The four values belong to a new stream, or the peer has ended its own.
    pub(crate) fn forget(&mut self, tuple: Tuple) {
        if !self.waiting.is_empty() {
            self.waiting.remove(&tuple);
        }
    }

    /// Whether a reset was said a moment ago and will be again.
    pub(crate) fn is_said(&self, tuple: Tuple) -> bool {
        self.waiting.contains_key(&tuple)
    }

    /// They came from a node that we are no longer.
    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
        self.due.clear();
    }

    /// When the next is due; may be early.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.due.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes one that is due.
    fn next(&mut self, now: Instant) -> Option<Header> {
        while self.deadline()? <= now {
            let Reverse((at, tuple)) = self.due.pop()?;
            if let Some(again) = self.waiting.get(&tuple).copied().filter(|again| again.at == at) {
                self.waiting.remove(&tuple);
                self.wait(now, again.header, again.repeats + 1);
                return Some(again.header);
            }
        }
        None
    }
}

impl Engine {
    /// Sends what is due, if there is still a session to send it in.
    pub(super) fn repeat_resets(&mut self, now: Instant) {
        while let Some(header) = self.resets.next(now) {
            let mut packet = Vec::with_capacity(HEADER_LEN);
            if encode_into(&header, &[], &mut packet).is_ok() {
                self.seal_now(now, header.dst.node, &packet, false);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use pilot_wire::addr::Addr;
    use pilot_wire::packet::{Flags, Protocol};

    use super::*;
    use crate::map::Keyed;

    fn reset(src_port: u16) -> Header {
        Header {
            flags: Flags::RST,
            protocol: Protocol::STREAM,
            src: Addr::backbone(1),
            dst: Addr::backbone(2),
            src_port,
            dst_port: 80,
            seq: 0,
            ack: 0,
            window: 0,
        }
    }

    fn at(ms: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(ms)
    }

    #[test]
    fn twice_more_and_then_never() {
        let mut resets = Resets::new(Keyed::new(1, 3));
        resets.said(at(0), reset(9));
        assert_eq!(resets.deadline(), Some(at(500)));
        assert_eq!(resets.next(at(499)), None);
        assert_eq!(resets.next(at(500)), Some(reset(9)));
        assert_eq!((resets.next(at(500)), resets.deadline()), (None, Some(at(2500))));
        assert_eq!(resets.next(at(3000)), Some(reset(9)));
        assert_eq!((resets.next(at(9000)), resets.deadline()), (None, None));
        assert!(resets.waiting.is_empty());
    }

    #[test]
    fn a_new_stream_is_spared_and_memory_is_bounded() {
        let mut resets = Resets::new(Keyed::new(1, 3));
        resets.said(at(0), reset(9));
        resets.forget(Tuple::sent(&reset(9)));
        // The new one is reset as well: what is left of the old one does not bring its time forward.
        resets.said(at(400), reset(9));
        assert_eq!(resets.next(at(500)), None);
        assert_eq!(resets.next(at(900)), Some(reset(9)));
        for port in 0..u16::MAX {
            resets.said(at(1000), reset(port));
            resets.forget(Tuple::sent(&reset(port)));
        }
        assert_eq!(resets.due.len(), MAX);
        assert_eq!((resets.next(at(9000)), resets.deadline()), (None, None));
    }
}
