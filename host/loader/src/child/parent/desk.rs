//! What a child may ask of its host: every call goes to the plain [`Daemon`] that the plugin was given, so whatever that
//! handle allows, counts or refuses holds for a child as well.
//!
//! Streams, listeners and subscriptions live here under numbers. All numbers are checked, all tables are bounded, and when
//! the session ends everything in them is closed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use plugin_abi::api::BoxFuture;
use plugin_abi::{Addr, Connection, Daemon, Error, ErrorKind, Listener, Result, Subscription};

use super::seat::{Seat, SeatPolicies, SeatWebhook};
use crate::child::frame::{MAX_CHUNK, Raw};
use crate::child::link::Link;
use crate::child::message::{
    Answer, Line, Mention, PANICKED, SentEvent, Service, Stream, ToHost, map_from, map_text,
};
use crate::child::services::{RemoteChecker, RemoteHandshake, serve_handshake};
use crate::child::session::{Reply, Serve};
use crate::child::watch::ChildWatch;

/// Streams that a child may hold at once.
const MAX_STREAMS: usize = 4096;
/// Listeners, and subscriptions, that a child may hold at once.
const MAX_TABLE: usize = 256;
/// Dials without a waiting thread at once.
const MAX_DIALS: usize = 256;
/// Events that go out together at most.
const MAX_EVENTS: usize = 256;
/// Bytes after which no further event is added.
const EVENT_BYTES: usize = 128 << 10;
/// Longest wait for an event in one call, so that calls of a dead child end soon.
const LONGEST_RECEIVE: Duration = Duration::from_secs(10);

/// One child's counter.
pub(in crate::child) struct Desk {
    name: String,
    seat: Arc<Seat>,
    link: Arc<Link>,
    daemon: OnceLock<Arc<dyn Daemon>>,
    streams: Table<dyn Connection>,
    listeners: Table<dyn Listener>,
    subscriptions: Table<dyn Subscription>,
    dials: Mutex<HashMap<u32, Arc<Abort>>>,
    watch: Arc<dyn ChildWatch>,
    down: AtomicBool,
    /// Held while a port is taken, so that none is taken behind the back of [`down`](Serve::down).
    binding: Mutex<()>,
    on_down: Box<dyn Fn() + Send + Sync>,
}

impl Desk {
    /// `on_down` runs once when the session has ended.
    pub fn new(
        name: &str,
        seat: Arc<Seat>,
        watch: Arc<dyn ChildWatch>,
        link: &Arc<Link>,
        on_down: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Desk {
            name: name.to_owned(),
            seat,
            link: Arc::clone(link),
            daemon: OnceLock::new(),
            streams: Table::new(MAX_STREAMS),
            listeners: Table::new(MAX_TABLE),
            subscriptions: Table::new(MAX_TABLE),
            dials: Mutex::default(),
            watch,
            down: AtomicBool::new(false),
            binding: Mutex::default(),
            on_down: Box::new(on_down),
        }
    }

    /// From now on the child may ask.
    pub fn open(&self, daemon: Arc<dyn Daemon>) {
        let _ = self.daemon.set(daemon);
    }

    /// The levels that the host's log keeps, one bit each.
    pub fn levels(&self) -> u8 {
        let Some(daemon) = self.daemon.get() else { return 0b111 };
        (1..=5u8)
            .filter(|level| daemon.log_enabled(*level, &self.name))
            .fold(0, |bits, level| bits | 1 << (level - 1))
    }

    fn stream(&self, connection: Arc<dyn Connection>) -> Answer {
        let (id, info) = (connection.id(), connection.info());
        match self.streams.put(&connection) {
            Some(handle) => {
                self.close_if_down();
                Answer::Stream(Stream::new(handle, id, info))
            }
            None => {
                connection.close();
                full("streams")
            }
        }
    }

    /// For what was put into a table after the session had ended.
    fn close_if_down(&self) {
        if self.down.load(Ordering::Acquire) {
            self.close_all();
        }
    }

    fn close_all(&self) {
        for stream in self.streams.drain() {
            stream.close();
        }
        for listener in self.listeners.drain() {
            listener.close();
        }
        for subscription in self.subscriptions.drain() {
            subscription.cancel();
        }
        let dials: Vec<_> = lock(&self.dials).drain().map(|(_, a)| a).collect();
        for dial in dials {
            dial.abort();
        }
    }

    fn bind(&self, port: u16, daemon: &dyn Daemon) -> Answer {
        let _binding = lock(&self.binding);
        if self.down.load(Ordering::Acquire) {
            return Error::new(ErrorKind::Closed, "the plugin's process has ended").into();
        }
        match daemon.ports().bind(port) {
            Err(e) => e.into(),
            Ok(listener) => match self.listeners.put(&listener) {
                Some(handle) => {
                    self.close_if_down();
                    Answer::Handle(handle)
                }
                None => full("listeners"),
            },
        }
    }

    fn read(&self, stream: u32, max: u32) -> Result<Reply> {
        let stream = self.streams.get(stream)?;
        let mut raw = vec![0; (max as usize).clamp(1, MAX_CHUNK)];
        let n = stream.read(&mut raw)?;
        raw.truncate(n);
        Ok(Reply { answer: Answer::Data, raw })
    }

    fn receive(&self, subscription: u32, timeout: Duration) -> Result<Answer> {
        let subscription = self.subscriptions.get(subscription)?;
        let (mut events, mut bytes, mut more) = (Vec::new(), 0, true);
        let mut wait = timeout.min(LONGEST_RECEIVE);
        while events.len() < MAX_EVENTS && bytes < EVENT_BYTES {
            match subscription.recv_text(wait) {
                Ok(Some(event)) => {
                    let event = SentEvent::from(event);
                    bytes += event.size();
                    events.push(event);
                }
                Ok(None) => break,
                Err(e) if e.kind() == ErrorKind::Closed => {
                    more = false;
                    break;
                }
                Err(e) => return Err(e),
            }
            // The rest only if it is there already.
            wait = Duration::ZERO;
        }
        Ok(Answer::Events { events, more })
    }

    fn dial_async(self: &Arc<Self>, id: u32, addr: Addr, port: u16, daemon: &dyn Daemon) -> Option<Reply> {
        let abort = Arc::<Abort>::default();
        {
            let mut dials = lock(&self.dials);
            if dials.len() >= MAX_DIALS {
                return Some(full("dials").into());
            }
            dials.insert(id, Arc::clone(&abort));
        }
        let (desk, future) = (Arc::clone(self), daemon.dial_async(addr, port));
        daemon.spawn(Box::pin(async move {
            let outcome = Abortable { future, abort }.await;
            lock(&desk.dials).remove(&id);
            let answer = match outcome {
                None => Error::new(ErrorKind::Closed, "the dial was cancelled").into(),
                Some(Ok(connection)) => desk.stream(connection),
                Some(Err(e)) => e.into(),
            };
            desk.link.answer(id, &answer.into());
        }));
        self.close_if_down();
        None
    }

    fn register(&self, service: Service, daemon: &dyn Daemon) {
        let seat = Arc::clone(&self.seat);
        match service {
            Service::TrustChecker => daemon.register_trust_checker(Arc::new(RemoteChecker(seat))),
            Service::Handshake => daemon.register_handshake_service(Arc::new(RemoteHandshake(seat))),
            Service::Policy => daemon.register_policy_manager(Arc::new(SeatPolicies(seat))),
            Service::Webhook => daemon.register_webhook_manager(Arc::new(SeatWebhook(seat))),
        }
    }

    /// A line that the process wrote to its standard output or error.
    pub fn output(&self, line: &str) {
        match self.daemon.get() {
            Some(daemon) => daemon.log(3, "output", line, &serde_json::Map::new()),
            None => tracing::info!(target: "plugin", plugin = self.name, at = "output", "{line}"),
        }
    }

    fn log(&self, lines: Vec<Line>, dropped: u64) {
        let Some(daemon) = self.daemon.get() else { return };
        for Line { level, target, message, fields } in lines {
            let fields = map_from(&fields).unwrap_or_default();
            daemon.log(level, &target, &message, &fields);
        }
        if dropped > 0 {
            let message =
                format!("{dropped} log lines were dropped: they came faster than they could be sent");
            daemon.log(2, "pilot_loader::child", &message, &serde_json::Map::new());
        }
    }
}

impl Serve for Arc<Desk> {
    type Call = ToHost;
    type Note = Mention;

    fn at_once(&self, call: &ToHost) -> bool {
        matches!(
            call,
            ToHost::NodeId
                | ToHost::Addr
                | ToHost::Identity
                | ToHost::Sign
                | ToHost::AdminToken
                | ToHost::DialAsync { .. }
                | ToHost::SetReadTimeout { .. }
                | ToHost::SetMemberTags { .. }
                | ToHost::HasTrustChecker
                | ToHost::HasHandshake
        )
    }

    fn serve(&self, id: u32, call: ToHost, raw: Raw) -> Result<Option<Reply>, String> {
        let Some(daemon) = self.daemon.get() else {
            return Err("the plugin asked for something before init".into());
        };
        let answer: Answer = match call {
            ToHost::NodeId => Answer::Number(daemon.node_id().into()),
            ToHost::Addr => Answer::Number(daemon.addr().to_u64()),
            ToHost::Identity => return Ok(Some(maybe_data(daemon.identity()))),
            ToHost::Sign => return Ok(Some(maybe_data(daemon.sign(&raw)))),
            ToHost::AdminToken => Answer::Text(daemon.admin_token()),
            ToHost::Dial { addr, port, timeout } => {
                let dialled = daemon.dial(Addr::from_u64(addr), port, timeout);
                dialled.map_or_else(Answer::from, |c| self.stream(c))
            }
            ToHost::DialAsync { addr, port } => {
                return Ok(self.dial_async(id, Addr::from_u64(addr), port, daemon.as_ref()));
            }
            ToHost::SendDatagram { addr, port } => {
                daemon.send_datagram(Addr::from_u64(addr), port, &raw).into()
            }
            ToHost::Read { stream, max } => {
                return Ok(Some(self.read(stream, max).unwrap_or_else(|e| Answer::from(e).into())));
            }
            ToHost::Write { stream } => self.streams.get(stream).and_then(|s| s.write(&raw)).into(),
            ToHost::SetReadTimeout { stream, timeout } => {
                self.streams.get(stream).and_then(|s| s.set_read_timeout(timeout)).into()
            }
            ToHost::Bind { port } => self.bind(port, daemon.as_ref()),
            ToHost::Unbind { port } => {
                daemon.ports().unbind(port);
                Answer::Done
            }
            ToHost::Accept { listener } => match self.listeners.get(listener) {
                Err(e) => e.into(),
                Ok(listener) => listener.accept().map_or(Answer::Nothing, |c| self.stream(c)),
            },
            ToHost::CloseListener { listener } => self.listeners.get(listener).map(|l| l.close()).into(),
            ToHost::RemovePeer { node } => {
                daemon.tunnels().remove_peer(node);
                Answer::Done
            }
            ToHost::Subscribe { pattern } => {
                let subscription = daemon.bus().subscribe(&pattern);
                match self.subscriptions.put(&subscription) {
                    Some(handle) => {
                        self.close_if_down();
                        Answer::Handle(handle)
                    }
                    None => full("subscriptions"),
                }
            }
            ToHost::Receive { subscription, timeout } => self.receive(subscription, timeout).into(),
            ToHost::RegistryCall { op, params } => {
                let asked = map_from(&params).and_then(|params| daemon.registry_call(&op, params));
                asked.and_then(|m| map_text(&m)).map(Answer::Text).into()
            }
            ToHost::ListNodes { network, token } => {
                daemon.list_nodes(network, &token).and_then(|m| map_text(&m)).map(Answer::Text).into()
            }
            ToHost::SetMemberTags { network, tags } => {
                daemon.set_member_tags(network, tags);
                Answer::Done
            }
            ToHost::HasTrustChecker => Answer::Flag(daemon.trust_checker().is_some()),
            ToHost::TrustCheck { node } => {
                Answer::Name(daemon.trust_checker().and_then(|c| c.is_trusted(node)))
            }
            ToHost::HasHandshake => Answer::Flag(daemon.handshake_service().is_some()),
            ToHost::Handshake(ask) => match daemon.handshake_service() {
                Some(service) => serve_handshake(service.as_ref(), ask),
                None => Error::new(ErrorKind::NotFound, "handshake service not registered").into(),
            },
            ToHost::Register(service) => {
                self.register(service, daemon.as_ref());
                Answer::Done
            }
            ToHost::TrustedPeers => Answer::Trusted(daemon.trusted_peers()),
            ToHost::RevokeTrust { node } => daemon.handshake_revoke_trust(node).into(),
            ToHost::SendRequest { node, reason } => daemon.handshake_send_request(node, &reason).into(),
            ToHost::OpenReplyWindow { node } => {
                daemon.open_reply_window(node);
                Answer::Done
            }
            ToHost::SetWebhookUrl { url } => {
                daemon.set_webhook_url(&url);
                Answer::Done
            }
        };
        Ok(Some(answer.into()))
    }

    fn note(&self, note: Mention) -> Result<(), String> {
        match note {
            Mention::Publish { topic, payload } => {
                let Some(daemon) = self.daemon.get() else { return Err("an event before init".into()) };
                let payload = payload.map(|p| map_from(&p)).transpose().map_err(|e| e.to_string())?;
                daemon.publish(&topic, payload);
            }
            Mention::Logs { lines, dropped } => self.log(lines, dropped),
            Mention::Fault { op, message, failed } => {
                self.watch.fault(&op, &message);
                if let Some(daemon) = self.daemon.get() {
                    daemon.report_fault(&op, &message);
                }
                if failed {
                    return Err(format!("{PANICKED}: {message}"));
                }
            }
            // Numbers that are not there any more are no breach: both sides may let go at once.
            Mention::CloseStream { stream } => {
                if let Ok(stream) = self.streams.get(stream) {
                    stream.close();
                }
            }
            Mention::ReleaseStream { stream } => drop(self.streams.remove(stream)),
            Mention::ReleaseListener { listener } => {
                if let Some(listener) = self.listeners.remove(listener) {
                    listener.close();
                }
            }
            Mention::CancelSubscription { subscription } => {
                if let Ok(subscription) = self.subscriptions.get(subscription) {
                    subscription.cancel();
                }
            }
            Mention::ReleaseSubscription { subscription } => {
                if let Some(subscription) = self.subscriptions.remove(subscription) {
                    subscription.cancel();
                }
            }
            Mention::Cancel { call } => {
                let dial = lock(&self.dials).get(&call).cloned();
                if let Some(dial) = dial {
                    dial.abort();
                }
            }
        }
        Ok(())
    }

    fn unclaimed(&self, _: Answer) {
        // Nothing that a child hands out has to be given back.
    }

    fn down(&self, _why: &str) {
        self.down.store(true, Ordering::Release);
        self.close_all();
        // A port that was being taken is free again as well: the next process will want the same ones.
        drop(lock(&self.binding));
        (self.on_down)();
    }
}

fn maybe_data<const N: usize>(data: Option<[u8; N]>) -> Reply {
    match data {
        Some(bytes) => Reply { answer: Answer::Data, raw: bytes.to_vec() },
        None => Answer::Nothing.into(),
    }
}

fn full(what: &str) -> Answer {
    Error::new(ErrorKind::Busy, format!("the plugin's process holds too many {what}")).into()
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Objects under numbers.
struct Table<T: ?Sized> {
    entries: Mutex<Entries<T>>,
    limit: usize,
}

struct Entries<T: ?Sized> {
    next: u32,
    map: HashMap<u32, Arc<T>>,
}

impl<T: ?Sized> Table<T> {
    fn new(limit: usize) -> Self {
        Table { entries: Mutex::new(Entries { next: 0, map: HashMap::new() }), limit }
    }

    /// `None` when the table is full.
    fn put(&self, object: &Arc<T>) -> Option<u32> {
        let mut entries = lock(&self.entries);
        if entries.map.len() >= self.limit {
            return None;
        }
        loop {
            entries.next = entries.next.wrapping_add(1);
            let handle = entries.next;
            if let Entry::Vacant(free) = entries.map.entry(handle) {
                free.insert(Arc::clone(object));
                return Some(handle);
            }
        }
    }

    fn get(&self, handle: u32) -> Result<Arc<T>> {
        let found = lock(&self.entries).map.get(&handle).cloned();
        found.ok_or_else(|| Error::new(ErrorKind::Closed, "there is nothing under this number any more"))
    }

    /// What was there is dropped by the caller, outside of the lock.
    fn remove(&self, handle: u32) -> Option<Arc<T>> {
        lock(&self.entries).map.remove(&handle)
    }

    fn drain(&self) -> Vec<Arc<T>> {
        lock(&self.entries).map.drain().map(|(_, o)| o).collect()
    }
}

/// Ends a future from outside.
#[derive(Default)]
struct Abort {
    aborted: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Abort {
    fn abort(&self) {
        self.aborted.store(true, Ordering::Release);
        let waker = lock(&self.waker).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// `None` when it was ended.
struct Abortable<T> {
    future: BoxFuture<T>,
    abort: Arc<Abort>,
}

impl<T> Future for Abortable<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        *lock(&self.abort.waker) = Some(cx.waker().clone());
        if self.abort.aborted.load(Ordering::Acquire) {
            return Poll::Ready(None);
        }
        self.future.as_mut().poll(cx).map(Some)
    }
}
