//! A client that has met the challenge: messages from its socket to the beacon, and from its queue to the socket (wss.md
//! sections 3 and 4).
//!
//! Reading and writing are two loops over the halves of one WebSocket, so a client that does not read can still be heard,
//! and the beacon's task never waits for any client: what finds no room in a queue is lost, as on UDP.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::{Sink, SinkExt as _, Stream, StreamExt as _};
use pilot_wire::compat::{Close, GO_CLIENT_MAX_MESSAGE, IDLE_LIMIT, WRITE_TIMEOUT};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;

use super::{Counts, FromClient, Shared};

/// Messages that wait for one client.
pub(super) const QUEUE: usize = 512;
/// Bytes that wait for one client.
pub(super) const QUEUE_BYTES: usize = 1 << 20;
/// Messages written to a client between two flushes.
const BURST: usize = 64;

/// The beacon's end of a connection.
#[derive(Debug)]
pub(in crate::rendezvous) struct Client {
    queue: mpsc::Sender<Bytes>,
    waiting: Arc<AtomicUsize>,
    replaced: CancellationToken,
    counts: Arc<Counts>,
}

/// The connection's end.
#[derive(Debug)]
pub(super) struct Outgoing {
    queue: mpsc::Receiver<Bytes>,
    waiting: Arc<AtomicUsize>,
    replaced: CancellationToken,
}

impl Client {
    /// Both ends.
    pub(super) fn new(counts: Arc<Counts>) -> (Self, Outgoing) {
        let (sender, queue) = mpsc::channel(QUEUE);
        let (waiting, replaced) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
        let client = Self { queue: sender, waiting: waiting.clone(), replaced: replaced.clone(), counts };
        (client, Outgoing { queue, waiting, replaced })
    }

    /// Queues a message, or loses it when the client is too slow. One that is larger than a Go client takes is lost too:
    /// it would end that client's connection (wss.md, "Sizes"), and no tunnel frame comes near it.
    pub fn send(&self, message: &[u8]) {
        let len = message.len();
        // Counted before it can be taken out again, so that the count never goes below zero.
        let fits = len <= GO_CLIENT_MAX_MESSAGE
            && self.waiting.fetch_add(len, Ordering::Relaxed) + len <= QUEUE_BYTES;
        if fits && self.queue.try_send(Bytes::copy_from_slice(message)).is_ok() {
            self.counts.sent.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if len <= GO_CLIENT_MAX_MESSAGE {
            self.waiting.fetch_sub(len, Ordering::Relaxed);
        }
        self.counts.lost.fetch_add(1, Ordering::Relaxed);
    }

    /// A newer connection of the same node has come.
    pub fn replace(&self) {
        self.replaced.cancel();
    }
}

impl Outgoing {
    /// Cancelled when a newer connection of the same node has come.
    pub fn replaced(&self) -> CancellationToken {
        self.replaced.clone()
    }
}

/// Hands binary messages to the beacon until there are no more; gives the reason to close. Pings are answered by the
/// library and do not count as life; texts do, and are otherwise reserved.
pub(super) async fn read(
    source: &mut (impl Stream<Item = Result<Message, Error>> + Unpin),
    node: u32,
    connection: u64,
    shared: &Shared,
) -> Close {
    let idle = sleep(IDLE_LIMIT);
    tokio::pin!(idle);
    loop {
        let message = tokio::select! {
            () = &mut idle => return Close::READ_LOOP_EXIT,
            message = source.next() => message,
        };
        match message {
            Some(Ok(Message::Binary(data))) => {
                shared.counts.received.fetch_add(1, Ordering::Relaxed);
                let message = FromClient::Message { node, connection, data };
                if shared.beacon.send(message).await.is_err() {
                    return Close::BEACON_STOPS;
                }
            }
            Some(Ok(Message::Text(_))) => {}
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
            Some(Ok(Message::Close(_)) | Err(_)) | None => {
                return match message {
                    Some(Err(Error::Capacity(_))) => Close::TOO_LARGE,
                    _ => Close::READ_LOOP_EXIT,
                };
            }
        }
        idle.as_mut().reset(Instant::now() + IDLE_LIMIT);
    }
}

/// Writes what the beacon queued, as many at a time as are there; gives the reason to close.
pub(super) async fn write(
    sink: &mut (impl Sink<Message, Error = Error> + Unpin),
    mut outgoing: Outgoing,
) -> Close {
    while let Some(first) = outgoing.queue.recv().await {
        let mut next = Some(first);
        let mut left = BURST;
        while let Some(message) = next.take() {
            outgoing.waiting.fetch_sub(message.len(), Ordering::Relaxed);
            if !matches!(timeout(WRITE_TIMEOUT, sink.feed(Message::Binary(message))).await, Ok(Ok(()))) {
                return Close::WRITE_ERROR;
            }
            left -= 1;
            if left > 0 {
                next = outgoing.queue.try_recv().ok();
            }
        }
        if !matches!(timeout(WRITE_TIMEOUT, sink.flush()).await, Ok(Ok(()))) {
            return Close::WRITE_ERROR;
        }
    }
    // The beacon has let go of this client.
    Close::REPLACED
}
