//! Round trips: control pings between two engines, beside bare UDP between two processes, once with the batch calls and the
//! wait that a node needs (the baseline), once with a blocking receive (for whoever compares with that).

use anyhow::Result;

use super::{Pair, World, median, progress};
use crate::report::{Better, Metric, number};

const ROUNDS: u32 = 5;
const PINGS: u32 = 1000;

/// `ping`.
pub async fn round_trip(world: &World) -> Result<Metric> {
    progress("pings");
    let mut pilots = world.pilots(None).await?;
    let mut batch = Pair::start("echo", &["--batch".into()]).await?;
    let mut blocking = Pair::start("echo", &[]).await?;
    // Keys are agreed and caches are warm after these.
    pilots.from.pings(PINGS / 5).await?;
    batch.from.pings(PINGS / 5).await?;
    blocking.from.pings(PINGS / 5).await?;
    let (mut inner, mut called, mut baseline, mut plain) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let ours = pilots.from.pings(PINGS).await?;
        inner.extend(ours.0.into_iter().map(micros));
        called.extend(ours.1.into_iter().map(micros));
        baseline.extend(batch.from.pings(PINGS).await?.0.into_iter().map(micros));
        plain.extend(blocking.from.pings(PINGS).await?.0.into_iter().map(micros));
    }
    pilots.stop().await?;
    batch.stop().await?;
    blocking.stop().await?;
    let (value, plain) = (median(&inner), median(&plain));
    Ok(Metric {
        name: "ping",
        about: "median round trip of a control ping, engine to engine".into(),
        unit: "µs",
        value,
        baseline: Some((median(&baseline), "bare UDP echo with the same batch calls and wait, same payload")),
        better: Better::Lower,
        more: vec![
            ("called", number(median(&called))),
            ("blocking_echo", number(plain)),
            ("ratio_to_blocking_echo", number(value / plain)),
        ],
    })
}

fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}
