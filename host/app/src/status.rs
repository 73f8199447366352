//! The info and health objects of the local socket (ipc.md section 8), from one picture of the engine.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pilot_engine::Snapshot;
use pilot_engine::snapshot::ConnRow;
use pilot_wire::addr::Addr;
use serde_json::{Map, Value, json};

use crate::config::Config;
use crate::core::Core;

/// What this daemon really does of the newest peers' additions.
const FEATURES: [&str; 4] = ["reply_window", "dial_awaits_key", "key_request", "dgram_confirm"];

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// Counters that both objects carry.
fn common(core: &Core, s: &Snapshot) -> Map<String, Value> {
    let webhook = core.services.webhook.get().map(|w| w.stats()).unwrap_or_default();
    object(json!({
        "connections": s.conns.len(),
        "peers": s.peers.len(),
        "bytes_sent": s.bytes_sent,
        "bytes_recv": s.bytes_recv,
        "encrypted_peers": s.peers.iter().filter(|p| p.encrypted).count(),
        "authenticated_peers": s.peers.iter().filter(|p| p.authenticated).count(),
        "handshake_pending_count": core.services.handshake.get().map_or(0, |h| h.pending_count()),
        "relay_peer_count": s.relay_peers,
        "accept_queue_drops": s.accept_queue_drops,
        "webhook_queue_dropped": webhook.dropped,
        "webhook_circuit_skips": webhook.circuit_skips,
        "beacon_addr": s.beacon.map(|b| b.to_string()).unwrap_or_default(),
    }))
}

/// The health object; never waits for the network.
pub async fn health(core: &Core) -> Map<String, Value> {
    let snapshot = core.node.snapshot().await.unwrap_or_default();
    let mut out = common(core, &snapshot);
    out.insert("status".into(), "ok".into());
    out.insert("uptime_seconds".into(), core.started.elapsed().as_secs().into());
    out
}

fn millis(d: std::time::Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// The info object, uncut.
pub async fn info(core: &Arc<Core>) -> Map<String, Value> {
    core.refresh_networks();
    let s = core.node.snapshot().await.unwrap_or_default();
    let mut out = common(core, &s);
    let peers = s.peers.iter().map(|p| {
        json!({
            "node_id": p.node,
            "endpoint": p.endpoint.map(|e| e.to_string()).unwrap_or_default(),
            "encrypted": p.encrypted,
            "authenticated": p.authenticated,
            "relay": p.relay,
            "path": p.path.text(),
            "pinned": p.pinned,
            "last_heard_ms": p.heard.map(millis),
            "rtt_ms": p.rtt.map(millis),
            "loss": f64::from(p.loss_permille) / 1000.0,
            "rekeys": p.rekeys,
            "transport": core.transport(),
        })
    });
    out.insert("peer_list".into(), peers.collect());
    out.insert("conn_list".into(), s.conns.iter().map(conn_row).collect());
    let networks = core.networks().into_iter().map(|network| {
        let address = Addr { network, node: core.node_id() };
        json!({ "network_id": network, "address": address.to_string() })
    });
    let uptime = (core.started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
    out.extend(object(json!({
        "node_id": core.node_id(),
        "address": core.addr().to_string(),
        "hostname": core.hostname(),
        "public": core.is_public(),
        "public_key": core.identity().map(|i| STANDARD.encode(i.public_key())).unwrap_or_default(),
        "version": crate::version::VERSION,
        "email": "",
        "encrypt": true,
        "identity": core.config.node.identity.exists(),
        "uptime_secs": uptime,
        "ports": s.ports.len(),
        "pkts_sent": s.pkts_sent,
        "pkts_recv": s.pkts_recv,
        "tunnel_encryption_success": s.encryption_success,
        "tunnel_encryption_failure": s.encryption_failure,
        "networks": networks.collect::<Vec<_>>(),
        "endpoint": core.endpoint(),
        "transport": core.transport(),
        "features": FEATURES,
        "recovered_total": core.plugins.recovered_total(),
        "plugin_panics": core.plugins.plugin_panics(),
        "registered": core.node_id() != 0,
        "registry": core.registry().map(|r| r.addr().to_owned()).unwrap_or_default(),
        "listen": core.node.local_addr().to_string(),
    })));
    let commit = crate::version::info().commit;
    if !commit.is_empty() {
        out.insert("commit".into(), commit.into());
    }
    if let Some(compat) = &core.compat {
        out.insert("compat".into(), compat_row(&compat.status()));
    }
    out
}

/// Where this host keeps what local tools read as files: the data exchange plugin's own keys, else the state directory.
pub fn paths(config: &Config) -> Value {
    let table = config.plugin_table("dataexchange");
    let dir = |key: &str, default: &str| {
        let name = table.get(key).and_then(Value::as_str).unwrap_or(default);
        config.node.state_dir.join(name).display().to_string()
    };
    json!({
        "state_dir": config.node.state_dir.display().to_string(),
        "inbox_dir": dir("inbox_dir", "inbox"),
        "received_dir": dir("received_dir", "received"),
    })
}

fn compat_row(s: &pilot_net::compat::Status) -> Value {
    json!({
        "state": s.state.text(),
        "url": s.url,
        "proxy": s.proxy.as_deref().unwrap_or_default(),
        "reconnects": s.reconnects,
        "last_error": s.last_error,
        "messages_sent": s.sent,
        "messages_recv": s.received,
        "messages_dropped": s.foreign,
    })
}

fn conn_row(c: &ConnRow) -> Value {
    json!({
        "id": c.id.0,
        "local_port": c.local_port,
        "remote_addr": c.remote_addr.to_string(),
        "remote_port": c.remote_port,
        "state": c.state.text(),
        "cong_win": c.cong_win,
        // Readers convert to a float; "no threshold yet" stays within what that holds exactly.
        "ssthresh": c.ssthresh.min(1 << 52),
        "in_flight": c.in_flight,
        "srtt_ms": millis(c.srtt),
        "rttvar_ms": millis(c.rttvar),
        "unacked": c.unacked,
        "ooo_buf": c.ooo_buf,
        "peer_recv_win": c.peer_recv_win,
        "recv_win": c.recv_win,
        "in_recovery": c.in_recovery,
        "bytes_sent": c.bytes_sent,
        "bytes_recv": c.bytes_recv,
        "segs_sent": c.segs_sent,
        "segs_recv": c.segs_recv,
        "retransmits": c.retransmits,
        "fast_retx": c.fast_retx,
        "sack_recv": c.sack_recv,
        "sack_sent": c.sack_sent,
        "dup_acks": c.dup_acks,
    })
}
