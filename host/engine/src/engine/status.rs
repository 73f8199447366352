//! A picture of the engine for status commands.

use super::Engine;
use super::peer::{Abilities, Exchange, Peer};
use crate::snapshot::{PathKind, PeerRow, Snapshot};
use crate::stream::conn::Conn;
use crate::tunnel::session::Session;

/// Counters since the engine's start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stats {
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_recv: u64,
    pub(crate) pkts_sent: u64,
    pub(crate) pkts_recv: u64,
    pub(crate) opened: u64,
    pub(crate) not_opened: u64,
    pub(crate) accept_queue_drops: u64,
}

impl Engine {
    /// See [`Engine::snapshot`].
    pub(super) fn picture(&self) -> Snapshot {
        let mut peers: Vec<PeerRow> = self.peers.values().map(|p| self.peer_row(p)).collect();
        peers.sort_unstable_by_key(|p| p.node);
        let mut conns: Vec<_> = self.conns.iter().map(Conn::row).collect();
        conns.sort_unstable_by_key(|c| c.id);
        let waiting = |e: Exchange| matches!(e, Exchange::Waiting { .. });
        Snapshot {
            node: self.me.node,
            observed: self.me.observed,
            beacon: self.me.beacon,
            bytes_sent: self.stats.bytes_sent,
            bytes_recv: self.stats.bytes_recv,
            pkts_sent: self.stats.pkts_sent,
            pkts_recv: self.stats.pkts_recv,
            ports: self.listeners.keys().copied().collect(),
            encryption_success: self.stats.opened,
            encryption_failure: self.stats.not_opened,
            key_exchanges_pending: self.peers.values().filter(|p| waiting(p.exchange)).count(),
            relay_peers: peers.iter().filter(|p| p.relay).count(),
            accept_queue_drops: self.stats.accept_queue_drops,
            events_dropped: self.events.dropped(),
            peers,
            conns,
        }
    }

    fn peer_row(&self, p: &Peer) -> PeerRow {
        let relay = p.path.is_relayed() || (self.config.relay_only && self.me.beacon.is_some());
        let endpoint = p.endpoint(self.me.beacon, self.config.relay_only);
        let streams = self.conns.of_peer(p.node).filter_map(|id| self.conns.get(id)?.srtt());
        let (lost, sent) = p.session.as_ref().map_or((0, 0), Session::lost_on_the_way);
        PeerRow {
            node: p.node,
            endpoint,
            encrypted: p.session.is_some(),
            authenticated: p.session.as_ref().is_some_and(|s| s.authenticated),
            relay,
            enhanced: matches!(p.abilities, Abilities::Enhanced { .. }),
            path: match endpoint {
                None => PathKind::None,
                Some(_) if relay => PathKind::Relay,
                Some(_) if p.path.is_lan() => PathKind::Lan,
                Some(_) => PathKind::Direct,
            },
            pinned: p.path.is_pinned(),
            heard: p.session.is_some().then(|| self.clock.since(p.heard)),
            rtt: streams.min().or(p.rtt),
            loss_permille: u32::try_from(u128::from(lost) * 1000 / u128::from(sent.max(1))).unwrap_or(1000),
            rekeys: p.rekeys,
        }
    }
}
