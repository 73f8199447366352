//! The receiving half of a stream: putting segments in order, the window, and what to acknowledge when.
//!
//! Called by [`super::conn::Conn`] with offsets. Rules: stream.md sections 3, 4 and 6. In-order data is gathered into large
//! pieces, one copy per byte; data beyond a hole waits as it came. Bounded: at most twice the buffer's capacity in bytes
//! and a few thousand segments beyond holes; what does not fit is dropped and counts as lost on the way.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};

use super::pieces::{PIECE, Pieces};
use super::ranges::RangeSet;
use super::seq::Isn;
use crate::time::{Duration, Instant};
use pilot_wire::sack;

/// Segments that may wait beyond holes.
const MAX_PARKED: usize = 8192;
/// What a segment beyond a hole costs besides its bytes.
const PARKED_OVERHEAD: usize = 128;
/// Bytes a stream may leave unread while memory is short.
const PRESSED_CAPACITY: usize = 64 * 1024;
/// The buffer has room for what arrives in this many round trips.
const ROUNDS_HELD: u64 = 4;
/// Segments that may wait unread where their boundaries are kept, so that tiny ones do not cost more than they weigh.
const MAX_CHUNKS: usize = 1024;
/// The slot size the window is counted in until a larger segment was seen.
const MIN_SLOT: usize = 1152;
/// First size of the pieces in-order data is gathered into; doubles up to [`PIECE`].
const FIRST_PIECE: usize = 256;
/// Longest wait before a lone full segment is acknowledged.
const ACK_DELAY: Duration = Duration::from_millis(5);
/// Full segments that are acknowledged at once at the beginning of a stream, and again after the delay has struck.
const QUICK: u8 = 32;
/// Duplicate acknowledgements that go out without blocks before they alternate: May's peers do not count others.
const PLAIN_DUPLICATES: u32 = 3;
/// Duplicate acknowledgements owed to a peer that counts them, at most.
const MAX_OWED: u32 = 8;

/// The receiving half.
#[derive(Debug)]
pub(crate) struct Receiver {
    isn: Isn,
    /// Next offset expected.
    next: u64,
    pieces: VecDeque<Bytes>,
    tail: BytesMut,
    piece_size: usize,
    /// The tail is a piece of the pool.
    pooled: bool,
    /// In-order bytes not yet read.
    unread: usize,
    /// Hand out segments as they came (the echo service needs their boundaries).
    keep_boundaries: bool,
    /// The application is gone: count, acknowledge, throw away.
    discard: bool,
    parked: BTreeMap<u64, Bytes>,
    parked_bytes: usize,
    arrived: RangeSet,
    /// Starts of the segments that last extended `arrived`, latest first.
    recent: VecDeque<u64>,
    /// Offset behind the highest byte seen.
    highest: u64,
    capacity: usize,
    max_capacity: usize,
    /// Memory for all streams is short.
    pressed: bool,
    arriving: Arriving,
    slot: usize,
    advertised: u16,
    ack: AckState,
    stats: RecvStats,
}

/// What arrived since `from`, to see how much of a window the peer needs.
#[derive(Clone, Copy, Debug, Default)]
struct Arriving {
    from: Instant,
    bytes: u64,
}

#[derive(Debug, Default)]
struct AckState {
    now: bool,
    owed: u32,
    full: u8,
    due: Option<Instant>,
    quick: u8,
    /// Duplicates sent since the last progress.
    duplicates: u32,
}

/// Counters for status output.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RecvStats {
    pub(crate) bytes: u64,
    pub(crate) segments: u64,
    pub(crate) sacks: u64,
}

impl Receiver {
    /// A receiver for a peer whose SYN carried `isn`. `capacity` bytes may stay unread, later up to `max_capacity`.
    pub(crate) fn new(isn: u32, capacity: usize, max_capacity: usize, keep_boundaries: bool) -> Self {
        Self {
            isn: Isn(isn),
            next: 1,
            pieces: VecDeque::new(),
            tail: BytesMut::new(),
            piece_size: FIRST_PIECE,
            pooled: false,
            unread: 0,
            keep_boundaries,
            discard: false,
            parked: BTreeMap::new(),
            parked_bytes: 0,
            arrived: RangeSet::default(),
            recent: VecDeque::new(),
            highest: 1,
            capacity: capacity.max(MIN_SLOT),
            max_capacity,
            pressed: false,
            arriving: Arriving::default(),
            slot: MIN_SLOT,
            advertised: u16::MAX,
            ack: AckState { quick: QUICK, ..AckState::default() },
            stats: RecvStats::default(),
        }
    }

    /// The offset a wire sequence number means; `None` when it lies before the stream.
    pub(crate) fn offset(&self, seq: u32) -> Option<u64> {
        self.isn.offset(seq, self.next)
    }

    /// The wire form of an offset.
    pub(crate) fn wire(&self, offset: u64) -> u32 {
        self.isn.wire(offset)
    }

    /// Next offset expected.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Offset behind the highest byte seen.
    pub(crate) fn highest(&self) -> u64 {
        self.highest
    }

    /// In-order bytes not yet read.
    pub(crate) fn unread(&self) -> usize {
        self.unread
    }

    /// Segments waiting beyond a hole.
    pub(crate) fn parked(&self) -> usize {
        self.parked.len()
    }

    /// Memory it holds for data.
    pub(crate) fn held(&self) -> usize {
        self.unread + self.parked_bytes + self.parked.len() * PARKED_OVERHEAD
    }

    /// Whether the memory for all streams is used up, from now on.
    pub(crate) fn set_pressed(&mut self, pressed: bool) {
        self.pressed = pressed;
    }

    /// The last window that went out.
    pub(crate) fn advertised(&self) -> u16 {
        self.advertised
    }

    pub(crate) fn stats(&self) -> RecvStats {
        self.stats
    }

    /// Takes a data segment; true when there is something new to read.
    pub(crate) fn on_data(&mut self, now: Instant, pool: &mut Pieces, at: u64, payload: &[u8]) -> bool {
        self.stats.segments += 1;
        self.slot = self.slot.max(payload.len());
        let end = at + payload.len() as u64;
        let room = (2 * self.capacity).saturating_sub(self.unread) as u64;
        let crowded = at > self.next && self.parked.len() >= MAX_PARKED
            || self.keep_boundaries && self.pieces.len() >= MAX_CHUNKS
            || self.pressed && (at > self.next || self.unread >= PRESSED_CAPACITY);
        if end <= self.next || end > self.next + room || crowded {
            // Old, or beyond what may be stored: say where we are.
            self.acknowledge_duplicate();
            return false;
        }
        self.highest = self.highest.max(end);
        if at > self.next {
            self.park(at, payload);
            self.acknowledge_duplicate();
            return false;
        }
        #[allow(clippy::cast_possible_truncation)] // below the payload's length
        let fresh = &payload[(self.next - at) as usize..];
        self.take(pool, fresh);
        if self.parked.is_empty() {
            self.acknowledge_in_order(now, payload.len());
        } else {
            self.unpark();
            self.ack.now = true;
        }
        self.ack.now |= self.window() == 0; // the sender should know at once
        self.ack.duplicates = 0;
        true
    }

    /// Moves in-order bytes to the application's side.
    fn take(&mut self, pool: &mut Pieces, bytes: &[u8]) {
        self.advance(bytes.len());
        if self.discard {
            return;
        }
        self.unread += bytes.len();
        if self.keep_boundaries {
            self.pieces.push_back(Bytes::copy_from_slice(bytes));
            return;
        }
        if self.tail.capacity() - self.tail.len() < bytes.len() {
            self.seal_tail();
            self.renew_tail(pool, bytes.len());
        }
        self.tail.extend_from_slice(bytes);
    }

    /// A new piece, large enough for `len` bytes; a stream that has little to say gets a small one.
    fn renew_tail(&mut self, pool: &mut Pieces, len: usize) {
        let old = std::mem::take(&mut self.tail);
        if self.pooled {
            pool.give_back(old);
        }
        self.pooled = self.piece_size >= PIECE;
        self.tail = if self.pooled { pool.take() } else { BytesMut::with_capacity(self.piece_size.max(len)) };
        self.piece_size = (self.piece_size * 2).min(PIECE);
    }

    fn advance(&mut self, len: usize) {
        self.next += len as u64;
        self.stats.bytes += len as u64;
    }

    fn seal_tail(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push_back(self.tail.split().freeze());
        }
    }

    /// Keeps the parts of a segment beyond a hole that are not here yet.
    fn park(&mut self, at: u64, payload: &[u8]) {
        let end = at + payload.len() as u64;
        for (start, stop) in self.arrived.gaps(at, end) {
            #[allow(clippy::cast_possible_truncation)] // both within the payload
            let part = &payload[(start - at) as usize..(stop - at) as usize];
            self.parked_bytes += part.len();
            self.parked.insert(start, Bytes::copy_from_slice(part));
        }
        self.arrived.insert(at, end);
        self.recent.retain(|r| !(at..end).contains(r));
        self.recent.push_front(at);
        self.recent.truncate(sack::MAX_BLOCKS);
    }

    /// Takes what is no longer beyond a hole.
    fn unpark(&mut self) {
        while let Some(entry) = self.parked.first_entry()
            && *entry.key() <= self.next
        {
            let (at, mut bytes) = entry.remove_entry();
            self.parked_bytes -= bytes.len();
            let known = usize::try_from(self.next - at).unwrap_or(usize::MAX);
            if known >= bytes.len() {
                continue;
            }
            let bytes = bytes.split_off(known);
            self.advance(bytes.len());
            if !self.discard {
                self.unread += bytes.len();
                self.seal_tail();
                self.pieces.push_back(bytes);
            }
        }
        self.arrived.remove_below(self.next);
    }

    fn acknowledge_in_order(&mut self, now: Instant, len: usize) {
        if len < self.slot && len < MIN_SLOT {
            self.ack.now = true;
            return;
        }
        self.ack.full = self.ack.full.saturating_add(1);
        if self.ack.full >= 2 {
            self.ack.now = true;
        } else if self.ack.quick > 0 {
            self.ack.quick -= 1;
            self.ack.now = true;
        } else if self.ack.due.is_none() {
            self.ack.due = Some(now + ACK_DELAY);
        }
    }

    fn acknowledge_duplicate(&mut self) {
        self.ack.now = true;
        self.ack.owed = (self.ack.owed + 1).min(MAX_OWED);
    }

    /// Asks for an acknowledgement as soon as possible.
    pub(crate) fn acknowledge_now(&mut self) {
        self.ack.now = true;
    }

    /// Whether an acknowledgement should go out even without data to carry it.
    pub(crate) fn wants_ack(&self) -> bool {
        self.ack.now
    }

    /// When a delayed acknowledgement falls due.
    pub(crate) fn ack_deadline(&self) -> Option<Instant> {
        self.ack.due.filter(|_| !self.ack.now)
    }

    /// The delay is over.
    pub(crate) fn on_timer(&mut self, now: Instant) {
        if self.ack_deadline().is_some_and(|t| t <= now) {
            self.ack.now = true;
            self.ack.quick = QUICK;
        }
    }

    /// The blocks the next bare acknowledgement should carry, as wire numbers; empty for none.
    ///
    /// A peer that counts duplicates needs the first three bare and one per segment; one of ours reads blocks.
    pub(crate) fn blocks(&self, enhanced: bool) -> Vec<sack::Block> {
        if self.arrived.is_empty() {
            return Vec::new();
        }
        let nth = self.ack.duplicates;
        if !enhanced && (nth < PLAIN_DUPLICATES || (nth - PLAIN_DUPLICATES) % 2 == 1) {
            return Vec::new();
        }
        // The latest first, as RFC 2018 wants it, then the lowest.
        let mut ranges: Vec<(u64, u64)> = Vec::with_capacity(sack::MAX_BLOCKS);
        let latest = self.recent.iter().filter_map(|at| self.arrived.containing(*at));
        for range in latest.chain(self.arrived.iter().take(sack::MAX_BLOCKS)) {
            if !ranges.contains(&range) && ranges.len() < sack::MAX_BLOCKS {
                ranges.push(range);
            }
        }
        let block = |(s, e)| sack::Block { left: self.wire(s), right: self.wire(e) };
        ranges.into_iter().map(block).collect()
    }

    /// An acknowledgement went out, bare or with data.
    pub(crate) fn ack_sent(&mut self, enhanced: bool, bare: bool, with_blocks: bool, window: u16) {
        self.advertised = window;
        self.stats.sacks += u64::from(with_blocks);
        (self.ack.full, self.ack.due) = (0, None);
        let hole = !self.arrived.is_empty();
        if bare && self.ack.owed > 0 {
            self.ack.duplicates += 1;
        }
        self.ack.owed = match (bare, enhanced) {
            (_, true) => 0,
            (true, false) => self.ack.owed.saturating_sub(1),
            (false, false) => self.ack.owed,
        };
        // Data carries the number, but neither blocks nor a duplicate: those still have to go out.
        self.ack.now = self.ack.owed > 0 || (!bare && hole && self.ack.now);
    }

    /// The window to advertise now, in segment slots (stream.md section 3).
    pub(crate) fn window(&self) -> u16 {
        let capacity = if self.pressed { self.capacity.min(PRESSED_CAPACITY) } else { self.capacity };
        let free = capacity.saturating_sub(self.unread);
        u16::try_from(free / self.slot).unwrap_or(u16::MAX)
    }

    /// Takes up to `max` bytes; `None` when there is nothing in order.
    pub(crate) fn read(&mut self, max: usize) -> Option<Bytes> {
        if self.pieces.is_empty() {
            self.seal_tail();
        }
        let front = self.pieces.front_mut()?;
        let piece = if front.len() > max { front.split_to(max) } else { self.pieces.pop_front()? };
        self.unread -= piece.len();
        // A window that was nearly shut and is open again must be announced: nothing else will.
        let full = u16::try_from(self.capacity / self.slot).unwrap_or(u16::MAX);
        if self.advertised <= full / 4 && self.window() >= full / 2 {
            self.ack.now = true;
        }
        Some(piece)
    }

    /// Makes the buffer larger when so much arrives in a round trip that the window could hold the peer back, and the
    /// application keeps up with it. `rtt` is the path's, once it is known.
    pub(crate) fn tune(&mut self, now: Instant, len: usize, rtt: Option<Duration>) {
        self.arriving.bytes += len as u64;
        let Some(rtt) = rtt else { return };
        let since = now.since(self.arriving.from);
        if since < rtt {
            return;
        }
        let wanted = usize::try_from(self.arriving.bytes * ROUNDS_HELD).unwrap_or(usize::MAX);
        if !self.pressed && since < 2 * rtt && wanted > self.capacity && self.unread < self.capacity / 4 {
            self.capacity = wanted.min(self.max_capacity).max(self.capacity);
        }
        self.arriving = Arriving { from: now, bytes: 0 };
    }

    /// Nothing happened for a while: memory that holds nothing is given up.
    pub(crate) fn rest(&mut self) {
        if self.tail.is_empty() {
            (self.tail, self.piece_size, self.pooled) = (BytesMut::new(), FIRST_PIECE, false);
        }
    }

    /// From now on everything is thrown away.
    pub(crate) fn discard(&mut self) {
        self.discard = true;
        self.pieces.clear();
        self.tail = BytesMut::new();
        self.unread = 0;
        if self.advertised == 0 {
            self.ack.now = true;
        }
    }

    /// Forgets what will never be completed.
    pub(crate) fn abandon(&mut self) {
        self.parked.clear();
        self.parked_bytes = 0;
        self.arrived.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Instant = Instant::ZERO;

    fn receiver() -> Receiver {
        Receiver::new(0, 1 << 20, 1 << 20, false)
    }

    fn read_all(r: &mut Receiver) -> Vec<u8> {
        std::iter::from_fn(|| r.read(usize::MAX)).flatten().collect()
    }

    #[test]
    fn in_order_data_is_read_as_sent() {
        let mut r = receiver();
        assert!(r.on_data(NOW, &mut Pieces::default(), 1, b"hello "));
        assert!(r.on_data(NOW, &mut Pieces::default(), 7, b"world"));
        assert_eq!(r.read(3).unwrap(), "hel");
        assert_eq!(read_all(&mut r), b"lo world");
        assert_eq!(r.next(), 12);
    }

    #[test]
    fn short_segments_and_every_second_full_one_are_acknowledged_at_once() {
        let mut r = receiver();
        r.ack.quick = 0;
        r.on_data(NOW, &mut Pieces::default(), 1, &[0; 100]);
        assert!(r.wants_ack());
        r.ack_sent(false, true, false, 1);
        r.on_data(NOW, &mut Pieces::default(), 101, &[0; 1152]);
        assert!(!r.wants_ack());
        assert_eq!(r.ack_deadline(), Some(NOW + ACK_DELAY));
        r.on_data(NOW, &mut Pieces::default(), 1253, &[0; 1152]);
        assert!(r.wants_ack());
        r.ack_sent(false, true, false, 1);
        assert_eq!(r.ack_deadline(), None);
        r.on_data(NOW, &mut Pieces::default(), 2405, &[0; 1152]);
        r.on_timer(NOW + ACK_DELAY);
        assert!(r.wants_ack());
    }

    #[test]
    fn old_data_is_dropped_but_acknowledged() {
        let mut r = receiver();
        r.on_data(NOW, &mut Pieces::default(), 1, &[0; 100]);
        r.ack_sent(false, true, false, 1);
        assert!(!r.on_data(NOW, &mut Pieces::default(), 1, &[0; 100]));
        assert!(r.wants_ack());
    }

    #[test]
    fn a_peer_that_counts_duplicates_gets_three_bare_ones_then_alternating() {
        let mut r = receiver();
        let mut shapes = Vec::new();
        for i in 1..=6 {
            r.on_data(NOW, &mut Pieces::default(), 1 + 1000 * i, &[0; 1000]);
            assert!(r.wants_ack());
            let with = !r.blocks(false).is_empty();
            shapes.push(with);
            r.ack_sent(false, true, with, 9);
        }
        assert_eq!(shapes, [false, false, false, true, false, true]);
        assert!(!r.wants_ack());
    }

    #[test]
    fn one_of_ours_gets_one_with_blocks_the_latest_first() {
        let mut r = receiver();
        for i in [2, 8, 4, 6, 10] {
            r.on_data(NOW, &mut Pieces::default(), 1 + 1000 * i, &[0; 1000]);
        }
        let blocks = r.blocks(true);
        assert_eq!(blocks[0], sack::Block { left: 10_001, right: 11_001 });
        assert_eq!(blocks[1], sack::Block { left: 6001, right: 7001 });
        assert_eq!(blocks.len(), 4);
        r.ack_sent(true, true, true, 9);
        assert!(!r.wants_ack());
    }

    #[test]
    fn the_window_counts_slots_of_the_largest_segment_seen() {
        let mut r = Receiver::new(0, 4 << 20, 4 << 20, false);
        assert_eq!(r.window(), 3640);
        r.on_data(NOW, &mut Pieces::default(), 1, &[0; 4096]);
        assert_eq!(r.window(), 1023);
        read_all(&mut r);
        assert_eq!(r.window(), 1024);
    }

    #[test]
    fn a_window_that_opens_again_is_announced_once() {
        let mut r = Receiver::new(0, 11_520, 11_520, false);
        for i in 0..10 {
            r.on_data(NOW, &mut Pieces::default(), 1 + 1152 * i, &[0; 1152]);
        }
        let w = r.window();
        assert_eq!(w, 0);
        r.ack_sent(false, true, false, w);
        while r.unread() > 1152 * 5 {
            assert!(!r.wants_ack());
            r.read(1152);
        }
        assert!(r.wants_ack());
        let w = r.window();
        r.ack_sent(false, true, false, w);
        read_all(&mut r);
        assert!(!r.wants_ack());
    }

    #[test]
    fn what_goes_far_beyond_the_window_is_dropped() {
        let mut r = Receiver::new(0, 10_000, 10_000, false);
        assert!(!r.on_data(NOW, &mut Pieces::default(), 1 + 20_000, &[0; 100]));
        assert_eq!(r.parked(), 0);
        assert!(!r.on_data(NOW, &mut Pieces::default(), 2, &[0; 100]));
        assert_eq!(r.parked(), 1);
    }

    #[test]
    fn boundaries_are_kept_on_request() {
        let mut r = Receiver::new(0, 10_000, 10_000, true);
        r.on_data(NOW, &mut Pieces::default(), 1, b"ab");
        r.on_data(NOW, &mut Pieces::default(), 3, b"cd");
        assert_eq!(r.read(99).unwrap(), "ab");
        assert_eq!(r.read(99).unwrap(), "cd");
    }

    proptest! {
        /// Any cutting, order, overlap and repetition of a message gives the message.
        #[test]
        fn any_order_gives_the_message(
            cuts in proptest::collection::vec((0_usize..900, 1_usize..200), 0..60),
            isn in any::<u32>(),
        ) {
            let message: Vec<u8> = (0..1000_u32).map(|i| (i * 7 % 251).to_le_bytes()[0]).collect();
            let mut r = Receiver::new(isn, 1 << 20, 1 << 20, false);
            let mut got = Vec::new();
            let in_order = (0..10).map(|i| (i * 100, 100));
            for (at, len) in cuts.into_iter().chain(in_order) {
                let end = (at + len).min(message.len());
                let offset = r.offset(r.wire(at as u64 + 1)).unwrap();
                r.on_data(NOW, &mut Pieces::default(), offset, &message[at..end]);
                while let Some(b) = r.read(77) {
                    got.extend_from_slice(&b);
                }
            }
            prop_assert_eq!(got, message);
            prop_assert_eq!((r.unread(), r.parked()), (0, 0));
        }
    }
}
