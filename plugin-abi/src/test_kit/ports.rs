//! The fake port table and its listeners.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::api::{Connection, Listener, PortAllocator};
use crate::{Error, ErrorKind, Result};

/// Streams that wait for `accept` on one port; the next one is refused.
pub const ACCEPT_QUEUE: usize = 64;

type Table = Arc<Mutex<HashMap<u16, Arc<Queue>>>>;
type BindHandler = Arc<dyn Fn(u16) -> Result<()> + Send + Sync>;

#[derive(Default)]
pub(super) struct Ports {
    table: Table,
    /// Asked before each bind.
    allow: Mutex<Option<BindHandler>>,
}

impl Ports {
    fn lock(&self) -> MutexGuard<'_, HashMap<u16, Arc<Queue>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn on_bind(&self, f: impl Fn(u16) -> Result<()> + Send + Sync + 'static) {
        *self.allow.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(f));
    }

    /// Hands an arriving stream to whoever listens.
    pub(super) fn deliver(&self, port: u16, connection: Arc<dyn Connection>) -> Result<()> {
        let refused = || Error::new(ErrorKind::Refused, "connection refused");
        let queue = self.lock().get(&port).cloned().ok_or_else(refused)?;
        let mut state = queue.lock();
        if state.closed || state.waiting.len() >= ACCEPT_QUEUE {
            return Err(refused());
        }
        state.waiting.push_back(connection);
        queue.changed.notify_all();
        Ok(())
    }

    pub(super) fn bound(&self) -> Vec<u16> {
        let mut ports: Vec<u16> = self.lock().keys().copied().collect();
        ports.sort_unstable();
        ports
    }
}

impl PortAllocator for Ports {
    fn bind(&self, port: u16) -> Result<Arc<dyn Listener>> {
        let allow = self.allow.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(allow) = allow {
            allow(port)?;
        }
        let mut table = self.lock();
        if table.contains_key(&port) {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("port {port} already bound")));
        }
        let queue = Arc::<Queue>::default();
        table.insert(port, Arc::clone(&queue));
        Ok(Arc::new(Bound { port, queue, table: Arc::clone(&self.table) }))
    }

    fn unbind(&self, port: u16) {
        let queue = self.lock().remove(&port);
        if let Some(queue) = queue {
            queue.close();
        }
    }
}

#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    waiting: VecDeque<Arc<dyn Connection>>,
    closed: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}

struct Bound {
    port: u16,
    queue: Arc<Queue>,
    table: Table,
}

impl Listener for Bound {
    fn port(&self) -> u16 {
        self.port
    }

    fn accept(&self) -> Option<Arc<dyn Connection>> {
        let mut state = self.queue.lock();
        loop {
            if let Some(connection) = state.waiting.pop_front() {
                return Some(connection);
            }
            if state.closed {
                return None;
            }
            state = self.queue.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn close(&self) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        // The port may have been bound again by somebody else since.
        if table.get(&self.port).is_some_and(|q| Arc::ptr_eq(q, &self.queue)) {
            table.remove(&self.port);
        }
        drop(table);
        self.queue.close();
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.close();
    }
}
