//! One connection of the registry's TCP side: tells the mode by the first four bytes, then reads a request and writes its
//! answer until the client has enough (registry.md section 1).
//!
//! Whatever is no request (too large, cut off, no JSON object) closes the connection without an answer. A length is not
//! believed: memory grows with what arrives, and all bodies together have one budget.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use pilot_wire::registry::{
    FrameError, MAX_MESSAGE_SIZE, MSG_ERROR, MSG_JSON, Mode, VERSION, decode_message, encode_error,
    encode_frame, encode_message, unsupported_version_text,
};
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, timeout};

use super::listener::{MEMORY_UNIT, Shared};
use crate::framed::{STEP, read_body};

/// Small, as the peer's; requests rarely need more.
const READ_BUFFER: usize = 4096;
/// Requests from this size on are decoded one at a time.
const LARGE: usize = 1 << 20;
/// Rate limits look at connections older than this.
const RATE_AFTER: Duration = Duration::from_secs(5);
/// How long a connection over the first rate limit waits before an answer.
const RATE_PAUSE: Duration = Duration::from_millis(10);

/// Why a connection ends. Only the driver's log ever sees it.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("message too large: {0} bytes (max {MAX_MESSAGE_SIZE})")]
    TooLarge(usize),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Json(#[from] pilot_wire::registry::MessageError),
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
        stream: BufReader::with_capacity(READ_BUFFER, stream),
        source,
        shared,
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
    stream: BufReader<S>,
    source: SocketAddr,
    shared: &'a Shared,
    opened: Instant,
    requests: u64,
}

/// A request's body, with its share of the memory budget.
struct Body {
    bytes: Vec<u8>,
    _memory: Option<OwnedSemaphorePermit>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<'_, S> {
    async fn run(&mut self) -> Result<(), End> {
        let head = patiently(self.shared, self.head()).await?;
        match Mode::detect(head) {
            Mode::Json => self.json_mode(head).await,
            Mode::Binary => self.binary_mode().await,
        }
    }

    async fn json_mode(&mut self, mut head: [u8; 4]) -> Result<(), End> {
        loop {
            let body = patiently(self.shared, self.body(u32::from_be_bytes(head), 0)).await?;
            self.heed_rate().await?;
            let request = self.decode(&body).await?;
            drop(body);
            let answer = self.shared.desk.request(self.source, &request).await;
            let mut out = Vec::new();
            encode_message(&answer.body, &mut out)?;
            self.write(&out).await?;
            if answer.close {
                return Err(End::Done);
            }
            head = patiently(self.shared, self.head()).await?;
        }
    }

    async fn binary_mode(&mut self) -> Result<(), End> {
        let version = patiently(self.shared, async { Ok(self.stream.read_u8().await?) }).await?;
        if version != VERSION {
            self.write_frame(MSG_ERROR, &encode_error(&unsupported_version_text(version))).await?;
            return Err(End::Version(version));
        }
        loop {
            let (kind, body) = patiently(self.shared, self.frame()).await?;
            self.heed_rate().await?;
            if kind == MSG_JSON {
                check_elements(&body.bytes, self.shared.limits.request_elements)?;
            }
            let decoding = self.decoding_place(&body).await;
            let (kind, payload) = self.shared.desk.frame(self.source, kind, &body.bytes).await;
            drop((body, decoding));
            self.write_frame(kind, &payload).await?;
        }
    }

    async fn head(&mut self) -> Result<[u8; 4], End> {
        let mut head = [0; 4];
        self.stream.read_exact(&mut head).await?;
        Ok(head)
    }

    async fn frame(&mut self) -> Result<(u8, Body), End> {
        let len = self.stream.read_u32().await?;
        let kind = self.stream.read_u8().await?;
        // The length counts the type byte.
        Ok((kind, self.body(len, 1).await?))
    }

    /// Reads a body whose announced length counts `header` bytes that are read already.
    async fn body(&mut self, announced: u32, header: usize) -> Result<Body, End> {
        let announced = usize::try_from(announced).unwrap_or(usize::MAX);
        if announced > MAX_MESSAGE_SIZE {
            return Err(End::TooLarge(announced));
        }
        let len = announced.checked_sub(header).ok_or(FrameError::TooShort)?;
        let mut memory: Option<OwnedSemaphorePermit> = None;
        let mut granted = 0;
        let bytes = read_body(&mut self.stream, len, |more| {
            granted += more;
            if granted <= STEP {
                return true;
            }
            let units = u32::try_from(more.div_ceil(MEMORY_UNIT)).unwrap_or(u32::MAX);
            match self.shared.memory.clone().try_acquire_many_owned(units) {
                Ok(share) => match &mut memory {
                    Some(memory) => memory.merge(share),
                    None => memory = Some(share),
                },
                Err(_) => return false,
            }
            true
        })
        .await?;
        Ok(Body { bytes, _memory: memory })
    }

    async fn decode(&self, body: &Body) -> Result<Map<String, Value>, End> {
        check_elements(&body.bytes, self.shared.limits.request_elements)?;
        let _place = self.decoding_place(body).await;
        Ok(decode_message(&body.bytes)?)
    }

    /// A place among those who may decode a large body; small ones need none.
    async fn decoding_place(&self, body: &Body) -> Option<OwnedSemaphorePermit> {
        if body.bytes.len() < LARGE {
            return None;
        }
        // The semaphore is never closed.
        self.shared.decoding.clone().acquire_owned().await.ok()
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

    async fn write_frame(&mut self, kind: u8, payload: &[u8]) -> Result<(), End> {
        let mut out = Vec::new();
        encode_frame(kind, payload, &mut out)?;
        self.write(&out).await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), End> {
        let written = async {
            self.stream.write_all(bytes).await?;
            // TLS keeps what was not asked to be sent.
            self.stream.flush().await
        };
        timeout(self.shared.limits.write, written).await.map_err(|_| End::Stuck)??;
        Ok(())
    }
}

/// Reads something, for as long as a client may be idle and the server runs.
async fn patiently<T>(shared: &Shared, read: impl Future<Output = Result<T, End>>) -> Result<T, End> {
    let idle = shared.limits.idle;
    tokio::select! {
        biased;
        () = shared.stop.cancelled() => Err(End::Done),
        read = timeout(idle, read) => read.map_err(|_| End::Idle(idle))?,
    }
}

/// Refuses a body that would become far more values than any request has. Commas and brackets inside texts count too,
/// which only makes it stricter.
fn check_elements(body: &[u8], limit: usize) -> Result<(), End> {
    if body.len() > limit && body.iter().filter(|b| matches!(b, b',' | b'[' | b'{')).count() > limit {
        return Err(End::TooComplex(limit));
    }
    Ok(())
}
