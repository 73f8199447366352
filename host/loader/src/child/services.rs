//! The services that a plugin may offer, over the socket: [`RemoteHandshake`] and [`RemoteChecker`] on the asking side of
//! either process, `serve_*` on the answering side of either. What cannot be answered is answered safely: not trusted,
//! nothing, an error.

use std::time::Duration;

use plugin_abi::{
    HandshakePendingRecord, HandshakeService, HandshakeTrustRecord, PolicyManager, PolicyRunner, Result,
    TrustChecker, WebhookManager,
};
use serde_json::Value;

use super::frame::Raw;
use super::message::{Answer, Handshake, Policy, Runner, Webhook, map_from, map_text, unpack};

/// How long a question may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Answered from memory: part of a decision about a packet or a stream.
    Decision,
    /// May wait for the network, and for this long on top.
    Work(Duration),
}

/// May wait for the network.
pub(super) const WORK: Pace = Pace::Work(Duration::ZERO);

/// Who puts questions about trust to the other side.
pub(super) trait AskTrust: Send + Sync {
    fn handshake(&self, op: &'static str, ask: Handshake, pace: Pace) -> Result<(Answer, Raw)>;
    fn check(&self, node: u32) -> Result<(Answer, Raw)>;
}

/// The other side's trust checker.
pub(super) struct RemoteChecker<A>(pub A);

impl<A: AskTrust> TrustChecker for RemoteChecker<A> {
    fn is_trusted(&self, node: u32) -> Option<String> {
        unpack!(self.0.check(node), "is_trusted", Answer::Name(name) => name).ok().flatten()
    }
}

/// The other side's handshake service.
pub(super) struct RemoteHandshake<A>(pub A);

impl<A: AskTrust> RemoteHandshake<A> {
    fn flag(&self, op: &'static str, ask: Handshake, pace: Pace) -> bool {
        unpack!(self.0.handshake(op, ask, pace), op, Answer::Flag(yes) => yes).unwrap_or(false)
    }

    fn done(&self, op: &'static str, ask: Handshake) -> Result<()> {
        unpack!(self.0.handshake(op, ask, WORK), op, Answer::Done => ())
    }
}

impl<A: AskTrust> HandshakeService for RemoteHandshake<A> {
    fn is_trusted(&self, node: u32) -> bool {
        self.flag("is_trusted", Handshake::IsTrusted { node }, Pace::Decision)
    }

    fn is_trusted_with_key(&self, node: u32, key: &str) -> bool {
        let ask = Handshake::IsTrustedWithKey { node, key: key.to_owned() };
        self.flag("is_trusted_with_key", ask, Pace::Decision)
    }

    fn trusted_peers(&self) -> Vec<HandshakeTrustRecord> {
        let answer = self.0.handshake("trusted_peers", Handshake::TrustedPeers, WORK);
        unpack!(answer, "trusted_peers", Answer::Trusted(list) => list).unwrap_or_default()
    }

    fn pending_requests(&self) -> Vec<HandshakePendingRecord> {
        let answer = self.0.handshake("pending_requests", Handshake::PendingRequests, WORK);
        unpack!(answer, "pending_requests", Answer::Pending(list) => list).unwrap_or_default()
    }

    fn pending_count(&self) -> u32 {
        let answer = self.0.handshake("pending_count", Handshake::PendingCount, Pace::Decision);
        let count = unpack!(answer, "pending_count", Answer::Number(n) => n).unwrap_or_default();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    fn send_request(&self, peer: u32, justification: &str) -> Result<()> {
        let ask = Handshake::SendRequest { peer, justification: justification.to_owned() };
        self.done("send_request", ask)
    }

    fn approve(&self, peer: u32) -> Result<()> {
        self.done("approve", Handshake::Approve { peer })
    }

    fn reject(&self, peer: u32, reason: &str) -> Result<()> {
        self.done("reject", Handshake::Reject { peer, reason: reason.to_owned() })
    }

    fn revoke_trust(&self, peer: u32) -> Result<()> {
        self.done("revoke_trust", Handshake::Revoke { peer })
    }

    fn wait_for_trust(&self, peer: u32, timeout: Duration) -> bool {
        self.flag("wait_for_trust", Handshake::WaitForTrust { peer, timeout }, Pace::Work(timeout))
    }

    fn process_relayed_request(&self, from: u32, justification: &str) {
        let ask = Handshake::RelayedRequest { from, justification: justification.to_owned() };
        let _ = self.done("process_relayed_request", ask);
    }

    fn process_relayed_approval(&self, from: u32) {
        let _ = self.done("process_relayed_approval", Handshake::RelayedApproval { from });
    }

    fn process_relayed_rejection(&self, from: u32) {
        let _ = self.done("process_relayed_rejection", Handshake::RelayedRejection { from });
    }

    fn stop(&self) {
        let _ = self.done("stop", Handshake::Stop);
    }
}

pub(super) fn serve_handshake(service: &dyn HandshakeService, ask: Handshake) -> Answer {
    match ask {
        Handshake::IsTrusted { node } => Answer::Flag(service.is_trusted(node)),
        Handshake::IsTrustedWithKey { node, key } => Answer::Flag(service.is_trusted_with_key(node, &key)),
        Handshake::TrustedPeers => Answer::Trusted(service.trusted_peers()),
        Handshake::PendingRequests => Answer::Pending(service.pending_requests()),
        Handshake::PendingCount => Answer::Number(service.pending_count().into()),
        Handshake::SendRequest { peer, justification } => service.send_request(peer, &justification).into(),
        Handshake::Approve { peer } => service.approve(peer).into(),
        Handshake::Reject { peer, reason } => service.reject(peer, &reason).into(),
        Handshake::Revoke { peer } => service.revoke_trust(peer).into(),
        Handshake::WaitForTrust { peer, timeout } => Answer::Flag(service.wait_for_trust(peer, timeout)),
        Handshake::RelayedRequest { from, justification } => {
            service.process_relayed_request(from, &justification);
            Answer::Done
        }
        Handshake::RelayedApproval { from } => {
            service.process_relayed_approval(from);
            Answer::Done
        }
        Handshake::RelayedRejection { from } => {
            service.process_relayed_rejection(from);
            Answer::Done
        }
        Handshake::Stop => {
            service.stop();
            Answer::Done
        }
    }
}

pub(super) fn serve_policy(manager: &dyn PolicyManager, ask: Policy) -> Answer {
    match ask {
        Policy::Start { network, document } => manager.start(network, &document).into(),
        Policy::Stop { network } => {
            manager.stop(network);
            Answer::Done
        }
        Policy::Has { network } => Answer::Flag(manager.get(network).is_some()),
        Policy::All => Answer::Networks(manager.all().iter().map(|r| r.network_id()).collect()),
        Policy::StopAll => {
            manager.stop_all();
            Answer::Done
        }
        Policy::LoadPersisted => manager.load_persisted().map(Answer::Networks).into(),
        Policy::Explain { document, event, context } => {
            let told = map_from(&context).and_then(|context| manager.explain(&document, &event, &context));
            told.and_then(|m| map_text(&m)).map(Answer::Text).into()
        }
    }
}

/// `Err`: the question itself makes no sense.
pub(super) fn serve_runner(runner: &dyn PolicyRunner, ask: Runner) -> Result<Answer, String> {
    Ok(match ask {
        Runner::HasMember { node } => Answer::Flag(runner.has_member(node)),
        Runner::Gate(gate) => Answer::Flag(runner.evaluate_port_gate(&gate.into_port_gate()?)),
        Runner::Actions { event, context } => match map_from(&context) {
            Ok(context) => {
                runner.evaluate_actions(&event, &context);
                Answer::Done
            }
            Err(e) => e.into(),
        },
        Runner::Status => map_text(&runner.status()).map(Answer::Text).into(),
        Runner::Peers => Answer::Text(Value::Array(runner.peer_list()).to_string()),
        Runner::ForceCycle => runner.force_cycle().and_then(|m| map_text(&m)).map(Answer::Text).into(),
        Runner::Reconcile => runner.reconcile_now().map(|n| Answer::Number(n.into())).into(),
        Runner::Document => Answer::Text(runner.policy_json()),
        Runner::Stop => {
            runner.stop();
            Answer::Done
        }
    })
}

pub(super) fn serve_webhook(manager: &dyn WebhookManager, ask: Webhook) -> Answer {
    match ask {
        Webhook::SetUrl { url } => manager.set_url(&url).into(),
        Webhook::Url => Answer::Text(manager.url()),
        Webhook::Stats => Answer::Stats(manager.stats()),
    }
}
