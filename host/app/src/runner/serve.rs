//! `pilot-host runner serve`: puts a runner behind the control protocol, with the keys that say who may call.
//!
//! Its directory holds `runner.key` (its own identity), `runner.pub` (the same for clients, to pin it), `client.key` (an
//! identity that is always let in, for `pilotctl net` of the same account) and, while it runs, `address`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use pilot_net::control::keys::{Keys, pin_from_text, to_text};
use pilot_net::control::{Backend, Expect, Expected, ServerConfig, Start, serve};
use tracing::{info, warn};

use super::node::{make_dir, write};
use super::{Runner, Settings, orphans};
use crate::config::{LogConfig, default_state_dir};

/// Flags of `pilot-host runner serve`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "The runner starts real hosts on this machine, with a registry and beacon of their own, for tests and demos; \
                        `pilotctl net` drives it:\n  \
                        pilot-host runner serve &\n  \
                        pilotctl net start --nodes 5\n\
                        Callers run programs as this user. Only known identities are let in: the one in DIR/client.key, \
                        which `pilotctl net` of this account uses, and those given with --allow. All nodes end with the runner."
)]
pub struct ServeArgs {
    /// TCP address of the control port; port 0 lets the system choose. It is written to DIR/address.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9999")]
    pub listen: SocketAddr,
    /// Keys and address of this runner [default: ~/.pilot/runner].
    #[arg(long, env = "PILOT_RUNNER_DIR", value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Let this identity in as well: a file with the text that `pilotctl net identity` prints, or the text itself.
    #[arg(long, value_name = "FILE|HEX")]
    pub allow: Vec<String>,
    /// Let everybody in who can reach the port. They can run programs as this user.
    #[arg(long, conflicts_with = "allow")]
    pub any_identity: bool,
    /// The host program that nodes run unless a request names another [default: this program].
    #[arg(long, value_name = "FILE")]
    pub exec: Option<PathBuf>,
    /// Plugins of nodes unless a request names others [default: none].
    #[arg(long, env = "PILOT_PLUGINS_DIR", value_name = "DIR")]
    pub plugins: Option<PathBuf>,
    /// Programs and plugins that requests name must be below one of these [default: where this program is].
    #[arg(long, value_name = "DIR")]
    pub exec_allow: Vec<PathBuf>,
    /// Where clusters' directories are made [default: pilot-network-runner in the system's temporary directory].
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Where snapshots are kept; they hold private keys [default: ~/.local/share/pilot-network-runner/snapshots].
    #[arg(long, value_name = "DIR")]
    pub snapshots: Option<PathBuf>,
    /// How long a cluster may take to become healthy, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 180, value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub healthy_limit: u64,
    /// Start a cluster of this many nodes at once.
    #[arg(long, value_name = "N")]
    pub nodes: Option<u32>,
    /// Send no keep-alive frames (clients of the Go kind need them).
    #[arg(long)]
    pub no_keep_alive: bool,
    /// Log level: error, warn, info, debug, trace, or target=level pairs.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: String,
    /// Log format: text or json.
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = ["text", "json"])]
    pub log_format: String,
}

/// The directory of a runner's keys unless another is named.
pub fn default_dir() -> PathBuf {
    default_state_dir().join("runner")
}

impl ServeArgs {
    /// How to log.
    pub fn log(&self) -> LogConfig {
        LogConfig { level: self.log_level.clone(), json: self.log_format == "json" }
    }

    fn settings(&self) -> anyhow::Result<Settings> {
        let own = std::env::current_exe().context("find this program")?;
        let exec = self.exec.clone().unwrap_or(own);
        let exec = std::fs::canonicalize(&exec).with_context(|| format!("exec path {}", exec.display()))?;
        let plugin_dir = match &self.plugins {
            Some(dir) => {
                Some(std::fs::canonicalize(dir).with_context(|| format!("plugin dir {}", dir.display()))?)
            }
            None => None,
        };
        let allow = match self.exec_allow.is_empty() {
            true => exec.parent().map(Path::to_owned).into_iter().collect(),
            false => self.exec_allow.clone(),
        };
        let data = || {
            let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("."), PathBuf::from);
            let data = std::env::var_os("XDG_DATA_HOME").filter(|d| !d.is_empty());
            data.map_or_else(|| home.join(".local/share"), PathBuf::from)
                .join("pilot-network-runner/snapshots")
        };
        let root = self.root.clone().unwrap_or_else(|| std::env::temp_dir().join("pilot-network-runner"));
        Ok(Settings {
            exec,
            plugin_dir,
            allow,
            root: std::path::absolute(root)?,
            snapshots: std::path::absolute(self.snapshots.clone().unwrap_or_else(data))?,
            healthy_limit: Duration::from_secs(self.healthy_limit),
        })
    }
}

/// Serves until SIGTERM or Ctrl-C; then ends the cluster in good order.
///
/// # Errors
/// When the keys, the port or the first cluster cannot be had.
pub async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let settings = args.settings()?;
    let dir = args.dir.clone().unwrap_or_else(default_dir);
    make_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
    let keys = Keys::load_or_create(&dir.join("runner.key"))?;
    write(&dir.join("runner.pub"), to_text(keys.identity().public()).as_bytes())
        .with_context(|| format!("write {}", dir.join("runner.pub").display()))?;
    let expect = match args.any_identity {
        true => {
            warn!("every identity is let in: whoever reaches the control port can run programs as this user");
            Expect::Any
        }
        false => {
            let own = Keys::load_or_create(&dir.join("client.key"))?;
            let mut known = vec![signing(&own)?];
            for text in &args.allow {
                known.push(pin(text).with_context(|| format!("--allow {text:.40}"))?);
            }
            Expect::OneOf(known)
        }
    };
    orphans::end_all(&settings.root);
    let runner = Runner::new(settings)?;
    let listener = tokio::net::TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("listen on {}: choose another address with --listen", args.listen))?;
    let mut config = ServerConfig { expect, ..ServerConfig::default() };
    if args.no_keep_alive {
        config.keep_alive = None;
    }
    let server = serve(listener, &keys, config, Arc::new(runner.clone()))?;
    let address = dir.join("address");
    write(&address, server.address().to_string().as_bytes())
        .with_context(|| format!("write {}", address.display()))?;
    info!(address = %server.address(), identity = keys.identity().public().fingerprint(), "runner listening");
    let outcome = async {
        if let Some(count) = args.nodes {
            let start = Start { num_nodes: Some(count), ..Start::default() };
            runner.start(start).await.context("start the first cluster")?;
            info!(nodes = count, "cluster is up");
        }
        crate::run::stop_requested().await
    };
    let outcome = outcome.await;
    info!("shutting down");
    let _ = std::fs::remove_file(&address);
    server.stop().await;
    // Ends the cluster, if there is one.
    let _ = runner.stop().await;
    info!("stopped");
    outcome
}

/// The part of an identity that stays when its key-agreement keys change.
fn signing(keys: &Keys) -> anyhow::Result<Expected> {
    Ok(pin_from_text(&to_text(keys.identity().public()), false)?)
}

/// A pin from a file, or from the text itself.
///
/// # Errors
/// When it is neither.
pub fn pin(text: &str) -> anyhow::Result<Expected> {
    if let Ok(pin) = pin_from_text(text, false) {
        return Ok(pin);
    }
    let content = std::fs::read_to_string(text).with_context(|| format!("read {text:.100}"))?;
    Ok(pin_from_text(&content, false)?)
}
