//! What plugins serve: trust checker, handshake service, webhook manager. The host adopts these; every answer about
//! trust fails closed.

use std::time::Duration;

use abi_stable::std_types::{ROption, RStr, RString};

use super::{Local, Remote, border, from_json, json, to_ms};
use crate::abi::{self, AbiResult, Asked, WebhookCounters};
use crate::types::{HandshakePendingRecord, HandshakeTrustRecord, WebhookStats};
use crate::{Result, api};

border!(TrustChecker, TrustCheckerArc);
border!(HandshakeService, HandshakeServiceArc, asked);
border!(WebhookManager, WebhookManagerArc);

impl<T: api::TrustChecker + ?Sized + 'static> abi::TrustChecker for Local<T> {
    #[inline]
    fn is_trusted(&self, node: u32) -> AbiResult<ROption<RString>> {
        self.guard("TrustChecker.is_trusted", |t| Ok(t.is_trusted(node).map(RString::from).into()))
    }
}

impl api::TrustChecker for Remote<abi::TrustCheckerArc> {
    fn is_trusted(&self, node: u32) -> Option<String> {
        let name = self.call("TrustChecker.is_trusted", |t| t.is_trusted(node)).ok()?;
        name.into_option().map(RString::into_string)
    }
}

impl<T: api::HandshakeService + ?Sized + 'static> abi::HandshakeService for Local<T> {
    #[inline]
    fn is_trusted(&self, node: u32) -> AbiResult<bool> {
        self.guard("HandshakeService.is_trusted", |h| Ok(h.is_trusted(node)))
    }

    #[inline]
    fn is_trusted_with_key(&self, node: u32, key: RStr<'_>) -> AbiResult<bool> {
        self.guard("HandshakeService.is_trusted_with_key", |h| Ok(h.is_trusted_with_key(node, key.as_str())))
    }

    fn trusted_peers(&self) -> AbiResult<RString> {
        self.guard("HandshakeService.trusted_peers", |h| json(&h.trusted_peers()))
    }

    fn pending_requests(&self) -> AbiResult<RString> {
        self.guard("HandshakeService.pending_requests", |h| json(&h.pending_requests()))
    }

    fn pending_count(&self) -> AbiResult<u32> {
        self.guard("HandshakeService.pending_count", |h| Ok(h.pending_count()))
    }

    fn send_request(&self, peer: u32, justification: RStr<'_>) -> AbiResult<()> {
        self.guard("HandshakeService.send_request", |h| h.send_request(peer, justification.as_str()))
    }

    fn approve(&self, peer: u32) -> AbiResult<()> {
        self.guard("HandshakeService.approve", |h| h.approve(peer))
    }

    fn reject(&self, peer: u32, reason: RStr<'_>) -> AbiResult<()> {
        self.guard("HandshakeService.reject", |h| h.reject(peer, reason.as_str()))
    }

    fn revoke_trust(&self, peer: u32) -> AbiResult<()> {
        self.guard("HandshakeService.revoke_trust", |h| h.revoke_trust(peer))
    }

    fn wait_for_trust(&self, peer: u32, timeout_ms: u64) -> AbiResult<bool> {
        let timeout = Duration::from_millis(timeout_ms);
        self.guard("HandshakeService.wait_for_trust", |h| Ok(h.wait_for_trust(peer, timeout)))
    }

    fn process_relayed_request(&self, from: u32, justification: RStr<'_>) -> AbiResult<()> {
        self.guard("HandshakeService.process_relayed_request", |h| {
            h.process_relayed_request(from, justification.as_str());
            Ok(())
        })
    }

    fn process_relayed_approval(&self, from: u32) -> AbiResult<()> {
        self.guard("HandshakeService.process_relayed_approval", |h| {
            h.process_relayed_approval(from);
            Ok(())
        })
    }

    fn process_relayed_rejection(&self, from: u32) -> AbiResult<()> {
        self.guard("HandshakeService.process_relayed_rejection", |h| {
            h.process_relayed_rejection(from);
            Ok(())
        })
    }

    fn stop(&self) -> AbiResult<()> {
        self.guard("HandshakeService.stop", |h| {
            h.stop();
            Ok(())
        })
    }

    #[inline]
    fn bare_is_trusted(&self, node: u32) -> bool {
        self.bare("HandshakeService.is_trusted", false, |h| h.is_trusted(node))
    }

    #[inline]
    fn bare_is_trusted_with_key(&self, node: u32, key: RStr<'_>) -> bool {
        self.bare("HandshakeService.is_trusted_with_key", false, |h| {
            h.is_trusted_with_key(node, key.as_str())
        })
    }
}

/// How it is asked where it has no `bare_...` method, or may not be asked at all. Out of line, so that the other way is a
/// jump.
impl Remote<Asked<abi::HandshakeServiceArc>> {
    #[cold]
    #[inline(never)]
    pub(super) fn is_trusted_1_0(&self, node: u32) -> bool {
        self.call_or("HandshakeService.is_trusted", false, |h| h.is_trusted(node))
    }

    #[cold]
    #[inline(never)]
    pub(super) fn is_trusted_with_key_1_0(&self, node: u32, key: &str) -> bool {
        self.call_or("HandshakeService.is_trusted_with_key", false, |h| {
            h.is_trusted_with_key(node, key.into())
        })
    }
}

impl api::HandshakeService for Remote<Asked<abi::HandshakeServiceArc>> {
    fn is_trusted(&self, node: u32) -> bool {
        match self.object.asks_is_trusted(node) {
            Some(trusted) => trusted,
            None => self.is_trusted_1_0(node),
        }
    }

    fn is_trusted_with_key(&self, node: u32, key: &str) -> bool {
        match self.object.asks_is_trusted_with_key(node, key.into()) {
            Some(trusted) => trusted,
            None => self.is_trusted_with_key_1_0(node, key),
        }
    }

    fn trusted_peers(&self) -> Vec<HandshakeTrustRecord> {
        let text = self.call("HandshakeService.trusted_peers", |h| h.trusted_peers());
        text.and_then(|t| from_json(&t)).unwrap_or_default()
    }

    fn pending_requests(&self) -> Vec<HandshakePendingRecord> {
        let text = self.call("HandshakeService.pending_requests", |h| h.pending_requests());
        text.and_then(|t| from_json(&t)).unwrap_or_default()
    }

    fn pending_count(&self) -> u32 {
        self.call_or("HandshakeService.pending_count", 0, |h| h.pending_count())
    }

    fn send_request(&self, peer: u32, justification: &str) -> Result<()> {
        self.call("HandshakeService.send_request", |h| h.send_request(peer, justification.into()))
    }

    fn approve(&self, peer: u32) -> Result<()> {
        self.call("HandshakeService.approve", |h| h.approve(peer))
    }

    fn reject(&self, peer: u32, reason: &str) -> Result<()> {
        self.call("HandshakeService.reject", |h| h.reject(peer, reason.into()))
    }

    fn revoke_trust(&self, peer: u32) -> Result<()> {
        self.call("HandshakeService.revoke_trust", |h| h.revoke_trust(peer))
    }

    fn wait_for_trust(&self, peer: u32, timeout: Duration) -> bool {
        self.call_or("HandshakeService.wait_for_trust", false, |h| h.wait_for_trust(peer, to_ms(timeout)))
    }

    fn process_relayed_request(&self, from: u32, justification: &str) {
        self.call_or("HandshakeService.process_relayed_request", (), |h| {
            h.process_relayed_request(from, justification.into())
        });
    }

    fn process_relayed_approval(&self, from: u32) {
        self.call_or("HandshakeService.process_relayed_approval", (), |h| h.process_relayed_approval(from));
    }

    fn process_relayed_rejection(&self, from: u32) {
        self.call_or("HandshakeService.process_relayed_rejection", (), |h| h.process_relayed_rejection(from));
    }

    fn stop(&self) {
        self.call_or("HandshakeService.stop", (), |h| h.stop());
    }
}

impl<T: api::WebhookManager + ?Sized + 'static> abi::WebhookManager for Local<T> {
    fn set_url(&self, url: RStr<'_>) -> AbiResult<()> {
        self.guard("WebhookManager.set_url", |w| w.set_url(url.as_str()))
    }

    fn url(&self) -> AbiResult<RString> {
        self.guard("WebhookManager.url", |w| Ok(w.url().into()))
    }

    fn stats(&self) -> AbiResult<WebhookCounters> {
        self.guard("WebhookManager.stats", |w| {
            let WebhookStats { dropped, circuit_skips } = w.stats();
            Ok(WebhookCounters { dropped, circuit_skips })
        })
    }
}

impl api::WebhookManager for Remote<abi::WebhookManagerArc> {
    fn set_url(&self, url: &str) -> Result<()> {
        self.call("WebhookManager.set_url", |w| w.set_url(url.into()))
    }

    fn url(&self) -> String {
        self.call("WebhookManager.url", |w| w.url()).map(RString::into_string).unwrap_or_default()
    }

    fn stats(&self) -> WebhookStats {
        self.call("WebhookManager.stats", |w| w.stats())
            .map(|c| WebhookStats { dropped: c.dropped, circuit_skips: c.circuit_skips })
            .unwrap_or_default()
    }
}
