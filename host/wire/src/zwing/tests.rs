//! Both ends wired together, and what a hostile peer may send.
#![allow(clippy::unwrap_used)]

use zeroize::Zeroizing;

use super::*;

fn identity(seed: u8) -> Identity {
    Identity::from_seeds(&[seed; SEEDS_LEN])
}

fn random(seed: u8) -> Encapsulation {
    Encapsulation { m: Zeroizing::new([seed; 32]), x25519: Zeroizing::new([seed.wrapping_add(1); 32]) }
}

fn expect(identity: &Identity) -> Expect {
    Expect::OneOf(vec![Expected::from_bytes(identity.public().signing_identity()).unwrap()])
}

fn payload(frame: &[u8]) -> &[u8] {
    match split_frame(frame, MAX_FRAME).unwrap() {
        Split::Complete { message, consumed } if consumed == frame.len() => message,
        other => panic!("not one frame: {other:?}"),
    }
}

#[test]
fn two_ends() {
    let (client, server) = (identity(1), identity(2));
    let fresh = client.with_fresh_kem(&[9; KEM_SEEDS_LEN]);
    assert_eq!(fresh.public().signing_identity(), client.public().signing_identity());
    assert_ne!(fresh.public(), client.public());
    let initiator = Initiator::new(fresh, expect(&server));
    assert_eq!(initiator.hello().len(), 4 + MESSAGE_1_LEN);
    let (answer, mut there, who) =
        respond(&server, &expect(&client), payload(initiator.hello()), &random(3)).unwrap();
    assert_eq!(answer.len(), 4 + MESSAGE_2_LEN);
    assert_eq!(who.signing_identity(), client.public().signing_identity());
    let (mut here, who) = initiator.finish(payload(&answer), None).unwrap();
    assert_eq!(&who, server.public());

    let big = vec![7; MAX_PLAINTEXT + 1];
    let mut wire = Vec::new();
    here.sealer.seal(b"call", &mut wire).unwrap();
    here.sealer.seal(&big, &mut wire).unwrap();
    here.sealer.seal(b"", &mut wire).unwrap();
    let (mut read, mut records) = (Vec::new(), 0);
    let mut rest = wire.as_slice();
    while let Ok(Split::Complete { message, consumed }) = split_frame(rest, MAX_FRAME) {
        there.opener.open(message, &mut read).unwrap();
        rest = &rest[consumed..];
        records += 1;
    }
    assert_eq!((records, rest.len()), (3, 0));
    assert_eq!(read, [b"call".as_slice(), &big].concat());
    let mut back = Vec::new();
    there.sealer.seal(b"answer", &mut back).unwrap();
    let mut read = Vec::new();
    here.opener.open(payload(&back), &mut read).unwrap();
    assert_eq!(read, b"answer");
    // The same record again is not the next one.
    assert_eq!(here.opener.open(payload(&back), &mut read), Err(ZwingError::Aead));
}

#[test]
fn nobody_is_accepted_unexpected() {
    let (client, server, other) = (identity(1), identity(2), identity(4));
    let hello = Initiator::new(identity(1), Expect::Any).hello().to_vec();
    for nobody in [Expect::OneOf(Vec::new()), expect(&other)] {
        let refused = respond(&server, &nobody, payload(&hello), &random(3)).unwrap_err();
        assert_eq!(refused.to_string(), "zwing: remote identity does not match expected");
    }
    let initiator = Initiator::new(identity(1), expect(&other));
    let (answer, ..) = respond(&server, &expect(&client), payload(initiator.hello()), &random(3)).unwrap();
    assert_eq!(initiator.finish(payload(&answer), None).unwrap_err(), ZwingError::Unexpected);
    let whole = Expect::OneOf(vec![Expected::Whole(client.public().clone())]);
    whole.check(client.public()).unwrap();
    assert_eq!(whole.check(client.with_fresh_kem(&[5; KEM_SEEDS_LEN]).public()), Err(ZwingError::Unexpected));
    assert_eq!(Expected::from_bytes(&[0; 5]), Err(ZwingError::IdentitySize));
}

#[test]
fn a_recorded_answer_is_refused_in_both_modes() {
    let (client, server) = (identity(1), identity(2));
    // Fresh keys: it does not open.
    let first = Initiator::new(client.with_fresh_kem(&[5; KEM_SEEDS_LEN]), expect(&server));
    let (answer, ..) = respond(&server, &Expect::Any, payload(first.hello()), &random(3)).unwrap();
    let second = Initiator::new(client.with_fresh_kem(&[6; KEM_SEEDS_LEN]), expect(&server));
    assert_eq!(second.finish(payload(&answer), None).unwrap_err(), ZwingError::Aead);
    // The same keys: it was seen.
    let mut seen = SeenAnswers::default();
    let first = Initiator::new(identity(1), expect(&server));
    let (answer, ..) = respond(&server, &Expect::Any, payload(first.hello()), &random(3)).unwrap();
    first.finish(payload(&answer), Some(&mut seen)).unwrap();
    let mut kept = SeenAnswers::restore(seen.hashes().copied());
    let again = Initiator::new(identity(1), expect(&server));
    assert_eq!(again.finish(payload(&answer), Some(&mut kept)).unwrap_err(), ZwingError::Replayed);
}

#[test]
fn changed_cut_and_longer_messages() {
    let (client, server) = (identity(1), identity(2));
    let hello = payload(Initiator::new(identity(1), Expect::Any).hello()).to_vec();
    let judge = |hello: &[u8]| respond(&server, &Expect::Any, hello, &random(3)).map(|_| ());
    assert_eq!(judge(&hello), Ok(()));
    assert_eq!(judge(&[&hello[..], &[0]].concat()), Err(ZwingError::Format));
    for cut in [0, 1, 2, 3201, 3202, 3203, hello.len() - 1] {
        assert_eq!(judge(&hello[..cut]), Err(ZwingError::Short), "cut at {cut}");
    }
    // A bit of each key and each signature.
    for at in [2, 40, 2000, 3190, 3210, 3300, hello.len() - 1] {
        let mut changed = hello.clone();
        changed[at] ^= 1;
        assert_eq!(judge(&changed), Err(ZwingError::Signature), "byte {at}");
    }
    let initiator = || Initiator::new(identity(1), Expect::Any);
    let (answer, ..) = respond(&server, &expect(&client), payload(initiator().hello()), &random(3)).unwrap();
    let answer = payload(&answer);
    for at in [0, 1087, 1088, 1119, 1200, 5000, answer.len() - 1] {
        let mut changed = answer.to_vec();
        changed[at] ^= 1;
        assert_eq!(initiator().finish(&changed, None).unwrap_err(), ZwingError::Aead, "byte {at}");
    }
    for cut in [0, 1119, 1120, 1121, 1122, answer.len() - 1] {
        assert_eq!(initiator().finish(&answer[..cut], None).unwrap_err(), ZwingError::Short, "cut at {cut}");
    }
    let zero = [&answer[..1088], &[0; 32], &answer[1120..]].concat();
    assert_eq!(initiator().finish(&zero, None).unwrap_err(), ZwingError::KeyAgreement);
}

#[test]
fn frames_are_judged_by_their_header() {
    assert_eq!(split_frame(&[0, 0, 0, 0], MAX_FRAME), Err(ZwingError::Format));
    assert_eq!(split_frame(&[0, 0x10, 0, 1], MAX_FRAME), Err(ZwingError::TooLarge));
    assert_eq!(split_frame(&[0, 0, 0x19, 0xB2], MESSAGE_1_LEN), Err(ZwingError::TooLarge));
    assert_eq!(split_frame(&[0, 0], MAX_FRAME), Ok(Split::Incomplete { missing: 2 }));
    assert_eq!(split_frame(&[0, 0x10, 0, 0], MAX_FRAME), Ok(Split::Incomplete { missing: 1 << 20 }));
}
