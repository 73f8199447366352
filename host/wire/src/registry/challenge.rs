//! The ASCII texts that registry requests sign: decimal ids, no spaces, no newline (registry.md section 2.3).
//!
//! Called by whoever signs or verifies; signing itself is elsewhere.

/// Registration by newest clients, signed with the key being registered; both values exactly as sent.
pub fn register(listen_addr: &str, public_key_base64: &str) -> String {
    format!("register:{listen_addr}:{public_key_base64}")
}

/// Resolve, signed by the requester. Mind the order: the requester comes first.
pub fn resolve(requester: u32, node: u32) -> String {
    format!("resolve:{requester}:{node}")
}

/// Plain heartbeat.
pub fn heartbeat(node: u32) -> String {
    format!("heartbeat:{node}")
}

/// Heartbeat that also moves the endpoint (v1.9.0 servers only).
pub fn heartbeat_with_addr(node: u32, listen_addr: &str) -> String {
    format!("heartbeat:{node}:{listen_addr}")
}

/// Heartbeat under strict freshness: `ts` in unix seconds as sent.
pub fn heartbeat_with_time(node: u32, ts: i64) -> String {
    format!("heartbeat:{node}:{ts}")
}

/// Reporting trust in a peer.
pub fn report_trust(node: u32, peer: u32) -> String {
    format!("report_trust:{node}:{peer}")
}

/// Revoking trust in a peer.
pub fn revoke_trust(node: u32, peer: u32) -> String {
    format!("revoke_trust:{node}:{peer}")
}

/// The operations whose challenge is `<op>:<node>`: `set_visibility`, `set_hostname`, `set_tags`, `set_task_exec`,
/// `set_key_expiry`, `deregister`, `poll_handshakes`, `poll_invites`. The new value is not covered.
pub fn node_op(op: &str, node: u32) -> String {
    format!("{op}:{node}")
}

/// TCP punch, signed by the requester, who must be one of the two.
pub fn punch(node_a: u32, node_b: u32) -> String {
    format!("punch:{node_a}:{node_b}")
}

/// `request_handshake`, signed by the sender.
pub fn request_handshake(from: u32, to: u32) -> String {
    format!("handshake:{from}:{to}")
}

/// `respond_handshake`, signed by the responder.
pub fn respond_handshake(node: u32, peer: u32) -> String {
    format!("respond:{node}:{peer}")
}

/// `join_network`.
pub fn join_network(node: u32, network: u16) -> String {
    format!("join_network:{node}:{network}")
}

/// `leave_network`.
pub fn leave_network(node: u32, network: u16) -> String {
    format!("leave_network:{node}:{network}")
}

/// `respond_invite`.
pub fn respond_invite(node: u32, network: u16) -> String {
    format!("respond_invite:{node}:{network}")
}

/// `invite_to_network`, signed by the inviter.
pub fn invite_to_network(inviter: u32, network: u16, target: u32) -> String {
    format!("invite:{inviter}:{network}:{target}")
}

/// `rotate_key` in the newest form, signed with the current key.
pub fn rotate_key(node: u32, new_public_key_base64: &str) -> String {
    format!("rotate:{node}:{new_public_key_base64}")
}

/// `rotate_key` as older versions sign it. Replayable with any key: accept only behind a compatibility switch.
pub fn rotate_key_legacy(node: u32) -> String {
    format!("rotate:{node}")
}

/// `submit_badge`, signed with the current key.
pub fn submit_badge(node: u32, badge: &str) -> String {
    format!("submit_badge:{node}:{badge}")
}

/// `enroll_recovery`, signed with the current key.
pub fn enroll_recovery(node: u32, commitment: &str) -> String {
    format!("enroll_recovery:{node}:{commitment}")
}

/// `lookup` under the strict directory mode.
pub fn lookup(requester: u32, node: u32) -> String {
    format!("lookup:{requester}:{node}")
}

/// `resolve_hostname` under the strict directory mode.
pub fn resolve_hostname(requester: u32) -> String {
    format!("resolve_hostname:{requester}")
}

/// `list_nodes` under the strict directory mode.
pub fn list_nodes(requester: u32, network: u16) -> String {
    format!("list_nodes:{requester}:{network}")
}

/// `check_trust` under the strict directory mode.
pub fn check_trust(node: u32, peer: u32) -> String {
    format!("check_trust:{node}:{peer}")
}
