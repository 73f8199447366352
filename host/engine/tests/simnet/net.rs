//! The network: hosts, links, beacon, registry, clock.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use pilot_engine::time::{Duration, Instant};
use pilot_engine::{
    Answer, CloseReason, Config, ConnId, Engine, Event, Identity, Notice, Query, Read, ReadError, Resolution,
    Verdict,
};
use pilot_wire::addr::Addr;
use pilot_wire::beacon;

/// What happens to a datagram on its way. Probabilities are in thousandths.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    pub loss: u64,
    pub repeat: u64,
    pub latency: Duration,
    /// Added to the latency, at random, up to this: more than the spacing of datagrams, so they overtake each other.
    pub jitter: Duration,
    /// Bytes per second; datagrams queue up to `buffer` bytes, then are lost.
    pub rate: Option<(u64, u64)>,
}

impl Default for Link {
    fn default() -> Self {
        Self { loss: 0, repeat: 0, latency: ms(10), jitter: Duration::ZERO, rate: None }
    }
}

pub const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// xorshift64*: enough to roll dice.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % sides.max(1)
    }
}

/// What a host's application has seen of one stream.
#[derive(Default, Debug)]
pub struct Seen {
    pub data: Vec<u8>,
    pub finished: bool,
    pub aborted: Option<CloseReason>,
    pub closed: Option<CloseReason>,
}

/// Data on its way into a stream.
struct Outgoing {
    data: Bytes,
    then_close: bool,
}

/// One node with its application: accepts everything on its bound ports and reads everything, unless told otherwise.
pub struct Host {
    pub engine: Engine,
    pub addr: SocketAddr,
    pub node: u32,
    identity: Arc<Identity>,
    pub connected: Vec<ConnId>,
    pub accepted: Vec<ConnId>,
    pub failed: Vec<(ConnId, String)>,
    pub streams: BTreeMap<ConnId, Seen>,
    outgoing: BTreeMap<ConnId, Outgoing>,
    pub datagrams: Vec<(Addr, u16, Bytes)>,
    pub pongs: usize,
    pub lost_pings: usize,
    pub notices: Vec<Notice>,
    /// Leaves received data unread while false.
    pub reads: bool,
    /// Leaves streams in the accept queue while false.
    pub accepts: bool,
    pub verdict: Verdict,
    pub asked: Vec<Query>,
    pub sent: u64,
    /// Sends straight to another host are lost while true.
    pub direct_blocked: bool,
    /// Nothing leaves the host while true.
    pub cut_off: bool,
    /// What stands between the host and the network.
    pub nat: Option<Nat>,
    /// The process is stopped: nothing runs; what arrives waits in the socket's buffer.
    pub frozen: bool,
    socket_buffer: Vec<(SocketAddr, Vec<u8>)>,
    /// How many datagrams it sent by their fourth byte: `S`, `A`, `K`, `P` for frames.
    pub kinds: BTreeMap<u8, u64>,
}

impl Host {
    /// Writes everything to a stream, then closes it if asked to.
    pub fn send(&mut self, conn: ConnId, data: impl Into<Bytes>, then_close: bool) {
        self.outgoing.insert(conn, Outgoing { data: data.into(), then_close });
    }

    pub fn topics(&self) -> Vec<&'static str> {
        self.notices.iter().map(Notice::topic).collect()
    }

    pub fn stream(&self, conn: ConnId) -> &Seen {
        &self.streams[&conn]
    }

    fn push_outgoing(&mut self, now: Instant) {
        for (conn, out) in &mut self.outgoing {
            while !out.data.is_empty() {
                match self.engine.write(now, *conn, out.data.clone()) {
                    Ok(0) | Err(_) => break,
                    Ok(taken) => drop(out.data.split_to(taken)),
                }
            }
            if out.data.is_empty() && out.then_close {
                self.engine.close(now, *conn);
            }
        }
        self.outgoing.retain(|_, out| !out.data.is_empty());
    }

    fn read(&mut self, now: Instant, conn: ConnId) {
        if !self.reads {
            return;
        }
        loop {
            match self.engine.read(now, conn, 65_536) {
                Ok(Read::Data(data)) => self.streams.entry(conn).or_default().data.extend_from_slice(&data),
                Ok(Read::Empty) => return,
                Ok(Read::Finished) => return self.streams.entry(conn).or_default().finished = true,
                Err(ReadError::Aborted(why)) => {
                    return self.streams.entry(conn).or_default().aborted = Some(why);
                }
                Err(_) => return,
            }
        }
    }

    fn on_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::Connected { conn } => self.connected.push(conn),
            Event::DialFailed { conn, error } => self.failed.push((conn, error.to_string())),
            Event::Incoming { port, conn } if self.accepts => {
                assert_eq!(self.engine.accept(port), Some(conn));
                self.accepted.push(conn);
                self.streams.entry(conn).or_default();
            }
            Event::Readable { conn } => self.read(now, conn),
            Event::Closed { conn, reason } => {
                let seen = self.streams.entry(conn).or_default();
                assert_eq!(seen.closed, None, "closed twice");
                seen.closed = Some(reason);
            }
            Event::Datagram { from, dst_port, data, .. } => self.datagrams.push((from, dst_port, data)),
            Event::Pong { .. } => self.pongs += 1,
            Event::PingFailed { .. } => self.lost_pings += 1,
            Event::Notice(notice) => self.notices.push(notice),
            _ => {}
        }
    }
}

/// The kinds of NAT of RFC 3489.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatKind {
    /// One mapping per host; anyone may send to it.
    FullCone,
    /// One mapping per host; addresses it has sent to may answer, from any port.
    Restricted,
    /// One mapping per host; only what it has sent to may answer.
    PortRestricted,
    /// A mapping per destination; only that may answer.
    Symmetric,
}

/// A NAT with one host behind it.
pub struct Nat {
    pub kind: NatKind,
    pub ip: IpAddr,
    next_port: u16,
    /// Public ports by destination; by nothing for cones.
    mappings: BTreeMap<Option<SocketAddr>, u16>,
    contacted: BTreeSet<(u16, SocketAddr)>,
}

impl Nat {
    pub fn new(kind: NatKind, ip: &str) -> Self {
        Self {
            kind,
            ip: ip.parse().unwrap(),
            next_port: 20_000,
            mappings: BTreeMap::new(),
            contacted: BTreeSet::new(),
        }
    }

    /// Forgets everything, as a router does when it starts anew.
    pub fn reboot(&mut self) {
        self.mappings.clear();
        self.contacted.clear();
    }

    /// The public source of a datagram to `to`.
    fn outbound(&mut self, to: SocketAddr) -> SocketAddr {
        let key = (self.kind == NatKind::Symmetric).then_some(to);
        let fresh = self.next_port;
        let port = *self.mappings.entry(key).or_insert(fresh);
        self.next_port += u16::from(port == fresh);
        self.contacted.insert((port, to));
        SocketAddr::new(self.ip, port)
    }

    /// Whether a datagram from `from` to the public address `to` gets in.
    fn admits(&self, from: SocketAddr, to: SocketAddr) -> bool {
        let mut contacted = self.contacted.iter().filter(|(port, _)| *port == to.port());
        to.ip() == self.ip
            && self.mappings.values().any(|port| *port == to.port())
            && match self.kind {
                NatKind::FullCone => true,
                NatKind::Restricted => contacted.any(|(_, peer)| peer.ip() == from.ip()),
                NatKind::PortRestricted | NatKind::Symmetric => contacted.any(|(_, peer)| *peer == from),
            }
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Flight {
    at: Instant,
    number: u64,
    from: SocketAddr,
    to: SocketAddr,
    data: Vec<u8>,
}

/// The simulated world.
pub struct Net {
    pub now: Instant,
    pub hosts: Vec<Host>,
    pub link: Link,
    pub dice: Dice,
    flights: BinaryHeap<Reverse<Flight>>,
    numbers: u64,
    /// When each sender's link is free again, for rated links.
    free: BTreeMap<SocketAddr, Instant>,
    /// Nodes known to the beacon; `None`: there is no beacon.
    beacon: Option<BTreeMap<u32, SocketAddr>>,
    /// The registry does not answer while false.
    pub registry_up: bool,
    /// What is simulated, for messages.
    pub label: String,
    /// The beacon does not answer while false.
    pub beacon_up: bool,
    /// The hosts' membership asks the beacon every 25 s, as pilot-host does.
    next_discover: Instant,
    /// Datagrams longer than this are lost, in bytes of UDP payload.
    pub mtu: usize,
    pub relay_only: Vec<u32>,
    /// Every datagram ever sent, when switched on: (from, to, bytes).
    pub tap: Option<Vec<(SocketAddr, SocketAddr, Vec<u8>)>>,
}

pub const PORT: u16 = 1000;
/// How often a host's membership asks the beacon.
const DISCOVER: Duration = secs(25);
/// Datagrams a stopped process finds in its socket.
const SOCKET_BUFFER: usize = 2000;

pub fn beacon_addr() -> SocketAddr {
    "192.0.2.1:9001".parse().unwrap()
}

impl Net {
    pub fn new(seed: u64, link: Link) -> Self {
        Self {
            now: Instant::from_nanos(1),
            hosts: Vec::new(),
            link,
            dice: Dice::new(seed),
            flights: BinaryHeap::new(),
            numbers: 0,
            free: BTreeMap::new(),
            beacon: None,
            registry_up: true,
            label: String::new(),
            beacon_up: true,
            next_discover: Instant::from_nanos(1) + DISCOVER,
            mtu: usize::MAX,
            relay_only: Vec::new(),
            tap: None,
        }
    }

    pub fn with_beacon(mut self) -> Self {
        self.beacon = Some(BTreeMap::new());
        self
    }

    /// Two hosts, the second one listening.
    pub fn pair(seed: u64, link: Link, config: &Config) -> Self {
        let mut net = Self::new(seed, link);
        net.add(config.clone());
        net.add(config.clone());
        net.hosts[1].engine.bind(PORT).unwrap();
        net
    }

    fn fresh_engine(&mut self, config: Config, node: u32, identity: &Arc<Identity>) -> Engine {
        let seed = std::array::from_fn(|_| u8::try_from(self.dice.roll(256)).unwrap());
        let mut engine = Engine::new(config, seed, self.now);
        engine.set_identity(Arc::clone(identity));
        engine.set_node(node, false, &[]);
        if self.beacon.is_some() {
            engine.set_beacon(Some(beacon_addr()));
            engine.discover(self.now);
        }
        engine
    }

    /// Adds a host with node number `index + 1`; gives the index.
    pub fn add(&mut self, config: Config) -> usize {
        let index = self.hosts.len();
        let node = u32::try_from(index).unwrap() + 1;
        let identity = Arc::new(Identity::generate([u8::try_from(node).unwrap(); 32]));
        let engine = self.fresh_engine(config, node, &identity);
        self.hosts.push(Host {
            engine,
            addr: format!("198.51.100.{node}:4000").parse().unwrap(),
            node,
            identity,
            connected: Vec::new(),
            accepted: Vec::new(),
            failed: Vec::new(),
            streams: BTreeMap::new(),
            outgoing: BTreeMap::new(),
            datagrams: Vec::new(),
            pongs: 0,
            lost_pings: 0,
            notices: Vec::new(),
            reads: true,
            accepts: true,
            verdict: Verdict::Allow,
            asked: Vec::new(),
            sent: 0,
            direct_blocked: false,
            cut_off: false,
            nat: None,
            frozen: false,
            socket_buffer: Vec::new(),
            kinds: BTreeMap::new(),
        });
        index
    }

    /// Replaces a host's engine, as a crash and a new start would: same identity and number, nothing else.
    pub fn restart(&mut self, host: usize) {
        let config = self.hosts[host].engine.config().clone();
        let (node, identity) = (self.hosts[host].node, Arc::clone(&self.hosts[host].identity));
        self.hosts[host].engine = self.fresh_engine(config, node, &identity);
        self.hosts[host].outgoing.clear();
        self.hosts[host].streams.clear();
        self.hosts[host].accepted.clear();
        self.hosts[host].connected.clear();
    }

    pub fn dial(&mut self, from: usize, to: usize) -> ConnId {
        let addr = Addr::backbone(self.hosts[to].node);
        self.hosts[from].engine.dial(self.now, addr, PORT).unwrap()
    }

    /// Dials and waits; gives both ends.
    pub fn connect(&mut self, from: usize, to: usize) -> (ConnId, ConnId) {
        let (conn, before) = (self.dial(from, to), self.hosts[to].accepted.len());
        self.run(secs(60), |n| {
            n.hosts[from].connected.contains(&conn) && n.hosts[to].accepted.len() > before
        });
        (conn, *self.hosts[to].accepted.last().unwrap())
    }

    /// Puts a datagram onto the link.
    pub fn inject(&mut self, from: SocketAddr, to: SocketAddr, data: Vec<u8>) {
        if let Some(tap) = &mut self.tap {
            tap.push((from, to, data.clone()));
        }
        let lost = self.dice.roll(1000) < self.link.loss || data.len() > self.mtu;
        let copies = 1 + u64::from(!lost && self.dice.roll(1000) < self.link.repeat);
        for _ in 0..copies {
            let mut leaves = self.now;
            if let Some((rate, buffer)) = self.link.rate {
                let free = self.free.entry(from).or_insert(self.now);
                let start = (*free).max(self.now);
                let queued = start.since(self.now).as_nanos() * u128::from(rate) / 1_000_000_000;
                if queued > u128::from(buffer) {
                    continue;
                }
                leaves = start + Duration::from_nanos(data.len() as u64 * 1_000_000_000 / rate);
                *free = leaves;
            }
            if lost {
                continue; // on the way, after it took its share of the link
            }
            let jitter = u64::try_from(self.link.jitter.as_nanos()).unwrap();
            let at = leaves + self.link.latency + Duration::from_nanos(self.dice.roll(jitter + 1));
            self.numbers += 1;
            let flight = Flight { at, number: self.numbers, from, to, data: data.clone() };
            self.flights.push(Reverse(flight));
        }
    }

    /// Lets a host do everything it can do now.
    fn pump(&mut self, i: usize) {
        let now = self.now;
        if self.hosts[i].frozen {
            return;
        }
        loop {
            let mut busy = false;
            while let Some(event) = self.hosts[i].engine.poll_event() {
                self.hosts[i].on_event(now, event);
                busy = true;
            }
            self.hosts[i].push_outgoing(now);
            while let Some((id, query)) = self.hosts[i].engine.poll_query() {
                busy = true;
                self.hosts[i].asked.push(query.clone());
                if let Some(answer) = self.look_up(i, &query) {
                    self.hosts[i].engine.answer(now, id, answer);
                }
            }
            let mut buf = Vec::new();
            while let Some(t) = self.hosts[i].engine.poll_transmit(now, &mut buf, 16) {
                busy = true;
                let own = self.hosts[i].addr;
                let from = self.hosts[i].nat.as_mut().map_or(own, |nat| nat.outbound(t.to));
                let run = std::mem::take(&mut buf);
                assert_eq!(run.len(), t.size);
                for datagram in run.chunks(t.segment_size.unwrap_or(t.size)) {
                    self.hosts[i].sent += 1;
                    *self.hosts[i].kinds.entry(datagram[3]).or_default() += 1;
                    if self.hosts[i].cut_off {
                        continue;
                    }
                    if !self.hosts[i].direct_blocked || t.to == beacon_addr() {
                        self.inject(from, t.to, datagram.to_vec());
                    }
                }
            }
            if !busy {
                return;
            }
        }
    }

    /// Where the registry believes a host to be: where the beacon saw it.
    fn registered_addr(&self, host: &Host) -> SocketAddr {
        let seen = self.beacon.as_ref().and_then(|nodes| nodes.get(&host.node).copied());
        seen.filter(|_| host.nat.is_some())
            .or(host.engine.snapshot().observed.filter(|_| host.nat.is_some()))
            .unwrap_or(host.addr)
    }

    /// The beacon's process is killed and started again: it knows nobody.
    pub fn restart_beacon(&mut self) {
        self.beacon = Some(BTreeMap::new());
        self.beacon_up = true;
    }

    /// A stopped process goes on: it finds what its socket could hold, and a clock that has run.
    pub fn thaw(&mut self, i: usize) {
        self.hosts[i].frozen = false;
        let now = self.now;
        for (from, mut data) in std::mem::take(&mut self.hosts[i].socket_buffer) {
            self.hosts[i].engine.handle_datagram(now, from, &mut data);
        }
        self.hosts[i].engine.handle_timeout(now);
    }

    fn look_up(&self, i: usize, query: &Query) -> Option<Answer> {
        let find = |node: u32| self.hosts.iter().find(|h| h.node == node);
        if !self.registry_up && matches!(query, Query::Resolve { .. } | Query::PeerKey { .. }) {
            return None;
        }
        Some(match query {
            Query::Resolve { node } => match find(*node) {
                Some(host) => Answer::Resolved(Resolution {
                    real_addr: Some(self.registered_addr(host)),
                    lan_addrs: Vec::new(),
                    relay_only: self.relay_only.contains(node),
                }),
                None => Answer::Failed("node not found".to_owned()),
            },
            Query::PeerKey { node } => {
                Answer::PeerKey { key: find(*node).map(|h| h.identity.public_key()), trusted: true }
            }
            _ => Answer::Admit(self.hosts[i].verdict),
        })
    }

    /// The beacon's part of the protocol.
    fn on_beacon(&mut self, from: SocketAddr, data: &[u8]) {
        let Some(nodes) = self.beacon.as_mut().filter(|_| self.beacon_up) else { return };
        let mut answers = Vec::new();
        match beacon::decode(data) {
            Ok(beacon::Message::Discover { node, .. }) => {
                nodes.insert(node, from);
                answers.push((from, beacon::Message::DiscoverReply { observed: from }));
            }
            Ok(beacon::Message::PunchRequest { requester, target, .. }) => {
                nodes.insert(requester, from);
                if let Some(to) = nodes.get(&target) {
                    answers.push((from, beacon::Message::PunchCommand { peer: *to }));
                    answers.push((*to, beacon::Message::PunchCommand { peer: from }));
                }
            }
            Ok(beacon::Message::Relay { sender, dest, frame }) => {
                if let Some(to) = nodes.get(&dest) {
                    answers.push((*to, beacon::Message::RelayDeliver { sender, frame }));
                }
            }
            _ => {}
        }
        for (to, message) in answers {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            self.inject(beacon_addr(), to, bytes);
        }
    }

    fn deliver(&mut self, flight: Flight) {
        if flight.to == beacon_addr() {
            self.on_beacon(flight.from, &flight.data);
            return;
        }
        let reached = |h: &&mut Host| match &h.nat {
            Some(nat) => nat.admits(flight.from, flight.to),
            None => h.addr == flight.to,
        };
        if let Some(host) = self.hosts.iter_mut().find(reached) {
            let mut data = flight.data;
            if !host.frozen {
                host.engine.handle_datagram(self.now, flight.from, &mut data);
            } else if host.socket_buffer.len() < SOCKET_BUFFER {
                host.socket_buffer.push((flight.from, data));
            }
        }
    }

    /// Goes to the next moment at which something happens; false when nothing ever will.
    fn step(&mut self, until: Instant) -> bool {
        for i in 0..self.hosts.len() {
            self.pump(i);
        }
        let flight = self.flights.peek().map(|Reverse(f)| f.at);
        let timers = self.hosts.iter().filter(|h| !h.frozen).filter_map(|h| h.engine.poll_timeout());
        let discover = self.beacon.is_some().then_some(self.next_discover);
        let Some(next) = timers.chain(flight).chain(discover).min() else { return false };
        if next > until {
            self.now = until;
            return false;
        }
        self.now = self.now.max(next);
        while self.flights.peek().is_some_and(|Reverse(f)| f.at <= self.now) {
            let Some(Reverse(flight)) = self.flights.pop() else { break };
            self.deliver(flight);
        }
        if self.beacon.is_some() && self.next_discover <= self.now {
            self.next_discover = self.now + DISCOVER;
            for host in self.hosts.iter_mut().filter(|h| !h.frozen) {
                host.engine.discover(self.now);
            }
        }
        for host in self.hosts.iter_mut().filter(|h| !h.frozen) {
            if host.engine.poll_timeout().is_some_and(|t| t <= self.now) {
                host.engine.handle_timeout(self.now);
            }
        }
        for i in 0..self.hosts.len() {
            self.pump(i);
        }
        true
    }

    /// Runs until something is true; panics when it is not within `limit`. Gives the time it took.
    pub fn run(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> Duration {
        let start = self.now;
        while !done(self) {
            assert!(self.step(start + limit) || done(self), "not within {limit:?}: {}", self.describe());
        }
        self.now.since(start)
    }

    /// Runs for a while.
    pub fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until && self.step(until) {}
        self.now = until;
    }

    fn describe(&self) -> String {
        let rows = self.hosts.iter().map(|h| {
            let s = h.engine.snapshot();
            format!("\n node {}: {:?}\n  peers {:?}\n  failed {:?}", s.node, s.conns, s.peers, h.failed)
        });
        self.label.clone() + &rows.collect::<String>()
    }
}

/// Bytes that are different at every offset of interest.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut dice = Dice::new(seed);
    let mut data = Vec::with_capacity(len + 8);
    while data.len() < len {
        data.extend_from_slice(&(dice.roll(u64::from(u32::MAX)) << 11).to_le_bytes()[..4]);
    }
    data.truncate(len);
    data
}
