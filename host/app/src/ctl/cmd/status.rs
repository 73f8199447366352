//! Looking at the daemon: info, health, peers, connections.

use clap::Args;
use pilot_wire::ipc::Request;
use serde_json::{Value, json};

use super::Outcome;
use crate::ctl::context::Context;
use crate::ctl::out::{Cell, Out, Report, row};
use crate::ctl::values::{bytes, list, number, text, uptime};
use crate::version::with_commit;

/// `peers`
#[derive(Debug, Args)]
pub(crate) struct Peers {
    /// Only peers whose node number or endpoint contains this.
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// Show at most this many in text mode.
    #[arg(long, default_value_t = 20, value_name = "N")]
    limit: usize,
    /// Show all in text mode.
    #[arg(long)]
    all: bool,
}

/// `disconnect`
#[derive(Debug, Args)]
pub(crate) struct Disconnect {
    /// Connection id (see `pilotctl connections`).
    id: u32,
}

pub(crate) async fn info(ctx: &Context) -> Outcome {
    let info = ctx.connect().await?.json(&Request::Info).await?;
    let text = info_text(&ctx.out, &info);
    Ok(Report::new(info, text))
}

fn info_text(out: &Out, i: &Value) -> String {
    let count = |key: &str| number(i, key).to_string();
    let traffic = |bytes_key: &str, packets: &str| {
        format!("{} in {} packets", bytes(number(i, bytes_key)), number(i, packets))
    };
    let networks: Vec<String> = list(i, "networks")
        .iter()
        .filter(|n| number(n, "network_id") != 0)
        .map(|n| format!("{} ({})", number(n, "network_id"), text(n, "address")))
        .collect();
    let registered = match i.get("registered") {
        Some(Value::Bool(false)) => out.yellow("not yet"),
        Some(_) => text(i, "registry").to_owned(),
        None => String::new(),
    };
    let visibility = match i.get("public") {
        Some(Value::Bool(true)) => "public".to_owned(),
        Some(Value::Bool(false)) => "private".to_owned(),
        _ => String::new(),
    };
    let peers = format!(
        "{} ({} encrypted, {} authenticated)",
        number(i, "peers"),
        number(i, "encrypted_peers"),
        number(i, "authenticated_peers")
    );
    out.facts(&[
        ("Node", out.bold(&count("node_id"))),
        ("Address", text(i, "address").to_owned()),
        ("Hostname", text(i, "hostname").to_owned()),
        ("Visibility", visibility),
        ("Public key", text(i, "public_key").to_owned()),
        ("Version", with_commit(text(i, "version"), text(i, "commit"))),
        ("Uptime", uptime(i["uptime_secs"].as_f64().unwrap_or(0.0))),
        ("Registry", registered),
        ("Endpoint", endpoint_text(i)),
        ("Transport", transport_text(out, i)),
        ("Networks", networks.join(", ")),
        ("Peers", peers),
        ("Connections", count("connections")),
        ("Ports", count("ports")),
        ("Sent", traffic("bytes_sent", "pkts_sent")),
        ("Received", traffic("bytes_recv", "pkts_recv")),
        (
            "Waiting",
            match number(i, "handshake_pending_count") {
                0 => String::new(),
                n => out.yellow(&format!("{n} trust request(s), see: pilotctl pending")),
            },
        ),
    ])
}

/// Where others reach the node. With the compat transport the registry fills in an address that nobody can use.
fn endpoint_text(info: &Value) -> String {
    match info["compat"].is_object() {
        true => "none of its own, reached over its beacon".to_owned(),
        false => text(info, "endpoint").to_owned(),
    }
}

/// How the daemon's datagrams travel; with the compat transport, how that is going.
fn transport_text(out: &Out, info: &Value) -> String {
    let (name, compat) = (text(info, "transport"), &info["compat"]);
    if !compat.is_object() {
        return name.to_owned();
    }
    let state = match text(compat, "state") {
        "connected" => out.green("connected"),
        other => out.yellow(other),
    };
    let mut line = format!("{name}, {state}, {}", text(compat, "url"));
    if !text(compat, "proxy").is_empty() {
        line += &format!(" through {}", text(compat, "proxy"));
    }
    match number(compat, "reconnects") {
        0 => {}
        n => line += &format!(", {n} reconnect(s)"),
    }
    if !text(compat, "last_error").is_empty() {
        line += &format!(" ({})", text(compat, "last_error"));
    }
    line
}

pub(crate) async fn health(ctx: &Context) -> Outcome {
    let h = ctx.connect().await?.json(&Request::Health).await?;
    let out = &ctx.out;
    let status = match text(&h, "status") {
        "ok" => out.green("ok"),
        other => out.red(other),
    };
    let text = out.facts(&[
        ("Status", status),
        ("Uptime", uptime(number(&h, "uptime_seconds") as f64)),
        ("Peers", number(&h, "peers").to_string()),
        ("Connections", number(&h, "connections").to_string()),
        ("Sent", bytes(number(&h, "bytes_sent"))),
        ("Received", bytes(number(&h, "bytes_recv"))),
    ]);
    Ok(Report::new(h, text))
}

pub(crate) async fn peers(ctx: &Context, args: Peers) -> Outcome {
    let info = ctx.connect().await?.json(&Request::Info).await?;
    let wanted = |p: &&Value| match &args.search {
        Some(s) => number(p, "node_id").to_string().contains(s) || text(p, "endpoint").contains(s),
        None => true,
    };
    let peers: Vec<Value> = list(&info, "peer_list").iter().filter(wanted).cloned().collect();
    let out = &ctx.out;
    let shown = if args.all { peers.len() } else { args.limit.min(peers.len()) };
    let rows = peers[..shown].iter().map(|p| {
        row![
            number(p, "node_id").to_string(),
            match text(p, "endpoint") {
                _ if text(p, "transport") == "compat" => "over the beacon".to_owned(),
                "" => "-".to_owned(),
                endpoint => endpoint.to_owned(),
            },
            match (text(p, "path"), p["relay"] == Value::Bool(true)) {
                _ if text(p, "transport") == "compat" => "compat".to_owned(),
                ("", true) => "relay".to_owned(),
                ("", false) => "direct".to_owned(),
                (path, _) => path.to_owned(),
            },
            p["last_heard_ms"]
                .as_u64()
                .map_or("-".to_owned(), |ms| format!("{:.1} s ago", ms as f64 / 1000.0)),
            p["rtt_ms"].as_u64().map_or("-".to_owned(), |ms| format!("{ms} ms")),
            p["loss"].as_f64().map_or("-".to_owned(), |loss| format!("{:.1} %", loss * 100.0)),
            p["rekeys"].as_u64().map_or("-".to_owned(), |n| n.to_string()),
            Cell::yes_no(p["encrypted"] == Value::Bool(true)),
            Cell::yes_no(p["authenticated"] == Value::Bool(true)),
        ]
    });
    let mut text = match peers.len() {
        0 => "no peers".to_owned(),
        _ => out.table(
            &[
                "NODE ID",
                "ENDPOINT",
                "PATH",
                "LAST HEARD",
                "RTT",
                "LOSS",
                "REKEYS",
                "ENCRYPTED",
                "AUTHENTICATED",
            ],
            &["NODE ID", "LAST HEARD", "RTT", "LOSS", "REKEYS"],
            rows.collect(),
        ),
    };
    if shown < peers.len() {
        text += &format!("\n{}", out.dim(&format!("{} more: --all", peers.len() - shown)));
    }
    let total = peers.len();
    Ok(Report::new(json!({ "peers": peers, "total": total }), text))
}

pub(crate) async fn connections(ctx: &Context) -> Outcome {
    let info = ctx.connect().await?.json(&Request::Info).await?;
    let connections = list(&info, "conn_list");
    let rows = connections.iter().map(|c| {
        row![
            number(c, "id").to_string(),
            number(c, "local_port").to_string(),
            format!("{}:{}", text(c, "remote_addr"), number(c, "remote_port")),
            text(c, "state").to_owned(),
            bytes(number(c, "bytes_sent")),
            bytes(number(c, "bytes_recv")),
            format!("{} ms", number(c, "srtt_ms")),
            number(c, "retransmits").to_string(),
        ]
    });
    let head = ["ID", "PORT", "REMOTE", "STATE", "SENT", "RECEIVED", "RTT", "RESENT"];
    let text = match connections.len() {
        0 => "no connections".to_owned(),
        _ => ctx.out.table(&head, &["ID", "PORT", "SENT", "RECEIVED", "RTT", "RESENT"], rows.collect()),
    };
    Ok(Report::new(json!({ "connections": connections, "total": connections.len() }), text))
}

pub(crate) async fn disconnect(ctx: &Context, args: Disconnect) -> Outcome {
    ctx.connect().await?.disconnect(args.id).await?;
    Ok(Report::new(json!({ "conn_id": args.id }), format!("connection {} is closed", args.id)))
}
