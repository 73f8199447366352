//! The watch over our own way in: a node whose NAT mapping is gone, or whose beacon started anew, looks alive and hears
//! nothing. Every Discover must be answered; while it is not, it is repeated quickly, which opens a new mapping and makes a
//! new beacon know us, and an answer that shows us at another address is told to every peer at once.
//!
//! The regular Discover is the host's business ([`Engine::discover`]); nothing here runs before the first one.

use pilot_wire::beacon;

use super::Engine;
use crate::notice::Notice;
use crate::time::{Duration, Instant};
use std::net::SocketAddr;

/// Waits before an unanswered Discover is repeated; the last one again and again.
const REPEATS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
/// Unanswered ones before the way in counts as dead.
const MAX_UNANSWERED: u32 = 4;

/// The state of the watch.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Inbound {
    /// Discovers sent since the last answer, and when the first of them was.
    unanswered: u32,
    since: Instant,
    next: Option<Instant>,
}

impl Inbound {
    /// When the next repeat is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.next
    }
}

impl Engine {
    /// Sends a Discover and waits for its answer.
    pub(super) fn ask_beacon(&mut self, now: Instant) {
        let Some(to) = self.me.beacon else {
            self.inbound = Inbound::default();
            return;
        };
        let mut message = Vec::new();
        beacon::Message::Discover { node: self.me.node, key: None }.encode(&mut message);
        self.outbox.push(to, message);
        let watch = &mut self.inbound;
        if watch.unanswered == 0 {
            watch.since = now;
        }
        let wait = REPEATS[(watch.unanswered as usize).min(REPEATS.len() - 1)];
        watch.unanswered += 1;
        watch.next = Some(now + wait);
        if watch.unanswered == MAX_UNANSWERED + 1 {
            let silent_for_seconds = now.since(watch.since).as_secs();
            self.events.notice(Notice::InboundDead { silent_for_seconds });
        }
    }

    /// Repeats what was not answered.
    pub(super) fn on_inbound_timer(&mut self, now: Instant) {
        if self.inbound.next.is_some_and(|next| next <= now) {
            self.ask_beacon(now);
        }
    }

    /// The beacon answered: this is where it sees us.
    pub(super) fn on_observed(&mut self, now: Instant, observed: SocketAddr) {
        let watch = std::mem::take(&mut self.inbound);
        if watch.unanswered > MAX_UNANSWERED {
            let silent_for_seconds = now.since(watch.since).as_secs();
            self.events.notice(Notice::InboundRecovered { silent_for_seconds });
        }
        let moved = self.me.observed.replace(observed).is_some_and(|before| before != observed);
        if moved {
            // They follow the source of any frame that opens.
            let peers: Vec<u32> =
                self.peers.values().filter(|p| p.session.is_some()).map(|p| p.node).collect();
            for node in peers {
                self.send_keepalive(now, node);
            }
        }
    }
}
