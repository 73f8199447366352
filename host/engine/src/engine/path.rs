//! Where frames for one peer go: straight to an address, or through the beacon; and when that changes.
//!
//! Pure bookkeeping without I/O: the engine reports what it sent and what arrived, and asks for the route. Fact sheet:
//! tunnel.md section 7, "Choosing the path".

use std::net::{IpAddr, SocketAddr};

use crate::query::Resolution;
use crate::time::{Duration, Instant};

/// Direct frames that lead an unpinned peer back from the relay.
const DIRECT_FRAMES_TO_RETURN: u32 = 3;
/// Sends in a row without a direct answer that lead to the relay ...
const UNANSWERED_SENDS: u32 = 3;
/// ... once nothing direct was received for this long ...
const DIRECT_SILENCE: Duration = Duration::from_secs(8);
/// ... and the first of them has been waiting for this long, so that a burst after a pause is no reason.
const UNANSWERED_FOR: Duration = Duration::from_secs(1);
/// Consecutive errors of the socket that lead to the relay.
const UNREACHABLE_ERRORS: u32 = 3;
/// The registry is not asked more often than this for a node it did not give: a new dial may be the first one that trust
/// allows.
pub(crate) const RESOLVE_AGAIN: Duration = Duration::from_millis(200);
/// An endpoint outlives the registry's silence for this long.
const KEEP_ENDPOINT: Duration = Duration::from_secs(3600);

/// Whether frames go through the beacon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relay {
    Off,
    /// `pinned`: incoming direct frames do not end it.
    On {
        pinned: bool,
    },
}

/// What the registry said.
#[derive(Clone, Debug)]
enum Resolve {
    Unknown,
    Asking,
    Known { at: Instant, relay_only: bool },
    Failed { at: Instant },
}

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Direct(SocketAddr),
    /// To the beacon at this address, wrapped.
    Relay(SocketAddr),
}

impl Route {
    pub(crate) const fn to(self) -> SocketAddr {
        match self {
            Self::Direct(to) | Self::Relay(to) => to,
        }
    }

    /// Whether it stays on this machine.
    pub(crate) fn is_loopback(self) -> bool {
        matches!(self, Self::Direct(to) if to.ip().is_loopback())
    }
}

/// The path to one peer.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    direct: Option<SocketAddr>,
    /// `direct` was chosen because it is in a network of ours.
    lan: bool,
    /// When `direct` was last confirmed by the registry or by a frame.
    direct_since: Instant,
    relay: Relay,
    resolve: Resolve,
    unanswered: u32,
    first_unanswered: Instant,
    direct_heard: Instant,
    direct_frames: u32,
    errors: u32,
    /// Nothing answers at `direct`; the registry's next word counts more than it.
    doubted: bool,
}

impl Path {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            direct: None,
            lan: false,
            direct_since: now,
            relay: Relay::Off,
            resolve: Resolve::Unknown,
            unanswered: 0,
            first_unanswered: now,
            direct_heard: now,
            direct_frames: 0,
            errors: 0,
            doubted: false,
        }
    }

    /// Nothing answers at the address in use.
    pub(crate) fn doubt(&mut self) {
        self.doubted = true;
    }

    /// Whether the address in use is to be kept against the registry's word: frames come from there.
    pub(crate) fn is_proven(&self) -> bool {
        self.direct.is_some() && !self.is_relayed() && !self.doubted
    }

    /// Where a frame goes now; `None` while no way is known.
    pub(crate) fn route(&self, beacon: Option<SocketAddr>, relay_only: bool) -> Option<Route> {
        match (beacon, self.relay) {
            (Some(beacon), Relay::On { .. }) => Some(Route::Relay(beacon)),
            (Some(beacon), Relay::Off) if relay_only => Some(Route::Relay(beacon)),
            _ => self.direct.map(Route::Direct),
        }
    }

    pub(crate) fn direct(&self) -> Option<SocketAddr> {
        self.direct
    }

    /// Whether frames go straight to an address in a network of ours.
    pub(crate) fn is_lan(&self) -> bool {
        self.lan && !self.is_relayed()
    }

    /// Whether incoming direct frames do not end the relay.
    pub(crate) fn is_pinned(&self) -> bool {
        self.relay == (Relay::On { pinned: true })
    }

    pub(crate) fn is_relayed(&self) -> bool {
        self.relay != Relay::Off
    }

    /// Whether the registry says that the peer wants to be reached through the beacon only.
    pub(crate) fn is_relay_only(&self) -> bool {
        matches!(self.resolve, Resolve::Known { relay_only: true, .. })
    }

    /// Whether the registry should be asked (again); if so it counts as asked.
    pub(crate) fn should_resolve(&mut self, now: Instant, ttl: Duration) -> bool {
        let stale = match self.resolve {
            Resolve::Unknown => true,
            Resolve::Asking => false,
            Resolve::Known { at, .. } => now.since(at) >= ttl,
            Resolve::Failed { at } => now.since(at) >= RESOLVE_AGAIN,
        };
        if stale {
            self.resolve = Resolve::Asking;
        }
        stale
    }

    /// Whether there is a way, or one is being looked for.
    pub(crate) fn is_hopeful(&self, beacon: Option<SocketAddr>) -> bool {
        self.direct.is_some()
            || (self.is_relayed() && beacon.is_some())
            || matches!(self.resolve, Resolve::Unknown | Resolve::Asking)
    }

    /// The registry's answer. Gives whether a punch request is worth while.
    pub(crate) fn resolved(&mut self, now: Instant, resolution: &Resolution, own_lan: &[IpAddr]) -> bool {
        self.resolve = Resolve::Known { at: now, relay_only: resolution.relay_only };
        self.doubted = false;
        if resolution.relay_only {
            self.relay = Relay::On { pinned: true };
            return false;
        }
        if let Some(lan) = lan_neighbour(resolution, own_lan) {
            self.set_direct(now, lan);
            self.lan = true;
            return false;
        }
        if let Some(real) = resolution.real_addr {
            self.set_direct(now, real);
        }
        self.direct.is_some_and(|d| !d.ip().is_loopback())
    }

    /// The registry could not say. A known endpoint stays in use for an hour.
    pub(crate) fn resolve_failed(&mut self, now: Instant) {
        self.resolve = Resolve::Failed { at: now };
        if now.since(self.direct_since) >= KEEP_ENDPOINT {
            self.direct = None;
        }
    }

    fn set_direct(&mut self, now: Instant, to: SocketAddr) {
        (self.direct, self.direct_since, self.lan) = (Some(to), now, false);
        (self.unanswered, self.errors) = (0, 0);
    }

    /// An authenticated frame came straight from `from` (NAT rebinding is followed).
    pub(crate) fn heard_direct(&mut self, now: Instant, from: SocketAddr) {
        if self.direct != Some(from) {
            (self.direct, self.lan) = (Some(from), false);
        }
        (self.direct_since, self.direct_heard) = (now, now);
        (self.unanswered, self.errors) = (0, 0);
        self.doubted = false;
        if self.relay == (Relay::On { pinned: false }) {
            self.direct_frames += 1;
            if self.direct_frames >= DIRECT_FRAMES_TO_RETURN {
                self.relay = Relay::Off;
                self.direct_frames = 0;
            }
        }
    }

    /// An authenticated frame came through the beacon; true when the relay is used from now on: because there is no other
    /// way, or because the peer seems to find the direct way broken and we have no proof of the contrary.
    pub(crate) fn heard_relayed(&mut self, now: Instant, has_beacon: bool) -> bool {
        let unproven = self.direct.is_none() || now.since(self.direct_heard) >= DIRECT_SILENCE;
        has_beacon && unproven && self.use_relay(false)
    }

    /// A key exchange came through the beacon and was accepted.
    pub(crate) fn installed_relayed(&mut self) {
        if self.direct.is_none() {
            self.use_relay(true);
        }
    }

    /// A frame was sent straight; true when that is hopeless and the relay should be used, if there is one.
    pub(crate) fn sent_direct(&mut self, now: Instant) -> bool {
        if self.unanswered == 0 {
            self.first_unanswered = now;
        }
        self.unanswered = self.unanswered.saturating_add(1);
        self.unanswered >= UNANSWERED_SENDS
            && now.since(self.direct_heard) >= DIRECT_SILENCE
            && now.since(self.first_unanswered) >= UNANSWERED_FOR
    }

    /// The socket refused to send there; true when the relay is used from now on.
    pub(crate) fn send_failed(&mut self, has_beacon: bool) -> bool {
        self.errors += 1;
        self.errors >= UNREACHABLE_ERRORS && has_beacon && self.use_relay(false)
    }

    /// Uses the relay from now on; true when that is new. A pin is never loosened here.
    pub(crate) fn use_relay(&mut self, pinned: bool) -> bool {
        let new = self.relay == Relay::Off;
        if new {
            self.relay = Relay::On { pinned };
            (self.unanswered, self.direct_frames) = (0, 0);
        } else if pinned {
            self.relay = Relay::On { pinned: true };
        }
        new
    }

    /// Leaves an unpinned relay (a dial tried it and it was no help).
    pub(crate) fn leave_relay(&mut self) {
        if self.relay == (Relay::On { pinned: false }) && self.direct.is_some() {
            self.relay = Relay::Off;
        }
    }

    /// Lets incoming direct frames end the relay, unless the peer wants it.
    pub(crate) fn unpin(&mut self) {
        if self.is_relayed() && !self.is_relay_only() {
            self.relay = Relay::On { pinned: false };
        }
    }

    /// Goes straight at once, if there is a way and the peer does not want the relay.
    pub(crate) fn prefer_direct(&mut self, now: Instant) {
        if self.direct.is_some() && !self.is_relay_only() {
            self.relay = Relay::Off;
            (self.unanswered, self.direct_heard) = (0, now);
        }
    }

    /// Forgets what the registry said, so that it is asked again; a relay stays, unpinned.
    pub(crate) fn reset(&mut self) {
        self.unpin();
        self.resolve = Resolve::Unknown;
        (self.unanswered, self.errors) = (0, 0);
    }
}

/// The peer's address in a network of ours: both IPv4 and in the same /24, and the peer's public endpoint neither on this
/// machine nor of another family.
fn lan_neighbour(resolution: &Resolution, own: &[IpAddr]) -> Option<SocketAddr> {
    if resolution.real_addr.is_some_and(|real| real.ip().is_loopback() || !real.is_ipv4()) {
        return None;
    }
    let net = |ip: &IpAddr| match ip {
        IpAddr::V4(v4) => Some([v4.octets()[0], v4.octets()[1], v4.octets()[2]]),
        IpAddr::V6(_) => None,
    };
    let theirs = resolution.lan_addrs.iter();
    theirs.copied().find(|a| net(&a.ip()).is_some_and(|n| own.iter().any(|o| net(o) == Some(n))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn at(ms: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(ms)
    }

    const BEACON: &str = "192.0.2.1:9001";

    fn resolved(real: &str, lan: &[&str], relay_only: bool) -> Resolution {
        Resolution {
            real_addr: Some(addr(real)),
            lan_addrs: lan.iter().map(|a| addr(a)).collect(),
            relay_only,
        }
    }

    fn direct() -> Path {
        let mut p = Path::new(at(0));
        assert!(p.resolved(at(0), &resolved("198.51.100.7:4000", &[], false), &[]));
        p
    }

    fn route(p: &Path) -> Option<Route> {
        p.route(Some(addr(BEACON)), false)
    }

    #[test]
    fn a_neighbour_is_reached_in_the_lan_and_not_punched() {
        let own = ["10.1.2.3".parse().unwrap()];
        let mut p = Path::new(at(0));
        let r = resolved("198.51.100.7:4000", &["10.9.9.9:1", "10.1.2.77:4000"], false);
        assert!(!p.resolved(at(0), &r, &own));
        assert_eq!(route(&p), Some(Route::Direct(addr("10.1.2.77:4000"))));
        let r = resolved("127.0.0.1:4000", &["10.1.2.77:4000"], false);
        assert!(!p.resolved(at(0), &r, &own));
        assert_eq!(route(&p), Some(Route::Direct(addr("127.0.0.1:4000"))));
    }

    #[test]
    fn relay_only_pins() {
        let mut p = Path::new(at(0));
        assert!(!p.resolved(at(0), &resolved(BEACON, &[], true), &[]));
        for _ in 0..9 {
            p.heard_direct(at(1), addr("198.51.100.7:4000"));
        }
        p.unpin();
        p.prefer_direct(at(2));
        assert_eq!(route(&p), Some(Route::Relay(addr(BEACON))));
    }

    #[test]
    fn a_good_frame_moves_the_endpoint() {
        let mut p = direct();
        p.heard_direct(at(5), addr("198.51.100.7:5555"));
        assert_eq!(route(&p), Some(Route::Direct(addr("198.51.100.7:5555"))));
    }

    #[test]
    fn three_direct_frames_end_an_unpinned_relay_even_with_relayed_ones_between() {
        let mut p = direct();
        p.use_relay(false);
        let from = addr("198.51.100.7:4000");
        p.heard_direct(at(1), from);
        p.heard_direct(at(2), from);
        assert!(!p.heard_relayed(at(2), true));
        assert!(p.is_relayed());
        p.heard_direct(at(3), from);
        assert!(!p.is_relayed());
    }

    #[test]
    fn a_pinned_relay_ends_only_after_unpinning() {
        let mut p = Path::new(at(0));
        p.installed_relayed();
        let from = addr("198.51.100.7:4000");
        for _ in 0..9 {
            p.heard_direct(at(1), from);
        }
        assert!(p.is_relayed());
        p.unpin();
        for _ in 0..3 {
            p.heard_direct(at(1), from);
        }
        assert!(!p.is_relayed());
    }

    #[test]
    fn silence_leads_to_the_relay_but_a_burst_after_a_pause_does_not() {
        let mut p = direct();
        for _ in 0..100 {
            assert!(!p.sent_direct(at(60_000)));
        }
        assert!(p.sent_direct(at(61_000)));
        let mut p = direct();
        for ms in (0..8000).step_by(500) {
            assert!(!p.sent_direct(at(ms)));
        }
        assert!(p.sent_direct(at(9000)));
    }

    #[test]
    fn three_socket_errors_lead_to_the_relay() {
        let mut p = direct();
        assert!(!p.send_failed(true) && !p.send_failed(true) && p.send_failed(true));
        let mut p = direct();
        p.send_failed(true);
        p.send_failed(true);
        p.heard_direct(at(1), addr("198.51.100.7:4000"));
        assert!(!p.send_failed(true), "only consecutive ones count");
    }

    #[test]
    fn a_relayed_frame_leads_to_the_relay_unless_the_direct_way_was_just_heard() {
        let mut p = direct();
        p.heard_direct(at(1000), addr("198.51.100.7:4000"));
        assert!(!p.heard_relayed(at(8999), true));
        assert!(!p.heard_relayed(at(9000), false));
        assert!(p.heard_relayed(at(9000), true));
        let mut p = Path::new(at(0));
        assert!(p.heard_relayed(at(0), true));
        assert!(!p.heard_relayed(at(0), true), "said once");
    }

    #[test]
    fn the_registry_is_asked_again_after_a_minute_and_missed_for_an_hour() {
        let mut p = Path::new(at(0));
        let ttl = Duration::from_secs(60);
        assert!(p.should_resolve(at(0), ttl) && !p.should_resolve(at(0), ttl));
        p.resolved(at(0), &resolved("198.51.100.7:4000", &[], false), &[]);
        assert!(!p.should_resolve(at(59_999), ttl) && p.should_resolve(at(60_000), ttl));
        p.resolve_failed(at(60_000));
        assert!(p.direct().is_some());
        p.resolve_failed(at(3_600_000));
        assert!(p.direct().is_none() && !p.is_hopeful(None));
    }
}
