//! The thread that owns the engine: datagrams in, commands in, stream bytes both ways, datagrams out, one timer.
//!
//! Each turn does a bounded amount of every kind of work, so no source can starve the others. Between turns it sleeps in
//! one `ppoll` on the underlay and on what wakes it ([`Waker`]), unless something is to be expected within microseconds
//! ([`Lookout`]); what a turn received is answered before it looks again.

use std::collections::HashMap;
use std::io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pilot_engine::time::Instant;
use pilot_engine::{Answer, CloseReason, ConnId, Engine, Event, PingId, Query, QueryId, Read, Snapshot};
use pilot_wire::addr::Addr;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::lookout::Lookout;
use super::pipe::{Dirty, End, Pipe};
use super::underlay::Underlay;
use super::waker::Waker;
use super::{BindError, ConnInfo, Datagram, DialError, SendError, Signal, Stream};
use crate::bus::Bus;
use crate::clock::Clock;
use crate::queue::Queue;

/// Receive batches handled before other work gets its turn.
const RECEIVE_BATCHES: usize = 8;
/// With this many datagrams at once more are on their way: the next turn looks without sleeping first.
const BUSY: usize = 8;
/// Longest sleep without a timer.
const NAP: Duration = Duration::from_secs(3600);
/// Commands handled per turn.
const COMMANDS: usize = 256;
/// Datagram runs sent per turn.
const TRANSMITS: usize = 64;
/// How long a node that is stopping keeps sending what is left.
const LINGER: Duration = Duration::from_millis(500);

/// A change that runs on the engine.
pub(super) type Change = Box<dyn FnOnce(&mut Engine, Instant) + Send>;

/// What the handle asks of the driver.
pub(super) enum Command {
    Dial { to: Addr, port: u16, reply: oneshot::Sender<Result<Stream, DialError>> },
    Bind { port: u16, queue: Arc<Queue<Stream>>, reply: oneshot::Sender<Result<(), BindError>> },
    Unbind { port: u16, queue: Arc<Queue<Stream>> },
    HandOver { port: u16, from: Arc<Queue<Stream>>, to: Arc<Queue<Stream>>, reply: oneshot::Sender<bool> },
    AcceptMore(u16),
    SendDatagram { to: Addr, port: u16, data: Bytes, reply: oneshot::Sender<Result<(), SendError>> },
    Ping { peer: Addr, payload: Bytes, reply: oneshot::Sender<Result<Duration, SendError>> },
    RemovePeer { node: u32, reply: oneshot::Sender<()> },
    CloseById(u32),
    Configure(Change),
    Answer(QueryId, Answer),
    Snapshot(oneshot::Sender<Snapshot>),
}

/// What a driver is made of.
pub(super) struct Parts {
    pub(super) engine: Engine,
    pub(super) underlay: Underlay,
    pub(super) clock: Clock,
    pub(super) bus: Bus,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) queries: mpsc::Sender<(QueryId, Query)>,
    pub(super) signals: mpsc::Sender<Signal>,
    pub(super) datagrams: broadcast::Sender<Datagram>,
    pub(super) dirty: Arc<Dirty>,
    pub(super) waker: Arc<Waker>,
    pub(super) stop: CancellationToken,
}

#[derive(Clone, Copy)]
struct Unsent {
    to: SocketAddr,
    segment_size: Option<usize>,
}

pub(super) struct Driver {
    parts: Parts,
    pipes: HashMap<ConnId, Arc<Pipe>>,
    dials: HashMap<ConnId, oneshot::Sender<Result<Stream, DialError>>>,
    pings: HashMap<PingId, oneshot::Sender<Result<Duration, SendError>>>,
    listeners: HashMap<u16, Arc<Queue<Stream>>>,
    dirty: Vec<ConnId>,
    out: Vec<u8>,
    unsent: Option<Unsent>,
    /// Work was left because a turn's bound was reached, or is to be expected at once.
    more: bool,
    /// The underlay may have something to read.
    readable: bool,
    /// Somebody woke us, so that commands, streams and abandoned dials are to be looked at.
    called: bool,
    /// There was something to do in this turn.
    busy: bool,
    lookout: Lookout,
    /// Every handle is gone.
    orphaned: bool,
    /// The time of this turn, read anew where much may have passed.
    now: Instant,
}

impl Driver {
    pub(super) fn new(parts: Parts) -> Self {
        let now = parts.clock.now();
        Driver {
            parts,
            pipes: HashMap::new(),
            dials: HashMap::new(),
            pings: HashMap::new(),
            listeners: HashMap::new(),
            dirty: Vec::new(),
            out: Vec::with_capacity(1 << 16),
            unsent: None,
            more: false,
            readable: true,
            called: true,
            busy: true,
            lookout: Lookout::default(),
            orphaned: false,
            now,
        }
    }

    /// Runs until the node is stopped or nobody holds a handle to it any more.
    pub(super) fn run(mut self) {
        let mut deadline: Option<Instant> = None;
        loop {
            self.now = self.parts.clock.now();
            self.busy = self.parts.waker.begin_turn();
            if self.busy {
                self.called = true;
                if deadline.is_none() && self.parts.stop.is_cancelled() {
                    deadline = Some(self.now + LINGER);
                    self.close_all();
                }
            }
            self.turn();
            if self.orphaned || deadline.is_some_and(|d| self.pipes.is_empty() || self.now >= d) {
                break;
            }
            if self.more || self.called {
                continue;
            }
            if self.lookout.looks_again(self.now, self.busy) {
                // Whoever is to leave work for us may need this very core.
                std::thread::yield_now();
            } else if self.parts.waker.may_sleep() {
                self.sleep(deadline);
            }
        }
        self.end_all();
    }

    /// Sleeps until there is a datagram, a command, changed streams, a due timer, or room for what could not be sent.
    fn sleep(&mut self, deadline: Option<Instant>) {
        let at = [self.parts.engine.poll_timeout(), deadline].into_iter().flatten().min();
        let wait = at.map_or(NAP, |at| at.since(self.now)).min(NAP);
        let wait = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: wait.subsec_nanos().into(),
        };
        let interest = self.parts.underlay.interest(self.unsent.is_some());
        let (underlay, waker) = (self.parts.underlay.as_fd(), self.parts.waker.as_fd());
        let mut fds =
            [PollFd::from_borrowed_fd(underlay, interest), PollFd::from_borrowed_fd(waker, PollFlags::IN)];
        let begin = self.parts.clock.now();
        // An interrupted sleep is a short one.
        let woken = poll(&mut fds, Some(&wait)).is_ok_and(|ready| ready > 0);
        self.lookout.slept(begin, self.parts.clock.now(), woken);
        self.readable = !fds[0].revents().is_empty();
        if !fds[1].revents().is_empty() {
            self.parts.waker.hush();
        }
    }

    fn turn(&mut self) {
        self.more = false;
        // Unless a sleep just ended and found nothing to read.
        if std::mem::replace(&mut self.readable, true) {
            self.receive();
        }
        if self.parts.engine.poll_timeout().is_some_and(|t| t <= self.now) {
            self.parts.engine.handle_timeout(self.now);
            self.forget_abandoned_dials();
        }
        if self.called {
            self.called = self.commands();
            self.pump_dirty();
            self.forget_abandoned_dials();
        }
        self.events();
        self.transmit();
    }

    fn receive(&mut self) {
        for batch in 1..=RECEIVE_BATCHES {
            let (now, engine) = (self.now, &mut self.parts.engine);
            match self.parts.underlay.receive(|from, data| engine.handle_datagram(now, from, data)) {
                Ok(got) => {
                    self.busy |= got.datagrams > 0;
                    if got.datagrams >= BUSY {
                        self.more = true;
                        self.now = self.parts.clock.now();
                    }
                    if !got.full || batch == RECEIVE_BATCHES {
                        return;
                    }
                }
                Err(e) => {
                    warn!(error = %e, "receiving failed");
                    return;
                }
            }
        }
    }

    /// Carries out what was asked; true when there may be more.
    fn commands(&mut self) -> bool {
        for _ in 0..COMMANDS {
            match self.parts.commands.try_recv() {
                Ok(command) => self.command(command),
                Err(mpsc::error::TryRecvError::Empty) => return false,
                Err(mpsc::error::TryRecvError::Disconnected) => {
                    self.orphaned = true;
                    return false;
                }
            }
        }
        true
    }

    fn command(&mut self, command: Command) {
        let now = self.now;
        let engine = &mut self.parts.engine;
        match command {
            Command::Dial { to, port, reply } => match engine.dial(now, to, port) {
                Ok(conn) => {
                    self.dials.insert(conn, reply);
                }
                Err(e) => {
                    let _ = reply.send(Err(DialError(e.to_string())));
                }
            },
            Command::Bind { port, queue, reply } => {
                let bound = engine.bind(port).map_err(|_| BindError::AlreadyBound(port));
                if bound.is_ok() {
                    self.listeners.insert(port, queue);
                }
                // A caller that went away has dropped its listener, whose `Unbind` follows.
                let _ = reply.send(bound);
            }
            Command::Unbind { port, queue } => {
                // A newer listener may hold the port by now; only its own end counts.
                if self.listeners.get(&port).is_some_and(|q| Arc::ptr_eq(q, &queue)) {
                    self.listeners.remove(&port);
                    engine.unbind(port);
                }
            }
            Command::HandOver { port, from, to, reply } => {
                let current = self.listeners.get_mut(&port).filter(|q| Arc::ptr_eq(q, &from));
                if reply.is_closed() {
                    // The caller went away; the listener stays as it is.
                } else if let Some(slot) = current {
                    for stream in from.close_and_take() {
                        // Fits: both have the same capacity, and only this task adds to them.
                        let _ = to.push(stream);
                    }
                    *slot = to;
                    let _ = reply.send(true);
                    self.accept(port);
                } else {
                    let _ = reply.send(false);
                }
            }
            Command::AcceptMore(port) => self.accept(port),
            Command::SendDatagram { to, port, data, reply } => {
                let _ = reply
                    .send(engine.send_datagram(now, to, port, &data).map_err(|e| SendError(e.to_string())));
            }
            Command::Ping { peer, payload, reply } => match engine.ping(now, peer, &payload) {
                Ok(id) => {
                    self.pings.retain(|_, waiting| !waiting.is_closed());
                    self.pings.insert(id, reply);
                }
                Err(e) => {
                    let _ = reply.send(Err(SendError(e.to_string())));
                }
            },
            Command::RemovePeer { node, reply } => {
                engine.remove_peer(now, node);
                // Farewell messages queued before must leave before the keys are gone from memory.
                let _ = reply.send(());
            }
            Command::CloseById(id) => {
                if let Some(pipe) = self.pipes.get(&ConnId(id)) {
                    pipe.close();
                }
            }
            Command::Configure(change) => change(engine, now),
            Command::Answer(id, answer) => engine.answer(now, id, answer),
            Command::Snapshot(reply) => {
                engine.handle_timeout(now);
                let _ = reply.send(engine.snapshot());
            }
        }
    }

    /// Moves bytes of the streams whose application side changed.
    fn pump_dirty(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        self.parts.dirty.take(&mut dirty);
        for conn in dirty.drain(..) {
            if let Some(pipe) = self.pipes.get(&conn).cloned() {
                pipe.clear_dirty();
                self.pump_rx(&pipe);
                self.pump_tx(&pipe);
            }
        }
        self.dirty = dirty;
    }

    fn pump_tx(&mut self, pipe: &Pipe) {
        let now = self.now;
        let engine = &mut self.parts.engine;
        let done = pipe.drain_tx(|chunk| match engine.write(now, pipe.conn, chunk.clone()) {
            Ok(taken) => taken,
            // The stream is gone; its end is reported by an event.
            Err(_) => chunk.len(),
        });
        if done {
            engine.close(now, pipe.conn);
        }
    }

    fn pump_rx(&mut self, pipe: &Pipe) {
        let now = self.now;
        let mut moved = false;
        loop {
            let room = pipe.rx_room();
            if room == 0 {
                break;
            }
            match self.parts.engine.read(now, pipe.conn, room) {
                Ok(Read::Data(chunk)) => {
                    pipe.push_rx(chunk);
                    moved = true;
                }
                Ok(Read::Finished) => {
                    pipe.end_rx(End::Finished);
                    break;
                }
                Ok(Read::Empty) | Err(_) => break,
            }
        }
        if moved {
            pipe.wake_reader();
        }
    }

    fn events(&mut self) {
        while let Some(event) = self.parts.engine.poll_event() {
            self.event(event);
        }
        while let Some((id, query)) = self.parts.engine.poll_query() {
            if let Err(e) = self.parts.queries.try_send((id, query)) {
                debug!(error = %e, "a question of the engine found no room; it will ask again or give up");
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Connected { conn } => match self.dials.remove(&conn) {
                Some(reply) => {
                    if let Some(stream) = self.adopt(conn)
                        && let Err(unclaimed) = reply.send(Ok(stream))
                    {
                        drop(unclaimed); // closes the stream: the dialler went away
                    }
                }
                None => self.parts.engine.reset(self.now, conn),
            },
            Event::DialFailed { conn, error } => {
                if let Some(reply) = self.dials.remove(&conn) {
                    let _ = reply.send(Err(DialError(error.to_string())));
                }
            }
            Event::Incoming { port, .. } => self.accept(port),
            Event::Readable { conn } => {
                if let Some(pipe) = self.pipes.get(&conn).cloned() {
                    self.pump_rx(&pipe);
                }
            }
            Event::Writable { conn } => {
                if let Some(pipe) = self.pipes.get(&conn).cloned() {
                    self.pump_tx(&pipe);
                }
            }
            Event::Closed { conn, reason } => self.closed(conn, reason),
            Event::Datagram { from, src_port, dst_port, data, .. } => {
                // No receiver is not an error: nobody listens.
                let _ = self.parts.datagrams.send(Datagram { from, src_port, dst_port, data });
            }
            Event::Pong { id, rtt } => {
                if let Some(reply) = self.pings.remove(&id) {
                    let _ = reply.send(Ok(rtt));
                }
            }
            Event::PingFailed { id } => {
                if let Some(reply) = self.pings.remove(&id) {
                    let _ = reply.send(Err(SendError("no answer".into())));
                }
            }
            Event::BeaconNotify => self.signal(Signal::PollHandshakes),
            Event::ObservedAddr(addr) => self.signal(Signal::ObservedAddr(addr)),
            Event::Notice(notice) => self.parts.bus.publish(notice.topic(), Some(notice.payload())),
            other => debug!(event = ?other, "an event this host does not know"),
        }
    }

    fn signal(&self, signal: Signal) {
        // Both signals are hints that repeat by themselves; a full queue may lose one.
        let _ = self.parts.signals.try_send(signal);
    }

    /// The stream is over. What arrived in order before the end is still the application's, also past the pipe's usual
    /// bound (the engine's receive buffer bounds it); then the engine may forget the stream.
    fn closed(&mut self, conn: ConnId, reason: CloseReason) {
        let Some(pipe) = self.pipes.remove(&conn) else { return };
        let now = self.now;
        while let Ok(Read::Data(chunk)) = self.parts.engine.read(now, conn, usize::MAX) {
            pipe.push_rx(chunk);
        }
        self.parts.engine.close(now, conn);
        let end = match reason {
            CloseReason::Finished | CloseReason::Local => End::Finished,
            other => End::Broken(other.to_string()),
        };
        pipe.end_rx(end.clone());
        pipe.end_tx(end);
    }

    /// Takes streams of the engine's accept queue as long as the listener has room.
    fn accept(&mut self, port: u16) {
        let Some(queue) = self.listeners.get(&port).cloned() else { return };
        while queue.len() < super::LISTENER_QUEUE {
            let Some(conn) = self.parts.engine.accept(port) else { return };
            if let Some(stream) = self.adopt(conn) {
                // Refused only when closed meanwhile; dropping the stream closes it.
                let _ = queue.push(stream);
            }
        }
    }

    fn adopt(&mut self, conn: ConnId) -> Option<Stream> {
        let i = self.parts.engine.conn_info(conn)?;
        let info = ConnInfo {
            local: i.local,
            local_port: i.local_port,
            remote: i.remote,
            remote_port: i.remote_port,
        };
        let pipe = Arc::new(Pipe::new(conn, info, self.parts.dirty.clone()));
        self.pipes.insert(conn, pipe.clone());
        self.pump_rx(&pipe);
        Some(Stream::new(pipe, conn.0))
    }

    fn forget_abandoned_dials(&mut self) {
        let now = self.now;
        let engine = &mut self.parts.engine;
        self.dials.retain(|conn, reply| {
            if reply.is_closed() {
                engine.reset(now, *conn);
            }
            !reply.is_closed()
        });
    }

    fn transmit(&mut self) {
        let segments = self.parts.underlay.max_gso_segments();
        for _ in 0..TRANSMITS {
            if self.unsent.is_none() {
                self.out.clear();
                let polled = self.parts.engine.poll_transmit(self.now, &mut self.out, segments);
                let Some(t) = polled else { return };
                self.unsent = Some(Unsent { to: t.to, segment_size: t.segment_size });
            }
            let Some(Unsent { to, segment_size }) = self.unsent else { return };
            match self.parts.underlay.send(to, &self.out, segment_size) {
                Ok(true) => self.unsent = None,
                Ok(false) => return,
                Err(e) => {
                    // Lost like any datagram; the stream layer repairs it, the path layer notices the silence.
                    debug!(error = %e, %to, "send failed");
                    if matches!(e.kind(), HostUnreachable | NetworkUnreachable | ConnectionRefused) {
                        self.parts.engine.handle_send_error(self.now, to);
                    }
                    self.unsent = None;
                }
            }
            if segment_size.is_some() {
                self.now = self.parts.clock.now(); // a run takes its time
            }
        }
        self.more = true;
    }

    fn close_all(&mut self) {
        for queue in self.listeners.values() {
            queue.close();
        }
        for pipe in self.pipes.values() {
            pipe.close();
        }
        for (_, reply) in self.dials.drain() {
            let _ = reply.send(Err(DialError("node is shutting down".into())));
        }
    }

    fn end_all(&mut self) {
        self.close_all();
        for (_, pipe) in self.pipes.drain() {
            pipe.end_rx(End::Broken("node is shut down".into()));
            pipe.end_tx(End::Broken("node is shut down".into()));
        }
    }
}
