//! Which registry operations are signed, by whom, over what (registry.md section 2.3).
//!
//! Called by [`RegistryClient::call_signed`](super::RegistryClient::call_signed). An operation that the table does not
//! name goes out unsigned.

use pilot_wire::registry::challenge;
use serde_json::{Map, Value};

/// How a request of this node names its sender, and what it signs.
pub(super) struct Signing {
    /// The member that carries our own node number.
    pub sender: &'static str,
    /// The text to sign; `None`: this operation is not signed.
    pub challenge: Option<String>,
    /// Whether an admin token in the request may stand in for a signature.
    pub admin_instead: bool,
}

/// The table: what to add to `params` for `op` sent by `own`. `None`: nothing, the request goes as it is.
pub(super) fn signing(op: &str, own: u32, params: &Map<String, Value>) -> Option<Signing> {
    // The registry reads a missing or odd number as 0, and checks the signature against that.
    let node =
        |key: &str| params.get(key).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    let network = || u16::try_from(node("network_id")).unwrap_or(0);
    let text = |key: &str| params.get(key).and_then(Value::as_str).unwrap_or("");
    let (sender, challenge) = match op {
        "resolve" => ("requester_id", challenge::resolve(own, node("node_id"))),
        "heartbeat" => ("node_id", challenge::heartbeat(own)),
        "report_trust" => ("node_id", challenge::report_trust(own, node("peer_id"))),
        "revoke_trust" => ("node_id", challenge::revoke_trust(own, node("peer_id"))),
        "set_visibility" | "set_hostname" | "set_tags" | "set_task_exec" | "set_key_expiry"
        | "deregister" | "poll_handshakes" | "poll_invites" => ("node_id", challenge::node_op(op, own)),
        "punch" => ("requester_id", challenge::punch(node("node_a"), node("node_b"))),
        "request_handshake" => ("from_node_id", challenge::request_handshake(own, node("to_node_id"))),
        "respond_handshake" => ("node_id", challenge::respond_handshake(own, node("peer_id"))),
        "join_network" => ("node_id", challenge::join_network(own, network())),
        "leave_network" => ("node_id", challenge::leave_network(own, network())),
        "respond_invite" => ("node_id", challenge::respond_invite(own, network())),
        "invite_to_network" => {
            ("inviter_id", challenge::invite_to_network(own, network(), node("target_node_id")))
        }
        "rotate_key" => ("node_id", challenge::rotate_key(own, text("new_public_key"))),
        "create_network" | "delete_network" | "rename_network" | "kick_member" | "promote_member"
        | "demote_member" | "transfer_ownership" | "set_member_tags" | "set_network_policy"
        | "set_expr_policy" => {
            return Some(Signing { sender: "node_id", challenge: None, admin_instead: false });
        }
        _ => return None,
    };
    let admin_instead = matches!(op, "join_network" | "leave_network");
    Some(Signing { sender, challenge: Some(challenge), admin_instead })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn text(op: &str, params: Value) -> Option<(&'static str, Option<String>)> {
        let params = params.as_object().unwrap().clone();
        signing(op, 42, &params).map(|s| (s.sender, s.challenge))
    }

    #[test]
    fn the_table_names_the_sender_and_the_text() {
        let signed = |sender, text: &str| Some((sender, Some(text.to_owned())));
        assert_eq!(text("resolve", json!({"node_id": 43})), signed("requester_id", "resolve:42:43"));
        assert_eq!(text("set_tags", json!({"tags": []})), signed("node_id", "set_tags:42"));
        assert_eq!(
            text("request_handshake", json!({"to_node_id": 43})),
            signed("from_node_id", "handshake:42:43")
        );
        assert_eq!(text("respond_handshake", json!({"peer_id": 43})), signed("node_id", "respond:42:43"));
        assert_eq!(text("join_network", json!({"network_id": 7})), signed("node_id", "join_network:42:7"));
        assert_eq!(
            text("invite_to_network", json!({"network_id": 7, "target_node_id": 43})),
            signed("inviter_id", "invite:42:7:43")
        );
        assert_eq!(text("report_trust", json!({"peer_id": "43"})), signed("node_id", "report_trust:42:0"));
        assert_eq!(text("kick_member", json!({})), Some(("node_id", None)));
        assert_eq!(text("lookup", json!({"node_id": 1})), None);
    }
}
