//! The plugin's table of the configuration, `[plugin.handshake]`. Read once, in `init`.

use std::path::PathBuf;
use std::time::Duration;

use plugin_abi::Error;
use serde_json::Value;

use crate::protocol::text::from_base64;

/// How long a direct message may take to get through before the registry is used instead. Long enough for the dial's
/// three direct attempts and its change to the relay, short enough for a person at a prompt.
const DIRECT_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_DIRECT_TIMEOUT: Duration = Duration::from_secs(60);

/// What can be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `trusted_agents`: a list of nodes whose requests are granted (handshake.md section 7); none by default.
    pub trusted_agents: Option<PathBuf>,
    /// `trusted_agents_key`: base64 of the Ed25519 key that must have signed that list; only unsigned lists pass without it.
    pub trusted_agents_key: Option<[u8; 32]>,
    /// `direct_timeout_ms`: bound of one direct attempt, 1 to 60000, default 5000.
    pub direct_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config { trusted_agents: None, trusted_agents_key: None, direct_timeout: DIRECT_TIMEOUT }
    }
}

impl Config {
    /// Reads the table. A member this version does not know is reported and ignored; one with a wrong value is an
    /// error that names it.
    pub fn read(table: &Value) -> Result<Self, Error> {
        let mut config = Config::default();
        for (name, value) in table.as_object().into_iter().flatten() {
            match name.as_str() {
                "trusted_agents" => {
                    let path = value.as_str().ok_or_else(|| wrong(name, "a path"))?;
                    config.trusted_agents = (!path.is_empty()).then(|| path.into());
                }
                "trusted_agents_key" => {
                    let text = value.as_str().ok_or_else(|| wrong(name, "base64 of 32 bytes"))?;
                    config.trusted_agents_key = match from_base64(text).map(<[u8; 32]>::try_from) {
                        _ if text.is_empty() => None,
                        Some(Ok(key)) => Some(key),
                        _ => return Err(wrong(name, "base64 of 32 bytes")),
                    };
                }
                "direct_timeout_ms" => {
                    let timeout = value.as_u64().map(Duration::from_millis);
                    config.direct_timeout = timeout
                        .filter(|t| !t.is_zero() && *t <= MAX_DIRECT_TIMEOUT)
                        .ok_or_else(|| wrong(name, "a number of milliseconds from 1 to 60000"))?;
                }
                _ => tracing::warn!(
                    member = name,
                    "[plugin.handshake] has a member this version does not know"
                ),
            }
        }
        Ok(config)
    }
}

fn wrong(name: &str, expected: &str) -> Error {
    Error::invalid(format!("[plugin.handshake] {name} must be {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nothing_configured_is_the_default() {
        assert_eq!(Config::read(&json!({})).expect("fine"), Config::default());
        assert_eq!(Config::read(&Value::Null).expect("fine"), Config::default());
        let empty = json!({"trusted_agents": "", "trusted_agents_key": "", "something_newer": 1});
        assert_eq!(Config::read(&empty).expect("fine"), Config::default());
    }

    #[test]
    fn values_are_checked_by_name() {
        for bad in [
            json!({"trusted_agents": 1}),
            json!({"trusted_agents_key": "AAAA"}),
            json!({"direct_timeout_ms": 0}),
            json!({"direct_timeout_ms": 60_001}),
            json!({"direct_timeout_ms": "5s"}),
        ] {
            let name = bad.as_object().and_then(|o| o.keys().next().cloned()).expect("one member");
            assert!(Config::read(&bad).expect_err("wrong").message().contains(&name));
        }
        let key = crate::protocol::text::to_base64(&[9; 32]);
        let good = json!({"trusted_agents": "/a", "trusted_agents_key": key, "direct_timeout_ms": 10});
        let config = Config::read(&good).expect("fine");
        assert_eq!(config.trusted_agents_key, Some([9; 32]));
        assert_eq!(config.direct_timeout, Duration::from_millis(10));
    }
}
