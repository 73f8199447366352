//! The plugin's services as the host holds them. They outlive the child: a [`Seat`] always leads to the process that runs
//! now, and while there is none, or it does not answer in time, the answer is the safe one: a gate denies, nobody is
//! trusted, everything else is an error. A denial costs at most the decision limit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use plugin_abi::{
    Error, ErrorKind, PolicyManager, PolicyRunner, PortGate, Result, WebhookManager, WebhookStats,
};
use serde_json::{Map, Value};

use crate::child::frame::Raw;
use crate::child::link::{CallError, Link};
use crate::child::message::{
    Answer, Handshake, Policy, Runner, ToChild, Webhook, map_from, map_text, unpack,
};
use crate::child::services::{AskTrust, Pace, WORK};

/// Networks whose policy documents are kept for the next child.
const MAX_DOCUMENTS: usize = 1024;

/// Leads to the process that runs now.
pub(in crate::child) struct Seat {
    link: RwLock<Option<Arc<Link>>>,
    decision: Duration,
    work: Duration,
    late: AtomicU64,
    refused: AtomicU64,
    policies: Mutex<Policies>,
}

/// What is known of the policies beside the process that runs them.
#[derive(Default)]
struct Policies {
    /// What the host asked for: the next child is asked the same, and until it has them these networks deny.
    documents: BTreeMap<u16, String>,
    /// What there was when the child was asked last.
    seen: BTreeSet<u16>,
}

impl Seat {
    pub fn new(decision: Duration, work: Duration) -> Arc<Self> {
        Arc::new(Seat {
            link: RwLock::new(None),
            decision,
            work,
            late: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            policies: Mutex::default(),
        })
    }

    /// Another process sits here now, or none.
    pub fn take(&self, link: Option<Arc<Link>>) {
        let former = std::mem::replace(&mut *self.link.write().unwrap_or_else(PoisonError::into_inner), link);
        drop(former);
    }

    /// Calls that were not answered in time.
    pub fn late(&self) -> u64 {
        self.late.load(Ordering::Relaxed)
    }

    /// Calls that found no process.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Asks a fresh child for the policies that the host had asked the last one for. A document that it refuses now is
    /// kept, so that its network goes on denying.
    pub fn restore_policies(&self, link: &Link) {
        let documents = self.policies().documents.clone();
        for (network, document) in documents {
            let ask = ToChild::Policy(Policy::Start { network, document });
            if let Err(e) = link.call("policy_start", &ask, &[], Some(self.work)) {
                let e = Error::from(e);
                tracing::error!(network, error = %e, "a policy could not be restored; its network denies");
            }
        }
    }

    fn policies(&self) -> MutexGuard<'_, Policies> {
        self.policies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, op: &'static str, ask: &ToChild, pace: Pace) -> Result<(Answer, Raw)> {
        let limit = match pace {
            Pace::Decision => self.decision,
            Pace::Work(extra) => self.work.saturating_add(extra),
        };
        let link = self.link.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(link) = link else {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Error::new(ErrorKind::Closed, "the plugin's process is not running"));
        };
        link.call(op, ask, &[], Some(limit)).map_err(|e| {
            match &e {
                CallError::Answered(_) => {}
                CallError::Late(_) => {
                    self.late.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(op, ?limit, "the plugin's process did not answer in time");
                }
                CallError::Ended(_) => {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                }
            }
            e.into()
        })
    }
}

impl AskTrust for Arc<Seat> {
    fn handshake(&self, op: &'static str, ask: Handshake, pace: Pace) -> Result<(Answer, Raw)> {
        self.ask(op, &ToChild::Handshake(ask), pace)
    }

    fn check(&self, node: u32) -> Result<(Answer, Raw)> {
        self.ask("is_trusted", &ToChild::TrustCheck { node }, Pace::Decision)
    }
}

/// The plugin's policy manager.
pub(in crate::child) struct SeatPolicies(pub Arc<Seat>);

impl SeatPolicies {
    fn ask(&self, op: &'static str, ask: Policy, pace: Pace) -> Result<(Answer, Raw)> {
        self.0.ask(op, &ToChild::Policy(ask), pace)
    }

    fn runner(&self, network: u16) -> Arc<dyn PolicyRunner> {
        Arc::new(SeatRunner { seat: Arc::clone(&self.0), network })
    }
}

impl PolicyManager for SeatPolicies {
    fn start(&self, network: u16, document_json: &str) -> Result<()> {
        let ask = Policy::Start { network, document: document_json.to_owned() };
        unpack!(self.ask("policy_start", ask, WORK), "policy_start", Answer::Done => ())?;
        let mut policies = self.0.policies();
        if policies.documents.len() < MAX_DOCUMENTS || policies.documents.contains_key(&network) {
            policies.documents.insert(network, document_json.to_owned());
        }
        Ok(())
    }

    fn stop(&self, network: u16) {
        let mut policies = self.0.policies();
        policies.documents.remove(&network);
        policies.seen.remove(&network);
        drop(policies);
        let _ = self.ask("policy_stop", Policy::Stop { network }, WORK);
    }

    fn get(&self, network: u16) -> Option<Arc<dyn PolicyRunner>> {
        let answer = self.ask("policy_get", Policy::Has { network }, Pace::Decision);
        let known = || {
            let policies = self.0.policies();
            policies.documents.contains_key(&network) || policies.seen.contains(&network)
        };
        // Without an answer a network that had a policy still has one: it denies.
        let there = unpack!(answer, "policy_get", Answer::Flag(yes) => yes).unwrap_or_else(|_| known());
        there.then(|| self.runner(network))
    }

    fn all(&self) -> Vec<Arc<dyn PolicyRunner>> {
        let answer = self.ask("policy_all", Policy::All, Pace::Decision);
        let answer = unpack!(answer, "policy_all", Answer::Networks(list) => list);
        let mut policies = self.0.policies();
        if let Ok(networks) = answer {
            policies.seen = networks.into_iter().collect();
        }
        let networks: BTreeSet<u16> = policies.documents.keys().chain(&policies.seen).copied().collect();
        drop(policies);
        networks.into_iter().map(|network| self.runner(network)).collect()
    }

    fn stop_all(&self) {
        *self.0.policies() = Policies::default();
        let _ = self.ask("policy_stop_all", Policy::StopAll, WORK);
    }

    fn load_persisted(&self) -> Result<Vec<u16>> {
        let answer = self.ask("policy_load_persisted", Policy::LoadPersisted, WORK);
        unpack!(answer, "policy_load_persisted", Answer::Networks(list) => list)
    }

    fn explain(
        &self,
        document: &str,
        event: &str,
        context: &Map<String, Value>,
    ) -> Result<Map<String, Value>> {
        let context = map_text(context)?;
        let ask = Policy::Explain { document: document.to_owned(), event: event.to_owned(), context };
        let answer = self.ask("policy_explain", ask, WORK);
        map_from(&unpack!(answer, "policy_explain", Answer::Text(text) => text)?)
    }
}

/// The plugin's runner of one network, whichever object that is now.
struct SeatRunner {
    seat: Arc<Seat>,
    network: u16,
}

impl SeatRunner {
    fn ask(&self, op: &'static str, ask: Runner, pace: Pace) -> Result<(Answer, Raw)> {
        self.seat.ask(op, &ToChild::Runner { network: self.network, ask }, pace)
    }

    fn text(&self, op: &'static str, ask: Runner) -> Result<String> {
        unpack!(self.ask(op, ask, WORK), op, Answer::Text(text) => text)
    }
}

impl PolicyRunner for SeatRunner {
    fn network_id(&self) -> u16 {
        self.network
    }

    fn has_member(&self, node: u32) -> bool {
        let answer = self.ask("has_member", Runner::HasMember { node }, Pace::Decision);
        // A runner that cannot answer must still be asked at the gate, where it denies.
        unpack!(answer, "has_member", Answer::Flag(yes) => yes).unwrap_or(true)
    }

    fn evaluate_port_gate(&self, gate: &PortGate) -> bool {
        let answer = self.ask("evaluate_port_gate", Runner::Gate(gate.into()), Pace::Decision);
        unpack!(answer, "evaluate_port_gate", Answer::Flag(yes) => yes).unwrap_or(false)
    }

    fn evaluate_actions(&self, event: &str, context: &Map<String, Value>) {
        let Ok(context) = map_text(context) else { return };
        let _ = self.ask("evaluate_actions", Runner::Actions { event: event.to_owned(), context }, WORK);
    }

    fn status(&self) -> Map<String, Value> {
        self.text("status", Runner::Status).and_then(|t| map_from(&t)).unwrap_or_default()
    }

    fn peer_list(&self) -> Vec<Value> {
        let text = self.text("peer_list", Runner::Peers);
        text.and_then(|t| Ok(serde_json::from_str(&t)?)).unwrap_or_default()
    }

    fn force_cycle(&self) -> Result<Map<String, Value>> {
        self.text("force_cycle", Runner::ForceCycle).and_then(|t| map_from(&t))
    }

    fn reconcile_now(&self) -> Result<u32> {
        let answer = self.ask("reconcile_now", Runner::Reconcile, WORK);
        let peers = unpack!(answer, "reconcile_now", Answer::Number(n) => n)?;
        Ok(u32::try_from(peers).unwrap_or(u32::MAX))
    }

    fn policy_json(&self) -> String {
        self.text("policy_json", Runner::Document).unwrap_or_default()
    }

    fn stop(&self) {
        let _ = self.ask("runner_stop", Runner::Stop, WORK);
    }
}

/// The plugin's webhook manager.
pub(in crate::child) struct SeatWebhook(pub Arc<Seat>);

impl WebhookManager for SeatWebhook {
    fn set_url(&self, url: &str) -> Result<()> {
        let ask = ToChild::Webhook(Webhook::SetUrl { url: url.to_owned() });
        unpack!(self.0.ask("webhook_set_url", &ask, WORK), "webhook_set_url", Answer::Done => ())
    }

    fn url(&self) -> String {
        let answer = self.0.ask("webhook_url", &ToChild::Webhook(Webhook::Url), WORK);
        unpack!(answer, "webhook_url", Answer::Text(url) => url).unwrap_or_default()
    }

    fn stats(&self) -> WebhookStats {
        let answer = self.0.ask("webhook_stats", &ToChild::Webhook(Webhook::Stats), WORK);
        unpack!(answer, "webhook_stats", Answer::Stats(stats) => stats).unwrap_or_default()
    }
}
