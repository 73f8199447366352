//! The segments in flight and what became of them: acknowledged, selectively acknowledged, lost.
//!
//! Segments keep the boundaries they were first sent with (stream.md section 4). Losses are found in the order of
//! transmission, not of sequence (RFC 8985, "RACK"): when something sent later has arrived, and enough time for mere
//! reordering has passed, what was sent earlier is lost, retransmissions included. Every operation is logarithmic in the
//! number of segments, or constant per transmission: nothing walks over the whole flight per acknowledgement.

use std::collections::{BTreeSet, VecDeque};

use super::ranges::RangeSet;
use super::rate::{Departure, Sampler};
use crate::time::{Duration, Instant};

/// Segments that must have overtaken another before it counts as lost without waiting.
const DUPLICATE_THRESHOLD: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    InFlight,
    Sacked,
    Lost,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    start: u64,
    len: u32,
    /// Number of its last transmission; transmissions of a stream are counted.
    tx: u64,
    sent: Instant,
    departure: Departure,
    repeated: bool,
    /// Shorter than a full segment, so it holds back another short one.
    short: bool,
    fate: Fate,
}

impl Segment {
    const fn end(&self) -> u64 {
        self.start + self.len as u64
    }
}

/// What an acknowledgement brought.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Delivery {
    /// Bytes newly known to have arrived.
    pub(crate) bytes: u64,
    /// A round trip time from the last sent of these segments, none of which was repeated.
    pub(crate) rtt: Option<Duration>,
}

/// What a look for losses found.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Losses {
    /// Bytes newly considered lost.
    pub(crate) bytes: u64,
    /// Look again then: something is overdue, but may only have been overtaken.
    pub(crate) again: Option<Instant>,
}

/// The most recently sent segment known to have arrived.
#[derive(Clone, Copy, Debug)]
struct Newest {
    tx: u64,
    rtt: Duration,
}

/// Segments from the first unacknowledged one to the last one sent.
#[derive(Debug, Default)]
pub(crate) struct Scoreboard {
    /// Ascending by start, without gaps.
    segments: VecDeque<Segment>,
    /// One entry per transmission, oldest first: start and number. Entries whose segment was acknowledged or sent again
    /// are void and leave when they reach the front.
    order: VecDeque<(u64, u64)>,
    lost: BTreeSet<u64>,
    sacked: RangeSet,
    in_flight: u64,
    shorts: usize,
    transmissions: u64,
    newest: Option<Newest>,
    /// Offset behind the highest byte known to have arrived.
    highest: u64,
    /// Segments selectively acknowledged since the last cumulative progress.
    overtaking: u32,
    /// The path has been seen to reorder.
    reorders: bool,
    pub(crate) rate: Sampler,
}

impl Scoreboard {
    /// Segments not yet cumulatively acknowledged.
    pub(crate) fn len(&self) -> usize {
        self.segments.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Where the first unacknowledged segment begins.
    pub(crate) fn first(&self) -> Option<u64> {
        self.segments.front().map(|s| s.start)
    }

    /// Bytes sent and neither acknowledged nor considered lost.
    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Whether a short segment is still unacknowledged.
    pub(crate) fn has_short(&self) -> bool {
        self.shorts > 0
    }

    /// Whether anything was selectively acknowledged above the first hole.
    pub(crate) fn has_sacked(&self) -> bool {
        !self.sacked.is_empty()
    }

    /// Whether anything is to be sent again.
    pub(crate) fn has_lost(&self) -> bool {
        !self.lost.is_empty()
    }

    /// Records the first transmission of the next segment.
    pub(crate) fn sent(&mut self, now: Instant, start: u64, len: u32, short: bool) {
        let tx = self.next_transmission(start);
        let departure = self.rate.departs(now, self.in_flight == 0);
        self.segments.push_back(Segment {
            start,
            len,
            tx,
            sent: now,
            departure,
            repeated: false,
            short,
            fate: Fate::InFlight,
        });
        self.in_flight += u64::from(len);
        self.shorts += usize::from(short);
    }

    /// Records that the lost segment at `start` was sent again.
    pub(crate) fn repeated(&mut self, now: Instant, start: u64) {
        if !self.lost.remove(&start) {
            return;
        }
        let tx = self.next_transmission(start);
        let departure = self.rate.departs(now, self.in_flight == 0);
        if let Some(segment) = self.find(start) {
            segment.departure = departure;
            (segment.tx, segment.sent, segment.repeated, segment.fate) = (tx, now, true, Fate::InFlight);
            self.in_flight += u64::from(segment.len);
        }
    }

    fn next_transmission(&mut self, start: u64) -> u64 {
        self.transmissions += 1;
        self.order.push_back((start, self.transmissions));
        self.transmissions
    }

    /// The first segment to be sent again: start and length.
    pub(crate) fn first_lost(&mut self) -> Option<(u64, u32)> {
        let start = *self.lost.first()?;
        self.find(start).map(|s| (s.start, s.len))
    }

    /// Everything below `upto` has arrived.
    pub(crate) fn acknowledge(&mut self, now: Instant, upto: u64, min_rtt: Duration) -> Delivery {
        let mut delivery = Delivery::default();
        while let Some(front) = self.segments.front().copied()
            && front.end() <= upto
        {
            self.segments.pop_front();
            self.shorts -= usize::from(front.short);
            match front.fate {
                Fate::Sacked => continue,
                Fate::InFlight => self.in_flight -= u64::from(front.len),
                Fate::Lost => _ = self.lost.remove(&front.start),
            }
            self.deliver(now, &front, min_rtt, &mut delivery);
        }
        self.sacked.remove_below(upto);
        self.overtaking = 0;
        delivery
    }

    /// The bytes `left..right` have arrived, although something before them has not.
    pub(crate) fn selectively_acknowledge(
        &mut self,
        now: Instant,
        (left, right): (u64, u64),
        min_rtt: Duration,
    ) -> Delivery {
        let mut delivery = Delivery::default();
        if left >= right {
            return delivery;
        }
        for (start, end) in self.sacked.gaps(left, right) {
            let mut i = self.segments.partition_point(|s| s.start < start);
            while let Some(segment) = self.segments.get_mut(i)
                && segment.start < end
                && segment.end() <= right
            {
                let before = *segment;
                segment.fate = Fate::Sacked;
                match before.fate {
                    Fate::Sacked => {}
                    Fate::InFlight => self.in_flight -= u64::from(before.len),
                    Fate::Lost => _ = self.lost.remove(&before.start),
                }
                if before.fate != Fate::Sacked {
                    self.overtaking += 1;
                    self.deliver(now, &before, min_rtt, &mut delivery);
                }
                i += 1;
            }
        }
        self.sacked.insert(left, right);
        delivery
    }

    fn deliver(&mut self, now: Instant, segment: &Segment, min_rtt: Duration, delivery: &mut Delivery) {
        delivery.bytes += u64::from(segment.len);
        let rtt = now.since(segment.sent);
        self.rate.arrived(now, segment.len.into(), segment.departure, segment.sent);
        if segment.end() < self.highest && !segment.repeated {
            self.reorders = true;
        }
        self.highest = self.highest.max(segment.end());
        // An answer to a repetition that is quicker than any before answers the original.
        if !segment.repeated {
            delivery.rtt = Some(rtt);
        } else if rtt < min_rtt {
            return;
        }
        if self.newest.is_none_or(|n| segment.tx > n.tx) {
            self.newest = Some(Newest { tx: segment.tx, rtt });
        }
    }

    /// Looks for segments that something sent later has overtaken for too long.
    pub(crate) fn find_losses(&mut self, now: Instant, min_rtt: Duration, smoothed: Duration) -> Losses {
        let mut losses = Losses::default();
        let Some(newest) = self.newest else { return losses };
        let patience = match (self.reorders, self.overtaking) {
            (false, DUPLICATE_THRESHOLD..) => Duration::ZERO,
            (false, _) => min_rtt / 4,
            (true, _) => (min_rtt / 4).max(smoothed / 4).min(smoothed),
        };
        while let Some(&(start, tx)) = self.order.front() {
            let Some(segment) = self.find(start).filter(|s| s.tx == tx && s.fate == Fate::InFlight) else {
                self.order.pop_front();
                continue;
            };
            if tx >= newest.tx {
                break;
            }
            let deadline = segment.sent + newest.rtt + patience;
            if now < deadline {
                losses.again = Some(deadline);
                break;
            }
            segment.fate = Fate::Lost;
            let len = u64::from(segment.len);
            self.order.pop_front();
            self.lost.insert(start);
            self.in_flight -= len;
            losses.bytes += len;
        }
        losses
    }

    /// Considers everything in flight lost (a timeout).
    pub(crate) fn lose_all(&mut self) {
        for segment in self.segments.iter_mut().filter(|s| s.fate == Fate::InFlight) {
            segment.fate = Fate::Lost;
            self.lost.insert(segment.start);
        }
        self.order.clear();
        self.in_flight = 0;
    }

    /// Considers up to `count` segments lost, from the first on; gives how many there were.
    pub(crate) fn lose_first(&mut self, count: usize) -> usize {
        let mut found = 0;
        for segment in self.segments.iter_mut().take(count).filter(|s| s.fate == Fate::InFlight) {
            segment.fate = Fate::Lost;
            self.in_flight -= u64::from(segment.len);
            self.lost.insert(segment.start);
            found += 1;
        }
        found
    }

    /// Considers the last segment in flight lost, to be sent again as a probe.
    pub(crate) fn lose_last(&mut self) {
        if let Some(segment) = self.segments.iter_mut().rev().find(|s| s.fate == Fate::InFlight) {
            segment.fate = Fate::Lost;
            self.in_flight -= u64::from(segment.len);
            self.lost.insert(segment.start);
        }
    }

    fn find(&mut self, start: u64) -> Option<&mut Segment> {
        let i = self.segments.binary_search_by_key(&start, |s| s.start).ok()?;
        self.segments.get_mut(i)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(40);

    fn at(ms: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(ms)
    }

    /// Ten segments of 100 bytes from offset 1, sent at 0.
    fn ten() -> Scoreboard {
        let mut b = Scoreboard::default();
        for i in 0..10 {
            b.sent(at(0), 1 + 100 * i, 100, false);
        }
        b
    }

    #[test]
    fn cumulative_progress_releases_and_measures() {
        let mut b = ten();
        let d = b.acknowledge(at(40), 301, Duration::ZERO);
        assert_eq!((d.bytes, d.rtt), (300, Some(RTT)));
        assert_eq!((b.len(), b.in_flight()), (7, 700));
        let d = b.acknowledge(at(41), 350, RTT);
        assert_eq!((d.bytes, b.len()), (0, 7), "half a segment is not acknowledged");
    }

    #[test]
    fn three_overtakers_make_a_loss_at_once_and_two_do_not() {
        let mut b = ten();
        b.selectively_acknowledge(at(40), (101, 301), Duration::ZERO);
        let l = b.find_losses(at(40), RTT, RTT);
        assert_eq!((l.bytes, l.again), (0, Some(at(50))));
        b.selectively_acknowledge(at(40), (101, 401), Duration::ZERO);
        let l = b.find_losses(at(40), RTT, RTT);
        assert_eq!((l.bytes, b.first_lost()), (100, Some((1, 100))));
        assert_eq!(b.in_flight(), 600);
        assert_eq!(b.find_losses(at(41), RTT, RTT).bytes, 0);
    }

    #[test]
    fn the_same_block_counts_once() {
        let mut b = ten();
        assert_eq!(b.selectively_acknowledge(at(40), (101, 301), RTT).bytes, 200);
        assert_eq!(b.selectively_acknowledge(at(40), (101, 301), RTT).bytes, 0);
        assert_eq!(b.selectively_acknowledge(at(40), (101, 501), RTT).bytes, 200);
        assert_eq!(b.in_flight(), 600);
        assert_eq!(b.acknowledge(at(41), 501, RTT).bytes, 100);
        assert_eq!((b.in_flight(), b.len()), (500, 5));
    }

    #[test]
    fn a_lost_repetition_is_found_again() {
        let mut b = ten();
        b.selectively_acknowledge(at(40), (101, 501), Duration::ZERO);
        b.find_losses(at(40), RTT, RTT);
        b.repeated(at(40), 1);
        b.sent(at(41), 1001, 100, false);
        // The repetition does not arrive, but what was sent after it does.
        b.selectively_acknowledge(at(81), (501, 1101), RTT);
        let l = b.find_losses(at(81), RTT, RTT);
        assert_eq!((l.bytes, b.first_lost()), (100, Some((1, 100))));
    }

    #[test]
    fn an_answer_too_quick_for_the_repetition_does_not_age_the_rest() {
        let mut b = ten();
        b.lose_all();
        b.repeated(at(1000), 1);
        b.acknowledge(at(1001), 101, RTT);
        assert_eq!(b.find_losses(at(1001), RTT, RTT).bytes, 0);
    }

    #[test]
    fn once_seen_to_reorder_a_path_gets_patience() {
        let mut b = ten();
        b.selectively_acknowledge(at(40), (201, 601), Duration::ZERO);
        b.acknowledge(at(41), 601, RTT); // the overtaken ones came a little later
        b.selectively_acknowledge(at(42), (701, 1001), RTT);
        let l = b.find_losses(at(42), RTT, RTT);
        assert_eq!(l.bytes, 0);
        assert!(l.again.is_some());
    }

    #[test]
    fn everything_or_the_ends_can_be_given_up() {
        let mut b = ten();
        assert_eq!(b.lose_first(2), 2);
        b.lose_last();
        assert_eq!((b.in_flight(), b.first_lost()), (700, Some((1, 100))));
        b.repeated(at(5), 1);
        assert_eq!(b.first_lost(), Some((101, 100)));
        b.lose_all();
        assert_eq!(b.in_flight(), 0);
        for i in 0..10 {
            assert_eq!(b.first_lost(), Some((1 + 100 * i, 100)));
            b.repeated(at(6), 1 + 100 * i);
        }
        assert_eq!((b.first_lost(), b.in_flight()), (None, 1000));
    }
}
