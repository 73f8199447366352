//! Messages to a peer's port 444, and the half second for which a stream stays open after its message.
//!
//! One connection carries one message (handshake.md section 1). The side that wrote and the side that read both close
//! 500 ms later; the closing is done by one thread, so nobody waits for it.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use plugin_abi::{Addr, Connection, Daemon, Error, ErrorKind, Result};

use super::lock;
use crate::protocol::message::{Kind, MAX_ONE_SEGMENT, Message, PORT, signed_text};
use crate::protocol::text::to_base64;

/// How long a stream stays open after its message.
pub const LINGER: Duration = Duration::from_millis(500);
/// How long a revocation may take to be read by the peer (which closes [`LINGER`] after reading) before its tunnel goes.
const SETTLE: Duration = Duration::from_millis(1000);
/// Most streams that linger. When full the oldest is closed early.
const MAX_LINGERING: usize = 1024;

/// Writes this node's message to `peer`, with its identity if it has one.
pub fn compose(daemon: &dyn Daemon, peer: u32, kind: Kind, text: &str, now: Timestamp) -> Message {
    let node_id = daemon.node_id();
    let (justification, reason) = if kind == Kind::Request { (text, "") } else { ("", text) };
    let signed = daemon.identity().zip(daemon.sign(signed_text(node_id, peer).as_bytes()));
    let (public_key, signature) = match signed {
        Some((key, signature)) => (to_base64(&key), to_base64(&signature)),
        None => Default::default(),
    };
    Message {
        kind: kind.as_str().into(),
        node_id,
        public_key,
        justification: justification.into(),
        signature,
        reason: reason.into(),
        timestamp: now.as_second(),
    }
}

/// Opens a stream to `peer` and writes `message` on it. Blocks, up to `timeout` for the dial.
///
/// # Errors
/// The dial's; `send handshake data: <cause>`; [`Invalid`](ErrorKind::Invalid) for a message that a peer's one read
/// could not take whole.
pub fn send(
    daemon: &dyn Daemon,
    peer: u32,
    message: &Message,
    timeout: Duration,
) -> Result<Arc<dyn Connection>> {
    let bytes = message.encode();
    if bytes.len() > MAX_ONE_SEGMENT {
        let text = format!("handshake message of {} bytes does not fit in one segment", bytes.len());
        return Err(Error::new(ErrorKind::Invalid, text));
    }
    let connection = daemon.dial(Addr::backbone(peer), PORT, timeout)?;
    match connection.write(&bytes) {
        Ok(()) => Ok(connection),
        Err(e) => {
            connection.close();
            Err(Error::new(e.kind(), format!("send handshake data: {e}")))
        }
    }
}

/// Waits until the peer has closed, or long enough, and closes. For the message before a tunnel is torn down.
pub fn settle(connection: &dyn Connection) {
    let deadline = Instant::now() + SETTLE;
    let mut ignored = [0; 256];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || connection.set_read_timeout(Some(left)).is_err() {
            break;
        }
        // Nothing is ever answered on such a stream, but a peer may write all it likes.
        match connection.read(&mut ignored) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    connection.close();
}

/// Streams that wait to be closed.
#[derive(Default)]
pub struct Lingering {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// In the order of their ends, since all linger equally long.
    streams: VecDeque<(Instant, Arc<dyn Connection>)>,
    closed: bool,
}

impl Lingering {
    /// Closes `connection` after [`LINGER`]; at once when the plugin is stopping.
    pub fn push(&self, connection: Arc<dyn Connection>) {
        let mut state = lock(&self.state);
        let early = if state.closed {
            Some(connection)
        } else {
            let crowded = state.streams.len() >= MAX_LINGERING;
            state.streams.push_back((Instant::now() + LINGER, connection));
            self.changed.notify_all();
            if crowded { state.streams.pop_front().map(|(_, c)| c) } else { None }
        };
        drop(state);
        if let Some(connection) = early {
            connection.close();
        }
    }

    /// The closing thread's loop, until [`close`](Self::close) and everything is closed.
    pub fn run(&self) {
        let mut state = lock(&self.state);
        loop {
            let Some((end, _)) = state.streams.front() else {
                if state.closed {
                    return;
                }
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = end.saturating_duration_since(Instant::now());
            if !state.closed && !left.is_zero() {
                state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            let due = state.streams.pop_front();
            drop(state);
            if let Some((_, connection)) = due {
                connection.close();
            }
            state = lock(&self.state);
        }
    }

    /// No more lingering: what is open is closed now.
    pub fn close(&self) {
        lock(&self.state).closed = true;
        self.changed.notify_all();
    }
}
