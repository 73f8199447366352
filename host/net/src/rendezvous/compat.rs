//! The beacon's WebSocket side: nodes without UDP connect here over TCP (wss.md). Fact sheet sections 1 to 5.
//!
//! One task accepts; one task per connection answers HTTP, sets the challenge and then carries messages between the
//! socket and the beacon's task, which owns who is connected ([`pilot_rendezvous::Clients`]).
//!
//! | queue | bound | when it is full |
//! |---|---|---|
//! | messages to the beacon, all clients together | [`TO_BEACON`] | nothing more is read from the sockets |
//! | messages to one client | [`TO_CLIENT`] messages, [`TO_CLIENT_BYTES`] | the message is lost, as on UDP; other clients notice nothing |
//! | connections | [`CompatListen::max_clients`] | HTTP 503 |

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{SinkExt as _, Stream, StreamExt as _};
use pilot_rendezvous::verify_signature;
use pilot_wire::compat::auth::{self, AuthError, Challenge, Reply};
use pilot_wire::compat::http::{Answer, answer, upgrade_answer};
use pilot_wire::compat::{AUTH_TIMEOUT, Close, HEAD_TIMEOUT, IDLE_LIMIT, WRITE_TIMEOUT};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::desk::{Desk, unix_now};
use crate::tls::{ServerTls, TlsError};
use crate::websocket::{accept_value, bounds, close_frame, read_head};

/// Messages of all clients together that wait for the beacon.
const TO_BEACON: usize = 256;
/// Messages that wait for one client.
const TO_CLIENT: usize = 512;
/// Bytes that wait for one client.
const TO_CLIENT_BYTES: usize = 1 << 20;
/// Messages written to a client between two flushes.
const BURST: usize = 64;
/// How often certificate files are looked at.
const RELOAD: Duration = Duration::from_secs(2);
/// Longest a TLS handshake may take.
const TLS_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a closing connection may take to say so.
const FAREWELL: Duration = Duration::from_secs(1);

/// Where and how the beacon takes WebSocket clients.
#[derive(Clone, Debug)]
pub struct CompatListen {
    /// TCP address; port 0 picks a free one.
    pub addr: SocketAddr,
    /// Certificate chain and key, PEM; looked at every two seconds and taken anew when a file has changed. `None`: plain
    /// HTTP, for a TLS front on the same machine.
    pub tls: Option<CertificateFiles>,
    /// Clients at a time; further ones get HTTP 503.
    pub max_clients: usize,
}

/// A certificate chain and its key, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// What connections tell the beacon's task.
#[derive(Debug)]
pub(super) enum FromClient {
    /// A node has proved itself.
    Attach { node: u32, connection: u64, client: Client },
    /// One binary message.
    Message { node: u32, connection: u64, data: Vec<u8> },
    /// A connection is over.
    Detach { node: u32, connection: u64 },
}

/// The beacon's end of a connection.
#[derive(Debug)]
pub(super) struct Client {
    queue: mpsc::Sender<Bytes>,
    waiting: Arc<AtomicUsize>,
    replaced: CancellationToken,
}

impl Client {
    /// Queues a message, or loses it when the client is too slow.
    pub fn send(&self, message: &[u8]) {
        if self.waiting.load(Ordering::Relaxed) + message.len() > TO_CLIENT_BYTES {
            return;
        }
        if self.queue.try_send(Bytes::copy_from_slice(message)).is_ok() {
            self.waiting.fetch_add(message.len(), Ordering::Relaxed);
        }
    }

    /// A newer connection of the same node has come.
    pub fn replace(&self) {
        self.replaced.cancel();
    }
}

/// What all connections share.
#[derive(Clone)]
pub(super) struct Shared {
    desk: Arc<Desk>,
    beacon: mpsc::Sender<FromClient>,
    places: Arc<Semaphore>,
    numbers: Arc<AtomicU64>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Shared {
    /// What connections share, and the beacon's end of their queue.
    pub fn new(
        desk: Arc<Desk>,
        max_clients: usize,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> (Self, mpsc::Receiver<FromClient>) {
        let (beacon, messages) = mpsc::channel(TO_BEACON);
        let places = Arc::new(Semaphore::new(max_clients.min(Semaphore::MAX_PERMITS)));
        (Self { desk, beacon, places, numbers: Arc::default(), tasks, stop }, messages)
    }
}

/// A certificate that follows its files.
pub(super) struct Certificate {
    files: CertificateFiles,
    written: [Option<SystemTime>; 2],
    acceptor: TlsAcceptor,
}

impl Certificate {
    /// # Errors
    /// When the files cannot be used.
    pub fn load(files: CertificateFiles) -> Result<Self, TlsError> {
        let written = files.written();
        let acceptor = ServerTls::from_files(&files.certificate, &files.key)?.acceptor();
        Ok(Self { files, written, acceptor })
    }

    /// Takes changed files; what cannot be used is named, and the old certificate stays.
    fn refresh(&mut self) {
        let written = self.files.written();
        if written == self.written {
            return;
        }
        self.written = written;
        match ServerTls::from_files(&self.files.certificate, &self.files.key) {
            Ok(tls) => {
                tracing::info!(fingerprint = tls.fingerprint(), "compat beacon: certificate exchanged");
                self.acceptor = tls.acceptor();
            }
            Err(e) => tracing::warn!(error = %e, "compat beacon: the changed certificate is not used"),
        }
    }
}

impl CertificateFiles {
    fn written(&self) -> [Option<SystemTime>; 2] {
        [&self.certificate, &self.key].map(|path| std::fs::metadata(path).and_then(|m| m.modified()).ok())
    }
}

/// Accepts until the server stops.
pub(super) async fn run(listener: TcpListener, mut certificate: Option<Certificate>, shared: Shared) {
    let mut look = tokio::time::interval(RELOAD);
    loop {
        let accepted = tokio::select! {
            () = shared.stop.cancelled() => return,
            _ = look.tick() => {
                if let Some(certificate) = &mut certificate {
                    certificate.refresh();
                }
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::warn!(error = %e, "compat beacon: accept failed");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let own = shared.clone();
        let tls = certificate.as_ref().map(|c| c.acceptor.clone());
        shared.tasks.spawn(async move {
            let _ = stream.set_nodelay(true);
            serve(stream, tls, &own).await;
        });
    }
}

async fn serve(stream: TcpStream, tls: Option<TlsAcceptor>, shared: &Shared) {
    match tls {
        None => serve_http(stream, shared).await,
        Some(tls) => match timeout(TLS_TIMEOUT, tls.accept(stream)).await {
            Ok(Ok(stream)) => serve_http(stream, shared).await,
            Ok(Err(e)) => tracing::debug!(error = %e, "compat beacon: TLS handshake failed"),
            Err(_) => {}
        },
    }
}

/// Answers requests until one becomes a WebSocket or the connection ends.
async fn serve_http<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, shared: &Shared) {
    let mut buffer = Vec::new();
    loop {
        let head = tokio::select! {
            () = shared.stop.cancelled() => return,
            head = timeout(HEAD_TIMEOUT, read_head(&mut stream, &mut buffer)) => head,
        };
        let Ok(Ok(Some(head))) = head else { return };
        let place = shared.places.clone().try_acquire_owned();
        let (bytes, keep) = match answer(&head, place.is_err()) {
            Answer::Plain { bytes, keep } => (bytes, keep),
            Answer::Upgrade { key, subprotocol } => {
                let bytes = upgrade_answer(&accept_value(&key), subprotocol.as_deref());
                if send(&mut stream, &bytes).await.is_some() {
                    let ws =
                        WebSocketStream::from_partially_read(stream, buffer, Role::Server, Some(bounds()))
                            .await;
                    serve_client(ws, shared).await;
                }
                drop(place);
                return;
            }
        };
        drop(place);
        if send(&mut stream, &bytes).await.is_none() || !keep {
            let _ = timeout(FAREWELL, stream.shutdown()).await;
            return;
        }
    }
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Option<()> {
    let written = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    timeout(WRITE_TIMEOUT, written).await.ok()?.ok()
}

/// Challenge, then messages both ways until one side has enough.
async fn serve_client<S: AsyncRead + AsyncWrite + Unpin>(mut ws: WebSocketStream<S>, shared: &Shared) {
    let met = tokio::select! {
        () = shared.stop.cancelled() => {
            close(&mut ws, Close { code: 1001, reason: "server shutting down" }).await;
            return;
        }
        met = timeout(AUTH_TIMEOUT, challenge(&mut ws, &shared.desk)) => met,
    };
    let node = match met {
        Ok(Ok(node)) => node,
        Ok(Err(reason)) => {
            tracing::debug!(%reason, "compat beacon: challenge failed");
            close(&mut ws, Close::AUTH_FAILED).await;
            return;
        }
        Err(_) => {
            close(&mut ws, Close::AUTH_FAILED).await;
            return;
        }
    };
    let connection = shared.numbers.fetch_add(1, Ordering::Relaxed);
    let (queue, messages) = mpsc::channel(TO_CLIENT);
    let (waiting, replaced) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
    let client = Client { queue, waiting: waiting.clone(), replaced: replaced.clone() };
    // The beacon ends only when everything stops.
    if shared.beacon.send(FromClient::Attach { node, connection, client }).await.is_err() {
        return;
    }
    let (mut sink, mut source) = ws.split();
    let reason = tokio::select! {
        () = shared.stop.cancelled() => Close::BEACON_STOPS,
        () = replaced.cancelled() => Close::REPLACED,
        reason = read(&mut source, node, connection, &shared.beacon) => reason,
        reason = write(&mut sink, messages, &waiting) => reason,
    };
    let _ = shared.beacon.send(FromClient::Detach { node, connection }).await;
    if let Ok(mut ws) = sink.reunite(source) {
        close(&mut ws, reason).await;
    }
}

async fn close<S: AsyncRead + AsyncWrite + Unpin>(ws: &mut WebSocketStream<S>, reason: Close) {
    // The answer to our close is waited for a moment, so that the reason arrives before the connection's end does.
    let farewell = async {
        if ws.close(Some(close_frame(reason))).await.is_ok() {
            while let Some(Ok(_)) = ws.next().await {}
        }
    };
    let _ = timeout(FAREWELL, farewell).await;
}

/// Sets the challenge; gives the node that met it.
async fn challenge<S: AsyncRead + AsyncWrite + Unpin>(
    ws: &mut WebSocketStream<S>,
    desk: &Desk,
) -> Result<u32, String> {
    let mut nonce = [0_u8; 32];
    getrandom::fill(&mut nonce).map_err(|e| format!("no randomness: {e}"))?;
    let nonce = nonce.iter().map(|b| format!("{b:02x}")).collect();
    let asked = Challenge { nonce, ts: Some(unix_now()) };
    let failed = |e: Error| e.to_string();
    ws.send(Message::text(asked.encode())).await.map_err(failed)?;
    let reply = loop {
        match ws.next().await {
            Some(Ok(Message::Text(text))) => break text,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(_)) | None => return Err("no text message came".to_owned()),
            Some(Err(e)) => return Err(failed(e)),
        }
    };
    let node = judge(&asked, reply.as_bytes(), unix_now(), |node| desk.key_of(node))?;
    ws.send(Message::text(auth::OK)).await.map_err(failed)?;
    Ok(node)
}

/// The beacon's questions to a reply, in the order of wss.md section 2.
fn judge(
    asked: &Challenge,
    reply: &[u8],
    now: i64,
    key_of: impl FnOnce(u32) -> Option<[u8; 32]>,
) -> Result<u32, String> {
    let text = |e: AuthError| e.to_string();
    let (node, signature) = Reply::decode_claim(reply).map_err(text)?;
    let key = key_of(node).ok_or_else(|| format!("unknown node_id {node}"))?;
    let signature = auth::decode_signature(&signature).map_err(text)?;
    if !asked.is_fresh(now) {
        return Err(format!("node {node}: the challenge has expired"));
    }
    if !verify_signature(&key, asked.signed_bytes(node).as_bytes(), &signature) {
        return Err(format!("node {node}: the signature is not by its registered key"));
    }
    Ok(node)
}

/// Hands binary messages to the beacon. Pings are answered by the library and do not count as life; texts are reserved.
async fn read(
    source: &mut (impl Stream<Item = Result<Message, Error>> + Unpin),
    node: u32,
    connection: u64,
    beacon: &mpsc::Sender<FromClient>,
) -> Close {
    let mut deadline = Instant::now() + IDLE_LIMIT;
    loop {
        let message = tokio::select! {
            () = sleep_until(deadline) => return Close::READ_LOOP_EXIT,
            message = source.next() => message,
        };
        match message {
            Some(Ok(Message::Binary(data))) => {
                let message = FromClient::Message { node, connection, data: data.into() };
                if beacon.send(message).await.is_err() {
                    return Close::BEACON_STOPS;
                }
                deadline = Instant::now() + IDLE_LIMIT;
            }
            Some(Ok(Message::Text(_))) => deadline = Instant::now() + IDLE_LIMIT,
            Some(Ok(Message::Close(_))) | None => return Close::READ_LOOP_EXIT,
            Some(Ok(_)) => {}
            Some(Err(Error::Capacity(_))) => return Close::TOO_LARGE,
            Some(Err(_)) => return Close::READ_LOOP_EXIT,
        }
    }
}

/// Writes what the beacon queued, as many at a time as are there.
async fn write(
    sink: &mut (impl futures_util::Sink<Message, Error = Error> + Unpin),
    mut messages: mpsc::Receiver<Bytes>,
    waiting: &AtomicUsize,
) -> Close {
    while let Some(first) = messages.recv().await {
        let burst = async {
            let mut next = Some(first);
            let mut left = BURST;
            while let Some(message) = next.take() {
                waiting.fetch_sub(message.len(), Ordering::Relaxed);
                sink.feed(Message::Binary(message)).await?;
                left -= 1;
                if left > 0 {
                    next = messages.try_recv().ok();
                }
            }
            sink.flush().await
        };
        if !matches!(timeout(WRITE_TIMEOUT, burst).await, Ok(Ok(()))) {
            return Close::WRITE_ERROR;
        }
    }
    // The beacon has let go of this client.
    Close::REPLACED
}
