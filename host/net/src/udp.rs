//! The tunnel socket: batched sends and receives (GSO, GRO, recvmmsg) over one UDP socket. Called by the node driver
//! only; understands no frame.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Kernel buffer asked for in each direction, bytes. The system may grant less; that is not an error.
const SOCKET_BUFFER: usize = 4 << 20;
/// One receive slot: the largest run of datagrams that GRO may hand over at once.
const SLOT: usize = 65_535;

/// The socket with its batch buffers.
pub struct Udp {
    socket: UdpSocket,
    state: UdpSocketState,
    buffers: Vec<u8>,
    metas: [RecvMeta; BATCH_SIZE],
}

impl std::fmt::Debug for Udp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Udp").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Udp {
    /// Binds. Must be called inside the runtime.
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
        let socket = UdpSocket::from_std(socket.into())?;
        let state = UdpSocketState::new((&socket).into())?;
        allow_fragments(&socket, addr);
        Ok(Udp {
            socket,
            state,
            buffers: vec![0; SLOT * BATCH_SIZE],
            metas: [RecvMeta::default(); BATCH_SIZE],
        })
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

    /// Waits until a receive may give something.
    pub async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Waits until a send may be taken.
    pub async fn writable(&self) -> io::Result<()> {
        self.socket.writable().await
    }

    /// Receives one batch and hands each datagram to `each`; the number of datagrams, 0 when none waits.
    ///
    /// # Errors
    /// Those of the operating system but "would block".
    pub fn receive(&mut self, mut each: impl FnMut(SocketAddr, &mut [u8])) -> io::Result<usize> {
        let Udp { socket, state, buffers, metas } = self;
        let mut slots = buffers.chunks_exact_mut(SLOT).map(IoSliceMut::new).collect::<Vec<_>>();
        let got = socket.try_io(Interest::READABLE, || state.recv((&*socket).into(), &mut slots, metas));
        let batches = match got {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            // A previous send met an ICMP error; nothing was received.
            Err(e)
                if e.kind() == io::ErrorKind::ConnectionRefused
                    || e.kind() == io::ErrorKind::ConnectionReset =>
            {
                return Ok(0);
            }
            Err(e) => return Err(e),
        };
        drop(slots);
        let mut count = 0;
        for (slot, meta) in buffers.chunks_exact_mut(SLOT).zip(metas.iter()).take(batches) {
            let stride = meta.stride.max(1);
            for datagram in slot[..meta.len.min(SLOT)].chunks_mut(stride) {
                count += 1;
                each(canonical(meta.addr), datagram);
            }
        }
        Ok(count)
    }

    /// Sends `contents` to `to`, as one datagram or as a run of `segment_size` pieces. `Ok(false)`: the socket is full.
    ///
    /// # Errors
    /// Those of the operating system but "would block".
    pub fn send(&self, to: SocketAddr, contents: &[u8], segment_size: Option<usize>) -> io::Result<bool> {
        let transmit = Transmit { destination: to, ecn: None, contents, segment_size, src_ip: None };
        match self.socket.try_io(Interest::WRITABLE, || self.state.try_send((&self.socket).into(), &transmit))
        {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(e) => Err(e),
        }
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
