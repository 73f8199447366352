//! `pilot-bench`: measures Pilot Host beside a baseline, both in the same run on the same machine. Called by
//! `scripts/bench`. Every measured peer is a process of its own: this program again, in a hidden role (see `role`).
//!
//! Not a test: it fails only when something breaks, never because a number is bad.
#![forbid(unsafe_code)]

mod abi;
mod meter;
mod net;
mod proc;
mod protocol;
mod registry;
mod report;
mod role;
mod worker;
mod wss;

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Measures Pilot Host beside a baseline from the same run.
#[derive(Debug, Parser)]
#[command(name = "pilot-bench", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    suite: Suite,
}

#[derive(Debug, Subcommand)]
enum Suite {
    /// The data plane between two processes on loopback: streams, pings, dials, memory, idle traffic.
    Net(NetArgs),
    /// One rendezvous on loopback: registrations, lookups, resolves, relayed frames.
    Registry(RegistryArgs),
    /// One stream between nodes without UDP, over a WebSocket each, beside UDP through the same beacon and bare TLS.
    Wss(WssArgs),
    /// What a call costs across the border of a plugin file, beside plain `dyn` in the same process.
    Abi(AbiArgs),
    /// The process of an isolated plugin, for the suite `abi`.
    #[command(hide = true)]
    PluginChild,
    /// One of the processes that a suite starts.
    #[command(hide = true)]
    Role {
        #[command(subcommand)]
        role: Role,
    },
}

#[derive(Debug, Args)]
struct NetArgs {
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Only these metrics (comma separated).
    #[arg(long, value_delimiter = ',', value_name = "METRIC")]
    only: Vec<net::Name>,
    /// How long to watch two idle hosts.
    #[arg(long, default_value_t = 60, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=3600))]
    idle_seconds: u64,
    /// Rounds of each transfer; their median counts.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// MiB per round of a transfer.
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=65536))]
    mib: u64,
}

#[derive(Debug, Args)]
struct RegistryArgs {
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Only these metrics (comma separated).
    #[arg(long, value_delimiter = ',', value_name = "METRIC")]
    only: Vec<registry::Name>,
    /// Rounds of each metric; their median counts.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Length of a round, milliseconds.
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u64).range(10..=60000))]
    round_ms: u64,
    /// Connections at a time.
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    connections: u16,
    /// Connections at a time for registrations, whose answers wait for the disk.
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    register_connections: u16,
}

#[derive(Debug, Args)]
struct WssArgs {
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Rounds of each transfer; their median counts.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// MiB per round of a transfer.
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=65536))]
    mib: u64,
}

#[derive(Debug, Args)]
struct AbiArgs {
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Short turns of each side per row; the fastest counts, and the median where another process is asked.
    #[arg(long, default_value_t = 301, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// A public Pilot node.
    Pilot(role::pilot::Options),
    /// A quinn endpoint.
    Quic {
        /// Largest UDP payload that MTU discovery may find.
        #[arg(long)]
        mtu: Option<u16>,
    },
    /// A UDP echo.
    Echo {
        /// With the batch calls and the wait of a node instead of a blocking receive.
        #[arg(long)]
        batch: bool,
    },
    /// A TCP server.
    Tcp,
    /// A TLS server.
    Tls,
    /// A TCP server that answers without looking.
    Answer,
    /// A rendezvous.
    Rendezvous,
}

fn main() -> ExitCode {
    let suite = Cli::parse().suite;
    if matches!(suite, Suite::PluginChild) {
        // Before a runtime opens anything: a child closes what it did not ask for.
        eprintln!("bench: {}", pilot_loader::child::child_main());
        return ExitCode::FAILURE;
    }
    match start(suite) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench: {e:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn start(suite: Suite) -> anyhow::Result<()> {
    run(suite).await
}

async fn run(suite: Suite) -> anyhow::Result<()> {
    match suite {
        Suite::PluginChild => anyhow::bail!("a child is not started from here"),
        Suite::Net(args) => {
            let settings = net::Settings {
                only: args.only,
                idle_seconds: args.idle_seconds,
                rounds: args.rounds,
                bytes: args.mib << 20,
            };
            let metrics = net::run(&settings).await?;
            print(args.json, &metrics)
        }
        Suite::Registry(args) => {
            let settings = registry::Settings {
                only: args.only,
                rounds: args.rounds,
                round_ms: args.round_ms,
                connections: args.connections.into(),
                register_connections: args.register_connections.into(),
            };
            print(args.json, &registry::run(&settings).await?)
        }
        Suite::Wss(args) => print(args.json, &wss::run(args.rounds, args.mib << 20).await?),
        Suite::Abi(args) => print(args.json, &abi::run(args.rounds)?),
        Suite::Role { role } => match role {
            Role::Pilot(options) => role::pilot::run(options).await,
            Role::Quic { mtu } => role::quic::run(mtu).await,
            Role::Echo { batch } => role::echo::run(batch).await,
            Role::Tcp => role::tcp::run().await,
            Role::Tls => role::tls::run().await,
            Role::Answer => role::answer::run().await,
            Role::Rendezvous => role::rendezvous::run().await,
        },
    }
}

fn print(json: bool, metrics: &[report::Metric]) -> anyhow::Result<()> {
    let text = if json { report::json(metrics) } else { report::table(metrics) };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}
