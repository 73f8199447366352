//! The beacon's UDP side: receives in batches, hands each datagram to the beacon, sends what comes of it in runs.
//!
//! One task owns socket, beacon, and who is connected over a WebSocket (`compat`); what such clients send comes in beside
//! the datagrams, and what is for them goes to their queues instead of the socket. Datagrams for one destination that follow each other with equal size go out in one
//! call (relayed bulk traffic comes like that). A socket that is full is waited for while a batch is sent; meanwhile the
//! kernel's receive buffer is the only queue, and what does not fit there is lost, as UDP may.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pilot_rendezvous::{Beacon, BeaconSettings, Clients, Moment, bridge_addr, bridged_node};
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::compat::{Bridge, Client, FromClient};
use super::desk::{Desk, unix_now};

/// Kernel buffer asked for in each direction, bytes; the system may grant less.
const SOCKET_BUFFER: usize = 4 << 20;
/// One receive slot: the largest run of datagrams that the kernel may hand over at once.
const SLOT: usize = 65_535;
/// Runs longer than this are split: the kernel takes no more than 64 KiB in one call.
const RUN_BYTES: usize = 64_000;
/// How often the beacon is asked what is due.
const TICK: Duration = Duration::from_secs(1);
/// Messages of WebSocket clients worked on between two looks at the socket.
const CLIENT_BATCH: usize = 64;

/// The bound UDP socket.
#[derive(Debug)]
pub(super) struct Socket {
    socket: UdpSocket,
    state: UdpSocketState,
}

impl Socket {
    /// Binds; an unspecified IPv6 address takes IPv4 too. Must be called inside the runtime.
    pub fn bind(addr: SocketAddr) -> io::Result<Self> {
        use socket2::{Domain, Protocol, Type};
        let socket = socket2::Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_nonblocking(true)?;
        // What the system grants is good enough.
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
        socket.bind(&addr.into())?;
        let socket = UdpSocket::from_std(socket.into())?;
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Self { socket, state })
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn receive(&self, slots: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) -> io::Result<usize> {
        self.socket.try_io(Interest::READABLE, || self.state.recv((&self.socket).into(), slots, metas))
    }

    async fn send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        loop {
            self.socket.writable().await?;
            let sent = self
                .socket
                .try_io(Interest::WRITABLE, || self.state.try_send((&self.socket).into(), transmit));
            match sent {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
    }
}

/// Serves the beacon until the server stops. `bridge`: the end of the WebSocket side, when there is one.
pub(super) async fn run(
    socket: Socket,
    settings: BeaconSettings,
    desk: Arc<Desk>,
    mut notices: mpsc::Receiver<u32>,
    mut bridge: Option<Bridge>,
    stop: CancellationToken,
) {
    let mut beacon = Beacon::new(settings);
    let started = Instant::now();
    let now = || Moment { elapsed: started.elapsed(), unix: unix_now() };
    let mut buffers = vec![0; SLOT * BATCH_SIZE];
    let mut metas = [RecvMeta::default(); BATCH_SIZE];
    let mut exits = Exits { out: Outbox::new(socket.state.max_gso_segments()), clients: Clients::default() };
    let mut batch = Vec::new();
    let mut scratch = Vec::new();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => beacon.handle_timeout(now(), &mut |to, bytes| exits.send(to, None, bytes)),
            Some(node) = notices.recv() => beacon.notify(now(), node, &mut |to, bytes| exits.send(to, None, bytes)),
            Some(_) = receive_some(&mut bridge, &mut batch) => {
                for message in batch.drain(..) {
                    match message {
                        FromClient::Attach { node, connection, client, done } => {
                            if let Some(old) = exits.clients.insert(node, connection, client) {
                                old.replace();
                            }
                            beacon.attach(node);
                            // Who waits for this may have gone; its detach is on the way then.
                            let _ = done.send(());
                        }
                        FromClient::Detach { node, connection } => {
                            if exits.clients.remove(node, connection) {
                                beacon.detach(node);
                            }
                        }
                        // What a replaced connection still said is not passed on.
                        FromClient::Message { node, connection, data } if exits.clients.is_present(node, connection) => {
                            copy(&data, &mut scratch);
                            beacon.handle_datagram(now(), bridge_addr(node), &mut scratch, |node| desk.key_of(node),
                                &mut |to, bytes| exits.send(to, None, bytes));
                        }
                        FromClient::Message { .. } => {}
                    }
                }
                if let Some(bridge) = &bridge {
                    bridge.counts.set_clients(exits.clients.len());
                }
            }
            ready = socket.socket.readable() => {
                let mut slots: Vec<_> = buffers.chunks_exact_mut(SLOT).map(IoSliceMut::new).collect();
                let got = ready.and_then(|()| socket.receive(&mut slots, &mut metas));
                drop(slots);
                let runs = match got {
                    Ok(runs) => runs,
                    Err(e) => {
                        // "Would block", or an ICMP error that an earlier datagram of ours met: nothing received.
                        tracing::trace!(error = %e, "beacon: receive");
                        0
                    }
                };
                for (slot, meta) in buffers.chunks_exact_mut(SLOT).zip(&metas).take(runs) {
                    let from = SocketAddr::new(meta.addr.ip().to_canonical(), meta.addr.port());
                    // A forged source must not pass for a node that has proved itself over a WebSocket.
                    if bridged_node(from).is_some() {
                        continue;
                    }
                    for datagram in slot[..meta.len.min(SLOT)].chunks_mut(meta.stride.max(1)) {
                        beacon.handle_datagram(now(), from, datagram, |node| desk.key_of(node), &mut |to, bytes| {
                            // Who asks gets the answer from the address that was asked.
                            exits.send(to, meta.dst_ip.filter(|_| to == from), bytes);
                        });
                    }
                }
            }
        }
        exits.out.flush(&socket).await;
    }
}

/// Waits for messages of WebSocket clients; never ready without a bridge, or when its other end is gone.
async fn receive_some(bridge: &mut Option<Bridge>, batch: &mut Vec<FromClient>) -> Option<usize> {
    let received = bridge.as_mut()?.messages.recv_many(batch, CLIENT_BATCH).await;
    if received == 0 {
        *bridge = None;
    }
    (received > 0).then_some(received)
}

fn copy(data: &Bytes, to: &mut Vec<u8>) {
    to.clear();
    to.extend_from_slice(data);
}

/// Both ways out: the socket, and the queues of WebSocket clients.
struct Exits {
    out: Outbox,
    clients: Clients<Client>,
}

impl Exits {
    fn send(&mut self, to: SocketAddr, from: Option<IpAddr>, bytes: &[u8]) {
        match bridged_node(to) {
            None => self.out.push(to, from, bytes),
            Some(node) => {
                if let Some(client) = self.clients.get(node) {
                    client.send(bytes);
                }
            }
        }
    }
}

/// Datagrams to send, gathered into runs. Holds at most what one receive batch (or one tick) makes of itself: every
/// datagram in gives at most its own size and two small ones out.
struct Outbox {
    runs: Vec<Run>,
    bytes: Vec<u8>,
    max_segments: usize,
}

/// Datagrams of equal size for one destination, the last one possibly shorter.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    to: SocketAddr,
    from: Option<IpAddr>,
    segment: usize,
    start: usize,
    end: usize,
}

impl Outbox {
    fn new(max_segments: usize) -> Self {
        Self { runs: Vec::new(), bytes: Vec::new(), max_segments: max_segments.max(1) }
    }

    fn push(&mut self, to: SocketAddr, from: Option<IpAddr>, datagram: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(datagram);
        let end = self.bytes.len();
        if let Some(run) = self.runs.last_mut() {
            let len = run.end - run.start;
            let fits = (run.to, run.from) == (to, from)
                && !datagram.is_empty()
                && datagram.len() <= run.segment
                // A shorter datagram ends a run.
                && len % run.segment == 0
                && len / run.segment < self.max_segments
                && len + datagram.len() <= RUN_BYTES;
            if fits {
                run.end = end;
                return;
            }
        }
        self.runs.push(Run { to, from, segment: datagram.len().max(1), start, end });
    }

    async fn flush(&mut self, socket: &Socket) {
        for run in self.runs.drain(..) {
            let contents = &self.bytes[run.start..run.end];
            let segment_size = (contents.len() > run.segment).then_some(run.segment);
            let transmit =
                Transmit { destination: run.to, ecn: None, contents, segment_size, src_ip: run.from };
            if let Err(e) = socket.send(&transmit).await {
                tracing::trace!(to = %run.to, error = %e, "beacon: datagram not sent");
            }
        }
        self.bytes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_datagrams_for_one_destination_make_a_run() {
        let (a, b): (SocketAddr, SocketAddr) =
            ("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap());
        let mut out = Outbox::new(3);
        for (to, len) in
            [(a, 10), (a, 10), (a, 10), (a, 10), (a, 4), (a, 4), (b, 4), (a, 5), (a, 6), (a, 0), (a, 0)]
        {
            out.push(to, None, &vec![1; len]);
        }
        let runs: Vec<_> = out.runs.iter().map(|r| (r.to, r.segment, r.end - r.start)).collect();
        let want =
            [(a, 10, 30), (a, 10, 14), (a, 4, 4), (b, 4, 4), (a, 5, 5), (a, 6, 6), (a, 1, 0), (a, 1, 0)];
        assert_eq!(runs, want);
    }
}
