//! Requests of all connections on their way to the registry, many at a time: dozens of signatures checked together take
//! less than half of what they take one by one, the registry's lock is taken once for all, and so is the store's order.
//!
//! Connections put a [`Visit`] in and get it back with the answer. A connection has at most one here, so the queue is as
//! bounded as the number of connections. One task per core takes visits from it; before it does, it lets everything run
//! that is ready to, so that under load visits come together by themselves and without load none has to wait. What is
//! done with them is the desk's business.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use pilot_rendezvous::{AnswerTooLarge, Query};
use pilot_wire::gojson;
use pilot_wire::registry::{MSG_JSON, MessageError};
use tokio::sync::{Notify, oneshot};

use super::intake::Intake;

/// Visits worked on together; signatures of as many keep a core busy for about three milliseconds. From about a hundred
/// on their calculation changes to one that gets cheaper with each further one.
const BATCH: usize = 128;

/// A second task begins only when so many are waiting: a signature checked with few others costs more.
const WORTH: usize = 16;

/// One request of a connection, with the connection's buffers, which go there and back.
#[derive(Debug)]
pub(super) struct Visit {
    /// Where the connection comes from.
    pub source: SocketAddr,
    /// `None`: JSON mode; otherwise the type of the frame.
    pub frame: Option<u8>,
    /// The request stands at the front, `request` bytes with `head` before its body.
    pub intake: Intake,
    pub head: usize,
    pub request: usize,
    /// Answers; the next one goes behind them.
    pub out: Vec<u8>,
}

impl Visit {
    /// One without a request.
    pub fn of(source: SocketAddr) -> Self {
        Self { source, frame: None, intake: Intake::default(), head: 0, request: 0, out: Vec::new() }
    }

    fn body(&self) -> &[u8] {
        self.intake.pending().get(self.head..self.request).unwrap_or_default()
    }

    /// The body as text, when it is JSON.
    pub fn text(&self) -> Cow<'_, str> {
        if matches!(self.frame, None | Some(MSG_JSON)) { gojson::readable(self.body()) } else { "".into() }
    }

    /// The request; `text` is what [`text`](Self::text) gave.
    pub fn query<'a>(&'a self, text: &'a str) -> Result<Query<'a>, MessageError> {
        match self.frame {
            None => Query::message(text),
            Some(MSG_JSON) => Ok(Query::json_frame(text)),
            Some(kind) => Ok(Query::frame(kind, self.body())),
        }
    }
}

/// What becomes of a connection behind its visit.
#[derive(Debug)]
pub(super) enum After {
    /// The next request.
    Next,
    /// The answer goes out, then it is closed.
    Close,
    /// It has become a standby that is fed.
    Feed,
    /// The request was no message.
    Unreadable(MessageError),
    /// There is an answer, but not one that could be sent.
    TooLarge(AnswerTooLarge),
}

/// A visit that is over.
pub(super) type Done = (Box<Visit>, After);

/// A visit and whom to give it back to.
#[derive(Debug)]
pub(super) struct Waiting {
    pub visit: Box<Visit>,
    pub done: oneshot::Sender<Done>,
}

impl Waiting {
    /// A visit, and the news that it is over; none when the server stops first.
    pub fn new(visit: Box<Visit>) -> (Self, oneshot::Receiver<Done>) {
        let (done, over) = oneshot::channel();
        (Self { visit, done }, over)
    }
}

/// Visits that nobody works on yet.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<VecDeque<Waiting>>,
    filled: Notify,
    /// Tasks that work on visits.
    working: AtomicUsize,
}

/// A task's turn, from taking visits until they are done.
#[derive(Debug)]
pub(super) struct Turn<'a>(&'a Queue);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.working.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Queue {
    pub fn put(&self, waiting: Waiting) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back(waiting);
        self.filled.notify_one();
    }

    /// Waits until there are visits.
    pub async fn filled(&self) {
        self.filled.notified().await;
        tokio::task::yield_now().await;
    }

    /// As many as are worked on together; `None` when there are none, or when it is better to leave the few there are to a
    /// task that is at work and will come back for them.
    pub fn take(&self) -> Option<(Vec<Waiting>, Turn<'_>)> {
        let (batch, more) = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let least = if self.working.load(Ordering::Relaxed) > 0 { WORTH } else { 1 };
            if waiting.len() < least {
                return None;
            }
            // Counted under the lock, and so is the look at it.
            self.working.fetch_add(1, Ordering::Relaxed);
            let len = waiting.len().min(BATCH);
            (waiting.drain(..len).collect::<Vec<_>>(), !waiting.is_empty())
        };
        if more {
            // Another task may take these meanwhile.
            self.filled.notify_one();
        }
        Some((batch, Turn(self)))
    }
}
