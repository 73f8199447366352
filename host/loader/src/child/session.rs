//! Calls over the socket, both ways at once: the same on both ends.
//!
//! Threads take turns at reading (whoever holds the reader leads): the leader completes answers, serves what never waits,
//! and when a call arrives that may wait it hands the turn to another thread and serves the call itself. So a call costs
//! one thread wake-up on each side, and any number of calls up to the limit can wait without holding up the others.
//!
//! Everything is bounded: calls being served and the memory they hold, calls that wait for an answer, bytes on their way
//! out ([`Outbox`]). What goes beyond is answered "busy"; what is no sensible message ends the session.

use std::collections::HashMap;
use std::future::Future;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use plugin_abi::{Error, ErrorKind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::frame::{Frame, FrameError, FrameReader, Kind, Raw, encode};
use super::message::Answer;
use super::outbox::{Outbox, Patience, SendError};

/// Threads that wait for their turn at reading; more end when they have nothing to do.
const IDLE_THREADS: usize = 4;
/// How the reason starts when the other side closed the socket, or the system did for it.
pub(super) const SOCKET_CLOSED: &str = "the socket was closed";
/// Stack of a thread that serves calls, bytes (touched pages count, not this).
const STACK: usize = 1 << 20;

/// What one side does for the other.
pub(super) trait Serve: Send + Sync + 'static {
    /// What the other side may ask.
    type Call: DeserializeOwned + Send;
    /// What the other side may mention.
    type Note: DeserializeOwned;

    /// Whether serving this call never waits, so that the reading thread may do it.
    fn at_once(&self, call: &Self::Call) -> bool;
    /// Serves a call. `None`: [`Link::answer`] will be called later. `Err` is a breach of the protocol, which ends the
    /// session.
    fn serve(&self, id: u32, call: Self::Call, raw: Raw) -> Result<Option<Reply>, String>;
    /// Takes note; never waits. `Err` as above.
    fn note(&self, note: Self::Note) -> Result<(), String>;
    /// An answer whose caller is gone: what it hands over has to be given back.
    fn unclaimed(&self, answer: Answer);
    /// The session has ended: everything that waits on this side's objects must end as well. Called once.
    fn down(&self, why: &str);
}

/// An answer and the stream data that goes with it.
pub(super) struct Reply {
    pub answer: Answer,
    pub raw: Vec<u8>,
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        Reply { answer, raw: Vec::new() }
    }
}

/// Limits of one end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Largest frame taken, bytes.
    pub frame: usize,
    /// Calls served at once.
    pub serving: usize,
    /// Bytes of the calls served at once.
    pub serving_bytes: usize,
    /// Calls of ours that may wait for an answer at once.
    pub calls: usize,
    /// How long the other side may read nothing.
    pub stall: Duration,
    /// How long a call may stay without answer beyond its own limit before the session ends.
    pub grace: Duration,
}

/// One end of the socket.
pub(super) struct Session<S: Serve> {
    name: String,
    server: S,
    limits: Limits,
    shared: Arc<Link>,
    reader: Mutex<FrameReader<UnixStream>>,
    /// Threads that wait for the reader, the one that holds it left out.
    idle: AtomicUsize,
    threads: AtomicUsize,
    serving: AtomicUsize,
    serving_bytes: AtomicUsize,
    ended: Once,
}

/// The calling half: what proxies hold. It does not keep the session's server alive.
pub(super) struct Link {
    outbox: Outbox,
    /// For ending the reads of both sides.
    socket: UnixStream,
    pending: Mutex<Pending>,
    /// A call was answered: its place is free.
    freed: Condvar,
    down: AtomicBool,
    why: OnceLock<String>,
    limit: usize,
    grace: Duration,
}

#[derive(Default)]
struct Pending {
    calls: HashMap<u32, Arc<Slot>>,
    next: u32,
}

/// A call that waits for its answer. It stays in the table after its caller gave up, so that the late answer is known
/// for what it is, and a call that is never answered is noticed.
struct Slot {
    state: Mutex<SlotState>,
    answered: Condvar,
    overdue: Option<Instant>,
    op: &'static str,
}

#[derive(Default)]
struct SlotState {
    outcome: Option<Result<(Answer, Raw), String>>,
    waker: Option<Waker>,
    abandoned: bool,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, SlotState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the outcome back when nobody waits for it any more.
    fn complete(&self, outcome: Result<(Answer, Raw), String>) -> Option<Answer> {
        let mut state = self.lock();
        if state.abandoned {
            return outcome.ok().map(|(answer, _)| answer);
        }
        state.outcome = Some(outcome);
        let waker = state.waker.take();
        drop(state);
        self.answered.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
        None
    }
}

fn closed(why: &str) -> Error {
    Error::new(ErrorKind::Closed, why)
}

fn late(op: &str) -> Error {
    Error::new(ErrorKind::TimedOut, format!("{op}: no answer in time"))
}

/// Why a call gave nothing.
#[derive(Debug)]
pub(super) enum CallError {
    /// The other side's own answer.
    Answered(Error),
    /// No answer within the limit.
    Late(Error),
    /// The session has ended.
    Ended(Error),
}

impl From<CallError> for Error {
    fn from(e: CallError) -> Self {
        match e {
            CallError::Answered(e) | CallError::Late(e) | CallError::Ended(e) => e,
        }
    }
}

impl Link {
    /// Calls the other side and waits, for ever or until `limit` has passed.
    pub fn call<C: Serialize>(
        &self,
        op: &'static str,
        call: &C,
        raw: &[u8],
        limit: Option<Duration>,
    ) -> Result<(Answer, Raw), CallError> {
        let end = limit.and_then(|l| Instant::now().checked_add(l));
        let slot = self.send_call(op, call, raw, end)?.1;
        let mut state = slot.lock();
        loop {
            if let Some(outcome) = state.outcome.take() {
                let outcome = outcome.map_err(|why| CallError::Ended(closed(&why)))?;
                return answer(outcome).map_err(CallError::Answered);
            }
            state = match end {
                None => slot.answered.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(end) => {
                    let left = end.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        state.abandoned = true;
                        return Err(CallError::Late(late(op)));
                    }
                    slot.answered.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Calls the other side without waiting; `cancel(id)` runs when the future is dropped before the answer.
    pub fn call_async<C: Serialize>(
        self: &Arc<Self>,
        op: &'static str,
        call: &C,
        cancel: Cancel,
    ) -> Result<PendingCall, CallError> {
        let (id, slot) = self.send_call(op, call, &[], None)?;
        Ok(PendingCall { link: Arc::clone(self), id, slot, cancel, done: false })
    }

    /// Answers a call of the other side for which [`Serve::serve`] gave `None`. Never waits.
    pub fn answer(&self, id: u32, reply: &Reply) {
        if let Err(why) = self.send_answer(id, reply, Patience::None) {
            self.end(&why);
        }
    }

    fn send_answer(&self, id: u32, reply: &Reply, patience: Patience) -> Result<(), String> {
        let head = encode(Kind::Answer, id, &reply.answer, reply.raw.len())?;
        match self.outbox.send(&head, &reply.raw, patience) {
            Ok(()) | Err(SendError::Closed) => Ok(()),
            Err(SendError::Full) => Err("answers are not read".into()),
        }
    }

    /// Mentions something; waits for room only.
    pub fn note<N: Serialize>(&self, note: &N, patience: Patience) -> Result<(), SendError> {
        let frame = encode(Kind::Note, 0, note, 0).map_err(|_| SendError::Full)?;
        self.outbox.send(&frame, &[], patience)
    }

    /// Why the session ended, once it has.
    pub fn ended(&self) -> Option<&str> {
        if self.down.load(Ordering::Acquire) { self.why.get().map(String::as_str) } else { None }
    }

    /// The longest overdue call of ours, past its own limit and the grace.
    pub fn overdue(&self) -> Option<&'static str> {
        let now = Instant::now();
        let pending = self.pending();
        let late = pending.calls.values().filter_map(|s| s.overdue.map(|at| (at, s.op)));
        late.filter(|(at, _)| *at < now).min_by_key(|(at, _)| *at).map(|(_, op)| op)
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send_call<C: Serialize>(
        &self,
        op: &'static str,
        call: &C,
        raw: &[u8],
        end: Option<Instant>,
    ) -> Result<(u32, Arc<Slot>), CallError> {
        let mut pending = self.pending();
        while pending.calls.len() >= self.limit && !self.down.load(Ordering::Acquire) {
            pending = match end {
                None => self.freed.wait(pending).unwrap_or_else(PoisonError::into_inner),
                Some(end) => {
                    let left = end.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(CallError::Late(late(op)));
                    }
                    self.freed.wait_timeout(pending, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        if self.down.load(Ordering::Acquire) {
            return Err(self.has_ended());
        }
        let id = loop {
            pending.next = pending.next.wrapping_add(1);
            if !pending.calls.contains_key(&pending.next) {
                break pending.next;
            }
        };
        let slot = Arc::new(Slot {
            state: Mutex::default(),
            answered: Condvar::new(),
            overdue: end.and_then(|e| e.checked_add(self.grace)),
            op,
        });
        pending.calls.insert(id, Arc::clone(&slot));
        drop(pending);
        let sent = match encode(Kind::Call, id, call, raw.len()) {
            Err(why) => Err(CallError::Answered(Error::invalid(why))),
            Ok(head) => {
                let patience = end.map_or(Patience::Endless, Patience::Until);
                self.outbox.send(&head, raw, patience).map_err(|e| match e {
                    SendError::Full => CallError::Late(late(op)),
                    SendError::Closed => self.has_ended(),
                })
            }
        };
        match sent {
            Ok(()) => Ok((id, slot)),
            Err(e) => {
                self.forget(id);
                Err(e)
            }
        }
    }

    fn has_ended(&self) -> CallError {
        CallError::Ended(closed(self.why.get().map_or("the session has ended", String::as_str)))
    }

    fn forget(&self, id: u32) -> Option<Arc<Slot>> {
        let slot = self.pending().calls.remove(&id);
        self.freed.notify_one();
        slot
    }

    /// Ends the session: both sides' reads end, every caller gets `why`.
    fn end(&self, why: &str) {
        let _ = self.why.set(why.to_owned());
        if self.down.swap(true, Ordering::AcqRel) {
            return;
        }
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        self.outbox.close();
        let slots: Vec<_> = self.pending().calls.drain().map(|(_, s)| s).collect();
        self.freed.notify_all();
        let why = self.why.get().map_or(why, String::as_str);
        for slot in slots {
            let _ = slot.complete(Err(why.to_owned()));
        }
    }
}

/// An error answer becomes the error that it is.
fn answer((answer, raw): (Answer, Raw)) -> Result<(Answer, Raw)> {
    match answer {
        Answer::Failed { code, message } => Err(Error::new(ErrorKind::from_code(code), message)),
        answer => Ok((answer, raw)),
    }
}

/// Runs when a pending call is dropped: on an answer that was there already, or on the call's id.
pub(super) type Cancel = fn(&Link, Result<Answer, u32>);

/// An answer to come.
pub(super) struct PendingCall {
    link: Arc<Link>,
    id: u32,
    slot: Arc<Slot>,
    cancel: Cancel,
    done: bool,
}

impl Future for PendingCall {
    type Output = Result<(Answer, Raw)>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.slot.lock();
        match state.outcome.take() {
            Some(outcome) => {
                drop(state);
                self.done = true;
                Poll::Ready(outcome.map_err(|why| closed(&why)).and_then(answer))
            }
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for PendingCall {
    fn drop(&mut self) {
        if !self.done {
            let mut state = self.slot.lock();
            state.abandoned = true;
            let outcome = state.outcome.take();
            drop(state);
            match outcome {
                None => (self.cancel)(&self.link, Err(self.id)),
                Some(Ok((answer, _))) => (self.cancel)(&self.link, Ok(answer)),
                Some(Err(_)) => {}
            }
        }
    }
}

impl<S: Serve> Session<S> {
    /// Starts threads on `socket`. `server(link)` makes this end's server, which may call the other side by the link.
    pub fn start(
        name: &str,
        socket: OwnedFd,
        limits: Limits,
        server: impl FnOnce(&Arc<Link>) -> S,
    ) -> std::io::Result<Arc<Self>> {
        let socket = UnixStream::from(socket);
        let shared = Arc::new(Link {
            outbox: Outbox::new(socket.try_clone()?.into()),
            pending: Mutex::default(),
            freed: Condvar::new(),
            down: AtomicBool::new(false),
            why: OnceLock::new(),
            limit: limits.calls,
            grace: limits.grace,
            socket: socket.try_clone()?,
        });
        let session = Arc::new(Session {
            name: name.to_owned(),
            server: server(&shared),
            limits,
            shared,
            reader: Mutex::new(FrameReader::new(socket, limits.frame)),
            idle: AtomicUsize::new(0),
            threads: AtomicUsize::new(0),
            serving: AtomicUsize::new(0),
            serving_bytes: AtomicUsize::new(0),
            ended: Once::new(),
        });
        let flusher = Arc::clone(&session);
        std::thread::Builder::new().name(format!("{name} send")).stack_size(STACK).spawn(move || {
            if let Err(stall) = flusher.shared.outbox.run(flusher.limits.stall) {
                flusher.fail(&format!("nothing was read for {stall:?}"));
            }
        })?;
        if !session.add_thread() {
            session.fail("no thread for the session");
            return Err(std::io::Error::other("the system has no thread to give"));
        }
        Ok(session)
    }

    pub fn link(&self) -> &Arc<Link> {
        &self.shared
    }

    pub fn server(&self) -> &S {
        &self.server
    }

    /// Ends the session; when this returns, [`Serve::down`] has run.
    pub fn fail(&self, why: &str) {
        self.shared.end(why);
        self.ended.call_once(|| self.server.down(why));
    }

    /// Another thread that takes turns, if there may be one.
    fn add_thread(self: &Arc<Self>) -> bool {
        // Two more than calls may be served: one leads, one waits for its turn.
        if self.threads.fetch_add(1, Ordering::AcqRel) >= self.limits.serving + 2 {
            self.threads.fetch_sub(1, Ordering::AcqRel);
            return false;
        }
        let session = Arc::clone(self);
        self.idle.fetch_add(1, Ordering::AcqRel);
        let spawned = std::thread::Builder::new()
            .name(self.name.clone())
            .stack_size(STACK)
            .spawn(move || session.take_turns())
            .is_ok();
        if !spawned {
            self.idle.fetch_sub(1, Ordering::AcqRel);
            self.threads.fetch_sub(1, Ordering::AcqRel);
        }
        spawned
    }

    fn take_turns(self: Arc<Self>) {
        loop {
            let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
            self.idle.fetch_sub(1, Ordering::AcqRel);
            let Some((id, call, raw, size)) = self.lead(&mut reader) else {
                self.threads.fetch_sub(1, Ordering::AcqRel);
                return;
            };
            drop(reader);
            self.serve_and_answer(id, call, raw);
            self.serving.fetch_sub(1, Ordering::AcqRel);
            self.serving_bytes.fetch_sub(size, Ordering::AcqRel);
            // The threads that are counted here wait for the reader; one of them leads or will.
            if self.idle.fetch_add(1, Ordering::AcqRel) >= IDLE_THREADS {
                self.idle.fetch_sub(1, Ordering::AcqRel);
                self.threads.fetch_sub(1, Ordering::AcqRel);
                return;
            }
        }
    }

    /// Reads until there is a call that may wait; `None` when the session has ended.
    fn lead(self: &Arc<Self>, reader: &mut FrameReader<impl Read>) -> Option<(u32, S::Call, Raw, usize)> {
        loop {
            let frame = match reader.next() {
                Ok(frame) => frame,
                Err(FrameError::Io(e)) => {
                    let eof = e.kind() == std::io::ErrorKind::UnexpectedEof;
                    self.fail(&if eof { SOCKET_CLOSED.to_owned() } else { format!("{SOCKET_CLOSED}: {e}") });
                    return None;
                }
                Err(FrameError::Malformed(why)) => {
                    self.fail(&why);
                    return None;
                }
            };
            match self.take(frame) {
                Ok(None) => {}
                Ok(call) => return call,
                Err(why) => {
                    self.fail(&why);
                    return None;
                }
            }
            if self.shared.ended().is_some() {
                return None;
            }
        }
    }

    fn take(self: &Arc<Self>, frame: Frame) -> Result<Option<(u32, S::Call, Raw, usize)>, String> {
        let (id, size) = (frame.id, frame.size());
        match frame.kind {
            Kind::Answer => {
                let Some(slot) = self.shared.forget(id) else {
                    // Whoever ended the session emptied the table before.
                    return match self.shared.ended() {
                        Some(_) => Ok(None),
                        None => Err(format!("an answer to call {id}, which nobody made")),
                    };
                };
                if let Some(answer) = slot.complete(Ok(frame.decode()?)) {
                    self.server.unclaimed(answer);
                }
                Ok(None)
            }
            Kind::Note => {
                let (note, _) = frame.decode()?;
                self.server.note(note)?;
                Ok(None)
            }
            Kind::Call => {
                let (call, raw) = frame.decode::<S::Call>()?;
                if self.server.at_once(&call) {
                    if let Some(reply) = self.serve(id, call, raw)? {
                        self.shared.send_answer(id, &reply, Patience::None)?;
                    }
                    return Ok(None);
                }
                let calls = self.serving.fetch_add(1, Ordering::AcqRel);
                let bytes = self.serving_bytes.fetch_add(size, Ordering::AcqRel);
                let fits =
                    calls < self.limits.serving && (bytes == 0 || bytes + size <= self.limits.serving_bytes);
                // Somebody has to read while this thread serves.
                if fits && (self.idle.load(Ordering::Acquire) > 0 || self.add_thread()) {
                    return Ok(Some((id, call, raw, size)));
                }
                self.serving.fetch_sub(1, Ordering::AcqRel);
                self.serving_bytes.fetch_sub(size, Ordering::AcqRel);
                let busy = Error::new(ErrorKind::Busy, "too many calls at once");
                self.shared.send_answer(id, &Answer::from(busy).into(), Patience::None)?;
                Ok(None)
            }
        }
    }

    fn serve_and_answer(&self, id: u32, call: S::Call, raw: Raw) {
        let answered = self.serve(id, call, raw).and_then(|reply| match reply {
            Some(reply) => self.shared.send_answer(id, &reply, Patience::Endless),
            None => Ok(()),
        });
        if let Err(why) = answered {
            self.fail(&why);
        }
    }

    /// A panic of the server becomes an answer: the other side waits for one, and this thread is needed.
    fn serve(&self, id: u32, call: S::Call, raw: Raw) -> Result<Option<Reply>, String> {
        catch_unwind(AssertUnwindSafe(|| self.server.serve(id, call, raw))).unwrap_or_else(|payload| {
            // Dropping the payload could panic again.
            std::mem::forget(payload);
            tracing::error!(session = self.name, "serving a call panicked");
            Ok(Some(Answer::from(Error::new(ErrorKind::Panicked, "the call panicked")).into()))
        })
    }
}
