//! What the plugins cost: the real libraries, opened by the loader, on a daemon in memory, beside the same work without
//! them in the same run. Called by `scripts/bench plugins [--json] [--seconds N]`.
//!
//! No network is in between: a stream here is two buffers in memory, so the ratios show what a plugin adds, not what a
//! network hides. Not a test: it fails only when something breaks.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a measurement that cannot go on has nothing better to do

#[path = "../../bench/src/report.rs"]
#[allow(dead_code)] // the other suites' part
mod report;

use std::hint::black_box;
use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pilot_loader::{Loaded, Loader, LoaderConfig};
use plugin_abi::test_kit::{FakeDaemon, stream_pair};
use plugin_abi::{Addr, Connection, ConnectionInfo, Daemon, Direction, PolicyEvent, PolicyRunner, PortGate};
use serde_json::{Value, json};

use report::{Better, Metric};

/// Rounds of each measurement, ours and the baseline's in turn; the median counts.
const ROUNDS: usize = 5;
/// A message as people send them.
const MESSAGE: usize = 1024;
/// Messages that are on their way at the same time.
const WINDOW: usize = 64;
/// One file of a round.
const FILE: usize = 64 << 20;
/// Events that the webhook's queue holds; further ones are counted and dropped.
const QUEUE: u64 = 1024;
/// A wait for the other side that takes longer is not slow, it is over.
const STALLED: Duration = Duration::from_secs(5);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let mut as_json = false;
    let mut time = Duration::from_millis(500);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match (argument.as_str(), rest.as_slice().first()) {
            ("--json", _) => as_json = true,
            ("--seconds", Some(n)) => {
                let seconds: f64 = n.parse().unwrap_or_else(|_| usage());
                time = Duration::from_secs_f64(seconds.clamp(0.01, 60.0));
                rest.next();
            }
            _ => usage(),
        }
    }
    let mut metrics = gates(time);
    metrics.extend(messages(time));
    metrics.extend(files());
    metrics.extend(events(time));
    println!("{}", if as_json { report::json(&metrics) } else { report::table(&metrics) });
}

fn usage() -> ! {
    eprintln!("usage: scripts/bench plugins [--json] [--seconds N]");
    std::process::exit(2);
}

/// One plugin from its library.
struct Running {
    daemon: Arc<FakeDaemon>,
    loaded: Option<Loaded>,
    dir: tempfile::TempDir,
}

impl Running {
    fn start(name: &str, config: Value) -> Running {
        let dir = tempfile::tempdir().unwrap();
        let plugins = dir.path().join("plugins");
        std::fs::create_dir(&plugins).unwrap();
        std::fs::copy(library(name), plugins.join(format!("{name}.so"))).unwrap();
        let daemon = FakeDaemon::new(dir.path());
        daemon.set_log_level(1);
        daemon.set_config(config);
        let handle = daemon.clone();
        let give = move |_: &str| handle.clone() as Arc<dyn Daemon>;
        let loader = Loader::new(LoaderConfig { dir: plugins, ..LoaderConfig::default() });
        let loaded = loader.load(give).unwrap_or_else(|e| panic!("{e}"));
        Running { daemon, loaded: Some(loaded), dir }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(loaded) = self.loaded.take() {
            let _ = loaded.shutdown(Duration::from_secs(10));
        }
    }
}

/// Beside this program's folder; `scripts/bench` has built it.
fn library(name: &str) -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let built = exe.ancestors().nth(2).map_or_else(|| Path::new(".").to_owned(), Path::to_owned);
    built.join(format!("libpilot_plugin_{name}.so"))
}

/// Calls per second, for about `time`.
fn rate(time: Duration, mut call: impl FnMut()) -> f64 {
    let (start, mut calls) = (Instant::now(), 0u64);
    while start.elapsed() < time {
        for _ in 0..64 {
            call();
        }
        calls += 64;
    }
    calls as f64 / start.elapsed().as_secs_f64()
}

/// Medians of interleaved rounds; each goes first every other time.
fn race(mut ours: impl FnMut() -> f64, mut baseline: impl FnMut() -> f64) -> (f64, f64) {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        if round % 2 == 0 {
            a.push(ours());
            b.push(baseline());
        } else {
            b.push(baseline());
            a.push(ours());
        }
    }
    let median = |mut list: Vec<f64>| {
        list.sort_by(f64::total_cmp);
        list[list.len() / 2]
    };
    (median(a), median(b))
}

fn higher(
    name: &'static str,
    about: &str,
    unit: &'static str,
    (value, baseline): (f64, f64),
    is: &'static str,
) -> Metric {
    Metric {
        name,
        about: about.to_owned(),
        unit,
        value,
        baseline: Some((baseline, is)),
        better: Better::Higher,
        more: vec![("rounds", json!(ROUNDS))],
    }
}

fn gates(time: Duration) -> Vec<Metric> {
    let running = Running::start("policy", json!({}));
    let manager = running.daemon.policy_manager().unwrap();
    let rule = |name: &str, condition: &str, verdict: &str| json!({"name": name, "on": "connect", "match": condition, "actions": [{"type": verdict}]});
    let usual = json!({"version": 1, "default_verdict": "deny", "rules": [
        rule("banned", "has_tag(peer_tags, \"banned\")", "deny"),
        rule("newcomers", "peer_age_s < duration(\"10m\") and port not in [0, 7, 80, 443]", "deny"),
        rule("ops", "has_tag(peer_tags, \"ops\") and has_tag(local_tags, \"gateway\")", "allow"),
        rule("web", "port in [80, 443, 8080]", "allow"),
        rule("ping", "port == 7 or port == 0", "allow")]});
    let loops = json!({"version": 1, "rules": [
        rule("team", "any(peer_tags, # startsWith \"team-\") and port in 1..1024", "allow")]});
    let start = |network: u16, document: &Value| {
        manager.start(network, &document.to_string()).unwrap();
        manager.get(network).unwrap()
    };
    let (usual, loops) = (start(1, &usual), start(2, &loops));
    let gate = PortGate {
        event: PolicyEvent::Connect,
        port: 443,
        peer: 9,
        payload_size: 0,
        direction: Direction::In,
        local_tags: vec!["edge".into()],
        node_info_tags: vec!["team-red".into(), "eu".into()],
    };
    let decide = |runner: &Arc<dyn PolicyRunner>| {
        let (runner, gate) = (runner.clone(), gate.clone());
        move || {
            rate(time, || {
                black_box(runner.evaluate_port_gate(&gate));
            })
        }
    };
    let call = |runner: &Arc<dyn PolicyRunner>| {
        let runner = runner.clone();
        move || {
            rate(time, || {
                black_box(runner.has_member(9));
            })
        }
    };
    const CALL: &str = "a call of the same plugin that decides nothing (has_member)";
    vec![
        higher(
            "gate_decisions",
            "connect decisions of a document with five usual rules, the fourth decides",
            "decisions/s",
            race(decide(&usual), call(&usual)),
            CALL,
        ),
        higher(
            "gate_decisions_with_a_loop",
            "decisions of a rule with a predicate, which runs on a thread with a time limit",
            "decisions/s",
            race(decide(&loops), call(&loops)),
            CALL,
        ),
    ]
}

const PEER: Addr = Addr { network: 0, node: 7 };

fn frame(kind: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = kind.to_be_bytes().to_vec();
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// Sends `request` with up to [`WINDOW`] answers owed; an answer has `answer` bytes.
fn exchange(conn: &Arc<dyn Connection>, time: Duration, request: &[u8], answer: usize) -> f64 {
    conn.set_read_timeout(Some(time + STALLED)).unwrap();
    let (start, mut sent, mut got) = (Instant::now(), 0usize, 0usize);
    let mut buffer = vec![0; 64 << 10];
    let mut read = || {
        let n = conn.read(&mut buffer).unwrap();
        assert!(n > 0, "the stream has ended");
        n
    };
    while start.elapsed() < time {
        while sent - got / answer < WINDOW {
            conn.write(request).unwrap();
            sent += 1;
        }
        got += read();
    }
    while got < sent * answer {
        got += read();
    }
    sent as f64 / start.elapsed().as_secs_f64()
}

fn raw_pair() -> (Arc<dyn Connection>, Arc<dyn Connection>) {
    stream_pair(ConnectionInfo::default())
}

fn messages(time: Duration) -> Vec<Metric> {
    // As many messages as fit in memory's file system or disk, without waiting for it.
    let running = Running::start("dataexchange", json!({"fsync": false, "inbox_max_bytes": 16 << 20}));
    let text = frame(1, &vec![b'x'; MESSAGE]);
    let nothing = frame(99, &vec![b'x'; MESSAGE]);
    let (stored, plain) = ("ACK TEXT 1024 bytes".len() + 8, "ACK UNKNOWN(99) 1024 bytes".len() + 8);
    let conn = running.daemon.connect_from(PEER, 1001).unwrap();
    let raw = move || {
        let (near, far) = raw_pair();
        let size = 8 + MESSAGE;
        let server = std::thread::spawn(move || {
            let (mut buffer, mut have) = (vec![0; 64 << 10], 0);
            while let Ok(n @ 1..) = far.read(&mut buffer) {
                have += n;
                let answers = have / size;
                have %= size;
                if answers > 0 && far.write(&vec![0; answers * plain]).is_err() {
                    return;
                }
            }
        });
        let rate = exchange(&near, time, &vec![0; size], plain);
        near.close();
        let _ = server.join();
        rate
    };
    const RAW: &str = "the same bytes and answers over the raw stream, by a thread that looks at nothing";
    vec![
        higher(
            "frames",
            "frames of 1 KiB that need no storing, answered one by one",
            "frames/s",
            race(|| exchange(&conn, time, &nothing, plain), &raw),
            RAW,
        ),
        higher(
            "messages",
            "messages of 1 KiB, each a file in the inbox (not forced to the disk)",
            "frames/s",
            race(|| exchange(&conn, time, &text, stored), &raw),
            RAW,
        ),
    ]
}

fn files() -> Vec<Metric> {
    let running = Running::start(
        "dataexchange",
        json!({"fsync": false, "received_max_bytes": -1, "max_frame": 1 << 28}),
    );
    let name = b"\x00\x08file.bin";
    let header = frame(4, &[]);
    let mut start = header[..4].to_vec();
    start.extend_from_slice(&((FILE + name.len()) as u32).to_be_bytes());
    start.extend_from_slice(name);
    let piece = vec![0x5a; 256 << 10];
    let received = running.dir.path().join("received");
    let rate = |seconds: Duration| FILE as f64 / 1e6 / seconds.as_secs_f64();
    let ours = || {
        let conn = running.daemon.connect_from(PEER, 1001).unwrap();
        let begin = Instant::now();
        conn.write(&start).unwrap();
        for _ in 0..FILE / piece.len() {
            conn.write(&piece).unwrap();
        }
        conn.set_read_timeout(Some(60 * STALLED)).unwrap();
        let mut answer = [0; 256];
        let n = conn.read(&mut answer).unwrap();
        assert!(answer[8..n].starts_with(b"ACK FILE"), "{}", String::from_utf8_lossy(&answer[8..n]));
        let took = begin.elapsed();
        // The next round has the same disk.
        std::fs::remove_dir_all(&received).unwrap();
        rate(took)
    };
    let baseline = || {
        let (near, far) = raw_pair();
        let server = std::thread::spawn(move || {
            let (mut buffer, mut left) = (vec![0; 256 << 10], FILE);
            while left > 0 {
                left -= far.read(&mut buffer).unwrap();
            }
            far.write(b"done").unwrap();
        });
        let begin = Instant::now();
        for _ in 0..FILE / piece.len() {
            near.write(&piece).unwrap();
        }
        near.read(&mut [0; 8]).unwrap();
        let took = begin.elapsed();
        server.join().unwrap();
        rate(took)
    };
    vec![higher(
        "file",
        "one file of 64 MiB in one frame, written to a directory (not forced to the disk)",
        "MB/s",
        race(ours, baseline),
        "the same bytes over the raw stream, thrown away",
    )]
}

fn events(time: Duration) -> Vec<Metric> {
    // An endpoint that never answers: the worker waits for it, the queue fills, and every further event is counted.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let running = Running::start("webhook", json!({"url": url, "timeout_ms": 600_000}));
    let manager = running.daemon.webhook_manager().unwrap();
    let payload = json!({"peer_node_id": 7, "state": "granted", "reason": "mutual"}).as_object().cloned();
    running.daemon.publish("first", payload.clone());
    let (mut held, _) = silent.accept().unwrap();
    let _ = held.read(&mut [0; 16]).unwrap();
    // Half a bus buffer at a time, so that the bus itself should drop nothing. Should it all the same, for a bridge that
    // was kept from running, the sum is not reached: what does not come any more is counted as lost on the way.
    let (mut published, mut lost) = (0u64, 0u64);
    let mut batch = |running: &Running| {
        for _ in 0..QUEUE / 2 {
            running.daemon.publish("trust.changed", payload.clone());
        }
        published += QUEUE / 2;
        let due = published.saturating_sub(QUEUE);
        let (mut arrived, mut since) = (manager.stats().dropped, Instant::now());
        while arrived + lost < due {
            std::thread::yield_now();
            let now = manager.stats().dropped;
            if now != arrived {
                (arrived, since) = (now, Instant::now());
            } else if since.elapsed() > STALLED {
                lost = due - arrived;
            }
        }
        lost
    };
    let mut lost = 0;
    for _ in 0..3 {
        lost = batch(&running);
    }
    let mut ours = || {
        let (start, mut n, before) = (Instant::now(), 0u64, lost);
        while start.elapsed() < time {
            lost = batch(&running);
            n += QUEUE / 2;
        }
        (n - (lost - before)) as f64 / start.elapsed().as_secs_f64()
    };
    let bare = FakeDaemon::new(std::env::temp_dir());
    let subscription = bare.bus().subscribe("*");
    let same = json!({"peer_node_id": 7, "state": "granted", "reason": "mutual"}).as_object().cloned();
    let baseline = || {
        let (start, mut n) = (Instant::now(), 0u64);
        while start.elapsed() < time {
            for _ in 0..QUEUE / 2 {
                bare.publish("trust.changed", same.clone());
            }
            for _ in 0..QUEUE / 2 {
                black_box(subscription.recv(STALLED).unwrap().expect("an event of ours in time"));
            }
            n += QUEUE / 2;
        }
        n as f64 / start.elapsed().as_secs_f64()
    };
    let result = race(&mut ours, baseline);
    drop(held);
    let mut metric = higher(
        "webhook_events",
        "events from the bus to the webhook's queue, each turned into its body",
        "events/s",
        result,
        "the same events read from the bus by a subscriber in the host",
    );
    metric.more.push(("lost", json!(lost)));
    vec![metric]
}
