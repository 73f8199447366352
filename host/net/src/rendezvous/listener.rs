//! Accepting connections of the registry: how many, how fast, and what to do when the system refuses.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use super::config::Limits;
use super::connection::{self, Together};
use super::desk::Desk;
use super::stop::Stop;

/// How long after the start new connections are throttled.
const THROTTLED: Duration = Duration::from_secs(60);
/// Longest a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Waiting time per accept error in a row, and the most there is.
const ERROR_WAIT: Duration = Duration::from_millis(100);
const ERROR_WAIT_MAX: Duration = Duration::from_secs(2);
/// Request memory is handed out in pieces of this many bytes.
pub(super) const MEMORY_UNIT: usize = 1024;

/// What all connections of a server share.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub desk: Arc<Desk>,
    pub limits: Limits,
    pub tasks: TaskTracker,
    pub stop: Stop,
    connections: Arc<Semaphore>,
    /// In units of [`MEMORY_UNIT`].
    pub memory: Arc<Semaphore>,
    /// Sources without limits on their requests.
    pub unlimited: Arc<[IpAddr]>,
    pub together: Arc<Together>,
    /// Standbys that may follow at a time.
    pub feeds: Arc<Semaphore>,
    /// Large requests are decoded one after the other: decoded they take many times their size.
    pub decoding: Arc<Semaphore>,
}

impl Shared {
    pub fn new(
        desk: Arc<Desk>,
        limits: Limits,
        unlimited: Vec<IpAddr>,
        tasks: TaskTracker,
        stop: Stop,
    ) -> Self {
        let permits = |n: usize| Arc::new(Semaphore::new(n.min(Semaphore::MAX_PERMITS)));
        Self {
            desk,
            limits,
            tasks,
            stop,
            connections: permits(limits.connections),
            memory: permits(limits.request_memory / MEMORY_UNIT),
            unlimited: unlimited.into(),
            together: Arc::default(),
            feeds: permits(limits.standbys),
            decoding: permits(1),
        }
    }
}

/// Accepts until the server stops. An error of the system (no more file descriptors, mostly) makes it wait and try again;
/// it never gives up, unlike the Go peer, which stops listening after ten errors in a row.
pub(super) async fn run(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Shared) {
    let started = Instant::now();
    let mut errors = 0;
    let mut second = (started, 0);
    loop {
        let accepted = tokio::select! {
            () = shared.stop.wait() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, source) = match accepted {
            Ok(accepted) => accepted,
            Err(e) => {
                errors += 1;
                tracing::warn!(error = %e, in_a_row = errors, "rendezvous: accept failed");
                pause(&shared.stop, (ERROR_WAIT * errors).min(ERROR_WAIT_MAX)).await;
                continue;
            }
        };
        errors = 0;
        match shared.connections.clone().try_acquire_owned() {
            Ok(place) => {
                let own = shared.clone();
                let tls = tls.clone();
                shared.tasks.spawn(async move {
                    // Answers are small and waited for.
                    let _ = stream.set_nodelay(true);
                    match tls {
                        None => connection::serve(stream, source, &own).await,
                        Some(tls) => serve_tls(&tls, stream, source, &own).await,
                    }
                    drop(place);
                });
            }
            // Over the limit: taken and closed at once, so that the client need not wait for a time-out.
            Err(_) => drop(stream),
        }
        if started.elapsed() < THROTTLED {
            second = throttle(&shared, second).await;
        }
    }
}

/// One connection inside TLS; a client that does not finish the handshake in time is let go.
async fn serve_tls(tls: &TlsAcceptor, stream: TcpStream, source: SocketAddr, shared: &Shared) {
    let handshake = tokio::select! {
        () = shared.stop.wait() => return,
        handshake = timeout(HANDSHAKE, tls.accept(stream)) => handshake,
    };
    match handshake {
        Ok(Ok(stream)) => connection::serve(stream, source, shared).await,
        Ok(Err(e)) => tracing::debug!(%source, error = %e, "rendezvous: TLS handshake failed"),
        Err(_) => tracing::debug!(%source, "rendezvous: TLS handshake not finished in {HANDSHAKE:?}"),
    }
}

/// Counts one more connection of this second and waits for the next one when there were too many.
async fn throttle(shared: &Shared, (began, count): (Instant, u32)) -> (Instant, u32) {
    let age = began.elapsed();
    if age >= Duration::from_secs(1) {
        return (Instant::now(), 1);
    }
    if count + 1 >= shared.limits.accepts_per_second {
        pause(&shared.stop, Duration::from_secs(1) - age).await;
        return (Instant::now(), 0);
    }
    (began, count + 1)
}

async fn pause(stop: &Stop, time: Duration) {
    tokio::select! {
        () = stop.wait() => {}
        () = sleep(time) => {}
    }
}
