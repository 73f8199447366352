//! The machine, its mutex, and what carries its effects out. Everything else in the shell calls in here.

use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use plugin_abi::{Daemon, Error, ErrorKind, Result};

use super::agent_list::AgentList;
use super::clock::Clock;
use super::config::Config;
use super::errands::Errands;
use super::keeper::Keeper;
use super::outbox::{self, Lingering};
use super::tasks::Tasks;
use super::{lock, registry};
use crate::protocol::effect::{Effect, Errand};
use crate::protocol::machine::{Begin, Decision, Machine, Request};
use crate::protocol::message::Kind;

/// Longest wait for trust; callers that want more ask again.
const MAX_WAIT: Duration = Duration::from_secs(24 * 3600);

/// The running plugin.
pub struct Core {
    machine: Mutex<Machine>,
    /// Signalled when something was granted, and when the plugin stops.
    granted: Condvar,
    /// `None` once stopped: the host may go away then.
    daemon: RwLock<Option<Arc<dyn Daemon>>>,
    agents: Option<Arc<AgentList>>,
    clock: Arc<dyn Clock>,
    config: Config,
    /// The threads.
    pub(crate) tasks: Arc<Tasks>,
    pub(super) errands: Errands,
    pub(super) lingering: Lingering,
    pub(super) keeper: Keeper,
}

impl Core {
    /// Puts the parts together; starts nothing.
    pub fn new(
        daemon: Arc<dyn Daemon>,
        machine: Machine,
        keeper: Keeper,
        config: Config,
        agents: Option<Arc<AgentList>>,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        Arc::new(Core {
            machine: Mutex::new(machine),
            granted: Condvar::new(),
            daemon: RwLock::new(Some(daemon)),
            agents,
            clock,
            config,
            tasks: Arc::default(),
            errands: Errands::default(),
            lingering: Lingering::default(),
            keeper,
        })
    }

    /// The daemon, while the plugin runs.
    pub fn daemon(&self) -> Result<Arc<dyn Daemon>> {
        let daemon = self.daemon.read().unwrap_or_else(PoisonError::into_inner).clone();
        daemon.ok_or_else(|| Error::new(ErrorKind::Closed, "the handshake plugin has been stopped"))
    }

    /// Lets go of the daemon; what comes later is answered from memory or refused.
    pub(super) fn release_daemon(&self) {
        *self.daemon.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Now, as the decisions see it.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Reads the machine.
    pub fn look<T>(&self, f: impl FnOnce(&Machine) -> T) -> T {
        f(&lock(&self.machine))
    }

    /// Changes the machine; wakes who waits for the change.
    pub fn change<T>(&self, f: impl FnOnce(&mut Machine, Timestamp) -> T) -> T {
        let now = self.now();
        let mut machine = lock(&self.machine);
        let before = machine.store().revision();
        let result = f(&mut machine, now);
        let changed = machine.store().revision() != before;
        drop(machine);
        if changed {
            self.granted.notify_all();
            self.keeper.poke();
        }
        result
    }

    /// Changes the machine and carries out what it wants.
    pub fn act(&self, daemon: &dyn Daemon, f: impl FnOnce(&mut Machine, Timestamp) -> Vec<Effect>) {
        let effects = self.change(f);
        self.carry_out(daemon, effects);
    }

    /// Decides about a request; asks the registry for a shared network if that is what it hangs on. Blocks then.
    pub fn decide(&self, daemon: &dyn Daemon, request: &Request<'_>) {
        let mut shared = None;
        loop {
            match self.change(|machine, now| machine.on_request(now, request, shared)) {
                Decision::Act(effects) => return self.carry_out(daemon, effects),
                Decision::AskSharedNetwork => shared = Some(registry::shared_network(daemon, request.peer)),
            }
        }
    }

    /// The name of a trusted agent, if its pin allows this key (empty: no key is known).
    pub fn agent(&self, daemon: &dyn Daemon, node: u32, key: &str) -> Option<String> {
        if let Some(list) = &self.agents
            && list.is_listed(node)
        {
            return list.name_with_key(node, key);
        }
        daemon.trust_checker()?.is_trusted(node)
    }

    /// Does what the machine wants, in order. Blocks where a message is sent.
    pub(super) fn carry_out(&self, daemon: &dyn Daemon, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Publish(notice) => daemon.publish(notice.topic, Some(notice.payload())),
                Effect::Registry(errand) => self.run_errand(errand),
                Effect::RemoveTunnel(peer) => daemon.tunnels().remove_peer(peer),
                Effect::SendAccept(peer) => {
                    if let Err(cause) = self.send(daemon, peer, Kind::Accept, "") {
                        tracing::debug!(peer, %cause, "accept not sent directly, answering through the registry");
                        self.run_errand(Errand::Respond { peer, accept: true });
                    }
                }
                Effect::SendReject { peer, reason } => {
                    if let Err(cause) = self.send(daemon, peer, Kind::Reject, &reason) {
                        tracing::debug!(peer, %cause, "reject not sent directly");
                    }
                }
                Effect::SendRevoke(peer) => {
                    let message = outbox::compose(daemon, peer, Kind::Revoke, "trust revoked", self.now());
                    match outbox::send(daemon, peer, &message, self.config.direct_timeout) {
                        // The tunnel goes next: the message has to be out of it first.
                        Ok(connection) => outbox::settle(connection.as_ref()),
                        Err(cause) => tracing::debug!(peer, %cause, "revoke not sent directly"),
                    }
                }
            }
        }
    }

    fn run_errand(&self, errand: Errand) {
        if !self.errands.push(errand) {
            tracing::warn!(?errand, "registry not told: too much is waiting, or the plugin is stopping");
        }
    }

    /// The registry worker's thread.
    pub fn run_errands(&self) {
        self.errands.run(|errand| self.do_errand(errand));
    }

    /// The closing thread.
    pub fn run_closer(&self) {
        self.lingering.run();
    }

    /// Looks for a newer list of trusted agents.
    pub(super) fn refresh_agents(&self) {
        if let Some(list) = &self.agents {
            list.refresh();
        }
    }

    fn do_errand(&self, errand: Errand) {
        let Ok(daemon) = self.daemon() else { return };
        let (op, params) = registry::errand(errand);
        match (errand, daemon.registry_call(op, params)) {
            (Errand::Backfill(peer), Ok(reply)) => {
                let key = registry::NodeRecord::of(&reply).public_key;
                self.act(daemon.as_ref(), |machine, _| machine.check_key(peer, &key).1);
            }
            (_, Ok(_)) => {}
            (_, Err(cause)) => tracing::debug!(op, %cause, "registry call failed"),
        }
    }

    /// Sends a message and leaves the stream open for a moment. Blocks for the dial.
    fn send(&self, daemon: &dyn Daemon, peer: u32, kind: Kind, text: &str) -> Result<()> {
        let message = outbox::compose(daemon, peer, kind, text, self.now());
        let connection = outbox::send(daemon, peer, &message, self.config.direct_timeout)?;
        self.lingering.push(connection);
        Ok(())
    }

    /// Asks `peer` for trust (handshake.md section 4, "SendRequest"). Blocks.
    pub fn request(&self, peer: u32, justification: &str) -> Result<()> {
        let daemon = self.daemon()?;
        let Begin::Send { repeated } = self.change(|machine, now| machine.begin_request(now, peer)) else {
            return Ok(());
        };
        // The answer comes as a stream of the peer's.
        daemon.open_reply_window(peer);
        let direct = self.send(daemon.as_ref(), peer, Kind::Request, justification);
        if direct.is_ok() {
            self.change(|machine, now| machine.sent_directly(now, peer));
            if !repeated {
                return Ok(());
            }
        }
        let (op, params) = registry::request_handshake(peer, justification);
        match (direct, daemon.registry_call(op, params)) {
            (_, Ok(_)) => Ok(()),
            (Ok(()), Err(cause)) => {
                tracing::debug!(peer, %cause, "repeated request went out directly only");
                Ok(())
            }
            (Err(direct), Err(relay)) if registry::is_absent(&relay) => Err(direct),
            (Err(direct), Err(relay)) => {
                tracing::debug!(peer, cause = %direct, "request not sent directly");
                Err(Error::new(relay.kind(), format!("handshake relay: {relay}")))
            }
        }
    }

    /// Blocks until `peer` is trusted, the time is up or the plugin stops.
    pub fn wait_for_trust(&self, peer: u32, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout.min(MAX_WAIT);
        let mut machine = lock(&self.machine);
        // Looked at under the lock that every grant needs: none can slip between the look and the wait.
        while !machine.store().is_trusted(peer) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.tasks.is_closed() {
                return false;
            }
            machine = self.granted.wait_timeout(machine, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Wakes everybody who waits for trust; they see that the plugin stops.
    pub(super) fn wake_waiters(&self) {
        drop(lock(&self.machine));
        self.granted.notify_all();
    }
}
