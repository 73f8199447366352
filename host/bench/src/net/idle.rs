//! What two hosts send when there is nothing to do: registry and beacon duties, tunnel keepalives.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::{Pair, World, progress};
use crate::meter::Meter;
use crate::protocol::Request;
use crate::report::{Better, Metric};

/// From the start to the first look: a heartbeat comes a minute after the start and up to 5 s later, and the minute that is
/// watched must have its share of them.
const SETTLE: Duration = Duration::from_secs(8);

/// `idle`: every byte of payload that two hosts with an open tunnel and no stream send or receive for `seconds`, over UDP
/// and TCP, each byte counted once. IP and transport headers are not in it.
pub async fn watch(world: &World, seconds: u64) -> Result<Metric> {
    progress(&format!("two idle hosts, {seconds} s"));
    let meter = Meter::start(world.registry(), world.beacon()).await?;
    let mut pair = World::pilots_at(meter.registry, meter.beacon, None).await?;
    // A tunnel that was used: idle hosts keep it.
    pair.from.took(&Request::Dial { count: 1, parallel: 1 }).await?;
    tokio::time::sleep(SETTLE).await;
    let before = count(&meter, &mut pair).await?;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let after = count(&meter, &mut pair).await?;
    pair.stop().await?;
    let udp = after.0 - before.0;
    let tcp = after.1 - before.1;
    let rate = (udp + tcp) as f64 / seconds as f64;
    Ok(Metric {
        name: "idle",
        about: about(seconds),
        unit: "B/s",
        value: rate,
        baseline: None,
        better: Better::Lower,
        more: vec![
            ("bytes_per_s", json!((rate * 10.0).round() / 10.0)),
            ("seconds", json!(seconds)),
            ("udp_bytes", json!(udp)),
            ("registry_bytes", json!(tcp)),
        ],
    })
}

fn about(seconds: u64) -> String {
    let short =
        if seconds < 60 { " (less than a minute: may lack the heartbeats, one a minute)" } else { "" };
    format!("all payload of two idle hosts with a tunnel between them, registry and beacon included{short}")
}

/// UDP and TCP bytes so far: what the nodes sent, what the beacon sent to them, and the registry connections.
async fn count(meter: &Meter, pair: &mut Pair) -> Result<(u64, u64)> {
    let (from, _) = pair.from.counters().await?;
    let (to, _) = pair.to.counters().await?;
    Ok((from + to + meter.beacon_bytes(), meter.registry_bytes()))
}
