//! The daemon's end of the local protocol: reads clients' requests, carries them out, answers in the order the protocol
//! demands (fact sheet ipc.md).
//!
//! Started by `run`; asks the daemon for everything through [`IpcBackend`]. Framing and socket are `pilot_net::ipc`, the
//! messages `pilot_wire::ipc`.
//!
//! ```text
//!            ┌ session (one per client) ────────────────────────────────┐
//! socket ──▶ │ reader ──┬─ send, datagram, health, close: at once, in order │
//!            │          └─ everything else: a task each, at most 1024       │ ──▶ IpcBackend
//! socket ◀── │ writer ◀── queue of 256 frames ◀── replies, pushes           │
//!            └──────────────────────────────────────────────────────────┘
//! ```
//!
//! What a client cannot break: a full queue makes only its own producers wait; its end closes its streams after what it
//! had queued, releases its ports and drops its dials.

mod ask;
mod backend;
mod conn;
mod envelope;
mod fit;
mod managed;
mod names;
mod session;
#[cfg(test)]
pub(crate) mod tests;
mod trust;
mod turns;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub use backend::{Change, Inbox, IpcBackend, IpcEvents, IpcListener, IpcStream, Later, Object};
use pilot_net::ipc::{BindError, IpcServer};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::ask::Caches;
use self::conn::Connections;
use self::session::Session;

/// How long a stopping daemon waits for clients to take what is queued for them, and for streams to take what clients
/// had queued.
const FAREWELL: Duration = Duration::from_secs(4);

/// What all sessions share.
struct Hub {
    backend: Arc<dyn IpcBackend>,
    connections: Connections,
    caches: Caches,
    stop: CancellationToken,
    sessions: TaskTracker,
    next_client: AtomicU64,
}

/// The running service.
pub struct Serving {
    hub: Arc<Hub>,
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serving").field("clients", &self.hub.sessions.len()).finish()
    }
}

/// Binds the socket without serving it yet, for this user and, when one is given, for a group's members. Needs a runtime.
///
/// # Errors
/// When somebody serves it already, or the file system refuses.
pub fn bind(path: &Path, group: Option<u32>) -> Result<IpcServer, BindError> {
    IpcServer::bind_for(path, group)
}

/// Serves clients until [`Serving::shutdown`].
pub fn serve(server: IpcServer, backend: Arc<dyn IpcBackend>) -> Serving {
    let hub = Arc::new(Hub {
        backend,
        connections: Connections::default(),
        caches: Caches::default(),
        stop: CancellationToken::new(),
        sessions: TaskTracker::new(),
        next_client: AtomicU64::new(1),
    });
    hub.sessions.spawn(accept(server, Arc::clone(&hub)));
    Serving { hub }
}

impl Serving {
    /// Closes the listener, removes the socket file, flushes what is queued and ends all sessions.
    pub async fn shutdown(self) {
        self.hub.stop.cancel();
        self.hub.sessions.close();
        let farewell = async {
            self.hub.sessions.wait().await;
            self.hub.connections.drained().await;
        };
        if tokio::time::timeout(FAREWELL, farewell).await.is_err() {
            tracing::warn!("local clients did not finish in time");
        }
    }
}

/// The accept loop; owns the socket.
async fn accept(server: IpcServer, hub: Arc<Hub>) {
    loop {
        let connection = tokio::select! {
            () = hub.stop.cancelled() => return,
            connection = server.accept() => connection,
        };
        let id = hub.next_client.fetch_add(1, Ordering::Relaxed);
        hub.sessions.spawn(Session::serve(Arc::clone(&hub), id, connection));
    }
}
