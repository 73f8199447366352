//! `[plugins]` and `[plugins.settings.NAME]`: what the host itself decides about plugins. A plugin's own keys are in
//! `[plugin.NAME]` and none of this file's business.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use pilot_loader::child::{ChildLimits, Restarts};
use pilot_loader::{FIRST_PARTY, Isolation, TrustMode, TrustPolicy};
use serde::Deserialize;
use toml::Spanned;

use super::file::{Field, Merger};
use super::{ConfigError, DEFAULT_PLUGINS_DIR};
use crate::capability::{Action, Capabilities, Ports, Rates, Service, Target, Topics};

/// `[plugins]`
#[derive(Debug, Clone, PartialEq)]
pub struct PluginsConfig {
    /// Directory to scan.
    pub dir: PathBuf,
    /// Bound on one plugin's Init.
    pub init_timeout: Duration,
    /// Bound on one plugin's Shutdown.
    pub shutdown_timeout: Duration,
    /// Who vouches for files, and what happens to those that nobody vouches for.
    pub trust: TrustPolicy,
    /// Plugins whose files are left alone.
    pub disabled: BTreeSet<String>,
    /// Faults until quarantine; 0 is never.
    pub quarantine_after: u32,
    /// The time within which they count.
    pub quarantine_window: Duration,
    /// Whether a file that this host has not opened before is tried out in a child process first.
    pub probe: bool,
    /// Libraries that the process maps at most.
    pub max_mapped_copies: usize,
    /// Log lines per second and plugin, unless its own settings say otherwise; 0 is no limit.
    pub log_rate: u32,
    /// By plugin name.
    pub settings: BTreeMap<String, PluginSettings>,
}

/// `[plugins.settings.NAME]`; `None` is the default for that name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PluginSettings {
    /// Where its code runs.
    pub isolation: Option<Isolation>,
    /// Limits of its process, if it runs in one.
    pub process: ProcessSettings,
    /// What it may do, key by key.
    pub capabilities: CapabilitySettings,
}

/// `[plugins.settings.NAME.process]`
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProcessSettings {
    /// How long a decision about a packet or a stream may take; then it is a "no".
    pub decision_timeout: Option<Duration>,
    /// How long any other call may take; then it is an error.
    pub call_timeout: Option<Duration>,
    /// Pause before the first restart after a crash.
    pub restart_pause: Option<Duration>,
    /// The longest that the pause grows to.
    pub longest_restart_pause: Option<Duration>,
    /// Limit of its address space, MiB.
    pub address_space: Option<u32>,
}

/// `[plugins.settings.NAME.capabilities]`
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs)] // the keys of `Capabilities` and `Rates`, where they are described
pub struct CapabilitySettings {
    pub ports: Option<Vec<Ports>>,
    pub publish: Option<Vec<Topics>>,
    pub subscribe: Option<Vec<Topics>>,
    pub dial: Option<Vec<Target>>,
    pub sign: Option<Vec<String>>,
    pub registry: Option<Vec<String>>,
    pub services: Option<Vec<Service>>,
    pub actions: Option<Vec<Action>>,
    pub dials_per_second: Option<u32>,
    pub publishes_per_second: Option<u32>,
    pub registry_calls_per_second: Option<u32>,
    pub log_lines_per_second: Option<u32>,
}

impl PluginsConfig {
    /// Limits of plugins with a process of their own, where the settings name any.
    pub fn children(&self) -> BTreeMap<String, ChildLimits> {
        let limits = |p: &ProcessSettings| {
            let d = ChildLimits::default();
            let first = p.restart_pause.unwrap_or(d.restarts.first);
            ChildLimits {
                decision: p.decision_timeout.unwrap_or(d.decision),
                call: p.call_timeout.unwrap_or(d.call),
                address_space: p.address_space.map(|mib| u64::from(mib) << 20),
                restarts: Restarts {
                    first,
                    longest: p.longest_restart_pause.unwrap_or(d.restarts.longest).max(first),
                    ..d.restarts
                },
                ..d
            }
        };
        self.settings.iter().map(|(name, s)| (name.clone(), limits(&s.process))).collect()
    }

    /// What the plugin called `name` may do: the defaults for it, with what its settings say instead.
    pub fn capabilities(&self, name: &str) -> Capabilities {
        let base = match FIRST_PARTY.contains(&name) {
            true => Capabilities::ample(self.log_rate),
            false => Capabilities::least(name, self.log_rate),
        };
        let Some(settings) = self.settings.get(name) else { return base };
        let c = settings.capabilities.clone();
        Capabilities {
            ports: c.ports.unwrap_or(base.ports),
            publish: c.publish.unwrap_or(base.publish),
            subscribe: c.subscribe.unwrap_or(base.subscribe),
            dial: c.dial.unwrap_or(base.dial),
            sign: c.sign.unwrap_or(base.sign),
            registry: c.registry.unwrap_or(base.registry),
            services: c.services.unwrap_or(base.services),
            actions: c.actions.unwrap_or(base.actions),
            rates: Rates {
                dials: c.dials_per_second.unwrap_or(base.rates.dials),
                publishes: c.publishes_per_second.unwrap_or(base.rates.publishes),
                registry_calls: c.registry_calls_per_second.unwrap_or(base.rates.registry_calls),
                log_lines: c.log_lines_per_second.unwrap_or(base.rates.log_lines),
            },
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawPlugins {
    dir: Field<String>,
    init_timeout: Field<String>,
    shutdown_timeout: Field<String>,
    trust: Field<String>,
    trusted_keys: Texts,
    allow: Texts,
    disabled: Texts,
    quarantine_after: Field<i64>,
    quarantine_window: Field<String>,
    probe: Field<bool>,
    max_mapped_copies: Field<i64>,
    log_rate: Field<i64>,
    settings: BTreeMap<String, RawSettings>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawSettings {
    enabled: Field<bool>,
    isolation: Field<String>,
    process: RawProcess,
    capabilities: RawCapabilities,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawProcess {
    decision_timeout: Field<String>,
    call_timeout: Field<String>,
    restart_pause: Field<String>,
    longest_restart_pause: Field<String>,
    address_space: Field<i64>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawCapabilities {
    ports: Option<Vec<Spanned<toml::Value>>>,
    publish: Texts,
    subscribe: Texts,
    dial: Texts,
    sign: Texts,
    registry: Texts,
    services: Texts,
    actions: Texts,
    dials_per_second: Field<i64>,
    publishes_per_second: Field<i64>,
    registry_calls_per_second: Field<i64>,
    log_lines_per_second: Field<i64>,
}

/// A list whose every entry knows its place.
type Texts = Option<Vec<Spanned<String>>>;

const DAY: Duration = Duration::from_secs(24 * 3600);

impl Merger<'_> {
    pub(super) fn plugins(&self, raw: RawPlugins) -> Result<PluginsConfig, ConfigError> {
        let dir = self.path(
            "plugins.dir",
            "--plugins",
            &self.over.plugins_dir,
            raw.dir,
            DEFAULT_PLUGINS_DIR.into(),
        )?;
        let trust = self.trust(raw.trust, &raw.trusted_keys, &raw.allow)?;
        let mut disabled: BTreeSet<String> =
            self.over.disabled_plugins.iter().map(|name| (*name).to_owned()).collect();
        for name in raw.disabled.unwrap_or_default() {
            self.plugin_name(name.span().start, "plugins.disabled", name.get_ref())?;
            disabled.insert(name.into_inner());
        }
        let mut settings = BTreeMap::new();
        for (name, raw) in raw.settings {
            let key = format!("plugins.settings.{name}");
            let place = raw.place();
            self.plugin_name(place.unwrap_or(0), &key, &name)?;
            if raw.enabled.as_ref().is_some_and(|e| !*e.get_ref()) {
                disabled.insert(name.clone());
            }
            settings.insert(name, self.settings(&key, raw)?);
        }
        Ok(PluginsConfig {
            dir,
            init_timeout: self
                .duration("plugins.init_timeout", &self.pick("", &None, raw.init_timeout, "10s".into()))?,
            shutdown_timeout: self.duration(
                "plugins.shutdown_timeout",
                &self.pick("", &None, raw.shutdown_timeout, "5s".into()),
            )?,
            trust,
            disabled,
            quarantine_after: self
                .whole("plugins.quarantine_after", raw.quarantine_after, 0..=1000)?
                .unwrap_or(5),
            quarantine_window: self.duration_up_to(
                "plugins.quarantine_window",
                &self.pick("", &None, raw.quarantine_window, "10m".into()),
                DAY,
            )?,
            probe: raw.probe.is_none_or(Spanned::into_inner),
            max_mapped_copies: self
                .whole("plugins.max_mapped_copies", raw.max_mapped_copies, 1..=100_000)?
                .map_or(1200, |n| n as usize),
            log_rate: self.whole("plugins.log_rate", raw.log_rate, 0..=1_000_000)?.unwrap_or(200),
            settings,
        })
    }

    fn trust(&self, mode: Field<String>, keys: &Texts, allow: &Texts) -> Result<TrustPolicy, ConfigError> {
        let mode = self.pick("", &None, mode, "off".into());
        let parsed = match mode.value.as_str() {
            "off" => TrustMode::Off,
            "warn" => TrustMode::Warn,
            "enforce" => TrustMode::Enforce,
            other => {
                let text = format!("{other:?} is not a trust mode; use off, warn or enforce");
                return Err(self.bad(&mode, "plugins.trust", text));
            }
        };
        // One by one first, so that a mistake has a place.
        for (key, list) in [("plugins.trusted_keys", keys), ("plugins.allow", allow)] {
            for entry in list.iter().flatten() {
                let (hashes, keys): (&[_], &[_]) = match key {
                    "plugins.allow" => (&[entry.get_ref()], &[]),
                    _ => (&[], &[entry.get_ref()]),
                };
                if let Err(e) = TrustPolicy::new(parsed, hashes, keys) {
                    return Err(self.source.error(entry.span().start, key, e.to_string()));
                }
            }
        }
        let all = |list: &Texts| list.iter().flatten().map(|t| t.get_ref().clone()).collect::<Vec<_>>();
        TrustPolicy::new(parsed, all(allow), all(keys))
            .map_err(|e| self.bad(&mode, "plugins.trust", e.to_string()))
    }

    fn settings(&self, key: &str, raw: RawSettings) -> Result<PluginSettings, ConfigError> {
        let isolation = match raw.isolation {
            None => None,
            Some(text) => Some(Isolation::parse(text.get_ref()).ok_or_else(|| {
                let message = format!("{:?} is not an isolation; use in-process or process", text.get_ref());
                self.source.error(text.span().start, &format!("{key}.isolation"), message)
            })?),
        };
        let limit = |name: &str, field: Field<String>| match field {
            None => Ok(None),
            given => {
                let given = self.pick("", &None, given, String::new());
                self.duration(&format!("{key}.process.{name}"), &given).map(Some)
            }
        };
        let p = raw.process;
        let process = ProcessSettings {
            decision_timeout: limit("decision_timeout", p.decision_timeout)?,
            call_timeout: limit("call_timeout", p.call_timeout)?,
            restart_pause: limit("restart_pause", p.restart_pause)?,
            longest_restart_pause: limit("longest_restart_pause", p.longest_restart_pause)?,
            address_space: self.whole(
                &format!("{key}.process.address_space"),
                p.address_space,
                64..=1 << 24,
            )?,
        };
        let c = raw.capabilities;
        let at = |name: &str| format!("{key}.capabilities.{name}");
        let rate = |name: &str, field| self.whole(&at(name), field, 0..=1_000_000);
        let capabilities = CapabilitySettings {
            ports: self.port_list(&at("ports"), c.ports)?,
            publish: self.each(&at("publish"), c.publish, Topics::parse, TOPICS)?,
            subscribe: self.each(&at("subscribe"), c.subscribe, Topics::parse, TOPICS)?,
            dial: self.each(&at("dial"), c.dial, Target::parse, "NETWORK:NODE:PORT, numbers or *")?,
            sign: self.each(&at("sign"), c.sign, |t| Some(t.to_owned()), "")?,
            registry: self.each(&at("registry"), c.registry, non_empty, "the name of an operation, or *")?,
            services: self.each(
                &at("services"),
                c.services,
                Service::parse,
                "trust-checker, handshake, policy or webhook",
            )?,
            actions: self.each(
                &at("actions"),
                c.actions,
                Action::parse,
                "admin-token, trust, tunnels, tags or webhook",
            )?,
            dials_per_second: rate("dials_per_second", c.dials_per_second)?,
            publishes_per_second: rate("publishes_per_second", c.publishes_per_second)?,
            registry_calls_per_second: rate("registry_calls_per_second", c.registry_calls_per_second)?,
            log_lines_per_second: rate("log_lines_per_second", c.log_lines_per_second)?,
        };
        Ok(PluginSettings { isolation, process, capabilities })
    }

    fn each<T>(
        &self,
        key: &str,
        list: Texts,
        parse: impl Fn(&str) -> Option<T>,
        wanted: &str,
    ) -> Result<Option<Vec<T>>, ConfigError> {
        let Some(list) = list else { return Ok(None) };
        let entries = list.into_iter().map(|entry| {
            parse(entry.get_ref()).ok_or_else(|| {
                let message = format!("{:?} cannot be used; write {wanted}", entry.get_ref());
                self.source.error(entry.span().start, key, message)
            })
        });
        entries.collect::<Result<_, _>>().map(Some)
    }

    fn port_list(
        &self,
        key: &str,
        list: Option<Vec<Spanned<toml::Value>>>,
    ) -> Result<Option<Vec<Ports>>, ConfigError> {
        let Some(list) = list else { return Ok(None) };
        let entries = list.into_iter().map(|entry| {
            let text = match entry.get_ref() {
                toml::Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            Ports::parse(&text).ok_or_else(|| {
                let message = format!("{text} is not a port; write 444, \"2000-2999\" or \"*\"");
                self.source.error(entry.span().start, key, message)
            })
        });
        entries.collect::<Result<_, _>>().map(Some)
    }

    fn whole(
        &self,
        key: &str,
        field: Field<i64>,
        range: std::ops::RangeInclusive<u32>,
    ) -> Result<Option<u32>, ConfigError> {
        let Some(field) = field else { return Ok(None) };
        let value = u32::try_from(*field.get_ref()).ok().filter(|v| range.contains(v));
        value.map(Some).ok_or_else(|| {
            let message = format!(
                "{} is out of range; use a whole number from {} to {}",
                field.get_ref(),
                range.start(),
                range.end()
            );
            self.source.error(field.span().start, key, message)
        })
    }

    /// A name that no plugin can have is a misspelt one.
    fn plugin_name(&self, offset: usize, key: &str, name: &str) -> Result<(), ConfigError> {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        if (1..=31).contains(&name.len()) && name.bytes().all(good) {
            return Ok(());
        }
        let message = format!("{name:?} is no plugin name; use up to 31 of a-z, 0-9, - and _");
        Err(self.source.error(offset, key, message))
    }
}

impl RawSettings {
    /// Where any of its keys stands, for complaints about the whole.
    fn place(&self) -> Option<usize> {
        let spans = [self.enabled.as_ref().map(Spanned::span), self.isolation.as_ref().map(Spanned::span)];
        spans.into_iter().flatten().map(|s| s.start).next()
    }
}

const TOPICS: &str = "*, a topic, or a topic followed by .*";

fn non_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}
