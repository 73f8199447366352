//! `send-message`: one or more data exchange frames and the receiver's answers (dataexchange.md sections 1 and 2).

use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use pilot_net::ipc::Client;
use pilot_wire::dataexchange::{
    ERR_PREFIX, FrameType, PORTABLE_MAX_FRAME, TimingReply, Trace, encode_frame, encode_trace,
};
use serde_json::{Value, json};

use super::{Outcome, mailbox};
use crate::ctl::context::{Context, DIAL_LIMIT, Target};
use crate::ctl::dx::{DataExchange, NoReply};
use crate::ctl::fail::{Failure, code};
use crate::ctl::out::Report;
use crate::ctl::trust_gate;
use crate::ctl::values::{duration, go_duration, ms};

/// How often the inbox is looked at while a reply is awaited.
const INBOX_LOOK: Duration = Duration::from_millis(100);

/// `send-message`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  pilotctl send-message bob --data hello\n  \
              date | pilotctl send-message bob --data -\n  \
              pilotctl send-message bob --data 'how are you?' --wait    (prints what bob sends next)")]
pub(crate) struct SendMessage {
    /// Address, node number or host name.
    peer: String,
    /// The message; `-` reads standard input.
    #[arg(long, allow_hyphen_values = true, value_name = "TEXT", conflicts_with = "data_file")]
    data: Option<String>,
    /// Read the message from a file.
    #[arg(long, value_name = "FILE")]
    data_file: Option<PathBuf>,
    /// What the message is.
    #[arg(long = "type", value_enum, default_value_t = Kind::Text)]
    kind: Kind,
    /// Send it this many times.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// Send all of them over one connection.
    #[arg(long)]
    reuse_conn: bool,
    /// Wait for a message of the peer in the inbox.
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = "30s", value_parser = duration)]
    wait: Option<Duration>,
    /// Let the receiver measure: when it read and stored the message.
    #[arg(long)]
    trace: bool,
    /// Do not ask public peers for trust on the way.
    #[arg(long)]
    no_auto_handshake: bool,
    /// Limit for the connection and for each answer.
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = duration)]
    timeout: Duration,
}

/// Types of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Text,
    Json,
    Binary,
}

impl Kind {
    fn frame(self) -> FrameType {
        match self {
            Kind::Text => FrameType::TEXT,
            Kind::Json => FrameType::JSON,
            Kind::Binary => FrameType::BINARY,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Text => "text",
            Kind::Json => "json",
            Kind::Binary => "binary",
        }
    }
}

pub(crate) async fn run(ctx: &Context, args: SendMessage) -> Outcome {
    let data = payload(&args)?;
    let client = ctx.connect().await?;
    let target = ctx.target(&client, &args.peer).await?;
    trust_gate::check(ctx, &client, &target, !args.no_auto_handshake).await?;
    let watch = match args.wait {
        Some(limit) => Some((mailbox::Watch::start(&ctx.dirs().await.inbox), limit)),
        None => None,
    };

    let limit = args.timeout.min(DIAL_LIMIT);
    let mut results = Vec::new();
    let mut shared = None;
    for seq in 1..=args.count {
        let reused = shared.is_some();
        let mut peer = match shared.take() {
            Some(peer) => peer,
            None => DataExchange::open(&client, &target, limit).await?,
        };
        let mut result = exchange(&mut peer, &args, &data).await?;
        result["seq"] = seq.into();
        result["reused"] = reused.into();
        results.push(result);
        if args.reuse_conn && seq < args.count {
            shared = Some(peer);
        } else {
            // The answer is here, or will not come; what was sent is with the daemon.
            peer.close().await?;
        }
    }
    let mut report = json!({
        "target": target.name, "to": target.addr.to_string(), "type": args.kind.name(), "bytes": data.len()
    });
    let single = results.len() == 1;
    if single {
        merge(&mut report, &results[0]);
    } else {
        report["results"] = results.clone().into();
        report["reuse_conn"] = args.reuse_conn.into();
    }
    if let Some((watch, limit)) = watch {
        report["reply"] = reply(&client, &target, watch, limit).await?;
    }
    let text = describe(ctx, &report, &results);
    if let Some(refusal) =
        results.iter().filter_map(|r| r["ack"].as_str()).find(|a| a.starts_with(ERR_PREFIX))
    {
        return Err(Failure::internal(format!("receiver refused the message: {refusal}")));
    }
    Ok(Report::new(report, text))
}

fn payload(args: &SendMessage) -> Result<Vec<u8>, Failure> {
    let unreadable = |what: &str, e: std::io::Error| Failure::invalid(format!("cannot read {what}: {e}"));
    let data = match (&args.data, &args.data_file) {
        (Some(text), None) if text == "-" => {
            let mut data = Vec::new();
            let limit = u64::from(PORTABLE_MAX_FRAME) + 1;
            std::io::stdin()
                .lock()
                .take(limit)
                .read_to_end(&mut data)
                .map_err(|e| unreadable("standard input", e))?;
            data
        }
        (Some(text), None) => text.clone().into_bytes(),
        (_, Some(path)) => std::fs::read(path).map_err(|e| unreadable(&path.display().to_string(), e))?,
        (None, None) => {
            return Err(Failure::invalid("send-message: nothing to send")
                .hint("give --data <text>, --data -, or --data-file <file>"));
        }
    };
    if data.len() > PORTABLE_MAX_FRAME as usize - Trace::HEADER_LEN {
        return Err(Failure::invalid(format!(
            "send-message: {} bytes are too much for one message",
            data.len()
        ))
        .hint("send it as a file: pilotctl send-file"));
    }
    if args.kind == Kind::Json && serde_json::from_slice::<serde::de::IgnoredAny>(&data).is_err() {
        return Err(Failure::invalid("send-message: --type json needs a JSON document"));
    }
    Ok(data)
}

/// Sends one message and waits for its answer.
async fn exchange(peer: &mut DataExchange, args: &SendMessage, data: &[u8]) -> Result<Value, Failure> {
    let mut frame = Vec::with_capacity(data.len() + 32);
    let encoded = if args.trace {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let sent_at_ns = i64::try_from(since.as_nanos()).unwrap_or(i64::MAX);
        encode_trace(&Trace { inner: args.kind.frame(), sent_at_ns, payload: data }, &mut frame)
    } else {
        encode_frame(args.kind.frame(), data, &mut frame)
    };
    encoded.map_err(|e| Failure::invalid(e.to_string()))?;
    let start = Instant::now();
    peer.send([frame.into()]).await?;
    // Some receivers answer nothing; the message may have arrived all the same.
    let reply = match peer.reply(args.timeout).await {
        Ok(reply) => reply,
        Err(error @ (NoReply::Timeout(_) | NoReply::Closed | NoReply::Garbled(_))) => {
            return Ok(json!({ "ack_error": error.to_string() }));
        }
    };
    let rtt_ms = ms(start.elapsed());
    let mut result = json!({ "ack": String::from_utf8_lossy(&reply.payload), "rtt_ms": rtt_ms });
    if args.trace
        && reply.kind == FrameType::JSON
        && let Ok(timing) = TimingReply::from_json(&reply.payload)
    {
        result["ack"] = timing.inner_ack.clone().into();
        result["trace"] = serde_json::to_value(&timing).unwrap_or_default();
    }
    Ok(result)
}

fn merge(into: &mut Value, from: &Value) {
    if let (Some(into), Some(from)) = (into.as_object_mut(), from.as_object()) {
        into.extend(from.clone());
    }
}

/// The first message of the peer that arrives from now on.
async fn reply(
    client: &Client,
    target: &Target,
    watch: mailbox::Watch,
    limit: Duration,
) -> Result<Value, Failure> {
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        if let Some(message) = watch.first_from(target.addr) {
            return Ok(message);
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(Failure::timeout(format!("no response within {}", go_duration(limit))).hint(
                format!("increase with --wait, or look later: pilotctl inbox --from {}", target.addr),
            ));
        }
        if client.is_closed() {
            return Err(Failure::new(code::NOT_RUNNING, "the daemon stopped while a reply was awaited"));
        }
        tokio::time::sleep(INBOX_LOOK).await;
    }
}

/// When the receiver had it, by its own clock, and when it was stored; empty without `--trace`.
fn traced(trace: &Value) -> String {
    let since = |from: &str, to: &str| Some((trace[to].as_i64()? - trace[from].as_i64()?) as f64 / 1e6);
    let (Some(there), Some(stored)) =
        (since("sent_at_ns", "received_at_ns"), since("received_at_ns", "inbox_written_at_ns"))
    else {
        return String::new();
    };
    format!(" there after {there:.1} ms by both clocks, stored {stored:.1} ms later")
}

fn describe(ctx: &Context, report: &Value, results: &[Value]) -> String {
    let out = &ctx.out;
    let mut lines = Vec::new();
    for result in results {
        let answer = match (result["ack"].as_str(), result["ack_error"].as_str()) {
            (Some(ack), _) => format!(
                "{} {}",
                out.green(ack),
                out.dim(&format!("({:.1} ms)", result["rtt_ms"].as_f64().unwrap_or(0.0)))
            ),
            (None, error) => out.yellow(&format!("sent, not acknowledged: {}", error.unwrap_or("no answer"))),
        };
        let answer = format!("{answer}{}", out.dim(&traced(&result["trace"])));
        lines.push(match results.len() {
            1 => format!(
                "{} bytes to {}: {answer}",
                report["bytes"],
                report["to"].as_str().unwrap_or_default()
            ),
            _ => format!("{}: {answer}", result["seq"]),
        });
    }
    if let Some(data) = report["reply"]["data"].as_str() {
        lines.push(format!("reply: {data}"));
    }
    lines.join("\n")
}
