//! Row by row: stream.md section 2 (segments, events), section 3 (window 0), section 6 (SACK or data), section 9. The peer is
//! played by hand, so that it can be of any version.

use pilot_wire::addr::Addr;
use pilot_wire::packet::{Flags, Header, Protocol};
use pilot_wire::sack;

use super::*;
use crate::time::Duration;

const ACK: Flags = Flags::ACK;
const FIN: Flags = Flags::FIN;
const FIN_ACK: Flags = FIN.union(ACK);
const SYN_ACK: Flags = Flags::SYN.union(ACK);
const LIMITS: Limits = Limits { segment: 1152, outstanding: 128, enhanced: false, local: true };
const INFO: ConnInfo =
    ConnInfo { local: Addr::backbone(1), local_port: 50_000, remote: Addr::backbone(2), remote_port: 80 };

fn at(ms: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(ms)
}

/// A connection and everything around it.
struct Bench {
    conn: Conn,
    config: Config,
    events: Events,
    now: Instant,
}

/// Flags, sequence, acknowledgement, payload of a segment that went out.
type Sent = (Flags, u32, u32, Vec<u8>);

impl Bench {
    fn dialling() -> Self {
        let config = Config::default();
        let conn = Conn::dial(at(0), ConnId(1), INFO, LIMITS, &config);
        Self { conn, config, events: Events::new(99), now: at(0) }
    }

    /// An open stream that we dialled; the peer's first data byte is number 1001.
    fn open() -> Self {
        let mut b = Self::dialling();
        b.sent();
        b.hear(SYN_ACK, 1000, 1, 100, b"");
        assert!(matches!(b.events.pop(), Some(Event::Connected { .. })));
        b.sent();
        b
    }

    fn accepted() -> Self {
        let config = Config::default();
        let mut events = Events::new(99);
        let cx = Cx {
            now: at(0),
            config: &config,
            events: &mut events,
            pieces: &mut Pieces::default(),
            pressed: false,
            unix_nanos: None,
            peer_heard: at(0),
        };
        let conn = Conn::accept(&cx, ConnId(1), INFO, (1000, 100), LIMITS, Owner::App);
        Self { conn, config, events, now: at(0) }
    }

    fn with<T>(&mut self, run: impl FnOnce(&mut Conn, &mut Cx<'_>) -> T) -> T {
        let (now, config) = (self.now, &self.config);
        let mut cx = Cx {
            now,
            config,
            events: &mut self.events,
            pieces: &mut Pieces::default(),
            pressed: false,
            unix_nanos: None,
            peer_heard: Instant::ZERO,
        };
        run(&mut self.conn, &mut cx)
    }

    fn hear(&mut self, flags: Flags, seq: u32, ack: u32, window: u16, payload: &[u8]) {
        let header = Header {
            flags,
            protocol: Protocol::STREAM,
            src: INFO.remote,
            dst: INFO.local,
            src_port: INFO.remote_port,
            dst_port: INFO.local_port,
            seq,
            ack,
            window,
        };
        self.with(|conn, cx| conn.on_segment(cx, &header, payload));
    }

    fn sent_headers(&mut self) -> Vec<(Header, Vec<u8>)> {
        let mut out = Vec::new();
        while let Some(segment) = self.conn.plan(self.now, false) {
            let mut payload = Vec::new();
            self.conn.copy_payload(&segment, &mut payload);
            assert_eq!(payload.len(), segment.payload.len());
            self.conn.commit(self.now, &self.config, false, &segment);
            out.push((segment.header, payload));
        }
        out
    }

    fn sent(&mut self) -> Vec<Sent> {
        self.sent_headers().into_iter().map(|(h, p)| (h.flags, h.seq, h.ack, p)).collect()
    }

    /// Lets time pass, timer by timer, and gives what was sent meanwhile.
    fn pass(&mut self, until: Instant) -> Vec<Sent> {
        let mut out = self.sent();
        while let Some(next) = self.conn.deadline(&self.config).filter(|t| *t <= until) {
            self.now = self.now.max(next);
            self.with(|conn, cx| conn.on_timer(cx));
            out.extend(self.sent());
        }
        self.now = until;
        out
    }

    fn write(&mut self, data: &[u8]) {
        let data = Bytes::copy_from_slice(data);
        self.conn.write(&self.config, data).unwrap();
    }

    fn close(&mut self) {
        self.with(Conn::close);
    }

    fn outcome(&mut self) -> Option<CloseReason> {
        std::iter::from_fn(|| self.events.pop())
            .find_map(|e| if let Event::Closed { reason, .. } = e { Some(reason) } else { None })
    }

    fn read(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while let Ok(Read::Data(d)) = self.conn.read(false, usize::MAX) {
            all.extend_from_slice(&d);
        }
        all
    }
}

fn segment(flags: Flags, seq: u32, ack: u32) -> Sent {
    (flags, seq, ack, Vec::new())
}

#[test]
fn dialling_sends_syn_and_the_last_acknowledgement() {
    let mut b = Bench::dialling();
    let (syn, _) = b.sent_headers().remove(0);
    assert_eq!((syn.flags, syn.seq, syn.ack, syn.src_port, syn.dst_port), (Flags::SYN, 0, 0, 50_000, 80));
    assert_eq!(syn.window, 3640);
    b.hear(SYN_ACK, 1000, 7, 100, b"");
    b.hear(ACK, 1001, 1, 100, b"early data");
    assert!(b.sent().is_empty() && b.conn.is_dialling());
    b.now = at(30);
    b.hear(SYN_ACK, 1000, 1, 100, b"");
    assert_eq!(b.sent(), [segment(ACK, 1, 1001)]);
    assert_eq!(b.conn.row().srtt, Duration::from_millis(30));
    b.hear(SYN_ACK, 1000, 1, 100, b"");
    assert_eq!(b.sent(), [segment(ACK, 1, 1001)], "the peer may have missed it");
}

#[test]
fn a_dial_repeats_its_syn_and_tries_the_relay_after_three() {
    let mut b = Bench::dialling();
    let mut times = vec![];
    let mut relay = None;
    b.sent();
    while let Some(next) = b.conn.deadline(&b.config) {
        b.now = next;
        if b.with(|conn, cx| conn.on_timer(cx)) == Some(Wish::TryRelay) {
            relay = Some(next.since(at(0)).as_millis());
        }
        times.extend(b.sent().iter().map(|_| next.since(at(0)).as_millis()));
    }
    assert_eq!(times, [250, 750, 1750, 2250, 3250, 5250, 9250, 17_250], "the last is a reset");
    assert_eq!(relay, Some(1750));
    assert!(matches!(b.events.pop(), Some(Event::DialFailed { error: DialError::Timeout, .. })));
    assert!(b.conn.is_gone());
}

#[test]
fn a_reset_refuses_a_dial() {
    let mut b = Bench::dialling();
    b.sent();
    b.hear(Flags::RST, 0, 0, 0, b"");
    assert!(matches!(b.events.pop(), Some(Event::DialFailed { error: DialError::Refused, .. })));
}

#[test]
fn a_repeated_syn_gets_the_same_answer_even_after_data() {
    let mut b = Bench::accepted();
    assert_eq!(b.sent(), [segment(SYN_ACK, 0, 1001)]);
    b.write(b"banner");
    assert_eq!(b.sent().len(), 1);
    b.hear(Flags::SYN, 1000, 0, 100, b"");
    assert_eq!(b.sent(), [segment(SYN_ACK, 0, 1001)]);
}

#[test]
fn a_fin_in_order_is_answered_once_and_repeats_with_a_plain_acknowledgement() {
    let mut b = Bench::open();
    b.hear(ACK, 1001, 1, 100, b"bye");
    b.hear(FIN, 1004, 0, 0, b"");
    assert_eq!(b.sent(), [segment(FIN_ACK, 1, 1005)]);
    assert_eq!(b.conn.state(), State::TimeWait);
    assert_eq!(b.read(), b"bye");
    assert_eq!(b.conn.read(false, 9), Ok(Read::Finished));
    assert_eq!(b.outcome(), Some(CloseReason::Finished));
    b.hear(FIN, 1004, 0, 0, b"");
    assert_eq!(b.sent(), [segment(ACK, 1, 1005)]);
    b.hear(FIN_ACK, 1004, 2, 0, b"");
    assert_eq!(b.sent(), [segment(ACK, 1, 1005)], "never with a FIN");
}

#[test]
fn an_early_fin_waits_for_the_data_before_it() {
    let mut b = Bench::open();
    b.hear(ACK, 1004, 1, 100, b"world");
    b.hear(FIN, 1009, 0, 0, b"");
    assert!(b.sent().iter().all(|s| s.0 == ACK && s.2 == 1001), "asks for what is missing");
    assert_eq!(b.conn.state(), State::Established);
    b.hear(ACK, 1001, 1, 100, b"hi ");
    assert_eq!(b.sent(), [segment(FIN_ACK, 1, 1010)]);
    assert_eq!(b.read(), b"hi world");
    assert_eq!(b.outcome(), Some(CloseReason::Finished));
}

#[test]
fn data_that_never_comes_before_a_fin_is_no_clean_end() {
    let mut b = Bench::open();
    b.hear(FIN, 1009, 0, 0, b"");
    let sent = b.pass(at(10_000));
    assert_eq!(sent.last().unwrap().0, Flags::RST);
    assert_eq!(b.outcome(), Some(CloseReason::Truncated));
    assert!(matches!(b.conn.read(false, 9), Err(ReadError::Aborted(CloseReason::Truncated))));
}

#[test]
fn an_empty_fin_in_the_place_of_lost_data_is_no_clean_end() {
    let mut b = Bench::open();
    b.hear(ACK, 1001, 1, 100, b"a");
    b.hear(FIN, 1009, 0, 0, b"");
    b.hear(FIN, 1002, 0, 0, b""); // May: the lost segment's number, without its data
    assert_eq!(b.outcome(), Some(CloseReason::Truncated));
    assert_eq!(b.sent().last(), Some(&segment(FIN_ACK, 1, 1003)));
    assert_eq!(b.read(), b"a");
}

#[test]
fn our_fin_comes_after_everything_is_acknowledged() {
    let mut b = Bench::open();
    b.write(b"last words");
    b.close();
    assert_eq!(b.sent(), [(ACK, 1, 1001, b"last words".to_vec())]);
    assert_eq!(b.conn.state(), State::Established);
    b.hear(ACK, 1001, 11, 100, b"");
    let (fin, _) = b.sent_headers().remove(0);
    assert_eq!((fin.flags, fin.seq, fin.ack, fin.window), (FIN, 11, 0, 0));
    assert_eq!(b.conn.state(), State::FinWait);
}

#[test]
fn our_fin_may_be_answered_in_three_ways() {
    let closed = || {
        let mut b = Bench::open();
        b.close();
        assert_eq!(b.sent(), [segment(FIN, 1, 0)]);
        b
    };
    let mut plain = closed();
    plain.hear(ACK, 1001, 2, 100, b"");
    assert!(plain.pass(at(9000)).is_empty());
    let mut both = closed();
    both.hear(FIN_ACK, 1001, 2, 0, b"");
    assert_eq!(both.conn.state(), State::TimeWait);
    assert!(both.pass(at(9000)).is_empty(), "a FIN-ACK is not answered");
    let mut crossed = closed();
    crossed.hear(FIN, 1001, 0, 0, b"");
    assert_eq!(crossed.sent(), [segment(FIN_ACK, 2, 1002)]);
    let mut never = closed();
    let sent = never.pass(at(60_000));
    assert!(sent.len() >= 3 && sent.iter().all(|s| *s == segment(FIN, 1, 0)), "{sent:?}");
    let mut brief = Bench::open();
    brief.config.time_wait = Duration::from_millis(1);
    brief.close();
    brief.sent();
    let repeats = brief.pass(at(60_000));
    assert_eq!(repeats.len(), sent.len(), "a short stay takes no repeat away");
    for mut b in [plain, both, crossed, never, brief] {
        b.pass(at(120_000));
        assert!(b.conn.is_gone());
    }
}

#[test]
fn a_close_without_progress_ends_in_a_reset_not_in_a_fin() {
    let mut b = Bench::open();
    b.write(b"lost words");
    b.close();
    let sent = b.pass(at(10_000));
    assert_eq!(sent.last(), Some(&segment(Flags::RST, 0, 0)));
    assert!(sent.iter().all(|s| s.0 != FIN));
    assert!(b.conn.is_gone());
}

#[test]
fn a_zero_window_closes_unless_the_segment_is_a_keepalive() {
    let mut b = Bench::open();
    b.hear(ACK, 1001, 1, 0, b"");
    b.write(b"still open");
    assert_eq!(b.sent().len(), 1, "Feb and May leave the field empty in keepalives");
    b.hear(ACK, 1001, 11, 0, b"");
    b.write(b"more");
    assert!(b.sent().is_empty(), "an acknowledgement of data means it");
    b.hear(ACK, 1001, 11, 5, b"");
    assert_eq!(b.sent().len(), 1);
}

#[test]
fn empty_acknowledgements_are_answered_only_while_our_window_is_shut() {
    let mut b = Bench::open();
    b.hear(ACK, 1001, 1, 100, b"");
    assert!(b.sent().is_empty());
    let chunk = vec![7; 60_000];
    let mut seq = 1001_u32;
    while b.conn.rx.window() > 0 {
        b.hear(ACK, seq, 1, 100, &chunk);
        seq += 60_000;
        b.sent();
    }
    b.hear(ACK, seq, 1, 100, b"");
    assert_eq!(b.sent().len(), 1);
    b.read();
    assert_eq!(b.sent().len(), 1, "and its opening is announced");
    b.hear(ACK, seq, 1, 100, b"");
    assert!(b.sent().is_empty());
}

#[test]
fn blocks_are_recognised_and_lookalikes_are_data() {
    let mut b = Bench::open();
    let mut lookalike = Vec::new();
    sack::encode(&[sack::Block { left: 5, right: 9 }], &mut lookalike);
    b.hear(ACK, 1001, 1, 100, &lookalike);
    assert_eq!(b.read(), lookalike, "we have sent nothing it could acknowledge");
    b.write(&[1; 2000]);
    b.sent();
    let mut blocks = Vec::new();
    sack::encode(&[sack::Block { left: 1153, right: 2001 }], &mut blocks);
    b.hear(ACK, 1014, 1, 100, &blocks);
    assert!(b.read().is_empty());
    assert_eq!(b.conn.row().sack_recv, 1);
    blocks.push(0);
    b.hear(ACK, 1014, 1, 100, &blocks);
    assert_eq!(b.read(), blocks, "one byte too many");
}

#[test]
fn a_silent_stream_says_that_it_lives() {
    let mut b = Bench::open();
    let sent = b.pass(at(30_000));
    assert_eq!(sent, [segment(ACK, 1, 1001)]);
    let sent = b.pass(at(119_000));
    assert_eq!(sent.len(), 2);
    let sent = b.pass(at(121_000));
    assert_eq!(sent.last(), Some(&segment(FIN, 1, 0)), "then it closes");
    assert_eq!(b.outcome(), Some(CloseReason::DeadPeer));
}

#[test]
fn a_writer_is_told_when_half_of_the_buffer_is_free() {
    let mut b = Bench::open();
    b.config.send_buffer = 2000;
    assert_eq!(b.conn.write(&b.config, Bytes::from(vec![1; 3000])), Ok(2000));
    assert_eq!(b.conn.write(&b.config, Bytes::from_static(b"x")), Ok(0));
    b.sent();
    b.hear(ACK, 1001, 501, 100, b"");
    assert!(b.events.pop().is_none());
    b.hear(ACK, 1001, 1153, 100, b"");
    assert!(matches!(b.events.pop(), Some(Event::Writable { .. })));
}

#[test]
fn segments_keep_their_order_of_precedence() {
    // SYN before FIN before RST before ACK, whatever else is set.
    let mut b = Bench::open();
    b.hear(FIN_ACK | Flags::RST, 1001, 1, 0, b"");
    assert_eq!(b.conn.state(), State::TimeWait);
    let mut b = Bench::open();
    b.hear(Flags::RST | ACK, 1001, 1, 0, b"data");
    assert_eq!(b.outcome(), Some(CloseReason::Reset));
    assert!(b.read().is_empty());
}

#[test]
fn an_idle_stream_is_small() {
    // Ten thousand idle streams should not cost more than a few photographs.
    assert!(size_of::<Conn>() < 1500, "{}", size_of::<Conn>());
}
