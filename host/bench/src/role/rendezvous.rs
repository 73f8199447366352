//! A rendezvous with a store on disk, a place for WebSocket clients over TLS, and its rate limits lifted: what is measured is how fast it can be, not how fast
//! one address may be.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use pilot_net::rendezvous::{CertificateFiles, CompatListen, Limits, RendezvousConfig, RendezvousServer};
use pilot_net::tls::ServerTls;

use super::{Parent, not_mine};
use crate::protocol::Target;

/// Runs until the parent closes the input.
///
/// # Errors
/// When it cannot start or the parent is gone.
pub async fn run() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    let pin = ServerTls::self_signed(Some(dir.path()))?.fingerprint().to_owned();
    let tls = CertificateFiles {
        certificate: dir.path().join("tls-cert.pem"),
        key: dir.path().join("tls-key.pem"),
    };
    let mut config = RendezvousConfig {
        compat: Some(CompatListen { tls: Some(tls), ..CompatListen::plain(any) }),
        registry_addr: any,
        beacon_addr: any,
        data_dir: Some(dir.path().to_owned()),
        limits: Limits {
            accepts_per_second: u32::MAX,
            slow_above: u32::MAX,
            close_above: u32::MAX,
            close_above_together: None,
            ..Limits::default()
        },
        ..RendezvousConfig::default()
    };
    config.registry.registrations_per_minute = None;
    config.beacon.relay_per_second = None;
    let server = RendezvousServer::bind(config).await?;
    let mut parent = Parent::new();
    let compat = server.compat_addr().context("WebSocket clients are taken")?;
    parent.ready(Target::Rendezvous {
        registry: server.registry_addr(),
        beacon: server.beacon_addr(),
        compat,
        pin,
    })?;
    while let Some(request) = parent.next().await? {
        parent.answer(not_mine(&request))?;
    }
    server.shutdown().await;
    Ok(())
}
