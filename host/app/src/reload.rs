//! SIGHUP: the configuration is read again, whole, and what can change without ending anything changes: log level, the
//! plugins' tables (webhook URL and policy document at once, the rest when a plugin is started again), host name,
//! visibility, networks to join. No tunnel, stream or client notices.
//!
//! A file with a mistake changes nothing. What needs a restart is named in the log. Plugin files are not looked at: that
//! is `pilotctl plugins reload`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use crate::config::Config;
use crate::core::Core;
use crate::{logging, notify};

/// Reloads at each wake-up, until the host stops.
pub async fn run(core: Arc<Core>, mut wakes: mpsc::Receiver<()>) {
    loop {
        tokio::select! {
            () = core.stop.cancelled() => return,
            wake = wakes.recv() => if wake.is_none() { return },
        }
        notify::reloading();
        match core.current().reload() {
            Ok(new) => apply(&core, new).await,
            Err(e) => error!(error = %e, "the configuration was not reloaded: it does not validate"),
        }
        notify::ready(&core);
    }
}

async fn apply(core: &Arc<Core>, new: Config) {
    let old = core.current();
    let mut changed = Vec::new();
    if new.log.level != old.log.level {
        logging::set_level(&new.log.level);
        changed.push("log.level");
    }
    if new.node.hostname != old.node.hostname {
        let params = [("hostname".to_owned(), Value::from(new.node.hostname.as_str()))].into_iter().collect();
        match core.registry_call("set_hostname", params).await {
            Ok(_) => core.set_hostname(&new.node.hostname),
            Err(e) => warn!(error = e, "the registry did not take the new host name"),
        }
        changed.push("node.hostname");
    }
    if new.node.public != old.node.public {
        let params = [("public".to_owned(), Value::from(new.node.public))].into_iter().collect();
        match core.registry_call("set_visibility", params).await {
            Ok(_) => core.set_public(new.node.public).await,
            Err(e) => warn!(error = e, "the registry did not take the new visibility"),
        }
        changed.push("node.public");
    }
    if new.node.networks != old.node.networks {
        changed.push("node.networks");
        for network in new.node.networks.iter().filter(|n| !old.node.networks.contains(n)) {
            let params =
                [("network_id", Value::from(*network)), ("token", "".into()), ("inviter_id", 0.into())];
            let params = params.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
            if let Err(e) = core.registry_call("join_network", params).await {
                warn!(network, error = e, "joining a configured network failed");
            }
        }
    }
    let restart = needs_restart(&old, &new);
    let (old_tables, tables) = (old.plugin.clone(), new.plugin.clone());
    if old_tables != tables {
        changed.push("plugin");
    }
    let state_dir = old.node.state_dir.clone();
    core.set_current(new);
    let services = core.clone();
    // Plugins' calls may wait.
    let task = tokio::task::spawn_blocking(move || {
        webhook(&services, &old_tables, &tables);
        policy(&services, &state_dir, &old_tables, &tables);
    });
    if let Err(e) = task.await {
        error!(error = %e, "a plugin failed while its settings changed");
    }
    if !restart.is_empty() {
        warn!(keys = restart.join(", "), "changed, but in effect only after a restart");
    }
    info!(changed = changed.join(", "), "configuration reloaded");
}

fn member<'a>(tables: &'a BTreeMap<String, Value>, plugin: &str, key: &str) -> Option<&'a Value> {
    tables.get(plugin)?.get(key)
}

fn webhook(core: &Core, old: &BTreeMap<String, Value>, new: &BTreeMap<String, Value>) {
    let url =
        |tables| member(tables, "webhook", "url").and_then(Value::as_str).unwrap_or_default().to_owned();
    let (old, new) = (url(old), url(new));
    // Only a change in the file counts: a URL that was set by `pilotctl set-webhook` stays.
    if old == new {
        return;
    }
    match core.services.webhook.get().map(|w| w.set_url(&new)) {
        Some(Ok(())) => info!(url = new, "webhook URL changed"),
        Some(Err(e)) => error!(error = %e, "the webhook URL was not changed"),
        None => warn!("a webhook URL is configured, but no webhook plugin runs"),
    }
}

/// The policy document of the configuration: read anew at each reload, because the file changes while its name stays.
fn policy(core: &Core, state_dir: &Path, old: &BTreeMap<String, Value>, new: &BTreeMap<String, Value>) {
    let settings = |tables| {
        let path = member(tables, "policy", "document").and_then(Value::as_str).filter(|p| !p.is_empty())?;
        let network = member(tables, "policy", "network").and_then(Value::as_u64).unwrap_or(0);
        Some((state_dir.join(path), u16::try_from(network).ok()?))
    };
    let (old, new) = (settings(old), settings(new));
    let Some(manager) = core.services.policy.get() else {
        if new.is_some() {
            warn!("a policy document is configured, but no policy plugin runs");
        }
        return;
    };
    if let Some((_, network)) = &old
        && new.as_ref().is_none_or(|(_, n)| n != network)
    {
        manager.stop(*network);
        info!(network, "the configured policy is no longer in force");
    }
    let Some((path, network)) = new else { return };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) => {
            return error!(path = %path.display(), error = %e, "the policy was not changed: its document cannot be read");
        }
    };
    let parse = |text: &str| serde_json::from_str::<Value>(text).ok();
    let running = manager.get(network).and_then(|r| parse(&r.policy_json()));
    if running.is_some() && running == parse(&text) {
        return;
    }
    // A document with a mistake leaves the old one in force.
    match manager.start(network, &text) {
        Ok(()) => info!(network, path = %path.display(), "policy changed"),
        Err(e) => error!(network, path = %path.display(), error = %e, "the policy was not changed"),
    }
}

/// Keys whose change needs another process.
fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let pairs = [
        ("node.state_dir", old.node.state_dir != new.node.state_dir),
        ("node.identity", old.node.identity != new.node.identity),
        ("node.listen", old.node.listen != new.node.listen),
        ("node.endpoint", old.node.endpoint != new.node.endpoint),
        ("node.trust_auto_approve", old.node.trust_auto_approve != new.node.trust_auto_approve),
        ("node.admin_token", old.node.admin_token != new.node.admin_token),
        ("registry", (&old.registry, &old.registry_tls) != (&new.registry, &new.registry_tls)),
        ("beacon.addr", old.beacon != new.beacon),
        ("node.transport or compat", old.transport != new.transport),
        ("rendezvous", old.rendezvous != new.rendezvous),
        ("ipc", (&old.socket, old.socket_group) != (&new.socket, new.socket_group)),
        ("engine", old.engine != new.engine),
        ("security", old.security != new.security),
        ("metrics", old.metrics != new.metrics),
        ("telemetry", old.telemetry != new.telemetry),
        ("plugins", old.plugins != new.plugins),
        ("log.format", old.log.json != new.log.json),
    ];
    pairs.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}
