//! One TCP connection to a registry: strictly one request, then its answer.
//!
//! Called by the pool next door. A connection whose exchange failed, or was dropped half way, is out of step and must not
//! be used again; exchanges therefore take it by value and give it back only when they succeed.

use std::io;
use std::time::Duration;

use pilot_wire::registry::{MAX_MESSAGE_SIZE, WRITE_MESSAGE_DEADLINE, decode_message};
use serde_json::{Map, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::error::TransportError;
use crate::framed::read_body;

/// Longest one dial may take.
const DIAL_DEADLINE: Duration = Duration::from_secs(5);
/// Longest to wait for a whole answer.
const RESPONSE_DEADLINE: Duration = Duration::from_secs(30);

/// An open connection between two exchanges.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
}

impl Connection {
    pub async fn dial(addr: &str) -> io::Result<Self> {
        let stream =
            timeout(DIAL_DEADLINE, TcpStream::connect(addr)).await.unwrap_or_else(|_| Err(late("dial")))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream })
    }

    /// Whether the registry has not closed it meanwhile. Bytes that nobody asked for make it useless too.
    pub fn is_idle(&self) -> bool {
        let mut byte = [0];
        matches!(self.stream.try_read(&mut byte), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends an encoded message and reads the answer.
    pub async fn exchange(mut self, message: &[u8]) -> Result<(Self, Map<String, Value>), TransportError> {
        timeout(WRITE_MESSAGE_DEADLINE, self.stream.write_all(message))
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
        let len = self.stream.read_u32().await?;
        let size = usize::try_from(len).unwrap_or(usize::MAX);
        if size > MAX_MESSAGE_SIZE {
            return Err(invalid(format!("message too large: {len} bytes (max {MAX_MESSAGE_SIZE})")));
        }
        let body = read_body(&mut self.stream, size, |_| true).await?;
        decode_message(&body).map_err(|e| invalid(e.to_string()))
    }
}

fn late(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("{what} deadline exceeded"))
}
