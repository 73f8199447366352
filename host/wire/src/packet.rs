//! The packet: a 34-byte header with a checksum, then up to 65535 bytes of payload (packet.md section 2).
//!
//! Called by the engine, which puts packets into tunnel frames. Decoding borrows from the datagram. Encoding either
//! appends to a buffer or fills the header in front of a payload that already lies in place, so that a packet can be
//! built and sealed in one buffer. Does not interpret flags, ports or sequence numbers.

use std::fmt;
use std::ops::BitOr;

use crate::addr::{Addr, SocketAddr};

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 34;
/// The longest payload the length field can name.
pub const MAX_PAYLOAD: usize = 65_535;
/// The protocol version this crate writes, and the only one it accepts.
pub const VERSION: u8 = 1;

/// Offsets inside the header.
mod field {
    use std::ops::Range;
    pub(super) const VERSION_FLAGS: usize = 0;
    pub(super) const PROTOCOL: usize = 1;
    pub(super) const LENGTH: Range<usize> = 2..4;
    pub(super) const SRC: Range<usize> = 4..10;
    pub(super) const DST: Range<usize> = 10..16;
    pub(super) const SRC_PORT: Range<usize> = 16..18;
    pub(super) const DST_PORT: Range<usize> = 18..20;
    pub(super) const SEQ: Range<usize> = 20..24;
    pub(super) const ACK: Range<usize> = 24..28;
    pub(super) const WINDOW: Range<usize> = 28..30;
    pub(super) const CHECKSUM: Range<usize> = 30..34;
}

/// The four flag bits. The decoder refuses no combination.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Flags(u8);

impl Flags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// Opens a stream.
    pub const SYN: Self = Self(1);
    /// The acknowledgement number is valid.
    pub const ACK: Self = Self(2);
    /// The sender has no more data.
    pub const FIN: Self = Self(4);
    /// The stream is gone.
    pub const RST: Self = Self(8);

    /// Flags from the low four bits; the others are dropped.
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & 0x0F)
    }

    /// The four bits.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether all of `other`'s flags are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets together; usable in constants, unlike `|`.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOr for Flags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        self.union(other)
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::NONE {
            return f.write_str("-");
        }
        let names = [(Self::SYN, "SYN"), (Self::ACK, "ACK"), (Self::FIN, "FIN"), (Self::RST, "RST")];
        let mut first = true;
        for (_, name) in names.iter().filter(|(flag, _)| self.contains(*flag)) {
            f.write_str(if first { "" } else { "+" })?;
            f.write_str(name)?;
            first = false;
        }
        Ok(())
    }
}

/// The protocol byte. Unassigned values decode without error; the dispatcher drops them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Protocol(pub u8);

impl Protocol {
    /// Reliable stream (stream.md).
    pub const STREAM: Self = Self(1);
    /// Single datagram.
    pub const DATAGRAM: Self = Self(2);
    /// Ping, keepalive and probe.
    pub const CONTROL: Self = Self(3);
}

/// Everything in the header that is not derived from the payload. The version is always [`VERSION`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Flag bits.
    pub flags: Flags,
    /// Protocol byte.
    pub protocol: Protocol,
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Receive window, counted in segments.
    pub window: u16,
}

impl Header {
    /// Source address and port.
    pub const fn source(&self) -> SocketAddr {
        SocketAddr::new(self.src, self.src_port)
    }

    /// Destination address and port.
    pub const fn destination(&self) -> SocketAddr {
        SocketAddr::new(self.dst, self.dst_port)
    }

    /// The 34 header bytes for `payload`, checksum included: what to put in front of a payload that is sent from
    /// elsewhere. For a payload that already lies 34 bytes into a buffer see [`write_in_place`].
    ///
    /// # Errors
    /// [`EncodeError`] when the payload is over [`MAX_PAYLOAD`].
    pub fn to_bytes(&self, payload: &[u8]) -> Result<[u8; HEADER_LEN], EncodeError> {
        let len =
            u16::try_from(payload.len()).map_err(|_| EncodeError::PayloadTooLarge { len: payload.len() })?;
        let mut h = [0; HEADER_LEN];
        h[field::VERSION_FLAGS] = VERSION << 4 | self.flags.bits();
        h[field::PROTOCOL] = self.protocol.0;
        h[field::LENGTH].copy_from_slice(&len.to_be_bytes());
        h[field::SRC].copy_from_slice(&self.src.to_bytes());
        h[field::DST].copy_from_slice(&self.dst.to_bytes());
        h[field::SRC_PORT].copy_from_slice(&self.src_port.to_be_bytes());
        h[field::DST_PORT].copy_from_slice(&self.dst_port.to_be_bytes());
        h[field::SEQ].copy_from_slice(&self.seq.to_be_bytes());
        h[field::ACK].copy_from_slice(&self.ack.to_be_bytes());
        h[field::WINDOW].copy_from_slice(&self.window.to_be_bytes());
        let sum = checksum(&h, payload);
        h[field::CHECKSUM].copy_from_slice(&sum.to_be_bytes());
        Ok(h)
    }
}

/// A decoded packet, borrowing its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// The header's fields.
    pub header: Header,
    /// Exactly as many bytes as the length field names.
    pub payload: &'a [u8],
}

impl Packet<'_> {
    /// Length of the encoded packet in bytes.
    pub const fn encoded_len(&self) -> usize {
        HEADER_LEN + self.payload.len()
    }
}

/// Decodes one packet. Bytes behind the payload are ignored and not covered by the checksum.
///
/// # Errors
/// In this order: too short for a header, too short for the payload, checksum, version.
pub fn decode(bytes: &[u8]) -> Result<Packet<'_>, DecodeError> {
    let Some((h, rest)) = bytes.split_first_chunk::<HEADER_LEN>() else {
        return Err(DecodeError::TooShort { len: bytes.len() });
    };
    let payload_len = usize::from(be16(h, field::LENGTH.start));
    let Some(payload) = rest.get(..payload_len) else {
        return Err(DecodeError::Truncated { have: bytes.len(), need: HEADER_LEN + payload_len });
    };
    if checksum(h, payload) != be32(h, field::CHECKSUM.start) {
        return Err(DecodeError::ChecksumMismatch);
    }
    let version = h[field::VERSION_FLAGS] >> 4;
    if version != VERSION {
        return Err(DecodeError::Version { version });
    }
    let header = Header {
        flags: Flags::from_bits(h[field::VERSION_FLAGS]),
        protocol: Protocol(h[field::PROTOCOL]),
        src: addr(h, field::SRC.start),
        dst: addr(h, field::DST.start),
        src_port: be16(h, field::SRC_PORT.start),
        dst_port: be16(h, field::DST_PORT.start),
        seq: be32(h, field::SEQ.start),
        ack: be32(h, field::ACK.start),
        window: be16(h, field::WINDOW.start),
    };
    Ok(Packet { header, payload })
}

/// Appends the encoded packet to `out`.
///
/// # Errors
/// [`EncodeError`] when the payload is over [`MAX_PAYLOAD`]; `out` is then unchanged.
pub fn encode_into(header: &Header, payload: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let head = header.to_bytes(payload)?;
    out.reserve(HEADER_LEN + payload.len());
    out.extend_from_slice(&head);
    out.extend_from_slice(payload);
    Ok(())
}

/// Writes the header into the first 34 bytes of `packet`, whose payload is all the rest and already in place.
///
/// # Errors
/// [`EncodeError`] when the payload is over [`MAX_PAYLOAD`] or `packet` has no room for a header; nothing is written then.
pub fn write_in_place(header: &Header, packet: &mut [u8]) -> Result<(), EncodeError> {
    let len = packet.len();
    let Some((head, payload)) = packet.split_first_chunk_mut::<HEADER_LEN>() else {
        return Err(EncodeError::NoRoomForHeader { len });
    };
    *head = header.to_bytes(payload)?;
    Ok(())
}

/// CRC-32 (IEEE) over header and payload with the checksum field taken as zero.
fn checksum(header: &[u8; HEADER_LEN], payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header[..field::CHECKSUM.start]);
    crc.update(&[0; 4]);
    crc.update(payload);
    crc.finalize()
}

fn be16(h: &[u8; HEADER_LEN], at: usize) -> u16 {
    u16::from_be_bytes([h[at], h[at + 1]])
}

fn be32(h: &[u8; HEADER_LEN], at: usize) -> u32 {
    u32::from_be_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]])
}

fn addr(h: &[u8; HEADER_LEN], at: usize) -> Addr {
    Addr { network: be16(h, at), node: be32(h, at + 2) }
}

/// Why bytes are no packet: always the sender's fault or damage on the way. Texts as the Go peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Fewer bytes than a header.
    #[error("packet too short: {len} bytes (min 34)")]
    TooShort {
        /// Bytes there are.
        len: usize,
    },
    /// Fewer bytes than the length field promises.
    #[error("packet truncated: have {have} bytes, need {need}")]
    Truncated {
        /// Bytes there are.
        have: usize,
        /// Header plus announced payload.
        need: usize,
    },
    /// The CRC differs.
    #[error("checksum mismatch")]
    ChecksumMismatch,
    /// The version nibble is not 1.
    #[error("unsupported protocol version {version} (expected 1)")]
    Version {
        /// The version nibble.
        version: u8,
    },
}

/// Why a packet cannot be written: always the caller's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The payload does not fit the 16-bit length field.
    #[error("payload too large: {len} bytes (max 65535)")]
    PayloadTooLarge {
        /// Bytes given.
        len: usize,
    },
    /// The buffer of [`write_in_place`] is shorter than a header.
    #[error("no room for a packet header: {len} bytes (min 34)")]
    NoRoomForHeader {
        /// Bytes there are.
        len: usize,
    },
}
