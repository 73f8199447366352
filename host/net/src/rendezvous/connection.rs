//! One connection of the registry's TCP side: tells the mode by the first four bytes, then answers requests until the
//! client has enough (registry.md section 1). Requests that have come together are worked on one after the other, and
//! their answers go out together.
//!
//! Whatever is no request (too large, cut off, no JSON object) closes the connection without an answer. A length is not
//! believed: memory grows with what arrives, and all bodies together have one budget (`intake`).

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use pilot_rendezvous::AnswerTooLarge;
use pilot_wire::registry::{
    FrameError, MAGIC, MSG_ERROR, MSG_JSON, MessageError, Mode, Split, VERSION, encode_error, encode_frame,
    split_frame, split_message, unsupported_version_text,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::intake::Intake;
use super::listener::Shared;
use super::queue::{After, Visit};
use super::replication;

/// Requests from this size on are worked on one at a time and apart from the others.
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
    #[error("{0}")]
    TooLarge(#[from] AnswerTooLarge),
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
    #[error("all connections together make more than {0} requests per second")]
    TooFastTogether(u32),
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
        visit: None,
        patience: Patience::new(shared),
        opened: Instant::now(),
        requests: 0,
        unlimited: shared.unlimited.contains(&source.ip().to_canonical()),
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
    /// What the last request travelled in, for the next one.
    visit: Option<Box<Visit>>,
    patience: Patience,
    opened: Instant,
    requests: u64,
    /// Its source is on the list of those who may ask as often as they like.
    unlimited: bool,
}

/// What ends the wait for a request: the client's time is up, or the server's.
struct Patience {
    idle: Duration,
    deadline: Instant,
    /// Goes off at the deadline or before; setting it anew for each request would cost more than most requests do.
    timer: Pin<Box<Sleep>>,
    /// Knows this connection's task from the first look on, and is looked at again when the server is stopping: looking
    /// takes locks that all connections share.
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    watching: bool,
}

impl Patience {
    fn new(shared: &Shared) -> Self {
        let idle = shared.limits.idle;
        let deadline = Instant::now() + idle;
        Self {
            idle,
            deadline,
            timer: Box::pin(sleep_until(deadline)),
            stop: Box::pin(shared.stop.token().cancelled_owned()),
            watching: false,
        }
    }

    /// The next request has its whole time before it.
    fn renew(&mut self) {
        self.deadline = Instant::now() + self.idle;
    }

    fn poll_end(&mut self, stopping: bool, cx: &mut Context<'_>) -> Poll<End> {
        if !self.watching || stopping {
            self.watching = true;
            if self.stop.as_mut().poll(cx).is_ready() {
                return Poll::Ready(End::Done);
            }
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= self.deadline {
                return Poll::Ready(End::Idle(self.idle));
            }
            self.timer.as_mut().reset(self.deadline);
        }
        Poll::Pending
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
            let len = body.len();
            self.heed_rate().await?;
            self.ask(None, len, consumed).await?;
        }
    }

    /// Hands in the request at the front of the intake, `consumed` bytes of which the last `len` are its body.
    async fn ask(&mut self, frame: Option<u8>, len: usize, consumed: usize) -> Result<(), End> {
        let mut visit = self.visit.take().unwrap_or_else(|| Box::new(Visit::of(self.source)));
        visit.frame = frame;
        (visit.head, visit.request) = (consumed - len, consumed);
        std::mem::swap(&mut visit.intake, &mut self.intake);
        std::mem::swap(&mut visit.out, &mut self.out);
        let desk = &self.shared.desk;
        let over = if len < LARGE {
            desk.ask(visit).await
        } else {
            // The semaphore is never closed.
            let _place = self.shared.decoding.acquire().await;
            desk.ask_alone(visit).await
        };
        let (mut visit, after) = over.ok_or(End::Done)?;
        std::mem::swap(&mut visit.intake, &mut self.intake);
        std::mem::swap(&mut visit.out, &mut self.out);
        self.visit = Some(visit);
        self.intake.consume(consumed);
        match after {
            After::Next => self.answered().await,
            After::Close => Err(End::Done),
            After::Unreadable(e) => Err(e.into()),
            After::TooLarge(e) => Err(e.into()),
            After::Feed => {
                self.send().await?;
                replication::feed(&mut self.stream, self.shared).await?;
                Err(End::Done)
            }
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
            if let Some((kind, answer)) = self.shared.desk.read_frame(kind, payload) {
                self.intake.consume(consumed);
                encode_frame(kind, &answer, &mut self.out)?;
                self.answered().await?;
                continue;
            }
            if kind == MSG_JSON {
                check_elements(payload, self.shared.limits.request_elements)?;
            }
            self.ask(Some(kind), len, consumed).await?;
        }
    }

    /// Sends the answers there are and waits for some of the `missing` bytes of a request.
    async fn receive(&mut self, missing: usize) -> Result<(), End> {
        self.send().await?;
        if !self.intake.make_room(missing, &self.shared.memory) {
            return Err(End::Memory);
        }
        let stop = &self.shared.stop;
        if stop.has_begun() {
            return Err(End::Done);
        }
        let mut read = pin!(self.intake.read(&mut self.stream));
        let patience = &mut self.patience;
        // What there is comes first; only who has to wait looks at the clock.
        poll_fn(|cx| match read.as_mut().poll(cx) {
            Poll::Ready(read) => Poll::Ready(read.map_err(End::from)),
            Poll::Pending => patience.poll_end(stop.has_begun(), cx).map(Err),
        })
        .await
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
        if self.unlimited {
            return Ok(());
        }
        let age = self.opened.elapsed();
        if age < RATE_AFTER {
            return Ok(());
        }
        if let Some(limit) = self.shared.limits.close_above_together
            && !self.shared.together.count(limit)
        {
            return Err(End::TooFastTogether(limit));
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

/// Requests of the present second, over all connections.
#[derive(Debug)]
pub(super) struct Together {
    started: Instant,
    /// The second since then, and behind it how many.
    second: AtomicU64,
}

impl Default for Together {
    fn default() -> Self {
        Self { started: Instant::now(), second: AtomicU64::default() }
    }
}

impl Together {
    /// Counts one more; whether it is among the first `limit` of its second.
    fn count(&self, limit: u32) -> bool {
        let now = self.started.elapsed().as_secs() << 32;
        let next = |seen: u64| Some(if seen >> 32 == now >> 32 { seen.saturating_add(1) } else { now | 1 });
        // It always takes place. A count runs into the next second only at four billion requests.
        let before = self.second.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        let (Ok(before) | Err(before)) = before;
        before >> 32 != now >> 32 || before & u64::from(u32::MAX) < u64::from(limit)
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

#[cfg(test)]
mod tests {
    use pilot_rendezvous::{Registry, Settings};
    use pilot_wire::registry::{MSG_LOOKUP, PREAMBLE, encode_lookup_req};
    use tokio::io::{AsyncReadExt, DuplexStream, duplex};
    use tokio_util::task::TaskTracker;

    use super::super::config::Limits;
    use super::super::desk::Desk;
    use super::super::stop::Stop;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_together_have_so_many_a_second() {
        let together = Together::default();
        for _ in 0..3 {
            assert_eq!([0; 5].map(|_| together.count(4)), [true, true, true, true, false]);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
    }

    /// A connection on a paused clock.
    struct Client(DuplexStream);

    impl Client {
        async fn new(limits: Limits, unlimited: bool) -> Self {
            let source: SocketAddr = "192.0.2.1:4000".parse().unwrap();
            let (desk, errands) = Desk::new(Registry::new(Settings::default()), None);
            let unlimited = if unlimited { vec![source.ip()] } else { Vec::new() };
            let (tasks, stop) = (TaskTracker::new(), Stop::default());
            let shared = Shared::new(std::sync::Arc::new(desk), limits, unlimited, tasks, stop);
            let (mut client, server) = duplex(4096);
            tokio::spawn(async move {
                serve(server, source, &shared).await;
                drop(errands);
            });
            client.write_all(&PREAMBLE).await.unwrap();
            Self(client)
        }

        /// Asks so often; gives how many answers came before the connection was closed.
        async fn ask(&mut self, times: usize) -> usize {
            let mut request = Vec::new();
            encode_frame(MSG_LOOKUP, &encode_lookup_req(7), &mut request).unwrap();
            for done in 0..times {
                if self.0.write_all(&request).await.is_err() {
                    return done;
                }
                let Ok(len) = self.0.read_u32().await else { return done };
                let mut answer = vec![0; usize::try_from(len).unwrap()];
                self.0.read_exact(&mut answer).await.unwrap();
            }
            times
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_too_often_is_slowed_down_and_then_let_go() {
        let mut client = Client::new(Limits::default(), false).await;
        assert_eq!(client.ask(700).await, 700, "the first seconds count afterwards only");
        tokio::time::advance(Duration::from_secs(6)).await;
        let before = Instant::now();
        assert_eq!(client.ask(1).await, 1);
        assert!(before.elapsed() >= RATE_PAUSE);

        let mut client = Client::new(Limits::default(), false).await;
        assert_eq!(client.ask(3_000).await, 3_000);
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(client.ask(1).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn all_old_connections_share_one_limit() {
        let limits = Limits { close_above_together: Some(3), ..Limits::default() };
        let mut client = Client::new(limits, false).await;
        assert_eq!(client.ask(10).await, 10, "young ones are not counted");
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(client.ask(10).await, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn listed_sources_have_no_limit() {
        let limits = Limits { close_above_together: Some(3), ..Limits::default() };
        let mut client = Client::new(limits, true).await;
        assert_eq!(client.ask(3_000).await, 3_000);
        tokio::time::advance(Duration::from_secs(6)).await;
        let before = Instant::now();
        assert_eq!(client.ask(10).await, 10);
        assert_eq!(before.elapsed(), Duration::ZERO);
    }
}
