//! The calling half of a session: calls with a limit, calls as futures, notes.
//!
//! Any number of threads call at once, up to a limit; the session's reading threads bring the answers.

use std::collections::HashMap;
use std::future::Future;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use plugin_abi::{Error, ErrorKind, Result};
use serde::Serialize;

use super::frame::{Kind, Raw, encode};
use super::message::Answer;
use super::outbox::{Outbox, Patience, SendError};
use super::session::Reply;

/// The calling half: what proxies hold. It does not keep the session's server alive.
pub(super) struct Link {
    pub outbox: Outbox,
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
pub(super) struct Slot {
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
    pub fn complete(&self, outcome: Result<(Answer, Raw), String>) -> Option<Answer> {
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
    /// Over `socket`; at most `limit` calls wait for an answer at once.
    pub fn new(socket: UnixStream, limit: usize, grace: Duration) -> std::io::Result<Self> {
        Ok(Link {
            outbox: Outbox::new(socket.try_clone()?.into()),
            pending: Mutex::default(),
            freed: Condvar::new(),
            down: AtomicBool::new(false),
            why: OnceLock::new(),
            limit,
            grace,
            socket,
        })
    }

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

    pub fn send_answer(&self, id: u32, reply: &Reply, patience: Patience) -> Result<(), String> {
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

    pub fn forget(&self, id: u32) -> Option<Arc<Slot>> {
        let slot = self.pending().calls.remove(&id);
        self.freed.notify_one();
        slot
    }

    /// Ends the session: both sides' reads end, every caller gets `why`.
    pub fn end(&self, why: &str) {
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
