//! [`ChildPlugin`]: a plugin that is a process, for those who start, stop and list plugins. The thread that keeps the
//! process is in `watcher`.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use plugin_abi::{Daemon, Error, ErrorKind, Plugin, Result};
use rustix::event::{EventfdFlags, eventfd};

use super::limits::ChildLimits;
use super::link::CallError;
use super::message::ToChild;
use super::parent::desk::Desk;
use super::parent::seat::Seat;
use super::process::Program;
use super::session::Session;
use super::watch::{ChildState, ChildStatus, ChildWatch, Crash};
use super::watcher::Watcher;
use crate::open::{OpenVia, sealed};

/// Longest wait for the watching thread to notice a request to stop.
const STOP_LIMIT: Duration = Duration::from_secs(5);

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

pub(super) struct Shared {
    pub spec: ChildSpec,
    pub library: File,
    pub seat: Arc<Seat>,
    pub watch: Arc<dyn ChildWatch>,
    life: Mutex<Life>,
    pub changed: Condvar,
    /// No restart any more.
    pub stopping: AtomicBool,
    /// End what runs.
    pub stop: AtomicBool,
    /// Wakes the watching thread.
    pub bell: OwnedFd,
}

pub(super) struct Life {
    pub state: ChildState,
    /// The session of the child that runs, for `shutdown`.
    pub session: Option<Arc<Session<Arc<Desk>>>>,
    pub pid: Option<u32>,
    pub crashes: u64,
    pub starts: u64,
    pub last: VecDeque<Crash>,
    pub in_a_row: u32,
    pub lifted: bool,
}

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn ring(&self) {
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    pub fn set(&self, state: ChildState) {
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
        let watcher = Watcher::new(Arc::clone(&shared), initialised);
        std::thread::Builder::new()
            .name(format!("{} child", shared.spec.name))
            .spawn(move || watcher.run(&created, &daemon))?;
        // The limits of the steps bound this wait.
        wait.recv().unwrap_or_else(|_| Err(Error::other("the watching thread ended")))?;
        Ok(ChildPlugin { shared, first: Mutex::new(Some(FirstInit { daemon: give_daemon, outcome })) })
    }

    /// A plugin on its own, with the default limits: for measuring and trying things, without a set, a ledger or a
    /// signature. `program` must lead to [`child_main`](super::child_main). The plugin is initialised with `daemon`.
    ///
    /// # Errors
    /// Why the file is refused, in words; then as [`create`](Self::create) and `init`.
    pub fn start_file(program: Program, path: &Path, daemon: Arc<dyn Daemon>) -> Result<ChildPlugin> {
        let file = crate::scan::read_file(path).map_err(|e| Error::invalid(e.to_string()))?;
        let inspection = crate::inspect::inspect(&file).map_err(|e| Error::invalid(e.to_string()))?;
        let spec = ChildSpec {
            name: inspection.header.name,
            path: file.path,
            program,
            open_via: OpenVia::default(),
            host_version: env!("CARGO_PKG_VERSION").to_owned(),
            limits: ChildLimits::default(),
        };
        let plugin = Self::create(spec, &file.bytes, Arc::new(()))?;
        plugin.init(daemon)?;
        Ok(plugin)
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
