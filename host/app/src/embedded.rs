//! Which rendezvous this host uses: the configured one, or one in this process on loopback, or the one that another host
//! of this machine already runs there.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use pilot_net::rendezvous::{RendezvousConfig, RendezvousServer};
use pilot_net::tls::{ClientTls, ServerTls};
use tracing::info;

use crate::config::{Config, RegistryTls, RendezvousSettings, RendezvousTls};

/// The rendezvous in use.
pub struct Rendezvous {
    /// HOST:PORT of the registry.
    pub registry: String,
    /// The beacon.
    pub beacon: SocketAddr,
    server: Option<RendezvousServer>,
}

impl Rendezvous {
    /// Stops what this process serves.
    pub async fn shutdown(self) {
        if let Some(server) = self.server {
            server.shutdown().await;
        }
    }
}

/// Finds or starts the rendezvous.
///
/// # Errors
/// When a name does not resolve or an address cannot be bound, with what to do.
pub async fn choose(config: &Config) -> anyhow::Result<Rendezvous> {
    if let Some(registry) = &config.registry {
        let beacon = config.beacon_addr(registry);
        return Ok(Rendezvous { registry: registry.clone(), beacon: resolve(&beacon).await?, server: None });
    }
    let settings = &config.rendezvous;
    match start(settings).await {
        Ok(server) => {
            info!(
                registry = %server.registry_addr(),
                beacon = %server.beacon_addr(),
                "no registry is configured: this process serves one on loopback for the hosts of this machine"
            );
            Ok(Rendezvous {
                registry: server.registry_addr().to_string(),
                beacon: server.beacon_addr(),
                server: Some(server),
            })
        }
        Err(e) if answers(settings.registry).await => {
            info!(registry = %settings.registry, reason = %e, "no registry is configured: using the one that already runs on this machine");
            Ok(Rendezvous { registry: settings.registry.to_string(), beacon: settings.beacon, server: None })
        }
        Err(e) => Err(e),
    }
}

/// Starts a rendezvous and says where.
///
/// # Errors
/// When an address cannot be bound.
pub async fn start(settings: &RendezvousSettings) -> anyhow::Result<RendezvousServer> {
    let tls = match &settings.tls {
        RendezvousTls::Off => None,
        RendezvousTls::SelfSigned => Some(ServerTls::self_signed(settings.data_dir.as_deref())?),
        RendezvousTls::Files { certificate, key } => Some(ServerTls::from_files(certificate, key)?),
    };
    let fingerprint = tls.as_ref().map(|t| t.fingerprint().to_owned());
    let server = RendezvousServer::bind(RendezvousConfig {
        registry_addr: settings.registry,
        beacon_addr: settings.beacon,
        admin_token: Some(settings.admin_token.clone()).filter(|t| !t.is_empty()),
        data_dir: settings.data_dir.clone(),
        tls,
        ..RendezvousConfig::default()
    })
    .await
    .with_context(|| {
        format!(
            "serve a rendezvous on {} (TCP) and {} (UDP): free the addresses, or choose others with [rendezvous] or flags",
            settings.registry, settings.beacon
        )
    })?;
    info!(registry = %server.registry_addr(), beacon = %server.beacon_addr(), "rendezvous listening");
    if let Some(fingerprint) = fingerprint {
        info!(fingerprint, "the registry speaks TLS; nodes pin it with --registry-fingerprint");
    }
    Ok(server)
}

/// How this host's registry connections are secured. A rendezvous in this very process is known by its certificate.
///
/// # Errors
/// When a file cannot be used.
pub fn client_tls(config: &Config, rendezvous: &Rendezvous) -> anyhow::Result<Option<ClientTls>> {
    if let Some(fingerprint) = rendezvous.server.as_ref().and_then(|s| s.fingerprint()) {
        return Ok(Some(ClientTls::pinned(fingerprint)?));
    }
    Ok(match &config.registry_tls {
        RegistryTls::Off => None,
        RegistryTls::Pinned(fingerprint) => Some(ClientTls::pinned(fingerprint)?),
        RegistryTls::CaFile(path) => Some(ClientTls::roots(path)?),
    })
}

async fn answers(registry: SocketAddr) -> bool {
    let attempt = tokio::net::TcpStream::connect(registry);
    matches!(tokio::time::timeout(Duration::from_secs(2), attempt).await, Ok(Ok(_)))
}

async fn resolve(text: &str) -> anyhow::Result<SocketAddr> {
    tokio::net::lookup_host(text)
        .await
        .with_context(|| format!("look up the beacon {text}: check [beacon] addr or --beacon"))?
        .next()
        .with_context(|| format!("the beacon's name {text} has no address"))
}
