//! Area `wss`: texts of the challenge, HTTP heads and binary messages. Frames and limits on the wire are tested where
//! there is a wire, in `pilot-net`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use pilot_vectors::Entry;
use pilot_wire::beacon::{self, Message};
use pilot_wire::compat::auth::{self, AuthError, Challenge, Reply, decode_signature};
use pilot_wire::compat::http::{self, Answer, Head};

pub fn check(entry: &Entry) {
    match entry.kind.as_str() {
        "auth" => exchange(entry),
        "reply" => reply(entry),
        "challenge" => challenge(entry),
        "freshness" => {
            let asked = Challenge { nonce: "a".into(), ts: Some(1_780_000_000) };
            let now = 1_780_000_000 + i64::try_from(entry.number("age_s")).unwrap();
            assert_eq!(asked.is_fresh(now), accepted(entry));
        }
        "envelope" => envelope(entry),
        "upgrade" => {
            let head = Head::parse(&entry.bytes).unwrap();
            let Answer::Upgrade { subprotocol, .. } = http::answer(&head, false) else { panic!("refused") };
            assert_eq!(subprotocol.as_deref(), Some("pilot.v1"));
            assert_eq!(http::head_end(&entry.bytes), Some(entry.bytes.len()));
        }
        "http" => answer(entry),
        kind => panic!("no rule for kind {kind}"),
    }
}

fn accepted(entry: &Entry) -> bool {
    entry.fields["accept"].as_bool().unwrap()
}

fn key(entry: &Entry, node: u32) -> SigningKey {
    // A rule of the vectors' generator gives every challenge a seed; refused ones need none.
    assert_eq!(entry.number("node_id"), u64::from(node));
    SigningKey::from_bytes(&entry.hex("seed_hex").try_into().unwrap())
}

fn exchange(entry: &Entry) {
    let node = u32::try_from(entry.number("node_id")).unwrap();
    let asked = Challenge::decode(entry.text("challenge_text").as_bytes()).unwrap();
    assert_eq!(asked.encode(), entry.text("challenge_text"));
    assert_eq!(
        (asked.nonce.as_str(), asked.ts),
        (entry.text("nonce"), entry.fields.get("ts").and_then(|t| t.as_i64()))
    );
    let key = key(entry, node);
    let signed = asked.signed_bytes(node);
    assert_eq!(signed, entry.text("signed_string"));
    let signature = key.sign(signed.as_bytes()).to_bytes();
    assert_eq!(signature.as_slice(), entry.hex("sig_hex"));
    let text = Reply::encode(node, key.verifying_key().as_bytes(), &signature);
    assert_eq!((text.as_str(), text.as_bytes()), (entry.text("reply_text"), entry.bytes.as_slice()));
    assert_eq!(Reply::decode(text.as_bytes()), Ok(Reply { node, signature: signature.to_vec() }));
    assert_eq!(auth::OK, entry.text("ok_text"));
    assert!(auth::is_ok(auth::OK.as_bytes()));
}

/// A beacon that knows only node 4242, in its order of questions.
fn reply(entry: &Entry) {
    let asked = &entry.fields["challenge"];
    let asked = Challenge { nonce: asked["nonce"].as_str().unwrap().into(), ts: asked["ts"].as_i64() };
    let registered = STANDARD.decode(entry.text("registered_public_key")).unwrap();
    let registered = VerifyingKey::from_bytes(&registered.try_into().unwrap()).unwrap();
    let judged = match Reply::decode_claim(&entry.bytes) {
        Err(AuthError::Parse(_)) => Err("parse"),
        Err(_) => Err("malformed"),
        Ok((4242, sig)) => match decode_signature(&sig) {
            Err(_) => Err("signature encoding"),
            Ok(bytes) => {
                let good = Signature::from_slice(&bytes)
                    .is_ok_and(|s| registered.verify_strict(asked.signed_bytes(4242).as_bytes(), &s).is_ok());
                if good { Ok(()) } else { Err("signature") }
            }
        },
        Ok(_) => Err("unknown node_id"),
    };
    assert_eq!(judged.is_ok(), accepted(entry), "{judged:?}");
    if let Err(reason) = judged {
        assert_eq!(reason, entry.text("reason"));
    }
}

fn challenge(entry: &Entry) {
    let asked = Challenge::decode(&entry.bytes);
    assert_eq!(asked.is_ok(), accepted(entry));
    if let Ok(asked) = asked {
        let node = u32::try_from(entry.number("node_id")).unwrap();
        let signed = asked.signed_bytes(node);
        assert_eq!(signed, entry.text("signed_string"));
        assert_eq!(key(entry, node).sign(signed.as_bytes()).to_bytes().as_slice(), entry.hex("sig_hex"));
    }
}

fn envelope(entry: &Entry) {
    let decoded = beacon::decode(&entry.bytes);
    if entry.error {
        decoded.unwrap_err();
        return;
    }
    let number = |name: &str| u32::try_from(entry.number(name)).unwrap();
    let decoded = decoded.unwrap();
    match decoded {
        Message::Relay { sender, dest, frame } => {
            assert_eq!((entry.text("msg"), sender, dest), ("relay", number("src"), number("dst")));
            assert_eq!(frame, entry.hex("payload_hex"));
        }
        Message::RelayDeliver { sender, frame } => {
            assert_eq!((entry.text("msg"), sender), ("relay_deliver", number("src")));
            assert_eq!(frame, entry.hex("payload_hex"));
        }
        Message::Discover { node, .. } => {
            assert_eq!((entry.text("msg"), node), ("discover", number("node_id")))
        }
        other => panic!("{other:?}"),
    }
    let mut again = Vec::new();
    decoded.encode(&mut again);
    assert_eq!(again, entry.bytes);
}

/// What a beacon answers to a request, up to the challenge behind a 101.
fn answer(entry: &Entry) {
    let request = entry.text("request_text");
    match http::answer(&Head::parse(request.as_bytes()).unwrap(), false) {
        Answer::Plain { bytes, keep } => {
            assert!(entry.error);
            assert_eq!(String::from_utf8(bytes).unwrap(), entry.text("response_text"));
            assert_eq!(keep, !request.contains("Connection: close"));
        }
        Answer::Upgrade { key, subprotocol } => {
            assert!(!entry.error);
            // What RFC 6455 section 1.3 makes of its sample key.
            assert_eq!(key, "dGhlIHNhbXBsZSBub25jZQ==");
            let accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
            let bytes = http::upgrade_answer(accept, subprotocol.as_deref());
            let end = http::head_end(&entry.bytes).unwrap();
            assert_eq!(bytes, &entry.bytes[..end]);
            http::check_upgrade(&Head::parse(&bytes).unwrap(), accept).unwrap();
            // One text frame, 16-bit length not needed.
            let frame = &entry.bytes[end..];
            let (first, len) = (frame[0], usize::from(frame[1]));
            assert_eq!(first, 0x81);
            let text = &frame[2..2 + len];
            assert_eq!(Challenge::decode(text).unwrap().encode().as_bytes(), text);
        }
    }
}
