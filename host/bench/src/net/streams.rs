//! Throughput, processor time, dials and memory of streams, beside quinn doing the same work.

use anyhow::Result;
use serde_json::json;

use super::{Pair, Settings, World, median, progress};
use crate::protocol::Request;
use crate::report::{Better, Metric};

/// The largest payload of one datagram over IPv4 on an internet path of 1500 bytes is 1472; quinn's MTU discovery stops at
/// 1452 by default, and this is what Pilot's default segment for unknown paths is.
const SMALL_SEGMENT: usize = 1152;
/// Datagrams as large as Pilot's own on loopback.
const LARGE_MTU: u16 = 16_384;
/// Dials per round, how many run at a time, and rounds.
const DIALS: u32 = 1000;
const DIALS_AT_ONCE: u32 = 16;
const DIAL_ROUNDS: u32 = 5;
/// Streams opened before memory is measured, so that tables and allocators have their first size.
const MEMORY_WARM_UP: u32 = 200;
const MEMORY_STREAMS: u32 = 1000;

/// Rates and processor times of interleaved rounds.
struct Race {
    ours: Vec<f64>,
    baseline: Vec<f64>,
    our_cpu: f64,
    baseline_cpu: f64,
    gib: f64,
}

async fn race(ours: Pair, baseline: Pair, streams: u32, settings: &Settings) -> Result<Race> {
    let (mut ours, mut baseline) = (ours, baseline);
    let round = Request::Transfer { streams, bytes: settings.bytes, verify: false };
    let warm_up = Request::Transfer { streams, bytes: settings.bytes / 4, verify: true };
    for pair in [&mut ours, &mut baseline] {
        pair.prove().await?;
        pair.from.took(&warm_up).await?;
    }
    let cpu = (ours.cpu()?, baseline.cpu()?);
    let rate = |seconds: f64| settings.bytes as f64 / 1e6 / seconds;
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for n in 1..=settings.rounds {
        // Each goes first every other time.
        let mut turns = [(&mut ours, &mut a), (&mut baseline, &mut b)];
        if n % 2 == 0 {
            turns.reverse();
        }
        for (pair, rates) in turns {
            rates.push(rate(pair.from.took(&round).await?.as_secs_f64()));
        }
        let (a, b) = (a[a.len() - 1], b[b.len() - 1]);
        progress(&format!("round {n}, streams {streams}: pilot {a:.0} MB/s, quinn {b:.0} MB/s"));
    }
    let race = Race {
        our_cpu: ours.cpu()? - cpu.0,
        baseline_cpu: baseline.cpu()? - cpu.1,
        ours: a,
        baseline: b,
        gib: settings.bytes as f64 * f64::from(settings.rounds) / f64::from(1 << 30),
    };
    ours.stop().await?;
    baseline.stop().await?;
    Ok(race)
}

fn rate_metric(name: &'static str, about: &str, baseline: &'static str, race: &Race) -> Metric {
    Metric {
        name,
        about: about.into(),
        unit: "MB/s",
        value: median(&race.ours),
        baseline: Some((median(&race.baseline), baseline)),
        better: Better::Higher,
        more: vec![("rounds", rounded(&race.ours)), ("baseline_rounds", rounded(&race.baseline))],
    }
}

fn rounded(values: &[f64]) -> serde_json::Value {
    values.iter().map(|v| json!(v.round())).collect()
}

/// `stream` and `cpu_per_gib`.
pub async fn one(world: &World, settings: &Settings) -> Result<Vec<Metric>> {
    progress("one stream");
    let race = race(world.pilots(None).await?, Pair::quic(None).await?, 1, settings).await?;
    let stream = rate_metric(
        "stream",
        "one stream between two processes, both sides with their own packet size",
        "quinn, AES-256-GCM, default packet size, large windows",
        &race,
    );
    let cpu = Metric {
        name: "cpu_per_gib",
        about: "processor seconds of both processes per GiB of one stream".into(),
        unit: "s/GiB",
        value: race.our_cpu / race.gib,
        baseline: Some((race.baseline_cpu / race.gib, "quinn, same transfers")),
        better: Better::Lower,
        more: Vec::new(),
    };
    Ok(vec![stream, cpu])
}

/// `stream_small_packets`: what the packet size of loopback hides.
pub async fn small_packets(world: &World, settings: &Settings) -> Result<Metric> {
    progress("one stream, small packets");
    let pilots = world.pilots(Some(SMALL_SEGMENT)).await?;
    let race = race(pilots, Pair::quic(None).await?, 1, settings).await?;
    let about = "one stream, segments of 1152 bytes as on an unknown internet path";
    Ok(rate_metric("stream_small_packets", about, "quinn, packets of up to 1452 bytes (its default)", &race))
}

/// `stream_large_packets`: the same packet size for both on loopback.
pub async fn large_packets(world: &World, settings: &Settings) -> Result<Metric> {
    progress("one stream, large packets");
    let quic = Pair::quic(Some(LARGE_MTU)).await?;
    let race = race(world.pilots(None).await?, quic, 1, settings).await?;
    let about = "one stream, both sides with the large packets that loopback allows";
    Ok(rate_metric("stream_large_packets", about, "quinn, MTU discovery up to 16384 bytes", &race))
}

/// `streams_8`.
pub async fn eight(world: &World, settings: &Settings) -> Result<Metric> {
    progress("eight streams");
    let race = race(world.pilots(None).await?, Pair::quic(None).await?, 8, settings).await?;
    let about = "eight streams at once, all together";
    Ok(rate_metric("streams_8", about, "quinn, eight streams of one connection", &race))
}

/// `dial`.
pub async fn dial(world: &World) -> Result<Metric> {
    progress("dials");
    let mut pairs = [world.pilots(None).await?, Pair::start("tcp", &[]).await?, Pair::quic(None).await?];
    let mut rates = [const { Vec::new() }; 3];
    let warm_up = Request::Dial { count: DIALS / 10, parallel: DIALS_AT_ONCE };
    for pair in &mut pairs {
        pair.from.took(&warm_up).await?;
    }
    let round = Request::Dial { count: DIALS, parallel: DIALS_AT_ONCE };
    for _ in 0..DIAL_ROUNDS {
        for (pair, rates) in pairs.iter_mut().zip(&mut rates) {
            rates.push(f64::from(DIALS) / pair.from.took(&round).await?.as_secs_f64());
        }
    }
    for pair in pairs {
        pair.stop().await?;
    }
    let [ours, tcp, quic] = rates.map(|rates| median(&rates));
    Ok(Metric {
        name: "dial",
        about: format!("streams opened, one byte there and back, closed; {DIALS_AT_ONCE} at a time"),
        unit: "1/s",
        value: ours,
        baseline: Some((tcp, "kernel TCP over loopback, not encrypted")),
        better: Better::Higher,
        more: vec![("quinn_streams_without_handshake", json!(quic.round()))],
    })
}

/// `memory_per_1000`.
pub async fn memory(world: &World) -> Result<Metric> {
    progress("memory of open streams");
    let ours = growth(world.pilots(None).await?).await?;
    let baseline = growth(Pair::quic(None).await?).await?;
    Ok(Metric {
        name: "memory_per_1000",
        about: "growth of both processes' resident memory by 1000 open streams that carried a byte each way"
            .into(),
        unit: "KiB",
        value: ours,
        baseline: Some((baseline, "quinn, same streams on one connection")),
        better: Better::Lower,
        more: Vec::new(),
    })
}

async fn growth(mut pair: Pair) -> Result<f64> {
    pair.from.done(&Request::Hold { count: MEMORY_WARM_UP }).await?;
    let before = pair.resident()?;
    pair.from.done(&Request::Hold { count: MEMORY_STREAMS }).await?;
    let after = pair.resident()?;
    pair.stop().await?;
    Ok(after.saturating_sub(before) as f64 / 1024.0)
}
