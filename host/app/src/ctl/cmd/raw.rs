//! Streams and datagrams without a service's protocol: `connect`, `send`, `recv`, `listen`, `dgram`, `broadcast`.

use std::io::Read;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::Args;
use pilot_net::ipc::{Client, Stream};
use pilot_wire::ipc::Request;
use pilot_wire::ports;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::Outcome;
use crate::ctl::context::{Context, DIAL_LIMIT, Target};
use crate::ctl::dx::unreachable_peer;
use crate::ctl::fail::{Failure, code};
use crate::ctl::out::Report;
use crate::ctl::trust_gate;
use crate::ctl::values::{duration, go_duration};

/// Bytes collected of one message or answer; the rest is left.
const MAX_ANSWER: usize = 16 << 20;
/// Pause in the data after which a message of a stream counts as complete.
const QUIET: Duration = Duration::from_millis(500);

/// `connect`
#[derive(Debug, Args)]
pub(crate) struct Connect {
    /// Address, node number or host name.
    peer: String,
    /// The port.
    #[arg(default_value_t = ports::STDIO)]
    port: u16,
    /// Send this instead of standard input.
    #[arg(long, allow_hyphen_values = true, value_name = "TEXT")]
    message: Option<String>,
    /// Limit for the connection and for the answer.
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = duration)]
    timeout: Duration,
}

/// `send`
#[derive(Debug, Args)]
pub(crate) struct Send {
    /// Address, node number or host name.
    peer: String,
    /// The port.
    port: u16,
    /// What to send.
    #[arg(long, allow_hyphen_values = true, value_name = "TEXT")]
    data: String,
    /// Limit for the connection and for the answer.
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = duration)]
    timeout: Duration,
}

/// `recv`
#[derive(Debug, Args)]
#[command(after_help = "Example: pilotctl recv 4000, and at a peer: pilotctl send alice 4000 --data hello")]
pub(crate) struct Recv {
    /// The port to bind.
    port: u16,
    /// How many messages.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// Limit for the whole.
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = duration)]
    timeout: Duration,
}

/// `listen`
#[derive(Debug, Args)]
#[command(
    after_help = "Example: pilotctl listen 5000, and at a peer: pilotctl dgram alice 5000 --data hello"
)]
pub(crate) struct Listen {
    /// The port whose datagrams to show.
    port: u16,
    /// Stop after this many; 0 goes on for ever.
    #[arg(long, default_value_t = 0, value_name = "N")]
    count: u32,
    /// Stop after this time; 0 goes on for ever.
    #[arg(long, default_value = "0", value_name = "DURATION", value_parser = duration)]
    timeout: Duration,
}

/// `dgram`
#[derive(Debug, Args)]
pub(crate) struct Dgram {
    /// Address, node number or host name.
    peer: String,
    /// The port.
    port: u16,
    /// What to send.
    #[arg(long, allow_hyphen_values = true, value_name = "TEXT")]
    data: String,
}

/// `broadcast`
#[derive(Debug, Args)]
pub(crate) struct Broadcast {
    /// The network.
    network: u16,
    /// What to send.
    message: String,
    /// Destination port.
    #[arg(long, default_value_t = ports::STDIO)]
    port: u16,
    /// Admin token [env: PILOT_ADMIN_TOKEN].
    #[arg(long, value_name = "TOKEN")]
    admin_token: Option<String>,
}

/// Dials a peer that passed the trust check.
pub(super) async fn open(
    ctx: &Context,
    client: &Client,
    peer: &str,
    port: u16,
    limit: Duration,
) -> Result<(Target, Stream), Failure> {
    let target = ctx.target(client, peer).await?;
    trust_gate::check(ctx, client, &target, true).await?;
    let stream = client.dial(target.addr, port, limit.min(DIAL_LIMIT)).await.map_err(|e| {
        unreachable_peer(format!("cannot connect to {} port {port}", target.addr), &target, &e)
    })?;
    Ok((target, stream))
}

/// Bytes as JSON has them: text where they are text, else base64 under another name.
pub(super) fn data_members(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!({ "data": text, "bytes": bytes.len() }),
        Err(_) => json!({
            "data": String::from_utf8_lossy(bytes), "data_b64": STANDARD.encode(bytes), "bytes": bytes.len()
        }),
    }
}

/// What the peer says until it closes, or falls silent after having said something.
async fn answer(stream: &Stream, limit: Duration) -> Result<Vec<u8>, Failure> {
    let deadline = Instant::now() + limit;
    let mut out = Vec::new();
    while out.len() < MAX_ANSWER {
        let until = if out.is_empty() { deadline } else { deadline.min(Instant::now() + QUIET) };
        match timeout_at(until, stream.read()).await {
            Ok(Some(data)) => out.extend_from_slice(&data),
            Ok(None) => break,
            Err(_) if out.is_empty() => {
                return Err(Failure::timeout(format!("no response within {}", go_duration(limit)))
                    .hint("increase with --timeout, or see whether anything serves that port"));
            }
            Err(_) => break,
        }
    }
    Ok(out)
}

async fn exchange(ctx: &Context, peer: &str, port: u16, data: Vec<u8>, limit: Duration) -> Outcome {
    let client = ctx.connect().await?;
    let (target, stream) = open(ctx, &client, peer, port, limit).await?;
    let sent = String::from_utf8_lossy(&data).into_owned();
    stream.write(data.into()).await?;
    let response = answer(&stream, limit).await?;
    stream.close().await?;
    let response = String::from_utf8_lossy(&response).into_owned();
    let report = json!({ "target": target.name, "port": port, "sent": sent, "response": response });
    Ok(Report::new(report, response))
}

pub(crate) async fn connect(ctx: &Context, args: Connect) -> Outcome {
    if let Some(message) = args.message {
        return exchange(ctx, &args.peer, args.port, message.into_bytes(), args.timeout).await;
    }
    if ctx.out.json() {
        // One answer for one input: a script has no terminal to talk through.
        let mut input = Vec::new();
        let read = std::io::stdin().lock().take(MAX_ANSWER as u64).read_to_end(&mut input);
        read.map_err(|e| Failure::invalid(format!("cannot read standard input: {e}")))?;
        return exchange(ctx, &args.peer, args.port, input, args.timeout).await;
    }
    let client = ctx.connect().await?;
    let (target, stream) = open(ctx, &client, &args.peer, args.port, args.timeout).await?;
    ctx.out.remark(&format!("connected to {} port {}; end with Ctrl-D", target.addr, args.port));
    let (tx, mut lines) = tokio::sync::mpsc::channel::<Bytes>(16);
    // Standard input cannot be waited for without a thread; it ends with the program.
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        let mut input = std::io::stdin().lock();
        while let Ok(n @ 1..) = input.read(&mut buffer) {
            if tx.blocking_send(Bytes::copy_from_slice(&buffer[..n])).is_err() {
                break;
            }
        }
    });
    let mut deadline = None;
    loop {
        let end = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            data = stream.read() => match data {
                Some(data) => ctx.out.raw(&data),
                None => break,
            },
            line = lines.recv(), if deadline.is_none() => match line {
                Some(line) => stream.write(line).await?,
                // What we sent may still be answered.
                None => deadline = Some(Instant::now() + QUIET),
            },
            () = end => break,
        }
    }
    stream.close().await?;
    Ok(Report::silent(0))
}

pub(crate) async fn send(ctx: &Context, args: Send) -> Outcome {
    exchange(ctx, &args.peer, args.port, args.data.into_bytes(), args.timeout).await
}

pub(crate) async fn recv(ctx: &Context, args: Recv) -> Outcome {
    let client = ctx.connect().await?;
    let listener = client.bind(args.port).await?;
    ctx.out.remark(&format!("waiting on port {}", args.port));
    let deadline = Instant::now() + args.timeout;
    let mut messages = Vec::new();
    let mut timed_out = false;
    for seq in 0..args.count {
        let Ok(accepted) = timeout_at(deadline, listener.accept()).await else {
            timed_out = true;
            break;
        };
        let accepted = accepted.ok_or_else(|| Failure::connection("the daemon closed the connection"))?;
        let left = deadline.saturating_duration_since(Instant::now());
        let mut row = json!({ "seq": seq, "port": args.port, "from": accepted.remote.to_string() });
        match answer(&accepted.stream, left).await {
            Ok(data) => {
                let members = data_members(&data);
                if let (Some(row), Value::Object(members)) = (row.as_object_mut(), members) {
                    row.extend(members);
                }
                if !ctx.out.json() {
                    ctx.out.print(&String::from_utf8_lossy(&data));
                }
            }
            Err(failure) => row["error"] = failure.message.into(),
        }
        messages.push(row);
    }
    let text = if timed_out {
        ctx.out.yellow(&format!("no more messages within {}", go_duration(args.timeout)))
    } else {
        String::new()
    };
    Ok(Report::new(json!({ "messages": messages, "timeout": timed_out }), text))
}

pub(crate) async fn listen(ctx: &Context, args: Listen) -> Outcome {
    let client = ctx.connect().await?;
    ctx.out.remark(&format!("showing datagrams to port {}; end with Ctrl-C", args.port));
    let endless = args.count == 0 && args.timeout.is_zero();
    let deadline = (!args.timeout.is_zero()).then(|| Instant::now() + args.timeout);
    let mut messages = Vec::new();
    let mut timed_out = false;
    while args.count == 0 || messages.len() < args.count as usize {
        let next = client.recv_datagram(args.port);
        let datagram = match deadline {
            Some(at) => match timeout_at(at, next).await {
                Ok(datagram) => datagram,
                Err(_) => {
                    timed_out = true;
                    break;
                }
            },
            None => next.await,
        };
        let d = datagram.ok_or_else(|| Failure::connection("the daemon closed the connection"))?;
        let mut row = json!({ "src_addr": d.from.to_string(), "src_port": d.src_port });
        if let (Some(row), Value::Object(members)) = (row.as_object_mut(), data_members(&d.data)) {
            row.extend(members);
        }
        if endless || !ctx.out.json() {
            ctx.out.line(&row, &format!("{}:{}  {}", d.from, d.src_port, String::from_utf8_lossy(&d.data)));
        }
        if !endless {
            messages.push(row);
        }
    }
    let text = match timed_out {
        true => ctx.out.yellow(&format!("no more datagrams within {}", go_duration(args.timeout))),
        false => String::new(),
    };
    Ok(Report::new(json!({ "messages": messages, "timeout": timed_out }), text))
}

pub(crate) async fn dgram(ctx: &Context, args: Dgram) -> Outcome {
    let client = ctx.connect().await?;
    let target = ctx.target(&client, &args.peer).await?;
    trust_gate::check(ctx, &client, &target, true).await?;
    let bytes = args.data.len();
    let request = Request::SendToConfirmed { to: target.addr, port: args.port, data: args.data.into() };
    client.request(&request).await.map_err(|error| match error.daemon_text() {
        Some(text) => Failure::connection(text.strip_prefix("sendto: ").unwrap_or(text)),
        None => error.into(),
    })?;
    let data = json!({ "target": target.name, "port": args.port, "bytes": bytes });
    Ok(Report::new(data, format!("{bytes} bytes on their way to {} port {}", target.addr, args.port)))
}

pub(crate) async fn broadcast(ctx: &Context, args: Broadcast) -> Outcome {
    let token =
        args.admin_token.or_else(|| ctx.setting("PILOT_ADMIN_TOKEN", "admin_token")).ok_or_else(|| {
            Failure::new(code::AUTH_REQUIRED, "broadcast needs the admin token")
                .hint("set PILOT_ADMIN_TOKEN or admin_token")
        })?;
    let bytes = args.message.len();
    let (network, port) = (args.network, args.port);
    let request = Request::Broadcast { network, port, token, data: args.message.into() };
    ctx.connect().await?.request(&request).await?;
    let data = json!({ "network_id": network, "port": port, "bytes": bytes });
    Ok(Report::new(data, format!("{bytes} bytes sent to the members of network {network}")))
}
