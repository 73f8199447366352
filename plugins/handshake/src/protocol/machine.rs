//! The transitions of handshake.md section 4 as a state machine: facts and the time go in, [`Effect`]s come out. No
//! clock, no I/O, no lock; the shell owns one machine behind a mutex.
//!
//! Rows of the two request tables, first match wins (the numbers are the sheet's):
//!
//! | # | direct | relayed | why |
//! |---|---|---|---|
//! | 1 | trusted, key stands | trusted | answer again |
//! | 2 | we asked, key confirmed | we asked | `mutual` |
//! | 3 | shared network, key confirmed | shared network | `same_network` |
//! | 4 | trusted agent, key confirmed | trusted agent without pin | `trusted_agent` |
//! | 5 | automatic approval | automatic approval | `auto_approve` |
//! | 6 | otherwise | otherwise | waits for a person |

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::effect::{Effect, Errand, Notice};
use super::message::ReplayKey;
use super::replay::ReplayStore;
use super::store::{Binding, MAX_OUTGOING, Pending, Store, Trusted};
use super::text::clean;

/// How long a peer may drop our second direct request as a replay of the first (handshake.md section 2, "Trap"): ten
/// minutes in its store and up to five until its sweep.
const PEER_REPLAY_MEMORY: SignedDuration = SignedDuration::from_mins(15);

/// A request as it came in, checked by `receive`.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Who asks.
    pub peer: u32,
    /// The key presented; empty for a relayed request.
    pub key: &'a str,
    /// What they wrote, as received.
    pub justification: &'a str,
    /// Name on the trusted-agents list, where the list's pin allows the request.
    pub agent: Option<&'a str>,
    /// How it came.
    pub via: Via,
}

/// How a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// Over port 444.
    Direct {
        /// The registry confirmed the key.
        bound: bool,
        /// The node at the other end of the stream.
        source: u32,
    },
    /// From the registry's inbox.
    Relay,
}

/// What a request leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// The answer depends on whether a network is shared; ask the registry and come again with it. Nothing changed.
    AskSharedNetwork,
    /// Decided.
    Act(Vec<Effect>),
}

/// How to go about an own request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// Nothing to send.
    AlreadyTrusted,
    /// Send it.
    Send {
        /// A direct request went out so recently that the peer may take this one for a replay: use the registry too.
        repeated: bool,
    },
}

/// State and rules of the handshake.
#[derive(Default)]
pub struct Machine {
    store: Store,
    replay: ReplayStore,
    auto_approve: bool,
    /// When the last direct request went to a peer; as bounded as the own requests.
    sent: BTreeMap<u32, Timestamp>,
}

impl Machine {
    /// A machine over restored stores.
    pub fn new(store: Store, auto_approve: bool) -> Self {
        Machine { store, auto_approve, ..Machine::default() }
    }

    /// The stores, to read.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Step 3 of the receive checks: whether this message was seen before.
    pub fn seen(&self, key: &ReplayKey) -> bool {
        self.replay.contains(key)
    }

    /// Step 7: notes a genuine message; `false` when it got here twice.
    pub fn remember(&mut self, key: ReplayKey, node: u32, now: Timestamp) -> bool {
        self.replay.insert(key, node, now)
    }

    /// A request. `shared` is the shared network once it was asked for (`Some(None)`: there is none).
    pub fn on_request(
        &mut self,
        now: Timestamp,
        request: &Request<'_>,
        shared: Option<Option<u16>>,
    ) -> Decision {
        let Request { peer, key, .. } = *request;
        let (direct, bound, source) = match request.via {
            Via::Direct { bound, source } => (true, bound, source),
            Via::Relay => (false, true, peer),
        };
        if shared.is_none() && bound && !self.store.stands(peer, key) && !self.store.has_outgoing(peer) {
            return Decision::AskSharedNetwork;
        }

        let mut effects = Vec::new();
        let justification = clean(request.justification);
        if direct {
            effects
                .push(Notice::new("handshake.received", peer).with("justification", &justification).into());
        }
        if self.bind(peer, key, &mut effects) == Binding::Stands {
            effects.push(if direct {
                Effect::SendAccept(peer)
            } else {
                Effect::Registry(Errand::Respond { peer, accept: true })
            });
            return Decision::Act(effects);
        }

        let grant = self.automatic_reason(request, bound, shared.flatten());
        match grant.filter(|_| self.store.has_room_for_automatic()) {
            Some(grant) => self.grant_automatically(now, request, &grant, &mut effects),
            None => {
                let public_key = key.to_owned();
                let notice =
                    Notice::new("handshake.pending", peer).with("justification", justification.as_str());
                let queued =
                    self.store.queue(peer, Pending { public_key, justification, received_at: now, source });
                if queued && direct {
                    effects.push(notice.into());
                }
            }
        }
        Decision::Act(effects)
    }

    /// Rows 2 to 5.
    fn automatic_reason<'a>(
        &self,
        request: &Request<'a>,
        bound: bool,
        shared: Option<u16>,
    ) -> Option<Grant<'a>> {
        if bound && self.store.has_outgoing(request.peer) {
            return Some(Grant { reason: "mutual", mutual: true, network: 0, agent: None });
        }
        if bound && let Some(network) = shared {
            return Some(Grant { reason: "same_network", mutual: false, network, agent: None });
        }
        if bound && let Some(agent) = request.agent {
            return Some(Grant { reason: "trusted_agent", mutual: false, network: 0, agent: Some(agent) });
        }
        self.auto_approve.then_some(Grant { reason: "auto_approve", mutual: false, network: 0, agent: None })
    }

    fn grant_automatically(
        &mut self,
        now: Timestamp,
        request: &Request<'_>,
        grant: &Grant<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let peer = request.peer;
        self.store.grant(
            peer,
            Trusted {
                public_key: request.key.to_owned(),
                approved_at: now,
                mutual: grant.mutual,
                network: grant.network,
            },
        );
        let direct = request.via != Via::Relay;
        // Relayed, the two silent rows publish nothing and the other two name themselves differently.
        let change = match (direct, grant.reason) {
            (true, reason) => Some(reason),
            (false, "trusted_agent") => Some("trusted_agent_relayed"),
            (false, "auto_approve") => Some("auto_approve_relayed"),
            (false, _) => None,
        };
        if let Some(change) = change {
            let with_agent = |notice: Notice| match grant.agent {
                Some(agent) => notice.with("agent", agent),
                None => notice,
            };
            let approved = Notice::new("handshake.auto_approved", peer).with("reason", grant.reason);
            effects.push(with_agent(approved).into());
            effects.push(with_agent(Notice::trust_changed(peer, "granted", change)).into());
        }
        if direct {
            // Reported first: the registry hides a private peer's address until it knows of the trust.
            effects.push(Effect::Registry(Errand::ReportTrust(peer)));
            effects.push(Effect::SendAccept(peer));
        } else {
            effects.push(Effect::Registry(Errand::Respond { peer, accept: true }));
            if !grant.mutual {
                effects.push(Effect::Registry(Errand::ReportTrust(peer)));
            }
            effects.push(Effect::Registry(Errand::Backfill(peer)));
        }
    }

    /// A direct accept. Without a request of ours it means nothing.
    pub fn on_accept(&mut self, now: Timestamp, peer: u32, key: &str) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.store.in_cooldown(peer, now) {
            self.store.forget_outgoing(peer);
            return effects;
        }
        if !self.store.has_outgoing(peer) {
            return effects;
        }
        if self.bind(peer, key, &mut effects) == Binding::Changed {
            self.store.forget_outgoing(peer);
            return effects;
        }
        let known = self.store.trusted().get(&peer).map(|r| r.public_key.clone()).unwrap_or_default();
        let public_key = if key.is_empty() { known } else { key.to_owned() };
        self.store.grant(peer, Trusted { public_key, approved_at: now, mutual: true, network: 0 });
        effects.push(Effect::Registry(Errand::ReportTrust(peer)));
        effects
    }

    /// A reject, direct or relayed.
    pub fn on_reject(&mut self, peer: u32) {
        self.store.forget_outgoing(peer);
    }

    /// A direct revoke.
    pub fn on_revoke(&mut self, peer: u32) -> Vec<Effect> {
        let was_trusted = self.store.forget(peer);
        let mut effects = vec![
            Notice::new("trust.revoked_by_peer", peer).into(),
            Notice::trust_changed(peer, "revoked", "by_peer").into(),
            Effect::RemoveTunnel(peer),
        ];
        if was_trusted {
            effects.push(Effect::Registry(Errand::RevokeTrust(peer)));
        }
        effects
    }

    /// An approval from the registry's inbox.
    pub fn on_relayed_approval(&mut self, now: Timestamp, peer: u32) -> Vec<Effect> {
        if self.store.is_trusted(peer) {
            return Vec::new();
        }
        if self.store.in_cooldown(peer, now) {
            self.store.forget_outgoing(peer);
            return Vec::new();
        }
        if !self.store.has_outgoing(peer) {
            return Vec::new();
        }
        let record = Trusted { public_key: String::new(), approved_at: now, mutual: true, network: 0 };
        self.store.grant(peer, record);
        vec![Effect::Registry(Errand::Backfill(peer))]
    }

    /// Starts an own request.
    pub fn begin_request(&mut self, now: Timestamp, peer: u32) -> Begin {
        if self.store.is_trusted(peer) {
            return Begin::AlreadyTrusted;
        }
        self.store.clear_cooldown(peer);
        self.store.note_outgoing(peer, now);
        let repeated = self.sent.get(&peer).is_some_and(|at| now.duration_since(*at) <= PEER_REPLAY_MEMORY);
        Begin::Send { repeated }
    }

    /// Notes that a direct request went out.
    pub fn sent_directly(&mut self, now: Timestamp, peer: u32) {
        self.sent.insert(peer, now);
        if self.sent.len() > MAX_OUTGOING
            && let Some(oldest) = self.sent.iter().min_by_key(|(_, at)| **at).map(|(node, _)| *node)
        {
            self.sent.remove(&oldest);
        }
    }

    /// A person approves. Nothing happens when nothing waits.
    pub fn approve(&mut self, now: Timestamp, peer: u32) -> Vec<Effect> {
        let Some(request) = self.store.take_pending(peer) else { return Vec::new() };
        let backfill = request.public_key.is_empty();
        let record = Trusted { public_key: request.public_key, approved_at: now, mutual: false, network: 0 };
        self.store.grant(peer, record);
        let mut effects = vec![
            Notice::new("handshake.approved", peer).into(),
            Notice::trust_changed(peer, "granted", "approved").into(),
            Effect::Registry(Errand::ReportTrust(peer)),
            Effect::Registry(Errand::Respond { peer, accept: true }),
        ];
        if backfill {
            effects.push(Effect::Registry(Errand::Backfill(peer)));
        }
        effects.push(Effect::SendAccept(peer));
        effects
    }

    /// A person rejects.
    pub fn reject(&mut self, peer: u32, reason: &str) -> Vec<Effect> {
        self.store.take_pending(peer);
        vec![
            Notice::new("handshake.rejected", peer).with("reason", reason).into(),
            Effect::Registry(Errand::Respond { peer, accept: false }),
            Effect::SendReject { peer, reason: reason.to_owned() },
        ]
    }

    /// A person revokes; `None` when there was nothing to revoke (the cooldown starts all the same).
    pub fn revoke(&mut self, now: Timestamp, peer: u32) -> Option<Vec<Effect>> {
        let was_trusted = self.store.forget(peer);
        self.store.start_cooldown(peer, now);
        was_trusted.then(|| {
            vec![
                Notice::new("trust.revoked", peer).into(),
                Notice::trust_changed(peer, "revoked", "local").into(),
                Effect::SendRevoke(peer),
                Effect::RemoveTunnel(peer),
                Effect::Registry(Errand::RevokeTrust(peer)),
            ]
        })
    }

    /// The keyed trust question, also the end of a backfill: whether the grant holds for this key.
    pub fn check_key(&mut self, peer: u32, key: &str) -> (bool, Vec<Effect>) {
        let mut effects = Vec::new();
        let binding = self.bind(peer, key, &mut effects);
        (binding == Binding::Stands, effects)
    }

    /// Forgets what is too old; due every five minutes.
    pub fn sweep(&mut self, now: Timestamp) {
        self.replay.sweep(now);
        self.store.sweep(now);
        self.sent.retain(|_, at| now.duration_since(*at) <= PEER_REPLAY_MEMORY);
    }

    fn bind(&mut self, peer: u32, key: &str, effects: &mut Vec<Effect>) -> Binding {
        let binding = self.store.bind(peer, key);
        if binding == Binding::Changed {
            effects.push(Notice::trust_changed(peer, "revoked", "key_changed").into());
        }
        binding
    }
}

/// Why and how trust is granted without a person.
struct Grant<'a> {
    reason: &'static str,
    mutual: bool,
    network: u16,
    agent: Option<&'a str>,
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
