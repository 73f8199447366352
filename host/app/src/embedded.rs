//! Which rendezvous this host uses: the configured one, or one in this process on loopback, or the one that another host
//! of this machine already runs there.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use pilot_net::rendezvous::{Follow, Limits, RendezvousConfig, RendezvousServer};
use pilot_net::tls::{ClientTls, ServerTls};
use pilot_wire::compat::BEACON_PLACEHOLDER;
use serde_json::json;
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

/// Finds or starts the rendezvous. Without `udp` the beacon is not looked up: it is reached by the compat transport.
///
/// # Errors
/// When a name does not resolve or an address cannot be bound, with what to do.
pub async fn choose(config: &Config, udp: bool) -> anyhow::Result<Rendezvous> {
    if let Some(registry) = &config.registry {
        let beacon = match udp {
            true => resolve(&config.beacon_addr(registry)).await?,
            false => BEACON_PLACEHOLDER,
        };
        return Ok(Rendezvous { registry: registry.clone(), beacon, server: None });
    }
    // A standby would not take this host's own registration.
    let settings = &RendezvousSettings { primary: None, ..config.rendezvous.clone() };
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

/// Starts a rendezvous with everything that is configured for it, and says where it is and how to believe it.
///
/// # Errors
/// When an address cannot be bound, or a certificate cannot be used.
pub async fn start(settings: &RendezvousSettings) -> anyhow::Result<RendezvousServer> {
    let tls = match &settings.tls {
        RendezvousTls::Off => None,
        RendezvousTls::SelfSigned => Some(ServerTls::self_signed(settings.data_dir.as_deref())?),
        RendezvousTls::Files { certificate, key } => Some(ServerTls::from_files(certificate, key)?),
    };
    let given = |text: &String| Some(text.clone()).filter(|t| !t.is_empty());
    let mut config = RendezvousConfig {
        registry_addr: settings.registry,
        beacon_addr: settings.beacon,
        admin_token: given(&settings.admin_token),
        data_dir: settings.data_dir.clone(),
        compat: settings.compat.clone(),
        tls,
        dashboard_addr: settings.dashboard,
        dashboard_token: given(&settings.dashboard_token),
        ..RendezvousConfig::default()
    };
    config.beacon.relay_per_second = settings.relay_limit;
    let limits = &settings.limits;
    config.limits = Limits {
        connections: limits.connections,
        slow_above: limits.slow_above,
        close_above: limits.close_above,
        close_above_together: limits.close_above_together,
        ..config.limits
    };
    config.registry.reap_after = limits.reap_after;
    config.registry.registrations_per_minute = limits.registrations_per_minute;
    config.registry.unlimited.clone_from(&limits.unlimited);
    config.beacon.unlimited.extend_from_slice(&limits.unlimited);
    config.registry.replication_token = given(&settings.replication_token);
    if let Some(primary) = &settings.primary {
        let tls = primary.fingerprint.as_deref().map(ClientTls::pinned).transpose()?;
        let (addr, token) = (primary.addr.clone(), settings.replication_token.clone());
        config.follow = Some(Follow { addr, token, tls });
    }
    let server = RendezvousServer::bind(config).await.with_context(|| {
        format!(
            "serve a rendezvous on {} (TCP) and {} (UDP): free the addresses, or choose others with [rendezvous] or flags",
            settings.registry, settings.beacon
        )
    })?;
    info!(registry = %server.registry_addr(), beacon = %server.beacon_addr(), "rendezvous listening");
    if let Some(fingerprint) = server.fingerprint() {
        info!(fingerprint, "the registry speaks TLS; nodes pin it with --registry-fingerprint");
    }
    if let (Some(url), Some(listen)) = (compat_url(&server, settings), &settings.compat) {
        info!(%url, max_clients = listen.max_clients, "compat beacon listening, for nodes without UDP");
    }
    if let Some(url) = dashboard_url(&server) {
        info!(%url, "dashboard listening");
    }
    if let Some(primary) = &settings.primary {
        info!(primary = primary.addr, "standby: following, and answering what only reads");
    }
    Ok(server)
}

/// What `pilot-host rendezvous --json` prints once it serves: an object on one line, every member always there, null for
/// what this rendezvous has not. Addresses are the bound ones; an unspecified one stands for all of the machine.
pub fn announcement(server: &RendezvousServer, settings: &RendezvousSettings) -> String {
    let line = json!({
        "status": "ready",
        "pid": std::process::id(),
        "registry": server.registry_addr().to_string(),
        "beacon": server.beacon_addr().to_string(),
        "compat": compat_url(server, settings),
        "dashboard": dashboard_url(server),
        "fingerprint": server.fingerprint(),
    });
    line.to_string()
}

fn compat_url(server: &RendezvousServer, settings: &RendezvousSettings) -> Option<String> {
    let scheme = if settings.compat.as_ref()?.tls.is_some() { "wss" } else { "ws" };
    Some(format!("{scheme}://{}/v1/compat", server.compat_addr()?))
}

fn dashboard_url(server: &RendezvousServer) -> Option<String> {
    Some(format!("http://{}/", server.dashboard_addr()?))
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
        RegistryTls::System => Some(ClientTls::system()?),
    })
}

/// Takes a Go registry's state file over into an empty data directory; gives what to tell the operator.
///
/// # Errors
/// When the file is no such file, or the directory already holds a registry.
pub fn import(file: &Path, data_dir: &Path) -> anyhow::Result<String> {
    let content = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
    let done = pilot_net::rendezvous::import(&content, data_dir)
        .with_context(|| format!("import {} into {}", file.display(), data_dir.display()))?;
    let mut report = format!(
        "{} nodes, {} networks and {} trust pairs are in {}\n",
        done.nodes,
        done.networks,
        done.trust_pairs,
        data_dir.display()
    );
    if done.checksum == Some(false) {
        report.push_str("warning: the file's checksum does not fit; it was changed after it was written\n");
    }
    for note in &done.notes {
        report.push_str(&format!("left out: {note}\n"));
    }
    Ok(report)
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
