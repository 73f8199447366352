//! Reloads under load, with real processes: `webhook` while events pour in, `dataexchange` while files arrive, a port while
//! peers dial it. Twenty times here; a thousand with `PILOT_LONG=1`, where the sizes at both ends are printed.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests are tests; the figures are for the reader

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::Value;
use support::*;

fn rounds() -> usize {
    if std::env::var_os("PILOT_LONG").is_some() { 1000 } else { 20 }
}

/// What a process holds.
#[derive(Debug, Clone, Copy)]
struct Size {
    rss_kib: u64,
    anon_kib: u64,
    shmem_kib: u64,
    descriptors: usize,
    threads: usize,
}

impl Size {
    fn of(pid: u32) -> Size {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let value = |key: &str| {
            let line = status.lines().find(|l| l.starts_with(key)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        let count = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
        Size {
            rss_kib: value("VmRSS:"),
            anon_kib: value("RssAnon:"),
            shmem_kib: value("RssShmem:"),
            descriptors: count("fd"),
            threads: count("task"),
        }
    }
}

/// Reloads, measures, and holds the growth against what a mapped copy costs.
fn reload_many(host: &Host, plugin: &str, library: &Path, mut between: impl FnMut(usize)) {
    // The first copies keep their symbols and fill pools; they are not what a reload costs.
    for _ in 0..17 {
        host.ok(&["plugins", "reload", plugin]);
    }
    let before = Size::of(host.process.pid());
    let mapped = |host: &Host| host.ok(&["plugins", "status", plugin])["mapped_copies"].as_u64().unwrap();
    let (copies, started) = (mapped(host), Instant::now());
    for round in 0..rounds() {
        host.ok(&["plugins", "reload", plugin]);
        between(round);
    }
    let took = started.elapsed();
    assert_eq!(mapped(host), copies + rounds() as u64);
    // Threads of the last old instance may be on their way out.
    let after = eventually("the end of old threads", || {
        let now = Size::of(host.process.pid());
        (now.threads <= before.threads + 4 && now.descriptors <= before.descriptors + 4).then_some(now)
    });
    let per = |a: u64, b: u64| a.saturating_sub(b) as f64 / rounds() as f64;
    let file = std::fs::metadata(library).unwrap().len() >> 10;
    println!("{plugin}: {} reloads in {took:.1?}, file {file} KiB", rounds());
    println!("  before {before:?}\n  after  {after:?}");
    println!(
        "  per reload: {:.0} KiB resident, of these {:.0} the mapped file, {:.0} private",
        per(after.rss_kib, before.rss_kib),
        per(after.shmem_kib, before.shmem_kib),
        per(after.anon_kib, before.anon_kib)
    );
    let most = file + 1024;
    assert!(per(after.rss_kib, before.rss_kib) < most as f64, "a reload costs more than the mapped copy");
    assert!(
        per(after.anon_kib, before.anon_kib) < 1024.0,
        "a reload costs more private memory than relocations"
    );
}

/// An HTTP server that takes events and remembers the numbers of those with topic `tick.x`.
struct Receiver {
    url: String,
    seen: Arc<Mutex<BTreeMap<u64, u32>>>,
}

impl Receiver {
    fn start() -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let seen: Arc<Mutex<BTreeMap<u64, u32>>> = Arc::default();
        let sink = seen.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let sink = sink.clone();
                std::thread::spawn(move || serve(stream, &sink));
            }
        });
        Receiver { url, seen }
    }
}

fn serve(stream: TcpStream, seen: &Mutex<BTreeMap<u64, u32>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    loop {
        let (mut length, mut line) = (0, String::new());
        loop {
            line.clear();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let event: Value = serde_json::from_slice(&body).unwrap();
        if event["event"] == "tick.x" {
            *seen.lock().unwrap().entry(event["data"]["i"].as_u64().unwrap()).or_default() += 1;
        }
        if writer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_err() {
            return;
        }
    }
}

#[test]
fn webhook_loses_no_event_over_its_reloads() {
    let dir = temp_dir();
    let rendezvous = Rendezvous::start();
    let plugins = dir.path().join("plugins");
    stage(&plugins, &["webhook"]);
    let receiver = Receiver::start();
    let config = dir.path().join("pilot.toml");
    let text = format!(
        "[plugin.webhook]\nurl = \"{}\"\n[plugins.settings.chameleon.capabilities]\npublish = [\"*\"]\npublishes_per_second = 0\n",
        receiver.url
    );
    std::fs::write(&config, text).unwrap();
    std::fs::create_dir_all(dir.path().join("host")).unwrap();
    std::fs::write(dir.path().join("host/chameleon.do"), "ticker tick.x 500").unwrap();
    let host =
        Host::start_with(dir.path(), "host", &rendezvous, &plugins, &["--config", config.to_str().unwrap()]);
    // After the webhook, which would not hear what was said before it came.
    stage_faulty(&plugins, "chameleon");
    host.ok(&["plugins", "start", "chameleon"]);
    reload_many(&host, "webhook", &plugins.join("webhook.so"), |_| ());
    host.ok(&["plugins", "stop", "chameleon"]);
    let line = host.process.wait_line("msg=ticked");
    let sent = line.split("ticks\\\":").nth(1).unwrap().split('}').next().unwrap().parse::<u64>().unwrap();
    let lost = || {
        let seen = receiver.seen.lock().unwrap();
        (0..sent).filter(|i| !seen.contains_key(i)).collect::<Vec<_>>()
    };
    eventually("the arrival of the last event", || {
        receiver.seen.lock().unwrap().contains_key(&(sent - 1)).then_some(())
    });
    let twice = receiver.seen.lock().unwrap().values().filter(|n| **n > 1).count();
    println!("webhook: {sent} events published, {} lost, {twice} delivered twice", lost().len());
    assert!(lost().is_empty(), "lost: {:?}", lost());
    let info = host.ok(&["info"]);
    assert_eq!((&info["webhook_queue_dropped"], &info["recovered_total"]), (&0.into(), &0.into()));
}

#[test]
fn dataexchange_keeps_every_acknowledged_file_over_its_reloads() {
    let dir = temp_dir();
    let rendezvous = Rendezvous::start();
    let plugins = dir.path().join("plugins");
    stage(&plugins, &["dataexchange", "handshake"]);
    // Each file is a stream; those of a fast machine would fill the port's limit while they stay known.
    let brief = ["--time-wait", "100ms"];
    let alice = Host::start_with(dir.path(), "alice", &rendezvous, &plugins, &brief);
    let bob = Host::start_with(dir.path(), "bob", &rendezvous, &plugins, &brief);
    befriend(&alice, &bob);
    let bob_id = bob.node_id().to_string();
    let (acknowledged, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let mut sent = Vec::new();
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let (mut done, mut failed) = (Vec::new(), 0_u32);
            for i in 0_u64.. {
                if stop.load(Ordering::Acquire) {
                    break;
                }
                let file = dir.path().join(format!("file-{i}.bin"));
                std::fs::write(&file, noise(200_000, i + 1)).unwrap();
                let out = alice.ctl(&["send-file", &bob_id, file.to_str().unwrap(), "--timeout", "20s"]);
                match out.status.success() {
                    true => {
                        done.push((format!("file-{i}.bin"), sha256(&file)));
                        acknowledged.fetch_add(1, Ordering::AcqRel);
                    }
                    false => failed += 1,
                }
                std::fs::remove_file(&file).unwrap();
            }
            (done, failed)
        });
        // A file gets through now and then, so that the next reloads fall into transfers and not into retries.
        let pace = |round: usize| {
            eventually("a file between reloads", || {
                (acknowledged.load(Ordering::Acquire) >= round / 8).then_some(())
            });
        };
        reload_many(&bob, "dataexchange", &plugins.join("dataexchange.so"), pace);
        stop.store(true, Ordering::Release);
        let (done, failed) = sender.join().unwrap();
        println!("dataexchange: {} files acknowledged, {failed} sends gave up", done.len());
        sent = done;
    });
    let mut arrived = BTreeMap::new();
    for file in files(&bob.state().join("received")) {
        *arrived.entry(sha256(&file)).or_insert(0) += 1;
    }
    let missing: Vec<_> = sent.iter().filter(|(_, sum)| !arrived.contains_key(sum)).collect();
    println!("dataexchange: {} of {} acknowledged files are there", sent.len() - missing.len(), sent.len());
    assert!(sent.len() >= 2 && missing.is_empty(), "acknowledged and not there: {missing:?}");
    // Tunnels and other plugins were left alone.
    assert_eq!(bob.ok(&["trust"])["trusted"].as_array().unwrap().len(), 1);
    assert_eq!(bob.ok(&["plugins", "status", "handshake"])["starts"], 1);
}

#[test]
fn a_port_answers_all_the_time() {
    let dir = temp_dir();
    let rendezvous = Rendezvous::start();
    let plugins = dir.path().join("plugins");
    stage(&plugins, &["handshake"]);
    let config = dir.path().join("pilot.toml");
    std::fs::write(&config, "[plugins.settings.chameleon.capabilities]\nports = [700]\n").unwrap();
    let extra = ["--config", config.to_str().unwrap(), "--public"];
    let alice = Host::start(dir.path(), "alice", &rendezvous, &plugins);
    stage_faulty(&plugins, "chameleon");
    std::fs::create_dir_all(dir.path().join("bob")).unwrap();
    let script = dir.path().join("bob/chameleon.do");
    std::fs::write(&script, "bind 700").unwrap();
    let bob = Host::start_with(dir.path(), "bob", &rendezvous, &plugins, &extra);
    let bob_id = bob.node_id().to_string();
    let (answered, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let dialler = scope.spawn(|| {
            while !stop.load(Ordering::Acquire) {
                let answer = alice.ok(&["connect", &bob_id, "700", "--message", "x", "--timeout", "20s"]);
                assert!(answer.to_string().contains("chameleon in"), "{answer}");
                answered.fetch_add(1, Ordering::AcqRel);
            }
        });
        for round in 0..20 {
            // Every fourth start fails, and the former version takes the port back.
            let fails = round % 4 == 3;
            std::fs::write(&script, if fails { "bind 700\nfail once" } else { "bind 700" }).unwrap();
            let out = bob.ctl(&["plugins", "reload", "chameleon"]);
            assert_eq!(out.status.success(), !fails, "{}", String::from_utf8_lossy(&out.stderr));
        }
        let goal = answered.load(Ordering::Acquire) + 3;
        eventually("three more answers", || (answered.load(Ordering::Acquire) >= goal).then_some(()));
        stop.store(true, Ordering::Release);
        dialler.join().unwrap();
    });
    println!(
        "port 700 answered {} of {0} dials over 20 reloads, 5 of them rolled back",
        answered.load(Ordering::Acquire)
    );
}
