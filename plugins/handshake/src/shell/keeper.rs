//! Keeps the state on disk and the stores clean: saves merged changes, sweeps every five minutes.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::core::Core;
use super::lock;
use super::state_file::StateFile;
use crate::protocol::trustfile;

/// Between two sweeps (handshake.md section 3).
const SWEEP_INTERVAL: Duration = Duration::from_secs(300);
/// After a save that failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);

/// What is saved where, and who is told.
pub struct Keeper {
    file: Option<StateFile>,
    /// The revision on disk; its lock also keeps two saves apart.
    saved: Mutex<u64>,
    signal: Mutex<Signal>,
    changed: Condvar,
}

#[derive(Default)]
struct Signal {
    dirty: bool,
    closed: bool,
}

impl Keeper {
    /// A keeper whose file, if any, holds `revision`.
    pub fn new(file: Option<StateFile>, revision: u64) -> Self {
        Keeper { file, saved: Mutex::new(revision), signal: Mutex::default(), changed: Condvar::new() }
    }

    /// Something changed.
    pub fn poke(&self) {
        lock(&self.signal).dirty = true;
        self.changed.notify_all();
    }

    /// Time to end.
    pub fn close(&self) {
        lock(&self.signal).closed = true;
        self.changed.notify_all();
    }

    /// Waits for a change or for `due`. `None`: closed.
    fn wait(&self, due: Instant) -> Option<Wake> {
        let mut signal = lock(&self.signal);
        loop {
            if signal.closed {
                return None;
            }
            if std::mem::take(&mut signal.dirty) {
                return Some(Wake::Changed);
            }
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Some(Wake::Due);
            }
            signal = self.changed.wait_timeout(signal, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

enum Wake {
    Changed,
    Due,
}

/// The keeper's thread.
pub fn run(core: &Core) {
    let mut sweep_at = Instant::now() + SWEEP_INTERVAL;
    let mut retry_at = None;
    while let Some(wake) = core.keeper.wait(retry_at.unwrap_or(sweep_at).min(sweep_at)) {
        if matches!(wake, Wake::Due) && Instant::now() >= sweep_at {
            sweep_at = Instant::now() + SWEEP_INTERVAL;
            core.sweep();
        }
        retry_at = (!core.save()).then(|| Instant::now() + RETRY_INTERVAL);
    }
}

impl Core {
    /// Forgets what is too old and looks for a newer list of trusted agents.
    pub fn sweep(&self) {
        self.change(|machine, now| machine.sweep(now));
        self.refresh_agents();
    }

    /// Writes the state if it is not on disk yet. `false`: that failed.
    pub fn save(&self) -> bool {
        let Some(file) = &self.keeper.file else { return true };
        let mut saved = lock(&self.keeper.saved);
        let now = self.now();
        let (revision, text) = self.look(|machine| {
            let store = machine.store();
            let revision = store.revision();
            (revision, (revision != *saved).then(|| trustfile::encode(store, now)))
        });
        let Some(text) = text else { return true };
        match file.save(&text) {
            Ok(()) => {
                *saved = revision;
                true
            }
            Err(cause) => {
                tracing::warn!(%cause, "trust.json not saved, will try again");
                false
            }
        }
    }
}
