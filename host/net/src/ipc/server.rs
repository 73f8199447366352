//! The daemon's end of the socket: accepting clients of the same user, and one bounded queue with one writer for each
//! (ipc.md sections 1 and 4).
//!
//! Spawns nothing: the caller runs [`Writer::run`] and owns its end.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pilot_wire::ipc::Encoded;
use tokio::net::unix::{OwnedWriteHalf, UCred};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::bind::{self, BindError, BoundSocket};
use super::io::{FrameReader, write_frames};

/// How many clients are served at once; more are accepted and closed, so that they see an end and not a silence.
pub const MAX_CLIENTS: usize = 1024;
/// Frames that wait for one client. When the queue is full, producers wait.
pub const QUEUE_FRAMES: usize = 256;
/// A client that does not take one batch of frames within this time is disconnected.
pub const WRITE_DEADLINE: Duration = Duration::from_secs(10);
/// The same while the daemon shuts down.
const FLUSH_DEADLINE: Duration = Duration::from_secs(3);
/// Bytes gathered for one vectored write; a frame more than this is written alone.
const BATCH_BYTES: usize = 256 << 10;
/// Frames gathered for one vectored write.
const BATCH_FRAMES: usize = 64;
/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// The bound socket. Dropping it closes the socket and removes the file, if it is still ours.
#[derive(Debug)]
pub struct IpcServer {
    listener: UnixListener,
    bound: BoundSocket,
    uid: u32,
    group: Option<u32>,
    slots: Arc<Semaphore>,
}

impl IpcServer {
    /// Binds the socket with mode 0600; takes over a socket that nobody serves, refuses one that somebody does. Needs a
    /// runtime.
    pub fn bind(path: &Path) -> Result<IpcServer, BindError> {
        Self::bind_for(path, None)
    }

    /// As [`bind`](Self::bind); with a group the mode is 0660 and the group's members are served as well.
    pub fn bind_for(path: &Path, group: Option<u32>) -> Result<IpcServer, BindError> {
        let (listener, bound) = bind::bind(path, group)?;
        let ready = listener.set_nonblocking(true).and_then(|()| UnixListener::from_std(listener));
        let listener =
            ready.map_err(|cause| BindError::Io { action: "register", path: path.to_owned(), cause })?;
        let uid = rustix::process::geteuid().as_raw();
        Ok(IpcServer { listener, bound, uid, group, slots: Arc::new(Semaphore::new(MAX_CLIENTS)) })
    }

    #[cfg(test)]
    pub(super) fn limited(path: &Path, clients: usize) -> IpcServer {
        let mut server = Self::bind(path).unwrap();
        server.slots = Arc::new(Semaphore::new(clients));
        server
    }

    /// Where the socket is.
    pub fn path(&self) -> &Path {
        self.bound.path()
    }

    /// Whether a process may be served: one of this user, or one in the socket's group.
    fn may_use(&self, peer: &UCred) -> bool {
        peer.uid() == self.uid
            || self.group.is_some_and(|group| {
                peer.gid() == group || peer.pid().is_some_and(|pid| in_group(pid, group))
            })
    }

    /// The next client that may use the socket: of this user, or in its group. Others are closed without a word; so are clients beyond [`MAX_CLIENTS`].
    /// Cancel-safe.
    pub async fn accept(&self) -> Connection {
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accepting a local client failed");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                    continue;
                }
            };
            match stream.peer_cred() {
                Ok(peer) if self.may_use(&peer) => {}
                Ok(peer) => {
                    tracing::warn!(uid = peer.uid(), "refused a local client of another user");
                    continue;
                }
                Err(error) => {
                    tracing::warn!(%error, "refused a local client without credentials");
                    continue;
                }
            }
            match Arc::clone(&self.slots).try_acquire_owned() {
                Ok(slot) => return Connection::new(stream, slot),
                Err(_) => tracing::warn!(limit = MAX_CLIENTS, "too many local clients, closed the newest"),
            }
        }
    }
}

/// Whether a process has `group` among its supplementary groups. The file's mode has kept everybody else away already;
/// this is the second lock, and it stays shut when the system does not tell.
fn in_group(pid: i32, group: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    groups.split_whitespace().any(|g| g.parse() == Ok(group))
}

/// One client.
#[derive(Debug)]
pub struct Connection {
    /// What it asks.
    pub reader: FrameReader,
    /// Where answers and pushes go.
    pub outbox: Outbox,
    /// Empties the outbox; to be run by the caller.
    pub writer: Writer,
}

impl Connection {
    fn new(stream: UnixStream, slot: OwnedSemaphorePermit) -> Connection {
        let (read, write) = stream.into_split();
        let (tx, rx) = mpsc::channel(QUEUE_FRAMES);
        Connection {
            reader: FrameReader::new(read),
            outbox: Outbox { tx },
            writer: Writer { socket: write, rx, _slot: slot },
        }
    }
}

/// The client is gone or was disconnected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client is gone")]
pub struct Gone;

/// The queue in front of one client's socket ([`QUEUE_FRAMES`] frames). The socket is closed once all clones are dropped
/// and the queue is empty.
#[derive(Clone, Debug)]
pub struct Outbox {
    tx: mpsc::Sender<Encoded>,
}

impl Outbox {
    /// Queues a frame; waits while the queue is full. Frames of one caller keep their order. Cancel-safe: a dropped call
    /// queued nothing.
    pub async fn send(&self, frame: Encoded) -> Result<(), Gone> {
        self.tx.send(frame).await.map_err(|_| Gone)
    }

    /// Queues a frame if there is room; `false` when there is none (the frame is lost). For datagrams only.
    pub fn offer(&self, frame: Encoded) -> Result<bool, Gone> {
        match self.tx.try_send(frame) {
            Ok(()) => Ok(true),
            Err(mpsc::error::TrySendError::Full(_)) => Ok(false),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Gone),
        }
    }

    /// Resolves when the writer has ended, that is when the client is lost.
    pub async fn closed(&self) {
        self.tx.closed().await;
    }
}

/// The one writer of a client's socket.
#[derive(Debug)]
pub struct Writer {
    socket: OwnedWriteHalf,
    rx: mpsc::Receiver<Encoded>,
    _slot: OwnedSemaphorePermit,
}

impl Writer {
    /// Writes what the outbox brings until all senders are gone, the client stops reading for [`WRITE_DEADLINE`], or the
    /// socket fails. When `shutdown` fires, nothing new is taken and what is queued is still written, with 3 s for each
    /// write.
    pub async fn run(mut self, shutdown: CancellationToken) -> io::Result<()> {
        let mut batch = Vec::with_capacity(BATCH_FRAMES);
        let mut closing = false;
        loop {
            let first = tokio::select! {
                biased;
                () = shutdown.cancelled(), if !closing => {
                    self.rx.close();
                    closing = true;
                    continue;
                }
                frame = self.rx.recv() => frame,
            };
            let Some(first) = first else { return Ok(()) };
            let mut bytes = first.len();
            batch.push(first);
            while bytes < BATCH_BYTES && batch.len() < BATCH_FRAMES {
                let Ok(frame) = self.rx.try_recv() else { break };
                bytes += frame.len();
                batch.push(frame);
            }
            self.write(&batch, &shutdown).await?;
            batch.clear();
        }
    }

    async fn write(&mut self, batch: &[Encoded], shutdown: &CancellationToken) -> io::Result<()> {
        let started = Instant::now();
        let mut write = std::pin::pin!(write_frames(&mut self.socket, batch));
        let limit = if shutdown.is_cancelled() { FLUSH_DEADLINE } else { WRITE_DEADLINE };
        let outcome = tokio::select! {
            biased;
            outcome = timeout_at(started + limit, &mut write) => outcome,
            () = shutdown.cancelled(), if limit == WRITE_DEADLINE => {
                timeout_at(Instant::now() + FLUSH_DEADLINE, write).await
            }
        };
        outcome.unwrap_or_else(|_| {
            Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read: disconnected"))
        })
    }
}
