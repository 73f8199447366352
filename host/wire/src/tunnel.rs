//! Tunnel frames: what goes between two daemons in one UDP datagram, told apart by a four-byte magic (tunnel.md section 1).
//!
//! Called by the engine's tunnels and by whoever relays frames. Frame layouts only: keys, nonces, signatures, replay
//! windows and the choice of what to answer are the engine's. A datagram whose first byte is below 0x10 is a beacon message
//! and belongs to [`crate::beacon`]; see [`is_beacon_message`]. The tunnel fragment (PILF) of a development line is not
//! decoded: like every unknown magic it is dropped.

use crate::cursor::Cursor;
use crate::packet;

/// Magic of a plaintext packet.
pub const MAGIC_PLAIN: [u8; 4] = *b"PILT";
/// Magic of an encrypted packet.
pub const MAGIC_SEALED: [u8; 4] = *b"PILS";
/// Magic of an unauthenticated key exchange, in the newest version also the key request.
pub const MAGIC_KEY_REQUEST: [u8; 4] = *b"PILK";
/// Magic of an authenticated key exchange.
pub const MAGIC_KEY_EXCHANGE: [u8; 4] = *b"PILA";
/// The whole NAT punch frame.
pub const MAGIC_PUNCH: [u8; 4] = *b"PILP";

/// Length of a plaintext frame's header.
pub const PLAIN_HEADER_LEN: usize = 4;
/// Length of a sealed frame's header: magic, sender, nonce prefix, counter.
pub const SEALED_HEADER_LEN: usize = 20;
/// Length of the AES-GCM tag behind the ciphertext.
pub const TAG_LEN: usize = 16;
/// Shortest sealed frame: header and tag around nothing.
pub const SEALED_MIN_LEN: usize = SEALED_HEADER_LEN + TAG_LEN;
/// What sealing adds to a packet.
pub const SEALED_OVERHEAD: usize = SEALED_MIN_LEN;
/// Length of a key request.
pub const KEY_REQUEST_LEN: usize = 40;
/// Length of a key exchange without its optional trailer.
pub const KEY_EXCHANGE_LEN: usize = 136;
/// Length of the bytes a key exchange signs.
pub const SIGNED_MESSAGE_LEN: usize = 40;

/// Whether a datagram on the tunnel socket is a beacon message rather than a tunnel frame. Empty datagrams are neither.
pub fn is_beacon_message(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|b| *b < 0x10)
}

/// A decoded frame, borrowing from the datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// PILT: one packet in clear, at least a header long.
    Plain(&'a [u8]),
    /// PILK: a key nobody vouches for, or the request for ours.
    KeyRequest(KeyRequest),
    /// PILA: a key signed by the node's identity.
    KeyExchange(KeyExchange<'a>),
    /// PILS: header, and ciphertext with its tag.
    Sealed(SealedHeader, &'a [u8]),
    /// PILP: opens a NAT mapping, carries nothing.
    Punch,
}

/// Tells frames apart and checks their length.
///
/// # Errors
/// [`DecodeError`]; a receiver drops such a datagram silently.
pub fn decode(datagram: &[u8]) -> Result<Frame<'_>, DecodeError> {
    let len = datagram.len();
    let short = |magic: [u8; 4], need: usize| DecodeError::TooShort { magic, len, need };
    let mut c = Cursor::new(datagram);
    let magic = *c.array::<4>().ok_or(DecodeError::NoMagic { len })?;
    match magic {
        MAGIC_PLAIN if c.rest().len() >= packet::HEADER_LEN => Ok(Frame::Plain(c.rest())),
        MAGIC_PLAIN => Err(short(magic, PLAIN_HEADER_LEN + packet::HEADER_LEN)),
        MAGIC_SEALED => {
            let header = SealedHeader::decode(datagram).ok_or(short(magic, SEALED_MIN_LEN))?;
            let body = datagram.get(SEALED_HEADER_LEN..).ok_or(short(magic, SEALED_MIN_LEN))?;
            Ok(Frame::Sealed(header, body))
        }
        MAGIC_KEY_REQUEST => read_key_request(c).map(Frame::KeyRequest).ok_or(short(magic, KEY_REQUEST_LEN)),
        MAGIC_KEY_EXCHANGE => {
            read_key_exchange(c).map(Frame::KeyExchange).ok_or(short(magic, KEY_EXCHANGE_LEN))
        }
        MAGIC_PUNCH => Ok(Frame::Punch),
        _ => Err(DecodeError::UnknownMagic { magic }),
    }
}

fn read_key_request(mut c: Cursor<'_>) -> Option<KeyRequest> {
    Some(KeyRequest { node: c.u32()?, x25519: *c.array()? })
}

fn read_key_exchange(mut c: Cursor<'_>) -> Option<KeyExchange<'_>> {
    let (node, x25519) = (c.u32()?, c.array()?);
    let (ed25519, signature) = (c.array()?, c.array()?);
    Some(KeyExchange { node, x25519, ed25519, signature, trailer: Trailer::decode(c.rest()) })
}

/// The cleartext in front of a sealed packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedHeader {
    /// Node number of the sender, authenticated as associated data.
    pub sender: u32,
    /// The sender's random nonce prefix; a new one means a new epoch.
    pub prefix: [u8; 4],
    /// The frame's counter; the first frame of a key pair carries 1.
    pub counter: u64,
}

impl SealedHeader {
    /// Reads the header of a sealed frame; `None` when the magic differs or the frame is below [`SEALED_MIN_LEN`].
    ///
    /// The ciphertext and its tag start at [`SEALED_HEADER_LEN`], so the caller can open them in place.
    pub fn decode(datagram: &[u8]) -> Option<Self> {
        if datagram.len() < SEALED_MIN_LEN {
            return None;
        }
        let mut c = Cursor::new(datagram.strip_prefix(&MAGIC_SEALED)?);
        Some(Self { sender: c.u32()?, prefix: *c.array()?, counter: c.u64()? })
    }

    /// The 20 header bytes.
    pub fn to_bytes(&self) -> [u8; SEALED_HEADER_LEN] {
        let mut h = [0; SEALED_HEADER_LEN];
        h[..4].copy_from_slice(&MAGIC_SEALED);
        h[4..8].copy_from_slice(&self.sender.to_be_bytes());
        h[8..12].copy_from_slice(&self.prefix);
        h[12..].copy_from_slice(&self.counter.to_be_bytes());
        h
    }

    /// The AES-GCM nonce: prefix, then counter.
    pub fn nonce(&self) -> [u8; 12] {
        let mut n = [0; 12];
        n[..4].copy_from_slice(&self.prefix);
        n[4..].copy_from_slice(&self.counter.to_be_bytes());
        n
    }

    /// The associated data of the current cipher profile: the sender's node number. (The legacy profile has none.)
    pub const fn associated_data(&self) -> [u8; 4] {
        self.sender.to_be_bytes()
    }
}

/// PILK: node number and X25519 key, signed by nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRequest {
    /// Node number the sender claims.
    pub node: u32,
    /// The sender's X25519 public key.
    pub x25519: [u8; 32],
}

impl KeyRequest {
    /// The whole frame.
    pub fn to_bytes(&self) -> [u8; KEY_REQUEST_LEN] {
        let mut f = [0; KEY_REQUEST_LEN];
        f[..4].copy_from_slice(&MAGIC_KEY_REQUEST);
        f[4..8].copy_from_slice(&self.node.to_be_bytes());
        f[8..].copy_from_slice(&self.x25519);
        f
    }
}

/// PILA: a key exchange with identity key and signature. Decoding does not verify the signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyExchange<'a> {
    /// Node number of the sender.
    pub node: u32,
    /// The sender's X25519 public key.
    pub x25519: &'a [u8; 32],
    /// The sender's Ed25519 identity key; trust it only when the registry names the same.
    pub ed25519: &'a [u8; 32],
    /// Ed25519 signature over [`signed_message`].
    pub signature: &'a [u8; 64],
    /// What May's daemons append; not signed, so a hint only.
    pub trailer: Trailer,
}

impl KeyExchange<'_> {
    /// The bytes the signature covers.
    pub fn signed_message(&self) -> [u8; SIGNED_MESSAGE_LEN] {
        signed_message(self.node, self.x25519)
    }

    /// Appends the frame, trailer included, to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&MAGIC_KEY_EXCHANGE);
        out.extend_from_slice(&self.node.to_be_bytes());
        out.extend_from_slice(self.x25519);
        out.extend_from_slice(self.ed25519);
        out.extend_from_slice(self.signature);
        self.trailer.encode(out);
    }
}

/// The 40 bytes a PILA signs: `auth`, node number, X25519 key.
pub fn signed_message(node: u32, x25519: &[u8; 32]) -> [u8; SIGNED_MESSAGE_LEN] {
    let mut m = [0; SIGNED_MESSAGE_LEN];
    m[..4].copy_from_slice(b"auth");
    m[4..8].copy_from_slice(&node.to_be_bytes());
    m[8..].copy_from_slice(x25519);
    m
}

/// The optional end of a PILA: two unsigned LEB128 numbers, absent ones are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trailer {
    /// Capability bits.
    pub capabilities: u64,
    /// Flag bits.
    pub flags: u64,
}

impl Trailer {
    /// No trailer.
    pub const NONE: Self = Self { capabilities: 0, flags: 0 };
    /// The bytes `00 01`: please answer even if my key is unchanged.
    pub const REQUEST: Self = Self { capabilities: 0, flags: Self::FLAG_REQUEST };
    /// Capability bit 0: gossip.
    pub const CAP_GOSSIP: u64 = 1;
    /// Flag bit 0: please answer with your PILA even if my key is unchanged.
    pub const FLAG_REQUEST: u64 = 1;
    /// Flag bit 1: this PILA is an answer.
    pub const FLAG_RESPONSE: u64 = 2;

    /// Reads whatever follows byte 136; never fails, an unreadable number counts as absent.
    pub fn decode(bytes: &[u8]) -> Self {
        let Some((capabilities, rest)) = read_uvarint(bytes) else { return Self::NONE };
        let flags = read_uvarint(rest).map_or(0, |(flags, _)| flags);
        Self { capabilities, flags }
    }

    /// Appends the shortest form: nothing, capabilities only, or both.
    pub fn encode(&self, out: &mut Vec<u8>) {
        if *self == Self::NONE {
            return;
        }
        push_uvarint(out, self.capabilities);
        if self.flags != 0 {
            push_uvarint(out, self.flags);
        }
    }
}

/// Reads one unsigned LEB128 number of at most 64 bits; `None` when it does not end or overflows.
fn read_uvarint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (i, byte) in bytes.iter().enumerate().take(10) {
        let bits = u64::from(byte & 0x7F);
        if i == 9 && *byte > 1 {
            return None;
        }
        value |= bits << (7 * i);
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(i + 1..)?));
        }
    }
    None
}

fn push_uvarint(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7F {
        out.push(0x80 | value.to_le_bytes()[0]);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// Why a datagram is no tunnel frame. Receivers drop it silently; the texts are for logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Fewer than four bytes.
    #[error("tunnel frame without a magic: {len} bytes")]
    NoMagic {
        /// Bytes there are.
        len: usize,
    },
    /// A magic this version does not speak.
    #[error("unknown tunnel frame {:?}", magic.escape_ascii().to_string())]
    UnknownMagic {
        /// The first four bytes.
        magic: [u8; 4],
    },
    /// The frame is shorter than its kind demands.
    #[error("{} frame too short: {len} bytes (min {need})", magic.escape_ascii())]
    TooShort {
        /// The first four bytes.
        magic: [u8; 4],
        /// Bytes there are.
        len: usize,
        /// Bytes such a frame has at least.
        need: usize,
    },
}
