//! One dial: names, TCP, proxy, TLS, HTTP upgrade and the Ed25519 challenge, all within one limit (wss.md sections 1, 2
//! and 6). Called by [`Client`](super::Client) for the first connection and by its supervisor for all others.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt as _, StreamExt as _};
use pilot_wire::compat::auth::{self, Challenge, Reply};
use pilot_wire::compat::http::{check_upgrade, upgrade_request};
use pilot_wire::compat::{Close, MAX_MESSAGE, Url};
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::config::{CompatConfig, Credentials};
use super::proxy::Proxy;
use super::session::FAREWELL;
use crate::transport::Bytes;
use crate::websocket::{accept_value, close_frame, read_head};

/// Largest message taken from a beacon, bytes: [`MAX_MESSAGE`] and room for its header, whatever a beacon counts.
const LARGEST: usize = MAX_MESSAGE + 64;

/// A WebSocket over whatever leads to the beacon.
pub(super) type Socket = WebSocketStream<Box<dyn Bytes>>;

/// Why there is no connection. The texts begin as the Go peer's do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// Names, TCP, proxy, TLS or the upgrade.
    #[error("wss dial: {0}")]
    Dial(String),
    /// The beacon does not believe us, or does not ask as it should.
    #[error("wss auth: {0}")]
    Auth(String),
    /// The transport was closed meanwhile.
    #[error("wss dial: the transport is closed")]
    Closed,
}

/// Opens a WebSocket and meets the challenge.
pub(super) async fn dial(config: &CompatConfig, who: &Credentials) -> Result<Socket, DialError> {
    let limit = config.timing.dial_timeout;
    let deadline = Instant::now() + limit;
    let late = |what: &str| format!("{what} took longer than {limit:?}");
    let mut socket = match timeout_at(deadline, upgrade(config)).await {
        Ok(opened) => opened.map_err(DialError::Dial)?,
        Err(_) => return Err(DialError::Dial(late("the dial"))),
    };
    match timeout_at(deadline, authenticate(&mut socket, who)).await {
        Ok(Ok(())) => Ok(socket),
        Ok(Err(why)) => {
            let _ = timeout(FAREWELL, socket.close(Some(close_frame(Close::AUTH_FAILED)))).await;
            Err(DialError::Auth(why))
        }
        Err(_) => Err(DialError::Auth(late("the challenge"))),
    }
}

/// A byte stream to the host of `url`, through the proxy if there is one. TLS is not begun.
pub(super) async fn reach(url: &Url, proxy: Option<&Proxy>) -> io::Result<Box<dyn Bytes>> {
    match proxy {
        Some(proxy) => Ok(proxy.connect(&url.host, url.port).await?.0),
        None => {
            let stream = TcpStream::connect((url.host.as_str(), url.port)).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream))
        }
    }
}

/// TLS to the host of `url`.
pub(super) async fn secure(
    url: &Url,
    stream: Box<dyn Bytes>,
    tls: TlsConnector,
) -> io::Result<Box<dyn Bytes>> {
    let name = ServerName::try_from(url.host.clone()).map_err(|_| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("{:?} is no server name", url.host))
    })?;
    Ok(Box::new(tls.connect(name, stream).await?))
}

async fn upgrade(config: &CompatConfig) -> Result<Socket, String> {
    let url = &config.url;
    let via = config.proxy.as_ref();
    let mut stream = reach(url, via).await.map_err(|e| format!("connect to {}: {e}", url.authority))?;
    if url.tls {
        stream = secure(url, stream, config.tls.connector()).await.map_err(|e| {
            // A certificate that is not believed arrives as invalid data; nothing else does.
            let hint = match e.kind() {
                io::ErrorKind::InvalidData if !config.trust_hint.is_empty() => {
                    format!("; {}", config.trust_hint)
                }
                _ => String::new(),
            };
            format!("TLS with {}: {e}{hint}", url.authority)
        })?;
    }
    let mut key = [0; 16];
    getrandom::fill(&mut key).map_err(|e| format!("no randomness: {e}"))?;
    let key = STANDARD.encode(key);
    let failed = |e: io::Error| format!("upgrade at {url}: {e}");
    stream.write_all(&upgrade_request(&url.authority, &url.path, &key)).await.map_err(failed)?;
    stream.flush().await.map_err(failed)?;
    let mut rest = Vec::new();
    let head = read_head(&mut stream, &mut rest).await.map_err(failed)?;
    let head = head.ok_or_else(|| failed(io::ErrorKind::UnexpectedEof.into()))?;
    check_upgrade(&head, &accept_value(&key)).map_err(|e| format!("upgrade at {url}: {e}"))?;
    let bounds = WebSocketConfig::default().max_message_size(Some(LARGEST)).max_frame_size(Some(LARGEST));
    Ok(WebSocketStream::from_partially_read(stream, rest, Role::Client, Some(bounds)).await)
}

/// The client's half of the challenge.
async fn authenticate(socket: &mut Socket, who: &Credentials) -> Result<(), String> {
    let question = text(socket, "the challenge").await?;
    let challenge = Challenge::decode(question.as_bytes()).map_err(|e| format!("challenge: {e}"))?;
    let signature = who.identity.sign(challenge.signed_bytes(who.node).as_bytes());
    let reply = Reply::encode(who.node, &who.identity.public_key(), &signature);
    socket.send(Message::text(reply)).await.map_err(|e| e.to_string())?;
    match auth::is_ok(text(socket, "auth_ok").await?.as_bytes()) {
        true => Ok(()),
        false => Err("the beacon's last word is not auth_ok".to_owned()),
    }
}

/// The next message, which must be text.
async fn text(socket: &mut Socket, wanted: &str) -> Result<String, String> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => return Ok(text.as_str().to_owned()),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Close(frame))) => return Err(closed_by_beacon(frame.as_ref())),
            Some(Ok(_)) => return Err(format!("expected {wanted} as text, got something else")),
            Some(Err(Error::ConnectionClosed)) | None => {
                return Err(format!("the connection ended before {wanted}"));
            }
            Some(Err(e)) => return Err(format!("waiting for {wanted}: {e}")),
        }
    }
}

/// The beacon's close in words.
pub(super) fn closed_by_beacon(
    frame: Option<&tokio_tungstenite::tungstenite::protocol::CloseFrame>,
) -> String {
    match frame {
        Some(frame) => format!("the beacon closed with {} {}", u16::from(frame.code), frame.reason),
        None => "the beacon closed without a reason".to_owned(),
    }
}
