//! What a client holds: streams, listeners, datagrams; and the table that sorts the daemon's pushes into them.
//!
//! The table is filled by the client's reader task and emptied by the handles. It remembers data and closes that arrive
//! before anybody asks for the connection (ipc.md section 4, rule 4).

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use pilot_wire::addr::Addr;
use pilot_wire::ipc::{MAX_SEND_DATA, Request};
use tokio::sync::Notify;

use super::client::{ClientError, Wire};

/// Bytes that wait for one stream's reader. Above it the client stops reading its socket, and with it everything else:
/// read your streams.
const STREAM_BUFFER: usize = 4 << 20;
/// Connections that nobody claimed and whose news is kept; above it the oldest is forgotten.
const MAX_UNCLAIMED: usize = 64;
/// Bytes kept for a connection that nobody claimed; further ones are dropped. A daemon announces a connection before its
/// data, so this is only the rest of a stream whose handle is gone.
const UNCLAIMED_BUFFER: usize = 256 << 10;
/// Datagrams that wait; further ones are dropped, as datagrams may be.
const MAX_DATAGRAMS: usize = 256;
/// Streams that wait to be accepted on one port; further ones are closed.
const MAX_BACKLOG: usize = 64;

/// A datagram that the daemon handed to all clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Who sent it.
    pub from: Addr,
    /// From which port.
    pub src_port: u16,
    /// To which of our ports.
    pub dst_port: u16,
    /// The payload.
    pub data: Bytes,
}

/// A stream that somebody opened to a bound port.
#[derive(Debug)]
pub struct Accepted {
    /// Who dialled.
    pub remote: Addr,
    /// From which port.
    pub remote_port: u16,
    /// The stream.
    pub stream: Stream,
}

#[derive(Debug, Default)]
struct StreamState {
    data: VecDeque<Bytes>,
    bytes: usize,
    closed: bool,
    /// A handle stands for it, or is about to.
    claimed: bool,
    news: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Backlog {
    waiting: VecDeque<(u32, Addr, u16)>,
    news: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Inner {
    streams: HashMap<u32, StreamState>,
    /// Ids in `streams` that no handle stands for yet, oldest first.
    unclaimed: VecDeque<u32>,
    listeners: HashMap<u16, Backlog>,
    datagrams: VecDeque<Datagram>,
    over: bool,
}

/// The table. All locks are short and never held across an await.
#[derive(Debug, Default)]
pub(super) struct Table {
    inner: Mutex<Inner>,
    /// Fires when a stream's reader took something, a datagram arrived, or the connection ended.
    drained: Notify,
    datagram: Notify,
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code panics while it holds the lock; the data is plain queues either way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that a handle is about to stand for.
    pub(super) fn open(&self, conn: u32) {
        self.lock().claim(conn);
    }

    /// A port whose bind is on its way: its accepts are kept from now on.
    pub(super) fn listen(&self, port: u16) {
        self.lock().listeners.entry(port).or_default();
    }

    pub(super) fn unlisten(&self, port: u16) -> Vec<u32> {
        let backlog = self.lock().listeners.remove(&port);
        backlog.map(|b| b.waiting.into_iter().map(|(conn, ..)| conn).collect()).unwrap_or_default()
    }

    /// Stores data; `false` when the stream's buffer is full and the caller should wait for [`room`](Self::room).
    pub(super) fn data(&self, conn: u32, data: Bytes) -> bool {
        let mut inner = self.lock();
        let state = inner.state(conn);
        if !state.claimed && state.bytes + data.len() > UNCLAIMED_BUFFER {
            return true;
        }
        state.bytes += data.len();
        if !data.is_empty() {
            state.data.push_back(data);
        }
        state.news.notify_one();
        state.bytes < STREAM_BUFFER
    }

    /// Waits until the stream's buffer has room again or nobody wants it any more.
    pub(super) async fn room(&self, conn: u32) {
        loop {
            let drained = self.drained.notified();
            let full = self.lock().streams.get(&conn).is_some_and(|s| s.bytes >= STREAM_BUFFER && !s.closed);
            if !full {
                return;
            }
            drained.await;
        }
    }

    /// The daemon says that a connection has ended.
    pub(super) fn closed(&self, conn: u32) {
        let mut inner = self.lock();
        let state = inner.state(conn);
        state.closed = true;
        state.news.notify_one();
    }

    /// A stream arrived on a port; gives the id back when nobody wants it.
    pub(super) fn accept(&self, port: u16, conn: u32, remote: Addr, remote_port: u16) -> Result<(), u32> {
        let mut inner = self.lock();
        let Some(backlog) = inner.listeners.get_mut(&port) else { return Err(conn) };
        if backlog.waiting.len() >= MAX_BACKLOG {
            return Err(conn);
        }
        backlog.waiting.push_back((conn, remote, remote_port));
        backlog.news.notify_one();
        inner.claim(conn);
        Ok(())
    }

    pub(super) fn push_datagram(&self, datagram: Datagram) {
        let mut inner = self.lock();
        if inner.datagrams.len() < MAX_DATAGRAMS {
            inner.datagrams.push_back(datagram);
            self.datagram.notify_one();
        }
    }

    /// The next datagram to `port`; those to other ports are thrown away. `None` once the connection is over.
    pub(super) async fn datagram(&self, port: u16) -> Option<Datagram> {
        loop {
            let news = self.datagram.notified();
            {
                let mut inner = self.lock();
                while let Some(d) = inner.datagrams.pop_front() {
                    if d.dst_port == port {
                        return Some(d);
                    }
                }
                if inner.over {
                    return None;
                }
            }
            news.await;
        }
    }

    /// The connection to the daemon has ended: everything has.
    pub(super) fn end(&self) {
        let mut inner = self.lock();
        inner.over = true;
        for state in inner.streams.values_mut() {
            state.closed = true;
            state.news.notify_one();
        }
        for backlog in inner.listeners.values() {
            backlog.news.notify_one();
        }
        self.datagram.notify_one();
        self.drained.notify_waiters();
    }

    pub(super) fn is_over(&self) -> bool {
        self.lock().over
    }

    fn forget(&self, conn: u32) {
        self.lock().streams.remove(&conn);
        self.drained.notify_waiters();
    }

    async fn read(&self, conn: u32) -> Option<Bytes> {
        loop {
            let news = {
                let mut inner = self.lock();
                let over = inner.over;
                let state = inner.streams.get_mut(&conn)?;
                if let Some(data) = state.data.pop_front() {
                    let was_full = state.bytes >= STREAM_BUFFER;
                    state.bytes -= data.len();
                    if was_full && state.bytes < STREAM_BUFFER {
                        self.drained.notify_waiters();
                    }
                    return Some(data);
                }
                if state.closed || over {
                    return None;
                }
                Arc::clone(&state.news)
            };
            // notify_one stores a permit, so news between the lock and this line is not lost.
            news.notified().await;
        }
    }

    async fn next_accept(&self, port: u16) -> Option<(u32, Addr, u16)> {
        loop {
            let news = {
                let mut inner = self.lock();
                let over = inner.over;
                let backlog = inner.listeners.get_mut(&port)?;
                if let Some(next) = backlog.waiting.pop_front() {
                    return Some(next);
                }
                if over {
                    return None;
                }
                Arc::clone(&backlog.news)
            };
            news.notified().await;
        }
    }
}

impl Inner {
    /// The state of a connection; one nobody knows yet is remembered as unclaimed, in place of the oldest such.
    fn state(&mut self, conn: u32) -> &mut StreamState {
        let Inner { streams, unclaimed, .. } = self;
        if !streams.contains_key(&conn) {
            unclaimed.push_back(conn);
            if unclaimed.len() > MAX_UNCLAIMED
                && let Some(oldest) = unclaimed.pop_front()
            {
                streams.remove(&oldest);
            }
        }
        streams.entry(conn).or_default()
    }

    fn claim(&mut self, conn: u32) {
        self.unclaimed.retain(|other| *other != conn);
        self.streams.entry(conn).or_default().claimed = true;
    }
}

/// One end of a stream. Dropping it closes it, without waiting, when a runtime is there to carry the request.
#[derive(Debug)]
pub struct Stream {
    id: u32,
    wire: Arc<Wire>,
    open: bool,
}

impl Stream {
    pub(super) fn new(id: u32, wire: Arc<Wire>) -> Stream {
        wire.table.open(id);
        Stream { id, wire, open: true }
    }

    /// The daemon-wide connection id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The next piece of data in order; `None` at the end of the stream. Borders between pieces mean nothing.
    /// Cancel-safe.
    pub async fn read(&self) -> Option<Bytes> {
        self.wire.table.read(self.id).await
    }

    /// Hands `data` to the daemon, split into frames as the protocol demands; waits while the daemon does not read. The
    /// daemon does not tell whether the peer got it.
    pub async fn write(&self, data: Bytes) -> Result<(), ClientError> {
        self.write_all([data]).await
    }

    /// As [`write`](Self::write) for several pieces at once, with fewer system calls.
    pub async fn write_all(&self, pieces: impl IntoIterator<Item = Bytes>) -> Result<(), ClientError> {
        let mut frames = Vec::new();
        for mut data in pieces {
            while !data.is_empty() {
                let part = data.split_to(data.len().min(MAX_SEND_DATA));
                frames.push(Request::Send { conn: self.id, data: part }.encode()?);
            }
        }
        self.wire.write(&frames).await
    }

    /// Closes the stream after what was written; waits until the request is with the daemon, not until the peer knows.
    pub async fn close(mut self) -> Result<(), ClientError> {
        self.open = false;
        self.wire.write(&[Request::Close { conn: self.id }.encode()?]).await
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.wire.table.forget(self.id);
        if self.open {
            self.wire.write_later(Request::Close { conn: self.id });
        }
    }
}

/// A bound port. Dropping it releases the port, without waiting.
#[derive(Debug)]
pub struct Listener {
    port: u16,
    wire: Weak<Wire>,
    table: Arc<Table>,
}

impl Listener {
    pub(super) fn new(port: u16, wire: &Arc<Wire>) -> Listener {
        Listener { port, wire: Arc::downgrade(wire), table: Arc::clone(&wire.table) }
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The next stream; `None` once the connection to the daemon is over. Cancel-safe.
    pub async fn accept(&self) -> Option<Accepted> {
        let (conn, remote, remote_port) = self.table.next_accept(self.port).await?;
        let stream = Stream::new(conn, self.wire.upgrade()?);
        Some(Accepted { remote, remote_port, stream })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let orphans = self.table.unlisten(self.port);
        let Some(wire) = self.wire.upgrade() else { return };
        for conn in orphans {
            self.table.forget(conn);
            wire.write_later(Request::Close { conn });
        }
        wire.unbind_later(self.port);
    }
}
