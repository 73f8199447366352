//! Frames on the socket between host and child: a length, a kind, an id, one encoded message, and for stream payloads the
//! raw bytes after it.
//!
//! ```text
//! 0        4      5       9
//! | length | kind | id    | message (postcard) | raw bytes |     length: u32, little endian, counts from byte 4
//! ```
//!
//! The other side may be hostile: every length is compared with a limit before anything is allocated for it.

use std::io::{BufReader, Read};
use std::ops::Deref;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes of a frame before the message.
const HEAD: usize = 9;
/// Largest frame that the host takes from a child, bytes.
pub(super) const MAX_FROM_CHILD: usize = 4 << 20;
/// Largest frame that a child takes from its host, bytes.
pub(super) const MAX_FROM_HOST: usize = 64 << 20;
/// Largest piece of stream data in one frame, bytes.
pub(super) const MAX_CHUNK: usize = 256 << 10;
/// Small frames arrive several to a read; larger ones go past the buffer, straight to where they stay.
const READ_BUFFER: usize = 16 << 10;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Wants an answer under its id.
    Call,
    /// The answer to the call of that id.
    Answer,
    /// Wants nothing.
    Note,
}

impl Kind {
    const fn code(self) -> u8 {
        match self {
            Kind::Call => 0,
            Kind::Answer => 1,
            Kind::Note => 2,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Kind::Call),
            1 => Some(Kind::Answer),
            2 => Some(Kind::Note),
            _ => None,
        }
    }
}

/// Why the next frame could not be had.
#[derive(Debug)]
pub(super) enum FrameError {
    /// The socket ended or failed.
    Io(std::io::Error),
    /// The bytes are not a frame: the other side is broken or hostile.
    Malformed(String),
}

/// One frame as it arrived.
pub(super) struct Frame {
    pub kind: Kind,
    pub id: u32,
    body: Vec<u8>,
}

impl Frame {
    /// Its size in memory, bytes.
    pub fn size(&self) -> usize {
        self.body.len()
    }

    /// The message, and the raw bytes behind it.
    pub fn decode<T: DeserializeOwned>(self) -> Result<(T, Raw), String> {
        let message = self.body.get(HEAD - 4..).unwrap_or_default();
        let (value, rest) = postcard::take_from_bytes(message).map_err(|e| format!("bad message: {e}"))?;
        let start = self.body.len() - rest.len();
        Ok((value, Raw { body: self.body, start }))
    }
}

/// The raw bytes of a frame, where they arrived.
#[derive(Default)]
pub(super) struct Raw {
    body: Vec<u8>,
    start: usize,
}

impl Deref for Raw {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.body.get(self.start..).unwrap_or_default()
    }
}

/// Everything of a frame but its raw bytes, `raw` long.
pub(super) fn encode<T: Serialize>(kind: Kind, id: u32, message: &T, raw: usize) -> Result<Vec<u8>, String> {
    let mut head = vec![0; HEAD];
    head[4] = kind.code();
    head[5..].copy_from_slice(&id.to_le_bytes());
    let mut bytes = postcard::to_extend(message, head).map_err(|e| format!("cannot encode: {e}"))?;
    let length = u32::try_from(bytes.len() - 4 + raw).map_err(|_| "too large for a frame".to_owned())?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// The receiving end.
pub(super) struct FrameReader<R> {
    from: BufReader<R>,
    max: usize,
}

impl<R: Read> FrameReader<R> {
    pub fn new(from: R, max: usize) -> Self {
        FrameReader { from: BufReader::with_capacity(READ_BUFFER, from), max }
    }

    /// Waits for the next frame.
    pub fn next(&mut self) -> Result<Frame, FrameError> {
        let mut length = [0; 4];
        self.from.read_exact(&mut length).map_err(FrameError::Io)?;
        let length = u32::from_le_bytes(length) as usize;
        if !(HEAD - 4..=self.max).contains(&length) {
            let why = format!("a frame of {length} bytes, expected {} to {}", HEAD - 4, self.max);
            return Err(FrameError::Malformed(why));
        }
        let mut body = vec![0; length];
        self.from.read_exact(&mut body).map_err(FrameError::Io)?;
        let kind = Kind::from_code(body[0])
            .ok_or_else(|| FrameError::Malformed(format!("a frame of kind {}", body[0])))?;
        let id = u32::from_le_bytes([body[1], body[2], body[3], body[4]]);
        Ok(Frame { kind, id, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(raw: &[u8]) -> Vec<u8> {
        let mut bytes = encode(Kind::Answer, 0x0102_0304, &("text".to_owned(), 7u16), raw.len()).unwrap();
        bytes.extend_from_slice(raw);
        bytes
    }

    #[test]
    fn known_bytes() {
        assert_eq!(frame(b"!"), *b"\x0c\0\0\0\x01\x04\x03\x02\x01\x04text\x07!");
    }

    #[test]
    fn round_trip() {
        let bytes = [frame(b"raw"), frame(b"")].concat();
        let mut reader = FrameReader::new(bytes.as_slice(), 64);
        for expected in [b"raw".as_slice(), b""] {
            let frame = reader.next().unwrap();
            assert_eq!((frame.kind, frame.id), (Kind::Answer, 0x0102_0304));
            let (message, raw) = frame.decode::<(String, u16)>().unwrap();
            assert_eq!(message, ("text".to_owned(), 7));
            assert_eq!(&*raw, expected);
        }
        assert!(matches!(reader.next(), Err(FrameError::Io(_))));
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = frame(b"");
        for cut in 0..bytes.len() {
            assert!(matches!(FrameReader::new(&bytes[..cut], 64).next(), Err(FrameError::Io(_))), "{cut}");
        }
        // A frame that is whole, but whose message is not.
        for cut in HEAD..bytes.len() {
            let mut short = bytes[..cut].to_vec();
            short[..4].copy_from_slice(&u32::try_from(cut - 4).unwrap().to_le_bytes());
            let frame = FrameReader::new(short.as_slice(), 64).next().unwrap();
            assert!(frame.decode::<(String, u16)>().is_err(), "{cut}");
        }
    }

    #[test]
    fn lengths_and_kinds_are_checked() {
        for length in [0u32, 4, 65, u32::MAX] {
            let mut bytes = length.to_le_bytes().to_vec();
            bytes.resize(200, 0);
            let refused = FrameReader::new(bytes.as_slice(), 64).next();
            assert!(matches!(refused, Err(FrameError::Malformed(_))), "{length}");
        }
        let mut bytes = frame(b"");
        bytes[4] = 3;
        assert!(matches!(FrameReader::new(bytes.as_slice(), 64).next(), Err(FrameError::Malformed(_))));
        // A text that claims to be longer than the frame.
        let mut bytes = frame(b"");
        bytes[9] = 0x7F;
        assert!(FrameReader::new(bytes.as_slice(), 64).next().unwrap().decode::<(String, u16)>().is_err());
    }
}
