//! One node on the network: an engine, what carries its datagrams ([`Underlay`]) and the thread that drives both. [`Node`] is the handle that the
//! local socket, the plugins and the host share.
//!
//! The driver owns the engine and a thread of its own, so that no packet waits for a scheduler of tasks; everybody else
//! sends it commands over a bounded queue or moves bytes through a stream's bounded pipe. No lock is held around protocol
//! state.

mod driver;
mod lookout;
mod pipe;
mod underlay;
mod waker;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pilot_engine::{Answer, Engine, Query, QueryId, Snapshot};
use pilot_wire::addr::Addr;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span, debug_span};

use crate::bus::Bus;
use crate::clock::Clock;
use crate::queue::Queue;
use driver::{Command, Driver};
use pipe::{Dirty, Pipe};
pub use underlay::Underlay;
use waker::Waker;

/// Commands that may wait for the driver; senders then wait.
const COMMAND_QUEUE: usize = 1024;
/// Questions of the engine that may wait for the host; the engine gives up on the rest by itself.
const QUERY_QUEUE: usize = 1024;
/// Received datagrams kept for a slow consumer; the oldest are dropped.
const DATAGRAM_QUEUE: usize = 1024;
/// Streams handed over per listener before they stay in the engine's own accept queue.
const LISTENER_QUEUE: usize = 8;
/// How long one write may wait for room before it fails (plugin-contract.md section 3, `Write`).
pub const WRITE_PATIENCE: Duration = Duration::from_secs(30);

/// The four endpoint values of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnInfo {
    /// Our address.
    pub local: Addr,
    /// Our port.
    pub local_port: u16,
    /// The peer's address.
    pub remote: Addr,
    /// The peer's port.
    pub remote_port: u16,
}

/// A datagram for one of our ports.
#[derive(Clone, Debug)]
pub struct Datagram {
    /// Sender.
    pub from: Addr,
    /// Sender's port.
    pub src_port: u16,
    /// Our port.
    pub dst_port: u16,
    /// Payload.
    pub data: Bytes,
}

/// What the engine wants the host to know or do beyond streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The beacon told our public address.
    ObservedAddr(SocketAddr),
    /// The beacon says the registry holds handshakes for us (beacon.md section 1, 0x0A).
    PollHandshakes,
}

/// A dial that failed. Texts as in stream.md section 8.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DialError(pub String);

/// A port that cannot be bound.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// Another listener has it.
    #[error("port {0} already bound")]
    AlreadyBound(u16),
    /// The node is shutting down.
    #[error("node is shut down")]
    Down,
}

/// A datagram that could not be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SendError(pub String);

/// Why a read ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The read timeout passed (plugin-contract.md section 3).
    #[error("pilot: read deadline exceeded")]
    TimedOut,
    /// The stream broke.
    #[error("{0}")]
    Broken(String),
}

/// Why a write failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The peer took nothing for [`WRITE_PATIENCE`].
    #[error("send buffer full")]
    Full,
    /// We closed it, or the peer did.
    #[error("connection closed")]
    Closed,
    /// The stream broke.
    #[error("{0}")]
    Broken(String),
}

/// The way to the driver: its bounded queue, and what wakes it. The driver ends when the last one is gone.
#[derive(Clone, Debug)]
struct Commands {
    queue: mpsc::Sender<Command>,
    /// Dropped behind the queue's end, so that the driver wakes up and finds it gone.
    alarm: Alarm,
}

#[derive(Clone, Debug)]
struct Alarm(Arc<Waker>);

impl Drop for Alarm {
    fn drop(&mut self) {
        self.0.wake();
    }
}

impl Commands {
    /// Waits for room. `None`: the driver is gone.
    async fn send(&self, command: Command) -> Option<()> {
        self.queue.send(command).await.ok()?;
        self.alarm.0.wake();
        Some(())
    }

    /// Gives the command back when there is no room; drops it when the driver is gone.
    fn try_send(&self, command: Command) -> Result<(), Command> {
        match self.queue.try_send(command) {
            Ok(()) => self.alarm.0.wake(),
            Err(mpsc::error::TrySendError::Full(command)) => return Err(command),
            Err(mpsc::error::TrySendError::Closed(_)) => {}
        }
        Ok(())
    }

    /// As [`send`](Self::send), for plain threads.
    fn blocking_send(&self, command: Command) {
        if self.queue.blocking_send(command).is_ok() {
            self.alarm.0.wake();
        }
    }
}

/// A handle to the driver; cheap to clone. When the last one goes, the driver ends.
#[derive(Clone)]
pub struct Node {
    commands: Commands,
    datagrams: broadcast::Sender<Datagram>,
    bus: Bus,
    local_addr: SocketAddr,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("local_addr", &self.local_addr).finish_non_exhaustive()
    }
}

/// What [`Node::spawn`] gives besides the handle.
#[derive(Debug)]
pub struct NodeFeeds {
    /// Questions to answer with [`Node::answer`]: resolve, keys, admission.
    pub queries: mpsc::Receiver<(QueryId, Query)>,
    /// Hints for the membership task.
    pub signals: mpsc::Receiver<Signal>,
    /// Ends when the driver has sent its last datagram.
    pub task: tokio::task::JoinHandle<()>,
    /// Cancel to close every stream, flush and end the driver.
    pub stop: CancellationToken,
}

impl Node {
    /// Starts the driver of `engine` on `underlay` (a [`Udp`](crate::udp::Udp) socket, or the
    /// [`Datagrams`](crate::compat::Datagrams) of the compat transport), on a thread of its own. Must be called inside the
    /// runtime.
    ///
    /// # Errors
    /// When a socket has no local address, or the system gives no descriptor or thread.
    pub fn spawn(
        engine: Engine,
        underlay: impl Into<Underlay>,
        clock: Clock,
        bus: Bus,
    ) -> std::io::Result<(Node, NodeFeeds)> {
        let underlay = underlay.into();
        let local_addr = underlay.local_addr()?;
        let (queue, command_rx) = mpsc::channel(COMMAND_QUEUE);
        let (query_tx, queries) = mpsc::channel(QUERY_QUEUE);
        let (signal_tx, signals) = mpsc::channel(16);
        let (datagrams, _) = broadcast::channel(DATAGRAM_QUEUE);
        let (stop, waker) = (CancellationToken::new(), Arc::new(Waker::new()?));
        let driver = Driver::new(driver::Parts {
            engine,
            underlay,
            clock,
            bus: bus.clone(),
            commands: command_rx,
            queries: query_tx,
            signals: signal_tx,
            datagrams: datagrams.clone(),
            dirty: Arc::new(Dirty::new(waker.clone())),
            waker: waker.clone(),
            stop: stop.clone(),
        });
        let (end, ended) = oneshot::channel();
        std::thread::Builder::new().name("pilot-driver".into()).spawn(move || {
            driver.run();
            let _ = end.send(());
        })?;
        let (stopping, alarm) = (stop.clone(), waker.clone());
        let task = tokio::spawn(async move {
            let mut ended = ended;
            tokio::select! {
                () = stopping.cancelled() => {
                    alarm.wake();
                    let _ = ended.await;
                }
                _ = &mut ended => {}
            }
        });
        let commands = Commands { queue, alarm: Alarm(waker) };
        Ok((Node { commands, datagrams, bus, local_addr }, NodeFeeds { queries, signals, task, stop }))
    }

    /// The tunnel socket's address; a placeholder with the compat transport.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The event bus.
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Datagrams for any of our ports, from now on.
    pub fn datagrams(&self) -> broadcast::Receiver<Datagram> {
        self.datagrams.subscribe()
    }

    /// Asks the driver and waits for the answer, in a span of its own.
    async fn ask<T>(&self, span: Span, make: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (tx, rx) = oneshot::channel();
        let work = async {
            self.commands.send(make(tx)).await?;
            rx.await.ok()
        };
        work.instrument(span).await
    }

    async fn tell(&self, command: Command) {
        // The driver is gone only when the node is down; then there is nothing left to change.
        let _ = self.commands.send(command).await;
    }

    /// Opens a stream. Dropping the future cancels the dial.
    ///
    /// # Errors
    /// The texts of stream.md section 8.
    pub async fn dial(&self, to: Addr, port: u16) -> Result<Stream, DialError> {
        self.ask(debug_span!("engine.dial", %to, port), |reply| Command::Dial { to, port, reply })
            .await
            .unwrap_or_else(|| Err(DialError("node is shut down".into())))
    }

    /// Binds a port.
    ///
    /// # Errors
    /// [`BindError`].
    pub async fn bind(&self, port: u16) -> Result<Listener, BindError> {
        // Its end releases the port even when the caller goes away while the answer is on its way; where the port was never
        // bound for this queue, that release means nothing.
        let listener =
            Listener { port, queue: Arc::new(Queue::new(LISTENER_QUEUE)), commands: self.commands.clone() };
        let queue = listener.queue.clone();
        self.ask(debug_span!("engine.bind", port), |reply| Command::Bind { port, queue, reply })
            .await
            .unwrap_or(Err(BindError::Down))?;
        Ok(listener)
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// The engine's text.
    pub async fn send_datagram(&self, to: Addr, port: u16, data: Bytes) -> Result<(), SendError> {
        self.ask(debug_span!("engine.send_datagram", %to, port), |reply| Command::SendDatagram {
            to,
            port,
            data,
            reply,
        })
        .await
        .unwrap_or_else(|| Err(SendError("node is shut down".into())))
    }

    /// One control ping, engine to engine; the round trip.
    ///
    /// # Errors
    /// A text when it cannot be sent; waiting for the answer has no limit of its own.
    pub async fn ping(&self, peer: Addr, payload: Bytes) -> Result<Duration, SendError> {
        self.ask(debug_span!("engine.ping", %peer), |reply| Command::Ping { peer, payload, reply })
            .await
            .unwrap_or_else(|| Err(SendError("node is shut down".into())))
    }

    /// Forgets a peer's keys, queues and routes.
    pub async fn remove_peer(&self, node: u32) {
        // Answered, so that a caller that revokes trust knows the tunnel is gone.
        let _ = self
            .ask(debug_span!("engine.remove_peer", node), |reply| Command::RemovePeer { node, reply })
            .await;
    }

    /// For five minutes SYNs of `node` to ports 444 and 1001 pass the trust gate.
    pub async fn open_reply_window(&self, node: u32) {
        self.tell(Command::Configure(Box::new(move |engine, now| engine.open_reply_window(now, node)))).await;
    }

    /// Runs a short change on the engine inside the driver: identity, node id, beacon and the like.
    pub async fn configure(
        &self,
        change: impl FnOnce(&mut Engine, pilot_engine::time::Instant) + Send + 'static,
    ) {
        self.tell(Command::Configure(Box::new(change))).await;
    }

    /// Answers a question of the engine.
    pub async fn answer(&self, id: QueryId, answer: Answer) {
        self.tell(Command::Answer(id, answer)).await;
    }

    /// Closes a stream by its number, as any local client may (ipc.md section 6).
    pub async fn close_by_id(&self, id: u32) {
        self.tell(Command::CloseById(id)).await;
    }

    /// Counters, peers, streams and ports at this moment; `None` when the node is down.
    pub async fn snapshot(&self) -> Option<Snapshot> {
        self.ask(debug_span!("engine.snapshot"), Command::Snapshot).await
    }
}

/// Streams that arrive on one port. Dropping it unbinds.
#[derive(Debug)]
pub struct Listener {
    port: u16,
    queue: Arc<Queue<Stream>>,
    commands: Commands,
}

impl Listener {
    /// The bound port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The next stream, or `None` once closed.
    pub async fn accept(&self) -> Option<Stream> {
        let stream = self.queue.pop().await;
        self.more();
        stream
    }

    /// Blocks this thread for the next stream.
    pub fn accept_blocking(&self) -> Option<Stream> {
        match self.queue.pop_blocking(None) {
            crate::queue::Waited::Item(stream) => {
                self.more();
                Some(stream)
            }
            _ => None,
        }
    }

    /// Ends this listener and begins one on the same port that gets the streams that wait; the port is bound all the
    /// time. `None` when it was closed.
    pub async fn hand_over(&self) -> Option<Listener> {
        let to = Arc::new(Queue::new(LISTENER_QUEUE));
        let (reply, done) = oneshot::channel();
        let command = Command::HandOver { port: self.port, from: self.queue.clone(), to: to.clone(), reply };
        self.commands.send(command).await?;
        let successor = Listener { port: self.port, queue: to, commands: self.commands.clone() };
        done.await.unwrap_or(false).then_some(successor)
    }

    /// Tells the driver that there is room again. A full command queue means that it is about to look anyway.
    fn more(&self) {
        let _ = self.commands.try_send(Command::AcceptMore(self.port));
    }

    /// Releases the port; idempotent. Streams queued before are still handed out.
    pub fn close(&self) {
        self.queue.close();
        unbind(&self.commands, self.port, &self.queue);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.close();
    }
}

fn unbind(commands: &Commands, port: u16, queue: &Arc<Queue<Stream>>) {
    let command = Command::Unbind { port, queue: queue.clone() };
    if let Err(command) = commands.try_send(command) {
        // Must not be lost: wait on a task when we are inside the runtime, on this thread otherwise.
        let commands = commands.clone();
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                runtime.spawn(async move { commands.send(command).await });
            }
            Err(_) => commands.blocking_send(command),
        }
    }
}

/// A reliable stream; clones share it. When the last clone goes, it is closed.
#[derive(Clone)]
pub struct Stream {
    shared: Arc<Shared>,
}

struct Shared {
    pipe: Arc<Pipe>,
    id: u32,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.pipe.close();
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("id", &self.shared.id).finish_non_exhaustive()
    }
}

impl Stream {
    fn new(pipe: Arc<Pipe>, id: u32) -> Self {
        Stream { shared: Arc::new(Shared { pipe, id }) }
    }

    /// The daemon-wide connection number.
    pub fn id(&self) -> u32 {
        self.shared.id
    }

    /// The four endpoint values.
    pub fn info(&self) -> ConnInfo {
        self.shared.pipe.info
    }

    /// The next bytes, or `None` at the end of the stream.
    ///
    /// # Errors
    /// [`ReadError::Broken`] when the stream ended without a proper end.
    pub async fn read(&self) -> Result<Option<Bytes>, ReadError> {
        self.shared.pipe.read().await
    }

    /// Queues `data`; waits while too much is queued already.
    ///
    /// # Errors
    /// [`WriteError`].
    pub async fn write(&self, data: Bytes) -> Result<(), WriteError> {
        self.shared.pipe.write(data).await
    }

    /// As [`read`](Self::read) for plain threads: fills `buf` with what is there; 0 is the end.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read_blocking(&self, buf: &mut [u8]) -> Result<usize, ReadError> {
        self.shared.pipe.read_blocking(buf)
    }

    /// Limit for each later [`read_blocking`](Self::read_blocking); `None` waits for ever.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) {
        self.shared.pipe.set_read_timeout(timeout);
    }

    /// As [`write`](Self::write) for plain threads, with [`WRITE_PATIENCE`].
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn write_blocking(&self, data: Bytes) -> Result<(), WriteError> {
        self.shared.pipe.write_blocking(data, WRITE_PATIENCE)
    }

    /// Sends the end after everything written; idempotent.
    pub fn close(&self) {
        self.shared.pipe.close();
    }
}
