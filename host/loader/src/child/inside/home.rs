//! What the host asks of the child: the plugin's life, and the services that it registered.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use plugin_abi::host::Supervisor;
use plugin_abi::{
    Daemon, Error, ErrorKind, HandshakeService, Plugin, PolicyManager, TrustChecker, WebhookManager,
};

use super::daemon::ChildDaemon;
use super::logs::Logs;
use super::start::{self, File};
use crate::child::frame::Raw;
use crate::child::link::Link;
use crate::child::message::{Answer, Birth, Facts, Mention, Silence, ToChild};
use crate::child::outbox::Patience;
use crate::child::services::{serve_handshake, serve_policy, serve_runner, serve_webhook};
use crate::child::session::{Reply, Serve};

/// The plugin and what it offers.
pub(super) struct Home {
    link: Arc<Link>,
    file: Mutex<Option<File>>,
    supervisor: OnceLock<Arc<Supervisor>>,
    plugin: OnceLock<Arc<dyn Plugin>>,
    /// The supervisor's reference is weak.
    daemon: OnceLock<Arc<dyn Daemon>>,
    checker: Slot<dyn TrustChecker>,
    handshake: Slot<dyn HandshakeService>,
    policy: Slot<dyn PolicyManager>,
    webhook: Slot<dyn WebhookManager>,
    ready: AtomicBool,
    pub logs: Logs,
}

/// One registered service; the last registration wins.
type Slot<T> = RwLock<Option<Arc<T>>>;

fn get<T: ?Sized>(slot: &Slot<T>, what: &str) -> Result<Arc<T>, Error> {
    let found = slot.read().unwrap_or_else(PoisonError::into_inner).clone();
    found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("the plugin registered no {what}")))
}

fn set<T: ?Sized>(slot: &Slot<T>, service: Arc<T>) {
    let former = slot.write().unwrap_or_else(PoisonError::into_inner).replace(service);
    drop(former);
}

impl Home {
    pub fn new(link: &Arc<Link>, file: File) -> Self {
        Home {
            link: Arc::clone(link),
            file: Mutex::new(Some(file)),
            supervisor: OnceLock::new(),
            plugin: OnceLock::new(),
            daemon: OnceLock::new(),
            checker: Slot::default(),
            handshake: Slot::default(),
            policy: Slot::default(),
            webhook: Slot::default(),
            ready: AtomicBool::new(false),
            logs: Logs::new(0),
        }
    }

    /// Whether the plugin panicked at the border after it had started: the process is of no use any more. A panic before
    /// is the answer of `init`.
    pub fn failed(&self) -> bool {
        self.ready.load(Ordering::Acquire) && self.failure().is_some()
    }

    fn failure(&self) -> Option<&str> {
        self.supervisor.get().and_then(|s| s.failure())
    }

    pub fn set_checker(&self, checker: Arc<dyn TrustChecker>) {
        set(&self.checker, checker);
    }

    pub fn set_handshake(&self, service: Arc<dyn HandshakeService>) {
        set(&self.handshake, service);
    }

    pub fn set_policy(&self, manager: Arc<dyn PolicyManager>) {
        set(&self.policy, manager);
    }

    pub fn set_webhook(&self, manager: Arc<dyn WebhookManager>) {
        set(&self.webhook, manager);
    }

    fn create(&self, birth: &Birth) -> Result<(), Error> {
        self.logs.set_levels(birth.levels);
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner).take();
        let file = file.ok_or_else(|| Error::other("the instance was made before"))?;
        let module = start::open(file, birth)?;
        let supervisor = Supervisor::new(module.name());
        let plugin = module.create(&birth.host_version, Arc::clone(&supervisor))?;
        let _ = self.supervisor.set(supervisor);
        let _ = self.plugin.set(plugin.into());
        Ok(())
    }

    fn init(self: &Arc<Self>, facts: Facts) -> Result<(), Error> {
        let (Some(plugin), Some(supervisor)) = (self.plugin.get(), self.supervisor.get()) else {
            return Err(Error::other("init before create"));
        };
        self.logs.set_levels(facts.levels);
        let daemon: Arc<dyn Daemon> = Arc::new(ChildDaemon::new(&self.link, facts, self));
        supervisor.attach(&daemon);
        let _ = self.daemon.set(Arc::clone(&daemon));
        plugin.init(daemon)?;
        self.ready.store(true, Ordering::Release);
        match self.failure() {
            None => Ok(()),
            Some(why) => Err(Error::new(ErrorKind::Panicked, why)),
        }
    }

    fn shutdown(&self, deadline: Duration) -> Result<(), Error> {
        // Whatever happens now is the answer of this call.
        self.ready.store(false, Ordering::Release);
        let outcome = match self.plugin.get() {
            Some(plugin) => plugin.shutdown(deadline),
            None => Ok(()),
        };
        self.logs.flush();
        outcome
    }

    fn ask(&self, call: ToChild) -> Result<Answer, Error> {
        Ok(match call {
            ToChild::TrustCheck { node } => {
                Answer::Name(get(&self.checker, "trust checker")?.is_trusted(node))
            }
            ToChild::Handshake(ask) => {
                serve_handshake(get(&self.handshake, "handshake service")?.as_ref(), ask)
            }
            ToChild::Policy(ask) => serve_policy(get(&self.policy, "policy manager")?.as_ref(), ask),
            ToChild::Runner { network, ask } => {
                let runner = get(&self.policy, "policy manager")?.get(network);
                let missing = || Error::new(ErrorKind::NotFound, format!("no policy for network {network}"));
                let runner = runner.ok_or_else(missing)?;
                serve_runner(runner.as_ref(), ask).unwrap_or_else(|why| Error::invalid(why).into())
            }
            ToChild::Webhook(ask) => serve_webhook(get(&self.webhook, "webhook manager")?.as_ref(), ask),
            ToChild::Ping { levels } => {
                self.logs.set_levels(levels);
                Answer::Done
            }
            ToChild::Create(_) | ToChild::Init(_) | ToChild::Shutdown { .. } => Answer::Done,
        })
    }
}

impl Serve for Arc<Home> {
    type Call = ToChild;
    type Note = Silence;

    fn at_once(&self, call: &ToChild) -> bool {
        matches!(call, ToChild::Ping { .. })
    }

    fn serve(&self, _: u32, call: ToChild, _: Raw) -> Result<Option<Reply>, String> {
        let answer: Answer = match call {
            ToChild::Create(birth) => self.create(&birth).into(),
            ToChild::Init(facts) => self.init(facts).into(),
            ToChild::Shutdown { deadline } => self.shutdown(deadline).into(),
            other => self.ask(other).into(),
        };
        Ok(Some(answer.into()))
    }

    fn note(&self, note: Silence) -> Result<(), String> {
        match note {}
    }

    fn unclaimed(&self, answer: Answer) {
        // A dial that nobody waits for any more has connected after all.
        if let Answer::Stream(stream) = answer {
            let _ = self.link.note(&Mention::ReleaseStream { stream: stream.handle }, Patience::None);
        }
    }

    fn down(&self, why: &str) {
        start::die(why);
    }
}
