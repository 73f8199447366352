//! What time does to peers: repeats of key exchanges and hellos, keepalives, the watch over silent paths, the way back from
//! the relay, and forgetting (tunnel.md section 7, "Upkeep").

use pilot_wire::beacon;

use super::Engine;
use super::path::Route;
use super::peer::{Abilities, Exchange, Peer};
use super::questions::Purpose;
use super::timers::Timer;
use crate::error::{CloseReason, DialError};
use crate::notice::Notice;
use crate::query::{Query, Resolution};
use crate::time::{Duration, Instant};

/// Peers are looked after this often.
const TICK: Duration = Duration::from_secs(5);
/// A peer that is silent for this long is probed.
const SILENT: Duration = Duration::from_secs(55);
/// Probes, one every second tick, before the path is reset.
const MAX_PROBES: u32 = 3;
/// A path is not reset more often because of silence.
const RESET_COOLDOWN: Duration = Duration::from_secs(120);
/// A relayed peer is tried directly this often.
const UPGRADE: Duration = Duration::from_secs(15);
/// Probes of one try, and the time between them.
const DIRECT_PROBES: u32 = 5;
const DIRECT_PROBE_SPACING: Duration = Duration::from_millis(200);
/// A peer's probes are answered with our own at most this often.
const PROBE_ANSWERS: Duration = Duration::from_secs(10);

impl Engine {
    /// Makes an entry for a peer.
    pub(super) fn add_peer(&mut self, now: Instant, node: u32) {
        let upkeep = now + TICK + self.rng.duration_up_to(TICK);
        self.peers.insert(node, Peer::new(now, node, upkeep));
        self.events.notice(Notice::PeerAdded { peer: node });
        self.arm_peer(node);
    }

    /// Sets a peer's timer.
    pub(super) fn arm_peer(&mut self, node: u32) {
        if let Some(peer) = self.peers.get_mut(&node) {
            let deadline = peer.deadline();
            self.timers.arm(Timer::Peer(node), &mut peer.timer, Some(deadline));
        }
    }

    /// A peer's timer fired.
    pub(super) fn on_peer_timer(&mut self, now: Instant, node: u32, at: Instant) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if peer.timer != Some(at) {
            return; // out of date
        }
        peer.timer = Some(Instant::ZERO);
        self.on_exchange_timer(now, node);
        self.on_hello_timer(now, node);
        self.on_direct_probe_timer(now, node);
        if self.peers.get(&node).is_some_and(|p| p.upkeep <= now) {
            self.look_after(now, node);
        }
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.timer = None;
            let deadline = peer.deadline();
            self.timers.rearm(now, Timer::Peer(node), &mut peer.timer, Some(deadline));
        }
    }

    fn on_hello_timer(&mut self, now: Instant, node: u32) {
        let Some(peer) = self.peers.get(&node) else { return };
        let due = matches!(peer.abilities, Abilities::Unknown { next: Some(next), .. } if next <= now);
        if due && peer.session.is_some() {
            self.send_hello(now, node);
        }
    }

    fn on_direct_probe_timer(&mut self, now: Instant, node: u32) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let Some((left, at)) = peer.direct_probes else { return };
        if at > now {
            return;
        }
        peer.direct_probes = (left > 1).then(|| (left - 1, now + DIRECT_PROBE_SPACING));
        self.send_direct_probe(now, node);
    }

    /// The regular look at one peer.
    fn look_after(&mut self, now: Instant, node: u32) {
        let used = self.conns.peer_is_used(node);
        let (idle, forget, keepalive) = (self.config.idle, self.config.forget, self.config.keepalive);
        let Some(peer) = self.peers.get_mut(&node) else { return };
        peer.upkeep = now + TICK;
        if let Some(other) = peer.other.take_if(|o| o.until <= now) {
            self.key_pairs.bury(&other.session);
        }
        if !used && now.since(peer.used) >= idle {
            let waits = !peer.pending.is_empty() || matches!(peer.exchange, Exchange::Waiting { .. });
            if !waits && now.since(peer.heard.max(peer.used)) >= forget {
                self.forget_peer(node);
            }
            return;
        }
        if peer.session.is_none() {
            return;
        }
        if now.since(peer.said) >= keepalive {
            self.send_keepalive(now, node);
        }
        self.watch_path(now, node);
        self.try_direct(now, node);
    }

    /// Probes a silent peer, and looks for another way when it does not answer.
    fn watch_path(&mut self, now: Instant, node: u32) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if now.since(peer.heard) < SILENT || now < peer.watch.not_before {
            return;
        }
        // Every second tick.
        let due = peer.heard + SILENT + 2 * TICK * peer.watch.probes;
        if now < due {
            return;
        }
        if peer.watch.probes < MAX_PROBES {
            peer.watch.probes += 1;
            self.send_path_probe(now, node);
            return;
        }
        peer.watch.not_before = now + RESET_COOLDOWN;
        peer.watch.reset = Some((peer.heard, peer.watch.probes));
        peer.watch.probes = 0;
        self.reset_path(now, node);
    }

    /// Forgets session and resolve, keeps an unpinned relay, and starts over at once.
    fn reset_path(&mut self, now: Instant, node: u32) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        peer.path.reset();
        peer.exchange = Exchange::Idle;
        if let Some(session) = peer.session.take() {
            self.key_pairs.bury(&session);
        }
        self.start_exchange(now, node);
    }

    /// Tries the direct way to a relayed peer.
    fn try_direct(&mut self, now: Instant, node: u32) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if self.config.relay_only
            || !peer.path.is_relayed()
            || peer.path.is_relay_only()
            || now < peer.upgrade
        {
            return;
        }
        peer.upgrade = now + UPGRADE;
        peer.path.unpin();
        // The peer may have found a better place since: an old address is no reason to stay on the relay.
        let (has_address, resolve) = (peer.path.direct().is_some(), peer.path.should_resolve(now, UPGRADE));
        if has_address {
            peer.probed = Some(now);
            peer.direct_probes = Some((DIRECT_PROBES, now));
        }
        if resolve && !self.questions.ask(now, Query::Resolve { node }, Purpose::Resolve { node }) {
            self.fail_resolve(now, node);
        }
        if has_address {
            self.request_punch(node);
        }
    }

    /// The beacon says that the node at `at` wants to be reached straight. If we reach it so already, it does not know:
    /// it sees that when it hears us.
    pub(super) fn on_punch_command(&mut self, now: Instant, at: std::net::SocketAddr) {
        let there = |p: &&Peer| p.path.direct() == Some(at) && p.session.is_some();
        if let Some(node) = self.peers.values().find(there).map(|p| p.node) {
            self.answer_direct_probe(now, node);
        }
    }

    /// A probe came straight from a peer that wants to leave the relay: it needs to hear us straight too, and may have nothing
    /// else to hear. Spaced, so that answers are not answered.
    pub(super) fn answer_direct_probe(&mut self, now: Instant, node: u32) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if peer.path.is_relayed()
            || peer.direct_probes.is_some()
            || peer.probed.is_some_and(|at| now.since(at) < PROBE_ANSWERS)
        {
            return;
        }
        peer.probed = Some(now);
        peer.direct_probes = Some((DIRECT_PROBES, now));
        self.arm_peer(node);
    }

    /// Asks the beacon to have both sides punch.
    fn request_punch(&mut self, target: u32) {
        if let Some(to) = self.me.beacon.filter(|_| self.me.node != 0) {
            let mut message = Vec::new();
            beacon::Message::PunchRequest { requester: self.me.node, target, grant: None }
                .encode(&mut message);
            self.outbox.push(to, message);
        }
    }

    /// The registry said where a peer is.
    pub(super) fn on_resolved(&mut self, now: Instant, node: u32, resolution: &Resolution) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let keep = peer.session.is_some() && peer.path.is_proven();
        let resolution = if keep {
            // A session's own frames know better where the peer is than the registry.
            &Resolution { real_addr: peer.path.direct(), lan_addrs: Vec::new(), ..*resolution }
        } else {
            resolution
        };
        let (before, unheard) = (peer.path.direct(), peer.session.is_some() && !keep);
        let punch = peer.path.resolved(now, resolution, &self.me.lan);
        let moved = peer.path.direct().filter(|to| unheard && before != Some(*to));
        if let Some(to) = moved
            && !self.config.relay_only
        {
            self.greet(node, to);
        }
        if punch && !keep && !self.config.relay_only {
            self.request_punch(node);
            // A peer heard through the beacon only: now that its address is known, it is tried at once.
            if let Some(peer) = self.peers.get_mut(&node)
                && peer.session.is_some()
                && peer.path.is_relayed()
                && peer.direct_probes.is_none()
            {
                peer.path.unpin();
                peer.probed = Some(now);
                peer.direct_probes = Some((DIRECT_PROBES, now));
                self.arm_peer(node);
            }
        }
        if !self.peers.get(&node).is_some_and(|p| p.path.is_hopeful(self.me.beacon))
            && !self.config.relay_only
        {
            let error = DialError::Unresolved(format!("node {node} has no reachable address"));
            return self.fail_unresolved(now, node, &error);
        }
        if let Some(peer) = self.peers.get(&node)
            && matches!(peer.exchange, Exchange::Waiting { sends: 0, .. })
        {
            self.send_exchange(now, node);
            self.arm_peer(node);
        }
    }

    /// The registry could not say where a peer is.
    pub(super) fn on_resolve_failed(&mut self, now: Instant, node: u32, why: String) {
        self.fail_resolve(now, node);
        let lost = self.peers.get(&node).is_some_and(|p| {
            p.session.is_none() && !p.path.is_hopeful(self.me.beacon) && !self.config.relay_only
        });
        if lost {
            self.fail_unresolved(now, node, &DialError::Unresolved(why));
        }
    }

    /// There is no way to the peer now. Unlike an unanswered key exchange this says nothing about the next attempt: trust
    /// or a registration may come at any moment, so nothing is held against the peer.
    fn fail_unresolved(&mut self, now: Instant, node: u32, error: &DialError) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.exchange = Exchange::Idle;
        }
        self.drop_pending(node);
        self.fail_dials(now, node, error);
    }

    fn fail_resolve(&mut self, now: Instant, node: u32) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.path.resolve_failed(now);
        }
    }

    /// Seals a packet and sends it straight, whatever the route.
    pub(super) fn seal_direct(&mut self, now: Instant, node: u32, packet: &[u8]) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let (Some(to), Some(session)) = (peer.path.direct(), &mut peer.session) else { return };
        peer.said = now;
        let mut frame = vec![0; pilot_wire::tunnel::SEALED_HEADER_LEN];
        frame.extend_from_slice(packet);
        session.seal(self.me.node, &mut frame, 0);
        self.outbox.push_frame(Route::Direct(to), self.me.node, node, frame);
    }

    /// Drops everything about a peer that nobody uses.
    fn forget_peer(&mut self, node: u32) {
        self.drop_pending(node);
        if let Some(peer) = self.peers.remove(&node) {
            for session in peer.session.iter().chain(peer.other.iter().map(|o| &o.session)) {
                self.key_pairs.bury(session);
            }
        }
    }

    /// See [`Engine::remove_peer`].
    pub(super) fn drop_peer(&mut self, now: Instant, node: u32) {
        for id in self.conns.of_peer(node).collect::<Vec<_>>() {
            self.with_conn(now, id, |conn, cx| conn.abort(cx, CloseReason::PeerRemoved, false));
        }
        self.forget_peer(node);
    }

    /// See [`Engine::handle_send_error`].
    pub(super) fn on_send_error(&mut self, now: Instant, to: std::net::SocketAddr) {
        let has_beacon = self.may_relay(now, 0);
        for (node, peer) in &mut self.peers {
            if peer.path.direct() == Some(to) && peer.path.send_failed(has_beacon) {
                self.events.notice(Notice::RelayActivated { peer: *node });
            }
        }
    }
}
