//! A client of the daemon's socket: one outstanding request at a time, pushes sorted by connection id (ipc.md section 4).
//!
//! Used by `pilotctl` and by tests; drives the Go daemon as well. A task reads the socket for as long as the client or
//! one of its streams lives.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use pilot_wire::addr::Addr;
use pilot_wire::ipc::{Encoded, FrameTooLarge, Incoming, Push, Reply, Request, command};
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{Mutex as AsyncMutex, oneshot};
use tokio::task::AbortHandle;

use super::bind::short_path;
use super::io::{FrameReader, write_frames};
use super::streams::{Datagram, Listener, Stream, Table};

/// How long dial, bind and broadcast wait for their answer (ipc.md section 4, rule 3).
pub const SLOW_REQUEST: Duration = Duration::from_secs(30);
/// How long everything else waits: a registry round trip with reconnects behind it.
const REQUEST: Duration = Duration::from_secs(60);

/// Why there is no connection to the daemon.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens: no such file, or a socket left behind.
    #[error("daemon is not running (tried {})", path.display())]
    NotRunning {
        /// The socket that was tried.
        path: PathBuf,
    },
    /// The system refused, for example because the socket belongs to another user.
    #[error("cannot connect to {}: {cause}", path.display())]
    Io {
        /// The socket that was tried.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The daemon's error reply.
    #[error("daemon: {0}")]
    Daemon(String),
    /// No answer in time.
    #[error("{0}")]
    Timeout(String),
    /// The connection to the daemon ended.
    #[error("connection to the daemon is closed")]
    Closed,
    /// The answer is not what the request is answered with: the daemon is at fault.
    #[error("unexpected answer from the daemon: {0}")]
    Unexpected(String),
    /// The caller's request does not fit a frame.
    #[error(transparent)]
    TooLarge(#[from] FrameTooLarge),
}

impl ClientError {
    /// The daemon's own words, when it answered with an error.
    pub fn daemon_text(&self) -> Option<&str> {
        match self {
            ClientError::Daemon(text) => Some(text),
            _ => None,
        }
    }
}

/// A connected client. Dropping it while streams live is fine; the socket closes with the last of them.
#[derive(Debug)]
pub struct Client {
    wire: Arc<Wire>,
    daemon_pid: Option<i32>,
}

/// What client, streams and the reader task share.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) table: Arc<Table>,
    /// Taken out while frames are written: a write that is dropped half-way ends the connection instead of leaving the
    /// daemon in the middle of a frame.
    socket: AsyncMutex<Option<OwnedWriteHalf>>,
    /// Held for the length of a request: at most one is outstanding.
    turn: AsyncMutex<Turn>,
    waiter: Arc<Mutex<Option<Waiter>>>,
    reader: Mutex<Option<AbortHandle>>,
}

/// Whether a request may still be sent.
#[derive(Debug)]
enum Turn {
    Free,
    /// An answer never came: a late one would be taken for the next request's.
    OutOfStep,
}

/// Who waits for which reply.
#[derive(Debug)]
struct Waiter {
    code: u8,
    /// For close: whose end counts as the answer.
    conn: Option<u32>,
    tx: oneshot::Sender<Reply>,
}

impl Client {
    /// Connects to the daemon's socket.
    pub async fn connect(path: &Path) -> Result<Client, ConnectError> {
        let fail = |cause: io::Error| match cause.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ConnectError::NotRunning { path: path.to_owned() }
            }
            _ => ConnectError::Io { path: path.to_owned(), cause },
        };
        let (short, _hold) = short_path(path).map_err(fail)?;
        let stream = UnixStream::connect(&short).await.map_err(fail)?;
        let daemon_pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
        let (read, write) = stream.into_split();
        let table = Arc::new(Table::default());
        let waiter = Arc::new(Mutex::new(None));
        let wire = Arc::new(Wire {
            table: Arc::clone(&table),
            socket: AsyncMutex::new(Some(write)),
            turn: AsyncMutex::new(Turn::Free),
            waiter: Arc::clone(&waiter),
            reader: Mutex::new(None),
        });
        let task = tokio::spawn(read_all(FrameReader::new(read), table, waiter, Arc::downgrade(&wire)));
        *wire.reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(task.abort_handle());
        Ok(Client { wire, daemon_pid })
    }

    /// The process that listens on the socket, as far as the system tells.
    pub fn daemon_pid(&self) -> Option<i32> {
        self.daemon_pid
    }

    /// Whether the connection to the daemon has ended.
    pub fn is_closed(&self) -> bool {
        self.wire.table.is_over()
    }

    /// Sends a request and waits for its reply. Requests of one client wait for each other. For requests without a reply
    /// use [`Stream`] and the datagram methods.
    pub async fn request(&self, request: &Request) -> Result<Reply, ClientError> {
        let limit = match request {
            Request::Dial { .. } | Request::Bind { .. } | Request::Broadcast { .. } => SLOW_REQUEST,
            _ => REQUEST,
        };
        self.request_within(request, limit).await
    }

    /// As [`request`](Self::request) with a time limit. A dial that runs out of time is cancelled at the daemon; after any
    /// other request that does, this client accepts no further one.
    pub async fn request_within(&self, request: &Request, limit: Duration) -> Result<Reply, ClientError> {
        self.wire.request(request, limit).await
    }

    /// A request that is answered with JSON.
    pub async fn json(&self, request: &Request) -> Result<Value, ClientError> {
        match self.request(request).await? {
            Reply::Json { body, .. } => {
                serde_json::from_slice(&body).map_err(|e| ClientError::Unexpected(format!("bad JSON: {e}")))
            }
            other => Err(ClientError::Unexpected(format!("{other:?}"))),
        }
    }

    /// Opens a stream; gives up after `limit` (error `dial timeout`).
    pub async fn dial(&self, to: Addr, port: u16, limit: Duration) -> Result<Stream, ClientError> {
        match self.wire.request(&Request::Dial { to, port }, limit).await? {
            Reply::DialOk { conn } => Ok(Stream::new(conn, Arc::clone(&self.wire))),
            other => Err(ClientError::Unexpected(format!("{other:?}"))),
        }
    }

    /// Binds a port.
    pub async fn bind(&self, port: u16) -> Result<Listener, ClientError> {
        self.wire.table.listen(port);
        match self.request(&Request::Bind { port }).await {
            Ok(Reply::BindOk { port: bound }) if bound == port => Ok(Listener::new(port, &self.wire)),
            Ok(other) => Err(ClientError::Unexpected(format!("{other:?}"))),
            Err(error) => {
                self.wire.table.unlisten(port);
                Err(error)
            }
        }
    }

    /// Closes any connection of the daemon by its id; succeeds for unknown ids.
    pub async fn disconnect(&self, conn: u32) -> Result<(), ClientError> {
        self.request(&Request::Close { conn }).await.map(drop)
    }

    /// Sends a datagram without asking how it went.
    pub async fn send_datagram(&self, to: Addr, port: u16, data: Bytes) -> Result<(), ClientError> {
        self.wire.write(&[Request::SendTo { to, port, data }.encode()?]).await
    }

    /// The next datagram to `port`; datagrams to other ports that arrive meanwhile are dropped. `None` once the
    /// connection is over. Cancel-safe.
    pub async fn recv_datagram(&self, port: u16) -> Option<Datagram> {
        self.wire.table.datagram(port).await
    }
}

impl Wire {
    async fn request(&self, request: &Request, limit: Duration) -> Result<Reply, ClientError> {
        let frame = request.encode()?;
        let mut turn = self.turn.lock().await;
        if matches!(*turn, Turn::OutOfStep) {
            return Err(ClientError::Unexpected("an earlier request was never answered".to_owned()));
        }
        let (tx, mut rx) = oneshot::channel();
        let conn = if let Request::Close { conn } = request { Some(*conn) } else { None };
        self.set_waiter(Some(Waiter { code: reply_code(request), conn, tx }));
        // Until an answer is here the turn counts as lost, also when this future is dropped half-way.
        *turn = Turn::OutOfStep;
        self.write(&[frame]).await?;
        if self.table.is_over() {
            return Err(ClientError::Closed);
        }
        let mut answer = tokio::time::timeout(limit, &mut rx).await.map(Result::ok);
        if answer.is_err() {
            self.set_waiter(None);
            // It may have come between the two lines above.
            answer = rx.try_recv().map(Some).or(answer);
        }
        match answer {
            Ok(answer) => {
                *turn = Turn::Free;
                match answer {
                    Some(Reply::Error { message }) => Err(ClientError::Daemon(message)),
                    Some(reply) => Ok(reply),
                    None => Err(ClientError::Closed),
                }
            }
            Err(_) => {
                let dial = matches!(request, Request::Dial { .. });
                if dial {
                    // The daemon says nothing for a dial it cancelled, so the conversation stays in step.
                    self.write(&[Request::CancelDials.encode()?]).await?;
                    *turn = Turn::Free;
                }
                let what = if dial { "dial timeout" } else { "no answer from the daemon" };
                Err(ClientError::Timeout(what.to_owned()))
            }
        }
    }

    fn set_waiter(&self, waiter: Option<Waiter>) {
        *self.waiter.lock().unwrap_or_else(PoisonError::into_inner) = waiter;
    }

    /// Writes whole frames. Not cancel-safe: dropping a call that has begun to write ends the connection.
    pub(super) async fn write(&self, frames: &[Encoded]) -> Result<(), ClientError> {
        let mut slot = self.socket.lock().await;
        let mut socket = slot.take().ok_or(ClientError::Closed)?;
        if write_frames(&mut socket, frames).await.is_err() {
            self.table.end();
            return Err(ClientError::Closed);
        }
        *slot = Some(socket);
        Ok(())
    }

    /// Writes a request that nobody waits for, from a place that cannot wait.
    pub(super) fn write_later(self: &Arc<Self>, request: Request) {
        let (Ok(runtime), Ok(frame)) = (tokio::runtime::Handle::try_current(), request.encode()) else {
            return;
        };
        let wire = Arc::clone(self);
        runtime.spawn(async move {
            // An error means that the connection is over, and with it the stream.
            let _ = wire.write(&[frame]).await;
        });
    }

    /// Releases a port from a place that cannot wait; the request takes its turn.
    pub(super) fn unbind_later(self: &Arc<Self>, port: u16) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let wire = Arc::clone(self);
        runtime.spawn(async move {
            // A daemon that refuses has released the port already, or does so when this client leaves.
            let _ = wire.request(&Request::Unbind { port }, SLOW_REQUEST).await;
        });
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Some(reader) = self.reader.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            reader.abort();
        }
    }
}

/// The code of the answer to a request.
fn reply_code(request: &Request) -> u8 {
    match request {
        Request::SubmitBadge { .. } => command::SUBMIT_BADGE_OK,
        // In every pair the answer's code is the request's plus one (ipc.md section 3).
        other => other.command() + 1,
    }
}

/// The code under which a reply came.
fn code_of(reply: &Reply) -> u8 {
    match reply {
        Reply::BindOk { .. } => command::BIND_OK,
        Reply::DialOk { .. } => command::DIAL_OK,
        Reply::CloseOk { .. } => command::CLOSE_OK,
        Reply::Error { .. } => command::ERROR,
        Reply::UnbindOk { v1: true, .. } => command::UNBIND_V1_OK,
        Reply::UnbindOk { v1: false, .. } => command::UNBIND_OK,
        Reply::Json { command, .. } | Reply::Done { command } => *command,
        Reply::Subscribed { .. } => command::SUBSCRIBE_OK,
        Reply::SendTracked { .. } => command::SEND_TRACKED_OK,
    }
}

/// The reader task: ends with the socket, or when the last handle is dropped.
async fn read_all(
    mut reader: FrameReader,
    table: Arc<Table>,
    waiter: Arc<Mutex<Option<Waiter>>>,
    wire: std::sync::Weak<Wire>,
) {
    let take = |wanted: &dyn Fn(&Waiter) -> bool| {
        let mut slot = waiter.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.as_ref().is_some_and(wanted) { slot.take() } else { None }
    };
    let close = |conn: u32| {
        if let Some(wire) = wire.upgrade() {
            wire.write_later(Request::Close { conn });
        }
    };
    loop {
        let frame = match reader.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            Err(error) => {
                tracing::debug!(%error, "the daemon's socket failed");
                break;
            }
        };
        match Incoming::decode(frame) {
            Ok(Incoming::Push(Push::Recv { conn, data })) => {
                if !table.data(conn, data) {
                    table.room(conn).await;
                }
            }
            Ok(Incoming::Push(Push::Accept { port, conn, remote, remote_port })) => {
                if let Err(conn) = table.accept(port, conn, remote, remote_port) {
                    close(conn);
                }
            }
            Ok(Incoming::Push(Push::Datagram { from, src_port, dst_port, data })) => {
                table.push_datagram(Datagram { from, src_port, dst_port, data });
            }
            Ok(Incoming::Closed { conn } | Incoming::Push(Push::Closed { conn })) => {
                table.closed(conn);
                if let Some(w) = take(&|w| w.code == command::CLOSE_OK && w.conn == Some(conn)) {
                    let _ = w.tx.send(Reply::CloseOk { conn });
                }
            }
            Ok(Incoming::Reply(reply)) => {
                let code = code_of(&reply);
                if let Reply::DialOk { conn } = reply {
                    // The stream exists before its first data, which may be the very next frame.
                    table.open(conn);
                }
                let refused = match take(&|w| code == command::ERROR || w.code == code) {
                    Some(w) => w.tx.send(reply).err(),
                    None => Some(reply),
                };
                if let Some(Reply::DialOk { conn }) = refused {
                    // Nobody waits for this dial any more.
                    close(conn);
                }
            }
            Ok(Incoming::Push(Push::Notify { .. }) | Incoming::Unknown { .. }) => {}
            Err(error) => {
                tracing::warn!(%error, "ignored");
            }
        }
    }
    table.end();
    take(&|_| true);
}
