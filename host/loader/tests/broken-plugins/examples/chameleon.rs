//! Does what it is told: one act per line in the file `chameleon.do` of the state directory, read in `init`. What came of
//! each act is a log line, so that a test can ask for any fault at any time and see how the host took it.

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use broken_plugins::forever;
use plugin_abi::{
    Addr, Daemon, Error, Listener, Plugin, PolicyManager, PolicyRunner, PortGate, Result, Subscription,
    TrustChecker, spawn_thread,
};
use serde_json::{Map, Value};

/// Counts within one copy of the library: each load has its own.
static STARTS: AtomicU32 = AtomicU32::new(0);

#[derive(Default)]
struct Chameleon {
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    listeners: Vec<Arc<dyn Listener>>,
    subscriptions: Vec<Arc<dyn Subscription>>,
    threads: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    at_shutdown: Option<String>,
}

/// What a runner of the registered policy manager does when it is asked.
#[derive(Clone, Copy)]
enum Gate {
    Allow,
    Deny,
    Panic,
}

struct Policies(Gate);

impl PolicyManager for Policies {
    fn start(&self, _: u16, _: &str) -> Result<()> {
        Ok(())
    }
    fn stop(&self, _: u16) {}
    fn get(&self, _: u16) -> Option<Arc<dyn PolicyRunner>> {
        Some(Arc::new(Runner(self.0)))
    }
    fn all(&self) -> Vec<Arc<dyn PolicyRunner>> {
        vec![Arc::new(Runner(self.0))]
    }
    fn stop_all(&self) {}
    fn load_persisted(&self) -> Result<Vec<u16>> {
        Ok(Vec::new())
    }
}

struct Runner(Gate);

impl PolicyRunner for Runner {
    fn network_id(&self) -> u16 {
        0
    }
    fn has_member(&self, _: u32) -> bool {
        true
    }
    fn evaluate_port_gate(&self, gate: &PortGate) -> bool {
        match self.0 {
            Gate::Allow => true,
            Gate::Deny => false,
            Gate::Panic => panic!("asked about port {}", gate.port),
        }
    }
    fn evaluate_actions(&self, _: &str, _: &Map<String, Value>) {}
    fn status(&self) -> Map<String, Value> {
        Map::new()
    }
    fn peer_list(&self) -> Vec<Value> {
        Vec::new()
    }
    fn force_cycle(&self) -> Result<Map<String, Value>> {
        Ok(Map::new())
    }
    fn reconcile_now(&self) -> Result<u32> {
        Ok(0)
    }
    fn policy_json(&self) -> String {
        "{}".into()
    }
    fn stop(&self) {}
}

struct Nobody;

impl TrustChecker for Nobody {
    fn is_trusted(&self, _: u32) -> Option<String> {
        panic!("do not ask me")
    }
}

fn script(daemon: &Arc<dyn Daemon>) -> PathBuf {
    daemon.state_dir().join("chameleon.do")
}

fn said(act: &str, outcome: impl Debug) {
    tracing::info!(act, outcome = ?outcome, "did");
}

fn denied(what: &str) -> Error {
    Error::other(format!("told to {what}"))
}

impl Chameleon {
    fn act(&self, daemon: &Arc<dyn Daemon>, line: &str) -> Result<()> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| words.get(at).and_then(|w| w.parse::<u32>().ok()).unwrap_or(1);
        let word = |at: usize| words.get(at).copied().unwrap_or_default();
        let port = |at: usize| u16::try_from(number(at)).unwrap_or(0);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match word(0) {
            "fail" => {
                if word(1) == "once" {
                    // Whoever starts next is not told so.
                    let acts = std::fs::read_to_string(script(daemon))?.replace(line, "");
                    std::fs::write(script(daemon), acts)?;
                }
                return Err(denied("fail"));
            }
            "panic" => panic!("told to panic"),
            "hang" => forever(),
            "shutdown" => held.at_shutdown = Some(word(1).to_owned()),
            "thread-panic" => {
                for _ in 0..number(1) {
                    held.threads.push(spawn_thread(daemon.clone(), "worker", || panic!("in a thread"))?);
                }
            }
            "future-panic" => daemon.spawn(Box::pin(async { panic!("in a future") })),
            "checker" => daemon.register_trust_checker(Arc::new(Nobody)),
            "policy" => {
                let gate = match word(1) {
                    "allow" => Gate::Allow,
                    "deny" => Gate::Deny,
                    _ => Gate::Panic,
                };
                daemon.register_policy_manager(Arc::new(Policies(gate)));
            }
            "bind" => match daemon.ports().bind(port(1)) {
                Ok(listener) => {
                    let (source, name) = (listener.clone(), daemon.version_info().version);
                    held.threads.push(spawn_thread(daemon.clone(), "greeter", move || {
                        while let Some(stream) = source.accept() {
                            let _ = stream.write(format!("chameleon in {name}\n").as_bytes());
                            stream.close();
                        }
                    })?);
                    held.listeners.push(listener);
                    said(line, "bound");
                }
                Err(e) => said(line, e),
            },
            "subscribe" => {
                let subscription = daemon.bus().subscribe(word(1));
                said(line, subscription.recv(Duration::ZERO));
                held.subscriptions.push(subscription);
            }
            "publish" => {
                for i in 0..number(2) {
                    daemon.publish(word(1), Some(Map::from_iter([("i".to_owned(), i.into())])));
                }
            }
            // Publishes numbers without a gap until it is stopped, and says how many there were.
            "ticker" => {
                let (topic, pause) = (word(1).to_owned(), Duration::from_secs(1) / number(2).max(1));
                let (bus, stop) = (daemon.clone(), held.stop.clone());
                held.threads.push(spawn_thread(daemon.clone(), "ticker", move || {
                    let mut i = 0_u64;
                    while !stop.load(Ordering::Acquire) {
                        bus.publish(&topic, Some(Map::from_iter([("i".to_owned(), i.into())])));
                        i += 1;
                        std::thread::park_timeout(pause);
                    }
                    tracing::info!(ticks = i, "ticked");
                })?);
            }
            "dial" => {
                let to = Addr { network: 0, node: number(1) };
                said(line, daemon.dial(to, port(2), Duration::from_millis(100)).map(|c| c.id()));
            }
            "datagram" => {
                said(line, daemon.send_datagram(Addr { network: 0, node: number(1) }, port(2), b"x"));
            }
            "sign" => said(line, daemon.sign(word(1).as_bytes()).is_some()),
            "registry" => said(line, daemon.registry_call(word(1), Map::new()).map(|_| ())),
            "token" => said(line, daemon.admin_token().is_empty()),
            "peers" => said(line, daemon.handshake_service().is_some()),
            "log" => {
                for i in 0..number(1) {
                    tracing::info!(i, "chatter");
                }
            }
            // A reader of events that panics over its first one.
            "sink" => {
                let events = daemon.bus().subscribe(word(1));
                held.threads.push(spawn_thread(daemon.clone(), "sink", move || {
                    loop {
                        match events.recv(Duration::from_millis(100)) {
                            Ok(Some(event)) => panic!("cannot stand {}", event.topic),
                            Ok(None) => {}
                            Err(_) => return,
                        }
                    }
                })?);
            }
            // Low-level lines all the time; says whether they are even put together, whenever that changes.
            "whisper" => {
                let stop = held.stop.clone();
                held.threads.push(spawn_thread(daemon.clone(), "whisper", move || {
                    let (mut put_together, mut heard) = (0_u64, None);
                    while !stop.load(Ordering::Acquire) {
                        let before = put_together;
                        let mut count = || {
                            put_together += 1;
                            put_together
                        };
                        tracing::debug!(i = count(), "whisper");
                        let now = put_together > before;
                        if heard.replace(now) != Some(now) {
                            tracing::info!(heard = now, "whispers");
                        }
                        std::thread::park_timeout(Duration::from_millis(20));
                    }
                    tracing::info!(put_together, "whispered");
                })?);
            }
            "" => {}
            other => return Err(Error::invalid(format!("what is {other:?}?"))),
        }
        Ok(())
    }
}

impl Plugin for Chameleon {
    fn init(&self, daemon: Arc<dyn Daemon>) -> Result<()> {
        let starts = STARTS.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::info!(starts, "begins");
        let acts = std::fs::read_to_string(script(&daemon)).unwrap_or_default();
        acts.lines().try_for_each(|line| self.act(&daemon, line))
    }

    fn shutdown(&self, _: Duration) -> Result<()> {
        let held = std::mem::take(&mut *self.held.lock().unwrap_or_else(PoisonError::into_inner));
        match held.at_shutdown.as_deref() {
            Some("hang") => forever(),
            Some("panic") => panic!("told to panic at the end"),
            Some("fail") => return Err(denied("fail at the end")),
            _ => {}
        }
        held.stop.store(true, Ordering::Release);
        held.listeners.iter().for_each(|l| l.close());
        held.subscriptions.iter().for_each(|s| s.cancel());
        held.threads.into_iter().for_each(|t| drop(t.join()));
        Ok(())
    }
}

plugin_abi::export_plugin!("chameleon", Chameleon::default);
