//! The fault ledger: what went wrong with each plugin, counted and kept over restarts of the host, and the quarantine
//! that follows from it.
//!
//! The loader notes panics and missed deadlines, the process proxy crashes, the host's daemon handles refused calls and
//! dropped events. A plugin with too many faults in too short a time is put in *quarantine*: the set of plugins stops
//! it and does not start it again, in this run or a later one, until somebody lifts that. The file is small JSON in the
//! state directory, written by a thread of its own so that nobody who notes a fault waits for a disk. Decides and
//! remembers only; stopping a plugin is `Loaded`'s work.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Plugins that the ledger knows at most; entries without a quarantine make room, the one with the oldest fault first.
pub const MAX_PLUGINS: usize = 256;
/// Faults that are kept in words per plugin; older ones make room.
pub const MAX_RECENT: usize = 32;
/// Longest text of one fault, in characters; the rest is cut off.
pub const MAX_TEXT: usize = 512;
/// The largest file that is read; what [`MAX_PLUGINS`] full entries take fits.
const MAX_FILE: u64 = 32 << 20;
/// The writer rests this long between two writes, so that a storm of faults is not a storm of fsyncs.
const REST: Duration = Duration::from_millis(200);

/// What kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// A panic, caught at the border or by the plugin itself.
    Panic,
    /// `init`, `shutdown` or another bounded call missed its deadline.
    Overrun,
    /// The plugin asked for something that its capabilities do not allow.
    RefusedCall,
    /// An event was dropped because the plugin did not read fast enough.
    DroppedEvent,
    /// The child process of the plugin ended by itself.
    Crash,
}

impl Kind {
    /// The kind as text, for logs and `--json` output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Panic => "panic",
            Kind::Overrun => "overrun",
            Kind::RefusedCall => "refused_call",
            Kind::DroppedEvent => "dropped_event",
            Kind::Crash => "crash",
        }
    }

    /// Whether it counts towards quarantine. A refused call did no harm, and a dropped event may be the host's haste.
    pub const fn endangers(self) -> bool {
        matches!(self, Kind::Panic | Kind::Overrun | Kind::Crash)
    }
}

/// How often each kind happened, since the ledger was begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// See [`Kind::Panic`].
    pub panics: u64,
    /// See [`Kind::Overrun`].
    pub overruns: u64,
    /// See [`Kind::RefusedCall`].
    pub refused_calls: u64,
    /// See [`Kind::DroppedEvent`].
    pub dropped_events: u64,
    /// See [`Kind::Crash`].
    pub crashes: u64,
}

impl Counters {
    /// Panics, overruns and crashes: what counts towards quarantine.
    pub fn faults(&self) -> u64 {
        self.panics.saturating_add(self.overruns).saturating_add(self.crashes)
    }

    fn of(&mut self, kind: Kind) -> &mut u64 {
        match kind {
            Kind::Panic => &mut self.panics,
            Kind::Overrun => &mut self.overruns,
            Kind::RefusedCall => &mut self.refused_calls,
            Kind::DroppedEvent => &mut self.dropped_events,
            Kind::Crash => &mut self.crashes,
        }
    }
}

/// One noted fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// What kind.
    pub kind: Kind,
    /// The method or the part of the plugin.
    pub op: String,
    /// What happened, in words.
    pub text: String,
}

/// Why and since when a plugin is kept out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// Milliseconds since 1970.
    pub since_ms: u64,
    /// One sentence.
    pub reason: String,
}

/// When a plugin is kept out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// This many endangering faults ... (0: never).
    pub quarantine_after: u32,
    /// ... within this time.
    pub quarantine_window: Duration,
}

impl Default for Limits {
    /// Five faults in ten minutes.
    fn default() -> Self {
        Limits { quarantine_after: 5, quarantine_window: Duration::from_secs(600) }
    }
}

/// What [`Ledger::note`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    /// The counters after it.
    pub counters: Counters,
    /// Whether this fault was the one that put the plugin in quarantine.
    pub quarantined: bool,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Record {
    counters: Counters,
    recent: VecDeque<Entry>,
    /// Times of the endangering faults that may still count: never more than `quarantine_after`.
    strikes: VecDeque<u64>,
    quarantine: Option<Quarantine>,
}

impl Record {
    fn last_ms(&self) -> u64 {
        self.recent.back().map_or(0, |e| e.at_ms)
    }
}

#[derive(Default, Serialize, Deserialize)]
struct Book {
    version: u32,
    plugins: BTreeMap<String, Record>,
}

const VERSION: u32 = 1;

#[derive(Default)]
struct State {
    plugins: BTreeMap<String, Record>,
    /// Counts changes; the writer compares it with what it wrote.
    changes: u64,
    written: u64,
    stopping: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    written: Condvar,
}

type OnQuarantine = Box<dyn Fn(&str, &Quarantine) + Send + Sync>;

/// The ledger of one host. Cheap to share; every method may be called from any thread.
pub struct Ledger {
    shared: Arc<Shared>,
    limits: Limits,
    path: Option<PathBuf>,
    writer: Mutex<Option<JoinHandle<()>>>,
    on_quarantine: OnceLock<OnQuarantine>,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger")
            .field("path", &self.path)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl Default for Ledger {
    /// In memory, with the default limits.
    fn default() -> Self {
        Ledger::in_memory(Limits::default())
    }
}

impl Ledger {
    /// A ledger that is forgotten with the process.
    pub fn in_memory(limits: Limits) -> Self {
        Ledger::with(BTreeMap::new(), limits, None)
    }

    /// Reads `path` and keeps it up to date from then on. A missing file is an empty ledger; one that cannot be used is
    /// set aside as `<path>.bad`, said in the log, and the ledger begins anew: faults of the past are no reason not to
    /// start.
    pub fn open(path: impl Into<PathBuf>, limits: Limits) -> Self {
        let path = path.into();
        let plugins = match read(&path) {
            Ok(plugins) => plugins,
            Err(why) => {
                let aside = with_suffix(&path, ".bad");
                let kept = std::fs::rename(&path, &aside).is_ok();
                tracing::warn!(
                    path = %path.display(),
                    kept_as = kept.then(|| aside.display().to_string()),
                    why,
                    "the plugin fault ledger cannot be used; it begins anew"
                );
                BTreeMap::new()
            }
        };
        Ledger::with(plugins, limits, Some(path))
    }

    fn with(plugins: BTreeMap<String, Record>, limits: Limits, path: Option<PathBuf>) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(State { plugins, ..State::default() }),
            changed: Condvar::new(),
            written: Condvar::new(),
        });
        let writer = path.clone().and_then(|path| {
            let shared = Arc::clone(&shared);
            let writer = std::thread::Builder::new().name("plugin-ledger".into());
            let writer = writer.spawn(move || write_changes(&shared, &path));
            writer
                .map_err(
                    |e| tracing::warn!(error = %e, "no thread for the plugin fault ledger; it is not kept"),
                )
                .ok()
        });
        Ledger { shared, limits, path, writer: Mutex::new(writer), on_quarantine: OnceLock::new() }
    }

    /// Notes one fault of `plugin`: `op` names where, `text` says what.
    pub fn note(&self, plugin: &str, kind: Kind, op: &str, text: &str) -> Noted {
        self.note_many(plugin, kind, 1, op, text)
    }

    /// As [`note`](Self::note) for `count` faults at once; they are one entry in words.
    pub fn note_many(&self, plugin: &str, kind: Kind, count: u64, op: &str, text: &str) -> Noted {
        let now = now_ms();
        let mut state = self.lock();
        if !state.plugins.contains_key(plugin) && state.plugins.len() >= MAX_PLUGINS {
            make_room(&mut state.plugins);
        }
        let record = state.plugins.entry(plugin.to_owned()).or_default();
        let counter = record.counters.of(kind);
        *counter = counter.saturating_add(count);
        if record.recent.len() >= MAX_RECENT {
            record.recent.pop_front();
        }
        let clip = |text: &str| text.chars().take(MAX_TEXT).collect();
        record.recent.push_back(Entry { at_ms: now, kind, op: clip(op), text: clip(text) });
        let fresh = if kind.endangers() { self.strike(record, now, kind, op, text) } else { None };
        let noted = Noted { counters: record.counters, quarantined: fresh.is_some() };
        state.changes += 1;
        drop(state);
        self.shared.changed.notify_one();
        if let Some(quarantine) = fresh {
            tracing::error!(plugin, reason = quarantine.reason, "plugin is put in quarantine");
            if let Some(tell) = self.on_quarantine.get() {
                tell(plugin, &quarantine);
            }
        }
        noted
    }

    /// Counts a fault towards quarantine; `Some` when it is the last straw.
    fn strike(&self, record: &mut Record, now: u64, kind: Kind, op: &str, text: &str) -> Option<Quarantine> {
        let after = usize::try_from(self.limits.quarantine_after).unwrap_or(usize::MAX);
        if after == 0 || record.quarantine.is_some() {
            return None;
        }
        let window = millis(self.limits.quarantine_window);
        record.strikes.push_back(now);
        while record.strikes.len() > after
            || record.strikes.front().is_some_and(|at| now.saturating_sub(*at) > window)
        {
            record.strikes.pop_front();
        }
        if record.strikes.len() < after {
            return None;
        }
        let last: String = text.chars().take(160).collect();
        let quarantine = Quarantine {
            since_ms: now,
            reason: format!(
                "{after} faults within {:?}; the last was a {} in {op}: {last}",
                self.limits.quarantine_window,
                kind.as_str()
            ),
        };
        record.quarantine = Some(quarantine.clone());
        Some(quarantine)
    }

    /// The counters of one plugin; zeros when nothing was ever noted.
    pub fn counters(&self, plugin: &str) -> Counters {
        self.lock().plugins.get(plugin).map(|r| r.counters).unwrap_or_default()
    }

    /// The last faults of one plugin, oldest first.
    pub fn recent(&self, plugin: &str) -> Vec<Entry> {
        self.lock().plugins.get(plugin).map(|r| r.recent.iter().cloned().collect()).unwrap_or_default()
    }

    /// The quarantine of one plugin, if it is in one.
    pub fn quarantined(&self, plugin: &str) -> Option<Quarantine> {
        self.lock().plugins.get(plugin).and_then(|r| r.quarantine.clone())
    }

    /// Ends a quarantine; the counters stay, the strikes begin anew. `false` when there was none.
    pub fn lift(&self, plugin: &str) -> bool {
        let mut state = self.lock();
        let Some(record) = state.plugins.get_mut(plugin) else { return false };
        record.strikes.clear();
        let lifted = record.quarantine.take().is_some();
        state.changes += 1;
        drop(state);
        self.shared.changed.notify_one();
        lifted
    }

    /// `tell(plugin, why)` is called when a plugin is put in quarantine, on the thread that noted the last fault and
    /// outside of every lock: it must not wait for the plugin. Only the first call counts.
    pub fn on_quarantine(&self, tell: impl Fn(&str, &Quarantine) + Send + Sync + 'static) {
        let _ = self.on_quarantine.set(Box::new(tell));
    }

    /// Waits until everything noted so far is on disk, at most `limit`.
    pub fn flush(&self, limit: Duration) {
        let running = self.writer.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if !running {
            return;
        }
        let state = self.lock();
        let goal = state.changes;
        let waited = self.shared.written.wait_timeout_while(state, limit, |s| s.written < goal);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ledger {
    /// Writes what is left.
    fn drop(&mut self) {
        self.lock().stopping = true;
        self.shared.changed.notify_one();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            let _ = writer.join();
        }
    }
}

/// Drops the entry without a quarantine whose last fault is the oldest; a ledger of quarantines alone drops one of them,
/// because a full ledger must not keep a new fault from being seen.
fn make_room(plugins: &mut BTreeMap<String, Record>) {
    let oldest =
        plugins.iter().min_by_key(|(_, r)| (r.quarantine.is_some(), r.last_ms())).map(|(n, _)| n.clone());
    if let Some(name) = oldest {
        plugins.remove(&name);
    }
}

fn write_changes(shared: &Shared, path: &Path) {
    let mut told = false;
    loop {
        let state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = shared
            .changed
            .wait_while(state, |s| s.changes == s.written && !s.stopping)
            .unwrap_or_else(PoisonError::into_inner);
        let (stopping, goal) = (state.stopping, state.changes);
        if goal != state.written {
            let book = Book { version: VERSION, plugins: std::mem::take(&mut state.plugins) };
            let text = serde_json::to_vec_pretty(&book);
            state.plugins = book.plugins;
            drop(state);
            let outcome = text.map_err(io::Error::other).and_then(|text| replace(path, &text));
            if let Err(e) = outcome
                && !std::mem::replace(&mut told, true)
            {
                // Once: whoever lost the disk knows by now, and the counters in memory go on.
                tracing::warn!(path = %path.display(), error = %e, "the plugin fault ledger cannot be written");
            }
            shared.state.lock().unwrap_or_else(PoisonError::into_inner).written = goal;
            shared.written.notify_all();
        } else {
            drop(state);
        }
        if stopping {
            return;
        }
        // A stop does not wait for the rest to end.
        let state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        drop(shared.changed.wait_timeout_while(state, REST, |s| !s.stopping));
    }
}

/// All or nothing: a reader sees the old file or the new one, also after a power cut.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let temporary = with_suffix(path, &format!(".{}.tmp", std::process::id()));
    let outcome = (|| {
        let mut file = std::fs::OpenOptions::new();
        let mut file = file.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(text)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        match path.parent().filter(|p| !p.as_os_str().is_empty()) {
            Some(dir) => File::open(dir)?.sync_all(),
            None => Ok(()),
        }
    })();
    if outcome.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    outcome
}

fn read(path: &Path) -> Result<BTreeMap<String, Record>, String> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        file => file.map_err(|e| e.to_string())?,
    };
    let mut text = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut text).map_err(|e| e.to_string())?;
    if text.len() as u64 > MAX_FILE {
        return Err(format!("larger than {MAX_FILE} bytes"));
    }
    let mut book: Book = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
    if book.version != VERSION {
        return Err(format!("version {}, expected {VERSION}", book.version));
    }
    while book.plugins.len() > MAX_PLUGINS {
        make_room(&mut book.plugins);
    }
    for record in book.plugins.values_mut() {
        // Somebody may have edited it; the bounds hold all the same.
        let excess = record.recent.len().saturating_sub(MAX_RECENT);
        record.recent.drain(..excess);
        record.strikes.truncate(MAX_RECENT);
    }
    Ok(book.plugins)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

fn now_ms() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const LIMITS: Limits = Limits { quarantine_after: 3, quarantine_window: Duration::from_secs(3600) };

    fn in_dir() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plugins.json");
        (dir, path)
    }

    #[test]
    fn counts_are_kept_over_a_restart() {
        let (_dir, path) = in_dir();
        let ledger = Ledger::open(&path, LIMITS);
        ledger.note("echo", Kind::Panic, "init", "boom");
        ledger.note_many("echo", Kind::DroppedEvent, 7, "bus", "slow reader");
        drop(ledger);
        let again = Ledger::open(&path, LIMITS);
        let expected = Counters { panics: 1, dropped_events: 7, ..Counters::default() };
        assert_eq!(again.counters("echo"), expected);
        assert_eq!(again.recent("echo")[0].text, "boom");
        assert_eq!(again.counters("other"), Counters::default());
    }

    #[test]
    fn quarantine_after_n_endangering_faults_also_over_restarts_and_back() {
        let (_dir, path) = in_dir();
        for round in 0..3 {
            let ledger = Ledger::open(&path, LIMITS);
            ledger.note("echo", Kind::RefusedCall, "dial", "port 1");
            let noted = ledger.note("echo", Kind::Crash, "child", "signal 11");
            assert_eq!(noted.quarantined, round == 2);
        }
        let ledger = Ledger::open(&path, LIMITS);
        let why = ledger.quarantined("echo").unwrap().reason;
        assert_eq!(why, "3 faults within 3600s; the last was a crash in child: signal 11");
        assert!(!ledger.note("echo", Kind::Crash, "child", "again").quarantined, "it is in already");
        assert!(ledger.lift("echo") && !ledger.lift("echo"));
        assert!(ledger.quarantined("echo").is_none());
        assert!(!ledger.note("echo", Kind::Crash, "child", "x").quarantined, "strikes begin anew");
        assert_eq!(ledger.counters("echo").crashes, 5);
    }

    #[test]
    fn old_faults_do_not_count_and_zero_means_never() {
        let short = Ledger::in_memory(Limits { quarantine_after: 2, quarantine_window: Duration::ZERO });
        short.note("p", Kind::Panic, "a", "a");
        let mut state = short.lock();
        // As if it had been an hour ago.
        state.plugins.get_mut("p").unwrap().strikes[0] -= 3_600_000;
        drop(state);
        assert!(!short.note("p", Kind::Panic, "a", "a").quarantined);
        let never = Ledger::in_memory(Limits { quarantine_after: 0, ..LIMITS });
        assert!((0..100).all(|_| !never.note("p", Kind::Panic, "a", "a").quarantined));
    }

    #[test]
    fn the_host_is_told_once_and_outside_of_the_lock() {
        let ledger = Arc::new(Ledger::in_memory(LIMITS));
        let told = Arc::new(AtomicUsize::new(0));
        let (weak, count) = (Arc::downgrade(&ledger), Arc::clone(&told));
        ledger.on_quarantine(move |plugin, _| {
            assert!(weak.upgrade().unwrap().quarantined(plugin).is_some());
            count.fetch_add(1, Ordering::SeqCst);
        });
        for _ in 0..10 {
            ledger.note("p", Kind::Overrun, "shutdown", "deadline exceeded");
        }
        assert_eq!(told.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_file_that_cannot_be_used_is_set_aside() {
        let (_dir, path) = in_dir();
        let versions = "{\"version\":9,\"plugins\":{}}";
        for bad in
            ["not json", "{\"version\":1}", versions, "{\"version\":1,\"plugins\":{\"a\":{\"recent\":3}}}"]
        {
            std::fs::write(&path, bad).unwrap();
            let ledger = Ledger::open(&path, LIMITS);
            assert_eq!(std::fs::read_to_string(with_suffix(&path, ".bad")).unwrap(), bad);
            ledger.note("p", Kind::Panic, "a", "a");
            ledger.flush(Duration::from_secs(30));
            assert!(std::fs::read_to_string(&path).unwrap().contains("\"panics\": 1"));
        }
    }

    #[test]
    fn nothing_grows_without_bound() {
        let ledger = Ledger::in_memory(LIMITS);
        for _ in 0..5 {
            ledger.note("kept", Kind::Crash, "x", "x");
        }
        for i in 0..2 * MAX_PLUGINS {
            ledger.note(&format!("p{i}"), Kind::Panic, "x", &"y".repeat(10_000));
        }
        for _ in 0..100 {
            ledger.note("kept", Kind::Panic, "x", "x");
        }
        let state = ledger.lock();
        assert_eq!(state.plugins.len(), MAX_PLUGINS);
        assert_eq!(state.plugins["kept"].recent.len(), MAX_RECENT);
        assert_eq!(state.plugins["p511"].recent[0].text.len(), MAX_TEXT);
        assert!(state.plugins["kept"].quarantine.is_some(), "quarantines stay longest");
    }
}
