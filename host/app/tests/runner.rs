//! The network runner over real processes: `pilot-host runner serve`, driven by the control client and by `pilotctl net`
//! (netrunner.md section 7; numbers in the names are that list's). Clusters are small, so that all of it stays quick.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // this is test code; a failure shows its place and the log

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use pilot_net::control::keys::{Keys, pin_from_text};
use pilot_net::control::{
    AddNode, CallError, ChainSpec, Client, ClientConfig, ClusterInfo, Expect, LoadSnapshot, RestartNode,
    SendOutboundMessage, Start,
};
use serde_json::Value;
use support::cluster::{self, Runner};
use support::{PATIENCE, eventually, temp_dir};

const CTL: &str = env!("CARGO_BIN_EXE_pilotctl");

async fn client(runner: &Runner) -> Client {
    let keys = Keys::load_or_create(&runner.dir.join("client.key")).unwrap();
    let known = std::fs::read_to_string(runner.dir.join("runner.pub")).unwrap();
    let config = ClientConfig::new(Expect::OneOf(vec![pin_from_text(&known, false).unwrap()]));
    Client::dial(runner.address.as_str(), &keys, &config).await.unwrap()
}

/// The text of a refusal.
fn refused<T: std::fmt::Debug>(outcome: Result<T, CallError>) -> String {
    match outcome {
        Err(CallError::Remote(text)) => text,
        other => panic!("not refused: {other:?}"),
    }
}

fn nodes(count: u32) -> Start {
    Start { num_nodes: Some(count), ..Start::default() }
}

/// A start whose nodes accept every handshake.
fn trusting(count: u32) -> Start {
    Start { global_node_config: Some(r#"{"node":{"trust_auto_approve":true}}"#.into()), ..nodes(count) }
}

fn named(name: &str) -> AddNode {
    AddNode { name: name.into(), ..AddNode::default() }
}

fn restart(name: &str) -> RestartNode {
    RestartNode { name: name.into(), ..RestartNode::default() }
}

/// `pilotctl --json` against a node.
fn ctl(info: &ClusterInfo, node: &str, args: &[&str]) -> Result<Value, Value> {
    let uri = &info.nodes.iter().find(|n| n.name == node).unwrap().uri;
    let socket = uri.strip_prefix("unix://").unwrap();
    let home = Path::new(socket).parent().unwrap();
    let mut command = Command::new(CTL);
    command.args(["--json", "--socket", socket]).args(args).env("PILOT_HOME", home);
    let out = command.output().unwrap();
    match out.status.success() {
        true => Ok(serde_json::from_slice::<Value>(&out.stdout).unwrap()["data"].take()),
        false => Err(serde_json::from_slice(&out.stderr).unwrap_or_default()),
    }
}

fn address(info: &ClusterInfo, node: &str) -> String {
    info.nodes.iter().find(|n| n.name == node).unwrap().id.clone()
}

fn addresses(info: &ClusterInfo) -> BTreeMap<String, String> {
    info.nodes.iter().map(|n| (n.name.clone(), n.id.clone())).collect()
}

/// Trust between two nodes of a [`trusting`] cluster, seen from both.
fn befriend(info: &ClusterInfo, a: &str, b: &str) {
    ctl(info, a, &["handshake", &address(info, b), "test"]).unwrap();
    eventually("mutual trust", || (trusts(info, a, b) && trusts(info, b, a)).then_some(()));
}

fn trusts(info: &ClusterInfo, a: &str, b: &str) -> bool {
    let other: pilot_wire::addr::Addr = address(info, b).parse().unwrap();
    let list = ctl(info, a, &["trust"]).unwrap();
    list["trusted"].as_array().is_some_and(|l| l.iter().any(|r| r["node_id"] == other.node))
}

fn message(info: &ClusterInfo, from: &str, to: &str, text: &str) -> Result<Value, Value> {
    ctl(info, from, &["send-message", &address(info, to), "--data", text])
}

/// What is in a node's inbox, as one text.
fn inbox(info: &ClusterInfo, node: &str) -> String {
    ctl(info, node, &["inbox"]).unwrap().to_string()
}

/// The processes of a cluster, from its own list.
fn pids(info: &ClusterInfo) -> BTreeMap<String, i32> {
    cluster::pids(Path::new(&info.root_data_dir))
}

fn lives(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[tokio::test(flavor = "multi_thread")]
async fn n1_life_cycle() {
    let runner = Runner::start();
    let client = client(&runner).await;
    assert_eq!(client.ping().await.unwrap() as u32, runner.process.pid());
    assert_eq!(client.rpc_version().await.unwrap(), 1);
    assert_eq!(client.stop().await.unwrap(), None, "stopping nothing succeeds");
    let info = client.start(nodes(3)).await.unwrap().cluster.unwrap();
    assert_eq!(info.node_names, ["node1", "node2", "node3"]);
    assert!(info.healthy && info.pid as u32 == runner.process.pid());
    assert!(info.nodes.iter().all(|n| n.id.starts_with("0:0000.")), "{info:?}");
    assert!(client.health().await.unwrap().unwrap().healthy);
    assert_eq!(client.status().await.unwrap().unwrap().node_names, info.node_names);
    assert_eq!(client.uris().await.unwrap().len(), 3);
    let plugins = ctl(&info, "node1", &["plugins"]).unwrap();
    assert_eq!(plugins["plugins"].as_array().unwrap().len(), 4);

    let added = client.add_node(named("")).await.unwrap().unwrap();
    assert_eq!(added.node_names.last().unwrap(), "node4");
    assert!(client.wait_for_healthy().await.unwrap().unwrap().healthy);
    assert_eq!(client.remove_node("node2").await.unwrap().unwrap().node_names, ["node1", "node3", "node4"]);
    assert!(Path::new(&info.root_data_dir).join("node2/state/identity.json").exists(), "its directory stays");
    let processes = pids(&client.status().await.unwrap().unwrap());
    assert_eq!(processes.len(), 4, "three nodes and the services");
    let last = client.stop().await.unwrap().unwrap();
    assert_eq!((last.node_names.len(), last.healthy), (0, false));
    assert_eq!((last.pid, &last.root_data_dir), (info.pid, &info.root_data_dir));
    assert!(processes.values().all(|pid| !lives(*pid)), "nothing is left");
    assert_eq!(refused(client.status().await), "not bootstrapped");
    let again = client.start(nodes(1)).await.unwrap().cluster.unwrap();
    assert_ne!(again.root_data_dir, info.root_data_dir);
}

#[tokio::test(flavor = "multi_thread")]
async fn n2_every_error_leaves_the_cluster_as_it_was() {
    let runner = Runner::start();
    let c = client(&runner).await;
    for text in [
        refused(c.health().await),
        refused(c.status().await),
        refused(c.uris().await),
        refused(c.wait_for_healthy().await),
        refused(c.add_node(named("a")).await),
        refused(c.remove_node("a").await),
        refused(c.restart_node(restart("a")).await),
        refused(c.pause_node("a").await),
        refused(c.resume_node("a").await),
        refused(c.attach_peer("a").await),
        refused(c.create_chains(Vec::new()).await),
        refused(c.save_snapshot("a", false).await),
        refused(c.save_snapshot("a", true).await),
    ] {
        assert_eq!(text, "not bootstrapped");
    }
    assert_eq!(refused(c.start(nodes(0)).await), "not enough nodes specified for start");
    let bad = Start { exec_path: "/no/such".into(), ..nodes(1) };
    assert!(refused(c.start(bad).await).starts_with("exec path does not exist"));
    let bad = Start { exec_path: "/bin/sh".into(), ..nodes(1) };
    assert!(refused(c.start(bad).await).starts_with("exec path is invalid"));
    let bad = Start { exec_path: "host".into(), ..nodes(1) };
    assert!(refused(c.start(bad).await).starts_with("exec path is invalid"));
    let bad = Start { plugin_dir: "/no/such".into(), ..nodes(1) };
    assert!(refused(c.start(bad).await).starts_with("plugin dir does not exist"));
    let bad = Start { global_node_config: Some("[]".into()), ..nodes(1) };
    assert_eq!(refused(c.start(bad).await), "global node config is not a JSON object");
    let custom = BTreeMap::from([("../x".to_owned(), String::new())]);
    let bad = Start { custom_node_configs: custom, ..Start::default() };
    assert!(refused(c.start(bad).await).starts_with("invalid node name \"../x\""));
    assert_eq!(refused(c.status().await), "not bootstrapped", "a refused start leaves nothing");

    c.start(nodes(1)).await.unwrap();
    let before = c.status().await.unwrap();
    assert_eq!(refused(c.start(nodes(1)).await), "already bootstrapped");
    let load = |name: &str| LoadSnapshot { snapshot_name: name.into(), ..LoadSnapshot::default() };
    assert_eq!(refused(c.load_snapshot(load("a")).await), "already bootstrapped");
    for text in [
        refused(c.remove_node("x").await),
        refused(c.restart_node(restart("x")).await),
        refused(c.pause_node("x").await),
        refused(c.resume_node("x").await),
    ] {
        assert_eq!(text, "node \"x\" not found");
    }
    assert_eq!(refused(c.attach_peer("x").await), "node not found in network");
    let to = |node: &str, op| SendOutboundMessage {
        node_name: node.into(),
        peer_id: "p".into(),
        op,
        body: vec![],
    };
    assert_eq!(refused(c.send_outbound_message(to("x", 0)).await), "node not found in network");
    assert_eq!(refused(c.send_outbound_message(to("node1", 0)).await), "peer with ID p is not attached here");
    assert_eq!(refused(c.add_node(named("node1")).await), "repeated node name \"node1\"");
    assert!(refused(c.add_node(named("a/b")).await).starts_with("invalid node name"));
    let with = |config: &str| AddNode { node_config: Some(config.into()), ..named("new") };
    let managed = refused(c.add_node(with(r#"{"ipc":{"socket":"/x"}}"#)).await);
    assert_eq!(managed, "option \"ipc.socket\" is managed by the runner");
    assert!(refused(c.add_node(with(r#"{"node":{"nonsense":1}}"#)).await).contains("nonsense"));
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let busy = refused(c.add_node(with(&format!(r#"{{"node":{{"listen":"127.0.0.1:{port}"}}}}"#))).await);
    assert!(busy.starts_with(&format!("port {port} is not free: ")), "{busy}");
    let fails = AddNode { exec_path: "/bin/false".into(), ..named("new") };
    assert!(refused(c.add_node(fails).await).starts_with("exec path is invalid"));
    assert_eq!(refused(c.resume_node("node1").await), "node has not been paused");
    assert_eq!(refused(c.save_snapshot("../x", false).await), "invalid snapshotName \"../x\"");
    assert_eq!(refused(c.remove_snapshot("none").await), "snapshot not found");
    assert_eq!(c.snapshot_names().await.unwrap(), [""; 0]);
    assert_eq!(refused(c.create_chains(Vec::new()).await), "no blueprint was provided");
    assert_eq!(c.status().await.unwrap(), before, "the cluster is as it was");

    // A program that ends at once is no node; its last words are in the error, and nothing of it stays.
    let script = runner.dir.parent().unwrap().join("ends");
    std::fs::write(&script, "#!/bin/sh\necho cannot go on >&2; exit 7\n").unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let text = refused(c.add_node(AddNode { exec_path: script.display().to_string(), ..named("new") }).await);
    assert_eq!(text, "node \"new\" exited with exit code: 7: cannot go on");
    let info = before.unwrap();
    assert!(!Path::new(&info.root_data_dir).join("new").exists());
    assert_eq!(c.status().await.unwrap().unwrap().node_names, info.node_names);
    assert_eq!(c.remove_node("node1").await.unwrap().unwrap().node_names.len(), 0);
    assert!(c.health().await.unwrap().unwrap().healthy, "a cluster without nodes is healthy");
}

#[tokio::test(flavor = "multi_thread")]
async fn n3_pause() {
    let runner = Runner::start();
    let c = client(&runner).await;
    let info = c.start(trusting(3)).await.unwrap().cluster.unwrap();
    befriend(&info, "node1", "node2");
    message(&info, "node1", "node2", "before").unwrap();
    let paused = c.pause_node("node2").await.unwrap().unwrap();
    assert!(paused.nodes.iter().find(|n| n.name == "node2").unwrap().paused);
    assert_eq!(refused(c.pause_node("node2").await), "node has been paused already");
    assert_eq!(c.uris().await.unwrap().len(), 2);
    assert!(c.wait_for_healthy().await.unwrap().unwrap().healthy, "paused nodes are left out");
    // What is sent now has to wait; the runner answers others meanwhile.
    let late = {
        let info = info.clone();
        tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            (message(&info, "node1", "node2", "while paused"), began.elapsed())
        })
    };
    for _ in 0..20 {
        assert!(c.ping().await.is_ok() && c.status().await.is_ok());
    }
    assert!(!late.is_finished(), "nothing answers for a paused node");
    c.resume_node("node2").await.unwrap();
    assert_eq!(refused(c.resume_node("node2").await), "node has not been paused");
    c.wait_for_healthy().await.unwrap();
    println!("the message of the pause: {:?}", late.await.unwrap());
    eventually("a message after the pause", || message(&info, "node1", "node2", "after").ok());
    assert!(inbox(&info, "node2").contains("after"));

    // Everything that ends or keeps a node takes a paused one too.
    c.pause_node("node3").await.unwrap();
    c.remove_node("node3").await.unwrap();
    c.pause_node("node2").await.unwrap();
    let again = c.restart_node(restart("node2")).await.unwrap().unwrap();
    assert!(again.nodes.iter().all(|n| !n.paused), "a restarted node runs");
    c.wait_for_healthy().await.unwrap();
    c.pause_node("node2").await.unwrap();
    // Killed while it was stopped: started again.
    let pid = pids(&info)["node2"];
    Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap();
    eventually("its end", || (!lives(pid)).then_some(()));
    c.resume_node("node2").await.unwrap();
    c.wait_for_healthy().await.unwrap();
    c.pause_node("node2").await.unwrap();
    c.save_snapshot("hot", true).await.unwrap();
    c.save_snapshot("cold", false).await.unwrap();
    for name in ["hot", "cold"] {
        let load = LoadSnapshot { snapshot_name: name.into(), ..LoadSnapshot::default() };
        let loaded = c.load_snapshot(load).await.unwrap().unwrap();
        assert!(loaded.nodes.iter().find(|n| n.name == "node2").unwrap().paused, "{name}: still paused");
        c.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn n4_restart_with_another_build_and_other_settings() {
    let runner = Runner::start();
    let c = client(&runner).await;
    let info = c.start(nodes(2)).await.unwrap().cluster.unwrap();
    let build = |node: &str| ctl(&info, node, &["info"]).unwrap()["commit"].clone();
    let first = build("node1");
    assert_ne!(first, "another-build");
    let pid = pids(&info)["node1"];
    let broken = RestartNode { exec_path: Some("/no/such".into()), ..restart("node1") };
    assert!(refused(c.restart_node(broken).await).starts_with("exec path does not exist"));
    let broken = BTreeMap::from([("webhook".to_owned(), "{".to_owned())]);
    let broken = RestartNode { chain_configs: broken, ..restart("node1") };
    assert!(refused(c.restart_node(broken).await).contains("is not a JSON object"));
    assert!(lives(pid), "the old process still runs");
    let other = support::another_build();
    let change = RestartNode {
        exec_path: Some(other.display().to_string()),
        chain_configs: BTreeMap::from([(
            "webhook".to_owned(),
            r#"{"url":"http://127.0.0.1:9/","secret":"s"}"#.to_owned(),
        )]),
        ..restart("node1")
    };
    c.restart_node(change).await.unwrap();
    let after = c.wait_for_healthy().await.unwrap().unwrap();
    assert_eq!(build("node1"), "another-build");
    assert_eq!(build("node2"), first);
    assert_eq!(addresses(&after), addresses(&info), "same identity");
    let settings = std::fs::read_to_string(Path::new(&info.root_data_dir).join("node1/pilot.toml")).unwrap();
    assert!(settings.contains("http://127.0.0.1:9/"), "{settings}");
}

#[tokio::test(flavor = "multi_thread")]
async fn n5_killed_from_outside() {
    let runner = Runner::start();
    let c = client(&runner).await;
    let info = c.start(nodes(2)).await.unwrap().cluster.unwrap();
    Command::new("kill").args(["-KILL", &pids(&info)["node2"].to_string()]).status().unwrap();
    eventually("its absence", || {
        runner.net(&["uris"])["uris"].as_array().filter(|u| u.len() == 1).map(|_| ())
    });
    assert!(!c.health().await.unwrap().unwrap().healthy);
    assert_eq!(refused(c.wait_for_healthy().await), "node \"node2\" stopped unexpectedly");
    assert_eq!(refused(c.pause_node("node2").await), "node \"node2\" stopped unexpectedly");
    assert_eq!(runner.net(&["status"])["nodes"][1]["state"], "exited");
    c.restart_node(restart("node2")).await.unwrap();
    assert!(c.wait_for_healthy().await.unwrap().unwrap().healthy);
}

#[tokio::test(flavor = "multi_thread")]
async fn n6_synthetic_peers() {
    let runner = Runner::start();
    let c = client(&runner).await;
    let info = c.start(trusting(2)).await.unwrap().cluster.unwrap();
    befriend(&info, "node1", "node2");
    let peer = c.attach_peer("node1").await.unwrap();
    assert!(peer.starts_with("0:0000."), "{peer}");
    assert_ne!(c.attach_peer("node1").await.unwrap(), peer);
    let wrong = SendOutboundMessage { node_name: "node2".into(), peer_id: peer.clone(), op: 0, body: vec![] };
    assert_eq!(
        refused(c.send_outbound_message(wrong).await),
        format!("peer with ID {peer} is not attached here")
    );
    let syn = {
        use pilot_wire::packet::{Flags, Header, Protocol, encode_into};
        let header = Header {
            flags: Flags::SYN,
            protocol: Protocol::STREAM,
            src: peer.parse().unwrap(),
            dst: address(&info, "node1").parse().unwrap(),
            src_port: 5000,
            dst_port: 7,
            seq: 1,
            ack: 0,
            window: 10,
        };
        let mut bytes = Vec::new();
        encode_into(&header, b"", &mut bytes).unwrap();
        bytes
    };
    let bodies =
        [syn.clone(), syn[..20].to_vec(), Vec::new(), support::noise(1200, 7), support::noise(60_000, 9)];
    for op in 0..=4 {
        for body in &bodies {
            let message = SendOutboundMessage {
                node_name: "node1".into(),
                peer_id: peer.clone(),
                op,
                body: body.clone(),
            };
            c.send_outbound_message(message).await.unwrap();
        }
    }
    let send = |op, body| SendOutboundMessage { node_name: "node1".into(), peer_id: peer.clone(), op, body };
    assert_eq!(refused(c.send_outbound_message(send(5, vec![])).await), "unsupported op 5");
    assert_eq!(refused(c.send_outbound_message(send(77, vec![])).await), "unsupported op 77");
    assert_eq!(refused(c.send_outbound_message(send(0, vec![0; 65_508])).await), "message too large");
    assert_eq!(refused(c.send_outbound_message(send(2, vec![0; 65_507])).await), "message too large");
    message(&info, "node2", "node1", "all is well").unwrap();
    assert!(inbox(&info, "node1").contains("all is well"));
    assert!(c.health().await.unwrap().unwrap().healthy);
    c.pause_node("node2").await.unwrap();
    assert_eq!(refused(c.attach_peer("node2").await), "node has been paused already");
    // Peers go with their node's process.
    c.restart_node(restart("node1")).await.unwrap();
    let gone = refused(c.send_outbound_message(send(0, vec![])).await);
    assert_eq!(gone, format!("peer with ID {peer} is not attached here"));
}

#[tokio::test(flavor = "multi_thread")]
async fn n7_snapshots() {
    let dir = temp_dir();
    let runner = Runner::start_in(dir.path(), "r", &[]);
    let c = client(&runner).await;
    let info = c.start(trusting(2)).await.unwrap().cluster.unwrap();
    befriend(&info, "node1", "node2");
    message(&info, "node1", "node2", "kept").unwrap();
    let path = c.save_snapshot("one", false).await.unwrap();
    assert_eq!(refused(c.status().await), "not bootstrapped", "the cluster has ended");
    assert_eq!(c.snapshot_names().await.unwrap(), ["one"]);
    let load = |name: &str| LoadSnapshot { snapshot_name: name.into(), ..LoadSnapshot::default() };
    assert_eq!(refused(c.load_snapshot(load("../one")).await), "invalid snapshotName \"../one\"");
    assert_eq!(refused(c.load_snapshot(load("none")).await), "snapshot not found");
    let loaded = c.load_snapshot(load("one")).await.unwrap().unwrap();
    assert_ne!(loaded.root_data_dir, info.root_data_dir);
    assert_eq!(addresses(&loaded), addresses(&info));
    assert!(trusts(&loaded, "node1", "node2") && trusts(&loaded, "node2", "node1"));
    assert!(inbox(&loaded, "node2").contains("kept"));
    message(&loaded, "node2", "node1", "and back").unwrap();
    assert_eq!(refused(c.save_snapshot("one", false).await), "snapshot \"one\" already exists");
    assert_eq!(refused(c.save_snapshot("one", true).await), "snapshot \"one\" already exists");
    c.stop().await.unwrap();
    let manifest = Path::new(&path).join("manifest.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replacen("\"size\": ", "\"size\": 1", 1)).unwrap();
    assert!(refused(c.load_snapshot(load("one")).await).starts_with("snapshot: damaged: "));
    c.remove_snapshot("one").await.unwrap();
    assert!(!Path::new(&path).exists());
}

/// Show e: a hot snapshot of five nodes under traffic, restored twice side by side.
#[tokio::test(flavor = "multi_thread")]
async fn n7_hot_snapshot_of_five_nodes_restored_twice() {
    let dir = temp_dir();
    let first = Runner::start_in(dir.path(), "r1", &[]);
    let c = client(&first).await;
    let info = c.start(trusting(5)).await.unwrap().cluster.unwrap();
    let names = info.node_names.clone();
    for pair in names.windows(2) {
        befriend(&info, &pair[0], &pair[1]);
    }
    for pair in names.windows(2) {
        message(&info, &pair[0], &pair[1], &format!("early from {}", pair[0])).unwrap();
    }
    // Traffic that does not stop for anybody.
    let traffic = {
        let (info, names, stop) = (info.clone(), names.clone(), tokio_util::sync::CancellationToken::new());
        let token = stop.clone();
        let task = tokio::task::spawn_blocking(move || {
            let mut sent = 0;
            while !token.is_cancelled() {
                for pair in names.windows(2) {
                    sent += u32::from(message(&info, &pair[0], &pair[1], "traffic").is_ok());
                }
            }
            sent
        });
        (stop, task)
    };
    let began = Instant::now();
    c.save_snapshot("hot", true).await.unwrap();
    println!("hot snapshot of five nodes: {:?}", began.elapsed());
    c.save_snapshot("hot", true).await.unwrap();
    traffic.0.cancel();
    println!("messages during it: {}", traffic.1.await.unwrap());
    assert!(c.wait_for_healthy().await.unwrap().unwrap().healthy, "the cluster went on");
    let trust_before: Vec<_> =
        names.iter().map(|n| ctl(&info, n, &["trust"]).unwrap()["trusted"].clone()).collect();
    let second = Runner::start_in(dir.path(), "r2", &[]);
    let d = client(&second).await;
    c.stop().await.unwrap();
    let load = LoadSnapshot {
        snapshot_name: "hot".into(),
        reassign_ports_if_used: Some(true),
        ..LoadSnapshot::default()
    };
    // The second finds the first's ports in use and takes others.
    let one = c.load_snapshot(load.clone()).await.unwrap().unwrap();
    let two = d.load_snapshot(load).await.unwrap().unwrap();
    assert_ne!(one.root_data_dir, two.root_data_dir);
    assert_eq!(addresses(&one), addresses(&info));
    assert_eq!(addresses(&two), addresses(&info));
    for (node, before) in names.iter().zip(&trust_before) {
        let ids = |v: &Value| v.as_array().unwrap().iter().map(|r| r["node_id"].clone()).collect::<Vec<_>>();
        for restored in [&one, &two] {
            assert_eq!(ids(&ctl(restored, node, &["trust"]).unwrap()["trusted"]), ids(before));
        }
        assert_eq!(inbox_texts(&one, node), inbox_texts(&two, node), "same inbox at {node}");
    }
    for pair in names.windows(2) {
        assert!(inbox(&one, &pair[1]).contains(&format!("early from {}", pair[0])));
    }
    message(&one, "node1", "node2", "only in one").unwrap();
    assert!(!inbox(&two, "node2").contains("only in one"), "the two know nothing of each other");
}

/// The messages of an inbox, without the times at which they are shown.
fn inbox_texts(info: &ClusterInfo, node: &str) -> Vec<String> {
    let list = ctl(info, node, &["inbox"]).unwrap();
    let mut texts: Vec<String> = list["messages"].as_array().unwrap().iter().map(Value::to_string).collect();
    texts.sort();
    texts
}

#[tokio::test(flavor = "multi_thread")]
async fn n8_two_clients_one_leaves_one_reads_slowly() {
    let runner = Runner::start();
    let (a, b) = (client(&runner).await, client(&runner).await);
    let mut stream = b.stream_status(Duration::from_millis(100)).await.unwrap();
    assert_eq!(stream.next().await.unwrap(), Some(None), "no cluster yet");
    a.start(nodes(2)).await.unwrap();
    // A cluster that will not become healthy: one node's program answers nobody.
    let mute = runner.dir.parent().unwrap().join("mute");
    std::fs::write(&mute, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&mute, std::fs::Permissions::from_mode(0o755)).unwrap();
    a.add_node(AddNode { exec_path: mute.display().to_string(), ..named("mute") }).await.unwrap();
    let gone = client(&runner).await;
    // It hangs up in the middle of its wait.
    let wait = tokio::time::timeout(Duration::from_millis(300), gone.wait_for_healthy());
    assert!(wait.await.is_err());
    drop(gone);
    assert!(!a.health().await.unwrap().unwrap().healthy, "others are served");
    // Stop goes before waits.
    let waits = {
        let b = b.clone();
        tokio::spawn(async move { b.wait_for_healthy().await })
    };
    for _ in 0..200 {
        a.status().await.unwrap();
    }
    a.remove_node("mute").await.unwrap_err();
    assert!(waits.await.unwrap().unwrap().unwrap().healthy);
    // The stream was not read all the while; the newest state comes, not every old one.
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline);
        let seen = stream.next().await.unwrap().unwrap();
        if seen.is_some_and(|info| info.node_names.len() == 2 && info.healthy) {
            break;
        }
    }
    a.stop().await.unwrap();
    while stream.next().await.unwrap().unwrap().is_some() {
        assert!(Instant::now() < deadline);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn n9_the_runner_killed() {
    let dir = temp_dir();
    let mut runner = Runner::start_in(dir.path(), "r", &[]);
    let info = client(&runner).await.start(nodes(2)).await.unwrap().cluster.unwrap();
    client(&runner).await.pause_node("node2").await.unwrap();
    let processes = pids(&info);
    assert!(processes.values().all(|pid| lives(*pid)));
    runner.process.signal("-KILL");
    runner.process.wait_exit();
    let began = Instant::now();
    eventually("the end of everything", || processes.values().all(|pid| !lives(*pid)).then_some(()));
    println!("all gone after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(1));
    let next = Runner::start_in(dir.path(), "r", &["--nodes", "1"]);
    next.process.wait_line("cluster is up");
    assert_eq!(client(&next).await.status().await.unwrap().unwrap().node_names, ["node1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn n10_chains() {
    let runner = Runner::start();
    let c = client(&runner).await;
    c.start(nodes(3)).await.unwrap();
    let spec = |blueprint: &str, participants: &[&str]| ChainSpec {
        name: String::new(),
        blueprint: blueprint.as_bytes().to_vec(),
        participants: participants.iter().map(|p| (*p).to_owned()).collect(),
    };
    let unknown = vec![spec(r#"{"name":"lab"}"#, &["nobody"])];
    assert_eq!(refused(c.create_chains(unknown).await), "node \"nobody\" not found");
    assert!(c.status().await.unwrap().unwrap().custom_chains.is_empty());
    let token = r#"{"name":"vault","join_rule":"token","join_token":"hush"}"#;
    let specs = vec![spec(r#"{"name":"lab"}"#, &["node1", "node2"]), spec(token, &[])];
    let made = c.create_chains(specs.clone()).await.unwrap();
    let info = made.cluster.unwrap();
    assert_eq!(made.ids.len(), 2);
    assert_eq!(info.subnets, made.ids);
    let chain = &info.custom_chains[1];
    assert_eq!(
        (chain.chain_name.as_str(), chain.vm_id.as_str(), chain.vm_name.as_str()),
        ("vault", "pilot-network", "blueprint")
    );
    let genesis = String::from_utf8_lossy(&chain.genesis);
    assert!(genesis.contains("***") && !genesis.contains("hush"), "{genesis}");
    let members = |id: &str| {
        let list = ctl(&info, "node1", &["network", "members", id]).unwrap();
        list["members"].as_array().or_else(|| list["nodes"].as_array()).map_or(0, Vec::len)
    };
    assert_eq!((members(&made.ids[0]), members(&made.ids[1])), (2, 3));
    assert_eq!(c.create_chains(specs).await.unwrap().ids, made.ids, "the same by name");
    let club = vec![spec(r#"{"name":"club","join_rule":"invite","enterprise":true}"#, &["node2"])];
    let id = c.create_chains(club).await.unwrap().ids.remove(0);
    assert_eq!(members(&id), 1);
    let bad = vec![spec(r#"{"name":"x","join_rule":"sometimes"}"#, &["node1"])];
    assert!(refused(c.create_chains(bad).await).starts_with("blueprint 0: "));
    use pilot_wire::zap::{Request, Rpc};
    for rpc in [Rpc::TransformElasticChains, Rpc::AddPermissionlessValidator, Rpc::RemoveChainValidator] {
        assert_eq!(refused(c.call(&Request::Reserved(rpc)).await), "unsupported by this backend");
    }
}

/// `pilotctl net`, from the first start to the end, and who may not call.
#[test]
fn pilotctl_net() {
    let runner = Runner::start();
    let started = runner.net(&["start", "--node", "alpha", "--node", "beta"]);
    assert_eq!(
        (started["healthy"].as_bool(), started["nodes"][0]["state"].as_str()),
        (Some(true), Some("running"))
    );
    assert_eq!(runner.net(&["add", "gamma"])["nodes"].as_array().unwrap().len(), 3);
    runner.net(&["wait"]);
    assert_eq!(runner.net(&["pause", "beta"])["nodes"][1]["state"], "paused");
    runner.net(&["resume", "beta"]);
    let peer = runner.net(&["attach", "alpha"])["peer_id"].as_str().unwrap().to_owned();
    assert_eq!(runner.net(&["send", "alpha", &peer, "0", "--hex", "50494c54"])["sent"], true);
    assert_eq!(runner.net(&["graph"])["nodes"].as_array().unwrap().len(), 3);
    let text = |args: &[&str]| {
        let out =
            Command::new(CTL).args(["net", "--runner-dir"]).arg(&runner.dir).args(args).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    assert!(text(&["status"]).contains("healthy: yes") || text(&["health"]).contains("alpha"));
    assert!(text(&["graph", "--format", "svg"]).ends_with("</svg>\n"));
    assert!(text(&["graph", "--format", "dot"]).starts_with("graph pilot {"));
    assert!(text(&["status", "--watch=100ms", "--rounds", "2"]).matches("alpha").count() >= 2);
    runner.net(&["snapshot", "save", "s1", "--hot"]);
    assert_eq!(runner.net(&["snapshot", "list"])["names"][0], "s1");
    runner.net(&["restart", "gamma"]);
    runner.net(&["rm", "gamma"]);
    assert_eq!(runner.net(&["stop"])["stopped"], true);
    assert_eq!(runner.net(&["snapshot", "load", "s1"])["nodes"].as_array().unwrap().len(), 3);
    runner.net(&["stop"]);
    runner.net(&["snapshot", "rm", "s1"]);

    // A stranger: knows the runner, is not known to it.
    let other = temp_dir();
    let mut stranger = Command::new(CTL);
    stranger.args(["--json", "net", "status", "--runner", &runner.address, "--runner-dir"]).arg(other.path());
    let out = stranger.arg("--runner-identity").arg(runner.dir.join("runner.pub")).output().unwrap();
    let error: Value = serde_json::from_slice(&out.stderr).unwrap();
    assert_eq!(error["code"], "permission_denied", "{error}");
}
