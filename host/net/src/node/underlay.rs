//! What carries a node's datagrams: its UDP socket, or one connection to a beacon in its place. The driver asks here and
//! does not care; with UDP each call is one predictable branch more.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use pilot_wire::compat::LOCAL_PLACEHOLDER;
use rustix::event::PollFlags;

use crate::compat::Datagrams;
use crate::udp::{Received, Udp};

/// The carrier of datagrams.
// There is one per node, on the stack of its thread.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
pub enum Underlay {
    /// A UDP socket.
    Udp(Udp),
    /// The compat transport. The engine must be `relay_only`, with
    /// [`BEACON_PLACEHOLDER`](pilot_wire::compat::BEACON_PLACEHOLDER) as its beacon; what goes elsewhere is lost.
    Compat(Datagrams),
}

impl From<Udp> for Underlay {
    fn from(udp: Udp) -> Self {
        Self::Udp(udp)
    }
}

impl From<Datagrams> for Underlay {
    fn from(compat: Datagrams) -> Self {
        Self::Compat(compat)
    }
}

impl Underlay {
    /// The bound address, or its placeholder.
    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Udp(udp) => udp.local_addr(),
            Self::Compat(_) => Ok(LOCAL_PLACEHOLDER),
        }
    }

    /// See [`Udp::max_gso_segments`].
    pub(super) fn max_gso_segments(&self) -> usize {
        match self {
            Self::Udp(udp) => udp.max_gso_segments(),
            Self::Compat(compat) => compat.max_gso_segments(),
        }
    }

    /// See [`Udp::receive`].
    pub(super) fn receive(&mut self, each: impl FnMut(SocketAddr, &mut [u8])) -> io::Result<Received> {
        match self {
            Self::Udp(udp) => udp.receive(each),
            Self::Compat(compat) => compat.receive(each),
        }
    }

    /// See [`Udp::send`].
    pub(super) fn send(
        &self,
        to: SocketAddr,
        contents: &[u8],
        segment_size: Option<usize>,
    ) -> io::Result<bool> {
        match self {
            Self::Udp(udp) => udp.send(to, contents, segment_size),
            Self::Compat(compat) => compat.send(to, contents, segment_size),
        }
    }

    /// What to sleep for; `full`: the last send found no room.
    pub(super) fn interest(&self, full: bool) -> PollFlags {
        match self {
            Self::Udp(_) if full => PollFlags::IN | PollFlags::OUT,
            // The other descriptor can always be written; it becomes readable when there is room.
            Self::Udp(_) | Self::Compat(_) => PollFlags::IN,
        }
    }
}

impl AsFd for Underlay {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Udp(udp) => udp.as_fd(),
            Self::Compat(compat) => compat.as_fd(),
        }
    }
}
