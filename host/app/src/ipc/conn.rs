//! The streams that local clients own: one writer and one reader task for each (ipc.md sections 4 and 6).
//!
//! The table belongs to the whole daemon, because any client may send to and close any id. A stream is closed by taking
//! it out of the table: its writer then sends what is queued, and the end after it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use pilot_net::ipc::Outbox;
use pilot_wire::ipc::Push;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::backend::IpcStream;

/// Bytes a client may have queued for one stream before its requests wait; two of the largest frames.
const SEND_BYTES: usize = 2 << 20;
/// Pieces it may have queued.
const SEND_PIECES: usize = 256;
/// Bytes in one recv frame, so that the 256 frames of a client's queue stay a modest amount of memory.
const RECV_PIECE: usize = 64 << 10;

/// What waits for a stream's writer.
struct Piece {
    data: Bytes,
    _room: OwnedSemaphorePermit,
}

#[derive(Clone)]
struct Entry {
    owner: u64,
    tx: mpsc::Sender<Piece>,
    room: Arc<Semaphore>,
}

/// All streams of local clients, by connection id.
#[derive(Default)]
pub(super) struct Connections {
    table: Mutex<HashMap<u32, Entry>>,
    writers: TaskTracker,
}

/// The stream is not in the table, or broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotFound;

impl Connections {
    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Entry>> {
        // Nobody panics while holding it.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a stream over for `owner` and starts its writer.
    pub(super) fn add(&self, owner: u64, stream: &Arc<dyn IpcStream>) {
        let (tx, rx) = mpsc::channel(SEND_PIECES);
        let room = Arc::new(Semaphore::new(SEND_BYTES));
        self.lock().insert(stream.id(), Entry { owner, tx, room });
        self.writers.spawn(write(Arc::clone(stream), rx));
    }

    /// Queues bytes in order; waits while the stream's queue is full.
    pub(super) async fn send(&self, id: u32, data: Bytes) -> Result<(), NotFound> {
        let entry = self.lock().get(&id).cloned().ok_or(NotFound)?;
        // An empty piece still takes a slot; a frame is at most half of the room, so this can always be granted.
        let bytes = u32::try_from(data.len().clamp(1, SEND_BYTES)).map_err(|_| NotFound)?;
        let room = entry.room.acquire_many_owned(bytes).await.map_err(|_| NotFound)?;
        entry.tx.send(Piece { data, _room: room }).await.map_err(|_| NotFound)
    }

    /// Ends a stream after what is queued; its owner, or `None` when it is not in the table.
    pub(super) fn close(&self, id: u32) -> Option<u64> {
        self.lock().remove(&id).map(|entry| entry.owner)
    }

    /// Waits until every writer has handed over what was queued and closed its stream.
    pub(super) async fn drained(&self) {
        self.lock().clear();
        self.writers.close();
        self.writers.wait().await;
    }
}

/// A stream's writer: until the table lets go of it.
async fn write(stream: Arc<dyn IpcStream>, mut rx: mpsc::Receiver<Piece>) {
    while let Some(piece) = rx.recv().await {
        if let Err(error) = stream.write(piece.data).await {
            // Silent towards the client (ipc.md section 6); it sees the end of the stream.
            tracing::debug!(conn = stream.id(), %error, "a local client's data was not sent");
            break;
        }
    }
    stream.close();
}

/// A stream's reader: hands the client what arrives, and the end. Waits while the client's queue is full, which closes the
/// stream's own window and stalls nobody else.
pub(super) async fn read(stream: Arc<dyn IpcStream>, outbox: Outbox, gone: CancellationToken) {
    let conn = stream.id();
    let pump = async {
        while let Some(mut data) = stream.read().await {
            while !data.is_empty() {
                let piece = data.split_to(data.len().min(RECV_PIECE));
                if push(&outbox, &Push::Recv { conn, data: piece }).await.is_err() {
                    return;
                }
            }
        }
        // An error means that nobody is left to be told.
        let _ = push(&outbox, &Push::Closed { conn }).await;
    };
    tokio::select! {
        () = gone.cancelled() => {}
        () = pump => {}
    }
}

/// Queues a push.
pub(super) async fn push(outbox: &Outbox, push: &Push) -> Result<(), pilot_net::ipc::Gone> {
    match push.encode() {
        Ok(frame) => outbox.send(frame).await,
        Err(error) => {
            tracing::error!(%error, "a push did not fit its frame");
            Ok(())
        }
    }
}
