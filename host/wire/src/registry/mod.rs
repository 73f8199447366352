//! The registry protocol over TCP: both framings and the binary messages (registry.md section 1), challenge strings
//! (section 2.3).
//!
//! Called by the registry client and by the rendezvous server. A connection starts either with the binary magic or with
//! the length of a JSON message ([`Mode`]). All daemons use the JSON mode; the binary mode is a codec both sides must know.
//! The operations themselves, signatures and who may ask what are not here.
//!
//! The names follow the documented Go package in Rust spelling; each item says which one it stands for.

pub mod challenge;
mod error;
mod frame;
mod heartbeat;
mod lookup;
mod message;
mod resolve;

use std::time::Duration;

pub use crate::split::Split;
pub use error::{ERROR_TEXT_MAX, decode_error, encode_error};
pub use frame::{FrameError, encode_frame, read_frame, split_frame, write_frame};
pub use heartbeat::{
    HEARTBEAT_REQ_LEN, HEARTBEAT_RESP_LEN, HeartbeatReq, HeartbeatResp, decode_heartbeat_req,
    decode_heartbeat_resp, encode_heartbeat_req, encode_heartbeat_resp,
};
pub use lookup::{
    LookupResult, LookupView, decode_lookup_req, decode_lookup_resp, encode_lookup_req, encode_lookup_resp,
};
pub use message::{
    MessageError, decode_message, encode_message, encode_raw_message, read_message, split_message,
    write_message, write_raw_message,
};
pub use resolve::{
    RESOLVE_REQ_LEN, ResolveReq, ResolveResult, decode_resolve_req, decode_resolve_resp, encode_resolve_req,
    encode_resolve_resp,
};

/// `Magic`: the four bytes a binary client sends first, "PILT".
pub const MAGIC: [u8; 4] = *b"PILT";
/// `Version`: the binary protocol version, sent right behind the magic.
pub const VERSION: u8 = 1;
/// What a binary client sends at connection start.
pub const PREAMBLE: [u8; 5] = [MAGIC[0], MAGIC[1], MAGIC[2], MAGIC[3], VERSION];
/// `MaxMessageSize`: the largest JSON body or binary frame length, 64 MiB; equal to it is accepted.
///
/// Must stay below the magic read as a number, or the modes could not be told apart.
pub const MAX_MESSAGE_SIZE: usize = 64 * 1024 * 1024;
/// `WriteMessageDeadline`: how long a server gives one response write.
pub const WRITE_MESSAGE_DEADLINE: Duration = Duration::from_secs(5);
/// The most entries a decoder takes in any list.
pub const LIST_CAP: usize = 1024;

/// `MsgJSON`: one JSON object without length prefix.
pub const MSG_JSON: u8 = 0x00;
/// `MsgHeartbeat`: heartbeat request.
pub const MSG_HEARTBEAT: u8 = 0x01;
/// `MsgHeartbeatOK`: heartbeat response.
pub const MSG_HEARTBEAT_OK: u8 = 0x81;
/// `MsgLookup`: lookup request.
pub const MSG_LOOKUP: u8 = 0x02;
/// `MsgLookupOK`: lookup response.
pub const MSG_LOOKUP_OK: u8 = 0x82;
/// `MsgResolve`: resolve request.
pub const MSG_RESOLVE: u8 = 0x03;
/// `MsgResolveOK`: resolve response.
pub const MSG_RESOLVE_OK: u8 = 0x83;
/// `MsgError`: error response.
pub const MSG_ERROR: u8 = 0xFF;

/// How a connection speaks, told by its first four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The magic: a version byte follows, then binary frames.
    Binary,
    /// Anything else: these four bytes are the length of the first JSON message.
    Json,
}

impl Mode {
    /// Tells the mode from the first four bytes of a connection.
    pub fn detect(first: [u8; 4]) -> Self {
        if first == MAGIC { Self::Binary } else { Self::Json }
    }
}

/// The one frame a server answers to a wrong version byte before it closes, as an error message's text.
pub fn unsupported_version_text(version: u8) -> String {
    format!("unsupported wire version {version}")
}

/// The text of the error frame for a message type the server does not know; the connection stays open.
pub fn unknown_message_type_text(kind: u8) -> String {
    format!("unknown message type 0x{kind:02x}")
}

/// Why a binary payload cannot be read: always the sender's fault. Texts as the Go peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Shorter than the message's fixed part.
    #[error("{what} too short: {len} bytes")]
    TooShort {
        /// The message.
        what: &'static str,
        /// Bytes there are.
        len: usize,
    },
    /// The payload ends inside a field.
    #[error("truncated {what}")]
    Truncated {
        /// The field.
        what: &'static str,
    },
    /// The payload ends inside a list.
    #[error("truncated {what} at index {index}")]
    TruncatedAt {
        /// What the list holds.
        what: &'static str,
        /// Index of the entry that is not whole.
        index: usize,
    },
    /// A list announces more than [`LIST_CAP`] entries.
    #[error("{what} {count} exceeds cap 1024")]
    OverCap {
        /// The count field.
        what: &'static str,
        /// What it says.
        count: usize,
    },
}
