//! A Z-Wing channel over a TCP stream: both handshakes, then ZAP frames in, bytes out.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pilot_wire::Split;
use pilot_wire::zap::{self, TypeOctet};
use pilot_wire::zwing::{
    Channel, Encapsulation, Expect, Initiator, MAX_FRAME, MESSAGE_1_LEN, MESSAGE_2_LEN, Opener,
    PublicIdentity, Sealer, SeenAnswers, ZwingError, respond, split_frame,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::timeout;

use super::keys::random;
use super::{HANDSHAKE_LIMIT, WRITE_LIMIT};

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The other end broke the protocol, or is not who it should be.
    #[error(transparent)]
    Zwing(#[from] ZwingError),
    /// A frame that cannot be followed.
    #[error(transparent)]
    Frame(#[from] zap::FrameError),
    /// The socket.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The other end does not answer.
    #[error("{what} took longer than {} s", limit.as_secs())]
    Late {
        /// What was awaited.
        what: &'static str,
        /// How long.
        limit: Duration,
    },
    /// The operating system gives no random bytes.
    #[error("no random bytes from the operating system: {0}")]
    Random(getrandom::Error),
}

/// The reading half.
pub(super) struct FrameReader<S> {
    stream: ReadHalf<S>,
    opener: Opener,
    /// Not yet a record: below 1 MiB and what one read brought.
    sealed: Vec<u8>,
    /// Not yet a frame: below 16 MiB and one record.
    plain: Vec<u8>,
    /// How much of `plain` was handed out.
    taken: usize,
}

/// The writing half.
pub(super) struct FrameWriter<S> {
    stream: WriteHalf<S>,
    sealer: Sealer,
    out: Vec<u8>,
}

/// Both halves and who is there.
pub(super) type Link<S> = (FrameReader<S>, FrameWriter<S>, PublicIdentity);

/// The dialling side.
pub(super) async fn initiate<S: AsyncRead + AsyncWrite>(
    stream: S,
    initiator: Initiator,
    seen: Option<&Mutex<SeenAnswers>>,
) -> Result<Link<S>, LinkError> {
    let (mut read, mut write) = tokio::io::split(stream);
    let answer = limited(async {
        write.write_all(initiator.hello()).await?;
        write.flush().await?;
        message(&mut read, MESSAGE_2_LEN).await
    });
    let answer = answer.await?;
    // Locked only here, so that a slow server holds up nobody.
    let mut seen = seen.map(|s| s.lock().unwrap_or_else(PoisonError::into_inner));
    let (channel, remote) = initiator.finish(&answer, seen.as_deref_mut())?;
    drop(seen);
    Ok(link(read, write, channel, remote))
}

/// The accepting side. `turn` is awaited before the work of the answer is begun.
pub(super) async fn accept<S: AsyncRead + AsyncWrite>(
    stream: S,
    identity: &pilot_wire::zwing::Identity,
    expect: &Expect,
    turn: impl Future<Output = ()>,
) -> Result<Link<S>, LinkError> {
    let (mut read, mut write) = tokio::io::split(stream);
    limited(async {
        let hello = message(&mut read, MESSAGE_1_LEN).await?;
        turn.await;
        let random = Encapsulation {
            m: random().map_err(LinkError::Random)?.into(),
            x25519: random().map_err(LinkError::Random)?.into(),
        };
        let (answer, channel, remote) = respond(identity, expect, &hello, &random)?;
        write.write_all(&answer).await?;
        write.flush().await?;
        Ok(link(read, write, channel, remote))
    })
    .await
}

async fn limited<T>(work: impl Future<Output = Result<T, LinkError>>) -> Result<T, LinkError> {
    let late = LinkError::Late { what: "the handshake", limit: HANDSHAKE_LIMIT };
    timeout(HANDSHAKE_LIMIT, work).await.unwrap_or(Err(late))
}

/// One handshake message; no legal one is longer than `limit`, and nothing longer is read.
async fn message(read: &mut (impl AsyncRead + Unpin), limit: usize) -> Result<Vec<u8>, LinkError> {
    let mut header = [0; 4];
    read.read_exact(&mut header).await?;
    let missing = match split_frame(&header, limit)? {
        Split::Incomplete { missing } => missing,
        Split::Complete { .. } => return Err(ZwingError::Format.into()),
    };
    let mut payload = vec![0; missing];
    read.read_exact(&mut payload).await?;
    Ok(payload)
}

fn link<S>(read: ReadHalf<S>, write: WriteHalf<S>, channel: Channel, remote: PublicIdentity) -> Link<S> {
    let Channel { sealer, opener } = channel;
    (
        FrameReader { stream: read, opener, sealed: Vec::new(), plain: Vec::new(), taken: 0 },
        FrameWriter { stream: write, sealer, out: Vec::new() },
        remote,
    )
}

impl<S: AsyncRead + AsyncWrite> FrameReader<S> {
    /// The next frame: type and payload. `None` at an orderly end between two frames.
    pub(super) async fn next(&mut self) -> Result<Option<(TypeOctet, Vec<u8>)>, LinkError> {
        loop {
            match zap::split_frame(&self.plain[self.taken..])? {
                Split::Complete { message, consumed } => {
                    let frame = (message.kind, message.payload.to_vec());
                    self.taken += consumed;
                    return Ok(Some(frame));
                }
                Split::Incomplete { .. } => {
                    self.plain.drain(..self.taken);
                    self.taken = 0;
                }
            }
            if !self.record().await? {
                return if self.plain.is_empty() {
                    Ok(None)
                } else {
                    Err(zap::FrameError::UnexpectedEnd.into())
                };
            }
        }
    }

    /// One more record into `plain`; `false` at the end of the stream.
    async fn record(&mut self) -> Result<bool, LinkError> {
        loop {
            if let Split::Complete { message, consumed } = split_frame(&self.sealed, MAX_FRAME)? {
                self.opener.open(message, &mut self.plain)?;
                self.sealed.drain(..consumed);
                return Ok(true);
            }
            self.sealed.reserve(64 << 10);
            if self.stream.read_buf(&mut self.sealed).await? == 0 {
                return if self.sealed.is_empty() { Ok(false) } else { Err(ZwingError::Short.into()) };
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite> FrameWriter<S> {
    /// Seals and writes whole frames, at most [`WRITE_LIMIT`] long.
    pub(super) async fn write(&mut self, frames: &[u8]) -> Result<(), LinkError> {
        self.out.clear();
        self.sealer.seal(frames, &mut self.out)?;
        let (stream, out) = (&mut self.stream, &self.out);
        let work = async {
            stream.write_all(out).await?;
            stream.flush().await
        };
        timeout(WRITE_LIMIT, work)
            .await
            .map_err(|_| LinkError::Late { what: "a write", limit: WRITE_LIMIT })??;
        // One large answer must not be carried for ever.
        self.out.shrink_to(1 << 20);
        Ok(())
    }

    /// Tells the other end that nothing follows.
    pub(super) async fn finish(mut self) {
        let _ = timeout(WRITE_LIMIT, self.stream.shutdown()).await;
    }
}
