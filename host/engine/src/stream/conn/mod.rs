//! One connection: its states, its two halves, and its application's side.
//!
//! Called by the engine with packets that came out of the right tunnel, with commands and with the clock; it answers with
//! events (through [`Cx`]), with segments to send ([`Conn::plan`], in `output`) and with a deadline (in `timers`).
//! Fact sheet: stream.md section 2.
//!
//! | state | SYN | SYN-ACK | data, ACK | FIN | RST | close by us |
//! |---|---|---|---|---|---|---|
//! | `SynSent` | - | ACK, `Open` | - | - | `Closed`, refused | RST, `Closed`; also when nothing answers |
//! | `Open` | SYN-ACK again | ACK again | taken | in order: FIN-ACK, `TimeWait`; early: held, ACK | `Closed` | `Closing` |
//! | `Closing` | SYN-ACK again | ACK again | taken, thrown away | as `Open` | `Closed` | - |
//! | `FinWait` | - | - | ends the repeats | FIN-ACK unless it was one, `TimeWait` | `Closed` | - |
//! | `TimeWait` | (new) | - | - | plain ACK | `Closed` | - |
//!
//! `Closing` sends FIN and becomes `FinWait` when everything written was acknowledged. There is no half-close.

mod input;
mod output;
mod timers;

use bytes::Bytes;

pub(crate) use timers::Wish;

use super::State;
use super::pieces::Pieces;
use super::recv::Receiver;
use super::send::{Limits, Sender};
use crate::config::Config;
use crate::engine::Read;
use crate::engine::events::Events;
use crate::error::{CloseReason, DialError, ReadError, WriteError};
use crate::event::{ConnId, ConnInfo, Event};
use crate::notice::{Ended, Notice};
use crate::snapshot::ConnRow;
use crate::time::{Duration, Instant};
use pilot_wire::ports;

/// What a connection needs from the engine around it.
pub(crate) struct Cx<'a> {
    pub(crate) now: Instant,
    pub(crate) config: &'a Config,
    pub(crate) events: &'a mut Events,
    /// Memory for received data.
    pub(crate) pieces: &'a mut Pieces,
    /// The memory for received data is used up.
    pub(crate) pressed: bool,
    /// Unix time in nanoseconds, when the host has said.
    pub(crate) unix_nanos: Option<u64>,
    /// When the peer's node was last heard, if that counts as life of this stream; else [`Instant::ZERO`].
    pub(crate) peer_heard: Instant,
}

/// Who reads and writes the stream on this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The host's application; for an accepted stream also while it still waits in the accept queue.
    App,
    /// The echo service.
    Echo,
}

#[derive(Debug)]
enum Phase {
    SynSent(Opening),
    Open,
    /// The application is done; what it wrote is still being delivered. `progress` is when that last advanced.
    Closing {
        progress: Instant,
    },
    FinWait(Fin),
    TimeWait {
        until: Instant,
    },
    Closed,
}

/// A dial in progress.
#[derive(Clone, Copy, Debug)]
struct Opening {
    started: Instant,
    /// SYNs sent.
    sent: u32,
    first_sent: Instant,
    /// When the next SYN or the end is due; `None` while there is no key to seal a SYN with.
    next: Option<Instant>,
    due: bool,
}

/// Our FIN.
#[derive(Clone, Copy, Debug)]
struct Fin {
    at: u64,
    sent: u32,
    due: bool,
    /// When it is repeated; `None` once it was acknowledged or often enough repeated.
    next: Option<Instant>,
    until: Instant,
}

/// A FIN that came before the data in front of it.
#[derive(Clone, Copy, Debug)]
struct EarlyFin {
    at: u64,
    since: Instant,
}

/// Answers that wait to be sent.
#[derive(Clone, Copy, Debug, Default)]
struct Replies {
    syn_ack: bool,
    fin_ack: bool,
    /// A plain acknowledgement in `TimeWait`.
    last_ack: bool,
    reset: bool,
}

/// A stream.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) id: ConnId,
    pub(crate) info: ConnInfo,
    pub(crate) owner: Owner,
    /// The engine's bookkeeping: queued for sending, and the timer that is set.
    pub(crate) queued: bool,
    pub(crate) timer: Option<Instant>,
    /// The table's bookkeeping: its place among the streams that rest.
    pub(crate) resting: Option<u64>,
    pub(crate) opened: Instant,
    phase: Phase,
    dialled: bool,
    /// When our SYN-ACK was due first; its acknowledgement gives the first round trip time, too long rather than too short.
    answered: Option<Instant>,
    tx: Sender,
    rx: Receiver,
    replies: Replies,
    early_fin: Option<EarlyFin>,
    /// The peer's FIN was taken: it counts one number.
    fin_taken: bool,
    /// Our FIN was sent: so does that.
    fin_sent: bool,
    outcome: Option<CloseReason>,
    /// The application closed it, so nobody reads, writes or hears of it any more.
    released: bool,
    told_readable: bool,
    wants_writable: bool,
    heard: Instant,
    said: Instant,
    /// Numbers of the last segment heard, to tell a keepalive.
    last_heard_numbers: (u32, u32),
}

impl Conn {
    /// A stream we open; its first SYN is due as soon as there is a key.
    pub(crate) fn dial(now: Instant, id: ConnId, info: ConnInfo, limits: Limits, config: &Config) -> Self {
        let opening = Opening { started: now, sent: 0, first_sent: now, next: None, due: true };
        let mut conn = Self::new(now, id, info, 0, limits, config, Owner::App);
        conn.phase = Phase::SynSent(opening);
        conn.dialled = true;
        conn
    }

    /// A stream a peer opened, past all gates; its SYN-ACK is due.
    pub(crate) fn accept(
        cx: &Cx<'_>,
        id: ConnId,
        info: ConnInfo,
        (isn, window): (u32, u16),
        limits: Limits,
        owner: Owner,
    ) -> Self {
        let mut conn = Self::new(cx.now, id, info, isn, limits, cx.config, owner);
        conn.replies.syn_ack = true;
        conn.answered = Some(cx.now);
        conn.last_heard_numbers = (isn.wrapping_add(1), 1);
        conn.take_window(cx.now, Some(window));
        conn
    }

    fn new(
        now: Instant,
        id: ConnId,
        info: ConnInfo,
        isn: u32,
        limits: Limits,
        config: &Config,
        owner: Owner,
    ) -> Self {
        Self {
            id,
            info,
            owner,
            queued: false,
            timer: None,
            resting: None,
            opened: now,
            phase: Phase::Open,
            dialled: false,
            answered: None,
            tx: Sender::new(now, limits),
            rx: Receiver::new(isn, config.recv_buffer, config.recv_buffer_max, owner == Owner::Echo),
            replies: Replies::default(),
            early_fin: None,
            fin_taken: false,
            fin_sent: false,
            outcome: None,
            released: owner == Owner::Echo,
            told_readable: false,
            wants_writable: false,
            heard: now,
            said: now,
            last_heard_numbers: (0, 0),
        }
    }

    /// Its state, as peers name it.
    pub(crate) fn state(&self) -> State {
        match self.phase {
            Phase::SynSent(_) => State::SynSent,
            Phase::Open | Phase::Closing { .. } => State::Established,
            Phase::FinWait(_) => State::FinWait,
            Phase::TimeWait { .. } => State::TimeWait,
            Phase::Closed => State::Closed,
        }
    }

    /// Whether the tunnel has to stay up for it.
    pub(crate) fn is_live(&self) -> bool {
        !matches!(self.phase, Phase::TimeWait { .. } | Phase::Closed)
    }

    /// Whether its four values can be used by a new stream.
    pub(crate) fn is_over(&self) -> bool {
        !self.is_live()
    }

    /// Whether nothing about it has to be remembered any more.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self.phase, Phase::Closed) && self.released && !self.replies.reset
    }

    /// Whether it only waits for a repeated FIN: its application has let it go too. It holds no data then.
    pub(crate) fn may_rest(&self) -> bool {
        matches!(self.phase, Phase::TimeWait { .. }) && self.released
    }

    /// What the path and the peer allow from now on.
    pub(crate) fn set_limits(&mut self, limits: Limits) {
        self.tx.set_limits(limits);
    }

    /// Bytes its application may have waiting or in flight: twice what the path holds, within the settings.
    fn send_limit(&self, config: &Config) -> usize {
        config.send_buffer.max(self.tx.path_holds().saturating_mul(2).min(config.send_buffer_max))
    }

    /// Memory held for data that the peer sent.
    pub(crate) fn held(&self) -> usize {
        let echo = if self.owner == Owner::Echo { self.tx.buffered() } else { 0 };
        self.rx.held() + echo
    }

    /// As [`crate::Engine::write`].
    pub(crate) fn write(&mut self, config: &Config, mut data: Bytes) -> Result<usize, WriteError> {
        if self.released {
            return Err(WriteError::Closed);
        }
        if !matches!(self.phase, Phase::Open) {
            return Err(WriteError::NotEstablished);
        }
        let room = self.send_limit(config).saturating_sub(self.tx.buffered());
        if room < data.len() {
            self.wants_writable = true;
            data.truncate(room);
        }
        let taken = data.len();
        self.tx.push(data);
        Ok(taken)
    }

    /// As [`crate::Engine::read`].
    pub(crate) fn read(&mut self, pressed: bool, max: usize) -> Result<Read, ReadError> {
        if self.released {
            return Err(ReadError::Closed);
        }
        self.rx.set_pressed(pressed);
        if let Some(data) = self.rx.read(max) {
            return Ok(Read::Data(data));
        }
        match self.outcome {
            None => {
                self.told_readable = false;
                Ok(Read::Empty)
            }
            Some(CloseReason::Finished) => Ok(Read::Finished),
            Some(reason) => Err(ReadError::Aborted(reason)),
        }
    }

    /// As [`crate::Engine::close`].
    pub(crate) fn close(&mut self, cx: &mut Cx<'_>) {
        if self.released {
            return;
        }
        self.released = true;
        self.rx.discard();
        match self.phase {
            Phase::SynSent(opening) => {
                // The peer may already hold its end of the stream.
                self.replies.reset = opening.sent > 0;
                self.phase = Phase::Closed;
            }
            Phase::Open => {
                if self.info.remote_port == ports::DATA_EXCHANGE {
                    let (remote, remote_port) = (self.info.remote, self.info.remote_port);
                    cx.events.notice(Notice::FileDelivered { remote, remote_port, conn: self.id });
                }
                self.begin_closing(cx.now);
            }
            _ => {}
        }
    }

    fn begin_closing(&mut self, now: Instant) {
        self.tx.flush();
        self.phase = Phase::Closing { progress: now };
    }

    /// As [`crate::Engine::reset`].
    pub(crate) fn reset(&mut self) {
        self.released = true;
        let silent = matches!(self.phase, Phase::Closed | Phase::TimeWait { .. })
            || matches!(self.phase, Phase::SynSent(o) if o.sent == 0);
        self.replies = Replies { reset: !silent, ..Replies::default() };
        self.tx.clear();
        self.rx.discard();
        self.phase = Phase::Closed;
    }

    /// Ends a dial; the stream is gone.
    pub(crate) fn fail_dial(&mut self, cx: &mut Cx<'_>, error: DialError) {
        if !matches!(self.phase, Phase::SynSent(_)) {
            return;
        }
        self.phase = Phase::Closed;
        if !self.released {
            self.released = true;
            cx.events.push(Event::DialFailed { conn: self.id, error });
        }
    }

    /// Whether a dial is waiting for its first SYN to go out.
    pub(crate) fn is_dialling(&self) -> bool {
        matches!(self.phase, Phase::SynSent(_))
    }

    /// Ends it without the peer's consent. Nothing is sent unless `reset`.
    pub(crate) fn abort(&mut self, cx: &mut Cx<'_>, reason: CloseReason, reset: bool) {
        if self.is_dialling() {
            return self.fail_dial(cx, DialError::Cancelled);
        }
        if matches!(self.phase, Phase::Closed) {
            return;
        }
        self.replies = Replies { reset, ..Replies::default() };
        self.tx.clear();
        self.rx.abandon();
        self.phase = Phase::Closed;
        self.finish(cx, reason);
    }

    /// Whether reading has made an acknowledgement necessary.
    pub(crate) fn wants_ack(&self) -> bool {
        self.rx.wants_ack()
    }

    /// Tells the application, once, that it is over.
    fn finish(&mut self, cx: &mut Cx<'_>, reason: CloseReason) {
        if self.outcome.is_none() {
            self.outcome = Some(reason);
            if !self.released {
                self.tell_readable(cx);
                cx.events.push(Event::Closed { conn: self.id, reason });
            }
        }
    }

    fn tell_readable(&mut self, cx: &mut Cx<'_>) {
        if !self.told_readable && !self.released {
            self.told_readable = true;
            cx.events.push(Event::Readable { conn: self.id });
        }
    }

    /// Tells a writer that was cut short when half of the buffer is free again.
    fn tell_writable(&mut self, cx: &mut Cx<'_>) {
        if self.wants_writable && !self.released && self.tx.buffered() <= self.send_limit(cx.config) / 2 {
            self.wants_writable = false;
            cx.events.push(Event::Writable { conn: self.id });
        }
    }

    fn ended(&self) -> Ended {
        Ended { conn: self.id, info: self.info }
    }

    /// The peer has a new key: what was under way may be lost. Gives how many segments go again.
    pub(crate) fn on_new_key(&mut self, now: Instant, count: usize) -> usize {
        match &mut self.phase {
            Phase::SynSent(opening) => {
                opening.due = true;
                usize::from(opening.sent > 0)
            }
            Phase::Open | Phase::Closing { .. } => self.tx.resend_first(now, count),
            Phase::FinWait(fin) => {
                fin.due = fin.next.is_some();
                usize::from(fin.due)
            }
            _ => 0,
        }
    }

    /// No tunnel, nobody to tell: answers that wait are dropped.
    pub(crate) fn forget_replies(&mut self) {
        self.replies = Replies::default();
    }

    /// Its smoothed round trip time, once there is one.
    pub(crate) fn srtt(&self) -> Option<Duration> {
        self.tx.rtt().smoothed()
    }

    /// Status output.
    pub(crate) fn row(&self) -> ConnRow {
        let (tx, rx) = (self.tx.status(), self.rx.stats());
        ConnRow {
            id: self.id,
            local_addr: self.info.local,
            local_port: self.info.local_port,
            remote_addr: self.info.remote,
            remote_port: self.info.remote_port,
            state: self.state(),
            cong_win: tx.window,
            ssthresh: tx.ssthresh,
            in_flight: tx.in_flight,
            srtt: self.tx.rtt().smoothed().unwrap_or_default(),
            rttvar: self.tx.rtt().variation(),
            unacked: tx.unacked,
            ooo_buf: self.rx.parked(),
            peer_recv_win: tx.peer_window,
            recv_win: self.rx.window(),
            in_recovery: tx.repairing,
            bytes_sent: tx.stats.bytes,
            bytes_recv: rx.bytes,
            segs_sent: tx.stats.segments,
            segs_recv: rx.segments,
            retransmits: tx.stats.repeats,
            fast_retx: tx.stats.fast_repeats,
            sack_recv: tx.stats.sacks,
            sack_sent: rx.sacks,
            dup_acks: tx.stats.duplicates,
        }
    }
}

#[cfg(test)]
mod tests;
