//! The registry and beacon of a cluster: a `pilot-host rendezvous` child of the runner, with its state in the cluster's
//! directory, so that a snapshot can hold it still as it does the nodes. Or one elsewhere, when the global configuration
//! names it.

use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use pilot_net::control::{BackendError, BackendResult};
use serde_json::{Map, Value};
use tokio::time::{Instant, sleep};

use super::node::make_dir;
use super::process::{Nursery, Process};
use super::spec::{fault, text_at};

/// How long the services may take to start.
const START_LIMIT: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct Services {
    /// `host:port`.
    pub registry: String,
    /// `host:port`.
    pub beacon: String,
    /// Unlocks the registry; `None` for an outside one.
    pub token: Option<String>,
    /// `None` for an outside one.
    pub process: Option<Process>,
}

impl Services {
    /// Starts them below `root`, or takes those that `global` names.
    pub(super) async fn start(
        nursery: &Nursery,
        exec: &Path,
        root: &Path,
        global: &Map<String, Value>,
        changed: impl FnOnce() + Send + 'static,
    ) -> BackendResult<Services> {
        if let Some(registry) = text_at(global, "registry", "addr") {
            let default = || match registry.rsplit_once(':') {
                Some((host, _)) => format!("{host}:9001"),
                None => format!("{registry}:9001"),
            };
            let beacon = text_at(global, "beacon", "addr").map_or_else(default, str::to_owned);
            return Ok(Services { registry: registry.to_owned(), beacon, token: None, process: None });
        }
        let failed = |e: &dyn std::fmt::Display| {
            BackendError::new(format!("the cluster's registry cannot be started: {e}"))
        };
        let (dir, data) = (root.join("services"), root.join("services/registry"));
        make_dir(&data).map_err(|e| failed(&e))?;
        let mut token = [0_u8; 24];
        getrandom::fill(&mut token).map_err(|e| failed(&e))?;
        let token = hex::encode(token);
        let args: [&OsStr; 7] = [
            OsStr::new("rendezvous"),
            OsStr::new("--registry=127.0.0.1:0"),
            OsStr::new("--beacon=127.0.0.1:0"),
            OsStr::new("--log-level=info"),
            OsStr::new("--log-format=text"),
            OsStr::new("--data-dir"),
            data.as_os_str(),
        ];
        let env = [("PILOT_ADMIN_TOKEN", token.as_str())];
        let process = nursery.spawn(exec, &args, &env, &dir, changed).await.map_err(|e| failed(&e))?;
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let log = process.tail();
            if let Some((registry, beacon)) = listening(&log) {
                return Ok(Services { registry, beacon, token: Some(token), process: Some(process) });
            }
            if process.status().is_some() || Instant::now() > deadline {
                return fault(format!("the cluster's registry cannot be started: {log}"));
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// The two addresses, from the line in which the rendezvous says where it listens.
fn listening(log: &str) -> Option<(String, String)> {
    let line = log.lines().find(|l| l.contains("rendezvous listening"))?;
    let field = |key: &str| {
        let rest = &line[line.find(key)? + key.len()..];
        Some(rest.split_whitespace().next()?.trim_matches('"').to_owned())
    };
    Some((field(" registry=")?, field(" beacon=")?))
}

#[cfg(test)]
mod tests {
    use super::listening;

    #[test]
    fn the_line_is_found() {
        let log = "time=1 level=INFO msg=\"x\"\ntime=2 msg=\"rendezvous listening\" registry=127.0.0.1:1 beacon=127.0.0.1:2\n";
        assert_eq!(listening(log), Some(("127.0.0.1:1".into(), "127.0.0.1:2".into())));
        assert_eq!(listening("nothing"), None);
    }
}
