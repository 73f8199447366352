//! Local clients by the hundred that bind, dial, send and are killed at any moment: nothing of them stays at the daemon,
//! and others are served all the while.
//!
//! A client is this very test program, started as [`a_client_until_it_is_killed`] with its orders in the environment.
//! `PILOT_LONG=1` runs 200 of them for a minute; otherwise it is 60 for five seconds.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::*;
use bytes::Bytes;
use pilot_net::ipc::Client;
use pilot_wire::addr::Addr;
use pilot_wire::ipc::Request;
use serde_json::{Value, json};

const SOCKET: &str = "PILOT_TEST_CLIENT_SOCKET";
const PEER: &str = "PILOT_TEST_CLIENT_PEER";
const SEED: &str = "PILOT_TEST_CLIENT_SEED";

/// A small generator: the tests must repeat.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// Not a test by itself: what each client process does until somebody kills it.
#[test]
fn a_client_until_it_is_killed() {
    let (Ok(socket), Ok(peer), Ok(seed)) = (std::env::var(SOCKET), std::env::var(PEER), std::env::var(SEED))
    else {
        return;
    };
    let (peer, mut dice) = (Addr::backbone(peer.parse().unwrap()), Dice(seed.parse().unwrap()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async move {
        let client = Client::connect(socket.as_ref()).await.unwrap();
        let mut kept = Vec::new();
        loop {
            match dice.roll(4) {
                0 => {
                    let port = 10_000 + u16::try_from(dice.roll(50_000)).unwrap();
                    // Somebody else may have it.
                    kept.extend(client.bind(port).await.ok().map(|l| (Some(l), None)));
                }
                1 => {
                    let dialled = client.dial(peer, 7, Duration::from_secs(30)).await;
                    kept.extend(dialled.ok().map(|s| (None, Some(s))));
                }
                2 => {
                    let data = Bytes::from(vec![7; 1 + usize::try_from(dice.roll(60_000)).unwrap()]);
                    for (_, stream) in &kept {
                        if let Some(stream) = stream {
                            let _ = stream.write(data.clone()).await;
                        }
                    }
                }
                _ => {
                    let _ = client.send_datagram(peer, 5000, Bytes::from_static(b"hello")).await;
                    if kept.len() > 8 {
                        kept.remove(0);
                    }
                }
            }
            if client.is_closed() {
                return;
            }
            // A busy program, not a flood: the two processors of a small machine serve two hundred of these.
            tokio::time::sleep(Duration::from_millis(20 + dice.roll(200))).await;
        }
    });
}

struct Swarm(Vec<Child>);

impl Swarm {
    fn spawn(&mut self, host: &Host, peer: u64, seed: u64) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["clients::a_client_until_it_is_killed", "--exact", "--quiet"]);
        command.env(SOCKET, host.socket()).env(PEER, peer.to_string()).env(SEED, (seed | 1).to_string());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.0.push(child.unwrap());
    }

    /// `kill -9`.
    fn kill(&mut self, which: usize) {
        let mut child = self.0.swap_remove(which);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        while !self.0.is_empty() {
            self.kill(0);
        }
    }
}

/// What a leak would show in.
#[derive(Debug, PartialEq, Eq)]
struct Use {
    connections: u64,
    ports: u64,
    descriptors: usize,
    tasks: u64,
}

/// Every wait here has an end.
async fn in_time<T>(what: &str, answer: impl Future<Output = T>) -> T {
    let answer = tokio::time::timeout(PATIENCE, answer).await;
    answer.unwrap_or_else(|_| panic!("the host did not give {what} in time"))
}

fn in_use(runtime: &tokio::runtime::Runtime, host: &Host) -> Use {
    let (info, tasks) = runtime.block_on(in_time("its own state", async {
        let client = Client::connect(&host.socket()).await.unwrap();
        let info = client.json(&Request::Info).await.unwrap();
        let params = json!({}).as_object().cloned().unwrap();
        let host = client.json(&Request::Host { op: "runtime".into(), params }).await.unwrap();
        (info, host["tasks"].as_u64().unwrap())
    }));
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", host.process.pid())).unwrap().count();
    let number = |key: &str| info[key].as_u64().unwrap();
    Use { connections: number("connections"), ports: number("ports"), descriptors, tasks }
}

/// What a client that behaves got meanwhile, and how long it took.
#[derive(Default)]
struct Served {
    healths: Vec<Duration>,
    dials: Vec<Duration>,
    echoes: Vec<Duration>,
}

impl std::fmt::Display for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (what, times) in [("health", &self.healths), ("dial", &self.dials), ("echo", &self.echoes)] {
            let mut times = times.clone();
            times.sort();
            let at = |hundredths: usize| times.get(times.len().saturating_sub(1) * hundredths / 100);
            writeln!(f, "  {what}: {} times, median {:?}, slowest {:?}", times.len(), at(50), at(100))?;
        }
        Ok(())
    }
}

/// A health answer and a stream of its own, out and back, again and again; each must come.
fn well_behaved(socket: &std::path::Path, peer: u64, stop: &AtomicBool) -> Served {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let peer = Addr::backbone(u32::try_from(peer).unwrap());
    let mut served = Served::default();
    while !stop.load(Ordering::Relaxed) {
        runtime.block_on(async {
            let begin = Instant::now();
            let client =
                in_time("a connection", Client::connect(socket)).await.expect("the host takes clients");
            client.request_within(&Request::Health, PATIENCE).await.expect("health is answered");
            served.healths.push(begin.elapsed());
            let begin = Instant::now();
            let stream = client.dial(peer, 7, PATIENCE).await.expect("others are connected");
            served.dials.push(begin.elapsed());
            let begin = Instant::now();
            in_time("room for data", stream.write(Bytes::from_static(b"still there"))).await.unwrap();
            let mut back = 0;
            while back < 11 {
                back += in_time("an echo", stream.read()).await.expect("the echo comes back").len();
            }
            served.echoes.push(begin.elapsed());
        });
    }
    served
}

#[test]
fn killed_clients_leave_nothing_behind() {
    let long = std::env::var_os("PILOT_LONG").is_some();
    let (clients, time) = if long { (200, Duration::from_secs(60)) } else { (60, Duration::from_secs(5)) };
    let dir = temp_dir();
    let rendezvous = Rendezvous::start();
    let plugins = dir.path().join("plugins");
    stage(&plugins, &PLUGINS);
    // To a peer, all clients of a host are one source of new streams, and it takes ten of those a second (stream.md
    // section 7). Here the host is on trial and not that gate.
    let limits = ["--syn-whitelist", "all", "--max-conns-per-port", "65535", "--time-wait", "1s"];
    let alice = Host::start_with(dir.path(), "alice", &rendezvous, &plugins, &limits);
    let bob = Host::start_with(dir.path(), "bob", &rendezvous, &plugins, &limits);
    befriend(&alice, &bob);
    let bob_id = bob.node_id();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // One stream, so that what the first one needs (a tunnel, a worker thread) is not counted as a leak.
    alice.ok(&["ping", &bob_id.to_string(), "--count", "1"]);
    let settled = |host: &Host| {
        eventually("an idle host", || {
            let now = in_use(&runtime, host);
            (now.connections == 0).then_some(now)
        })
    };
    let before = [settled(&alice), settled(&bob)];
    let begin = Instant::now();
    let told = |what: &str| println!("{what} after {:.1} s", begin.elapsed().as_secs_f64());

    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    let mut swarm = Swarm(Vec::new());
    let mut killed = 0;
    let stop = AtomicBool::new(false);
    let served = std::thread::scope(|scope| {
        let others = scope.spawn(|| well_behaved(&alice.socket(), bob_id, &stop));
        let end = Instant::now() + time;
        // On a machine that is busy with other things, until each place has been emptied once on average.
        while Instant::now() < end || (killed <= clients && Instant::now() < end + PATIENCE) {
            while swarm.0.len() < clients {
                let seed = dice.roll(u64::MAX);
                swarm.spawn(&alice, bob_id, seed);
            }
            // About 25 a second. Each end is a new program to start, on the processors that serve all the others.
            for _ in 0..=dice.roll(4) {
                let which = usize::try_from(dice.roll(swarm.0.len() as u64)).unwrap();
                swarm.kill(which);
                killed += 1;
            }
            std::thread::park_timeout(Duration::from_millis(100));
        }
        told("the last was killed");
        stop.store(true, Ordering::Relaxed);
        others.join().unwrap()
    });
    told("the other client was done");
    drop(swarm);
    told("the rest was gone");
    println!("{clients} clients at a time for {time:?}: {killed} killed; another client meanwhile\n{served}");
    assert!(killed > clients && !served.echoes.is_empty());
    for (host, before) in [&alice, &bob].into_iter().zip(before) {
        let mut last: Option<Use> = None;
        let began = Instant::now();
        eventually("the state from before", || {
            let now = in_use(&runtime, host);
            let same = now.connections == 0
                && now.ports == before.ports
                && now.descriptors <= before.descriptors
                && now.tasks <= before.tasks;
            let waited = began.elapsed() > PATIENCE - Duration::from_secs(2);
            if !same && waited {
                let rows = runtime.block_on(async {
                    let client = Client::connect(&host.socket()).await.unwrap();
                    in_time("its state", client.json(&Request::Info)).await.unwrap()["conn_list"].clone()
                });
                panic!("{}: before {before:?}, now {now:?}: {rows:#}", host.name);
            }
            last = Some(now);
            same.then_some(())
        });
        told(&format!("{}: before {before:?}, after {last:?}", host.name));
    }
    assert_eq!(Value::Null, alice.ok(&["ping", &bob_id.to_string(), "--count", "1"])["results"][0]["error"]);
}
