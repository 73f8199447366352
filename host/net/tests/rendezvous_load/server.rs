//! The server process and what all tests ask of it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer, SigningKey};
use pilot_net::rendezvous::{CertificateFiles, CompatListen, Limits, RendezvousConfig, RendezvousServer};
use pilot_wire::registry::{PREAMBLE, challenge, read_message, write_raw_message};
use serde_json::{Value, json};

const CHILD: &str = "PILOT_TEST_LOAD_SERVER";
/// Milliseconds after which the server gives up on a silent client; the usual five minutes without it.
const IDLE: &str = "PILOT_TEST_LOAD_IDLE";
/// Directory of the certificate with which WebSocket clients are taken; in the clear without it.
const CERTIFICATE: &str = "PILOT_TEST_LOAD_CERTIFICATE";

pub fn long() -> bool {
    std::env::var_os("PILOT_LONG").is_some_and(|v| v == "1")
}

/// Not a test of its own: the server process of all others. Its directory is the variable's value, or `-` for none.
#[test]
fn load_server() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    raise_descriptors();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let idle =
        std::env::var(IDLE).map_or(Limits::default().idle, |ms| Duration::from_millis(ms.parse().unwrap()));
    let limits = Limits {
        idle,
        accepts_per_second: u32::MAX,
        slow_above: u32::MAX,
        close_above: u32::MAX,
        close_above_together: None,
        ..Limits::default()
    };
    let tls = std::env::var_os(CERTIFICATE).map(|dir| {
        let dir = Path::new(&dir);
        CertificateFiles { certificate: dir.join("tls-cert.pem"), key: dir.join("tls-key.pem") }
    });
    let config = RendezvousConfig {
        compat: Some(CompatListen { tls, ..CompatListen::plain(any) }),
        registry_addr: any,
        beacon_addr: any,
        data_dir: Some(dir).filter(|d| d != "-").map(Into::into),
        limits,
        ..RendezvousConfig::default()
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(RendezvousServer::bind(config)).unwrap();
    let compat = server.compat_addr().unwrap();
    println!("\nlistening on {} {} {compat}", server.registry_addr(), server.beacon_addr());
    std::thread::park();
}

/// As many open files as the system allows.
pub fn raise_descriptors() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

pub struct Server {
    child: Child,
    /// Kept open: a test that runs for over a minute says so, and would end if it could not.
    _output: BufReader<ChildStdout>,
    pub registry: SocketAddr,
    pub beacon: SocketAddr,
    pub compat: SocketAddr,
}

impl Server {
    pub fn start(dir: Option<&Path>) -> Server {
        Server::start_with(dir, Limits::default().idle)
    }

    pub fn start_with(dir: Option<&Path>, idle: Duration) -> Server {
        Server::spawn(
            Command::new(std::env::current_exe().unwrap()).env(IDLE, idle.as_millis().to_string()),
            dir,
        )
    }

    /// Takes WebSocket clients over TLS with the certificate in `certificate`.
    pub fn start_with_certificate(certificate: &Path) -> Server {
        Server::spawn(Command::new(std::env::current_exe().unwrap()).env(CERTIFICATE, certificate), None)
    }

    fn spawn(command: &mut Command, dir: Option<&Path>) -> Server {
        let mut child = command
            .args(["--exact", "server::load_server", "--nocapture"])
            .env(CHILD, dir.map_or("-".into(), |d| d.as_os_str().to_owned()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut lines = output.by_ref().lines();
        let addr =
            lines.find_map(|line| line.unwrap().strip_prefix("listening on ").map(str::to_owned)).unwrap();
        let mut addrs = addr.split(' ').map(|addr| addr.parse().unwrap());
        let mut addr = || addrs.next().unwrap();
        Server { child, _output: output, registry: addr(), beacon: addr(), compat: addr() }
    }

    /// Resident memory, bytes.
    pub fn resident(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id())).unwrap();
        statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
    }

    /// SIGKILL, and gone.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn json(&self) -> Link {
        Link(TcpStream::connect(self.registry).unwrap())
    }

    pub fn binary(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.registry).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(&PREAMBLE).unwrap();
        stream
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection in JSON mode.
pub struct Link(pub TcpStream);

impl Link {
    /// `None` when the server is gone.
    pub fn ask(&mut self, request: &Value) -> Option<Value> {
        write_raw_message(&mut self.0, request.to_string().as_bytes()).ok()?;
        read_message(&mut self.0).ok().map(Value::Object)
    }
}

/// The key of a number: nothing has to be remembered.
pub fn key(number: u32) -> SigningKey {
    let mut seed = [0x5A; 32];
    seed[..4].copy_from_slice(&number.to_be_bytes());
    SigningKey::from_bytes(&seed)
}

pub fn signed(key: &SigningKey, text: &str) -> String {
    STANDARD.encode(key.sign(text.as_bytes()).to_bytes())
}

pub fn register(link: &mut Link, number: u32) -> Option<u32> {
    let key = key(number);
    let public = STANDARD.encode(key.verifying_key().as_bytes());
    let listen = "127.0.0.1:4000";
    let request = json!({
        "type": "register", "listen_addr": listen, "public_key": public, "version": "load",
        "signature": signed(&key, &challenge::register(listen, &public)),
    });
    let answer = link.ask(&request)?;
    assert_eq!(answer["type"], "register_ok", "{answer}");
    u32::try_from(answer["node_id"].as_u64().unwrap()).ok()
}

/// Runs `work(number)` for all numbers below `count` on 64 connections of its own making; gives the rate per second.
pub fn on_64_connections<C>(
    count: u32,
    connect: impl Fn() -> C + Sync,
    work: impl Fn(&mut C, u32) + Sync,
) -> f64 {
    let next = AtomicU32::new(0);
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| {
                let mut connection = connect();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    work(&mut connection, number);
                }
            });
        }
    });
    f64::from(count) / started.elapsed().as_secs_f64()
}

/// The server answers this client at once, whatever others do.
pub fn still_serves(server: &Server) {
    let answer = server.json().ask(&json!({"type": "lookup", "node_id": 4_000_000})).unwrap();
    assert_eq!(answer["error"], "node 4000000: node not found");
}
