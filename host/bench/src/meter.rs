//! Counting proxies in front of the rendezvous: every byte of payload that passes in either direction, for the idle
//! metric. They change nothing; what a node learns about its own endpoint through them is the proxy's, which on loopback
//! nobody uses.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

/// Nodes that may use the UDP proxy; further ones are not served.
const CLIENTS: usize = 16;
/// The largest UDP payload.
const DATAGRAM: usize = 65_535;

/// Both proxies. They end when this is dropped.
#[derive(Debug)]
pub struct Meter {
    /// Where nodes find the registry.
    pub registry: SocketAddr,
    /// Where nodes find the beacon.
    pub beacon: SocketAddr,
    counts: Arc<Counts>,
    _tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Counts {
    registry: AtomicU64,
    to_nodes: AtomicU64,
}

impl Meter {
    /// Puts itself in front of a rendezvous.
    ///
    /// # Errors
    /// When there is no socket to be had.
    pub async fn start(registry: SocketAddr, beacon: SocketAddr) -> Result<Meter> {
        let tcp = TcpListener::bind("127.0.0.1:0").await?;
        let udp = UdpSocket::bind("127.0.0.1:0").await?;
        let (near, far) = ((tcp.local_addr()?, udp.local_addr()?), (registry, beacon));
        let counts = Arc::new(Counts::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(proxy_tcp(tcp, far.0, counts.clone()));
        tasks.spawn(proxy_udp(udp, far.1, counts.clone()));
        Ok(Meter { registry: near.0, beacon: near.1, counts, _tasks: tasks })
    }

    /// Bytes of TCP payload between nodes and registry so far, both directions.
    pub fn registry_bytes(&self) -> u64 {
        self.counts.registry.load(Ordering::Relaxed)
    }

    /// Bytes of UDP payload that the beacon sent to nodes so far. (The other direction is in the nodes' own counters.)
    pub fn beacon_bytes(&self) -> u64 {
        self.counts.to_nodes.load(Ordering::Relaxed)
    }
}

async fn proxy_tcp(listener: TcpListener, far: SocketAddr, counts: Arc<Counts>) {
    let mut tasks = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        let Ok(far) = TcpStream::connect(far).await else { continue };
        let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
        tasks.spawn(copy(near_read, far_write, counts.clone()));
        tasks.spawn(copy(far_read, near_write, counts.clone()));
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, counts: Arc<Counts>) {
    let mut buf = vec![0; 16 << 10];
    while let Ok(n @ 1..) = from.read(&mut buf).await {
        counts.registry.fetch_add(n as u64, Ordering::Relaxed);
        if to.write_all(&buf[..n]).await.is_err() {
            return;
        }
    }
    // The other direction may still have something to say.
    let _ = to.shutdown().await;
}

async fn proxy_udp(near: UdpSocket, far: SocketAddr, counts: Arc<Counts>) {
    let near = Arc::new(near);
    let mut clients: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut tasks = JoinSet::new();
    let mut buf = vec![0; DATAGRAM];
    loop {
        let Ok((n, from)) = near.recv_from(&mut buf).await else { continue };
        if !clients.contains_key(&from) && clients.len() < CLIENTS {
            let Ok(socket) = connected(far).await else { continue };
            tasks.spawn(answers(socket.clone(), near.clone(), from, counts.clone()));
            clients.insert(from, socket);
        }
        if let Some(socket) = clients.get(&from) {
            let _ = socket.send(&buf[..n]).await;
        }
    }
}

async fn connected(to: SocketAddr) -> Result<Arc<UdpSocket>> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    socket.connect(to).await?;
    Ok(Arc::new(socket))
}

async fn answers(far: Arc<UdpSocket>, near: Arc<UdpSocket>, to: SocketAddr, counts: Arc<Counts>) {
    let mut buf = vec![0; DATAGRAM];
    loop {
        let Ok(n) = far.recv(&mut buf).await else { return };
        counts.to_nodes.fetch_add(n as u64, Ordering::Relaxed);
        let _ = near.send_to(&buf[..n], to).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_proxies_pass_and_count() {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let meter = Meter::start(tcp.local_addr().unwrap(), udp.local_addr().unwrap()).await.unwrap();

        let mut client = TcpStream::connect(meter.registry).await.unwrap();
        let (mut server, _) = tcp.accept().await.unwrap();
        let mut buf = [0; 64];
        client.write_all(b"question").await.unwrap();
        server.read_exact(&mut buf[..8]).await.unwrap();
        server.write_all(b"yes").await.unwrap();
        client.read_exact(&mut buf[..3]).await.unwrap();
        assert_eq!((&buf[..3], meter.registry_bytes()), (&b"yes"[..], 11));

        let node = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        node.send_to(b"where am I", meter.beacon).await.unwrap();
        let (n, from) = udp.recv_from(&mut buf).await.unwrap();
        assert_eq!(&buf[..n], b"where am I");
        udp.send_to(b"there", from).await.unwrap();
        let (n, from) = node.recv_from(&mut buf).await.unwrap();
        assert_eq!((&buf[..n], from, meter.beacon_bytes()), (&b"there"[..], meter.beacon, 5));
    }
}
