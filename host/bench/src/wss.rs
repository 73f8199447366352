//! The suite `wss`: one stream between two nodes without UDP, each with a WebSocket (TLS) to one beacon, beside the same
//! stream through the same beacon over UDP, and beside a bare TLS connection that passes nobody. The rounds of all three
//! take turns. Every byte of the first is encrypted three times: by the tunnel, and by TLS on each of its two ways.

use anyhow::{Context, Result};
use serde_json::json;

use crate::net::{Pair, median, progress};
use crate::protocol::{Request, Target};
use crate::report::{Better, Metric};
use crate::worker::Worker;

/// Runs the suite: so many rounds of so many bytes.
///
/// # Errors
/// The first thing that breaks; children are ended in any case.
pub async fn run(rounds: u32, bytes: u64) -> Result<Vec<Metric>> {
    let rendezvous = Worker::start("rendezvous", &[]).await?;
    let Target::Rendezvous { registry, beacon, compat, pin } = rendezvous.target.clone() else {
        anyhow::bail!("the rendezvous is something else");
    };
    let at = ["--registry".to_owned(), registry.to_string(), "--beacon".to_owned(), beacon.to_string()];
    let with = |more: &[String]| [&at[..], more].concat();
    let url = format!("wss://{compat}/v1/compat");
    let wss = Pair::start("pilot", &with(&["--compat".to_owned(), url, "--pin".to_owned(), pin])).await;
    let mut pairs = [
        ("wss", wss.context("nodes over WebSockets")?),
        ("relay", Pair::start("pilot", &with(&["--relay-only".to_owned()])).await.context("relayed nodes")?),
        ("tls", Pair::start("tls", &[]).await.context("bare TLS")?),
    ];
    let round = Request::Transfer { streams: 1, bytes, verify: false };
    for (_, pair) in &mut pairs {
        pair.prove().await?;
        pair.from.took(&Request::Transfer { streams: 1, bytes: bytes / 4, verify: true }).await?;
    }
    let mut rates = [const { Vec::new() }; 3];
    for n in 1..=rounds {
        for ((name, pair), rates) in pairs.iter_mut().zip(&mut rates) {
            let seconds = pair.from.took(&round).await.with_context(|| format!("a transfer ({name})"))?;
            rates.push(bytes as f64 / 1e6 / seconds.as_secs_f64());
        }
        let now: Vec<f64> = rates.iter().filter_map(|r| r.last().copied()).collect();
        progress(&format!("round {n}: wss, UDP relay, bare TLS: {now:.0?} MB/s"));
    }
    for (_, pair) in pairs {
        pair.stop().await?;
    }
    rendezvous.stop().await?;
    let [wss, relay, tls] = &rates;
    let rounded = |values: &[f64]| values.iter().map(|v| json!(v.round())).collect();
    let metric = |name, about: &str, ours: &[f64], baseline: (&[f64], &'static str)| Metric {
        name,
        about: about.into(),
        unit: "MB/s",
        value: median(ours),
        baseline: Some((median(baseline.0), baseline.1)),
        better: Better::Higher,
        more: vec![("rounds", rounded(ours)), ("baseline_rounds", rounded(baseline.0))],
    };
    let over = "one stream between two nodes, each over a WebSocket to the same beacon, no relay limit";
    let bare = "bare TLS 1.3 (AES-256-GCM) between the two processes, nobody in between";
    Ok(vec![
        metric("stream_wss", over, wss, (relay, "UDP through the same beacon, same nodes otherwise")),
        metric("stream_wss_beside_tls", over, wss, (tls, bare)),
        metric("stream_udp_relay", "the same over UDP through the beacon", relay, (tls, bare)),
    ])
}
