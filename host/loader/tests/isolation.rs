//! A plugin in a process of its own: that it can do everything, and that nothing it does costs the host more than that
//! process. The child is this test program again, told by its environment to run [`child_entry`].

#![allow(clippy::unwrap_used)] // the helpers are test code too, which clippy only knows of test functions

mod rack;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pilot_loader::child::{
    AfterCrash, ChildLimits, ChildPlugin, ChildSpec, ChildState, ChildStatus, ChildWatch, Crash, Program,
    Restarts, child_main,
};
use pilot_loader::ledger::{Kind, Limits};
use pilot_loader::{Children, Isolation, Ledger, OpenVia, PluginInfo, PluginState};
use plugin_abi::test_kit::{FakeDaemon, stream_pair};
use plugin_abi::{Addr, ConnectionInfo, Daemon, Direction, Error, ErrorKind, Plugin, PolicyEvent, PortGate};
use rack::{Rack, library};
use serde_json::{Map, Value, json};

const PATIENCE: Duration = Duration::from_secs(60);
const CHILD: &str = "PILOT_LOADER_TEST_CHILD";

/// Not a test of its own: the child's whole life, when the environment says so.
#[test]
fn child_entry() {
    if std::env::var_os(CHILD).is_some() {
        panic!("{}", child_main());
    }
}

fn program() -> Program {
    Program {
        path: std::env::current_exe().unwrap(),
        args: ["child_entry", "--exact", "--nocapture", "--quiet"].map(Into::into).to_vec(),
        env: vec![(CHILD.into(), "1".into())],
    }
}

/// Restarts soon and never gives up, so that tests wait for what happens and not for pauses.
fn limits() -> ChildLimits {
    ChildLimits {
        decision: Duration::from_secs(20),
        init: PATIENCE,
        create: PATIENCE,
        silence: PATIENCE,
        heartbeat: Duration::from_millis(100),
        restarts: Restarts {
            first: Duration::from_millis(1),
            longest: Duration::from_millis(1),
            quarantine: 0,
            ..Restarts::default()
        },
        ..ChildLimits::default()
    }
}

#[derive(Default)]
struct Watch(Mutex<Vec<Crash>>);

impl ChildWatch for Watch {
    fn crashed(&self, crash: &Crash, planned: AfterCrash) -> AfterCrash {
        self.0.lock().unwrap().push(crash.clone());
        planned
    }
}

struct Bench {
    plugin: Arc<ChildPlugin>,
    daemon: Arc<FakeDaemon>,
    watch: Arc<Watch>,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn new(config: Value, limits: ChildLimits) -> Result<Bench, Error> {
        Self::with("isolated", config, limits)
    }

    fn with(example: &str, config: Value, limits: ChildLimits) -> Result<Bench, Error> {
        let dir = tempfile::tempdir().unwrap();
        let daemon = FakeDaemon::new(dir.path());
        daemon.set_config(config);
        let path = library(example);
        let watch = Arc::<Watch>::default();
        let spec = ChildSpec {
            name: example.to_owned(),
            program: program(),
            open_via: OpenVia::Memory,
            host_version: "test".into(),
            limits,
            path: path.clone(),
        };
        let plugin = Arc::new(ChildPlugin::create(spec, &std::fs::read(path).unwrap(), watch.clone())?);
        plugin.init(daemon.clone())?;
        Ok(Bench { plugin, daemon, watch, _dir: dir })
    }

    fn running(&self) {
        self.wait("running", |s| s.state == ChildState::Running);
    }

    fn wait(&self, what: &str, condition: impl Fn(&ChildStatus) -> bool) {
        assert!(self.plugin.wait_until(PATIENCE, condition), "not {what}: {:?}", self.plugin.status());
    }

    /// Waits for the `n`-th crash and the process after it; the crash's cause.
    fn crash(&self, n: u64) -> String {
        self.wait("restarted", |s| s.crashes >= n && s.state == ChildState::Running);
        let status = self.plugin.status();
        assert_eq!((status.crashes, status.restarts), (n, n), "{status:?}");
        self.watch.0.lock().unwrap().last().unwrap().cause.clone()
    }

    fn echo_works(&self) {
        let stream = self.daemon.connect(7007).unwrap();
        stream.write(b"still there").unwrap();
        let mut got = [0; 11];
        let mut n = 0;
        while n < got.len() {
            match stream.read(&mut got[n..]).unwrap() {
                0 => break,
                more => n += more,
            }
        }
        assert_eq!(&got[..n], b"still there");
        stream.close();
    }

    fn stop(self) {
        self.plugin.shutdown(PATIENCE).unwrap();
        assert_eq!(self.plugin.status().state, ChildState::Stopped);
        assert!(self.daemon.bound_ports().is_empty() && self.daemon.subscriptions() == 0);
    }
}

fn gate(port: u16, peer: u32) -> PortGate {
    PortGate {
        event: PolicyEvent::Connect,
        port,
        peer,
        payload_size: 0,
        direction: Direction::In,
        local_tags: vec!["open".into()],
        node_info_tags: Vec::new(),
    }
}

#[test]
fn everything_works_over_the_socket() {
    let bench = Bench::new(json!({"key": [1, 2]}), limits()).unwrap();
    let daemon = &bench.daemon;
    daemon.set_node_id(77);
    daemon.set_identity([7; 32], |message| [u8::try_from(message.len()).unwrap(); 64]);
    daemon.set_admin_token("secret");
    daemon.on_registry_call(|op, params| {
        let mut answer = params.clone();
        answer.insert("op".into(), op.into());
        Ok(answer)
    });
    let remotes = Mutex::new(Vec::new());
    daemon.on_dial(move |addr, port| {
        if addr.node == 8 {
            return Err(Error::new(ErrorKind::Refused, "connection refused"));
        }
        let info =
            ConnectionInfo { local: Addr::backbone(77), local_port: 50_000, remote: addr, remote_port: port };
        let (ours, theirs) = stream_pair(info);
        theirs.write(b"world").unwrap();
        remotes.lock().unwrap().push(theirs);
        Ok(ours)
    });
    daemon.wait_for_event("isolated.awake").unwrap();
    daemon.publish("test.calls", None);
    let seen = Value::Object(daemon.wait_for_event("calls.done").unwrap().payload.unwrap());
    let state_dir = daemon.state_dir();
    assert_eq!(
        seen,
        json!({
            "treaty": daemon.treaty(), "node_id": 77, "addr": "0:0000.0000.004D", "identity": vec![7; 32], "identity_path": null,
            "signature": vec![7; 8], "admin_token": "secret", "auto": false,
            "dial": {"Ok": {"info": format!("{:?}", ConnectionInfo { local: Addr::backbone(77), local_port: 50_000,
                                            remote: Addr::backbone(9), remote_port: 7 }),
                     "said": {"Ok": 5}, "late": {"Err": "pilot: read deadline exceeded"}, "text": "world"}},
            "dial_async": {"Err": "connection refused"},
            "datagram": {"Ok": null}, "bind_taken": {"Err": "port 7007 already bound"},
            "registry": {"Ok": {"n": 1, "op": "echo"}},
            "nodes": {"Ok": {"network_id": 7, "admin_token": "token", "op": "list_nodes"}},
            "checker": "first", "service": 0, "trusted": 1, "revoke": {"Err": "node 5 was not trusted"},
            "request": {"Err": "not to 5: why"}, "version": "v0.0.0-test", "state_dir": state_dir,
            "log_enabled": [true, true],
        })
    );
    assert_eq!(daemon.member_tags(7).unwrap(), ["a", "b"]);
    assert_eq!((daemon.removed_peers(), daemon.reply_windows()), (vec![10], vec![9]));
    assert_eq!(daemon.datagrams()[0].data, b"data");
    assert_eq!(daemon.wait_for_fault("calls").unwrap(), "a fault that was handled");
    assert_eq!(daemon.webhook_manager().unwrap().url(), "http://example.org/");
    assert_eq!(daemon.webhook_manager().unwrap().stats().dropped, 2);

    // Logs, its own and the process's.
    let line = daemon.wait_for_log("isolated plugin starts").unwrap();
    assert_eq!(line.fields["pid"].as_u64(), bench.plugin.status().pid.map(u64::from));
    daemon.wait_for_log("init in process").unwrap();

    // Events in order, with payload.
    for i in 0..2000 {
        let mut payload = Map::new();
        payload.insert("i".into(), i.into());
        daemon.publish("test.x", Some(payload));
        if i % 500 == 499 {
            daemon.wait_for_nth_event("echo.x", i + 1).unwrap();
        }
    }
    let echoed: Vec<_> = daemon.events().into_iter().filter(|e| e.topic == "echo.x").collect();
    assert!(echoed.iter().enumerate().all(|(i, e)| e.payload.as_ref().unwrap()["i"] == i));

    // Policies.
    let policies = daemon.policy_manager().unwrap();
    assert!(policies.all().is_empty() && policies.get(7).is_none());
    assert_eq!(policies.start(7, "bad").unwrap_err().to_string(), "parse policy: bad");
    policies.start(7, "{}").unwrap();
    let runner = policies.get(7).unwrap();
    assert_eq!((runner.network_id(), runner.policy_json().as_str()), (7, "{}"));
    assert!(runner.evaluate_port_gate(&gate(80, 1)) && !runner.evaluate_port_gate(&gate(22, 1)));
    assert!(runner.evaluate_port_gate(&gate(3, 77)), "a decision that asks the host");
    assert!(runner.has_member(5) && !runner.has_member(6));
    assert_eq!(Value::Object(runner.status()), json!({"network": 7}));
    assert_eq!(runner.peer_list(), [json!({"node_id": 5})]);
    assert_eq!(runner.force_cycle().unwrap_err().to_string(), "nothing to cycle");
    assert_eq!((runner.reconcile_now(), policies.load_persisted().unwrap()), (Ok(1), vec![3, 4]));
    let told = policies.explain("{}", "dial", json!({"port": 1}).as_object().unwrap()).unwrap();
    assert_eq!(Value::Object(told), json!({"document": "{}", "event": "dial", "context": {"port": 1}}));
    runner.evaluate_actions("join", json!({"peer": 5}).as_object().unwrap());
    assert_eq!(daemon.wait_for_event("policy.join").unwrap().payload.unwrap()["peer"], 5);
    policies.stop(7);
    assert!(policies.all().is_empty() && !runner.evaluate_port_gate(&gate(80, 1)), "a stopped policy denies");

    // Trust.
    let trust = daemon.handshake_service().unwrap();
    assert!(
        trust.is_trusted(5) && trust.is_trusted_with_key(5, "key") && !trust.is_trusted_with_key(5, "other")
    );
    assert!(trust.wait_for_trust(5, Duration::from_millis(1)) && trust.approve(1).is_ok());
    assert_eq!(trust.trusted_peers()[0].approved_at, -1);
    assert_eq!(daemon.trust_checker().unwrap().is_trusted(1).as_deref(), Some("first"));

    bench.echo_works();
    bench.stop();
}

#[test]
fn a_stream_carries_some_mebibytes_both_ways() {
    let bench = Bench::new(json!({}), limits()).unwrap();
    let stream = bench.daemon.connect(7007).unwrap();
    let data: Vec<u8> = (0..4u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (writer, sent) = (Arc::clone(&stream), data.clone());
    let start = Instant::now();
    let writer = std::thread::spawn(move || sent.chunks(64 << 10).try_for_each(|c| writer.write(c)).unwrap());
    let mut got = Vec::with_capacity(data.len());
    let mut buffer = vec![0; 64 << 10];
    while got.len() < data.len() {
        let n = stream.read(&mut buffer).unwrap();
        assert_ne!(n, 0);
        got.extend_from_slice(&buffer[..n]);
    }
    writer.join().unwrap();
    assert!(got == data);
    println!("echo of {} MiB through a child: {:?}", data.len() >> 20, start.elapsed());
    bench.stop();
}

#[test]
fn a_call_is_a_round_trip() {
    let daemon = FakeDaemon::new(std::env::temp_dir());
    let plugin = ChildPlugin::start_file(program(), &library("isolated"), daemon.clone()).unwrap();
    let policies = daemon.policy_manager().unwrap();
    policies.start(7, "{}").unwrap();
    let runner = policies.get(7).unwrap();
    let median = |gate: &PortGate| {
        let mut times: Vec<_> = (0..2000)
            .map(|_| {
                let start = Instant::now();
                assert!(runner.evaluate_port_gate(gate));
                start.elapsed()
            })
            .collect();
        times.sort_unstable();
        times[times.len() / 2]
    };
    let (plain, asking) = (median(&gate(80, 1)), median(&gate(3, daemon.node_id())));
    println!("gate in a child: median {plain:?}; one that asks node_id: {asking:?}");
    plugin.shutdown(PATIENCE).unwrap();
}

#[test]
fn every_way_to_die_ends_the_process_alone() {
    let bench = Bench::new(json!({}), limits()).unwrap();
    let other = Bench::new(json!({}), limits()).unwrap();
    let neighbour = other.daemon.connect(7007).unwrap();
    let checker = bench.daemon.trust_checker().unwrap();
    let policies = bench.daemon.policy_manager().unwrap();
    policies.start(7, "{}").unwrap();
    let runner = policies.get(7).unwrap();

    let stream = bench.daemon.connect(7007).unwrap();
    stream.write(b"x").unwrap();
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 1);
    assert_eq!(checker.is_trusted(666), None);
    assert_eq!(bench.crash(1), "killed by SIGSEGV");
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0, "streams of a dead plugin are closed");

    assert_eq!(checker.is_trusted(667), None);
    assert_eq!(bench.crash(2), "killed by SIGABRT");
    assert_eq!(checker.is_trusted(668), None);
    assert_eq!(bench.crash(3), "exited with 0");
    assert!(!runner.evaluate_port_gate(&gate(2, 1)), "a gate that dies denies");
    assert_eq!(bench.crash(4), "killed by SIGABRT");
    bench.daemon.publish("test.do.exit3", None);
    assert_eq!(bench.crash(5), "exited with 3");
    // In its own thread a panic is contained; in an answer to the host it ends the process.
    assert_eq!(checker.is_trusted(670), None);
    assert_eq!(bench.crash(6), "panicked: TrustChecker.is_trusted panicked: as asked");
    assert!(bench.daemon.wait_for_fault("TrustChecker.is_trusted").unwrap().contains("as asked"));

    // The old handles lead to the new process, and the policy was restored.
    assert_eq!(checker.is_trusted(1).as_deref(), Some("first"));
    assert!(runner.evaluate_port_gate(&gate(80, 1)) && !runner.evaluate_port_gate(&gate(22, 1)));
    bench.echo_works();
    // The neighbour noticed nothing.
    neighbour.write(b"y").unwrap();
    assert_eq!(neighbour.read(&mut [0; 8]).unwrap(), 1);
    assert_eq!(other.plugin.status().crashes, 0);
    neighbour.close();
    other.stop();
    bench.stop();
}

#[test]
fn a_gate_that_never_answers_denies_in_time_and_its_process_is_ended() {
    let quick =
        ChildLimits { decision: Duration::from_millis(300), grace: Duration::from_millis(300), ..limits() };
    let bench = Bench::new(json!({}), quick).unwrap();
    let policies = bench.daemon.policy_manager().unwrap();
    policies.start(7, "{}").unwrap();
    let runner = policies.get(7).unwrap();
    let start = Instant::now();
    assert!(!runner.evaluate_port_gate(&gate(1, 1)));
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert_eq!(bench.crash(1), "is stuck in evaluate_port_gate");
    assert_eq!(bench.plugin.status().late_calls, 1);
    bench.wait("allowed again", |_| runner.evaluate_port_gate(&gate(80, 1)));
    bench.stop();
}

#[test]
fn without_a_process_everything_is_denied_at_once() {
    let limits = ChildLimits { restarts: Restarts { quarantine: 1, ..Restarts::default() }, ..limits() };
    let bench = Bench::new(json!({}), limits).unwrap();
    let policies = bench.daemon.policy_manager().unwrap();
    policies.start(7, "{}").unwrap();
    let trust = bench.daemon.handshake_service().unwrap();
    bench.daemon.publish("test.do.abort", None);
    bench.wait("quarantined", |s| s.state == ChildState::Quarantined);
    assert_eq!(bench.plugin.status().pid, None);
    assert!(bench.daemon.bound_ports().is_empty() && bench.daemon.subscriptions() == 0);
    let start = Instant::now();
    let runners = policies.all();
    assert_eq!(runners.len(), 1, "a network that had a policy still has one");
    assert!(runners[0].has_member(9) && !runners[0].evaluate_port_gate(&gate(80, 1)));
    assert!(!trust.is_trusted(5) && bench.daemon.trust_checker().unwrap().is_trusted(1).is_none());
    assert_eq!(trust.approve(5).unwrap_err().kind(), ErrorKind::Closed);
    assert!(start.elapsed() < Duration::from_secs(1));
    assert!(bench.plugin.lift());
    bench.running();
    assert!(trust.is_trusted(5) && runners[0].evaluate_port_gate(&gate(80, 1)) && !bench.plugin.lift());
    bench.stop();
}

#[test]
fn a_start_that_is_refused_stops_and_one_that_crashes_goes_on() {
    let refused = Bench::new(json!({"init": "fail"}), limits()).err().unwrap();
    assert_eq!((refused.kind(), refused.message()), (ErrorKind::Invalid, "this configuration is not for me"));
    let refused = Bench::new(json!({"init": "panic"}), limits()).err().unwrap();
    assert_eq!((refused.kind(), refused.message()), (ErrorKind::Panicked, "init panicked: as asked"));
    let refused = Bench::with("create_fails", json!({}), limits()).err().unwrap();
    assert!(!refused.message().is_empty());
    let refused = Bench::with("no_root", json!({}), limits()).err().unwrap();
    assert!(refused.message().contains("[no-root]"), "{refused}");

    for (how, cause) in [
        ("abort", "killed by SIGABRT in init"),
        ("exit", "exited with 0 in init"),
        ("segv", "killed by SIGSEGV in init"),
        ("loop", "did not come back from init in time"),
    ] {
        let restarts = Restarts { quarantine: 2, ..limits().restarts };
        let init = if how == "loop" { Duration::from_millis(300) } else { PATIENCE };
        let bench = Bench::new(json!({"init": how}), ChildLimits { restarts, init, ..limits() }).unwrap();
        bench.wait("quarantined", |s| s.state == ChildState::Quarantined);
        let causes: Vec<_> = bench.watch.0.lock().unwrap().iter().map(|c| c.cause.clone()).collect();
        assert_eq!(causes, [cause, cause]);
        bench.stop();
    }
    // One that only needs a second try gets it.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ready");
    let bench = Bench::new(json!({"crash_unless": file}), limits()).unwrap();
    bench.wait("trying", |s| s.crashes >= 2);
    std::fs::write(&file, b"").unwrap();
    bench.running();
    bench.echo_works();
    bench.stop();
}

#[test]
fn a_stopped_process_is_noticed_and_a_shutdown_never_hangs() {
    let quick = ChildLimits { silence: Duration::from_millis(500), ..limits() };
    let bench = Bench::new(json!({}), quick).unwrap();
    let pid = i32::try_from(bench.plugin.status().pid.unwrap()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    assert_eq!(bench.crash(1), "gave no sign of life for 500ms");
    bench.stop();

    for (how, error) in [
        ("loop", "deadline exceeded; its process was killed"),
        ("abort", "its process ended during shutdown"),
        ("panic", "shutdown panicked: as asked"),
    ] {
        let bench = Bench::new(json!({"shutdown": how}), limits()).unwrap();
        let limit = if how == "loop" { Duration::from_millis(300) } else { PATIENCE };
        assert_eq!(bench.plugin.shutdown(limit).unwrap_err().message(), error);
        assert_eq!(bench.plugin.status().state, ChildState::Stopped, "{how}");
        assert!(bench.daemon.bound_ports().is_empty());
    }
}

#[test]
fn a_flood_of_lines_is_dropped_and_counted() {
    let bench = Bench::new(json!({}), limits()).unwrap();
    bench.daemon.publish("test.flood", None);
    bench.daemon.wait_for_event("echo.flood").unwrap();
    bench.daemon.wait_for_log("log lines were dropped").unwrap();
    assert_eq!(bench.plugin.status().crashes, 0);
    // The level is the host's, from the next heartbeat on.
    bench.daemon.set_log_level(0);
    bench.stop();
}

#[test]
fn a_process_inherits_nothing_and_ends_with_its_host() {
    let bench = Bench::new(json!({}), limits()).unwrap();
    let pid = bench.plugin.status().pid.unwrap();
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let names: Vec<_> = environment
        .split(|b| *b == 0)
        .filter_map(|v| Some(String::from_utf8_lossy(v).split_once('=')?.0.to_owned()))
        .collect();
    assert!(names.contains(&CHILD.to_owned()) && !names.contains(&"PATH".to_owned()), "{names:?}");
    let links: Vec<_> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|e| std::fs::read_link(e.ok()?.path()).ok())
        .map(|p| p.to_string_lossy().into_owned())
        .collect();
    let strange = |l: &&String| {
        !["socket:", "pipe:", "/dev/null", "/memfd:pilot-plugin"].iter().any(|k| l.starts_with(k))
    };
    assert_eq!(links.iter().find(strange), None, "{links:?}");
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let group = stat.rsplit_once(") ").unwrap().1.split(' ').nth(2).unwrap().to_owned();
    assert_eq!(group, pid.to_string(), "a process group of its own");
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|l| l.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    // Dropped without a shutdown: the process goes as well.
    let Bench { plugin, .. } = bench;
    drop(plugin);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn memory_is_limited_on_demand() {
    let bench = Bench::new(json!({}), ChildLimits { address_space: Some(4 << 30), ..limits() }).unwrap();
    bench.echo_works();
    bench.daemon.publish("test.do.eat", None);
    assert_eq!(bench.crash(1), "killed by SIGABRT");
    bench.echo_works();
    bench.stop();
}

#[test]
fn a_hundred_crashes() {
    let limits = ChildLimits { restarts: Restarts { quarantine: 100, ..limits().restarts }, ..limits() };
    let bench = Bench::new(json!({}), limits).unwrap();
    let other = Bench::new(json!({}), self::limits()).unwrap();
    let neighbour = other.daemon.connect(7007).unwrap();
    let mut longest = Duration::ZERO;
    let checker = bench.daemon.trust_checker().unwrap();
    for n in 1..=100u64 {
        let start = Instant::now();
        if n % 2 == 0 {
            // A null pointer in the plugin's own code.
            assert_eq!(checker.is_trusted(666), None);
        } else {
            // From outside. The first of these may be spent on Rust's own handler, which looks for a stack overflow,
            // finds none, and steps aside.
            let pid = i32::try_from(bench.plugin.status().pid.unwrap()).unwrap();
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            bench.wait("killed", |s| {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::SEGV);
                s.crashes >= n
            });
        }
        if n == 100 {
            break;
        }
        assert_eq!(bench.crash(n), "killed by SIGSEGV");
        longest = longest.max(start.elapsed());
        neighbour.write(&[1]).unwrap();
        assert_eq!(neighbour.read(&mut [0; 8]).unwrap(), 1);
    }
    bench.wait("quarantined", |s| s.state == ChildState::Quarantined);
    assert_eq!(bench.plugin.status().crashes, 100);
    assert!(bench.watch.0.lock().unwrap().iter().all(|c| c.cause == "killed by SIGSEGV"));
    println!("longest of 99 restarts: {longest:?}");
    assert!(longest < Duration::from_secs(10), "even on a busy machine");
    assert!(bench.plugin.lift());
    bench.running();
    bench.echo_works();
    assert_eq!(other.plugin.status().crashes, 0);
    neighbour.close();
    other.stop();
    bench.stop();
}

#[test]
fn the_set_keeps_the_books_of_a_process_and_quarantines_it() {
    let limits = Limits { quarantine_after: 3, ..Limits::default() };
    let rack = Rack::new().put("isolated", "isolated.so").put("good", "good.so").configure(|config| {
        config.isolation.by_name.insert("isolated".into(), Isolation::Process);
        config.children =
            Children { program: Some(program()), limits: self::limits(), ..Children::default() };
        config.ledger = Arc::new(Ledger::in_memory(limits));
        config.init_timeout = PATIENCE;
    });
    let loaded = rack.load().unwrap();
    let info = || loaded.plugin("isolated").unwrap();
    let wait = |what: &str, condition: &dyn Fn(&PluginInfo) -> bool| {
        let end = Instant::now() + PATIENCE;
        while !condition(&info()) {
            assert!(Instant::now() < end, "not {what}: {:?}", info());
            std::thread::park_timeout(Duration::from_millis(5));
        }
    };
    let pid = || info().child.and_then(|c| c.pid);
    assert_eq!((info().isolation, info().state), (Isolation::Process, PluginState::Running));
    assert_ne!(pid().unwrap(), std::process::id());
    assert_eq!(loaded.plugin("good").unwrap().child, None);

    for crashes in 1..=3 {
        rack.daemon("isolated").publish("test.do.segv", None);
        wait("crashed", &|i| i.counters.crashes == crashes);
        if crashes < 3 {
            wait("restarted", &|i| i.state == PluginState::Running);
        }
    }
    wait("quarantined", &|i| matches!(i.state, PluginState::Quarantined(_)) && i.child.is_none());
    let recent = loaded.ledger().recent("isolated");
    assert!(
        recent.iter().all(|e| e.kind == Kind::Crash && e.text.contains("killed by SIGSEGV")),
        "{recent:?}"
    );
    assert_eq!(loaded.plugin("good").unwrap().state, PluginState::Running);
    assert_eq!(loaded.start("isolated").unwrap_err().code(), "quarantined");
    loaded.lift("isolated").unwrap();
    loaded.start("isolated").unwrap();
    assert_eq!((info().state, info().starts, info().counters.crashes), (PluginState::Running, 2, 3));
    let before = pid();
    loaded.reload("isolated").unwrap();
    assert!(pid().is_some() && pid() != before);
    // A panic is a panic, and ends the process as well.
    assert_eq!(rack.daemon("isolated").trust_checker().unwrap().is_trusted(670), None);
    wait("restarted", &|i| i.child.as_ref().is_some_and(|c| c.restarts == 1 && c.pid.is_some()));
    wait("running", &|i| i.state == PluginState::Running);
    assert_eq!((info().counters.panics, info().counters.crashes, info().faults), (1, 3, 1));
    loaded.shutdown(PATIENCE).into_result().unwrap();
    assert_eq!(info().state, PluginState::Stopped);
}
