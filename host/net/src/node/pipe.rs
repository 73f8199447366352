//! One stream between an application and the driver: two bounded byte queues and the flags to wake either side.
//! The application side is a task or a plain thread; the driver side never waits.
//!
//! Full receive side: the driver stops reading from the engine, whose window then closes towards the peer. Full send
//! side: the writer waits. Nothing is ever dropped.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pilot_engine::ConnId;
use tokio::sync::Notify;

use super::waker::Waker;
use super::{ConnInfo, ReadError, WriteError};

/// Bytes held for a reader before the driver stops taking more from the engine.
const RX_CAP: usize = 1 << 20;
/// Bytes held for the driver before a writer waits.
const TX_CAP: usize = 1 << 20;

/// The streams whose application side changed, and what wakes the driver to look at them.
#[derive(Debug)]
pub(super) struct Dirty {
    streams: Mutex<Vec<ConnId>>,
    waker: Arc<Waker>,
}

impl Dirty {
    pub(super) fn new(waker: Arc<Waker>) -> Self {
        Self { streams: Mutex::default(), waker }
    }

    fn mark(&self, conn: ConnId) {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).push(conn);
        self.waker.wake();
    }

    pub(super) fn take(&self, into: &mut Vec<ConnId>) {
        into.append(&mut self.streams.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// How a stream ended, as the reader and the writer are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The peer finished; everything it sent was handed over.
    Finished,
    /// The stream broke; the text says how.
    Broken(String),
}

struct Rx {
    chunks: VecDeque<Bytes>,
    bytes: usize,
    end: Option<End>,
    /// The driver left data in the engine for lack of room.
    starved: bool,
    timeout: Option<Duration>,
}

struct Tx {
    chunks: VecDeque<Bytes>,
    bytes: usize,
    closing: bool,
    end: Option<End>,
}

/// The state that [`super::Stream`] and the driver share.
pub(super) struct Pipe {
    pub(super) conn: ConnId,
    pub(super) info: ConnInfo,
    rx: Mutex<Rx>,
    rx_thread: Condvar,
    rx_task: Notify,
    tx: Mutex<Tx>,
    tx_thread: Condvar,
    tx_task: Notify,
    dirty: Arc<Dirty>,
    /// It is in that list.
    is_dirty: AtomicBool,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    // Both states are valid between any two statements below; a panic elsewhere does not spoil them.
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pipe {
    pub(super) fn new(conn: ConnId, info: ConnInfo, dirty: Arc<Dirty>) -> Self {
        Pipe {
            conn,
            info,
            rx: Mutex::new(Rx {
                chunks: VecDeque::new(),
                bytes: 0,
                end: None,
                starved: false,
                timeout: None,
            }),
            rx_thread: Condvar::new(),
            rx_task: Notify::new(),
            tx: Mutex::new(Tx { chunks: VecDeque::new(), bytes: 0, closing: false, end: None }),
            tx_thread: Condvar::new(),
            tx_task: Notify::new(),
            dirty,
            is_dirty: AtomicBool::new(false),
        }
    }

    fn mark_dirty(&self) {
        if !self.is_dirty.swap(true, Ordering::AcqRel) {
            self.dirty.mark(self.conn);
        }
    }

    /// The driver is about to look at this pipe: later changes mark it again.
    pub(super) fn clear_dirty(&self) {
        self.is_dirty.store(false, Ordering::Release);
    }

    // ---- application side

    fn pop(&self, rx: &mut Rx) -> Option<Bytes> {
        let chunk = rx.chunks.pop_front()?;
        rx.bytes -= chunk.len();
        if rx.starved && rx.bytes < RX_CAP / 2 {
            rx.starved = false;
            self.mark_dirty();
        }
        Some(chunk)
    }

    fn try_read(&self) -> Option<Result<Option<Bytes>, ReadError>> {
        let mut rx = lock(&self.rx);
        if let Some(chunk) = self.pop(&mut rx) {
            return Some(Ok(Some(chunk)));
        }
        match &rx.end {
            None => None,
            Some(End::Finished) => Some(Ok(None)),
            Some(End::Broken(text)) => Some(Err(ReadError::Broken(text.clone()))),
        }
    }

    pub(super) async fn read(&self) -> Result<Option<Bytes>, ReadError> {
        loop {
            let notified = self.rx_task.notified();
            if let Some(out) = self.try_read() {
                return out;
            }
            notified.await;
        }
    }

    pub(super) fn set_read_timeout(&self, timeout: Option<Duration>) {
        lock(&self.rx).timeout = timeout;
    }

    /// Copies into `buf`; a chunk larger than it is kept for the next call. 0 is the end of the stream.
    pub(super) fn read_blocking(&self, buf: &mut [u8]) -> Result<usize, ReadError> {
        if buf.is_empty() {
            return Ok(0);
        }
        let mut rx = lock(&self.rx);
        let deadline = rx.timeout.and_then(|t| Instant::now().checked_add(t));
        loop {
            if let Some(mut chunk) = self.pop(&mut rx) {
                let mut filled = 0;
                loop {
                    let n = chunk.len().min(buf.len() - filled);
                    buf[filled..filled + n].copy_from_slice(&chunk[..n]);
                    filled += n;
                    if n < chunk.len() {
                        let rest = chunk.split_off(n);
                        rx.bytes += rest.len();
                        rx.chunks.push_front(rest);
                        return Ok(filled);
                    }
                    match self.pop(&mut rx) {
                        Some(next) if filled < buf.len() => chunk = next,
                        Some(next) => {
                            rx.bytes += next.len();
                            rx.chunks.push_front(next);
                            return Ok(filled);
                        }
                        None => return Ok(filled),
                    }
                }
            }
            match &rx.end {
                Some(End::Finished) => return Ok(0),
                Some(End::Broken(text)) => return Err(ReadError::Broken(text.clone())),
                None => {}
            }
            rx = match deadline {
                None => self.rx_thread.wait(rx).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(ReadError::TimedOut);
                    }
                    self.rx_thread.wait_timeout(rx, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn try_write(&self, data: &mut Option<Bytes>) -> Option<Result<(), WriteError>> {
        let mut tx = lock(&self.tx);
        if let Some(end) = &tx.end {
            return Some(Err(match end {
                End::Finished => WriteError::Closed,
                End::Broken(text) => WriteError::Broken(text.clone()),
            }));
        }
        if tx.closing {
            return Some(Err(WriteError::Closed));
        }
        if tx.bytes >= TX_CAP {
            return None;
        }
        if let Some(chunk) = data.take().filter(|c| !c.is_empty()) {
            tx.bytes += chunk.len();
            tx.chunks.push_back(chunk);
            drop(tx);
            self.mark_dirty();
        }
        Some(Ok(()))
    }

    pub(super) async fn write(&self, data: Bytes) -> Result<(), WriteError> {
        let mut data = Some(data);
        loop {
            let notified = self.tx_task.notified();
            if let Some(out) = self.try_write(&mut data) {
                return out;
            }
            notified.await;
        }
    }

    pub(super) fn write_blocking(&self, data: Bytes, limit: Duration) -> Result<(), WriteError> {
        let deadline = Instant::now() + limit;
        let mut data = Some(data);
        loop {
            if let Some(out) = self.try_write(&mut data) {
                return out;
            }
            let tx = lock(&self.tx);
            if tx.bytes < TX_CAP || tx.end.is_some() || tx.closing {
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(WriteError::Full);
            }
            drop(self.tx_thread.wait_timeout(tx, left).unwrap_or_else(PoisonError::into_inner));
        }
    }

    pub(super) fn close(&self) {
        let mut tx = lock(&self.tx);
        if !tx.closing {
            tx.closing = true;
            drop(tx);
            self.wake_writer();
            self.mark_dirty();
        }
    }

    // ---- driver side

    /// Hands what the writer left to `engine`, which returns how many bytes of the chunk it took. The result says
    /// whether everything was taken and the application closed its side.
    pub(super) fn drain_tx(&self, mut engine: impl FnMut(&Bytes) -> usize) -> bool {
        let mut tx = lock(&self.tx);
        let before = tx.bytes;
        while let Some(chunk) = tx.chunks.front_mut() {
            let len = chunk.len();
            let taken = engine(chunk).min(len);
            if taken == len {
                tx.chunks.pop_front();
                tx.bytes -= len;
            } else {
                bytes::Buf::advance(chunk, taken);
                tx.bytes -= taken;
                break;
            }
        }
        let done = tx.closing && tx.chunks.is_empty();
        let woke = before >= TX_CAP && tx.bytes < TX_CAP;
        drop(tx);
        if woke {
            self.wake_writer();
        }
        done
    }

    /// Room for received bytes; 0 notes that the engine still holds some.
    pub(super) fn rx_room(&self) -> usize {
        let mut rx = lock(&self.rx);
        let room = RX_CAP.saturating_sub(rx.bytes);
        if room == 0 {
            rx.starved = true;
        }
        room
    }

    /// Hands a received chunk to the reader; the caller wakes it with [`wake_reader`](Self::wake_reader).
    pub(super) fn push_rx(&self, chunk: Bytes) {
        let mut rx = lock(&self.rx);
        rx.bytes += chunk.len();
        rx.chunks.push_back(chunk);
    }

    pub(super) fn wake_reader(&self) {
        self.rx_thread.notify_all();
        self.rx_task.notify_one();
    }

    fn wake_writer(&self) {
        self.tx_thread.notify_all();
        self.tx_task.notify_one();
    }

    /// No more data will come.
    pub(super) fn end_rx(&self, end: End) {
        lock(&self.rx).end.get_or_insert(end);
        self.wake_reader();
    }

    /// No more data can be sent; what waits is dropped.
    pub(super) fn end_tx(&self, end: End) {
        let mut tx = lock(&self.tx);
        tx.end.get_or_insert(end);
        tx.chunks.clear();
        tx.bytes = 0;
        drop(tx);
        self.wake_writer();
    }
}
