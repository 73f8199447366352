//! Who may: signatures of nodes, the admin token, roles in a network (registry.md sections 2.2 to 2.4).
//!
//! Called by every operation that is not open to everyone.

use subtle::ConstantTimeEq;

use super::{Call, Registry};
use crate::key::decode_base64;
use crate::refusal::Refusal;
use crate::state::{Network, Role};

impl Registry {
    /// The request's `signature` must be the live node's over `challenge`.
    pub(super) fn require_signature(
        &self,
        call: &Call<'_>,
        node: u32,
        challenge: &str,
    ) -> Result<(), Refusal> {
        self.live(node)?;
        let text = call.request.text("signature");
        if text.is_empty() {
            return Err(Refusal::SignatureMissing);
        }
        let signature = decode_base64(text).map_err(Refusal::SignatureEncoding)?;
        if self.verifies(node, challenge, &signature) { Ok(()) } else { Err(Refusal::SignatureWrong) }
    }

    /// As [`require_signature`](Self::require_signature), or the admin token in its place.
    pub(super) fn require_signature_or_admin(
        &self,
        call: &Call<'_>,
        node: u32,
        challenge: &str,
    ) -> Result<(), Refusal> {
        self.live(node)?;
        if self.require_admin(call).is_ok() {
            return Ok(());
        }
        self.require_signature(call, node, challenge)
    }

    /// Whether `signature` is the one the node's present key makes over `challenge`.
    pub(super) fn verifies(&self, node: u32, challenge: &str, signature: &[u8]) -> bool {
        self.state.identity(node).is_some_and(|i| self.checks(&i.key, challenge, signature))
    }

    /// The request's `admin_token` must be the server's.
    pub(super) fn require_admin(&self, call: &Call<'_>) -> Result<(), Refusal> {
        match self.settings.admin_token.as_deref() {
            None | Some("") => Err(Refusal::NoAdmin),
            Some(token) if same_secret(token, call.request.text("admin_token")) => Ok(()),
            Some(_) => Err(Refusal::AdminToken),
        }
    }

    /// The server's admin token or the network's own one.
    pub(super) fn has_network_token(&self, call: &Call<'_>, network: &Network) -> bool {
        let own = &network.admin_token;
        self.require_admin(call).is_ok()
            || !own.is_empty() && same_secret(own, call.request.text("admin_token"))
    }

    /// A token, or one of the `wanted` roles of the request's `node_id` in the network.
    ///
    /// The node number is taken at its word, as all peers do: their clients send no signature with these requests.
    pub(super) fn require_role(&self, call: &Call<'_>, network: u16, wanted: &[Role]) -> Result<(), Refusal> {
        if self.has_network_token(call, self.known_network(network)?) {
            return Ok(());
        }
        match call.request.node("node_id") {
            0 => Err(Refusal::RoleNode),
            node => self.check_role(network, node, wanted),
        }
    }

    /// One of the `wanted` roles of a node in a network.
    pub(super) fn check_role(&self, network: u16, node: u32, wanted: &[Role]) -> Result<(), Refusal> {
        match self.state.member(network, node).and_then(|m| m.role) {
            None => Err(Refusal::RoleNone { node, network }),
            Some(role) if wanted.contains(&role) => Ok(()),
            Some(role) => {
                let wanted: Vec<_> = wanted.iter().map(|r| r.as_str()).collect();
                Err(Refusal::RoleWrong { node, role: role.as_str(), wanted: wanted.join(" ") })
            }
        }
    }

    pub(super) fn known_network(&self, network: u16) -> Result<&Network, Refusal> {
        self.state.network(network).ok_or(Refusal::NetworkNotFound(network))
    }

    /// The network must exist and carry the enterprise flag; `what` names the refused feature.
    pub(super) fn enterprise_network(&self, network: u16, what: &'static str) -> Result<&Network, Refusal> {
        let found = self.known_network(network)?;
        if found.enterprise { Ok(found) } else { Err(Refusal::Enterprise(what)) }
    }
}

/// Compares without telling by its duration where the texts differ (only whether their lengths do).
pub(super) fn same_secret(ours: &str, theirs: &str) -> bool {
    ours.as_bytes().ct_eq(theirs.as_bytes()).into()
}
