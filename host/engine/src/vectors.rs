//! The recorded vectors of areas `tunnel` and `identity`, each kind against the code that answers for it.

use pilot_vectors::Entry;
use pilot_wire::addr::Addr;
use pilot_wire::tunnel::{Frame, KeyRequest, SEALED_HEADER_LEN, SealedHeader};
use pilot_wire::{beacon, packet, tunnel};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use crate::identity::{self, Identity, encode_base64};
use crate::time::Instant;
use crate::tunnel::counters::Remembered;
use crate::tunnel::kdf;
use crate::tunnel::replay::{Verdict, Window};
use crate::tunnel::session::{Profile, Session};

#[test]
fn tunnel_vectors() {
    pilot_vectors::run("pilot-engine", &["tunnel"], |_, e| match e.kind.as_str() {
        "PILK" => key_request(e),
        "PILA" => key_exchange(e),
        "PILS" => sealed(e),
        "PILT" => {
            let frame = tunnel::decode(&e.bytes);
            assert_eq!(frame.is_err(), e.error);
            if let Ok(frame) = frame {
                assert_eq!(frame, Frame::Plain(&e.hex("packet")));
                assert!(packet::decode(&e.hex("packet")).is_ok());
            }
        }
        "PILP" => assert_eq!(tunnel::decode(&e.bytes), Ok(Frame::Punch)),
        "kdf" | "kdf-legacy" => key_derivation(e),
        "replay" => {
            let mut window = Window::default();
            for step in e.fields["steps"].as_array().unwrap() {
                let counter = step["counter"].as_str().unwrap().parse().unwrap();
                let fresh = window.judge(counter) == Verdict::Fresh;
                assert_eq!(fresh, step["accept"].as_bool().unwrap(), "counter {counter}");
            }
        }
        "beacon" => beacon_message(e),
        other => panic!("no test for kind {other}"),
    });
}

fn node(e: &Entry, key: &str) -> u32 {
    u32::try_from(e.number(key)).unwrap()
}

fn key_request(e: &Entry) {
    let frame = tunnel::decode(&e.bytes);
    assert_eq!(frame.is_err(), e.error);
    let Ok(Frame::KeyRequest(request)) = frame else { return };
    assert_eq!(request.node, node(e, "node_id"));
    if e.fields.contains_key("x25519_private") {
        let private = StaticSecret::from(<[u8; 32]>::try_from(e.hex("x25519_private")).unwrap());
        let public = *PublicKey::from(&private).as_bytes();
        assert_eq!(KeyRequest { node: request.node, x25519: public }.to_bytes()[..], e.bytes[..]);
    }
}

fn key_exchange(e: &Entry) {
    let Ok(Frame::KeyExchange(kex)) = tunnel::decode(&e.bytes) else { return assert!(e.error) };
    assert_eq!(identity::verify(kex.ed25519, &kex.signed_message(), kex.signature), !e.error);
    if e.error {
        return;
    }
    assert_eq!(kex.node, node(e, "node_id"));
    if e.fields.contains_key("caps") {
        assert_eq!(kex.trailer.capabilities, e.number("caps"));
        assert_eq!(kex.trailer.flags, e.number("kex_flags"));
    }
    if e.fields.contains_key("ed25519_seed") {
        let id = Identity::generate(e.hex("ed25519_seed").try_into().unwrap());
        assert_eq!(kex.signed_message()[..], e.hex("signed_message"));
        assert_eq!(id.sign(&kex.signed_message()), *kex.signature);
    }
    let mut again = Vec::new();
    kex.encode(&mut again);
    assert_eq!(again, e.bytes);
}

/// Opens with the vector's key, and seals again what opened.
fn sealed(e: &Entry) {
    let Ok(Frame::Sealed(header, body)) = tunnel::decode(&e.bytes) else { return assert!(e.error) };
    let key = Zeroizing::new(<[u8; 32]>::try_from(e.hex("aes256_key")).unwrap());
    let legacy = e.fields.get("profile").is_some_and(|p| p == "legacy-2026-02");
    let session = |counter| {
        let from = Remembered { counter, ..Remembered::default() };
        Session::new(Instant::ZERO, [0; 32], true, &key, Some(&key), header.prefix, from)
    };
    let mut body = body.to_vec();
    let mut receiver = session(0);
    let opened = receiver.open(Instant::ZERO, &header, &mut body);
    assert_eq!(opened.is_err(), e.error);
    let Ok(plain) = opened else { return };
    assert_eq!(*plain, e.hex("plaintext"));
    assert_eq!(receiver.profile() == Profile::Legacy, legacy);
    let mut buf = vec![0; SEALED_HEADER_LEN];
    buf.extend_from_slice(plain);
    let profile = if legacy { Profile::Legacy } else { Profile::Current };
    session(header.counter - 1).seal_as(profile, header.sender, &mut buf, 0);
    assert_eq!(buf, e.bytes);
    assert_eq!(SealedHeader::decode(&buf), Some(header));
}

fn key_derivation(e: &Entry) {
    let own = StaticSecret::from(<[u8; 32]>::try_from(e.hex("x25519_private_local")).unwrap());
    let peer = <[u8; 32]>::try_from(e.hex("x25519_public_peer")).unwrap();
    let Some(shared) = kdf::shared_secret(&own, &peer) else { return assert!(e.error) };
    assert!(!e.error);
    assert_eq!(shared[..], e.hex("shared"));
    let key = if e.kind == "kdf" { kdf::tunnel_key(&shared) } else { kdf::legacy_tunnel_key(&shared) };
    assert_eq!(key[..], e.hex("aes256_key"));
}

fn beacon_message(e: &Entry) {
    let message = beacon::decode(&e.bytes);
    assert_eq!(message.is_err(), e.error);
    let Ok(message) = message else { return };
    assert!(tunnel::is_beacon_message(&e.bytes));
    match message {
        beacon::Message::Discover { node: n, .. } => assert_eq!(n, node(e, "node_id")),
        beacon::Message::PunchRequest { requester, target, .. } => {
            assert_eq!((requester, target), (node(e, "node_id"), node(e, "target")));
        }
        beacon::Message::DiscoverReply { observed: end } | beacon::Message::PunchCommand { peer: end } => {
            assert_eq!(end.ip().to_string(), e.text("ip"));
            assert_eq!(u64::from(end.port()), e.number("port"));
        }
        beacon::Message::Relay { sender, dest, frame } => {
            assert_eq!((sender, dest), (node(e, "sender"), node(e, "dest")));
            assert_eq!(frame, e.hex("frame"));
        }
        beacon::Message::RelayDeliver { sender, frame } => {
            assert_eq!(sender, node(e, "source"));
            assert_eq!(frame, e.hex("frame"));
        }
        _ => assert_eq!(u64::from(e.bytes[0]), e.number("type")),
    }
}

#[test]
fn identity_vectors() {
    // An entry of kind `sign` does not name its key: it is one of those in the `file` entries.
    let identities: Vec<Identity> = pilot_vectors::load("identity")
        .unwrap_or_default()
        .iter()
        .filter(|e| e.kind == "file")
        .map(|e| Identity::generate(e.hex("seed_hex").try_into().unwrap()))
        .collect();
    pilot_vectors::run("pilot-engine", &["identity"], |_, e| match e.kind.as_str() {
        "file" => {
            let id = Identity::generate(e.hex("seed_hex").try_into().unwrap());
            assert_eq!(id.to_file_json().as_bytes(), e.bytes);
            assert_eq!(id.public_key_text(), e.text("public_key_b64"));
            let loaded = Identity::from_file_json(&e.bytes).unwrap();
            assert_eq!(loaded.public_key()[..], e.hex("public_key_hex"));
        }
        "sign" => {
            assert_eq!(e.bytes, e.text("message").as_bytes());
            let signed = identities.iter().map(|id| (id, id.sign(&e.bytes)));
            let (id, sig) =
                signed.into_iter().find(|(_, sig)| sig[..] == e.hex("sig_hex")).expect("no key fits");
            assert_eq!(encode_base64(&sig), e.text("sig_b64"));
            assert!(identity::verify(&id.public_key(), &e.bytes, &sig));
        }
        "load" => load(e),
        "addr" => {
            let addr = Addr::from_bytes(e.bytes.as_slice().try_into().unwrap());
            assert_eq!(addr.to_string(), e.text("text"));
            assert_eq!(u64::from(addr.network), e.number("network"));
            assert_eq!(addr.node, node(e, "node"));
        }
        "parse" => match e.text("text").parse::<Addr>() {
            Ok(addr) => {
                assert!(!e.error);
                assert_eq!(addr.to_string(), e.text("canonical"));
            }
            Err(error) => {
                assert!(e.error);
                assert_eq!(error.to_string(), e.text("error_text"));
            }
        },
        other => panic!("no test for kind {other}"),
    });
}

fn load(e: &Entry) {
    let mode = u32::from_str_radix(e.text("mode"), 8).unwrap();
    let loaded = identity::check_mode(mode, "PATH").and_then(|()| Identity::from_file_json(&e.bytes));
    match loaded {
        Ok(id) => {
            assert!(!e.error);
            assert_eq!(id.public_key_text(), e.text("public_key_b64"));
            assert_eq!(id.sign(b"probe")[..], e.hex("sign_probe_hex"));
        }
        Err(error) => {
            assert!(e.error);
            let (ours, theirs) = (error.to_string(), e.text("error_text"));
            // The JSON decoder's own words may differ behind the prefix that identity.md fixes.
            if let Some(prefix) = ["unmarshal identity: "].into_iter().find(|p| theirs.starts_with(p)) {
                assert!(ours.starts_with(prefix), "{ours}");
            } else {
                assert_eq!(ours, theirs);
            }
        }
    }
}
