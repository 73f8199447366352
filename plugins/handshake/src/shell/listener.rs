//! Port 444: accepts streams, reads one message from each, hands it to the core.

use std::sync::Arc;
use std::time::{Duration, Instant};

use plugin_abi::{Connection, Daemon, ErrorKind, Listener};

use super::core::Core;
use crate::protocol::message::{MAX_MESSAGE, Message};
use crate::protocol::receive::Refusal;
use crate::protocol::tolerant::JsonError;

/// Most threads of the plugin at a time; four of them are its own, the others handle one stream each. When all are
/// busy, streams wait in the listener's queue of 64, and the daemon refuses what does not fit there.
const MAX_THREADS: usize = 4 + 64;
/// How long a peer may take to send its message.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a reading handler looks whether the plugin stops.
const READ_SLICE: Duration = Duration::from_millis(250);
/// What one read may bring.
const READ_BUFFER: usize = 16 * 1024;

/// The accept loop; ends when the listener or the plugin is closed.
pub fn run(core: &Arc<Core>, daemon: &Arc<dyn Daemon>, listener: &dyn Listener) {
    while let Some(connection) = listener.accept() {
        if !core.tasks.admit(MAX_THREADS) {
            connection.close();
            return;
        }
        let (handler, stream) = (Arc::clone(core), Arc::clone(&connection));
        let started =
            core.tasks.spawn(Arc::clone(daemon), "handshake-stream", move || serve(&handler, stream));
        if let Err(cause) = started {
            tracing::warn!(%cause, "stream on port 444 dropped");
            connection.close();
        }
    }
}

/// One stream, one message.
fn serve(core: &Core, connection: Arc<dyn Connection>) {
    // Closed in a moment, also when what follows panics.
    let closing = Closing { core, connection };
    let connection = closing.connection.as_ref();
    let stream = connection.info().remote.node;
    let handled = read_message(core, connection).and_then(|message| match core.daemon() {
        Ok(daemon) => {
            let peer = message.node_id;
            tracing::debug!(peer, kind = message.kind, "handshake message");
            core.receive(daemon.as_ref(), &message, stream)
        }
        // Stopping; the sender will ask again.
        Err(_) => Ok(()),
    });
    if let Err(cause) = handled {
        tracing::info!(stream, %cause, "handshake message dropped");
    }
}

struct Closing<'a> {
    core: &'a Core,
    connection: Arc<dyn Connection>,
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.core.lingering.push(Arc::clone(&self.connection));
    }
}

/// Reads until there is one whole message, the stream ends, or the time is up.
///
/// The Go peer looks only at what its first read returns. Reading on while the JSON is incomplete takes the same
/// messages and also those that a sender with small segments had to cut in two.
fn read_message(core: &Core, connection: &dyn Connection) -> Result<Message, Refusal> {
    let deadline = Instant::now() + READ_TIMEOUT;
    let mut bytes = Vec::new();
    let mut buffer = [0; READ_BUFFER];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || core.tasks.is_closed() || bytes.len() >= MAX_MESSAGE {
            return Err(JsonError::Incomplete.into());
        }
        if connection.set_read_timeout(Some(left.min(READ_SLICE))).is_err() {
            return Err(JsonError::Incomplete.into());
        }
        match connection.read(&mut buffer) {
            Ok(0) => return Err(JsonError::Incomplete.into()),
            Ok(n) => bytes.extend_from_slice(buffer.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == ErrorKind::TimedOut => continue,
            Err(_) => return Err(JsonError::Incomplete.into()),
        }
        match Message::decode(&bytes) {
            Err(JsonError::Incomplete) => {}
            decoded => return Ok(decoded?),
        }
    }
}
