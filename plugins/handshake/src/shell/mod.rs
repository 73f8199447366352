//! The surroundings of the protocol: the daemon, the port, the file, the threads and the clock.
//!
//! ```text
//!   listener --bytes--> |      | --effects--> outbox (port 444 of the peer)
//!   service  --calls--> | core | --effects--> errands (registry, one at a time)
//!   errands  --facts--> |      | --changes--> keeper (trust.json, sweep)
//! ```
//!
//! `core` owns the machine behind one mutex and carries its effects out after letting go of it, so no lock is ever held
//! while something waits.

pub mod agent_list;
pub mod clock;
pub mod config;
pub mod core;
pub mod errands;
pub mod inbound;
pub mod keeper;
pub mod listener;
pub mod outbox;
pub mod registry;
pub mod service;
pub mod state_file;
pub mod tasks;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, also after a contained panic of another thread: what the mutexes here guard is whole between two statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
