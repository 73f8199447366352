//! A picture of the engine for status commands.

use super::Engine;
use super::peer::{Abilities, Exchange};
use crate::snapshot::{PeerRow, Snapshot};
use crate::stream::conn::Conn;

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
        let mut peers: Vec<PeerRow> = self
            .peers
            .values()
            .map(|p| PeerRow {
                node: p.node,
                endpoint: p.endpoint(self.me.beacon, self.config.relay_only),
                encrypted: p.session.is_some(),
                authenticated: p.session.as_ref().is_some_and(|s| s.authenticated),
                relay: p.path.is_relayed() || (self.config.relay_only && self.me.beacon.is_some()),
                enhanced: matches!(p.abilities, Abilities::Enhanced { .. }),
            })
            .collect();
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
}
