//! The daemon's configuration: read whole, checked whole, before any port, file or plugin is opened.
//!
//! Precedence: flag, environment, file, default. `file` reads `pilot.toml`, `json` the
//! `config.json` of other daemons, `example` prints every key with its
//! meaning, this module merges and checks. Called by the `pilot-host` binary only; opens nothing but the file itself.

mod example;
mod file;
mod json;
mod plugins;
mod registry;
mod security;
#[cfg(test)]
mod tests;
mod transport;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pilot_engine::config::Peers;
use serde_json::Value;

pub use example::example_toml;
pub use plugins::{CapabilitySettings, PluginSettings, PluginsConfig};
pub use registry::{PrimarySettings, RegistryTls, RendezvousSettings, RendezvousTls};
pub use security::{Profile, SecuritySettings};
pub use transport::{TlsTrust, TransportChoice, TransportSettings};

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
#[derive(Debug, Default, Clone, PartialEq)]
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
    /// `registry.trust`
    pub registry_trust: Option<String>,
    /// `beacon.addr`
    pub beacon: Option<String>,
    /// `node.transport`, from the command line
    pub transport: Option<String>,
    /// `node.transport`, from `PILOT_TRANSPORT`
    pub transport_variable: Option<String>,
    /// `node.transport`, from another daemon's `config.json`
    pub transport_in_json: Option<String>,
    /// `node.transport`, from `PILOT_TRANSPORT_DEFAULT`
    pub transport_default: Option<String>,
    /// `compat.beacon`
    pub compat_beacon: Option<String>,
    /// `compat.tls_trust`
    pub tls_trust: Option<String>,
    /// `compat.roots_file`
    pub compat_roots: Option<PathBuf>,
    /// `compat.proxy`
    pub proxy: Option<String>,
    /// `ipc.socket`
    pub socket: Option<PathBuf>,
    /// `ipc.group`
    pub socket_group: Option<String>,
    /// `metrics.listen`
    pub metrics: Option<String>,
    /// `telemetry.otlp`
    pub otlp: Option<String>,
    /// `node.networks`
    pub networks: Option<Vec<i64>>,
    /// `engine.keepalive`
    pub keepalive: Option<String>,
    /// `engine.idle_timeout`
    pub idle_timeout: Option<String>,
    /// `engine.time_wait`
    pub time_wait: Option<String>,
    /// `engine.syn_rate_limit`
    pub syn_rate_limit: Option<u32>,
    /// `engine.max_conns_per_port`
    pub max_conns_per_port: Option<u32>,
    /// `engine.max_conns_total`
    pub max_conns_total: Option<u32>,
    /// `engine.syn_whitelist`
    pub syn_whitelist: Option<String>,
    /// `engine.relay_only`
    pub relay_only: Option<bool>,
    /// `engine.strict`
    pub strict: Option<bool>,
    /// The opposite of `engine.echo`
    pub no_echo: Option<bool>,
    /// Accepted without effect.
    pub reply_whitelist: Option<String>,
    /// Accepted without effect.
    pub rekey_whitelist: Option<String>,
    /// `security.sandbox`
    pub sandbox: Option<bool>,
    /// `security.sandbox_dir`
    pub sandbox_dir: Option<PathBuf>,
    /// `security.profile`
    pub security_profile: Option<String>,
    /// TLS to the registry was asked for; what vouches for the registry must be given too.
    pub registry_tls: Option<bool>,
    /// Plugins to leave alone, besides `plugins.disabled`.
    pub disabled_plugins: Vec<&'static str>,
    /// Keys of plugin tables: plugin, key, value.
    pub plugin_keys: Vec<(&'static str, &'static str, Value)>,
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
    /// `rendezvous.compat_listen`
    pub rendezvous_compat: Option<String>,
    /// `rendezvous.compat_cert`
    pub rendezvous_compat_cert: Option<PathBuf>,
    /// `rendezvous.compat_key`
    pub rendezvous_compat_key: Option<PathBuf>,
    /// `rendezvous.compat_max_clients`
    pub rendezvous_compat_max_clients: Option<usize>,
    /// `rendezvous.relay_limit`
    pub rendezvous_relay_limit: Option<u32>,
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
    /// How datagrams travel.
    pub transport: TransportSettings,
    /// The rendezvous that this process may serve.
    pub rendezvous: RendezvousSettings,
    /// Local socket path.
    pub socket: PathBuf,
    /// The group whose members may use the socket as well, by number.
    pub socket_group: Option<u32>,
    /// Where metrics are served; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// The collector that spans are sent to, as a URL; `None`: none.
    pub telemetry: Option<String>,
    /// Limits and timers of the data plane that differ from their defaults.
    pub engine: EngineSettings,
    /// Plugins.
    pub plugins: PluginsConfig,
    /// Per-plugin tables, passed through as JSON.
    pub plugin: BTreeMap<String, Value>,
    /// Sandbox and profile.
    pub security: SecuritySettings,
    /// Logs.
    pub log: LogConfig,
    /// What all this was made of, so that it can be read again.
    pub source: Source,
}

/// Where a configuration came from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Source {
    /// The file, if any.
    pub file: Option<PathBuf>,
    /// Flags and environment.
    pub over: Overrides,
    /// The same, and beneath them what a `config.json` says.
    merged: Overrides,
}

/// `[engine]`: what is given; the rest is the data plane's own default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EngineSettings {
    /// A stream that was silent for this long sends a keepalive.
    pub keepalive: Option<Duration>,
    /// A stream that was silent for this long is closed.
    pub idle_timeout: Option<Duration>,
    /// How long a closed stream stays known.
    pub time_wait: Option<Duration>,
    /// New streams per second in all.
    pub syn_rate_limit: Option<u32>,
    /// Streams on one local port.
    pub max_conns_per_port: Option<usize>,
    /// Streams in all.
    pub max_conns_total: Option<usize>,
    /// Peers whose new streams the rate does not count.
    pub syn_whitelist: Peers,
    /// Reached through the beacon only.
    pub relay_only: bool,
    /// Nothing answers on the echo port.
    pub no_echo: bool,
    /// Strangers get no key exchange and no ping.
    pub strict: bool,
}

impl EngineSettings {
    /// The data plane's configuration with these settings in it.
    pub fn apply(&self, mut config: pilot_engine::Config) -> pilot_engine::Config {
        config.stream_keepalive = self.keepalive.unwrap_or(config.stream_keepalive);
        config.stream_idle = self.idle_timeout.unwrap_or(config.stream_idle);
        config.time_wait = self.time_wait.unwrap_or(config.time_wait);
        config.syn_rate = self.syn_rate_limit.unwrap_or(config.syn_rate);
        config.max_conns_per_port = self.max_conns_per_port.unwrap_or(config.max_conns_per_port);
        config.max_conns = self.max_conns_total.unwrap_or(config.max_conns);
        config.syn_exempt = self.syn_whitelist.clone();
        config.echo &= !self.no_echo;
        config.relay_only |= self.relay_only;
        config.strict |= self.strict;
        config
    }
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
        let from_json = json::looks_like(&text);
        let merged = match from_json {
            true => json::beneath(&origin, &text, over)?,
            false => over.clone(),
        };
        let mut config = file::parse(&origin, if from_json { "" } else { &text }, &merged)?;
        config.source = Source { file: path.map(Path::to_owned), over: over.clone(), merged };
        security::confine(&origin, path, &config)?;
        Ok(config)
    }

    /// Reads the same file once more, under the same flags.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn reload(&self) -> Result<Config, ConfigError> {
        Config::load(self.source.file.as_deref(), &self.source.over)
    }

    /// What was asked for and is accepted, but does not do what its name says: one line each, for the log.
    pub fn remarks(&self) -> Vec<String> {
        security::remarks(self)
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
