//! The daemon's configuration: read whole, checked whole, before any port, file or plugin is opened.
//!
//! Precedence: flag, environment, file, default. `file` reads `pilot.toml`, `example` prints every key with its
//! meaning, this module merges and checks. Called by the `pilot-host` binary only; opens nothing but the file itself.

mod example;
mod file;
mod plugins;
mod registry;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;

pub use example::example_toml;
pub use plugins::{CapabilitySettings, PluginSettings, PluginsConfig};
pub use registry::{PrimarySettings, RegistryTls, RendezvousSettings, RendezvousTls};

/// Exit code of a configuration that does not validate (cli.md section 3, "Signals and exit codes").
pub const EXIT_CONFIG: i32 = 78;
/// Where plugins live unless configured otherwise.
pub const DEFAULT_PLUGINS_DIR: &str = "/usr/lib/pilot/plugins";

/// What is wrong with the configuration, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", place(.origin, .line, .key))]
pub struct ConfigError {
    /// The file, or the name of the flag or environment variable.
    pub origin: String,
    /// One-based line in the file; 0 when the value did not come from a file.
    pub line: usize,
    /// The dotted key, for example `node.listen`; empty when the whole file is meant.
    pub key: String,
    /// What is wrong and what is accepted.
    pub message: String,
}

fn place(origin: &str, line: &usize, key: &str) -> String {
    let mut text = origin.to_owned();
    if *line > 0 {
        text.push_str(&format!(":{line}"));
    }
    text.push_str(": ");
    if !key.is_empty() {
        text.push_str(&format!("{key}: "));
    }
    text
}

/// Values given on the command line or in the environment; `None` leaves the file or the default.
#[derive(Debug, Default, Clone)]
pub struct Overrides {
    /// `node.state_dir`
    pub state_dir: Option<PathBuf>,
    /// `node.identity`
    pub identity: Option<PathBuf>,
    /// `node.hostname`
    pub hostname: Option<String>,
    /// `node.listen`
    pub listen: Option<String>,
    /// `node.endpoint`
    pub endpoint: Option<String>,
    /// `node.public`
    pub public: Option<bool>,
    /// `node.trust_auto_approve`
    pub trust_auto_approve: Option<bool>,
    /// `node.admin_token`
    pub admin_token: Option<String>,
    /// `registry.addr`
    pub registry: Option<String>,
    /// `registry.standbys`; empty leaves the file's
    pub standbys: Vec<String>,
    /// `registry.fingerprint`
    pub registry_fingerprint: Option<String>,
    /// `registry.ca_file`
    pub registry_ca_file: Option<PathBuf>,
    /// `beacon.addr`
    pub beacon: Option<String>,
    /// `ipc.socket`
    pub socket: Option<PathBuf>,
    /// `plugins.dir`
    pub plugins_dir: Option<PathBuf>,
    /// `rendezvous.registry`
    pub rendezvous_registry: Option<String>,
    /// `rendezvous.beacon`
    pub rendezvous_beacon: Option<String>,
    /// `rendezvous.data_dir`
    pub rendezvous_data_dir: Option<PathBuf>,
    /// `rendezvous.admin_token`
    pub rendezvous_admin_token: Option<String>,
    /// `rendezvous.tls`
    pub rendezvous_tls: Option<bool>,
    /// `rendezvous.tls_cert`
    pub rendezvous_tls_cert: Option<PathBuf>,
    /// `rendezvous.tls_key`
    pub rendezvous_tls_key: Option<PathBuf>,
    /// `rendezvous.dashboard`
    pub rendezvous_dashboard: Option<String>,
    /// `rendezvous.dashboard_token`
    pub rendezvous_dashboard_token: Option<String>,
    /// `rendezvous.replication_token`
    pub rendezvous_replication_token: Option<String>,
    /// `rendezvous.primary`
    pub rendezvous_primary: Option<String>,
    /// `rendezvous.primary_fingerprint`
    pub rendezvous_primary_fingerprint: Option<String>,
    /// `log.level`
    pub log_level: Option<String>,
    /// `log.format`
    pub log_format: Option<String>,
}

/// The checked configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// This node.
    pub node: NodeConfig,
    /// Registry to register with; `None` starts one in this process on loopback.
    pub registry: Option<String>,
    /// Registries that follow it; they are asked when it cannot be reached.
    pub standbys: Vec<String>,
    /// How the connections to all of these are secured.
    pub registry_tls: RegistryTls,
    /// Beacon; `None` means the registry's host with port 9001.
    pub beacon: Option<String>,
    /// The rendezvous that this process may serve.
    pub rendezvous: RendezvousSettings,
    /// Local socket path.
    pub socket: PathBuf,
    /// Plugins.
    pub plugins: PluginsConfig,
    /// Per-plugin tables, passed through as JSON.
    pub plugin: BTreeMap<String, Value>,
    /// Logs.
    pub log: LogConfig,
}

/// `[node]`
#[derive(Debug, Clone, PartialEq)]
pub struct NodeConfig {
    /// State directory.
    pub state_dir: PathBuf,
    /// Identity file.
    pub identity: PathBuf,
    /// Name to register, or empty.
    pub hostname: String,
    /// UDP address to bind.
    pub listen: SocketAddr,
    /// Address to advertise instead of the observed one.
    pub endpoint: Option<SocketAddr>,
    /// Whether strangers may find and reach this node.
    pub public: bool,
    /// Approve every handshake request.
    pub trust_auto_approve: bool,
    /// Admin token, or empty.
    pub admin_token: String,
    /// Networks to join at start.
    pub networks: Vec<u16>,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq)]
pub struct LogConfig {
    /// `tracing` filter text: a level, or per-target directives.
    pub level: String,
    /// One object per line instead of text.
    pub json: bool,
}

/// The state directory without configuration: `$PILOT_HOME/.pilot`, else `~/.pilot` (cli.md section 3, "Config file").
pub fn default_state_dir() -> PathBuf {
    let home = ["PILOT_HOME", "HOME"]
        .into_iter()
        .find_map(|k| std::env::var_os(k).filter(|v| !v.is_empty()))
        .map_or_else(|| PathBuf::from("."), PathBuf::from);
    home.join(".pilot")
}

/// The socket without configuration (ipc.md section 1).
pub fn default_socket() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|v| !v.is_empty()) {
        Some(dir) => Path::new(&dir).join("pilot.sock"),
        None => PathBuf::from("/tmp/pilot.sock"),
    }
}

impl Config {
    /// Reads `path` (no file: defaults), lays `over` on top, checks everything.
    ///
    /// # Errors
    /// The first problem found, with file, line and key.
    pub fn load(path: Option<&Path>, over: &Overrides) -> Result<Config, ConfigError> {
        let text = match path {
            None => String::new(),
            Some(path) => std::fs::read_to_string(path).map_err(|e| ConfigError {
                origin: path.display().to_string(),
                line: 0,
                key: String::new(),
                message: format!("cannot read the configuration file: {e}"),
            })?,
        };
        let origin = path.map_or_else(|| "(no file)".to_owned(), |p| p.display().to_string());
        file::parse(&origin, &text, over)
    }

    /// The beacon's address text: configured, or the registry's host with port 9001.
    pub fn beacon_addr(&self, registry: &str) -> String {
        self.beacon.clone().unwrap_or_else(|| match registry.rsplit_once(':') {
            Some((host, _)) => format!("{host}:9001"),
            None => format!("{registry}:9001"),
        })
    }

    /// The table `[plugin.NAME]` as JSON; an empty object when there is none.
    pub fn plugin_table(&self, name: &str) -> Value {
        self.plugin.get(name).cloned().unwrap_or_else(|| Value::Object(serde_json::Map::new()))
    }
}
