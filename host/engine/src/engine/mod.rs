//! The engine's face: one object for tunnels, paths, streams, ports, datagrams and control.
//!
//! Called by the driver in `pilot-net`, from one task. This file holds the object and the thin public methods; the work is
//! done in the modules beside it: `input` (datagrams in), `send` (datagrams out), `kex` (key exchanges), `streams` (who may
//! open one), `control` (ping, hello), `upkeep` (time).

mod control;
pub(crate) mod events;
mod fragments;
mod inbound;
mod input;
mod kex;
mod keys;
mod me;
mod path;
mod peer;
mod questions;
mod resets;
mod send;
mod status;
mod streams;
mod timers;
mod upkeep;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use pilot_wire::addr::Addr;
use pilot_wire::packet::{Flags, Header, Protocol};
use pilot_wire::ports;

use self::control::Pings;
use self::events::Events;
use self::fragments::Fragments;
use self::inbound::Inbound;
use self::keys::{Keys, Known};
use self::me::Me;
use self::peer::{Abilities, Peer};
use self::questions::{Purpose, Questions};
use self::resets::Resets;
use self::send::Outbox;
use self::status::Stats;
use self::timers::{Timer, Timers};
use crate::config::Config;
use crate::error::{BindError, DialError, ReadError, SendError, WriteError};
use crate::event::{ConnId, ConnInfo, Event, PingId};
use crate::identity::Identity;
use crate::map::{Keyed, NumMap};
use crate::query::{Answer, Query, QueryId, Verdict};
use crate::rng::Rng;
use crate::snapshot::Snapshot;
use crate::stream::conn::Conn;
use crate::stream::pieces::Pieces;
use crate::stream::table::{Conns, Tuple};
use crate::time::{Duration, Instant};
use crate::tunnel::counters::KeyPairs;
use crate::tunnel::rate::{Bucket, RateTable, Spacing};

/// Key exchanges per second from one source, and sources remembered (tunnel.md section 4).
const EXCHANGE_RATE: u32 = 5;
const EXCHANGE_SOURCES: usize = 4096;
/// Key exchanges per second that cost a signature check or a key agreement: of nodes without a session in all, and of each
/// node with one. A flood from many false addresses, each within its own rate, must not use up the processor.
const STRANGER_CHECKS: u32 = 100;
const PEER_CHECKS: u32 = 5;
/// Sealed frames without a key are answered once in this time per peer; peers remembered (tunnel.md section 5).
const NO_KEY_SPACING: Duration = Duration::from_secs(3);
const NO_KEY_PEERS: usize = 4096;
/// Peers whose SYN rate is watched (stream.md section 7).
const SYN_SOURCES: usize = 4096;
/// What fits one UDP datagram also when relayed (packet.md section 3).
const MAX_DATAGRAM_PAYLOAD: usize = 65_428;

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

/// A bound port.
#[derive(Debug, Default)]
struct Listener {
    /// Streams that nobody accepted yet, oldest first.
    queue: VecDeque<ConnId>,
}

/// A sans-I/O node.
///
/// After any call that takes the time, poll: [`Engine::poll_transmit`], [`Engine::poll_event`] and [`Engine::poll_query`]
/// until they give nothing, then [`Engine::poll_timeout`]. Streams acknowledge when polled, so handing in a whole batch of
/// datagrams before polling makes fewer acknowledgements.
///
/// ```
/// use pilot_engine::{Config, Engine, time::Instant};
///
/// let mut engine = Engine::new(Config::default(), [7; 32], Instant::ZERO);
/// engine.set_node(42, false, &[]);
/// engine.bind(1000)?;
/// assert!(engine.poll_event().is_none());
/// # Ok::<(), pilot_engine::BindError>(())
/// ```
pub struct Engine {
    config: Config,
    me: Me,
    rng: Rng,
    peers: NumMap<u32, Peer>,
    conns: Conns,
    listeners: BTreeMap<u16, Listener>,
    keys: Keys,
    key_pairs: KeyPairs,
    questions: Questions,
    events: Events,
    outbox: Outbox,
    resets: Resets,
    timers: Timers,
    pings: Pings,
    stats: Stats,
    inbound: Inbound,
    fragments: Fragments,
    /// The latest time anybody has told us.
    clock: Instant,
    /// Peers reached through the beacon, when they were counted last.
    relayed: (Instant, usize),
    /// Peers with packets that wait for a key.
    pending_peers: usize,
    /// When sessions without identity were counted, and how many there are at most.
    unauthenticated: (Instant, usize),
    reply_windows: BTreeMap<u32, Instant>,
    exchange_rate_direct: RateTable<SocketAddr>,
    exchange_rate_relayed: RateTable<u32>,
    stranger_checks: Bucket,
    peer_checks: RateTable<u32>,
    no_key_answers: Spacing<u32>,
    syn_rate_per_peer: RateTable<u32>,
    syn_rate: Bucket,
    /// Memory for received stream data.
    pieces: Pieces,
    /// Bytes of it that streams hold.
    held: usize,
    /// A second copy of a frame that two sessions may have to try.
    scratch: Vec<u8>,
}

impl Engine {
    /// An engine with its own X25519 key and generator made from `seed`, which must be 32 bytes of true randomness.
    pub fn new(config: Config, seed: [u8; 32], now: Instant) -> Self {
        let mut rng = Rng::new(seed);
        let hash = Keyed::new(rng.u64(), rng.u64());
        let [p0, p1] = rng.bytes();
        Self {
            me: Me::new(rng.bytes()),
            peers: NumMap::with_hasher(hash),
            // Not always the same first port: a peer may still hold streams of our former life.
            conns: Conns::new(hash, u16::from_be_bytes([p0, p1]) | ports::EPHEMERAL_MIN),
            listeners: BTreeMap::new(),
            keys: Keys::new(config.max_cached_keys),
            key_pairs: KeyPairs::default(),
            questions: Questions::new(config.max_queries, config.query_timeout),
            events: Events::new(config.max_events),
            outbox: Outbox::default(),
            resets: Resets::new(hash),
            timers: Timers::default(),
            pings: Pings::default(),
            stats: Stats::default(),
            inbound: Inbound::default(),
            fragments: Fragments::default(),
            clock: now,
            relayed: (now, 0),
            pending_peers: 0,
            unauthenticated: (now, 0),
            reply_windows: BTreeMap::new(),
            exchange_rate_direct: RateTable::new(EXCHANGE_RATE, EXCHANGE_SOURCES),
            exchange_rate_relayed: RateTable::new(EXCHANGE_RATE, EXCHANGE_SOURCES),
            stranger_checks: Bucket::full(now, STRANGER_CHECKS),
            peer_checks: RateTable::new(PEER_CHECKS, EXCHANGE_SOURCES),
            no_key_answers: Spacing::new(NO_KEY_SPACING, NO_KEY_PEERS),
            syn_rate_per_peer: RateTable::new(config.syn_rate_per_peer, SYN_SOURCES),
            syn_rate: Bucket::full(now, config.syn_rate),
            pieces: Pieces::default(),
            held: 0,
            scratch: Vec::new(),
            rng,
            config,
        }
    }

    /// The settings it was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    // ---- what the host knows about this node

    /// Sets or replaces the identity that signs key exchanges. Without one, peers that know us refuse our key.
    pub fn set_identity(&mut self, identity: Arc<Identity>) {
        self.me.identity = Some(identity);
        self.me.renew_exchange();
    }

    /// What registration taught us: our number, whether we are public, and our networks.
    ///
    /// A number other than before ends all sessions: they are bound to it. Streams then stop being acknowledged.
    pub fn set_node(&mut self, node: u32, public: bool, networks: &[u16]) {
        if self.me.node != node {
            self.me.node = node;
            self.me.renew_exchange();
            self.resets.clear();
            for peer in self.peers.values_mut() {
                let sessions = [peer.session.take(), peer.other.take().map(|o| o.session)];
                sessions.iter().flatten().for_each(|session| self.key_pairs.bury(session));
            }
        }
        self.me.public_node = public;
        self.me.networks = networks.to_vec();
    }

    /// Our networks, as last given to [`Engine::set_node`].
    pub fn networks(&self) -> &[u16] {
        &self.me.networks
    }

    /// The beacon to use from now on.
    pub fn set_beacon(&mut self, beacon: Option<SocketAddr>) {
        self.me.beacon = beacon.map(|b| SocketAddr::new(b.ip().to_canonical(), b.port()));
    }

    /// The addresses of this machine in its local networks.
    pub fn set_lan_addrs(&mut self, addrs: Vec<IpAddr>) {
        self.me.lan = addrs;
    }

    /// The wall clock: `unix_nanos` nanoseconds since 1970 at `now`. Only the echo service's time stamps use it; without
    /// it they are echoed like anything else.
    pub fn set_wall_clock(&mut self, now: Instant, unix_nanos: u64) {
        self.me.wall_clock = Some((now, unix_nanos));
    }

    // ---- facts in

    /// Takes a datagram from the socket and opens it in place; `data` is of no use afterwards.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, data: &mut [u8]) {
        self.on_datagram(now, from, data);
    }

    /// Reports that the socket refused to send to `to` (unreachable). Three in a row lead to the relay.
    pub fn handle_send_error(&mut self, now: Instant, to: SocketAddr) {
        self.on_send_error(now, to);
    }

    /// Runs the timers that are due. Calling it early is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.clock = self.clock.max(now);
        while let Some((at, timer)) = self.timers.pop_due(now) {
            match timer {
                Timer::Conn(id) => self.on_conn_timer(now, id, at),
                Timer::Peer(node) => self.on_peer_timer(now, node, at),
            }
        }
        while let Some(purpose) = self.questions.expired(now) {
            self.on_answer(now, purpose, Answer::Failed("no answer in time".to_owned()));
        }
        self.expire_pings(now);
        self.repeat_resets(now);
        self.on_inbound_timer(now);
    }

    /// Answers a question of [`Engine::poll_query`]. An answer that does not fit its question counts as a failure.
    pub fn answer(&mut self, now: Instant, id: QueryId, answer: Answer) {
        if let Some(purpose) = self.questions.take(id) {
            self.on_answer(now, purpose, answer);
        }
    }

    fn on_answer(&mut self, now: Instant, purpose: Purpose, answer: Answer) {
        // Whoever may not be asked about is not let in, and not refused either: silence, and the peer tries again.
        let verdict = match answer {
            Answer::Admit(verdict) => Some(verdict),
            _ => None,
        };
        match (purpose, answer) {
            (Purpose::Resolve { node }, Answer::Resolved(resolution)) => {
                self.on_resolved(now, node, &resolution)
            }
            (Purpose::Resolve { node }, Answer::Failed(why)) => self.on_resolve_failed(now, node, why),
            (Purpose::Resolve { node }, _) => self.on_resolve_failed(now, node, "resolve failed".to_owned()),
            (Purpose::PeerKey { node }, Answer::PeerKey { key, trusted }) => {
                self.on_peer_key(now, node, key.map(|key| Known { key, trusted }));
            }
            (Purpose::PeerKey { node }, _) => self.on_peer_key_failed(now, node),
            (Purpose::Syn { header }, _) => {
                if let Some(verdict) = verdict {
                    self.on_syn_verdict(now, &header, verdict);
                }
            }
            (Purpose::Datagram { header, payload }, _) => {
                if let Some(verdict) = verdict {
                    self.on_datagram_verdict(&header, payload, verdict);
                }
            }
            (Purpose::Ping { header, payload }, _) => {
                self.on_ping_verdict(now, &header, &payload, verdict.unwrap_or(Verdict::Untrusted));
            }
        }
    }

    // ---- ports and streams

    /// Listens on a port; streams to it are announced with [`Event::Incoming`].
    ///
    /// # Errors
    /// [`BindError::AlreadyBound`], also for port 7 while the engine itself answers there. Port 0 is not special (ipc.md section 5).
    pub fn bind(&mut self, port: u16) -> Result<(), BindError> {
        if self.is_echo(port) || self.listeners.contains_key(&port) {
            return Err(BindError::AlreadyBound { port });
        }
        self.listeners.insert(port, Listener::default());
        Ok(())
    }

    /// Stops listening; streams that nobody accepted are reset. Does nothing for a port that is not bound.
    pub fn unbind(&mut self, port: u16) {
        if let Some(listener) = self.listeners.remove(&port) {
            self.close_listener(listener);
        }
    }

    /// The next stream of a port's accept queue.
    pub fn accept(&mut self, port: u16) -> Option<ConnId> {
        let queue = &mut self.listeners.get_mut(&port)?.queue;
        // A stream that ended while it waited is still handed out if there is something to read from it.
        while let Some(id) = queue.pop_front() {
            if self.conns.get(id).is_some() {
                return Some(id);
            }
        }
        None
    }

    /// Opens a stream; the result comes as [`Event::Connected`] or [`Event::DialFailed`]. Opens the peer's reply window.
    ///
    /// # Errors
    /// [`DialError`] when it is clear at once.
    pub fn dial(&mut self, now: Instant, to: Addr, port: u16) -> Result<ConnId, DialError> {
        match self.check_target(to) {
            Err(SendError::NotRegistered) => return Err(DialError::NotRegistered),
            Err(SendError::ToSelf) => return Err(DialError::ToSelf),
            Err(_) => return Err(DialError::Broadcast),
            Ok(()) => {}
        }
        if !self.conns.make_room(self.config.max_conns) || self.use_peer(now, to.node).is_none() {
            return Err(DialError::TooMany);
        }
        if self.has_given_up(now, to.node) {
            // Nobody answered for a whole round of key exchanges a moment ago: say so now, not in half a minute.
            return Err(DialError::NoKey);
        }
        let bound = |port| self.listeners.contains_key(&port);
        let begins_anew =
            self.peers.get(&to.node).is_some_and(|p| matches!(p.abilities, Abilities::Enhanced { .. }));
        let local_port = self.conns.fresh_port((to.node, port), begins_anew, bound);
        let local_port = local_port.ok_or(DialError::PortsExhausted)?;
        self.expect(now, to.node);
        let local = Addr::new(to.network, self.me.node);
        let info = ConnInfo { local, local_port, remote: to, remote_port: port };
        let (id, limits) = (self.conns.fresh_id(), self.limits(to.node));
        self.resets.forget(Tuple::of(&info));
        self.conns.insert(Conn::dial(now, id, info, limits, &self.config));
        self.conns.queue(id);
        self.arm_conn(now, id);
        self.start_exchange(now, to.node);
        Ok(id)
    }

    /// Takes as much of `data` as fits the send buffer and says how much; [`Event::Writable`] follows a short write.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn write(&mut self, now: Instant, conn: ConnId, data: Bytes) -> Result<usize, WriteError> {
        let stream = self.conns.get_mut(conn).ok_or(WriteError::Closed)?;
        let taken = stream.write(&self.config, data)?;
        self.conns.queue(conn);
        self.arm_conn(now, conn);
        Ok(taken)
    }

    /// Takes up to `max` received bytes, which opens the window again.
    ///
    /// # Errors
    /// [`ReadError`] when the stream ended uncleanly, after everything received in order was read.
    pub fn read(&mut self, now: Instant, conn: ConnId, max: usize) -> Result<Read, ReadError> {
        let stream = self.conns.get_mut(conn).ok_or(ReadError::Closed)?;
        let held = stream.held();
        let read = stream.read(self.held >= self.config.stream_memory, max);
        self.held = (self.held + stream.held()).saturating_sub(held);
        if stream.wants_ack() {
            self.conns.queue(conn);
            self.arm_conn(now, conn);
        }
        read
    }

    /// Closes a stream: what was written is still sent, what arrives is thrown away, and there are no more events for it.
    /// Every stream must be closed or reset, also one that has ended. Idempotent.
    pub fn close(&mut self, now: Instant, conn: ConnId) {
        self.with_conn(now, conn, Conn::close);
    }

    /// Ends a stream at once with a reset; there are no more events for it. Idempotent.
    pub fn reset(&mut self, now: Instant, conn: ConnId) {
        self.with_conn(now, conn, |conn, _| conn.reset());
    }

    /// The two ends of a stream.
    pub fn conn_info(&self, conn: ConnId) -> Option<ConnInfo> {
        self.conns.get(conn).map(|c| c.info)
    }

    // ---- datagrams, ping, peers

    /// Sends one unreliable datagram from a fresh port. An empty one is sent, but receivers drop it.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn send_datagram(&mut self, now: Instant, to: Addr, port: u16, data: &[u8]) -> Result<(), SendError> {
        self.check_target(to)?;
        if data.len() > MAX_DATAGRAM_PAYLOAD {
            return Err(SendError::TooLarge { len: data.len(), max: MAX_DATAGRAM_PAYLOAD });
        }
        let bound = |port| self.listeners.contains_key(&port);
        let fresh = self.conns.fresh_port((to.node, port), true, bound);
        let src_port = fresh.ok_or(SendError::PortsExhausted)?;
        let header = Header {
            flags: Flags::NONE,
            protocol: Protocol::DATAGRAM,
            src: Addr::new(to.network, self.me.node),
            dst: to,
            src_port,
            dst_port: port,
            seq: 0,
            ack: 0,
            window: 0,
        };
        self.send_packet(now, to.node, &header, data)
    }

    /// Sends a ping; [`Event::Pong`] or [`Event::PingFailed`] follows.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn ping(&mut self, now: Instant, peer: Addr, payload: &[u8]) -> Result<PingId, SendError> {
        self.send_ping(now, peer, payload)
    }

    /// Whether `to` is somebody we can send to.
    fn check_target(&self, to: Addr) -> Result<(), SendError> {
        match to.node {
            _ if to.is_broadcast() => Err(SendError::Broadcast),
            _ if self.me.node == 0 => Err(SendError::NotRegistered),
            node if node == self.me.node => Err(SendError::ToSelf),
            _ => Ok(()),
        }
    }

    /// Forgets a peer: its session, its path, its queues. Its streams end with
    /// [`CloseReason::PeerRemoved`](crate::CloseReason::PeerRemoved). Does nothing when it is unknown.
    pub fn remove_peer(&mut self, now: Instant, node: u32) {
        self.drop_peer(now, node);
        self.keys.forget(node);
    }

    /// Lets a peer open streams to ports 444 and 1001 for the next five minutes (stream.md section 7).
    pub fn open_reply_window(&mut self, now: Instant, node: u32) {
        self.expect(now, node);
    }

    /// Leaves the relay for a peer and goes straight at once; `false` when the peer is unknown.
    pub fn prefer_direct(&mut self, now: Instant, node: u32) -> bool {
        let peer = self.peers.get_mut(&node);
        if let Some(peer) = peer {
            peer.path.prefer_direct(now);
            return true;
        }
        false
    }

    /// Asks the beacon how it sees us, with our number once we have one, and keeps the NAT mapping open. The answer comes
    /// as [`Event::ObservedAddr`].
    ///
    /// While no answer comes it is repeated every few seconds.
    pub fn discover(&mut self, now: Instant) {
        self.ask_beacon(now);
    }

    // ---- out

    /// The next datagrams to send, at most `max_segments` of them and all to one address, appended to `buf`. Call until it
    /// gives nothing.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        buf: &mut Vec<u8>,
        max_segments: usize,
    ) -> Option<Transmit> {
        self.transmit(now, buf, max_segments)
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop()
    }

    /// The next question.
    pub fn poll_query(&mut self) -> Option<(QueryId, Query)> {
        self.questions.poll()
    }

    /// When [`Engine::handle_timeout`] wants to be called; may be early, never late.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let (inbound, resets) = (self.inbound.deadline(), self.resets.deadline());
        [self.timers.next(), self.questions.deadline(), self.pings.deadline(), inbound, resets]
            .into_iter()
            .flatten()
            .min()
    }

    /// A picture of everything, for status commands, at the last time told; call [`Engine::handle_timeout`] before it.
    pub fn snapshot(&self) -> Snapshot {
        self.picture()
    }
}

#[cfg(test)]
mod tests;
