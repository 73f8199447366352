//! The sending end of the socket: bounded, and never a reason for a reader to wait.
//!
//! Whoever sends writes straight to the socket while it takes the bytes; what it does not take goes to a queue that one
//! thread empties. Senders that may wait do so while the queue is full. Those that may not (the thread that reads the
//! socket: if both sides' readers waited for each other nothing would ever move) get some room more, and beyond it the
//! session ends, because the other side plainly does not read.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags};

/// Queued bytes above which senders that may wait do so.
const SOFT: usize = 1 << 20;
/// Queued bytes above which nobody is served any more.
const HARD: usize = 16 << 20;

/// How long a sender waits for room.
#[derive(Clone, Copy, Debug)]
pub(super) enum Patience {
    /// Not at all.
    None,
    /// Until then.
    Until(Instant),
    /// As long as the session lives.
    Endless,
}

/// Why a frame was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendError {
    /// The session has ended.
    Closed,
    /// No room within the sender's patience.
    Full,
}

pub(super) struct Outbox {
    socket: OwnedFd,
    state: Mutex<State>,
    /// Somebody may go on: bytes left the queue, or the session ended.
    room: Condvar,
    /// The thread that empties the queue may go on.
    work: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Somebody writes to the socket right now.
    sending: bool,
    closed: bool,
}

impl Outbox {
    pub fn new(socket: OwnedFd) -> Self {
        Outbox { socket, state: Mutex::default(), room: Condvar::new(), work: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends `head` and `raw` as one.
    pub fn send(&self, head: &[u8], raw: &[u8], patience: Patience) -> Result<(), SendError> {
        let mut state = self.lock();
        if !state.closed && !state.sending && state.queue.is_empty() {
            state.sending = true;
            drop(state);
            let sent = self.write_now(&[IoSlice::new(head), IoSlice::new(raw)]);
            state = self.lock();
            state.sending = false;
            match sent {
                Ok(n) if n == head.len() + raw.len() => {}
                Ok(n) => state.put_front(rest(head, raw, n)),
                Err(_) => state.closed = true,
            }
            if state.closed || !state.queue.is_empty() {
                self.work.notify_one();
                self.room.notify_all();
            }
            return if state.closed { Err(SendError::Closed) } else { Ok(()) };
        }
        let size = head.len() + raw.len();
        loop {
            if state.closed {
                return Err(SendError::Closed);
            }
            let limit = if matches!(patience, Patience::None) { HARD } else { SOFT };
            // An empty queue takes a frame of any size.
            if state.bytes == 0 || state.bytes + size <= limit {
                break;
            }
            state = match patience {
                Patience::None => return Err(SendError::Full),
                Patience::Endless => self.room.wait(state).unwrap_or_else(PoisonError::into_inner),
                Patience::Until(end) => {
                    let left = end.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(SendError::Full);
                    }
                    self.room.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        state.bytes += size;
        state.queue.push_back([head, raw].concat());
        self.work.notify_one();
        Ok(())
    }

    /// Ends everything that waits here.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.queue.clear();
        state.bytes = 0;
        self.room.notify_all();
        self.work.notify_all();
    }

    /// Empties the queue until the session ends; the work of one thread. `Err` when the other side took nothing for as long
    /// as `stall`.
    pub fn run(&self, stall: Duration) -> Result<(), Duration> {
        loop {
            let mut state = self.lock();
            while !state.closed && (state.sending || state.queue.is_empty()) {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.closed {
                return Ok(());
            }
            state.sending = true;
            let Some(next) = state.queue.pop_front() else { continue };
            drop(state);
            let sent = self.write_all(&next, stall);
            let mut state = self.lock();
            state.sending = false;
            state.bytes = state.bytes.saturating_sub(next.len());
            self.room.notify_all();
            match sent {
                Ok(()) => {}
                Err(Errno::TIMEDOUT) => return Err(stall),
                Err(_) => state.closed = true,
            }
        }
    }

    /// What the socket takes without waiting; 0 when it is full.
    fn write_now(&self, parts: &[IoSlice<'_>]) -> Result<usize, Errno> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            match rustix::net::sendmsg(&self.socket, parts, &mut SendAncillaryBuffer::default(), flags) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(0),
                result => return result,
            }
        }
    }

    fn write_all(&self, mut bytes: &[u8], stall: Duration) -> Result<(), Errno> {
        while !bytes.is_empty() {
            match self.write_now(&[IoSlice::new(bytes)])? {
                0 => self.wait_writable(stall)?,
                n => bytes = &bytes[n..],
            }
        }
        Ok(())
    }

    fn wait_writable(&self, limit: Duration) -> Result<(), Errno> {
        let limit = Timespec::try_from(limit).map_err(|_| Errno::INVAL)?;
        let mut fds = [PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::OUT)];
        match poll(&mut fds, Some(&limit)) {
            Ok(0) => Err(Errno::TIMEDOUT),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(e),
        }
    }
}

impl State {
    fn put_front(&mut self, bytes: Vec<u8>) {
        self.bytes += bytes.len();
        self.queue.push_front(bytes);
    }
}

/// `head` and `raw` without their first `n` bytes.
fn rest(head: &[u8], raw: &[u8], n: usize) -> Vec<u8> {
    let (head_left, raw_left) = (head.get(n..).unwrap_or_default(), n.saturating_sub(head.len()));
    [head_left, raw.get(raw_left..).unwrap_or_default()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    fn pair() -> (Arc<Outbox>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Arc::new(Outbox::new(ours.into())), theirs)
    }

    #[test]
    fn what_is_left_over() {
        assert_eq!(rest(b"head", b"raw", 0), b"headraw");
        assert_eq!(rest(b"head", b"raw", 3), b"draw");
        assert_eq!(rest(b"head", b"raw", 4), b"raw");
        assert_eq!(rest(b"head", b"raw", 6), b"w");
    }

    #[test]
    fn order_is_kept_when_the_socket_is_full() {
        let (outbox, mut theirs) = pair();
        let writer = Arc::clone(&outbox);
        let flusher = Arc::clone(&outbox);
        let flusher = std::thread::spawn(move || flusher.run(Duration::from_secs(30)));
        let writer = std::thread::spawn(move || {
            for i in 0..200u8 {
                writer.send(&[i], &vec![i; 64 << 10], Patience::Endless).unwrap();
            }
        });
        let mut piece = vec![0; 1 + (64 << 10)];
        for i in 0..200u8 {
            theirs.read_exact(&mut piece).unwrap();
            assert!(piece.iter().all(|b| *b == i), "{i}");
        }
        writer.join().unwrap();
        outbox.close();
        assert_eq!(flusher.join().unwrap(), Ok(()));
    }

    #[test]
    fn nothing_waits_for_a_side_that_does_not_read() {
        let (outbox, _theirs) = pair();
        let piece = vec![0; 256 << 10];
        let soon = || Patience::Until(Instant::now() + Duration::from_millis(1));
        let waits = (0..100).map(|_| outbox.send(&piece, &[], soon())).find(Result::is_err);
        assert_eq!(waits, Some(Err(SendError::Full)));
        let refused = (0..100).map(|_| outbox.send(&piece, &[], Patience::None)).find(Result::is_err);
        assert_eq!(refused, Some(Err(SendError::Full)));
        assert!(outbox.lock().bytes <= HARD);
        assert_eq!(outbox.run(Duration::from_millis(1)), Err(Duration::from_millis(1)));
        outbox.close();
        assert_eq!(outbox.send(b"", b"", Patience::Endless), Err(SendError::Closed));
        assert_eq!(outbox.lock().bytes, 0);
    }
}
