//! Streams at the engine's level: which packets belong to which, who may open one, and the bookkeeping around each call.
//!
//! The gates for a SYN come in the order of stream.md section 7; trust and port policy are the host's answer to a question.

use pilot_wire::packet::{Flags, Header, Protocol};
use pilot_wire::ports;

use super::peer::Abilities;
use super::questions::Purpose;
use super::timers::Timer;
use super::{Engine, Listener};
use crate::error::CloseReason;
use crate::event::{ConnId, Event};
use crate::notice::{Notice, Opened};
use crate::query::{Query, Verdict};
use crate::stream::State;
use crate::stream::conn::{Conn, Cx, Owner, Wish};
use crate::stream::send::Limits;
use crate::stream::table::{Tuple, answer_info};
use crate::time::{Duration, Instant};

/// Segments unacknowledged towards a peer that may be a Go peer: their reorder buffer (stream.md section 3).
const GO_OUTSTANDING: usize = 128;
/// How long our own contact with a peer lets it come back to us (stream.md section 7, "Reply window").
const REPLY_WINDOW: Duration = Duration::from_secs(300);
/// Peers with an open reply window; the table is filled by our own actions only.
const MAX_REPLY_WINDOWS: usize = 4096;

impl Engine {
    /// A stream packet from a peer, out of its tunnel.
    pub(super) fn on_stream_packet(&mut self, now: Instant, h: &Header, payload: &[u8]) {
        let is_syn = h.flags.contains(Flags::SYN) && !h.flags.contains(Flags::ACK);
        if let Some(id) = self.conns.find(h)
            && !(is_syn && self.may_start_over(id))
        {
            self.with_conn(now, id, |conn, cx| conn.on_segment(cx, h, payload));
            return;
        }
        if is_syn {
            self.on_syn(now, h);
        } else if h.flags.contains(Flags::RST) {
            // Its dialler went away while the host still decides: a stream opened now would have nobody at the other end.
            self.questions.withdraw_syn(h);
            self.resets.forget(Tuple::received(h));
        } else if h.flags.contains(Flags::ACK) && !h.flags.contains(Flags::FIN) {
            self.on_stray(now, h);
        }
        // Everything else without a stream is ignored silently.
    }

    /// The peer holds a stream that we do not: our end of it was lost on the way, or we were started anew. A peer of our kind
    /// is told, at most once until the tellings of [`super::resets`] are over; a Go peer is not, as none does
    /// (stream.md section 2, "FIN, RST, ACK, data for an unknown connection").
    fn on_stray(&mut self, now: Instant, h: &Header) {
        let node = h.src.node;
        let ours = self.peers.get(&node).is_some_and(|p| matches!(p.abilities, Abilities::Enhanced { .. }));
        if ours && !self.resets.is_said(Tuple::received(h)) {
            let reset = reset_of(h);
            // Without a session there was nothing to hear it by.
            let _ = self.send_packet(now, node, &reset, &[]);
            self.resets.said(now, reset);
        }
    }

    /// Whether a SYN means a new stream although there is one with its four values: that one is not open any more, or is
    /// from before the peer was started anew.
    fn may_start_over(&self, id: ConnId) -> bool {
        self.conns.get(id).is_none_or(|conn| {
            let peer = self.peers.get(&conn.info.remote.node);
            conn.state() != State::Established || peer.is_some_and(|p| conn.opened < p.restarted)
        })
    }

    /// A SYN that no open stream knows.
    fn on_syn(&mut self, now: Instant, h: &Header) {
        let port = h.dst_port;
        if !self.is_echo(port) && !self.listeners.contains_key(&port) {
            return self.refuse(now, h);
        }
        if self.config.admit_all {
            return self.admit_syn(now, h);
        }
        let query = Query::AdmitSyn {
            peer: h.src.node,
            src: h.src,
            dst: h.dst,
            src_port: h.src_port,
            dst_port: port,
            reply_window: self.is_expected(now, h.src.node, port),
        };
        // Without room for another question the SYN is lost; its sender repeats it.
        self.questions.ask(now, query, Purpose::Syn { header: *h });
    }

    /// Whether a port is the built-in echo service's.
    pub(super) fn is_echo(&self, port: u16) -> bool {
        self.config.echo && port == ports::ECHO
    }

    /// The host has decided about trust and port policy.
    pub(super) fn on_syn_verdict(&mut self, now: Instant, h: &Header, verdict: Verdict) {
        let (src, dst_port, network) = (h.src.node, h.dst_port, h.dst.network);
        match verdict {
            Verdict::Allow => self.admit_syn(now, h),
            Verdict::Untrusted => self.events.notice(Notice::SynRejected { dst_port }),
            Verdict::PortDenied => self.events.notice(Notice::SynPortRejected { src, dst_port, network }),
        }
    }

    /// Rates and limits, then the stream.
    fn admit_syn(&mut self, now: Instant, h: &Header) {
        let exempt = self.config.syn_exempt.contains(h.src.node);
        if !exempt && !self.syn_rate_per_peer.take(now, h.src.node) {
            return;
        }
        if !exempt && !self.syn_rate.take(now, self.config.syn_rate) {
            self.events.notice(Notice::SynRateLimited { src: h.src, src_port: h.src_port });
            return;
        }
        let room = self.conns.on_port(h.dst_port) < self.config.max_conns_per_port
            && self.conns.make_room(self.config.max_conns);
        if !room {
            return self.refuse(now, h);
        }
        let owner = if self.is_echo(h.dst_port) { Owner::Echo } else { Owner::App };
        if owner == Owner::App {
            let capacity = self.config.accept_queue;
            let Some(listener) = self.listeners.get_mut(&h.dst_port) else { return self.refuse(now, h) };
            if listener.queue.len() >= capacity {
                self.stats.accept_queue_drops += 1;
                let drops_total = self.stats.accept_queue_drops;
                let (port, src, src_port) = (h.dst_port, h.src, h.src_port);
                self.events.notice(Notice::AcceptQueueFull { port, src, src_port, drops_total });
                return self.refuse(now, h);
            }
        }
        // An older stream with the same four values is over, or its peer has forgotten it.
        if let Some(old) = self.conns.find(h) {
            self.with_conn(now, old, |conn, cx| conn.abort(cx, CloseReason::Reset, false));
            self.conns.release_tuple(old);
        }
        self.open_accepted(now, h, owner);
    }

    fn open_accepted(&mut self, now: Instant, h: &Header, owner: Owner) {
        let (id, limits) = (self.conns.fresh_id(), self.limits(h.src.node));
        let cx = Cx {
            now,
            config: &self.config,
            events: &mut self.events,
            pieces: &mut self.pieces,
            pressed: false,
            unix_nanos: None,
            peer_heard: Instant::ZERO,
        };
        let conn = Conn::accept(&cx, id, answer_info(h), (h.seq, h.window), limits, owner);
        self.resets.forget(Tuple::received(h));
        self.conns.insert(conn);
        let opened = Opened { src: h.src, src_port: h.src_port, dst_port: h.dst_port, conn: id };
        self.events.notice(Notice::SynReceived(opened));
        self.events.notice(Notice::Established(opened));
        if owner == Owner::App
            && let Some(listener) = self.listeners.get_mut(&h.dst_port)
        {
            listener.queue.push_back(id);
            self.events.push(Event::Incoming { port: h.dst_port, conn: id });
        }
        self.conns.queue(id);
        self.arm_conn(now, id);
    }

    /// Answers a SYN with RST.
    fn refuse(&mut self, now: Instant, h: &Header) {
        // Its session was there a moment ago; if it is gone now, the peer will ask again.
        let _ = self.send_packet(now, h.src.node, &reset_of(h), &[]);
    }

    /// What segments towards a peer may look like now.
    pub(super) fn limits(&self, node: u32) -> Limits {
        let c = &self.config;
        let abilities = self.peers.get(&node).map(|p| p.abilities);
        let loopback = self.route_of(node).is_some_and(super::path::Route::is_loopback);
        match abilities {
            Some(Abilities::Enhanced { segment }) => Limits {
                segment: if loopback { c.jumbo_segment.min(segment) } else { c.segment },
                outstanding: usize::from(u16::MAX),
                enhanced: true,
                local: loopback,
            },
            _ => Limits {
                segment: if loopback { c.loopback_segment } else { c.segment },
                outstanding: GO_OUTSTANDING,
                enhanced: false,
                local: loopback,
            },
        }
    }

    /// Runs something on a stream and everything that follows from it.
    pub(super) fn with_conn<T>(
        &mut self,
        now: Instant,
        id: ConnId,
        run: impl FnOnce(&mut Conn, &mut Cx<'_>) -> T,
    ) -> Option<T> {
        let conn = self.conns.get_mut(id)?;
        let held = conn.held();
        let peer = self.peers.get(&conn.info.remote.node);
        let mut cx = Cx {
            now,
            config: &self.config,
            events: &mut self.events,
            pieces: &mut self.pieces,
            pressed: self.held >= self.config.stream_memory,
            unix_nanos: self.me.unix_nanos(now),
            peer_heard: peer.map_or(Instant::ZERO, |p| p.vouches_for(conn.opened)),
        };
        let result = run(conn, &mut cx);
        self.held = (self.held + conn.held()).saturating_sub(held);
        self.conns.queue(id);
        self.settle_conn(now, id);
        Some(result)
    }

    /// Forgets a stream that is gone, or sets its timer.
    pub(super) fn settle_conn(&mut self, now: Instant, id: ConnId) {
        let Some(conn) = self.conns.get(id) else { return };
        if conn.is_gone() {
            self.held = self.held.saturating_sub(conn.held());
            self.conns.remove(id);
        } else {
            if conn.state() == State::Closed {
                self.conns.release_tuple(id);
            } else if conn.may_rest() {
                self.conns.rest(id);
            }
            self.arm_conn(now, id);
        }
    }

    /// Sets a stream's timer.
    pub(super) fn arm_conn(&mut self, _now: Instant, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id) {
            let deadline = conn.deadline(&self.config);
            self.timers.arm(Timer::Conn(id), &mut conn.timer, deadline);
        }
    }

    /// A stream's timer fired.
    pub(super) fn on_conn_timer(&mut self, now: Instant, id: ConnId, at: Instant) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.timer != Some(at) {
            return; // out of date
        }
        // Holds the slot while the stream is settled; entered anew below.
        conn.timer = Some(Instant::ZERO);
        let node = conn.info.remote.node;
        let wish = self.with_conn(now, id, |conn, cx| conn.on_timer(cx)).flatten();
        if let Some(conn) = self.conns.get_mut(id) {
            conn.timer = None;
            let deadline = conn.deadline(&self.config);
            self.timers.rearm(now, Timer::Conn(id), &mut conn.timer, deadline);
        }
        match wish {
            Some(Wish::TryRelay) => {
                self.try_relay(now, node);
                self.resolve_anew(now, node);
            }
            Some(Wish::DialFailed) => {
                if let Some(peer) = self.peers.get_mut(&node) {
                    peer.path.leave_relay();
                }
            }
            None => {}
        }
    }

    fn try_relay(&mut self, now: Instant, node: u32) {
        if self.may_relay(now, node)
            && let Some(peer) = self.peers.get_mut(&node)
            && peer.path.use_relay(false)
        {
            self.note_relayed(node);
        }
    }

    /// Remembers that we turned to a peer.
    pub(super) fn expect(&mut self, now: Instant, node: u32) {
        if self.reply_windows.len() >= MAX_REPLY_WINDOWS && !self.reply_windows.contains_key(&node) {
            self.reply_windows.retain(|_, until| *until > now);
            if self.reply_windows.len() >= MAX_REPLY_WINDOWS {
                return;
            }
        }
        self.reply_windows.insert(node, now + REPLY_WINDOW);
    }

    fn is_expected(&self, now: Instant, node: u32, port: u16) -> bool {
        matches!(port, ports::HANDSHAKE | ports::DATA_EXCHANGE)
            && self.reply_windows.get(&node).is_some_and(|until| *until > now)
    }

    /// Resets the streams that nobody accepted.
    pub(super) fn close_listener(&mut self, listener: Listener) {
        for id in listener.queue {
            if let Some(conn) = self.conns.get_mut(id) {
                let held = conn.held();
                conn.reset();
                self.held = (self.held + conn.held()).saturating_sub(held);
                self.conns.queue(id);
            }
        }
    }
}

/// The reset of the stream that a packet belongs to.
const fn reset_of(h: &Header) -> Header {
    Header {
        flags: Flags::RST,
        protocol: Protocol::STREAM,
        src: h.dst,
        dst: h.src,
        src_port: h.dst_port,
        dst_port: h.src_port,
        seq: 0,
        ack: 0,
        window: 0,
    }
}
