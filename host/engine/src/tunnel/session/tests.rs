//! Row by row: tunnel.md section 3 (nonces, legacy profile) and section 6 (refusals, when a session is dropped).

use super::*;
use crate::tunnel::kdf::{legacy_tunnel_key, shared_secret, tunnel_key};
use x25519_dalek::{PublicKey, StaticSecret};

fn at(ms: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(ms)
}

fn pair(legacy: bool) -> (Session, Session) {
    let (a, b) = (StaticSecret::from([1; 32]), StaticSecret::from([2; 32]));
    let (pa, pb) = (*PublicKey::from(&a).as_bytes(), *PublicKey::from(&b).as_bytes());
    let shared = shared_secret(&a, &pb).unwrap();
    let (key, old) = (tunnel_key(&shared), legacy_tunnel_key(&shared));
    let old = legacy.then_some(&old);
    let new = |peer, prefix| Session::new(at(0), peer, true, &key, old, prefix, Remembered::default());
    (new(pb, [1; 4]), new(pa, [2; 4]))
}

fn frame(from: &mut Session, text: &[u8]) -> Vec<u8> {
    let mut buf = vec![0; SEALED_HEADER_LEN];
    buf.extend_from_slice(text);
    from.seal(7, &mut buf, 0);
    buf
}

fn open(to: &mut Session, now: Instant, frame: &[u8]) -> Result<Vec<u8>, Refusal> {
    let header = SealedHeader::decode(frame).unwrap();
    let mut body = frame[SEALED_HEADER_LEN..].to_vec();
    to.open(now, &header, &mut body).map(|plain| plain.to_vec())
}

#[test]
fn the_first_frame_carries_counter_one_and_opens_once() {
    let (mut a, mut b) = pair(false);
    let f = frame(&mut a, b"hello");
    assert_eq!(SealedHeader::decode(&f).unwrap().counter, 1);
    assert_eq!(open(&mut b, at(0), &f).unwrap(), b"hello");
    assert_eq!(open(&mut b, at(0), &f), Err(Refusal::Replay));
}

#[test]
fn a_forged_frame_never_touches_the_window() {
    let (mut a, mut b) = pair(false);
    let mut f = frame(&mut a, b"hello");
    f[12..20].copy_from_slice(&u64::MAX.to_be_bytes());
    assert_eq!(open(&mut b, at(0), &f), Err(Refusal::Forged));
    let f = frame(&mut a, b"real");
    assert_eq!(open(&mut b, at(0), &f).unwrap(), b"real");
}

#[test]
fn the_counter_and_the_windows_survive_the_session() {
    let (mut a, mut b) = pair(false);
    let first = frame(&mut a, b"1");
    assert!(open(&mut b, at(0), &first).is_ok());
    let (_, left_a) = a.remains();
    let (_, left_b) = b.remains();
    assert_eq!(left_a.counter, 1);
    let (mut a, mut b) = pair(false);
    a.counter = left_a.counter;
    b.epochs = left_b.epochs;
    assert_eq!(open(&mut b, at(1), &first), Err(Refusal::Replay));
    let second = frame(&mut a, b"2");
    assert_eq!(SealedHeader::decode(&second).unwrap().counter, 2);
    assert!(open(&mut b, at(1), &second).is_ok());
}

#[test]
fn five_forged_frames_spend_a_session_older_than_three_seconds() {
    let (mut a, _) = pair(false);
    for _ in 0..5 {
        assert!(!a.is_spent(at(3000)));
        a.count_forged();
    }
    assert!(!a.is_spent(at(2999)));
    assert!(a.is_spent(at(3000)));
}

#[test]
fn five_replays_spend_a_young_epoch_and_one_an_old_one() {
    let (mut a, mut b) = pair(false);
    let f = frame(&mut a, b"x");
    assert!(open(&mut b, at(0), &f).is_ok());
    for _ in 0..5 {
        assert!(!b.is_spent(at(1000)));
        assert_eq!(open(&mut b, at(1000), &f), Err(Refusal::Replay));
    }
    assert!(!b.is_spent(at(999)) && b.is_spent(at(1000)));
    let g = frame(&mut a, b"y");
    assert!(open(&mut b, at(2000), &g).is_ok());
    assert!(!b.is_spent(at(61_000)), "a good frame resets the count");
    assert_eq!(open(&mut b, at(61_000), &f), Err(Refusal::Replay));
    assert!(b.is_spent(at(61_000)));
}

#[test]
fn frames_outside_the_window_count_on_their_own() {
    let (mut a, mut b) = pair(false);
    let old = frame(&mut a, b"old");
    a.counter = 1000;
    let new = frame(&mut a, b"new");
    assert!(open(&mut b, at(0), &new).is_ok());
    for _ in 0..5 {
        assert!(!b.is_spent(at(1500)));
        assert_eq!(open(&mut b, at(1500), &old), Err(Refusal::Outside));
    }
    assert!(b.is_spent(at(1500)));
}

#[test]
fn an_older_epochs_refusals_count_for_nothing() {
    let (mut a, mut b) = pair(false);
    let f = frame(&mut a, b"x");
    assert!(open(&mut b, at(0), &f).is_ok());
    a.change_prefix([9; 4]);
    let g = frame(&mut a, b"y");
    assert!(open(&mut b, at(0), &g).is_ok());
    for _ in 0..20 {
        assert_eq!(open(&mut b, at(70_000), &f), Err(Refusal::Stale));
    }
    assert!(!b.is_spent(at(70_000)));
}

#[test]
fn a_frame_with_our_own_prefix_is_noticed() {
    let (a, _) = pair(false);
    assert!(a.collides([1; 4]) && !a.collides([2; 4]));
}

#[test]
fn a_legacy_peer_is_answered_in_its_own_profile_until_a_current_frame_opens() {
    let (mut a, mut b) = pair(true);
    a.profile = Profile::Legacy;
    let f = frame(&mut a, b"feb");
    assert_eq!(open(&mut b, at(0), &f).unwrap(), b"feb");
    assert_eq!(b.profile(), Profile::Legacy);
    let back = frame(&mut b, b"reply");
    assert_eq!(open(&mut a, at(0), &back).unwrap(), b"reply");
    a.profile = Profile::Current;
    let f = frame(&mut a, b"now");
    assert_eq!(open(&mut b, at(0), &f).unwrap(), b"now");
    assert_eq!(b.profile(), Profile::Current);
    let mut junk = frame(&mut a, b"junk");
    junk[25] ^= 1;
    assert_eq!(open(&mut b, at(0), &junk), Err(Refusal::Forged));
}

#[test]
fn a_peer_without_the_legacy_profile_does_not_open_legacy_frames() {
    let (mut a, _) = pair(true);
    let (_, mut b) = pair(false);
    a.profile = Profile::Legacy;
    let f = frame(&mut a, b"feb");
    assert_eq!(open(&mut b, at(0), &f), Err(Refusal::Forged));
}
