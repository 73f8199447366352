//! Thousands of nodes behind WebSockets at one beacon: what each costs, how much it relays for them, and that one of them
//! that never reads slows no other. The clients are this process, the beacon is another; both share the machine.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::SinkExt as _;
use pilot_net::tls::{ClientTls, ServerTls};
use pilot_wire::beacon::relay_header;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use super::server::*;
use super::ws::{Event, Ws};

/// Bytes of a tunnel frame: about what an encrypted packet takes.
const FRAME: usize = 1_200;
/// Frames of one pair under way at a time.
const BURST: usize = 8;
/// Connections being made at a time.
const DIALS: usize = 64;
/// What the beacon relays for one client in a second, as it is set by default.
const RELAY_LIMIT: u32 = 4_000;

#[test]
fn many_nodes_behind_websockets() {
    let count: u32 = if long() { 5_000 } else { 200 };
    let descriptors = raise_descriptors();
    assert!(descriptors > u64::from(count) + 200, "only {descriptors} file descriptors, see ulimit -Hn");
    let plain = Server::start(None);
    run("in the clear", &plain, count, descriptors, |stream| async move { stream });
    drop(plain);
    let dir = tempfile::tempdir().unwrap();
    let pin = ServerTls::self_signed(Some(dir.path())).unwrap().fingerprint().to_owned();
    let server = Server::start_with_certificate(dir.path());
    let connector = ClientTls::pinned(&pin).unwrap().connector();
    run("over TLS", &server, count, descriptors, move |stream| {
        let connector = connector.clone();
        async move { connector.connect("localhost".try_into().unwrap(), stream).await.unwrap() }
    });
}

/// One run; `wrap` makes of a TCP connection what a WebSocket is spoken over.
fn run<S, F>(
    kind: &str,
    server: &Server,
    count: u32,
    descriptors: u64,
    wrap: impl Fn(tokio::net::TcpStream) -> F + Clone + Send + 'static,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = S> + Send + 'static,
{
    // Two more: one that never reads, one that sends to it all the time.
    let ids: Vec<AtomicU32> = (0..count + 2).map(|_| AtomicU32::new(0)).collect();
    on_64_connections(
        count + 2,
        || server.json(),
        |link, number| ids[number as usize].store(register(link, number).unwrap(), Ordering::Relaxed),
    );
    let ids: Vec<u32> = ids.iter().map(|id| id.load(Ordering::Relaxed)).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let before = server.resident();
        let began = Instant::now();
        let mut nodes = enter_all(server.compat, &ids, wrap).await;
        let dials = nodes.len() as f64 / began.elapsed().as_secs_f64();
        let memory = server.resident().saturating_sub(before) as f64 / nodes.len() as f64;
        println!(
            "compat: {} clients {kind} on one beacon (file descriptors raised to {descriptors}): {dials:.0} challenges met/s, \
             {memory:.0} bytes of resident memory per client",
            nodes.len()
        );
        let (silent, mut flooder) = (nodes.pop().unwrap(), nodes.pop().unwrap());
        let rounds = 10;
        let (mut nodes, alone) = exchange(nodes, rounds).await;
        println!("compat: {alone} (limit as set: {RELAY_LIMIT}/s for each client)");

        // More than the kernel's buffers and the beacon's queue hold for it.
        let enough: u32 = if long() { 16_000 } else { 6_000 };
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let flood = tokio::spawn({
            let (stop, sent, target) = (stop.clone(), sent.clone(), silent.id);
            async move {
                while !stop.load(Ordering::Relaxed) {
                    flooder.send(target, 64).await;
                    sent.fetch_add(64, Ordering::Relaxed);
                    // As fast as it is allowed to, so that all of it is passed on.
                    tokio::time::sleep(Duration::from_secs(64) / RELAY_LIMIT).await;
                }
            }
        });
        while sent.load(Ordering::Relaxed) < enough {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (again, beside) = exchange(nodes, rounds).await;
        nodes = again;
        stop.store(true, Ordering::Relaxed);
        flood.await.unwrap();
        let sent = sent.load(Ordering::Relaxed);
        println!("compat: {beside}, beside a client that never reads and was sent {sent} frames");
        // A beacon that waits for one client would stand still for its write limit, 90 s.
        assert!(beside.slowest < Duration::from_secs(60), "{beside}");
        drop((nodes, silent));
    });
    still_serves(server);
}

struct Node<S> {
    id: u32,
    ws: Ws<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Node<S> {
    /// Sends frames in one go.
    async fn send(&mut self, to: u32, frames: usize) {
        let message = [&relay_header(self.id, to)[..], &[0xA5; FRAME]].concat();
        for _ in 0..frames {
            self.ws.0.feed(Message::binary(message.clone())).await.unwrap();
        }
        self.ws.0.flush().await.unwrap();
    }

    async fn receive(&mut self, frames: usize) {
        for _ in 0..frames {
            match self.ws.next().await {
                Event::Binary(data) => assert_eq!(data.len(), 5 + FRAME),
                other => panic!("node {}: {other:?}", self.id),
            }
        }
    }
}

/// All nodes, proved. Node n of the list has the key of number n.
async fn enter_all<S, F>(
    addr: SocketAddr,
    ids: &[u32],
    wrap: impl Fn(tokio::net::TcpStream) -> F + Clone + Send + 'static,
) -> Vec<Node<S>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = S> + Send + 'static,
{
    let dials = Arc::new(Semaphore::new(DIALS));
    let mut tasks = JoinSet::new();
    for (number, id) in ids.iter().copied().enumerate() {
        let (dials, wrap) = (dials.clone(), wrap.clone());
        tasks.spawn(async move {
            let _turn = dials.acquire().await.unwrap();
            let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let mut ws = Ws::over(wrap(stream).await).await.unwrap();
            ws.prove(id, &key(u32::try_from(number).unwrap())).await;
            Node { id, ws }
        });
    }
    tasks.join_all().await
}

/// What an exchange was like.
struct Figures {
    per_second: f64,
    slowest: Duration,
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Figures { per_second, slowest } = self;
        write!(
            f,
            "{per_second:.0} relay frames/s of {FRAME} bytes, slowest round of {BURST} there and {BURST} back {slowest:?}"
        )
    }
}

/// All nodes in pairs, all at the same time, each pair with so many rounds of bursts there and back.
async fn exchange<S>(nodes: Vec<Node<S>>, rounds: usize) -> (Vec<Node<S>>, Figures)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let began = Instant::now();
    let mut pairs = JoinSet::new();
    let mut nodes = nodes.into_iter();
    let mut count = 0;
    while let (Some(mut a), Some(mut b)) = (nodes.next(), nodes.next()) {
        count += 1;
        pairs.spawn(async move {
            let mut slowest = Duration::ZERO;
            for _ in 0..rounds {
                let began = Instant::now();
                a.send(b.id, BURST).await;
                b.receive(BURST).await;
                b.send(a.id, BURST).await;
                a.receive(BURST).await;
                slowest = slowest.max(began.elapsed());
            }
            (a, b, slowest)
        });
    }
    let mut back = Vec::new();
    let mut slowest = Duration::ZERO;
    for (a, b, took) in pairs.join_all().await {
        back.extend([a, b]);
        slowest = slowest.max(took);
    }
    let frames = (count * rounds * 2 * BURST) as f64;
    (back, Figures { per_second: frames / began.elapsed().as_secs_f64(), slowest })
}
