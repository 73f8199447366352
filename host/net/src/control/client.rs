//! The calling side: many calls in flight over one connection, answers matched by id (zap.md section 3).

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pilot_wire::zap::{
    AddNode, Answer, ChainSpec, ClusterInfo, Frame, KEEP_ALIVE_ID, LoadSnapshot, Reply, Request, RestartNode,
    Rpc, STREAM_ENDED, SendOutboundMessage, Start,
};
use pilot_wire::zwing::{Expect, Initiator, PublicIdentity, SeenAnswers};
use tokio::net::{TcpStream, ToSocketAddrs};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::MAX_CALLS;
use super::backend::Created;
use super::keys::{Keys, KeysError};
use super::secured::{FrameReader, FrameWriter, LinkError, initiate};

/// How a client connects.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Who must answer. Clients should always name one: without a pin any valid identity is believed.
    pub expect: Expect,
    /// How long the TCP connection may take.
    pub connect_limit: Duration,
    /// The same key-agreement keys for every connection, for servers that pin all 3200 bytes of this client. Recorded
    /// answers are then told by memory ([`SeenAnswers`], kept per [`Client::dial`] caller), not by fresh keys.
    pub static_keys: Option<Arc<Mutex<SeenAnswers>>>,
}

impl ClientConfig {
    /// For a server that is known.
    pub fn new(expect: Expect) -> Self {
        ClientConfig { expect, connect_limit: Duration::from_secs(5), static_keys: None }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// Nobody listens there, or it cannot be reached.
    #[error("control: cannot connect: {0}")]
    Connect(std::io::Error),
    /// The handshake failed. When it is the *server* that refuses us, it closes without a word: an early end.
    #[error("control: {0}")]
    Handshake(LinkError),
    /// No fresh keys.
    #[error("control: {0}")]
    Keys(#[from] KeysError),
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The server's error text.
    #[error("remote error: {0}")]
    Remote(String),
    /// The server does not know this call.
    #[error("not supported by this server")]
    Unsupported,
    /// The connection ended before the answer; the call may or may not have been carried out.
    #[error("zap: connection closed")]
    Closed,
    /// The answer's body is not one.
    #[error("the server's answer cannot be read: {0}")]
    Answer(String),
    /// The request does not fit a frame.
    #[error("zap: message exceeds maximum size")]
    TooLarge,
}

impl CallError {
    fn remote(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let unknown =
            text.starts_with("zapwire: unknown SubOp") || text.starts_with("zapwire: unknown opcode");
        if unknown { CallError::Unsupported } else { CallError::Remote(text.into_owned()) }
    }
}

/// A connection to a control server. Cheap to clone; the last clone closes it.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    _closes: Arc<DropGuard>,
    remote: PublicIdentity,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({:?})", self.remote)
    }
}

struct Shared {
    next_id: AtomicU32,
    outbox: mpsc::Sender<Vec<u8>>,
    waiting: Mutex<Waiting>,
    /// Calls in flight; more wait here.
    slots: Semaphore,
}

/// Who waits for which id. Two tables: a call's id is forgotten with its first answer, a stream's with its last.
#[derive(Default)]
struct Waiting {
    calls: HashMap<u32, oneshot::Sender<Result<Vec<u8>, CallError>>>,
    streams: HashMap<u32, Arc<Queue>>,
    closed: bool,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        let mut waiting = self.waiting();
        waiting.closed = true;
        waiting.calls.clear();
        for (_, queue) in waiting.streams.drain() {
            queue.end(Err(CallError::Closed));
        }
    }
}

/// Answers that wait for their frames to be written.
const OUTBOX: usize = 64;

impl Client {
    /// Connects and proves who both are.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn dial(
        address: impl ToSocketAddrs,
        keys: &Keys,
        config: &ClientConfig,
    ) -> Result<Client, DialError> {
        let late = || DialError::Connect(std::io::ErrorKind::TimedOut.into());
        let stream = timeout(config.connect_limit, TcpStream::connect(address)).await.map_err(|_| late())?;
        let stream = stream.map_err(DialError::Connect)?;
        let _ = stream.set_nodelay(true);
        let handshake = |e| DialError::Handshake(e);
        let (reader, writer, remote) = match &config.static_keys {
            None => {
                let initiator = Initiator::new(keys.fresh()?, config.expect.clone());
                initiate(stream, initiator, None).await.map_err(handshake)?
            }
            Some(seen) => {
                let initiator = Initiator::new(keys.identity(), config.expect.clone());
                initiate(stream, initiator, Some(seen)).await.map_err(handshake)?
            }
        };
        let (outbox, inbox) = mpsc::channel(OUTBOX);
        let shared = Arc::new(Shared {
            next_id: AtomicU32::new(1),
            outbox,
            waiting: Mutex::default(),
            slots: Semaphore::new(MAX_CALLS),
        });
        let stop = CancellationToken::new();
        tokio::spawn(write_loop(writer, inbox, stop.clone()));
        tokio::spawn(read_loop(reader, Arc::clone(&shared), stop.clone()));
        Ok(Client { shared, _closes: Arc::new(stop.drop_guard()), remote })
    }

    /// Who answered.
    pub fn remote(&self) -> &PublicIdentity {
        &self.remote
    }

    /// One call. Dropping the future forgets it; the server may carry it out all the same.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call(&self, request: &Request) -> Result<Answer, CallError> {
        let _slot = self.shared.slots.acquire().await.map_err(|_| CallError::Closed)?;
        let id = self.shared.id();
        let mut frame = Vec::new();
        request.encode(id, &mut frame).map_err(|_| CallError::TooLarge)?;
        let (answer, wait) = oneshot::channel();
        {
            let mut waiting = self.shared.waiting();
            if waiting.closed {
                return Err(CallError::Closed);
            }
            waiting.calls.insert(id, answer);
        }
        let _forget = Forget { shared: &self.shared, id };
        self.shared.outbox.send(frame).await.map_err(|_| CallError::Closed)?;
        let body = wait.await.map_err(|_| CallError::Closed)??;
        Answer::decode(request.rpc(), &body).map_err(|e| CallError::Answer(e.to_string()))
    }

    async fn cluster(&self, request: &Request) -> Result<Option<ClusterInfo>, CallError> {
        match self.call(request).await? {
            Answer::Cluster(cluster) => Ok(cluster),
            other => Err(unexpected(&other)),
        }
    }

    /// The runner's process id.
    ///
    /// # Errors
    /// As [`call`](Self::call); so for all that follow.
    pub async fn ping(&self) -> Result<i32, CallError> {
        match self.call(&Request::Ping).await? {
            Answer::Pid(pid) => Ok(pid),
            other => Err(unexpected(&other)),
        }
    }

    /// The protocol version, 1.
    pub async fn rpc_version(&self) -> Result<u32, CallError> {
        match self.call(&Request::RpcVersion).await? {
            Answer::Version(version) => Ok(version),
            other => Err(unexpected(&other)),
        }
    }

    /// A fresh evaluation.
    pub async fn health(&self) -> Result<Option<ClusterInfo>, CallError> {
        self.cluster(&Request::Health).await
    }

    /// Waits until the cluster is healthy.
    pub async fn wait_for_healthy(&self) -> Result<Option<ClusterInfo>, CallError> {
        self.cluster(&Request::WaitForHealthy).await
    }

    /// The last known state.
    pub async fn status(&self) -> Result<Option<ClusterInfo>, CallError> {
        self.cluster(&Request::Status).await
    }

    /// Where the nodes can be reached.
    pub async fn uris(&self) -> Result<Vec<String>, CallError> {
        self.texts(&Request::Uris).await
    }

    async fn texts(&self, request: &Request) -> Result<Vec<String>, CallError> {
        match self.call(request).await? {
            Answer::Texts(texts) => Ok(texts),
            other => Err(unexpected(&other)),
        }
    }

    async fn created(&self, request: &Request) -> Result<Created, CallError> {
        match self.call(request).await? {
            Answer::Chains { cluster, chain_ids } => Ok(Created { cluster, ids: chain_ids }),
            other => Err(unexpected(&other)),
        }
    }

    /// Creates the cluster.
    pub async fn start(&self, start: Start) -> Result<Created, CallError> {
        self.created(&Request::Start(start)).await
    }

    /// Ends the cluster.
    pub async fn stop(&self) -> Result<Option<ClusterInfo>, CallError> {
        self.cluster(&Request::Stop).await
    }

    /// One more node.
    pub async fn add_node(&self, node: AddNode) -> Result<Option<ClusterInfo>, CallError> {
        self.cluster(&Request::AddNode(node)).await
    }

    /// One less.
    pub async fn remove_node(&self, name: &str) -> Result<Option<ClusterInfo>, CallError> {
        self.cluster(&Request::RemoveNode { name: name.into() }).await
    }

    /// The same node, perhaps with other settings.
    pub async fn restart_node(&self, node: RestartNode) -> Result<Option<ClusterInfo>, CallError> {
        self.cluster(&Request::RestartNode(node)).await
    }

    /// Suspends a node.
    pub async fn pause_node(&self, name: &str) -> Result<Option<ClusterInfo>, CallError> {
        self.cluster(&Request::PauseNode { name: name.into() }).await
    }

    /// Lets it go on.
    pub async fn resume_node(&self, name: &str) -> Result<Option<ClusterInfo>, CallError> {
        self.cluster(&Request::ResumeNode { name: name.into() }).await
    }

    /// Makes a synthetic peer of a node; gives its id.
    pub async fn attach_peer(&self, node: &str) -> Result<String, CallError> {
        match self.call(&Request::AttachPeer { node_name: node.into() }).await? {
            Answer::Attached { peer_id: Some(peer), .. } => Ok(peer),
            other => Err(unexpected(&other)),
        }
    }

    /// Sends from such a peer.
    pub async fn send_outbound_message(&self, message: SendOutboundMessage) -> Result<bool, CallError> {
        match self.call(&Request::SendOutboundMessage(message)).await? {
            Answer::Sent(sent) => Ok(sent),
            other => Err(unexpected(&other)),
        }
    }

    /// Provisions overlay networks.
    pub async fn create_chains(&self, specs: Vec<ChainSpec>) -> Result<Created, CallError> {
        self.created(&Request::CreateChains(specs)).await
    }

    /// Keeps the cluster; `hot` leaves it running.
    pub async fn save_snapshot(&self, name: &str, hot: bool) -> Result<String, CallError> {
        let name = name.to_owned();
        let request = if hot { Request::SaveHotSnapshot { name } } else { Request::SaveSnapshot { name } };
        match self.call(&request).await? {
            Answer::Path(path) => Ok(path),
            other => Err(unexpected(&other)),
        }
    }

    /// A cluster from what was kept.
    pub async fn load_snapshot(&self, load: LoadSnapshot) -> Result<Option<ClusterInfo>, CallError> {
        self.cluster(&Request::LoadSnapshot(load)).await
    }

    /// Deletes what was kept.
    pub async fn remove_snapshot(&self, name: &str) -> Result<(), CallError> {
        self.call(&Request::RemoveSnapshot { name: name.into() }).await.map(|_| ())
    }

    /// Names of what was kept.
    pub async fn snapshot_names(&self) -> Result<Vec<String>, CallError> {
        self.texts(&Request::GetSnapshotNames).await
    }

    /// Snapshots of the state at every `interval` and at every change, until the stream is dropped.
    pub async fn stream_status(&self, interval: Duration) -> Result<StatusStream, CallError> {
        let id = self.shared.id();
        let push_interval_ns = i64::try_from(interval.as_nanos()).unwrap_or(i64::MAX);
        let mut frame = Vec::new();
        Request::StreamStatus { push_interval_ns }.encode(id, &mut frame).map_err(|_| CallError::TooLarge)?;
        let queue = Arc::new(Queue::default());
        {
            let mut waiting = self.shared.waiting();
            if waiting.closed {
                return Err(CallError::Closed);
            }
            waiting.streams.insert(id, Arc::clone(&queue));
        }
        let stream = StatusStream { client: self.clone(), id, queue };
        self.shared.outbox.send(frame).await.map_err(|_| CallError::Closed)?;
        Ok(stream)
    }
}

/// An answer to another call under this id: the server's fault.
fn unexpected(answer: &Answer) -> CallError {
    CallError::Answer(format!("unexpected {answer:?}").chars().take(100).collect())
}

impl Shared {
    /// The next id; 0 belongs to keep-alive frames.
    fn id(&self) -> u32 {
        loop {
            let id = self.next_id.fetch_add(1, Ordering::Relaxed);
            if id != KEEP_ALIVE_ID {
                return id;
            }
        }
    }
}

/// A call that is no longer awaited.
struct Forget<'a> {
    shared: &'a Shared,
    id: u32,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.shared.waiting().calls.remove(&self.id);
    }
}

/// Snapshots that wait to be read. When full, the oldest goes: the newest state is what matters.
#[derive(Default)]
struct Queue {
    items: Mutex<Items>,
    filled: Notify,
}

#[derive(Default)]
struct Items {
    snapshots: VecDeque<Option<ClusterInfo>>,
    /// How the stream ended.
    end: Option<Result<(), CallError>>,
}

/// Snapshots a [`Queue`] holds.
const QUEUE: usize = 16;

impl Queue {
    fn push(&self, snapshot: Option<ClusterInfo>) {
        let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        if items.snapshots.len() == QUEUE {
            items.snapshots.pop_front();
        }
        items.snapshots.push_back(snapshot);
        drop(items);
        self.filled.notify_one();
    }

    fn end(&self, why: Result<(), CallError>) {
        let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        items.end.get_or_insert(why);
        drop(items);
        self.filled.notify_one();
    }
}

/// See [`Client::stream_status`]. Dropping it tells the server to end it.
pub struct StatusStream {
    client: Client,
    id: u32,
    queue: Arc<Queue>,
}

impl std::fmt::Debug for StatusStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StatusStream").field("id", &self.id).finish_non_exhaustive()
    }
}

impl StatusStream {
    /// The next snapshot (`Some(None)`: no cluster runs); `None` when the server ended the stream in good order.
    ///
    /// # Errors
    /// The connection's end, or the server's error.
    pub async fn next(&mut self) -> Result<Option<Option<ClusterInfo>>, CallError> {
        loop {
            let filled = self.queue.filled.notified();
            {
                let mut items = self.queue.items.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(snapshot) = items.snapshots.pop_front() {
                    return Ok(Some(snapshot));
                }
                if let Some(end) = &items.end {
                    return end.clone().map(|()| None);
                }
            }
            filled.await;
        }
    }
}

impl Drop for StatusStream {
    fn drop(&mut self) {
        let open = self.client.shared.waiting().streams.remove(&self.id).is_some();
        if !open {
            return;
        }
        let mut frame = Vec::new();
        let cancel = Request::CancelStream { target: self.id };
        if cancel.encode(self.client.shared.id(), &mut frame).is_ok() {
            // When the outbox is full the server learns it from the connection's end; its frames are dropped until then.
            let _ = self.client.shared.outbox.try_send(frame);
        }
    }
}

async fn write_loop(
    mut writer: FrameWriter<TcpStream>,
    mut inbox: mpsc::Receiver<Vec<u8>>,
    stop: CancellationToken,
) {
    loop {
        let frame = tokio::select! {
            biased;
            frame = inbox.recv() => frame,
            () = stop.cancelled() => None,
        };
        let Some(frame) = frame else { break };
        if let Err(e) = writer.write(&frame).await {
            tracing::debug!(error = %e, "control: connection ended");
            break;
        }
    }
    stop.cancel();
    writer.finish().await;
}

async fn read_loop(mut reader: FrameReader<TcpStream>, shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        let frame = tokio::select! {
            () = stop.cancelled() => break,
            frame = reader.next() => frame,
        };
        match frame {
            Ok(Some((kind, payload))) => shared.sort(&Frame { kind, payload: &payload }),
            Ok(None) => break,
            Err(e) => {
                tracing::debug!(error = %e, "control: connection ended");
                break;
            }
        }
    }
    stop.cancel();
    shared.close();
}

impl Shared {
    /// Hands an answer to whoever waits; answers under unknown ids (keep-alive frames among them) are dropped.
    fn sort(&self, frame: &Frame<'_>) {
        let Some((id, reply)) = Reply::of_frame(frame) else { return };
        let mut waiting = self.waiting();
        if let Some(call) = waiting.calls.remove(&id) {
            let _ = call.send(match reply {
                Reply::Success(body) => Ok(body.to_vec()),
                Reply::Error(text) => Err(CallError::remote(text)),
            });
            return;
        }
        let Some(queue) = waiting.streams.get(&id).cloned() else { return };
        let end = match reply {
            Reply::Success(body) => match Answer::decode(Rpc::StreamStatus, body) {
                Ok(Answer::Cluster(snapshot)) => return queue.push(snapshot),
                Ok(other) => Err(unexpected(&other)),
                Err(e) => Err(CallError::Answer(e.to_string())),
            },
            Reply::Error(text) if text == STREAM_ENDED.as_bytes() => Ok(()),
            Reply::Error(text) => Err(CallError::remote(text)),
        };
        waiting.streams.remove(&id);
        queue.end(end);
    }
}
