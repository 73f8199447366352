//! Replacing keys and letting them expire.

use super::*;

fn rotate(node: u8, new: u8, signer: u8) -> Value {
    let text = challenge::rotate_key(node.into(), &key_text(new));
    json!({"node_id": node, "new_public_key": key_text(new), "signature": sign(signer, &text)})
}

#[test]
fn a_key_is_replaced_by_its_holder() {
    let mut rig = Rig::nodes(2);
    rig.now += 10 * 86_400;
    let answer = rig.ok("rotate_key", rotate(1, 11, 1));
    let want = json!({"type": "rotate_key_ok", "node_id": 1, "address": "0:0000.0000.0001", "public_key": key_text(11)});
    assert_eq!(Value::from(answer), want);
    assert_eq!(
        rig.own(1, "heartbeat", json!({}))["error"],
        "signature verification failed",
        "the old key is void"
    );
    let beat = json!({"node_id": 1, "signature": sign(11, "heartbeat:1")});
    rig.ok("heartbeat", beat);
    assert_eq!(rig.join(11), 1, "the new key has the number");
    assert_eq!(rig.join(1), 3, "the old one is a stranger");
    let info = rig.ok("get_key_info", json!({"node_id": 1}));
    let want = json!({"type": "get_key_info_ok", "node_id": 1, "created_at": "2027-01-15T08:00:00Z", "rotate_count": 1,
        "rotated_at": "2027-01-25T08:00:00Z", "key_age_days": 0});
    assert_eq!(Value::from(info), want);
}

#[test]
fn rotations_are_checked() {
    let mut rig = Rig::nodes(2);
    let mut request = rotate(1, 11, 1);
    request["signature"] = "".into();
    assert_eq!(rig.refused("rotate_key", request), "rotate_key requires a valid signature");
    let mut request = rotate(1, 11, 1);
    request["new_public_key"] = "".into();
    assert_eq!(rig.refused("rotate_key", request.clone()), "rotate_key requires new_public_key");
    request["new_public_key"] = "AAAA".into();
    assert!(rig.refused("rotate_key", request.clone()).starts_with("invalid new_public_key: "));
    request["new_public_key"] = key_text(12).into();
    assert_eq!(
        rig.refused("rotate_key", request),
        "signature verification failed",
        "the text names the new key"
    );
    assert_eq!(rig.refused("rotate_key", rotate(1, 11, 2)), "signature verification failed");
    assert_eq!(
        rig.refused("rotate_key", rotate(1, 2, 1)),
        "invalid new_public_key: already registered to node 2"
    );
    let old_form = json!({"node_id": 1, "new_public_key": key_text(11), "signature": sign(1, "rotate:1")});
    assert_eq!(rig.refused("rotate_key", old_form.clone()), "signature verification failed");
    let mut lenient = Rig::with(|s| s.legacy_rotation = true);
    lenient.join(1);
    lenient.ok("rotate_key", old_form);
}

#[test]
fn keys_can_expire_in_enterprise_networks() {
    let mut rig = Rig::nodes(1);
    let tomorrow = "2027-01-16T07:59:59Z";
    assert!(
        rig.own(1, "set_key_expiry", json!({"expires_at": tomorrow}))["error"]
            .as_str()
            .unwrap()
            .starts_with("enterprise feature")
    );
    rig.network("firm", "open", true);
    for bad in ["yesterday", "2027-01-15T08:00:00Z", "2040-01-01T00:00:00Z"] {
        let text =
            rig.own(1, "set_key_expiry", json!({"expires_at": bad}))["error"].as_str().unwrap().to_owned();
        assert!(text.starts_with("invalid expires_at"), "{text}");
    }
    let set = rig.own(1, "set_key_expiry", json!({"expires_at": "2027-01-16T09:59:59+02:00"}));
    assert_eq!(set["expires_at"], tomorrow);
    assert_eq!(rig.own(1, "heartbeat", json!({}))["key_expiry_warning"], true);
    rig.now += 86_400;
    assert_eq!(rig.own(1, "heartbeat", json!({}))["error"], format!("node 1: key expired at {tomorrow}"));
    assert_eq!(rig.registry.state.node(1).unwrap().last_seen(), START + 86_400 - 86_400);
    rig.ok("set_key_expiry", json!({"node_id": 1, "expires_at": "never", "admin_token": ADMIN}));
    let beat = rig.own(1, "heartbeat", json!({}));
    assert!(!beat.contains_key("key_expiry_warning"));
}
