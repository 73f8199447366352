//! The driver's end of a compat connection, in the place of its UDP socket: takes and gives single beacon messages, never
//! waits, and wakes the driver's `ppoll` through one eventfd: for what arrived, and for room where there was none.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use pilot_wire::compat::BEACON_PLACEHOLDER;
use pilot_wire::tunnel::is_beacon_message;
use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::{Notify, mpsc};

use crate::udp::Received;

/// Bytes that may wait to be written. Little, because TCP has buffers of its own below and what waits here grows old.
pub const SEND_QUEUE_BYTES: usize = 256 << 10;
/// Messages handed over per call.
const BATCH: usize = 32;
/// Datagrams of one run.
const SEGMENTS: usize = 16;

/// Why nothing can be sent now. Arrives as the inner error of [`io::Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Down {
    /// There is no connection at the moment; what was to be sent is lost, as on a bad path.
    #[error("compat transport: reconnecting")]
    Reconnecting,
    /// The transport was closed for good.
    #[error("compat transport: closed")]
    Closed,
}

impl From<Down> for io::Error {
    fn from(down: Down) -> Self {
        let kind = match down {
            Down::Reconnecting => io::ErrorKind::NotConnected,
            Down::Closed => io::ErrorKind::BrokenPipe,
        };
        io::Error::new(kind, down)
    }
}

/// One datagram, or several of the same size (the last may be shorter) behind one another.
#[derive(Debug)]
pub(super) struct Run {
    bytes: Bytes,
    size: usize,
}

impl Run {
    /// Its datagrams.
    pub fn datagrams(mut self) -> impl Iterator<Item = Bytes> {
        std::iter::from_fn(move || {
            let next = self.bytes.split_to(self.size.min(self.bytes.len()));
            (!next.is_empty()).then_some(next)
        })
    }
}

/// What waits to be written.
#[derive(Debug, Default)]
struct Outgoing {
    connected: bool,
    closed: bool,
    runs: VecDeque<Run>,
    bytes: usize,
    /// The driver found no room and wants to be woken when there is.
    starved: bool,
}

/// What both ends share.
#[derive(Debug)]
pub(super) struct Shared {
    outgoing: Mutex<Outgoing>,
    queued: Notify,
    event: OwnedFd,
    /// The event is written, or about to be, and the driver has not looked since.
    signalled: AtomicBool,
    pub sent: AtomicU64,
    pub received: AtomicU64,
    /// Messages from the beacon that are none of its protocol.
    pub foreign: AtomicU64,
}

impl Shared {
    fn outgoing(&self) -> MutexGuard<'_, Outgoing> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the driver. The work must have been left before.
    pub fn signal(&self) {
        if !self.signalled.swap(true, Ordering::AcqRel) {
            // Fails only when the counter is at its limit, and then the descriptor is readable as it should be.
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }

    /// Lets sends through from now on; nothing waits from before.
    pub fn connected(&self) {
        let mut outgoing = self.outgoing();
        outgoing.connected = !outgoing.closed;
    }

    /// Sends fail from now on; what waited is lost. A driver that waits for room learns it.
    pub fn disconnected(&self) {
        self.fail(false);
    }

    /// As [`disconnected`](Self::disconnected), for good.
    pub fn closed(&self) {
        self.fail(true);
    }

    fn fail(&self, closed: bool) {
        let mut outgoing = self.outgoing();
        *outgoing = Outgoing { closed: closed || outgoing.closed, ..Outgoing::default() };
        drop(outgoing);
        self.signal();
    }

    /// Everything that waits, at least one run. Dropping the future loses nothing.
    pub async fn take(&self) -> VecDeque<Run> {
        loop {
            let runs = self.take_now();
            if !runs.is_empty() {
                return runs;
            }
            self.queued.notified().await;
        }
    }

    /// Everything that waits.
    pub fn take_now(&self) -> VecDeque<Run> {
        let mut outgoing = self.outgoing();
        outgoing.bytes = 0;
        let starved = std::mem::take(&mut outgoing.starved);
        let runs = std::mem::take(&mut outgoing.runs);
        drop(outgoing);
        if starved {
            self.signal();
        }
        runs
    }
}

/// The driver's end.
#[derive(Debug)]
pub struct Datagrams {
    shared: Arc<Shared>,
    incoming: mpsc::Receiver<Bytes>,
    scratch: Vec<u8>,
}

impl Datagrams {
    /// Both ends; `queue` messages may wait for the driver.
    pub(super) fn pair(queue: usize) -> io::Result<(Arc<Shared>, mpsc::Sender<Bytes>, Self)> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Arc::new(Shared {
            outgoing: Mutex::default(),
            queued: Notify::new(),
            event,
            signalled: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            foreign: AtomicU64::new(0),
        });
        let (to_driver, incoming) = mpsc::channel(queue.max(1));
        Ok((shared.clone(), to_driver, Self { shared, incoming, scratch: Vec::new() }))
    }

    /// How many equal datagrams one send may carry.
    pub fn max_gso_segments(&self) -> usize {
        SEGMENTS
    }

    /// Hands over what arrived, a bounded number at a time, each as a datagram of the beacon; nothing when nothing waits.
    ///
    /// # Errors
    /// [`Down::Closed`] once everything was handed over. A connection that is being repaired is just silent.
    pub fn receive(&mut self, mut each: impl FnMut(SocketAddr, &mut [u8])) -> io::Result<Received> {
        // In this order: who signals between the two lines leaves the descriptor readable for the next sleep.
        let _ = rustix::io::read(&self.shared.event, &mut [0_u8; 8]);
        self.shared.signalled.swap(false, Ordering::AcqRel);
        let mut datagrams = 0;
        while datagrams < BATCH {
            let message = match self.incoming.try_recv() {
                Ok(message) => message,
                Err(mpsc::error::TryRecvError::Disconnected) if datagrams == 0 => {
                    return Err(Down::Closed.into());
                }
                Err(_) => break,
            };
            datagrams += 1;
            match message.try_into_mut() {
                Ok(mut owned) => each(BEACON_PLACEHOLDER, &mut owned),
                Err(shared) => {
                    self.scratch.clear();
                    self.scratch.extend_from_slice(&shared);
                    each(BEACON_PLACEHOLDER, &mut self.scratch);
                }
            }
        }
        Ok(Received { datagrams, full: datagrams == BATCH })
    }

    /// Queues `contents`, one datagram or a run of `segment_size` pieces. `Ok(false)`: there is no room; the descriptor
    /// becomes readable when there is, or when there never will be.
    ///
    /// # Errors
    /// [`Down`]; `InvalidInput` for what is no message to the beacon, which cannot travel here.
    pub fn send(&self, to: SocketAddr, contents: &[u8], segment_size: Option<usize>) -> io::Result<bool> {
        let size = segment_size.unwrap_or(contents.len()).max(1);
        if to != BEACON_PLACEHOLDER || !contents.chunks(size).all(is_beacon_message) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "compat transport: only messages to the beacon can be sent",
            ));
        }
        let mut outgoing = self.shared.outgoing();
        if outgoing.closed {
            return Err(Down::Closed.into());
        }
        if !outgoing.connected {
            return Err(Down::Reconnecting.into());
        }
        if outgoing.bytes > 0 && outgoing.bytes + contents.len() > SEND_QUEUE_BYTES {
            outgoing.starved = true;
            return Ok(false);
        }
        outgoing.bytes += contents.len();
        outgoing.runs.push_back(Run { bytes: Bytes::copy_from_slice(contents), size });
        drop(outgoing);
        self.shared.queued.notify_one();
        Ok(true)
    }
}

impl AsFd for Datagrams {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    fn is_readable(end: &Datagrams) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(end, PollFlags::IN)], Some(&now)).unwrap() == 1
    }

    #[test]
    fn what_arrives_wakes_the_driver_once_and_is_handed_over_whole() {
        let (shared, to_driver, mut end) = Datagrams::pair(64).unwrap();
        assert!(!is_readable(&end));
        for n in 0..40_u8 {
            to_driver.try_send(Bytes::copy_from_slice(&[6, n])).unwrap();
            shared.signal();
        }
        assert!(is_readable(&end));
        let mut got = Vec::new();
        let mut take = |end: &mut Datagrams| {
            end.receive(|from, data| {
                assert_eq!(from, BEACON_PLACEHOLDER);
                got.push(data[1]);
            })
            .unwrap()
        };
        assert!(take(&mut end).full && !is_readable(&end));
        assert!(!take(&mut end).full);
        assert_eq!(got, (0..40).collect::<Vec<_>>());
        drop(to_driver);
        assert_eq!(end.receive(|_, _| ()).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_send_without_a_connection_fails_at_once_and_after_a_close_differently() {
        let (shared, _to_driver, end) = Datagrams::pair(1).unwrap();
        let send = || end.send(BEACON_PLACEHOLDER, &[1, 0, 0, 0, 7], None).map_err(|e| e.to_string());
        assert_eq!(send(), Err("compat transport: reconnecting".into()));
        shared.connected();
        assert_eq!(send(), Ok(true));
        shared.disconnected();
        assert_eq!(send(), Err("compat transport: reconnecting".into()));
        shared.connected();
        assert!(shared.take_now().is_empty(), "nothing waits from the connection before");
        shared.closed();
        shared.closed();
        shared.connected();
        assert_eq!(send(), Err("compat transport: closed".into()));
    }

    #[test]
    fn a_full_queue_says_so_and_wakes_the_driver_when_there_is_room() {
        let (shared, _to_driver, mut end) = Datagrams::pair(1).unwrap();
        shared.connected();
        let run = [5; 32_000];
        while end.send(BEACON_PLACEHOLDER, &run, Some(1000)).unwrap() {}
        assert!(!is_readable(&end));
        let taken = shared.take_now();
        assert_eq!(taken.len(), SEND_QUEUE_BYTES / run.len());
        let sizes: Vec<usize> = taken.into_iter().flat_map(Run::datagrams).map(|d| d.len()).collect();
        assert_eq!(sizes, [1000; 8 * 32]);
        assert!(is_readable(&end));
        end.receive(|_, _| ()).unwrap();
        assert!(end.send(BEACON_PLACEHOLDER, &run, Some(1000)).unwrap());
    }

    #[test]
    fn nothing_but_messages_to_the_beacon_travels() {
        let (shared, _to_driver, end) = Datagrams::pair(1).unwrap();
        shared.connected();
        for (to, frame) in [("198.51.100.1:4000", b"\x05abcdefgh"), ("192.0.2.2:0", b"PILSabcde")] {
            let refused = end.send(to.parse().unwrap(), frame, None).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{to}");
        }
        assert!(shared.take_now().is_empty());
    }
}
