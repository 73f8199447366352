//! The compat transport with real processes: hosts without a UDP socket beside one with, one rendezvous for all; its
//! beacon killed during a transfer, its certificate exchanged; starts that must fail; what `auto` decides.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests are tests; what was measured is shown

mod support;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use pilot_net::compat::{Client, CompatConfig, Credentials};
use pilot_net::tls::{ClientTls, ServerTls};
use serde_json::json;
use support::cluster::Cluster;
use support::*;

/// A rendezvous with a compat beacon over TLS, whose certificate is the root that its clients are pinned to.
struct Beacon {
    rendezvous: Rendezvous,
    url: String,
    dir: PathBuf,
}

impl Beacon {
    fn start(dir: &Path) -> Beacon {
        let dir = dir.join("beacon");
        ServerTls::self_signed(Some(&dir)).unwrap();
        let extra = Self::flags(&dir, "127.0.0.1:0");
        let extra: Vec<&str> = extra.iter().map(String::as_str).collect();
        let rendezvous = Rendezvous::start_with(&extra);
        let url = field(&rendezvous.process.wait_line("compat beacon listening"), "url");
        Beacon { rendezvous, url, dir }
    }

    fn flags(dir: &Path, listen: &str) -> Vec<String> {
        let file = |name: &str| dir.join(name).display().to_string();
        ["--data-dir", &file("state"), "--compat-listen", listen, "--compat-cert", &file("tls-cert.pem")]
            .into_iter()
            .chain(["--compat-key", &file("tls-key.pem")])
            .map(str::to_owned)
            .collect()
    }

    /// Kills it, and starts it again where it was once `between` is done.
    fn restart(&mut self, between: impl FnOnce()) {
        self.rendezvous.process.signal("-KILL");
        self.rendezvous.process.wait_exit();
        between();
        let at = self.url.strip_prefix("wss://").unwrap().split('/').next().unwrap().to_owned();
        let mut command = Command::new(env!("CARGO_BIN_EXE_pilot-host"));
        command.args(["rendezvous", "--registry", &self.rendezvous.registry]);
        command.args(["--beacon", &self.rendezvous.beacon]).args(Self::flags(&self.dir, &at));
        self.rendezvous.process = Process::spawn("rendezvous", &mut command);
        self.rendezvous.process.wait_line("compat beacon listening");
    }

    /// The beacon's first certificate, which a pinned client believes and nothing else.
    fn root(&self) -> PathBuf {
        let root = self.dir.join("root.pem");
        if !root.exists() {
            std::fs::copy(self.dir.join("tls-cert.pem"), &root).unwrap();
        }
        root
    }

    /// A host over the compat transport that believes the beacon's first certificate only.
    fn compat_host(&self, dir: &Path, name: &str, plugins: &Path) -> Host {
        let root = self.root().display().to_string();
        let flags = ["-transport", "compat", "--compat-beacon", &self.url, "--compat-roots", &root];
        let host = Host::start_with(dir, name, &self.rendezvous, plugins, &flags);
        assert_eq!(host.ok(&["info"])["transport"], "compat");
        host
    }
}

/// UDP sockets that a process holds.
fn udp_sockets(pid: i32) -> usize {
    let tables = ["udp", "udp6", "udplite", "udplite6"].map(|t| format!("/proc/{pid}/net/{t}"));
    let tables = tables.iter().filter_map(|path| std::fs::read_to_string(path).ok());
    let known: HashSet<String> = tables
        .flat_map(|table| {
            let inode = |line: &str| line.split_whitespace().nth(9).map(|n| format!("socket:[{n}]"));
            table.lines().skip(1).filter_map(inode).collect::<Vec<_>>()
        })
        .collect();
    let held = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    held.filter_map(|fd| std::fs::read_link(fd.path()).ok())
        .filter(|link| known.contains(&*link.to_string_lossy()))
        .count()
}

fn exchange(a: &Node, b: &Node, file: &Path) {
    befriend(a, b);
    for (from, to) in [(a, b), (b, a)] {
        let to_id = to.node_id().to_string();
        assert_eq!(from.ok(&["send-message", &to_id, "--data", "hello"])["ack"], "ACK TEXT 5 bytes");
    }
    let before = files(&b.state().join("received"));
    let sent = a.ok(&["send-file", &b.node_id().to_string(), file.to_str().unwrap(), "--timeout", "300s"]);
    println!("{} -> {}: {} bytes at {} MB/s", a.name, b.name, sent["bytes"], sent["throughput_mbps"]);
    let arrived = files(&b.state().join("received"));
    let new: Vec<_> = arrived.iter().filter(|f| !before.contains(f)).collect();
    assert_eq!(new.len(), 1);
    assert_eq!(sha256(new[0]), sha256(file));
}

/// 8 MiB between each pair; 100 MiB with PILOT_LONG.
#[test]
fn udp_and_compat_hosts_are_each_others_equals() {
    let dir = temp_dir();
    let beacon = Beacon::start(dir.path());
    // The cluster's registry and beacon are this rendezvous, not ones of the runner's own.
    let elsewhere = json!({
        "registry": {"addr": beacon.rendezvous.registry}, "beacon": {"addr": beacon.rendezvous.beacon}});
    let compat = json!({
        "node": {"transport": "compat"}, "compat": {"beacon": beacon.url, "roots_file": beacon.root()}});
    let cluster = Cluster::start(&[("udp", json!({})), ("one", compat.clone()), ("two", compat)], &elsewhere);
    let [over_udp, one, two] = ["udp", "one", "two"].map(|name| cluster.node(name));

    let long = std::env::var_os("PILOT_LONG").is_some_and(|v| !v.is_empty());
    let file = dir.path().join("payload.bin");
    std::fs::write(&file, noise(if long { 100 } else { 8 } << 20, 3)).unwrap();
    exchange(&over_udp, &one, &file);
    exchange(&one, &two, &file);
    exchange(&two, &over_udp, &file);

    let pids = cluster.pids();
    let held = [&over_udp, &one, &two].map(|host| udp_sockets(pids[&host.name]));
    println!("UDP sockets held by the UDP host and the two compat hosts: {held:?}");
    assert_eq!(held, [1, 0, 0]);
    for host in [&one, &two] {
        let info = host.ok(&["info"]);
        assert_eq!((&info["transport"], &info["compat"]["state"]), (&"compat".into(), &"connected".into()));
        assert_eq!(info["compat"]["reconnects"], 0, "{info}");
        let shown = host.text(&["info"]);
        assert!(shown.contains("none of its own, reached over its beacon"), "{shown}");
        assert!(host.text(&["peers"]).contains("over the beacon"));
        let peers = host.ok(&["peers"])["peers"].as_array().unwrap().clone();
        assert_eq!(peers.len(), 2);
        assert!(peers.iter().all(|p| p["transport"] == "compat" && p["relay"] == true), "{peers:?}");
    }
    let info = over_udp.ok(&["info"]);
    assert_eq!((&info["transport"], &info["compat"]), (&"udp".into(), &serde_json::Value::Null));
}

#[test]
fn a_transfer_outlives_its_beacon_and_a_pinned_client_no_other_certificate() {
    let dir = temp_dir();
    let mut beacon = Beacon::start(dir.path());
    let plugins = dir.path().join("plugins");
    stage(&plugins, &PLUGINS);
    let one = beacon.compat_host(dir.path(), "one", &plugins);
    let two = beacon.compat_host(dir.path(), "two", &plugins);
    befriend(&one, &two);

    let file = dir.path().join("payload.bin");
    std::fs::write(&file, noise(24 << 20, 5)).unwrap();
    let to = two.node_id().to_string();
    std::thread::scope(|scope| {
        let sending =
            scope.spawn(|| one.ok(&["send-file", &to, file.to_str().unwrap(), "--timeout", "120s"]));
        eventually("the transfer's beginning", || {
            (one.ok(&["info"])["bytes_sent"].as_u64()? > 2 << 20).then_some(())
        });
        assert!(files(&two.state().join("received")).is_empty(), "it is under way");
        beacon.restart(|| {
            for host in [&one, &two] {
                println!("{}", host.process.wait_line("compat connection lost"));
            }
        });
        for host in [&one, &two] {
            println!("{}", host.process.wait_line("compat connection is back"));
        }
        sending.join().unwrap();
    });
    let arrived = files(&two.state().join("received"));
    assert_eq!(arrived.len(), 1);
    assert_eq!(sha256(&arrived[0]), sha256(&file));

    // Another certificate, and the connections are lost once more.
    let (kept, other) = (dir.path().join("kept"), dir.path().join("other"));
    ServerTls::self_signed(Some(&other)).unwrap();
    std::fs::create_dir(&kept).unwrap();
    let copy = |from: &Path, to: &Path| {
        for name in ["tls-key.pem", "tls-cert.pem"] {
            std::fs::copy(from.join(name), to.join(name)).unwrap();
        }
    };
    copy(&beacon.dir, &kept);
    let at = beacon.dir.clone();
    beacon.restart(|| copy(&other, &at));
    let refused = eventually("a refusal", || {
        let mut lines = one.process.lines_with("compat dial failed");
        lines.retain(|line| line.contains("certificate"));
        lines.pop()
    });
    println!("{refused}");
    assert!(refused.contains("wss dial: TLS with") && refused.contains("trusted is only"), "{refused}");
    // The right one again: taken up without a restart, and the clients have not given up.
    copy(&kept, &at);
    for host in [&one, &two] {
        eventually("the connection's return", || {
            let compat = &host.ok(&["info"])["compat"];
            (compat["state"] == "connected" && compat["reconnects"].as_u64()? >= 2).then_some(())
        });
    }
    assert_eq!(one.ok(&["send-message", &to, "--data", "hello"])["ack"], "ACK TEXT 5 bytes");

    // Somebody else's key for a registered number.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let refused = runtime.block_on(async {
        let tls = ClientTls::roots(&beacon.root()).unwrap();
        let (client, _datagrams) = Client::new(CompatConfig::new(beacon.url.parse().unwrap(), tls)).unwrap();
        let identity = Arc::new(pilot_engine::identity::Identity::generate([9; 32]));
        let node = u32::try_from(two.node_id()).unwrap();
        client.connect(move || Some(Credentials { node, identity: identity.clone() })).await.unwrap_err()
    });
    println!("{refused}");
    assert_eq!(refused.to_string(), "wss auth: the beacon closed with 1008 auth failed");
}

#[test]
fn a_start_without_its_beacon_or_with_a_wrong_word_fails_and_says_why() {
    let dir = temp_dir();
    let rendezvous = Rendezvous::start();
    let plugins = dir.path().join("plugins");
    stage(&plugins, &["handshake"]);
    let start = |name: &str, flags: &[&str], variable: Option<&str>| {
        let mut command = Host::command(dir.path(), name, &rendezvous, &plugins);
        if let Some(value) = variable {
            command.env("PILOT_TRANSPORT", value);
        }
        Process::spawn(name, command.args(flags))
    };
    // The registry speaks no HTTP, and hangs up.
    let url = format!("ws://{}/v1/compat", rendezvous.registry);
    let mut lost = start("lost", &["--compat-beacon", &url], Some("compat"));
    println!("{}", lost.wait_line("compat connect: compat dial: wss dial: "));
    assert_eq!(lost.wait_exit().code(), Some(1));
    let mut wrong = start("wrong", &["--transport", "tcp"], None);
    wrong.wait_line("invalid transport \"tcp\": must be udp, compat or auto");
    assert_eq!(wrong.wait_exit().code(), Some(78));
    let image = start("image", &[], Some("tcp"));
    image.wait_line("PILOT_TRANSPORT is ignored: invalid transport");
    image.wait_line("daemon running");
}

#[test]
fn auto_takes_compat_where_udp_is_not_answered() {
    let dir = temp_dir();
    let state = dir.path().join("state").display().to_string();
    let rendezvous =
        Rendezvous::start_with(&["--tls", "--data-dir", &state, "--compat-listen", "127.0.0.1:0"]);
    let pin = field(&rendezvous.process.wait_line("the registry speaks TLS"), "fingerprint");
    let url = field(&rendezvous.process.wait_line("compat beacon listening"), "url");
    let plugins = dir.path().join("plugins");
    stage(&plugins, &["handshake"]);
    // Bound and mute, as behind a firewall.
    let mute = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let blocked = Rendezvous {
        registry: rendezvous.registry.clone(),
        beacon: mute.local_addr().unwrap().to_string(),
        process: Process::spawn("nobody", &mut Command::new("true")),
    };
    let flags = ["--transport", "auto", "--registry-fingerprint", &pin, "--compat-beacon", &url];
    let open = Host::start_with(dir.path(), "open", &rendezvous, &plugins, &flags);
    let shut = Host::start_with(dir.path(), "shut", &blocked, &plugins, &flags);
    for (host, transport) in [(&open, "udp"), (&shut, "compat")] {
        let line = host.process.wait_line("transport decided");
        println!("{line}");
        assert_eq!(field(&line, "transport"), transport);
        assert_eq!(host.ok(&["info"])["transport"], transport);
    }
}
