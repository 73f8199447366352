//! The plugin as the host sees it: start and stop, the manager, reactions to the bus, the local document.

use plugin_abi::{Daemon, Plugin, PolicyManager};

use super::*;
use crate::manager::Manager;
use crate::plugin::PolicyPlugin;

const DENY_22: &str =
    r#"{"version":1,"rules":[{"name":"r","on":"connect","match":"port == 22","actions":[{"type":"deny"}]}]}"#;
const DENY_23: &str =
    r#"{"version":1,"rules":[{"name":"r","on":"connect","match":"port == 23","actions":[{"type":"deny"}]}]}"#;

struct Host {
    dir: tempfile::TempDir,
    daemon: Arc<FakeDaemon>,
    clock: Arc<TestClock>,
    plugin: PolicyPlugin,
}

impl Host {
    fn new() -> Host {
        let dir = tempfile::tempdir().unwrap();
        let daemon = FakeDaemon::new(dir.path());
        let clock = Arc::<TestClock>::default();
        Host { dir, daemon, plugin: PolicyPlugin::with_clock(clock.clone()), clock }
    }

    fn started() -> Host {
        let host = Host::new();
        host.plugin.init(host.daemon.clone()).unwrap();
        host
    }

    fn manager(&self) -> Arc<dyn PolicyManager> {
        self.daemon.policy_manager().expect("registered in init")
    }

    fn publish(&self, topic: &str, payload: Value) {
        self.daemon.bus().publish(topic, payload.as_object().cloned());
    }

    /// Waits until the plugin has seen everything published before: it answers a join of another network.
    fn settle(&self, marker: u16) {
        let hello =
            r#"{"version":1,"rules":[{"name":"r","on":"dial","match":"true","actions":[{"type":"allow"}]}]}"#;
        self.publish("network.joined", json!({"network_id": marker, "expr_policy": hello}));
        let deadline = std::time::Instant::now() + plugin_abi::test_kit::PATIENCE;
        while self.manager().get(marker).is_none() {
            assert!(std::time::Instant::now() < deadline, "the plugin does not react");
            std::thread::yield_now();
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.plugin.shutdown(Duration::from_secs(10)).unwrap();
            assert_eq!(self.daemon.faults(), []);
        }
    }
}

fn allows(manager: &dyn PolicyManager, network: u16, port: u16) -> bool {
    manager.get(network).unwrap().evaluate_port_gate(&connect(9, port))
}

#[test]
fn a_bad_document_leaves_the_old_policy_in_force() {
    let host = Host::started();
    let manager = host.manager();
    manager.start(7, DENY_22).unwrap();
    let error = |document: &str| manager.start(7, document).unwrap_err().message().to_owned();
    assert_eq!(error("{"), "parse policy: policy: invalid JSON: unexpected end of JSON input");
    let unknown = DENY_22.replace("port", "speed");
    assert_eq!(error(&unknown), "compile policy: policy: rule \"r\" match: unknown name speed (1:1)");
    assert!(!allows(&*manager, 7, 22) && allows(&*manager, 7, 23));

    manager.start(7, DENY_23).unwrap();
    assert!(allows(&*manager, 7, 22) && !allows(&*manager, 7, 23));
    assert_eq!(manager.all().len(), 1);
    manager.stop(7);
    manager.stop(7);
    assert!(manager.get(7).is_none());
}

#[test]
fn a_new_policy_takes_over_what_the_old_one_knew() {
    let host = Host::started();
    let manager = host.manager();
    let tagging = r#"{"version":1,"rules":[{"name":"r","on":"connect","match":"true","actions":[{"type":"tag","params":{"add":["x"]}}]}]}"#;
    std::fs::write(
        host.dir.path().join("policy_7.json"),
        r#"{"network_id":7,"peers":{"9":{"node_id":9,"added_at":"2020-01-01T00:00:00Z"}}}"#,
    )
    .unwrap();
    manager.start(7, tagging).unwrap();
    assert!(allows(&*manager, 7, 80));
    manager.start(7, DENY_22).unwrap();
    assert_eq!(manager.get(7).unwrap().peer_list()[0]["tags"], json!(["x"]));
    assert_eq!(manager.load_persisted(), Ok(vec![7]));
}

#[test]
fn without_a_daemon_nothing_starts() {
    let manager = Manager::default();
    assert_eq!(manager.start(7, DENY_22).unwrap_err().message(), "policy: runtime not configured");
    manager.stop(7);
    manager.stop_all();
    manager.stop_all();
}

#[test]
fn policies_come_and_go_with_networks() {
    let host = Host::started();
    let manager = host.manager();
    let object: Value = serde_json::from_str(DENY_22).unwrap();
    host.publish("network.joined", json!({"network_id": 3, "expr_policy": DENY_22}));
    host.publish("network.joined", json!({"network_id": 4.0, "expr_policy": object}));
    host.publish("network.joined", json!({"network_id": 5, "expr_policy": DENY_22.as_bytes()}));
    // Ignored, each for its own reason.
    host.publish("network.joined", json!({"network_id": 0, "expr_policy": DENY_22}));
    host.publish("network.joined", json!({"network_id": 70_000, "expr_policy": DENY_22}));
    host.publish("network.joined", json!({"network_id": 6, "expr_policy": null}));
    host.publish("network.joined", json!({"network_id": 6}));
    host.publish("network.joined", json!({"network_id": 6, "expr_policy": "{"}));
    host.publish("network.tags_changed", json!({"network_id": 3}));
    // The policy in force is kept.
    host.publish("network.joined", json!({"network_id": 3, "expr_policy": DENY_23}));
    host.settle(100);
    let mut networks: Vec<u16> = manager.all().iter().map(|r| r.network_id()).collect();
    networks.sort_unstable();
    assert_eq!(networks, [3, 4, 5, 100]);
    assert!((3..=5).all(|network| !allows(&*manager, network, 22) && allows(&*manager, network, 23)));

    host.publish("network.left", json!({"network_id": 4}));
    host.settle(101);
    assert!(manager.get(4).is_none());
}

#[test]
fn a_local_document_gates_from_the_start() {
    let host = Host::new();
    std::fs::write(host.dir.path().join("gate.json"), DENY_22).unwrap();
    host.daemon.set_config(json!({"document": "gate.json"}));
    host.plugin.init(host.daemon.clone()).unwrap();
    assert!(!allows(&*host.manager(), 0, 22) && allows(&*host.manager(), 0, 23));
    // The backbone's members are everybody; nobody asks the registry for that list.
    let runner = host.manager().get(0).unwrap();
    assert_eq!(runner.reconcile_now(), Ok(0));
    runner.force_cycle().unwrap();
    assert_eq!(host.daemon.registry_calls(), []);
}

#[test]
fn a_local_document_that_cannot_be_used_stops_the_start() {
    let host = Host::new();
    host.daemon.set_config(json!({"document": "gate.json"}));
    let path = host.dir.path().join("gate.json");
    let error = host.plugin.init(host.daemon.clone()).unwrap_err().message().to_owned();
    assert!(error.contains(path.to_str().unwrap()) && error.contains("No such file"), "{error}");
    std::fs::write(&path, DENY_22.replace("port", "speed")).unwrap();
    let error = host.plugin.init(host.daemon.clone()).unwrap_err().message().to_owned();
    assert!(error.contains("unknown name speed"), "{error}");
    host.daemon.set_config(json!({"documents": []}));
    assert!(host.plugin.init(host.daemon.clone()).is_err());
}

#[test]
fn shutdown_lets_go_of_the_daemon() {
    let host = Host::started();
    host.manager().start(7, DENY_22).unwrap();
    host.plugin.shutdown(Duration::from_secs(10)).unwrap();
    assert!(host.manager().get(7).is_none());
    assert_eq!(host.manager().start(7, DENY_22).unwrap_err().message(), "policy: runtime not configured");
    host.plugin.shutdown(Duration::from_secs(10)).unwrap();
    assert_eq!(host.daemon.subscriptions(), 0);
}

/// Rules as a network's administrator gives them.
fn rules(links: u32) -> Value {
    json!({"links": links, "cycle": "1h", "prune": 1, "prune_by": "age", "fill": 2, "fill_how": "random", "grace": "10m"})
}

#[test]
fn a_managed_network_links_to_some_and_turns_them_over() {
    let host = Host::new();
    host.daemon.set_node_id(1);
    let nodes: Vec<Value> = (1..=20).map(|n| json!({"node_id": n})).collect();
    host.daemon.on_list_nodes(move |_, _| Ok(Map::from_iter([("nodes".to_owned(), json!(nodes))])));
    host.plugin.init(host.daemon.clone()).unwrap();
    host.publish("network.joined", json!({"network_id": 7, "rules": rules(4)}));
    host.settle(100);
    let runner = host.manager().get(7).unwrap();
    let count = || runner.peer_list().len();
    let deadline = std::time::Instant::now() + plugin_abi::test_kit::PATIENCE;
    while count() == 0 {
        assert!(std::time::Instant::now() < deadline, "no bootstrap");
        std::thread::yield_now();
    }
    assert_eq!((count(), runner.reconcile_now()), (4, Ok(4)), "reconcile brings nobody in");
    let status = runner.status();
    assert_eq!(
        (&status["engine"], &status["max_peers"], &status["cycle"]),
        (&json!("managed"), &json!(4), &json!("1h"))
    );

    // All are younger than the grace: nobody goes, and there is no room for anybody.
    let told = json!({"network_id": 7, "pruned": 0, "filled": 0, "peers": 4});
    assert_eq!(Value::Object(runner.force_cycle().unwrap()), told);
    host.clock.advance(Duration::from_secs(601));
    let before = runner.peer_list();
    let told = json!({"network_id": 7, "pruned": 1, "filled": 1, "peers": 4});
    assert_eq!(Value::Object(runner.force_cycle().unwrap()), told);
    let kept = runner.peer_list().iter().filter(|p| before.contains(p)).count();
    assert!(kept >= 3);
    let event = host.daemon.wait_for_nth_event("managed.cycle", 2).unwrap();
    assert_eq!(Value::Object(event.payload.unwrap()), told);
    assert!(
        host.dir.path().join("managed_7.json").exists() && !host.dir.path().join("policy_7.json").exists()
    );
}

#[test]
fn policies_of_networks_come_back_after_a_restart() {
    let host = Host::new();
    host.daemon.set_node_id(5);
    host.daemon.on_registry_call(|op, params| {
        let answer = match op {
            "lookup" => json!({"networks": [0, 3, 4, 6]}),
            "list_networks" => json!({"networks": [{"id": 0}, {"id": 3, "has_expr_policy": true}, {"id": 4, "rules": rules(2)},
                {"id": 6}, {"id": 9, "has_expr_policy": true}]}),
            "get_expr_policy" => {
                assert_eq!(params["network_id"], 3, "asked only for networks of this node");
                json!({"expr_policy": serde_json::from_str::<Value>(DENY_22).unwrap()})
            }
            _ => return Err(Error::other("not here")),
        };
        Ok(answer.as_object().unwrap().clone())
    });
    host.plugin.init(host.daemon.clone()).unwrap();
    host.publish("node.registered", json!({"address": "0:0000.0000.0005"}));
    let deadline = std::time::Instant::now() + plugin_abi::test_kit::PATIENCE;
    while host.manager().all().len() < 2 {
        assert!(std::time::Instant::now() < deadline, "not restored");
        std::thread::yield_now();
    }
    assert!(!allows(&*host.manager(), 3, 22));
    assert_eq!(host.manager().get(4).unwrap().status()["engine"], "managed");
    assert!(host.manager().get(6).is_none() && host.manager().get(9).is_none());
}
