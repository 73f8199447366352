//! Reading frames: piece by piece as bytes arrive, or whole from a blocking source (section 1.2).

use std::io::{self, Read};

use super::file::{MAX_FILE_NAME, NameError, check_length, check_name, split_file_payload};
use super::{FrameHeader, FrameType, HEADER_LEN};
use crate::read::read_body;

/// Bytes of a FILE payload that are collected before anything is handed out: name length and name.
const PREFIX_MAX: usize = 2 + MAX_FILE_NAME;

/// What [`FrameDecoder::decode`] found next. A frame is `Frame`, perhaps `File`, any number of `Payload`, `End`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A frame begins; its length is within the limit.
    Frame(FrameHeader),
    /// A FILE frame names its file. Does not occur when the payload is too short for a name; it is then all content.
    File {
        /// The checked name, perhaps empty.
        name: &'a str,
        /// Bytes of content to come.
        content_len: u32,
    },
    /// The next bytes of the payload (for a named file: of its content). Never empty.
    Payload(&'a [u8]),
    /// The frame is complete.
    End,
}

/// Takes a byte stream apart into frames without holding a payload.
///
/// State | input | next | gives
/// ---|---|---|---
/// header | 8 bytes, length in limit | prefix (FILE of 2 bytes and more), else payload | `Frame`
/// header | 8 bytes, length over limit | failed | error
/// prefix | name length and name, good | payload | `File`
/// prefix | name length beyond the payload | payload | `Payload` (the two bytes)
/// prefix | bad name | failed | error
/// payload | bytes | payload | `Payload`
/// payload | nothing left of the frame | header | `End`
/// failed | anything | failed | the same error
#[derive(Clone, Debug)]
pub struct FrameDecoder {
    max_frame: u32,
    state: State,
    /// Collects the header or a FILE prefix; `have` bytes are filled.
    small: [u8; PREFIX_MAX],
    have: usize,
}

#[derive(Clone, Debug)]
enum State {
    Header,
    Prefix { payload_len: u32 },
    Payload { left: u32 },
    Failed(FrameError),
}

impl FrameDecoder {
    /// A decoder at a frame border that refuses payloads over `max_frame` bytes.
    pub const fn new(max_frame: u32) -> Self {
        Self { max_frame, state: State::Header, small: [0; PREFIX_MAX], have: 0 }
    }

    /// Takes bytes off the front of `input` up to the next event; `None` when all of it is used up.
    ///
    /// Call it until it gives `None`, also with an empty input: a frame without payload ends without further bytes.
    ///
    /// # Errors
    /// [`FrameError`]; the stream is then of no more use, and each further call gives the same error.
    pub fn decode<'a, 'i: 'a>(&'a mut self, input: &mut &'i [u8]) -> Result<Option<Event<'a>>, FrameError> {
        match self.state {
            State::Failed(ref error) => Err(error.clone()),
            State::Header => {
                if !self.collect(input, HEADER_LEN) {
                    return Ok(None);
                }
                let mut bytes = [0; HEADER_LEN];
                bytes.copy_from_slice(&self.small[..HEADER_LEN]);
                self.have = 0;
                let header = FrameHeader::from_bytes(bytes);
                if header.len > self.max_frame {
                    return self.fail(FrameError::TooLarge { len: header.len, max: self.max_frame });
                }
                self.state = if header.kind == FrameType::FILE && header.len >= 2 {
                    State::Prefix { payload_len: header.len }
                } else {
                    State::Payload { left: header.len }
                };
                Ok(Some(Event::Frame(header)))
            }
            State::Prefix { payload_len } => self.prefix(payload_len, input),
            State::Payload { left: 0 } => {
                self.state = State::Header;
                Ok(Some(Event::End))
            }
            State::Payload { left } => {
                let room = usize::try_from(left).unwrap_or(usize::MAX);
                let (chunk, rest) = input.split_at(input.len().min(room));
                if chunk.is_empty() {
                    return Ok(None);
                }
                *input = rest;
                // A chunk is no longer than `left`, so it fits.
                self.state = State::Payload { left: left - u32::try_from(chunk.len()).unwrap_or(left) };
                Ok(Some(Event::Payload(chunk)))
            }
        }
    }

    fn prefix(&mut self, payload_len: u32, input: &mut &[u8]) -> Result<Option<Event<'_>>, FrameError> {
        if !self.collect(input, 2) {
            return Ok(None);
        }
        let name_len = u16::from_be_bytes([self.small[0], self.small[1]]);
        let Some(content_len) = payload_len.checked_sub(2 + u32::from(name_len)) else {
            self.have = 0;
            self.state = State::Payload { left: payload_len - 2 };
            return Ok(Some(Event::Payload(&self.small[..2])));
        };
        let name_len = usize::from(name_len);
        if let Err(error) = check_length(name_len) {
            return self.fail(error.into());
        }
        if !self.collect(input, 2 + name_len) {
            return Ok(None);
        }
        self.have = 0;
        self.state = State::Payload { left: content_len };
        match check_name(&self.small[2..2 + name_len]) {
            Ok(name) => Ok(Some(Event::File { name, content_len })),
            Err(error) => {
                let error = FrameError::Name(error);
                self.state = State::Failed(error.clone());
                Err(error)
            }
        }
    }

    /// Moves bytes from the input until `want` are collected; whether they are.
    fn collect(&mut self, input: &mut &[u8], want: usize) -> bool {
        let n = want.saturating_sub(self.have).min(input.len());
        let (head, rest) = input.split_at(n);
        self.small[self.have..self.have + n].copy_from_slice(head);
        self.have += n;
        *input = rest;
        self.have >= want
    }

    fn fail<T>(&mut self, error: FrameError) -> Result<T, FrameError> {
        self.state = State::Failed(error.clone());
        Err(error)
    }

    /// To be asked when the stream has ended: whether that was between two frames.
    ///
    /// # Errors
    /// [`FrameError::UnexpectedEnd`] inside a frame, or the error that came before.
    pub fn finish(&self) -> Result<(), FrameError> {
        match &self.state {
            State::Failed(error) => Err(error.clone()),
            State::Header if self.have == 0 => Ok(()),
            // The last frame is whole, only its `End` has not been asked for.
            State::Payload { left: 0 } => Ok(()),
            _ => Err(FrameError::UnexpectedEnd),
        }
    }
}

/// A whole frame, for clients that read short replies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The type.
    pub kind: FrameType,
    /// The file name of a FILE frame, empty when there is none.
    pub name: String,
    /// The payload, for a FILE frame without the name.
    pub payload: Vec<u8>,
}

/// Reads one whole frame, allocating only as the payload arrives; `None` when the source ends before a frame begins.
///
/// # Errors
/// A [`FrameError`] wrapped as `InvalidData` (bad frame) or `UnexpectedEof` (cut frame), or the source's own error.
pub fn read_frame(source: &mut impl Read, max_frame: u32) -> io::Result<Option<Frame>> {
    let mut head = Vec::with_capacity(HEADER_LEN);
    source.by_ref().take(8).read_to_end(&mut head)?;
    let header = match <[u8; HEADER_LEN]>::try_from(head.as_slice()) {
        Ok(bytes) => FrameHeader::from_bytes(bytes),
        Err(_) if head.is_empty() => return Ok(None),
        Err(_) => return Err(FrameError::UnexpectedEnd.into()),
    };
    if header.len > max_frame {
        return Err(FrameError::TooLarge { len: header.len, max: max_frame }.into());
    }
    let too_large = |_| io::Error::from(FrameError::TooLarge { len: header.len, max: max_frame });
    let payload =
        read_body(source, usize::try_from(header.len).map_err(too_large)?).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => FrameError::UnexpectedEnd.into(),
            _ => e,
        })?;
    if header.kind != FrameType::FILE {
        return Ok(Some(Frame { kind: header.kind, name: String::new(), payload }));
    }
    let (name, content) = split_file_payload(&payload).map_err(FrameError::Name)?;
    Ok(Some(Frame {
        kind: header.kind,
        name: name.unwrap_or_default().to_owned(),
        payload: content.to_vec(),
    }))
}

/// Why a stream of frames cannot be read on. Every one of them ends the connection without a reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The payload is over the receiver's limit. Nothing of it has been read.
    #[error("frame too large: {len} (max {max})")]
    TooLarge {
        /// The announced length.
        len: u32,
        /// The limit.
        max: u32,
    },
    /// The file name is not acceptable.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The stream ended inside a frame.
    #[error("unexpected EOF")]
    UnexpectedEnd,
}

impl From<FrameError> for io::Error {
    fn from(error: FrameError) -> Self {
        let kind = match error {
            FrameError::UnexpectedEnd => io::ErrorKind::UnexpectedEof,
            _ => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}
