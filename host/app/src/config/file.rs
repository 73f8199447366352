//! Reads `pilot.toml`: every value keeps its place in the text, so that a complaint can name file, line and key.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pilot_engine::config::Peers;
use serde::Deserialize;
use serde_json::Value;
use toml::Spanned;

use super::plugins::RawPlugins;
use super::security::Profile;
use super::transport::RawCompat;
use super::{Config, ConfigError, LogConfig, NodeConfig, Overrides};

pub(super) type Field<T> = Option<Spanned<T>>;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Raw {
    node: RawNode,
    registry: RawRegistry,
    beacon: RawAddr,
    compat: RawCompat,
    rendezvous: RawRendezvous,
    #[serde(alias = "socket")]
    ipc: RawIpc,
    metrics: RawMetrics,
    telemetry: RawTelemetry,
    engine: RawEngine,
    plugins: RawPlugins,
    plugin: BTreeMap<String, toml::Table>,
    security: RawSecurity,
    log: RawLog,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawNode {
    state_dir: Field<String>,
    identity: Field<String>,
    hostname: Field<String>,
    listen: Field<String>,
    endpoint: Field<String>,
    public: Field<bool>,
    trust_auto_approve: Field<bool>,
    admin_token: Field<String>,
    networks: Field<Vec<i64>>,
    transport: Field<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRegistry {
    pub(super) addr: Field<String>,
    pub(super) standbys: Field<Vec<String>>,
    pub(super) fingerprint: Field<String>,
    pub(super) ca_file: Field<String>,
    pub(super) trust: Field<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawAddr {
    addr: Field<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRendezvous {
    pub(super) registry: Field<String>,
    pub(super) beacon: Field<String>,
    pub(super) data_dir: Field<String>,
    pub(super) admin_token: Field<String>,
    pub(super) tls: Field<bool>,
    pub(super) tls_cert: Field<String>,
    pub(super) tls_key: Field<String>,
    pub(super) compat_listen: Field<String>,
    pub(super) compat_cert: Field<String>,
    pub(super) compat_key: Field<String>,
    pub(super) compat_max_clients: Field<usize>,
    pub(super) compat_challenge_age: Field<u32>,
    pub(super) relay_limit: Field<u32>,
    pub(super) reap_after: Field<String>,
    pub(super) max_connections: Field<usize>,
    pub(super) requests_slow: Field<u32>,
    pub(super) requests_close: Field<u32>,
    pub(super) requests_together: Field<u32>,
    pub(super) registrations_per_minute: Field<u32>,
    pub(super) unlimited: Field<Vec<String>>,
    pub(super) dashboard: Field<String>,
    pub(super) dashboard_token: Field<String>,
    pub(super) replication_token: Field<String>,
    pub(super) primary: Field<String>,
    pub(super) primary_fingerprint: Field<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawIpc {
    #[serde(alias = "path")]
    socket: Field<String>,
    group: Field<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawMetrics {
    listen: Field<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawTelemetry {
    otlp: Field<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawEngine {
    keepalive: Field<String>,
    idle_timeout: Field<String>,
    time_wait: Field<String>,
    syn_rate_limit: Field<u32>,
    max_conns_per_port: Field<u32>,
    max_conns_total: Field<u32>,
    syn_whitelist: Field<String>,
    relay_only: Field<bool>,
    echo: Field<bool>,
    strict: Field<bool>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawSecurity {
    pub(super) profile: Field<String>,
    pub(super) sandbox: Field<bool>,
    pub(super) sandbox_dir: Field<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawLog {
    level: Field<String>,
    format: Field<String>,
}

/// Knows the text, so that it can say where something stands.
pub(super) struct Source<'a> {
    origin: &'a str,
    text: &'a str,
}

impl Source<'_> {
    fn line(&self, offset: usize) -> usize {
        self.text.as_bytes().iter().take(offset).filter(|b| **b == b'\n').count() + 1
    }

    pub(super) fn error(&self, offset: usize, key: &str, message: impl Into<String>) -> ConfigError {
        ConfigError {
            origin: self.origin.to_owned(),
            line: self.line(offset),
            key: key.to_owned(),
            message: message.into(),
        }
    }

    /// The dotted key at `offset`: the table header above it and the left side of its line.
    fn key_at(&self, offset: usize) -> String {
        let mut table = String::new();
        let mut key = String::new();
        let last = self.line(offset);
        for line in self.text.lines().take(last) {
            let line = line.trim();
            if let Some(header) = line.strip_prefix('[').and_then(|l| l.split(']').next()) {
                table = header.trim_matches(['[', ']', ' ']).to_owned();
                key.clear();
            } else if let Some((left, _)) = line.split_once('=')
                && !left.trim().is_empty()
                && !left.trim_start().starts_with('#')
            {
                key = left.trim().to_owned();
            }
        }
        match (table.is_empty(), key.is_empty()) {
            (true, _) => key,
            (_, true) => table,
            _ => format!("{table}.{key}"),
        }
    }
}

/// Parses, merges and checks. `text` is the file's content, `origin` its name.
pub(super) fn parse(origin: &str, text: &str, over: &Overrides) -> Result<Config, ConfigError> {
    let source = Source { origin, text };
    let raw: Raw = toml::from_str(text).map_err(|e| {
        let offset = e.span().map_or(0, |s| s.start);
        source.error(offset, &source.key_at(offset), e.message().to_owned())
    })?;
    Merger { source, over }.config(raw)
}

/// A path that may be left out; an empty one is left out.
pub(super) fn optional_path(over: &Option<PathBuf>, file: Field<String>) -> Option<PathBuf> {
    let written = || file.map(Spanned::into_inner).filter(|path| !path.is_empty()).map(|path| expand(&path));
    over.clone().or_else(written)
}

/// A value and where it came from, for messages.
pub(super) struct Given<T> {
    pub(super) value: T,
    place: Place,
}

impl<T> Given<T> {
    /// Another value from the same place.
    pub(super) fn with<U>(&self, value: U) -> Given<U> {
        Given { value, place: self.place }
    }
}

#[derive(Clone, Copy)]
pub(super) enum Place {
    Flag(&'static str),
    File(usize),
    Default,
}

pub(super) struct Merger<'a> {
    pub(super) source: Source<'a>,
    pub(super) over: &'a Overrides,
}

impl Merger<'_> {
    pub(super) fn pick<T: Clone>(
        &self,
        flag: &'static str,
        over: &Option<T>,
        file: Field<T>,
        default: T,
    ) -> Given<T> {
        match (over, file) {
            (Some(v), _) => Given { value: v.clone(), place: Place::Flag(flag) },
            (None, Some(v)) => {
                let start = v.span().start;
                Given { value: v.into_inner(), place: Place::File(start) }
            }
            (None, None) => Given { value: default, place: Place::Default },
        }
    }

    pub(super) fn bad<T>(&self, given: &Given<T>, key: &str, message: String) -> ConfigError {
        match given.place {
            Place::File(offset) => self.source.error(offset, key, message),
            Place::Flag(flag) => {
                ConfigError { origin: flag.to_owned(), line: 0, key: key.to_owned(), message }
            }
            Place::Default => {
                ConfigError { origin: "default".to_owned(), line: 0, key: key.to_owned(), message }
            }
        }
    }

    fn config(&self, mut raw: Raw) -> Result<Config, ConfigError> {
        let transport = self.transport(raw.node.transport.take(), raw.compat)?;
        let node = self.node(raw.node)?;
        let over = self.over;
        let (registry, standbys, registry_tls) = self.registry(raw.registry, transport.choice)?;
        let beacon = self
            .endpoint("beacon.addr", &self.pick("--beacon", &over.beacon, raw.beacon.addr, String::new()))?;
        let rendezvous = self.rendezvous(raw.rendezvous)?;
        let socket =
            self.path("ipc.socket", "--socket", &over.socket, raw.ipc.socket, super::default_socket())?;
        if socket.as_os_str().len() > 100 {
            let given = Given { value: (), place: Place::Default };
            return Err(self.bad(
                &given,
                "ipc.socket",
                format!(
                    "{} is longer than a Unix socket path may be (100 bytes); choose a shorter one",
                    socket.display()
                ),
            ));
        }
        let plugins = self.plugins(raw.plugins)?;
        let socket_group =
            self.group(&self.pick("--socket-group", &over.socket_group, raw.ipc.group, String::new()))?;
        let metrics = self.pick("--metrics", &over.metrics, raw.metrics.listen, String::new());
        let metrics = match metrics.value.is_empty() {
            true => None,
            false => Some(self.socket_addr("metrics.listen", &metrics)?),
        };
        let telemetry =
            self.collector(&self.pick("--otlp", &over.otlp, raw.telemetry.otlp, String::new()))?;
        let security = self.security(raw.security)?;
        let engine = self.engine(raw.engine, security.profile == Profile::Enterprise)?;
        self.unused_whitelists()?;
        let mut plugin: BTreeMap<String, Value> =
            raw.plugin.into_iter().map(|(name, table)| (name, to_json(toml::Value::Table(table)))).collect();
        for (name, key, value) in &over.plugin_keys {
            let table = plugin.entry((*name).to_owned()).or_insert_with(|| Value::Object(Default::default()));
            if let Some(table) = table.as_object_mut() {
                table.insert((*key).to_owned(), value.clone());
            }
        }
        let log = self.log(raw.log)?;
        let source = super::Source::default();
        Ok(Config {
            node,
            registry,
            standbys,
            registry_tls,
            beacon,
            transport,
            rendezvous,
            socket,
            socket_group,
            metrics,
            telemetry,
            engine,
            plugins,
            plugin,
            security,
            log,
            source,
        })
    }

    /// A group by name or number.
    fn group(&self, given: &Given<String>) -> Result<Option<u32>, ConfigError> {
        let text = given.value.as_str();
        if text.is_empty() {
            return Ok(None);
        }
        if let Ok(number) = text.parse() {
            return Ok(Some(number));
        }
        match nix::unistd::Group::from_name(text) {
            Ok(Some(group)) => Ok(Some(group.gid.as_raw())),
            Ok(None) => Err(self.bad(
                given,
                "ipc.group",
                format!("this machine has no group {text:?}; make it (groupadd) or name another"),
            )),
            Err(e) => Err(self.bad(given, "ipc.group", format!("cannot look the group {text:?} up: {e}"))),
        }
    }

    /// Where spans go.
    fn collector(&self, given: &Given<String>) -> Result<Option<String>, ConfigError> {
        if given.value.is_empty() {
            return Ok(None);
        }
        let url = given.value.parse::<ureq::http::Uri>().ok();
        let good =
            url.is_some_and(|u| matches!(u.scheme_str(), Some("http" | "https")) && u.query().is_none());
        match good {
            true => Ok(Some(given.value.clone())),
            false => Err(self.bad(
                given,
                "telemetry.otlp",
                format!(
                    "{:?} is not a collector; write its URL, for example http://127.0.0.1:4318",
                    given.value
                ),
            )),
        }
    }

    /// Node ids with commas between them, or everyone.
    fn peers(&self, key: &str, given: &Given<String>) -> Result<Peers, ConfigError> {
        match given.value.trim() {
            "*" | "all" => return Ok(Peers::All),
            "" => return Ok(Peers::default()),
            _ => {}
        }
        let node = |text: &str| {
            text.trim().parse().map_err(|_| {
                let text =
                    format!("{text:?} is no node id; give numbers with commas between them, or \"all\"");
                self.bad(given, key, text)
            })
        };
        given.value.split(',').map(node).collect::<Result<_, _>>().map(Peers::Only)
    }

    /// Lists that have no effect here are still read: a mistake in them is a mistake.
    fn unused_whitelists(&self) -> Result<(), ConfigError> {
        let over = self.over;
        let lists = [
            ("reply-whitelist", "--reply-whitelist", &over.reply_whitelist),
            ("rekey-whitelist", "--rekey-whitelist", &over.rekey_whitelist),
        ];
        for (key, flag, list) in lists {
            self.peers(key, &self.pick(flag, list, None, String::new()))?;
        }
        Ok(())
    }

    fn engine(&self, raw: RawEngine, strict: bool) -> Result<super::EngineSettings, ConfigError> {
        let over = self.over;
        let time = |key: &str, flag, over: &Option<String>, file| {
            let given = self.pick(flag, over, file, String::new());
            match given.value.is_empty() {
                true => Ok(None),
                false => self.duration(key, &given).map(Some),
            }
        };
        let count = |key: &str, flag, over: &Option<u32>, file: Field<u32>| {
            let given = self.pick(
                flag,
                &over.map(Some),
                file.map(|f| Spanned::new(f.span(), Some(f.into_inner()))),
                None,
            );
            match given.value {
                Some(0) => Err(self.bad(
                    &given,
                    key,
                    "0 would let nothing through; leave the key out for the default".into(),
                )),
                value => Ok(value),
            }
        };
        let size = |n: Option<u32>| n.and_then(|n| usize::try_from(n).ok());
        Ok(super::EngineSettings {
            keepalive: time("engine.keepalive", "--keepalive", &over.keepalive, raw.keepalive)?,
            idle_timeout: time(
                "engine.idle_timeout",
                "--idle-timeout",
                &over.idle_timeout,
                raw.idle_timeout,
            )?,
            time_wait: time("engine.time_wait", "--time-wait", &over.time_wait, raw.time_wait)?,
            syn_rate_limit: count(
                "engine.syn_rate_limit",
                "--syn-rate-limit",
                &over.syn_rate_limit,
                raw.syn_rate_limit,
            )?,
            max_conns_per_port: size(count(
                "engine.max_conns_per_port",
                "--max-conns-per-port",
                &over.max_conns_per_port,
                raw.max_conns_per_port,
            )?),
            max_conns_total: size(count(
                "engine.max_conns_total",
                "--max-conns-total",
                &over.max_conns_total,
                raw.max_conns_total,
            )?),
            syn_whitelist: self.peers(
                "engine.syn_whitelist",
                &self.pick("--syn-whitelist", &over.syn_whitelist, raw.syn_whitelist, String::new()),
            )?,
            relay_only: self.pick("--relay-only", &over.relay_only, raw.relay_only, false).value,
            no_echo: !self.pick("--no-echo", &over.no_echo.map(|no| !no), raw.echo, true).value,
            strict: self.pick("--strict-dataplane-trust", &over.strict, raw.strict, strict).value,
        })
    }

    fn node(&self, raw: RawNode) -> Result<NodeConfig, ConfigError> {
        let over = self.over;
        let state_dir = self.path(
            "node.state_dir",
            "--state-dir",
            &over.state_dir,
            raw.state_dir,
            super::default_state_dir(),
        )?;
        let identity = self.path(
            "node.identity",
            "--identity",
            &over.identity,
            raw.identity,
            state_dir.join("identity.json"),
        )?;
        let hostname = self.pick("--hostname", &over.hostname, raw.hostname, String::new());
        if !hostname.value.is_empty() && !is_hostname(&hostname.value) {
            return Err(self.bad(
                &hostname,
                "node.hostname",
                format!(
                    "{:?} is not a host name; use up to 63 lower-case letters, digits and inner hyphens",
                    hostname.value
                ),
            ));
        }
        let listen = self.socket_addr(
            "node.listen",
            &self.pick("--listen", &over.listen, raw.listen, "0.0.0.0:0".into()),
        )?;
        let endpoint = self.pick("--endpoint", &over.endpoint, raw.endpoint, String::new());
        let endpoint = match endpoint.value.is_empty() {
            true => None,
            false => Some(self.socket_addr("node.endpoint", &endpoint)?),
        };
        let networks = self.pick("--networks", &over.networks, raw.networks, Vec::new());
        let mut ids = Vec::with_capacity(networks.value.len());
        for n in &networks.value {
            match u16::try_from(*n) {
                Ok(id) if id > 0 => ids.push(id),
                _ => {
                    return Err(self.bad(
                        &networks,
                        "node.networks",
                        format!("{n} is not a network id; use whole numbers from 1 to 65535"),
                    ));
                }
            }
        }
        Ok(NodeConfig {
            state_dir,
            identity,
            hostname: hostname.value,
            listen,
            endpoint,
            public: self.pick("--public", &over.public, raw.public, false).value,
            trust_auto_approve: self
                .pick("--trust-auto-approve", &over.trust_auto_approve, raw.trust_auto_approve, false)
                .value,
            admin_token: self.pick("--admin-token", &over.admin_token, raw.admin_token, String::new()).value,
            networks: ids,
        })
    }

    fn log(&self, raw: RawLog) -> Result<LogConfig, ConfigError> {
        let level = self.pick("--log-level", &self.over.log_level, raw.level, "info".into());
        if tracing_subscriber::EnvFilter::builder().parse(&level.value).is_err() {
            return Err(self.bad(
                &level,
                "log.level",
                format!(
                    "{:?} is not a level; use error, warn, info, debug, trace, or target=level pairs",
                    level.value
                ),
            ));
        }
        let format = self.pick("--log-format", &self.over.log_format, raw.format, "text".into());
        let json = match format.value.as_str() {
            "text" => false,
            "json" => true,
            other => {
                return Err(self.bad(
                    &format,
                    "log.format",
                    format!("{other:?} is not a format; use text or json"),
                ));
            }
        };
        Ok(LogConfig { level: level.value, json })
    }

    pub(super) fn path(
        &self,
        key: &str,
        flag: &'static str,
        over: &Option<PathBuf>,
        file: Field<String>,
        default: PathBuf,
    ) -> Result<PathBuf, ConfigError> {
        let given = self.pick(flag, over, None, PathBuf::new());
        let given = match (over, file) {
            (Some(_), _) => given,
            (None, Some(text)) => {
                let start = text.span().start;
                Given { value: expand(text.get_ref()), place: Place::File(start) }
            }
            (None, None) => Given { value: default, place: Place::Default },
        };
        if given.value.as_os_str().is_empty() {
            return Err(self.bad(&given, key, "must not be empty; name a path or leave the key out".into()));
        }
        Ok(given.value)
    }

    pub(super) fn socket_addr(&self, key: &str, given: &Given<String>) -> Result<SocketAddr, ConfigError> {
        let text = match given.value.strip_prefix(':') {
            Some(port) => format!("0.0.0.0:{port}"),
            None => given.value.clone(),
        };
        text.parse().map_err(|_| {
            self.bad(
                given,
                key,
                format!("{:?} is not an address; write IP:PORT, for example 0.0.0.0:4000", given.value),
            )
        })
    }

    pub(super) fn endpoint(&self, key: &str, given: &Given<String>) -> Result<Option<String>, ConfigError> {
        if given.value.is_empty() {
            return Ok(None);
        }
        let ok = given.value.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty()
                && port.parse::<u16>().is_ok_and(|p| p > 0)
                && !host.contains(char::is_whitespace)
        });
        if !ok {
            return Err(self.bad(
                given,
                key,
                format!("{:?} is not HOST:PORT; write for example registry.example.org:9000", given.value),
            ));
        }
        Ok(Some(given.value.clone()))
    }

    pub(super) fn duration(&self, key: &str, given: &Given<String>) -> Result<Duration, ConfigError> {
        self.duration_up_to(key, given, Duration::from_secs(3600))
    }

    pub(super) fn duration_up_to(
        &self,
        key: &str,
        given: &Given<String>,
        most: Duration,
    ) -> Result<Duration, ConfigError> {
        let parsed = given
            .value
            .parse::<pilot_wire::goduration::GoDuration>()
            .ok()
            .and_then(|d| u64::try_from(d.as_nanos()).ok())
            .map(Duration::from_nanos)
            .filter(|d| *d >= Duration::from_millis(1) && *d <= most);
        parsed.ok_or_else(|| {
            self.bad(
                given,
                key,
                format!(
                    "{:?} is not a duration from 1ms to {}h; write for example 5s",
                    given.value,
                    most.as_secs() / 3600
                ),
            )
        })
    }
}

/// `~` at the start means the home directory.
pub(super) fn expand(text: &str) -> PathBuf {
    match text.strip_prefix("~/").and_then(|rest| std::env::var_os("HOME").map(|h| Path::new(&h).join(rest)))
    {
        Some(path) => path,
        None => PathBuf::from(text),
    }
}

/// registry.md section 3.3, "Name rules".
fn is_hostname(text: &str) -> bool {
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    text.len() <= 63
        && text.as_bytes().iter().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !["localhost", "backbone", "broadcast"].contains(&text)
}

fn to_json(value: toml::Value) -> Value {
    match value {
        toml::Value::String(s) => Value::String(s),
        toml::Value::Integer(i) => Value::from(i),
        toml::Value::Float(f) => Value::from(f),
        toml::Value::Boolean(b) => Value::Bool(b),
        toml::Value::Datetime(d) => Value::String(d.to_string()),
        toml::Value::Array(a) => Value::Array(a.into_iter().map(to_json).collect()),
        toml::Value::Table(t) => Value::Object(t.into_iter().map(|(k, v)| (k, to_json(v))).collect()),
    }
}
