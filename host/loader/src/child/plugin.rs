//! [`ChildPlugin`]: a plugin that is a process. One thread of the host watches it: starts it, notices its end or its
//! silence, pauses, starts it again, and gives up after too many crashes.
//!
//! | state | what happens | next |
//! |---|---|---|
//! | Starting | process, file, instance, `init`, policies of the last child | Running, Pausing, Quarantined; Failed when the very first `init` says no |
//! | Running | a heartbeat | Pausing or Quarantined after a crash, Stopped |
//! | Pausing | nothing runs; services say no | Starting, Stopped |
//! | Quarantined | nothing runs; services say no | Starting when lifted, Stopped |
//! | Stopped, Failed | the end | |

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant, SystemTime};

use plugin_abi::{Daemon, Error, ErrorKind, Plugin, Result};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::frame::MAX_FROM_CHILD;
use super::message::{Birth, Facts, ToChild};
use super::parent::desk::Desk;
use super::parent::seat::Seat;
use super::process::{Process, Program, end_text, follow};
use super::session::{CallError, Limits, SOCKET_CLOSED, Session};
use crate::open::{OpenVia, sealed};

/// Crashes that are remembered one by one.
const HISTORY: usize = 32;
/// Longest wait for the watching thread to notice a request to stop.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Limits of one isolated plugin.
#[derive(Clone, Debug, PartialEq)]
pub struct ChildLimits {
    /// For starting the process, opening the file and the constructor.
    pub create: Duration,
    /// For `init`.
    pub init: Duration,
    /// For a call that decides about a packet or a stream; after it the answer is "no".
    pub decision: Duration,
    /// For any other call; after it the answer is an error.
    pub call: Duration,
    /// A call that is not answered this long after its limit ends the child: it is stuck.
    pub grace: Duration,
    /// How often the child is asked whether it is there.
    pub heartbeat: Duration,
    /// A child that does not answer that within this time is ended.
    pub silence: Duration,
    /// Calls of the child that the host serves at once; more are answered "busy". Each may hold a thread.
    pub serving: usize,
    /// Memory of such calls, bytes.
    pub serving_bytes: usize,
    /// Limit of the child's address space (`RLIMIT_AS`), bytes.
    pub address_space: Option<u64>,
    /// What follows a crash.
    pub restarts: Restarts,
}

impl Default for ChildLimits {
    fn default() -> Self {
        ChildLimits {
            create: Duration::from_secs(10),
            init: Duration::from_secs(10),
            decision: Duration::from_secs(1),
            call: Duration::from_secs(60),
            grace: Duration::from_secs(5),
            heartbeat: Duration::from_secs(1),
            silence: Duration::from_secs(10),
            serving: 512,
            serving_bytes: 32 << 20,
            address_space: None,
            restarts: Restarts::default(),
        }
    }
}

/// What follows a crash.
#[derive(Clone, Debug, PartialEq)]
pub struct Restarts {
    /// Pause before the first restart.
    pub first: Duration,
    /// Each crash soon after a start doubles the pause, up to this.
    pub longest: Duration,
    /// A child that lived this long starts the count, and the pause, anew.
    pub healthy: Duration,
    /// After so many crashes in a row it is not started any more; 0 never gives up.
    pub quarantine: u32,
}

impl Default for Restarts {
    /// First restart after 100 ms, then 200 ms and so on up to 30 s; given up after 10 crashes none of which was a minute
    /// after its start.
    fn default() -> Self {
        Restarts {
            first: Duration::from_millis(100),
            longest: Duration::from_secs(30),
            healthy: Duration::from_secs(60),
            quarantine: 10,
        }
    }
}

impl Restarts {
    /// The pause after `crashes` (at least one) in a row.
    pub fn pause(&self, crashes: u32) -> Duration {
        let doubled = 1u32.checked_shl(crashes.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first.saturating_mul(doubled).min(self.longest)
    }
}

/// What is run, and how.
#[derive(Clone, Debug)]
pub struct ChildSpec {
    /// The plugin's name, from its header.
    pub name: String,
    /// Where its file is, for texts.
    pub path: PathBuf,
    /// The program that becomes the child.
    pub program: Program,
    /// How the child opens the bytes.
    pub open_via: OpenVia,
    /// The host's version, for the constructor.
    pub host_version: String,
    /// Limits.
    pub limits: ChildLimits,
}

/// One crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crash {
    /// What happened: `killed by SIGSEGV`, `exited with 0`, `init: no answer in time`, ...
    pub cause: String,
    /// The process, 0 when it could not even be started.
    pub pid: u32,
    /// How long it had been there.
    pub lived: Duration,
    /// When.
    pub at: SystemTime,
    /// Its number in a row of crashes without a healthy time between.
    pub in_a_row: u32,
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} {} after {:.1} s", self.pid, self.cause, self.lived.as_secs_f64())
    }
}

/// What to do about a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterCrash {
    /// Start it again after this pause.
    Restart(Duration),
    /// Leave it until [`ChildPlugin::lift`].
    Quarantine,
}

/// Told about what happens to a child, on the thread that watches it. Keep it short.
pub trait ChildWatch: Send + Sync {
    /// It runs and is initialised.
    fn started(&self, pid: u32) {
        let _ = pid;
    }

    /// It crashed. `planned` is what the limits say; the answer is what is done.
    fn crashed(&self, crash: &Crash, planned: AfterCrash) -> AfterCrash {
        let _ = crash;
        planned
    }
}

/// Nobody watches.
impl ChildWatch for () {}

/// How a child is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChildState {
    /// On its way up.
    Starting,
    /// Initialised and in use.
    Running,
    /// Between a crash and the next start.
    Pausing,
    /// Crashed too often.
    Quarantined,
    /// Shut down.
    Stopped,
    /// Its first start was refused.
    Failed(String),
}

/// A look at a child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildStatus {
    /// How it is.
    pub state: ChildState,
    /// The process, while there is one.
    pub pid: Option<u32>,
    /// Crashes since the host started.
    pub crashes: u64,
    /// Starts after the first.
    pub restarts: u64,
    /// The last crashes, oldest first, at most 32.
    pub last: Vec<Crash>,
    /// Calls that were not answered in time.
    pub late_calls: u64,
    /// Calls that found no process.
    pub refused_calls: u64,
}

/// A plugin in a process of its own.
pub struct ChildPlugin {
    shared: Arc<Shared>,
    first: Mutex<Option<FirstInit>>,
}

/// What the first `init` hands over to the watching thread, and hears from it.
struct FirstInit {
    daemon: mpsc::SyncSender<Arc<dyn Daemon>>,
    outcome: mpsc::Receiver<Result<()>>,
}

struct Shared {
    spec: ChildSpec,
    library: File,
    seat: Arc<Seat>,
    watch: Arc<dyn ChildWatch>,
    life: Mutex<Life>,
    changed: Condvar,
    /// No restart any more.
    stopping: AtomicBool,
    /// End what runs.
    stop: AtomicBool,
    /// Wakes the watching thread.
    bell: OwnedFd,
}

struct Life {
    state: ChildState,
    /// The session of the child that runs, for `shutdown`.
    session: Option<Arc<Session<Arc<Desk>>>>,
    pid: Option<u32>,
    crashes: u64,
    starts: u64,
    last: VecDeque<Crash>,
    in_a_row: u32,
    lifted: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    fn set(&self, state: ChildState) {
        self.lock().state = state;
        self.changed.notify_all();
    }

    /// Ends what runs and waits for the watching thread, which has nothing left to wait for.
    fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.stop.store(true, Ordering::Release);
        let mut life = self.lock();
        if let Some(session) = life.session.clone() {
            drop(life);
            session.fail("shut down");
            life = self.lock();
        }
        self.ring();
        self.changed.notify_all();
        let end = Instant::now() + STOP_LIMIT;
        while !matches!(life.state, ChildState::Stopped | ChildState::Failed(_)) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                tracing::error!(plugin = self.spec.name, "the process does not end");
                return;
            }
            life = self.changed.wait_timeout(life, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl ChildPlugin {
    /// Starts the process, opens `library` in it and makes the instance. The bytes are those that the caller judged.
    ///
    /// A process that dies or hangs over this is a crash like any later one: the instance is there, and is started again.
    ///
    /// # Errors
    /// What the child says about the file, or the constructor's own error; [`Io`](ErrorKind::Io) when no process can be
    /// started.
    pub fn create(spec: ChildSpec, library: &[u8], watch: Arc<dyn ChildWatch>) -> Result<ChildPlugin> {
        let bell =
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(std::io::Error::from)?;
        let shared = Arc::new(Shared {
            library: File::from(sealed(library, &spec.name)?),
            seat: Seat::new(spec.limits.decision, spec.limits.call),
            watch,
            life: Mutex::new(Life {
                state: ChildState::Starting,
                session: None,
                pid: None,
                crashes: 0,
                starts: 0,
                last: VecDeque::new(),
                in_a_row: 0,
                lifted: false,
            }),
            changed: Condvar::new(),
            stopping: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            bell,
            spec,
        });
        let (created, wait) = mpsc::sync_channel(1);
        let (give_daemon, daemon) = mpsc::sync_channel(1);
        let (initialised, outcome) = mpsc::sync_channel(1);
        let watcher = Watcher { shared: Arc::clone(&shared), initialised };
        std::thread::Builder::new()
            .name(format!("{} child", shared.spec.name))
            .spawn(move || watcher.run(&created, &daemon))?;
        // The limits of the steps bound this wait.
        wait.recv().unwrap_or_else(|_| Err(Error::other("the watching thread ended")))?;
        Ok(ChildPlugin { shared, first: Mutex::new(Some(FirstInit { daemon: give_daemon, outcome })) })
    }

    /// How it is.
    pub fn status(&self) -> ChildStatus {
        let life = self.shared.lock();
        ChildStatus {
            state: life.state.clone(),
            pid: life.pid,
            crashes: life.crashes,
            restarts: life.starts.saturating_sub(1),
            last: life.last.iter().cloned().collect(),
            late_calls: self.shared.seat.late(),
            refused_calls: self.shared.seat.refused(),
        }
    }

    /// Waits until `condition` holds of the status, at most `limit`; whether it does.
    pub fn wait_until(&self, limit: Duration, condition: impl Fn(&ChildStatus) -> bool) -> bool {
        let end = Instant::now() + limit;
        while !condition(&self.status()) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            // Some facts change without a notice, so never for long.
            let life = self.shared.lock();
            drop(self.shared.changed.wait_timeout(life, left.min(Duration::from_millis(20))));
        }
        true
    }

    /// Ends a quarantine: the process is started again, with a count that starts anew. Whether there was one.
    pub fn lift(&self) -> bool {
        let mut life = self.shared.lock();
        let quarantined = life.state == ChildState::Quarantined;
        if quarantined {
            life.lifted = true;
            life.in_a_row = 0;
            self.shared.changed.notify_all();
        }
        quarantined
    }
}

impl Plugin for ChildPlugin {
    fn init(&self, daemon: Arc<dyn Daemon>) -> Result<()> {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(first) = first else { return Err(Error::other("init was called before")) };
        let gone = || Error::new(ErrorKind::Closed, "the plugin's process was stopped");
        first.daemon.send(daemon).map_err(|_| gone())?;
        first.outcome.recv().unwrap_or_else(|_| Err(gone()))
    }

    fn shutdown(&self, deadline: Duration) -> Result<()> {
        self.shared.stopping.store(true, Ordering::Release);
        let session = self.shared.lock().session.clone();
        let outcome = match session {
            // Between two processes: nothing to say goodbye to.
            None => Ok(()),
            Some(session) => {
                let said =
                    session.link().call("shutdown", &ToChild::Shutdown { deadline }, &[], Some(deadline));
                said.map(|_| ()).map_err(|e| match e {
                    CallError::Late(_) => {
                        Error::new(ErrorKind::TimedOut, "deadline exceeded; its process was killed")
                    }
                    CallError::Ended(_) => Error::other("its process ended during shutdown"),
                    CallError::Answered(e) => e,
                })
            }
        };
        self.shared.stop();
        outcome
    }
}

impl Drop for ChildPlugin {
    fn drop(&mut self) {
        // Without a shutdown before: whoever made it gave up on it.
        *self.first.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.shared.stop();
    }
}

/// The thread that has one child after another.
struct Watcher {
    shared: Arc<Shared>,
    initialised: mpsc::SyncSender<Result<()>>,
}

/// A child whose instance is made.
struct Running {
    process: Process,
    session: Arc<Session<Arc<Desk>>>,
    since: Instant,
}

/// How one child came to its end.
enum End {
    /// It was asked to.
    Stopped,
    /// The plugin itself said no: to its file, in its constructor, or in `init`.
    Refused(Error),
    /// Anything else.
    Crashed(Crash),
}

impl Watcher {
    fn run(self, created: &mpsc::SyncSender<Result<()>>, daemon: &mpsc::Receiver<Arc<dyn Daemon>>) {
        let shared = &self.shared;
        let mut next = self.launch();
        if let Err(End::Refused(e)) = next {
            shared.set(ChildState::Failed(e.to_string()));
            let _ = created.send(Err(e));
            return;
        }
        let _ = created.send(Ok(()));
        let daemon = daemon.recv();
        let mut first = true;
        loop {
            let end = match (next, &daemon) {
                (Ok(child), Ok(daemon)) => self.live(child, daemon, &mut first),
                // Dropped before `init`.
                (Ok(child), Err(_)) => {
                    self.put_away(child);
                    End::Stopped
                }
                (Err(end), _) => end,
            };
            let crash = match end {
                End::Refused(e) if first => {
                    shared.set(ChildState::Failed(e.to_string()));
                    let _ = self.initialised.send(Err(e));
                    return;
                }
                End::Refused(e) => self.crash(format!("refused to start again: {e}"), 0, Duration::ZERO),
                End::Crashed(crash) => crash,
                End::Stopped => break,
            };
            if std::mem::take(&mut first) {
                // The host goes on without it: that is what isolation is for.
                let _ = self.initialised.send(Ok(()));
            }
            if !self.pause(&crash) {
                break;
            }
            next = self.launch();
        }
        shared.set(ChildState::Stopped);
        let _ =
            self.initialised.try_send(Err(Error::new(ErrorKind::Closed, "the plugin's process was stopped")));
    }

    /// Process, file, instance.
    fn launch(&self) -> Result<Running, End> {
        let spec = &self.shared.spec;
        self.shared.set(ChildState::Starting);
        let since = Instant::now();
        let (process, ends) =
            Process::start(&spec.program, &spec.name, &self.shared.library).map_err(|e| {
                let text = format!("cannot start {}: {e}", spec.program.path.display());
                End::Refused(Error::new(ErrorKind::Io, text))
            })?;
        let limits = Limits {
            frame: MAX_FROM_CHILD,
            serving: spec.limits.serving,
            serving_bytes: spec.limits.serving_bytes,
            calls: 64,
            stall: spec.limits.silence,
            grace: spec.limits.grace,
        };
        let bell = Arc::downgrade(&self.shared);
        let session = Session::start(&spec.name, ends.socket, limits, |link| {
            Arc::new(Desk::new(&spec.name, Arc::clone(&self.shared.seat), link, move || {
                if let Some(shared) = bell.upgrade() {
                    shared.ring();
                }
            }))
        });
        let session = match session {
            Ok(session) => session,
            Err(e) => {
                let _ = process.finish();
                return Err(End::Refused(e.into()));
            }
        };
        let (desk, name) = (Arc::clone(session.server()), spec.name.clone());
        let listener = std::thread::Builder::new()
            .name(format!("{name} output"))
            .spawn(move || follow(ends.output, |line| desk.output(line)));
        let mut life = self.shared.lock();
        life.pid = Some(process.pid());
        life.starts += 1;
        drop(life);
        let child = Running { process, session, since };
        if let Err(e) = listener {
            self.put_away(child);
            return Err(End::Refused(e.into()));
        }
        let birth = ToChild::Create(Birth {
            path: spec.path.clone(),
            host_version: spec.host_version.clone(),
            private_copy: match &spec.open_via {
                OpenVia::Memory => None,
                OpenVia::PrivateCopy(dir) => Some(dir.clone()),
            },
            address_space: spec.limits.address_space,
            levels: child.session.server().levels(),
        });
        match child.session.link().call("create", &birth, &[], Some(spec.limits.create)) {
            Ok(_) => Ok(child),
            Err(e) => Err(self.ended(child, "create", e)),
        }
    }

    /// From `init` to the end.
    fn live(&self, child: Running, daemon: &Arc<dyn Daemon>, first: &mut bool) -> End {
        let limits = &self.shared.spec.limits;
        child.session.server().open(Arc::clone(daemon));
        let link = Arc::clone(child.session.link());
        // While `init` runs, the plugin may already be asked what it has registered.
        self.shared.seat.take(Some(Arc::clone(&link)));
        let facts = ToChild::Init(Facts {
            treaty: daemon.treaty(),
            identity_path: daemon.identity_path(),
            trust_auto_approve: daemon.trust_auto_approve(),
            version: daemon.version_info(),
            config_json: daemon.config().to_string(),
            state_dir: daemon.state_dir(),
            levels: child.session.server().levels(),
        });
        if let Err(e) = link.call("init", &facts, &[], Some(limits.init)) {
            return self.ended(child, "init", e);
        }
        self.shared.seat.restore_policies(&link);
        let pid = child.process.pid();
        {
            let mut life = self.shared.lock();
            life.state = ChildState::Running;
            life.session = Some(Arc::clone(&child.session));
        }
        self.shared.changed.notify_all();
        self.shared.watch.started(pid);
        if std::mem::take(first) {
            let _ = self.initialised.send(Ok(()));
        }
        loop {
            self.listen(&child.process, limits.heartbeat);
            if self.shared.stop.load(Ordering::Acquire) {
                self.put_away(child);
                return End::Stopped;
            }
            if link.ended().is_some() || self.has_exited(&child.process, Duration::ZERO) {
                return self.finish(child, "");
            }
            let levels = child.session.server().levels();
            let answer = link.call("ping", &ToChild::Ping { levels }, &[], Some(limits.silence));
            if matches!(answer, Err(CallError::Late(_))) {
                child.session.fail(&format!("gave no sign of life for {:?}", limits.silence));
            }
            if let Some(op) = link.overdue() {
                child.session.fail(&format!("is stuck in {op}"));
            }
        }
    }

    /// Waits for the end of the process, the bell, or the next heartbeat.
    fn listen(&self, process: &Process, limit: Duration) {
        let Ok(limit) = Timespec::try_from(limit) else { return };
        let mut fds = [
            PollFd::from_borrowed_fd(process.ended().as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.shared.bell.as_fd(), PollFlags::IN),
        ];
        let _ = poll(&mut fds, Some(&limit));
        let _ = rustix::io::read(&self.shared.bell, &mut [0; 8]);
    }

    fn has_exited(&self, process: &Process, limit: Duration) -> bool {
        let Ok(limit) = Timespec::try_from(limit) else { return false };
        let mut fds = [PollFd::from_borrowed_fd(process.ended().as_fd(), PollFlags::IN)];
        poll(&mut fds, Some(&limit)).is_ok_and(|n| n > 0)
    }

    /// A step of the start was not answered with success.
    fn ended(&self, child: Running, step: &str, error: CallError) -> End {
        match error {
            CallError::Answered(e) => {
                self.put_away(child);
                End::Refused(e)
            }
            CallError::Late(_) => {
                child.session.fail(&format!("did not come back from {step} in time"));
                self.finish(child, "")
            }
            CallError::Ended(_) => self.finish(child, &format!(" in {step}")),
        }
    }

    /// A child that is no more, or is not wanted any more because of what it did.
    fn finish(&self, child: Running, during: &str) -> End {
        let (pid, lived) = (child.process.pid(), child.since.elapsed());
        // A process that dies closes its socket a moment before the system calls it dead.
        let why = child.session.link().ended().unwrap_or(SOCKET_CLOSED).to_owned();
        let by_itself =
            why.starts_with(SOCKET_CLOSED) && self.has_exited(&child.process, Duration::from_secs(1));
        let status = self.put_away(child);
        if self.shared.stop.load(Ordering::Acquire) {
            return End::Stopped;
        }
        let cause = match status {
            Some(status) if by_itself => end_text(status) + during,
            _ => why,
        };
        End::Crashed(self.crash(cause, pid, lived))
    }

    /// Leaves nothing of it behind.
    fn put_away(&self, child: Running) -> Option<std::process::ExitStatus> {
        self.shared.seat.take(None);
        child.session.fail(SOCKET_CLOSED);
        let status = child.process.finish();
        let mut life = self.shared.lock();
        life.pid = None;
        // Until somebody says better.
        life.state = ChildState::Pausing;
        let session = life.session.take();
        drop(life);
        drop(session);
        status.ok()
    }

    fn crash(&self, cause: String, pid: u32, lived: Duration) -> Crash {
        let mut life = self.shared.lock();
        life.in_a_row = if lived >= self.shared.spec.limits.restarts.healthy { 1 } else { life.in_a_row + 1 };
        life.crashes += 1;
        let crash = Crash { cause, pid, lived, at: SystemTime::now(), in_a_row: life.in_a_row };
        if life.last.len() == HISTORY {
            life.last.pop_front();
        }
        life.last.push_back(crash.clone());
        crash
    }

    /// What follows a crash; `false` when it is to stop.
    fn pause(&self, crash: &Crash) -> bool {
        let (spec, shared) = (&self.shared.spec, &self.shared);
        let restarts = &spec.limits.restarts;
        let planned = match restarts.quarantine {
            0 => AfterCrash::Restart(restarts.pause(crash.in_a_row)),
            n if crash.in_a_row >= n => AfterCrash::Quarantine,
            _ => AfterCrash::Restart(restarts.pause(crash.in_a_row)),
        };
        let after = shared.watch.crashed(crash, planned);
        let until = match after {
            AfterCrash::Restart(pause) => {
                tracing::warn!(plugin = spec.name, %crash, ?pause, "plugin process crashed; it is started again");
                shared.set(ChildState::Pausing);
                Instant::now().checked_add(pause)
            }
            AfterCrash::Quarantine => {
                tracing::error!(plugin = spec.name, %crash, in_a_row = crash.in_a_row, "plugin process crashed too often; it is not started any more");
                shared.set(ChildState::Quarantined);
                None
            }
        };
        let mut life = shared.lock();
        loop {
            if shared.stopping.load(Ordering::Acquire) {
                return false;
            }
            let left = until.map(|u| u.saturating_duration_since(Instant::now()));
            if std::mem::take(&mut life.lifted) || left.is_some_and(|l| l.is_zero()) {
                return true;
            }
            life = match left {
                None => shared.changed.wait(life).unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    shared.changed.wait_timeout(life, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let restarts = Restarts::default();
        let ms: Vec<_> = (1..=11).map(|n| restarts.pause(n).as_millis()).collect();
        assert_eq!(ms, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
        assert_eq!(restarts.pause(u32::MAX), restarts.longest);
    }
}
