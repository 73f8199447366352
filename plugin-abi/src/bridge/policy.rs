//! The policy manager and its runners. The port gate is asked per stream and per datagram: no JSON there, and a runner
//! that cannot answer denies.

use std::cell::Cell;
use std::sync::Arc;

use abi_stable::std_types::{ROption, RSlice, RStr, RString, RVec};
use serde_json::{Map, Value};

use super::{Border, Local, Remote, adopt_option, border, from_json, json};
use crate::abi::{self, AbiResult};
use crate::types::{Direction, PolicyEvent, PortGate};
use crate::{Error, Result, api};

border!(PolicyManager, PolicyManagerArc);
border!(PolicyRunner, PolicyRunnerArc);

impl<T: api::PolicyManager + ?Sized + 'static> abi::PolicyManager for Local<T> {
    fn start(&self, network: u16, document_json: RStr<'_>) -> AbiResult<()> {
        self.guard("PolicyManager.start", |m| m.start(network, document_json.as_str()))
    }

    fn stop(&self, network: u16) -> AbiResult<()> {
        self.guard("PolicyManager.stop", |m| {
            m.stop(network);
            Ok(())
        })
    }

    fn get(&self, network: u16) -> AbiResult<ROption<abi::PolicyRunnerArc>> {
        self.guard("PolicyManager.get", |m| Ok(m.get(network).map(|r| r.lend(&self.link)).into()))
    }

    fn all(&self) -> AbiResult<RVec<abi::PolicyRunnerArc>> {
        self.guard("PolicyManager.all", |m| Ok(m.all().into_iter().map(|r| r.lend(&self.link)).collect()))
    }

    fn stop_all(&self) -> AbiResult<()> {
        self.guard("PolicyManager.stop_all", |m| {
            m.stop_all();
            Ok(())
        })
    }

    fn load_persisted(&self) -> AbiResult<RVec<u16>> {
        self.guard("PolicyManager.load_persisted", |m| Ok(m.load_persisted()?.into()))
    }

    fn explain(&self, document: RStr<'_>, event: RStr<'_>, context_json: RStr<'_>) -> AbiResult<RString> {
        self.guard("PolicyManager.explain", |m| {
            let context = from_json(context_json.as_str())?;
            json(&m.explain(document.as_str(), event.as_str(), &context)?)
        })
    }
}

thread_local! {
    /// The last question of this thread, whose texts the next one reuses: the gate is asked per datagram.
    static GATE: Cell<Option<Box<PortGate>>> = const { Cell::new(None) };
}

fn empty_gate() -> PortGate {
    PortGate {
        event: PolicyEvent::Connect,
        port: 0,
        peer: 0,
        payload_size: 0,
        direction: Direction::In,
        local_tags: Vec::new(),
        node_info_tags: Vec::new(),
    }
}

fn refill(tags: &mut Vec<String>, from: &[RStr<'_>]) {
    tags.truncate(from.len());
    for (at, tag) in from.iter().enumerate() {
        match tags.get_mut(at) {
            Some(old) if old == tag.as_str() => {}
            Some(old) => {
                old.clear();
                old.push_str(tag.as_str());
            }
            None => tags.push(tag.as_str().to_owned()),
        }
    }
}

/// Lends `tags` for a call; few of them without asking the allocator.
fn with_tags<R>(tags: &[String], f: impl FnOnce(RSlice<'_, RStr<'_>>) -> R) -> R {
    const FEW: usize = 8;
    if tags.len() <= FEW {
        let mut few = [RStr::from_str(""); FEW];
        for (slot, tag) in few.iter_mut().zip(tags) {
            *slot = tag.as_str().into();
        }
        return f(RSlice::from_slice(&few[..tags.len()]));
    }
    let all: Vec<RStr<'_>> = tags.iter().map(|t| t.as_str().into()).collect();
    f(RSlice::from_slice(&all))
}

impl api::PolicyManager for Remote<abi::PolicyManagerArc> {
    fn start(&self, network: u16, document_json: &str) -> Result<()> {
        self.call("PolicyManager.start", |m| m.start(network, document_json.into()))
    }

    fn stop(&self, network: u16) {
        self.call_or("PolicyManager.stop", (), |m| m.stop(network));
    }

    fn get(&self, network: u16) -> Option<Arc<dyn api::PolicyRunner>> {
        self.call("PolicyManager.get", |m| m.get(network)).ok().and_then(|r| adopt_option(r, &self.link))
    }

    fn all(&self) -> Vec<Arc<dyn api::PolicyRunner>> {
        match self.call("PolicyManager.all", |m| m.all()) {
            Ok(all) => all.into_iter().map(|r| <dyn api::PolicyRunner>::adopt(r, &self.link)).collect(),
            // "No runners" would open every gate. Whose policies cannot be asked has one that says no.
            Err(e) => vec![Arc::new(Denies(e))],
        }
    }

    fn stop_all(&self) {
        self.call_or("PolicyManager.stop_all", (), |m| m.stop_all());
    }

    fn load_persisted(&self) -> Result<Vec<u16>> {
        self.call("PolicyManager.load_persisted", |m| m.load_persisted()).map(RVec::into_vec)
    }

    fn explain(
        &self,
        document_json: &str,
        event: &str,
        context: &Map<String, Value>,
    ) -> Result<Map<String, Value>> {
        let context = json(context)?;
        let answer = self.call("PolicyManager.explain", |m| {
            m.explain(document_json.into(), event.into(), context.as_rstr())
        });
        answer.and_then(|text| from_json(&text))
    }
}

impl<T: api::PolicyRunner + ?Sized + 'static> abi::PolicyRunner for Local<T> {
    #[inline]
    fn network_id(&self) -> AbiResult<u16> {
        self.guard("PolicyRunner.network_id", |r| Ok(r.network_id()))
    }

    #[inline]
    fn has_member(&self, node: u32) -> AbiResult<bool> {
        self.guard("PolicyRunner.has_member", |r| Ok(r.has_member(node)))
    }

    #[inline]
    fn evaluate_port_gate(
        &self,
        event: RStr<'_>,
        port: u16,
        peer: u32,
        payload_size: u32,
        direction: RStr<'_>,
        local_tags: RSlice<'_, RStr<'_>>,
        node_info_tags: RSlice<'_, RStr<'_>>,
    ) -> AbiResult<bool> {
        self.guard("PolicyRunner.evaluate_port_gate", |r| {
            let event = PolicyEvent::parse(event.as_str())
                .ok_or_else(|| Error::invalid(format!("unknown policy event \"{event}\"")))?;
            let mut gate = GATE.try_with(Cell::take).ok().flatten().unwrap_or_else(|| Box::new(empty_gate()));
            gate.event = event;
            gate.direction = if direction.as_str() == "out" { Direction::Out } else { Direction::In };
            (gate.port, gate.peer, gate.payload_size) = (port, peer, payload_size);
            refill(&mut gate.local_tags, local_tags.as_slice());
            refill(&mut gate.node_info_tags, node_info_tags.as_slice());
            let pass = r.evaluate_port_gate(&gate);
            let _ = GATE.try_with(|kept| kept.set(Some(gate)));
            Ok(pass)
        })
    }

    fn evaluate_actions(&self, event: RStr<'_>, context_json: RStr<'_>) -> AbiResult<()> {
        self.guard("PolicyRunner.evaluate_actions", |r| {
            r.evaluate_actions(event.as_str(), &from_json(context_json.as_str())?);
            Ok(())
        })
    }

    fn status(&self) -> AbiResult<RString> {
        self.guard("PolicyRunner.status", |r| json(&r.status()))
    }

    fn peer_list(&self) -> AbiResult<RString> {
        self.guard("PolicyRunner.peer_list", |r| json(&r.peer_list()))
    }

    fn force_cycle(&self) -> AbiResult<RString> {
        self.guard("PolicyRunner.force_cycle", |r| json(&r.force_cycle()?))
    }

    fn reconcile_now(&self) -> AbiResult<u32> {
        self.guard("PolicyRunner.reconcile_now", |r| r.reconcile_now())
    }

    fn policy_json(&self) -> AbiResult<RString> {
        self.guard("PolicyRunner.policy_json", |r| Ok(r.policy_json().into()))
    }

    fn stop(&self) -> AbiResult<()> {
        self.guard("PolicyRunner.stop", |r| {
            r.stop();
            Ok(())
        })
    }
}

impl api::PolicyRunner for Remote<abi::PolicyRunnerArc> {
    fn network_id(&self) -> u16 {
        self.call_or("PolicyRunner.network_id", 0, |r| r.network_id())
    }

    fn has_member(&self, node: u32) -> bool {
        // A runner that cannot answer must still be asked at the gate, where it denies.
        self.call_or("PolicyRunner.has_member", true, |r| r.has_member(node))
    }

    fn evaluate_port_gate(&self, gate: &PortGate) -> bool {
        self.call_or("PolicyRunner.evaluate_port_gate", false, |r| {
            with_tags(&gate.local_tags, |local_tags| {
                with_tags(&gate.node_info_tags, |node_info_tags| {
                    r.evaluate_port_gate(
                        gate.event.as_str().into(),
                        gate.port,
                        gate.peer,
                        gate.payload_size,
                        gate.direction.as_str().into(),
                        local_tags,
                        node_info_tags,
                    )
                })
            })
        })
    }

    fn evaluate_actions(&self, event: &str, context: &Map<String, Value>) {
        let Ok(context) = json(context) else { return };
        self.call_or("PolicyRunner.evaluate_actions", (), |r| {
            r.evaluate_actions(event.into(), context.as_rstr())
        });
    }

    fn status(&self) -> Map<String, Value> {
        let text = self.call("PolicyRunner.status", |r| r.status());
        text.and_then(|t| from_json(&t)).unwrap_or_default()
    }

    fn peer_list(&self) -> Vec<Value> {
        let text = self.call("PolicyRunner.peer_list", |r| r.peer_list());
        text.and_then(|t| from_json(&t)).unwrap_or_default()
    }

    fn force_cycle(&self) -> Result<Map<String, Value>> {
        self.call("PolicyRunner.force_cycle", |r| r.force_cycle()).and_then(|t| from_json(&t))
    }

    fn reconcile_now(&self) -> Result<u32> {
        self.call("PolicyRunner.reconcile_now", |r| r.reconcile_now())
    }

    fn policy_json(&self) -> String {
        self.call("PolicyRunner.policy_json", |r| r.policy_json())
            .map(RString::into_string)
            .unwrap_or_default()
    }

    fn stop(&self) {
        self.call_or("PolicyRunner.stop", (), |r| r.stop());
    }
}

/// Stands for all policies of a manager that cannot be asked any more: consulted about every peer, it denies.
struct Denies(Error);

impl api::PolicyRunner for Denies {
    fn network_id(&self) -> u16 {
        0
    }

    fn has_member(&self, _node: u32) -> bool {
        true
    }

    fn evaluate_port_gate(&self, _gate: &PortGate) -> bool {
        false
    }

    fn evaluate_actions(&self, _event: &str, _context: &Map<String, Value>) {}

    fn status(&self) -> Map<String, Value> {
        Map::from_iter([("error".to_owned(), self.0.message().into())])
    }

    fn peer_list(&self) -> Vec<Value> {
        Vec::new()
    }

    fn force_cycle(&self) -> Result<Map<String, Value>> {
        Err(self.0.clone())
    }

    fn reconcile_now(&self) -> Result<u32> {
        Err(self.0.clone())
    }

    fn policy_json(&self) -> String {
        String::new()
    }

    fn stop(&self) {}
}
