//! The rendezvous' window for people and for monitoring, over HTTP (registry.md section 9): a page at `/`, figures as JSON
//! at `/api/stats`, `/healthz`, and `/metrics` for Prometheus.
//!
//! Reads only. The page is made whole by the server and loads nothing from anywhere. Networks' names are shown to whoever
//! has the dashboard's token; `/metrics` answers loopback only, as the peer's does.

mod metrics;
mod page;

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use pilot_rendezvous::Stats;
use serde_json::json;
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::compat::{Counts, Traffic};
use super::desk::Desk;

/// Browsers at a time; further ones are closed at once.
const CONNECTIONS: usize = 64;
/// Longest a browser may take to send its request's head.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// Longest head of a request, bytes.
const HEAD_BYTES: usize = 16 * 1024;
/// How often the page's curve gets a point, and how many it has: an hour.
const SAMPLE: Duration = Duration::from_secs(30);
const SAMPLES: usize = 120;

/// The bound listener.
#[derive(Debug)]
pub(super) struct Dashboard {
    listener: TcpListener,
    addr: SocketAddr,
    token: Option<String>,
}

/// What all browsers share.
struct Room {
    desk: Arc<Desk>,
    /// Of the beacon's WebSocket side, when there is one.
    compat: Option<Arc<Counts>>,
    token: Option<String>,
    started: Instant,
    /// Requests per second, oldest first.
    rates: Mutex<VecDeque<f64>>,
}

/// One look at the registry.
struct View {
    stats: Stats,
    uptime: u64,
    rates: Vec<f64>,
    compat: Option<Traffic>,
    /// For those who may see them.
    networks: Option<Vec<(u16, String, usize)>>,
}

impl View {
    fn requests(&self) -> u64 {
        self.stats.requests.iter().map(|(_, count)| count).sum()
    }

    /// Extrapolated from the time since the start, as long as that is less than a day.
    fn requests_per_day(&self) -> u64 {
        let seconds = self.uptime.max(1);
        u64::try_from(u128::from(self.requests()) * 86_400 / u128::from(seconds)).unwrap_or(u64::MAX)
    }
}

impl Dashboard {
    pub async fn bind(addr: SocketAddr, token: Option<String>) -> io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        Ok(Self { listener, addr, token: token.filter(|t| !t.is_empty()) })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves until the server stops.
    pub async fn run(
        self,
        desk: Arc<Desk>,
        compat: Option<Arc<Counts>>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) {
        let (token, started) = (self.token, Instant::now());
        let room = Arc::new(Room { desk, compat, token, started, rates: Mutex::default() });
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let mut samples = interval(SAMPLE);
        samples.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before = 0;
        loop {
            let (stream, source) = tokio::select! {
                () = stop.cancelled() => return,
                _ = samples.tick() => {
                    before = room.sample(before);
                    continue;
                }
                accepted = self.listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(e) => {
                        tracing::warn!(error = %e, "dashboard: accept failed");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let Ok(place) = places.clone().try_acquire_owned() else { continue };
            let (room, stop) = (room.clone(), stop.clone());
            tasks.spawn(async move {
                let service = service_fn(|request| {
                    let answer = room.answer(&request, source);
                    async move { Ok::<_, Infallible>(answer) }
                });
                let serving = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_DEADLINE)
                    .max_buf_size(HEAD_BYTES)
                    .serve_connection(TokioIo::new(stream), service);
                tokio::select! {
                    () = stop.cancelled() => {}
                    served = serving => if let Err(e) = served {
                        tracing::trace!(%source, error = %e, "dashboard: connection");
                    },
                }
                drop(place);
            });
        }
    }
}

impl Room {
    /// Notes how many requests there were since `before`; gives the count now.
    fn sample(&self, before: u64) -> u64 {
        let now = self.desk.stats().requests.iter().map(|(_, count)| count).sum::<u64>();
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        if rates.len() >= SAMPLES {
            rates.pop_front();
        }
        // Far below 2^53 within half a minute.
        rates.push_back((now - before) as f64 / SAMPLE.as_secs_f64());
        now
    }

    fn view(&self, query: Option<&str>) -> View {
        let token = query.into_iter().flat_map(|q| q.split('&')).find_map(|pair| pair.strip_prefix("token="));
        let known = match (&self.token, token) {
            (Some(ours), Some(theirs)) => bool::from(ours.as_bytes().ct_eq(theirs.as_bytes())),
            _ => false,
        };
        View {
            stats: self.desk.stats(),
            uptime: self.started.elapsed().as_secs(),
            rates: self.rates.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect(),
            compat: self.compat.as_ref().map(|counts| counts.traffic()),
            networks: known.then(|| self.desk.network_sizes()),
        }
    }

    fn answer(&self, request: &Request<Incoming>, source: SocketAddr) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        let query = request.uri().query();
        match request.uri().path() {
            "/" => {
                let page = page::page(&self.view(query));
                let mut answer = respond(StatusCode::OK, "text/html; charset=utf-8", page);
                // Nothing is loaded and nothing runs, whatever a name on the page may contain.
                let policy =
                    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";
                answer.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
                answer.headers_mut().insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
                answer
            }
            "/api/stats" => {
                let stats = stats_json(&self.view(query)).to_string();
                let mut answer = respond(StatusCode::OK, "application/json", stats);
                answer.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
                answer
            }
            "/healthz" => {
                let body = json!({
                    "status": "ok",
                    "version": "1.0",
                    "uptime_seconds": self.started.elapsed().as_secs(),
                    "nodes_online": self.desk.node_count(),
                });
                respond(StatusCode::OK, "application/json", body.to_string())
            }
            "/metrics" if !source.ip().to_canonical().is_loopback() => {
                text(StatusCode::FORBIDDEN, "metrics are for this machine only\n")
            }
            "/metrics" => match metrics::encode(&self.view(None)) {
                Ok(body) => respond(StatusCode::OK, metrics::CONTENT_TYPE, body),
                Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{e}\n")),
            },
            _ => text(StatusCode::NOT_FOUND, "here are /, /api/stats, /healthz and /metrics\n"),
        }
    }
}

fn stats_json(view: &View) -> serde_json::Value {
    let versions: BTreeMap<&str, u64> = view.stats.versions.iter().map(|(v, n)| (v.as_str(), *n)).collect();
    let mut body = json!({
        "total_nodes": view.stats.known_nodes,
        "active_nodes": view.stats.live_nodes,
        "total_trust_links": view.stats.trust_pairs,
        "total_requests": view.requests(),
        "req_per_day": view.requests_per_day(),
        "uptime_secs": view.uptime,
        "versions": versions,
        "standby": view.stats.standby,
    });
    if let Some(compat) = &view.compat {
        body["compat_clients"] = compat.clients.into();
        body["compat_messages_received"] = compat.received.into();
        body["compat_messages_sent"] = compat.sent.into();
        body["compat_messages_lost"] = compat.lost.into();
    }
    if let Some(networks) = &view.networks {
        let list =
            networks.iter().map(|(id, name, members)| json!({"id": id, "name": name, "members": members}));
        body["networks"] = list.collect();
    }
    body
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", body.to_owned())
}

fn respond(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}
