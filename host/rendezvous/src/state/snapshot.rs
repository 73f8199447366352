//! The whole state as one JSON document in the Go peer's form (registry.md section 8), out for standbys, in from
//! primaries and from files of a Go registry.
//!
//! What the peer's form has no place for stands in members of ours, which a peer ignores: `identities` (holders of
//! numbers, live or not), `awaiting`, `operator`, and `relay_only`, `planned_roles` and `services` in nodes and networks. So
//! one of our registries that follows another loses nothing. Times are read as unix seconds and as RFC 3339; the peer's
//! types for those in inboxes are not confirmed.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::records::{KeyDates, Meta};
use super::{
    AuditEntry, BACKBONE, Changed, HandshakeRequest, HandshakeResponse, Identity, Inbox, Invite, JoinRule,
    Member, Network, Node, Operator, PlannedRole, Policy, RecordKey, Role, State,
};
use crate::key::PublicKey;

/// What an import had to leave out is listed up to this many lines.
const MAX_NOTES: usize = 100;

/// Why a snapshot was not taken in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// Not a document of this form.
    #[error("not a registry snapshot: {0}")]
    Json(#[from] serde_json::Error),
    /// Some other JSON.
    #[error("not a registry snapshot: it is no JSON object")]
    NoObject,
    /// A form this version does not know.
    #[error("the snapshot has version {0}, this version reads 1")]
    Version(u32),
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Document {
    #[serde(default)]
    version: u32,
    #[serde(default, deserialize_with = "lenient")]
    next_node: u32,
    #[serde(default, deserialize_with = "lenient")]
    next_net: u32,
    #[serde(default, deserialize_with = "lenient")]
    nodes: BTreeMap<u32, NodeDoc>,
    #[serde(default, deserialize_with = "lenient")]
    networks: BTreeMap<u16, NetworkDoc>,
    #[serde(default, deserialize_with = "lenient")]
    trust_pairs: Vec<String>,
    #[serde(default, deserialize_with = "lenient")]
    pub_key_idx: BTreeMap<String, u32>,
    #[serde(default, deserialize_with = "lenient")]
    handshake_inbox: BTreeMap<u32, Vec<RequestDoc>>,
    #[serde(default, deserialize_with = "lenient")]
    handshake_responses: BTreeMap<u32, Vec<ResponseDoc>>,
    #[serde(default, deserialize_with = "lenient")]
    invite_inbox: BTreeMap<u32, Vec<InviteDoc>>,
    /// Ours only as far as it has our form.
    #[serde(default, deserialize_with = "lenient")]
    audit_log: Vec<Value>,
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "BTreeMap::is_empty")]
    identities: BTreeMap<u32, Identity>,
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "BTreeMap::is_empty")]
    awaiting: BTreeMap<u32, BTreeMap<u32, i64>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    operator: Option<Operator>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    founded: Option<i64>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct NodeDoc {
    #[serde(default)]
    id: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    owner: String,
    #[serde(default)]
    public_key: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    real_addr: String,
    #[serde(default, deserialize_with = "lenient")]
    networks: Vec<u16>,
    #[serde(default, skip_serializing_if = "is_false")]
    public: bool,
    #[serde(default)]
    last_seen: Time,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    hostname: String,
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
    #[serde(default, skip_serializing_if = "is_false")]
    task_exec: bool,
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Vec::is_empty")]
    lan_addrs: Vec<String>,
    #[serde(default, skip_serializing_if = "Time::is_none")]
    key_created: Time,
    #[serde(default, skip_serializing_if = "Time::is_none")]
    key_rotated: Time,
    #[serde(default, skip_serializing_if = "is_zero")]
    key_rot_count: u32,
    #[serde(default, skip_serializing_if = "Time::is_none")]
    key_expires: Time,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    external_id: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    version: String,
    #[serde(default, skip_serializing_if = "is_false")]
    relay_only: bool,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct NetworkDoc {
    #[serde(default)]
    id: u16,
    #[serde(default)]
    name: String,
    #[serde(default)]
    join_rule: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    token: String,
    #[serde(default, deserialize_with = "lenient")]
    members: Vec<u32>,
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "BTreeMap::is_empty")]
    member_roles: BTreeMap<u32, String>,
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "BTreeMap::is_empty")]
    member_tags: BTreeMap<u32, Vec<String>>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    admin_token: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    policy: Option<PolicyDoc>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rules: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expr_policy: Option<Value>,
    #[serde(default, skip_serializing_if = "is_false")]
    enterprise: bool,
    #[serde(default)]
    created: Seconds,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    planned_roles: Vec<PlannedRole>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    services: Map<String, Value>,
}

/// As [`Policy`], with the peer's `null` for no ports.
#[derive(Debug, Default, Serialize, Deserialize)]
struct PolicyDoc {
    #[serde(default)]
    max_members: u32,
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Vec::is_empty")]
    allowed_ports: Vec<u16>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    description: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct RequestDoc {
    from_node_id: u32,
    #[serde(default)]
    justification: String,
    #[serde(default)]
    timestamp: Seconds,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    public_key: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct ResponseDoc {
    from_node_id: u32,
    #[serde(default)]
    accept: bool,
    #[serde(default)]
    timestamp: Seconds,
}

#[derive(Debug, Serialize, Deserialize)]
struct InviteDoc {
    network_id: u16,
    #[serde(default)]
    inviter_id: u32,
    #[serde(default)]
    timestamp: Seconds,
}

/// Unix seconds, written as RFC 3339.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Time(Option<i64>);

impl Time {
    fn is_none(&self) -> bool {
        self.0.is_none()
    }
}

impl Serialize for Time {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.map(crate::registry::rfc3339).unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(read_time(&Value::deserialize(deserializer)?)))
    }
}

/// Unix seconds, written as a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Seconds(i64);

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(read_time(&Value::deserialize(deserializer)?).unwrap_or(0)))
    }
}

/// A time in either form; nothing for anything else, and for the zero time of Go.
fn read_time(value: &Value) -> Option<i64> {
    let seconds = match value {
        Value::String(text) => text.parse::<jiff::Timestamp>().ok()?.as_second(),
        other => other.as_i64()?,
    };
    (seconds > 0).then_some(seconds)
}

/// `null`, as Go writes an empty list or map, is empty.
fn lenient<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

// serde wants a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_false(flag: &bool) -> bool {
    !*flag
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

// ---- out
impl State {
    /// The document as JSON text.
    pub fn to_snapshot(&self) -> Vec<u8> {
        serde_json::to_vec(&self.document()).expect("records have text keys only and no fallible serializer")
    }

    fn document(&self) -> Document {
        let backbone = NetworkDoc {
            name: "backbone".to_owned(),
            join_rule: JoinRule::Open.as_str().to_owned(),
            members: self.nodes.keys().copied().collect(),
            created: Seconds(self.meta.founded),
            ..NetworkDoc::default()
        };
        let mut networks = BTreeMap::from([(BACKBONE, backbone)]);
        networks.extend(self.networks.iter().map(|(id, network)| (*id, self.network_doc(*id, network))));
        let inboxes = || self.inboxes.iter();
        Document {
            version: 1,
            next_node: self.meta.next_node,
            next_net: self.meta.next_network,
            nodes: self.nodes.iter().map(|(id, node)| (*id, self.node_doc(*id, node))).collect(),
            networks,
            trust_pairs: self.trust.iter().filter(|(a, b)| a < b).map(|(a, b)| format!("{a}:{b}")).collect(),
            pub_key_idx: self.by_key.iter().map(|(key, id)| (key.to_string(), *id)).collect(),
            handshake_inbox: inboxes()
                .filter(|(_, inbox)| !inbox.requests.is_empty())
                .map(|(id, inbox)| (*id, inbox.requests.iter().map(RequestDoc::from).collect()))
                .collect(),
            handshake_responses: inboxes()
                .filter(|(_, inbox)| !inbox.responses.is_empty())
                .map(|(id, inbox)| (*id, inbox.responses.iter().map(ResponseDoc::from).collect()))
                .collect(),
            invite_inbox: self
                .invites
                .iter()
                .map(|(id, invites)| (*id, invites.iter().map(InviteDoc::from).collect()))
                .collect(),
            audit_log: self.audit.values().filter_map(|entry| serde_json::to_value(entry).ok()).collect(),
            identities: self.identities.clone(),
            awaiting: inboxes()
                .filter(|(_, inbox)| !inbox.awaiting.is_empty())
                .map(|(id, inbox)| (*id, inbox.awaiting.clone()))
                .collect(),
            operator: Some(self.operator.clone()),
            founded: Some(self.meta.founded),
        }
    }

    fn node_doc(&self, id: u32, node: &Node) -> NodeDoc {
        let identity = self.identities.get(&id);
        NodeDoc {
            id,
            owner: identity.map(|i| i.owner.clone()).unwrap_or_default(),
            public_key: identity.map(|i| i.key.to_string()).unwrap_or_default(),
            real_addr: node.real_addr.clone(),
            networks: std::iter::once(BACKBONE).chain(self.networks_of(id)).collect(),
            public: node.public,
            last_seen: Time(Some(node.last_seen)),
            hostname: node.hostname.clone(),
            tags: node.tags.clone(),
            task_exec: node.task_exec,
            lan_addrs: node.lan_addrs.clone(),
            key_created: Time(Some(node.key.created)),
            key_rotated: Time(node.key.rotated),
            key_rot_count: node.key.rotations,
            key_expires: Time(node.key.expires),
            external_id: identity.map(|i| i.external_id.clone()).unwrap_or_default(),
            version: node.version.clone(),
            relay_only: node.relay_only,
        }
    }

    fn network_doc(&self, id: u16, network: &Network) -> NetworkDoc {
        let mut members: Vec<(u32, &Member)> = self.members_of(id).collect();
        members.sort_by_key(|(_, member)| member.order);
        NetworkDoc {
            id,
            name: network.name.clone(),
            join_rule: network.join_rule.as_str().to_owned(),
            token: network.token.clone(),
            members: members.iter().map(|(node, _)| *node).collect(),
            member_roles: members
                .iter()
                .filter_map(|(node, m)| Some((*node, m.role?.as_str().to_owned())))
                .collect(),
            member_tags: members
                .iter()
                .filter(|(_, m)| !m.tags.is_empty())
                .map(|(node, m)| (*node, m.tags.clone()))
                .collect(),
            admin_token: network.admin_token.clone(),
            policy: Some(PolicyDoc {
                max_members: network.policy.max_members,
                allowed_ports: network.policy.allowed_ports.clone(),
                description: network.policy.description.clone(),
            }),
            rules: network.rules.clone(),
            expr_policy: network.expr_policy.clone(),
            enterprise: network.enterprise,
            created: Seconds(network.created),
            planned_roles: network.planned_roles.clone(),
            services: network.services.clone(),
        }
    }
}

impl From<&HandshakeRequest> for RequestDoc {
    fn from(r: &HandshakeRequest) -> Self {
        Self {
            from_node_id: r.from,
            justification: r.justification.clone(),
            timestamp: Seconds(r.timestamp),
            public_key: r.key.to_string(),
        }
    }
}

impl From<&HandshakeResponse> for ResponseDoc {
    fn from(r: &HandshakeResponse) -> Self {
        Self { from_node_id: r.from, accept: r.accept, timestamp: Seconds(r.timestamp) }
    }
}

impl From<&Invite> for InviteDoc {
    fn from(i: &Invite) -> Self {
        Self { network_id: i.network, inviter_id: i.inviter, timestamp: Seconds(i.timestamp) }
    }
}

// ---- in
/// What could not be taken over.
#[derive(Debug, Default)]
struct Notes(Vec<String>);

impl Notes {
    fn add(&mut self, note: String) {
        if self.0.len() < MAX_NOTES {
            self.0.push(note);
        }
    }
}

impl State {
    /// Reads the document. What contradicts something read before is left out and named in the second result (the first
    /// hundred of them).
    pub fn from_snapshot(json: &[u8]) -> Result<(Self, Vec<String>), SnapshotError> {
        // A list would be read as an object's members in their order, so an empty one as an empty registry.
        if json.trim_ascii_start().first() != Some(&b'{') {
            return Err(SnapshotError::NoObject);
        }
        let document: Document = serde_json::from_slice(json)?;
        // Version 0 is what a file without the member has.
        if document.version > 1 {
            return Err(SnapshotError::Version(document.version));
        }
        let mut state = Self::default();
        let mut notes = Notes::default();
        state.meta.founded = document.founded.unwrap_or(0);
        for (id, identity) in document.identities {
            state.take_identity(id, identity, &mut notes);
        }
        for (text, id) in document.pub_key_idx {
            state.take_key(id, &text, "", "", &mut notes);
        }
        for (id, node) in document.nodes {
            state.take_node(id, node, &mut notes);
        }
        for (id, network) in document.networks {
            state.take_network(id, network, &mut notes);
        }
        for pair in &document.trust_pairs {
            match pair
                .split_once(':')
                .and_then(|(a, b)| Some((a.parse::<u32>().ok()?, b.parse::<u32>().ok()?)))
            {
                Some((a, b)) if a != b => state.trust.extend([(a, b), (b, a)]),
                _ => notes.add(format!("trust pair {pair:?}: not two node numbers")),
            }
        }
        state.take_inboxes(document.handshake_inbox, document.handshake_responses, &document.awaiting);
        for (node, invites) in document.invite_inbox {
            let known = invites.into_iter().filter(|i| state.networks.contains_key(&i.network_id));
            let known: Vec<Invite> = known
                .map(|i| Invite { network: i.network_id, inviter: i.inviter_id, timestamp: i.timestamp.0 })
                .collect();
            if !known.is_empty() {
                state.invites.insert(node, known);
            }
        }
        let entries = document.audit_log.into_iter().filter_map(audit_entry);
        state.audit = (1..).zip(entries).collect();
        state.operator = document.operator.unwrap_or_default();
        state.meta = Meta {
            next_node: document
                .next_node
                .max(state.identities.keys().next_back().map_or(1, |id| id.saturating_add(1))),
            next_network: document
                .next_net
                .max(state.networks.keys().next_back().map_or(1, |id| u32::from(*id) + 1)),
            next_member: state.members.values().map(|m| m.order + 1).max().unwrap_or(0),
            ..state.meta
        };
        Ok((state, notes.0))
    }

    fn take_identity(&mut self, id: u32, identity: Identity, notes: &mut Notes) {
        if id == 0 || self.by_key.contains_key(&identity.key) {
            notes.add(format!("node {id}: its number or key belongs to another node"));
            return;
        }
        if !identity.owner.is_empty() {
            self.by_owner.entry(identity.owner.clone()).or_insert(id);
        }
        self.by_key.insert(identity.key, id);
        self.identities.insert(id, identity);
    }

    /// Takes a number's key; true when the number has this key afterwards.
    fn take_key(&mut self, id: u32, text: &str, owner: &str, external_id: &str, notes: &mut Notes) -> bool {
        let key = match PublicKey::parse(text) {
            Ok(key) => key,
            Err(e) => {
                notes.add(format!("node {id}: {e}"));
                return false;
            }
        };
        if self.by_key.get(&key) == Some(&id) {
            let Some(identity) = self.identities.get_mut(&id) else { return false };
            if identity.owner.is_empty() && !owner.is_empty() && !self.by_owner.contains_key(owner) {
                identity.owner = owner.to_owned();
                self.by_owner.insert(owner.to_owned(), id);
            }
            if identity.external_id.is_empty() {
                identity.external_id = external_id.to_owned();
            }
            return true;
        }
        if self.identities.contains_key(&id) {
            notes.add(format!("node {id}: it has two keys; the one of the key index counts"));
            return true;
        }
        let owner = if self.by_owner.contains_key(owner) { "" } else { owner };
        let (owner, external_id) = (owner.to_owned(), external_id.to_owned());
        // A Go registry does not say which keys have signed.
        self.take_identity(id, Identity { key, verified: false, owner, external_id }, notes);
        self.by_key.get(&key) == Some(&id)
    }

    fn take_node(&mut self, id: u32, doc: NodeDoc, notes: &mut Notes) {
        if !self.take_key(id, &doc.public_key, &doc.owner, &doc.external_id, notes) {
            return;
        }
        let mut hostname = doc.hostname;
        if !hostname.is_empty() && self.by_hostname.contains_key(&hostname) {
            notes.add(format!("node {id}: the hostname {hostname:?} belongs to another node"));
            hostname.clear();
        }
        if !hostname.is_empty() {
            self.by_hostname.insert(hostname.clone(), id);
        }
        let last_seen = doc.last_seen.0.unwrap_or(0);
        let key = KeyDates {
            created: doc.key_created.0.unwrap_or(last_seen),
            rotated: doc.key_rotated.0,
            rotations: doc.key_rot_count,
            expires: doc.key_expires.0,
        };
        let node = Node {
            real_addr: doc.real_addr,
            lan_addrs: doc.lan_addrs,
            relay_only: doc.relay_only,
            public: doc.public,
            hostname,
            tags: doc.tags,
            task_exec: doc.task_exec,
            version: doc.version,
            last_seen,
            last_verified: None,
            key,
        };
        self.nodes.insert(id, node);
    }

    fn take_network(&mut self, id: u16, doc: NetworkDoc, notes: &mut Notes) {
        if id == BACKBONE {
            if self.meta.founded == 0 {
                self.meta.founded = doc.created.0;
            }
            return;
        }
        let Some(join_rule) = JoinRule::parse(&doc.join_rule) else {
            notes.add(format!("network {id}: unknown join rule {:?}", doc.join_rule));
            return;
        };
        if doc.name.is_empty() || self.by_name.contains_key(&doc.name) {
            notes.add(format!("network {id}: the name {:?} is empty or taken", doc.name));
            return;
        }
        let policy = doc.policy.unwrap_or_default();
        let network = Network {
            name: doc.name.clone(),
            join_rule,
            token: doc.token,
            admin_token: doc.admin_token,
            enterprise: doc.enterprise,
            rules: doc.rules.filter(|v| !v.is_null()),
            expr_policy: doc.expr_policy.filter(|v| !v.is_null()),
            policy: Policy {
                max_members: policy.max_members,
                allowed_ports: policy.allowed_ports,
                description: policy.description,
            },
            planned_roles: doc.planned_roles,
            services: doc.services,
            created: doc.created.0,
        };
        self.by_name.insert(doc.name, id);
        self.networks.insert(id, network);
        for (order, node) in (0..).zip(doc.members) {
            let member = Member {
                order,
                role: doc.member_roles.get(&node).and_then(|role| Role::parse(role)),
                tags: doc.member_tags.get(&node).cloned().unwrap_or_default(),
            };
            if self.members.insert((id, node), member).is_none() {
                self.memberships.insert((node, id));
            }
        }
    }

    fn take_inboxes(
        &mut self,
        requests: BTreeMap<u32, Vec<RequestDoc>>,
        responses: BTreeMap<u32, Vec<ResponseDoc>>,
        awaiting: &BTreeMap<u32, BTreeMap<u32, i64>>,
    ) {
        for (node, requests) in requests {
            for doc in requests {
                // Without the sender's key a request is worth nothing to its reader.
                let Some(key) = self.identities.get(&doc.from_node_id).map(|i| i.key) else { continue };
                let (from, timestamp) = (doc.from_node_id, doc.timestamp.0);
                let inbox = self.inboxes.entry(node).or_default();
                inbox.awaiting.insert(from, timestamp);
                inbox.requests.push(HandshakeRequest {
                    from,
                    key,
                    justification: doc.justification,
                    timestamp,
                });
            }
        }
        for (node, responses) in responses {
            let inbox: &mut Inbox = self.inboxes.entry(node).or_default();
            inbox.responses.extend(responses.into_iter().map(|r| HandshakeResponse {
                from: r.from_node_id,
                accept: r.accept,
                timestamp: r.timestamp.0,
            }));
        }
        for (node, from) in awaiting {
            self.inboxes.entry(*node).or_default().awaiting.extend(from);
        }
        self.inboxes.retain(|_, inbox| !inbox.is_empty());
    }

    /// Becomes `new`; what differs (apart from the times last seen) counts as changed.
    pub fn replace(&mut self, new: Self) {
        let mut changed = std::mem::take(&mut self.changed);
        let c = &mut changed;
        differing(&self.identities, &new.identities, PartialEq::eq, |id| RecordKey::Identity(*id), c);
        differing(&self.nodes, &new.nodes, Node::same_but_for_life, |id| RecordKey::Node(*id), c);
        differing(&self.networks, &new.networks, PartialEq::eq, |id| RecordKey::Network(*id), c);
        differing(&self.members, &new.members, PartialEq::eq, |(w, n)| RecordKey::Member(*w, *n), c);
        differing(&self.inboxes, &new.inboxes, PartialEq::eq, |id| RecordKey::Inbox(*id), c);
        differing(&self.invites, &new.invites, PartialEq::eq, |id| RecordKey::Invites(*id), c);
        differing(&self.audit, &new.audit, PartialEq::eq, |number| RecordKey::Audit(*number), c);
        let pairs = self.trust.symmetric_difference(&new.trust).filter(|(a, b)| a < b);
        c.extend(pairs.map(|(a, b)| RecordKey::Trust(*a, *b)));
        if self.meta != new.meta {
            c.insert(RecordKey::Meta);
        }
        if self.operator != new.operator {
            c.insert(RecordKey::Operator);
        }
        *self = Self { changed, ..new };
    }
}

/// Adds the keys under which two tables differ.
fn differing<K: Ord, V>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    same: impl Fn(&V, &V) -> bool,
    key: impl Fn(&K) -> RecordKey,
    out: &mut Changed,
) {
    out.extend(old.keys().filter(|k| !new.contains_key(k)).map(&key));
    out.extend(new.iter().filter(|(k, v)| !old.get(k).is_some_and(|o| same(o, v))).map(|(k, _)| key(k)));
}

/// An entry in our form, or a peer's with whatever it has besides action and time as details.
fn audit_entry(value: Value) -> Option<AuditEntry> {
    let Value::Object(mut members) = value else { return None };
    let timestamp = members.remove("timestamp").as_ref().and_then(read_time)?;
    let Some(Value::String(action)) = members.remove("action") else { return None };
    let details = match members.remove("details") {
        Some(Value::Object(details)) => details,
        Some(other) => {
            members.insert("details".to_owned(), other);
            members
        }
        None => members,
    };
    Some(AuditEntry { action, timestamp, details })
}
