//! Dialling a registry, in the clear or over TLS, through a proxy or not. Called by the registry client and by a rendezvous that follows another.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::compat::Proxy;
use crate::tls::ClientTls;

/// Longest one dial may take, handshake included.
const DIAL_DEADLINE: Duration = Duration::from_secs(5);

/// The bytes' way, in the clear or not.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// With a second descriptor of the connection to the proxy.
    Proxied {
        bytes: Box<dyn Bytes>,
        socket: OwnedFd,
    },
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stream::Plain(_) => "Plain",
            Stream::Tls(_) => "Tls",
            Stream::Proxied { .. } => "Proxied",
        })
    }
}

/// What both ways can do.
pub(crate) trait Bytes: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Bytes for T {}

impl Stream {
    pub fn bytes(&mut self) -> &mut dyn Bytes {
        match self {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => stream.as_mut(),
            Stream::Proxied { bytes, .. } => bytes.as_mut(),
        }
    }

    /// The connection below everything else.
    pub fn socket(&self) -> SockRef<'_> {
        match self {
            Stream::Plain(stream) => SockRef::from(stream),
            Stream::Tls(stream) => SockRef::from(stream.get_ref().0),
            Stream::Proxied { socket, .. } => SockRef::from(socket),
        }
    }
}

/// Opens a stream to `addr` (`host:port`).
///
/// # Errors
/// The system's, the handshake's (`InvalidData`: the certificate is not to be believed), or `TimedOut`.
pub(crate) async fn dial(addr: &str, tls: Option<&ClientTls>) -> io::Result<Stream> {
    dial_through(addr, tls, None).await
}

/// As [`dial`], through a proxy if there is one, which then looks the name up.
///
/// # Errors
/// As [`dial`], and the proxy's.
pub(crate) async fn dial_through(
    addr: &str,
    tls: Option<&ClientTls>,
    proxy: Option<&Proxy>,
) -> io::Result<Stream> {
    let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host).trim_matches(['[', ']']);
    let name = || {
        ServerName::try_from(host.to_owned())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("{host:?} is no server name")))
    };
    let dialled = async {
        if let Some(proxy) = proxy {
            let port = addr.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
            let port = port.ok_or(io::ErrorKind::InvalidInput)?;
            let (mut bytes, socket) = proxy.connect(host, port).await?;
            if let Some(tls) = tls {
                bytes = Box::new(tls.connector().connect(name()?, bytes).await?);
            }
            return Ok(Stream::Proxied { bytes, socket });
        }
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = tls else { return Ok(Stream::Plain(stream)) };
        Ok(Stream::Tls(Box::new(tls.connector().connect(name()?, stream).await?)))
    };
    timeout(DIAL_DEADLINE, dialled).await.unwrap_or_else(|_| Err(late("dial")))
}

/// What a missed deadline is called.
pub(crate) fn late(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("{what} deadline exceeded"))
}
