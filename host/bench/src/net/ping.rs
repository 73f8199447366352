//! Round trips: control pings between two engines, beside bare UDP between two processes.

use anyhow::Result;
use serde_json::json;

use super::{Pair, World, median, progress};
use crate::report::{Better, Metric};

const ROUNDS: u32 = 5;
const PINGS: u32 = 1000;

/// `ping`.
pub async fn round_trip(world: &World) -> Result<Metric> {
    progress("pings");
    let mut pilots = world.pilots(None).await?;
    let mut echoes = Pair::start("echo", &[]).await?;
    // Keys are agreed and caches are warm after these.
    pilots.from.pings(PINGS / 5).await?;
    echoes.from.pings(PINGS / 5).await?;
    let (mut inner, mut called, mut baseline) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let ours = pilots.from.pings(PINGS).await?;
        inner.extend(ours.0.into_iter().map(micros));
        called.extend(ours.1.into_iter().map(micros));
        baseline.extend(echoes.from.pings(PINGS).await?.0.into_iter().map(micros));
    }
    pilots.stop().await?;
    echoes.stop().await?;
    Ok(Metric {
        name: "ping",
        about: "median round trip of a control ping, engine to engine".into(),
        unit: "µs",
        value: median(&inner),
        baseline: Some((median(&baseline), "bare UDP echo, blocking sockets, same payload")),
        better: Better::Lower,
        more: vec![("called", json!(median(&called).round()))],
    })
}

fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}
