//! The engine's facade: one object for tunnels, paths, streams, ports, datagrams and control.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use pilot_wire::addr::Addr;

use crate::config::Config;
use crate::error::{BindError, DialError, ReadError, SendError, WriteError};
use crate::event::{ConnId, ConnInfo, Event, PingId};
use crate::identity::Identity;
use crate::query::{Answer, Query, QueryId};
use crate::snapshot::Snapshot;
use crate::time::Instant;

/// What a read gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// The next bytes, at least one.
    Data(Bytes),
    /// Nothing yet; [`Event::Readable`] comes when that changes.
    Empty,
    /// The peer has sent everything and said so.
    Finished,
}

/// One or more datagrams that [`Engine::poll_transmit`] appended to the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where they go.
    pub to: SocketAddr,
    /// Bytes appended in all.
    pub size: usize,
    /// `Some(n)`: every datagram is `n` bytes long, the last one may be shorter. `None`: one datagram.
    pub segment_size: Option<usize>,
}

/// A sans-I/O node.
pub struct Engine {
    config: Config,
    events: VecDeque<Event>,
    ports: BTreeMap<u16, VecDeque<ConnId>>,
}

impl Engine {
    /// An engine with its own X25519 key and generator made from `seed`, which must be 32 bytes of true randomness.
    pub fn new(config: Config, seed: [u8; 32], now: Instant) -> Self {
        let _ = (seed, now);
        Self { config, events: VecDeque::new(), ports: BTreeMap::new() }
    }

    /// The settings it was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Sets or replaces the identity that signs key exchanges.
    pub fn set_identity(&mut self, identity: Arc<Identity>) {
        let _ = identity;
    }

    /// What registration taught us: our number, whether we are public, and our networks.
    pub fn set_node(&mut self, node: u32, public: bool, networks: &[u16]) {
        let _ = (node, public, networks);
    }

    /// The beacon to use from now on.
    pub fn set_beacon(&mut self, beacon: Option<SocketAddr>) {
        let _ = beacon;
    }

    /// The addresses of this machine in its local networks.
    pub fn set_lan_addrs(&mut self, addrs: Vec<IpAddr>) {
        let _ = addrs;
    }

    /// The wall clock: `unix_nanos` nanoseconds since 1970 at `now`. Only the echo service's time stamps use it.
    pub fn set_wall_clock(&mut self, now: Instant, unix_nanos: u64) {
        let _ = (now, unix_nanos);
    }

    /// Takes a datagram from the socket; opens it in place.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, data: &mut [u8]) {
        let _ = (now, from, data);
    }

    /// Reports that sending to `to` failed as unreachable.
    pub fn handle_send_error(&mut self, now: Instant, to: SocketAddr) {
        let _ = (now, to);
    }

    /// Runs the timers that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    /// Answers a question of [`Engine::poll_query`].
    pub fn answer(&mut self, now: Instant, id: QueryId, answer: Answer) {
        let _ = (now, id, answer);
    }

    /// Listens on a port.
    ///
    /// # Errors
    /// [`BindError::AlreadyBound`], also for the built-in ports 0 and 7.
    pub fn bind(&mut self, port: u16) -> Result<(), BindError> {
        if self.ports.contains_key(&port) {
            return Err(BindError::AlreadyBound { port });
        }
        self.ports.insert(port, VecDeque::new());
        Ok(())
    }

    /// Stops listening; streams that nobody accepted are reset.
    pub fn unbind(&mut self, port: u16) {
        self.ports.remove(&port);
    }

    /// The next stream of a port's accept queue.
    pub fn accept(&mut self, port: u16) -> Option<ConnId> {
        self.ports.get_mut(&port)?.pop_front()
    }

    /// Opens a stream; the result comes as [`Event::Connected`] or [`Event::DialFailed`].
    ///
    /// # Errors
    /// [`DialError`] when it is clear at once.
    pub fn dial(&mut self, now: Instant, to: Addr, port: u16) -> Result<ConnId, DialError> {
        let _ = (now, to, port);
        Err(DialError::NotRegistered)
    }

    /// Takes as much of `data` as fits the send buffer and says how much; [`Event::Writable`] follows a short write.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn write(&mut self, now: Instant, conn: ConnId, data: Bytes) -> Result<usize, WriteError> {
        let _ = (now, conn, data);
        Err(WriteError::Closed)
    }

    /// Takes up to `max` received bytes, which opens the window again.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read(&mut self, now: Instant, conn: ConnId, max: usize) -> Result<Read, ReadError> {
        let _ = (now, conn, max);
        Err(ReadError::Closed)
    }

    /// Closes a stream: what was written is still sent, what arrives is thrown away. Idempotent.
    pub fn close(&mut self, now: Instant, conn: ConnId) {
        let _ = (now, conn);
    }

    /// Ends a stream at once with a reset.
    pub fn reset(&mut self, now: Instant, conn: ConnId) {
        let _ = (now, conn);
    }

    /// The two ends of a stream.
    pub fn conn_info(&self, conn: ConnId) -> Option<ConnInfo> {
        let _ = conn;
        None
    }

    /// Sends one unreliable datagram from a fresh port.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn send_datagram(&mut self, now: Instant, to: Addr, port: u16, data: &[u8]) -> Result<(), SendError> {
        let _ = (now, to, port, data);
        Err(SendError::NotRegistered)
    }

    /// Sends a ping; [`Event::Pong`] or [`Event::PingFailed`] follows.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn ping(&mut self, now: Instant, peer: Addr, payload: &[u8]) -> Result<PingId, SendError> {
        let _ = (now, peer, payload);
        Err(SendError::NotRegistered)
    }

    /// Forgets a peer: its session, its path, its queues; its streams end.
    pub fn remove_peer(&mut self, now: Instant, node: u32) {
        let _ = (now, node);
    }

    /// Lets a peer open streams to ports 444 and 1001 for the next five minutes (stream.md section 7).
    pub fn open_reply_window(&mut self, now: Instant, node: u32) {
        let _ = (now, node);
    }

    /// Leaves the relay for a peer and tries the direct path again; `false` when the peer is unknown.
    pub fn prefer_direct(&mut self, now: Instant, node: u32) -> bool {
        let _ = (now, node);
        false
    }

    /// Asks the beacon how it sees us, with our number once we have one.
    pub fn discover(&mut self, now: Instant) {
        let _ = now;
    }

    /// The next datagrams to send, at most `max_segments` of them, appended to `buf`.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        buf: &mut Vec<u8>,
        max_segments: usize,
    ) -> Option<Transmit> {
        let _ = (now, buf, max_segments);
        None
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next question.
    pub fn poll_query(&mut self) -> Option<(QueryId, Query)> {
        None
    }

    /// When [`Engine::handle_timeout`] wants to be called; may be early, never late.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// A picture of everything, for status commands.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::default()
    }
}
