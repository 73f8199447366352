//! The thread that owns the store and writes changes to it, as many requests at a time as have come together.
//!
//! Called by the desk through a bounded queue. A batch that cannot be written stays in memory and goes out with the next
//! one: the registry has made these changes already, so its store has to follow.

use std::collections::BTreeMap;
use std::thread;

use pilot_rendezvous::{Change, RecordKey, Store, StoreError};
use tokio::sync::{mpsc, oneshot};

/// Requests whose changes wait for the store; while there are more, further requests wait before they are worked on.
const QUEUE: usize = 4096;
/// Requests that one write to the store covers at most.
const BATCH: usize = 2048;

pub(super) type CommitSender = mpsc::Sender<Order>;

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Order {
    /// Write the changes of one request and tell whoever waits for them.
    Write { changes: Vec<Change>, done: oneshot::Sender<bool> },
    /// Let the store tidy up until there is something to write.
    Tidy,
    /// Close the store behind what was ordered before.
    Close,
}

impl Order {
    /// An order to write, and the news whether it is done.
    pub fn write(changes: Vec<Change>) -> (Self, oneshot::Receiver<bool>) {
        let (done, stored) = oneshot::channel();
        (Self::Write { changes, done }, stored)
    }
}

/// The running thread.
#[derive(Debug)]
pub(super) struct Committer {
    queue: CommitSender,
    thread: thread::JoinHandle<()>,
}

impl Committer {
    /// Reads all records of a store and starts the thread for it.
    pub async fn start(mut store: Box<dyn Store>) -> Result<(Self, Vec<(RecordKey, Vec<u8>)>), StoreError> {
        let load = move || store.load().map(|records| (store, records));
        let loaded = tokio::task::spawn_blocking(load).await.map_err(|e| StoreError::new("load", e))?;
        let (store, records) = loaded?;
        let (queue, orders) = mpsc::channel(QUEUE);
        let thread = thread::Builder::new()
            .name("registry-store".into())
            .spawn(move || run(store, orders))
            .map_err(|e| StoreError::new("start its thread", e))?;
        Ok((Self { queue, thread }, records))
    }

    pub fn sender(&self) -> CommitSender {
        self.queue.clone()
    }

    /// Ends the thread once everything ordered is written; the store is closed then.
    pub async fn finish(self) {
        let Self { queue, thread } = self;
        // When the thread is gone already, the join below says how it went.
        let _ = queue.send(Order::Close).await;
        if !matches!(tokio::task::spawn_blocking(move || thread.join()).await, Ok(Ok(()))) {
            tracing::error!("rendezvous: the store's thread did not end in order");
        }
    }
}

fn run(mut store: Box<dyn Store>, mut orders: mpsc::Receiver<Order>) {
    let mut unwritten = Vec::new();
    let mut waiting = Vec::new();
    let mut open = true;
    while open && let Some(first) = orders.blocking_recv() {
        let (mut next, mut tidy) = (Some(first), false);
        while let Some(order) = next.take() {
            match order {
                Order::Write { changes, done } => {
                    if unwritten.is_empty() {
                        unwritten = changes;
                    } else {
                        unwritten.extend(changes);
                    }
                    waiting.push(done);
                }
                Order::Tidy => tidy = true,
                Order::Close => open = false,
            }
            if open && waiting.len() < BATCH {
                next = orders.try_recv().ok();
            }
        }
        let stored = unwritten.is_empty() || write(store.as_mut(), &mut unwritten);
        for done in waiting.drain(..) {
            // Whoever hung up in the meantime needs no news.
            let _ = done.send(stored);
        }
        while tidy && open && orders.is_empty() {
            tidy = store.tidy().unwrap_or_else(|e| {
                let cause = &e.cause;
                tracing::warn!(error = %e, %cause, "rendezvous: the store could not be tidied up; later again");
                false
            });
        }
    }
    if !unwritten.is_empty() && !write(store.as_mut(), &mut unwritten) {
        tracing::error!(
            records = unwritten.len(),
            "rendezvous: changes are lost, the store did not take them"
        );
    }
}

fn write(store: &mut dyn Store, unwritten: &mut Vec<Change>) -> bool {
    match store.commit(unwritten) {
        Ok(()) => {
            unwritten.clear();
            true
        }
        Err(e) => {
            let cause = &e.cause;
            tracing::error!(error = %e, %cause, "rendezvous: changes not stored yet; the requests were refused");
            // Of several changes to one record only the last one counts, so what has to wait cannot grow without end.
            let last: BTreeMap<_, _> = unwritten.drain(..).map(|change| (change.key, change.value)).collect();
            unwritten.extend(last.into_iter().map(|(key, value)| Change { key, value }));
            false
        }
    }
}
