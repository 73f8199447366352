//! The binary mode.

use super::*;
use pilot_wire::registry::{
    MSG_ERROR, MSG_HEARTBEAT, MSG_HEARTBEAT_OK, MSG_JSON, MSG_LOOKUP, MSG_LOOKUP_OK, MSG_RESOLVE,
    MSG_RESOLVE_OK, decode_error, decode_heartbeat_resp, decode_lookup_resp, decode_resolve_resp,
    encode_heartbeat_req, encode_lookup_req, encode_resolve_req,
};

fn raw(seed: u8, text: &str) -> [u8; 64] {
    key(seed).sign(text.as_bytes()).to_bytes()
}

impl Rig {
    pub(super) fn frame(&mut self, kind: u8, payload: &[u8]) -> (u8, Vec<u8>) {
        let text = pilot_wire::gojson::readable(payload);
        let query = if kind == MSG_JSON { Query::json_frame(&text) } else { Query::frame(kind, payload) };
        let mut reply = self.registry.handle(self.now, "192.0.2.1:5000".parse().unwrap(), &query, None);
        let changes = self.registry.take_changes();
        self.store(&changes);
        let mut out = Vec::new();
        reply.write(&mut String::new(), &mut out).unwrap();
        pilot_wire::registry::read_frame(&mut &out[..]).unwrap()
    }

    #[track_caller]
    fn frame_error(&mut self, kind: u8, payload: &[u8]) -> String {
        let (kind, payload) = self.frame(kind, payload);
        assert_eq!(kind, MSG_ERROR);
        decode_error(&payload)
    }
}

#[test]
fn binary_lookup() {
    let mut rig = Rig::nodes(2);
    rig.own(1, "set_visibility", json!({"public": true}));
    rig.own(1, "set_tags", json!({"tags": ["gpu"]}));
    rig.network("team", "open", false);
    let (kind, payload) = rig.frame(MSG_LOOKUP, &encode_lookup_req(1));
    assert_eq!(kind, MSG_LOOKUP_OK);
    let found = decode_lookup_resp(&payload).unwrap();
    assert_eq!((found.node_id, found.public, found.networks), (1, true, vec![0, 1]));
    assert_eq!((found.real_addr.as_str(), found.tags), ("203.0.113.1:4000", vec!["gpu".to_owned()]));
    assert_eq!(found.pub_key, key(1).verifying_key().as_bytes());
    let private = decode_lookup_resp(&rig.frame(MSG_LOOKUP, &encode_lookup_req(2)).1).unwrap();
    assert_eq!(private.real_addr, "");
    assert_eq!(rig.frame_error(MSG_LOOKUP, &encode_lookup_req(9)), "node 9: not found");
    assert_eq!(rig.frame_error(MSG_LOOKUP, &[0]), "lookup request too short: 1 bytes");
}

#[test]
fn binary_heartbeat() {
    let mut rig = Rig::nodes(1);
    rig.now += 5;
    let (kind, payload) = rig.frame(MSG_HEARTBEAT, &encode_heartbeat_req(1, &raw(1, "heartbeat:1")));
    assert_eq!(kind, MSG_HEARTBEAT_OK);
    assert_eq!(decode_heartbeat_resp(&payload).unwrap().unix_time, START + 5);
    let wrong = encode_heartbeat_req(1, &raw(2, "heartbeat:1"));
    assert_eq!(rig.frame_error(MSG_HEARTBEAT, &wrong), "signature verification failed");
    assert_eq!(rig.frame_error(MSG_HEARTBEAT, &encode_heartbeat_req(9, &[])), "node 9: not found");
}

#[test]
fn binary_resolve_keeps_the_same_secrets_but_explains() {
    let mut rig = Rig::nodes(2);
    let ask = encode_resolve_req(2, 1, &raw(1, "resolve:1:2"));
    assert_eq!(
        rig.frame_error(MSG_RESOLVE, &ask),
        "resolve denied: node 2 is private (establish mutual trust first)"
    );
    rig.trust(2, 1);
    let (kind, payload) = rig.frame(MSG_RESOLVE, &ask);
    assert_eq!(kind, MSG_RESOLVE_OK);
    let found = decode_resolve_resp(&payload).unwrap();
    assert_eq!((found.real_addr.as_str(), found.key_age_days), ("203.0.113.2:4000", Some(0)));
    let forged = encode_resolve_req(2, 1, &raw(2, "resolve:1:2"));
    assert_eq!(rig.frame_error(MSG_RESOLVE, &forged), "signature verification failed");
}

#[test]
fn json_in_frames() {
    let mut rig = Rig::nodes(1);
    let (kind, payload) = rig.frame(MSG_JSON, br#"{"type":"lookup","node_id":1}"#);
    assert_eq!(kind, MSG_JSON);
    assert!(payload.starts_with(br#"{"address":"0:0000.0000.0001""#), "keys are sorted");
    let (kind, payload) = rig.frame(MSG_JSON, br#"{"type":"nope"}"#);
    assert_eq!((kind, &payload[..]), (MSG_JSON, &br#"{"error":"request failed","type":"error"}"#[..]));
    assert!(rig.frame_error(MSG_JSON, b"{").starts_with("json decode: "));
    let subscribe = br#"{"type":"subscribe_replication"}"#;
    assert_eq!(rig.frame_error(MSG_JSON, subscribe), "replication not supported over binary protocol");
    assert_eq!(rig.frame_error(0x42, b""), "unknown message type 0x42");
    let register = format!(r#"{{"type":"register","public_key":"{}"}}"#, key_text(2));
    rig.frame(MSG_JSON, register.as_bytes());
    assert!(rig.stored.contains_key(&RecordKey::Node(2)));
}
