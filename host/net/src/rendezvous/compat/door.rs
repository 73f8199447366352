//! A new connection: HTTP until a request becomes a WebSocket, then the challenge against the registry's keys (wss.md
//! sections 1 and 2). Who meets it goes on in `client`.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use pilot_rendezvous::verify_signature;
use pilot_wire::compat::auth::{self, AuthError, Challenge, Reply};
use pilot_wire::compat::http::{Answer, Head, answer, malformed_answer, upgrade_answer};
use pilot_wire::compat::{AUTH_TIMEOUT, Close, HEAD_TIMEOUT};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::client::{self, Client};
use super::{FromClient, KeyOf, Senses, Shared};
use crate::websocket::{accept_value, bounds, close_frame, read_head};

/// Longest an HTTP answer may take to be taken.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection that we end may take to say so, and the other side to end it too.
const FAREWELL: Duration = Duration::from_secs(1);
/// Why a server that stops while a client comes in closes (wss.md section 5).
const SERVER_STOPS: Close = Close { code: 1001, reason: "server shutting down" };

/// Answers requests until one becomes a WebSocket or the connection ends.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    stranger: OwnedSemaphorePermit,
    shared: &Shared,
) {
    let mut buffer = Vec::new();
    loop {
        let head = tokio::select! {
            () = shared.stop.cancelled() => return,
            head = timeout(HEAD_TIMEOUT, read_head(&mut stream, &mut buffer)) => head,
        };
        let head = match head {
            Ok(Ok(Some(head))) => head,
            Ok(Err(e)) if e.kind() == io::ErrorKind::InvalidData => {
                send(&mut stream, &malformed_answer()).await;
                return end(&mut stream).await;
            }
            // Gone, or too slow.
            Ok(Ok(None) | Err(_)) | Err(_) => return,
        };
        let (answer, place) = decide(&head, shared);
        match answer {
            Answer::Plain { bytes, keep } => {
                if !send(&mut stream, &bytes).await || !keep {
                    return end(&mut stream).await;
                }
            }
            Answer::Upgrade { key, subprotocol } => {
                let bytes = upgrade_answer(&accept_value(&key), subprotocol.as_deref());
                if send(&mut stream, &bytes).await {
                    let ws =
                        WebSocketStream::from_partially_read(stream, buffer, Role::Server, Some(bounds()))
                            .await;
                    enter(ws, stranger, shared).await;
                }
                drop(place);
                return;
            }
        }
    }
}

/// The answer to a request; with a sound upgrade comes the place it takes.
fn decide(head: &Head, shared: &Shared) -> (Answer, Option<OwnedSemaphorePermit>) {
    match answer(head, shared.places.available_permits() == 0) {
        Answer::Upgrade { key, subprotocol } => match shared.places.clone().try_acquire_owned() {
            Ok(place) => (Answer::Upgrade { key, subprotocol }, Some(place)),
            // Another one was quicker.
            Err(_) => (answer(head, true), None),
        },
        plain => (plain, None),
    }
}

/// Whether everything was sent.
async fn send(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> bool {
    let written = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    matches!(timeout(ANSWER_TIMEOUT, written).await, Ok(Ok(())))
}

/// Ends a connection so that what was said last arrives: a socket that is closed while bytes wait in it resets the
/// connection, and the other side may lose what it has not read.
async fn end(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let farewell = async {
        if stream.shutdown().await.is_ok() {
            let mut waste = [0; 1024];
            while matches!(stream.read(&mut waste).await, Ok(1..)) {}
        }
    };
    let _ = timeout(FAREWELL, farewell).await;
}

/// Challenge, then messages both ways until one side has enough.
async fn enter<S: AsyncRead + AsyncWrite + Unpin>(
    mut ws: WebSocketStream<S>,
    stranger: OwnedSemaphorePermit,
    shared: &Shared,
) {
    let deadline = Instant::now() + AUTH_TIMEOUT;
    let met = tokio::select! {
        () = shared.stop.cancelled() => return close(&mut ws, SERVER_STOPS).await,
        met = timeout_at(deadline, challenge(&mut ws, &shared.key_of, &shared.senses)) => met,
    };
    let node = match met {
        Ok(Ok(node)) => node,
        Ok(Err(Refusal { why, close: reason })) => {
            tracing::debug!(why, "compat beacon: challenge failed");
            return close(&mut ws, reason).await;
        }
        Err(_) => {
            tracing::debug!("compat beacon: challenge not met in {AUTH_TIMEOUT:?}");
            return close(&mut ws, Close::AUTH_FAILED).await;
        }
    };
    drop(stranger);
    let connection = shared.numbers.fetch_add(1, Ordering::Relaxed);
    let (client, outgoing) = Client::new(shared.counts.clone());
    let replaced = outgoing.replaced();
    let (done, attached) = oneshot::channel();
    let attach = FromClient::Attach { node, connection, client, done };
    // Before `auth_ok`, so that whoever has read it is reachable. The beacon's task ends only when everything stops.
    if shared.beacon.send(attach).await.is_err() || attached.await.is_err() {
        return close(&mut ws, SERVER_STOPS).await;
    }
    let greeted = timeout_at(deadline, ws.send(Message::text(auth::OK))).await;
    let reason = if matches!(greeted, Ok(Ok(()))) {
        let (mut sink, mut source) = (&mut ws).split();
        tokio::select! {
            () = shared.stop.cancelled() => Close::BEACON_STOPS,
            () = replaced.cancelled() => Close::REPLACED,
            reason = client::read(&mut source, node, connection, shared) => reason,
            reason = client::write(&mut sink, outgoing) => reason,
        }
    } else {
        Close::AUTH_FAILED
    };
    let _ = shared.beacon.send(FromClient::Detach { node, connection }).await;
    close(&mut ws, reason).await;
}

/// Says why and ends the connection. When the other side closed first, this sends the answer to that.
async fn close<S: AsyncRead + AsyncWrite + Unpin>(ws: &mut WebSocketStream<S>, reason: Close) {
    let farewell = async {
        // After a close of the other side the second call has nothing to do and says so.
        let _ = ws.flush().await;
        let _ = ws.send(Message::Close(Some(close_frame(reason)))).await;
    };
    if timeout(FAREWELL, farewell).await.is_ok() {
        end(ws.get_mut()).await;
    }
}

/// Why a challenge was not met: for the log, and for the client.
struct Refusal {
    why: String,
    close: Close,
}

impl Refusal {
    fn new(why: impl ToString) -> Self {
        Self { why: why.to_string(), close: Close::AUTH_FAILED }
    }
}

/// Sets the challenge; gives the node that met it.
async fn challenge<S: AsyncRead + AsyncWrite + Unpin>(
    ws: &mut WebSocketStream<S>,
    key_of: &KeyOf,
    senses: &Senses,
) -> Result<u32, Refusal> {
    let nonce = (senses.nonce)().map_err(Refusal::new)?;
    let asked = Challenge { nonce: hex::encode(nonce), ts: Some((senses.now)()) };
    ws.send(Message::text(asked.encode())).await.map_err(Refusal::new)?;
    let reply = loop {
        match ws.next().await {
            Some(Ok(Message::Text(text))) => break text,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(_)) | None => return Err(Refusal::new("no text message came")),
            Some(Err(e @ Error::Capacity(_))) => {
                return Err(Refusal { why: e.to_string(), close: Close::TOO_LARGE });
            }
            Some(Err(e)) => return Err(Refusal::new(e)),
        }
    };
    let fresh = asked.is_fresh_within((senses.now)(), senses.max_age);
    judge(&asked, reply.as_bytes(), fresh, |node| key_of(node)).map_err(Refusal::new)
}

/// The beacon's questions to a reply, in the order of wss.md section 2.
fn judge(
    asked: &Challenge,
    reply: &[u8],
    fresh: bool,
    key_of: impl FnOnce(u32) -> Option<[u8; 32]>,
) -> Result<u32, String> {
    let text = |e: AuthError| e.to_string();
    let (node, signature) = Reply::decode_claim(reply).map_err(text)?;
    let key = key_of(node).ok_or_else(|| format!("unknown node_id {node}"))?;
    let signature = auth::decode_signature(&signature).map_err(text)?;
    if !fresh {
        return Err(format!("node {node}: the challenge has expired"));
    }
    if !verify_signature(&key, asked.signed_bytes(node).as_bytes(), &signature) {
        return Err(format!("node {node}: the signature is not by its registered key"));
    }
    Ok(node)
}
