//! One client: its reader loop, what it owns, and the end of it (ipc.md sections 4 to 7).

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use pilot_net::ipc::{Connection, FrameReader, Outbox};
use pilot_wire::addr::Addr;
use pilot_wire::ipc::{Push, Refusal, Reply, Request, SendCode, command};
use tokio::sync::{Semaphore, broadcast, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::backend::IpcStream;
use super::conn::{self, push};
use super::turns::Turns;
use super::{Hub, ask};

/// Requests of one client that are worked on at a time; then its socket is not read until one is done.
const MAX_IN_FLIGHT: usize = 1024;
/// Streams one client may own.
const MAX_STREAMS: usize = 4096;

/// What a client owns.
struct Owned {
    /// False once the client is gone: nothing may be added any more.
    open: bool,
    streams: HashSet<u32>,
    ports: HashMap<u16, Port>,
    /// Cancels the dials that are under way; replaced after each use.
    dials: CancellationToken,
    topics: HashSet<String>,
}

/// A bound port: ending its task releases it.
struct Port {
    stop: CancellationToken,
    released: oneshot::Receiver<()>,
}

/// One client.
pub(super) struct Session {
    pub(super) hub: Arc<Hub>,
    id: u64,
    outbox: Outbox,
    /// The client is gone, or is to be.
    gone: CancellationToken,
    slots: Arc<Semaphore>,
    turns: Turns,
    owned: Mutex<Owned>,
}

impl Session {
    /// Serves a client to its end.
    pub(super) async fn serve(hub: Arc<Hub>, id: u64, connection: Connection) {
        let Connection { reader, outbox, writer } = connection;
        let gone = hub.stop.child_token();
        let session = Arc::new(Session {
            hub: Arc::clone(&hub),
            id,
            outbox,
            gone: gone.clone(),
            slots: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
            turns: Turns::default(),
            owned: Mutex::new(Owned {
                open: true,
                streams: HashSet::new(),
                ports: HashMap::new(),
                dials: gone.child_token(),
                topics: HashSet::new(),
            }),
        });
        let stop = hub.stop.clone();
        hub.sessions.spawn(async move {
            match writer.run(stop).await {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                    tracing::warn!(%error, "local client");
                    gone.cancel();
                }
                // The client hung up. What it sent before is still to be read, so the reader finds the end by itself.
                Err(error) => tracing::debug!(%error, "local client"),
            }
        });
        hub.sessions.spawn(Arc::clone(&session).datagrams(hub.backend.datagrams()));
        // Seen with the log level debug: which client's request a line belongs to.
        let span = tracing::debug_span!("client", id);
        session.read(reader).instrument(span).await;
        session.end();
    }

    fn owned(&self) -> MutexGuard<'_, Owned> {
        // Nobody panics while holding it.
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read(self: &Arc<Self>, mut reader: FrameReader) {
        loop {
            let frame = tokio::select! {
                () = self.gone.cancelled() => return,
                frame = reader.next() => frame,
            };
            let request = match frame {
                Ok(Some(frame)) => Request::decode(frame),
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(%error, "a local client's connection ended");
                    return;
                }
            };
            let work = async {
                match request {
                    Ok(request) => self.take(request).await,
                    Err(Refusal::Answer(text)) => self.reply(Reply::Error { message: text }).await,
                    Err(Refusal::Silent(text)) => tracing::debug!("ignored a local client's request: {text}"),
                }
            };
            tokio::select! {
                () = self.gone.cancelled() => return,
                () = work => {}
            }
        }
    }

    /// Carries a request out: at once when order matters, else in a task of its own.
    async fn take(self: &Arc<Self>, request: Request) {
        let hub = &self.hub;
        match request {
            Request::Send { conn, data } => {
                if hub.connections.send(conn, data).await.is_err() {
                    tracing::debug!(conn, "a local client sent to an unknown connection");
                }
            }
            Request::SendTracked { conn, send_id, data } => {
                let (code, message) = match hub.connections.send(conn, data).await {
                    Ok(()) => (SendCode::Ok, String::new()),
                    Err(conn::NotFound) => (SendCode::NotFound, format!("connection {conn} not found")),
                };
                self.reply(Reply::SendTracked { conn, send_id, code, message }).await;
            }
            Request::SendTo { to, port, data } => {
                if let Err(error) = hub.backend.send_datagram(to, port, data).await {
                    tracing::debug!(%to, port, error, "a local client's datagram was not sent");
                }
            }
            Request::SendToConfirmed { to, port, data } => {
                let reply = match hub.backend.send_datagram(to, port, data).await {
                    Ok(()) => Reply::Done { command: command::SEND_TO_CONFIRMED_OK },
                    // Every error to this command starts so; the newest driver knows it by that.
                    Err(error) => Reply::error(format!("sendto: {error}")),
                };
                self.reply(reply).await;
            }
            Request::Health => {
                let health = hub.backend.health().await;
                self.reply(Reply::json(command::HEALTH_OK, &health.into())).await;
            }
            Request::Close { conn } => self.close(conn).await,
            Request::CancelDials => {
                let next = self.gone.child_token();
                std::mem::replace(&mut self.owned().dials, next).cancel();
            }
            other => {
                // The semaphore is never closed.
                let Ok(slot) = Arc::clone(&self.slots).acquire_owned().await else { return };
                let session = Arc::clone(self);
                let dials = self.owned().dials.clone();
                // Each the root of what it causes: a client may stay for weeks.
                let (client, command) = (self.id, other.command());
                let span = tracing::debug_span!(parent: None, "request", client, command);
                let work = async move {
                    tokio::select! {
                        () = session.gone.cancelled() => {}
                        () = session.work(other, dials) => {}
                    }
                    drop(slot);
                };
                hub.sessions.spawn(work.instrument(span));
            }
        }
    }

    /// A request that may take its time.
    async fn work(self: &Arc<Self>, request: Request, dials: CancellationToken) {
        match request {
            Request::Dial { to, port } => self.dial(to, port, dials).await,
            Request::Bind { port } => self.bind(port).await,
            Request::Unbind { port } => self.unbind(port, false).await,
            Request::UnbindV1 { port } => self.unbind(port, true).await,
            Request::Subscribe { topic } => self.subscribe(topic).await,
            Request::Unsubscribe { topic } => {
                self.owned().topics.remove(&topic);
                self.reply(Reply::Done { command: command::UNSUBSCRIBE_OK }).await;
            }
            other => ask::answer(self, other).await,
        }
    }

    /// Queues a reply. A client that is gone needs none.
    pub(super) async fn reply(&self, reply: Reply) {
        let frame = reply.encode().or_else(|error| {
            // Lists are cut to fit before they come here; this is for what nobody foresaw.
            Reply::error(format!("the answer is too large: {error}")).encode()
        });
        if let Ok(frame) = frame {
            let _ = self.outbox.send(frame).await;
        }
    }

    async fn fail(&self, message: impl Into<String>) {
        self.reply(Reply::error(message)).await;
    }

    async fn dial(self: &Arc<Self>, to: Addr, port: u16, dials: CancellationToken) {
        if self.owned().streams.len() >= MAX_STREAMS {
            return self.fail(format!("dial: per-client connection quota ({MAX_STREAMS}) reached")).await;
        }
        let work = async {
            let _turn = self.turns.wait(to, port).await;
            self.hub.backend.dial(to, port).await
        };
        let outcome = tokio::select! {
            biased;
            // Nothing is said about a cancelled dial: an error would be taken for the answer to the next request.
            () = dials.cancelled() => return,
            outcome = work => outcome,
        };
        let stream = match outcome {
            Ok(stream) => stream,
            Err(error) => return self.fail(error).await,
        };
        let conn = stream.id();
        let announce = async {
            if !self.own(&stream) {
                return;
            }
            // Before any data of the stream, hence before its reader starts.
            self.reply(Reply::DialOk { conn }).await;
            self.start_reader(stream);
        };
        tokio::select! {
            biased;
            () = dials.cancelled() => self.disown(conn),
            () = announce => {}
        }
    }

    /// Takes a stream over; `false` (and the stream closed) when the client is gone meanwhile.
    fn own(&self, stream: &Arc<dyn IpcStream>) -> bool {
        let mut owned = self.owned();
        if !owned.open || owned.streams.len() >= MAX_STREAMS {
            stream.close();
            return false;
        }
        owned.streams.insert(stream.id());
        self.hub.connections.add(self.id, stream);
        true
    }

    fn disown(&self, conn: u32) {
        if self.owned().streams.remove(&conn) {
            self.hub.connections.close(conn);
        }
    }

    fn start_reader(&self, stream: Arc<dyn IpcStream>) {
        self.hub.sessions.spawn(conn::read(stream, self.outbox.clone(), self.gone.clone()));
    }

    async fn close(&self, conn: u32) {
        match self.hub.connections.close(conn) {
            Some(owner) if owner == self.id => {
                self.owned().streams.remove(&conn);
            }
            // Another client's: that one forgets it when it leaves. Not in the table: a plugin's, or nobody's.
            Some(_) => {}
            None => self.hub.backend.close_connection(conn).await,
        }
        self.reply(Reply::CloseOk { conn }).await;
    }

    async fn bind(self: &Arc<Self>, port: u16) {
        let listener = match self.hub.backend.bind(port).await {
            Ok(listener) => listener,
            Err(error) => return self.fail(error).await,
        };
        let stop = self.gone.child_token();
        let (tx, released) = oneshot::channel();
        {
            let mut owned = self.owned();
            if !owned.open {
                return;
            }
            owned.ports.insert(port, Port { stop: stop.clone(), released });
        }
        self.reply(Reply::BindOk { port }).await;
        let session = Arc::clone(self);
        self.hub.sessions.spawn(async move {
            loop {
                let stream = tokio::select! {
                    biased;
                    () = stop.cancelled() => break,
                    stream = listener.accept() => stream,
                };
                let Some(stream) = stream else { break };
                session.accepted(port, stream).await;
            }
            drop(listener);
            // Nobody may be waiting for it.
            let _ = tx.send(());
        });
    }

    async fn accepted(&self, port: u16, stream: Arc<dyn IpcStream>) {
        if !self.own(&stream) {
            return;
        }
        let (remote, remote_port) = stream.remote();
        let conn = stream.id();
        match push(&self.outbox, &Push::Accept { port, conn, remote, remote_port }).await {
            Ok(()) => self.start_reader(stream),
            Err(_) => self.disown(conn),
        }
    }

    async fn unbind(&self, port: u16, v1: bool) {
        let found = self.owned().ports.remove(&port);
        match found {
            Some(bound) => {
                bound.stop.cancel();
                // The port is free when the answer arrives. An error means the task is gone, and the listener with it.
                let _ = bound.released.await;
                self.reply(Reply::UnbindOk { v1, port }).await;
            }
            None if v1 => self.fail(format!("unbind: port {port} not owned by client")).await,
            None => self.fail("unbind: port is not owned by this client").await,
        }
    }

    /// Hands every datagram to the client, whether it bound the port or not; one that does not keep up loses some.
    async fn datagrams(self: Arc<Self>, mut feed: broadcast::Receiver<pilot_net::node::Datagram>) {
        loop {
            let next = tokio::select! {
                () = self.gone.cancelled() => return,
                () = self.outbox.closed() => return,
                next = feed.recv() => next,
            };
            let d = match next {
                Ok(d) => d,
                Err(broadcast::error::RecvError::Lagged(_)) => continue,
                Err(broadcast::error::RecvError::Closed) => return,
            };
            let push =
                Push::Datagram { from: d.from, src_port: d.src_port, dst_port: d.dst_port, data: d.data };
            // Datagrams are far smaller than a frame; a full queue drops one, as datagrams may be.
            let Ok(frame) = push.encode() else { continue };
            if self.outbox.offer(frame).is_err() {
                return;
            }
        }
    }

    /// Topics of the May 2026 fork. Unknown ones are accepted and stay silent.
    async fn subscribe(self: &Arc<Self>, topic: String) {
        let pending = topic == "handshake_pending";
        let fresh = self.owned().topics.insert(topic.clone());
        let snapshot = if pending { self.pending_snapshot() } else { Bytes::new() };
        self.reply(Reply::Subscribed { topic: topic.clone(), snapshot: snapshot.clone() }).await;
        if !pending || !fresh {
            return;
        }
        let session = Arc::clone(self);
        self.hub.sessions.spawn(async move {
            let notify = session.notify(topic, snapshot);
            tokio::select! {
                () = session.gone.cancelled() => {}
                () = session.outbox.closed() => {}
                () = notify => {}
            }
        });
    }

    async fn notify(&self, topic: String, mut last: Bytes) {
        let mut events = self.hub.backend.events("handshake.*");
        while events.changed().await {
            if !self.owned().topics.contains(&topic) {
                return;
            }
            let now = self.pending_snapshot();
            if now != last {
                last = now.clone();
                if push(&self.outbox, &Push::Notify { topic: topic.clone(), payload: now }).await.is_err() {
                    return;
                }
            }
        }
    }

    fn pending_snapshot(&self) -> Bytes {
        let pending = self.hub.backend.handshake().map(|s| s.pending_requests()).unwrap_or_default();
        super::trust::pending_json(pending).to_string().into()
    }

    /// The client is gone: its streams end after what it had queued, its ports are free, its dials are dropped.
    fn end(&self) {
        let streams = {
            let mut owned = self.owned();
            owned.open = false;
            owned.ports.clear();
            owned.topics.clear();
            std::mem::take(&mut owned.streams)
        };
        for conn in streams {
            self.hub.connections.close(conn);
        }
        self.gone.cancel();
    }
}
