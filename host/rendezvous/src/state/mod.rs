//! The registry's memory: records, the indexes over them, and the list of records that changed.
//!
//! Only this module changes a record, and every way to do so notes the record as changed; so an operation cannot answer
//! with something that a store never hears of. Called by the operations in [`registry`](crate::registry). Checks no
//! signatures and no rules; it only keeps its own tables consistent:
//!
//! | table | key | index kept with it |
//! |---|---|---|
//! | identities | node | by key, by owner |
//! | nodes | node | by hostname |
//! | networks | network | by name |
//! | members | network, node | networks of a node |
//! | trust | pair | both directions |
//! | inboxes, invites | node | |
//! | audit | running number | |

mod change;
mod records;
mod restore;
mod snapshot;

use std::collections::{BTreeMap, BTreeSet};

use crate::key::PublicKey;

pub use change::{Change, KeyBytes, RecordKey};
pub(crate) use records::{
    AuditEntry, HandshakeRequest, HandshakeResponse, Identity, Inbox, Invite, JoinRule, Member, Network,
    Node, Operator, PlannedRole, Policy, Role,
};
use records::{FORMAT, Meta};
pub use restore::RestoreError;
pub use snapshot::SnapshotError;

/// The network every live node belongs to; it has no member records.
pub(crate) const BACKBONE: u16 = pilot_wire::addr::BACKBONE;

/// All records of one registry.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(PartialEq))]
pub(crate) struct State {
    meta: Meta,
    identities: BTreeMap<u32, Identity>,
    by_key: BTreeMap<PublicKey, u32>,
    by_owner: BTreeMap<String, u32>,
    nodes: BTreeMap<u32, Node>,
    by_hostname: BTreeMap<String, u32>,
    networks: BTreeMap<u16, Network>,
    by_name: BTreeMap<String, u16>,
    members: BTreeMap<(u16, u32), Member>,
    memberships: BTreeSet<(u32, u16)>,
    trust: BTreeSet<(u32, u32)>,
    inboxes: BTreeMap<u32, Inbox>,
    invites: BTreeMap<u32, Vec<Invite>>,
    audit: BTreeMap<u64, AuditEntry>,
    operator: Operator,
    changed: Changed,
}

/// The records that no store has heard of in their present form.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(PartialEq))]
struct Changed {
    records: BTreeSet<RecordKey>,
    /// One of them since [`State::begin`].
    now: bool,
}

impl Changed {
    fn insert(&mut self, key: RecordKey) {
        self.records.insert(key);
        self.now = true;
    }

    fn extend(&mut self, keys: impl IntoIterator<Item = RecordKey>) {
        keys.into_iter().for_each(|key| self.insert(key));
    }
}

// ---- identities and nodes
impl State {
    pub fn identity(&self, node: u32) -> Option<&Identity> {
        self.identities.get(&node)
    }

    pub fn node_of_key(&self, key: &PublicKey) -> Option<u32> {
        self.by_key.get(key).copied()
    }

    pub fn node_of_owner(&self, owner: &str) -> Option<u32> {
        self.by_owner.get(owner).copied()
    }

    /// Takes the next node number; `None` when there are no more.
    pub fn next_node(&mut self, now: i64) -> Option<u32> {
        // The last number is the broadcast address.
        let id = self.meta.next_node;
        if id == pilot_wire::addr::BROADCAST_NODE {
            return None;
        }
        self.meta.next_node = id + 1;
        if self.meta.founded == 0 {
            self.meta.founded = now;
        }
        self.changed.insert(RecordKey::Meta);
        Some(id)
    }

    /// When the first node came, unix seconds; 0 before.
    pub fn founded(&self) -> i64 {
        self.meta.founded
    }

    /// Binds a node number to a key; a former key of that number no longer leads anywhere.
    pub fn set_key(&mut self, node: u32, key: PublicKey, verified: bool) {
        let (owner, external_id) = match self.identities.remove(&node) {
            Some(old) => {
                self.by_key.remove(&old.key);
                (old.owner, old.external_id)
            }
            None => (String::new(), String::new()),
        };
        self.by_key.insert(key, node);
        self.identities.insert(node, Identity { key, verified, owner, external_id });
        self.changed.insert(RecordKey::Identity(node));
    }

    /// Notes who the holder of a number is elsewhere.
    pub fn set_external_id(&mut self, node: u32, external_id: &str) {
        if let Some(identity) = self.identities.get_mut(&node) {
            identity.external_id = external_id.to_owned();
            self.changed.insert(RecordKey::Identity(node));
        }
    }

    /// Notes that the node's key has signed a registration.
    pub fn set_verified(&mut self, node: u32) {
        if let Some(identity) = self.identities.get_mut(&node).filter(|i| !i.verified) {
            identity.verified = true;
            self.changed.insert(RecordKey::Identity(node));
        }
    }

    /// Gives an owner to a node that has none, unless the owner has another node.
    pub fn set_owner(&mut self, node: u32, owner: &str) {
        let Some(identity) = self.identities.get_mut(&node) else { return };
        if owner.is_empty() || !identity.owner.is_empty() || self.by_owner.contains_key(owner) {
            return;
        }
        identity.owner = owner.to_owned();
        self.by_owner.insert(owner.to_owned(), node);
        self.changed.insert(RecordKey::Identity(node));
    }

    pub fn node(&self, node: u32) -> Option<&Node> {
        self.nodes.get(&node)
    }

    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    pub fn nodes(&self) -> impl Iterator<Item = (u32, &Node)> {
        self.nodes.iter().map(|(id, node)| (*id, node))
    }

    /// For changing anything but the hostname and the time last seen.
    pub fn node_mut(&mut self, node: u32) -> Option<&mut Node> {
        let found = self.nodes.get_mut(&node);
        if found.is_some() {
            self.changed.insert(RecordKey::Node(node));
        }
        found
    }

    /// Puts a new node into the directory.
    pub fn insert_node(&mut self, id: u32, node: Node) {
        self.nodes.insert(id, node);
        self.changed.insert(RecordKey::Node(id));
    }

    /// Takes a node out of the directory and frees its hostname. Everything else about its number stays.
    pub fn remove_node(&mut self, node: u32) {
        if let Some(old) = self.nodes.remove(&node) {
            self.by_hostname.remove(&old.hostname);
            self.changed.insert(RecordKey::Node(node));
        }
    }

    pub fn node_of_hostname(&self, hostname: &str) -> Option<u32> {
        self.by_hostname.get(hostname).copied()
    }

    /// Names a live node; "" takes the name away. The caller has made sure that no other node has it.
    pub fn set_hostname(&mut self, node: u32, hostname: &str) {
        let Some(record) = self.nodes.get_mut(&node) else { return };
        if record.hostname == hostname {
            return;
        }
        self.by_hostname.remove(&record.hostname);
        record.hostname = hostname.to_owned();
        if !hostname.is_empty() {
            self.by_hostname.insert(hostname.to_owned(), node);
        }
        self.changed.insert(RecordKey::Node(node));
    }

    /// Notes a sign of life, and whether a signature was checked with it. Not a change worth storing by itself.
    pub fn seen(&mut self, node: u32, now: i64, verified: bool) {
        if let Some(record) = self.nodes.get_mut(&node) {
            record.last_seen = now;
            if verified {
                record.last_verified = Some(now);
            }
        }
    }

    /// Lists every node as changed, so that a last commit brings the times last seen into the store.
    pub fn touch_all_nodes(&mut self) {
        self.changed.extend(self.nodes.keys().map(|id| RecordKey::Node(*id)));
    }
}

#[cfg(test)]
impl State {
    /// What a restart makes of it, which forgets when a signature was last checked.
    pub fn after_restart(mut self) -> Self {
        self.nodes.values_mut().for_each(|node| node.last_verified = None);
        self.begin();
        self
    }
}

// ---- the server itself
impl State {
    /// Begins a request.
    pub fn begin(&mut self) {
        self.changed.now = false;
    }

    /// Whether the request at hand has changed anything.
    pub fn has_changed(&self) -> bool {
        self.changed.now
    }

    /// How many node numbers have a holder, live or not.
    pub fn identity_count(&self) -> usize {
        self.identities.len()
    }

    pub fn network_count(&self) -> usize {
        self.networks.len()
    }

    pub fn trust_pair_count(&self) -> usize {
        // Both directions are kept.
        self.trust.len() / 2
    }

    /// Adds to the audit log; its oldest entry gives way when there are `max` already.
    pub fn log(&mut self, entry: AuditEntry, max: usize) {
        let number = self.audit.last_key_value().map_or(1, |(last, _)| last + 1);
        self.audit.insert(number, entry);
        self.changed.insert(RecordKey::Audit(number));
        while self.audit.len() > max.max(1)
            && let Some((oldest, _)) = self.audit.pop_first()
        {
            self.changed.insert(RecordKey::Audit(oldest));
        }
    }

    /// The audit log, newest first, with the entries' numbers.
    pub fn audit_log(&self) -> impl Iterator<Item = (u64, &AuditEntry)> {
        self.audit.iter().rev().map(|(number, entry)| (*number, entry))
    }

    pub fn operator(&self) -> &Operator {
        &self.operator
    }

    pub fn operator_mut(&mut self) -> &mut Operator {
        self.changed.insert(RecordKey::Operator);
        &mut self.operator
    }
}

// ---- networks and members
impl State {
    pub fn network(&self, network: u16) -> Option<&Network> {
        self.networks.get(&network)
    }

    pub fn networks(&self) -> impl Iterator<Item = (u16, &Network)> {
        self.networks.iter().map(|(id, network)| (*id, network))
    }

    /// For changing anything but the name.
    pub fn network_mut(&mut self, network: u16) -> Option<&mut Network> {
        let found = self.networks.get_mut(&network);
        if found.is_some() {
            self.changed.insert(RecordKey::Network(network));
        }
        found
    }

    pub fn network_named(&self, name: &str) -> Option<u16> {
        self.by_name.get(name).copied()
    }

    /// Adds a network under the next number; `None` when there are no more. The caller has made sure the name is free.
    pub fn insert_network(&mut self, network: Network) -> Option<u16> {
        let id = u16::try_from(self.meta.next_network).ok()?;
        self.meta.next_network += 1;
        self.by_name.insert(network.name.clone(), id);
        self.networks.insert(id, network);
        self.changed.extend([RecordKey::Meta, RecordKey::Network(id)]);
        Some(id)
    }

    /// Renames a network. The caller has made sure the name is free.
    pub fn rename_network(&mut self, network: u16, name: &str) {
        let Some(record) = self.networks.get_mut(&network) else { return };
        self.by_name.remove(&record.name);
        record.name = name.to_owned();
        self.by_name.insert(name.to_owned(), network);
        self.changed.insert(RecordKey::Network(network));
    }

    /// Removes a network with its members and all invitations into it.
    pub fn remove_network(&mut self, network: u16) {
        let Some(old) = self.networks.remove(&network) else { return };
        self.by_name.remove(&old.name);
        self.changed.insert(RecordKey::Network(network));
        let members: Vec<u32> = self.members_of(network).map(|(node, _)| node).collect();
        for node in members {
            self.remove_member(network, node);
        }
        self.retain_invites(|_, invite| invite.network != network);
    }

    pub fn member(&self, network: u16, node: u32) -> Option<&Member> {
        self.members.get(&(network, node))
    }

    pub fn member_mut(&mut self, network: u16, node: u32) -> Option<&mut Member> {
        let found = self.members.get_mut(&(network, node));
        if found.is_some() {
            self.changed.insert(RecordKey::Member(network, node));
        }
        found
    }

    /// A network's members in the order of their numbers. Empty for the backbone, which lists no one.
    pub fn members_of(&self, network: u16) -> impl Iterator<Item = (u32, &Member)> {
        self.members.range((network, 0)..=(network, u32::MAX)).map(|((_, node), member)| (*node, member))
    }

    pub fn member_count(&self, network: u16) -> usize {
        if network == BACKBONE { self.nodes.len() } else { self.members_of(network).count() }
    }

    /// Adds a member behind all others.
    pub fn insert_member(&mut self, network: u16, node: u32, role: Role) {
        let order = self.meta.next_member;
        self.meta.next_member += 1;
        self.members.insert((network, node), Member { order, role: Some(role), tags: Vec::new() });
        self.memberships.insert((node, network));
        self.changed.extend([RecordKey::Meta, RecordKey::Member(network, node)]);
    }

    pub fn remove_member(&mut self, network: u16, node: u32) {
        if self.members.remove(&(network, node)).is_some() {
            self.memberships.remove(&(node, network));
            self.changed.insert(RecordKey::Member(network, node));
        }
    }

    /// The networks a node number belongs to besides the backbone, ascending.
    pub fn networks_of(&self, node: u32) -> impl Iterator<Item = u16> {
        self.memberships.range((node, 0)..=(node, u16::MAX)).map(|(_, network)| *network)
    }

    /// Whether two node numbers are both members of some network other than the backbone.
    pub fn share_network(&self, a: u32, b: u32) -> bool {
        self.networks_of(a).any(|network| self.memberships.contains(&(b, network)))
    }
}

// ---- trust, inboxes, invitations
impl State {
    pub fn trusts(&self, a: u32, b: u32) -> bool {
        self.trust.contains(&(a, b))
    }

    pub fn trust_count(&self, node: u32) -> usize {
        self.trusted_by(node).count()
    }

    /// The nodes that form a trust pair with this one.
    pub fn trusted_by(&self, node: u32) -> impl Iterator<Item = u32> {
        self.trust.range((node, 0)..=(node, u32::MAX)).map(|(_, peer)| *peer)
    }

    pub fn insert_trust(&mut self, a: u32, b: u32) {
        if self.trust.insert((a, b)) {
            self.trust.insert((b, a));
            self.changed.insert(RecordKey::Trust(a.min(b), a.max(b)));
        }
    }

    /// Removes a pair; false when there was none.
    pub fn remove_trust(&mut self, a: u32, b: u32) -> bool {
        let known = self.trust.remove(&(a, b));
        if known {
            self.trust.remove(&(b, a));
            self.changed.insert(RecordKey::Trust(a.min(b), a.max(b)));
        }
        known
    }

    pub fn inbox(&self, node: u32) -> Option<&Inbox> {
        self.inboxes.get(&node)
    }

    /// Changes a node's inbox, which exists afterwards only if there is something in it.
    pub fn edit_inbox<R>(&mut self, node: u32, edit: impl FnOnce(&mut Inbox) -> R) -> R {
        let inbox = self.inboxes.entry(node).or_default();
        let result = edit(inbox);
        if inbox.is_empty() {
            self.inboxes.remove(&node);
        }
        self.changed.insert(RecordKey::Inbox(node));
        result
    }

    pub fn invites(&self, node: u32) -> &[Invite] {
        self.invites.get(&node).map_or(&[], Vec::as_slice)
    }

    pub fn insert_invite(&mut self, node: u32, invite: Invite) {
        self.invites.entry(node).or_default().push(invite);
        self.changed.insert(RecordKey::Invites(node));
    }

    /// Keeps the invitations of one node that `keep` approves of.
    pub fn retain_invites_of(&mut self, node: u32, keep: impl FnMut(&Invite) -> bool) {
        let Some(list) = self.invites.get_mut(&node) else { return };
        let before = list.len();
        list.retain(keep);
        if list.len() != before {
            self.changed.insert(RecordKey::Invites(node));
        }
        if list.is_empty() {
            self.invites.remove(&node);
        }
    }

    /// Keeps the invitations that `keep` (invited node, invitation) approves of.
    pub fn retain_invites(&mut self, keep: impl Fn(u32, &Invite) -> bool) {
        let nodes: Vec<u32> = self.invites.keys().copied().collect();
        for node in nodes {
            self.retain_invites_of(node, |invite| keep(node, invite));
        }
    }

    /// Forgets what a number's former holder was to others: trust, waiting messages, memberships, invitations, and who
    /// it was.
    pub fn forget_relations(&mut self, node: u32) {
        self.set_external_id(node, "");
        let peers: Vec<u32> = self.trusted_by(node).collect();
        for peer in peers {
            self.remove_trust(node, peer);
        }
        if self.inboxes.remove(&node).is_some() {
            self.changed.insert(RecordKey::Inbox(node));
        }
        self.forget_memberships(node);
    }

    /// Removes a node number from all networks, and its invitations in both directions.
    pub fn forget_memberships(&mut self, node: u32) {
        let networks: Vec<u16> = self.networks_of(node).collect();
        for network in networks {
            self.remove_member(network, node);
        }
        self.retain_invites(|invited, invite| invited != node && invite.inviter != node);
    }
}
