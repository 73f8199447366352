//! The slots that plugins fill: one service of each kind, the last registration wins (plugin-contract.md section 2).
//! Written by the plugins' daemon handles, read by admission, the local socket and the relay poller.

use std::sync::{Arc, PoisonError, RwLock};

use plugin_abi::{HandshakeService, PolicyManager, TrustChecker, WebhookManager};

/// One slot. Reading copies the pointer, so no lock is held while a plugin is called.
pub struct Slot<T: ?Sized>(RwLock<Option<Arc<T>>>);

impl<T: ?Sized> Default for Slot<T> {
    fn default() -> Self {
        Slot(RwLock::new(None))
    }
}

impl<T: ?Sized> std::fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.get().is_some() { "Slot(filled)" } else { "Slot(empty)" })
    }
}

impl<T: ?Sized> Slot<T> {
    /// The service, if one is registered.
    pub fn get(&self) -> Option<Arc<T>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Registers; the former one is dropped outside the lock.
    pub fn set(&self, service: Arc<T>) {
        let former = self.0.write().unwrap_or_else(PoisonError::into_inner).replace(service);
        drop(former);
    }

    /// Empties the slot: its plugin is gone.
    pub fn clear(&self) {
        let former = self.0.write().unwrap_or_else(PoisonError::into_inner).take();
        drop(former);
    }
}

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
}

impl Services {
    /// Empties every slot, after the plugins were shut down.
    pub fn clear(&self) {
        self.trust_checker.clear();
        self.handshake.clear();
        self.policy.clear();
        self.webhook.clear();
    }
}
