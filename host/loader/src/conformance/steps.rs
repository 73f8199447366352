//! The steps themselves. A step gives its verdict and a sentence, or an error after which nothing further can be tried.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use plugin_abi::host::{Fit, Module, Supervisor};
use plugin_abi::registry::shutdown_one;
use plugin_abi::test_kit::{FakeDaemon, SLEEP_THREAD};
use plugin_abi::{Daemon, Direction, Error, ErrorKind, Plugin, PolicyEvent, PortGate};
use serde_json::{Map, Value, json};

use super::hostile::Hostile;
use super::{Settings, Verdict};
use crate::inspect::{Inspection, inspect, tables};
use crate::open::{OpenVia, Opened, open};
use crate::scan::{PluginFile, read_file};

type Outcome = Result<(Verdict, String), String>;

/// The two symbols that `export_plugin!` makes.
const SYMBOLS: [&str; 2] = ["PILOT_PLUGIN_HEADER", "PILOT_PLUGIN_ROOT"];
/// How long what ends by itself after a shutdown may take: threads that are just returning, say.
const SETTLE: Duration = Duration::from_secs(2);
/// How long one stranger waits for a plugin's answer.
const STRANGER: Duration = Duration::from_millis(500);

/// What the steps hand to each other.
pub(super) struct Bench<'a> {
    path: PathBuf,
    settings: &'a Settings,
    file: Option<PluginFile>,
    inspection: Option<Inspection>,
    opened: Option<Opened>,
    running: Option<Running>,
    threads: BTreeMap<u32, String>,
}

/// An instance with its daemon.
struct Running {
    plugin: Arc<dyn Plugin>,
    daemon: Arc<FakeDaemon>,
    supervisor: Arc<Supervisor>,
}

impl<'a> Bench<'a> {
    pub(super) fn new(path: &Path, settings: &'a Settings) -> Self {
        Bench {
            path: path.to_owned(),
            settings,
            file: None,
            inspection: None,
            opened: None,
            running: None,
            threads: threads(),
        }
    }

    pub(super) fn run(&mut self, step: &str) -> Outcome {
        match step {
            "file" => self.file(),
            "header" => self.header(),
            "exports" => self.exports(),
            "layout" => self.layout(),
            "create" => self.create(),
            "init" => self.init(),
            "work" => self.work(),
            "logs" => self.logs(),
            "shutdown" => self.shutdown(),
            "leftovers" => self.leftovers(),
            "containment" => self.containment(),
            "reload" => self.reload(),
            other => Err(format!("no step {other}")),
        }
    }

    fn file(&mut self) -> Outcome {
        let file = read_file(&self.path).map_err(|r| format!("{} [{}]; {}", r.reason, r.code, r.remedy))?;
        let text = format!("{} bytes", file.bytes.len());
        self.file = Some(file);
        pass(text)
    }

    fn header(&mut self) -> Outcome {
        let found = inspect(self.read()?).map_err(|r| format!("{} [{}]; {}", r.reason, r.code, r.remedy))?;
        let h = &found.header;
        let text = format!("{} {}, treaty {}.{}, {}", h.name, h.version, h.abi_major, h.abi_minor, h.rustc);
        self.inspection = Some(found);
        pass(text)
    }

    fn exports(&mut self) -> Outcome {
        let found = tables(self.read()?).map_err(|r| r.reason)?;
        let extra: Vec<_> =
            found.exports.iter().filter(|e| !SYMBOLS.contains(&e.as_str())).cloned().collect();
        match SYMBOLS.iter().find(|s| !found.exports.iter().any(|e| e == **s)) {
            Some(missing) => Err(format!("the symbol {missing} is not exported")),
            None if extra.is_empty() => pass("exactly the two that a plugin needs"),
            None => note(format!("more than the two that a plugin needs: {}", extra.join(", "))),
        }
    }

    fn layout(&mut self) -> Outcome {
        let opened = self.open()?;
        let fit = opened.module.fit();
        self.opened = Some(opened);
        pass(match fit {
            Fit::Same => "the same interface on both sides",
            Fit::PluginNewer => "the plugin's interface is newer and begins with this host's",
            Fit::HostNewer => "this host's interface is newer and begins with the plugin's",
        })
    }

    fn create(&mut self) -> Outcome {
        drop(self.instance()?.0);
        let (plugin, supervisor) = self.instance()?;
        let daemon = self.daemon();
        self.running = Some(Running { plugin, daemon, supervisor });
        pass("")
    }

    fn init(&mut self) -> Outcome {
        let Running { plugin, daemon, .. } = self.running()?;
        let took = init_within(plugin, daemon.clone(), self.settings.deadline)?;
        pass(format!("returned after {}", millis(took)))
    }

    fn work(&mut self) -> Outcome {
        let Running { daemon, supervisor, .. } = self.running()?;
        daemon.set_node_id(4711);
        for (topic, payload) in events() {
            daemon.publish(topic, payload);
        }
        let ports = daemon.bound_ports();
        for &port in &ports {
            strangers(daemon, port);
        }
        let asked = ask_services(daemon);
        daemon.publish("agent.heartbeat", None);
        let mut faults = daemon.faults();
        faults.extend(supervisor.ledger().into_iter().map(|f| (f.op, f.message)));
        let told = format!(
            "{} events; ports {ports:?}: noise, silence and half a message on each; {asked} questions to its services",
            events().count()
        );
        match faults.first() {
            None => pass(told),
            Some((op, text)) => {
                Ok((Verdict::Fail, format!("{} fault(s), the first in {op}: {text}", faults.len())))
            }
        }
    }

    fn logs(&mut self) -> Outcome {
        let daemon = &self.running()?.daemon;
        let lines = daemon.logs();
        // From here on the host keeps errors only; what the bridge sends in spite of that is counted by `reload`.
        match lines.iter().find(|l| !(1..=5).contains(&l.level)) {
            Some(line) => Ok((Verdict::Fail, format!("a line of level {}: {}", line.level, line.message))),
            None if lines.is_empty() => {
                note("it has logged nothing so far, so the bridge could not be seen at work")
            }
            None => pass(format!("{} line(s), the first: {}", lines.len(), clip(&lines[0].message))),
        }
    }

    fn shutdown(&mut self) -> Outcome {
        let Running { plugin, .. } = self.running()?;
        let started = Instant::now();
        shutdown_one("check", Arc::clone(plugin), self.settings.deadline).map_err(|e| said(&e))?;
        pass(format!("returned after {}", millis(started.elapsed())))
    }

    fn leftovers(&mut self) -> Outcome {
        let Some(Running { plugin, daemon, supervisor }) = self.running.take() else {
            return Err("nothing was started".into());
        };
        drop((plugin, supervisor));
        let left = self.left_behind(&daemon);
        if left.is_empty() { pass("nothing") } else { Ok((Verdict::Fail, left.join("; "))) }
    }

    fn containment(&mut self) -> Outcome {
        let (plugin, supervisor) = self.instance()?;
        let started = init_within(&plugin, Arc::new(Hostile), self.settings.deadline);
        let outcome = match started {
            Err(text) if text == LATE => return Err(format!("init: {text}")),
            Err(text) => format!("its init refused: {}", clip(&text)),
            Ok(_) => {
                shutdown_one("check", plugin, self.settings.deadline).map_err(|e| said(&e))?;
                "started and stopped".to_owned()
            }
        };
        match supervisor.failure() {
            None => pass(outcome),
            Some(why) => note(format!("{outcome}; it panicked, which was contained: {}", clip(why))),
        }
    }

    fn reload(&mut self) -> Outcome {
        let mut memory = Vec::new();
        for round in 1..=self.settings.reloads {
            let told = |e: String| format!("round {round}: {e}");
            let opened = self.open().map_err(told)?;
            let (plugin, _supervisor) = create(&opened.module).map_err(told)?;
            let daemon = self.daemon();
            daemon.set_log_level(1);
            init_within(&plugin, daemon.clone(), self.settings.deadline).map_err(told)?;
            shutdown_one("check", Arc::clone(&plugin), self.settings.deadline).map_err(|e| told(said(&e)))?;
            drop(plugin);
            let loud = daemon.logs().into_iter().find(|l| l.level > 1);
            if let Some(line) = loud {
                let text = format!(
                    "the host keeps errors only, but got a line of level {}: {}",
                    line.level,
                    clip(&line.message)
                );
                return Ok((Verdict::Fail, text));
            }
            let left = self.left_behind(&daemon);
            if !left.is_empty() {
                return Ok((Verdict::Fail, told(left.join("; "))));
            }
            memory.push(resident_kib());
        }
        // The first rounds fill the allocator's pools; what counts is what each further copy costs.
        let growth = match memory.as_slice() {
            [_, second, .., last] if memory.len() > 2 => {
                format!(
                    "; each mapped copy keeps about {} KiB",
                    last.saturating_sub(*second) / (memory.len() as u64 - 2)
                )
            }
            _ => String::new(),
        };
        pass(format!("{} times, nothing left behind{growth}", self.settings.reloads))
    }

    // ---- tools

    fn read(&self) -> Result<&PluginFile, String> {
        self.file.as_ref().ok_or_else(|| "not read".to_owned())
    }

    fn running(&self) -> Result<&Running, String> {
        self.running.as_ref().ok_or_else(|| "not started".to_owned())
    }

    fn open(&self) -> Result<Opened, String> {
        let inspection = self.inspection.as_ref().ok_or("not inspected")?;
        open(self.read()?, inspection, &OpenVia::default())
            .map_err(|r| format!("{} [{}]; {}", r.reason, r.code, r.remedy))
    }

    fn instance(&self) -> Result<(Arc<dyn Plugin>, Arc<Supervisor>), String> {
        create(&self.opened.as_ref().ok_or("not opened")?.module)
    }

    fn daemon(&self) -> Arc<FakeDaemon> {
        let daemon = FakeDaemon::new(&self.settings.state_dir);
        daemon.set_node_id(0);
        daemon.set_config(self.settings.config.clone());
        daemon.set_identity_path(Some(self.settings.state_dir.join("identity.json")));
        daemon.set_identity([9; 32], |_| [7; 64]);
        daemon
    }

    /// What is still there after a shutdown, once it has had time to go.
    fn left_behind(&self, daemon: &Arc<FakeDaemon>) -> Vec<String> {
        // The host drops a stopped plugin's services; they may hold its last handles.
        daemon.forget_services();
        let deadline = Instant::now() + SETTLE;
        loop {
            let mut left = Vec::new();
            let threads: Vec<String> = threads()
                .into_iter()
                .filter(|(id, name)| !self.threads.contains_key(id) && name != SLEEP_THREAD)
                .map(|(_, name)| name)
                .collect();
            if !threads.is_empty() {
                left.push(format!("{} thread(s): {}", threads.len(), threads.join(", ")));
            }
            if !daemon.bound_ports().is_empty() {
                left.push(format!("bound ports: {:?}", daemon.bound_ports()));
            }
            if daemon.subscriptions() > 0 {
                left.push(format!("{} subscription(s) not cancelled", daemon.subscriptions()));
            }
            if Arc::strong_count(daemon) > 1 {
                left.push(format!("{} reference(s) to the daemon kept", Arc::strong_count(daemon) - 1));
            }
            if left.is_empty() || Instant::now() > deadline {
                return left;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// What a late call says.
const LATE: &str = "did not return within its deadline";

fn pass(text: impl Into<String>) -> Outcome {
    Ok((Verdict::Pass, text.into()))
}

fn note(text: impl Into<String>) -> Outcome {
    Ok((Verdict::Note, text.into()))
}

fn said(error: &Error) -> String {
    if error.kind() == ErrorKind::TimedOut { LATE.to_owned() } else { error.to_string() }
}

fn clip(text: &str) -> String {
    match text.char_indices().nth(120) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}

fn millis(took: Duration) -> String {
    format!("{:.1} ms", took.as_secs_f64() * 1e3)
}

fn create(module: &Module) -> Result<(Arc<dyn Plugin>, Arc<Supervisor>), String> {
    let supervisor = Supervisor::new(module.name());
    let plugin =
        module.create(env!("CARGO_PKG_VERSION"), Arc::clone(&supervisor)).map_err(|e| e.to_string())?;
    Ok((plugin.into(), supervisor))
}

/// One `init` on a thread of its own, which is left behind when it is late.
fn init_within(
    plugin: &Arc<dyn Plugin>,
    daemon: Arc<dyn Daemon>,
    limit: Duration,
) -> Result<Duration, String> {
    let (done, wait) = mpsc::sync_channel(1);
    let plugin = Arc::clone(plugin);
    let started = Instant::now();
    let thread = std::thread::Builder::new().name("check-init".into()).spawn(move || {
        let result = plugin.init(daemon);
        drop(plugin);
        let _ = done.send(result);
    });
    let thread = thread.map_err(|e| format!("no thread to run it on: {e}"))?;
    match wait.recv_timeout(limit) {
        Ok(result) => {
            let took = started.elapsed();
            let _ = thread.join();
            result.map(|()| took).map_err(|e| e.to_string())
        }
        Err(_) => Err(LATE.to_owned()),
    }
}

/// Events as a busy daemon publishes them, and some that no daemon should.
fn events() -> impl Iterator<Item = (&'static str, Option<Map<String, Value>>)> {
    let with = |payload: Value| match payload {
        Value::Object(map) => Some(map),
        _ => None,
    };
    [
        (
            "agent.registered",
            with(json!({ "address": "0:0000.0000.1267", "endpoint": "127.0.0.1:9", "node_id": 4711 })),
        ),
        ("agent.heartbeat", with(json!({ "address": "0:0000.0000.1267", "node_id": 4711 }))),
        ("network.joined", with(json!({ "network_id": 7, "member_tags": ["a", "b"] }))),
        (
            "tunnel.established",
            with(json!({ "peer_node_id": 9, "authenticated": true, "relay": false, "rekeyed": false })),
        ),
        ("trust.changed", with(json!({ "peer_node_id": 9, "state": "granted", "reason": "mutual" }))),
        (
            "conn.established",
            with(
                json!({ "src_addr": "0:0000.0000.0009", "src_port": 50_000, "dst_port": 1001, "conn_id": 3 }),
            ),
        ),
        ("daemon.odd", None),
        ("daemon.odd", with(json!({}))),
        ("", with(json!({ "peer_node_id": "not a number", "nested": { "deep": [[[null]]] } }))),
        ("trust.changed", with(json!({ "peer_node_id": -1, "state": 7, "reason": "\u{0}\u{ffff}" }))),
        ("x.y.z", with(json!({ "long": "x".repeat(100_000) }))),
    ]
    .into_iter()
}

/// Three visitors who do not speak the port's protocol.
fn strangers(daemon: &FakeDaemon, port: u16) {
    let noise: Vec<u8> = (0..4096_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for sent in [noise.as_slice(), &[], &[0, 0, 0, 4, 0, 0]] {
        let Ok(stream) = daemon.connect(port) else { return };
        let _ = stream.set_read_timeout(Some(STRANGER));
        let _ = if sent.is_empty() { Ok(()) } else { stream.write(sent) };
        let _ = stream.read(&mut [0; 256]);
        stream.close();
    }
}

/// Asks every service that the plugin registered what a host asks; the answers do not matter, only that they come.
fn ask_services(daemon: &FakeDaemon) -> u32 {
    let mut asked = 0;
    if let Some(checker) = daemon.trust_checker() {
        for node in [0, 9, u32::MAX] {
            checker.is_trusted(node);
            asked += 1;
        }
    }
    if let Some(service) = daemon.handshake_service() {
        for node in [0, 9, u32::MAX] {
            service.is_trusted(node);
            service.is_trusted_with_key(node, "not base64");
            asked += 2;
        }
        service.trusted_peers();
        service.pending_requests();
        service.pending_count();
        service.wait_for_trust(9, Duration::ZERO);
        asked += 4;
    }
    if let Some(manager) = daemon.policy_manager() {
        let _ = manager.start(7, "this is no policy");
        let _ = manager.load_persisted();
        asked += 2;
        for runner in manager.all() {
            runner.evaluate_port_gate(&PortGate {
                event: PolicyEvent::Connect,
                port: 1001,
                peer: 9,
                payload_size: 0,
                direction: Direction::In,
                local_tags: vec!["a".into()],
                node_info_tags: Vec::new(),
            });
            runner.status();
            asked += 2;
        }
    }
    if let Some(manager) = daemon.webhook_manager() {
        let _ = manager.set_url("not a url");
        let _ = manager.set_url("");
        manager.url();
        manager.stats();
        asked += 4;
    }
    asked
}

/// The threads of this process, by id.
fn threads() -> BTreeMap<u32, String> {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return BTreeMap::new() };
    tasks
        .flatten()
        .filter_map(|task| {
            let id = task.file_name().to_str()?.parse().ok()?;
            let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
            Some((id, name.trim().to_owned()))
        })
        .collect()
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
