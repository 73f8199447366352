//! Each ability on the fake daemon, and the whole plugin in a real host.

use super::*;
use pilot_host::testing::TestNetwork;
use plugin_abi::test_kit::FakeDaemon;

const LIMIT: Duration = Duration::from_secs(10);

fn started(config: serde_json::Value) -> (Arc<FakeDaemon>, EveryAbility) {
    let daemon = FakeDaemon::new(std::env::temp_dir());
    daemon.set_config(config);
    let plugin = EveryAbility::default();
    plugin.init(daemon.clone()).unwrap();
    (daemon, plugin)
}

fn stopped(daemon: &FakeDaemon, plugin: &EveryAbility) {
    plugin.shutdown(LIMIT).unwrap();
    assert!(daemon.bound_ports().is_empty() && daemon.subscriptions() == 0);
}

fn ask(stream: &dyn Connection, text: &[u8]) -> Vec<u8> {
    stream.write(text).unwrap();
    let mut answer = vec![0; 64];
    let n = stream.read(&mut answer).unwrap();
    answer.truncate(n);
    answer
}

#[test]
fn greets_visitors_and_survives_the_bad_ones() {
    let (daemon, plugin) = started(json!({}));
    assert_eq!(ask(daemon.connect(7100).unwrap().as_ref(), b"Ada"), b"hello Ada");
    assert_eq!(ask(daemon.connect(7100).unwrap().as_ref(), b"\xff"), b"");
    assert_eq!(ask(daemon.connect(7100).unwrap().as_ref(), b"\x01"), b"");
    assert_eq!(daemon.wait_for_fault("greet").as_deref(), Some("a visitor said the word"));
    assert_eq!(ask(daemon.connect(7100).unwrap().as_ref(), b"Bob"), b"hello Bob");
    stopped(&daemon, &plugin);
}

#[test]
fn vouches_for_friends_ticks_and_dials_itself_when_registered() {
    let (daemon, plugin) = started(json!({ "friends": [17], "tick_ms": 5 }));
    let checker = daemon.trust_checker().unwrap();
    assert_eq!((checker.is_trusted(17).as_deref(), checker.is_trusted(18)), (Some("friend 17"), None));
    let tick = daemon.wait_for_event("plugin.every-ability.tick").unwrap();
    assert_eq!(tick.payload.unwrap()["number"], 1);
    daemon.on_dial(|_, _| Err(Error::new(ErrorKind::Refused, "connection refused")));
    daemon.publish("node.registered", None);
    while daemon.dials().is_empty() {
        std::thread::yield_now();
    }
    assert_eq!(daemon.dials(), [(Addr::backbone(1), 7100)]);
    stopped(&daemon, &plugin);
}

#[test]
fn a_bad_configuration_is_named() {
    let daemon = FakeDaemon::new(std::env::temp_dir());
    daemon.set_config(json!({ "prot": 1 }));
    let error = EveryAbility::default().init(daemon).unwrap_err().to_string();
    assert!(error.starts_with("[plugin.every-ability]: unknown field `prot`"), "{error}");
}

#[test]
fn in_a_real_host() {
    let network = TestNetwork::start().unwrap();
    network.plugin("every-ability", EveryAbility::default).unwrap();
    let host = network
        .host(
            "a",
            "[plugin.every-ability]\nfriends = [17]\ntick_ms = 20\n\
             [plugins.settings.every-ability.capabilities]\n\
             ports = [7100]\ndial = ['*:*:7100']\nservices = ['trust-checker']\n",
        )
        .unwrap();
    let daemon = host.daemon();
    let ticks = daemon.bus().subscribe("plugin.every-ability.tick");
    assert!(ticks.recv(LIMIT).unwrap().is_some());
    assert_eq!(daemon.trust_checker().unwrap().is_trusted(17).as_deref(), Some("friend 17"));
    host.stop().unwrap();
}
