//! Addresses and socket addresses of the overlay: six bytes on the wire, `N:XXXX.YYYY.ZZZZ` as text.
//!
//! Called by everyone. The node number alone is a node's identity; the network number only says in which network a
//! conversation takes place. Fact sheet: packet.md section 1. Does not know who may talk to whom.

use std::fmt;
use std::str::FromStr;

use crate::goquote::{NumError, parse_uint, quote};

/// The node number of a network's broadcast address.
pub const BROADCAST_NODE: u32 = 0xFFFF_FFFF;
/// The network every node belongs to.
pub const BACKBONE: u16 = 0;
/// Node number of the registry on the backbone.
pub const REGISTRY_NODE: u32 = 1;
/// Node number of the beacon on the backbone.
pub const BEACON_NODE: u32 = 2;
/// Node number of the nameserver on the backbone.
pub const NAMESERVER_NODE: u32 = 3;

/// A 48-bit overlay address: 16-bit network, 32-bit node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr {
    /// Network number; [`BACKBONE`] is 0.
    pub network: u16,
    /// Node number, the node's identity in every network.
    pub node: u32,
}

impl Addr {
    /// Length of the wire form in bytes.
    pub const LEN: usize = 6;
    /// Network 0, node 0: "no address".
    pub const ZERO: Self = Self { network: 0, node: 0 };

    /// An address from its two numbers.
    pub const fn new(network: u16, node: u32) -> Self {
        Self { network, node }
    }

    /// The address of a node on the backbone.
    pub const fn backbone(node: u32) -> Self {
        Self { network: BACKBONE, node }
    }

    /// The broadcast address of a network.
    pub const fn broadcast(network: u16) -> Self {
        Self { network, node: BROADCAST_NODE }
    }

    /// Whether both numbers are zero.
    pub const fn is_zero(self) -> bool {
        self.network == 0 && self.node == 0
    }

    /// Whether this is some network's broadcast address.
    pub const fn is_broadcast(self) -> bool {
        self.node == BROADCAST_NODE
    }

    /// The wire form: network, then node, big-endian.
    pub const fn to_bytes(self) -> [u8; Self::LEN] {
        let [n0, n1] = self.network.to_be_bytes();
        let [a, b, c, d] = self.node.to_be_bytes();
        [n0, n1, a, b, c, d]
    }

    /// Reads the wire form.
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        let [n0, n1, a, b, c, d] = bytes;
        Self { network: u16::from_be_bytes([n0, n1]), node: u32::from_be_bytes([a, b, c, d]) }
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:04X}.{:04X}.{:04X}", self.network, self.network, self.node >> 16, self.node & 0xFFFF)
    }
}

impl FromStr for Addr {
    type Err = ParseAddrError;

    /// Parses `N:XXXX.YYYY.ZZZZ`; checks come in the order of packet.md section 1, the first failure wins.
    fn from_str(text: &str) -> Result<Self, ParseAddrError> {
        let (decimal, groups) =
            text.split_once(':').ok_or_else(|| ParseAddrError::NoColon { text: text.to_owned() })?;
        let network = parse_u16(decimal, 10)
            .map_err(|cause| ParseAddrError::Network { text: decimal.to_owned(), cause })?;
        let mut parts = groups.split('.');
        let (Some(a), Some(b), Some(c), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(ParseAddrError::Groups { text: groups.to_owned() });
        };
        if let Some(bad) = [a, b, c].into_iter().find(|g| g.len() != 4) {
            return Err(ParseAddrError::GroupLength { text: bad.to_owned() });
        }
        let hex = |g: &str| {
            parse_u16(g, 16).map_err(|cause| ParseAddrError::GroupDigits { text: g.to_owned(), cause })
        };
        let hex_network = hex(a)?;
        if hex_network != network {
            return Err(ParseAddrError::NetworkMismatch { decimal: network, hex: hex_network });
        }
        let (high, low) = (hex(b)?, hex(c)?);
        Ok(Self { network, node: u32::from(high) << 16 | u32::from(low) })
    }
}

fn parse_u16(text: &str, base: u32) -> Result<u16, NumError> {
    let value = parse_uint(text, base, u64::from(u16::MAX))?;
    u16::try_from(value).map_err(|_| NumError::Range)
}

/// An overlay address with a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketAddr {
    /// The node's address.
    pub addr: Addr,
    /// The port; 0 is legal.
    pub port: u16,
}

impl SocketAddr {
    /// A socket address from its parts.
    pub const fn new(addr: Addr, port: u16) -> Self {
        Self { addr, port }
    }
}

impl fmt::Display for SocketAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.addr, self.port)
    }
}

impl FromStr for SocketAddr {
    type Err = ParseAddrError;

    /// Parses `ADDRESS:PORT`, split at the last colon; an address error is passed on unchanged.
    fn from_str(text: &str) -> Result<Self, ParseAddrError> {
        let (addr, port) =
            text.rsplit_once(':').ok_or_else(|| ParseAddrError::NoPort { text: text.to_owned() })?;
        let addr = addr.parse()?;
        let port =
            parse_u16(port, 10).map_err(|cause| ParseAddrError::Port { text: port.to_owned(), cause })?;
        Ok(Self { addr, port })
    }
}

/// Why a text is no address; the texts are those of the Go peer, to the byte.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseAddrError {
    /// There is no colon at all.
    #[error("invalid address: {} (expected N:XXXX.YYYY.YYYY)", quote(.text))]
    NoColon {
        /// The whole text.
        text: String,
    },
    /// The part before the first colon is no decimal number up to 65535.
    #[error("invalid network ID: {q}: strconv.ParseUint: parsing {q}: {cause}", q = quote(.text))]
    Network {
        /// The part before the colon.
        text: String,
        /// What is wrong with it.
        cause: NumError,
    },
    /// The part after the first colon has not three groups.
    #[error("invalid address: {} (expected 3 dot-separated hex groups)", quote(.text))]
    Groups {
        /// The part after the colon.
        text: String,
    },
    /// A group is not four bytes long.
    #[error("invalid hex group: {} (expected 4 digits)", quote(.text))]
    GroupLength {
        /// The group.
        text: String,
    },
    /// A group is not hexadecimal.
    #[error("invalid hex group: {q}: strconv.ParseUint: parsing {q}: {cause}", q = quote(.text))]
    GroupDigits {
        /// The group.
        text: String,
        /// What is wrong with it.
        cause: NumError,
    },
    /// The network is given twice and differs.
    #[error("network mismatch: decimal {decimal} != hex 0x{hex:04X}")]
    NetworkMismatch {
        /// The number before the colon.
        decimal: u16,
        /// The first hex group.
        hex: u16,
    },
    /// A socket address without any colon.
    #[error("invalid socket address: {} (no port)", quote(.text))]
    NoPort {
        /// The whole text.
        text: String,
    },
    /// The part after the last colon is no decimal number up to 65535.
    #[error("invalid port: {q}: strconv.ParseUint: parsing {q}: {cause}", q = quote(.text))]
    Port {
        /// The part after the last colon.
        text: String,
        /// What is wrong with it.
        cause: NumError,
    },
}
