//! The thread that has one child after another for a [`ChildPlugin`](super::ChildPlugin): starts it, notices its end or its
//! silence, pauses, starts it again, and gives up after too many crashes.
//!
//! | state | what happens | next |
//! |---|---|---|
//! | Starting | process, file, instance, `init`, policies of the last child | Running, Pausing, Quarantined; Failed when the very first `init` says no |
//! | Running | a heartbeat | Pausing or Quarantined after a crash, Stopped |
//! | Pausing | nothing runs; services say no | Starting, Stopped |
//! | Quarantined | nothing runs; services say no | Starting when lifted, Stopped |
//! | Stopped, Failed | the end | |

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, mpsc};
use std::time::{Duration, Instant, SystemTime};

use plugin_abi::{Daemon, Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::frame::MAX_FROM_CHILD;
use super::link::CallError;
use super::message::{Birth, Facts, PANICKED, ToChild};
use super::parent::desk::Desk;
use super::plugin::Shared;
use super::process::{Process, end_text, follow};
use super::session::{Limits, SOCKET_CLOSED, Session};
use super::watch::{AfterCrash, ChildState, Crash};
use crate::open::OpenVia;

/// Crashes that are remembered one by one.
const HISTORY: usize = 32;
/// Late calls are told at most this often, together: a plugin that is stuck is late many times.
const TELL_LATE: Duration = Duration::from_secs(60);

/// The thread that has one child after another.
pub(super) struct Watcher {
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
    pub fn new(shared: Arc<Shared>, initialised: mpsc::SyncSender<Result<()>>) -> Self {
        Watcher { shared, initialised }
    }

    /// Until it is told to stop, or the plugin refuses its first start.
    pub fn run(self, created: &mpsc::SyncSender<Result<()>>, daemon: &mpsc::Receiver<Arc<dyn Daemon>>) {
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
            let on_down = move || {
                if let Some(shared) = bell.upgrade() {
                    shared.ring();
                }
            };
            let watch = Arc::clone(&self.shared.watch);
            Arc::new(Desk::new(&spec.name, Arc::clone(&self.shared.seat), watch, link, on_down))
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
        let mut told: Option<Instant> = None;
        let mut late = self.shared.seat.late();
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
            let now_late = self.shared.seat.late();
            if now_late > late && told.is_none_or(|at| at.elapsed() >= TELL_LATE) {
                self.shared.watch.late(now_late - late);
                (late, told) = (now_late, Some(Instant::now()));
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
        let panicked = cause.starts_with(PANICKED);
        let crash = Crash { cause, panicked, pid, lived, at: SystemTime::now(), in_a_row: life.in_a_row };
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
