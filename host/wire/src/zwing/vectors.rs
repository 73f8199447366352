//! The recorded vectors of Z-Wing, by the rule of their kind. In the crate because records are checked under recorded keys,
//! which the public face does not take.
#![allow(clippy::unwrap_used)]

use pilot_vectors::Entry;
use ring::aead::{CHACHA20_POLY1305, LessSafeKey, UnboundKey};
use zeroize::Zeroizing;

use super::handshake::{INIT, RESPONSE, aead_key, transcript};
use super::identity::digest;
use super::kem::encapsulate;
use super::*;

struct All(Vec<Entry>);

impl All {
    fn identity(&self, name: &str) -> Identity {
        let entry = self.0.iter().find(|e| e.name == name).unwrap_or_else(|| panic!("no identity {name}"));
        Identity::from_seeds(&seeds(entry))
    }

    fn named(&self, entry: &Entry, field: &str) -> Identity {
        self.identity(entry.text(field))
    }
}

fn seeds(entry: &Entry) -> [u8; SEEDS_LEN] {
    let parts = ["ed25519_seed", "mldsa65_seed", "mlkem768_seed_d_z", "x25519_scalar"];
    parts.map(|field| entry.hex(field)).concat().try_into().unwrap()
}

fn array<const N: usize>(entry: &Entry, field: &str) -> [u8; N] {
    entry.hex(field).try_into().unwrap_or_else(|_| panic!("{}: {field} is not {N} bytes", entry.name))
}

fn random(entry: &Entry) -> Encapsulation {
    Encapsulation {
        m: Zeroizing::new(array(entry, "mlkem_encaps_seed_m")),
        x25519: Zeroizing::new(array(entry, "x25519_ephemeral_scalar")),
    }
}

#[test]
fn zwing_vectors() {
    let all = All(pilot_vectors::load("zap").unwrap_or_default());
    pilot_vectors::run("pilot-wire/zwing", &["zap"], |_, entry| match entry.kind.as_str() {
        "zwing-identity" => {
            assert_eq!(Identity::from_seeds(&seeds(entry)).public().as_bytes(), &entry.bytes[..])
        }
        "zwing-init" => check_init(entry, &all),
        "zwing-kem" => check_kem(entry, &all),
        "zwing-response" => check_response(entry, &all),
        "zwing-record" => check_record(entry),
        "zwing-combiner" => {
            let shared = combine(
                &array(entry, "ss_M"),
                &array(entry, "ss_X"),
                &array(entry, "ct_X"),
                &array(entry, "pk_X"),
            );
            assert_eq!(shared.as_slice(), entry.bytes);
        }
        "zwing-frame" => {
            let judged = whole(&entry.bytes, MAX_FRAME).map(|_| ());
            check_outcome(entry, judged);
        }
        other => panic!("no rule for kind {other}"),
    });
}

/// The payload of a frame that is all there is.
fn whole(frame: &[u8], limit: usize) -> Result<&[u8], ZwingError> {
    match split_frame(frame, limit)? {
        Split::Complete { message, consumed } if consumed == frame.len() => Ok(message),
        Split::Complete { .. } => Err(ZwingError::Format),
        Split::Incomplete { .. } => Err(ZwingError::Short),
    }
}

/// `why` is the peer's reason, followed in some entries by a remark in brackets.
fn check_outcome(entry: &Entry, outcome: Result<(), ZwingError>) {
    if entry.error {
        let got = outcome.expect_err(&entry.name).to_string();
        let why = entry.text("why").split(" (").next().unwrap_or_default();
        assert_eq!(got, why, "{}", entry.name);
    } else {
        outcome.unwrap();
    }
}

fn check_init(entry: &Entry, all: &All) {
    let responder = Identity::from_seeds(&[1; SEEDS_LEN]);
    let hello = whole(&entry.bytes, MAX_FRAME);
    let judged = hello.and_then(|hello| {
        let random = Encapsulation { m: Zeroizing::new([2; 32]), x25519: Zeroizing::new([3; 32]) };
        respond(&responder, &Expect::Any, hello, &random).map(|(.., who)| who)
    });
    if !entry.error {
        let identity = all.named(entry, "identity");
        assert_eq!(judged.as_ref(), Ok(identity.public()));
        assert_eq!(Initiator::new(all.named(entry, "identity"), Expect::Any).hello(), entry.bytes);
        let public = identity.public().as_bytes();
        assert_eq!(identity.sign(INIT, public), entry.hex("signature"));
        assert_eq!(digest(INIT, public).as_slice(), entry.hex("digest"));
    }
    check_outcome(entry, judged.map(|_| ()));
}

fn check_kem(entry: &Entry, all: &All) {
    let recipient = all.named(entry, "recipient");
    let random = random(entry);
    let (ciphertext, shared) =
        encapsulate(recipient.public().kem_public(), &random.m, &random.x25519).unwrap();
    assert_eq!(ciphertext.as_slice(), entry.bytes);
    assert_eq!(shared.as_slice(), entry.hex("shared"));
    assert_eq!(recipient.kem().decapsulate(&ciphertext).unwrap().as_slice(), entry.hex("shared"));
}

fn check_response(entry: &Entry, all: &All) {
    let initiator = all.named(entry, "initiator");
    let public = initiator.public().clone();
    let hello = Initiator::new(initiator, Expect::Any);
    let hello_frame = hello.hello().to_vec();
    let answer = whole(&entry.bytes, MAX_FRAME);
    let judged = answer.and_then(|answer| hello.finish(answer, None).map(|(_, who)| who));
    if !entry.error {
        let responder = all.named(entry, "responder");
        assert_eq!(judged.as_ref(), Ok(responder.public()));
        let ciphertext: &[u8; CIPHERTEXT_LEN] = answer.unwrap().first_chunk().unwrap();
        let transcript = transcript(&public, ciphertext);
        assert_eq!(transcript.as_slice(), entry.hex("transcript"));
        assert_eq!(responder.sign(RESPONSE, &transcript), entry.hex("signature"));
        assert_eq!(digest(RESPONSE, &transcript).as_slice(), entry.hex("signature_sha_input_digest"));
        // Where the same file says how this ciphertext was made, the whole answer can be made again.
        let source = all.0.iter().find(|e| e.kind == "zwing-kem" && e.bytes == ciphertext);
        if let Some(source) = source {
            let hello = whole(&hello_frame, MESSAGE_1_LEN).unwrap();
            let (frame, ..) = respond(&responder, &Expect::Any, hello, &random(source)).unwrap();
            assert_eq!(frame, entry.bytes);
        }
    }
    check_outcome(entry, judged.map(|_| ()));
}

fn check_record(entry: &Entry) {
    let key = entry.hex("key");
    let key = || LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &key).unwrap());
    let sequence = entry.fields["seq"].as_u64().unwrap_or_else(|| entry.text("seq").parse().unwrap());
    let mut channel = Channel::with_keys(key(), key(), sequence);
    let judged = whole(&entry.bytes, MAX_FRAME).and_then(|record| {
        let mut plain = Vec::new();
        channel.opener.open(record, &mut plain).map(|()| plain)
    });
    if !entry.error {
        let plain = entry.hex("plaintext");
        assert_eq!(judged.as_ref(), Ok(&plain));
        let mut record = Vec::new();
        channel.sealer.seal(&plain, &mut record).unwrap();
        assert_eq!(record, entry.bytes);
    }
    check_outcome(entry, judged.map(|_| ()));
}

#[test]
fn purposes_have_keys_of_their_own() {
    // A key cannot be compared; what it seals can.
    let shared = Zeroizing::new([1; 32]);
    let sealed = [b"lux.zwing.v1/i2r".as_slice(), b"lux.zwing.v1/r2i", b"lux.zwing.v1/resp-id"].map(|info| {
        let mut channel = Channel::with_keys(aead_key(&shared, info), aead_key(&shared, info), 0);
        let mut out = Vec::new();
        channel.sealer.seal(b"same", &mut out).unwrap();
        out
    });
    assert!(sealed[0] != sealed[1] && sealed[1] != sealed[2] && sealed[0] != sealed[2]);
}
