//! A public Pilot node in a process of its own: the engine and driver that the host runs, registered at the rendezvous,
//! without the host's plugins. Public, so that nobody needs a handshake; its questions are still asked and answered one by
//! one, as in the host.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use pilot_engine::{Answer, Config, Engine, Identity, Query, QueryId, Resolution, Verdict};
use pilot_net::bus::Bus;
use pilot_net::clock::Clock;
use pilot_net::compat::{Client, CompatConfig, Credentials};
use pilot_net::node::{Listener, Node, NodeFeeds, Stream, Underlay};
use pilot_net::registry_client::RegistryClient;
use pilot_net::tls::ClientTls;
use pilot_net::udp::Udp;
use pilot_wire::addr::Addr;
use pilot_wire::compat::{BEACON_PLACEHOLDER, Url};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::duties::Member;
use super::load::{self, Pipe, Way};
use super::{Parent, not_mine};
use crate::protocol::{Reply, Request, Target};

/// The port that takes the loads.
const PORT: u16 = 5000;
/// How long the driver may take to say goodbye.
const FAREWELL: Duration = Duration::from_secs(3);

/// What makes one node different from another.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The rendezvous' registry.
    #[arg(long)]
    registry: SocketAddr,
    /// The rendezvous' beacon.
    #[arg(long)]
    beacon: SocketAddr,
    /// Largest segment on any path; the engine's defaults if none.
    #[arg(long)]
    segment: Option<usize>,
    /// Everything through the beacon.
    #[arg(long)]
    relay_only: bool,
    /// No UDP socket, but a WebSocket to this beacon.
    #[arg(long, requires = "pin")]
    compat: Option<Url>,
    /// Fingerprint of that beacon's certificate.
    #[arg(long)]
    pin: Option<String>,
}

/// Runs until the parent closes the input.
///
/// # Errors
/// When the node cannot be started or registered, or the parent is gone.
pub async fn run(options: Options) -> Result<()> {
    let Options { registry, beacon, segment, relay_only, compat, pin } = options;
    let relay_only = relay_only || compat.is_some();

    let identity = Arc::new(Identity::generate(seed()?));
    let clock = Clock::start();
    let compat =
        compat.map(|url| anyhow::Ok(CompatConfig::new(url, ClientTls::pinned(&pin.unwrap_or_default())?)));
    let compat = compat.transpose()?.map(Client::new).transpose()?;
    let config = Config { relay_only, ..config(segment) };
    let mut engine = Engine::new(config, seed()?, clock.now());
    engine.set_identity(identity.clone());
    engine.set_beacon(Some(if compat.is_some() { BEACON_PLACEHOLDER } else { beacon }));
    let (compat, underlay) = match compat {
        Some((client, datagrams)) => (Some(client), Underlay::from(datagrams)),
        None => {
            let udp = Udp::bind(SocketAddr::from(([127, 0, 0, 1], 0))).context("bind the tunnel socket")?;
            (None, Underlay::from(udp))
        }
    };
    let (node, NodeFeeds { queries, signals, task, stop }) =
        Node::spawn(engine, underlay, clock, Bus::new())?;

    let signer = identity.clone();
    let client = Arc::new(RegistryClient::new(registry.to_string(), move |m: &[u8]| Some(signer.sign(m))));
    tokio::spawn(answer(node.clone(), client.clone(), queries));
    let endpoint = compat.is_some().then_some("0.0.0.0:0");
    let who = identity.clone();
    let member =
        Member { endpoint, node: node.clone(), clock, client, identity, signals, relay_only, seed: seed()? };
    let me = member.join().await?;
    if let Some(compat) = &compat {
        let who = move || Some(Credentials { node: me, identity: who.clone() });
        compat.connect(who).await.context("the compat beacon")?;
    }
    tokio::spawn(accept(node.bind(PORT).await?));

    let mut parent = Parent::new();
    parent.ready(Target::Node(me))?;
    let mut way = None;
    let mut held = Vec::new();
    while let Some(request) = parent.next().await? {
        let reply = match (&request, &way) {
            (Request::Target(Target::Node(peer)), _) => {
                way = Some(Tunnel { node: node.clone(), to: Addr { network: 0, node: *peer } });
                Ok(Reply::Done)
            }
            (Request::Ping { count }, Some(way)) => ping(way, *count).await,
            (Request::Counters, _) => counters(&node).await,
            (load, Some(way)) => match load::run(way, &mut held, load).await {
                Some(reply) => reply,
                None => not_mine(load),
            },
            (other, None) => not_mine(other),
        };
        parent.answer(reply)?;
    }
    drop(held);
    stop.cancel();
    let _ = tokio::time::timeout(FAREWELL, task).await;
    if let Some(compat) = compat {
        compat.close().await;
    }
    Ok(())
}

fn seed() -> Result<[u8; 32]> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|e| anyhow::anyhow!("the system gave no randomness: {e}"))?;
    Ok(seed)
}

/// The engine's defaults, but without the limits that keep one peer from opening thousands of streams.
fn config(segment: Option<usize>) -> Config {
    let mut config = Config {
        syn_rate: u32::MAX,
        syn_rate_per_peer: u32::MAX,
        max_conns_per_port: 65_536,
        ..Config::default()
    };
    if let Some(segment) = segment {
        config.segment = segment;
        config.loopback_segment = segment;
        config.jumbo_segment = segment;
    }
    config
}

/// Answers the engine's questions from the registry; everybody may come in.
async fn answer(node: Node, client: Arc<RegistryClient>, mut queries: mpsc::Receiver<(QueryId, Query)>) {
    while let Some((id, query)) = queries.recv().await {
        let (node, client) = (node.clone(), client.clone());
        tokio::spawn(async move {
            let answer = match query {
                Query::Resolve { node } => resolve(&client, node).await,
                Query::PeerKey { node } => peer_key(&client, node).await,
                _ => Answer::Admit(Verdict::Allow),
            };
            node.answer(id, answer).await;
        });
    }
}

async fn resolve(client: &RegistryClient, node: u32) -> Answer {
    match client.resolve(node).await {
        Ok(found) => Answer::Resolved(Resolution {
            real_addr: found.real_addr.parse().ok(),
            lan_addrs: Vec::new(),
            relay_only: found.relay_only,
        }),
        Err(e) => Answer::Failed(e.to_string()),
    }
}

async fn peer_key(client: &RegistryClient, node: u32) -> Answer {
    match client.lookup(node).await {
        Ok(found) => {
            let key = STANDARD.decode(&found.public_key).ok().and_then(|k| k.try_into().ok());
            Answer::PeerKey { key, trusted: false }
        }
        Err(e) => Answer::Failed(e.to_string()),
    }
}

async fn accept(listener: Listener) {
    while let Some(stream) = listener.accept().await {
        tokio::spawn(async move {
            if let Err(e) = load::serve(stream).await {
                eprintln!("pilot: a stream failed: {e:#}");
            }
        });
    }
}

/// Pings from a plain thread, as the baseline does: with two processors, a runtime's worker that looks for other work
/// before it sleeps is in the way of the peer's driver.
async fn ping(way: &Tunnel, count: u32) -> Result<Reply> {
    let (way, runtime) = (way.clone(), Handle::current());
    let (done, result) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = done.send(ping_blocking(&way, count, &runtime));
    });
    result.await.context("the pinging thread ended")?
}

fn ping_blocking(way: &Tunnel, count: u32, runtime: &Handle) -> Result<Reply> {
    let (mut inner, mut called) = (Vec::with_capacity(count as usize), Vec::with_capacity(count as usize));
    for i in 0..count {
        let payload = Bytes::copy_from_slice(&super::ping_payload(i));
        let start = Instant::now();
        let rtt = runtime.block_on(way.node.ping(way.to, payload))?;
        called.push(nanos(start.elapsed()));
        inner.push(nanos(rtt));
    }
    Ok(Reply::Pings { inner, called })
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

async fn counters(node: &Node) -> Result<Reply> {
    let now = node.snapshot().await.context("the node is down")?;
    Ok(Reply::Counters { sent: now.bytes_sent, received: now.bytes_recv })
}

#[derive(Clone)]
struct Tunnel {
    node: Node,
    to: Addr,
}

impl Way for Tunnel {
    type Pipe = Stream;

    async fn open(&self) -> Result<Stream> {
        Ok(self.node.dial(self.to, PORT).await?)
    }
}

impl Pipe for Stream {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        Ok(Stream::write(self, data).await?)
    }

    async fn read(&mut self) -> Result<Option<Bytes>> {
        Ok(Stream::read(self).await?)
    }

    fn finish(&mut self) {
        self.close();
    }
}
