//! Each test names the row of handshake.md section 4 that it holds.

use super::*;
use crate::protocol::store::{COOLDOWN, MAX_PENDING_PER_SOURCE};

const P: u32 = 42;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("in range")
}

fn direct(key: &str, bound: bool) -> Request<'_> {
    Request { peer: P, key, justification: "hi\n<b>", agent: None, via: Via::Direct { bound, source: P } }
}

fn relayed() -> Request<'static> {
    Request { peer: P, key: "", justification: "hi", agent: None, via: Via::Relay }
}

/// Decides with the fact "no shared network" unless told otherwise.
fn act(machine: &mut Machine, request: &Request<'_>, shared: Option<u16>) -> Vec<Effect> {
    match machine.on_request(at(100), request, Some(shared)) {
        Decision::Act(effects) => effects,
        Decision::AskSharedNetwork => panic!("the fact was given"),
    }
}

/// Topics with their reasons, in order.
fn events(effects: &[Effect]) -> Vec<String> {
    let reason = |n: &Notice| n.details.iter().find(|(name, _)| *name == "reason").map(|(_, v)| v.clone());
    effects
        .iter()
        .filter_map(|e| match e {
            Effect::Publish(n) => Some(match reason(n) {
                Some(reason) => format!("{}({reason})", n.topic),
                None => n.topic.to_owned(),
            }),
            _ => None,
        })
        .collect()
}

fn work(effects: &[Effect]) -> Vec<Effect> {
    effects.iter().filter(|e| !matches!(e, Effect::Publish(_))).cloned().collect()
}

fn trusting(key: &str) -> Machine {
    let mut machine = Machine::default();
    machine.store.grant(P, Trusted { public_key: key.into(), approved_at: at(1), mutual: false, network: 0 });
    machine
}

fn asking() -> Machine {
    let mut machine = Machine::default();
    assert_eq!(machine.begin_request(at(1), P), Begin::Send { repeated: false });
    machine
}

#[test]
fn direct_row_1_trusted_answers_again() {
    for known in ["", "k"] {
        let mut machine = trusting(known);
        let effects = act(&mut machine, &direct("k", false), None);
        assert_eq!(events(&effects), ["handshake.received"]);
        assert_eq!(work(&effects), [Effect::SendAccept(P)]);
        assert_eq!(machine.store.trusted()[&P].public_key, "k", "an unbound record adopts the key");
    }
}

#[test]
fn direct_row_1_other_key_makes_a_stranger() {
    let mut machine = trusting("old");
    let effects = act(&mut machine, &direct("new", true), None);
    assert_eq!(events(&effects), ["handshake.received", "trust.changed(key_changed)", "handshake.pending"]);
    assert!(!machine.store.is_trusted(P));
}

#[test]
fn direct_row_2_mutual_needs_the_registry() {
    let mut machine = asking();
    let effects = act(&mut machine, &direct("k", true), None);
    assert_eq!(
        events(&effects),
        ["handshake.received", "handshake.auto_approved(mutual)", "trust.changed(mutual)"]
    );
    assert_eq!(work(&effects), [Effect::Registry(Errand::ReportTrust(P)), Effect::SendAccept(P)]);
    let record = &machine.store.trusted()[&P];
    assert!(record.mutual && record.public_key == "k" && record.approved_at == at(100));
    assert!(!machine.store.has_outgoing(P));

    let mut machine = asking();
    assert_eq!(
        events(&act(&mut machine, &direct("k", false), None)),
        ["handshake.received", "handshake.pending"]
    );
    assert!(machine.store.has_outgoing(P));
}

#[test]
fn direct_row_3_shared_network_is_asked_for_only_when_it_decides() {
    let mut machine = Machine::default();
    assert_eq!(machine.on_request(at(100), &direct("k", true), None), Decision::AskSharedNetwork);
    let effects = act(&mut machine, &direct("k", true), Some(7));
    assert_eq!(
        events(&effects)[1..],
        ["handshake.auto_approved(same_network)", "trust.changed(same_network)"]
    );
    assert_eq!(machine.store.trusted()[&P].network, 7);
    // Trusted, asked by us, or not confirmed: no question.
    for (mut machine, bound) in [(trusting("k"), true), (asking(), true), (Machine::default(), false)] {
        assert!(matches!(machine.on_request(at(100), &direct("k", bound), None), Decision::Act(_)));
    }
}

#[test]
fn direct_row_4_names_the_agent() {
    let mut machine = Machine::default();
    let effects = act(&mut machine, &Request { agent: Some("helper"), ..direct("k", true) }, None);
    let Effect::Publish(approved) = &effects[1] else { panic!("{effects:?}") };
    assert_eq!(
        serde_json::Value::from(approved.payload()),
        serde_json::json!({"peer_node_id": P, "reason": "trusted_agent", "agent": "helper"})
    );
    let Effect::Publish(changed) = &effects[2] else { panic!("{effects:?}") };
    assert_eq!(
        serde_json::Value::from(changed.payload()),
        serde_json::json!({"peer_node_id": P, "state": "granted", "reason": "trusted_agent", "agent": "helper"})
    );
    let mut machine = Machine::default();
    act(&mut machine, &Request { agent: Some("helper"), ..direct("k", false) }, None);
    assert!(!machine.store.is_trusted(P), "not confirmed by the registry");
}

#[test]
fn direct_row_5_automatic_approval_also_when_the_registry_is_away() {
    let mut machine = Machine::new(Store::default(), true);
    let effects = act(&mut machine, &direct("k", false), None);
    assert_eq!(
        events(&effects)[1..],
        ["handshake.auto_approved(auto_approve)", "trust.changed(auto_approve)"]
    );
    assert!(!machine.store.trusted()[&P].mutual);
}

#[test]
fn direct_row_6_waits_with_a_cleaned_text() {
    let mut machine = Machine::default();
    let effects = act(&mut machine, &direct("k", true), None);
    let Effect::Publish(pending) = &effects[1] else { panic!("{effects:?}") };
    assert_eq!(
        serde_json::Value::from(pending.payload()),
        serde_json::json!({"peer_node_id": P, "justification": "hi<b>"})
    );
    assert_eq!(machine.store.pending()[&P].justification, "hi<b>");
    assert!(work(&effects).is_empty());
}

#[test]
fn go_bug_a_full_queue_stops_automatic_approval() {
    let mut machine = Machine::default();
    for node in 0..MAX_PENDING_PER_SOURCE as u32 {
        let request = Request { peer: 1000 + node, ..direct("k", false) };
        act(&mut machine, &request, None);
    }
    assert_eq!(events(&act(&mut machine, &direct("k", true), None)), ["handshake.received"]);
    assert!(!machine.store.pending().contains_key(&P));
    act(&mut machine, &direct("k", true), Some(3));
    assert!(machine.store.is_trusted(P));
}

#[test]
fn relayed_row_1_answers_again() {
    let mut machine = trusting("k");
    assert_eq!(
        act(&mut machine, &relayed(), None),
        [Effect::Registry(Errand::Respond { peer: P, accept: true })]
    );
    assert_eq!(machine.store.trusted()[&P].public_key, "k");
}

#[test]
fn relayed_row_2_mutual_is_silent_and_not_reported() {
    let mut machine = asking();
    assert_eq!(
        act(&mut machine, &relayed(), None),
        [Effect::Registry(Errand::Respond { peer: P, accept: true }), Effect::Registry(Errand::Backfill(P))]
    );
    let record = &machine.store.trusted()[&P];
    assert!(record.mutual && record.public_key.is_empty());
}

#[test]
fn relayed_rows_3_to_5_report_and_the_last_two_tell() {
    let all = [
        Effect::Registry(Errand::Respond { peer: P, accept: true }),
        Effect::Registry(Errand::ReportTrust(P)),
        Effect::Registry(Errand::Backfill(P)),
    ];
    let mut machine = Machine::default();
    assert_eq!(machine.on_request(at(100), &relayed(), None), Decision::AskSharedNetwork);
    let effects = act(&mut machine, &relayed(), Some(7));
    assert_eq!((events(&effects), work(&effects)), (vec![], all.to_vec()));

    let mut machine = Machine::default();
    let effects = act(&mut machine, &Request { agent: Some("helper"), ..relayed() }, None);
    assert_eq!(
        events(&effects),
        ["handshake.auto_approved(trusted_agent)", "trust.changed(trusted_agent_relayed)"]
    );
    assert_eq!(work(&effects), all);

    let mut machine = Machine::new(Store::default(), true);
    let effects = act(&mut machine, &relayed(), None);
    assert_eq!(
        events(&effects),
        ["handshake.auto_approved(auto_approve)", "trust.changed(auto_approve_relayed)"]
    );
    assert_eq!(work(&effects), all);
}

#[test]
fn relayed_row_6_waits_in_silence() {
    let mut machine = Machine::default();
    assert_eq!(act(&mut machine, &relayed(), None), []);
    assert_eq!(machine.store.pending()[&P].source, P);
}

#[test]
fn accept_counts_only_after_a_request() {
    let mut machine = Machine::default();
    assert_eq!(machine.on_accept(at(2), P, "k"), []);
    assert!(!machine.store.is_trusted(P));

    let mut machine = asking();
    assert_eq!(machine.on_accept(at(2), P, "k"), [Effect::Registry(Errand::ReportTrust(P))]);
    let record = &machine.store.trusted()[&P];
    assert!(record.mutual && record.public_key == "k");
}

#[test]
fn accept_keeps_a_known_key_and_drops_a_record_of_another() {
    let mut machine = trusting("known");
    machine.store.note_outgoing(P, at(1));
    machine.on_accept(at(2), P, "");
    assert_eq!(machine.store.trusted()[&P].public_key, "known");

    machine.store.note_outgoing(P, at(1));
    assert_eq!(events(&machine.on_accept(at(3), P, "other")), ["trust.changed(key_changed)"]);
    assert!(!machine.store.is_trusted(P) && !machine.store.has_outgoing(P));
}

#[test]
fn answers_are_dropped_during_the_cooldown() {
    let cooling = || {
        let mut machine = trusting("k");
        machine.revoke(at(0), P).expect("was trusted");
        machine.store.note_outgoing(P, at(0));
        machine
    };
    let mut machine = cooling();
    machine.on_accept(at(299), P, "k");
    assert!(!machine.store.is_trusted(P) && !machine.store.has_outgoing(P));
    let mut machine = cooling();
    machine.on_relayed_approval(at(299), P);
    assert!(!machine.store.is_trusted(P) && !machine.store.has_outgoing(P));
    let mut machine = cooling();
    machine.on_accept(at(0).saturating_add(COOLDOWN).expect("in range"), P, "k");
    assert!(machine.store.is_trusted(P));
    // Asking again is a decision of our own.
    let mut machine = cooling();
    machine.begin_request(at(1), P);
    machine.on_accept(at(2), P, "k");
    assert!(machine.store.is_trusted(P));
}

#[test]
fn rejects_forget_our_request() {
    let mut machine = asking();
    machine.on_reject(P);
    assert!(!machine.store.has_outgoing(P));
}

#[test]
fn relayed_approval_needs_our_request() {
    assert_eq!(Machine::default().on_relayed_approval(at(2), P), []);
    assert_eq!(trusting("k").on_relayed_approval(at(2), P), []);
    let mut machine = asking();
    assert_eq!(machine.on_relayed_approval(at(2), P), [Effect::Registry(Errand::Backfill(P))]);
    assert!(machine.store.trusted()[&P].mutual);
}

#[test]
fn revoke_by_the_peer_tells_even_when_nothing_was() {
    let mut machine = trusting("k");
    machine.store.queue(
        P,
        Pending { public_key: String::new(), justification: String::new(), received_at: at(0), source: P },
    );
    let effects = machine.on_revoke(P);
    assert_eq!(events(&effects), ["trust.revoked_by_peer", "trust.changed(by_peer)"]);
    assert_eq!(work(&effects), [Effect::RemoveTunnel(P), Effect::Registry(Errand::RevokeTrust(P))]);
    assert!(!machine.store.is_trusted(P) && machine.store.pending().is_empty());
    assert!(!machine.store.in_cooldown(P, at(1)));

    let effects = machine.on_revoke(P);
    assert_eq!((events(&effects).len(), work(&effects)), (2, vec![Effect::RemoveTunnel(P)]));
}

#[test]
fn own_request_to_a_trusted_peer_sends_nothing() {
    assert_eq!(trusting("k").begin_request(at(1), P), Begin::AlreadyTrusted);
}

#[test]
fn a_repetition_within_the_peers_replay_memory_says_so() {
    let mut machine = asking();
    machine.sent_directly(at(1), P);
    assert_eq!(machine.begin_request(at(901), P), Begin::Send { repeated: true });
    assert_eq!(machine.begin_request(at(902), P), Begin::Send { repeated: false });
}

#[test]
fn approve_grants_what_waits() {
    let mut machine = Machine::default();
    assert_eq!(machine.approve(at(2), P), []);
    act(&mut machine, &direct("k", true), None);
    let effects = machine.approve(at(200), P);
    assert_eq!(events(&effects), ["handshake.approved", "trust.changed(approved)"]);
    assert_eq!(
        work(&effects),
        [
            Effect::Registry(Errand::ReportTrust(P)),
            Effect::Registry(Errand::Respond { peer: P, accept: true }),
            Effect::SendAccept(P)
        ]
    );
    let record = &machine.store.trusted()[&P];
    assert!(!record.mutual && record.public_key == "k" && machine.store.pending().is_empty());
}

#[test]
fn approve_of_a_relayed_request_looks_the_key_up() {
    let mut machine = Machine::default();
    act(&mut machine, &relayed(), None);
    assert!(machine.approve(at(200), P).contains(&Effect::Registry(Errand::Backfill(P))));
    assert_eq!(machine.check_key(P, "k"), (true, vec![]));
    assert_eq!(machine.store.trusted()[&P].public_key, "k");
}

#[test]
fn reject_always_tells() {
    let mut machine = Machine::default();
    let effects = machine.reject(P, "not now");
    assert_eq!(events(&effects), ["handshake.rejected(not now)"]);
    assert_eq!(
        work(&effects),
        [
            Effect::Registry(Errand::Respond { peer: P, accept: false }),
            Effect::SendReject { peer: P, reason: "not now".into() }
        ]
    );
}

#[test]
fn revoke_tells_the_peer_before_the_tunnel_goes() {
    let mut machine = trusting("k");
    let effects = machine.revoke(at(1), P).expect("was trusted");
    assert_eq!(events(&effects), ["trust.revoked", "trust.changed(local)"]);
    assert_eq!(
        work(&effects),
        [Effect::SendRevoke(P), Effect::RemoveTunnel(P), Effect::Registry(Errand::RevokeTrust(P))]
    );
    assert_eq!(machine.revoke(at(2), P), None);
    assert!(machine.store.in_cooldown(P, at(3)));
}

#[test]
fn the_keyed_question_binds() {
    let mut machine = trusting("");
    assert_eq!(machine.check_key(P, ""), (true, vec![]));
    assert_eq!(machine.check_key(P, "k"), (true, vec![]));
    let (trusted, effects) = machine.check_key(P, "other");
    assert!(!trusted);
    assert_eq!(events(&effects), ["trust.changed(key_changed)"]);
    assert_eq!(machine.check_key(P, "other"), (false, vec![]));
}
