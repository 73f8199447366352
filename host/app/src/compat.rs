//! The command line of the daemon that scripts know as `pilot-daemon` (cli.md section 3, "Daemon flags"): flags with one
//! dash, no subcommand, and names that this host spells otherwise or does not need.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::Args;

use crate::config::Overrides;

/// Names under which this program takes flags without a subcommand.
const NAMES: [&str; 2] = ["pilot-daemon", "daemon"];

/// Flags of other daemons that have an effect here.
#[derive(Debug, Args, Default)]
#[command(next_help_heading = "Flags of other daemons")]
pub struct CompatArgs {
    /// Networks to join at start, by id.
    #[arg(long, value_delimiter = ',', value_name = "IDS")]
    pub networks: Option<Vec<i64>>,
    /// Where every event is POSTed.
    #[arg(long, value_name = "URL")]
    pub webhook: Option<String>,
    /// Signs each of those.
    #[arg(long, env = "PILOT_WEBHOOK_SECRET", hide_env_values = true, value_name = "SECRET")]
    pub webhook_secret: Option<String>,
    /// Insist on TLS to the registry. A fingerprint or a file of roots, one of which is needed, switches it on by itself.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_parser = switch)]
    pub registry_tls: Option<bool>,
    /// Whom to believe about the registry: pinned (fingerprint or file of roots), or the system's roots.
    #[arg(long, env = "PILOT_REGISTRY_TRUST", value_name = "pinned|system")]
    pub registry_trust: Option<String>,
    /// Leave the plugin dataexchange alone.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_parser = switch)]
    pub no_dataexchange: Option<bool>,
    /// Messages are stored in base64.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub dataexchange_b64: Option<bool>,
    /// A stream that was silent for this long sends a keepalive.
    #[arg(long, value_name = "DURATION")]
    pub keepalive: Option<String>,
    /// A stream that was silent for this long is closed.
    #[arg(long, value_name = "DURATION")]
    pub idle_timeout: Option<String>,
    /// How long a closed stream stays known.
    #[arg(long, value_name = "DURATION")]
    pub time_wait: Option<String>,
    /// New streams per second.
    #[arg(long, value_name = "N")]
    pub syn_rate_limit: Option<u32>,
    /// Peers that neither this limit nor the one per peer counts: node ids, or all.
    #[arg(long, env = "PILOT_SYN_WHITELIST", value_name = "IDS")]
    pub syn_whitelist: Option<String>,
    /// Streams on one local port.
    #[arg(long, value_name = "N")]
    pub max_conns_per_port: Option<u32>,
    /// Streams in all.
    #[arg(long, value_name = "N")]
    pub max_conns_total: Option<u32>,
    /// Nothing answers on port 7.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_parser = switch)]
    pub no_echo: Option<bool>,
    /// Read, and without effect here: who may come in is a matter of trust.
    #[arg(long, env = "PILOT_REPLY_WHITELIST", value_name = "IDS")]
    pub reply_whitelist: Option<String>,
    /// Read, and without effect here: key exchanges are limited by address.
    #[arg(long, env = "PILOT_REKEY_WHITELIST", value_name = "IDS")]
    pub rekey_whitelist: Option<String>,
    /// Do not start unless configuration, state, identity and socket lie in the sandbox's directory.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_parser = switch)]
    pub sandbox: Option<bool>,
    /// That directory; ~/.pilot unless given.
    #[arg(long, value_name = "DIR")]
    pub sandbox_dir: Option<PathBuf>,
    /// compatible, or enterprise: strangers get no key exchange, as with --strict-dataplane-trust.
    #[arg(long, env = "PILOT_SECURITY_PROFILE", value_name = "PROFILE", value_parser = ["compatible", "enterprise"])]
    pub security_profile: Option<String>,
    /// Be reached through the beacon only.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub relay_only: Option<bool>,
    /// Strangers get no key exchange and no answer to a ping either.
    #[arg(long, env = "PILOT_STRICT_DATAPLANE_TRUST", num_args = 0..=1, default_missing_value = "true", value_parser = switch)]
    pub strict_dataplane_trust: Option<bool>,
    /// Tunnels are always encrypted; `false` is refused.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_parser = always)]
    pub encrypt: Option<bool>,
    #[command(flatten)]
    pub unused: Unused,
}

/// Flags of other daemons that are accepted and have none, because what they switch is not here: the owner's address is
/// not asked for, nobody is contacted unless configured, the broker of events is a plugin that is there or not, and the log
/// goes to standard error.
#[derive(Debug, Args, Default)]
pub struct Unused {
    #[arg(long, alias = "owner", hide = true)]
    email: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true")]
    no_eventstream: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true")]
    no_tasksubmit: Option<String>,
    #[arg(long, hide = true)]
    log_max_size: Option<String>,
    #[arg(long, hide = true)]
    log_max_backups: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true")]
    no_skillinject: Option<String>,
    #[arg(long, hide = true)]
    motd_feed_url: Option<String>,
    #[arg(long, hide = true)]
    motd_interval: Option<String>,
    #[arg(long, hide = true)]
    telemetry_url: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true")]
    no_rx_watchdog: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true")]
    no_path_watch: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true")]
    no_addr_watch: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true")]
    beacon_rtt_probe: Option<String>,
}

fn switch(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" | "" => Ok(false),
        other => Err(format!("{other:?} is neither true nor false")),
    }
}

fn always(text: &str) -> Result<bool, String> {
    match switch(text)? {
        true => Ok(true),
        false => Err("tunnels of this host are always encrypted".to_owned()),
    }
}

impl CompatArgs {
    /// Lays these flags into the overrides.
    pub fn lay(&self, over: &mut Overrides) {
        over.networks.clone_from(&self.networks);
        over.keepalive.clone_from(&self.keepalive);
        over.idle_timeout.clone_from(&self.idle_timeout);
        over.time_wait.clone_from(&self.time_wait);
        over.syn_rate_limit = self.syn_rate_limit;
        over.syn_whitelist.clone_from(&self.syn_whitelist);
        over.max_conns_per_port = self.max_conns_per_port;
        over.max_conns_total = self.max_conns_total;
        over.relay_only = self.relay_only;
        over.strict = self.strict_dataplane_trust;
        over.no_echo = self.no_echo;
        over.reply_whitelist.clone_from(&self.reply_whitelist);
        over.rekey_whitelist.clone_from(&self.rekey_whitelist);
        over.sandbox = self.sandbox;
        over.sandbox_dir.clone_from(&self.sandbox_dir);
        over.security_profile.clone_from(&self.security_profile);
        over.registry_tls = self.registry_tls;
        over.registry_trust.clone_from(&self.registry_trust);
        if self.no_dataexchange == Some(true) {
            over.disabled_plugins.push("dataexchange");
        }
        let keys = [
            ("webhook", "url", self.webhook.clone().map(Into::into)),
            ("webhook", "secret", self.webhook_secret.clone().map(Into::into)),
            ("dataexchange", "include_base64", self.dataexchange_b64.map(Into::into)),
        ];
        over.plugin_keys.extend(keys.into_iter().filter_map(|(plugin, key, v)| Some((plugin, key, v?))));
    }
}

/// The command line as this program parses it: long flags get their second dash, and where no subcommand is given (the
/// program is called by its other name, or begins with a flag) it is `run`.
pub fn command_line(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.into_iter().collect();
    for arg in args.iter_mut().skip(1) {
        if arg == "--" {
            break;
        }
        if arg.to_str().is_some_and(crate::ctl::is_single_dash_long) {
            let mut longer = OsString::from("-");
            longer.push(&arg);
            *arg = longer;
        }
    }
    let by_other_name = args
        .first()
        .and_then(|p| Path::new(p).file_name())
        .and_then(OsStr::to_str)
        .is_some_and(|n| NAMES.contains(&n));
    let flag = |a: &OsString| a.to_str().is_some_and(|a| a.starts_with("--"));
    let begins_with_flag = args.get(1).is_some_and(flag);
    let asks_version = args.get(1).is_some_and(|a| a == "--version");
    let asks_help = args.get(1).is_some_and(|a| a == "--help") && !by_other_name;
    if asks_version || asks_help {
        return args;
    }
    if begins_with_flag || (by_other_name && args.len() == 1) {
        args.insert(1, "run".into());
    }
    // Other daemons read this file unasked.
    let own = crate::config::default_state_dir().join("config.json");
    if by_other_name && args.get(1).is_some_and(|a| a == "run") && own.is_file() {
        let named = |a: &OsString| a.to_str().is_some_and(|a| a == "--config" || a.starts_with("--config="));
        if !args.iter().any(named) {
            args.insert(2, own.into());
            args.insert(2, "--config".into());
        }
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Vec<String> {
        let args = command_line(text.split(' ').map(OsString::from));
        args.into_iter().map(|a| a.into_string().unwrap()).filter(|a| !a.ends_with("config.json")).collect()
    }

    #[test]
    fn the_other_name_needs_no_subcommand() {
        let args = line("/usr/bin/pilot-daemon -registry 127.0.0.1:9000 -public -log-level=debug");
        let wanted = "/usr/bin/pilot-daemon run --registry 127.0.0.1:9000 --public --log-level=debug";
        let without: Vec<_> = args.into_iter().filter(|a| a != "--config").collect();
        assert_eq!(without.join(" "), wanted);
        assert_eq!(line("pilot-daemon -version").join(" "), "pilot-daemon --version");
        assert_eq!(line("pilot-daemon rendezvous").join(" "), "pilot-daemon rendezvous");
    }

    #[test]
    fn the_own_name_takes_both_forms() {
        assert_eq!(line("pilot-host -socket /tmp/s").join(" "), "pilot-host run --socket /tmp/s");
        assert_eq!(line("pilot-host run --socket /tmp/s").join(" "), "pilot-host run --socket /tmp/s");
        assert_eq!(line("pilot-host --help").join(" "), "pilot-host --help");
        assert_eq!(line("pilot-host").join(" "), "pilot-host");
    }
}
