//! `node.transport` and `[compat]`: UDP, or one WebSocket to a beacon (wss.md sections 6 and 7).

use std::path::PathBuf;
use std::time::Duration;

use pilot_net::compat::{ProxySetting, Timing};
use pilot_wire::compat::{DATA_KEEPALIVE, RECEIVE_QUEUE, Url};
use serde::Deserialize;
use toml::Spanned;

use super::ConfigError;
use super::file::{Field, Given, Merger, optional_path};

/// Longest time between two data messages; a beacon drops who sends none for 90 s.
const MOST_KEEPALIVE: Duration = Duration::from_secs(60);
/// Most messages that may wait for the driver.
const MOST_QUEUED: u32 = 65_536;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawCompat {
    beacon: Field<String>,
    tls_trust: Field<String>,
    roots_file: Field<String>,
    proxy: Field<String>,
    dial_timeout: Field<String>,
    ping_interval: Field<String>,
    pong_wait: Field<String>,
    keepalive: Field<String>,
    receive_queue: Field<u32>,
    backoff_first: Field<String>,
    backoff_max: Field<String>,
}

/// How datagrams travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TransportChoice {
    /// Over a UDP socket.
    #[default]
    Udp,
    /// Over a WebSocket to a beacon.
    Compat,
    /// Whichever works, decided once at start.
    Auto,
}

impl TransportChoice {
    /// Reads a value as any source gives it.
    fn parse(text: &str) -> Result<Self, String> {
        match text.trim().to_ascii_lowercase().as_str() {
            "udp" => Ok(Self::Udp),
            "compat" => Ok(Self::Compat),
            "auto" => Ok(Self::Auto),
            _ => Err(format!("invalid transport {text:?}: must be udp, compat or auto")),
        }
    }
}

/// Whom the compat transport believes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TlsTrust {
    /// The system's roots.
    #[default]
    System,
    /// The roots in this PEM file, and nobody else.
    Pinned(PathBuf),
}

/// `node.transport` and `[compat]`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TransportSettings {
    /// How datagrams travel.
    pub choice: TransportChoice,
    /// The compat beacon; `None`: the public one, and `auto` does not consider it.
    pub beacon: Option<Url>,
    /// Whom it believes.
    pub trust: TlsTrust,
    /// The proxy to go through.
    pub proxy: ProxySetting,
    /// Messages from the beacon that may wait for the driver.
    pub receive_queue: usize,
    /// The connection's times.
    pub timing: Timing,
    /// What was wrong with the environment and is ignored; for the log.
    pub ignored: Vec<String>,
}

impl Merger<'_> {
    pub(super) fn transport(
        &self,
        file: Field<String>,
        raw: RawCompat,
    ) -> Result<TransportSettings, ConfigError> {
        let over = self.over;
        let mut ignored = Vec::new();
        let choice = self.choice(file, &mut ignored)?;
        let text = |flag, over: &Option<String>, file| self.pick(flag, over, file, String::new());
        let beacon = text("--compat-beacon", &over.compat_beacon, raw.beacon);
        let url = match beacon.value.as_str() {
            "" => None,
            url => Some(url.parse::<Url>().map_err(|e| self.bad(&beacon, "compat.beacon", e.to_string()))?),
        };
        let proxy = text("--proxy", &over.proxy, raw.proxy);
        let setting = proxy
            .value
            .parse::<ProxySetting>()
            .map_err(|e| self.bad(&proxy, "compat.proxy", e.to_string()))?;
        let trust = text("--tls-trust", &over.tls_trust, raw.tls_trust);
        let trust = self.tls_trust(&trust, optional_path(&over.compat_roots, raw.roots_file))?;
        let normal = Timing::default();
        let time = |key: &str, file: Field<String>, default: Duration| match file {
            None => Ok(default),
            file => self.duration(key, &self.pick("", &None, file, String::new())),
        };
        let keepalive = time("compat.keepalive", raw.keepalive.clone(), DATA_KEEPALIVE)?;
        if keepalive > MOST_KEEPALIVE {
            let given = self.pick("", &None, raw.keepalive, String::new());
            let text = "more than 60s: a beacon drops who sends no data message for 90 s";
            return Err(self.bad(&given, "compat.keepalive", text.to_owned()));
        }
        let timing = Timing {
            dial_timeout: time("compat.dial_timeout", raw.dial_timeout, normal.dial_timeout)?,
            ping_interval: time("compat.ping_interval", raw.ping_interval, normal.ping_interval)?,
            pong_wait: time("compat.pong_wait", raw.pong_wait, normal.pong_wait)?,
            keepalive,
            backoff_first: time("compat.backoff_first", raw.backoff_first, normal.backoff_first)?,
            backoff_max: time("compat.backoff_max", raw.backoff_max, normal.backoff_max)?,
        };
        let queue = raw.receive_queue.map_or(Ok(RECEIVE_QUEUE), |n: Spanned<u32>| {
            let given = self.pick("", &None, Some(n), 0);
            usize::try_from(given.value).ok().filter(|_| (1..=MOST_QUEUED).contains(&given.value)).ok_or_else(
                || self.bad(&given, "compat.receive_queue", format!("not from 1 to {MOST_QUEUED}")),
            )
        })?;
        Ok(TransportSettings {
            choice,
            beacon: url,
            trust,
            proxy: setting,
            receive_queue: queue,
            timing,
            ignored,
        })
    }

    /// Command line, `PILOT_TRANSPORT`, file, `PILOT_TRANSPORT_DEFAULT`, udp. What a person wrote down must be right; a
    /// variable that some image sets is ignored with a warning when it is not.
    fn choice(&self, file: Field<String>, ignored: &mut Vec<String>) -> Result<TransportChoice, ConfigError> {
        const KEY: &str = "node.transport";
        let over = self.over;
        let mut variable = |name: &str, value: &Option<String>| {
            let text = value.as_deref().filter(|text| !text.trim().is_empty())?;
            TransportChoice::parse(text).map_err(|e| ignored.push(format!("{name} is ignored: {e}"))).ok()
        };
        if let Some(text) = &over.transport {
            let given = self.pick("--transport", &over.transport, None, String::new());
            return TransportChoice::parse(text).map_err(|e| self.bad(&given, KEY, e));
        }
        if let Some(choice) = variable("PILOT_TRANSPORT", &over.transport_variable) {
            return Ok(choice);
        }
        if file.is_some() || over.transport_in_json.is_some() {
            let given = self.pick("transport", &over.transport_in_json, file, String::new());
            return TransportChoice::parse(&given.value).map_err(|e| self.bad(&given, KEY, e));
        }
        Ok(variable("PILOT_TRANSPORT_DEFAULT", &over.transport_default).unwrap_or_default())
    }

    fn tls_trust(&self, trust: &Given<String>, roots: Option<PathBuf>) -> Result<TlsTrust, ConfigError> {
        let wrong = |text: &str| Err(self.bad(trust, "compat.tls_trust", text.to_owned()));
        match (trust.value.trim(), roots) {
            ("" | "system", None) => Ok(TlsTrust::System),
            ("" | "pinned", Some(roots)) => Ok(TlsTrust::Pinned(roots)),
            ("pinned", None) => {
                wrong("pinned to whom? give the roots as a PEM file: compat.roots_file or --compat-roots")
            }
            ("system", Some(_)) => {
                wrong("system and a file of roots exclude each other; leave one out (a file alone pins)")
            }
            (other, _) => wrong(&format!("{other:?} is neither system nor pinned")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Overrides, file};
    use super::*;

    fn load(text: &str, over: &Overrides) -> Result<Config, ConfigError> {
        file::parse("pilot.toml", text, over)
    }

    fn choice(text: &str, over: &Overrides) -> TransportChoice {
        load(text, over).unwrap().transport.choice
    }

    #[test]
    fn flag_then_variable_then_file_then_default_variable_then_udp() {
        let some = |text: &str| Some(text.to_owned());
        let file = "[node]\ntransport = \" Compat \"\n";
        let mut over = Overrides::default();
        assert_eq!(choice("", &over), TransportChoice::Udp);
        over.transport_default = some("auto");
        assert_eq!(choice("", &over), TransportChoice::Auto);
        assert_eq!(choice(file, &over), TransportChoice::Compat);
        over.transport_variable = some("UDP");
        assert_eq!(choice(file, &over), TransportChoice::Udp);
        over.transport = some("auto");
        assert_eq!(choice(file, &over), TransportChoice::Auto);
    }

    #[test]
    fn an_unknown_value_is_fatal_unless_a_variable_holds_it() {
        let some = |text: &str| Some(text.to_owned());
        let text = "invalid transport \"tcp\": must be udp, compat or auto";
        let wrong = load("[node]\n\ntransport = \"tcp\"\n", &Overrides::default()).unwrap_err();
        assert_eq!((wrong.line, wrong.message.as_str()), (3, text));
        let over = Overrides { transport: some("tcp"), ..Overrides::default() };
        assert_eq!(load("", &over).unwrap_err().to_string(), format!("--transport: node.transport: {text}"));
        let over = Overrides {
            transport_variable: some("tcp"),
            transport_default: some("quic"),
            ..Overrides::default()
        };
        let loaded = load("", &over).unwrap().transport;
        assert_eq!(loaded.choice, TransportChoice::Udp);
        assert_eq!(loaded.ignored[0], format!("PILOT_TRANSPORT is ignored: {text}"));
        assert_eq!(loaded.ignored.len(), 2);
    }

    #[test]
    fn a_registry_on_443_is_believed_by_the_systems_roots_with_compat_only() {
        use super::super::RegistryTls;
        let tls = |text: &str| load(text, &Overrides::default()).unwrap().registry_tls;
        let (addr, compat) = ("[registry]\naddr = \"r.example:443\"\n", "[node]\ntransport = \"compat\"\n");
        assert_eq!(tls(addr), RegistryTls::Off);
        assert_eq!(tls(&format!("{compat}{addr}")), RegistryTls::System);
        assert_eq!(tls(&format!("{compat}{addr}trust = \"pinned\"\n")), RegistryTls::Off);
        assert_eq!(tls(&format!("{addr}trust = \"system\"\n")), RegistryTls::System);
        let pin = "0".repeat(64);
        let pinned = format!("{compat}{addr}fingerprint = \"{pin}\"\n");
        assert_eq!(tls(&pinned), RegistryTls::Pinned(pin));
        load("[registry]\ntrust = \"me\"\n", &Overrides::default()).unwrap_err();
    }

    #[test]
    fn the_compat_table_is_checked() {
        for (text, key) in [
            ("beacon = \"ftp://b\"", "compat.beacon"),
            ("tls_trust = \"all\"", "compat.tls_trust"),
            ("tls_trust = \"pinned\"", "compat.tls_trust"),
            ("tls_trust = \"system\"\nroots_file = \"r.pem\"", "compat.tls_trust"),
            ("proxy = \"socks5://p\"", "compat.proxy"),
            ("keepalive = \"61s\"", "compat.keepalive"),
            ("ping_interval = \"often\"", "compat.ping_interval"),
            ("receive_queue = 0", "compat.receive_queue"),
        ] {
            let wrong = load(&format!("[compat]\n{text}\n"), &Overrides::default()).unwrap_err();
            assert_eq!((wrong.key.as_str(), wrong.line), (key, 2), "{wrong}");
        }
        let text = "[compat]\nbeacon = \"ws://[::1]:8443/v1/compat\"\nroots_file = \"r.pem\"\nproxy = \"off\"\n\
                    dial_timeout = \"5s\"\nreceive_queue = 9\n";
        let loaded = load(text, &Overrides::default()).unwrap().transport;
        assert_eq!(loaded.trust, TlsTrust::Pinned("r.pem".into()));
        assert_eq!((loaded.proxy, loaded.receive_queue), (ProxySetting::Off, 9));
        assert_eq!(loaded.timing, Timing { dial_timeout: Duration::from_secs(5), ..Timing::default() });
    }
}
