//! A rendezvous server: the registry over TCP and the beacon over UDP, driven around the state machines of
//! `pilot-rendezvous`.
//!
//! Called by the host when it serves a rendezvous itself, and by tests. One server is
//!
//! | part | task | what it owns |
//! |---|---|---|
//! | `listener` | accepts TCP connections | the listening socket |
//! | `connection` | one per connection: reads a request, writes its answer | the connection |
//! | `desk` | none; shared | the registry behind a lock, and the way to the store |
//! | `desk`, `queue` | one per core | the requests to be answered |
//! | `committer` | a thread, when there is a store | the store |
//! | `beacon` | one | the UDP socket, the beacon, and who is connected over a WebSocket |
//! | `compat` | one, and one per WebSocket client, when they are wanted | the TCP socket; a connection |
//! | `replication` | one per standby that follows; one when this server follows another | a connection |
//! | `webhook` | one: tells the operator's webhook what the audit log says | nothing |
//! | `dashboard` | one, and one per browser, when it is wanted | the HTTP socket |
//! | `clerk` | one, every 10 s | nothing; removes silent nodes, has the store tidied up |
//!
//! Every change of the registry is in the store before its answer is on the wire. Every buffer is bounded: connections by
//! number, bodies by size and by what all of them together may hold, queues by length.

mod beacon;
mod committer;
mod compat;
mod config;
mod connection;
mod dashboard;
mod desk;
mod import;
mod intake;
mod listener;
mod queue;
mod replication;
mod stop;
mod store;
mod webhook;

use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use pilot_rendezvous::{Registry, RestoreError, Store, StoreError};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use committer::Committer;
pub use compat::{CertificateFiles, CompatListen};
pub use config::{Follow, Limits, RendezvousConfig};
use dashboard::Dashboard;
use desk::Desk;
pub use import::{ImportError, Imported, import};
use stop::Stop;
pub use store::RedbStore;

/// How often silent nodes are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);
/// How long an orderly end waits for connections in the middle of a request.
const FAREWELL: Duration = Duration::from_secs(3);

/// A running server. Dropping it without [`shutdown`](Self::shutdown) stops the tasks too, but waits for nothing.
#[derive(Debug)]
pub struct RendezvousServer {
    registry_addr: SocketAddr,
    beacon_addr: SocketAddr,
    compat_addr: Option<SocketAddr>,
    dashboard_addr: Option<SocketAddr>,
    desk: Arc<Desk>,
    committer: Option<Committer>,
    tasks: TaskTracker,
    stop: Stop,
    fingerprint: Option<String>,
    /// They go on for as long as some request waits for its answer.
    _workers: JoinSet<()>,
}

impl RendezvousServer {
    /// Opens the store (when a data directory is configured), binds both sockets and starts serving.
    ///
    /// # Errors
    /// [`BindError`]: which part failed, and why. Nothing keeps running then.
    pub async fn bind(config: RendezvousConfig) -> Result<Self, BindError> {
        let store = match config.data_dir.clone() {
            None => None,
            Some(dir) => {
                let opened = tokio::task::spawn_blocking(move || RedbStore::open(&dir)).await;
                let store = opened.map_err(|e| StoreError::new("open", e))??;
                Some(Box::new(store) as Box<dyn Store>)
            }
        };
        Self::bind_with(config, store).await
    }

    /// As [`bind`](Self::bind), over a store of the caller's or none; `data_dir` is not looked at.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub async fn bind_with(
        config: RendezvousConfig,
        store: Option<Box<dyn Store>>,
    ) -> Result<Self, BindError> {
        let listener = TcpListener::bind(config.registry_addr)
            .await
            .map_err(|cause| BindError::Registry { addr: config.registry_addr, cause })?;
        let beacon_failed = |cause| BindError::Beacon { addr: config.beacon_addr, cause };
        let socket = beacon::Socket::bind(config.beacon_addr).map_err(beacon_failed)?;
        let beacon_addr = socket.local_addr().map_err(beacon_failed)?;
        let registry_addr = listener
            .local_addr()
            .map_err(|cause| BindError::Registry { addr: config.registry_addr, cause })?;

        let fingerprint = config.tls.as_ref().map(|tls| tls.fingerprint().to_owned());
        let dashboard = match config.dashboard_addr {
            None => None,
            Some(addr) => Some(
                Dashboard::bind(addr, config.dashboard_token)
                    .await
                    .map_err(|cause| BindError::Dashboard { addr, cause })?,
            ),
        };
        let compat = match config.compat {
            None => None,
            Some(listen) => Some(bind_compat(listen).await?),
        };

        let mut settings = config.registry;
        settings.standby = config.follow.is_some();
        if config.admin_token.is_some() {
            settings.admin_token = config.admin_token;
        }
        if settings.beacon_addr.is_none() && !beacon_addr.ip().is_unspecified() {
            settings.beacon_addr = Some(beacon_addr.to_string());
        }
        let (committer, records) = match store {
            None => (None, Vec::new()),
            Some(store) => {
                let (committer, records) = Committer::start(store).await?;
                (Some(committer), records)
            }
        };
        let unlimited = settings.unlimited.clone();
        let registry = Registry::restore(settings, records, desk::unix_now())?;
        let (desk, errands) = Desk::new(registry, committer.as_ref().map(Committer::sender));
        let desk = Arc::new(desk);

        let (tasks, ending) = (TaskTracker::new(), Stop::default());
        let stop = ending.token();
        let dashboard_addr = dashboard.as_ref().map(Dashboard::addr);
        let shared =
            listener::Shared::new(desk.clone(), config.limits, unlimited, tasks.clone(), ending.clone());
        tasks.spawn(listener::run(listener, config.tls.map(|t| t.acceptor()), shared));
        let (compat_addr, bridge) = match compat {
            None => (None, None),
            Some(Compat { listener, addr, certificate, max_clients, challenge_max_age }) => {
                let key_of = {
                    let desk = desk.clone();
                    Arc::new(move |node| desk.key_of(node))
                };
                let (shared, bridge) = compat::Shared::new(
                    key_of,
                    compat::Senses::real(challenge_max_age),
                    max_clients,
                    tasks.clone(),
                    stop.clone(),
                );
                tasks.spawn(compat::run(listener, certificate, shared));
                (Some(addr), Some(bridge))
            }
        };
        let counts = bridge.as_ref().map(|bridge| bridge.counts.clone());
        tasks.spawn(beacon::run(socket, config.beacon, desk.clone(), errands.notices, bridge, stop.clone()));
        tasks.spawn(webhook::run(errands.letters, desk.clone(), stop.clone()));
        if let Some(primary) = config.follow {
            tasks.spawn(replication::follow(primary, desk.clone(), stop.clone()));
        }
        if let Some(dashboard) = dashboard {
            let run = dashboard.run(desk.clone(), counts, tasks.clone(), stop.clone());
            tasks.spawn(run);
        }
        tasks.spawn(clerk(desk.clone(), stop));
        tasks.close();
        let mut workers = JoinSet::new();
        for _ in 0..std::thread::available_parallelism().map_or(1, NonZero::get) {
            workers.spawn(keep_working(desk.clone()));
        }
        Ok(Self {
            registry_addr,
            beacon_addr,
            compat_addr,
            dashboard_addr,
            desk,
            committer,
            tasks,
            stop: ending,
            fingerprint,
            _workers: workers,
        })
    }

    /// Where the registry listens.
    pub fn registry_addr(&self) -> SocketAddr {
        self.registry_addr
    }

    /// Where the beacon listens.
    pub fn beacon_addr(&self) -> SocketAddr {
        self.beacon_addr
    }

    /// Where the beacon takes WebSocket clients, if it does.
    pub fn compat_addr(&self) -> Option<SocketAddr> {
        self.compat_addr
    }

    /// Where the dashboard listens, if there is one.
    pub fn dashboard_addr(&self) -> Option<SocketAddr> {
        self.dashboard_addr
    }

    /// What clients pin when the registry speaks TLS: lower-case hex SHA-256 of its certificate.
    pub fn fingerprint(&self) -> Option<&str> {
        self.fingerprint.as_deref()
    }

    /// How many nodes are in the directory.
    pub fn node_count(&self) -> usize {
        self.desk.node_count()
    }

    /// Stops accepting, lets running requests finish for a few seconds, writes what is left to the store, and returns
    /// when it is closed.
    pub async fn shutdown(mut self) {
        self.stop.begin();
        if tokio::time::timeout(FAREWELL, self.tasks.wait()).await.is_err() {
            tracing::warn!("rendezvous: some connections did not finish in time");
        }
        self.desk.last_commit().await;
        if let Some(committer) = self.committer.take() {
            committer.finish().await;
        }
    }
}

impl Drop for RendezvousServer {
    fn drop(&mut self) {
        self.stop.begin();
    }
}

/// The WebSocket side before it runs.
struct Compat {
    listener: TcpListener,
    addr: SocketAddr,
    certificate: Option<compat::Certificate>,
    max_clients: usize,
    challenge_max_age: u32,
}

async fn bind_compat(listen: CompatListen) -> Result<Compat, BindError> {
    let failed = |cause| BindError::Compat { addr: listen.addr, cause };
    let certificate = listen.tls.map(compat::Certificate::load).transpose()?;
    let listener = TcpListener::bind(listen.addr).await.map_err(failed)?;
    let addr = listener.local_addr().map_err(failed)?;
    let CompatListen { max_clients, challenge_max_age, .. } = listen;
    Ok(Compat { listener, addr, certificate, max_clients, challenge_max_age })
}

/// One of the tasks that answer requests. Nothing should make it panic; if something does, the connections concerned are
/// closed, and the others are served on.
async fn keep_working(desk: Arc<Desk>) {
    loop {
        let mut task = JoinSet::new();
        task.spawn(desk.clone().work());
        match task.join_next().await {
            Some(Err(e)) if e.is_panic() => {
                tracing::error!(error = %e, "rendezvous: a request was not survived; please report this");
            }
            _ => return,
        }
    }
}

/// Removes silent nodes, and has the store tidied up, until the server stops.
async fn clerk(desk: Arc<Desk>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {
                desk.sweep().await;
                desk.tidy();
            }
        }
    }
}

/// Why a rendezvous server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The TCP address cannot be had.
    #[error("rendezvous: listen on {addr} (TCP): {cause}")]
    Registry {
        /// The configured address.
        addr: SocketAddr,
        /// What the system says.
        #[source]
        cause: std::io::Error,
    },
    /// The UDP address cannot be had.
    #[error("rendezvous: listen on {addr} (UDP): {cause}")]
    Beacon {
        /// The configured address.
        addr: SocketAddr,
        /// What the system says.
        #[source]
        cause: std::io::Error,
    },
    /// The dashboard's address cannot be had.
    #[error("rendezvous: listen on {addr} (dashboard): {cause}")]
    Dashboard {
        /// The configured address.
        addr: SocketAddr,
        /// What the system says.
        #[source]
        cause: std::io::Error,
    },
    /// The address for WebSocket clients cannot be had.
    #[error("rendezvous: listen on {addr} (compat): {cause}")]
    Compat {
        /// The configured address.
        addr: SocketAddr,
        /// What the system says.
        #[source]
        cause: std::io::Error,
    },
    /// The certificate for WebSocket clients cannot be used.
    #[error("rendezvous: compat: {0}")]
    Certificate(#[from] crate::tls::TlsError),
    /// The store cannot be opened or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store was read, but what it says makes no sense.
    #[error("rendezvous: {0}")]
    Restore(#[from] RestoreError),
}
