//! A rendezvous in a process of its own under load, under attack, and killed: what it needs per node, what hostile clients
//! cost, and that nothing acknowledged is lost. Sizes are small by default; `PILOT_LONG=1` runs the full ones
//! (`scripts/check --long`). Figures are printed, never asserted, except for bounds on memory.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test that cannot go on says so by its panic; figures are printed

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer, SigningKey};
use pilot_net::rendezvous::{Limits, RendezvousConfig, RendezvousServer};
use pilot_wire::registry::{
    MAX_MESSAGE_SIZE, MSG_ERROR, MSG_JSON, MSG_LOOKUP, MSG_LOOKUP_OK, MSG_RESOLVE, MSG_RESOLVE_OK, PREAMBLE,
    challenge, decode_error, decode_lookup_resp, encode_frame, encode_lookup_req, encode_resolve_req,
    read_frame, read_message, write_raw_message,
};
use serde_json::{Value, json};

const CHILD: &str = "PILOT_TEST_LOAD_SERVER";

fn long() -> bool {
    std::env::var_os("PILOT_LONG").is_some_and(|v| v == "1")
}

/// Not a test of its own: the server process of all others. Its directory is the variable's value, or `-` for none.
#[test]
fn load_server() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    raise_descriptors();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let limits = Limits {
        accepts_per_second: u32::MAX,
        slow_above: u32::MAX,
        close_above: u32::MAX,
        ..Limits::default()
    };
    let config = RendezvousConfig {
        registry_addr: any,
        beacon_addr: any,
        data_dir: Some(dir).filter(|d| d != "-").map(Into::into),
        limits,
        ..RendezvousConfig::default()
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(RendezvousServer::bind(config)).unwrap();
    println!("\nlistening on {}", server.registry_addr());
    std::thread::park();
}

/// As many open files as the system allows.
fn raise_descriptors() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

struct Server {
    child: Child,
    registry: SocketAddr,
}

impl Server {
    fn start(dir: Option<&Path>) -> Server {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "load_server", "--nocapture"])
            .env(CHILD, dir.map_or("-".into(), |d| d.as_os_str().to_owned()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let addr =
            lines.find_map(|line| line.unwrap().strip_prefix("listening on ").map(str::to_owned)).unwrap();
        Server { child, registry: addr.parse().unwrap() }
    }

    /// Resident memory, bytes.
    fn resident(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id())).unwrap();
        statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
    }

    /// SIGKILL, and gone.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn json(&self) -> Link {
        Link(TcpStream::connect(self.registry).unwrap())
    }

    fn binary(&self) -> TcpStream {
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
struct Link(TcpStream);

impl Link {
    /// `None` when the server is gone.
    fn ask(&mut self, request: &Value) -> Option<Value> {
        write_raw_message(&mut self.0, request.to_string().as_bytes()).ok()?;
        read_message(&mut self.0).ok().map(Value::Object)
    }
}

/// The key of a number: nothing has to be remembered.
fn key(number: u32) -> SigningKey {
    let mut seed = [0x5A; 32];
    seed[..4].copy_from_slice(&number.to_be_bytes());
    SigningKey::from_bytes(&seed)
}

fn signed(key: &SigningKey, text: &str) -> String {
    STANDARD.encode(key.sign(text.as_bytes()).to_bytes())
}

fn register(link: &mut Link, number: u32) -> Option<u32> {
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
fn on_64_connections<C>(
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

#[test]
fn a_directory_of_many_nodes() {
    let count: u32 = if long() { 100_000 } else { 2_000 };
    for store in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(store.then(|| dir.path()));
        let before = server.resident();
        let ids: Vec<AtomicU32> = (0..count).map(|_| AtomicU32::new(0)).collect();
        let registrations = on_64_connections(
            count,
            || server.json(),
            |link, number| {
                ids[number as usize].store(register(link, number).unwrap(), Ordering::Relaxed);
            },
        );
        let grown = server.resident().saturating_sub(before);
        let per_node = grown as f64 / f64::from(count);
        let kept = if store { "a store" } else { "no store" };
        println!(
            "scale: {count} nodes with {kept}: {registrations:.0} registrations/s, {per_node:.0} bytes of resident memory per \
             node (of which 32 are its key)"
        );
        // In a small directory the fixed costs of 64 connections are most of it.
        if count >= 100_000 && !store {
            assert!(per_node <= 1024.0 + 32.0, "{per_node} bytes per node");
        }
        let lookups = on_64_connections(
            count,
            || server.binary(),
            |stream, number| {
                let id = ids[number as usize].load(Ordering::Relaxed);
                let mut frame = Vec::new();
                encode_frame(MSG_LOOKUP, &encode_lookup_req(id), &mut frame).unwrap();
                stream.write_all(&frame).unwrap();
                let (kind, payload) = read_frame(stream).unwrap();
                assert_eq!(kind, MSG_LOOKUP_OK);
                let found = decode_lookup_resp(&payload).unwrap();
                assert_eq!(found.pub_key, key(number).verifying_key().as_bytes());
            },
        );
        // Neighbours trust each other, so that they may resolve each other.
        let pairs = count.min(2_000) / 2;
        let id = |number: u32| ids[number as usize].load(Ordering::Relaxed);
        on_64_connections(
            pairs,
            || server.json(),
            |link, pair| {
                let (a, b) = (id(2 * pair), id(2 * pair + 1));
                let signature = signed(&key(2 * pair), &challenge::report_trust(a, b));
                let request =
                    json!({"type": "report_trust", "node_id": a, "peer_id": b, "signature": signature});
                assert_eq!(link.ask(&request).unwrap()["type"], "report_trust_ok");
            },
        );
        let resolves = on_64_connections(
            count,
            || server.binary(),
            |stream, number| {
                let pair = number % pairs;
                let (a, b) = (id(2 * pair), id(2 * pair + 1));
                let signature = key(2 * pair).sign(challenge::resolve(a, b).as_bytes()).to_bytes();
                let mut frame = Vec::new();
                encode_frame(MSG_RESOLVE, &encode_resolve_req(b, a, &signature), &mut frame).unwrap();
                stream.write_all(&frame).unwrap();
                assert_eq!(read_frame(stream).unwrap().0, MSG_RESOLVE_OK);
            },
        );
        println!(
            "scale: {lookups:.0} binary lookups/s, {resolves:.0} signed resolves/s on 64 connections (debug or release as built; \
                  the clients' signing is in it)"
        );
    }
}

/// What was acknowledged: number of the key -> node id, and the last hostname.
type Acknowledged = BTreeMap<u32, (u32, Option<String>)>;

#[test]
fn killed_at_random_moments_nothing_acknowledged_is_lost() {
    let kills = if long() { 50 } else { 5 };
    let dir = tempfile::tempdir().unwrap();
    let acknowledged = Arc::new(Mutex::new(Acknowledged::new()));
    let next = Arc::new(AtomicU32::new(0));
    let mut random = 0x9E37_79B9_7F4A_7C15_u64 ^ u64::from(std::process::id());
    for kill in 1..=kills {
        let mut server = Server::start(Some(dir.path()));
        check_everything(&server, &acknowledged.lock().unwrap());
        let stop = Arc::new(AtomicBool::new(false));
        let workers: Vec<_> = (0..8)
            .map(|_| {
                let mut link = server.json();
                let (acknowledged, next, stop) = (acknowledged.clone(), next.clone(), stop.clone());
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if mutate(&mut link, number, &acknowledged).is_none() {
                            break;
                        }
                    }
                })
            })
            .collect();
        // Some work first, then at no particular moment of it.
        let target = acknowledged.lock().unwrap().len() + 10;
        while acknowledged.lock().unwrap().len() < target {
            std::thread::yield_now();
        }
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let moment = Instant::now() + Duration::from_micros(random >> 48);
        while Instant::now() < moment {
            std::hint::spin_loop();
        }
        server.kill();
        stop.store(true, Ordering::Relaxed);
        workers.into_iter().for_each(|w| w.join().unwrap());
        if kill % 10 == 0 {
            println!("kill -9: {kill} times, {} nodes acknowledged", acknowledged.lock().unwrap().len());
        }
    }
    let server = Server::start(Some(dir.path()));
    let known = acknowledged.lock().unwrap();
    check_everything(&server, &known);
    // No number is given away twice: a new node's is above all that were ever acknowledged.
    let fresh = register(&mut server.json(), u32::MAX).unwrap();
    assert!(known.values().all(|(id, _)| *id < fresh), "{fresh} was given away before");
    println!(
        "kill -9: {kills} times under load, {} acknowledged nodes all there, next number {fresh}",
        known.len()
    );
}

/// One node: registered, then named. Each step is noted when it was answered; `None` when the server is gone.
fn mutate(link: &mut Link, number: u32, acknowledged: &Mutex<Acknowledged>) -> Option<()> {
    let id = register(link, number)?;
    acknowledged.lock().unwrap().insert(number, (id, None));
    let name = format!("n{number}");
    let signature = signed(&key(number), &challenge::node_op("set_hostname", id));
    let request = json!({"type": "set_hostname", "node_id": id, "hostname": name, "signature": signature});
    assert_eq!(link.ask(&request)?["type"], "set_hostname_ok");
    acknowledged.lock().unwrap().insert(number, (id, Some(name)));
    Some(())
}

fn check_everything(server: &Server, known: &Acknowledged) {
    let mut stream = server.binary();
    let mut seen = std::collections::BTreeSet::new();
    for (number, (id, name)) in known {
        assert!(seen.insert(*id), "number {id} belongs to two keys");
        let mut frame = Vec::new();
        encode_frame(MSG_LOOKUP, &encode_lookup_req(*id), &mut frame).unwrap();
        stream.write_all(&frame).unwrap();
        let (kind, payload) = read_frame(&mut stream).unwrap();
        assert_eq!(kind, MSG_LOOKUP_OK, "node {id} is gone: {}", decode_error(&payload));
        let found = decode_lookup_resp(&payload).unwrap();
        assert_eq!(found.pub_key, key(*number).verifying_key().as_bytes(), "node {id} has another key");
        if let Some(name) = name {
            assert_eq!(&found.hostname, name, "node {id}");
        }
    }
}

/// The server answers this client at once, whatever others do.
fn still_serves(server: &Server) {
    let answer = server.json().ask(&json!({"type": "lookup", "node_id": 4_000_000})).unwrap();
    assert_eq!(answer["error"], "node 4000000: node not found");
}

#[test]
fn hostile_clients_cost_little_and_disturb_nobody() {
    let server = Server::start(None);
    still_serves(&server);
    let before = server.resident();

    // Every recorded frame that must be refused, as a request: an error frame or the end, never anything else.
    let mut frames = 0;
    for entry in pilot_vectors::load("registry").unwrap_or_default().iter().filter(|e| e.error) {
        for kind in [0, MSG_JSON, 1, MSG_LOOKUP, MSG_RESOLVE, 0x42] {
            let mut stream = server.binary();
            let mut frame = Vec::new();
            encode_frame(kind, &entry.bytes, &mut frame).unwrap();
            stream.write_all(&frame).unwrap();
            if let Ok((answer, _)) = read_frame(&mut stream) {
                // An empty heartbeat is one thing, JSON of an answer another: both get an answer of their kind.
                assert!(
                    answer == MSG_ERROR || answer == MSG_JSON || kind == MSG_LOOKUP,
                    "{}: {answer}",
                    entry.name
                );
            }
            frames += 1;
        }
        // And as a JSON message.
        let mut raw = TcpStream::connect(server.registry).unwrap();
        let _ = raw.write_all(&entry.bytes);
        let _ = raw.shutdown(std::net::Shutdown::Write);
        let _ = raw.read_to_end(&mut Vec::new());
    }
    still_serves(&server);

    // One byte more than the largest message, announced and sent as far as the server takes it.
    let mut oversize = TcpStream::connect(server.registry).unwrap();
    oversize.write_all(&u32::try_from(MAX_MESSAGE_SIZE + 1).unwrap().to_be_bytes()).unwrap();
    let chunk = vec![b' '; 1 << 20];
    let taken = (0..65).take_while(|_| oversize.write_all(&chunk).is_ok()).count();
    assert_eq!(oversize.read(&mut [0; 8]).unwrap_or(0), 0, "an answer to an oversize message");
    still_serves(&server);

    // Lengths that lie: announced, never sent. Nothing is set aside for them.
    let liars: Vec<_> = (0..200)
        .map(|_| {
            let mut liar = TcpStream::connect(server.registry).unwrap();
            liar.write_all(&u32::try_from(MAX_MESSAGE_SIZE).unwrap().to_be_bytes()).unwrap();
            liar.write_all(b"{\"type\":").unwrap();
            liar
        })
        .collect();
    // Counts that lie are the client's to read; a server reads none but lengths.
    still_serves(&server);
    let lies = server.resident().saturating_sub(before);
    println!(
        "hostile: {frames} recorded errors, an oversize message ({taken} MiB taken before the end), 200 announced 64 MiB: {} KiB more",
        lies / 1024
    );
    assert!(lies < 64 << 20, "200 lies of 64 MiB cost {lies} bytes");
    drop(liars);

    // Connections that say nothing.
    let room = raise_descriptors().saturating_sub(200);
    let idle = usize::try_from(room).unwrap_or(usize::MAX).min(if long() { 10_000 } else { 2_000 });
    let held: Vec<_> = (0..idle).filter_map(|_| TcpStream::connect(server.registry).ok()).collect();
    still_serves(&server);
    let answered = AtomicUsize::new(0);
    let rate = on_64_connections(
        640,
        || server.json(),
        |link, _| {
            link.ask(&json!({"type": "lookup", "node_id": 4_000_000})).unwrap();
            answered.fetch_add(1, Ordering::Relaxed);
        },
    );
    let grown = server.resident().saturating_sub(before);
    println!(
        "hostile: {} idle connections: {} KiB more ({} bytes each), others served meanwhile ({rate:.0} answers/s)",
        held.len(),
        grown / 1024,
        grown / (held.len() as u64).max(1)
    );
    assert_eq!(answered.load(Ordering::Relaxed), 640);
    assert!(grown / (held.len() as u64).max(1) < 64 << 10, "{grown} bytes for {} connections", held.len());

    // One byte per second, on many connections, while others are served.
    let drips: Vec<_> = (0..20)
        .map(|_| {
            let mut drip = TcpStream::connect(server.registry).unwrap();
            drip.write_all(&[0, 0, 1, 0, b'{']).unwrap();
            drip
        })
        .collect();
    still_serves(&server);
    drop((drips, held));
}
