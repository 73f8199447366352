//! The answering side: connections, handshakes, calls in flight, streams (zap.md sections 3 and 5.6).

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pilot_wire::zap::{
    Answer, Frame, Request, STREAM_ENDED, TOO_MANY_REQUESTS, TypeOctet, encode_error, keep_alive_frame,
};
use pilot_wire::zwing::{Expect, Identity};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::MAX_CALLS;
use super::backend::{Backend, BackendError, BackendResult, Created};
use super::keys::Keys;
use super::secured::{FrameReader, FrameWriter, LinkError, accept};

/// How a server behaves.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Who may call. An empty list lets nobody in.
    pub expect: Expect,
    /// Connections at a time; more are closed at once.
    pub max_connections: usize,
    /// Callers at a time who have not proved yet that they are there; one more, and the one who has waited longest is
    /// closed. So callers who say nothing keep nobody out.
    pub max_half_open: usize,
    /// Time between keep-alive frames, which clients with a read deadline need; `None` for none.
    pub keep_alive: Option<Duration>,
}

impl Default for ServerConfig {
    /// Nobody allowed, 64 connections, 16 half-open, a keep-alive every 10 s.
    fn default() -> Self {
        ServerConfig {
            expect: Expect::OneOf(Vec::new()),
            max_connections: 64,
            max_half_open: 16,
            keep_alive: Some(Duration::from_secs(10)),
        }
    }
}

/// Shortest and longest time between two frames of a status stream, and what 0 means (netrunner.md, StreamStatus).
const PUSH_MIN: Duration = Duration::from_millis(100);
const PUSH_MAX: Duration = Duration::from_secs(3600);
const PUSH_DEFAULT: Duration = Duration::from_secs(1);
/// Answers that wait for the socket; when it is full, calls wait with their answers.
const OUTBOX: usize = 64;
/// How long a connection may take from its handshake to its first good record: only that proves that the caller is
/// there now (zap.md section 5.6).
const FIRST_RECORD_LIMIT: Duration = Duration::from_secs(30);
/// Time between two handshakes, once [`HANDSHAKE_BURST`] have come at a time. One costs some milliseconds of work, and
/// a recorded first message is enough to cause it (zap.md section 5.6): this is a quarter of one processor at most.
pub(super) const HANDSHAKE_GAP: Duration = Duration::from_millis(20);
pub(super) const HANDSHAKE_BURST: u32 = 32;

/// A running server. Dropping it leaves it running; [`stop`](Self::stop) ends it.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the listener and every connection, and waits until they are gone. Calls in flight are dropped.
    pub async fn stop(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

/// Serves `backend` on a bound listener, on tasks of the current runtime.
///
/// # Errors
/// When the listener has no address.
pub fn serve<B: Backend>(
    listener: TcpListener,
    keys: &Keys,
    config: ServerConfig,
    backend: Arc<B>,
) -> std::io::Result<Server> {
    let address = listener.local_addr()?;
    let stop = CancellationToken::new();
    let shared = Arc::new(Shared {
        identity: keys.identity(),
        half_open: Arc::default(),
        pace: Pace::default(),
        connections: Arc::new(Semaphore::new(config.max_connections)),
        config,
        backend,
        stop: stop.clone(),
    });
    let task = tokio::spawn(accept_loop(listener, shared));
    Ok(Server { address, stop, task })
}

struct Shared<B> {
    identity: Identity,
    config: ServerConfig,
    half_open: Arc<HalfOpen>,
    pace: Pace,
    connections: Arc<Semaphore>,
    backend: Arc<B>,
    stop: CancellationToken,
}

/// The callers who have not proved yet that they are there, the longest waiting first.
#[derive(Default)]
struct HalfOpen(Mutex<VecDeque<CancellationToken>>);

/// The place of one; cancelled when another one needs it. Dropping it gives it back.
struct Place {
    list: Arc<HalfOpen>,
    token: CancellationToken,
}

impl HalfOpen {
    /// A place, if need be that of the one who has waited longest. There are at most `max`, and at least one.
    fn take(self: &Arc<Self>, max: usize) -> Place {
        let token = CancellationToken::new();
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push_back(token.clone());
        while waiting.len() > max.max(1) {
            if let Some(longest) = waiting.pop_front() {
                longest.cancel();
            }
        }
        Place { list: Arc::clone(self), token }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A cancelled one is in the list no more; cancelling tells this one from the others that are.
        self.token.cancel();
        self.list.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|token| !token.is_cancelled());
    }
}

/// Spreads handshakes over time: the moment at which the next one would come if all came at their gap.
#[derive(Default)]
pub(super) struct Pace(Mutex<Option<Instant>>);

impl Pace {
    /// Waits for the caller's turn.
    pub(super) async fn turn(&self) {
        let turn = {
            let (now, mut next) = (Instant::now(), self.0.lock().unwrap_or_else(PoisonError::into_inner));
            // Time that passed unused counts, but no more than a burst of it.
            let earliest = now.checked_sub(HANDSHAKE_GAP * HANDSHAKE_BURST).unwrap_or(now);
            let due = next.map_or(earliest, |at| at.max(earliest));
            *next = Some(due + HANDSHAKE_GAP);
            due
        };
        sleep_until(turn).await;
    }
}

async fn accept_loop<B: Backend>(listener: TcpListener, shared: Arc<Shared<B>>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = shared.stop.cancelled() => break,
            accepted = listener.accept() => accepted,
            // Reaps; the outcome was logged where it happened.
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(e) => {
                // Out of descriptors, most likely: give others time to close some.
                warn!(error = %e, "control: cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(connection) = shared.connections.clone().try_acquire_owned() else {
            debug!(%from, "control: too many connections");
            continue;
        };
        let place = shared.half_open.take(shared.config.max_half_open);
        connections.spawn(connection_task(stream, from, Arc::clone(&shared), connection, place));
    }
    // Each ends by the same token.
    while connections.join_next().await.is_some() {}
}

async fn connection_task<B: Backend>(
    stream: TcpStream,
    from: SocketAddr,
    shared: Arc<Shared<B>>,
    _connection: OwnedSemaphorePermit,
    place: Place,
) {
    let _ = stream.set_nodelay(true);
    let gone = || debug!(%from, "control: made room for a newer caller");
    let handshake = tokio::select! {
        () = shared.stop.cancelled() => return,
        () = place.token.cancelled() => return gone(),
        handshake = accept(stream, &shared.identity, &shared.config.expect, shared.pace.turn()) => handshake,
    };
    let (mut reader, writer, remote) = match handshake {
        Ok(link) => link,
        Err(e) => return info!(%from, error = %e, "control: handshake refused"),
    };
    let first = tokio::select! {
        () = shared.stop.cancelled() => return,
        () = place.token.cancelled() => return gone(),
        first = timeout(FIRST_RECORD_LIMIT, reader.next()) => first,
    };
    drop(place);
    let caller = remote.fingerprint();
    let outcome = match first {
        Ok(Ok(Some(frame))) => {
            info!(%from, caller, "control: connected");
            Connection::new(&shared, writer).run(reader, frame).await
        }
        Ok(Ok(None)) => Ok(()),
        Ok(Err(e)) => Err(e),
        Err(_) => Err(LinkError::Late { what: "the first call", limit: FIRST_RECORD_LIMIT }),
    };
    match outcome {
        Ok(()) => debug!(%from, caller, "control: closed"),
        Err(e) => info!(%from, caller, error = %e, "control: connection ended"),
    }
}

/// Streams of one connection by request id; removing one ends it.
type Streams = Arc<Mutex<HashMap<u32, CancellationToken>>>;

/// One caller.
struct Connection<B> {
    backend: Arc<B>,
    stop: CancellationToken,
    outbox: mpsc::Sender<Vec<u8>>,
    writer: tokio::task::JoinHandle<Result<(), LinkError>>,
    streams: Streams,
}

impl<B: Backend> Connection<B> {
    fn new(shared: &Shared<B>, writer: FrameWriter<TcpStream>) -> Self {
        let (outbox, inbox) = mpsc::channel(OUTBOX);
        let writer = tokio::spawn(write_loop(writer, inbox, shared.config.keep_alive));
        Connection {
            backend: Arc::clone(&shared.backend),
            stop: shared.stop.clone(),
            outbox,
            writer,
            streams: Streams::default(),
        }
    }

    /// Until either end closes. Every call's future ends with it.
    async fn run(
        self,
        mut reader: FrameReader<TcpStream>,
        first: (TypeOctet, Vec<u8>),
    ) -> Result<(), LinkError> {
        let Connection { backend, stop, outbox, mut writer, streams } = self;
        let mut calls = JoinSet::new();
        let mut answered = HashMap::new();
        let mut next = Some(first);
        let outcome = loop {
            if let Some((kind, payload)) = next.take() {
                let frame = Frame { kind, payload: &payload };
                // Too short for an id: dropped without an answer, as the peer does.
                if let Some((id, body)) = frame.call() {
                    if calls.len() >= MAX_CALLS {
                        let mut refusal = Vec::new();
                        encode_error(kind, id, TOO_MANY_REQUESTS, &mut refusal);
                        // Not awaited: a caller that does not read its answers gets none.
                        let _ = outbox.try_send(refusal);
                    } else {
                        let call = Call {
                            backend: Arc::clone(&backend),
                            outbox: outbox.clone(),
                            streams: Arc::clone(&streams),
                            kind,
                            id,
                        };
                        let task = calls.spawn(call.run(Request::decode(kind, body)));
                        answered.insert(task.id(), (kind, id));
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => break Ok(()),
                frame = reader.next() => match frame {
                    Ok(Some(frame)) => next = Some(frame),
                    Ok(None) => break Ok(()),
                    Err(e) => break Err(e),
                },
                Some(done) = calls.join_next_with_id(), if !calls.is_empty() => {
                    let task = done.as_ref().map_or_else(JoinError::id, |(task, ())| *task);
                    let call = answered.remove(&task);
                    if let (Err(e), Some((kind, id))) = (done, call) {
                        let mut answer = Vec::new();
                        encode_error(kind, id, &panic_text(e), &mut answer);
                        let _ = outbox.send(answer).await;
                    }
                }
                ended = &mut writer => {
                    return ended.unwrap_or(Ok(()));
                }
            }
        };
        // The caller is gone: its calls go with it.
        drop(calls);
        drop(outbox);
        let _ = writer.await;
        outcome
    }
}

fn panic_text(e: JoinError) -> String {
    let Ok(panic) = e.try_into_panic() else { return "handler panic: cancelled".into() };
    let text = panic
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "unknown".into());
    warn!(panic = text, "control: a call panicked");
    format!("handler panic: {text}")
}

/// Writes answers in the order they were finished, and keep-alive frames when nothing else was written for a while.
async fn write_loop(
    mut writer: FrameWriter<TcpStream>,
    mut inbox: mpsc::Receiver<Vec<u8>>,
    keep_alive: Option<Duration>,
) -> Result<(), LinkError> {
    let never = Duration::from_secs(1 << 30);
    let mut quiet_until = Instant::now() + keep_alive.unwrap_or(never);
    loop {
        let frame = tokio::select! {
            frame = inbox.recv() => frame,
            () = sleep_until(quiet_until) => Some(keep_alive_frame().to_vec()),
        };
        let Some(frame) = frame else { break };
        writer.write(&frame).await?;
        quiet_until = Instant::now() + keep_alive.unwrap_or(never);
    }
    writer.finish().await;
    Ok(())
}

/// One call.
struct Call<B> {
    backend: Arc<B>,
    outbox: mpsc::Sender<Vec<u8>>,
    streams: Streams,
    kind: TypeOctet,
    id: u32,
}

impl<B: Backend> Call<B> {
    async fn run(self, request: Result<Request, pilot_wire::zap::RequestError>) {
        let answer = match request {
            Err(e) => Err(BackendError::new(e.to_string())),
            Ok(Request::StreamStatus { push_interval_ns }) => return self.stream(push_interval_ns).await,
            Ok(request) => self.call(request).await,
        };
        self.send(answer).await;
    }

    /// `false` when the connection is gone.
    async fn send(&self, answer: BackendResult<Answer>) -> bool {
        let mut frame = Vec::new();
        let encoded = match answer {
            Ok(answer) => answer.encode(self.kind, self.id, &mut frame).map_err(|e| e.to_string()),
            Err(BackendError(text)) => Err(text),
        };
        if let Err(text) = encoded {
            encode_error(self.kind, self.id, &text, &mut frame);
        }
        self.outbox.send(frame).await.is_ok()
    }

    async fn call(&self, request: Request) -> BackendResult<Answer> {
        let b = &self.backend;
        let chains = |Created { cluster, ids }| Answer::Chains { cluster, chain_ids: ids };
        match request {
            Request::Ping => b.ping().await.map(Answer::Pid),
            Request::RpcVersion => Ok(Answer::VERSION),
            Request::Stop => b.stop().await.map(Answer::Cluster),
            Request::Health => b.health().await.map(Answer::Cluster),
            Request::WaitForHealthy => b.wait_for_healthy().await.map(Answer::Cluster),
            Request::Uris => b.uris().await.map(Answer::Texts),
            Request::Status => b.status().await.map(Answer::Cluster),
            Request::CreateChains(specs) | Request::CreateBlockchains(specs) => {
                b.create_chains(specs).await.map(chains)
            }
            Request::Reserved(_) => Err(b.reserved().await),
            Request::AddNode(add) => b.add_node(add).await.map(Answer::Cluster),
            Request::RemoveNode { name } => b.remove_node(name).await.map(Answer::Cluster),
            Request::RestartNode(restart) => b.restart_node(restart).await.map(Answer::Cluster),
            Request::PauseNode { name } => b.pause_node(name).await.map(Answer::Cluster),
            Request::ResumeNode { name } => b.resume_node(name).await.map(Answer::Cluster),
            Request::AttachPeer { node_name } => b
                .attach_peer(node_name)
                .await
                .map(|(cluster, peer)| Answer::Attached { cluster, peer_id: Some(peer) }),
            Request::SendOutboundMessage(message) => b.send_outbound_message(message).await.map(Answer::Sent),
            Request::SaveSnapshot { name } => b.save_snapshot(name).await.map(Answer::Path),
            Request::SaveHotSnapshot { name } => b.save_hot_snapshot(name).await.map(Answer::Path),
            Request::LoadSnapshot(load) => b.load_snapshot(load).await.map(Answer::Cluster),
            Request::RemoveSnapshot { name } => b.remove_snapshot(name).await.map(|()| Answer::Empty),
            Request::GetSnapshotNames => b.snapshot_names().await.map(Answer::Texts),
            Request::Start(start) => b.start(start).await.map(chains),
            Request::CancelStream { target } => {
                if let Some(stream) = self.streams().remove(&target) {
                    stream.cancel();
                }
                Ok(Answer::Empty)
            }
            // Taken out by `run`.
            Request::StreamStatus { .. } => Err(BackendError::unsupported()),
        }
    }

    fn streams(&self) -> std::sync::MutexGuard<'_, HashMap<u32, CancellationToken>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Snapshots until the caller cancels, each under the same id: at once, at every interval, and when something changed.
    async fn stream(self, push_interval_ns: i64) {
        let every = match u64::try_from(push_interval_ns) {
            Ok(0) | Err(_) => PUSH_DEFAULT,
            Ok(nanos) => Duration::from_nanos(nanos).clamp(PUSH_MIN, PUSH_MAX),
        };
        let cancelled = CancellationToken::new();
        let taken = match self.streams().entry(self.id) {
            Entry::Occupied(_) => true,
            Entry::Vacant(free) => {
                free.insert(cancelled.clone());
                false
            }
        };
        if taken {
            // Two streams under one id could not be told apart.
            self.send(Err(BackendError::new("request id is in use by a stream"))).await;
            return;
        }
        let mut changes = self.backend.changes();
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = None::<Instant>;
        loop {
            tokio::select! {
                () = cancelled.cancelled() => break,
                _ = ticks.tick() => {}
                changed = changes.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    // One push for all changes of a tenth of a second.
                    if let Some(last) = last {
                        sleep_until(last + PUSH_MIN).await;
                        changes.mark_unchanged();
                    }
                }
            }
            last = Some(Instant::now());
            let snapshot = self.backend.snapshot().await;
            if !self.send(Ok(Answer::Cluster(snapshot))).await {
                break;
            }
        }
        self.streams().remove(&self.id);
        self.send(Err(BackendError::new(STREAM_ENDED))).await;
    }
}
