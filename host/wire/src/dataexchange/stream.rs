//! FILESTREAM: the payloads of chunked, resumable transfers (section 5).

use std::fmt;

use super::{FrameType, PayloadTooLarge, encode_with};
use crate::cursor::Cursor;

/// Bytes of content a sender puts into one chunk.
pub const CHUNK_SIZE: u32 = 49_152;
/// Chunks a sender may have unacknowledged.
pub const WINDOW_CHUNKS: u32 = 16;
/// Bytes a sender may have unacknowledged; also what a receiver buffers out of order, per transfer.
pub const WINDOW: u32 = WINDOW_CHUNKS * CHUNK_SIZE;
/// Kind and transfer id, in front of every body.
pub const STREAM_HEADER_LEN: usize = 17;

/// The name of a transfer: the first half of the content's SHA-256. Prints as lower-case hex, the partial file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransferId(pub [u8; 16]);

impl TransferId {
    /// The id that belongs to a content hash.
    pub fn of_hash(sha256: &[u8; 32]) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&sha256[..16]);
        Self(id)
    }
}

impl fmt::Display for TransferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// The kind byte; unassigned values are ignored by a receiver, without a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamKind(pub u8);

impl StreamKind {
    /// Announces a transfer.
    pub const INIT: Self = Self(1);
    /// Carries content.
    pub const CHUNK: Self = Self(2);
    /// Confirms content.
    pub const ACK: Self = Self(3);
    /// All chunks are sent.
    pub const DONE: Self = Self(4);
    /// Says where to begin.
    pub const INIT_ACK: Self = Self(5);
    /// Ends a transfer, well or not.
    pub const COMPLETE: Self = Self(6);
    /// Gives a transfer up.
    pub const ABORT: Self = Self(7);
}

/// A FILESTREAM payload whose body has not been looked at yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamFrame<'a> {
    /// What it is.
    pub kind: StreamKind,
    /// The transfer it belongs to.
    pub id: TransferId,
    /// The rest.
    pub body: &'a [u8],
}

/// A FILESTREAM payload, typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamMessage<'a> {
    /// Announces a transfer (sender).
    Init(Init<'a>),
    /// Carries content (sender).
    Chunk {
        /// Where it belongs in the file.
        offset: u64,
        /// The content.
        data: &'a [u8],
    },
    /// Confirms content (receiver).
    Ack {
        /// Contiguous bytes stored so far.
        offset: u64,
    },
    /// All chunks are sent (sender).
    Done,
    /// Accepts a transfer (receiver).
    InitAck {
        /// Where the sender is to begin.
        offset: u64,
    },
    /// Ends a transfer (receiver).
    Complete {
        /// Whether the file is whole and stored (status byte 0).
        good: bool,
        /// Why not; empty when good.
        text: &'a [u8],
    },
    /// Gives a transfer up (either side).
    Abort {
        /// Why.
        text: &'a [u8],
    },
    /// A kind this version does not know.
    Unknown(StreamKind),
}

/// The body of an INIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Init<'a> {
    /// Size of the file in bytes.
    pub size: u64,
    /// SHA-256 of the file.
    pub sha256: &'a [u8; 32],
    /// The sender's chunk size; a receiver ignores it.
    pub chunk_size: u32,
    /// The file name as sent, at most 65535 bytes and not checked; see [`stream_file_name`](super::stream_file_name).
    pub name: &'a [u8],
}

impl<'a> StreamFrame<'a> {
    /// Splits a payload; `None` when it is shorter than [`STREAM_HEADER_LEN`] and to be ignored without a reply.
    pub fn decode(payload: &'a [u8]) -> Option<Self> {
        let mut c = Cursor::new(payload);
        Some(Self { kind: StreamKind(c.u8()?), id: TransferId(*c.array()?), body: c.rest() })
    }

    /// Reads the body. Bytes behind an INIT's name or an offset are ignored.
    ///
    /// # Errors
    /// [`Malformed`]: the body is too short for its kind.
    pub fn message(&self) -> Result<StreamMessage<'a>, Malformed> {
        let mut c = Cursor::new(self.body);
        let message = match self.kind {
            StreamKind::INIT => read_init(c).map(StreamMessage::Init),
            StreamKind::CHUNK => c.u64().map(|offset| StreamMessage::Chunk { offset, data: c.rest() }),
            StreamKind::ACK => c.u64().map(|offset| StreamMessage::Ack { offset }),
            StreamKind::DONE => Some(StreamMessage::Done),
            StreamKind::INIT_ACK => c.u64().map(|offset| StreamMessage::InitAck { offset }),
            StreamKind::COMPLETE => {
                c.u8().map(|status| StreamMessage::Complete { good: status == 0, text: c.rest() })
            }
            StreamKind::ABORT => Some(StreamMessage::Abort { text: self.body }),
            other => Some(StreamMessage::Unknown(other)),
        };
        message.ok_or(Malformed { kind: self.kind })
    }
}

fn read_init(mut c: Cursor<'_>) -> Option<Init<'_>> {
    let (size, sha256, chunk_size) = (c.u64()?, c.array()?, c.u32()?);
    let name_len = c.u16()?;
    Some(Init { size, sha256, chunk_size, name: c.take(usize::from(name_len))? })
}

/// Appends a whole FILESTREAM frame to `out`. An INIT's name is cut at 255 bytes, as senders do.
///
/// # Errors
/// [`PayloadTooLarge`]; `out` is then unchanged.
pub fn encode_stream(
    id: TransferId,
    message: &StreamMessage<'_>,
    out: &mut Vec<u8>,
) -> Result<(), PayloadTooLarge> {
    encode_with(FrameType::FILESTREAM, out, |out| {
        out.push(message.kind().0);
        out.extend_from_slice(&id.0);
        push_body(message, out);
    })
}

fn push_body(message: &StreamMessage<'_>, out: &mut Vec<u8>) {
    match *message {
        StreamMessage::Init(init) => {
            out.extend_from_slice(&init.size.to_be_bytes());
            out.extend_from_slice(init.sha256);
            out.extend_from_slice(&init.chunk_size.to_be_bytes());
            let name_len = u8::try_from(init.name.len()).unwrap_or(u8::MAX);
            out.extend_from_slice(&u16::from(name_len).to_be_bytes());
            out.extend_from_slice(&init.name[..usize::from(name_len)]);
        }
        StreamMessage::Chunk { offset, data } => {
            out.reserve(8 + data.len());
            out.extend_from_slice(&offset.to_be_bytes());
            out.extend_from_slice(data);
        }
        StreamMessage::Ack { offset } | StreamMessage::InitAck { offset } => {
            out.extend_from_slice(&offset.to_be_bytes());
        }
        StreamMessage::Complete { good, text } => {
            out.push(u8::from(!good));
            out.extend_from_slice(text);
        }
        StreamMessage::Abort { text } => out.extend_from_slice(text),
        StreamMessage::Done | StreamMessage::Unknown(_) => {}
    }
}

impl StreamMessage<'_> {
    /// The kind byte that goes with it.
    pub const fn kind(&self) -> StreamKind {
        match self {
            Self::Init(_) => StreamKind::INIT,
            Self::Chunk { .. } => StreamKind::CHUNK,
            Self::Ack { .. } => StreamKind::ACK,
            Self::Done => StreamKind::DONE,
            Self::InitAck { .. } => StreamKind::INIT_ACK,
            Self::Complete { .. } => StreamKind::COMPLETE,
            Self::Abort { .. } => StreamKind::ABORT,
            Self::Unknown(kind) => *kind,
        }
    }
}

/// A body too short for its kind: the sender's fault. A receiver answers `malformed INIT` or `malformed CHUNK` in a bad
/// COMPLETE and ignores the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed {}", name(.kind))]
pub struct Malformed {
    /// The kind.
    pub kind: StreamKind,
}

fn name(kind: &StreamKind) -> String {
    match *kind {
        StreamKind::INIT => "INIT".to_owned(),
        StreamKind::CHUNK => "CHUNK".to_owned(),
        StreamKind::ACK => "ACK".to_owned(),
        StreamKind::DONE => "DONE".to_owned(),
        StreamKind::INIT_ACK => "INIT-ACK".to_owned(),
        StreamKind::COMPLETE => "COMPLETE".to_owned(),
        StreamKind::ABORT => "ABORT".to_owned(),
        StreamKind(other) => format!("FILESTREAM({other})"),
    }
}
