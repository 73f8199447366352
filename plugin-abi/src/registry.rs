//! Plugins by name: register, start in sorted order, stop in reverse (seed 001; plugin-contract.md sections 1.1 to 1.3).
//!
//! The loader fills a [`Registry`] of its own from the files it opened; a program with plugins linked into it uses the
//! process-wide functions at the end of this file. Texts of errors are the contract's, to the letter.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::Builder;
use std::time::{Duration, Instant};

use crate::api::{Daemon, Plugin};
use crate::{Error, ErrorKind, Result, bridge, guard};

/// Makes a fresh instance per call; no state is shared between two instances. `Ok(None)` is "nothing", which stops the
/// start.
pub type Factory = Arc<dyn Fn() -> Result<Option<Box<dyn Plugin>>> + Send + Sync>;

/// What every plugin gets of a shutdown at least, even when those before it have used up the common deadline.
pub const SHUTDOWN_GRACE: Duration = Duration::from_millis(250);

/// A table of factories. Append-only.
#[derive(Default)]
pub struct Registry {
    /// `BTreeMap` of `String`: bytewise ascending, which is the start order.
    factories: Mutex<BTreeMap<String, Factory>>,
}

/// A plugin whose `init` succeeded.
#[derive(Clone)]
pub struct Started {
    /// The registration key.
    pub name: String,
    /// The instance.
    pub plugin: Arc<dyn Plugin>,
}

/// Where a start stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartFailure {
    /// The plugin that could not be made or started.
    pub name: String,
    /// Which step.
    pub step: StartStep,
    /// The contract's text; its kind is the cause's, [`TimedOut`](ErrorKind::TimedOut) for a missed deadline.
    pub error: Error,
}

/// The two steps of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartStep {
    /// The factory.
    Create,
    /// [`Plugin::init`].
    Init,
}

/// How each plugin's shutdown went, in the order of the calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShutdownReport {
    /// One per plugin.
    pub steps: Vec<ShutdownStep>,
}

/// How one plugin's shutdown went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShutdownStep {
    /// The registration key.
    pub name: String,
    /// A missed deadline is [`TimedOut`](ErrorKind::TimedOut) with the text `deadline exceeded`; that call may still be
    /// running.
    pub error: Option<Error>,
}

impl ShutdownReport {
    /// The contract's one error: `daemonapi: <n> plugin shutdown error(s): plugin "<name>" shutdown: <cause>; ...`.
    pub fn into_result(self) -> Result<()> {
        let failures: Vec<String> = self
            .steps
            .iter()
            .filter_map(|s| s.error.as_ref().map(|e| format!("plugin \"{}\" shutdown: {e}", s.name)))
            .collect();
        if failures.is_empty() {
            return Ok(());
        }
        Err(Error::other(format!(
            "daemonapi: {} plugin shutdown error(s): {}",
            failures.len(),
            failures.join("; ")
        )))
    }
}

impl Registry {
    /// An empty table.
    pub const fn new() -> Self {
        Registry { factories: Mutex::new(BTreeMap::new()) }
    }

    /// Adds a factory.
    ///
    /// # Errors
    /// Programming errors of whoever registers: `daemonapi: RegisterPlugin: empty name`, `daemonapi: RegisterPlugin: nil
    /// factory for <name>`, `daemonapi: plugin already registered: <name>`. The Go peer panics here; across a library
    /// border that must be a value.
    pub fn register(&self, name: &str, factory: Option<Factory>) -> Result<()> {
        if name.is_empty() {
            return Err(Error::invalid("daemonapi: RegisterPlugin: empty name"));
        }
        let Some(factory) = factory else {
            return Err(Error::invalid(format!("daemonapi: RegisterPlugin: nil factory for {name}")));
        };
        match self.factories.lock().unwrap_or_else(PoisonError::into_inner).entry(name.to_owned()) {
            Entry::Vacant(free) => {
                free.insert(factory);
                Ok(())
            }
            Entry::Occupied(_) => Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("daemonapi: plugin already registered: {name}"),
            )),
        }
    }

    /// The factory of one name.
    pub fn factory(&self, name: &str) -> Option<Factory> {
        self.factories.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// All names, bytewise ascending.
    pub fn registered(&self) -> Vec<String> {
        self.factories.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Makes and starts every plugin in name order, each `init` on a thread of its own with `init_timeout`.
    /// `daemon_for(name)` gives each its handle.
    ///
    /// Stops at the first failure. The result is what runs by then, in order, and that failure; the caller stops the
    /// start and hands the list to [`shutdown_all`]. The failed plugin is not in the list and gets no shutdown.
    pub fn load_all(
        &self,
        daemon_for: &dyn Fn(&str) -> Arc<dyn Daemon>,
        init_timeout: Duration,
    ) -> (Vec<Started>, Option<StartFailure>) {
        // A snapshot: factories and plugins are called outside of the lock.
        let factories = self.factories.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut started = Vec::with_capacity(factories.len());
        for (name, factory) in factories {
            match start_one(&name, &factory, daemon_for, init_timeout) {
                Ok(plugin) => started.push(Started { name, plugin }),
                Err((step, error)) => return (started, Some(StartFailure { name, step, error })),
            }
        }
        (started, None)
    }
}

/// Makes one instance and starts it, `init` on a thread of its own with `init_timeout`. `daemon_for(name)` is called
/// between the two. An instance whose start failed gets no shutdown.
///
/// # Errors
/// The step that failed and the contract's text.
pub fn start_one(
    name: &str,
    factory: &Factory,
    daemon_for: &dyn Fn(&str) -> Arc<dyn Daemon>,
    init_timeout: Duration,
) -> Result<Arc<dyn Plugin>, (StartStep, Error)> {
    let create = guard::catch(|| factory()).unwrap_or_else(|text| Err(bridge::panicked("create", &text)));
    let plugin: Arc<dyn Plugin> = match create {
        Ok(Some(plugin)) => plugin.into(),
        Ok(None) => {
            let text = format!("daemonapi: plugin \"{name}\" factory returned nil");
            return Err((StartStep::Create, Error::other(text)));
        }
        Err(e) => {
            let text = format!("daemonapi: plugin \"{name}\" create: {e}");
            return Err((StartStep::Create, Error::new(e.kind(), text)));
        }
    };
    let daemon = daemon_for(name);
    let instance = Arc::clone(&plugin);
    within(init_timeout, &format!("{name} init"), "init", move || instance.init(daemon)).map_err(|e| {
        (StartStep::Init, Error::new(e.kind(), format!("daemonapi: plugin \"{name}\" init: {e}")))
    })?;
    Ok(plugin)
}

/// Calls `shutdown` on every plugin in reverse order, each on a thread of its own, one after another, all under the one
/// `deadline` (from now) but never with less than [`SHUTDOWN_GRACE`]. An error or a missed deadline never stops the walk.
pub fn shutdown_all(started: Vec<Started>, deadline: Duration) -> ShutdownReport {
    let end = Instant::now().checked_add(deadline);
    let mut report = ShutdownReport::default();
    for Started { name, plugin } in started.into_iter().rev() {
        let left = end.map_or(deadline, |end| end.saturating_duration_since(Instant::now()));
        let error = shutdown_one(&name, plugin, left.max(SHUTDOWN_GRACE)).err();
        report.steps.push(ShutdownStep { name, error });
    }
    report
}

/// One plugin's shutdown on a thread of its own; returns after `deadline` whether or not the call did.
pub fn shutdown_one(name: &str, plugin: Arc<dyn Plugin>, deadline: Duration) -> Result<()> {
    // A plugin that uses all it is given must not be counted as late.
    let margin = (deadline / 10).min(Duration::from_millis(100));
    within(deadline, &format!("{name} shutdown"), "shutdown", move || plugin.shutdown(deadline - margin))
}

/// Runs `f` on a thread of its own and waits `limit` for it. The thread of a call that is late is left behind: nothing
/// can end it.
fn within(
    limit: Duration,
    thread: &str,
    op: &'static str,
    f: impl FnOnce() -> Result<()> + Send + 'static,
) -> Result<()> {
    let (done, wait) = mpsc::sync_channel(1);
    Builder::new().name(thread.to_owned()).spawn(move || {
        let result = guard::catch(f).unwrap_or_else(|text| Err(bridge::panicked(op, &text)));
        // The receiver is gone when the call was late; then nobody wants the result.
        let _ = done.send(result);
    })?;
    wait.recv_timeout(limit).unwrap_or_else(|_| Err(Error::new(ErrorKind::TimedOut, "deadline exceeded")))
}

static GLOBAL: Registry = Registry::new();

/// [`Registry::register`] on the process-wide table.
pub fn register_plugin(name: &str, factory: Option<Factory>) -> Result<()> {
    GLOBAL.register(name, factory)
}

/// [`Registry::registered`] of the process-wide table.
pub fn registered() -> Vec<String> {
    GLOBAL.registered()
}

/// [`Registry::factory`] of the process-wide table.
pub fn factory(name: &str) -> Option<Factory> {
    GLOBAL.factory(name)
}

/// [`Registry::load_all`] of the process-wide table, with one daemon for all.
pub fn load_all(daemon: &Arc<dyn Daemon>, init_timeout: Duration) -> (Vec<Started>, Option<StartFailure>) {
    GLOBAL.load_all(&|_| Arc::clone(daemon), init_timeout)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_kit::FakeDaemon;

    /// Writes what happens to it into a common journal.
    struct Probe {
        name: &'static str,
        journal: Arc<Mutex<Vec<String>>>,
        init: Result<()>,
        shutdown: fn(Duration) -> Result<()>,
    }

    impl Plugin for Probe {
        fn init(&self, _: Arc<dyn Daemon>) -> Result<()> {
            self.journal.lock().unwrap().push(format!("init {}", self.name));
            self.init.clone()
        }

        fn shutdown(&self, deadline: Duration) -> Result<()> {
            self.journal.lock().unwrap().push(format!("shutdown {}", self.name));
            (self.shutdown)(deadline)
        }
    }

    #[derive(Default)]
    struct Bench {
        registry: Registry,
        journal: Arc<Mutex<Vec<String>>>,
    }

    const LIMIT: Duration = Duration::from_secs(10);

    impl Bench {
        fn add(&self, name: &'static str, init: Result<()>, shutdown: fn(Duration) -> Result<()>) {
            let journal = Arc::clone(&self.journal);
            let factory: Factory = Arc::new(move || {
                let journal = Arc::clone(&journal);
                Ok(Some(Box::new(Probe { name, journal, init: init.clone(), shutdown })))
            });
            self.registry.register(name, Some(factory)).unwrap();
        }

        fn load(&self) -> (Vec<Started>, Option<StartFailure>) {
            let daemon: Arc<dyn Daemon> = FakeDaemon::new("/nonexistent");
            self.registry.load_all(&|_| Arc::clone(&daemon), LIMIT)
        }

        fn journal(&self) -> Vec<String> {
            self.journal.lock().unwrap().clone()
        }
    }

    #[test]
    fn registration_texts() {
        let r = Registry::new();
        let some: Factory = Arc::new(|| Ok(None));
        let text = |e: Result<()>| e.unwrap_err().to_string();
        assert_eq!(text(r.register("", Some(some.clone()))), "daemonapi: RegisterPlugin: empty name");
        assert_eq!(text(r.register("x", None)), "daemonapi: RegisterPlugin: nil factory for x");
        r.register("x", Some(some.clone())).unwrap();
        r.register("Z", Some(some.clone())).unwrap();
        assert_eq!(text(r.register("x", Some(some))), "daemonapi: plugin already registered: x");
        assert_eq!(r.registered(), ["Z", "x"]);
    }

    #[test]
    fn starts_sorted_and_stops_reversed() {
        let b = Bench::default();
        for name in ["webhook", "handshake", "policy"] {
            b.add(name, Ok(()), |_| Ok(()));
        }
        let (started, failure) = b.load();
        assert!(failure.is_none());
        shutdown_all(started, LIMIT).into_result().unwrap();
        assert_eq!(
            b.journal(),
            [
                "init handshake",
                "init policy",
                "init webhook",
                "shutdown webhook",
                "shutdown policy",
                "shutdown handshake"
            ]
        );
    }

    #[test]
    fn a_failed_init_stops_the_start_and_gets_no_shutdown() {
        let b = Bench::default();
        b.add("a", Ok(()), |_| Ok(()));
        b.add("b", Err(Error::other("no disk")), |_| Ok(()));
        b.add("c", Ok(()), |_| Ok(()));
        let (started, failure) = b.load();
        let failure = failure.unwrap();
        assert_eq!((failure.name.as_str(), failure.step), ("b", StartStep::Init));
        assert_eq!(failure.error.to_string(), "daemonapi: plugin \"b\" init: no disk");
        shutdown_all(started, LIMIT).into_result().unwrap();
        assert_eq!(b.journal(), ["init a", "init b", "shutdown a"]);
    }

    #[test]
    fn factories_that_give_nothing_fail_or_panic() {
        let cases: [(Factory, &str); 3] = [
            (Arc::new(|| Ok(None)), "daemonapi: plugin \"p\" factory returned nil"),
            (Arc::new(|| Err(Error::other("why"))), "daemonapi: plugin \"p\" create: why"),
            (Arc::new(|| panic!("boom")), "daemonapi: plugin \"p\" create: create panicked: boom"),
        ];
        for (factory, text) in cases {
            let b = Bench::default();
            b.registry.register("p", Some(factory)).unwrap();
            let (started, failure) = b.load();
            assert!(started.is_empty());
            assert_eq!(failure.unwrap().error.to_string(), text);
        }
    }

    #[test]
    fn shutdown_errors_are_joined_in_call_order_and_a_stuck_plugin_does_not_stop_the_walk() {
        let b = Bench::default();
        b.add("a", Ok(()), |_| Err(Error::other("first to start")));
        b.add("b", Ok(()), |_| panic!("boom"));
        b.add("c", Ok(()), |_| {
            loop {
                std::thread::park();
            }
        });
        b.add("d", Ok(()), |_| Ok(()));
        let (started, _) = b.load();
        let error = shutdown_all(started, Duration::from_millis(50)).into_result().unwrap_err();
        assert_eq!(
            error.to_string(),
            "daemonapi: 3 plugin shutdown error(s): plugin \"c\" shutdown: deadline exceeded; \
             plugin \"b\" shutdown: shutdown panicked: boom; plugin \"a\" shutdown: first to start"
        );
        assert_eq!(b.journal()[4..], ["shutdown d", "shutdown c", "shutdown b", "shutdown a"]);
    }

    #[test]
    fn a_plugin_is_told_less_than_it_gets() {
        let b = Bench::default();
        b.add("a", Ok(()), |deadline| {
            assert!(deadline < LIMIT && deadline > LIMIT / 2, "{deadline:?}");
            Ok(())
        });
        let (started, _) = b.load();
        shutdown_all(started, LIMIT).into_result().unwrap();
    }
}
