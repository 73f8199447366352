//! `pilot-host run`: puts the host together, keeps it running until it is asked to stop, takes it apart in order.
//! The order is that of host/README.md, "Start and stop".

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use pilot_engine::Engine;
use pilot_loader::{Loaded, Loader, PluginState};
use pilot_net::bus::Bus;
use pilot_net::clock::Clock;
use pilot_net::identity_file;
use pilot_net::node::{Node, NodeFeeds};
use pilot_net::registry_client::RegistryClient;
use pilot_net::rendezvous::RendezvousServer;
use pilot_wire::compat::BEACON_PLACEHOLDER;
use serde_json::Map;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug_span, error, info, warn};

use crate::backend::HostBackend;
use crate::config::Config;
use crate::core::Core;
use crate::ipc::IpcBackend;
use crate::transport::Carrier;
use crate::{admission, embedded, ipc, membership, metrics, notify, reload, supervision, transport};

/// Longest the network side may take to say goodbye.
const FAREWELL: Duration = Duration::from_secs(3);

/// Longest the last faults may take to reach the disk.
const LEDGER_FLUSH: Duration = Duration::from_secs(2);

/// Runs until SIGTERM, SIGINT or a local client's stop request.
///
/// # Errors
/// When the host cannot start; everything that had started is shut down again.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    // One reload that waits is as good as several.
    let (reload_tx, reloads) = mpsc::channel(1);
    stop_on_signals(&stop, Some(reload_tx))?;
    run_until(config, stop, |core| {
        // Both end when the host is asked to stop.
        tokio::spawn(notify::run(core.clone()));
        tokio::spawn(reload::run(core.clone(), reloads));
    })
    .await
}

/// Runs until `stop` is cancelled or a local client asks for it; `up` is told once the plugins have started.
///
/// # Errors
/// As [`run`].
pub async fn run_until(
    config: Config,
    stop: CancellationToken,
    up: impl FnOnce(&Arc<Core>),
) -> anyhow::Result<()> {
    for remark in config.remarks() {
        warn!("{remark}");
    }
    let seed = random_seed()?;
    let (identity, unsaved) = identity_file::load_or_create(&config.node.identity, seed)
        .with_context(|| format!("load identity {}", config.node.identity.display()))?;
    if let Some(e) = unsaved {
        warn!(error = %e, path = %config.node.identity.display(), "the new identity could not be saved; it lasts until this process ends");
    }
    let identity = Arc::new(identity);

    // The local socket first: a second host on the same path must not disturb the first one in any other way.
    let socket = ipc::bind(&config.socket, config.socket_group)?;

    let metrics_at = match config.metrics {
        Some(addr) => Some(metrics::bind(addr).await?),
        None => None,
    };
    let Carrier { underlay, compat } = transport::open(&config).await?;
    let clock = Clock::start();
    let mut settings = config.engine.apply(pilot_engine::Config::default());
    // Whatever the configuration says: there is no other way out.
    settings.relay_only |= compat.is_some();
    let mut engine = Engine::new(settings, random_seed()?, clock.now());
    engine.set_identity(identity.clone());
    engine.set_wall_clock(clock.now(), unix_nanos());
    if compat.is_none() {
        engine.set_lan_addrs(lan_addresses());
    }
    let bus = Bus::new();
    let (node, NodeFeeds { queries, signals, task: driver, stop: stop_node }) =
        Node::spawn(engine, underlay, clock, bus)?;
    if compat.is_none() {
        info!(addr = %node.local_addr(), "tunnel socket bound");
    }

    let (nudge_tx, nudges) = mpsc::channel(64);
    let core = Arc::new(Core::new(config, node, identity, stop.clone(), nudge_tx).over(compat));
    let mut background = tokio::task::JoinSet::new();
    background.spawn(core.history.clone().record(core.bus().clone()));
    background.spawn(admission::run(core.clone(), queries));

    let rendezvous = embedded::choose(&core.config, core.compat.is_none()).await?;
    core.node
        .configure({
            let beacon = if core.compat.is_some() { BEACON_PLACEHOLDER } else { rendezvous.beacon };
            move |engine, _| engine.set_beacon(Some(beacon))
        })
        .await;
    let signer = core.clone();
    let client = RegistryClient::new(rendezvous.registry.clone(), move |message: &[u8]| {
        signer.identity().map(|i| i.sign(message))
    });
    let client = client.standbys(core.config.standbys.clone());
    let client = client.tls(embedded::client_tls(&core.config, &rendezvous)?);
    let proxy = transport::registry_proxy(&core.config, core.compat.is_some(), &rendezvous.registry)?;
    core.set_registry(Arc::new(client.proxy(proxy)));

    let loaded = match load_plugins(&core).await {
        Ok(loaded) => loaded,
        Err(e) => {
            drop(socket);
            stop_node.cancel();
            let _ = driver.await;
            rendezvous.shutdown().await;
            return Err(e);
        }
    };
    let loaded = Arc::new(loaded);
    let backend = Arc::new(HostBackend::new(core.clone(), loaded.clone()));
    if let Some(listener) = metrics_at {
        let rows = backend.clone();
        background.spawn(metrics::serve(listener, core.clone(), Arc::new(move || rows.plugins())));
    }
    let server = ipc::serve(socket, backend);
    info!(socket = %core.config.socket.display(), "IPC listening");
    background.spawn(membership::run(core.clone(), signals, nudges, random_seed()?));

    up(&core);

    stop.cancelled().await;
    info!("shutting down");
    notify::stopping();
    announce_shutdown(&core).await;
    server.shutdown().await;
    shutdown_plugins(&core, &loaded).await;
    stop_node.cancel();
    if tokio::time::timeout(FAREWELL, driver).await.is_err() {
        warn!("the network side did not finish in time");
    }
    if let Some(compat) = &core.compat {
        compat.close().await;
    }
    background.shutdown().await;
    rendezvous.shutdown().await;
    info!("stopped");
    core.failure().map_or(Ok(()), |why| Err(anyhow::anyhow!(why)))
}

/// Loads and starts the plugins on a thread that may wait.
async fn load_plugins(core: &Arc<Core>) -> anyhow::Result<Loaded> {
    let settings = &core.config.plugins;
    let loader = Loader::new(supervision::loader_config(core));
    let host = supervision::Face::new(core.clone());
    let span = debug_span!("plugins.start");
    let start = move || span.in_scope(|| loader.load(host));
    let loaded = tokio::task::spawn_blocking(start).await.context("loading plugins")?;
    match loaded {
        Ok(loaded) => {
            for p in loaded.plugins() {
                match &p.state {
                    PluginState::Running => {
                        info!(name = p.name, version = p.version, path = %p.path.display(), "plugin started");
                    }
                    other => {
                        warn!(
                            name = p.name,
                            state = other.as_str(),
                            reason = other.reason(),
                            "plugin not started"
                        );
                    }
                }
            }
            Ok(loaded)
        }
        Err(e) => anyhow::bail!(
            "plugin startup: {e}\n  the plugins directory is {} (--plugins, PILOT_PLUGINS_DIR or [plugins] dir)",
            settings.dir.display()
        ),
    }
}

async fn shutdown_plugins(core: &Arc<Core>, loaded: &Arc<Loaded>) {
    let (loaded, deadline) = (loaded.clone(), core.config.plugins.shutdown_timeout);
    let span = debug_span!("plugins.stop");
    let report = tokio::task::spawn_blocking(move || span.in_scope(|| loaded.shutdown(deadline))).await;
    core.services.clear();
    match report {
        Ok(report) => {
            for step in &report.steps {
                match &step.error {
                    None => info!(name = step.name, "plugin stopped"),
                    Some(e) => error!(name = step.name, error = %e, "plugin stopped"),
                }
            }
        }
        Err(e) => error!(error = %e, "shutting the plugins down failed"),
    }
    let ledger = core.plugins.ledger().clone();
    let _ = tokio::task::spawn_blocking(move || ledger.flush(LEDGER_FLUSH)).await;
}

/// Publishes `daemon.shutting_down` while everything still stands (plugin-contract.md section 1.5).
async fn announce_shutdown(core: &Core) {
    let snapshot = core.node.snapshot().await;
    let mut payload = Map::new();
    payload.insert("open_connections".into(), snapshot.as_ref().map_or(0, |s| s.conns.len()).into());
    payload.insert("known_peers".into(), snapshot.as_ref().map_or(0, |s| s.peers.len()).into());
    payload.insert("uptime_seconds".into(), core.started.elapsed().as_secs().into());
    core.bus().publish("daemon.shutting_down", Some(payload));
}

/// SIGTERM and SIGINT ask for a stop; SIGHUP never ends a daemon, it wakes `reload` where there is something to reload.
fn stop_on_signals(stop: &CancellationToken, reload: Option<mpsc::Sender<()>>) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate()).context("install the SIGTERM handler")?;
    let mut int = signal(SignalKind::interrupt()).context("install the SIGINT handler")?;
    let mut hup = signal(SignalKind::hangup()).context("install the SIGHUP handler")?;
    let stop = stop.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = term.recv() => stop.cancel(),
                _ = int.recv() => stop.cancel(),
                _ = hup.recv() => match &reload {
                    // Full: one waits already, and it will read what is there now.
                    Some(reload) => drop(reload.try_send(())),
                    None => info!("SIGHUP received; restart to apply a changed configuration"),
                },
            }
        }
    });
    Ok(())
}

/// Waits for SIGTERM or SIGINT; for programs without more to tidy up.
pub async fn stop_requested() -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    stop_on_signals(&stop, None)?;
    stop.cancelled().await;
    Ok(())
}

fn random_seed() -> anyhow::Result<[u8; 32]> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|e| anyhow::anyhow!("the system gave no randomness: {e}"))?;
    Ok(seed)
}

fn unix_nanos() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// This machine's addresses in its local networks, loopback left out.
fn lan_addresses() -> Vec<std::net::IpAddr> {
    pilot_net::udp::lan_addresses()
}

/// What the host registers when nothing better is known: the bound address, with loopback for "any".
pub(crate) fn local_endpoint(bound: SocketAddr) -> SocketAddr {
    match bound.ip().is_unspecified() {
        true if bound.is_ipv4() => SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), bound.port()),
        true => SocketAddr::new(std::net::Ipv6Addr::LOCALHOST.into(), bound.port()),
        false => bound,
    }
}

/// Runs only the rendezvous until it is asked to stop; with `announce` it says on standard output when it serves, and where
/// ([`embedded::announcement`]).
///
/// # Errors
/// When an address cannot be bound.
pub async fn rendezvous(config: Config, announce: bool) -> anyhow::Result<()> {
    let server: RendezvousServer = embedded::start(&config.rendezvous).await?;
    if announce {
        // Whoever waits for the line may have gone; the rendezvous is not there for it alone.
        let _ = writeln!(std::io::stdout(), "{}", embedded::announcement(&server, &config.rendezvous));
    }
    stop_requested().await?;
    info!("shutting down");
    server.shutdown().await;
    info!("stopped");
    Ok(())
}
