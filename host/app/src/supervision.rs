//! The host's side of its plugins' lives: how the loader is set up from the configuration, what happens around each start
//! and end, and what `pilotctl plugins` asks for.

use std::collections::BTreeMap;
use std::sync::Arc;

use pilot_loader::{
    ChangeError, Children, FIRST_PARTY, Isolation, IsolationPolicy, Loaded, LoaderConfig, PluginHost,
    PluginInfo, PluginState, Probe,
};
use plugin_abi::Daemon;
use serde_json::{Map, Value, json};
use tracing::{info, warn};

use crate::core::Core;
use crate::face::{self, PluginDaemon};
use crate::plugin_cmd::PROBE;

/// The loader's configuration from the host's.
pub fn loader_config(core: &Core) -> LoaderConfig {
    let p = &core.config.plugins;
    let by_name: BTreeMap<String, Isolation> =
        p.settings.iter().filter_map(|(name, s)| Some((name.clone(), s.isolation?))).collect();
    LoaderConfig {
        dir: p.dir.clone(),
        disabled: p.disabled.clone(),
        init_timeout: p.init_timeout,
        shutdown_timeout: p.shutdown_timeout,
        trust: p.trust.clone(),
        isolation: IsolationPolicy { by_name, strangers: Isolation::InProcess },
        probe: p.probe.then(|| {
            let memory = core.config.node.state_dir.join("plugins.probed.json");
            Probe::with_this_program(&PROBE, Some(memory))
        }),
        children: Children { by_name: p.children(), ..Children::default() },
        max_mapped_copies: p.max_mapped_copies,
        ledger: core.plugins.ledger().clone(),
        ..LoaderConfig::default()
    }
}

/// The host as the loader sees it.
pub struct Face {
    core: Arc<Core>,
}

impl Face {
    /// Of this host.
    pub fn new(core: Arc<Core>) -> Self {
        Face { core }
    }
}

impl PluginHost for Face {
    fn daemon_for(&self, plugin: &PluginInfo) -> Arc<dyn Daemon> {
        Arc::new(PluginDaemon::new(self.core.clone(), &plugin.name))
    }

    fn stopping(&self, plugin: &str) {
        face::stopping(&self.core, plugin);
    }

    fn handing_over(&self, plugin: &str) {
        face::hand_over(&self.core, plugin);
    }

    fn started(&self, plugin: &str) {
        face::started(&self.core, plugin);
    }

    fn ended(&self, plugin: &str, state: &PluginState) {
        let failed = matches!(state, PluginState::Failed(_) | PluginState::Quarantined(_));
        face::ended(&self.core, plugin, failed);
        if failed {
            warn!(
                plugin,
                state = state.as_str(),
                reason = state.reason(),
                "plugin ended; what it decided is denied"
            );
        }
    }
}

/// Lines that `plugins logs` gives unless told otherwise.
const LINES: u64 = 50;

/// Carries out one of the `plugins.*` requests of the local socket; `None` for an operation that is not one. Blocks.
pub fn request(
    core: &Core,
    loaded: &Loaded,
    op: &str,
    params: &Map<String, Value>,
) -> Option<Result<Value, String>> {
    let op = op.strip_prefix("plugins.")?;
    let name = match params.get("name").and_then(Value::as_str) {
        Some(name) => name,
        None => return Some(Err("name required".into())),
    };
    let changed = |done: &str, result: Result<PluginInfo, ChangeError>| match result {
        Ok(plugin) => {
            info!(plugin = name, state = plugin.state.as_str(), "plugin {done} on request");
            Ok(row(core, &plugin))
        }
        Err(e) => Err(explained(name, &e)),
    };
    Some(match op {
        "status" => match loaded.plugin(name) {
            Some(plugin) => Ok(detailed(core, loaded, &plugin)),
            None => Err(unknown(name)),
        },
        "start" => changed("started", loaded.start(name)),
        "stop" => changed("stopped", loaded.stop(name)),
        "restart" => changed("restarted", loaded.restart(name)),
        "reload" => changed("reloaded", loaded.reload(name)),
        "lift" => match loaded.lift(name) {
            Ok(()) => changed("started", loaded.start(name)),
            Err(e) => Err(explained(name, &e)),
        },
        "logs" => match core.plugins.known(name) {
            Some(record) => {
                let number = |key: &str, or: u64| params.get(key).and_then(Value::as_u64).unwrap_or(or);
                let count = usize::try_from(number("count", LINES)).unwrap_or(usize::MAX);
                Ok(record.lines(number("after", 0), count))
            }
            None if loaded.plugin(name).is_some() => Ok(json!({ "lines": [], "next": 0 })),
            None => Err(unknown(name)),
        },
        _ => return None,
    })
}

/// The sentence with its stable code; the texts of refusals carry theirs already.
fn explained(name: &str, error: &ChangeError) -> String {
    let (text, code) = (error.to_string(), format!("[{}]", error.code()));
    if text.contains(&code) { format!("{name}: {text}") } else { format!("{name}: {text} {code}") }
}

fn unknown(name: &str) -> String {
    format!("{name}: no plugin of that name is loaded; `pilotctl plugins` lists them [not-found]")
}

/// One plugin of the list.
pub fn row(core: &Core, p: &PluginInfo) -> Value {
    let panics = core.plugins.known(&p.name).map_or(0, |r| r.panics());
    json!({
        "name": p.name,
        "version": p.version,
        "state": p.state.as_str(),
        "reason": p.state.reason(),
        "faults": p.counters.faults(),
        "panics": p.counters.panics,
        "overruns": p.counters.overruns,
        "crashes": p.counters.crashes,
        "refused_calls": p.counters.refused_calls,
        "dropped_events": p.counters.dropped_events,
        "plugin_panics": panics,
        "healthy": panics < face::UNHEALTHY,
        "starts": p.starts,
        "isolation": p.isolation.as_str(),
        "pid": p.child.as_ref().and_then(|c| c.pid),
        "process_restarts": p.child.as_ref().map(|c| c.restarts),
        "trust": p.trust.to_string(),
        "path": p.path.display().to_string(),
        "sha256": p.sha256,
        "treaty": format!("{}.{}", p.treaty.0, p.treaty.1),
    })
}

/// Everything that is known about one.
fn detailed(core: &Core, loaded: &Loaded, p: &PluginInfo) -> Value {
    let mut out = row(core, p);
    let recent = loaded
        .ledger()
        .recent(&p.name)
        .into_iter()
        .map(|e| json!({ "unix_ms": e.at_ms, "kind": e.kind.as_str(), "op": e.op, "text": e.text }));
    let (mapped, most) = loaded.mapped_copies();
    out["recent_faults"] = recent.collect();
    if let Some(child) = &p.child {
        out["late_calls"] = child.late_calls.into();
        out["refused_without_process"] = child.refused_calls.into();
    }
    out["rustc"] = p.rustc.as_str().into();
    out["first_party"] = FIRST_PARTY.contains(&p.name.as_str()).into();
    out["mapped_copies"] = mapped.into();
    out["max_mapped_copies"] = most.into();
    out
}
