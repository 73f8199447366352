//! The tunnel socket: batched sends and receives (GSO, GRO, recvmmsg) over one UDP socket. Called by the node driver
//! only; understands no frame.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};

/// Kernel buffer asked for in each direction, bytes. The system may grant less; that is not an error.
const SOCKET_BUFFER: usize = 4 << 20;
/// One receive slot: the largest run of datagrams that GRO may hand over at once.
const SLOT: usize = 65_535;
/// Slots of one receive call. Few, because each may hold a whole run, and what was just received should still be in the
/// processor's cache when it is opened.
const BATCH: usize = 8;
/// While datagrams come one at a time they are received so, which spares the system the search for a second one; after
/// this many it is tried again whether more can be had at once.
const SINGLES: u32 = 8;

/// What one receive call gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Datagrams handed over.
    pub datagrams: usize,
    /// Every slot was used, so more may wait.
    pub full: bool,
}

/// The socket with its batch buffers.
pub struct Udp {
    socket: UdpSocket,
    state: UdpSocketState,
    buffers: Vec<u8>,
    metas: [RecvMeta; BATCH],
    /// Receive calls until the next one for a whole batch.
    singles: u32,
}

impl std::fmt::Debug for Udp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Udp").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Udp {
    /// Binds.
    ///
    /// # Errors
    /// Those of the operating system, as they are.
    pub fn bind(addr: SocketAddr) -> io::Result<Self> {
        use socket2::{Domain, Protocol, Socket, Type};
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        grow_buffers(&socket);
        let socket = UdpSocket::from(socket);
        let state = UdpSocketState::new((&socket).into())?;
        allow_fragments(&socket, addr);
        spare_control_data(&socket, addr);
        let (buffers, metas) = (vec![0; SLOT * BATCH], [RecvMeta::default(); BATCH]);
        Ok(Udp { socket, state, buffers, metas, singles: 0 })
    }

    /// The bound address.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// How many equal datagrams one send may carry.
    pub fn max_gso_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// Receives one batch and hands each datagram to `each`; nothing when none waits. A batch may be less than what waits:
    /// look again, or sleep in a call that returns at once then.
    ///
    /// # Errors
    /// Those of the operating system but "would block".
    pub fn receive(&mut self, mut each: impl FnMut(SocketAddr, &mut [u8])) -> io::Result<Received> {
        let Udp { socket, state, buffers, metas, singles } = self;
        let offered = if *singles > 0 { 1 } else { BATCH };
        let mut rest = buffers.as_mut_slice();
        let mut slots: [IoSliceMut<'_>; BATCH] = std::array::from_fn(|_| {
            let (slot, others) = std::mem::take(&mut rest).split_at_mut(SLOT);
            rest = others;
            IoSliceMut::new(slot)
        });
        let got = state.recv((&*socket).into(), &mut slots[..offered], &mut metas[..offered]);
        let batches = match got {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Received::default()),
            // A previous send met an ICMP error; nothing was received.
            Err(e)
                if e.kind() == io::ErrorKind::ConnectionRefused
                    || e.kind() == io::ErrorKind::ConnectionReset =>
            {
                return Ok(Received::default());
            }
            Err(e) => return Err(e),
        };
        let mut received = Received { datagrams: 0, full: batches == BATCH };
        for (slot, meta) in buffers.chunks_exact_mut(SLOT).zip(metas.iter()).take(batches) {
            let stride = meta.stride.max(1);
            for datagram in slot[..meta.len.min(SLOT)].chunks_mut(stride) {
                received.datagrams += 1;
                each(canonical(meta.addr), datagram);
            }
        }
        *singles = match received.datagrams {
            1 if offered == 1 => *singles - 1,
            1 => SINGLES,
            _ => 0,
        };
        Ok(received)
    }

    /// Sends `contents` to `to`, as one datagram or as a run of `segment_size` pieces. `Ok(false)`: the socket is full.
    ///
    /// # Errors
    /// Those of the operating system but "would block".
    pub fn send(&self, to: SocketAddr, contents: &[u8], segment_size: Option<usize>) -> io::Result<bool> {
        let Some(_) = segment_size else {
            // The plain call is the quickest for a lone datagram.
            return match self.socket.send_to(contents, to) {
                Ok(_) => Ok(true),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
                Err(e) => Err(e),
            };
        };
        let transmit = Transmit { destination: to, ecn: None, contents, segment_size, src_ip: None };
        match self.state.try_send((&self.socket).into(), &transmit) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(e) => Err(e),
        }
    }
}

impl AsFd for Udp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// This machine's addresses in its local networks; loopback and link-local ones left out, at most 16.
pub fn lan_addresses() -> Vec<std::net::IpAddr> {
    let usable = |ip: &std::net::IpAddr| match ip {
        std::net::IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        std::net::IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    };
    let found = if_addrs::get_if_addrs().unwrap_or_default();
    found.into_iter().map(|i| i.ip()).filter(usable).take(16).collect()
}

/// IPv4 peers of a dual-stack socket appear as mapped IPv6; the engine compares addresses, so give it one spelling.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// Asks for large kernel buffers: past the system's limit where we may, else up to it. Bursts are lost otherwise.
fn grow_buffers(socket: &socket2::Socket) {
    use rustix::net::sockopt;
    if sockopt::set_socket_recv_buffer_size_force(socket, SOCKET_BUFFER).is_err() {
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    }
    if sockopt::set_socket_send_buffer_size_force(socket, SOCKET_BUFFER).is_err() {
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    }
}

/// The batching layer forbids fragmentation for its own probing; datagrams above the path MTU are left to IP here, as
/// the Go peers do (packet.md section 3).
fn allow_fragments(socket: &UdpSocket, addr: SocketAddr) {
    use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
    let _ = sockopt::set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DONT);
    if addr.is_ipv6() {
        let _ = sockopt::set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::DONT);
    }
}

/// The batching layer asks for each datagram's traffic class, for which nobody here has a use; it costs time per datagram.
fn spare_control_data(socket: &UdpSocket, addr: SocketAddr) {
    use rustix::net::sockopt;
    let _ = sockopt::set_ip_recvtos(socket, false);
    if addr.is_ipv6() {
        let _ = sockopt::set_ipv6_recvtclass(socket, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind() -> Udp {
        Udp::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap()
    }

    /// Receives until `count` datagrams are there; gives their bytes and how many each call gave.
    fn receive(udp: &mut Udp, count: usize) -> (Vec<Vec<u8>>, Vec<usize>) {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let (mut all, mut calls) = (Vec::new(), Vec::new());
        while all.len() < count {
            let limit = Timespec { tv_sec: 10, tv_nsec: 0 };
            let ready = poll(&mut [PollFd::new(&*udp, PollFlags::IN)], Some(&limit)).unwrap();
            assert_eq!(ready, 1, "only {} of {count} datagrams came", all.len());
            calls.push(udp.receive(|_, datagram| all.push(datagram.to_vec())).unwrap().datagrams);
        }
        (all, calls)
    }

    #[test]
    fn lone_datagrams_and_bursts_all_arrive_in_order() {
        let (mut here, there) = (bind(), bind());
        let to = here.local_addr().unwrap();
        let datagram = |n: u8| vec![n; 40 + usize::from(n)];
        // Often enough that it changes to single slots and back.
        for n in 0..3 * u8::try_from(SINGLES).unwrap() {
            assert!(there.send(to, &datagram(n), None).unwrap());
            assert_eq!(receive(&mut here, 1), (vec![datagram(n)], vec![1]));
        }
        assert!(here.singles > 0);
        // Of different lengths, so that the system does not join them.
        let burst: Vec<_> = (0..40).map(datagram).collect();
        for datagram in &burst {
            assert!(there.send(to, datagram, None).unwrap());
        }
        let (all, calls) = receive(&mut here, burst.len());
        assert_eq!(all, burst);
        assert!(calls.contains(&BATCH), "whole batches again: {calls:?}");
        assert_eq!(here.receive(|_, _| panic!("nothing is left")).unwrap(), Received::default());
    }
}
