//! The suite `net`: the data plane between two processes on loopback. Each metric interleaves its rounds with those of its
//! baseline, so that both meet the same weather on a shared machine, and reports medians.

mod idle;
mod ping;
mod streams;
mod world;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::protocol::Request;
use crate::report::Metric;
use crate::worker::Worker;
use world::World;

/// The metrics that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Name {
    /// One stream, and with it `cpu_per_gib`.
    Stream,
    /// Processor time per GiB of one stream.
    CpuPerGib,
    /// One stream, both sides with datagrams that fit the internet.
    StreamSmallPackets,
    /// One stream, both sides with datagrams that fit loopback.
    StreamLargePackets,
    /// Eight streams at once.
    #[value(name = "streams_8")]
    Streams8,
    /// Round trips.
    Ping,
    /// Streams opened per second.
    Dial,
    /// Memory of open streams.
    #[value(name = "memory_per_1000")]
    MemoryPer1000,
    /// Traffic of hosts with nothing to do.
    Idle,
}

/// What to measure and how long.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Empty: everything.
    pub only: Vec<Name>,
    /// Length of the idle metric.
    pub idle_seconds: u64,
    /// Rounds per transfer.
    pub rounds: u32,
    /// Bytes per round.
    pub bytes: u64,
}

impl Settings {
    fn wants(&self, name: Name) -> bool {
        self.only.is_empty() || self.only.contains(&name)
    }
}

/// Runs the suite.
///
/// # Errors
/// The first thing that breaks; children are ended in any case.
pub async fn run(settings: &Settings) -> Result<Vec<Metric>> {
    let world = World::start().await?;
    let mut metrics = Vec::new();
    if settings.wants(Name::Stream) || settings.wants(Name::CpuPerGib) {
        let found = streams::one(&world, settings).await?;
        metrics.extend(found.into_iter().filter(|m| match m.name {
            "stream" => settings.wants(Name::Stream),
            _ => settings.wants(Name::CpuPerGib),
        }));
    }
    if settings.wants(Name::StreamSmallPackets) {
        metrics.push(streams::small_packets(&world, settings).await?);
    }
    if settings.wants(Name::StreamLargePackets) {
        metrics.push(streams::large_packets(&world, settings).await?);
    }
    if settings.wants(Name::Streams8) {
        metrics.push(streams::eight(&world, settings).await?);
    }
    if settings.wants(Name::Ping) {
        metrics.push(ping::round_trip(&world).await?);
    }
    if settings.wants(Name::Dial) {
        metrics.push(streams::dial(&world).await?);
    }
    if settings.wants(Name::MemoryPer1000) {
        metrics.push(streams::memory(&world).await?);
    }
    if settings.wants(Name::Idle) {
        metrics.push(idle::watch(&world, settings.idle_seconds).await?);
    }
    world.stop().await;
    Ok(metrics)
}

/// Two processes, the first of which can reach the second.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) from: Worker,
    to: Worker,
}

impl Pair {
    pub(crate) async fn start(role: &'static str, args: &[String]) -> Result<Pair> {
        let to = Worker::start(role, args).await?;
        let mut from = Worker::start(role, args).await?;
        from.aim(&to).await?;
        Ok(Pair { from, to })
    }

    /// quinn with its default packet size, or one that grows up to `mtu`.
    async fn quic(mtu: Option<u16>) -> Result<Pair> {
        let args = mtu.map(|mtu| vec!["--mtu".into(), mtu.to_string()]).unwrap_or_default();
        Pair::start("quic", &args).await
    }

    /// A small transfer whose every byte is compared: whatever is measured later is known to work.
    pub(crate) async fn prove(&mut self) -> Result<()> {
        let request = Request::Transfer { streams: 2, bytes: 4 << 20, verify: true };
        self.from.took(&request).await.context("a small transfer before measuring")?;
        Ok(())
    }

    /// Processor seconds of both processes since their start.
    pub(crate) fn cpu(&self) -> Result<f64> {
        Ok((self.from.usage()?.cpu + self.to.usage()?.cpu).as_secs_f64())
    }

    /// Resident bytes of both processes.
    fn resident(&self) -> Result<u64> {
        Ok(self.from.usage()?.resident + self.to.usage()?.resident)
    }

    pub(crate) async fn stop(self) -> Result<()> {
        let (from, to) = (self.from.stop().await, self.to.stop().await);
        from.and(to)
    }
}

/// The middle value, or the mean of the two middle ones.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// Says on standard error what is going on; the result goes to standard output alone.
pub(crate) fn progress(text: &str) {
    eprintln!("bench: {text}");
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn median_of_odd_and_even_counts() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median(&[]).is_nan());
    }
}
