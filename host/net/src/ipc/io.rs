//! Reading and writing frames on one Unix stream; shared by server and client.
//!
//! Does not interpret commands and spawns nothing.

use std::io::{self, IoSlice};

use bytes::BytesMut;
use pilot_wire::ipc::{Encoded, Frame, FrameTooLarge, MAX_FRAME, decode_frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// How much room a read is given at least; one read takes many small frames.
const READ_CHUNK: usize = 64 << 10;
/// A large frame is given its room in steps of this size, as its bytes arrive.
const READ_STEP: usize = 256 << 10;
/// How many buffers one vectored write takes (far below the system's 1024).
const MAX_SLICES: usize = 128;

/// Why no further frame comes.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The peer announced a frame over the limit: the connection is to be closed without a reply.
    #[error(transparent)]
    TooLarge(#[from] FrameTooLarge),
    /// The socket failed, or ended inside a frame.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Frames as they arrive. Holds at most one incomplete frame (1 MiB) and what one read brought with it.
#[derive(Debug)]
pub struct FrameReader {
    socket: OwnedReadHalf,
    buf: BytesMut,
}

impl FrameReader {
    pub(super) fn new(socket: OwnedReadHalf) -> Self {
        FrameReader { socket, buf: BytesMut::new() }
    }

    /// The next frame; `None` when the peer closed between frames. Cancel-safe: a dropped call loses nothing.
    pub async fn next(&mut self) -> Result<Option<Frame>, ReadError> {
        loop {
            if let Some(frame) = decode_frame(&mut self.buf)? {
                return Ok(Some(frame));
            }
            let missing = match self.buf.first_chunk::<4>() {
                // decode_frame has checked the length against MAX_FRAME.
                Some(prefix) => (4 + u32::from_be_bytes(*prefix) as usize).saturating_sub(self.buf.len()),
                None => 0,
            };
            debug_assert!(missing <= 4 + MAX_FRAME);
            self.buf.reserve(missing.clamp(READ_CHUNK, READ_STEP));
            if self.socket.read_buf(&mut self.buf).await? == 0 {
                if self.buf.is_empty() {
                    return Ok(None);
                }
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }
}

/// Writes whole frames with as few system calls as they allow. Not cancel-safe: after a dropped call the stream is out
/// of step and must be closed.
pub(super) async fn write_frames(socket: &mut OwnedWriteHalf, frames: &[Encoded]) -> io::Result<()> {
    for group in frames.chunks(MAX_SLICES / 2) {
        let parts = group.iter().flat_map(|f| [f.head(), f.body()]).filter(|part| !part.is_empty());
        let mut storage: Vec<IoSlice<'_>> = parts.map(IoSlice::new).collect();
        let mut slices = &mut storage[..];
        while !slices.is_empty() {
            match socket.write_vectored(slices).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => IoSlice::advance_slices(&mut slices, written),
            }
        }
    }
    Ok(())
}
