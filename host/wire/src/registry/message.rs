//! JSON mode: u32 length, then one JSON object (registry.md section 1.2).

use std::io::{self, Read, Write};

use serde_json::{Map, Value};

use super::{MAX_MESSAGE_SIZE, Split};
use crate::gojson;
use crate::read::read_body;

const HEADER_LEN: usize = 4;

/// Looks for one message at the front of `buffer` and gives its body, not yet decoded.
///
/// # Errors
/// [`MessageError::TooLarge`]; the connection is then closed without an answer.
pub fn split_message(buffer: &[u8]) -> Result<Split<&[u8]>, MessageError> {
    let Some((head, rest)) = buffer.split_first_chunk::<HEADER_LEN>() else {
        return Ok(Split::Incomplete { missing: HEADER_LEN - buffer.len() });
    };
    let len = body_len(*head)?;
    Ok(match rest.get(..len) {
        Some(body) => Split::Complete { message: body, consumed: HEADER_LEN + len },
        None => Split::Incomplete { missing: len - rest.len() },
    })
}

fn body_len(head: [u8; HEADER_LEN]) -> Result<usize, MessageError> {
    // A length that does not fit a usize is over the limit on any machine.
    let len = usize::try_from(u32::from_be_bytes(head)).unwrap_or(usize::MAX);
    if len > MAX_MESSAGE_SIZE { Err(MessageError::TooLarge { len }) } else { Ok(len) }
}

/// Decodes a body: a JSON object, or `null`, which counts as an empty one.
///
/// # Errors
/// [`MessageError::Json`] for anything else, an empty body included.
pub fn decode_message(body: &[u8]) -> Result<Map<String, Value>, MessageError> {
    match gojson::from_slice(body).map_err(|e| MessageError::Json { detail: e.to_string() })? {
        Value::Object(map) => Ok(map),
        Value::Null => Ok(Map::new()),
        other => {
            Err(MessageError::Json { detail: format!("cannot use {} as a message object", kind_of(&other)) })
        }
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Appends one message: length and the object as the Go peer would write it.
///
/// # Errors
/// [`MessageError::TooLarge`] when the text is over [`MAX_MESSAGE_SIZE`]; `out` is then unchanged.
pub fn encode_message(message: &Map<String, Value>, out: &mut Vec<u8>) -> Result<(), MessageError> {
    encode_raw_message(&gojson::object_to_vec(message), out)
}

/// Appends one message whose body is encoded already.
///
/// # Errors
/// [`MessageError::TooLarge`] when the body is over [`MAX_MESSAGE_SIZE`]; `out` is then unchanged.
pub fn encode_raw_message(body: &[u8], out: &mut Vec<u8>) -> Result<(), MessageError> {
    let too_large = MessageError::TooLarge { len: body.len() };
    let Some(len) = u32::try_from(body.len()).ok().filter(|_| body.len() <= MAX_MESSAGE_SIZE) else {
        return Err(too_large);
    };
    out.reserve(HEADER_LEN + body.len());
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(body);
    Ok(())
}

/// `ReadMessage`: reads and decodes one message, allocating only as the body arrives.
///
/// # Errors
/// [`MessageError`]; after any of them the stream is of no more use.
pub fn read_message(source: &mut impl Read) -> Result<Map<String, Value>, MessageError> {
    let mut head = [0; HEADER_LEN];
    source.read_exact(&mut head)?;
    decode_message(&read_body(source, body_len(head)?)?)
}

/// `WriteMessage`: encodes and writes one message in one write. The deadline is the caller's, see
/// [`WRITE_MESSAGE_DEADLINE`](super::WRITE_MESSAGE_DEADLINE).
///
/// # Errors
/// [`MessageError::TooLarge`] (nothing written) and [`MessageError::Io`].
pub fn write_message(sink: &mut impl Write, message: &Map<String, Value>) -> Result<(), MessageError> {
    write_raw_message(sink, &gojson::object_to_vec(message))
}

/// `WriteRawMessage`: writes one message whose body is encoded already, in one write.
///
/// # Errors
/// [`MessageError::TooLarge`] (nothing written) and [`MessageError::Io`].
pub fn write_raw_message(sink: &mut impl Write, body: &[u8]) -> Result<(), MessageError> {
    let mut message = Vec::new();
    encode_raw_message(body, &mut message)?;
    Ok(sink.write_all(&message)?)
}

/// Why a JSON message cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The length is over [`MAX_MESSAGE_SIZE`]. The sender's fault.
    #[error("message too large: {len} bytes (max 67108864)")]
    TooLarge {
        /// The announced length.
        len: usize,
    },
    /// The body is no JSON object. The sender's fault.
    #[error("json decode: {detail}")]
    Json {
        /// What is wrong with it.
        detail: String,
    },
    /// The stream failed or ended.
    #[error(transparent)]
    Io(#[from] io::Error),
}
