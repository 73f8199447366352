//! Whatever comes in, an answer goes out and the store stays whole.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const OPS: &[&str] = &[
    "register",
    "lookup",
    "resolve",
    "resolve_hostname",
    "list_nodes",
    "punch",
    "heartbeat",
    "deregister",
    "set_visibility",
    "set_hostname",
    "set_tags",
    "set_task_exec",
    "report_trust",
    "revoke_trust",
    "check_trust",
    "request_handshake",
    "poll_handshakes",
    "respond_handshake",
    "create_network",
    "join_network",
    "leave_network",
    "delete_network",
    "rename_network",
    "set_network_enterprise",
    "list_networks",
    "invite_to_network",
    "poll_invites",
    "respond_invite",
    "kick_member",
    "promote_member",
    "demote_member",
    "transfer_ownership",
    "get_member_role",
    "set_member_tags",
    "get_member_tags",
    "set_network_policy",
    "get_network_policy",
    "set_expr_policy",
    "get_expr_policy",
    "rotate_key",
    "set_key_expiry",
    "get_key_info",
    "beacon_register",
    "beacon_list",
    "provision_network",
    "set_external_id",
    "get_identity",
    "get_audit_log",
    "set_webhook",
    "get_webhook",
    "get_webhook_dlq",
    "subscribe_replication",
    "nope",
];

const MEMBERS: &[&str] = &[
    "node_id",
    "peer_id",
    "requester_id",
    "from_node_id",
    "to_node_id",
    "target_node_id",
    "inviter_id",
    "new_owner_id",
    "network_id",
    "node_a",
    "node_b",
    "beacon_id",
    "public_key",
    "new_public_key",
    "signature",
    "listen_addr",
    "owner",
    "hostname",
    "lan_addrs",
    "version",
    "relay_only",
    "public",
    "enabled",
    "tags",
    "justification",
    "accept",
    "name",
    "join_rule",
    "token",
    "admin_token",
    "network_admin_token",
    "enterprise",
    "rules",
    "expr_policy",
    "max_members",
    "allowed_ports",
    "description",
    "expires_at",
    "addr",
    "blueprint",
    "external_id",
    "url",
    "limit",
    "ts",
];

/// Values that the operations have a use for, and some that they do not.
fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => (0_u32..5).prop_map(Value::from),
        1 => any::<f64>().prop_map(|f| json!(f)),
        1 => any::<i64>().prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::from),
        1 => Just(Value::Null),
        2 => prop::sample::select(vec!["", "a", "alpha", "team", "open", "token", "invite", "never", ADMIN, "null",
            "2030-01-01T00:00:00Z", "{\"version\":1,\"rules\":[]}", "1.2.3.4:5", "!!"]).prop_map(Value::from),
        2 => (0_u8..4).prop_map(|seed| key_text(seed).into()),
        1 => ".{0,70}".prop_map(Value::from),
        1 => vec(prop_oneof![".{0,40}".prop_map(Value::from), any::<u16>().prop_map(Value::from)], 0..12)
            .prop_map(Value::from),
        1 => Just(json!({"version": 1, "rules": [1]})),
        1 => Just(json!({"name": "team", "enterprise": true, "roles": [{"external_id": "a", "role": "owner"}]})),
    ]
}

fn request() -> impl Strategy<Value = (&'static str, Vec<(&'static str, Value)>)> {
    (prop::sample::select(OPS), vec((prop::sample::select(MEMBERS), value()), 0..8))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is asked, by whomever: an object with a type comes back, and what was stored makes the same registry.
    #[test]
    fn arbitrary_requests_get_an_answer_and_leave_a_whole_store(
        requests in vec((request(), any::<bool>(), 0_i64..2000), 1..60)
    ) {
        let mut rig = Rig::nodes(3);
        for ((op, members), admin, pause) in requests {
            let mut params = Map::from_iter(members.into_iter().map(|(k, v)| (k.to_owned(), v)));
            if admin {
                params.insert("admin_token".into(), ADMIN.into());
            }
            rig.now += pause;
            let answer = rig.ask(op, Value::Object(params));
            prop_assert!(answer.get("type").is_some_and(Value::is_string));
            let changes = rig.registry.sweep(rig.now);
            rig.store(&changes);
        }
        let changes = rig.registry.final_changes();
        rig.store(&changes);
        let restored = Registry::restore(Settings::default(), rig.stored, rig.now).unwrap();
        prop_assert_eq!(rig.registry.state.after_restart(), restored.state);
    }

    #[test]
    fn arbitrary_frames_get_an_answer(kind in any::<u8>(), payload in vec(any::<u8>(), 0..200)) {
        let mut rig = Rig::nodes(1);
        let (kind, _) = rig.frame(kind, &payload);
        prop_assert!(kind == 0xFF || kind == 0 || kind & 0x80 != 0);
    }
}
