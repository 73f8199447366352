//! The supervisor of a compat connection: dials it first, and again whenever it is lost, until it is closed (wss.md
//! section 6). [`Client`] is the handle that the host keeps; the driver has the other end, [`Datagrams`].

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::config::{CompatConfig, Credentials, Timing};
use super::datagrams::{Datagrams, Shared};
use super::dial::{DialError, Socket, dial};
use super::session::{End, FAREWELL, Ways};

/// Whether there is a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Not yet: the node is not registered.
    #[default]
    Idle,
    /// Yes.
    Connected,
    /// It was lost; the supervisor waits or dials.
    Reconnecting,
    /// Closed for good.
    Closed,
}

impl State {
    /// For people and `info`.
    pub fn text(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Connected => "connected",
            Self::Reconnecting => "reconnecting",
            Self::Closed => "closed",
        }
    }
}

/// A look at the transport.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether there is a connection.
    pub state: State,
    /// The beacon's URL.
    pub url: String,
    /// The proxy, if one is used.
    pub proxy: Option<String>,
    /// Connections made after the first.
    pub reconnects: u64,
    /// Why the last connection or attempt ended, or empty.
    pub last_error: String,
    /// Binary messages written.
    pub sent: u64,
    /// Beacon messages received.
    pub received: u64,
    /// Messages received and dropped because they are none of the beacon's protocol.
    pub foreign: u64,
}

#[derive(Debug, Default)]
struct Progress {
    state: State,
    reconnects: u64,
    last_error: String,
}

type Who = dyn Fn() -> Option<Credentials> + Send + Sync;

struct Inner {
    config: CompatConfig,
    shared: Arc<Shared>,
    /// Taken by the supervisor.
    to_driver: Mutex<Option<mpsc::Sender<Bytes>>>,
    progress: Mutex<Progress>,
    close: CancellationToken,
    renew: Notify,
    tasks: TaskTracker,
}

/// The handle; clones share it. When the last one goes, the supervisor goes on: it ends by [`close`](Self::close) only.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("url", &self.0.config.url.to_string()).finish_non_exhaustive()
    }
}

impl Client {
    /// The transport and the driver's end of it; nothing is dialled yet, and sends fail with
    /// [`Down::Reconnecting`](super::Down::Reconnecting).
    ///
    /// # Errors
    /// When the process may have no more descriptors.
    pub fn new(config: CompatConfig) -> io::Result<(Self, Datagrams)> {
        let (shared, to_driver, datagrams) = Datagrams::pair(config.receive_queue)?;
        let inner = Inner {
            config,
            shared,
            to_driver: Mutex::new(Some(to_driver)),
            progress: Mutex::default(),
            close: CancellationToken::new(),
            renew: Notify::new(),
            tasks: TaskTracker::new(),
        };
        Ok((Self(Arc::new(inner)), datagrams))
    }

    /// Dials for the first time and, when that worked, keeps the connection from then on. `who` is asked at each dial; it
    /// must give something now. After a failure it may be called again; after a success it does nothing.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn connect(
        &self,
        who: impl Fn() -> Option<Credentials> + Send + Sync + 'static,
    ) -> Result<(), DialError> {
        let inner = &self.0;
        if inner.to_driver.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
            return if inner.close.is_cancelled() { Err(DialError::Closed) } else { Ok(()) };
        }
        let Some(credentials) = who() else {
            return Err(DialError::Auth("this node is not registered yet".to_owned()));
        };
        let dialled = tokio::select! {
            biased;
            () = inner.close.cancelled() => Err(DialError::Closed),
            dialled = dial(&inner.config, &credentials) => dialled,
        };
        let socket = dialled.inspect_err(|e| inner.progress(|p| p.last_error = e.to_string()))?;
        let to_driver = inner.to_driver.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(to_driver) = to_driver else { return Ok(()) };
        inner.shared.connected();
        inner.progress(|p| p.state = State::Connected);
        let supervised = inner.clone();
        inner.tasks.spawn(async move {
            supervised.supervise(socket, credentials.node, to_driver, Box::new(who)).await;
        });
        Ok(())
    }

    /// Ends the present connection and dials a new one, with the present credentials: the node has another number.
    pub fn renew(&self) {
        self.0.renew.notify_one();
    }

    /// Ends everything: the connection with code 1000, a dial, a wait. Idempotent; sends and receives report it from now
    /// on.
    pub async fn close(&self) {
        let inner = &self.0;
        inner.close.cancel();
        inner.tasks.close();
        // A beacon that does not take the farewell is not waited for.
        let _ = tokio::time::timeout(2 * FAREWELL, inner.tasks.wait()).await;
        inner.to_driver.lock().unwrap_or_else(PoisonError::into_inner).take();
        inner.shared.closed();
        inner.progress(|p| p.state = State::Closed);
    }

    /// How it is going.
    pub fn status(&self) -> Status {
        let Inner { config, shared, .. } = &*self.0;
        let (mut state, mut reconnects, mut last_error) = Default::default();
        self.0.progress(|p| (state, reconnects, last_error) = (p.state, p.reconnects, p.last_error.clone()));
        Status {
            state,
            url: config.url.to_string(),
            proxy: config.proxy.as_ref().map(ToString::to_string),
            reconnects,
            last_error,
            sent: shared.sent.load(Ordering::Relaxed),
            received: shared.received.load(Ordering::Relaxed),
            foreign: shared.foreign.load(Ordering::Relaxed),
        }
    }
}

impl Inner {
    fn progress(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner));
    }

    async fn supervise(
        &self,
        mut socket: Socket,
        mut node: u32,
        to_driver: mpsc::Sender<Bytes>,
        who: Box<Who>,
    ) {
        loop {
            let ways = Ways {
                node,
                timing: self.config.timing,
                shared: &self.shared,
                to_driver: &to_driver,
                close: &self.close,
                renew: &self.renew,
            };
            match ways.run(socket).await {
                End::Closed => return,
                End::Renewed => self.progress(|p| p.state = State::Reconnecting),
                End::Lost(why) => {
                    warn!(beacon = %self.config.url, reason = why, "compat connection lost");
                    self.progress(|p| (p.state, p.last_error) = (State::Reconnecting, why));
                }
            }
            let redialled = tokio::select! {
                biased;
                () = self.close.cancelled() => return,
                redialled = self.redial(&*who) => redialled,
            };
            (socket, node) = redialled;
            self.shared.connected();
            info!(beacon = %self.config.url, node, "compat connection is back");
            self.progress(|p| {
                (p.state, p.reconnects) = (State::Connected, p.reconnects + 1);
                p.last_error.clear();
            });
        }
    }

    /// Dials until it works; waits before each attempt, the first one too.
    async fn redial(&self, who: &Who) -> (Socket, u32) {
        let mut backoff = Backoff::new(&self.config.timing);
        loop {
            let wait = backoff.next();
            sleep(wait).await;
            let dialled = match who() {
                Some(credentials) => dial(&self.config, &credentials).await.map(|s| (s, credentials.node)),
                None => Err(DialError::Auth("this node is not registered".to_owned())),
            };
            match dialled {
                Ok(connection) => return connection,
                Err(e) => {
                    warn!(beacon = %self.config.url, error = %e, waited = ?wait, "compat dial failed");
                    self.progress(|p| p.last_error = e.to_string());
                }
            }
        }
    }
}

/// The waits before redials: each twice the one before, up to a most. A new one for each lost connection.
struct Backoff {
    next: Duration,
    most: Duration,
}

impl Backoff {
    fn new(timing: &Timing) -> Self {
        Self { next: timing.backoff_first, most: timing.backoff_max }
    }

    fn next(&mut self) -> Duration {
        let wait = self.next.min(self.most);
        self.next = wait.saturating_mul(2);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_half_a_minute() {
        let mut backoff = Backoff::new(&Timing::default());
        let waits: Vec<_> = (0..9).map(|_| backoff.next().as_millis()).collect();
        assert_eq!(waits, [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
    }
}
