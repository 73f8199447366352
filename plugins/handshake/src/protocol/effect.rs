//! What the machine wants done: events, messages, registry errands. Plain values; the shell carries them out in order.

use serde_json::{Map, Value};

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Publish an event on the bus.
    Publish(Notice),
    /// Send an accept message; if that fails, answer through the registry.
    SendAccept(u32),
    /// Send a reject message; best effort.
    SendReject {
        /// To whom.
        peer: u32,
        /// The text that goes with it.
        reason: String,
    },
    /// Send a revoke message and let it arrive; best effort.
    SendRevoke(u32),
    /// Drop the tunnel to a peer.
    RemoveTunnel(u32),
    /// Do something at the registry in the background; failures are logged and ignored.
    Registry(Errand),
}

/// One registry call (handshake.md section 5) that nobody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errand {
    /// Tell the registry that we trust the peer.
    ReportTrust(u32),
    /// Tell the registry that we no longer do.
    RevokeTrust(u32),
    /// Answer the peer's request.
    Respond {
        /// Who asked.
        peer: u32,
        /// The answer.
        accept: bool,
    },
    /// Look up the peer's key and compare it with the record.
    Backfill(u32),
}

/// One event (handshake.md section 4, "Event payloads").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The topic.
    pub topic: &'static str,
    /// `peer_node_id`.
    pub peer: u32,
    /// The other members.
    pub details: Vec<(&'static str, String)>,
}

impl Notice {
    /// An event with nothing but the peer.
    pub fn new(topic: &'static str, peer: u32) -> Self {
        Notice { topic, peer, details: Vec::new() }
    }

    /// Adds a member.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.details.push((name, value.into()));
        self
    }

    /// `trust.changed`.
    pub fn trust_changed(peer: u32, state: &'static str, reason: &'static str) -> Self {
        Notice::new("trust.changed", peer).with("state", state).with("reason", reason)
    }

    /// The payload map.
    pub fn payload(&self) -> Map<String, Value> {
        let mut map = Map::new();
        map.insert("peer_node_id".into(), self.peer.into());
        for (name, value) in &self.details {
            map.insert((*name).into(), value.as_str().into());
        }
        map
    }
}

impl From<Notice> for Effect {
    fn from(notice: Notice) -> Self {
        Effect::Publish(notice)
    }
}
