//! Asking for trust, granting it, taking it back.

use std::time::Duration;

use clap::Args;
use pilot_net::ipc::{Client, ClientError};
use pilot_wire::ipc::{HandshakeRequest, Request};
use serde_json::{Value, json};

use super::Outcome;
use crate::ctl::context::Context;
use crate::ctl::fail::{Failure, code};
use crate::ctl::out::{Cell, Report, row};
use crate::ctl::values::{duration, go_duration, list, local_time, number, text};

/// `handshake`
#[derive(Debug, Args)]
#[command(after_help = "Example: pilotctl handshake bob we work together --wait=5m")]
pub(crate) struct Handshake {
    /// Address, node number or host name.
    peer: String,
    /// What the other side's operator will read.
    justification: Vec<String>,
    /// Wait until the other side has approved, at most this long.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "60s", value_name = "DURATION", value_parser = duration)]
    wait: Option<Duration>,
}

/// `approve`
#[derive(Debug, Args)]
pub(crate) struct Approve {
    /// Address, node number or host name.
    peer: String,
}

/// `reject`
#[derive(Debug, Args)]
pub(crate) struct Reject {
    /// Address, node number or host name.
    peer: String,
    /// Told to the other side.
    reason: Vec<String>,
}

/// `trust`
#[derive(Debug, Args)]
pub(crate) struct Trust {
    /// Show at most this many; 0 shows all.
    #[arg(long, default_value_t = 20, value_name = "N")]
    limit: usize,
    /// Only nodes whose number contains this.
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
}

/// `untrust`
#[derive(Debug, Args)]
pub(crate) struct Untrust {
    /// Address, node number or host name.
    peer: String,
}

/// `prefer-direct`
#[derive(Debug, Args)]
pub(crate) struct PreferDirect {
    /// Address, node number or host name.
    peer: String,
}

async fn ask(client: &Client, request: HandshakeRequest) -> Result<Value, ClientError> {
    client.json(&Request::Handshake(request)).await
}

pub(crate) async fn handshake(ctx: &Context, args: Handshake) -> Outcome {
    let client = ctx.connect().await?;
    let target = ctx.target(&client, &args.peer).await?;
    let node = target.addr.node;
    let justification = args.justification.join(" ");
    let mut answer = ask(&client, HandshakeRequest::Request { node, justification }).await?;
    if let Some(limit) = args.wait {
        ctx.out.remark(&format!("trust request sent to node {node}; waiting for its approval"));
        wait_for_trust(&client, node, limit).await?;
        answer["trusted"] = true.into();
        return Ok(Report::new(answer, format!("node {node} trusts this node")));
    }
    let text = match text(&answer, "status") {
        "in_flight" => format!("a request to node {node} is already on its way"),
        _ => format!(
            "trust request sent to node {node}; once the other side approves, it shows up in: pilotctl trust"
        ),
    };
    Ok(Report::new(answer, text))
}

/// The daemon holds one question for at most 30 s (ipc.md section 9), so a longer wait asks again.
async fn wait_for_trust(client: &Client, node: u32, limit: Duration) -> Result<(), Failure> {
    const HOLD: Duration = Duration::from_secs(20);
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        let timeout_ms = u32::try_from(left.min(HOLD).as_millis()).unwrap_or(u32::MAX);
        let answer = ask(client, HandshakeRequest::Wait { node, timeout_ms }).await?;
        if answer["trusted"] == Value::Bool(true) {
            return Ok(());
        }
        if left.is_zero() {
            return Err(Failure::timeout(format!(
                "node {node} did not approve within {}",
                go_duration(limit)
            ))
            .hint("the request stands; once approved it shows up in: pilotctl trust"));
        }
    }
}

pub(crate) async fn pending(ctx: &Context) -> Outcome {
    let answer = ask(&ctx.connect().await?, HandshakeRequest::Pending).await?;
    let pending = list(&answer, "pending");
    let rows = pending.iter().map(|p| {
        row![
            number(p, "node_id").to_string(),
            local_time(number(p, "received_at").cast_signed()),
            text(p, "justification").to_owned(),
        ]
    });
    let text = match pending.len() {
        0 => "no requests are waiting".to_owned(),
        _ => format!(
            "{}\n{}",
            ctx.out.table(&["NODE ID", "RECEIVED AT", "JUSTIFICATION"], &["NODE ID"], rows.collect()),
            ctx.out.dim("decide with: pilotctl approve <node_id>  or  pilotctl reject <node_id>")
        ),
    };
    Ok(Report::new(json!({ "pending": pending }), text))
}

pub(crate) async fn approve(ctx: &Context, args: Approve) -> Outcome {
    let client = ctx.connect().await?;
    let node = ctx.target(&client, &args.peer).await?.addr.node;
    let answer = ask(&client, HandshakeRequest::Approve { node }).await?;
    Ok(Report::new(answer, ctx.out.green(&format!("node {node} is approved"))))
}

pub(crate) async fn reject(ctx: &Context, args: Reject) -> Outcome {
    let client = ctx.connect().await?;
    let node = ctx.target(&client, &args.peer).await?.addr.node;
    let answer = ask(&client, HandshakeRequest::Reject { node, reason: args.reason.join(" ") }).await?;
    Ok(Report::new(answer, format!("node {node} is rejected")))
}

pub(crate) async fn trust(ctx: &Context, args: Trust) -> Outcome {
    let answer = ask(&ctx.connect().await?, HandshakeRequest::Trusted).await?;
    let wanted =
        |t: &&Value| args.search.as_ref().is_none_or(|s| number(t, "node_id").to_string().contains(s));
    let all: Vec<Value> = list(&answer, "trusted").iter().filter(wanted).cloned().collect();
    let shown = if args.limit == 0 { all.len() } else { args.limit.min(all.len()) };
    let rows = all[..shown].iter().map(|t| {
        row![
            number(t, "node_id").to_string(),
            Cell::yes_no(t["mutual"] == Value::Bool(true)),
            match number(t, "network") {
                0 => "-".to_owned(),
                n => n.to_string(),
            },
            local_time(number(t, "approved_at").cast_signed()),
        ]
    });
    let mut text = match all.len() {
        0 => "no trusted nodes".to_owned(),
        _ => ctx.out.table(&["NODE ID", "MUTUAL", "NETWORK", "APPROVED AT"], &["NODE ID"], rows.collect()),
    };
    if shown < all.len() {
        text += &format!("\n{}", ctx.out.dim(&format!("{} more: --limit 0", all.len() - shown)));
    }
    Ok(Report::new(json!({ "trusted": all[..shown], "total": all.len() }), text))
}

pub(crate) async fn untrust(ctx: &Context, args: Untrust) -> Outcome {
    let client = ctx.connect().await?;
    let node = ctx.target(&client, &args.peer).await?.addr.node;
    ask(&client, HandshakeRequest::Revoke { node }).await?;
    Ok(Report::new(json!({ "node_id": node }), format!("node {node} is no longer trusted")))
}

pub(crate) async fn prefer_direct(ctx: &Context, args: PreferDirect) -> Outcome {
    let client = ctx.connect().await?;
    let node = ctx.target(&client, &args.peer).await?.addr.node;
    match client.json(&Request::PreferDirect { node }).await {
        Ok(answer) => {
            Ok(Report::new(answer, format!("the next connection to node {node} tries the direct path")))
        }
        Err(ClientError::Daemon(text)) if text.contains("unknown command") => {
            Err(Failure::new(code::UNAVAILABLE, "this daemon cannot prefer direct paths"))
        }
        Err(error) => Err(error.into()),
    }
}
