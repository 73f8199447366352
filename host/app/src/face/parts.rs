//! Streams, listeners, ports, tunnels and the bus in the treaty's terms.

use std::sync::Arc;
use std::time::Duration;

use pilot_net::bus::{Bus, BusEvent, BusSubscription};
use pilot_net::node::{DialError, Listener, ReadError, Stream, WriteError};
use pilot_net::queue::Waited;
use pilot_wire::addr::Addr as WireAddr;
use plugin_abi::{
    Addr, Connection, ConnectionInfo, Error, ErrorKind, Event, EventBus, PortAllocator, Result, Subscription,
    TunnelRegistry,
};
use serde_json::{Map, Value};

use crate::core::Core;

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
    core: Arc<Core>,
}

impl Ports {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Ports { core }
    }
}

impl PortAllocator for Ports {
    fn bind(&self, port: u16) -> Result<Arc<dyn plugin_abi::Listener>> {
        let node = self.core.node.clone();
        let listener = self
            .core
            .wait(async move { node.bind(port).await })
            .ok_or_else(|| Error::new(ErrorKind::Closed, "the host is shut down"))?
            .map_err(|e| Error::new(ErrorKind::AlreadyExists, e.to_string()))?;
        let listener = Arc::new(HostListener { listener: Arc::new(listener) });
        self.core.plugin_ports.note(port, Arc::downgrade(&listener.listener));
        Ok(listener)
    }

    fn unbind(&self, port: u16) {
        self.core.plugin_ports.close(port);
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

/// Ports bound by plugins, so that one can be released by number. Entries of dropped listeners are swept on use.
#[derive(Default)]
pub struct PluginPorts {
    by_port: std::sync::Mutex<std::collections::HashMap<u16, std::sync::Weak<Listener>>>,
}

impl PluginPorts {
    fn note(&self, port: u16, listener: std::sync::Weak<Listener>) {
        let mut table = self.by_port.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        table.retain(|_, l| l.strong_count() > 0);
        table.insert(port, listener);
    }

    fn close(&self, port: u16) {
        let found = self.by_port.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&port);
        if let Some(listener) = found.and_then(|l| l.upgrade()) {
            listener.close();
        }
    }
}

pub(super) struct Tunnels {
    core: Arc<Core>,
}

impl Tunnels {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Tunnels { core }
    }
}

impl TunnelRegistry for Tunnels {
    fn remove_peer(&self, node: u32) {
        let target = self.core.node.clone();
        let _ = self.core.wait(async move { target.remove_peer(node).await });
    }
}

pub(super) struct HostBus {
    bus: Bus,
}

impl HostBus {
    pub(super) fn new(bus: Bus) -> Self {
        HostBus { bus }
    }
}

impl EventBus for HostBus {
    fn publish(&self, topic: &str, payload: Option<Map<String, Value>>) {
        self.bus.publish(topic, payload);
    }

    fn subscribe(&self, pattern: &str) -> Arc<dyn Subscription> {
        Arc::new(HostSubscription { inner: self.bus.subscribe(pattern) })
    }
}

struct HostSubscription {
    inner: BusSubscription,
}

fn to_abi_event(e: &BusEvent) -> Event {
    Event { topic: e.topic.clone(), node_id: e.node_id, time: e.time, payload: e.payload.clone() }
}

impl Subscription for HostSubscription {
    fn recv(&self, timeout: Duration) -> Result<Option<Event>> {
        match self.inner.next_blocking(timeout) {
            Waited::Item(e) => Ok(Some(to_abi_event(&e))),
            Waited::TimedOut => Ok(None),
            Waited::Closed => Err(Error::new(ErrorKind::Closed, "subscription cancelled")),
        }
    }

    fn cancel(&self) {
        self.inner.cancel();
    }
}
