//! The slots that plugins fill: one service of each kind, the last registration wins (plugin-contract.md section 2).
//! Written by the plugins' daemon handles and by `supervision`, read by admission, the local socket and the relay poller.
//!
//! A slot knows whose service it holds, because what its absence means depends on why it is absent:
//!
//! | Slot | `get` | A gate asks | When |
//! |---|---|---|---|
//! | empty | none | nobody: there is nothing to decide | no plugin provides it |
//! | held | the service | the service | its plugin runs |
//! | pending | none | waits, then the successor; "no" when none comes | its plugin is being reloaded |
//! | closed | none | "no" | its plugin failed, is in quarantine, or was stopped with rules in force |

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use plugin_abi::{HandshakeService, PolicyManager, TrustChecker, WebhookManager};
use tokio::sync::Notify;

/// Longest a gate waits for the successor of a plugin that is being reloaded. Below the engine's own patience with a
/// question (5 s), so that it gets an answer.
pub const PATIENCE: Duration = Duration::from_secs(4);

/// One instance of a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its name.
    pub plugin: String,
    /// Counts the instances of this process.
    pub instance: u64,
}

enum State<T: ?Sized> {
    Empty,
    Held { service: Arc<T>, owner: Owner },
    Pending { plugin: String, staged: Option<(Arc<T>, Owner)> },
    Closed { plugin: String },
}

/// Whom a gate asks.
pub enum Decider<T: ?Sized> {
    /// There is no such service, so there are no rules.
    Nobody,
    /// This one.
    Ask(Arc<T>),
    /// Nobody can be asked any more: the answer is "no".
    Refuse,
}

/// One slot. Reading copies the pointer, so no lock is held while a plugin is called.
pub struct Slot<T: ?Sized> {
    state: RwLock<State<T>>,
    changed: Notify,
}

impl<T: ?Sized> Default for Slot<T> {
    fn default() -> Self {
        Slot { state: RwLock::new(State::Empty), changed: Notify::new() }
    }
}

impl<T: ?Sized> std::fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match &*self.read() {
            State::Empty => "Slot(empty)",
            State::Held { .. } => "Slot(held)",
            State::Pending { .. } => "Slot(pending)",
            State::Closed { .. } => "Slot(closed)",
        })
    }
}

impl<T: ?Sized> Slot<T> {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, State<T>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state; the former service is dropped outside the lock, because that may run a plugin's code.
    fn change(&self, next: impl FnOnce(&mut State<T>) -> Option<State<T>>) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let former = next(&mut state).map(|new| std::mem::replace(&mut *state, new));
        drop(state);
        drop(former);
        self.changed.notify_waiters();
    }

    /// The service, if one is in use.
    pub fn get(&self) -> Option<Arc<T>> {
        match &*self.read() {
            State::Held { service, .. } => Some(service.clone()),
            _ => None,
        }
    }

    /// As [`get`](Self::get) for a plugin, which also sees what it has registered itself while it starts.
    pub fn get_for(&self, plugin: &str) -> Option<Arc<T>> {
        match &*self.read() {
            State::Held { service, .. } => Some(service.clone()),
            State::Pending { plugin: p, staged: Some((service, _)) } if p == plugin => Some(service.clone()),
            _ => None,
        }
    }

    /// Whether another plugin than `plugin` is being reloaded that provides this.
    pub fn is_pending_for_others(&self, plugin: &str) -> bool {
        matches!(&*self.read(), State::Pending { plugin: p, .. } if p != plugin)
    }

    /// Whom to ask, or `None` while that is being settled.
    fn decider(&self) -> Option<Decider<T>> {
        match &*self.read() {
            State::Empty => Some(Decider::Nobody),
            State::Held { service, .. } => Some(Decider::Ask(service.clone())),
            State::Closed { .. } => Some(Decider::Refuse),
            State::Pending { .. } => None,
        }
    }

    /// Whom to ask now; does not wait: while a plugin is being reloaded, nobody can be asked.
    pub fn decide_now(&self) -> Decider<T> {
        self.decider().unwrap_or(Decider::Refuse)
    }

    /// Whom to ask; waits at most [`PATIENCE`] for the successor of a plugin that is being reloaded.
    pub async fn decide(&self) -> Decider<T> {
        self.decide_within(PATIENCE).await
    }

    async fn decide_within(&self, patience: Duration) -> Decider<T> {
        if let Some(decider) = self.decider() {
            return decider;
        }
        let settled = async {
            loop {
                // Listens before it looks, so that no change falls in between.
                let mut changed = std::pin::pin!(self.changed.notified());
                changed.as_mut().enable();
                if let Some(decider) = self.decider() {
                    return decider;
                }
                changed.await;
            }
        };
        tokio::time::timeout(patience, settled).await.unwrap_or(Decider::Refuse)
    }

    /// Registers. While the former instance of the same plugin is being replaced, the new service is used only once that
    /// plugin's start has succeeded.
    pub fn set(&self, service: Arc<T>, owner: Owner) {
        self.change(|state| match state {
            State::Pending { plugin, staged } if *plugin == owner.plugin => {
                *staged = Some((service, owner));
                None
            }
            _ => Some(State::Held { service, owner }),
        });
    }

    /// The plugin is about to be replaced; gates wait from now on.
    fn hand_over(&self, plugin: &str) {
        self.change(|state| match state {
            State::Held { owner, .. } if owner.plugin == plugin => {
                Some(State::Pending { plugin: plugin.to_owned(), staged: None })
            }
            State::Pending { plugin: p, staged } if p == plugin => {
                *staged = None;
                None
            }
            _ => None,
        });
    }

    /// A start of the plugin has succeeded: what it has staged is used from now on.
    fn settle(&self, plugin: &str) {
        self.change(|state| match state {
            State::Pending { plugin: p, staged } if p == plugin => Some(match staged.take() {
                Some((service, owner)) => State::Held { service, owner },
                // It served before and does not now: whatever it decided is not open to everybody for that.
                None => State::Closed { plugin: plugin.to_owned() },
            }),
            _ => None,
        });
    }

    /// The plugin is gone. `closed`: its decisions are "no" from now on; `provider`: also when it never got to register.
    fn end(&self, plugin: &str, closed: bool, provider: bool) {
        self.change(|state| {
            let own = match state {
                State::Held { owner, .. } => owner.plugin == plugin,
                State::Pending { plugin: p, .. } | State::Closed { plugin: p } => p == plugin,
                State::Empty => closed && provider,
            };
            match (own, closed) {
                (false, _) => None,
                (true, true) => Some(State::Closed { plugin: plugin.to_owned() }),
                (true, false) => Some(State::Empty),
            }
        });
    }

    fn clear(&self) {
        self.change(|_| Some(State::Empty));
    }
}

/// The policies that were in force when their manager went away, to be put in force by its successor.
type Documents = Vec<(u16, String)>;

/// All slots of one host.
#[derive(Debug, Default)]
pub struct Services {
    /// Allow-list of known nodes.
    pub trust_checker: Slot<dyn TrustChecker>,
    /// Trust store and handshake protocol.
    pub handshake: Slot<dyn HandshakeService>,
    /// Policies by network.
    pub policy: Slot<dyn PolicyManager>,
    /// Webhook controls.
    pub webhook: Slot<dyn WebhookManager>,
    documents: Mutex<Documents>,
}

/// How long a policy manager that is about to go away may take to say what is in force.
const INVENTORY: Duration = Duration::from_secs(1);

impl Services {
    /// The plugin's instance is about to be shut down: what it has in force is noted. Blocks for at most a second.
    pub fn stopping(&self, plugin: &str) {
        let manager = match &*self.policy.read() {
            State::Held { service, owner } if owner.plugin == plugin => service.clone(),
            _ => return,
        };
        // On a thread of its own: the plugin may be the one that hangs.
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let inventory = std::thread::Builder::new().name(format!("{plugin} inventory")).spawn(move || {
            let list = manager.all().into_iter().map(|r| (r.network_id(), r.policy_json()));
            let _ = tell.send(list.collect::<Documents>());
        });
        match inventory.map_err(|_| ()).and_then(|_| told.recv_timeout(INVENTORY).map_err(|_| ())) {
            Ok(list) => *self.lock_documents() = list.into_iter().filter(|(_, d)| !d.is_empty()).collect(),
            Err(()) => tracing::warn!(plugin, "the policies in force could not be noted"),
        }
    }

    /// The plugin's instance goes and a successor comes: gates wait for that one.
    pub fn hand_over(&self, plugin: &str) {
        self.trust_checker.hand_over(plugin);
        self.handshake.hand_over(plugin);
        self.policy.hand_over(plugin);
        self.webhook.hand_over(plugin);
    }

    /// An instance of the plugin runs. Policies that its predecessor had in force are put in force again before any gate
    /// asks the new one.
    pub fn settle(&self, plugin: &str) {
        let staged = match &*self.policy.read() {
            State::Pending { plugin: p, staged: Some((service, _)) } if p == plugin => Some(service.clone()),
            State::Held { service, owner } if owner.plugin == plugin => Some(service.clone()),
            _ => None,
        };
        if let Some(manager) = staged {
            let mut lost = Documents::new();
            for (network, document) in std::mem::take(&mut *self.lock_documents()) {
                if manager.get(network).is_some() {
                    continue;
                }
                if let Err(e) = manager.start(network, &document) {
                    tracing::error!(plugin, network, error = %e, "a policy that was in force could not be put in force again; everything is denied");
                    lost.push((network, document));
                }
            }
            if !lost.is_empty() {
                *self.lock_documents() = lost;
                self.policy.end(plugin, true, true);
            }
        }
        self.trust_checker.settle(plugin);
        self.handshake.settle(plugin);
        self.policy.settle(plugin);
        self.webhook.settle(plugin);
    }

    /// The plugin is gone. `failed`: not by anybody's wish, so what it decided is decided with "no"; `provides` tells what
    /// it was there for, in case it never came so far as to register it.
    pub fn end(&self, plugin: &str, failed: bool, provides: impl Fn(crate::capability::Service) -> bool) {
        use crate::capability::Service;
        let in_force = !self.lock_documents().is_empty();
        self.trust_checker.end(plugin, failed, provides(Service::TrustChecker));
        self.handshake.end(plugin, failed, provides(Service::Handshake));
        self.policy.end(plugin, failed || in_force, provides(Service::Policy));
        self.webhook.end(plugin, failed, provides(Service::Webhook));
    }

    /// Waits at most [`PATIENCE`] while a plugin with a service is being reloaded; no time at all otherwise.
    pub async fn settled(&self) {
        tokio::join!(
            async { drop(self.trust_checker.decide().await) },
            async { drop(self.handshake.decide().await) },
            async { drop(self.policy.decide().await) },
            async { drop(self.webhook.decide().await) },
        );
    }

    /// Empties every slot, after the plugins were shut down.
    pub fn clear(&self) {
        self.trust_checker.clear();
        self.handshake.clear();
        self.policy.clear();
        self.webhook.clear();
    }

    fn lock_documents(&self) -> std::sync::MutexGuard<'_, Documents> {
        self.documents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Named(&'static str);

    impl TrustChecker for Named {
        fn is_trusted(&self, _node: u32) -> Option<String> {
            Some(self.0.to_owned())
        }
    }

    fn owner(plugin: &str, instance: u64) -> Owner {
        Owner { plugin: plugin.to_owned(), instance }
    }

    fn put(slot: &Slot<dyn TrustChecker>, name: &'static str, plugin: &str, instance: u64) {
        slot.set(Arc::new(Named(name)), owner(plugin, instance));
    }

    fn said(decider: &Decider<dyn TrustChecker>) -> String {
        match decider {
            Decider::Nobody => "nobody".into(),
            Decider::Refuse => "refuse".into(),
            Decider::Ask(t) => t.is_trusted(1).unwrap_or_default(),
        }
    }

    #[tokio::test]
    async fn a_gate_waits_for_the_successor_and_never_sees_a_gap() {
        let slot = Arc::new(Slot::<dyn TrustChecker>::default());
        assert_eq!(said(&slot.decide().await), "nobody");
        put(&slot, "old", "p", 1);
        slot.hand_over("p");
        assert_eq!(said(&slot.decide_now()), "refuse");
        let waiting = tokio::spawn({
            let slot = slot.clone();
            async move { said(&slot.decide().await) }
        });
        tokio::task::yield_now().await;
        put(&slot, "new", "p", 2);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "registered, but its start has not succeeded yet");
        assert!(slot.get().is_none() && slot.get_for("p").is_some() && slot.get_for("q").is_none());
        slot.settle("p");
        assert_eq!(waiting.await.unwrap(), "new");
    }

    #[tokio::test]
    async fn without_a_successor_the_answer_is_no() {
        let slot = Slot::<dyn TrustChecker>::default();
        put(&slot, "old", "p", 1);
        slot.hand_over("p");
        let impatient = slot.decide_within(Duration::from_millis(1)).await;
        assert_eq!(said(&impatient), "refuse", "patience ends");
        slot.settle("p");
        assert_eq!(said(&slot.decide().await), "refuse", "it started and does not serve any more");
        put(&slot, "again", "p", 3);
        assert_eq!(said(&slot.decide().await), "again");
        slot.end("p", true, true);
        assert_eq!(said(&slot.decide().await), "refuse");
        slot.end("p", false, true);
        assert_eq!(said(&slot.decide().await), "nobody");
        slot.end("p", true, true);
        assert_eq!(said(&slot.decide().await), "refuse", "in quarantine since before it could register");
    }

    #[tokio::test]
    async fn others_are_not_touched() {
        let slot = Slot::<dyn TrustChecker>::default();
        put(&slot, "mine", "p", 1);
        for step in [Slot::hand_over, Slot::settle] {
            step(&slot, "q");
            assert_eq!(said(&slot.decide().await), "mine");
        }
        slot.end("q", true, true);
        assert_eq!(said(&slot.decide().await), "mine");
    }
}
