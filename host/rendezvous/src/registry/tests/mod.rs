//! The registry rule by rule, through its public face: requests in, answers and changes out.

mod audit;
mod directory;
mod frames;
mod keys;
mod networks;
mod proof;
mod properties;
mod provision;
mod register;
mod restore;
mod standby;
mod trust;

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer, SigningKey};
use pilot_wire::registry::challenge;
use serde_json::{Map, Value, json};

use super::*;
use crate::settings::Settings;

pub(super) const ADMIN: &str = "sekrit";
const START: i64 = 1_800_000_000;

/// One message of JSON mode, from 192.0.2.1; read from its text, as a driver reads it.
pub(super) fn message(
    registry: &mut Registry,
    now: i64,
    request: &Map<String, Value>,
    proof: Option<Proof>,
) -> Reply {
    let text = serde_json::to_string(request).unwrap();
    registry.handle(now, "192.0.2.1:5000".parse().unwrap(), &Query::message(&text).unwrap(), proof)
}

/// The answer to a message.
pub(super) fn object(reply: &Reply) -> Map<String, Value> {
    match &reply.body {
        query::Body::Message(answer) => answer.clone().done(),
        other => panic!("{other:?} is no message"),
    }
}

/// A registry with its clock, and the store that a driver would keep.
pub(super) struct Rig {
    pub registry: Registry,
    pub now: i64,
    pub stored: BTreeMap<RecordKey, Vec<u8>>,
    pub notified: Vec<u32>,
}

/// A key pair made of one byte.
pub(super) fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub(super) fn key_text(seed: u8) -> String {
    STANDARD.encode(key(seed).verifying_key().as_bytes())
}

pub(super) fn sign(seed: u8, challenge: &str) -> String {
    STANDARD.encode(key(seed).sign(challenge.as_bytes()).to_bytes())
}

impl Rig {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings {
            admin_token: Some(ADMIN.into()),
            beacon_addr: Some("198.51.100.1:9001".into()),
            ..Settings::default()
        };
        change(&mut settings);
        Self { registry: Registry::new(settings), now: START, stored: BTreeMap::new(), notified: Vec::new() }
    }

    /// One request over a connection from 192.0.2.1.
    pub fn ask(&mut self, op: &str, params: Value) -> Map<String, Value> {
        let Value::Object(mut request) = params else { panic!("{params} is no object") };
        request.insert("type".into(), op.into());
        let reply = self.reply(&request);
        let changes = self.registry.take_changes();
        assert_eq!(reply.changed, !changes.is_empty(), "{request:?}");
        self.store(&changes);
        let answer = object(&reply);
        self.notified.extend(reply.notify);
        answer
    }

    /// One message of JSON mode, from 192.0.2.1.
    pub fn reply(&mut self, request: &Map<String, Value>) -> Reply {
        message(&mut self.registry, self.now, request, None)
    }

    pub fn store(&mut self, changes: &[Change]) {
        for change in changes {
            match &change.value {
                Some(value) => drop(self.stored.insert(change.key, value.to_vec())),
                None => drop(self.stored.remove(&change.key)),
            }
        }
    }

    /// A request that must succeed.
    #[track_caller]
    pub fn ok(&mut self, op: &str, params: Value) -> Map<String, Value> {
        let answer = self.ask(op, params);
        assert_eq!(answer.get("type"), Some(&json!(format!("{op}_ok"))), "{answer:?}");
        answer
    }

    /// A request that must be refused; gives the text.
    #[track_caller]
    pub fn refused(&mut self, op: &str, params: Value) -> String {
        let answer = self.ask(op, params);
        assert_eq!(answer.get("type"), Some(&json!("error")), "{op}: {answer:?}");
        answer["error"].as_str().unwrap().to_owned()
    }

    /// Registers the key of `seed` without signature; gives its number.
    pub fn join(&mut self, seed: u8) -> u32 {
        let params = json!({"public_key": key_text(seed), "listen_addr": format!("203.0.113.{seed}:4000")});
        u32::try_from(self.ok("register", params)["node_id"].as_u64().unwrap()).unwrap()
    }

    /// Registers the keys 1 to `count` as nodes 1 to `count`.
    pub fn nodes(count: u8) -> Self {
        let mut rig = Self::new();
        for seed in 1..=count {
            assert_eq!(rig.join(seed), u32::from(seed));
        }
        rig
    }

    /// A signed request of node `node`, whose key is made of its number.
    pub fn signed(&self, node: u8, challenge: &str, params: Value) -> Value {
        let mut params = params;
        params["signature"] = sign(node, challenge).into();
        params
    }

    /// `<op>` with the challenge `<op>:<node>`.
    #[track_caller]
    pub fn own(&mut self, node: u8, op: &str, mut params: Value) -> Map<String, Value> {
        params["node_id"] = node.into();
        let params = self.signed(node, &challenge::node_op(op, node.into()), params);
        self.ask(op, params)
    }

    pub fn resolve(&mut self, requester: u8, node: u32) -> Map<String, Value> {
        let params = json!({"node_id": node, "requester_id": requester});
        let params = self.signed(requester, &challenge::resolve(requester.into(), node), params);
        self.ask("resolve", params)
    }

    #[track_caller]
    pub fn trust(&mut self, node: u8, peer: u8) {
        let params = json!({"node_id": node, "peer_id": peer});
        let params = self.signed(node, &challenge::report_trust(node.into(), peer.into()), params);
        self.ok("report_trust", params);
    }

    /// A network made by node 1; gives its number.
    #[track_caller]
    pub fn network(&mut self, name: &str, rule: &str, enterprise: bool) -> u16 {
        let params = json!({"name": name, "join_rule": rule, "enterprise": enterprise, "node_id": 1, "token": "t0",
            "admin_token": ADMIN});
        u16::try_from(self.ok("create_network", params)["network_id"].as_u64().unwrap()).unwrap()
    }

    #[track_caller]
    pub fn enter(&mut self, node: u8, network: u16) {
        let params = json!({"node_id": node, "network_id": network, "token": "t0"});
        let params = self.signed(node, &challenge::join_network(node.into(), network), params);
        self.ok("join_network", params);
    }

    /// Takes all silent nodes out, much later.
    pub fn reap(&mut self) {
        self.now += 31 * 60;
        let changes = self.registry.sweep(self.now);
        self.store(&changes);
        assert_eq!(self.registry.node_count(), 0);
    }

    /// The same registry after a crash.
    pub fn restart(self) -> Self {
        let Self { registry, now, stored, notified } = self;
        let registry = Registry::restore(registry.settings, stored.clone(), now).unwrap();
        Self { registry, now, stored, notified }
    }
}
