//! A process that is stopped for 90 seconds under traffic and continued: its streams go on or end with a clear error, and
//! the tunnel carries a new stream within five seconds. Real processes and real time, so only with `PILOT_LONG=1`; the
//! simulated twin of this test always runs (`host/engine/tests/simnet/nat.rs`).
//!
//! The two nodes are this very program, started again with a role in its environment: driver, engine and socket as in the
//! host, the registry replaced by a table of two.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test crate

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pilot_engine::{Answer, Config, Engine, Identity, Query, Resolution, Verdict};
use pilot_net::bus::Bus;
use pilot_net::clock::Clock;
use pilot_net::node::{Node, NodeFeeds, Stream};
use pilot_net::udp::Udp;
use pilot_wire::addr::Addr;
use rustix::process::{Pid, Signal, kill_process};

const ROLE: &str = "PILOT_SUSPEND_NODE";
const PORT: u16 = 1000;
const STOPPED: Duration = Duration::from_secs(90);

// ---- the node

fn identity(node: u32) -> Arc<Identity> {
    Arc::new(Identity::generate([u8::try_from(node).unwrap(); 32]))
}

fn say(text: &str) {
    println!("node: {text}");
    std::io::stdout().flush().unwrap();
}

/// Not a test of its own: what the other test starts.
#[test]
fn node_process() {
    if let Ok(node) = std::env::var(ROLE) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(run_node(node.parse().unwrap()));
    }
}

async fn run_node(own: u32) {
    let clock = Clock::start();
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).unwrap();
    let mut engine = Engine::new(Config::default(), seed, clock.now());
    engine.set_identity(identity(own));
    engine.set_node(own, false, &[]);
    let udp = Udp::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let (node, NodeFeeds { mut queries, .. }) = Node::spawn(engine, udp, clock, Bus::new()).unwrap();
    let (to_us, mut orders) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            to_us.send(line.unwrap()).ok();
        }
    });
    say(&node.local_addr().to_string());
    let other: SocketAddr = orders.recv().await.unwrap().parse().unwrap();
    let answers = node.clone();
    tokio::spawn(async move {
        while let Some((id, query)) = queries.recv().await {
            let answer = match query {
                Query::Resolve { .. } => {
                    Answer::Resolved(Resolution { real_addr: Some(other), ..Resolution::default() })
                }
                Query::PeerKey { node } => {
                    Answer::PeerKey { key: Some(identity(node).public_key()), trusted: true }
                }
                _ => Answer::Admit(Verdict::Allow),
            };
            answers.answer(id, answer).await;
        }
    });
    let received = Arc::new(AtomicU64::new(0));
    let (listener, count) = (node.bind(PORT).await.unwrap(), received.clone());
    tokio::spawn(async move {
        while let Some(stream) = listener.accept().await {
            tokio::spawn(receive(stream, count.clone()));
        }
    });
    let peer = Addr::backbone(3 - own);
    // Kept open, so that the only ends to be heard of are those of the first stream.
    let mut later = Vec::new();
    while let Some(order) = orders.recv().await {
        match order.as_str() {
            "stream" => {
                let stream = node.dial(peer, PORT).await.unwrap();
                tokio::spawn(send_for_ever(stream));
            }
            "dial" => {
                let started = Instant::now();
                match node.dial(peer, PORT).await {
                    Ok(stream) => {
                        later.push(stream);
                        say(&format!("dialled {}", started.elapsed().as_millis()));
                    }
                    Err(e) => say(&format!("failed {e}")),
                }
            }
            "count" => say(&format!("count {}", received.load(Ordering::Relaxed))),
            _ => {}
        }
    }
}

async fn receive(stream: Stream, count: Arc<AtomicU64>) {
    loop {
        match stream.read().await {
            Ok(Some(data)) => _ = count.fetch_add(data.len() as u64, Ordering::Relaxed),
            Ok(None) => return say("end reading: finished"),
            Err(e) => return say(&format!("end reading: {e}")),
        }
    }
}

async fn send_for_ever(stream: Stream) {
    say("streaming");
    loop {
        if let Err(e) = stream.write(Bytes::from(vec![7; 16_384])).await {
            return say(&format!("end writing: {e}"));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

// ---- the test

struct Process {
    child: Child,
    lines: Receiver<String>,
    heard: Vec<String>,
}

impl Drop for Process {
    fn drop(&mut self) {
        // A stopped process dies of this one, too.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Process {
    fn start(node: u32) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "node_process", "--nocapture"])
            .env(ROLE, node.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (tx, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                // The test runner's own words stand before the first of ours.
                if let Some((_, text)) = line.split_once("node: ") {
                    tx.send(text.to_owned()).ok();
                }
            }
        });
        Self { child, lines, heard: Vec::new() }
    }

    fn order(&mut self, text: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{text}").unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The next line that begins like this; others are kept.
    fn hear(&mut self, begin: &str, limit: Duration) -> Option<String> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(at) = self.heard.iter().position(|l| l.starts_with(begin)) {
                return Some(self.heard.remove(at));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            self.heard.push(self.lines.recv_timeout(left).ok()?);
        }
    }

    fn count(&mut self) -> u64 {
        self.order("count");
        self.hear("count ", Duration::from_secs(5)).unwrap()[6..].parse().unwrap()
    }
}

/// Stops the sender's (1) or the receiver's (2) process under traffic; what came of it.
fn suspend(which: usize) -> String {
    let mut nodes = [Process::start(1), Process::start(2)];
    let limit = Duration::from_secs(10);
    let addrs = [0, 1].map(|i| nodes[i].hear("127.", limit).unwrap());
    for i in [0, 1] {
        nodes[i].order(&addrs[1 - i]);
    }
    nodes[0].order("stream");
    nodes[0].hear("streaming", limit).unwrap();
    let started = Instant::now();
    while nodes[1].count() < 1_000_000 {
        assert!(started.elapsed() < limit, "no traffic");
        std::thread::yield_now();
    }
    nodes[which - 1].signal(Signal::STOP);
    std::thread::sleep(STOPPED);
    let before = if which == 1 { Some(nodes[1].count()) } else { None };
    nodes[which - 1].signal(Signal::CONT);
    let continued = Instant::now();
    nodes[0].order("dial");
    let dialled = nodes[0].hear("dialled", Duration::from_secs(30)).expect("a new stream");
    let took = continued.elapsed();
    assert!(took < Duration::from_secs(5), "the tunnel took {took:?}");
    // Does the old stream go on? Both ends say so when it does not.
    let end_reading = nodes[1].hear("end reading", Duration::from_secs(20));
    let end_writing = nodes[0].hear("end writing", Duration::from_secs(20));
    match (end_reading, end_writing) {
        (None, None) => {
            let (then, limit) = (before.unwrap_or(0).max(nodes[1].count()), Instant::now() + limit);
            while nodes[1].count() <= then {
                assert!(Instant::now() < limit, "it neither goes on nor ends");
                std::thread::yield_now();
            }
            format!("{dialled} ms; the stream goes on")
        }
        (Some(reading), Some(writing)) => {
            for text in [&reading, &writing] {
                assert!(text.len() > "end reading: ".len(), "no reason given: {text:?}");
            }
            format!("{dialled} ms; {reading}; {writing}")
        }
        half => panic!("one end does not know: {half:?}"),
    }
}

#[test]
fn a_host_stopped_for_90_seconds_comes_back() {
    if std::env::var_os("PILOT_LONG").is_none() || std::env::var_os(ROLE).is_some() {
        return;
    }
    let runs = [1, 2].map(|which| (which, std::thread::spawn(move || suspend(which))));
    for (which, run) in runs {
        let name = if which == 1 { "sender" } else { "receiver" };
        println!("suspend: {name} stopped for 90 s: {}", run.join().unwrap());
    }
}
