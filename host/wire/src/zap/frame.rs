//! Frames: u32 payload length, type octet, payload (zap.md section 2).

use std::io::{self, Read};

use crate::read::read_body;
use crate::split::Split;

/// Length of a frame's header.
pub const HEADER_LEN: usize = 5;
/// The largest payload, inclusive; the request id counts.
pub const MAX_PAYLOAD: usize = 16 * 1024 * 1024;

/// Bits 0 to 5: opcode; bit 6: error; bit 7: response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TypeOctet(pub u8);

impl TypeOctet {
    const ERROR: u8 = 0x40;
    const RESPONSE: u8 = 0x80;

    /// The low six bits.
    pub const fn opcode(self) -> u8 {
        self.0 & 0x3F
    }

    /// Whether the payload of a response is an error text.
    pub const fn is_error(self) -> bool {
        self.0 & Self::ERROR != 0
    }

    /// Whether this answers a request.
    pub const fn is_response(self) -> bool {
        self.0 & Self::RESPONSE != 0
    }

    /// The octet of a good answer to a request of this type.
    pub const fn success(self) -> Self {
        Self(self.0 | Self::RESPONSE)
    }

    /// The octet of an error answer to a request of this type, whatever that was.
    pub const fn error(self) -> Self {
        Self(self.0 | Self::RESPONSE | Self::ERROR)
    }
}

/// One frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its type.
    pub kind: TypeOctet,
    /// For calls: request id, then body or error text.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Request id and what follows it; `None` when the payload is shorter than an id. Both ends skip such a frame.
    pub fn call(&self) -> Option<(u32, &'a [u8])> {
        let (id, body) = self.payload.split_first_chunk::<4>()?;
        Some((u32::from_be_bytes(*id), body))
    }
}

/// Looks for one frame at the front of `buffer`.
///
/// # Errors
/// [`FrameError::TooLarge`]; the connection must then be closed, because the stream cannot be followed any more.
pub fn split_frame(buffer: &[u8]) -> Result<Split<Frame<'_>>, FrameError> {
    let Some((head, rest)) = buffer.split_first_chunk::<HEADER_LEN>() else {
        return Ok(Split::Incomplete { missing: HEADER_LEN - buffer.len() });
    };
    let (kind, len) = parse_header(*head)?;
    Ok(match rest.get(..len) {
        Some(payload) => Split::Complete { message: Frame { kind, payload }, consumed: HEADER_LEN + len },
        None => Split::Incomplete { missing: len - rest.len() },
    })
}

fn parse_header(head: [u8; HEADER_LEN]) -> Result<(TypeOctet, usize), FrameError> {
    let [a, b, c, d, kind] = head;
    match usize::try_from(u32::from_be_bytes([a, b, c, d])) {
        Ok(len) if len <= MAX_PAYLOAD => Ok((TypeOctet(kind), len)),
        _ => Err(FrameError::TooLarge),
    }
}

/// Appends one frame whose payload `write` appends; the length is filled in afterwards.
///
/// # Errors
/// [`FrameError::TooLarge`]; `out` is then unchanged.
pub fn encode_frame(
    kind: TypeOctet,
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>),
) -> Result<(), FrameError> {
    let start = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, kind.0]);
    write(out);
    let len = out.len() - start - HEADER_LEN;
    let Some(len) = u32::try_from(len).ok().filter(|_| len <= MAX_PAYLOAD) else {
        out.truncate(start);
        return Err(FrameError::TooLarge);
    };
    out[start..start + 4].copy_from_slice(&len.to_be_bytes());
    Ok(())
}

/// Reads one frame, allocating only as the payload arrives.
///
/// # Errors
/// [`FrameError`]; [`FrameError::End`] alone is an orderly end.
pub fn read_frame(source: &mut impl Read) -> Result<(TypeOctet, Vec<u8>), FrameError> {
    let mut head = Vec::with_capacity(HEADER_LEN);
    source.by_ref().take(5).read_to_end(&mut head)?;
    let head = match <[u8; HEADER_LEN]>::try_from(head.as_slice()) {
        Ok(head) => head,
        Err(_) if head.is_empty() => return Err(FrameError::End),
        Err(_) => return Err(FrameError::UnexpectedEnd),
    };
    let (kind, len) = parse_header(head)?;
    match read_body(source, len) {
        Ok(payload) => Ok((kind, payload)),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(FrameError::UnexpectedEnd),
        Err(e) => Err(e.into()),
    }
}

/// Why there is no (further) frame.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The payload is over [`MAX_PAYLOAD`]. Nothing of it has been read.
    #[error("zap: message exceeds maximum size")]
    TooLarge,
    /// The stream ended inside a frame.
    #[error("unexpected EOF")]
    UnexpectedEnd,
    /// The stream ended between two frames.
    #[error("EOF")]
    End,
    /// The stream failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}
