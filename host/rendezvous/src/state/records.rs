//! The registry's records: what is kept about nodes, networks, members and waiting messages, and how it is stored.
//!
//! Called by [`State`](super::State) and, for reading, by the operations. A record is written as JSON; members may be
//! added later (absent ones read as their default), so an older store stays readable.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::key::PublicKey;

/// What outlives a node: which key, and which owner, a node number belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub key: PublicKey,
    /// The key once signed its registration, so unsigned ones no longer count.
    #[serde(default)]
    pub verified: bool,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub owner: String,
    /// Who the holder of the key is elsewhere, as the admin has verified; "" is not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub external_id: String,
}

/// A live node of the directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Node {
    #[serde(default)]
    pub real_addr: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lan_addrs: Vec<String>,
    #[serde(default)]
    pub relay_only: bool,
    #[serde(default)]
    pub public: bool,
    /// "" is none. Changed only through the state, which keeps names unique.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) hostname: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    #[serde(default)]
    pub task_exec: bool,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Unix seconds. In the store it may be older than in memory: a heartbeat alone is not worth a write.
    #[serde(default)]
    pub(super) last_seen: i64,
    /// Unix seconds of the last heartbeat whose signature was checked; a restart forgets it.
    #[serde(skip)]
    pub(super) last_verified: Option<i64>,
    pub key: KeyDates,
}

impl Node {
    /// A node with a new key that is seen for the first time: private, nameless, nowhere.
    pub fn new(now: i64) -> Self {
        Self { last_seen: now, key: KeyDates { created: now, ..KeyDates::default() }, ..Self::default() }
    }

    pub fn hostname(&self) -> &str {
        &self.hostname
    }

    pub fn last_seen(&self) -> i64 {
        self.last_seen
    }

    /// Equality without the signs of life, which alone are not worth a write.
    pub fn same_but_for_life(&self, other: &Self) -> bool {
        let Self { last_seen, last_verified, .. } = self;
        *self == Self { last_seen: *last_seen, last_verified: *last_verified, ..other.clone() }
    }

    pub fn last_verified(&self) -> Option<i64> {
        self.last_verified
    }
}

/// The life of a node's key, unix seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeyDates {
    pub created: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated: Option<i64>,
    #[serde(default)]
    pub rotations: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<i64>,
}

impl KeyDates {
    /// Whole days since the present key came to be.
    pub fn age_days(&self, now: i64) -> u32 {
        let since = self.rotated.unwrap_or(self.created);
        u32::try_from(now.saturating_sub(since).max(0) / 86_400).unwrap_or(u32::MAX - 1)
    }
}

/// How one becomes a member of a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum JoinRule {
    #[default]
    Open,
    Token,
    Invite,
}

impl JoinRule {
    /// Reads the peers' word; "" is open.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "open" => Some(Self::Open),
            "token" => Some(Self::Token),
            "invite" => Some(Self::Invite),
            _ => None,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Token => "token",
            Self::Invite => "invite",
        }
    }
}

/// A network, without its members.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Network {
    /// Unique. Changed only through the state.
    pub(super) name: String,
    #[serde(default)]
    pub join_rule: JoinRule,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub token: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub admin_token: String,
    #[serde(default)]
    pub enterprise: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expr_policy: Option<Value>,
    #[serde(default)]
    pub policy: Policy,
    /// Roles that members get when they join, by external id (compared ignoring case).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub planned_roles: Vec<PlannedRole>,
    /// What a blueprint says about services outside of the registry: kept as given, for whoever runs them.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub services: Map<String, Value>,
    /// Unix seconds.
    #[serde(default)]
    pub created: i64,
}

impl Network {
    /// A network of that name with everything else at its default.
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}

/// A role for whoever turns out to be a given person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlannedRole {
    pub external_id: String,
    pub role: Role,
}

/// What an enterprise network asks of its members.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Policy {
    /// 0 is no limit.
    #[serde(default)]
    pub max_members: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_ports: Vec<u16>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// What a member may do in its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    Owner,
    Admin,
    Member,
}

impl Role {
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "owner" => Some(Self::Owner),
            "admin" => Some(Self::Admin),
            "member" => Some(Self::Member),
            _ => None,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Admin => "admin",
            Self::Member => "member",
        }
    }
}

/// One node's place in one network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    /// Members are listed, and inherit an ownerless network, in this order.
    pub order: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
}

/// Everything that waits for one node's next poll of handshakes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Inbox {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<HandshakeRequest>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub responses: Vec<HandshakeResponse>,
    /// Requesters whose relayed request may still be accepted, with its time; polling does not touch them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub awaiting: BTreeMap<u32, i64>,
}

impl Inbox {
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.responses.is_empty() && self.awaiting.is_empty()
    }
}

/// A relayed request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HandshakeRequest {
    pub from: u32,
    pub key: PublicKey,
    pub justification: String,
    pub timestamp: i64,
}

/// A relayed answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HandshakeResponse {
    pub from: u32,
    pub accept: bool,
    pub timestamp: i64,
}

/// A standing invitation into a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Invite {
    pub network: u16,
    pub inviter: u32,
    pub timestamp: i64,
}

/// Something an administrator may want to look up later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AuditEntry {
    pub action: String,
    /// Unix seconds.
    pub timestamp: i64,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub details: Map<String, Value>,
}

/// What the admin has set about the server itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Operator {
    /// Where audit entries are POSTed; "" is nowhere.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub webhook: String,
}

/// Counters that must never run backwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    /// Of the records themselves; a store of a later format is refused.
    pub format: u32,
    pub next_node: u32,
    /// One above 65535 means: all used.
    pub next_network: u32,
    pub next_member: u64,
    /// Unix seconds of the first registration ever; the age of the backbone.
    pub founded: i64,
}

/// The format this version writes.
pub(crate) const FORMAT: u32 = 1;

impl Default for Meta {
    fn default() -> Self {
        Self { format: FORMAT, next_node: 1, next_network: 1, next_member: 0, founded: 0 }
    }
}
