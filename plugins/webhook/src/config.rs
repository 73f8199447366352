//! The plugin's table of the configuration, `[plugin.webhook]`. Read once, in `init`.

use std::path::PathBuf;
use std::time::Duration;

use plugin_abi::Error;
use serde_json::Value;

use crate::target;

/// Longest time that may be configured for anything.
const MAX_MILLIS: u64 = 3_600_000;

/// What the spool may be set to hold.
const MIN_SPOOL: u64 = 64 << 10;
const MAX_SPOOL: u64 = 1 << 40;

/// What can be set.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// `url`: where events go; empty: the saved URL, if there is one. It is not saved itself.
    pub url: String,
    /// `secret`: signs each body; empty: no signature.
    pub secret: String,
    /// `ca_file`: PEM file with the only authorities to trust for `https`; the well-known ones without it.
    pub ca_file: Option<PathBuf>,
    /// `timeout_ms`: one attempt, from connecting to the answer's head; 5000.
    pub timeout: Duration,
    /// `backoff_ms`: before the second attempt, doubled before the third; 1000.
    pub backoff: Duration,
    /// `cooldown_ms`: how long the breaker stays open; 30000.
    pub cooldown: Duration,
    /// `spool_dir`: where undelivered events wait on disk; empty: they wait in memory only. Relative paths are below the
    /// host's state directory.
    pub spool_dir: Option<PathBuf>,
    /// `spool_max_bytes`: what may wait there; 16 MiB.
    pub spool_max_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            url: String::new(),
            secret: String::new(),
            ca_file: None,
            timeout: Duration::from_secs(5),
            backoff: Duration::from_secs(1),
            cooldown: Duration::from_secs(30),
            spool_dir: None,
            spool_max_bytes: 16 << 20,
        }
    }
}

impl Config {
    /// Reads the table. A member this version does not know is reported and ignored; one with a wrong value is an
    /// error that names it. The secret never appears in an error.
    pub fn read(table: &Value) -> Result<Self, Error> {
        let mut config = Config::default();
        for (name, value) in table.as_object().into_iter().flatten() {
            let text = || value.as_str().map(str::to_owned).ok_or_else(|| wrong(name, "must be a text"));
            let millis = || {
                let time =
                    value.as_u64().filter(|ms| (1..=MAX_MILLIS).contains(ms)).map(Duration::from_millis);
                time.ok_or_else(|| wrong(name, "must be a number of milliseconds from 1 to 3600000"))
            };
            match name.as_str() {
                "url" => config.url = text()?,
                "secret" => config.secret = text()?,
                "ca_file" => config.ca_file = Some(text()?).filter(|p| !p.is_empty()).map(PathBuf::from),
                "timeout_ms" => config.timeout = millis()?,
                "backoff_ms" => config.backoff = millis()?,
                "cooldown_ms" => config.cooldown = millis()?,
                "spool_dir" => config.spool_dir = Some(text()?).filter(|p| !p.is_empty()).map(PathBuf::from),
                "spool_max_bytes" => {
                    let bytes = value.as_u64().filter(|n| (MIN_SPOOL..=MAX_SPOOL).contains(n));
                    let what = "must be a number of bytes from 65536 to 1099511627776";
                    config.spool_max_bytes = bytes.ok_or_else(|| wrong(name, what))?;
                }
                _ => {
                    tracing::warn!(member = name, "[plugin.webhook] has a member this version does not know")
                }
            }
        }
        if !config.url.is_empty() {
            target::check(&config.url).map_err(|cause| wrong("url", &cause))?;
        }
        Ok(config)
    }
}

fn wrong(name: &str, cause: &str) -> Error {
    Error::invalid(format!("[plugin.webhook] {name}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_and_values() {
        assert!(Config::read(&json!({})).expect("fine") == Config::default());
        let table = json!({"url": "http://h/", "secret": "s", "ca_file": "", "backoff_ms": 3, "newer": true});
        let config = Config::read(&table).expect("fine");
        assert_eq!((config.url.as_str(), config.secret.as_str()), ("http://h/", "s"));
        assert_eq!((config.ca_file, config.backoff), (None, Duration::from_millis(3)));
    }

    #[test]
    fn mistakes_are_named() {
        for (table, text) in [
            (json!({"url": 1}), "[plugin.webhook] url: must be a text"),
            (
                json!({"url": "ftp://h/"}),
                "[plugin.webhook] url: URL must use http or https scheme, got \"ftp\"",
            ),
            (json!({"secret": ["s"]}), "[plugin.webhook] secret: must be a text"),
            (
                json!({"timeout_ms": 0}),
                "[plugin.webhook] timeout_ms: must be a number of milliseconds from 1 to 3600000",
            ),
        ] {
            assert_eq!(Config::read(&table).err().expect("wrong").message(), text);
        }
    }
}
