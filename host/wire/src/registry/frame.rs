//! Binary frames: u32 length (type byte and payload), type byte, payload (registry.md section 1.3).

use std::io::{self, Read, Write};

use super::{MAX_MESSAGE_SIZE, Split};
use crate::read::read_body;

const HEADER_LEN: usize = 5;

/// Looks for one frame at the front of `buffer`: its type and payload.
///
/// # Errors
/// [`FrameError::TooShort`] and [`FrameError::TooLarge`]; the connection is then closed without an answer.
pub fn split_frame(buffer: &[u8]) -> Result<Split<(u8, &[u8])>, FrameError> {
    let Some((head, rest)) = buffer.split_first_chunk::<HEADER_LEN>() else {
        return Ok(Split::Incomplete { missing: HEADER_LEN - buffer.len() });
    };
    let (kind, len) = parse_header(*head)?;
    Ok(match rest.get(..len) {
        Some(payload) => Split::Complete { message: (kind, payload), consumed: HEADER_LEN + len },
        None => Split::Incomplete { missing: len - rest.len() },
    })
}

/// Type and payload length.
fn parse_header(head: [u8; HEADER_LEN]) -> Result<(u8, usize), FrameError> {
    let [a, b, c, d, kind] = head;
    let announced = u32::from_be_bytes([a, b, c, d]);
    // A length that does not fit a usize is over the limit on any machine.
    let len = usize::try_from(announced).unwrap_or(usize::MAX);
    if len > MAX_MESSAGE_SIZE {
        return Err(FrameError::TooLarge { len });
    }
    Ok((kind, len.checked_sub(1).ok_or(FrameError::TooShort)?))
}

/// Appends one frame to `out`.
///
/// # Errors
/// [`FrameError::TooLarge`] when type and payload are over [`MAX_MESSAGE_SIZE`]; `out` is then unchanged.
pub fn encode_frame(kind: u8, payload: &[u8], out: &mut Vec<u8>) -> Result<(), FrameError> {
    let len = payload.len() + 1;
    let announced =
        u32::try_from(len).ok().filter(|_| len <= MAX_MESSAGE_SIZE).ok_or(FrameError::TooLarge { len })?;
    out.reserve(HEADER_LEN + payload.len());
    out.extend_from_slice(&announced.to_be_bytes());
    out.push(kind);
    out.extend_from_slice(payload);
    Ok(())
}

/// `ReadFrame`: reads one frame, allocating only as the payload arrives.
///
/// # Errors
/// [`FrameError`]; after any of them the stream is of no more use.
pub fn read_frame(source: &mut impl Read) -> Result<(u8, Vec<u8>), FrameError> {
    let mut head = [0; HEADER_LEN];
    source.read_exact(&mut head)?;
    let (kind, len) = parse_header(head)?;
    Ok((kind, read_body(source, len)?))
}

/// `WriteFrame`: writes one frame in one write.
///
/// # Errors
/// [`FrameError::TooLarge`] (nothing written) and [`FrameError::Io`].
pub fn write_frame(sink: &mut impl Write, kind: u8, payload: &[u8]) -> Result<(), FrameError> {
    let mut frame = Vec::new();
    encode_frame(kind, payload, &mut frame)?;
    Ok(sink.write_all(&frame)?)
}

/// Why a frame cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The length is 0, so there is no type byte. The sender's fault.
    #[error("binary frame too short")]
    TooShort,
    /// The length is over [`MAX_MESSAGE_SIZE`]. The sender's fault.
    #[error("binary frame too large: {len} bytes (max 67108864)")]
    TooLarge {
        /// The announced length.
        len: usize,
    },
    /// The stream failed or ended.
    #[error(transparent)]
    Io(#[from] io::Error),
}
