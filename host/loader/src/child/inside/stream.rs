//! Streams, listeners, ports, tunnels and the bus in the child: numbers of objects that the host holds.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use plugin_abi::{
    Connection, ConnectionInfo, Error, ErrorKind, Event, EventBus, EventText, Listener, PortAllocator,
    Result, Subscription, TunnelRegistry,
};
use serde_json::{Map, Value};

use super::daemon::publish;
use crate::child::frame::MAX_CHUNK;
use crate::child::link::Link;
use crate::child::message::{self, Answer, Mention, ToHost, map_from, odd, unpack};
use crate::child::outbox::Patience;

/// One `write` to the host at most, bytes: several calls share the socket.
const WRITE: usize = 64 << 10;

pub(super) struct ChildStream {
    link: Arc<Link>,
    handle: u32,
    id: u32,
    info: ConnectionInfo,
}

impl ChildStream {
    pub fn adopt(link: &Arc<Link>, stream: &message::Stream) -> Arc<dyn Connection> {
        Arc::new(ChildStream {
            link: Arc::clone(link),
            handle: stream.handle,
            id: stream.id,
            info: stream.info(),
        })
    }
}

impl Connection for ChildStream {
    fn id(&self) -> u32 {
        self.id
    }

    fn info(&self) -> ConnectionInfo {
        self.info
    }

    fn read(&self, buf: &mut [u8]) -> Result<usize> {
        let max = u32::try_from(buf.len().min(MAX_CHUNK)).unwrap_or(u32::MAX);
        if max == 0 {
            return Ok(0);
        }
        match self.link.call("read", &ToHost::Read { stream: self.handle, max }, &[], None)? {
            (Answer::Data, raw) => {
                let n = raw.len().min(buf.len());
                buf[..n].copy_from_slice(&raw[..n]);
                Ok(n)
            }
            _ => odd("read"),
        }
    }

    fn write(&self, data: &[u8]) -> Result<()> {
        for piece in data.chunks(WRITE) {
            let answer = self.link.call("write", &ToHost::Write { stream: self.handle }, piece, None);
            unpack!(answer.map_err(Error::from), "write", Answer::Done => ())?;
        }
        Ok(())
    }

    fn set_read_timeout(&self, timeout: Option<Duration>) -> Result<()> {
        let ask = ToHost::SetReadTimeout { stream: self.handle, timeout };
        let answer = self.link.call("set_read_timeout", &ask, &[], None);
        unpack!(answer.map_err(Error::from), "set_read_timeout", Answer::Done => ())
    }

    fn close(&self) {
        let _ = self.link.note(&Mention::CloseStream { stream: self.handle }, Patience::Endless);
    }
}

impl Drop for ChildStream {
    fn drop(&mut self) {
        let _ = self.link.note(&Mention::ReleaseStream { stream: self.handle }, Patience::Endless);
    }
}

pub(super) struct ChildPorts(pub Arc<Link>);

impl PortAllocator for ChildPorts {
    fn bind(&self, port: u16) -> Result<Arc<dyn Listener>> {
        let answer = self.0.call("bind", &ToHost::Bind { port }, &[], None).map_err(Error::from);
        let handle = unpack!(answer, "bind", Answer::Handle(handle) => handle)?;
        Ok(Arc::new(ChildListener { link: Arc::clone(&self.0), handle, port }))
    }

    fn unbind(&self, port: u16) {
        let _ = self.0.call("unbind", &ToHost::Unbind { port }, &[], None);
    }
}

struct ChildListener {
    link: Arc<Link>,
    handle: u32,
    port: u16,
}

impl Listener for ChildListener {
    fn port(&self) -> u16 {
        self.port
    }

    fn accept(&self) -> Option<Arc<dyn Connection>> {
        match self.link.call("accept", &ToHost::Accept { listener: self.handle }, &[], None) {
            Ok((Answer::Stream(stream), _)) => Some(ChildStream::adopt(&self.link, &stream)),
            _ => None,
        }
    }

    fn close(&self) {
        let _ = self.link.call("close", &ToHost::CloseListener { listener: self.handle }, &[], None);
    }
}

impl Drop for ChildListener {
    fn drop(&mut self) {
        let _ = self.link.note(&Mention::ReleaseListener { listener: self.handle }, Patience::Endless);
    }
}

pub(super) struct ChildTunnels(pub Arc<Link>);

impl TunnelRegistry for ChildTunnels {
    fn remove_peer(&self, node: u32) {
        let _ = self.0.call("remove_peer", &ToHost::RemovePeer { node }, &[], None);
    }
}

pub(super) struct ChildBus(pub Arc<Link>);

impl EventBus for ChildBus {
    fn publish(&self, topic: &str, payload: Option<Map<String, Value>>) {
        publish(&self.0, topic, payload);
    }

    fn subscribe(&self, pattern: &str) -> Arc<dyn Subscription> {
        let ask = ToHost::Subscribe { pattern: pattern.to_owned() };
        let answer = self.0.call("subscribe", &ask, &[], None).map_err(Error::from);
        let handle = unpack!(answer, "subscribe", Answer::Handle(handle) => handle);
        if let Err(e) = &handle {
            tracing::warn!(pattern, error = %e, "no subscription");
        }
        Arc::new(ChildSubscription {
            link: Arc::clone(&self.0),
            handle: handle.ok(),
            fetched: Mutex::default(),
        })
    }
}

/// Events are fetched several at a time; those that were not read yet wait here, at most one answer's worth. The buffer
/// of the contract is the host's.
struct ChildSubscription {
    link: Arc<Link>,
    /// `None`: the host gave none; it is as if cancelled.
    handle: Option<u32>,
    fetched: Mutex<Fetched>,
}

#[derive(Default)]
struct Fetched {
    events: VecDeque<EventText>,
    ended: bool,
}

fn cancelled() -> Error {
    Error::new(ErrorKind::Closed, "subscription cancelled")
}

impl Subscription for ChildSubscription {
    fn recv(&self, timeout: Duration) -> Result<Option<Event>> {
        let Some(event) = self.recv_text(timeout)? else { return Ok(None) };
        let payload = event.payload.as_deref().map(map_from).transpose()?;
        Ok(Some(Event { topic: event.topic, node_id: event.node_id, time: event.time, payload }))
    }

    fn recv_text(&self, timeout: Duration) -> Result<Option<EventText>> {
        let Some(subscription) = self.handle else { return Err(cancelled()) };
        let end = Instant::now().checked_add(timeout);
        loop {
            {
                let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(event) = fetched.events.pop_front() {
                    return Ok(Some(event));
                }
                if fetched.ended {
                    return Err(cancelled());
                }
            }
            let left = end.map_or(Duration::MAX, |e| e.saturating_duration_since(Instant::now()));
            let ask = ToHost::Receive { subscription, timeout: left };
            let answer = self.link.call("recv", &ask, &[], None).map_err(Error::from);
            let (events, more) = unpack!(answer, "recv", Answer::Events { events, more } => (events, more))?;
            let nothing = events.is_empty();
            let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
            fetched.ended |= !more;
            fetched.events.extend(events.into_iter().map(message::SentEvent::into_event));
            // The host may give up earlier than asked, and another thread may have been quicker.
            if nothing && !fetched.ended && end.is_some_and(|e| e <= Instant::now()) {
                return Ok(None);
            }
        }
    }

    fn cancel(&self) {
        if let Some(subscription) = self.handle {
            let _ = self.link.note(&Mention::CancelSubscription { subscription }, Patience::Endless);
        }
    }
}

impl Drop for ChildSubscription {
    fn drop(&mut self) {
        if let Some(subscription) = self.handle {
            let _ = self.link.note(&Mention::ReleaseSubscription { subscription }, Patience::Endless);
        }
    }
}
