//! Both adapters of every trait back to back, in one library: what goes in comes out, and panics arrive as values.
//! Real `.so` files are tested by the loader.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use super::*;
use crate::abi;
use crate::test_kit::FakeDaemon;
use crate::types::*;
use crate::{
    Connection, Daemon, HandshakeService, Plugin, PolicyManager, PolicyRunner, TrustChecker, WebhookManager,
};

fn object(value: Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap()
}

/// The fake as a plugin would see it.
fn across() -> (Arc<FakeDaemon>, Arc<dyn Daemon>, Arc<Supervisor>) {
    let fake = FakeDaemon::new("/state");
    let plain: Arc<dyn Daemon> = fake.clone();
    let supervisor = Supervisor::new("test");
    supervisor.attach(&plain);
    let lent = plain.lend(&Link::to_plugin(supervisor.clone()));
    // As the adapter of a plugin's `init` does it.
    let link = Link::to_host();
    let daemon = Arc::new(Remote { object: link.asked(lent), link: link.clone() });
    link.tell(Some(daemon.clone()));
    (fake, daemon, supervisor)
}

#[test]
fn daemon_values_survive() {
    let (fake, d, _) = across();
    fake.set_node_id(0xABCD_1234);
    fake.set_identity([7; 32], |m| [m.len() as u8; 64]);
    fake.set_identity_path(Some("/state/identity.json".into()));
    fake.set_admin_token("secret");
    fake.set_trust_auto_approve(true);
    fake.set_config(json!({"url": "http://x", "n": 3}));
    assert_eq!(d.treaty(), (abi::ABI_MAJOR, abi::ABI_MINOR));
    assert_eq!(d.node_id(), 0xABCD_1234);
    assert_eq!(d.addr(), Addr::backbone(0xABCD_1234));
    assert_eq!(d.identity(), Some([7; 32]));
    assert_eq!(d.sign(b"four"), Some([4; 64]));
    assert_eq!(d.identity_path(), Some("/state/identity.json".into()));
    assert_eq!(d.state_dir(), std::path::PathBuf::from("/state"));
    assert_eq!(d.admin_token(), "secret");
    assert!(d.trust_auto_approve());
    assert_eq!(d.config(), json!({"url": "http://x", "n": 3}));
    assert_eq!(d.version_info(), fake.version_info());
    fake.clear_identity();
    assert_eq!((d.identity(), d.sign(b"x")), (None, None));
    d.set_member_tags(9, vec!["a".into(), "b".into()]);
    assert_eq!(fake.member_tags(9).unwrap(), ["a", "b"]);
    d.tunnels().remove_peer(5);
    d.open_reply_window(6);
    assert_eq!((fake.removed_peers(), fake.reply_windows()), (vec![5], vec![6]));
    d.log(2, "target", "message", &object(json!({"k": 1})));
    assert_eq!(fake.logs()[0].fields, object(json!({"k": 1})));
    fake.set_log_level(2);
    assert!(d.log_enabled(2, "t") && !d.log_enabled(3, "t"));
    d.send_datagram(Addr::backbone(3), 44, b"hi").unwrap();
    assert_eq!(fake.datagrams()[0].data, b"hi");
}

#[test]
fn registry_calls_carry_maps_and_errors() {
    let (fake, d, _) = across();
    let e = d.registry_call("lookup", Map::new()).unwrap_err();
    assert_eq!((e.kind(), e.message()), (ErrorKind::Registry, "registry connection not initialized"));
    fake.on_registry_call(|op, params| Ok(object(json!({"op": op, "echo": params}))));
    let answer = d.registry_call("lookup", object(json!({"node_id": 4_294_967_295_u32}))).unwrap();
    assert_eq!(answer, object(json!({"op": "lookup", "echo": {"node_id": 4_294_967_295_u32}})));
    assert_eq!(d.list_nodes(3, "t").unwrap()["op"], "list_nodes");
}

#[test]
fn streams_and_listeners() {
    let (fake, d, _) = across();
    let listener = d.ports().bind(1001).unwrap();
    assert_eq!(listener.port(), 1001);
    assert_eq!(d.ports().bind(1001).err().unwrap().message(), "port 1001 already bound");
    let far = fake.connect_from(Addr { network: 7, node: 9 }, 1001).unwrap();
    let near = listener.accept().unwrap();
    assert_eq!(near.info().remote, Addr { network: 7, node: 9 });
    assert_eq!(near.info().local_port, 1001);
    let sent: Vec<u8> = (0..=255).cycle().take(200_000).collect();
    near.write(&sent).unwrap();
    let mut received = Vec::new();
    let mut buf = vec![0; 65_536];
    while received.len() < sent.len() {
        let n = far.read(&mut buf).unwrap();
        received.extend_from_slice(&buf[..n]);
    }
    assert_eq!(received, sent);
    near.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let e = near.read(&mut buf).unwrap_err();
    assert_eq!((e.kind(), e.message()), (ErrorKind::TimedOut, "pilot: read deadline exceeded"));
    near.set_read_timeout(None).unwrap();
    far.close();
    assert_eq!(near.read(&mut buf).unwrap(), 0);
    assert_eq!(near.write(b"x").unwrap_err().kind(), ErrorKind::Closed);
    drop(listener);
    assert!(fake.bound_ports().is_empty(), "dropping the adopted listener unbinds");
}

#[test]
fn dials_both_ways() {
    let (fake, d, _) = across();
    let e = d.dial(Addr::backbone(9), 80, Duration::from_secs(1)).err().unwrap();
    assert_eq!((e.kind(), e.message()), (ErrorKind::Refused, "connection refused"));
    fake.on_dial(|addr, port| {
        let info = ConnectionInfo { remote: addr, remote_port: port, ..ConnectionInfo::default() };
        Ok(crate::test_kit::stream_pair(info).0)
    });
    assert_eq!(d.dial(Addr::backbone(9), 80, Duration::ZERO).unwrap().info().remote_port, 80);
    let (tx, rx) = std::sync::mpsc::channel();
    let dial = d.dial_async(Addr::backbone(9), 81);
    d.spawn(Box::pin(async move { tx.send(dial.await).unwrap() }));
    assert_eq!(rx.recv().unwrap().unwrap().info().remote_port, 81);
}

#[test]
fn events_through_the_bus() {
    let (fake, d, _) = across();
    let all = d.bus().subscribe("*");
    let some = d.bus().subscribe("trust.*");
    let before = SystemTime::now() - Duration::from_millis(1);
    d.publish("message.received", None);
    d.bus().publish("trust.changed", Some(object(json!({"peer_node_id": 5}))));
    let first = all.recv(Duration::from_secs(5)).unwrap().unwrap();
    assert_eq!((first.topic.as_str(), first.payload, first.node_id), ("message.received", None, 1));
    assert!(first.time >= before && first.time <= SystemTime::now());
    let second = some.recv(Duration::from_secs(5)).unwrap().unwrap();
    assert_eq!(second.payload, Some(object(json!({"peer_node_id": 5}))));
    assert_eq!(some.recv(Duration::ZERO), Ok(None));
    some.cancel();
    assert_eq!(some.recv(Duration::from_secs(5)).unwrap_err().kind(), ErrorKind::Closed);
    drop(all);
    assert_eq!(fake.subscriptions(), 0, "dropping the adopted subscription cancels");
}

#[derive(Default)]
struct Service {
    panics: bool,
}

impl Service {
    fn act<T>(&self, value: T) -> T {
        assert!(!self.panics, "service broke");
        value
    }
}

const GRANT: fn() -> HandshakeTrustRecord = || HandshakeTrustRecord {
    node_id: 3,
    public_key: "a2V5".into(),
    approved_at: 1_700_000_000,
    mutual: true,
    network: 2,
};

impl TrustChecker for Service {
    fn is_trusted(&self, node: u32) -> Option<String> {
        self.act((node == 3).then(|| "Three".into()))
    }
}

impl HandshakeService for Service {
    fn is_trusted(&self, node: u32) -> bool {
        self.act(node == 3)
    }
    fn is_trusted_with_key(&self, node: u32, key: &str) -> bool {
        self.act(node == 3 && key == "a2V5")
    }
    fn trusted_peers(&self) -> Vec<HandshakeTrustRecord> {
        self.act(vec![GRANT()])
    }
    fn pending_requests(&self) -> Vec<HandshakePendingRecord> {
        let justification = "please \"now\"\n".into();
        self.act(vec![HandshakePendingRecord {
            node_id: 4,
            public_key: String::new(),
            justification,
            received_at: -1,
        }])
    }
    fn pending_count(&self) -> u32 {
        self.act(1)
    }
    fn send_request(&self, peer: u32, justification: &str) -> Result<()> {
        self.act(Err(Error::new(ErrorKind::Denied, format!("{peer} {justification}"))))
    }
    fn approve(&self, _: u32) -> Result<()> {
        self.act(Ok(()))
    }
    fn reject(&self, _: u32, _: &str) -> Result<()> {
        self.act(Ok(()))
    }
    fn revoke_trust(&self, peer: u32) -> Result<()> {
        self.act(Err(Error::new(ErrorKind::NotFound, format!("node {peer} was not trusted"))))
    }
    fn wait_for_trust(&self, _: u32, timeout: Duration) -> bool {
        self.act(timeout == Duration::from_millis(2))
    }
    fn process_relayed_request(&self, _: u32, _: &str) {
        self.act(());
    }
    fn process_relayed_approval(&self, _: u32) {
        self.act(());
    }
    fn process_relayed_rejection(&self, _: u32) {
        self.act(());
    }
    fn stop(&self) {
        self.act(());
    }
}

impl WebhookManager for Service {
    fn set_url(&self, url: &str) -> Result<()> {
        self.act(if url.starts_with("http") { Ok(()) } else { Err(Error::invalid("bad url")) })
    }
    fn url(&self) -> String {
        self.act("http://x".into())
    }
    fn stats(&self) -> WebhookStats {
        self.act(WebhookStats { dropped: 1, circuit_skips: 2 })
    }
}

impl PolicyManager for Service {
    fn start(&self, network: u16, document_json: &str) -> Result<()> {
        self.act(Err(Error::invalid(format!("parse policy: {network} {document_json}"))))
    }
    fn stop(&self, _: u16) {
        self.act(());
    }
    fn get(&self, network: u16) -> Option<Arc<dyn PolicyRunner>> {
        self.act(());
        (network == 2).then(|| Arc::new(Service { panics: self.panics }) as Arc<dyn PolicyRunner>)
    }
    fn all(&self) -> Vec<Arc<dyn PolicyRunner>> {
        self.act(vec![Arc::new(Service::default()), Arc::new(Service::default())])
    }
    fn stop_all(&self) {
        self.act(());
    }
    fn load_persisted(&self) -> Result<Vec<u16>> {
        self.act(Ok(vec![2, 9]))
    }
}

impl PolicyRunner for Service {
    fn network_id(&self) -> u16 {
        self.act(2)
    }
    fn has_member(&self, node: u32) -> bool {
        self.act(node == 3)
    }
    fn evaluate_port_gate(&self, gate: &PortGate) -> bool {
        self.act(*gate == the_gate())
    }
    fn evaluate_actions(&self, event: &str, context: &Map<String, Value>) {
        assert_eq!((event, context), ("join", &object(json!({"peer": 3}))));
        self.act(());
    }
    fn status(&self) -> Map<String, Value> {
        self.act(object(json!({"peers": 1})))
    }
    fn peer_list(&self) -> Vec<Value> {
        self.act(vec![json!({"id": 3})])
    }
    fn force_cycle(&self) -> Result<Map<String, Value>> {
        self.act(Ok(object(json!({"pruned": 0}))))
    }
    fn reconcile_now(&self) -> Result<u32> {
        self.act(Ok(11))
    }
    fn policy_json(&self) -> String {
        self.act("{}".into())
    }
    fn stop(&self) {
        self.act(());
    }
}

fn the_gate() -> PortGate {
    PortGate {
        event: PolicyEvent::Datagram,
        port: 1001,
        peer: 3,
        payload_size: 99,
        direction: Direction::Out,
        local_tags: vec!["a".into(), "b".into()],
        node_info_tags: vec!["c".into()],
    }
}

/// Registers `service` as a plugin would and hands out what the host then holds.
fn registered(panics: bool) -> (Arc<FakeDaemon>, Arc<Supervisor>, Arc<dyn HandshakeService>) {
    let (fake, d, supervisor) = across();
    d.register_handshake_service(Arc::new(Service { panics }));
    d.register_trust_checker(Arc::new(Service { panics }));
    d.register_policy_manager(Arc::new(Service { panics }));
    d.register_webhook_manager(Arc::new(Service { panics }));
    let service = fake.handshake_service().unwrap();
    (fake, supervisor, service)
}

#[test]
fn services_answer_through_the_border() {
    let (fake, supervisor, h) = registered(false);
    assert!(h.is_trusted(3) && !h.is_trusted(4));
    assert!(h.is_trusted_with_key(3, "a2V5") && !h.is_trusted_with_key(3, ""));
    assert_eq!(h.trusted_peers(), [GRANT()]);
    assert_eq!(h.pending_requests()[0].justification, "please \"now\"\n");
    assert_eq!(h.pending_count(), 1);
    assert_eq!(h.send_request(8, "hi").unwrap_err(), Error::new(ErrorKind::Denied, "8 hi"));
    assert_eq!(h.revoke_trust(8).unwrap_err().message(), "node 8 was not trusted");
    assert!(h.approve(1).is_ok() && h.reject(1, "no").is_ok());
    assert!(h.wait_for_trust(3, Duration::from_micros(1500)), "spans are rounded up to milliseconds");
    let checker = fake.trust_checker().unwrap();
    assert_eq!((checker.is_trusted(3), checker.is_trusted(4)), (Some("Three".into()), None));
    let w = fake.webhook_manager().unwrap();
    assert_eq!((w.url().as_str(), w.stats()), ("http://x", WebhookStats { dropped: 1, circuit_skips: 2 }));
    assert_eq!(w.set_url("ftp").unwrap_err().kind(), ErrorKind::Invalid);
    let p = fake.policy_manager().unwrap();
    assert_eq!(p.start(2, "{").unwrap_err().message(), "parse policy: 2 {");
    assert_eq!(p.load_persisted().unwrap(), [2, 9]);
    assert_eq!(p.all().len(), 2);
    assert!(p.get(5).is_none());
    let r = p.get(2).unwrap();
    assert_eq!((r.network_id(), r.has_member(3), r.has_member(4)), (2, true, false));
    assert!(r.evaluate_port_gate(&the_gate()));
    assert!(!r.evaluate_port_gate(&PortGate { port: 1, ..the_gate() }));
    r.evaluate_actions("join", &object(json!({"peer": 3})));
    assert_eq!(r.status(), object(json!({"peers": 1})));
    assert_eq!(r.peer_list(), [json!({"id": 3})]);
    assert_eq!(r.force_cycle().unwrap(), object(json!({"pruned": 0})));
    assert_eq!((r.reconcile_now().unwrap(), r.policy_json().as_str()), (11, "{}"));
    assert_eq!((supervisor.failure(), supervisor.faults()), (None, 0));
}

#[test]
fn a_panicking_service_denies_and_is_not_called_again() {
    let (fake, supervisor, h) = registered(true);
    let runner: Arc<dyn PolicyRunner> = {
        let lent = (Arc::new(Service { panics: true }) as Arc<dyn PolicyRunner>).lend(&Link::to_host());
        <dyn PolicyRunner>::adopt(lent, &Link::to_plugin(supervisor.clone()))
    };
    assert!(!runner.evaluate_port_gate(&the_gate()), "a gate that breaks denies");
    assert_eq!(supervisor.failure(), Some("PolicyRunner.evaluate_port_gate panicked: service broke"));
    assert_eq!(fake.faults().len(), 1);
    assert!(!h.is_trusted(3) && h.trusted_peers().is_empty());
    assert!(runner.has_member(3), "a runner that cannot answer is still asked at its gate");
    assert_eq!(fake.trust_checker().unwrap().is_trusted(3), None);
    let e = h.approve(3).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Closed);
    assert!(e.message().contains("plugin \"test\" has failed"), "{e}");
    assert_eq!(supervisor.faults(), 1, "calls that were not made are no faults");
}

#[test]
fn a_panic_behind_an_answer_without_room_for_it_is_noted_before_the_answer() {
    for with_key in [false, true] {
        let (fake, supervisor, h) = registered(true);
        assert!(!if with_key { h.is_trusted_with_key(3, "a2V5") } else { h.is_trusted(3) });
        let op =
            if with_key { "HandshakeService.is_trusted_with_key" } else { "HandshakeService.is_trusted" };
        let why = format!("{op} panicked: service broke");
        assert_eq!(supervisor.failure(), Some(why.as_str()));
        assert_eq!(fake.faults(), [(op.to_owned(), why)]);
        let fault = supervisor.ledger().pop().unwrap();
        assert_eq!((fault.op.as_str(), fault.source), (op, crate::host::FaultSource::Border));
        assert!(!h.is_trusted(3) && !h.is_trusted_with_key(3, "a2V5"));
        assert_eq!(supervisor.faults(), 1, "it is not called again");
    }
}

/// Today's objects asked as those of treaty 1.0 are, which have no bare answers.
#[test]
fn the_other_side_may_be_of_treaty_1_0() {
    for panics in [false, true] {
        let supervisor = Supervisor::new("old");
        let lent = (Arc::new(Service { panics }) as Arc<dyn HandshakeService>).lend(&Link::to_host());
        let link = Link::to_plugin(supervisor.clone());
        let old = Remote { object: link.asked(lent), link };
        assert_eq!(old.is_trusted_1_0(3), !panics);
        assert_eq!(old.is_trusted_with_key_1_0(3, "a2V5"), !panics);
        let why = panics.then_some("HandshakeService.is_trusted panicked: service broke");
        assert_eq!(supervisor.failure(), why);
    }
    let fake = FakeDaemon::new("/state");
    fake.set_node_id(9);
    let lent = (fake as Arc<dyn Daemon>).lend(&Link::to_plugin(Supervisor::new("test")));
    let link = Link::to_host();
    let old = Remote { object: link.asked(lent), link };
    assert_eq!((old.node_id_1_0(), old.addr_1_0()), (9, Addr::backbone(9).to_u64()));
    assert!(old.log_enabled_1_0(1, "t"));
}

#[test]
fn a_host_that_panics_behind_such_an_answer_gives_the_safe_one() {
    let supervisor = Supervisor::new("test");
    let local = Local::new(Arc::new(7), Crossing(Link::to_plugin(supervisor.clone())));
    assert_eq!(local.bare("Daemon.node_id", 0, |n| *n), 7);
    assert_eq!(local.bare("Daemon.node_id", 0, |_| panic!("host bug")), 0);
    assert_eq!(supervisor.failure(), None, "the host's own bug does not condemn the plugin");
}

#[test]
fn a_panicking_host_method_is_an_error_for_the_plugin() {
    let (fake, d, supervisor) = across();
    fake.on_registry_call(|_, _| panic!("host bug"));
    let e = d.registry_call("x", Map::new()).unwrap_err();
    assert_eq!((e.kind(), e.message()), (ErrorKind::Panicked, "Daemon.registry_call panicked: host bug"));
    fake.set_identity([0; 32], |_| panic!("host bug"));
    assert_eq!(d.sign(b"x"), None);
    assert_eq!(supervisor.failure(), None, "the host's own bug does not condemn the plugin");
}

#[test]
fn futures_that_panic_end_quietly() {
    let (fake, d, supervisor) = across();
    d.spawn(Box::pin(async { panic!("in poll") }));
    assert_eq!(fake.wait_for_fault("spawned future").as_deref(), Some("in poll"));
    assert_eq!(supervisor.failure(), None, "contained on the plugin's side, so only counted");
    // A library without our wrapper panics in the poll itself; then the host's wrapper catches it.
    struct Rude(Arc<AtomicBool>);
    impl Drop for Rude {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
            panic!("in drop");
        }
    }
    let dropped = Arc::new(AtomicBool::new(false));
    let rude = Rude(dropped.clone());
    let task: crate::api::BoxFuture<()> = Box::pin(async move {
        let _rude = rude;
        std::future::pending::<()>().await;
    });
    drop(future::contain(task, |_| ()));
    assert!(dropped.load(Ordering::Acquire));
    let (tx, rx) = std::sync::mpsc::channel();
    let sleep = d.sleep(Duration::from_millis(5));
    d.spawn(Box::pin(async move {
        sleep.await;
        tx.send(()).unwrap();
    }));
    rx.recv_timeout(Duration::from_secs(10)).unwrap();
}

/// A stream whose every method misbehaves, its drop included.
struct Broken;

impl Connection for Broken {
    fn id(&self) -> u32 {
        panic!("id")
    }
    fn info(&self) -> ConnectionInfo {
        panic!("info")
    }
    fn read(&self, buf: &mut [u8]) -> Result<usize> {
        Ok(buf.len() + 1)
    }
    fn write(&self, _: &[u8]) -> Result<()> {
        panic!("write")
    }
    fn set_read_timeout(&self, _: Option<Duration>) -> Result<()> {
        Ok(())
    }
    fn close(&self) {
        panic!("close")
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        panic!("drop");
    }
}

#[test]
fn objects_that_misbehave_in_every_method() {
    let c = (Arc::new(Broken) as Arc<dyn Connection>).lend(&Link::to_host());
    let c = <dyn Connection>::adopt(c, &Link::to_host());
    assert_eq!((c.id(), c.info()), (0, ConnectionInfo::default()));
    assert!(c.read(&mut [0; 4]).unwrap_err().message().contains("5 bytes into a buffer of 4"));
    assert_eq!(c.write(b"x").unwrap_err().kind(), ErrorKind::Panicked);
    c.close();
    drop(c);
}

struct Life {
    init_panics: bool,
}

impl Plugin for Life {
    fn init(&self, daemon: Arc<dyn Daemon>) -> Result<()> {
        assert!(!self.init_panics, "at init");
        tracing::info!(answer = 42, name = "x", "hello from {}", "inside");
        tracing::trace!("below the level");
        let thread = crate::spawn_thread(daemon, "worker", || panic!("in thread"))?;
        thread.join().map_err(|_| Error::other("not contained"))
    }

    fn shutdown(&self, deadline: Duration) -> Result<()> {
        Err(Error::other(format!("{} ms", deadline.as_millis())))
    }
}

/// One test, because the bridge's slot is one per library.
#[test]
fn plugin_life_with_the_log_bridge() {
    let fake = FakeDaemon::new("/state");
    fake.set_log_level(3);
    let plain: Arc<dyn Daemon> = fake.clone();
    let supervisor = Supervisor::new("life");
    let lent = (Arc::new(Life { init_panics: false }) as Arc<dyn Plugin>).lend(&Link::to_host());
    let plugin = <dyn Plugin>::adopt(lent, &Link::to_plugin(supervisor.clone()));
    plugin.init(plain.clone()).unwrap();
    let logs = fake.logs();
    let hello = logs.iter().find(|l| l.message == "hello from inside").unwrap();
    assert_eq!((hello.level, hello.target.as_str()), (3, "plugin_abi::bridge::tests"));
    assert_eq!(hello.fields, object(json!({"answer": 42, "name": "x"})));
    assert!(!logs.iter().any(|l| l.level == 5));
    let panic = logs.iter().find(|l| l.target == "panic" && l.message == "panicked: in thread").unwrap();
    assert_eq!(panic.fields["thread"], "worker");
    assert_eq!(fake.faults(), [("worker".to_owned(), "in thread".to_owned())]);
    assert_eq!((supervisor.faults(), supervisor.failure()), (1, None));
    assert_eq!(plugin.shutdown(Duration::from_millis(7)).unwrap_err().message(), "7 ms");
    drop(plugin);

    let lent = (Arc::new(Life { init_panics: true }) as Arc<dyn Plugin>).lend(&Link::to_host());
    let plugin = <dyn Plugin>::adopt(lent, &Link::to_plugin(supervisor.clone()));
    let e = plugin.init(plain).unwrap_err();
    assert_eq!((e.kind(), e.message()), (ErrorKind::Panicked, "init panicked: at init"));
    assert_eq!(supervisor.failure(), Some("init panicked: at init"));
    assert!(
        plugin.shutdown(Duration::from_millis(7)).unwrap_err().message() == "7 ms",
        "shutdown is always called"
    );

    // After `shutdown` nothing of a plugin keeps the host's object alive, whatever the host still holds of the plugin.
    let fake = FakeDaemon::new("/state");
    let plugin = crate::host::contain(Arc::new(Serves), Supervisor::new("serves"));
    plugin.init(fake.clone()).unwrap();
    let service = fake.handshake_service().unwrap();
    assert!(Arc::strong_count(&fake) > 1);
    plugin.shutdown(Duration::from_secs(1)).unwrap();
    assert_eq!(Arc::strong_count(&fake), 1);
    assert!(!service.is_trusted(3), "nobody is left to be told, and the answer is the safe one");
}

/// Registers a service and keeps nothing.
struct Serves;

impl Plugin for Serves {
    fn init(&self, daemon: Arc<dyn Daemon>) -> Result<()> {
        daemon.register_handshake_service(Arc::new(Service { panics: true }));
        Ok(())
    }

    fn shutdown(&self, _: Duration) -> Result<()> {
        Ok(())
    }
}
