//! The suite `registry`: what one rendezvous process serves over loopback, beside a server that does nothing with requests
//! and answers of the same sizes. Rounds of both sides alternate; medians count.

mod relay;
mod tcp;

use std::net::SocketAddr;

use anyhow::{Result, bail};
use clap::ValueEnum;
use serde_json::{Value, json};

use crate::protocol::Target;
use crate::report::{Better, Metric};
use crate::worker::Worker;
use tcp::Plan;

/// The metrics that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Name {
    /// New nodes per second as the peer's v1.9.0 takes them, each on disk before its answer.
    Register,
    /// The same with the signature that the newest nodes send, checked.
    RegisterSigned,
    /// Lookups per second in binary mode.
    BinaryLookup,
    /// Signed resolves per second in binary mode.
    Resolve,
    /// 1200-byte frames per second through the beacon.
    #[value(name = "relay_1200")]
    Relay1200,
}

/// What to measure and how long.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Empty: everything.
    pub only: Vec<Name>,
    /// Rounds per metric.
    pub rounds: u32,
    /// Length of a round, milliseconds.
    pub round_ms: u64,
    /// Connections at a time.
    pub connections: usize,
    /// The same for registrations.
    pub register_connections: usize,
}

/// What the Go peer did on a machine of this kind, and what a bare TCP echo did there (requests per second).
const GO_REGISTER: f64 = 9_200.0;
const GO_LOOKUP: f64 = 38_600.0;
const GO_ECHO: f64 = 72_700.0;
const GO_RELAY: f64 = 38_900.0;

/// Runs the suite.
///
/// # Errors
/// The first thing that breaks; children are ended in any case.
pub async fn run(settings: &Settings) -> Result<Vec<Metric>> {
    eprintln!("bench: the rendezvous runs without its rate limits (requests, registrations, relayed frames)");
    let wants = |name| settings.only.is_empty() || settings.only.contains(&name);
    let server = Worker::start("rendezvous", &[]).await?;
    let bare = Worker::start("answer", &[]).await?;
    let (Target::Rendezvous { registry, beacon, .. }, Target::Tcp(echo)) = (&server.target, &bare.target)
    else {
        bail!("a child is not what it should be");
    };
    let mut metrics = Vec::new();
    // Registering also makes the nodes that the others ask for.
    let (unsigned, signed, nodes) = register(settings, *registry, *echo).await?;
    metrics.extend(wants(Name::Register).then_some(unsigned));
    metrics.extend(wants(Name::RegisterSigned).then_some(signed));
    if wants(Name::BinaryLookup) {
        let plan = Plan::lookups(*registry, settings.connections, &nodes).await?;
        let (ours, theirs) = tcp::measure(settings, *registry, *echo, &plan).await?;
        metrics.push(Metric {
            name: "binary_lookup",
            about: format!("lookups in binary mode, {} connections", settings.connections),
            unit: "requests/s",
            value: ours,
            baseline: Some((theirs, "bare TCP answers of the same sizes")),
            better: Better::Higher,
            more: vec![("go_peer_ratio", json!(round(GO_LOOKUP / GO_ECHO)))],
        });
    }
    if wants(Name::Resolve) {
        metrics.push(resolve(settings, *registry, *echo, &nodes).await?);
    }
    if wants(Name::Relay1200) {
        let (ours, theirs) = relay::measure(settings, *beacon).await?;
        metrics.push(Metric {
            name: "relay_1200",
            about: "1200-byte frames that arrive through the beacon, one sender, one receiver".into(),
            unit: "frames/s",
            value: ours,
            baseline: Some((theirs, "bare UDP echo with blocking sockets, same client")),
            better: Better::Higher,
            more: vec![("times_go_peer", json!(round(ours / GO_RELAY)))],
        });
    }
    bare.stop().await?;
    server.stop().await?;
    Ok(metrics)
}

async fn resolve(
    settings: &Settings,
    registry: SocketAddr,
    echo: SocketAddr,
    nodes: &[tcp::Node],
) -> Result<Metric> {
    let mut plans = tcp::Resolves::new(registry, settings, nodes).await?;
    let (mut ours, mut theirs, mut again) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..settings.rounds {
        let plan = plans.fresh()?;
        let round = tcp::round(settings, registry, &plan).await?;
        ours.push(round.per_second);
        theirs.push(tcp::round_bare(settings, echo, &plan, round.answer_len).await?);
        again.push(tcp::round(settings, registry, &plan.repeated()).await?.per_second);
    }
    let again = median(&mut again);
    Ok(Metric {
        name: "resolve",
        about: format!(
            "resolves in binary mode, each with a signature the registry has not seen before, {} connections",
            settings.connections
        ),
        unit: "requests/s",
        value: median(&mut ours),
        baseline: Some((median(&mut theirs), "bare TCP answers of the same sizes")),
        better: Better::Higher,
        // What nodes do that ask again for a peer: the very same signature.
        more: vec![("again", json!(round(again)))],
    })
}

/// Both kinds of registrations, and the nodes that came of the signed ones.
async fn register(
    settings: &Settings,
    registry: SocketAddr,
    echo: SocketAddr,
) -> Result<(Metric, Metric, Vec<tcp::Node>)> {
    // Each answer waits for the disk, and whoever waits asks for nothing.
    let settings = &Settings { connections: settings.register_connections, ..settings.clone() };
    let mut nodes = Vec::new();
    let (mut unsigned, mut signed) = (Rounds::default(), Rounds::default());
    for _ in 0..settings.rounds {
        let plan = Plan::registrations(settings, false)?;
        let round = unsigned.add(settings, registry, echo, &plan).await?;
        // Refusals would be fast, too.
        plan.nodes(&round)?;
        let plan = Plan::registrations(settings, true)?;
        let round = signed.add(settings, registry, echo, &plan).await?;
        nodes.extend(plan.nodes(&round)?);
    }
    let with = settings.register_connections;
    let unsigned = unsigned.metric(
        "register",
        format!(
            "new nodes, each on disk before its answer, {with} connections; no signatures, which the peer's v1.9.0 does not \
             check either. The Go peer did {GO_REGISTER} where a bare echo did {GO_ECHO}"
        ),
    );
    let mut signed = signed.metric(
        "register_signed",
        format!(
            "the same with a signature to check in each, as the newest nodes register, {with} connections"
        ),
    );
    signed.more.push(("nodes", json!(nodes.len())));
    Ok((unsigned, signed, nodes))
}

/// Registrations per second, and what the bare server did with the same sizes right behind.
#[derive(Default)]
struct Rounds {
    ours: Vec<f64>,
    theirs: Vec<f64>,
}

impl Rounds {
    async fn add(
        &mut self,
        settings: &Settings,
        registry: SocketAddr,
        echo: SocketAddr,
        plan: &Plan,
    ) -> Result<tcp::Round> {
        let round = tcp::round(settings, registry, plan).await?;
        self.ours.push(round.per_second);
        self.theirs.push(tcp::round_bare(settings, echo, plan, round.answer_len).await?);
        Ok(round)
    }

    fn metric(mut self, name: &'static str, about: String) -> Metric {
        let (ours, theirs) = (median(&mut self.ours), median(&mut self.theirs));
        let share = (ours / theirs) / (GO_REGISTER / GO_ECHO);
        let more: Vec<(&'static str, Value)> = vec![
            ("times_go_peer_share", json!(round(share))),
            ("go_peer_share_is", json!(round(GO_REGISTER / GO_ECHO))),
        ];
        Metric {
            name,
            about,
            unit: "registrations/s",
            value: ours,
            baseline: Some((theirs, "bare TCP answers of the same sizes")),
            better: Better::Higher,
            more,
        }
    }
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// Sorts; 0 for nothing.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
