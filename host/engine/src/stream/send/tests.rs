//! Row by row: stream.md section 3 (windows), section 5 (repeats), section 6 (SACK guard).

use super::*;

const LIMITS: Limits = Limits { segment: 1000, outstanding: 128, enhanced: false, local: true };

fn at(ms: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(ms)
}

fn sender() -> Sender {
    let mut s = Sender::new(at(0), LIMITS);
    s.set_limits(LIMITS);
    s
}

fn send_all(s: &mut Sender, now: Instant) -> Vec<DataPlan> {
    let mut plans = Vec::new();
    while let Some(plan) = s.plan(now) {
        s.sent(now, plan);
        plans.push(plan);
    }
    plans
}

fn ack(s: &mut Sender, now: Instant, ack: u64, window: u16) -> bool {
    s.on_ack(now, AckInput { ack, window: Some(window), empty: true, blocks: &[] })
}

#[test]
fn never_more_segments_than_the_window_or_128() {
    let mut s = sender();
    s.cc.set_segment(1_000_000); // a large congestion window
    s.push(vec![1; 400_000].into());
    assert_eq!(send_all(&mut s, at(0)).len(), 128);
    let mut s = sender();
    s.push(vec![1; 400_000].into());
    ack(&mut s, at(0), 1, 5);
    assert_eq!(send_all(&mut s, at(0)).len(), 5);
    ack(&mut s, at(10), 3001, 5);
    assert_eq!(send_all(&mut s, at(10)).len(), 3);
}

#[test]
fn repeats_keep_their_boundaries() {
    let mut s = sender();
    s.push(vec![1; 2500].into());
    let first = send_all(&mut s, at(0));
    s.push(vec![2; 9000].into());
    s.set_limits(Limits { segment: 4096, ..LIMITS });
    s.on_timer(at(1000)).unwrap();
    let again = send_all(&mut s, at(1000));
    assert_eq!(again[0], DataPlan { repeat: true, ..first[0] });
}

#[test]
fn a_segment_acknowledged_by_half_goes_again_as_a_whole() {
    let mut s = sender();
    // Two writes, each a piece of its own, in segments that do not end where the writes do.
    s.push(vec![1; 4500].into());
    s.push(vec![2; 4500].into());
    let first = send_all(&mut s, at(0));
    assert_eq!((first[4].start, first[4].len), (4001, 1000));
    assert!(ack(&mut s, at(10), 4501, 100));
    s.on_timer(at(2000)).unwrap();
    let again = s.plan(at(2000)).unwrap();
    assert_eq!(again, DataPlan { repeat: true, ..first[4] });
    let mut bytes = Vec::new();
    s.copy(again, &mut bytes);
    assert_eq!(bytes, [[1; 500], [2; 500]].concat());
    ack(&mut s, at(2001), 9001, 100);
    assert!(s.is_drained() && s.buffered() == 0);
}

#[test]
fn eight_timeouts_end_it() {
    let mut s = sender();
    s.push(vec![1; 10].into());
    send_all(&mut s, at(0));
    let mut sends = 1;
    let gave_up = loop {
        let now = s.deadline().unwrap();
        if s.on_timer(now).is_err() {
            break now;
        }
        sends += send_all(&mut s, now).len();
    };
    assert_eq!(sends, 8);
    // 1 + 2 + 4 + 8 + 10 + 10 + 10 + 10 seconds
    assert_eq!(gave_up, at(55_000));
}

#[test]
fn the_third_bare_duplicate_repeats_the_first_segment() {
    let mut s = sender();
    s.push(vec![1; 10_000].into());
    send_all(&mut s, at(0));
    ack(&mut s, at(50), 2001, 100);
    for _ in 0..2 {
        ack(&mut s, at(51), 2001, 100);
        assert!(send_all(&mut s, at(51)).is_empty());
    }
    ack(&mut s, at(51), 2001, 100);
    assert_eq!(send_all(&mut s, at(51)), [DataPlan { start: 2001, len: 1000, repeat: true }]);
    assert_eq!(s.status().stats.duplicates, 3);
}

#[test]
fn duplicates_with_nothing_in_flight_count_for_nothing() {
    let mut s = sender();
    s.push(vec![1; 1000].into());
    send_all(&mut s, at(0));
    ack(&mut s, at(50), 1001, 100);
    let before = s.status().window;
    for _ in 0..9 {
        ack(&mut s, at(60), 1001, 100);
    }
    assert_eq!((s.status().stats.duplicates, s.status().window), (0, before));
}

#[test]
fn blocks_find_the_hole_and_only_the_hole_is_repeated() {
    let mut s = sender();
    s.push(vec![1; 10_000].into());
    send_all(&mut s, at(0));
    s.on_ack(at(50), AckInput { ack: 1001, window: Some(100), empty: true, blocks: &[(2001, 10_001)] });
    assert_eq!(send_all(&mut s, at(50)), [DataPlan { start: 1001, len: 1000, repeat: true }]);
    assert!(s.status().repairing);
    ack(&mut s, at(90), 10_001, 100);
    assert!(!s.status().repairing && s.is_drained());
}

#[test]
fn an_acknowledgement_of_the_unsent_is_ignored() {
    let mut s = sender();
    s.push(vec![1; 1000].into());
    assert!(!ack(&mut s, at(0), 500, 10));
    send_all(&mut s, at(0));
    assert!(!ack(&mut s, at(0), 1002, 10));
    assert_eq!(s.una(), 1);
}

#[test]
fn a_closed_window_is_probed_with_the_next_real_byte() {
    let mut s = sender();
    s.push(vec![1; 5000].into());
    let plans = send_all(&mut s, at(0));
    assert_eq!(plans.len(), 5);
    s.push(vec![1; 5000].into());
    ack(&mut s, at(10), 5001, 0);
    assert!(send_all(&mut s, at(10)).is_empty());
    assert_eq!(s.deadline(), Some(at(510)));
    s.on_timer(at(510)).unwrap();
    assert_eq!(send_all(&mut s, at(510)), [DataPlan { start: 5001, len: 1, repeat: false }]);
    // The receiver had no room for it and says so: the same byte again, later and later, 30 times.
    let mut probes = 1;
    let mut waits = Vec::new();
    let mut last = at(510);
    while let Some(now) = s.deadline() {
        if s.on_timer(now).is_err() {
            break;
        }
        let plans = send_all(&mut s, now);
        if !plans.is_empty() {
            assert_eq!(plans, [DataPlan { start: 5001, len: 1, repeat: true }]);
            waits.push(now.since(last).as_millis());
            last = now;
            probes += 1;
            ack(&mut s, now, 5001, 0);
        }
    }
    assert_eq!(probes, 30);
    assert_eq!(waits[..7], [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
}

#[test]
fn a_window_that_opens_sends_the_probe_byte_again_at_once() {
    let mut s = sender();
    s.push(vec![1; 5000].into());
    ack(&mut s, at(0), 1, 0);
    s.on_timer(at(500)).unwrap();
    send_all(&mut s, at(500));
    ack(&mut s, at(600), 1, 10);
    let plans = send_all(&mut s, at(600));
    assert_eq!(plans[0], DataPlan { start: 1, len: 1, repeat: true });
    assert_eq!(plans.len(), 6);
}

#[test]
fn data_that_looks_like_a_sack_is_cut_after_four_bytes() {
    let mut s = sender();
    let mut data = b"SACK\x01........and more".to_vec();
    data.resize(3000, 7);
    s.push(data.into());
    let lens: Vec<u32> = send_all(&mut s, at(0)).iter().map(|p| p.len).collect();
    assert_eq!(lens, [4, 1000, 1000, 996]);
    let mut s = sender();
    s.push(Bytes::from_static(b"SACK\x05........................................"));
    assert_eq!(send_all(&mut s, at(0)).len(), 1, "five blocks are no SACK");
}

#[test]
fn a_short_rest_waits_only_while_another_short_one_is_out() {
    let mut s = sender();
    s.push(vec![1; 100].into());
    assert_eq!(send_all(&mut s, at(0)).len(), 1);
    s.push(vec![1; 100].into());
    assert!(send_all(&mut s, at(0)).is_empty());
    s.push(vec![1; 2300].into());
    assert_eq!(send_all(&mut s, at(0)).len(), 3, "the tail of a large write is never held");
    s.push(vec![1; 100].into());
    assert!(send_all(&mut s, at(0)).is_empty());
    s.flush();
    assert_eq!(send_all(&mut s, at(0)).len(), 1);
}

#[test]
fn a_lost_tail_is_probed_before_the_timeout() {
    let mut s = sender();
    s.push(vec![1; 3000].into());
    send_all(&mut s, at(0));
    ack(&mut s, at(40), 3001, 100);
    s.push(vec![1; 3000].into());
    send_all(&mut s, at(100));
    assert_eq!(s.deadline(), Some(at(180)), "two round trips");
    s.on_timer(at(180)).unwrap();
    assert_eq!(send_all(&mut s, at(180)), [DataPlan { start: 5001, len: 1000, repeat: true }]);
    assert!(s.deadline().unwrap() >= at(380), "then the timeout");
}
