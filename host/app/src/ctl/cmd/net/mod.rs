//! `net ...`: a cluster of hosts on this machine, run by `pilot-host runner serve`. Each command is one call of the control
//! protocol (zap.md); what it does is the runner's business.

mod args;
mod draw;
mod link;
mod show;

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use pilot_net::control::{
    AddNode, CallError, ChainSpec, Client, ClusterInfo, LoadSnapshot, RestartNode, SendOutboundMessage,
};
use serde_json::json;

pub(crate) use self::args::Net;
use self::args::{Body, Command, Shared, Snapshot};
use self::link::{call_failed, connect};
use super::Outcome;
use crate::ctl::context::Context;
use crate::ctl::fail::Failure;
use crate::ctl::out::Report;

/// How often a watched cluster is shown when nothing changes.
const PUSH: Duration = Duration::from_millis(500);

pub(crate) async fn run(ctx: &Context, net: Net) -> Outcome {
    if matches!(net.command, Command::Identity) {
        return link::identity(&net.reach);
    }
    let client = connect(ctx, &net.reach).await?;
    match net.command {
        Command::Start(args) => {
            let wanted = args.count();
            let start = args.request()?;
            ctx.out.remark(&format!("starting {wanted} nodes"));
            let started = with_progress(ctx, &client, client.start(start)).await?;
            cluster(ctx, &client, started.cluster, "the cluster is up").await
        }
        Command::Stop => {
            let last = client.stop().await.map_err(call_failed)?;
            let text = match &last {
                Some(info) => format!("stopped; its files are in {}", info.root_data_dir),
                None => "no cluster was running".to_owned(),
            };
            Ok(Report::new(json!({ "stopped": last.is_some(), "root": last.map(|l| l.root_data_dir) }), text))
        }
        Command::Status | Command::Health => {
            let info = match net.command {
                Command::Health => client.health().await,
                _ => client.status().await,
            };
            cluster(ctx, &client, info.map_err(call_failed)?, "").await
        }
        Command::Wait => {
            let info = with_progress(ctx, &client, client.wait_for_healthy()).await?;
            cluster(ctx, &client, info, "every node is healthy").await
        }
        Command::Uris => {
            let uris = client.uris().await.map_err(call_failed)?;
            let text = uris.join("\n");
            Ok(Report::new(json!({ "uris": uris }), text))
        }
        Command::Graph { format } => {
            let info = client.status().await.map_err(call_failed)?.unwrap_or_default();
            let graph = draw::Graph::look(&info).await;
            Ok(Report::new(graph.json(), graph.drawn(format)))
        }
        Command::Add(args) => {
            let name = args.name.clone().unwrap_or_default();
            let Shared { maps, config, .. } = args.shared.read()?;
            let request = AddNode {
                name,
                exec_path: args.shared.exec()?.unwrap_or_default(),
                node_config: config,
                plugin_dir: args.shared.plugins()?,
                chain_configs: maps.0,
                chain_config_files: maps.1,
                ..AddNode::default()
            };
            let info = client.add_node(request).await.map_err(call_failed)?;
            cluster(ctx, &client, info, "added").await
        }
        Command::Rm { name } => {
            let info = client.remove_node(&name).await.map_err(call_failed)?;
            cluster(ctx, &client, info, &format!("{name} is removed")).await
        }
        Command::Restart(args) => {
            let Shared { maps, .. } = args.shared.read()?;
            let request = RestartNode {
                name: args.name.clone(),
                exec_path: args.shared.exec()?,
                whitelisted_chains: args.networks.clone(),
                plugin_dir: args.shared.plugins()?,
                chain_configs: maps.0,
                chain_config_files: maps.1,
                ..RestartNode::default()
            };
            let info = client.restart_node(request).await.map_err(call_failed)?;
            cluster(ctx, &client, info, &format!("{} is restarted", args.name)).await
        }
        Command::Pause { name } => {
            let info = client.pause_node(&name).await.map_err(call_failed)?;
            cluster(ctx, &client, info, &format!("{name} is paused")).await
        }
        Command::Resume { name } => {
            let info = client.resume_node(&name).await.map_err(call_failed)?;
            cluster(ctx, &client, info, &format!("{name} goes on")).await
        }
        Command::Attach { node } => {
            let peer = client.attach_peer(&node).await.map_err(call_failed)?;
            Ok(Report::new(json!({ "node": node, "peer_id": peer }), format!("{peer} is attached to {node}")))
        }
        Command::Send { node, peer, op, body } => {
            let bytes = Body::bytes(&body)?;
            let size = bytes.len();
            let request = SendOutboundMessage { node_name: node, peer_id: peer, op, body: bytes };
            let sent = client.send_outbound_message(request).await.map_err(call_failed)?;
            let text = if sent { format!("sent {size} bytes") } else { "the socket did not take it".into() };
            Ok(Report::new(json!({ "sent": sent }), text).exit(u8::from(!sent)))
        }
        Command::Provision { blueprints, participants } => {
            let spec = |path: &std::path::PathBuf| {
                let blueprint = args::read_file(path)?;
                Ok(ChainSpec { name: String::new(), blueprint, participants: participants.clone() })
            };
            let specs = blueprints.iter().map(spec).collect::<Result<Vec<_>, Failure>>()?;
            let created = client.create_chains(specs).await.map_err(call_failed)?;
            let text = format!("networks: {}", created.ids.join(", "));
            Ok(Report::new(json!({ "network_ids": created.ids }), text))
        }
        Command::Snapshot(command) => snapshot(ctx, &client, command).await,
        // Answered above, without a runner.
        Command::Identity => link::identity(&net.reach),
    }
}

async fn snapshot(ctx: &Context, client: &Client, command: Snapshot) -> Outcome {
    match command {
        Snapshot::Save { name, hot } => {
            let path = client.save_snapshot(&name, hot).await.map_err(call_failed)?;
            let text = match hot {
                true => format!("saved to {path}; the cluster goes on"),
                false => format!("saved to {path}; the cluster is stopped"),
            };
            Ok(Report::new(json!({ "name": name, "path": path, "hot": hot }), text))
        }
        Snapshot::Load { name, reassign_ports, exec, plugins } => {
            let request = LoadSnapshot {
                snapshot_name: name.clone(),
                exec_path: exec.map(|p| args::absolute(&p)).transpose()?,
                plugin_dir: plugins.map(|p| args::absolute(&p)).transpose()?.unwrap_or_default(),
                reassign_ports_if_used: Some(reassign_ports),
                ..LoadSnapshot::default()
            };
            let info = with_progress(ctx, client, client.load_snapshot(request)).await?;
            cluster(ctx, client, info, &format!("{name} is loaded")).await
        }
        Snapshot::List => {
            let names = client.snapshot_names().await.map_err(call_failed)?;
            let text = if names.is_empty() { "no snapshots".to_owned() } else { names.join("\n") };
            Ok(Report::new(json!({ "names": names }), text))
        }
        Snapshot::Rm { name } => {
            client.remove_snapshot(&name).await.map_err(call_failed)?;
            Ok(Report::new(json!({ "removed": name }), format!("{name} is removed")))
        }
    }
}

/// The picture of a cluster after a command.
async fn cluster(ctx: &Context, client: &Client, info: Option<ClusterInfo>, done: &str) -> Outcome {
    let Some(info) = info else {
        return Ok(Report::new(json!({ "running": false }), "no cluster is running"));
    };
    // Which nodes run is told by who can be reached.
    let uris = client.uris().await.unwrap_or_default();
    let table = show::table(&ctx.out, &info, &uris);
    let text = if done.is_empty() { table } else { format!("{}\n{table}", ctx.out.green(done)) };
    Ok(Report::new(show::json(&info, &uris), text))
}

/// Waits for a call that takes its time; on a terminal a bar shows how many nodes are there.
async fn with_progress<T>(
    ctx: &Context,
    client: &Client,
    call: impl Future<Output = Result<T, CallError>>,
) -> Result<T, Failure> {
    if !ctx.out.interactive() {
        return call.await.map_err(call_failed);
    }
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{spinner} {bar:30} {pos}/{len} nodes answer  {elapsed}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let watch = async {
        let Ok(mut stream) = client.stream_status(PUSH).await else { return std::future::pending().await };
        while let Ok(Some(snapshot)) = stream.next().await {
            let info = snapshot.unwrap_or_default();
            bar.set_length(info.nodes.len() as u64);
            bar.set_position(info.nodes.iter().filter(|n| !n.id.is_empty()).count() as u64);
            bar.tick();
        }
        std::future::pending().await
    };
    let outcome = tokio::select! {
        outcome = call => outcome.map_err(call_failed),
        never = watch => never,
    };
    bar.finish_and_clear();
    outcome
}

/// `net status --watch`: the runner pushes, at every change and now and then.
pub(crate) async fn watch(ctx: &Context, net: &Net, every: Duration, rounds: u64) -> Option<Outcome> {
    if !matches!(net.command, Command::Status) {
        return None;
    }
    Some(follow(ctx, net, every, rounds).await)
}

async fn follow(ctx: &Context, net: &Net, every: Duration, rounds: u64) -> Outcome {
    let client = connect(ctx, &net.reach).await?;
    let mut stream = client.stream_status(every).await.map_err(call_failed)?;
    let mut round = 0;
    while let Some(snapshot) = stream.next().await.map_err(call_failed)? {
        let report = cluster(ctx, &client, snapshot, "").await?;
        ctx.out.clear();
        ctx.out.line(&report.data.unwrap_or_default(), &report.text);
        round += 1;
        if rounds > 0 && round >= rounds {
            break;
        }
    }
    Ok(Report::silent(0))
}
