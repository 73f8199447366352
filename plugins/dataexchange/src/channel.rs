//! One connection as the session sees it: frames in, replies out, bounded in memory and time.
//!
//! Bytes are read into one fixed buffer and handed out from there, so a frame of any size costs no memory of its own.
//! Replies that nobody waits for alone (the ACK of a chunk) are collected while further bytes are at hand and leave in one
//! write, at the latest before the next wait. Knows nothing of what frames mean; their format is in pilot-wire.

use std::sync::Arc;
use std::time::Duration;

use pilot_wire::dataexchange::{
    self, Event, FrameDecoder, FrameError, FrameHeader, FrameType, PayloadTooLarge,
};
use plugin_abi::{Connection, Error, ErrorKind};

use crate::connections::Stop;
use crate::stamp::Stamps;

/// The read buffer: five chunks of a file transfer.
const BUFFER: usize = 256 << 10;
/// A read gets at least this much room, so that few reads move many bytes.
const ROOM: usize = 64 << 10;
/// Collected replies are written when they pass this size, whatever is at hand.
const REPLIES: usize = 8 << 10;
/// A frame keeps its deadline for this many bytes; each further piece of this size gets a new one, so a large frame may
/// take longer than the idle timeout, but only while it makes progress.
const PROGRESS: usize = 1 << 20;
/// How long one read waits before the deadline and the stop flag are looked at.
const SLICE: Duration = Duration::from_millis(250);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cut {
    /// The peer closed between two frames.
    #[error("EOF")]
    Finished,
    /// The peer sent what the format does not allow, or closed inside a frame.
    #[error(transparent)]
    Malformed(#[from] FrameError),
    /// The peer was silent for too long.
    #[error("no complete frame within {0:?}")]
    Idle(Duration),
    /// This plugin is shutting down.
    #[error("shutting down")]
    Stopping,
    /// The connection broke while reading.
    #[error("read: {0}")]
    Read(Error),
    /// The connection broke while a reply to a frame of this type was written.
    #[error("write reply to {answered}: {error}")]
    Write { answered: FrameType, error: Error },
    /// The reply said why nothing more can be done.
    #[error("refused: {0}")]
    Refused(String),
}

/// When a reply has to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flush {
    /// Before the call returns.
    Now,
    /// Before the next wait for bytes.
    WithOthers,
}

/// Limits of a channel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Largest payload length accepted.
    pub max_frame: u32,
    /// Time for a frame, see [`PROGRESS`]; `None` = no limit.
    pub idle_timeout: Option<Duration>,
}

/// The beginning of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Its type.
    pub kind: FrameType,
    /// The name in a FILE frame; `None` in other frames and when the payload is too short for one.
    pub name: Option<String>,
    /// Bytes of payload; with a name, bytes of content.
    pub len: usize,
}

/// What the decoder found, without borrowing from it.
enum Step {
    Frame(FrameHeader),
    File {
        name: String,
        content_len: usize,
    },
    /// This many payload bytes, the last ones taken from the buffer.
    Payload(usize),
    End,
}

/// Frames in, replies out.
pub(crate) struct Channel {
    conn: Arc<dyn Connection>,
    decoder: FrameDecoder,
    idle_timeout: Option<Duration>,
    stamps: Arc<Stamps>,
    stop: Stop,
    buffer: Box<[u8]>,
    /// `buffer[start..end]` holds bytes not yet decoded.
    start: usize,
    end: usize,
    /// Payload bytes of the current frame not yet taken.
    remaining: usize,
    /// Bytes of this frame left until the deadline is moved.
    until_progress: usize,
    deadline: Option<Duration>,
    replies: Vec<u8>,
    /// Type of the frame that the newest collected reply answers.
    answered: FrameType,
}

impl Channel {
    pub fn new(conn: Arc<dyn Connection>, limits: Limits, stamps: Arc<Stamps>, stop: Stop) -> Channel {
        Channel {
            conn,
            decoder: FrameDecoder::new(limits.max_frame),
            idle_timeout: limits.idle_timeout,
            stamps,
            stop,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            start: 0,
            end: 0,
            remaining: 0,
            until_progress: PROGRESS,
            deadline: None,
            replies: Vec::new(),
            answered: FrameType(0),
        }
    }

    /// Waits for the next frame. What was not taken of the one before is dropped.
    pub fn next_frame(&mut self) -> Result<Frame, Cut> {
        self.skip()?;
        // A frame without payload ends without a further byte.
        self.decode(0)?;
        self.renew_deadline();
        loop {
            if let Some(Step::Frame(header)) = self.decode(dataexchange::HEADER_LEN)? {
                self.remaining = header.len as usize;
                if header.kind == FrameType::FILE && header.len >= 2 {
                    return self.file();
                }
                return Ok(Frame { kind: header.kind, name: None, len: self.remaining });
            }
        }
    }

    /// The rest of the beginning of a FILE frame.
    fn file(&mut self) -> Result<Frame, Cut> {
        let whole = self.remaining;
        loop {
            // The decoder alone knows how long the name is.
            match self.decode(1)? {
                Some(Step::File { name, content_len }) => {
                    self.remaining = content_len;
                    return Ok(Frame { kind: FrameType::FILE, name: Some(name), len: content_len });
                }
                Some(Step::Payload(taken)) => {
                    self.remaining = whole - taken;
                    return Ok(Frame { kind: FrameType::FILE, name: None, len: whole });
                }
                _ => {}
            }
        }
    }

    /// Payload bytes of the current frame that were not taken yet.
    pub fn remaining(&self) -> usize {
        self.remaining
    }

    /// The next `max` bytes of the payload, fewer only when the payload ends before or the buffer is smaller. Empty when
    /// the payload is over.
    pub fn take(&mut self, max: usize) -> Result<&[u8], Cut> {
        let wanted = max.min(self.remaining).min(BUFFER);
        if wanted == 0 {
            return Ok(&[]);
        }
        let taken = match self.decode(wanted)? {
            Some(Step::Payload(taken)) => taken,
            _ => 0,
        };
        self.remaining -= taken;
        self.until_progress = self.until_progress.saturating_sub(taken);
        if self.until_progress == 0 {
            self.renew_deadline();
        }
        Ok(&self.buffer[self.start - taken..self.start])
    }

    /// Takes the rest of the payload and drops it.
    pub fn skip(&mut self) -> Result<(), Cut> {
        while self.remaining > 0 {
            self.take(BUFFER)?;
        }
        Ok(())
    }

    /// Answers a frame of type `answered` with the frame that `encode` appends.
    pub fn reply(
        &mut self,
        answered: FrameType,
        flush: Flush,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), PayloadTooLarge>,
    ) -> Result<(), Cut> {
        self.answered = answered;
        encode(&mut self.replies).map_err(|e| Cut::Write { answered, error: Error::other(e.to_string()) })?;
        if flush == Flush::Now || self.replies.len() > REPLIES { self.flush() } else { Ok(()) }
    }

    /// Writes the collected replies.
    pub fn flush(&mut self) -> Result<(), Cut> {
        if self.replies.is_empty() {
            return Ok(());
        }
        let written = self.conn.write(&self.replies);
        self.replies.clear();
        written.map_err(|error| Cut::Write { answered: self.answered, error })
    }

    /// Waits for `wanted` bytes and gives them to the decoder.
    fn decode(&mut self, wanted: usize) -> Result<Option<Step>, Cut> {
        self.fill(wanted)?;
        let mut input = &self.buffer[self.start..self.start + wanted];
        let event = self.decoder.decode(&mut input)?;
        self.start += wanted - input.len();
        Ok(event.map(|event| match event {
            Event::Frame(header) => Step::Frame(header),
            Event::File { name, content_len } => {
                Step::File { name: name.to_owned(), content_len: content_len as usize }
            }
            Event::Payload(bytes) => Step::Payload(bytes.len()),
            Event::End => Step::End,
        }))
    }

    /// Waits until `wanted` bytes (at most [`BUFFER`]) are in the buffer, one after another.
    fn fill(&mut self, wanted: usize) -> Result<(), Cut> {
        if self.end - self.start >= wanted {
            return Ok(());
        }
        self.flush()?;
        if self.start > 0 && (self.start + wanted > BUFFER || self.end + ROOM > BUFFER) {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        while self.end - self.start < wanted {
            self.end += self.read()?;
        }
        Ok(())
    }

    /// Reads once into the free end of the buffer; more than zero bytes.
    fn read(&mut self) -> Result<usize, Cut> {
        loop {
            if self.stop.is_set() {
                return Err(Cut::Stopping);
            }
            match self.conn.read(&mut self.buffer[self.end..]) {
                Ok(0) if self.start == self.end => {
                    self.decoder.finish()?;
                    return Err(Cut::Finished);
                }
                Ok(0) => return Err(FrameError::UnexpectedEnd.into()),
                Ok(n) => return Ok(n),
                Err(e) if e.kind() == ErrorKind::TimedOut => {
                    if let (Some(deadline), Some(limit)) = (self.deadline, self.idle_timeout)
                        && self.stamps.monotonic() >= deadline
                    {
                        return Err(Cut::Idle(limit));
                    }
                    self.arm()?;
                }
                Err(e) => return Err(Cut::Read(e)),
            }
        }
    }

    /// Makes the next reads give up after [`SLICE`], so that a silent peer cannot hold this thread. To be called once
    /// before the first frame.
    pub fn arm(&self) -> Result<(), Cut> {
        self.conn.set_read_timeout(Some(SLICE)).map_err(Cut::Read)
    }

    fn renew_deadline(&mut self) {
        self.until_progress = PROGRESS;
        self.deadline = self.idle_timeout.map(|limit| self.stamps.monotonic() + limit);
    }
}
