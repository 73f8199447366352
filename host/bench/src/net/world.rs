//! What the suite's nodes need around them: one rendezvous in this process.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use pilot_net::rendezvous::{RendezvousConfig, RendezvousServer};

use super::Pair;

/// The rendezvous.
#[derive(Debug)]
pub struct World {
    server: RendezvousServer,
}

impl World {
    /// Starts it on free ports of loopback, with nothing kept.
    ///
    /// # Errors
    /// When there is no socket to be had.
    pub async fn start() -> Result<World> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let config = RendezvousConfig { registry_addr: any, beacon_addr: any, ..RendezvousConfig::default() };
        Ok(World { server: RendezvousServer::bind(config).await? })
    }

    /// Where the registry listens.
    pub fn registry(&self) -> SocketAddr {
        self.server.registry_addr()
    }

    /// Where the beacon listens.
    pub fn beacon(&self) -> SocketAddr {
        self.server.beacon_addr()
    }

    /// Two Pilot nodes, with the engine's own segment sizes or one for all paths.
    ///
    /// # Errors
    /// When one does not start.
    pub async fn pilots(&self, segment: Option<usize>) -> Result<Pair> {
        Self::pilots_at(self.registry(), self.beacon(), segment).await
    }

    /// Two Pilot nodes that find the rendezvous at these addresses.
    ///
    /// # Errors
    /// As [`pilots`](Self::pilots).
    pub async fn pilots_at(registry: SocketAddr, beacon: SocketAddr, segment: Option<usize>) -> Result<Pair> {
        let mut args = vec!["--registry".into(), registry.to_string(), "--beacon".into(), beacon.to_string()];
        if let Some(segment) = segment {
            args.extend(["--segment".into(), segment.to_string()]);
        }
        Pair::start("pilot", &args).await
    }

    /// Ends the rendezvous.
    pub async fn stop(self) {
        self.server.shutdown().await;
    }
}
