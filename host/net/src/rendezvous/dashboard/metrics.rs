//! The figures in the form that Prometheus reads, under the Go peer's names (registry.md section 9) where it has any.

use std::fmt;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::View;

pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The text. The names of counters get `_total` behind them.
pub(super) fn encode(view: &View) -> Result<String, fmt::Error> {
    let stats = &view.stats;
    let mut registry = Registry::default();
    let requests = Family::<[(&'static str, &'static str); 1], Counter<u64, AtomicU64>>::default();
    for (op, count) in &stats.requests {
        requests.get_or_create(&[("type", *op)]).inc_by(*count);
    }
    registry.register("pilot_requests", "Requests since the start, by operation", requests);
    let counted =
        |op: &str| stats.requests.iter().find(|(name, _)| *name == op).map_or(0, |(_, count)| *count);
    for (name, help, count) in [
        ("pilot_errors", "Requests that were refused", stats.refused),
        ("pilot_registrations", "Registrations that were asked for", counted("register")),
        ("pilot_handshake_requests", "Handshakes that were relayed or refused", counted("request_handshake")),
    ] {
        let counter = Counter::<u64, AtomicU64>::default();
        counter.inc_by(count);
        registry.register(name, help, counter);
    }
    for (name, help, value) in [
        ("pilot_nodes_online", "Nodes in the directory", stats.live_nodes),
        ("pilot_nodes_total", "Node numbers with a key, live or not", stats.known_nodes),
        ("pilot_trust_links", "Trust pairs", stats.trust_pairs),
        ("pilot_networks", "Networks besides the backbone", stats.networks),
    ] {
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    }
    if let Some(compat) = &view.compat {
        let clients = Gauge::<i64>::default();
        clients.set(i64::try_from(compat.clients).unwrap_or(i64::MAX));
        registry.register("pilot_compat_clients", "Nodes connected over a WebSocket", clients);
        for (name, help, count) in [
            ("pilot_compat_messages_received", "Messages from WebSocket clients", compat.received),
            ("pilot_compat_messages_sent", "Messages queued for WebSocket clients", compat.sent),
            ("pilot_compat_messages_lost", "Messages a WebSocket client was too slow for", compat.lost),
        ] {
            let counter = Counter::<u64, AtomicU64>::default();
            counter.inc_by(count);
            registry.register(name, help, counter);
        }
    }
    let uptime = Gauge::<i64>::default();
    uptime.set(i64::try_from(view.uptime).unwrap_or(i64::MAX));
    registry.register("pilot_uptime_seconds", "Seconds since the start", uptime);
    let mut body = String::new();
    text::encode(&mut body, &registry)?;
    Ok(body)
}
