//! Two registries with one content: what a primary hands out, and what a standby takes in and refuses (registry.md
//! sections 3.4 and 7).

use super::auth::same_secret;
use super::{Call, Registry};
use crate::refusal::Refusal;
use crate::state::{Change, RecordKey, SnapshotError, State};

/// What a standby answers; everything else would change what only the primary may change.
const READS: &[&str] = &[
    "lookup",
    "resolve",
    "list_networks",
    "list_nodes",
    "heartbeat",
    "poll_handshakes",
    "poll_invites",
    "resolve_hostname",
    "beacon_list",
    "get_key_info",
    "get_network_policy",
    "get_audit_log",
    "get_member_role",
    "check_trust",
    "get_webhook",
    "get_webhook_dlq",
    "get_identity",
    "get_expr_policy",
    "get_member_tags",
    "subscribe_replication",
];

/// A primary's content, read and checked, ready to be taken in.
#[derive(Debug)]
pub struct Snapshot {
    state: State,
    notes: Vec<String>,
}

impl Snapshot {
    /// Reads a snapshot in the Go peer's form: the `snapshot` member of a replication message, or a registry file.
    ///
    /// # Errors
    /// [`SnapshotError`]: the text is none.
    pub fn parse(json: &[u8]) -> Result<Self, SnapshotError> {
        let (state, notes) = State::from_snapshot(json)?;
        Ok(Self { state, notes })
    }

    /// What contradicted itself and was left out, one line each; at most a hundred.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// How many nodes, networks and trust pairs it holds.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.state.identity_count(), self.state.network_count(), self.state.trust_pair_count())
    }

    /// All its records, for an empty store.
    pub fn into_changes(self) -> Vec<Change> {
        let mut state = State::default();
        state.replace(self.state);
        let mut changes = state.take_changes();
        // An empty registry's counters are the default ones, so they may not count as changed.
        if !changes.iter().any(|c| c.key == RecordKey::Meta) {
            changes.extend(state.record(RecordKey::Meta));
        }
        changes
    }
}

impl Registry {
    /// A standby's refusal of what only a primary may do.
    pub(super) fn check_standby(&self, call: &Call<'_>) -> Result<(), Refusal> {
        if self.settings.standby && !READS.contains(&call.request.kind()) {
            return Err(Refusal::Standby);
        }
        Ok(())
    }

    pub(super) fn check_subscription(&self, call: &Call<'_>) -> Refusal {
        match self.settings.replication_token.as_deref() {
            None | Some("") => Refusal::NoReplication,
            Some(token) if same_secret(token, call.request.text("token")) => Refusal::Subscribed,
            Some(_) => Refusal::ReplicationToken,
        }
    }

    /// Grows with every change, so that a feed knows when there is news.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The whole content as JSON text, in the Go peer's form.
    pub fn snapshot(&self) -> Vec<u8> {
        self.state.to_snapshot()
    }

    /// Becomes what a primary has; gives what to commit.
    pub fn follow(&mut self, snapshot: Snapshot) -> Vec<Change> {
        self.state.replace(snapshot.state);
        self.take_changes()
    }
}
