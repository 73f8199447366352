//! Both handshake messages, signed or sealed by whoever likes, and the record layer.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use pilot_wire::Split;
use pilot_wire::zwing::{
    CIPHERTEXT_LEN, Encapsulation, Expect, Identity, Initiator, MAX_FRAME, SEEDS_LEN, respond, split_frame,
};

/// Made once: key generation would be all the fuzzer does.
fn responder() -> &'static Identity {
    static IDENTITY: OnceLock<Identity> = OnceLock::new();
    IDENTITY.get_or_init(|| Identity::from_seeds(&[1; SEEDS_LEN]))
}

fn answer() -> &'static [u8] {
    static ANSWER: OnceLock<Vec<u8>> = OnceLock::new();
    ANSWER.get_or_init(|| {
        let initiator = Initiator::new(Identity::from_seeds(&[2; SEEDS_LEN]), Expect::Any);
        respond(responder(), &Expect::Any, &initiator.hello()[4..], &random()).unwrap().0
    })
}

fn random() -> Encapsulation {
    Encapsulation { m: [3; 32].into(), x25519: [4; 32].into() }
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, bytes)) = data.split_first() else { return };
    let mut rest = bytes;
    while let Ok(Split::Complete { message, consumed }) = split_frame(rest, MAX_FRAME) {
        assert!(!message.is_empty() && consumed == message.len() + 4);
        rest = &rest[consumed..];
    }
    match choice % 4 {
        0 => {
            let _ = respond(responder(), &Expect::Any, bytes, &random());
        }
        1 => {
            let initiator = Initiator::new(Identity::from_seeds(&[2; SEEDS_LEN]), Expect::Any);
            let _ = initiator.finish(bytes, None);
        }
        2 => {
            // The genuine beginning of an answer, so that its box is reached.
            let initiator = Initiator::new(Identity::from_seeds(&[2; SEEDS_LEN]), Expect::Any);
            let forged = [&answer()[4..4 + CIPHERTEXT_LEN], bytes].concat();
            assert!(initiator.finish(&forged, None).is_err());
        }
        _ => {
            let initiator = Initiator::new(Identity::from_seeds(&[2; SEEDS_LEN]), Expect::Any);
            let (mut channel, _) = initiator.finish(&answer()[4..], None).unwrap();
            let mut out = Vec::new();
            let _ = channel.opener.open(bytes, &mut out);
            channel.sealer.seal(bytes, &mut out).unwrap();
        }
    }
});
