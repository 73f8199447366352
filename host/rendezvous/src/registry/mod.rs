//! The registry: requests in, answers and the changed records out.
//!
//! Called by the TCP driver, one request after the other. It opens nothing, reads no clock and no randomness. The operations
//! stand in the files next door, one subject each; all of them check first and change last, so a refused request leaves
//! everything as it was (an expired invitation that goes away is the one exception). Fact sheet: registry.md.
//!
//! | file | operations |
//! |---|---|
//! | `register` | register |
//! | `directory` | lookup, resolve, resolve_hostname, list_nodes, punch |
//! | `profile` | heartbeat, deregister, set_visibility, set_hostname, set_tags, set_task_exec |
//! | `trust` | report_trust, revoke_trust, check_trust, request_handshake, poll_handshakes, respond_handshake |
//! | `networks` | create, join, leave, delete, rename, list, set_network_enterprise |
//! | `members` | roles, member tags |
//! | `invites` | invite_to_network, poll_invites, respond_invite |
//! | `policy` | set/get_network_policy, set/get_expr_policy |
//! | `provision` | provision_network, set_external_id, get_identity |
//! | `keys` | rotate_key, set_key_expiry, get_key_info |
//! | `beacons` | beacon_register, beacon_list |
//! | `audit` | get_audit_log, set/get_webhook, get_webhook_dlq |
//! | `standby` | subscribe_replication; what a standby refuses |
//! | `stats` | none; figures for operators |
//! | `query` | none: reading requests, writing answers |
//! | `frames` | the binary mode |
//! | `proof` | none: signatures that were checked elsewhere |
//!
//! Not here: identity webhook and providers, audit export, directory synchronisation, badges and recovery; their requests
//! get the answer of an unknown type.

mod audit;
mod auth;
mod beacons;
mod directory;
mod frames;
mod invites;
mod keys;
mod members;
mod networks;
mod policy;
mod profile;
mod proof;
mod provision;
mod query;
mod register;
mod standby;
mod stats;
#[cfg(test)]
mod tests;
mod trust;

use std::collections::VecDeque;
use std::net::SocketAddr;

use serde_json::{Map, Value};

use crate::message::{Answer, Request};
use crate::names::clip;
use crate::refusal::Refusal;
use crate::settings::Settings;
use crate::state::{Change, Node, RecordKey, RestoreError, State};

pub use proof::{Claim, Proof, ProofMemory};
pub use query::{AnswerTooLarge, Query, Reply};
pub use standby::Snapshot;
pub use stats::Stats;

/// The directory of nodes, networks and trust.
#[derive(Debug)]
pub struct Registry {
    settings: Settings,
    state: State,
    beacons: beacons::Beacons,
    quota: register::Quota,
    /// Unix seconds before which no node can have sent a heartbeat to this process.
    started: i64,
    /// Nodes that got something into their inbox by the request at hand.
    notify: Vec<u32>,
    /// What is known about the signature of the request at hand.
    proof: Option<Proof>,
    counters: stats::Counters,
    generation: u64,
    dead_letters: VecDeque<Map<String, Value>>,
}

/// One request with its circumstances.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    /// Unix seconds.
    now: i64,
    source: SocketAddr,
    request: Request<'a>,
}

type Outcome = Result<Answer, Refusal>;

impl Registry {
    /// An empty registry.
    pub fn new(settings: Settings) -> Self {
        Self::over(State::default(), settings, 0)
    }

    /// A registry from stored records, in any order. Nodes get a full time of grace from `now` (unix seconds), so that a
    /// registry that was down for long does not throw them out before they can send a heartbeat.
    ///
    /// # Errors
    /// [`RestoreError`]: the records make no sense.
    pub fn restore(
        settings: Settings,
        records: impl IntoIterator<Item = (RecordKey, Vec<u8>)>,
        now: i64,
    ) -> Result<Self, RestoreError> {
        Ok(Self::over(State::restore(records)?, settings, now))
    }

    fn over(state: State, settings: Settings, started: i64) -> Self {
        Self {
            settings,
            state,
            beacons: beacons::Beacons::default(),
            quota: register::Quota::default(),
            started,
            notify: Vec::new(),
            proof: None,
            counters: stats::Counters::default(),
            generation: 0,
            dead_letters: VecDeque::new(),
        }
    }

    /// What the requests since the last call have changed, to be committed before the answers to those go out; of several
    /// changes to one record the last one.
    pub fn take_changes(&mut self) -> Vec<Change> {
        let changes = self.state.take_changes();
        self.generation += u64::from(!changes.is_empty());
        changes
    }

    /// Removes nodes that have been silent for too long; to be called about every 10 s. Returns what to commit.
    pub fn sweep(&mut self, now: i64) -> Vec<Change> {
        if self.settings.standby {
            // The primary decides who is gone; when it is, nobody should be.
            return Vec::new();
        }
        let limit = i64::try_from(self.settings.reap_after.as_secs()).unwrap_or(i64::MAX);
        let silent = |node: &Node| now.saturating_sub(node.last_seen().max(self.started)) > limit;
        let dead: Vec<u32> = self
            .state
            .nodes()
            .filter(|(_, node)| silent(node))
            .map(|(id, _)| id)
            .take(self.settings.reap_batch)
            .collect();
        for id in dead {
            self.state.remove_node(id);
        }
        self.beacons.expire(now);
        self.take_changes()
    }

    /// What to commit before an orderly end: the times the nodes were last seen.
    pub fn final_changes(&mut self) -> Vec<Change> {
        self.state.touch_all_nodes();
        self.state.take_changes()
    }

    /// The number of live nodes.
    pub fn node_count(&self) -> usize {
        self.state.node_count()
    }

    /// The key of a live node, for a beacon in the same process that checks punch grants.
    pub fn key_of(&self, node: u32) -> Option<[u8; 32]> {
        self.state.node(node)?;
        self.state.identity(node).map(|i| *i.key.as_bytes())
    }

    fn dispatch(&mut self, call: &Call<'_>) -> Outcome {
        match call.request.kind() {
            "register" => self.register(call),
            "lookup" => self.lookup(call),
            "resolve" => self.resolve(call),
            "resolve_hostname" => self.resolve_hostname(call),
            "list_nodes" => self.list_nodes(call),
            "punch" => self.punch(call),
            "heartbeat" => self.heartbeat(call),
            "deregister" => self.deregister(call),
            "set_visibility" => self.set_visibility(call),
            "set_hostname" => self.set_hostname(call),
            "set_tags" => self.set_tags(call),
            "set_task_exec" => self.set_task_exec(call),
            "report_trust" => self.report_trust(call),
            "revoke_trust" => self.revoke_trust(call),
            "check_trust" => Ok(self.check_trust(call)),
            "request_handshake" => self.request_handshake(call),
            "poll_handshakes" => self.poll_handshakes(call),
            "respond_handshake" => self.respond_handshake(call),
            "create_network" => self.create_network(call),
            "join_network" => self.join_network(call),
            "leave_network" => self.leave_network(call),
            "delete_network" => self.delete_network(call),
            "rename_network" => self.rename_network(call),
            "set_network_enterprise" => self.set_network_enterprise(call),
            "list_networks" => Ok(self.list_networks(call)),
            "invite_to_network" => self.invite_to_network(call),
            "poll_invites" => self.poll_invites(call),
            "respond_invite" => self.respond_invite(call),
            "kick_member" => self.kick_member(call),
            "promote_member" => self.promote_member(call),
            "demote_member" => self.demote_member(call),
            "transfer_ownership" => self.transfer_ownership(call),
            "get_member_role" => self.member_role(call),
            "set_member_tags" => self.set_member_tags(call),
            "get_member_tags" => self.member_tags(call),
            "set_network_policy" => self.set_network_policy(call),
            "get_network_policy" => self.network_policy(call),
            "set_expr_policy" => self.set_expr_policy(call),
            "get_expr_policy" => self.expr_policy(call),
            "provision_network" => self.provision_network(call),
            "set_external_id" => self.set_external_id(call),
            "get_identity" => self.identity(call),
            "rotate_key" => self.rotate_key(call),
            "set_key_expiry" => self.set_key_expiry(call),
            "get_key_info" => self.key_info(call),
            "beacon_register" => self.beacon_register(call),
            "beacon_list" => Ok(self.beacons.list(call.now)),
            "get_audit_log" => self.audit_log(call),
            "set_webhook" => self.set_webhook(call),
            "get_webhook" => self.webhook(call),
            "get_webhook_dlq" => self.dead_letters(call),
            "subscribe_replication" => Err(self.check_subscription(call)),
            unknown => Err(Refusal::UnknownType(clip(unknown))),
        }
    }

    fn live(&self, node: u32) -> Result<&Node, Refusal> {
        self.state.node(node).ok_or(Refusal::NodeNotFound(node))
    }

    /// Whether two nodes may know each other's whereabouts: a trust pair, or a network besides the backbone.
    fn related(&self, a: u32, b: u32) -> bool {
        self.state.trusts(a, b) || self.state.share_network(a, b)
    }
}

/// Unix seconds as the peers write times: RFC 3339, whole seconds, `Z`.
pub(crate) fn rfc3339(unix: i64) -> String {
    jiff::Timestamp::from_second(unix).unwrap_or(jiff::Timestamp::MAX).to_string()
}
