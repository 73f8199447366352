//! Signatures that were checked elsewhere.

use pilot_wire::registry::{MSG_ERROR, MSG_RESOLVE, decode_error, encode_resolve_req};

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

/// The claim of a message.
fn claim_of(r: &Registry, request: &Map<String, Value>) -> Option<Claim> {
    r.signature_claim(&Query::message(&serde_json::to_string(request).unwrap()).unwrap())
}

/// The type of the answer to a registration.
fn registered(r: &mut Registry, signer: u8, proof: Option<Proof>) -> Value {
    object(&message(r, START, &registration(signer), proof))["type"].clone()
}

#[test]
fn a_proof_stands_for_its_own_claim_only() {
    for signer in [7, 8] {
        let mut r = Rig::new().registry;
        let proof = claim_of(&r, &registration(signer)).unwrap().check();
        let with = registered(&mut r, signer, Some(proof));
        assert_eq!(with, registered(&mut Rig::new().registry, signer, None));
        assert_eq!(with == "register_ok", signer == 7);
    }
    // A good proof of another request's signature does not help this one.
    let mut r = Rig::new().registry;
    let good = claim_of(&r, &registration(7)).unwrap().check();
    assert_eq!(registered(&mut r, 8, Some(good)), "error");
    // And it is forgotten with its request.
    assert_eq!(registered(&mut r, 8, None), "error");
}

#[test]
fn frames_and_requests_without_a_signer_have_no_claim() {
    let mut r = Rig::new().registry;
    for request in [
        json!({"type": "lookup", "node_id": 1}),
        json!({"type": "heartbeat", "node_id": 1, "signature": "AA=="}),
    ] {
        assert_eq!(claim_of(&r, request.as_object().unwrap()), None);
    }
    let frame = encode_resolve_req(2, 1, &[0; 64]);
    assert!(r.signature_claim(&Query::frame(MSG_RESOLVE, &frame)).is_none());
    assert!(r.signature_claim(&Query::frame(MSG_RESOLVE, &frame[..10])).is_none());
    assert!(r.signature_claim(&Query::json_frame("[]")).is_none());
    registered(&mut r, 7, None);
    let good = key(7).sign(challenge::resolve(1, 1).as_bytes()).to_bytes();
    for (signature, text) in [(good, "resolve denied"), ([0; 64], "signature verification failed")] {
        let frame = encode_resolve_req(1, 1, &signature);
        let query = Query::frame(MSG_RESOLVE, &frame);
        let proof = r.signature_claim(&query).unwrap().check();
        let reply = r.handle(START, SOURCE, &query, Some(proof));
        let query::Body::Frame(kind, payload) = &reply.body else { panic!("{reply:?}") };
        assert_eq!(*kind, MSG_ERROR);
        assert!(decode_error(payload).starts_with(text));
    }
}

#[test]
fn several_requests_are_told_apart_and_their_changes_taken_together() {
    let mut r = Rig::new().registry;
    assert_eq!(registered(&mut r, 7, None), "register_ok");
    let lookup = json!({"type": "lookup", "node_id": 1});
    assert!(
        !message(&mut r, START, lookup.as_object().unwrap(), None).changed,
        "another request changed something"
    );
    let mut again = message(&mut r, START, &registration(7), None);
    assert!(again.changed);
    let keys: Vec<_> = r.take_changes().into_iter().map(|change| change.key).collect();
    assert_eq!(keys, [RecordKey::Meta, RecordKey::Identity(1), RecordKey::Node(1)]);
    assert_eq!(r.take_changes(), []);
    assert_eq!(object(&again.not_stored())["error"], "request failed");
    let (mut scratch, mut out) = (String::new(), b"before".to_vec());
    let text = pilot_wire::gojson::object_to_vec(&object(&again));
    again.write(&mut scratch, &mut out).unwrap();
    assert_eq!(out[6..10], u32::try_from(text.len()).unwrap().to_be_bytes());
    assert_eq!(out[10..], text);
}

#[test]
fn many_claims_together_come_out_as_each_alone() {
    let r = Rig::new().registry;
    let claim = |signer| claim_of(&r, &registration(signer)).unwrap();
    for signers in [&[][..], &[7], &[8], &[7, 7, 7], &[7, 8, 7, 9, 7]] {
        let together = Claim::check_all(signers.iter().map(|s| claim(*s)).collect());
        let alone: Vec<Proof> = signers.iter().map(|s| claim(*s).check()).collect();
        assert_eq!(together, alone);
    }
}

#[test]
fn only_good_signatures_are_remembered() {
    let r = Rig::new().registry;
    let claim = |signer| claim_of(&r, &registration(signer)).unwrap();
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
