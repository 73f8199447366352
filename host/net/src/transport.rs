//! Dialling a registry, in the clear or over TLS. Called by the registry client and by a rendezvous that follows another.

use std::io;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::tls::ClientTls;

/// Longest one dial may take, handshake included.
const DIAL_DEADLINE: Duration = Duration::from_secs(5);

/// The bytes' way, in the clear or not.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// What both ways can do.
pub(crate) trait Bytes: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Bytes for T {}

impl Stream {
    pub fn bytes(&mut self) -> &mut dyn Bytes {
        match self {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => stream.as_mut(),
        }
    }

    pub fn tcp(&self) -> &TcpStream {
        match self {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => stream.get_ref().0,
        }
    }
}

/// Opens a stream to `addr` (`host:port`).
///
/// # Errors
/// The system's, the handshake's (`InvalidData`: the certificate is not to be believed), or `TimedOut`.
pub(crate) async fn dial(addr: &str, tls: Option<&ClientTls>) -> io::Result<Stream> {
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
    timeout(DIAL_DEADLINE, dialled).await.unwrap_or_else(|_| Err(late("dial")))
}

/// What a missed deadline is called.
pub(crate) fn late(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("{what} deadline exceeded"))
}
