//! One TCP connection to a registry: strictly one request, then its answer.
//!
//! Called by the pool next door. A connection whose exchange failed, or was dropped half way, is out of step and must not
//! be used again; exchanges therefore take it by value and give it back only when they succeed.

use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;

use pilot_wire::registry::{MAX_MESSAGE_SIZE, WRITE_MESSAGE_DEADLINE, decode_message};
use rustls::pki_types::ServerName;
use serde_json::{Map, Value};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::error::TransportError;
use crate::framed::read_body;
use crate::tls::ClientTls;

/// Longest one dial may take.
const DIAL_DEADLINE: Duration = Duration::from_secs(5);
/// Longest to wait for a whole answer.
const RESPONSE_DEADLINE: Duration = Duration::from_secs(30);

/// An open connection between two exchanges.
#[derive(Debug)]
pub(super) struct Connection {
    stream: Stream,
}

/// The bytes' way, in the clear or not.
#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// What both ways can do.
trait Bytes: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Bytes for T {}

impl Stream {
    fn bytes(&mut self) -> &mut dyn Bytes {
        match self {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => stream.as_mut(),
        }
    }

    fn tcp(&self) -> &TcpStream {
        match self {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl Connection {
    pub async fn dial(addr: &str, tls: Option<&ClientTls>) -> io::Result<Self> {
        let dialled = async {
            let stream = TcpStream::connect(addr).await?;
            stream.set_nodelay(true)?;
            let Some(tls) = tls else { return Ok(Stream::Plain(stream)) };
            let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host).trim_matches(['[', ']']);
            let name = ServerName::try_from(host.to_owned()).map_err(|_| {
                io::Error::new(io::ErrorKind::InvalidInput, format!("{host:?} is no server name"))
            })?;
            Ok(Stream::Tls(Box::new(tls.connector().connect(name, stream).await?)))
        };
        let stream = timeout(DIAL_DEADLINE, dialled).await.unwrap_or_else(|_| Err(late("dial")))?;
        Ok(Self { stream })
    }

    /// Whether the registry has not closed it meanwhile. Bytes that nobody asked for make it useless too.
    pub fn is_idle(&self) -> bool {
        // A look, not a read: the bytes would be missing from a TLS record.
        let socket = SockRef::from(self.stream.tcp());
        matches!(socket.peek(&mut [MaybeUninit::uninit()]), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
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

fn late(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("{what} deadline exceeded"))
}
