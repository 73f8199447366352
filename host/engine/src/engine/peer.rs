//! What the engine knows about one other node: its session, its path, and what waits for them.

use std::collections::VecDeque;
use std::net::SocketAddr;

use pilot_wire::tunnel::{SealedHeader, TAG_LEN};

use super::path::Path;
use crate::time::{Duration, Instant};
use crate::tunnel::session::{Refusal, Session};

/// Packets kept to be sent again when the peer turns out to have a new key (tunnel.md section 5).
const SALVAGE: usize = 4;
/// They are not worth it when older than this.
const SALVAGE_AGE: Duration = Duration::from_secs(5);

/// Our key exchange with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exchange {
    /// None under way.
    Idle,
    /// Sent `sends` times; again at `next`.
    Waiting { sends: u32, next: Instant },
    /// Unanswered; sends fail until then.
    GivenUp { until: Instant },
}

/// Whether the peer has the large-window data plane (`control`, "hello").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Abilities {
    /// Asked `asked` times; again at `next`, if at all.
    Unknown { asked: u32, next: Option<Instant> },
    /// It answered: it takes segments up to this size.
    Enhanced { segment: usize },
}

/// A silent peer is probed before its path is given up (tunnel.md section 7, "path watch").
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Watch {
    pub(crate) probes: u32,
    /// No second reset before this.
    pub(crate) not_before: Instant,
    /// The path was reset while the peer was silent: since when, after how many probes.
    pub(crate) reset: Option<(Instant, u32)>,
}

/// A session that was replaced a moment ago. A key exchange can be a recorded one from an earlier life of the peer, sent
/// again by anyone; so the session it replaced stays until one of the two is the one the peer really uses.
pub(crate) struct Other {
    pub(crate) session: Session,
    /// It is forgotten then.
    pub(crate) until: Instant,
}

/// One other node.
pub(crate) struct Peer {
    pub(crate) node: u32,
    pub(crate) session: Option<Session>,
    pub(crate) other: Option<Other>,
    pub(crate) exchange: Exchange,
    pub(crate) path: Path,
    pub(crate) abilities: Abilities,
    /// Packets that wait for a key, oldest first.
    pub(crate) pending: VecDeque<Vec<u8>>,
    salvage: VecDeque<(Instant, Vec<u8>)>,
    /// The host trusted it when its key was last looked up.
    pub(crate) trusted: bool,
    /// When its key last changed while we knew it, so it was started anew.
    pub(crate) restarted: Instant,
    /// The session replaced another one, and what the old one may have lost was not sent again yet.
    pub(crate) rekeyed: bool,
    /// How often its key changed while we knew it.
    pub(crate) rekeys: u64,
    /// The last frame that opened.
    pub(crate) heard: Instant,
    /// The last frame sent.
    pub(crate) said: Instant,
    /// The last packet of an application, either way.
    pub(crate) used: Instant,
    /// The last answer to a key exchange with an unchanged key.
    pub(crate) answered: Option<Instant>,
    pub(crate) watch: Watch,
    /// Next look at keepalive, watch and upgrade.
    pub(crate) upkeep: Instant,
    pub(crate) upgrade: Instant,
    /// Direct probes still to be sent, and when.
    pub(crate) direct_probes: Option<(u32, Instant)>,
    /// When we last sent such probes.
    pub(crate) probed: Option<Instant>,
    /// No second path reset after an exchange was given up before this.
    pub(crate) next_reset: Instant,
    /// The last ping's round trip.
    pub(crate) rtt: Option<Duration>,
    /// The timer that is set.
    pub(crate) timer: Option<Instant>,
}

impl Peer {
    pub(crate) fn new(now: Instant, node: u32, upkeep: Instant) -> Self {
        Self {
            node,
            session: None,
            other: None,
            exchange: Exchange::Idle,
            path: Path::new(now),
            abilities: Abilities::Unknown { asked: 0, next: None },
            pending: VecDeque::new(),
            salvage: VecDeque::new(),
            trusted: false,
            restarted: Instant::ZERO,
            rekeyed: false,
            rekeys: 0,
            rtt: None,
            heard: now,
            said: now,
            used: now,
            answered: None,
            watch: Watch::default(),
            upkeep,
            upgrade: now,
            direct_probes: None,
            probed: None,
            next_reset: now,
            timer: None,
        }
    }

    /// Where a frame goes straight, for messages about addresses.
    pub(crate) fn endpoint(&self, beacon: Option<SocketAddr>, relay_only: bool) -> Option<SocketAddr> {
        self.path.route(beacon, relay_only).map(super::path::Route::to)
    }

    /// Opens a frame with the session, or with the one it replaced, which then takes its place again.
    pub(crate) fn open<'a>(
        &mut self,
        now: Instant,
        header: &SealedHeader,
        sealed: &'a mut [u8],
        scratch: &mut Vec<u8>,
    ) -> Result<&'a mut [u8], Refusal> {
        let Some(session) = &mut self.session else { return Err(Refusal::Forged) };
        let Some(other) = self.other.as_mut().filter(|o| now < o.until) else {
            return session.open(now, header, sealed);
        };
        // A failed opening destroys the ciphertext.
        scratch.clear();
        scratch.extend_from_slice(sealed);
        let len = sealed.len().saturating_sub(TAG_LEN);
        match session.open(now, header, sealed) {
            Ok(_) => {}
            Err(Refusal::Forged) => {
                sealed.copy_from_slice(scratch);
                other.session.open(now, header, sealed)?;
                std::mem::swap(session, &mut other.session);
            }
            Err(refusal) => return Err(refusal),
        }
        sealed.get_mut(..len).ok_or(Refusal::Forged)
    }

    /// Keeps a copy of a packet that was just sealed. Stream segments need none: their sender repeats them.
    pub(crate) fn remember(&mut self, now: Instant, packet: &[u8]) {
        let mut copy = if self.salvage.len() >= SALVAGE {
            self.salvage.pop_front().map(|(_, old)| old).unwrap_or_default()
        } else {
            Vec::new()
        };
        copy.clear();
        copy.extend_from_slice(packet);
        self.salvage.push_back((now, copy));
    }

    /// The remembered packets that are worth sending again, oldest first.
    pub(crate) fn salvage(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let young = |(at, packet): (Instant, Vec<u8>)| (now.since(at) <= SALVAGE_AGE).then_some(packet);
        self.salvage.drain(..).filter_map(young).collect()
    }

    /// When the node was last heard, if that is a sign of life of its idle streams too. Peers of our kind speak on idle
    /// streams themselves; others do not while they hear us, so there the node stands for its streams (stream.md section 9).
    /// A node that started over has lost those from before: for them nothing it says counts.
    pub(crate) fn vouches_for(&self, stream_opened: Instant) -> Instant {
        match self.abilities {
            Abilities::Unknown { .. } if stream_opened >= self.restarted => self.heard,
            _ => Instant::ZERO,
        }
    }

    /// When the peer's next timer falls due.
    pub(crate) fn deadline(&self) -> Instant {
        let exchange = match self.exchange {
            Exchange::Waiting { next, .. } => Some(next),
            _ => None,
        };
        let hello = match self.abilities {
            Abilities::Unknown { next, .. } if self.session.is_some() => next,
            _ => None,
        };
        let probe = self.direct_probes.map(|(_, at)| at);
        [exchange, hello, probe].into_iter().flatten().fold(self.upkeep, Instant::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_four_packets_of_the_last_five_seconds_are_salvaged() {
        let at = |s| Instant::ZERO + Duration::from_secs(s);
        let mut p = Peer::new(at(0), 1, at(5));
        for n in 0..6_u8 {
            p.remember(at(n.into()), &[n]);
        }
        assert_eq!(p.salvage(at(8)), [vec![3], vec![4], vec![5]]);
        assert!(p.salvage(at(8)).is_empty());
    }
}
