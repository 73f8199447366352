//! The handshake service as the daemon and the other plugins call it (plugin-contract.md section 5), and its end.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use plugin_abi::{
    Daemon, Error, ErrorKind, HandshakePendingRecord, HandshakeService, HandshakeTrustRecord, Listener,
    Result,
};

use super::core::Core;
use super::lock;
use crate::protocol::machine::{Request, Via};

/// How long `stop` of the service may take; the plugin's own shutdown is told by the host.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// What is kept of a deadline for the threads' ends, and again for the last save.
const RESERVE: Duration = Duration::from_millis(500);

/// The service. Cheap to ask; the calls marked "blocks" in the contract run on the caller's thread.
pub struct Service {
    core: Arc<Core>,
    /// `None` once stopped. Held while stopping, so that a second caller waits for the first.
    listener: Mutex<Option<Arc<dyn Listener>>>,
}

impl Service {
    /// The service of a running core; it closes `listener` at its end.
    pub fn new(core: Arc<Core>, listener: Arc<dyn Listener>) -> Self {
        Service { core, listener: Mutex::new(Some(listener)) }
    }

    /// Stops accepting and sweeping, finishes the registry calls under way, saves once more if something changed, ends
    /// the threads and lets go of the daemon. Calling it again does nothing.
    ///
    /// # Errors
    /// [`TimedOut`](ErrorKind::TimedOut) when something did not end by the deadline; it ends by itself later.
    pub fn shut_down(&self, deadline: Duration) -> Result<()> {
        let mut running = lock(&self.listener);
        let Some(listener) = running.take() else { return Ok(()) };
        let now = Instant::now();
        let (drained_by, ended_by) =
            (now + deadline.saturating_sub(2 * RESERVE), now + deadline.saturating_sub(RESERVE));
        let core = &self.core;
        core.tasks.close();
        core.wake_waiters();
        listener.close();
        let given_up = core.errands.drain(drained_by);
        core.lingering.close();
        core.keeper.close();
        core.release_daemon();
        let busy = core.tasks.join(ended_by);
        let saved = core.save();
        if given_up == 0 && busy == 0 && saved {
            return Ok(());
        }
        let text = format!(
            "handshake: {given_up} registry call(s) given up, {busy} thread(s) busy, state saved: {saved}"
        );
        Err(Error::new(ErrorKind::TimedOut, text))
    }

    /// Runs `f` with the daemon; nothing happens once the service is stopped.
    fn with_daemon(&self, f: impl FnOnce(&dyn Daemon)) {
        if let Ok(daemon) = self.core.daemon() {
            f(daemon.as_ref());
        }
    }
}

impl HandshakeService for Service {
    fn is_trusted(&self, node: u32) -> bool {
        self.core.look(|machine| machine.store().is_trusted(node))
    }

    fn is_trusted_with_key(&self, node: u32, key: &str) -> bool {
        let (trusted, effects) = self.core.change(|machine, _| machine.check_key(node, key));
        if !effects.is_empty() {
            self.with_daemon(|daemon| self.core.carry_out(daemon, effects));
        }
        trusted
    }

    fn trusted_peers(&self) -> Vec<HandshakeTrustRecord> {
        self.core.look(|machine| {
            let records = machine.store().trusted().iter();
            records
                .map(|(&node_id, r)| HandshakeTrustRecord {
                    node_id,
                    public_key: r.public_key.clone(),
                    approved_at: r.approved_at.as_second(),
                    mutual: r.mutual,
                    network: r.network,
                })
                .collect()
        })
    }

    fn pending_requests(&self) -> Vec<HandshakePendingRecord> {
        self.core.look(|machine| {
            let records = machine.store().pending().iter();
            records
                .map(|(&node_id, p)| HandshakePendingRecord {
                    node_id,
                    public_key: p.public_key.clone(),
                    justification: p.justification.clone(),
                    received_at: p.received_at.as_second(),
                })
                .collect()
        })
    }

    fn pending_count(&self) -> u32 {
        let count = self.core.look(|machine| machine.store().pending().len());
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    fn send_request(&self, peer: u32, justification: &str) -> Result<()> {
        self.core.request(peer, justification)
    }

    fn approve(&self, peer: u32) -> Result<()> {
        let daemon = self.core.daemon()?;
        self.core.act(daemon.as_ref(), |machine, now| machine.approve(now, peer));
        Ok(())
    }

    fn reject(&self, peer: u32, reason: &str) -> Result<()> {
        let daemon = self.core.daemon()?;
        self.core.act(daemon.as_ref(), |machine, _| machine.reject(peer, reason));
        Ok(())
    }

    fn revoke_trust(&self, peer: u32) -> Result<()> {
        let daemon = self.core.daemon()?;
        match self.core.change(|machine, now| machine.revoke(now, peer)) {
            Some(effects) => {
                self.core.carry_out(daemon.as_ref(), effects);
                Ok(())
            }
            None => Err(Error::new(ErrorKind::NotFound, format!("node {peer} was not trusted"))),
        }
    }

    fn wait_for_trust(&self, peer: u32, timeout: Duration) -> bool {
        let is_self = self.core.daemon().is_ok_and(|daemon| daemon.node_id() == peer);
        is_self || self.core.wait_for_trust(peer, timeout)
    }

    fn process_relayed_request(&self, from: u32, justification: &str) {
        self.with_daemon(|daemon| {
            let agent = self.core.agent(daemon, from, "");
            let agent = agent.as_deref();
            let request = Request { peer: from, key: "", justification, agent, via: Via::Relay };
            self.core.decide(daemon, &request);
        });
    }

    fn process_relayed_approval(&self, from: u32) {
        self.with_daemon(|daemon| {
            self.core.act(daemon, |machine, now| machine.on_relayed_approval(now, from))
        });
    }

    fn process_relayed_rejection(&self, from: u32) {
        self.core.change(|machine, _| machine.on_reject(from));
    }

    fn stop(&self) {
        if let Err(cause) = self.shut_down(STOP_TIMEOUT) {
            tracing::warn!(%cause, "handshake service stopped");
        }
    }
}
