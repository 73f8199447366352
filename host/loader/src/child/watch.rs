//! What is told about an isolated plugin: how it is, how it crashed, and to whom.

use std::fmt;
use std::time::{Duration, SystemTime};

/// One crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crash {
    /// What happened: `killed by SIGSEGV`, `exited with 0`, `init: no answer in time`, ...
    pub cause: String,
    /// The plugin panicked in a call of the host. [`ChildWatch::fault`] told so before.
    pub panicked: bool,
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
    /// Leave it until the quarantine is lifted.
    Quarantine,
}

/// Told about what happens to a child, on the thread that watches it unless said otherwise. Keep it short.
pub trait ChildWatch: Send + Sync {
    /// It runs and is initialised.
    fn started(&self, pid: u32) {
        let _ = pid;
    }

    /// The plugin contained a panic, or its side of the border did; `op` names where. On a thread that serves the child.
    fn fault(&self, op: &str, message: &str) {
        let _ = (op, message);
    }

    /// So many calls were not answered in time since this was told last, which is at most once a minute.
    fn late(&self, calls: u64) {
        let _ = calls;
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
