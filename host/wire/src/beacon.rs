//! Beacon messages: discovery, hole punching and relay over UDP, one message per datagram (beacon.md section 1).
//!
//! Called by the engine (daemon side) and by the rendezvous (beacon side). The first byte is the type, always below 0x10,
//! so that these never collide with tunnel frames on the same socket. There is no authentication in the base protocol:
//! whether to believe a message is the caller's decision. Bytes behind a message are ignored.

use std::net::{IpAddr, SocketAddr};

use crate::cursor::Cursor;

/// Node to beacon: here I am.
pub const DISCOVER: u8 = 0x01;
/// Beacon to node: this is how I see you.
pub const DISCOVER_REPLY: u8 = 0x02;
/// Node to beacon: introduce me to that node.
pub const PUNCH_REQUEST: u8 = 0x03;
/// Beacon to node: send something to this endpoint.
pub const PUNCH_COMMAND: u8 = 0x04;
/// Node to beacon or beacon to beacon: pass this frame on.
pub const RELAY: u8 = 0x05;
/// Beacon to node: a frame from that node.
pub const RELAY_DELIVER: u8 = 0x06;
/// Beacon to beacon: the nodes I know.
pub const SYNC: u8 = 0x07;
/// As [`DISCOVER`], and asks for [`RELAY_DELIVER_DEST`].
pub const DISCOVER_EX: u8 = 0x08;
/// As [`RELAY_DELIVER`], naming the destination too.
pub const RELAY_DELIVER_DEST: u8 = 0x09;
/// Beacon to node: something waits for you elsewhere.
pub const NOTIFY: u8 = 0x0A;

/// [`Message::Notify`] kind: the registry holds a relayed handshake message, poll now.
pub const NOTIFY_HANDSHAKE: u8 = 0x01;

/// Length of what [`relay_header`] puts in front of a frame.
pub const RELAY_HEADER_LEN: usize = 9;
/// Length of what [`relay_deliver_header`] puts in front of a frame.
pub const RELAY_DELIVER_HEADER_LEN: usize = 5;
/// Length of what [`relay_deliver_dest_header`] puts in front of a frame.
pub const RELAY_DELIVER_DEST_HEADER_LEN: usize = 9;
/// The most node numbers one sync message can hold.
pub const SYNC_MAX_NODES: usize = 65_535;

/// A decoded message, borrowing from the datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// 0x01
    Discover {
        /// The sender's node number; 0 before registration.
        node: u32,
        /// The sender's Ed25519 key, when it sent one (newest).
        key: Option<&'a [u8; 32]>,
    },
    /// 0x02
    DiscoverReply {
        /// The endpoint the beacon saw.
        observed: SocketAddr,
    },
    /// 0x03
    PunchRequest {
        /// Node that asks.
        requester: u32,
        /// Node it wants to reach.
        target: u32,
        /// The target's permission, when there is one (newest).
        grant: Option<Grant<'a>>,
    },
    /// 0x04
    PunchCommand {
        /// Endpoint of the other node.
        peer: SocketAddr,
    },
    /// 0x05
    Relay {
        /// Node the frame comes from; never checked by a beacon.
        sender: u32,
        /// Node the frame is for.
        dest: u32,
        /// A complete tunnel frame; may be empty.
        frame: &'a [u8],
    },
    /// 0x06
    RelayDeliver {
        /// Node the frame claims to come from.
        sender: u32,
        /// A complete tunnel frame; may be empty.
        frame: &'a [u8],
    },
    /// 0x07
    Sync {
        /// The sending beacon.
        beacon: u32,
        /// The nodes it knows.
        nodes: NodeIds<'a>,
    },
    /// 0x08
    DiscoverEx {
        /// The sender's node number.
        node: u32,
        /// The sender's Ed25519 key, when it sent one.
        key: Option<&'a [u8; 32]>,
    },
    /// 0x09
    RelayDeliverDest {
        /// Node the frame claims to come from.
        sender: u32,
        /// Which of the socket's nodes it is for.
        dest: u32,
        /// A complete tunnel frame; may be empty.
        frame: &'a [u8],
    },
    /// 0x0A
    Notify {
        /// What waits, see [`NOTIFY_HANDSHAKE`]; unknown kinds are to be ignored.
        kind: u8,
    },
}

/// The target's signed permission for one punch request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant<'a> {
    /// Unix seconds after which it is void.
    pub expiry: i64,
    /// The target's Ed25519 signature over [`punch_grant_challenge`].
    pub signature: &'a [u8; 64],
}

/// The text a grant signs.
pub fn punch_grant_challenge(requester: u32, target: u32, expiry: i64) -> String {
    format!("punch-grant:{requester}:{target}:{expiry}")
}

/// The node numbers of a sync message, still in wire form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeIds<'a>(&'a [u8]);

impl<'a> NodeIds<'a> {
    /// How many there are.
    pub const fn len(&self) -> usize {
        self.0.len() / 4
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The numbers in message order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = u32> + 'a {
        self.0.as_chunks::<4>().0.iter().map(|id| u32::from_be_bytes(*id))
    }
}

/// Decodes one datagram.
///
/// # Errors
/// [`DecodeError`]; receivers drop such a datagram silently.
pub fn decode(datagram: &[u8]) -> Result<Message<'_>, DecodeError> {
    let mut c = Cursor::new(datagram);
    let kind = c.u8().ok_or(DecodeError::Empty)?;
    if !(DISCOVER..=NOTIFY).contains(&kind) {
        return Err(DecodeError::UnknownType { kind });
    }
    read_body(kind, c).ok_or(DecodeError::Malformed { kind, len: datagram.len() })
}

fn read_body(kind: u8, mut c: Cursor<'_>) -> Option<Message<'_>> {
    Some(match kind {
        DISCOVER => Message::Discover { node: c.u32()?, key: c.array() },
        DISCOVER_EX => Message::DiscoverEx { node: c.u32()?, key: c.array() },
        DISCOVER_REPLY => Message::DiscoverReply { observed: read_endpoint(&mut c)? },
        PUNCH_REQUEST => {
            Message::PunchRequest { requester: c.u32()?, target: c.u32()?, grant: read_grant(c) }
        }
        PUNCH_COMMAND => Message::PunchCommand { peer: read_endpoint(&mut c)? },
        RELAY => Message::Relay { sender: c.u32()?, dest: c.u32()?, frame: c.rest() },
        RELAY_DELIVER => Message::RelayDeliver { sender: c.u32()?, frame: c.rest() },
        RELAY_DELIVER_DEST => Message::RelayDeliverDest { sender: c.u32()?, dest: c.u32()?, frame: c.rest() },
        SYNC => {
            let (beacon, count) = (c.u32()?, usize::from(c.u16()?));
            Message::Sync { beacon, nodes: NodeIds(c.take(4 * count)?) }
        }
        NOTIFY => Message::Notify { kind: c.u8()? },
        _ => return None,
    })
}

fn read_grant(mut c: Cursor<'_>) -> Option<Grant<'_>> {
    let expiry = i64::from_be_bytes(*c.array()?);
    Some(Grant { expiry, signature: c.array()? })
}

/// Length byte (4 or 16), address, port. An IPv4-mapped IPv6 address comes out as IPv4.
fn read_endpoint(c: &mut Cursor<'_>) -> Option<SocketAddr> {
    let ip = match c.u8()? {
        4 => IpAddr::from(*c.array::<4>()?),
        16 => IpAddr::from(*c.array::<16>()?).to_canonical(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, c.u16()?))
}

fn push_endpoint(out: &mut Vec<u8>, endpoint: SocketAddr) {
    match endpoint.ip().to_canonical() {
        IpAddr::V4(ip) => {
            out.push(4);
            out.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(16);
            out.extend_from_slice(&ip.octets());
        }
    }
    out.extend_from_slice(&endpoint.port().to_be_bytes());
}

impl Message<'_> {
    /// Appends the datagram to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Discover { node, key } => push_discover(out, DISCOVER, node, key),
            Self::DiscoverEx { node, key } => push_discover(out, DISCOVER_EX, node, key),
            Self::DiscoverReply { observed } => {
                out.push(DISCOVER_REPLY);
                push_endpoint(out, observed);
            }
            Self::PunchRequest { requester, target, grant } => {
                out.push(PUNCH_REQUEST);
                out.extend_from_slice(&requester.to_be_bytes());
                out.extend_from_slice(&target.to_be_bytes());
                if let Some(grant) = grant {
                    out.extend_from_slice(&grant.expiry.to_be_bytes());
                    out.extend_from_slice(grant.signature);
                }
            }
            Self::PunchCommand { peer } => {
                out.push(PUNCH_COMMAND);
                push_endpoint(out, peer);
            }
            Self::Relay { sender, dest, frame } => {
                out.extend_from_slice(&relay_header(sender, dest));
                out.extend_from_slice(frame);
            }
            Self::RelayDeliver { sender, frame } => {
                out.extend_from_slice(&relay_deliver_header(sender));
                out.extend_from_slice(frame);
            }
            Self::RelayDeliverDest { sender, dest, frame } => {
                out.extend_from_slice(&relay_deliver_dest_header(sender, dest));
                out.extend_from_slice(frame);
            }
            Self::Sync { beacon, nodes } => encode_sync(beacon, nodes.iter(), out),
            Self::Notify { kind } => out.extend_from_slice(&[NOTIFY, kind]),
        }
    }
}

fn push_discover(out: &mut Vec<u8>, kind: u8, node: u32, key: Option<&[u8; 32]>) {
    out.push(kind);
    out.extend_from_slice(&node.to_be_bytes());
    out.extend_from_slice(key.map_or(&[], |k| k.as_slice()));
}

/// Appends a sync message with at most [`SYNC_MAX_NODES`] nodes; further ones are left out.
pub fn encode_sync(beacon: u32, nodes: impl IntoIterator<Item = u32>, out: &mut Vec<u8>) {
    out.push(SYNC);
    out.extend_from_slice(&beacon.to_be_bytes());
    let count_at = out.len();
    out.extend_from_slice(&[0, 0]);
    let mut count = 0_u16;
    for node in nodes.into_iter().take(SYNC_MAX_NODES) {
        out.extend_from_slice(&node.to_be_bytes());
        count += 1;
    }
    out[count_at..count_at + 2].copy_from_slice(&count.to_be_bytes());
}

/// What a node puts in front of a frame to have it relayed.
pub const fn relay_header(sender: u32, dest: u32) -> [u8; RELAY_HEADER_LEN] {
    pair_header(RELAY, sender, dest)
}

/// What a beacon puts in front of a frame it delivers.
pub const fn relay_deliver_header(sender: u32) -> [u8; RELAY_DELIVER_HEADER_LEN] {
    let [a, b, c, d] = sender.to_be_bytes();
    [RELAY_DELIVER, a, b, c, d]
}

/// What a beacon puts in front of a frame for a node that asked with [`DISCOVER_EX`].
pub const fn relay_deliver_dest_header(sender: u32, dest: u32) -> [u8; RELAY_DELIVER_DEST_HEADER_LEN] {
    pair_header(RELAY_DELIVER_DEST, sender, dest)
}

const fn pair_header(kind: u8, sender: u32, dest: u32) -> [u8; 9] {
    let [a, b, c, d] = sender.to_be_bytes();
    let [e, f, g, h] = dest.to_be_bytes();
    [kind, a, b, c, d, e, f, g, h]
}

/// Why a datagram is no beacon message. Receivers drop it silently; the texts are for logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// No type byte.
    #[error("empty beacon message")]
    Empty,
    /// A type this version does not know.
    #[error("unknown beacon message type 0x{kind:02x}")]
    UnknownType {
        /// The type byte.
        kind: u8,
    },
    /// Too short, a bad address length, or a count beyond the body.
    #[error("malformed beacon message: type 0x{kind:02x}, {len} bytes")]
    Malformed {
        /// The type byte.
        kind: u8,
        /// Bytes of the whole datagram.
        len: usize,
    },
}
