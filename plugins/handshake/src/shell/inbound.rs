//! From bytes on a stream to a decision: the checks of handshake.md section 2 in their order, with the registry lookup
//! in the middle.
//!
//! Called by the listener's handlers. The checks themselves are in `protocol::receive`.

use plugin_abi::Daemon;

use super::core::Core;
use super::registry;
use crate::protocol::machine::{Request, Via};
use crate::protocol::message::{Kind, Message};
use crate::protocol::receive::{self, Refusal};

impl Core {
    /// Handles one message that came over a stream of node `stream`. Blocks for registry lookups and for an answer.
    ///
    /// # Errors
    /// Why it was dropped; nobody is told.
    pub fn receive(&self, daemon: &dyn Daemon, message: &Message, stream: u32) -> Result<(), Refusal> {
        let own = daemon.node_id();
        receive::check_age(message, self.now())?;
        let replay_key = message.replay_key(own);
        if self.look(|machine| machine.seen(&replay_key)) {
            return Err(Refusal::Replayed);
        }
        let bound = receive::needs_lookup(message)? && {
            let registered = registry::lookup(daemon, message.node_id).ok().map(|node| node.public_key);
            receive::check_key(message, own, registered.as_deref())?
        };
        receive::check_sender(message, stream)?;
        if !self.change(|machine, now| machine.remember(replay_key, message.node_id, now)) {
            return Err(Refusal::Replayed);
        }
        self.dispatch(daemon, message, bound, stream);
        Ok(())
    }

    fn dispatch(&self, daemon: &dyn Daemon, message: &Message, bound: bool, stream: u32) {
        let (peer, key) = (message.node_id, message.public_key.as_str());
        match message.kind() {
            Some(Kind::Request) => {
                let agent = self.agent(daemon, peer, key);
                let request = Request {
                    peer,
                    key,
                    justification: &message.justification,
                    agent: agent.as_deref(),
                    via: Via::Direct { bound, source: stream },
                };
                self.decide(daemon, &request);
            }
            Some(Kind::Accept) => self.act(daemon, |machine, now| machine.on_accept(now, peer, key)),
            Some(Kind::Reject) => self.change(|machine, _| machine.on_reject(peer)),
            Some(Kind::Revoke) => self.act(daemon, |machine, _| machine.on_revoke(peer)),
            None => {
                tracing::debug!(peer, kind = message.kind, "handshake message of an unknown type ignored")
            }
        }
    }
}
