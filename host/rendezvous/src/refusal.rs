//! Why the registry refuses a request: one variant per text, and the rule which texts a stranger may see.
//!
//! Made by the operations, turned into an answer by [`Registry::handle`](crate::Registry::handle). The texts are those
//! of the Go peer wherever the fact sheet gives them, because clients match on parts of them (registry.md sections 2 to
//! 4); where it gives none, a text says what to do instead.

use pilot_wire::goquote::quote;

use crate::key::{Base64Error, KeyError};
use crate::names::NameError;

/// What a client reads in place of a text that is not meant for it.
const HIDDEN: &str = "request failed";

/// A text that contains one of these is shown in JSON mode (registry.md section 2.1, newest).
const SHOWN_WORDS: [&str; 12] = [
    "rate limited",
    "enterprise feature",
    "expired",
    "already",
    "not a member",
    "cannot",
    "too many",
    "too long",
    "not found",
    "invalid",
    "require",
    "signature",
];

/// A refused request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("unknown message type: {}", quote(.0))]
    UnknownType(String),
    #[error("replication not configured")]
    NoReplication,
    #[error("invalid replication token")]
    ReplicationToken,
    /// Not refused at all: the driver turns the connection into a feed.
    #[error("subscribed")]
    Subscribed,
    #[error("standby mode: write operations not accepted (use primary)")]
    Standby,

    // ---- credentials
    #[error("signature required for authenticated node")]
    SignatureMissing,
    #[error("invalid signature encoding: {0}")]
    SignatureEncoding(Base64Error),
    #[error("signature verification failed")]
    SignatureWrong,
    #[error("{0} requires signature")]
    HandshakeUnsigned(&'static str),
    #[error("{0} signature verification failed")]
    HandshakeSignatureWrong(&'static str),
    #[error("network creation is disabled")]
    NoAdmin,
    #[error("invalid admin token")]
    AdminToken,
    #[error("set_network_enterprise requires admin token")]
    EnterpriseAdmin,
    #[error("rbac: node_id required for role-based authorization")]
    RoleNode,
    #[error("rbac: node {node} has no role in network {network}")]
    RoleNone { node: u32, network: u16 },
    #[error("rbac: node {node} has role {}, requires one of [{wanted}]", quote(role))]
    RoleWrong { node: u32, role: &'static str, wanted: String },

    // ---- directory
    #[error("node {0}: node not found")]
    NodeNotFound(u32),
    #[error("node {0}: not found")]
    NodeNotFoundBinary(u32),
    #[error("node {0} not registered")]
    NodeNotRegistered(u32),
    #[error("{field} too long (max {max} bytes)")]
    FieldTooLong { field: &'static str, max: usize },
    #[error("registration requires public_key")]
    KeyMissing,
    #[error("invalid public key: {0}")]
    Key(KeyError),
    #[error("registration: signature required")]
    RegistrationUnsigned,
    #[error("registration: invalid signature encoding")]
    RegistrationEncoding,
    #[error("registration: signature verification failed")]
    RegistrationSignatureWrong,
    #[error("node {0}: unsigned registration cannot modify a signature-verified key")]
    Downgrade(u32),
    #[error(
        "owner {} is already bound to node {node} with a different key; use recover_identity to rotate the key",
        quote(owner)
    )]
    OwnerTaken { owner: String, node: u32 },
    #[error("rate limited: too many registrations from {0}")]
    TooManyRegistrations(std::net::IpAddr),
    #[error("registry full")]
    Full,
    #[error("node ID space exhausted")]
    NodeNumbersUsed,
    #[error("hostname {} already in use by node {node}", quote(hostname))]
    HostnameTaken { hostname: String, node: u32 },
    #[error("invalid hostname: {0}")]
    Hostname(NameError),
    #[error("{0}")]
    Name(NameError),
    #[error("hostname required")]
    HostnameMissing,
    #[error("hostname {} not found", quote(.0))]
    HostnameNotFound(String),
    #[error("resolve denied: requester node {0} is not registered")]
    ResolveUnknown(u32),
    #[error("resolve denied: node {0} is private (establish mutual trust first)")]
    ResolvePrivate(u32),
    #[error("punch denied: requester must be participant")]
    PunchStranger,
    #[error("listing backbone nodes is not permitted (use lookup with a specific node_id)")]
    BackboneListing,
    #[error("node {node}: key expired at {at}")]
    KeyExpired { node: u32, at: String },
    #[error("heartbeat requires ts within {0} seconds of the registry's time")]
    HeartbeatStale(u64),

    // ---- trust
    #[error("no trust pair between {0} and {1}")]
    NoTrust(u32, u32),
    #[error("too many trust pairs for node {node} (max {max})")]
    TooManyTrusted { node: u32, max: usize },
    #[error("justification too large: {len} bytes (max {max})")]
    Justification { len: usize, max: usize },
    #[error("handshake inbox full for node {0}")]
    InboxFull(u32),
    #[error("handshake request already pending from node {0}")]
    RequestPending(u32),
    #[error("no pending handshake request from node {0}")]
    NoRequest(u32),

    // ---- networks
    #[error("network {0}: network not found")]
    NetworkNotFound(u16),
    #[error("network {} already exists", quote(.0))]
    NetworkExists(String),
    #[error("network ID space exhausted (max 65535 networks)")]
    NetworkNumbersUsed,
    #[error("invalid join_rule {} (must be open, token, or invite)", quote(.0))]
    JoinRule(String),
    #[error("enterprise feature: {0} require the enterprise flag")]
    Enterprise(&'static str),
    #[error("cannot {0} the backbone network")]
    Backbone(&'static str),
    #[error("invalid token for network {0}")]
    JoinToken(u16),
    #[error("invite-only networks require invite_to_network + respond_invite flow")]
    InviteOnly,
    #[error("network membership limit reached")]
    NetworkFull,
    #[error("node {node} already in network {network}")]
    AlreadyMember { node: u32, network: u16 },
    #[error("node {node} is not a member of network {network}")]
    NotMember { node: u32, network: u16 },
    #[error("cannot leave network: owner must transfer ownership first")]
    OwnerLeaves,
    #[error("cannot {0}")]
    Owner(&'static str),
    #[error("node {node} is already {role}")]
    AlreadyRole { node: u32, role: &'static str },
    #[error("invalid join rule: invitations are for invite-only networks, network {0} is not one")]
    NotInviteOnly(u16),
    #[error("invite inbox full for node {0}: too many invitations, the node has to answer some first")]
    InvitesFull(u32),
    #[error("no pending invite for node {node} to network {network}")]
    NoInvite { node: u32, network: u16 },
    #[error("invite for node {node} to network {network} has expired")]
    InviteExpired { node: u32, network: u16 },
    #[error("{0}")]
    Policy(String),

    // ---- keys, beacons
    #[error("rotate_key requires a valid signature")]
    RotationSignature,
    #[error("rotate_key requires new_public_key")]
    RotationKeyMissing,
    #[error("invalid new_public_key: {0}")]
    RotationKey(KeyError),
    #[error("invalid new_public_key: already registered to node {0}")]
    RotationKeyTaken(u32),
    #[error("invalid expires_at: {0}")]
    Expiry(String),
    #[error("beacon_register requires beacon_id and addr")]
    BeaconIncomplete,
    #[error("too many beacons (max {0})")]
    TooManyBeacons(usize),
}

impl Refusal {
    /// The text for a client in JSON mode.
    pub fn shown(&self) -> String {
        let text = self.to_string();
        if SHOWN_WORDS.iter().any(|word| text.contains(word)) { text } else { HIDDEN.to_owned() }
    }
}

impl From<NameError> for Refusal {
    fn from(e: NameError) -> Self {
        Self::Name(e)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_clients_match_on_are_shown() {
        let shown = |r: Refusal| r.shown() == r.to_string();
        assert!(shown(Refusal::NodeNotFound(1)));
        assert!(shown(Refusal::SignatureWrong));
        assert!(shown(Refusal::SignatureMissing));
        assert!(shown(Refusal::KeyMissing));
        assert!(shown(Refusal::Downgrade(1)));
        assert!(shown(Refusal::RequestPending(1)));
        assert!(shown(Refusal::TooManyRegistrations([127, 0, 0, 1].into())));
    }

    #[test]
    fn texts_that_say_more_than_a_stranger_should_know_are_not() {
        let hidden = [
            Refusal::UnknownType("x".into()),
            Refusal::ResolvePrivate(1),
            Refusal::ResolveUnknown(1),
            Refusal::NoAdmin,
            Refusal::NoTrust(1, 2),
            Refusal::InboxFull(1),
            Refusal::NoRequest(1),
            Refusal::Justification { len: 2000, max: 1024 },
            Refusal::NodeNotRegistered(1),
            Refusal::Full,
            Refusal::BackboneListing,
        ];
        for refusal in hidden {
            assert_eq!(refusal.shown(), "request failed", "{refusal}");
        }
    }
}
