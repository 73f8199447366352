//! `ping`, `traceroute`, `bench`: measuring through the echo service on port 7 (cli.md section 2).
//!
//! Times are taken from just before the data is handed to the daemon until its echo is back, so they include both daemons
//! and the two local sockets' work, and not the setup of the stream, which is told apart.

use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use pilot_net::ipc::{Client, ClientError, Stream};
use pilot_wire::ports;
use serde_json::{Value, json};

use super::Outcome;
use crate::ctl::context::{Context, DIAL_LIMIT, Target};
use crate::ctl::dx::unreachable_peer;
use crate::ctl::fail::Failure;
use crate::ctl::out::Report;
use crate::ctl::trust_gate;
use crate::ctl::values::{bytes, duration, go_duration, ms, rounded, took};

/// Bytes of one write of `bench`.
const BENCH_WRITE: usize = 4096;

/// `ping`
#[derive(Debug, Args)]
pub(crate) struct Ping {
    /// Address, node number or host name.
    peer: String,
    /// How many.
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// Limit for each.
    #[arg(long, default_value = "5s", value_name = "DURATION", value_parser = duration)]
    timeout: Duration,
    /// Pause between two.
    #[arg(long, default_value = "1s", value_name = "DURATION", value_parser = duration)]
    interval: Duration,
}

/// `traceroute`
#[derive(Debug, Args)]
pub(crate) struct Traceroute {
    /// Address, node number or host name.
    peer: String,
    /// Limit for setup and for each sample.
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = duration)]
    timeout: Duration,
}

/// `bench`
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Address, node number or host name.
    peer: String,
    /// MiB to send.
    #[arg(default_value_t = 1.0)]
    mb: f64,
    /// Limit for the whole.
    #[arg(long, default_value = "120s", value_name = "DURATION", value_parser = duration)]
    timeout: Duration,
}

async fn prepare(ctx: &Context, peer: &str) -> Result<(Client, Target), Failure> {
    let client = ctx.connect().await?;
    let target = ctx.target(&client, peer).await?;
    trust_gate::check(ctx, &client, &target, true).await?;
    Ok((client, target))
}

pub(crate) async fn ping(ctx: &Context, args: Ping) -> Outcome {
    let (client, target) = prepare(ctx, &args.peer).await?;
    let out = &ctx.out;
    out.remark(&format!("PING {} ({})", target.name, target.addr));
    let mut results = Vec::new();
    for seq in 0..args.count {
        if seq > 0 {
            tokio::time::sleep(args.interval).await;
        }
        let result = one_ping(&client, &target, seq, args.timeout).await;
        if !out.json() {
            out.print(&match (result["error"].as_str(), result["rtt_ms"].as_f64()) {
                (None, Some(rtt)) => format!("seq={seq} bytes={} time={rtt:.3} ms", result["bytes"]),
                (error, _) => out.red(&format!("seq={seq} {}", error.unwrap_or("no answer"))),
            });
        }
        let closed = client.is_closed();
        results.push(result);
        if closed {
            break;
        }
    }
    let good: Vec<f64> =
        results.iter().filter(|r| r["error"].is_null()).filter_map(|r| r["rtt_ms"].as_f64()).collect();
    let lost = results.len() - good.len();
    let mut text = format!("{} sent, {} answered, {lost} lost", results.len(), good.len());
    if !good.is_empty() {
        let (min, max) = good.iter().fold((f64::MAX, 0.0_f64), |(lo, hi), &r| (lo.min(r), hi.max(r)));
        let mean = good.iter().sum::<f64>() / good.len() as f64;
        text += &format!("; min {min:.3} / avg {mean:.3} / max {max:.3} ms");
    }
    let data = json!({ "target": target.name, "results": results, "timeout": lost > 0 });
    Ok(Report::new(data, out.bold(&text)))
}

/// A stream of its own, as the Go tool does, so that a lost stream is one lost ping.
async fn one_ping(client: &Client, target: &Target, seq: u32, limit: Duration) -> Value {
    let start = Instant::now();
    let stream = match client.dial(target.addr, ports::ECHO, limit).await {
        Ok(stream) => stream,
        Err(error) => return json!({ "seq": seq, "error": cause(&error) }),
    };
    let setup = start.elapsed();
    let payload = format!("ping-{seq}");
    let begin = Instant::now();
    let left = limit.saturating_sub(setup);
    let outcome = tokio::time::timeout(left, echo(&stream, payload.as_bytes())).await;
    let rtt = begin.elapsed();
    // Not waited for; the next ping has its own stream.
    let _ = stream.close().await;
    match outcome {
        Ok(Ok(())) => {
            json!({ "seq": seq, "bytes": payload.len(), "rtt_ms": ms(rtt), "setup_ms": ms(setup) })
        }
        Ok(Err(error)) => json!({ "seq": seq, "rtt_ms": ms(rtt), "error": error }),
        Err(_) => {
            json!({ "seq": seq, "rtt_ms": ms(rtt), "error": format!("no response within {}", go_duration(limit)) })
        }
    }
}

/// Sends `payload` and waits until all of it is back.
async fn echo(stream: &Stream, payload: &[u8]) -> Result<(), String> {
    stream.write(Bytes::copy_from_slice(payload)).await.map_err(|e| e.to_string())?;
    let mut back = Vec::new();
    while back.len() < payload.len() {
        back.extend_from_slice(&stream.read().await.ok_or("the peer closed the stream")?);
    }
    if back == payload { Ok(()) } else { Err("the echo differs from what was sent".to_owned()) }
}

fn cause(error: &ClientError) -> String {
    error.daemon_text().map_or_else(|| error.to_string(), str::to_owned)
}

pub(crate) async fn traceroute(ctx: &Context, args: Traceroute) -> Outcome {
    let (client, target) = prepare(ctx, &args.peer).await?;
    let start = Instant::now();
    let stream =
        client.dial(target.addr, ports::ECHO, args.timeout.min(DIAL_LIMIT)).await.map_err(|error| {
            unreachable_peer(
                format!("cannot connect to {} port {}", target.addr, ports::ECHO),
                &target,
                &error,
            )
        })?;
    let setup_ms = ms(start.elapsed());
    let mut data = json!({ "target": target.name, "setup_ms": setup_ms });
    let mut lines = vec![format!("setup {setup_ms:.3} ms")];
    let mut samples = Vec::new();
    for n in 0..3 {
        let payload = format!("trace-{n}");
        let begin = Instant::now();
        match tokio::time::timeout(args.timeout, echo(&stream, payload.as_bytes())).await {
            Ok(Ok(())) => {
                let rtt = ms(begin.elapsed());
                samples.push(json!({ "rtt_ms": rtt, "bytes": payload.len() }));
                lines.push(format!("{} bytes {rtt:.3} ms", payload.len()));
            }
            Ok(Err(error)) => data["error"] = error.into(),
            Err(_) => data["error"] = format!("no response within {}", go_duration(args.timeout)).into(),
        }
        if let Some(error) = data["error"].as_str() {
            lines.push(ctx.out.red(error));
            break;
        }
    }
    if data["error"].is_null() {
        data["rtt_samples"] = samples.into();
    }
    stream.close().await?;
    Ok(Report::new(data, lines.join("\n")))
}

pub(crate) async fn bench(ctx: &Context, args: Bench) -> Outcome {
    const MIB: f64 = (1 << 20) as f64;
    if !(args.mb > 0.0 && args.mb <= 65_536.0) {
        return Err(Failure::invalid("bench: the size must be above 0 and at most 65536 MiB"));
    }
    let total = (args.mb * MIB) as u64;
    let (client, target) = prepare(ctx, &args.peer).await?;
    let stream = client.dial(target.addr, ports::ECHO, DIAL_LIMIT).await.map_err(|error| {
        unreachable_peer(format!("cannot connect to {} port {}", target.addr, ports::ECHO), &target, &error)
    })?;
    let block = Bytes::from(vec![0x5A; BENCH_WRITE]);
    let start = Instant::now();
    let send = async {
        let mut left = total;
        while left > 0 {
            // Many writes' worth in one system call; the stream sees the same bytes.
            let mut pieces = Vec::new();
            while left > 0 && pieces.len() < 64 {
                let n = left.min(BENCH_WRITE as u64) as usize;
                pieces.push(block.slice(..n));
                left -= n as u64;
            }
            stream.write_all(pieces).await?;
        }
        Ok::<_, ClientError>(start.elapsed())
    };
    let receive = async {
        let mut got = 0;
        while got < total {
            match stream.read().await {
                Some(data) => got += data.len() as u64,
                None => break,
            }
        }
        got
    };
    let both = tokio::time::timeout(args.timeout, async { tokio::join!(send, receive) }).await;
    let (sent, received) = both.map_err(|_| {
        Failure::timeout(format!("no response within {}", go_duration(args.timeout)))
            .hint("increase with --timeout, or send less")
    })?;
    let (send_time, all_time) = (sent?, start.elapsed());
    stream.close().await?;
    let rate = |bytes: u64, time: Duration| rounded(bytes as f64 / MIB / time.as_secs_f64().max(1e-9));
    let data = json!({
        "target": target.name,
        "sent_bytes": total,
        "recv_bytes": received,
        "send_duration_ms": ms(send_time),
        "total_duration_ms": ms(all_time),
        "send_mbps": rate(total, send_time),
        "total_mbps": rate(received, all_time),
    });
    let text = format!(
        "{} out in {}, {} back after {}: {} each way",
        bytes(total),
        took(send_time),
        bytes(received),
        took(all_time),
        ctx.out.bold(&format!("{:.1} MiB/s", rate(received, all_time)))
    );
    Ok(Report::new(data, text))
}
