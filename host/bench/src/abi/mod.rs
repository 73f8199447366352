//! The suite `abi`: what a call costs across the border of a real plugin file, beside the same call over plain `dyn` in
//! this process.
//!
//! Both sides run the same loop over the same kind of trait object, in turns of well under a millisecond, many of them,
//! and who begins changes from turn to turn. Of calls within this process the fastest turn of each side counts: whatever
//! else the machine does can only make a turn slower, so the fastest is the one that measured the code. Of calls to
//! another process the median counts, because there the system's scheduler is part of what is measured.
//!
//! The plugin is `host/bench/abi-plugin`, built by `scripts/bench` beside this program and opened by the real loader.

mod daemon;

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use pilot_bench_plugin::{Runner, Service, loops};
use pilot_loader::{Isolation, IsolationPolicy, Loader, LoaderConfig};
use plugin_abi::{Daemon, Direction, HandshakeService, PolicyEvent, PolicyManager, PolicyRunner, PortGate};
use serde_json::json;

use crate::report::{Better, Metric};
use daemon::BenchDaemon;

/// The file that `scripts/bench` builds.
const LIBRARY: &str = "libpilot_bench_plugin.so";

/// One row: its name, what it is, how many calls in a turn.
type Row = (&'static str, &'static str, u64);

const ROWS: &[Row] = &[
    ("host_to_plugin", "the host asks a plugin's trust store about a node: u32 in, bool out", 50_000),
    ("plugin_to_host", "a plugin asks the daemon for its node id", 50_000),
    ("borrow_1k", "a plugin lends 1 KiB to the host (Connection::write to a sink)", 50_000),
    ("borrow_64k", "the same with 64 KiB: the size must not matter", 50_000),
    ("copy_1k", "the host copies 1 KiB into a plugin's buffer (Connection::read)", 20_000),
    ("copy_64k", "the same with 64 KiB", 200),
    (
        "async_echo",
        "the host polls a future that a plugin has spawned: in each poll 1 KiB to an echo and back, and a wake-up",
        10_000,
    ),
    (
        "async_dial",
        "a plugin awaits dial_async, sends 1 KiB, reads it back and drops the stream; all ready at once",
        2_000,
    ),
    ("fanout_1", "an event of four members to one subscription of a plugin, until it is read", 512),
    ("fanout_10", "the same to ten subscriptions", 128),
    ("fanout_100", "the same to a hundred", 64),
    ("gate", "the host asks a plugin's policy about a connection; two tags cross", 20_000),
];

/// The same file in a process of its own: its name, the row that it repeats, what it is, how many calls in a turn.
const CHILD_ROWS: &[(&str, &str, &str, u64)] = &[
    (
        "child_call",
        "gate",
        "the host asks a plugin in a child process about a connection; two tags cross",
        200,
    ),
    ("child_to_host", "plugin_to_host", "a plugin in a child process asks the daemon for its node id", 200),
    ("child_write_64k", "borrow_64k", "a plugin in a child process writes 64 KiB to a stream", 50),
    ("child_read_64k", "copy_64k", "a plugin in a child process reads 64 KiB from a stream", 50),
];

/// Measures every row in `rounds` turns of each side.
pub fn run(rounds: u32) -> anyhow::Result<Vec<Metric>> {
    let library = beside_this_program()?;
    let world = World::open(&library, Isolation::InProcess)?;
    let mut metrics = Vec::new();
    for &(name, about, times) in ROWS {
        metrics.push(row(&world, (name, name, about, times), rounds, fastest)?);
    }
    let child = World::open(&library, Isolation::Process)?;
    for &(name, repeats, about, times) in CHILD_ROWS {
        metrics.push(row(&child, (name, repeats, about, times), rounds, median)?);
    }
    child.loaded.shutdown(Duration::from_secs(5)).into_result()?;
    Ok(metrics)
}

/// `counts` says which of the turns counts.
fn row(
    world: &World,
    (name, repeats, about, times): (&'static str, &str, &str, u64),
    rounds: u32,
    counts: fn(&[f64]) -> f64,
) -> anyhow::Result<Metric> {
    let (mut border, mut twin) = (Vec::new(), Vec::new());
    // One more than asked for: the first turn warms caches and allocators up.
    for round in 0..=rounds {
        let (b, t) = if round % 2 == 0 {
            let b = world.border(repeats, times)?;
            (b, world.twin(repeats, times)?)
        } else {
            let t = world.twin(repeats, times)?;
            (world.border(repeats, times)?, t)
        };
        if round > 0 {
            border.push(per_call(b, times));
            twin.push(per_call(t, times));
        }
    }
    border.sort_unstable_by(f64::total_cmp);
    twin.sort_unstable_by(f64::total_cmp);
    Ok(Metric {
        name,
        about: about.into(),
        unit: "ns",
        value: counts(&border),
        baseline: Some((counts(&twin), "the same over plain dyn in this process")),
        better: Better::Lower,
        more: vec![
            ("median", json!(rounded(median(&border)))),
            ("baseline_median", json!(rounded(median(&twin)))),
            ("rounds", json!(rounds)),
            ("times", json!(times)),
        ],
    })
}

/// Both sides of every row.
struct World {
    /// Plain: the host's own objects, and the linked copy of the plugin's.
    daemon: Arc<dyn Daemon>,
    bench: Arc<BenchDaemon>,
    service: Arc<dyn HandshakeService>,
    runner: Arc<dyn PolicyRunner>,
    /// As they came out of the opened file.
    plugin_service: Arc<dyn HandshakeService>,
    plugin_manager: Arc<dyn PolicyManager>,
    plugin_runner: Arc<dyn PolicyRunner>,
    /// Keeps the plugin alive.
    loaded: pilot_loader::Loaded,
}

impl World {
    fn open(library: &Path, isolation: Isolation) -> anyhow::Result<World> {
        let dir = tempfile::tempdir()?;
        std::fs::copy(library, dir.path().join("bench.so"))
            .with_context(|| format!("copy {}", library.display()))?;
        let daemon = Arc::new(BenchDaemon::default());
        let isolation = IsolationPolicy { strangers: isolation, ..IsolationPolicy::default() };
        let loader =
            Loader::new(LoaderConfig { dir: dir.path().into(), isolation, ..LoaderConfig::default() });
        let handle: Arc<dyn Daemon> = daemon.clone();
        let loaded = loader.load(move |_: &str| handle.clone())?;
        let (service, manager) = daemon.registered().context("the plugin registered nothing")?;
        Ok(World {
            bench: daemon.clone(),
            daemon,
            service: Arc::new(Service),
            runner: Arc::new(Runner::default()),
            plugin_runner: manager.get(0).context("the plugin has no runner")?,
            plugin_service: service,
            plugin_manager: manager,
            loaded,
        })
    }

    fn border(&self, name: &str, times: u64) -> anyhow::Result<Duration> {
        match name {
            "host_to_plugin" => Ok(lookups(black_box(self.plugin_service.as_ref()), times)),
            "gate" => Ok(gates(black_box(self.plugin_runner.as_ref()), times)),
            _ => {
                self.plugin_manager.start(0, &json!({ "loop": name, "times": times }).to_string())?;
                if name == "async_echo" {
                    return self.polls(times);
                }
                let status = self.plugin_runner.status();
                let nanos = status.get("nanos").and_then(serde_json::Value::as_u64);
                Ok(Duration::from_nanos(nanos.context("the plugin measured nothing")?))
            }
        }
    }

    fn twin(&self, name: &str, times: u64) -> anyhow::Result<Duration> {
        match name {
            "host_to_plugin" => Ok(lookups(black_box(self.service.as_ref()), times)),
            "gate" => Ok(gates(black_box(self.runner.as_ref()), times)),
            "async_echo" => {
                loops::run(name, &self.daemon, times)?;
                self.polls(times)
            }
            _ => Ok(loops::run(name, &self.daemon, times)?),
        }
    }

    /// Polls what was spawned last.
    fn polls(&self, times: u64) -> anyhow::Result<Duration> {
        let mut future = self.bench.spawned().context("nothing was spawned")?;
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let mut cx = Context::from_waker(&waker);
        let started = Instant::now();
        for _ in 0..times {
            anyhow::ensure!(black_box(&mut future).as_mut().poll(&mut cx).is_pending(), "the echo broke");
        }
        let took = started.elapsed();
        anyhow::ensure!(woken.0.load(Ordering::Relaxed) == times, "not every poll woke its task");
        Ok(took)
    }
}

/// Counts wake-ups.
#[derive(Default)]
struct Woken(AtomicU64);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[inline(never)]
fn lookups(service: &dyn HandshakeService, times: u64) -> Duration {
    let started = Instant::now();
    for node in 0..times {
        black_box(black_box(service).is_trusted(node as u32));
    }
    started.elapsed()
}

#[inline(never)]
fn gates(runner: &dyn PolicyRunner, times: u64) -> Duration {
    let gate = PortGate {
        event: PolicyEvent::Connect,
        port: 1001,
        peer: 7,
        payload_size: 0,
        direction: Direction::In,
        local_tags: vec!["backend".into(), "files".into()],
        node_info_tags: Vec::new(),
    };
    let started = Instant::now();
    for _ in 0..times {
        black_box(black_box(runner).evaluate_port_gate(black_box(&gate)));
    }
    started.elapsed()
}

fn per_call(took: Duration, times: u64) -> f64 {
    took.as_nanos() as f64 / times as f64
}

/// Of sorted values.
fn median(values: &[f64]) -> f64 {
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Of sorted values.
fn fastest(values: &[f64]) -> f64 {
    values.first().copied().unwrap_or(f64::NAN)
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn beside_this_program() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("where this program is")?;
    let library = program.with_file_name(LIBRARY);
    anyhow::ensure!(
        library.is_file(),
        "{} is missing: run scripts/bench abi, which builds it",
        library.display()
    );
    Ok(library)
}
