//! A Pilot node without I/O: identity, encrypted tunnels, paths, reliable streams, ports, datagrams and control.
//!
//! Facts go in (datagrams, timeouts, answers, commands, each with the current time), and datagrams, events, questions and
//! the next deadline come out; see [`Engine`]. Nothing here opens a socket or a file, reads a clock or the system's
//! randomness, or blocks. The driver in `pilot-net` connects it to the world.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod config;
pub mod engine;
pub mod error;
pub mod event;
pub mod identity;
mod map;
pub mod membership;
pub mod notice;
pub mod query;
mod rng;
pub mod snapshot;
pub mod stream;
pub mod time;
pub mod tunnel;
#[cfg(test)]
mod vectors;

pub use config::Config;
pub use engine::{Engine, Read, Transmit};
pub use error::{BindError, CloseReason, DialError, ReadError, SendError, WriteError};
pub use event::{ConnId, ConnInfo, Event, PingId};
pub use identity::Identity;
pub use notice::Notice;
pub use query::{Answer, Query, QueryId, Resolution, Verdict};
pub use snapshot::Snapshot;
