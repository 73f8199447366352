//! The flags of `pilot-host`, defined once: help, completions and checks follow from here. Parses only; `run` acts.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::compat::CompatArgs;
use crate::config::Overrides;
use crate::plugin_cmd::PluginCommand;
use crate::transport::TransportArgs;

/// The daemon of the Pilot overlay network. Its services are plugins.
#[derive(Debug, Parser)]
#[command(
    name = "pilot-host",
    version = crate::version::VERSION,
    about,
    after_help = "Exit codes: 0 stopped as asked; 1 could not start, the reason is the last log line; 2 wrong usage; \
                  78 the configuration does not validate (file, line and key are named).\n\
                  Signals: SIGTERM and SIGINT stop in order; SIGHUP reads the configuration again and drops nothing.\n\
                  Called as pilot-daemon it takes the flags of `run` without the word, with one dash or two.\n\n\
                  First steps: `pilot-host run` starts a node (and a rendezvous on loopback when none is configured), \
                  then `pilotctl info`."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run this node until SIGTERM or Ctrl-C.
    Run(Box<RunArgs>),
    /// Run only the rendezvous: the registry (TCP) and the beacon (UDP) that nodes find each other by.
    Rendezvous(Box<RendezvousArgs>),
    /// Look at configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// For authors and operators of plugins: make, look at, check and sign them.
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Clusters of hosts on this machine, for tests and demos.
    #[command(subcommand)]
    Runner(RunnerCommand),
    /// The process of an isolated plugin; started by `run`, never by hand.
    #[command(hide = true)]
    PluginChild,
    /// Print shell completions.
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
    /// Print the version.
    Version,
}

/// `pilot-host config ...`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print a commented pilot.toml with every key and its default.
    Example,
    /// Validate a file and stop: exit 0 when it is good, 78 when not.
    Check {
        /// The file.
        file: PathBuf,
    },
}

/// `pilot-host runner ...`
#[derive(Debug, Subcommand)]
pub enum RunnerCommand {
    /// Serve the control port that `pilotctl net` drives, until SIGTERM or Ctrl-C.
    Serve(Box<crate::runner::serve::ServeArgs>),
}

/// Flags of `pilot-host run`. Precedence: flag, environment, file, default.
#[derive(Debug, Args, Default)]
pub struct RunArgs {
    /// Configuration file (see `pilot-host config example`).
    #[arg(long, env = "PILOT_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory for identity, trust, inbox and received files.
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Identity file; made when missing.
    #[arg(long, env = "PILOT_IDENTITY", value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// Name to register.
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// UDP address of the tunnel socket.
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Option<String>,
    /// Address to advertise instead of the observed one.
    #[arg(long, alias = "advertise-endpoint", value_name = "IP:PORT")]
    pub endpoint: Option<String>,
    /// Let strangers look this node up and connect.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub public: Option<bool>,
    /// Approve every handshake request.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub trust_auto_approve: Option<bool>,
    /// Token for administrative registry operations.
    #[arg(long, env = "PILOT_ADMIN_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub admin_token: Option<String>,
    /// Registry to register with.
    #[arg(long, env = "PILOT_REGISTRY", value_name = "HOST:PORT")]
    pub registry: Option<String>,
    /// Registry that follows the first one; asked when that cannot be reached. May be given more than once.
    #[arg(long = "registry-standby", value_name = "HOST:PORT")]
    pub registry_standbys: Vec<String>,
    /// Registry's certificate: its SHA-256 in 64 hex digits. Switches TLS on.
    #[arg(long, env = "PILOT_REGISTRY_FINGERPRINT", value_name = "HEX")]
    pub registry_fingerprint: Option<String>,
    /// PEM file of roots that vouch for the registry. Switches TLS on.
    #[arg(long, value_name = "FILE", conflicts_with = "registry_fingerprint")]
    pub registry_ca: Option<PathBuf>,
    /// Beacon to use.
    #[arg(long, env = "PILOT_BEACON", value_name = "HOST:PORT")]
    pub beacon: Option<String>,
    /// Local socket for pilotctl.
    #[arg(long, env = "PILOT_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// A group whose members may use that socket as well.
    #[arg(long, value_name = "GROUP")]
    pub socket_group: Option<String>,
    /// Serve metrics for Prometheus here (GET /metrics); off when absent.
    #[arg(long, value_name = "IP:PORT")]
    pub metrics: Option<String>,
    /// Send spans to this OpenTelemetry collector (OTLP over HTTP, http://IP:PORT); off when absent.
    #[arg(long, value_name = "URL")]
    pub otlp: Option<String>,
    /// Directory whose *.so files are loaded.
    #[arg(long, env = "PILOT_PLUGINS_DIR", value_name = "DIR")]
    pub plugins: Option<PathBuf>,
    /// Log level: error, warn, info, debug, trace, or target=level pairs.
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Log format: text or json.
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    #[command(flatten)]
    pub transport: TransportArgs,
    #[command(flatten)]
    pub compat: CompatArgs,
    /// The process that started this one, which must not be outlived; for the network runner.
    #[arg(long, env = crate::runner::process::PARENT_VARIABLE, hide = true)]
    pub parent_pid: Option<i32>,
}

impl RunArgs {
    /// The values as the configuration merges them.
    pub fn overrides(&self) -> Overrides {
        let mut over = Overrides {
            state_dir: self.state_dir.clone(),
            identity: self.identity.clone(),
            hostname: self.hostname.clone(),
            listen: self.listen.clone(),
            endpoint: self.endpoint.clone(),
            public: self.public,
            trust_auto_approve: self.trust_auto_approve,
            admin_token: self.admin_token.clone(),
            registry: self.registry.clone(),
            standbys: self.registry_standbys.clone(),
            registry_fingerprint: self.registry_fingerprint.clone(),
            registry_ca_file: self.registry_ca.clone(),
            beacon: self.beacon.clone(),
            socket: self.socket.clone(),
            socket_group: self.socket_group.clone(),
            metrics: self.metrics.clone(),
            otlp: self.otlp.clone(),
            plugins_dir: self.plugins.clone(),
            log_level: self.log_level.clone(),
            log_format: self.log_format.clone(),
            ..Overrides::default()
        };
        self.transport.lay(&mut over);
        self.compat.lay(&mut over);
        over
    }
}

/// Flags of `pilot-host rendezvous`.
#[derive(Debug, Args, Default)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "A first one, for this machine only, that keeps its state and shows a page:\n  \
                  pilot-host rendezvous --data-dir ./rendezvous --dashboard 127.0.0.1:3000\n\n\
                  One for a network, over TLS. It logs the fingerprint that nodes pin:\n  \
                  pilot-host rendezvous --registry 0.0.0.0:9000 --beacon 0.0.0.0:9001 --data-dir /var/lib/pilot --tls\n  \
                  pilot-host run --registry HOST:9000 --registry-fingerprint HEX\n\n\
                  The same for nodes that have nothing but TCP 443 (pilot-host run --transport compat):\n  \
                  pilot-host rendezvous ... --compat-listen 0.0.0.0:443 --compat-cert chain.pem --compat-key key.pem\n\n\
                  A standby for it, on another machine (PILOT_REPLICATION_TOKEN the same on both):\n  \
                  pilot-host rendezvous --registry 0.0.0.0:9000 --beacon 0.0.0.0:9001 --standby-of HOST:9000 \
                  --standby-of-fingerprint HEX\n\n\
                  One for a script, on free ports; its first line on standard output says where it is:\n  \
                  pilot-host rendezvous --registry 127.0.0.1:0 --beacon 127.0.0.1:0 --json"
)]
pub struct RendezvousArgs {
    /// Something else than serving.
    #[command(subcommand)]
    pub action: Option<RendezvousAction>,
    /// Configuration file; its `rendezvous` table is used.
    #[arg(long, env = "PILOT_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// TCP address of the registry.
    #[arg(long, value_name = "IP:PORT")]
    pub registry: Option<String>,
    /// UDP address of the beacon.
    #[arg(long, value_name = "IP:PORT")]
    pub beacon: Option<String>,
    /// Directory for the registry's state; without it the state is kept in memory.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// TLS 1.3 on the registry's port; its fingerprint is printed when it starts.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub tls: Option<bool>,
    /// Certificate chain for it, PEM; without one, a certificate of its own, kept in the data directory.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Token that unlocks administrative operations.
    #[arg(long, env = "PILOT_ADMIN_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub admin_token: Option<String>,
    /// TCP address where the beacon takes nodes without UDP (WebSocket, path /v1/compat). Without a certificate it speaks
    /// plain HTTP, for a TLS front on this machine.
    #[arg(long, value_name = "IP:PORT")]
    pub compat_listen: Option<String>,
    /// Certificate chain for it, PEM; read again when the file changes.
    #[arg(long, value_name = "FILE", requires = "compat_key")]
    pub compat_cert: Option<PathBuf>,
    /// The certificate's private key, PEM.
    #[arg(long, value_name = "FILE", requires = "compat_cert")]
    pub compat_key: Option<PathBuf>,
    /// Nodes that may be connected there at a time; further ones get HTTP 503.
    #[arg(long, value_name = "NUMBER")]
    pub compat_max_clients: Option<usize>,
    /// Datagrams per second that the beacon relays for one source; 0: any number. Loopback UDP has no limit.
    #[arg(long, value_name = "NUMBER")]
    pub relay_limit: Option<u32>,
    /// HTTP address of the dashboard: a page, /api/stats, /healthz and /metrics.
    #[arg(long, value_name = "IP:PORT")]
    pub dashboard: Option<String>,
    /// Shows the networks' names on the dashboard to whoever adds ?token=.
    #[arg(long, env = "PILOT_DASHBOARD_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub dashboard_token: Option<String>,
    /// What a standby has to know to follow.
    #[arg(long, env = "PILOT_REPLICATION_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub replication_token: Option<String>,
    /// Follow this registry as its standby: serve what only reads, take nothing that changes.
    #[arg(long, value_name = "HOST:PORT")]
    pub standby_of: Option<String>,
    /// Fingerprint of that registry's certificate, when it speaks TLS.
    #[arg(long, value_name = "HEX", requires = "standby_of")]
    pub standby_of_fingerprint: Option<String>,
    /// Log level.
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Log format: text or json.
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Print one line of JSON to standard output once it serves: registry, beacon (IP:PORT), compat, dashboard (URL) and
    /// fingerprint, null for what there is not. Ports that were given as 0 are then known.
    #[arg(long)]
    pub json: bool,
    /// The process that started this one, which must not be outlived; for the network runner.
    #[arg(long, env = crate::runner::process::PARENT_VARIABLE, hide = true)]
    pub parent_pid: Option<i32>,
}

impl RendezvousArgs {
    /// The values as the configuration merges them.
    pub fn overrides(&self) -> Overrides {
        Overrides {
            rendezvous_registry: self.registry.clone(),
            rendezvous_beacon: self.beacon.clone(),
            rendezvous_data_dir: self.data_dir.clone(),
            rendezvous_tls: self.tls,
            rendezvous_tls_cert: self.tls_cert.clone(),
            rendezvous_tls_key: self.tls_key.clone(),
            rendezvous_admin_token: self.admin_token.clone(),
            rendezvous_compat: self.compat_listen.clone(),
            rendezvous_compat_cert: self.compat_cert.clone(),
            rendezvous_compat_key: self.compat_key.clone(),
            rendezvous_compat_max_clients: self.compat_max_clients,
            rendezvous_relay_limit: self.relay_limit,
            rendezvous_dashboard: self.dashboard.clone(),
            rendezvous_dashboard_token: self.dashboard_token.clone(),
            rendezvous_replication_token: self.replication_token.clone(),
            rendezvous_primary: self.standby_of.clone(),
            rendezvous_primary_fingerprint: self.standby_of_fingerprint.clone(),
            log_level: self.log_level.clone(),
            log_format: self.log_format.clone(),
            ..Overrides::default()
        }
    }
}

/// `pilot-host rendezvous ...`
#[derive(Debug, Subcommand)]
pub enum RendezvousAction {
    /// Take the state file of a Go registry over into an empty data directory. The file stays as it is.
    Import {
        /// The Go registry's JSON file.
        file: PathBuf,
        /// Where the rendezvous will find it; made when missing.
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn switches_take_an_optional_value() {
        let cli = Cli::parse_from(["pilot-host", "run", "--public", "--trust-auto-approve=false"]);
        let Command::Run(args) = cli.command else { panic!("not run") };
        assert_eq!((args.public, args.trust_auto_approve), (Some(true), Some(false)));
    }
}
