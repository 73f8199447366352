//! A rendezvous with a store on disk and its rate limits lifted: what is measured is how fast it can be, not how fast
//! one address may be.

use std::net::SocketAddr;

use anyhow::Result;
use pilot_net::rendezvous::{Limits, RendezvousConfig, RendezvousServer};

use super::{Parent, not_mine};
use crate::protocol::Target;

/// Runs until the parent closes the input.
///
/// # Errors
/// When it cannot start or the parent is gone.
pub async fn run() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    let mut config = RendezvousConfig {
        registry_addr: any,
        beacon_addr: any,
        data_dir: Some(dir.path().to_owned()),
        limits: Limits {
            accepts_per_second: u32::MAX,
            slow_above: u32::MAX,
            close_above: u32::MAX,
            ..Limits::default()
        },
        ..RendezvousConfig::default()
    };
    config.registry.registrations_per_minute = None;
    config.beacon.relay_per_second = None;
    let server = RendezvousServer::bind(config).await?;
    let mut parent = Parent::new();
    parent.ready(Target::Rendezvous { registry: server.registry_addr(), beacon: server.beacon_addr() })?;
    while let Some(request) = parent.next().await? {
        parent.answer(not_mine(&request))?;
    }
    server.shutdown().await;
    Ok(())
}
