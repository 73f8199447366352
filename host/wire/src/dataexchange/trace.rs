//! TRACE: a message that measures its own way (sections 1.3 and 2.1).

use serde::{Deserialize, Serialize};

use super::{FrameType, PayloadTooLarge, encode_with};
use crate::cursor::Cursor;
use crate::gojson;

/// A decoded TRACE payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace<'a> {
    /// Type of the message inside; any value is legal and stored as a message.
    pub inner: FrameType,
    /// When the sender sent it, unix nanoseconds.
    pub sent_at_ns: i64,
    /// The message inside.
    pub payload: &'a [u8],
}

impl<'a> Trace<'a> {
    /// Inner type and time.
    pub const HEADER_LEN: usize = 12;

    /// Decodes the payload of a frame of type `kind`.
    ///
    /// # Errors
    /// [`TraceError`]; a server answers the second with `ERR trace parse: <text>`.
    pub fn decode(kind: FrameType, payload: &'a [u8]) -> Result<Self, TraceError> {
        if kind != FrameType::TRACE {
            return Err(TraceError::NotTrace { kind: kind.0 });
        }
        let mut c = Cursor::new(payload);
        match (c.u32(), c.array()) {
            (Some(inner), Some(time)) => {
                Ok(Self { inner: FrameType(inner), sent_at_ns: i64::from_be_bytes(*time), payload: c.rest() })
            }
            _ => Err(TraceError::TooShort { len: payload.len() }),
        }
    }
}

/// Appends a TRACE frame to `out`.
///
/// # Errors
/// [`PayloadTooLarge`]; `out` is then unchanged.
pub fn encode_trace(trace: &Trace<'_>, out: &mut Vec<u8>) -> Result<(), PayloadTooLarge> {
    encode_with(FrameType::TRACE, out, |out| {
        out.extend_from_slice(&trace.inner.0.to_be_bytes());
        out.extend_from_slice(&trace.sent_at_ns.to_be_bytes());
        out.extend_from_slice(trace.payload);
    })
}

/// The reply to a TRACE, sent as a JSON frame. All times are unix nanoseconds, beyond what a double holds exactly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimingReply {
    // In alphabetical order, which is the order on the wire.
    /// Right before the reply was encoded.
    pub ack_sent_at_ns: i64,
    /// After the message inside was stored.
    pub inbox_written_at_ns: i64,
    /// The reply the message inside would have got.
    pub inner_ack: String,
    /// Right after the frame was read.
    pub received_at_ns: i64,
    /// Echo of the sender's time.
    pub sent_at_ns: i64,
}

impl TimingReply {
    /// The payload of the JSON frame.
    ///
    /// # Errors
    /// None in practice: the members always serialise.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        gojson::serialize(self)
    }

    /// Reads the payload of the JSON frame.
    ///
    /// # Errors
    /// When it is no such object.
    pub fn from_json(payload: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_value(gojson::from_slice(payload)?)
    }
}

/// Why a frame is no TRACE. Texts as the Go peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The frame has another type: the caller's fault.
    #[error("expected TypeTrace, got {kind}")]
    NotTrace {
        /// The frame's type.
        kind: u32,
    },
    /// Shorter than its header: the sender's fault.
    #[error("trace payload too short: {len} bytes")]
    TooShort {
        /// Bytes there are.
        len: usize,
    },
}
