//! What the host keeps for each plugin, whichever instance of it runs: its rules, its log lines, its counts, and what the
//! running instance holds.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pilot_loader::Ledger;
use pilot_loader::ledger::{Kind, Limits};
use plugin_abi::{Error, ErrorKind};
use serde_json::{Value, json};

use super::bucket::Bucket;
use super::claims::Claims;
use crate::capability::{Capabilities, Denial};
use crate::config::{Config, PluginsConfig};

/// The file of the fault ledger in the state directory.
pub const LEDGER_FILE: &str = "plugin-faults.json";
/// Panics of one plugin in this run that make it unhealthy (plugin-contract.md section 1.6).
pub const UNHEALTHY: u64 = 3;
/// Log lines that are kept per plugin.
pub const KEPT_LINES: usize = 256;
/// Bytes of text that are kept per plugin; older lines make room.
pub const KEPT_BYTES: usize = 512 << 10;

/// All plugins' records, and the fault ledger.
pub struct Plugins {
    config: PluginsConfig,
    ledger: Arc<Ledger>,
    records: Mutex<BTreeMap<String, Arc<Record>>>,
    /// Panics that were recovered from, of all plugins, in this run.
    recovered: AtomicU64,
    instances: AtomicU64,
}

impl Plugins {
    /// For one host; reads the ledger of its state directory.
    pub fn new(config: &Config) -> Self {
        let p = &config.plugins;
        let limits = Limits { quarantine_after: p.quarantine_after, quarantine_window: p.quarantine_window };
        Plugins {
            config: p.clone(),
            ledger: Arc::new(Ledger::open(config.node.state_dir.join(LEDGER_FILE), limits)),
            records: Mutex::default(),
            recovered: AtomicU64::new(0),
            instances: AtomicU64::new(0),
        }
    }

    /// The fault ledger.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// The record of one plugin, made on first use. Names come from checked headers, so there are few.
    pub fn record(&self, name: &str) -> Arc<Record> {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let record = records.entry(name.to_owned()).or_insert_with(|| {
            let rules = self.config.capabilities(name);
            Arc::new(Record::new(name, rules, Arc::clone(&self.ledger)))
        });
        Arc::clone(record)
    }

    /// The record of a plugin that was started once.
    pub fn known(&self, name: &str) -> Option<Arc<Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// A number for a new instance.
    pub(super) fn next_instance(&self) -> u64 {
        self.instances.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Counts a panic of `record`'s plugin; (all recovered panics, those of this plugin), in this run.
    pub(super) fn count_panic(&self, record: &Record) -> (u64, u64) {
        let of_plugin = record.panics.fetch_add(1, Ordering::AcqRel) + 1;
        (self.recovered.fetch_add(1, Ordering::AcqRel) + 1, of_plugin)
    }

    /// Panics that were recovered from in this run.
    pub fn recovered_total(&self) -> u64 {
        self.recovered.load(Ordering::Acquire)
    }

    /// Panics in this run by plugin; plugins without any are left out.
    pub fn plugin_panics(&self) -> BTreeMap<String, u64> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = records.iter().map(|(name, r)| (name.clone(), r.panics.load(Ordering::Acquire)));
        counted.filter(|(_, n)| *n > 0).collect()
    }
}

/// One plugin's record.
pub struct Record {
    pub(super) name: String,
    /// What it may do.
    pub rules: Capabilities,
    ledger: Arc<Ledger>,
    pub(super) dials: Bucket,
    pub(super) publishes: Bucket,
    pub(super) registry_calls: Bucket,
    pub(super) log_lines: Bucket,
    /// One line in the log per second about refused calls, whatever their number.
    refusals_said: Bucket,
    panics: AtomicU64,
    /// What the running instance holds.
    pub(super) claims: Mutex<Option<Arc<Claims>>>,
    lines: Mutex<Lines>,
}

impl Record {
    fn new(name: &str, rules: Capabilities, ledger: Arc<Ledger>) -> Self {
        let rates = rules.rates;
        Record {
            name: name.to_owned(),
            dials: Bucket::new(rates.dials),
            publishes: Bucket::new(rates.publishes),
            registry_calls: Bucket::new(rates.registry_calls),
            log_lines: Bucket::new(rates.log_lines),
            refusals_said: Bucket::new(1),
            rules,
            ledger,
            panics: AtomicU64::new(0),
            claims: Mutex::new(None),
            lines: Mutex::default(),
        }
    }

    /// Panics in this run.
    pub fn panics(&self) -> u64 {
        self.panics.load(Ordering::Acquire)
    }

    /// A judged call: a refusal is counted, said in the log at most once a second, and explained to the caller.
    pub(super) fn check(&self, op: &str, judged: Result<(), Denial>) -> Result<(), Error> {
        judged.map_err(|denial| self.refuse(op, ErrorKind::Denied, denial.explain(&self.name)))
    }

    /// A call that is allowed so many times a second.
    pub(super) fn pace(&self, op: &str, bucket: &Bucket, key: &str) -> Result<(), Error> {
        if bucket.take() {
            return Ok(());
        }
        let text = format!(
            "plugin \"{0}\" makes more than {1} of these calls a second; to allow it: \
             [plugins.settings.{0}.capabilities] {key} = {2}",
            self.name,
            bucket.rate(),
            bucket.rate().saturating_mul(10)
        );
        Err(self.refuse(op, ErrorKind::Busy, text))
    }

    /// Counts, logs and phrases a refusal.
    pub(super) fn refuse(&self, op: &str, kind: ErrorKind, text: String) -> Error {
        self.ledger.note(&self.name, Kind::RefusedCall, op, &text);
        if self.refusals_said.take() {
            let more = self.refusals_said.suppressed();
            tracing::warn!(plugin = self.name, op, also_refused_since = more, "refused: {text}");
        }
        Error::new(kind, text)
    }

    /// Events of a subscription that were dropped because the plugin was slow.
    pub(super) fn note_dropped(&self, pattern: &str, count: u64) {
        let text = format!("subscription {pattern:?} was not read fast enough");
        self.ledger.note_many(&self.name, Kind::DroppedEvent, count, "bus", &text);
    }

    /// Keeps a log line for `pilotctl plugins logs`.
    pub(super) fn keep_line(&self, level: &'static str, target: &str, message: &str, fields: Option<&str>) {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let line = Line {
            unix_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            level,
            target: target.to_owned(),
            message: message.to_owned(),
            fields: fields.unwrap_or_default().to_owned(),
        };
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    /// The last `count` kept lines that are younger than the one numbered `after`, oldest first, and the number of the
    /// youngest, to go on from.
    pub fn lines(&self, after: u64, count: usize) -> Value {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let first = lines.next - lines.kept.len() as u64;
        let young = lines.kept.iter().zip(first..).filter(|(_, number)| *number >= after);
        let skip = young.clone().count().saturating_sub(count);
        let rows = young.skip(skip).map(|(l, _)| {
            json!({
                "unix_ms": l.unix_ms, "level": l.level, "target": l.target, "message": l.message,
                "fields": serde_json::from_str::<Value>(&l.fields).unwrap_or_else(|_| json!({})),
            })
        });
        json!({ "lines": rows.collect::<Vec<_>>(), "next": lines.next })
    }
}

/// One kept log line; `fields` is JSON text or empty.
struct Line {
    unix_ms: u64,
    level: &'static str,
    target: String,
    message: String,
    fields: String,
}

impl Line {
    fn size(&self) -> usize {
        self.target.len() + self.message.len() + self.fields.len()
    }
}

#[derive(Default)]
struct Lines {
    kept: VecDeque<Line>,
    bytes: usize,
    /// The number of the next line.
    next: u64,
}

impl Lines {
    fn push(&mut self, line: Line) {
        self.bytes += line.size();
        self.kept.push_back(line);
        self.next += 1;
        while self.kept.len() > KEPT_LINES || self.bytes > KEPT_BYTES {
            let Some(old) = self.kept.pop_front() else { return };
            self.bytes -= old.size();
        }
    }
}

/// Longest wait for the driver when something is taken from an instance.
pub(super) const TAKE_LIMIT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let mut rules = Capabilities::least("p", 0);
        rules.rates.dials = 2;
        Record::new("p", rules, Arc::new(Ledger::default()))
    }

    #[test]
    fn refusals_are_explained_and_counted() {
        let r = record();
        let e = r.check("bind", r.rules.bind(444)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Denied);
        assert!(e.message().ends_with("[plugins.settings.p.capabilities] ports = [444]"), "{e}");
        let paced: Vec<_> = (0..3).map(|_| r.pace("dial", &r.dials, "dials_per_second").is_ok()).collect();
        assert_eq!(paced, [true, true, false]);
        assert_eq!(r.ledger.counters("p").refused_calls, 2);
        assert!(r.ledger.quarantined("p").is_none());
    }

    #[test]
    fn kept_lines_are_few_and_can_be_followed() {
        let r = record();
        for i in 0..KEPT_LINES + 10 {
            r.keep_line("info", "t", &format!("line {i}"), Some("{\"a\":1}"));
        }
        let all = r.lines(0, usize::MAX);
        assert_eq!(all["lines"].as_array().unwrap().len(), KEPT_LINES);
        assert_eq!(all["lines"][0]["message"], "line 10");
        assert_eq!(all["lines"][0]["fields"]["a"], 1);
        let next = all["next"].as_u64().unwrap();
        assert!(r.lines(next, 10)["lines"].as_array().unwrap().is_empty());
        r.keep_line("warn", "t", "new", None);
        assert_eq!(r.lines(next, 10)["lines"][0]["message"], "new");
        assert_eq!(r.lines(0, 1)["lines"][0]["message"], "new");
        for _ in 0..200 {
            r.keep_line("info", "t", &"x".repeat(8000), None);
        }
        assert!(r.lines.lock().unwrap().bytes <= KEPT_BYTES);
    }
}
