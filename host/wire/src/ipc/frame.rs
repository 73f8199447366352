//! Frames: taking them out of a growing buffer, and building them without copying their payload (ipc.md section 2).
//!
//! Called by the socket code of both ends. Knows no command.

use bytes::{Buf, Bytes, BytesMut};

use crate::addr::Addr;

/// Largest value of the length prefix, inclusive: command byte plus body (ipc.md section 2).
pub const MAX_FRAME: usize = 1 << 20;
/// How many data bytes one send frame carries at most when a client splits a write (ipc.md section 6, "Chunking").
pub const MAX_SEND_DATA: usize = MAX_FRAME - 64;
/// Largest JSON body of a reply; longer lists are cut by the daemon (ipc.md section 8).
pub const MAX_JSON: usize = MAX_FRAME - 64;

/// Length prefix plus command byte.
const PREFIX: usize = 5;
/// Room for the prefix and the fixed fields of the longest frame that carries a payload (tracked send: 17 bytes).
const HEAD: usize = 20;

/// A received frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The command byte; which table applies depends on the direction.
    pub command: u8,
    /// What follows it.
    pub body: Bytes,
}

/// A frame over [`MAX_FRAME`]: the receiver closes the connection without a reply, a writer must not emit it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("frame of {length} bytes exceeds the limit of {MAX_FRAME}")]
pub struct FrameTooLarge {
    /// The value of the length prefix.
    pub length: usize,
}

/// Takes the next whole frame out of `buf`; `None` when more bytes are needed. Frames of length 0 are legal and skipped.
///
/// Never reserves memory: the caller reads into `buf` at its own pace.
pub fn decode_frame(buf: &mut BytesMut) -> Result<Option<Frame>, FrameTooLarge> {
    loop {
        let Some(prefix) = buf.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*prefix) as usize;
        if length > MAX_FRAME {
            return Err(FrameTooLarge { length });
        }
        if length == 0 {
            buf.advance(4);
            continue;
        }
        if buf.len() < 4 + length {
            return Ok(None);
        }
        buf.advance(4);
        let mut frame = buf.split_to(length).freeze();
        let command = frame[0];
        frame.advance(1);
        return Ok(Some(Frame { command, body: frame }));
    }
}

/// A frame ready to be written: a short head on the stack and the payload as it is, for one vectored write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    head: [u8; HEAD],
    head_len: usize,
    body: Bytes,
}

impl Encoded {
    /// Length prefix, command byte and fixed fields.
    pub fn head(&self) -> &[u8] {
        &self.head[..self.head_len]
    }

    /// The payload that follows the head.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// All bytes of the frame, prefix included.
    #[expect(clippy::len_without_is_empty, reason = "a frame has at least its five-byte prefix")]
    pub fn len(&self) -> usize {
        self.head_len + self.body.len()
    }

    /// The frame as one piece; for tests and small frames.
    pub fn to_vec(&self) -> Vec<u8> {
        [self.head(), &self.body].concat()
    }
}

/// Builds an [`Encoded`] frame field by field.
pub(super) struct Builder {
    head: [u8; HEAD],
    len: usize,
}

impl Builder {
    pub(super) fn new(command: u8) -> Self {
        let mut head = [0; HEAD];
        head[4] = command;
        Builder { head, len: PREFIX }
    }

    fn put(mut self, bytes: &[u8]) -> Self {
        // HEAD covers the longest sequence of fixed fields that the encoders below build.
        self.head[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
        self
    }

    pub(super) fn u8(self, v: u8) -> Self {
        self.put(&[v])
    }

    pub(super) fn u16(self, v: u16) -> Self {
        self.put(&v.to_be_bytes())
    }

    pub(super) fn u32(self, v: u32) -> Self {
        self.put(&v.to_be_bytes())
    }

    pub(super) fn u64(self, v: u64) -> Self {
        self.put(&v.to_be_bytes())
    }

    pub(super) fn addr(self, a: Addr) -> Self {
        self.u16(a.network).u32(a.node)
    }

    /// Closes the frame with a payload (which may be empty).
    pub(super) fn body(mut self, body: Bytes) -> Result<Encoded, FrameTooLarge> {
        let length = self.len - 4 + body.len();
        if length > MAX_FRAME {
            return Err(FrameTooLarge { length });
        }
        self.head[..4].copy_from_slice(&(length as u32).to_be_bytes());
        Ok(Encoded { head: self.head, head_len: self.len, body })
    }

    pub(super) fn text(self, text: &str) -> Result<Encoded, FrameTooLarge> {
        self.body(Bytes::copy_from_slice(text.as_bytes()))
    }

    pub(super) fn end(self) -> Result<Encoded, FrameTooLarge> {
        self.body(Bytes::new())
    }
}

/// Reads fixed fields off the front of a body; `None` when it is too short.
pub(super) struct Fields(pub(super) Bytes);

impl Fields {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let v = *self.0.first_chunk::<N>()?;
        self.0.advance(N);
        Some(v)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[v]| v)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> Option<i32> {
        self.take().map(i32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    pub(super) fn addr(&mut self) -> Option<Addr> {
        (self.0.len() >= 6).then_some(())?;
        Some(Addr { network: self.u16()?, node: self.u32()? })
    }

    /// `n` bytes, or `None` when fewer are left.
    pub(super) fn bytes(&mut self, n: usize) -> Option<Bytes> {
        (self.0.len() >= n).then(|| self.0.split_to(n))
    }

    pub(super) fn rest(self) -> Bytes {
        self.0
    }

    /// The rest as text; invalid UTF-8 becomes U+FFFD, as the Go peer's JSON encoder would show it.
    pub(super) fn text(self) -> String {
        text(&self.0)
    }
}

/// Bytes as text; invalid UTF-8 becomes U+FFFD.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
