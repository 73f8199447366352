//! Everything that must work in a process of its own, and every way to end one: asked by configuration, by events, over
//! its port, by questions to its services.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use plugin_abi::{
    Addr, Connection, Daemon, Error, HandshakePendingRecord, HandshakeService, HandshakeTrustRecord, Plugin,
    PolicyManager, PolicyRunner, PortGate, Result, TrustChecker, WebhookManager, WebhookStats, spawn_thread,
};
use serde_json::{Map, Value, json};

/// Ends the process, or this call, in the way that `how` names.
fn misbehave(how: &str) {
    match how {
        // SAFETY: none; this is the crash that the tests ask for.
        "segv" => unsafe { std::ptr::null_mut::<u8>().write_volatile(1) },
        "abort" => std::process::abort(),
        "exit" => std::process::exit(0),
        "exit3" => std::process::exit(3),
        "loop" => loop {
            std::hint::spin_loop();
        },
        "panic" => panic!("as asked"),
        "eat" => {
            let mut all = Vec::new();
            loop {
                all.push(vec![0u8; 64 << 20]);
            }
        }
        _ => {}
    }
}

#[derive(Default)]
struct Isolated {
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
    daemon: Mutex<Option<Arc<dyn Daemon>>>,
}

impl Plugin for Isolated {
    fn init(&self, daemon: Arc<dyn Daemon>) -> Result<()> {
        let config = daemon.config();
        let text = |key: &str| config[key].as_str().unwrap_or_default().to_owned();
        println!("init in process {}", std::process::id());
        tracing::info!(pid = std::process::id(), "isolated plugin starts");
        if let Some(file) = config["crash_unless"].as_str()
            && !std::path::Path::new(file).exists()
        {
            misbehave("abort");
        }
        misbehave(&text("init"));
        if text("init") == "fail" {
            return Err(Error::invalid("this configuration is not for me"));
        }
        daemon.register_trust_checker(Arc::new(Checker));
        daemon.register_policy_manager(Arc::new(Policies {
            daemon: Arc::downgrade(&daemon),
            running: Mutex::default(),
        }));
        daemon.register_webhook_manager(Arc::new(Hook::default()));
        daemon.register_handshake_service(Arc::new(Trust));

        let listener = daemon.ports().bind(7007)?;
        let accept = spawn_thread(Arc::clone(&daemon), "echo", move || {
            while let Some(stream) = listener.accept() {
                std::thread::spawn(move || echo(stream.as_ref()));
            }
        })?;
        let events = daemon.bus().subscribe("test.*");
        let worker = Arc::clone(&daemon);
        let watch = spawn_thread(Arc::clone(&daemon), "events", move || {
            while let Ok(event) = events.recv(Duration::from_millis(200)) {
                let Some(event) = event else { continue };
                match event.topic.as_str() {
                    "test.stop" => return,
                    "test.calls" => call_everything(&worker),
                    "test.flood" => flood(worker.as_ref()),
                    topic => match topic.strip_prefix("test.do.") {
                        Some(how) => misbehave(how),
                        None => worker.publish(&topic.replace("test.", "echo."), event.payload),
                    },
                }
            }
        })?;
        let (clock, report) = (Arc::clone(&daemon), Arc::clone(&daemon));
        daemon.spawn(Box::pin(async move {
            clock.sleep(Duration::from_millis(5)).await;
            report.publish("isolated.awake", None);
        }));
        *self.threads.lock().unwrap_or_else(PoisonError::into_inner) = vec![accept, watch];
        *self.daemon.lock().unwrap_or_else(PoisonError::into_inner) = Some(daemon);
        Ok(())
    }

    fn shutdown(&self, _: Duration) -> Result<()> {
        let daemon = self.daemon.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(daemon) = daemon {
            misbehave(daemon.config()["shutdown"].as_str().unwrap_or_default());
            daemon.publish("test.stop", None);
            daemon.ports().unbind(7007);
        }
        for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = thread.join();
        }
        tracing::info!("isolated plugin stops");
        Ok(())
    }
}

fn echo(stream: &dyn Connection) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        if let Some(how) = buffer[..n].strip_prefix(b"do ") {
            misbehave(String::from_utf8_lossy(how).trim());
        }
        if stream.write(&buffer[..n]).is_err() {
            break;
        }
    }
    stream.close();
}

/// Sends log lines faster than anybody takes them, and events too large to be taken.
fn flood(daemon: &dyn Daemon) {
    for i in 0..20_000 {
        daemon.log(3, "flood", &format!("line {i} {}", "x".repeat(1000)), &Map::new());
    }
    daemon.publish("echo.flood", None);
}

/// Uses every method of the daemon and tells what came of it.
fn call_everything(daemon: &Arc<dyn Daemon>) {
    let peer = Addr::backbone(9);
    let text = |e: Error| e.to_string();
    let dialled = daemon.dial(peer, 7, Duration::from_secs(5)).map(|stream| {
        let mut got = [0; 16];
        let said = stream.write(b"hello").and_then(|()| stream.read(&mut got));
        let _ = stream.set_read_timeout(Some(Duration::from_millis(10)));
        let late = stream.read(&mut got).map_err(text);
        stream.close();
        json!({"info": format!("{:?}", stream.info()), "said": said.map_err(text), "late": late,
               "text": String::from_utf8_lossy(&got[..5])})
    });
    let (tell, told) = std::sync::mpsc::channel();
    let dialler = Arc::clone(daemon);
    daemon.spawn(Box::pin(async move {
        let _ = tell.send(dialler.dial_async(Addr::backbone(8), 7).await.map(|c| c.info().remote.node));
    }));
    let mut params = Map::new();
    params.insert("n".into(), json!(1));
    daemon.open_reply_window(9);
    daemon.tunnels().remove_peer(10);
    daemon.set_member_tags(7, vec!["a".into(), "b".into()]);
    daemon.set_webhook_url("http://example.org/");
    daemon.report_fault("calls", "a fault that was handled");
    let result = json!({
        "treaty": daemon.treaty(),
        "node_id": daemon.node_id(),
        "addr": daemon.addr().to_string(),
        "identity": daemon.identity().map(|k| k.to_vec()),
        "identity_path": daemon.identity_path(),
        "signature": daemon.sign(b"message").map(|s| s[..8].to_vec()),
        "admin_token": daemon.admin_token(),
        "auto": daemon.trust_auto_approve(),
        "dial": dialled.map_err(text),
        "dial_async": told.recv_timeout(Duration::from_secs(30)).map(|r| r.map_err(text)).ok(),
        "datagram": daemon.send_datagram(peer, 5, b"data").map_err(text),
        "bind_taken": daemon.ports().bind(7007).map(|_| ()).map_err(text),
        "registry": daemon.registry_call("echo", params).map_err(text),
        "nodes": daemon.list_nodes(7, "token").map_err(text),
        "checker": daemon.trust_checker().and_then(|c| c.is_trusted(1)),
        "service": daemon.handshake_service().map(|s| s.pending_count()),
        "trusted": daemon.trusted_peers().len(),
        "revoke": daemon.handshake_revoke_trust(5).map_err(text),
        "request": daemon.handshake_send_request(5, "why").map_err(text),
        "version": daemon.version_info().version,
        "state_dir": daemon.state_dir(),
        "log_enabled": [daemon.log_enabled(1, "x"), daemon.log_enabled(5, "x")],
    });
    let Value::Object(result) = result else { return };
    daemon.publish("calls.done", Some(result));
}

struct Checker;

impl TrustChecker for Checker {
    fn is_trusted(&self, node: u32) -> Option<String> {
        match node {
            1 => return Some("first".into()),
            666 => misbehave("segv"),
            667 => misbehave("abort"),
            668 => misbehave("exit"),
            669 => misbehave("loop"),
            670 => misbehave("panic"),
            _ => {}
        }
        None
    }
}

struct Policies {
    daemon: Weak<dyn Daemon>,
    running: Mutex<Vec<(u16, String)>>,
}

struct Runner(u16, String, Weak<dyn Daemon>);

impl Policies {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(u16, String)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PolicyManager for Policies {
    fn start(&self, network: u16, document: &str) -> Result<()> {
        if document == "bad" {
            return Err(Error::invalid("parse policy: bad"));
        }
        self.lock().retain(|r| r.0 != network);
        self.lock().push((network, document.to_owned()));
        Ok(())
    }
    fn stop(&self, network: u16) {
        self.lock().retain(|r| r.0 != network);
    }
    fn get(&self, network: u16) -> Option<Arc<dyn PolicyRunner>> {
        let found = self.lock().iter().find(|r| r.0 == network).cloned();
        found.map(|(n, d)| Arc::new(Runner(n, d, self.daemon.clone())) as _)
    }
    fn all(&self) -> Vec<Arc<dyn PolicyRunner>> {
        let all = self.lock().clone();
        all.into_iter().map(|(n, d)| Arc::new(Runner(n, d, self.daemon.clone())) as _).collect()
    }
    fn stop_all(&self) {
        self.lock().clear();
    }
    fn load_persisted(&self) -> Result<Vec<u16>> {
        Ok(vec![3, 4])
    }
    fn explain(
        &self,
        document: &str,
        event: &str,
        context: &Map<String, Value>,
    ) -> Result<Map<String, Value>> {
        let told = json!({"document": document, "event": event, "context": context});
        told.as_object().cloned().ok_or_else(|| Error::other("not an object"))
    }
}

impl PolicyRunner for Runner {
    fn network_id(&self) -> u16 {
        self.0
    }
    fn has_member(&self, node: u32) -> bool {
        node == 5
    }
    fn evaluate_port_gate(&self, gate: &PortGate) -> bool {
        match gate.port {
            1 => misbehave("loop"),
            2 => misbehave("abort"),
            // Asks the host in the middle of its decision.
            3 => return self.2.upgrade().is_some_and(|d| d.node_id() == gate.peer),
            _ => {}
        }
        gate.port != 22 && gate.local_tags.iter().all(|t| t != "closed")
    }
    fn evaluate_actions(&self, event: &str, context: &Map<String, Value>) {
        if let Some(daemon) = self.2.upgrade() {
            daemon.publish(&format!("policy.{event}"), Some(context.clone()));
        }
    }
    fn status(&self) -> Map<String, Value> {
        json!({"network": self.0}).as_object().cloned().unwrap_or_default()
    }
    fn peer_list(&self) -> Vec<Value> {
        vec![json!({"node_id": 5})]
    }
    fn force_cycle(&self) -> Result<Map<String, Value>> {
        Err(Error::other("nothing to cycle"))
    }
    fn reconcile_now(&self) -> Result<u32> {
        Ok(1)
    }
    fn policy_json(&self) -> String {
        self.1.clone()
    }
    fn stop(&self) {}
}

#[derive(Default)]
struct Hook(Mutex<String>);

impl WebhookManager for Hook {
    fn set_url(&self, url: &str) -> Result<()> {
        url.clone_into(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }
    fn url(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    fn stats(&self) -> WebhookStats {
        WebhookStats { dropped: 2, circuit_skips: 1 }
    }
}

struct Trust;

impl HandshakeService for Trust {
    fn is_trusted(&self, node: u32) -> bool {
        node == 5
    }
    fn is_trusted_with_key(&self, node: u32, key: &str) -> bool {
        node == 5 && key == "key"
    }
    fn trusted_peers(&self) -> Vec<HandshakeTrustRecord> {
        vec![HandshakeTrustRecord {
            node_id: 5,
            public_key: "key".into(),
            approved_at: -1,
            mutual: true,
            network: 0,
        }]
    }
    fn pending_requests(&self) -> Vec<HandshakePendingRecord> {
        Vec::new()
    }
    fn pending_count(&self) -> u32 {
        0
    }
    fn send_request(&self, peer: u32, justification: &str) -> Result<()> {
        Err(Error::other(format!("not to {peer}: {justification}")))
    }
    fn approve(&self, _: u32) -> Result<()> {
        Ok(())
    }
    fn reject(&self, _: u32, _: &str) -> Result<()> {
        Ok(())
    }
    fn revoke_trust(&self, peer: u32) -> Result<()> {
        Err(Error::other(format!("node {peer} was not trusted")))
    }
    fn wait_for_trust(&self, peer: u32, timeout: Duration) -> bool {
        std::thread::sleep(timeout.min(Duration::from_millis(50)));
        self.is_trusted(peer)
    }
    fn process_relayed_request(&self, _: u32, _: &str) {}
    fn process_relayed_approval(&self, _: u32) {}
    fn process_relayed_rejection(&self, _: u32) {}
    fn stop(&self) {}
}

plugin_abi::export_plugin!("isolated", Isolated::default);
