//! When a daemon talks to the rendezvous: discover, register, heartbeat, register again, poll for handshakes.
//!
//! Called by the host's membership task. A machine without I/O: times and outcomes go in, [`Action`]s come out, and the
//! task carries them out (with the registry client and the engine) and reports back. Everything about addresses, keys and
//! trust stays with the task; this decides only what is done when. Fact sheets: registry.md section 6, beacon.md section
//! 3, handshake.md section 5.
//!
//! | phase | what happens | next |
//! |---|---|---|
//! | discovering | Discover each second, as number 0 | address known or 5 s over: registering |
//! | registering | one registration under way | yes: up; no: waiting |
//! | waiting | 100 ms, doubling to 30 s, plus jitter | time over: registering |
//! | up | heartbeat every 60 s, Discover every 25 s, polls | 3 heartbeats failed: waiting; forgotten by the registry, or seen under a new address: registering |

mod polls;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::rng::Rng;
use crate::time::{Duration, Instant};
pub use polls::Look;
use polls::Polls;

/// How often a heartbeat is sent.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(60);
/// How often the NAT mapping towards the beacon is refreshed.
pub const DISCOVER_INTERVAL: Duration = Duration::from_secs(25);
/// Consecutive failed heartbeats after which the daemon registers again.
pub const MAX_FAILURES: u32 = 3;

/// How long the first registration waits for the beacon's answer, and how often it asks.
const DISCOVER_PATIENCE: Duration = Duration::from_secs(5);
const DISCOVER_RETRY: Duration = Duration::from_secs(1);
/// Random delay of the first heartbeat and of the first refreshing Discover, so that daemons started together spread.
const HEARTBEAT_JITTER: Duration = Duration::from_secs(5);
const DISCOVER_JITTER: Duration = Duration::from_secs(2);
/// Waits between registrations.
const BACK_OFF_FIRST: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(30);
/// Least time between two registrations that only bring a new address.
const REFRESH_INTERVAL: Duration = Duration::from_secs(60);

/// Something the membership task has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Send a Discover to the beacon. No outcome to report but an address, by [`Membership::observed`].
    Discover,
    /// Register this address; report by [`Membership::registered`].
    Register {
        /// Where others should reach us.
        listen_addr: SocketAddr,
    },
    /// After a registration: set visibility and hostname; `again` (the registry may have forgotten us): report every
    /// trust pair too. Nothing to report back; failures are not fatal.
    Restore {
        /// Whether we had been registered before.
        again: bool,
    },
    /// Send a heartbeat; report by [`Membership::heartbeat_done`].
    Heartbeat,
    /// Poll for handshakes; report by [`Membership::poll_done`]. Must run to its end, also during a shutdown: the
    /// registry forgets what it hands out.
    PollHandshakes,
}

/// How a heartbeat went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// The registry knows us.
    Alive,
    /// No answer, or one that leaves things open.
    Failed,
    /// The registry does not know us, or not with our key: registering again helps, waiting does not.
    Forgotten,
}

impl Beat {
    /// Reads a registry's refusal of a heartbeat (registry.md section 2.1).
    pub fn from_refusal(text: &str) -> Self {
        let forgotten = ["node not found", "signature verification failed"];
        if forgotten.iter().any(|words| text.contains(words)) { Self::Forgotten } else { Self::Failed }
    }
}

/// The machine.
pub struct Membership {
    /// Our own socket's address, the one to register when nothing better is known.
    local: SocketAddr,
    observed: Option<SocketAddr>,
    rng: Rng,
    phase: Phase,
    /// Whether any registration has succeeded.
    member: bool,
    /// The last registered address, and when it was asked for.
    stated: Option<(SocketAddr, Instant)>,
    polls: Polls,
    /// Holds each action at most once, and a Restore before what belongs to the same registration.
    actions: VecDeque<Action>,
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership").field("phase", &self.phase).finish_non_exhaustive()
    }
}

#[derive(Debug)]
enum Phase {
    Discovering { until: Instant, next: Instant },
    Registering { attempt: u32 },
    Waiting { until: Instant, attempt: u32 },
    Up(Up),
}

#[derive(Debug)]
struct Up {
    next_beat: Instant,
    beating: bool,
    failures: u32,
    next_discover: Instant,
    /// A registration with a new address is due then.
    refresh: Option<Instant>,
}

impl Membership {
    /// A machine that begins at once. `local` is the bound address of the tunnel socket, `seed` makes its jitter.
    pub fn new(now: Instant, local: SocketAddr, seed: [u8; 32]) -> Self {
        let mut machine = Self {
            local,
            observed: None,
            rng: Rng::new(seed),
            phase: Phase::Discovering { until: now + DISCOVER_PATIENCE, next: now },
            member: false,
            stated: None,
            polls: Polls::default(),
            actions: VecDeque::new(),
        };
        machine.handle_timeout(now);
        machine
    }

    /// Whether we are registered, as far as is known.
    pub fn is_up(&self) -> bool {
        matches!(self.phase, Phase::Up(_))
    }

    /// The next thing to do, if there is one. To be asked after each other call, until there is none.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Discovering { until, next } => Some(*until.min(next)),
            Phase::Registering { .. } => None,
            Phase::Waiting { until, .. } => Some(*until),
            Phase::Up(up) => {
                let beat = (!up.beating).then_some(up.next_beat);
                [beat, Some(up.next_discover), up.refresh, self.polls.next()].into_iter().flatten().min()
            }
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::Discovering { until, next } => {
                if now >= *until {
                    self.register(now, 0);
                } else if now >= *next {
                    *next = now + DISCOVER_RETRY;
                    self.act(Action::Discover);
                }
            }
            Phase::Waiting { until, attempt } if now >= *until => {
                let attempt = *attempt;
                self.register(now, attempt);
            }
            Phase::Registering { .. } | Phase::Waiting { .. } => {}
            Phase::Up(up) => {
                if up.refresh.is_some_and(|at| now >= at) {
                    self.register(now, 0);
                    return;
                }
                let (beat, discover) = (!up.beating && now >= up.next_beat, now >= up.next_discover);
                if beat {
                    up.beating = true;
                    // Counted from when it was due, so that the rhythm survives a late call; missed ones are not made
                    // up for.
                    let next = up.next_beat + HEARTBEAT_INTERVAL;
                    up.next_beat = if now < next { next } else { now + HEARTBEAT_INTERVAL };
                }
                if discover {
                    up.next_discover = now + DISCOVER_INTERVAL;
                }
                if beat {
                    self.act(Action::Heartbeat);
                }
                if discover {
                    self.act(Action::Discover);
                }
                self.start_due_poll(now);
            }
        }
    }

    /// The beacon has told how it sees us. Addresses that cannot be reached from elsewhere are no better than our own.
    pub fn observed(&mut self, now: Instant, addr: SocketAddr) {
        let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
        if is_reachable_from_afar(addr.ip()) {
            self.state_address(now, addr);
        } else if matches!(self.phase, Phase::Discovering { .. }) {
            // The beacon is there; there is nothing more to wait for.
            self.register(now, 0);
        }
    }

    /// The operator has told where others reach us: registered as it is. A caller with such an address passes none of
    /// the beacon's on.
    pub fn fixed_address(&mut self, now: Instant, addr: SocketAddr) {
        self.state_address(now, addr);
    }

    fn state_address(&mut self, now: Instant, addr: SocketAddr) {
        self.observed = Some(addr);
        match &mut self.phase {
            Phase::Discovering { .. } => self.register(now, 0),
            Phase::Up(up) => {
                up.refresh = match self.stated {
                    Some((stated, at)) if stated != addr => Some((at + REFRESH_INTERVAL).max(now)),
                    _ => None,
                };
            }
            Phase::Registering { .. } | Phase::Waiting { .. } => {}
        }
    }

    /// A registration has come to its end.
    pub fn registered(&mut self, now: Instant, success: bool) {
        let Phase::Registering { attempt } = self.phase else { return };
        if !success {
            self.wait(now, attempt);
            return;
        }
        let again = std::mem::replace(&mut self.member, true);
        self.phase = Phase::Up(Up {
            next_beat: now + HEARTBEAT_INTERVAL + self.rng.duration_up_to(HEARTBEAT_JITTER),
            beating: false,
            failures: 0,
            next_discover: now + DISCOVER_INTERVAL + self.rng.duration_up_to(DISCOVER_JITTER),
            refresh: None,
        });
        self.act(Action::Discover);
        self.act(Action::Restore { again });
        self.polls.want(now);
        self.start_due_poll(now);
    }

    /// A heartbeat has come to its end.
    pub fn heartbeat_done(&mut self, now: Instant, beat: Beat) {
        // A heartbeat that a registration has overtaken says nothing about the present state.
        let Phase::Up(up) = &mut self.phase else { return };
        if !std::mem::replace(&mut up.beating, false) {
            return;
        }
        match beat {
            Beat::Alive => {
                up.failures = 0;
                up.next_discover = now + DISCOVER_INTERVAL;
                self.act(Action::Discover);
                self.polls.want(now);
                self.start_due_poll(now);
            }
            Beat::Forgotten => self.register(now, 0),
            Beat::Failed => {
                up.failures += 1;
                if up.failures >= MAX_FAILURES {
                    self.wait(now, 0);
                }
            }
        }
    }

    /// A poll has come to its end, well or not.
    pub fn poll_done(&mut self, now: Instant) {
        self.polls.done();
        self.start_due_poll(now);
    }

    /// A handshake request of ours has gone out: its answer is watched for closely. `explicit`: somebody asked for it, as
    /// against one that a dial sent along.
    pub fn own_request(&mut self, now: Instant, peer: u32, explicit: bool) {
        self.polls.open_window(now, peer, explicit);
        self.start_due_poll(now);
    }

    /// A peer has answered, or is trusted now: no need to watch any longer.
    pub fn answered(&mut self, peer: u32) {
        self.polls.close_window(peer);
    }

    /// A local client is about to look at trust or pending requests: says whether it should wait for a poll first.
    pub fn client_looks(&mut self, now: Instant) -> Look {
        if !self.is_up() {
            return Look::Now;
        }
        let look = self.polls.look(now);
        self.start_due_poll(now);
        look
    }

    /// A local client waits for trust in `peer`, which is not there yet: as [`client_looks`](Self::client_looks) while a
    /// request of ours to that peer is being watched.
    pub fn client_waits(&mut self, now: Instant, peer: u32) -> Look {
        if self.polls.watches(now, peer) { self.client_looks(now) } else { Look::Now }
    }

    /// The beacon says that the registry holds something for us. The caller has checked that it was our beacon.
    pub fn notified(&mut self, now: Instant) {
        if self.is_up() {
            self.polls.notify(now);
            self.start_due_poll(now);
        }
    }

    fn start_due_poll(&mut self, now: Instant) {
        if self.is_up() && self.polls.start(now) {
            self.act(Action::PollHandshakes);
        }
    }

    fn register(&mut self, now: Instant, attempt: u32) {
        let listen_addr = self.observed.unwrap_or_else(|| with_loopback(self.local));
        self.stated = Some((listen_addr, now));
        self.phase = Phase::Registering { attempt };
        self.act(Action::Register { listen_addr });
    }

    fn wait(&mut self, now: Instant, attempt: u32) {
        let pause = BACK_OFF_FIRST.saturating_mul(1 << attempt.min(16)).min(BACK_OFF_MAX);
        // Up to half as much again, so that daemons which lost one registry do not come back as one.
        let until = now + pause + self.rng.duration_up_to(pause / 2);
        self.phase = Phase::Waiting { until, attempt: attempt.saturating_add(1) };
    }

    fn act(&mut self, action: Action) {
        if !self.actions.contains(&action) {
            self.actions.push_back(action);
        }
    }
}

/// Whether an address the beacon saw can be of use to nodes elsewhere.
fn is_reachable_from_afar(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !(ip.is_unspecified() || ip.is_private() || ip.is_loopback() || ip.is_link_local()),
        IpAddr::V6(ip) => {
            !(ip.is_unspecified() || ip.is_unique_local() || ip.is_loopback() || ip.is_unicast_link_local())
        }
    }
}

/// An unspecified address is where we listen, not where we are.
fn with_loopback(local: SocketAddr) -> SocketAddr {
    let ip = match local.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) | IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, local.port())
}
