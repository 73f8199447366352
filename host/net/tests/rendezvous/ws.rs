//! A node behind a WebSocket as tests need it: HTTP by hand, frames by the library, the challenge with a key. Shared by the
//! tests of the rendezvous and its load tests, which use a part of it.
#![allow(dead_code)] // two programs, each with its part

use std::net::SocketAddr;

use bytes::Bytes;
use ed25519_dalek::{Signer, SigningKey};
use futures_util::{SinkExt as _, StreamExt as _};
use pilot_wire::beacon::relay_header;
use pilot_wire::compat::PATH;
use pilot_wire::compat::auth::{Challenge, Reply, is_ok};
use pilot_wire::compat::http::{head_end, upgrade_request};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

/// What comes from a beacon.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    Text(String),
    Binary(Bytes),
    /// A close frame: code and reason.
    Closed(u16, String),
    /// The connection ended, however.
    Gone,
}

pub struct Ws<S = TcpStream>(pub WebSocketStream<S>);

impl Ws {
    /// A WebSocket in front of its challenge, or the head of the answer that refused it.
    pub async fn connect(addr: SocketAddr) -> Result<Ws, String> {
        let stream = TcpStream::connect(addr).await.map_err(|e| e.to_string())?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        Ws::over(stream).await
    }

    /// A connected node.
    pub async fn enter(addr: SocketAddr, node: u32, key: &SigningKey) -> Ws {
        let mut ws = Ws::connect(addr).await.unwrap();
        ws.prove(node, key).await;
        ws
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Ws<S> {
    /// As [`Ws::connect`], over a connection that is there.
    pub async fn over(mut stream: S) -> Result<Ws<S>, String> {
        let request = upgrade_request("beacon.test", PATH, "dGhlIHNhbXBsZSBub25jZQ==");
        stream.write_all(&request).await.map_err(|e| e.to_string())?;
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(end) = head_end(&bytes) {
                break end;
            }
            if stream.read_buf(&mut bytes).await.map_err(|e| e.to_string())? == 0 {
                return Err(String::from_utf8_lossy(&bytes).into_owned());
            }
        };
        let rest = bytes.split_off(end);
        let head = String::from_utf8(bytes).unwrap();
        if !head.starts_with("HTTP/1.1 101 ") {
            return Err(head);
        }
        let config = WebSocketConfig::default().read_buffer_size(4 << 10).write_buffer_size(4 << 10);
        Ok(Ws(WebSocketStream::from_partially_read(stream, rest, Role::Client, Some(config)).await))
    }

    /// What the beacon asks.
    pub async fn challenge(&mut self) -> Challenge {
        let Event::Text(text) = self.next().await else { panic!("no challenge") };
        Challenge::decode(text.as_bytes()).unwrap()
    }

    /// Answers the challenge; gives what the beacon says to that.
    pub async fn answer(&mut self, node: u32, key: &SigningKey) -> Event {
        let asked = self.challenge().await;
        self.reply(&asked, node, key).await
    }

    /// Answers that challenge; gives what the beacon says to that.
    pub async fn reply(&mut self, asked: &Challenge, node: u32, key: &SigningKey) -> Event {
        let signature = key.sign(asked.signed_bytes(node).as_bytes()).to_bytes();
        let reply = Reply::encode(node, key.verifying_key().as_bytes(), &signature);
        self.0.send(Message::text(reply)).await.unwrap();
        self.next().await
    }

    /// Meets the challenge.
    pub async fn prove(&mut self, node: u32, key: &SigningKey) {
        match self.answer(node, key).await {
            Event::Text(text) if is_ok(text.as_bytes()) => {}
            other => panic!("node {node}: {other:?}"),
        }
    }

    pub async fn next(&mut self) -> Event {
        loop {
            return match self.0.next().await {
                Some(Ok(Message::Text(text))) => Event::Text(text.to_string()),
                Some(Ok(Message::Binary(data))) => Event::Binary(data),
                Some(Ok(Message::Close(Some(frame)))) => {
                    Event::Closed(frame.code.into(), frame.reason.to_string())
                }
                Some(Ok(Message::Close(None))) => Event::Closed(1005, String::new()),
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => Event::Gone,
            };
        }
    }

    /// Sends one binary message.
    pub async fn send(&mut self, message: Vec<u8>) {
        self.0.send(Message::binary(message)).await.unwrap();
    }

    pub async fn relay(&mut self, sender: u32, dest: u32, frame: &[u8]) {
        self.send([&relay_header(sender, dest)[..], frame].concat()).await;
    }
}
