//! The plugin's table of the configuration, `[plugin.dataexchange]`, checked whole before anything is opened.
//!
//! Called once, from `init`. Every refusal names the key and what would be accepted. Zero and negative numbers mean
//! what dataexchange.md says: 0 = the default, negative = no limit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pilot_wire::dataexchange;
use plugin_abi::{Error, Result};
use serde_json::{Map, Value};

/// What the frame limit may be set to (dataexchange.md section 1.1).
const MAX_FRAME_RANGE: std::ops::RangeInclusive<u32> = 65_536..=2_147_483_647;

/// Everything that can be set, with the limits resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// Where messages are stored.
    pub inbox_dir: PathBuf,
    /// Where files are stored; unfinished ones in `.partial` below it.
    pub received_dir: PathBuf,
    /// An object store that complete files go to instead of `received_dir`, which then holds only what is arriving:
    /// `s3://BUCKET/PREFIX`, `gs://..`, `az://..`. Empty: none.
    pub received_url: String,
    /// Options of that store by the object_store crate's names, over those of the environment.
    pub object_store: BTreeMap<String, String>,
    /// Store every message as base64, whatever its type.
    pub include_base64: bool,
    /// Bytes the inbox may hold; `None` = no limit.
    pub inbox_max_bytes: Option<u64>,
    /// Messages the inbox may hold; looked at now and then (dataexchange.md section 3.1).
    pub inbox_max_files: usize,
    /// Bytes the received directory may hold; `None` = no limit.
    pub received_max_bytes: Option<u64>,
    /// Largest frame payload accepted.
    pub max_frame: u32,
    /// How long a peer may leave a frame unfinished; `None` = for ever.
    pub idle_timeout: Option<Duration>,
    /// Connections served at the same time.
    pub max_connections: usize,
    /// Connections served at the same time for one node, so that one peer cannot take all of them.
    pub max_connections_per_peer: usize,
    /// Age at which an unfinished transfer is deleted; `None` = never.
    pub partial_max_age: Option<Duration>,
    /// Whether an acknowledged message or file is forced to the disk first. Without it a power cut (not a crash of the
    /// process) can lose what was acknowledged in the last seconds.
    pub fsync: bool,
}

impl Config {
    /// Reads the table. `state_dir` is the base of relative paths; `variable` is the value of
    /// `PILOT_DATAEXCHANGE_MAX_FRAME`, which the table's `max_frame` overrides.
    pub fn parse(table: &Value, state_dir: &Path, variable: Option<&str>) -> Result<Config> {
        let mut keys = Keys::new(table)?;
        let config = Config {
            inbox_dir: state_dir.join(keys.text("inbox_dir")?.unwrap_or("inbox".into())),
            received_dir: state_dir.join(keys.text("received_dir")?.unwrap_or("received".into())),
            received_url: keys.text("received_url")?.unwrap_or_default(),
            object_store: keys.texts("object_store")?,
            include_base64: keys.flag("include_base64")?.unwrap_or(false),
            inbox_max_bytes: limit(keys.integer("inbox_max_bytes")?, 256 << 20),
            // A negative number means the default here, not "off" (dataexchange.md section 3.1).
            inbox_max_files: limit(keys.integer("inbox_max_files")?, 10_000).unwrap_or(10_000) as usize,
            received_max_bytes: limit(keys.integer("received_max_bytes")?, 2 << 30),
            max_frame: max_frame(keys.integer("max_frame")?, variable)?,
            idle_timeout: limit(keys.integer("idle_timeout_secs")?, 120).map(Duration::from_secs),
            max_connections: at_least_one("max_connections", keys.integer("max_connections")?, 64)?,
            max_connections_per_peer: at_least_one(
                "max_connections_per_peer",
                keys.integer("max_connections_per_peer")?,
                16,
            )?,
            partial_max_age: limit(keys.integer("partial_max_age_secs")?, 7 * 86_400)
                .map(Duration::from_secs),
            fsync: keys.flag("fsync")?.unwrap_or(true),
        };
        keys.finish()?;
        Ok(config)
    }

    /// [`parse`](Self::parse) with the environment of this process.
    pub fn from_environment(table: &Value, state_dir: &Path) -> Result<Config> {
        Config::parse(table, state_dir, std::env::var(dataexchange::MAX_FRAME_ENV).ok().as_deref())
    }
}

/// 0 or absent: the default. Negative: no limit.
fn limit(value: Option<i64>, default: u64) -> Option<u64> {
    match value.unwrap_or(0) {
        0 => Some(default),
        n => u64::try_from(n).ok(),
    }
}

fn at_least_one(key: &str, value: Option<i64>, default: usize) -> Result<usize> {
    match value {
        None => Ok(default),
        Some(n) => usize::try_from(n)
            .ok()
            .filter(|n| *n > 0)
            .ok_or_else(|| refuse(key, &format!("must be at least 1 (got {n})"))),
    }
}

fn max_frame(configured: Option<i64>, variable: Option<&str>) -> Result<u32> {
    let Some(n) = configured else { return Ok(dataexchange::max_frame(variable)) };
    u32::try_from(n).ok().filter(|n| MAX_FRAME_RANGE.contains(n)).ok_or_else(|| {
        let (low, high) = MAX_FRAME_RANGE.into_inner();
        refuse("max_frame", &format!("must be between {low} and {high} (got {n})"))
    })
}

fn refuse(key: &str, what: &str) -> Error {
    Error::invalid(format!("[plugin.dataexchange] {key} {what}"))
}

/// Takes keys out of the table one by one, so that what is left over can be refused by name.
struct Keys(Map<String, Value>);

impl Keys {
    fn new(table: &Value) -> Result<Keys> {
        match table {
            Value::Null => Ok(Keys(Map::new())),
            Value::Object(map) => Ok(Keys(map.clone())),
            _ => Err(Error::invalid("[plugin.dataexchange] must be a table")),
        }
    }

    fn text(&mut self, key: &str) -> Result<Option<String>> {
        self.take(key, "text", |v| v.as_str().map(str::to_owned))
    }

    fn flag(&mut self, key: &str) -> Result<Option<bool>> {
        self.take(key, "true or false", Value::as_bool)
    }

    fn integer(&mut self, key: &str) -> Result<Option<i64>> {
        self.take(key, "a whole number", Value::as_i64)
    }

    /// A table whose values are all texts.
    fn texts(&mut self, key: &str) -> Result<BTreeMap<String, String>> {
        let read = |v: &Value| {
            let members = v.as_object()?.iter();
            members.map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
        };
        Ok(self.take(key, "a table of texts", read)?.unwrap_or_default())
    }

    fn take<T>(
        &mut self,
        key: &str,
        expected: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.0.remove(key) else { return Ok(None) };
        read(&value).map(Some).ok_or_else(|| refuse(key, &format!("must be {expected} (got {value})")))
    }

    fn finish(self) -> Result<()> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(key) => Err(refuse(key, "is not a key of this plugin")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(table: Value) -> Result<Config> {
        Config::parse(&table, Path::new("/state"), None)
    }

    #[test]
    fn an_empty_table_gives_the_defaults_of_the_fact_sheet() {
        let config = parse(json!({})).unwrap();
        assert_eq!(config.inbox_dir, Path::new("/state/inbox"));
        assert_eq!(config.received_dir, Path::new("/state/received"));
        assert_eq!(config.inbox_max_bytes, Some(268_435_456));
        assert_eq!(config.inbox_max_files, 10_000);
        assert_eq!(config.received_max_bytes, Some(2_147_483_648));
        assert_eq!(config.max_frame, 67_108_864);
        assert_eq!(config.idle_timeout, Some(Duration::from_secs(120)));
        assert!(!config.include_base64);
        assert!(config.fsync);
    }

    #[test]
    fn zero_means_default_and_negative_means_off() {
        let config = parse(json!({"inbox_max_bytes": 0, "received_max_bytes": -1, "idle_timeout_secs": -1,
            "inbox_max_files": -1, "partial_max_age_secs": -1}))
        .unwrap();
        assert_eq!(config.inbox_max_bytes, Some(268_435_456));
        assert_eq!(config.received_max_bytes, None);
        assert_eq!(config.idle_timeout, None);
        assert_eq!(config.inbox_max_files, 10_000);
        assert_eq!(config.partial_max_age, None);
    }

    #[test]
    fn relative_paths_are_below_the_state_directory() {
        let config = parse(json!({"inbox_dir": "mail", "received_dir": "/srv/files"})).unwrap();
        assert_eq!(config.inbox_dir, Path::new("/state/mail"));
        assert_eq!(config.received_dir, Path::new("/srv/files"));
    }

    #[test]
    fn a_refusal_names_the_key() {
        for (table, text) in [
            (json!({"inbox": 1}), "[plugin.dataexchange] inbox is not a key of this plugin"),
            (json!({"fsync": "yes"}), "[plugin.dataexchange] fsync must be true or false (got \"yes\")"),
            (
                json!({"max_connections": 0}),
                "[plugin.dataexchange] max_connections must be at least 1 (got 0)",
            ),
            (
                json!({"max_frame": 1}),
                "[plugin.dataexchange] max_frame must be between 65536 and 2147483647 (got 1)",
            ),
            (json!([]), "[plugin.dataexchange] must be a table"),
        ] {
            assert_eq!(parse(table).unwrap_err().message(), text);
        }
    }

    #[test]
    fn the_environment_changes_the_frame_limit_unless_the_table_does() {
        let frame =
            |table: Value, variable| Config::parse(&table, Path::new("/"), Some(variable)).unwrap().max_frame;
        assert_eq!(frame(json!({}), "65536"), 65_536);
        assert_eq!(frame(json!({"max_frame": 70_000}), "65536"), 70_000);
        for ignored in ["65535", "2147483648", "-1", "64M", ""] {
            assert_eq!(frame(json!({}), ignored), 67_108_864, "{ignored}");
        }
    }
}
