//! Signatures that were checked elsewhere.

use pilot_wire::registry::{MSG_ERROR, MSG_RESOLVE, MSG_RESOLVE_OK, decode_error, encode_resolve_req};

use super::*;

const SOURCE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 5000);

fn registration(signer: u8) -> Map<String, Value> {
    let text = key_text(7);
    let request = json!({
        "type": "register", "listen_addr": "192.0.2.1:4000", "public_key": text,
        "signature": sign(signer, &challenge::register("192.0.2.1:4000", &text)),
    });
    request.as_object().unwrap().clone()
}

#[test]
fn a_proof_stands_for_its_own_claim_only() {
    for signer in [7, 8] {
        let mut r = Rig::new().registry;
        let request = registration(signer);
        let proof = r.signature_claim(&request).unwrap().check();
        let with = r.handle_proven(START, SOURCE, &request, Some(proof)).body["type"].clone();
        let without = Rig::new().registry.handle(START, SOURCE, &request).body["type"].clone();
        assert_eq!(with, without);
        assert_eq!(with == "register_ok", signer == 7);
    }
    // A good proof of another request's signature does not help this one.
    let mut r = Rig::new().registry;
    let good = r.signature_claim(&registration(7)).unwrap().check();
    let reply = r.handle_proven(START, SOURCE, &registration(8), Some(good));
    assert_eq!(reply.body["type"], "error");
    // And it is forgotten with its request.
    assert_eq!(r.handle(START, SOURCE, &registration(8)).body["type"], "error");
}

#[test]
fn frames_and_requests_without_a_signer_have_no_claim() {
    let mut r = Rig::new().registry;
    assert!(r.signature_claim(json!({"type": "lookup", "node_id": 1}).as_object().unwrap()).is_none());
    assert!(
        r.signature_claim(
            json!({"type": "heartbeat", "node_id": 1, "signature": "AA=="}).as_object().unwrap()
        )
        .is_none()
    );
    let frame = encode_resolve_req(2, 1, &[0; 64]);
    assert!(r.frame_signature_claim(MSG_RESOLVE, &frame).is_none());
    assert!(r.frame_signature_claim(MSG_RESOLVE, &frame[..10]).is_none());
    r.handle(START, SOURCE, &registration(7));
    let good = key(7).sign(challenge::resolve(1, 1).as_bytes()).to_bytes();
    for (signature, text) in [(good, "resolve denied"), ([0; 64], "signature verification failed")] {
        let frame = encode_resolve_req(1, 1, &signature);
        let proof = r.frame_signature_claim(MSG_RESOLVE, &frame).unwrap().check();
        let reply = r.handle_frame_proven(START, SOURCE, MSG_RESOLVE, &frame, Some(proof));
        assert_ne!(reply.kind, MSG_RESOLVE_OK);
        assert_eq!(reply.kind, MSG_ERROR);
        assert!(decode_error(&reply.payload).starts_with(text));
    }
}

#[test]
fn many_claims_together_come_out_as_each_alone() {
    let r = Rig::new().registry;
    let claim = |signer| r.signature_claim(&registration(signer)).unwrap();
    for signers in [&[][..], &[7], &[8], &[7, 7, 7], &[7, 8, 7, 9, 7]] {
        let together = Claim::check_all(signers.iter().map(|s| claim(*s)).collect());
        let alone: Vec<Proof> = signers.iter().map(|s| claim(*s).check()).collect();
        assert_eq!(together, alone);
    }
}

#[test]
fn only_good_signatures_are_remembered() {
    let r = Rig::new().registry;
    let claim = |signer| r.signature_claim(&registration(signer)).unwrap();
    let mut memory = ProofMemory::new(64);
    for signer in [7, 8] {
        assert_eq!(memory.recall(claim(signer)), Err(claim(signer)));
        memory.keep(&claim(signer).check());
    }
    assert_eq!(memory.recall(claim(7)), Ok(claim(7).check()));
    assert_eq!(memory.recall(claim(8)), Err(claim(8)));
    let mut none = ProofMemory::new(0);
    none.keep(&claim(7).check());
    assert_eq!(none.recall(claim(7)), Err(claim(7)));
}
