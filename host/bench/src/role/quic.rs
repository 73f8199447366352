//! The baseline of the stream metrics: quinn over loopback, AES-256-GCM, tuned so that it is not held back by settings
//! meant for the internet: large windows and socket buffers, many streams allowed, segmentation offload on (its default).
//! Everything else is quinn's default.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Connection, Endpoint, EndpointConfig, MtuDiscoveryConfig, TransportConfig, VarInt};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{self, cipher_suite};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::load::{self, Pipe, Way};
use super::{Parent, not_mine};
use crate::protocol::{Reply, Request, Target};

/// Flow control windows, bytes: as large as Pilot's own. Larger ones only cost cache: 8 and 16 MiB measured slower.
const WINDOW: u32 = 4 << 20;
/// Streams that may be open at once.
const STREAMS: u32 = 65_536;
/// Kernel buffer asked for in each direction, bytes: as Pilot's tunnel socket asks.
const SOCKET_BUFFER: usize = 4 << 20;
/// The name in the certificate.
const NAME: &str = "localhost";

/// Runs until the parent closes the input. `mtu`: largest UDP payload that MTU discovery may find; quinn's default if none.
///
/// # Errors
/// When the endpoint cannot be had or the parent is gone.
pub async fn run(mtu: Option<u16>) -> Result<()> {
    let transport = Arc::new(transport(mtu));
    let (server, certificate) = server_config(transport.clone())?;
    let endpoint = endpoint(mtu, server)?;
    let addr = endpoint.local_addr()?;
    tokio::spawn(accept(endpoint.clone()));

    let mut parent = Parent::new();
    parent.ready(Target::Quic { addr, certificate: STANDARD.encode(&certificate) })?;
    let mut way = None;
    let mut held = Vec::new();
    while let Some(request) = parent.next().await? {
        let reply = match (&request, &way) {
            (Request::Target(Target::Quic { addr, certificate }), _) => {
                match connect(&endpoint, transport.clone(), *addr, certificate).await {
                    Ok(connection) => {
                        way = Some(Quic(connection));
                        Ok(Reply::Done)
                    }
                    Err(e) => Err(e),
                }
            }
            (load, Some(way)) => match load::run(way, &mut held, load).await {
                Some(reply) => reply,
                None => not_mine(load),
            },
            (other, None) => not_mine(other),
        };
        parent.answer(reply)?;
    }
    drop(held);
    endpoint.close(VarInt::from_u32(0), b"done");
    let _ = tokio::time::timeout(Duration::from_secs(1), endpoint.wait_idle()).await;
    Ok(())
}

fn transport(mtu: Option<u16>) -> TransportConfig {
    let mut config = TransportConfig::default();
    config.stream_receive_window(VarInt::from_u32(WINDOW));
    config.receive_window(VarInt::from_u32(WINDOW));
    config.send_window(u64::from(WINDOW));
    config.max_concurrent_bidi_streams(VarInt::from_u32(STREAMS));
    // A child may wait long between its rounds.
    config.max_idle_timeout(None);
    if let Some(mtu) = mtu {
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(mtu);
        config.mtu_discovery_config(Some(discovery));
    }
    config
}

/// AES-256-GCM with SHA-384 and nothing else, as Pilot's tunnels use AES-256-GCM.
fn provider() -> Arc<CryptoProvider> {
    let suites = vec![cipher_suite::TLS13_AES_256_GCM_SHA384];
    Arc::new(CryptoProvider { cipher_suites: suites, ..ring::default_provider() })
}

/// Initial packets are always AES-128-GCM (RFC 9001, section 5.2), whatever is negotiated later.
fn initial_suite() -> Result<rustls::quic::Suite> {
    let suite = cipher_suite::TLS13_AES_128_GCM_SHA256.tls13().context("a TLS 1.3 suite")?;
    suite.quic_suite().context("a suite that knows QUIC")
}

fn server_config(transport: Arc<TransportConfig>) -> Result<(quinn::ServerConfig, CertificateDer<'static>)> {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)?;
    let crypto = QuicServerConfig::with_initial(Arc::new(tls), initial_suite()?)?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(transport);
    Ok((config, certificate))
}

fn client_config(transport: Arc<TransportConfig>, certificate: &str) -> Result<quinn::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(STANDARD.decode(certificate)?))?;
    let tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let crypto = QuicClientConfig::with_initial(Arc::new(tls), initial_suite()?)?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(transport);
    Ok(config)
}

fn endpoint(mtu: Option<u16>, server: quinn::ServerConfig) -> Result<Endpoint> {
    let mut config = EndpointConfig::default();
    if let Some(mtu) = mtu {
        config.max_udp_payload_size(mtu)?;
    }
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    grow_buffers(&socket);
    let runtime = quinn::default_runtime().context("no async runtime")?;
    Ok(Endpoint::new(config, Some(server), socket, runtime)?)
}

/// As Pilot's tunnel socket does: past the system's limit where we may, else up to it.
fn grow_buffers(socket: &UdpSocket) {
    use rustix::net::sockopt;
    if sockopt::set_socket_recv_buffer_size_force(socket, SOCKET_BUFFER).is_err() {
        let _ = socket2::SockRef::from(socket).set_recv_buffer_size(SOCKET_BUFFER);
    }
    if sockopt::set_socket_send_buffer_size_force(socket, SOCKET_BUFFER).is_err() {
        let _ = socket2::SockRef::from(socket).set_send_buffer_size(SOCKET_BUFFER);
    }
}

async fn accept(endpoint: Endpoint) {
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async move {
            let connection = match incoming.await {
                Ok(connection) => connection,
                Err(e) => return eprintln!("quic: a connection failed: {e}"),
            };
            while let Ok((send, receive)) = connection.accept_bi().await {
                tokio::spawn(async move {
                    if let Err(e) = load::serve(Streams { send, receive }).await {
                        eprintln!("quic: a stream failed: {e:#}");
                    }
                });
            }
        });
    }
}

async fn connect(
    endpoint: &Endpoint,
    transport: Arc<TransportConfig>,
    addr: SocketAddr,
    certificate: &str,
) -> Result<Connection> {
    let config = client_config(transport, certificate)?;
    Ok(endpoint.connect_with(config, addr, NAME)?.await?)
}

#[derive(Clone)]
struct Quic(Connection);

impl Way for Quic {
    type Pipe = Streams;

    async fn open(&self) -> Result<Streams> {
        let (send, receive) = self.0.open_bi().await?;
        Ok(Streams { send, receive })
    }
}

struct Streams {
    send: quinn::SendStream,
    receive: quinn::RecvStream,
}

impl Pipe for Streams {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        Ok(self.send.write_chunk(data).await?)
    }

    async fn read(&mut self) -> Result<Option<Bytes>> {
        Ok(self.receive.read_chunk(usize::MAX, true).await?.map(|chunk| chunk.bytes))
    }

    fn finish(&mut self) {
        // Refused only when finished or stopped before.
        let _ = self.send.finish();
    }
}
