//! One connection of the registry's TCP side: tells the mode by the first four bytes, then answers requests until the
//! client has enough (registry.md section 1). Requests that have come together are worked on one after the other, and
//! their answers go out together.
//!
//! Whatever is no request (too large, cut off, no JSON object) closes the connection without an answer. A length is not
//! believed: memory grows with what arrives, and all bodies together have one budget (`intake`).

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use pilot_wire::registry::{
    FrameError, MAGIC, MSG_ERROR, MSG_JSON, MessageError, Mode, Split, VERSION, decode_message, encode_error,
    encode_frame, encode_message, split_frame, split_message, unsupported_version_text,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::intake::Intake;
use super::listener::Shared;
use super::replication;

/// Requests from this size on are decoded one at a time.
const LARGE: usize = 1 << 20;
/// Answers wait for each other up to this many bytes.
const TOGETHER: usize = 64 << 10;
/// An answer buffer larger than this is not kept for the next one.
const KEPT: usize = 4 << 10;
/// Rate limits look at connections older than this.
const RATE_AFTER: Duration = Duration::from_secs(5);
/// How long a connection over the first rate limit waits before an answer.
const RATE_PAUSE: Duration = Duration::from_millis(10);

/// Why a connection ends. Only the driver's log ever sees it.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Json(#[from] MessageError),
    #[error("all large requests together are too large")]
    Memory,
    #[error("more than {0} members and elements in one request")]
    TooComplex(usize),
    #[error("no request for {0:?}")]
    Idle(Duration),
    #[error("the client does not take its answer")]
    Stuck,
    #[error("more than {0} requests per second")]
    TooFast(u32),
    #[error("unsupported wire version {0}")]
    Version(u8),
    #[error("done")]
    Done,
}

/// Serves one connection to its end, or to the server's: a request that is being worked on is still answered.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(stream: S, source: SocketAddr, shared: &Shared) {
    let mut connection = Connection {
        stream,
        source,
        shared,
        intake: Intake::default(),
        out: Vec::new(),
        patience: Patience::new(shared),
        opened: Instant::now(),
        requests: 0,
    };
    match connection.run().await {
        Err(End::Io(e)) if e.kind() == io::ErrorKind::UnexpectedEof => {}
        Err(end) => tracing::debug!(%source, reason = %end, "rendezvous: connection closed"),
        Ok(()) => {}
    }
}

struct Connection<'a, S> {
    stream: S,
    source: SocketAddr,
    shared: &'a Shared,
    intake: Intake,
    /// Answers to send.
    out: Vec<u8>,
    patience: Patience,
    opened: Instant,
    requests: u64,
}

/// What ends the wait for a request: the client's time is up, or the server's.
struct Patience {
    idle: Duration,
    deadline: Instant,
    /// Goes off at the deadline or before; setting it anew for each request would cost more than most requests do.
    timer: Pin<Box<Sleep>>,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Patience {
    fn new(shared: &Shared) -> Self {
        let idle = shared.limits.idle;
        let deadline = Instant::now() + idle;
        Self {
            idle,
            deadline,
            timer: Box::pin(sleep_until(deadline)),
            stop: Box::pin(shared.stop.clone().cancelled_owned()),
        }
    }

    /// The next request has its whole time before it.
    fn renew(&mut self) {
        self.deadline = Instant::now() + self.idle;
    }

    async fn end(&mut self) -> End {
        loop {
            tokio::select! {
                biased;
                () = &mut self.stop => return End::Done,
                () = &mut self.timer => {}
            }
            if Instant::now() >= self.deadline {
                return End::Idle(self.idle);
            }
            self.timer.as_mut().reset(self.deadline);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<'_, S> {
    async fn run(&mut self) -> Result<(), End> {
        let end = self.serve().await;
        // What was asked before the end is answered still.
        self.send().await?;
        end
    }

    async fn serve(&mut self) -> Result<(), End> {
        let head = loop {
            match self.intake.pending().first_chunk() {
                Some(head) => break *head,
                None => self.receive(MAGIC.len() - self.intake.pending().len()).await?,
            }
        };
        match Mode::detect(head) {
            Mode::Json => self.json_mode().await,
            Mode::Binary => self.binary_mode(head.len()).await,
        }
    }

    async fn json_mode(&mut self) -> Result<(), End> {
        loop {
            let (body, consumed) = match split_message(self.intake.pending())? {
                Split::Complete { message, consumed } => (message, consumed),
                Split::Incomplete { missing } => {
                    self.receive(missing).await?;
                    continue;
                }
            };
            check_elements(body, self.shared.limits.request_elements)?;
            let request = {
                let _place = decoding_place(self.shared, body.len()).await;
                decode_message(body)?
            };
            self.intake.consume(consumed);
            self.heed_rate().await?;
            let answer = self.shared.desk.request(self.source, &request).await;
            if answer.subscribed {
                self.send().await?;
                replication::feed(&mut self.stream, self.shared).await?;
                return Err(End::Done);
            }
            encode_message(&answer.body, &mut self.out)?;
            if answer.close {
                return Err(End::Done);
            }
            self.answered().await?;
        }
    }

    async fn binary_mode(&mut self, preamble: usize) -> Result<(), End> {
        self.intake.consume(preamble);
        let version = loop {
            match self.intake.pending().first() {
                Some(version) => break *version,
                None => self.receive(1).await?,
            }
        };
        self.intake.consume(1);
        if version != VERSION {
            encode_frame(MSG_ERROR, &encode_error(&unsupported_version_text(version)), &mut self.out)?;
            return Err(End::Version(version));
        }
        loop {
            let (kind, len, consumed) = match split_frame(self.intake.pending())? {
                Split::Complete { message: (kind, payload), consumed } => (kind, payload.len(), consumed),
                Split::Incomplete { missing } => {
                    self.receive(missing).await?;
                    continue;
                }
            };
            self.heed_rate().await?;
            let payload = &self.intake.pending()[consumed - len..consumed];
            if kind == MSG_JSON {
                check_elements(payload, self.shared.limits.request_elements)?;
            }
            let place = decoding_place(self.shared, len).await;
            let (kind, answer) = self.shared.desk.frame(self.source, kind, payload).await;
            drop(place);
            self.intake.consume(consumed);
            encode_frame(kind, &answer, &mut self.out)?;
            self.answered().await?;
        }
    }

    /// Sends the answers there are and waits for some of the `missing` bytes of a request.
    async fn receive(&mut self, missing: usize) -> Result<(), End> {
        self.send().await?;
        if !self.intake.make_room(missing, &self.shared.memory) {
            return Err(End::Memory);
        }
        tokio::select! {
            biased;
            end = self.patience.end() => Err(end),
            read = self.intake.read(&mut self.stream) => Ok(read?),
        }
    }

    /// One request is done.
    async fn answered(&mut self) -> Result<(), End> {
        self.patience.renew();
        if self.out.len() >= TOGETHER { self.send().await } else { Ok(()) }
    }

    /// Sends the answers there are.
    async fn send(&mut self) -> Result<(), End> {
        if self.out.is_empty() {
            return Ok(());
        }
        // Taken, so that what failed is not tried again.
        let mut out = std::mem::take(&mut self.out);
        // Nearly always the system takes all at once, and no timer is needed.
        let stream = &mut self.stream;
        let sent = poll_fn(|cx| match Pin::new(&mut *stream).poll_write(cx, &out) {
            Poll::Pending => Poll::Ready(Ok(0)),
            ready @ Poll::Ready(_) => ready,
        })
        .await?;
        let rest = async {
            self.stream.write_all(&out[sent..]).await?;
            // TLS keeps what was not asked to be sent.
            self.stream.flush().await
        };
        if sent < out.len() {
            timeout(self.shared.limits.write, rest).await.map_err(|_| End::Stuck)??;
        } else {
            rest.await?;
        }
        if out.capacity() <= KEPT {
            out.clear();
            self.out = out;
        }
        Ok(())
    }

    /// Counts a request, and slows down or ends a connection that makes too many.
    async fn heed_rate(&mut self) -> Result<(), End> {
        self.requests += 1;
        let age = self.opened.elapsed();
        if age < RATE_AFTER {
            return Ok(());
        }
        let over = |per_second: u32| self.requests > u64::from(per_second).saturating_mul(age.as_secs());
        if over(self.shared.limits.close_above) {
            return Err(End::TooFast(self.shared.limits.close_above));
        }
        if over(self.shared.limits.slow_above) {
            sleep(RATE_PAUSE).await;
        }
        Ok(())
    }
}

/// A place among those who may decode a large body; small ones need none.
async fn decoding_place(shared: &Shared, len: usize) -> Option<OwnedSemaphorePermit> {
    if len < LARGE {
        return None;
    }
    // The semaphore is never closed.
    shared.decoding.clone().acquire_owned().await.ok()
}

/// Refuses a body that would become far more values than any request has. Commas and brackets inside texts count too,
/// which only makes it stricter.
fn check_elements(body: &[u8], limit: usize) -> Result<(), End> {
    if body.len() > limit && body.iter().filter(|b| matches!(b, b',' | b'[' | b'{')).count() > limit {
        return Err(End::TooComplex(limit));
    }
    Ok(())
}
