//! Streams, listeners, ports, tunnels and the bus in the treaty's terms.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pilot_net::bus::{BusEvent, BusSubscription};
use pilot_net::node::{DialError, Listener, ReadError, Stream, WriteError};
use pilot_net::queue::Waited;
use pilot_wire::addr::Addr as WireAddr;
use plugin_abi::{
    Addr, Connection, ConnectionInfo, Error, ErrorKind, Event, EventBus, EventText, PortAllocator, Result,
    Subscription, TunnelRegistry,
};
use serde_json::{Map, Value};

use super::Instance;
use super::claims::{MAX_PORTS, MAX_SUBSCRIPTIONS};
use super::plugins::Record;
use crate::capability::Action;

/// The treaty's spelling of an address.
pub fn to_abi_addr(a: WireAddr) -> Addr {
    Addr { network: a.network, node: a.node }
}

/// The wire's spelling of an address.
pub fn to_wire_addr(a: Addr) -> WireAddr {
    WireAddr { network: a.network, node: a.node }
}

/// The kind by the text, which is the engine's contract with its callers (stream.md section 8).
pub(super) fn dial_error(e: DialError) -> Error {
    let text = e.to_string();
    let kind = if text == "connection refused" {
        ErrorKind::Refused
    } else if text.starts_with("dial timeout") {
        ErrorKind::TimedOut
    } else if text.contains("not allowed by network") {
        ErrorKind::Denied
    } else if text.contains("registry") {
        ErrorKind::Registry
    } else {
        ErrorKind::Other
    };
    Error::new(kind, text)
}

pub(super) fn connection(stream: Stream) -> Arc<dyn Connection> {
    Arc::new(HostConnection { stream })
}

struct HostConnection {
    stream: Stream,
}

impl Connection for HostConnection {
    fn id(&self) -> u32 {
        self.stream.id()
    }

    fn info(&self) -> ConnectionInfo {
        let i = self.stream.info();
        ConnectionInfo {
            local: to_abi_addr(i.local),
            local_port: i.local_port,
            remote: to_abi_addr(i.remote),
            remote_port: i.remote_port,
        }
    }

    fn read(&self, buf: &mut [u8]) -> Result<usize> {
        self.stream.read_blocking(buf).map_err(|e| match e {
            ReadError::TimedOut => Error::new(ErrorKind::TimedOut, e.to_string()),
            ReadError::Broken(_) => Error::new(ErrorKind::Closed, e.to_string()),
        })
    }

    fn write(&self, data: &[u8]) -> Result<()> {
        self.stream.write_blocking(bytes::Bytes::copy_from_slice(data)).map_err(|e| match e {
            WriteError::Full => Error::new(ErrorKind::Busy, e.to_string()),
            WriteError::Closed | WriteError::Broken(_) => Error::new(ErrorKind::Closed, e.to_string()),
        })
    }

    fn set_read_timeout(&self, timeout: Option<Duration>) -> Result<()> {
        self.stream.set_read_timeout(timeout);
        Ok(())
    }

    fn close(&self) {
        self.stream.close();
    }
}

pub(super) struct Ports {
    pub(super) instance: Arc<Instance>,
}

fn denied_when_retired(instance: &Instance) -> Result<()> {
    match instance.claims.is_retired() {
        true => Err(Error::new(ErrorKind::Closed, "this instance of the plugin was replaced or stopped")),
        false => Ok(()),
    }
}

impl PortAllocator for Ports {
    fn bind(&self, port: u16) -> Result<Arc<dyn plugin_abi::Listener>> {
        let Instance { core, record, claims, .. } = self.instance.as_ref();
        record.check("bind", record.rules.bind(port))?;
        denied_when_retired(&self.instance)?;
        let listener = match claims.kept_listener(port) {
            Some(listener) => listener,
            None => {
                let node = core.node.clone();
                core.wait(async move { node.bind(port).await })
                    .ok_or_else(|| Error::new(ErrorKind::Closed, "the host is shut down"))?
                    .map_err(|e| Error::new(ErrorKind::AlreadyExists, e.to_string()))?
            }
        };
        let listener = Arc::new(listener);
        if !claims.add_listener(&listener) {
            let text = format!("plugin \"{}\" holds {MAX_PORTS} ports, which is the limit", record.name);
            return Err(record.refuse("bind", ErrorKind::Busy, text));
        }
        Ok(Arc::new(HostListener { listener }))
    }

    fn unbind(&self, port: u16) {
        self.instance.claims.close_port(port);
    }
}

struct HostListener {
    listener: Arc<Listener>,
}

impl plugin_abi::Listener for HostListener {
    fn port(&self) -> u16 {
        self.listener.port()
    }

    fn accept(&self) -> Option<Arc<dyn Connection>> {
        self.listener.accept_blocking().map(connection)
    }

    fn close(&self) {
        self.listener.close();
    }
}

pub(super) struct Tunnels {
    pub(super) instance: Arc<Instance>,
}

impl TunnelRegistry for Tunnels {
    fn remove_peer(&self, node: u32) {
        let Instance { core, record, .. } = self.instance.as_ref();
        if record.check("remove_peer", record.rules.act(Action::Tunnels)).is_err() {
            return;
        }
        let target = core.node.clone();
        let _ = core.wait(async move { target.remove_peer(node).await });
    }
}

pub(super) struct HostBus {
    pub(super) instance: Arc<Instance>,
}

impl EventBus for HostBus {
    fn publish(&self, topic: &str, payload: Option<Map<String, Value>>) {
        self.instance.publish(topic, payload);
    }

    fn subscribe(&self, pattern: &str) -> Arc<dyn Subscription> {
        match self.subscribe_checked(pattern) {
            Ok(subscription) => Arc::new(subscription),
            Err(e) => Arc::new(Refused(e)),
        }
    }
}

impl HostBus {
    fn subscribe_checked(&self, pattern: &str) -> Result<HostSubscription> {
        let Instance { core, record, claims, .. } = self.instance.as_ref();
        record.check("subscribe", record.rules.subscribe(pattern))?;
        denied_when_retired(&self.instance)?;
        let inner = claims.kept_subscription(pattern).unwrap_or_else(|| core.bus().subscribe(pattern));
        let inner = Arc::new(inner);
        if !claims.add_subscription(pattern, &inner) {
            let text = format!(
                "plugin \"{}\" holds {MAX_SUBSCRIPTIONS} subscriptions, which is the limit",
                record.name
            );
            return Err(record.refuse("subscribe", ErrorKind::Busy, text));
        }
        let (record, pattern) = (record.clone(), pattern.to_owned());
        Ok(HostSubscription { inner, record, pattern, told: AtomicU64::new(0) })
    }
}

struct HostSubscription {
    inner: Arc<BusSubscription>,
    record: Arc<Record>,
    pattern: String,
    /// Dropped events that are in the ledger already.
    told: AtomicU64,
}

impl HostSubscription {
    fn note_dropped(&self) {
        let dropped = self.inner.dropped();
        let told = self.told.swap(dropped, Ordering::Relaxed);
        if dropped > told {
            self.record.note_dropped(&self.pattern, dropped - told);
        }
    }
}

fn to_abi_event(e: &BusEvent) -> Event {
    Event { topic: e.topic.clone(), node_id: e.node_id, time: e.time, payload: e.payload.clone() }
}

impl Subscription for HostSubscription {
    fn recv(&self, timeout: Duration) -> Result<Option<Event>> {
        let waited = self.inner.next_blocking(timeout);
        self.note_dropped();
        match waited {
            Waited::Item(e) => Ok(Some(to_abi_event(&e))),
            Waited::TimedOut => Ok(None),
            Waited::Closed => Err(Error::new(ErrorKind::Closed, "subscription cancelled")),
        }
    }

    fn recv_text(&self, timeout: Duration) -> Result<Option<EventText>> {
        let waited = self.inner.next_blocking(timeout);
        self.note_dropped();
        match waited {
            Waited::Item(e) => Ok(Some(EventText {
                topic: e.topic.clone(),
                node_id: e.node_id,
                time: e.time,
                payload: e.payload_text().map(str::to_owned),
            })),
            Waited::TimedOut => Ok(None),
            Waited::Closed => Err(Error::new(ErrorKind::Closed, "subscription cancelled")),
        }
    }

    fn cancel(&self) {
        self.inner.cancel();
    }
}

/// A subscription that was not allowed; it says so whenever it is read.
struct Refused(Error);

impl Subscription for Refused {
    fn recv(&self, _timeout: Duration) -> Result<Option<Event>> {
        Err(self.0.clone())
    }

    fn cancel(&self) {}
}
