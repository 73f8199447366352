//! The beacon's WebSocket side: nodes without UDP connect here over TCP (wss.md sections 1 to 5).
//!
//! One task accepts; one task per connection answers HTTP and sets the challenge (`door`), then carries messages between
//! the socket and the beacon's task (`client`), which owns who is connected ([`pilot_rendezvous::Clients`]). So a message
//! between a WebSocket and a UDP socket passes through exactly one table, in one task.
//!
//! | queue | bound | when it is full |
//! |---|---|---|
//! | messages to the beacon, all clients together | [`TO_BEACON`] | nothing more is read from the sockets |
//! | messages to one client | [`client::QUEUE`] messages, [`client::QUEUE_BYTES`] | the message is lost, as on UDP; other clients notice nothing |
//! | clients | [`CompatListen::max_clients`] | HTTP 503 |
//! | connections that have not proved a node yet | [`STRANGERS`] | accepted and closed |

mod certificate;
mod client;
mod door;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(super) use certificate::Certificate;
pub use certificate::CertificateFiles;
pub(super) use client::Client;

/// Messages of all clients together that wait for the beacon, at most 64 KiB each.
const TO_BEACON: usize = 256;
/// Connections at a time that have not proved a node: each may take seconds for TLS, head and challenge.
const STRANGERS: usize = 4096;
/// How often certificate files are looked at.
const RELOAD: Duration = Duration::from_secs(2);
/// Longest a TLS handshake may take.
const TLS_TIMEOUT: Duration = Duration::from_secs(10);
/// Waiting time per accept error in a row, and the most there is.
const ERROR_WAIT: Duration = Duration::from_millis(100);
const ERROR_WAIT_MAX: Duration = Duration::from_secs(2);

/// Where and how the beacon takes WebSocket clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompatListen {
    /// TCP address; port 0 picks a free one.
    pub addr: SocketAddr,
    /// Certificate and key; looked at every two seconds and taken anew when a file has changed. `None`: plain HTTP, for a
    /// TLS front on the same machine.
    pub tls: Option<CertificateFiles>,
    /// Clients at a time; further ones get HTTP 503.
    pub max_clients: usize,
    /// Whole seconds after which a challenge is too old to be met.
    pub challenge_max_age: u32,
}

impl CompatListen {
    /// How many clients there may be unless something else is said.
    pub const MAX_CLIENTS: usize = 16_384;

    /// How old a challenge may become unless something else is said, seconds (wss.md section 2).
    pub const CHALLENGE_MAX_AGE: u32 = pilot_wire::compat::auth::MAX_AGE as u32;

    /// Plain HTTP on an address, with the default bounds.
    pub fn plain(addr: SocketAddr) -> Self {
        let (max_clients, challenge_max_age) = (Self::MAX_CLIENTS, Self::CHALLENGE_MAX_AGE);
        Self { addr, tls: None, max_clients, challenge_max_age }
    }
}

/// What connections tell the beacon's task. Messages of one connection keep their order.
#[derive(Debug)]
pub(super) enum FromClient {
    /// A node has proved itself; `done` is told when deliveries to it reach `client`.
    Attach { node: u32, connection: u64, client: Client, done: oneshot::Sender<()> },
    /// One binary message.
    Message { node: u32, connection: u64, data: Bytes },
    /// A connection is over.
    Detach { node: u32, connection: u64 },
}

/// What happened, for the dashboard.
#[derive(Debug, Default)]
pub(super) struct Counts {
    clients: AtomicUsize,
    received: AtomicU64,
    sent: AtomicU64,
    lost: AtomicU64,
}

/// A look at [`Counts`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    /// Nodes that are connected now.
    pub clients: usize,
    /// Binary messages from clients since the start.
    pub received: u64,
    /// Messages queued for clients since the start.
    pub sent: u64,
    /// Messages that found no room in a client's queue since the start, or were too large for it.
    pub lost: u64,
}

impl Counts {
    /// Notes how many nodes are connected.
    pub fn set_clients(&self, number: usize) {
        self.clients.store(number, Ordering::Relaxed);
    }

    /// The figures now.
    pub fn traffic(&self) -> Traffic {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Traffic {
            clients: self.clients.load(Ordering::Relaxed),
            received: read(&self.received),
            sent: read(&self.sent),
            lost: read(&self.lost),
        }
    }
}

/// Where the challenge's clock and randomness come from, and how old it may become; tests have their own.
#[derive(Clone)]
pub(super) struct Senses {
    /// Unix seconds.
    pub now: Arc<dyn Fn() -> i64 + Send + Sync>,
    /// 32 bytes nobody can guess.
    pub nonce: Arc<dyn Fn() -> Result<[u8; 32], getrandom::Error> + Send + Sync>,
    /// Whole seconds.
    pub max_age: i64,
}

impl Senses {
    /// The system's, and a limit in seconds.
    pub fn real(max_age: u32) -> Self {
        let nonce = || {
            let mut nonce = [0; 32];
            getrandom::fill(&mut nonce)?;
            Ok(nonce)
        };
        Self { now: Arc::new(super::desk::unix_now), nonce: Arc::new(nonce), max_age: max_age.into() }
    }
}

/// Gives the registered key of a node.
pub(super) type KeyOf = Arc<dyn Fn(u32) -> Option<[u8; 32]> + Send + Sync>;

/// What all connections share.
#[derive(Clone)]
pub(super) struct Shared {
    key_of: KeyOf,
    senses: Senses,
    beacon: mpsc::Sender<FromClient>,
    places: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    numbers: Arc<AtomicU64>,
    counts: Arc<Counts>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("counts", &self.counts).finish_non_exhaustive()
    }
}

/// The beacon's end of what its WebSocket side says.
#[derive(Debug)]
pub(super) struct Bridge {
    pub messages: mpsc::Receiver<FromClient>,
    pub counts: Arc<Counts>,
}

impl Shared {
    /// What connections share, and the beacon's end.
    pub fn new(
        key_of: KeyOf,
        senses: Senses,
        max_clients: usize,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> (Self, Bridge) {
        let (beacon, messages) = mpsc::channel(TO_BEACON);
        let permits = |n: usize| Arc::new(Semaphore::new(n.min(Semaphore::MAX_PERMITS)));
        let counts = Arc::new(Counts::default());
        let shared = Self {
            key_of,
            senses,
            beacon,
            places: permits(max_clients),
            strangers: permits(STRANGERS),
            numbers: Arc::default(),
            counts: counts.clone(),
            tasks,
            stop,
        };
        (shared, Bridge { messages, counts })
    }
}

/// Accepts until the server stops. An error of the system makes it wait and try again.
pub(super) async fn run(listener: TcpListener, mut certificate: Option<Certificate>, shared: Shared) {
    let mut looks = interval(RELOAD);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut errors = 0;
    loop {
        let accepted = tokio::select! {
            () = shared.stop.cancelled() => return,
            _ = looks.tick(), if certificate.is_some() => {
                if let Some(certificate) = &mut certificate {
                    certificate.refresh().await;
                }
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(e) => {
                errors += 1;
                tracing::warn!(error = %e, in_a_row = errors, "compat beacon: accept failed");
                tokio::select! {
                    () = shared.stop.cancelled() => return,
                    () = sleep((ERROR_WAIT * errors).min(ERROR_WAIT_MAX)) => continue,
                }
            }
        };
        errors = 0;
        // Over the bound it is closed at once, so that the client need not wait for a time-out.
        let Ok(stranger) = shared.strangers.clone().try_acquire_owned() else { continue };
        let own = shared.clone();
        let tls = certificate.as_ref().map(Certificate::acceptor);
        shared.tasks.spawn(async move {
            // Messages are datagrams; waiting to fill a segment would only delay them.
            let _ = stream.set_nodelay(true);
            match tls {
                None => door::serve(stream, stranger, &own).await,
                Some(tls) => serve_tls(stream, &tls, stranger, &own).await,
            }
        });
    }
}

async fn serve_tls(
    stream: TcpStream,
    tls: &TlsAcceptor,
    stranger: tokio::sync::OwnedSemaphorePermit,
    shared: &Shared,
) {
    let handshake = tokio::select! {
        () = shared.stop.cancelled() => return,
        handshake = timeout(TLS_TIMEOUT, tls.accept(stream)) => handshake,
    };
    match handshake {
        Ok(Ok(stream)) => door::serve(stream, stranger, shared).await,
        Ok(Err(e)) => tracing::debug!(error = %e, "compat beacon: TLS handshake failed"),
        Err(_) => tracing::debug!("compat beacon: TLS handshake not finished in {TLS_TIMEOUT:?}"),
    }
}
