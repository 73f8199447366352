//! What one instance of a plugin holds of the daemon: ports and subscriptions. So that they can be taken from it when it
//! is replaced, and given to its successor without a gap, and released when it ends, whatever it has forgotten.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use pilot_net::bus::BusSubscription;
use pilot_net::node::Listener;

use super::plugins::TAKE_LIMIT;
use crate::core::Core;

/// Subscriptions that one instance may hold; each has a buffer of its own.
pub(super) const MAX_SUBSCRIPTIONS: usize = 256;
/// Ports that one instance may hold.
pub(super) const MAX_PORTS: usize = 256;

/// One instance's holdings.
#[derive(Default)]
pub(super) struct Claims {
    state: Mutex<State>,
    /// Another instance has taken over, or the plugin has ended: this one gets nothing new.
    retired: AtomicBool,
}

#[derive(Default)]
struct State {
    listeners: HashMap<u16, Weak<Listener>>,
    subscriptions: Vec<(String, Weak<BusSubscription>)>,
    /// Its predecessor's, until it asks for them or its start has succeeded.
    kept: Kept,
    /// Whether its start has succeeded. Until then what it drops is held here, for whoever comes after it.
    settled: bool,
    held: Vec<Held>,
}

/// Keeps something of an instance that is only starting from being released.
#[expect(dead_code, reason = "held for its drop alone")]
enum Held {
    Port(Arc<Listener>),
    Subscription(Arc<BusSubscription>),
}

/// What was taken from an instance.
#[derive(Default)]
pub(super) struct Kept {
    listeners: HashMap<u16, Listener>,
    subscriptions: Vec<(String, BusSubscription)>,
}

impl Claims {
    /// Of an instance that succeeds one that held `kept`.
    pub(super) fn after(kept: Kept) -> Self {
        let claims = Claims::default();
        claims.lock().kept = kept;
        claims
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// The predecessor's listener on this port.
    pub(super) fn kept_listener(&self, port: u16) -> Option<Listener> {
        self.lock().kept.listeners.remove(&port)
    }

    /// The predecessor's subscription to this pattern.
    pub(super) fn kept_subscription(&self, pattern: &str) -> Option<BusSubscription> {
        let kept = &mut self.lock().kept.subscriptions;
        let at = kept.iter().position(|(p, _)| p == pattern)?;
        Some(kept.remove(at).1)
    }

    /// Notes a new listener; `false` when there are too many.
    pub(super) fn add_listener(&self, listener: &Arc<Listener>) -> bool {
        let mut state = self.lock();
        state.listeners.retain(|_, l| l.strong_count() > 0);
        if state.listeners.len() >= MAX_PORTS {
            return false;
        }
        state.listeners.insert(listener.port(), Arc::downgrade(listener));
        if !state.settled {
            state.held.push(Held::Port(listener.clone()));
        }
        true
    }

    /// Notes a new subscription; `false` when there are too many.
    pub(super) fn add_subscription(&self, pattern: &str, subscription: &Arc<BusSubscription>) -> bool {
        let mut state = self.lock();
        state.subscriptions.retain(|(_, s)| s.strong_count() > 0);
        if state.subscriptions.len() >= MAX_SUBSCRIPTIONS {
            return false;
        }
        state.subscriptions.push((pattern.to_owned(), Arc::downgrade(subscription)));
        if !state.settled {
            state.held.push(Held::Subscription(subscription.clone()));
        }
        true
    }

    /// Closes the listener that this instance holds on a port.
    pub(super) fn close_port(&self, port: u16) {
        let mut state = self.lock();
        state.held.retain(|h| !matches!(h, Held::Port(l) if l.port() == port));
        let listener = state.listeners.remove(&port).and_then(|l| l.upgrade());
        drop(state);
        if let Some(listener) = listener {
            listener.close();
        }
    }

    /// The instance's start has succeeded: what it did not take of its predecessor's is released.
    pub(super) fn settle(&self) {
        let mut state = self.lock();
        state.settled = true;
        let released = (std::mem::take(&mut state.kept), std::mem::take(&mut state.held));
        drop(state);
        drop(released);
    }

    /// Takes everything for a successor. The instance's own objects are at their end from now on; ports stay bound and
    /// go on accepting, subscriptions go on collecting. Blocks until the driver has done it.
    pub(super) fn seize(&self, core: &Core) -> Kept {
        self.retired.store(true, Ordering::Release);
        let (listeners, subscriptions, mut kept, held) = {
            let mut state = self.lock();
            (
                std::mem::take(&mut state.listeners),
                std::mem::take(&mut state.subscriptions),
                std::mem::take(&mut state.kept),
                std::mem::take(&mut state.held),
            )
        };
        for (port, listener) in listeners {
            let Some(listener) = listener.upgrade() else { continue };
            let taken = core.wait(async move {
                tokio::time::timeout(TAKE_LIMIT, listener.hand_over()).await.ok().flatten()
            });
            if let Some(listener) = taken.flatten() {
                kept.listeners.insert(port, listener);
            }
        }
        for (pattern, subscription) in subscriptions {
            if let Some(taken) = subscription.upgrade().and_then(|s| s.hand_over()) {
                kept.subscriptions.push((pattern, taken));
            }
        }
        drop(held);
        kept
    }

    /// Ends everything that the instance holds.
    pub(super) fn release(&self) {
        self.retired.store(true, Ordering::Release);
        let state = std::mem::take(&mut *self.lock());
        for listener in state.listeners.values().filter_map(Weak::upgrade) {
            listener.close();
        }
        for subscription in state.subscriptions.iter().filter_map(|(_, s)| s.upgrade()) {
            subscription.cancel();
        }
    }
}
