//! Registration: which number a key gets, and what the directory says about it afterwards (registry.md section 4).
//!
//! The cases, in order:
//!
//! | key | owner | result |
//! |---|---|---|
//! | of a live node | | same number, endpoint refreshed |
//! | of a node that is gone | | same number and memberships, otherwise new |
//! | new | of a live node | refused |
//! | new | of a node that is gone | that number with the new key |
//! | new | new or none | next number |
//!
//! A number that passes to a new key loses what was granted to its former holder: memberships, as with the peers, and
//! also trust pairs and waiting messages, because nobody has checked that the owner is the same (the peers keep those).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use super::{Call, Outcome, Registry};
use crate::endpoint::observed;
use crate::key::{PublicKey, decode_base64};
use crate::message::{Answer, Request};
use crate::names::check_hostname;
use crate::refusal::Refusal;
use crate::state::Node;
use pilot_wire::addr::Addr;
use pilot_wire::goquote::quote;

/// Bounds on what a stranger can make the directory keep; the peers have none.
const MAX_ADDR: usize = 300;
const MAX_OWNER: usize = 256;
const MAX_VERSION: usize = 128;
const MAX_LAN_ADDRS: usize = 64;

/// Spoken version of the protocol.
const PROTOCOL_VERSION: u32 = 1;

/// How a key and an owner map to a node number.
enum Claim {
    Live(u32),
    Returning(u32),
    Inherited(u32),
    New,
}

impl Registry {
    pub(super) fn register(&mut self, call: &Call<'_>) -> Outcome {
        let request = call.request;
        let key_text = request.text("public_key");
        if key_text.is_empty() {
            return Err(Refusal::KeyMissing);
        }
        let key = PublicKey::parse(key_text).map_err(Refusal::Key)?;
        let signed = self.check_registration_signature(request, key, key_text)?;
        check_lengths(request)?;
        let owner = request.text("owner");
        let claim = self.claim(key, owner, signed)?;

        let id = match claim {
            Claim::Live(id) | Claim::Returning(id) => id,
            Claim::Inherited(id) => {
                self.admit(call)?;
                self.state.forget_relations(id);
                self.state.set_key(id, key, signed);
                id
            }
            Claim::New => {
                self.admit(call)?;
                let id = self.state.next_node(call.now).ok_or(Refusal::NodeNumbersUsed)?;
                self.state.set_key(id, key, signed);
                id
            }
        };
        if signed {
            self.state.set_verified(id);
        }
        self.state.set_owner(id, owner);
        if !matches!(claim, Claim::Live(_)) {
            self.state.insert_node(id, Node::new(call.now));
        }
        Ok(self.refresh(call, id, key))
    }

    fn claim(&self, key: PublicKey, owner: &str, signed: bool) -> Result<Claim, Refusal> {
        if let Some(id) = self.state.node_of_key(&key) {
            if !signed && self.state.identity(id).is_some_and(|i| i.verified) {
                return Err(Refusal::Downgrade(id));
            }
            return Ok(if self.state.node(id).is_some() { Claim::Live(id) } else { Claim::Returning(id) });
        }
        let owned = if owner.is_empty() { None } else { self.state.node_of_owner(owner) };
        match owned {
            Some(node) if self.state.node(node).is_some() => {
                Err(Refusal::OwnerTaken { owner: owner.to_owned(), node })
            }
            Some(id) => Ok(Claim::Inherited(id)),
            None => Ok(Claim::New),
        }
    }

    /// Whether there is room, and patience, for one more key.
    fn admit(&mut self, call: &Call<'_>) -> Result<(), Refusal> {
        if self.state.node_count() >= self.settings.max_nodes {
            return Err(Refusal::Full);
        }
        let source = call.source.ip().to_canonical();
        match self.settings.registrations_per_minute {
            Some(limit)
                if !self.settings.unlimited.contains(&source)
                    && !self.quota.take(source, call.now, limit) =>
            {
                Err(Refusal::TooManyRegistrations(source))
            }
            _ => Ok(()),
        }
    }

    /// Brings endpoint, version and hostname of a live node up to date and says so.
    fn refresh(&mut self, call: &Call<'_>, id: u32, key: PublicKey) -> Answer {
        let request = call.request;
        let lan_addrs: Vec<String> = request
            .texts("lan_addrs")
            .filter(|a| !a.is_empty() && a.len() <= MAX_ADDR)
            .take(MAX_LAN_ADDRS)
            .map(str::to_owned)
            .collect();
        let mut observed_addr = String::new();
        if let Some(node) = self.state.node_mut(id) {
            let version = request.text("version");
            if !version.is_empty() {
                node.version = version.to_owned();
            }
            observed_addr = match request.text("listen_addr") {
                // v1.9.0 means "only who I am" by an empty address, and takes "" for the answer.
                "" if is_v1_9(&node.version) => String::new(),
                listen => observed(listen, call.source),
            };
            node.real_addr.clone_from(&observed_addr);
            node.lan_addrs = lan_addrs;
            node.relay_only = request.flag("relay_only");
        }
        self.state.seen(id, call.now, false);
        let hostname_error = self.try_hostname(id, request.text("hostname")).err();
        let hostname = self.state.node(id).map_or("", Node::hostname);
        Answer::ok("register")
            .with("node_id", id)
            .with("network_id", 0)
            .with("address", address_text(id))
            .with("public_key", key.to_string())
            .with("observed_addr", observed_addr)
            .with("protocol_version", PROTOCOL_VERSION)
            .with_text("hostname", if hostname_error.is_none() { hostname } else { "" })
            .with_some("hostname_error", hostname_error)
    }

    /// Gives a node the name it registers with, if it can have it; "" leaves the name as it is.
    fn try_hostname(&mut self, id: u32, hostname: &str) -> Result<(), String> {
        if hostname.is_empty() {
            return Ok(());
        }
        check_hostname(hostname).map_err(|e| e.to_string())?;
        if self.state.node_of_hostname(hostname).is_some_and(|holder| holder != id) {
            return Err(format!("hostname {} already in use", quote(hostname)));
        }
        self.state.set_hostname(id, hostname);
        Ok(())
    }

    /// Whether the registration is signed; a wrong signature is an error, a missing one only in strict mode.
    fn check_registration_signature(
        &self,
        request: Request<'_>,
        key: PublicKey,
        key_text: &str,
    ) -> Result<bool, Refusal> {
        let text = request.text("signature");
        if text.is_empty() {
            return if self.settings.signed_registration {
                Err(Refusal::RegistrationUnsigned)
            } else {
                Ok(false)
            };
        }
        let signature = decode_base64(text).map_err(|_| Refusal::RegistrationEncoding)?;
        let challenge = pilot_wire::registry::challenge::register(request.text("listen_addr"), key_text);
        if self.checks(&key, &challenge, &signature) {
            Ok(true)
        } else {
            Err(Refusal::RegistrationSignatureWrong)
        }
    }
}

/// A node's address as text.
fn address_text(id: u32) -> String {
    // As long as it gets, so that it is written in one go.
    let mut text = String::with_capacity("0:0000.0000.0000".len());
    // Writing to a text cannot fail.
    let _ = write!(text, "{}", Addr::backbone(id));
    text
}

fn check_lengths(request: Request<'_>) -> Result<(), Refusal> {
    for (field, max) in [("listen_addr", MAX_ADDR), ("owner", MAX_OWNER), ("version", MAX_VERSION)] {
        if request.text(field).len() > max {
            return Err(Refusal::FieldTooLong { field, max });
        }
    }
    Ok(())
}

fn is_v1_9(version: &str) -> bool {
    let version = version.strip_prefix('v').unwrap_or(version);
    version == "1.9" || version.starts_with("1.9.")
}

/// New keys per source address in the present minute.
#[derive(Debug, Default)]
pub(super) struct Quota {
    minute: i64,
    taken: BTreeMap<IpAddr, u32>,
}

impl Quota {
    /// Sources counted at once; when a minute brings more, counting starts over.
    const MAX_SOURCES: usize = 100_000;

    fn take(&mut self, source: IpAddr, now: i64, limit: u32) -> bool {
        let minute = now.div_euclid(60);
        if minute != self.minute || self.taken.len() >= Self::MAX_SOURCES {
            *self = Self { minute, taken: BTreeMap::new() };
        }
        let taken = self.taken.entry(source).or_default();
        *taken = taken.saturating_add(1);
        *taken <= limit
    }
}
