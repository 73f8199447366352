//! `GET /metrics` in the Prometheus text format, off unless `[metrics] listen` names an address: the node, each plugin,
//! each peer and its path. Counted nowhere twice: every scrape takes one picture of the engine and writes it out.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use pilot_engine::Snapshot;
use pilot_engine::snapshot::PeerRow;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tracing::{info, warn};

use crate::core::Core;

/// Scrapers served at once; a further one waits in the kernel's queue.
const SCRAPERS: usize = 8;
/// How long a scraper may take to say what it wants.
const HEADER_LIMIT: Duration = Duration::from_secs(10);
/// Peers with series of their own, those with a session first; the totals count all.
const PEERS: usize = 1024;

/// Where the plugins' states come from.
pub type PluginRows = Arc<dyn Fn() -> Value + Send + Sync>;

/// Binds the address; [`serve`] does the rest.
///
/// # Errors
/// When it cannot be bound.
pub async fn bind(addr: SocketAddr) -> anyhow::Result<TcpListener> {
    use anyhow::Context as _;
    TcpListener::bind(addr).await.with_context(|| {
        format!("bind the metrics address {addr}: choose another with [metrics] listen or --metrics")
    })
}

/// Answers scrapers until the host stops.
pub async fn serve(listener: TcpListener, core: Arc<Core>, plugins: PluginRows) {
    if let Ok(addr) = listener.local_addr() {
        info!(%addr, "metrics listening");
    }
    let slots = Arc::new(Semaphore::new(SCRAPERS));
    let mut scrapers = tokio::task::JoinSet::new();
    loop {
        // The semaphore is never closed.
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        while scrapers.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "accepting a scraper failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (core, plugins) = (core.clone(), plugins.clone());
        scrapers.spawn(async move {
            let service = service_fn(move |request| answer(core.clone(), plugins.clone(), request));
            let http = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_LIMIT)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            // A scraper that hung up needs nothing.
            let _ = tokio::time::timeout(HEADER_LIMIT * 3, http).await;
            drop(slot);
        });
    }
}

async fn answer<B>(
    core: Arc<Core>,
    plugins: PluginRows,
    request: Request<B>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => {
            let mut response = Response::new(Full::from(page(&core, &plugins()).await));
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
            return Ok(response);
        }
        (_, "/metrics") => Response::new(Full::from("only GET\n")),
        _ => Response::new(Full::from("metrics are at /metrics\n")),
    };
    *response.status_mut() = match request.uri().path() {
        "/metrics" => StatusCode::METHOD_NOT_ALLOWED,
        _ => StatusCode::NOT_FOUND,
    };
    Ok(response)
}

/// The series, from one picture.
pub async fn page(core: &Core, plugins: &Value) -> String {
    let snapshot = core.node.snapshot().await.unwrap_or_default();
    let mut registry = Registry::with_prefix("pilot");
    node(&mut registry, core, &snapshot);
    peers(&mut registry, &snapshot);
    plugin_series(&mut registry, plugins);
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = encode(&mut text, &registry);
    text
}

/// Numbers of the engine are unsigned; gauges count in signed ones.
fn gauge(value: impl TryInto<i64>) -> Gauge {
    let gauge = Gauge::default();
    gauge.set(value.try_into().unwrap_or(i64::MAX));
    gauge
}

fn counter(value: u64) -> Counter {
    let counter = Counter::default();
    counter.inc_by(value);
    counter
}

fn node(registry: &mut Registry, core: &Core, s: &Snapshot) {
    let version = vec![("version", crate::version::VERSION)];
    registry.register("build", "This host's version", Info::new(version));
    let uptime = Gauge::<f64, AtomicU64>::default();
    uptime.set(core.started.elapsed().as_secs_f64());
    registry.register_with_unit("uptime", "Time since the host started", Unit::Seconds, uptime);
    registry.register(
        "registered",
        "1 when the registry knows this node",
        gauge(i64::from(core.node_id() != 0)),
    );
    registry.register("peers", "Known peers", gauge(s.peers.len()));
    registry.register(
        "encrypted_peers",
        "Peers with a session",
        gauge(s.peers.iter().filter(|p| p.encrypted).count()),
    );
    registry.register("relayed_peers", "Peers reached through the beacon", gauge(s.relay_peers));
    registry.register("streams", "Open streams", gauge(s.conns.len()));
    registry.register("bound_ports", "Ports with a listener", gauge(s.ports.len()));
    registry.register("sent_bytes", "Bytes of datagrams sent", counter(s.bytes_sent));
    registry.register("received_bytes", "Bytes of datagrams received", counter(s.bytes_recv));
    registry.register("sent_packets", "Datagrams sent", counter(s.pkts_sent));
    registry.register("received_packets", "Datagrams received", counter(s.pkts_recv));
    registry.register("opened_frames", "Sealed frames that opened", counter(s.encryption_success));
    registry.register("unopened_frames", "Sealed frames that did not open", counter(s.encryption_failure));
    registry.register(
        "accept_queue_drops",
        "Streams refused because a queue was full",
        counter(s.accept_queue_drops),
    );
    registry.register("events_dropped", "Events of the engine that were lost", counter(s.events_dropped));
    let compat = core.compat.as_ref().map(|c| c.status());
    registry.register(
        "compat_transport",
        "1 when datagrams travel over a WebSocket to the beacon, 0 over UDP",
        gauge(i64::from(compat.is_some())),
    );
    if let Some(compat) = compat {
        let connected = compat.state == pilot_net::compat::State::Connected;
        registry.register("compat_connected", "1 while that connection stands", gauge(i64::from(connected)));
        registry.register(
            "compat_reconnects",
            "Connections made after the first",
            counter(compat.reconnects),
        );
        registry.register("compat_sent_messages", "Messages sent on it", counter(compat.sent));
        registry.register("compat_received_messages", "Messages of the beacon", counter(compat.received));
    }
    let pending = core.services.handshake.get().map_or(0, |h| h.pending_count());
    registry.register("pending_trust_requests", "Trust requests that wait for a decision", gauge(pending));
    let webhook = core.services.webhook.get().map(|w| w.stats()).unwrap_or_default();
    registry.register("webhook_dropped", "Events the webhook had no room for", counter(webhook.dropped));
    registry.register(
        "webhook_circuit_skips",
        "Events the webhook skipped while its breaker was open",
        counter(webhook.circuit_skips),
    );
}

/// How a peer is reached.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
enum Path {
    Direct,
    Relay,
}

impl EncodeLabelValue for Path {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        match self {
            Path::Direct => "direct",
            Path::Relay => "relay",
        }
        .encode(encoder)
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PeerLabel {
    peer: u32,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PathLabel {
    peer: u32,
    path: Path,
    endpoint: String,
}

fn peers(registry: &mut Registry, s: &Snapshot) {
    let mut shown: Vec<&PeerRow> = s.peers.iter().collect();
    shown.sort_by_key(|p| (!p.encrypted, p.node));
    shown.truncate(PEERS);
    let session = Family::<PeerLabel, Gauge>::default();
    let authenticated = Family::<PeerLabel, Gauge>::default();
    let path = Family::<PathLabel, Gauge>::default();
    let streams = Family::<PeerLabel, Gauge>::default();
    let sent = Family::<PeerLabel, Gauge>::default();
    let received = Family::<PeerLabel, Gauge>::default();
    let resent = Family::<PeerLabel, Gauge>::default();
    let rtt = Family::<PeerLabel, Gauge<f64, AtomicU64>>::default();
    for p in shown {
        let label = PeerLabel { peer: p.node };
        session.get_or_create(&label).set(i64::from(p.encrypted));
        authenticated.get_or_create(&label).set(i64::from(p.authenticated));
        let of_path = PathLabel {
            peer: p.node,
            path: if p.relay { Path::Relay } else { Path::Direct },
            endpoint: p.endpoint.map(|e| e.to_string()).unwrap_or_default(),
        };
        path.get_or_create(&of_path).set(1);
        let mut best = None;
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        for c in s.conns.iter().filter(|c| c.remote_addr.node == p.node) {
            streams.get_or_create(&label).inc();
            sent.get_or_create(&label).inc_by(signed(c.bytes_sent));
            received.get_or_create(&label).inc_by(signed(c.bytes_recv));
            resent.get_or_create(&label).inc_by(signed(c.retransmits));
            if !c.srtt.is_zero() {
                best = Some(best.map_or(c.srtt, |b: Duration| b.min(c.srtt)));
            }
        }
        if let Some(best) = best {
            rtt.get_or_create(&label).set(best.as_secs_f64());
        }
    }
    registry.register("peer_session", "1 when there is a session with the peer", session);
    registry.register(
        "peer_authenticated",
        "1 when its key was signed by its registered identity",
        authenticated,
    );
    registry.register("peer_path", "How the peer is reached", path);
    registry.register("peer_streams", "Open streams with the peer", streams);
    registry.register("peer_open_stream_sent_bytes", "Bytes sent on the streams that are open", sent);
    registry.register(
        "peer_open_stream_received_bytes",
        "Bytes received on the streams that are open",
        received,
    );
    registry.register(
        "peer_open_stream_resent_segments",
        "Segments sent again on the streams that are open",
        resent,
    );
    registry.register_with_unit(
        "peer_rtt",
        "Least smoothed round trip time of the open streams",
        Unit::Seconds,
        rtt,
    );
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PluginLabel {
    plugin: String,
    version: String,
    state: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PluginName {
    plugin: String,
}

fn plugin_series(registry: &mut Registry, rows: &Value) {
    let state = Family::<PluginLabel, Gauge>::default();
    let faults = Family::<PluginName, Counter>::default();
    for row in rows.as_array().into_iter().flatten() {
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let label = PluginLabel { plugin: text("name"), version: text("version"), state: text("state") };
        let runs = matches!(label.state.as_str(), "running" | "started");
        faults
            .get_or_create(&PluginName { plugin: label.plugin.clone() })
            .inc_by(row["faults"].as_u64().unwrap_or(0));
        state.get_or_create(&label).set(i64::from(runs));
    }
    registry.register("plugin_running", "1 when the plugin runs", state);
    registry.register("plugin_faults", "Contained failures of the plugin", faults);
}
