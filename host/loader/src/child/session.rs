//! Calls over the socket, both ways at once: the same on both ends.
//!
//! Threads take turns at reading (whoever holds the reader leads): the leader completes answers, serves what never waits,
//! and when a call arrives that may wait it hands the turn to another thread and serves the call itself. So a call costs
//! one thread wake-up on each side, and any number of calls up to the limit can wait without holding up the others.
//!
//! Everything is bounded: calls being served and the memory they hold, calls that wait for an answer, bytes on their way
//! out ([`Outbox`](super::outbox::Outbox)). What goes beyond is answered "busy"; what is no sensible message ends the session.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use plugin_abi::{Error, ErrorKind, Result};
use serde::de::DeserializeOwned;

use super::frame::{Frame, FrameError, FrameReader, Kind, Raw};
use super::link::Link;
use super::message::Answer;
use super::outbox::Patience;
use super::turns::Turns;

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
    turns: Turns,
    serving: AtomicUsize,
    serving_bytes: AtomicUsize,
    ended: Once,
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
        let shared = Arc::new(Link::new(socket.try_clone()?, limits.calls, limits.grace)?);
        let session = Arc::new(Session {
            name: name.to_owned(),
            server: server(&shared),
            limits,
            shared,
            reader: Mutex::new(FrameReader::new(socket, limits.frame)),
            // Two more than calls may be served: one leads, one waits for its turn.
            turns: Turns::new(limits.serving + 2),
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
        if !self.turns.join() {
            return false;
        }
        let session = Arc::clone(self);
        let spawned = std::thread::Builder::new()
            .name(self.name.clone())
            .stack_size(STACK)
            .spawn(move || session.take_turns())
            .is_ok();
        if !spawned {
            self.turns.withdraw();
        }
        spawned
    }

    fn take_turns(self: Arc<Self>) {
        loop {
            let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
            self.turns.took();
            let Some((id, call, raw, size)) = self.lead(&mut reader) else {
                self.turns.leave();
                return;
            };
            drop(reader);
            self.serve_and_answer(id, call, raw);
            self.serving.fetch_sub(1, Ordering::AcqRel);
            self.serving_bytes.fetch_sub(size, Ordering::AcqRel);
            if !self.turns.rejoin() {
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
                if fits && (self.turns.has_successor() || self.add_thread()) {
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
