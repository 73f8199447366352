//! Both ends of the daemon's Unix socket: binding it safely, framing, bounded queues (fact sheet ipc.md sections 1, 2
//! and 4). What the frames mean is `pilot_wire::ipc`; what is done about them is the daemon's dispatcher.
//!
//! * [`IpcServer`] binds the socket and hands out [`Connection`]s: a [`FrameReader`], an [`Outbox`] and the [`Writer`]
//!   that empties it.
//! * [`Client`] connects, asks one thing at a time, and sorts pushes by connection id.

mod bind;
mod client;
mod io;
mod server;
mod streams;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::PathBuf;

pub use bind::BindError;
pub use client::{Client, ClientError, ConnectError};
pub use io::{FrameReader, ReadError};
pub use server::{Connection, Gone, IpcServer, MAX_CLIENTS, Outbox, QUEUE_FRAMES, WRITE_DEADLINE, Writer};
pub use streams::{Accepted, Datagram, Listener, Stream};

/// Where the socket is when nobody says otherwise: `$XDG_RUNTIME_DIR/pilot.sock` when that variable is non-empty, else
/// `/tmp/pilot.sock` (ipc.md section 1).
pub fn default_socket_path() -> PathBuf {
    default_in(std::env::var_os("XDG_RUNTIME_DIR"))
}

fn default_in(runtime_dir: Option<OsString>) -> PathBuf {
    let dir = runtime_dir.filter(|d| !d.is_empty()).unwrap_or_else(|| "/tmp".into());
    PathBuf::from(dir).join("pilot.sock")
}
