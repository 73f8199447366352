//! The baseline of the suite `wss`: a bare TLS 1.3 connection over loopback, AES-256-GCM as in Pilot's tunnels, one for
//! each stream. What it carries is encrypted once and passes nobody on its way.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{self, cipher_suite};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::load::{self, Pipe, Way};
use super::{Parent, not_mine};
use crate::protocol::{Reply, Request, Target};

/// Most bytes one read takes.
const READ: usize = 64 << 10;
/// The name in the certificate.
const NAME: &str = "localhost";

/// Runs until the parent closes the input.
///
/// # Errors
/// When the socket or certificate cannot be had or the parent is gone.
pub async fn run() -> Result<()> {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    tokio::spawn(accept(listener, TlsAcceptor::from(Arc::new(config))));
    let mut parent = Parent::new();
    parent.ready(Target::Tls { addr, certificate: STANDARD.encode(&certificate) })?;
    let mut way = None;
    let mut held = Vec::new();
    while let Some(request) = parent.next().await? {
        let reply = match (&request, &way) {
            (Request::Target(Target::Tls { addr, certificate }), _) => {
                connector(certificate).map(|connector| {
                    way = Some(Tls { addr: *addr, connector });
                    Reply::Done
                })
            }
            (load, Some(way)) => match load::run(way, &mut held, load).await {
                Some(reply) => reply,
                None => not_mine(load),
            },
            (other, None) => not_mine(other),
        };
        parent.answer(reply)?;
    }
    Ok(())
}

/// AES-256-GCM and nothing else.
fn provider() -> Arc<CryptoProvider> {
    let suites = vec![cipher_suite::TLS13_AES_256_GCM_SHA384];
    Arc::new(CryptoProvider { cipher_suites: suites, ..ring::default_provider() })
}

fn connector(certificate: &str) -> Result<TlsConnector> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(STANDARD.decode(certificate)?))?;
    let config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor) {
    while let Ok((stream, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let served = async {
                stream.set_nodelay(true)?;
                load::serve(Halves::new(acceptor.accept(stream).await?)).await
            };
            if let Err(e) = served.await {
                eprintln!("tls: a stream failed: {e:#}");
            }
        });
    }
}

#[derive(Clone)]
struct Tls {
    addr: SocketAddr,
    connector: TlsConnector,
}

impl Way for Tls {
    type Pipe = Halves<tokio_rustls::client::TlsStream<TcpStream>>;

    async fn open(&self) -> Result<Self::Pipe> {
        let stream = TcpStream::connect(self.addr).await?;
        stream.set_nodelay(true)?;
        Ok(Halves::new(self.connector.connect(NAME.try_into()?, stream).await?))
    }
}

struct Halves<S> {
    read: ReadHalf<S>,
    /// Taken when the sending side ends.
    write: Option<WriteHalf<S>>,
}

impl<S: AsyncRead + AsyncWrite> Halves<S> {
    fn new(stream: S) -> Self {
        let (read, write) = tokio::io::split(stream);
        Halves { read, write: Some(write) }
    }
}

impl<S: AsyncRead + AsyncWrite + Send + 'static> Pipe for Halves<S> {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        let write = self.write.as_mut().context("closed")?;
        write.write_all(&data).await?;
        // What is left in the TLS buffers would otherwise wait for the next write.
        Ok(write.flush().await?)
    }

    async fn read(&mut self) -> Result<Option<Bytes>> {
        let mut buf = BytesMut::with_capacity(READ);
        let n = self.read.read_buf(&mut buf).await?;
        Ok((n > 0).then(|| buf.freeze()))
    }

    fn finish(&mut self) {
        if let Some(mut write) = self.write.take() {
            // The other side learns of the end; whether it still listens does not matter.
            tokio::spawn(async move { write.shutdown().await });
        }
    }
}
