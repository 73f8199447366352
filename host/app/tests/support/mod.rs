//! Real processes for tests: a rendezvous and hosts on loopback, each in a directory of its own, driven by `pilotctl`.
//! Waits for log lines and conditions, never for a time to pass; everything dies with its handle.
#![allow(dead_code)] // each test file uses its own part
#![allow(clippy::unwrap_used, clippy::print_stdout)] // this is test code; a failure shows its place and the log

use std::io::{BufRead, BufReader, Read, Write};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde_json::Value;

pub mod cluster;
#[path = "../../../loader/tests/nested_cargo/mod.rs"]
pub mod nested_cargo;

/// Longest any single condition may take; generous, because a busy machine is not a failure.
pub const PATIENCE: Duration = Duration::from_secs(60);

const HOST: &str = env!("CARGO_BIN_EXE_pilot-host");
pub const CTL: &str = env!("CARGO_BIN_EXE_pilotctl");

/// A directory with a short path (socket paths are limited), removed with the handle.
pub fn temp_dir() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("pilot-t").tempdir_in("/tmp").unwrap()
}

fn target_dir() -> PathBuf {
    Path::new(HOST).ancestors().nth(2).unwrap().to_owned()
}

/// Builds targets of the workspace as this test program was built (a no-op when they are fresh) and returns where.
fn built(targets: &[&str]) -> &'static Path {
    let profile_dir = Path::new(HOST).parent().unwrap();
    let mut cargo = nested_cargo::cargo();
    cargo
        .args(nested_cargo::WORKSPACE_LIBRARIES)
        .args([env!("CARGO_CRATE_NAME"), "--target-dir"])
        .arg(target_dir())
        .args(targets);
    if profile_dir.ends_with("release") {
        cargo.arg("--release");
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    assert!(cargo.current_dir(workspace).status().unwrap().success(), "building {targets:?} failed");
    profile_dir
}

/// Where the libraries of the four plugins are.
fn built_plugins() -> &'static Path {
    static DIR: OnceLock<&Path> = OnceLock::new();
    DIR.get_or_init(|| built(&[]))
}

/// The host as another build of the same sources, which says so (`examples/another-build.rs`).
pub fn another_build() -> PathBuf {
    static DIR: OnceLock<&Path> = OnceLock::new();
    DIR.get_or_init(|| built(&["--example", "another-build"])).join("examples/another-build")
}

/// The four, in the order of their Init.
pub const PLUGINS: [&str; 4] = ["dataexchange", "handshake", "policy", "webhook"];

/// Puts the named plugins into `dir`.
pub fn stage(dir: &Path, names: &[&str]) {
    std::fs::create_dir_all(dir).unwrap();
    for name in names {
        let lib = built_plugins().join(format!("libpilot_plugin_{name}.so"));
        std::fs::copy(&lib, dir.join(format!("{name}.so"))).unwrap();
    }
}

/// Builds one of the gallery's faulty plugins and puts it into `dir`.
pub fn stage_faulty(dir: &Path, example: &str) {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::copy(faulty(example), dir.join(format!("{example}.so"))).unwrap();
}

/// The library of one of the gallery's faulty plugins.
pub fn faulty(example: &str) -> PathBuf {
    static LOCK: Mutex<()> = Mutex::new(());
    let _one_at_a_time = LOCK.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../loader/tests/broken-plugins/Cargo.toml");
    let mut cargo = nested_cargo::cargo();
    cargo.args(["build", "--quiet", "--manifest-path"]).arg(manifest).arg("--target-dir").arg(target_dir());
    assert!(cargo.args(["--example", example]).status().unwrap().success(), "building {example} failed");
    target_dir().join(format!("debug/examples/lib{example}.so"))
}

/// What a host's configuration says about the broker of `examples/event-stream`.
pub const EVENT_STREAM_SETTINGS: &str = include_str!("../../../../examples/event-stream/pilot.toml");

/// Builds one of the examples and puts its library into `dir`.
pub fn stage_example(dir: &Path, name: &str) {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name).join("Cargo.toml");
    let mut cargo = nested_cargo::cargo();
    cargo.args(["build", "--quiet", "--manifest-path"]).arg(manifest).arg("--target-dir").arg(target_dir());
    assert!(cargo.status().unwrap().success(), "building {name} failed");
    std::fs::create_dir_all(dir).unwrap();
    let library = target_dir().join(format!("debug/lib{}.so", name.replace('-', "_")));
    std::fs::copy(library, dir.join(format!("{name}.so"))).unwrap();
}

#[derive(Default)]
struct Log {
    lines: Mutex<(Vec<String>, bool)>,
    changed: Condvar,
}

/// A running process whose standard error is collected line by line.
pub struct Process {
    child: Child,
    log: Arc<Log>,
    name: String,
}

impl Process {
    pub fn spawn(name: &str, command: &mut Command) -> Process {
        for key in ["PILOT_CONFIG", "PILOT_SOCKET", "PILOT_REGISTRY", "PILOT_BEACON", "PILOT_PLUGINS_DIR"] {
            command.env_remove(key);
        }
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Log::default());
        let (stderr, sink, tag) = (child.stderr.take().unwrap(), log.clone(), name.to_owned());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                println!("[{tag}] {line}");
                sink.lines.lock().unwrap().0.push(line);
                sink.changed.notify_all();
            }
            sink.lines.lock().unwrap().1 = true;
            sink.changed.notify_all();
        });
        Process { child, log, name: name.to_owned() }
    }

    /// Waits until a line holds `text` and returns it; fails when the process ends without one.
    pub fn wait_line(&self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut guard = self.log.lines.lock().unwrap();
        loop {
            if let Some(line) = guard.0.iter().find(|l| l.contains(text)) {
                return line.clone();
            }
            assert!(!guard.1, "{} ended without the line {text:?}", self.name);
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{}: no line {text:?} in time", self.name);
            guard = self.log.changed.wait_timeout(guard, left).unwrap().0;
        }
    }

    pub fn lines_with(&self, text: &str) -> Vec<String> {
        self.log.lines.lock().unwrap().0.iter().filter(|l| l.contains(text)).cloned().collect()
    }

    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end, and for the last log line.
    pub fn wait_exit(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        let mut guard = self.log.lines.lock().unwrap();
        while !guard.1 {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{} did not end in time", self.name);
            guard = self.log.changed.wait_timeout(guard, left).unwrap().0;
        }
        drop(guard);
        self.child.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The value of `key=` in a log line.
pub fn field(line: &str, key: &str) -> String {
    let start =
        line.find(&format!(" {key}=")).unwrap_or_else(|| panic!("no {key}= in {line:?}")) + key.len() + 2;
    line[start..].split(' ').next().unwrap().trim_matches('"').to_owned()
}

/// A rendezvous on free ports.
pub struct Rendezvous {
    pub process: Process,
    pub registry: String,
    pub beacon: String,
}

impl Rendezvous {
    pub fn start() -> Rendezvous {
        Self::start_with(&[])
    }

    pub fn start_with(extra: &[&str]) -> Rendezvous {
        let mut command = Command::new(HOST);
        command.args(["rendezvous", "--registry", "127.0.0.1:0", "--beacon", "127.0.0.1:0"]).args(extra);
        let process = Process::spawn("rendezvous", &mut command);
        let line = process.wait_line("rendezvous listening");
        Rendezvous { registry: field(&line, "registry"), beacon: field(&line, "beacon"), process }
    }
}

/// A host as its user sees it: a socket for `pilotctl`, and files. Whose child its process is makes no difference here:
/// a [`Host`] is one, and so is every node of a [`cluster`].
pub struct Node {
    pub name: String,
    socket: PathBuf,
    state: PathBuf,
    /// Where `pilotctl` keeps files of its own.
    pub home: PathBuf,
}

impl Node {
    pub fn socket(&self) -> PathBuf {
        self.socket.clone()
    }

    pub fn state(&self) -> PathBuf {
        self.state.clone()
    }

    /// Runs `pilotctl --json` against this host.
    pub fn ctl(&self, args: &[&str]) -> Output {
        let mut command = Command::new(CTL);
        command.arg("--socket").arg(&self.socket).arg("--json").args(args);
        finished(command.env("PILOT_HOME", &self.home), b"")
    }

    /// The `data` of a command that must succeed.
    pub fn ok(&self, args: &[&str]) -> Value {
        let out = self.ctl(args);
        assert!(
            out.status.success(),
            "pilotctl {args:?} at {}: {}{}",
            self.name,
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
        let envelope: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(envelope["status"], "ok", "{envelope}");
        envelope["data"].clone()
    }

    /// What a command that must succeed shows to people.
    pub fn text(&self, args: &[&str]) -> String {
        let mut command = Command::new(CTL);
        command.arg("--socket").arg(&self.socket).args(args);
        let out = finished(command.env("PILOT_HOME", &self.home), b"");
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    /// The error object of a command that must fail.
    pub fn fails(&self, args: &[&str]) -> Value {
        let out = self.ctl(args);
        assert_eq!(
            out.status.code(),
            Some(1),
            "pilotctl {args:?} should fail: {}",
            String::from_utf8_lossy(&out.stdout)
        );
        let envelope: Value = serde_json::from_slice(&out.stderr).unwrap();
        assert_eq!(envelope["status"], "error", "{envelope}");
        envelope
    }

    pub fn node_id(&self) -> u64 {
        self.ok(&["info"])["node_id"].as_u64().unwrap()
    }
}

/// One host process of ours, and what its user sees.
pub struct Host {
    pub process: Process,
    node: Node,
}

impl Deref for Host {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

impl Host {
    /// The command line of a host, for tests that change it.
    pub fn command(dir: &Path, name: &str, rendezvous: &Rendezvous, plugins: &Path) -> Command {
        let mut command = Command::new(HOST);
        command
            .arg("run")
            .arg("--state-dir")
            .arg(dir.join(name))
            .arg("--socket")
            .arg(dir.join(format!("{name}.sock")));
        command.args(["--registry", &rendezvous.registry, "--beacon", &rendezvous.beacon]);
        command.args(["--listen", "127.0.0.1:0", "--hostname", name]).arg("--plugins").arg(plugins);
        command
    }

    pub fn start(dir: &Path, name: &str, rendezvous: &Rendezvous, plugins: &Path) -> Host {
        Self::start_with(dir, name, rendezvous, plugins, &[])
    }

    pub fn start_with(
        dir: &Path,
        name: &str,
        rendezvous: &Rendezvous,
        plugins: &Path,
        extra: &[&str],
    ) -> Host {
        let mut command = Self::command(dir, name, rendezvous, plugins);
        let process = Process::spawn(name, command.args(extra));
        process.wait_line("daemon running");
        Self::of(process, dir, name)
    }

    /// A process that was started with the paths of [`command`](Self::command).
    pub fn of(process: Process, dir: &Path, name: &str) -> Host {
        let (socket, state) = (dir.join(format!("{name}.sock")), dir.join(name));
        Host { process, node: Node { name: name.to_owned(), socket, state, home: dir.to_owned() } }
    }

    /// Plugin names of log lines with `msg`, in order.
    pub fn plugin_lines(&self, msg: &str) -> Vec<String> {
        self.process.lines_with(&format!("msg=\"{msg}\"")).iter().map(|l| field(l, "name")).collect()
    }
}

/// A command that runs beside the test; it dies with its handle.
pub struct Running {
    child: Child,
    said: [Receiver<Vec<u8>>; 2],
    name: String,
}

impl Running {
    /// Starts it with `input` as its standard input.
    pub fn start(command: &mut Command, input: &[u8]) -> Running {
        let name = format!("{command:?}");
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = pipes.spawn().unwrap();
        let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_owned());
        // A command that does not read is no failure of the test.
        std::thread::spawn(move || drop(stdin.write_all(&input)));
        let said = [collect(child.stdout.take().unwrap()), collect(child.stderr.take().unwrap())];
        Running { child, said, name }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// What it said, when it has ended; a command that does not end in time is killed, and fails the test.
    pub fn output(mut self) -> Output {
        // The long forms of tests send files of many gibibytes.
        let patience = if std::env::var_os("PILOT_LONG").is_some() { 30 } else { 2 } * PATIENCE;
        let deadline = Instant::now() + patience;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break Some(status);
            }
            if Instant::now() > deadline {
                break None;
            }
            std::thread::park_timeout(Duration::from_millis(2));
        };
        let _ = self.child.kill();
        // Somebody it left behind may hold the pipe.
        let [stdout, stderr] = [0, 1].map(|i| self.said[i].recv_timeout(PATIENCE).unwrap_or_default());
        let told = || format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        let status = status.unwrap_or_else(|| panic!("{} did not end in time: {}", self.name, told()));
        Output { status, stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(mut pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (tx, rx) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        let _ = tx.send(bytes);
    });
    rx
}

/// Runs a command to its end, with `input` as its standard input.
pub fn finished(command: &mut Command, input: &[u8]) -> Output {
    Running::start(command, input).output()
}

/// Waits until `condition` gives something.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what} did not happen in time");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// `a` asks, `b` approves, both trust.
pub fn befriend(a: &Node, b: &Node) {
    let (a_id, b_id) = (a.node_id(), b.node_id());
    a.ok(&["handshake", &b_id.to_string(), "test"]);
    let has = |host: &Node, list: &str, id: u64| {
        host.ok(&[list])[if list == "trust" { "trusted" } else { list }]
            .as_array()
            .is_some_and(|l| l.iter().any(|r| r["node_id"] == id))
            .then_some(())
    };
    eventually("the request's arrival", || has(b, "pending", a_id));
    b.ok(&["approve", &a_id.to_string()]);
    eventually("trust on the asking side", || has(a, "trust", b_id));
    eventually("trust on the approving side", || has(b, "trust", a_id));
}

/// Files directly in `dir`, hidden ones included; a missing directory has none.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut list: Vec<_> = entries.filter_map(|e| e.ok()).map(|e| e.path()).filter(|p| p.is_file()).collect();
    list.sort();
    list
}

/// Lower-case hex SHA-256 of a file.
pub fn sha256(path: &Path) -> String {
    use sha2::Digest;
    hex::encode(sha2::Sha256::digest(std::fs::read(path).unwrap()))
}

/// `len` bytes that do not repeat, the same for each `seed`.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut x = seed | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        out.extend_from_slice(&x.to_le_bytes());
    }
    out.truncate(len);
    out
}
