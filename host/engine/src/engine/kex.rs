//! Key exchanges: sending ours, accepting theirs, and what follows from a new key.
//!
//! Rules: tunnel.md sections 4 and 5, the "newest" columns. The registry's word on a node's identity comes through a
//! question ([`super::questions`]); meanwhile the frame is parked.
//!
//! | received | and | then |
//! |---|---|---|
//! | PILA, right identity | no session, or another key | install; our PILA once |
//! | PILA, right identity | same key | our PILA if nothing was heard for 6 s or it asks, once a second |
//! | PILK | the registry knows the node | our PILA, nothing installed |
//! | PILK | nobody vouches for the node | install unauthenticated; our key exchange once |
//! | PILS | no session | PILA and PILK, once in 3 s |

use std::net::SocketAddr;

use pilot_wire::tunnel::{self, Frame, KeyExchange, Trailer};

use super::Engine;
use super::keys::{Known, ParkedExchange, Via};
use super::path::{RESOLVE_AGAIN, Route};
use super::peer::{Abilities, Exchange, Other, Peer};
use super::questions::Purpose;
use crate::error::DialError;
use crate::identity;
use crate::notice::Notice;
use crate::query::Query;
use crate::time::{Duration, Instant};
use crate::tunnel::kdf;
use crate::tunnel::session::Session;

/// Wait between two sends of an unanswered key exchange.
const REPEAT: Duration = Duration::from_secs(4);
/// Sends before it is given up.
const MAX_SENDS: u32 = 6;
/// The send from which on the relay is used.
const RELAY_FROM: u32 = 2;
/// How long a peer is left alone afterwards.
const GIVE_UP: Duration = Duration::from_secs(5);
/// A path is not reset more often than this because of it.
const RESET_SPACING: Duration = Duration::from_secs(30);
/// Silence after which a key exchange with an unchanged key is answered.
const SILENCE: Duration = Duration::from_secs(6);
/// Such answers to one peer.
const ANSWER_SPACING: Duration = Duration::from_secs(1);
/// A key exchange with an unchanged key this soon after the install is a duplicate.
const DUPLICATE: Duration = Duration::from_millis(250);
/// How long a replaced session may still prove to be the right one.
const RIVALRY: Duration = Duration::from_secs(10);
/// Stream segments sent again at once when a peer has a new key.
const RESEND: usize = 4;

impl Engine {
    /// Starts our key exchange with a peer that has no session, unless one is under way or was just given up.
    pub(super) fn start_exchange(&mut self, now: Instant, node: u32) {
        self.resolve_if_needed(now, node);
        let has_route = self.route_of(node).is_some();
        let Some(peer) = self.peers.get_mut(&node) else { return };
        match peer.exchange {
            Exchange::Waiting { .. } => return,
            Exchange::GivenUp { until } if now < until => return,
            _ if peer.session.is_some() => return,
            _ => {}
        }
        // Without a way the timer looks for one again: the registry may just have refused to be asked so soon.
        let wait = if has_route { REPEAT } else { RESOLVE_AGAIN };
        peer.exchange = Exchange::Waiting { sends: 0, next: now + wait };
        if has_route {
            self.send_exchange(now, node);
        }
        self.arm_peer(node);
    }

    /// Asks the registry where a peer is, when nobody knows or it was long ago.
    pub(super) fn resolve_if_needed(&mut self, now: Instant, node: u32) {
        let ttl = self.config.resolve_ttl;
        if let Some(peer) = self.peers.get_mut(&node)
            && peer.session.is_none()
            && peer.path.should_resolve(now, ttl)
            && !self.questions.ask(now, Query::Resolve { node }, Purpose::Resolve { node })
        {
            peer.path.resolve_failed(now);
        }
    }

    /// Asks the registry for a peer's present address although one is in use: nothing there answers, so the peer may have
    /// started anew elsewhere. At most once in [`RESOLVE_AGAIN`] by the path's own bookkeeping.
    pub(super) fn resolve_anew(&mut self, now: Instant, node: u32) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        peer.path.doubt();
        if peer.path.should_resolve(now, RESOLVE_AGAIN)
            && !self.questions.ask(now, Query::Resolve { node }, Purpose::Resolve { node })
        {
            peer.path.resolve_failed(now);
        }
    }

    /// Tells a peer that has moved our key, straight at its new address; the answer proves both ways.
    pub(super) fn greet(&mut self, node: u32, at: SocketAddr) {
        self.push_exchange(Route::Direct(at), node, Trailer::REQUEST, true);
    }

    /// Sends our key exchange once more: PILA, from the second time on followed by PILK, which peers answer even when they
    /// still have a session with us.
    pub(super) fn send_exchange(&mut self, now: Instant, node: u32) {
        let Some(route) = self.route_of(node) else { return };
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let sends = match peer.exchange {
            Exchange::Waiting { sends, .. } => sends,
            _ => 0,
        };
        peer.exchange = Exchange::Waiting { sends: sends + 1, next: now + REPEAT };
        peer.said = now;
        let repeat = sends > 0;
        self.push_exchange(route, node, if repeat { Trailer::REQUEST } else { Trailer::NONE }, repeat);
    }

    /// Queues our key exchange on a route, with a copy through the beacon when the route is direct.
    fn push_exchange(&mut self, route: Route, node: u32, trailer: Trailer, request: bool) {
        let Some(frame) = self.me.exchange_frame(trailer) else { return };
        let own = self.me.node;
        let copy = match (route, self.me.beacon) {
            (Route::Direct(_), Some(beacon)) => Some(Route::Relay(beacon)),
            _ => None,
        };
        for route in [Some(route), copy].into_iter().flatten() {
            self.outbox.push_frame(route, own, node, frame.clone());
            if request && self.me.is_authenticated() {
                self.outbox.push_frame(route, own, node, self.me.request_frame().to_vec());
            }
        }
    }

    /// The wait for an answer is over.
    pub(super) fn on_exchange_timer(&mut self, now: Instant, node: u32) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let Exchange::Waiting { sends, next } = peer.exchange else { return };
        if next > now {
            return;
        }
        self.resolve_if_needed(now, node);
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if sends >= MAX_SENDS || !peer.path.is_hopeful(self.me.beacon) && !self.config.relay_only {
            self.give_up(now, node, &DialError::NoKey);
            return;
        }
        if sends >= RELAY_FROM
            && self.may_relay(now, node)
            && self.peers.get_mut(&node).is_some_and(|p| p.path.use_relay(false))
        {
            self.note_relayed(node);
        }
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.exchange = Exchange::Waiting { sends, next: now + REPEAT };
        }
        self.send_exchange(now, node);
    }

    /// Nobody answers: what waits for the peer fails, and for a moment everything new does too.
    pub(super) fn give_up(&mut self, now: Instant, node: u32, error: &DialError) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        peer.exchange = Exchange::GivenUp { until: now + GIVE_UP };
        if now >= peer.next_reset {
            peer.next_reset = now + RESET_SPACING;
            peer.path.reset();
        }
        self.events.notice(Notice::RekeyGaveUp { peer: node });
        self.drop_pending(node);
        self.fail_dials(now, node, error);
    }

    /// Takes a PILA or PILK, in whichever way it came.
    pub(super) fn on_exchange(&mut self, now: Instant, via: Via, relayed_for: Option<u32>, frame: &[u8]) {
        let allowed = match (via, relayed_for) {
            (Via::Direct(from), _) => self.exchange_rate_direct.take(now, rate_source(from)),
            (Via::Relay, Some(sender)) => self.exchange_rate_relayed.take(now, sender),
            (Via::Relay, None) => false,
        };
        let node = match tunnel::decode(frame) {
            Ok(Frame::KeyExchange(kex)) => kex.node,
            Ok(Frame::KeyRequest(request)) => request.node,
            _ => return,
        };
        if !allowed || node == 0 || node == self.me.node {
            return;
        }
        if let Some(known) = self.keys.get(node) {
            self.decide_exchange(now, via, frame, Some(known), false);
        } else if self.me.identity.is_none() && matches!(tunnel::decode(frame), Ok(Frame::KeyRequest(_))) {
            self.decide_exchange(now, via, frame, None, true);
        } else {
            self.park_exchange(now, node, via, frame);
        }
    }

    /// Asks for the node's registered key; the frame waits for it.
    fn park_exchange(&mut self, now: Instant, node: u32, via: Via, frame: &[u8]) {
        if !self.keys.failed_recently(now, node)
            && self.questions.ask(now, Query::PeerKey { node }, Purpose::PeerKey { node })
        {
            self.keys.park(node, ParkedExchange { via, frame: frame.to_vec() });
        }
    }

    /// The registry answered; `known` is `None` when it knows no key for the node.
    pub(super) fn on_peer_key(&mut self, now: Instant, node: u32, known: Option<Known>) {
        if let Some(known) = known {
            self.keys.learn(now, node, known);
        } else {
            self.keys.fail(now, node);
        }
        for parked in self.keys.unpark(node) {
            self.decide_exchange(now, parked.via, &parked.frame, known, true);
        }
    }

    /// The registry could not be asked: what waited is dropped, and nothing is asked for a moment.
    pub(super) fn on_peer_key_failed(&mut self, now: Instant, node: u32) {
        self.keys.fail(now, node);
        self.keys.unpark(node);
    }

    /// Judges a key exchange with what the registry said; `fresh` when it said so just now.
    fn decide_exchange(&mut self, now: Instant, via: Via, frame: &[u8], known: Option<Known>, fresh: bool) {
        match tunnel::decode(frame) {
            Ok(Frame::KeyExchange(kex)) => {
                let Some(known) = known else { return };
                if self.config.strict && !known.trusted {
                    return;
                }
                if *kex.ed25519 != known.key {
                    // The identity may have been changed since: ask once more, then drop. Not for every frame, and the
                    // cached key counts meanwhile, or anybody could keep the real node out.
                    if !fresh && !self.keys.is_fresh(now, kex.node) {
                        self.park_exchange(now, kex.node, via, frame);
                    }
                    return;
                }
                if self.is_verified(now, &kex) {
                    self.accept_exchange(now, via, &kex, known.trusted);
                }
            }
            Ok(Frame::KeyRequest(request)) => match known {
                Some(known) if self.config.strict && !known.trusted => {}
                Some(_) if self.me.identity.is_some() => self.answer_request(now, via, request.node),
                _ if self.config.allow_unauthenticated && !self.config.strict => {
                    let new = |p: &Peer| p.session.as_ref().is_none_or(|s| s.peer_key != request.x25519);
                    if self.peers.get(&request.node).is_none_or(new)
                        && !self.stranger_checks.take(now, super::STRANGER_CHECKS)
                    {
                        return;
                    }
                    let accepted = Accepted { node: request.node, key: &request.x25519, identity: None };
                    if self.install(now, via, &accepted) == Installed::Changed {
                        self.answer_exchange(via, request.node);
                        self.after_install(now, request.node);
                    }
                }
                _ => {}
            },
            _ => {}
        }
    }

    /// Whether a key exchange's signature is right. What is signed is the node and its key alone, so a key in use whose
    /// signature was checked needs no second look; other checks are rationed.
    fn is_verified(&mut self, now: Instant, kex: &KeyExchange<'_>) -> bool {
        let session = self.peers.get(&kex.node).and_then(|p| p.session.as_ref());
        let allowed = match session {
            Some(s) if s.authenticated && s.peer_key == *kex.x25519 => return true,
            Some(_) => self.peer_checks.take(now, kex.node),
            None => self.stranger_checks.take(now, super::STRANGER_CHECKS),
        };
        allowed && identity::verify(kex.ed25519, &kex.signed_message(), kex.signature)
    }

    fn accept_exchange(&mut self, now: Instant, via: Via, kex: &KeyExchange<'_>, trusted: bool) {
        let node = kex.node;
        let accepted = Accepted { node, key: kex.x25519, identity: Some(trusted) };
        match self.install(now, via, &accepted) {
            Installed::Changed => {
                self.answer_exchange(via, node);
                self.after_install(now, node);
            }
            Installed::Same { silent } => {
                let asks = kex.trailer.flags & Trailer::FLAG_REQUEST != 0;
                let Some(peer) = self.peers.get_mut(&node) else { return };
                let spaced = peer.answered.is_none_or(|at| now.since(at) >= ANSWER_SPACING);
                if (silent || asks) && spaced {
                    peer.answered = Some(now);
                    self.answer_exchange(via, node);
                }
            }
            Installed::Refused => {}
        }
    }

    /// A node that has an identity lost its session with us, or never had one: it needs our PILA, always.
    fn answer_request(&mut self, now: Instant, via: Via, node: u32) {
        self.answer_exchange(via, node);
        if let Some(peer) = self.peers.get_mut(&node)
            && peer.session.is_none()
            && peer.exchange == Exchange::Idle
        {
            peer.exchange = Exchange::Waiting { sends: 1, next: now + REPEAT };
            self.arm_peer(node);
        }
    }

    /// Sends our key exchange back the way theirs came.
    fn answer_exchange(&mut self, via: Via, node: u32) {
        let route = match (via, self.me.beacon) {
            (Via::Direct(from), _) => Route::Direct(from),
            (Via::Relay, Some(beacon)) => Route::Relay(beacon),
            (Via::Relay, None) => return,
        };
        self.push_exchange(route, node, Trailer::NONE, false);
    }

    /// Makes the key ours, when it is new. What it sets free follows in [`Engine::after_install`], behind our answer.
    fn install(&mut self, now: Instant, via: Via, accepted: &Accepted<'_>) -> Installed {
        let node = accepted.node;
        if !self.peers.contains_key(&node) {
            let full = self.peers.len() >= self.config.max_peers;
            let stranger = accepted.identity.is_none();
            if full || (stranger && self.count_unauthenticated(now) >= self.config.max_unauthenticated) {
                return Installed::Refused;
            }
        }
        // The costly part, so not for a key that is in use already.
        let in_use = self.peers.get(&node).and_then(|p| p.session.as_ref());
        let shared = match in_use.is_some_and(|s| s.peer_key == *accepted.key) {
            true => None,
            false => match kdf::shared_secret(&self.me.secret, accepted.key) {
                None => return Installed::Refused,
                shared => shared,
            },
        };
        if !self.peers.contains_key(&node) {
            self.add_peer(now, node);
        }
        let Some(peer) = self.peers.get_mut(&node) else { return Installed::Refused };
        if let Some(trusted) = accepted.identity {
            peer.trusted = trusted;
        }
        if let Some(session) = &mut peer.session
            && session.peer_key == *accepted.key
        {
            session.authenticated |= accepted.identity.is_some();
            let silent = now.since(session.alive) > SILENCE;
            let duplicate = now.since(session.installed) < DUPLICATE;
            peer.exchange = Exchange::Idle;
            if !duplicate {
                // Anyone can send a recorded key exchange again, so it may move the endpoint of a silent peer only.
                if silent && let Via::Direct(from) = via {
                    peer.path.heard_direct(now, from);
                }
                self.note_established(node, via, false);
            }
            return Installed::Same { silent };
        }
        let Some(shared) = shared else { return Installed::Refused };
        // Before the key pair's memory is read, whatever still uses it must have left its traces there.
        if let Some(other) = peer.other.take() {
            self.key_pairs.bury(&other.session);
        }
        let relay_room = self.may_relay(now, node);
        let Some(peer) = self.peers.get_mut(&node) else { return Installed::Refused };
        let legacy = self.config.legacy_feb.then(|| kdf::legacy_tunnel_key(&shared));
        let (key, from) = (kdf::tunnel_key(&shared), self.key_pairs.recall(accepted.key));
        let session = Session::new(
            now,
            *accepted.key,
            accepted.identity.is_some(),
            &key,
            legacy.as_ref(),
            self.rng.bytes(),
            from,
        );
        let old = peer.session.replace(session);
        let rekeyed = old.is_some();
        if let Some(session) = old {
            self.key_pairs.bury(&session);
            peer.other = Some(Other { session, until: now + RIVALRY });
        }
        peer.exchange = Exchange::Idle;
        peer.heard = now;
        peer.abilities = Abilities::Unknown { asked: 0, next: Some(now) };
        match via {
            Via::Direct(from) => {
                peer.path.heard_direct(now, from);
                // A new key straight from there: whatever made us use the relay was about the peer's former life.
                peer.path.leave_relay();
            }
            Via::Relay if relay_room => {
                let before = peer.path.is_relayed();
                peer.path.installed_relayed();
                self.relayed.1 += usize::from(!before && peer.path.is_relayed());
            }
            Via::Relay => {}
        }
        peer.rekeyed = rekeyed;
        peer.rekeys += u64::from(rekeyed);
        if rekeyed {
            peer.restarted = now;
        }
        self.note_established(node, via, rekeyed);
        Installed::Changed
    }

    fn note_established(&mut self, node: u32, via: Via, rekeyed: bool) {
        let Some(peer) = self.peers.get(&node) else { return };
        let authenticated = peer.session.as_ref().is_some_and(|s| s.authenticated);
        let shown = peer.trusted.then_some(node);
        let relay = via == Via::Relay;
        self.events.notice(Notice::TunnelEstablished { peer: shown, authenticated, relay, rekeyed });
    }

    /// A new session is in place and the peer was told our key: everything that waited goes out.
    fn after_install(&mut self, now: Instant, node: u32) {
        self.send_hello(now, node);
        let mut replayed = 0;
        if self.peers.get_mut(&node).is_some_and(|p| std::mem::take(&mut p.rekeyed)) {
            let packets = self.peers.get_mut(&node).map(|p| p.salvage(now)).unwrap_or_default();
            replayed += packets.len();
            for packet in packets {
                self.seal_now(now, node, &packet, false);
            }
        }
        self.flush_pending(now, node);
        for id in self.conns.of_peer(node).collect::<Vec<_>>() {
            if let Some(conn) = self.conns.get_mut(id) {
                replayed += conn.on_new_key(now, RESEND);
            }
            self.conns.queue(id);
            self.arm_conn(now, id);
        }
        if replayed > 0 {
            self.events.notice(Notice::DesyncSalvage { peer: node, replayed });
        }
        self.arm_peer(node);
    }

    /// A sealed frame came for which there is no key: tells the sender ours, once in 3 s.
    pub(super) fn on_no_key(&mut self, now: Instant, node: u32, via: Via) {
        if node == 0 || node == self.me.node || !self.no_key_answers.pass(now, node) {
            return;
        }
        let route = match (via, self.me.beacon) {
            (Via::Direct(from), _) => Route::Direct(from),
            (Via::Relay, Some(beacon)) => Route::Relay(beacon),
            (Via::Relay, None) => return,
        };
        self.push_exchange(route, node, Trailer::REQUEST, true);
        if let Some(peer) = self.peers.get_mut(&node)
            && peer.exchange == Exchange::Idle
        {
            peer.exchange = Exchange::Waiting { sends: 1, next: now + REPEAT };
            self.arm_peer(node);
        }
    }

    /// Gives up a session that no longer fits the peer's, and asks for a new one.
    pub(super) fn drop_session(&mut self, now: Instant, node: u32, via: Via) {
        if let Some(peer) = self.peers.get_mut(&node)
            && let Some(session) = peer.session.take()
        {
            self.key_pairs.bury(&session);
            self.on_no_key(now, node, via);
        }
    }

    /// Ends the dials towards a node that cannot be reached.
    pub(super) fn fail_dials(&mut self, now: Instant, node: u32, error: &DialError) {
        for id in self.conns.of_peer(node).collect::<Vec<_>>() {
            self.with_conn(now, id, |conn, cx| conn.fail_dial(cx, error.clone()));
        }
    }

    /// Sessions without an identity, one more than there are for each call: the table is walked once a second only.
    fn count_unauthenticated(&mut self, now: Instant) -> usize {
        let (at, count) = &mut self.unauthenticated;
        if now.since(*at) >= Duration::from_secs(1) {
            let stranger = |p: &&Peer| p.session.as_ref().is_some_and(|s| !s.authenticated);
            (*at, *count) = (now, self.peers.values().filter(stranger).count());
        }
        *count += 1;
        *count - 1
    }

    /// Whether nobody answered our key exchanges a moment ago, so that sends to the node fail for now.
    pub(super) fn has_given_up(&self, now: Instant, node: u32) -> bool {
        let given_up = |p: &Peer| matches!(p.exchange, Exchange::GivenUp { until } if now < until);
        self.peers.get(&node).is_some_and(|p| p.session.is_none() && given_up(p))
    }

    /// Whether frames for `node` may go through the beacon: there is one, and not too many peers use it (tunnel.md section
    /// 7). The table is walked once a second only; in between every new one counts.
    pub(super) fn may_relay(&mut self, now: Instant, node: u32) -> bool {
        if self.me.beacon.is_none() {
            return false;
        }
        if self.peers.get(&node).is_some_and(|p| p.path.is_relayed()) {
            return true;
        }
        let (at, count) = &mut self.relayed;
        if now.since(*at) >= Duration::from_secs(1) {
            (*at, *count) = (now, self.peers.values().filter(|p| p.path.is_relayed()).count());
        }
        *count < self.config.max_relayed
    }

    /// A peer is reached through the beacon from now on.
    pub(super) fn note_relayed(&mut self, node: u32) {
        self.relayed.1 += 1;
        self.events.notice(Notice::RelayActivated { peer: node });
    }

    /// Where our own PILP frames open a way for the peer at `to` (tunnel.md section 7, "Punch command").
    pub(super) fn punch(&mut self, to: SocketAddr) {
        for _ in 0..3 {
            self.outbox.push(to, tunnel::MAGIC_PUNCH.to_vec());
        }
    }
}

/// Whose bucket a direct key exchange is charged to: the address's, but on this machine, where all nodes have one address,
/// each socket's.
fn rate_source(from: SocketAddr) -> SocketAddr {
    if from.ip().is_loopback() { from } else { SocketAddr::new(from.ip(), 0) }
}

/// A key exchange that may be installed.
struct Accepted<'a> {
    node: u32,
    key: &'a [u8; 32],
    /// Whether the registered identity behind it is trusted; `None` when nobody vouches for the key.
    identity: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Installed {
    /// There is a new session.
    Changed,
    /// The session already had this key. `silent`: nothing was heard for a while.
    Same {
        silent: bool,
    },
    Refused,
}
