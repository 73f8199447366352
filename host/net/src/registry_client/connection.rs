//! One connection to a registry: strictly one request, then its answer.
//!
//! Called by the pool next door. A connection whose exchange failed, or was dropped half way, is out of step and must not
//! be used again; exchanges therefore take it by value and give it back only when they succeed.

use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;

use pilot_wire::registry::{MAX_MESSAGE_SIZE, WRITE_MESSAGE_DEADLINE, decode_message};
use serde_json::{Map, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::error::TransportError;
use crate::compat::Proxy;
use crate::framed::read_body;
use crate::tls::ClientTls;
use crate::transport::{self, Stream, late};

/// Longest to wait for a whole answer.
const RESPONSE_DEADLINE: Duration = Duration::from_secs(30);

/// An open connection between two exchanges.
pub(super) struct Connection {
    stream: Stream,
}

impl Connection {
    pub async fn dial(addr: &str, tls: Option<&ClientTls>, proxy: Option<&Proxy>) -> io::Result<Self> {
        Ok(Self { stream: transport::dial_through(addr, tls, proxy).await? })
    }

    /// Whether the registry has not closed it meanwhile. Bytes that nobody asked for make it useless too.
    pub fn is_idle(&self) -> bool {
        // A look, not a read: the bytes would be missing from a TLS record.
        matches!(self.stream.socket().peek(&mut [MaybeUninit::uninit()]), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends an encoded message and reads the answer.
    pub async fn exchange(mut self, message: &[u8]) -> Result<(Self, Map<String, Value>), TransportError> {
        let stream = self.stream.bytes();
        let written = async {
            stream.write_all(message).await?;
            stream.flush().await
        };
        timeout(WRITE_MESSAGE_DEADLINE, written)
            .await
            .unwrap_or_else(|_| Err(late("write")))
            .map_err(TransportError::Send)?;
        let answer = timeout(RESPONSE_DEADLINE, self.read_answer())
            .await
            .unwrap_or_else(|_| Err(late("response")))
            .map_err(TransportError::Recv)?;
        Ok((self, answer))
    }

    async fn read_answer(&mut self) -> io::Result<Map<String, Value>> {
        let invalid = |e: String| io::Error::new(io::ErrorKind::InvalidData, e);
        let mut stream = self.stream.bytes();
        let len = stream.read_u32().await?;
        let size = usize::try_from(len).unwrap_or(usize::MAX);
        if size > MAX_MESSAGE_SIZE {
            return Err(invalid(format!("message too large: {len} bytes (max {MAX_MESSAGE_SIZE})")));
        }
        let body = read_body(&mut stream, size, |_| true).await?;
        decode_message(&body).map_err(|e| invalid(e.to_string()))
    }
}
