//! Plugins in processes of their own: `isolation = "process"`.
//!
//! ```text
//!   host process                                   child process (the same program, `plugin-child`)
//!   ChildPlugin ── supervises, restarts            start ── opens the sealed file that came over the socket
//!   Seat  ── the plugin's services for the host    Home  ── the plugin, its services
//!   Desk  ── the plugin's Daemon, served           ChildDaemon ── that Daemon, asked
//!        └──────────── Session ═══ socket pair ═══ Session ────────────┘
//! ```
//!
//! The same `.so` runs unchanged on the other side of a socket pair. [`ChildPlugin`] implements the plain
//! [`Plugin`](plugin_abi::Plugin), so that whoever starts plugins need not know; the child gives its plugin a plain
//! [`Daemon`](plugin_abi::Daemon). A crash, an `abort`, an `exit` or an endless loop ends the child and nothing else: its
//! streams and ports are closed, its services answer "no" until the next child serves them, and that one is started after
//! a pause that grows, up to a number of crashes.
//!
//! Whatever comes from the child is checked like bytes from a network: lengths, numbers of objects, calls at once, memory
//! on its behalf. Breaking the protocol is one of the ways to end.
//!
//! # Atomics
//!
//! Who reads next is settled by counters alone: `turns.rs`, which says why nobody's turn is ever lost (loom checks it:
//! `tests/turns-model`). The other atomics of this crate guard no data. They are flags that go one way once (a session is down, a
//! plugin is being stopped), set with `Release` after what explains them was written (or under the lock of what they
//! close) and read with `Acquire`, where seeing one late costs one more turn of a loop whose next wait ends at once
//! because the socket or the condition variable was closed as well; and numbers (calls being served, bytes of them,
//! answers that came late, serial numbers) where each change is one read-modify-write and nothing else is inferred.

mod atomic {
    pub(super) use std::sync::atomic::{AtomicUsize, Ordering};
}
mod frame;
mod inside;
mod limits;
mod link;
mod message;
mod outbox;
mod parent;
mod plugin;
mod process;
mod services;
mod session;
mod turns;
mod watch;
mod watcher;

pub use inside::child_main;
pub use limits::{ChildLimits, Restarts};
pub use plugin::{ChildPlugin, ChildSpec};
pub use process::Program;
pub use watch::{AfterCrash, ChildState, ChildStatus, ChildWatch, Crash};
