//! Data exchange frames (port 1001): messages and files between nodes (dataexchange.md sections 1, 2, 4 and 5).
//!
//! Called by the data exchange plugin and by the command line. A frame is a type, a length and a payload; whoever receives
//! uses [`FrameDecoder`], which hands a payload out as it arrives, so that no frame is ever held whole. Names that files
//! get on disk are built here because both ends must agree on them; storing, quotas, time stamps and replies are the
//! plugin's.

mod decoder;
mod file;
mod stream;
mod trace;

use std::fmt;

pub use decoder::{Event, Frame, FrameDecoder, FrameError, read_frame};
pub use file::{
    EncodeFileError, MAX_FILE_NAME, NameError, check_name, encode_file, file_prefix, inbox_name,
    split_file_payload, stored_name, stream_file_name,
};
pub use stream::{
    CHUNK_SIZE, Init, Malformed, STREAM_HEADER_LEN, StreamFrame, StreamKind, StreamMessage, TransferId,
    WINDOW, WINDOW_CHUNKS, encode_stream,
};
pub use trace::{TimingReply, Trace, TraceError, encode_trace};

/// Length of a frame's header: type, payload length.
pub const HEADER_LEN: usize = 8;
/// The largest payload accepted by default, inclusive.
pub const DEFAULT_MAX_FRAME: u32 = 64 * 1024 * 1024;
/// The largest payload every version accepts; towards an unknown peer no frame may be larger.
pub const PORTABLE_MAX_FRAME: u32 = 16 * 1024 * 1024;
/// The environment variable that changes the limit, read once at process start.
pub const MAX_FRAME_ENV: &str = "PILOT_DATAEXCHANGE_MAX_FRAME";
/// What a positive reply's text starts with.
pub const ACK_PREFIX: &str = "ACK ";
/// What a negative reply's text starts with.
pub const ERR_PREFIX: &str = "ERR ";

/// The frame limit for a value of [`MAX_FRAME_ENV`]: decimal bytes from 65536 to 2147483647, anything else is ignored.
pub fn max_frame(setting: Option<&str>) -> u32 {
    setting
        .and_then(|text| text.parse::<u32>().ok())
        .filter(|bytes| (65_536..=2_147_483_647).contains(bytes))
        .unwrap_or(DEFAULT_MAX_FRAME)
}

/// A frame's type. Unassigned values are legal on the wire and answered like messages that are not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrameType(pub u32);

impl FrameType {
    /// UTF-8 text (not checked).
    pub const TEXT: Self = Self(1);
    /// Bytes.
    pub const BINARY: Self = Self(2);
    /// JSON text (not checked).
    pub const JSON: Self = Self(3);
    /// A whole file with its name.
    pub const FILE: Self = Self(4);
    /// A message with time stamps.
    pub const TRACE: Self = Self(5);
    /// One step of a chunked file transfer.
    pub const FILESTREAM: Self = Self(7);
}

impl fmt::Display for FrameType {
    /// The name used in replies, events and file names.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TEXT => f.write_str("TEXT"),
            Self::BINARY => f.write_str("BINARY"),
            Self::JSON => f.write_str("JSON"),
            Self::FILE => f.write_str("FILE"),
            Self::TRACE => f.write_str("TRACE"),
            Self::FILESTREAM => f.write_str("FILESTREAM"),
            Self(other) => write!(f, "UNKNOWN({other})"),
        }
    }
}

/// A frame's first eight bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// The type.
    pub kind: FrameType,
    /// Bytes of payload that follow.
    pub len: u32,
}

impl FrameHeader {
    /// The wire form.
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let [a, b, c, d] = self.kind.0.to_be_bytes();
        let [e, f, g, h] = self.len.to_be_bytes();
        [a, b, c, d, e, f, g, h]
    }

    /// Reads the wire form; the limit is the decoder's business.
    pub fn from_bytes(bytes: [u8; HEADER_LEN]) -> Self {
        let [a, b, c, d, e, f, g, h] = bytes;
        Self { kind: FrameType(u32::from_be_bytes([a, b, c, d])), len: u32::from_be_bytes([e, f, g, h]) }
    }
}

/// Appends one frame to `out`.
///
/// # Errors
/// [`PayloadTooLarge`] when the length field cannot hold it; the receiver's limit is lower and not checked here.
pub fn encode_frame(kind: FrameType, payload: &[u8], out: &mut Vec<u8>) -> Result<(), PayloadTooLarge> {
    out.reserve(HEADER_LEN + payload.len());
    encode_with(kind, out, |out| out.extend_from_slice(payload))
}

/// Appends a frame whose payload `write` appends; the length is filled in afterwards.
fn encode_with(
    kind: FrameType,
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>),
) -> Result<(), PayloadTooLarge> {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_LEN]);
    write(out);
    let Ok(len) = u32::try_from(out.len() - start - HEADER_LEN) else {
        out.truncate(start);
        return Err(PayloadTooLarge);
    };
    out[start..start + HEADER_LEN].copy_from_slice(&FrameHeader { kind, len }.to_bytes());
    Ok(())
}

/// A payload that no length field can hold: the caller's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("payload does not fit a data exchange frame (max 4294967295 bytes)")]
pub struct PayloadTooLarge;

/// The reply to a frame that was taken: `ACK <NAME> <n> bytes`; for a file, `n` is without the name.
pub fn ack_text(kind: FrameType, bytes: u64) -> String {
    format!("{ACK_PREFIX}{kind} {bytes} bytes")
}

/// The reply to a frame that could not be stored: `ERR <NAME> save failed: <cause>`.
pub fn save_failed_text(kind: FrameType, cause: impl fmt::Display) -> String {
    format!("{ERR_PREFIX}{kind} save failed: {cause}")
}
