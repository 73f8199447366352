//! An in-memory stream: two ends, one bounded buffer per direction, read deadlines like the real one.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::api::Connection;
use crate::types::ConnectionInfo;
use crate::{Error, ErrorKind, Result};

/// Bytes that one direction holds before `write` waits.
pub const STREAM_BUFFER: usize = 1 << 20;

/// A connected pair; `info` is the first end's view, the second end has it mirrored. Closing or dropping an end is seen
/// by the other as end of stream once the buffer is empty.
pub fn stream_pair(info: ConnectionInfo) -> (Arc<dyn Connection>, Arc<dyn Connection>) {
    let mirrored = ConnectionInfo {
        local: info.remote,
        local_port: info.remote_port,
        remote: info.local,
        remote_port: info.local_port,
    };
    let (forth, back) = (Arc::<Pipe>::default(), Arc::<Pipe>::default());
    let end = |info, incoming: &Arc<Pipe>, outgoing: &Arc<Pipe>| {
        static NEXT_ID: AtomicU32 = AtomicU32::new(1);
        Arc::new(End {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            info,
            incoming: Arc::clone(incoming),
            outgoing: Arc::clone(outgoing),
            deadline: Mutex::new(None),
        })
    };
    (end(info, &back, &forth), end(mirrored, &forth, &back))
}

/// One direction.
#[derive(Default)]
struct Pipe {
    state: Mutex<PipeState>,
    changed: Condvar,
}

#[derive(Default)]
struct PipeState {
    bytes: VecDeque<u8>,
    /// The writer has closed: end of stream after the bytes.
    finished: bool,
    /// The reader has closed: bytes have nowhere to go.
    abandoned: bool,
}

impl Pipe {
    fn lock(&self) -> MutexGuard<'_, PipeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct End {
    id: u32,
    info: ConnectionInfo,
    incoming: Arc<Pipe>,
    outgoing: Arc<Pipe>,
    deadline: Mutex<Option<Instant>>,
}

impl End {
    fn deadline(&self) -> Option<Instant> {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection for End {
    fn id(&self) -> u32 {
        self.id
    }

    fn info(&self) -> ConnectionInfo {
        self.info
    }

    fn read(&self, buf: &mut [u8]) -> Result<usize> {
        let mut state = self.incoming.lock();
        loop {
            if !state.bytes.is_empty() {
                let n = buf.len().min(state.bytes.len());
                for (to, from) in buf.iter_mut().zip(state.bytes.drain(..n)) {
                    *to = from;
                }
                self.incoming.changed.notify_all();
                return Ok(n);
            }
            if state.finished || state.abandoned {
                return Ok(0);
            }
            state = match self.deadline() {
                None => self.incoming.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(at) => {
                    let left = at.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(Error::new(ErrorKind::TimedOut, "pilot: read deadline exceeded"));
                    }
                    self.incoming.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn write(&self, mut data: &[u8]) -> Result<()> {
        let mut state = self.outgoing.lock();
        while !data.is_empty() {
            if state.finished || state.abandoned {
                let name = if state.finished { "CLOSED" } else { "CLOSE_WAIT" };
                return Err(Error::new(
                    ErrorKind::Closed,
                    format!("connection no longer established (state={name})"),
                ));
            }
            let room = STREAM_BUFFER - state.bytes.len();
            if room == 0 {
                state = self.outgoing.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let (now, later) = data.split_at(room.min(data.len()));
            state.bytes.extend(now);
            data = later;
            self.outgoing.changed.notify_all();
        }
        Ok(())
    }

    fn set_read_timeout(&self, timeout: Option<Duration>) -> Result<()> {
        // Under the pipe's lock, so that a reader that waits sees the new deadline.
        let _state = self.incoming.lock();
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) =
            timeout.and_then(|t| Instant::now().checked_add(t));
        self.incoming.changed.notify_all();
        Ok(())
    }

    fn close(&self) {
        self.outgoing.lock().finished = true;
        self.outgoing.changed.notify_all();
        self.incoming.lock().abandoned = true;
        self.incoming.changed.notify_all();
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.close();
    }
}
