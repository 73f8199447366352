//! Sending a file with FILESTREAM (dataexchange.md section 5.2): the whole file is hashed, the receiver says where to
//! resume, chunks flow within a window, and the receiver confirms the hash.
//!
//! A thread reads the file ahead, each chunk into a buffer that already has its frame header, so that the bytes are copied
//! once, into the socket.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use pilot_net::ipc::ClientError;
use pilot_wire::dataexchange::{
    CHUNK_SIZE, FrameHeader, FrameType, HEADER_LEN, Init, STREAM_HEADER_LEN, StreamFrame, StreamKind,
    StreamMessage, TransferId, WINDOW, WINDOW_CHUNKS, encode_stream,
};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::dx::{DataExchange, NoReply, Reply};

/// How long the receiver has to accept a transfer; one that does not know FILESTREAM says something else at once.
const INIT_LIMIT: Duration = Duration::from_secs(5);
/// Bytes in front of a chunk's content: frame header, stream header, offset.
const CHUNK_HEAD: usize = HEADER_LEN + STREAM_HEADER_LEN + 8;
/// Buffer for hashing.
const HASH_BUFFER: usize = 1 << 20;

/// A file that is ready to be sent.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub path: PathBuf,
    /// The name the receiver is told.
    pub name: String,
    pub size: u64,
    pub sha256: [u8; 32],
}

/// How a transfer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    /// Where the receiver let us begin.
    pub resumed: u64,
}

/// Why a transfer failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum TransferError {
    /// The receiver answered the offer with something else: it does not know FILESTREAM, or nobody is there.
    #[error("peer does not support streamed transfer: {0}")]
    Unsupported(String),
    /// The receiver refused or gave up.
    #[error("{0}")]
    Refused(String),
    /// The receiver stopped answering.
    #[error(transparent)]
    NoReply(#[from] NoReply),
    /// Our file.
    #[error("cannot read {}: {cause}", path.display())]
    File { path: PathBuf, cause: std::io::Error },
    /// Our daemon.
    #[error(transparent)]
    Daemon(#[from] ClientError),
}

impl Source {
    /// Hashes the file; `progress` is told how many bytes were read. Blocks.
    pub(super) fn open(path: &Path, name: String, progress: impl Fn(u64)) -> std::io::Result<Source> {
        let mut file = File::open(path)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; HASH_BUFFER];
        let mut size = 0;
        loop {
            let n = file.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            hasher.update(&buffer[..n]);
            size += n as u64;
            progress(size);
        }
        Ok(Source { path: path.to_owned(), name, size, sha256: hasher.finalize().into() })
    }

    fn id(&self) -> TransferId {
        TransferId::of_hash(&self.sha256)
    }
}

/// Sends the file; `progress` is told how far the receiver has confirmed it. `limit` bounds each wait for the receiver.
pub(super) async fn send(
    peer: &mut DataExchange,
    source: &Source,
    limit: Duration,
    progress: impl Fn(u64),
) -> Result<Sent, TransferError> {
    let id = source.id();
    let init = Init {
        size: source.size,
        sha256: &source.sha256,
        chunk_size: CHUNK_SIZE,
        name: source.name.as_bytes(),
    };
    peer.send([frame(id, &StreamMessage::Init(init))]).await?;
    let resumed = accepted(peer.reply(INIT_LIMIT).await, id)?.min(source.size);
    progress(resumed);

    let (tx, mut chunks) = mpsc::channel(2 * WINDOW_CHUNKS as usize);
    let (from, total, path) = (resumed, source.size, source.path.clone());
    let reading = tokio::task::spawn_blocking(move || read_ahead(&path, id, from, total, &tx));

    let mut flow = Flow { id, sent: resumed, acked: resumed };
    while flow.sent < source.size {
        let mut batch = Vec::new();
        while flow.has_room() && flow.sent < source.size {
            // Wait for the disk only when there is nothing else to do.
            let chunk = match chunks.try_recv() {
                Ok(chunk) => chunk,
                Err(_) if batch.is_empty() && flow.sent == flow.acked => match chunks.recv().await {
                    Some(chunk) => chunk,
                    None => return Err(gone(reading, &source.path).await),
                },
                Err(_) => break,
            };
            flow.sent += chunk.len() as u64 - CHUNK_HEAD as u64;
            batch.push(chunk);
        }
        if !batch.is_empty() {
            peer.send(batch).await?;
        }
        while let Some(reply) = peer.ready().await? {
            flow.note(&reply)?;
        }
        if flow.sent == source.size {
            break;
        }
        let more = tokio::select! {
            biased;
            reply = peer.reply(limit) => { flow.note(&reply?)?; None }
            chunk = chunks.recv(), if flow.has_room() => Some(chunk),
        };
        match more {
            Some(Some(chunk)) => {
                flow.sent += chunk.len() as u64 - CHUNK_HEAD as u64;
                peer.send([chunk]).await?;
            }
            Some(None) => return Err(gone(reading, &source.path).await),
            None => {}
        }
        progress(flow.acked);
    }
    peer.send([frame(id, &StreamMessage::Done)]).await?;
    loop {
        let reply = peer.reply(limit).await?;
        if flow.note(&reply)? {
            progress(source.size);
            return Ok(Sent { resumed });
        }
        progress(flow.acked);
    }
}

/// How far the transfer is.
struct Flow {
    id: TransferId,
    sent: u64,
    acked: u64,
}

impl Flow {
    fn has_room(&self) -> bool {
        self.sent - self.acked < u64::from(WINDOW)
    }

    /// Takes a frame of the receiver in; whether it says that the file is complete. Frames of other transfers and stray
    /// ones are skipped.
    fn note(&mut self, reply: &Reply) -> Result<bool, TransferError> {
        let Some(message) = of_transfer(reply, self.id) else { return Ok(false) };
        match message {
            // Confirmations only move forward, and never beyond what was sent.
            StreamMessage::Ack { offset } => self.acked = self.acked.max(offset.min(self.sent)),
            StreamMessage::Complete { good: true, .. } => return Ok(true),
            StreamMessage::Complete { good: false, text } => {
                return Err(TransferError::Refused(format!("receiver: {}", String::from_utf8_lossy(text))));
            }
            StreamMessage::Abort { text } => {
                let text = String::from_utf8_lossy(text);
                return Err(TransferError::Refused(format!("receiver gave the transfer up: {text}")));
            }
            _ => {}
        }
        Ok(false)
    }
}

fn of_transfer(reply: &Reply, id: TransferId) -> Option<StreamMessage<'_>> {
    if reply.kind != FrameType::FILESTREAM {
        return None;
    }
    StreamFrame::decode(&reply.payload).filter(|f| f.id == id)?.message().ok()
}

/// The answer to the offer: where to begin.
fn accepted(reply: Result<Reply, NoReply>, id: TransferId) -> Result<u64, TransferError> {
    let reply = reply.map_err(|e| TransferError::Unsupported(e.to_string()))?;
    match of_transfer(&reply, id) {
        Some(StreamMessage::InitAck { offset }) => Ok(offset),
        // A receiver that refuses in the protocol's own words knows the protocol.
        Some(StreamMessage::Complete { good: false, text } | StreamMessage::Abort { text }) => {
            Err(TransferError::Refused(format!("receiver: {}", String::from_utf8_lossy(text))))
        }
        _ => Err(TransferError::Unsupported(
            String::from_utf8_lossy(&reply.payload).chars().take(100).collect(),
        )),
    }
}

/// An encoded control frame.
fn frame(id: TransferId, message: &StreamMessage<'_>) -> Bytes {
    let mut out = Vec::new();
    // Control frames are far below the 4 GiB a frame may have; the name in an INIT is cut by the encoder.
    let encoded = encode_stream(id, message, &mut out);
    debug_assert!(encoded.is_ok());
    out.into()
}

/// Reads the file from `from` on and hands out encoded chunks until the end, or until nobody wants more.
fn read_ahead(
    path: &Path,
    id: TransferId,
    from: u64,
    size: u64,
    chunks: &mpsc::Sender<Bytes>,
) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut offset = from;
    while offset < size {
        let n = (size - offset).min(u64::from(CHUNK_SIZE)) as usize;
        let mut chunk = Vec::with_capacity(CHUNK_HEAD + n);
        // At most CHUNK_SIZE and a few more.
        let len = (STREAM_HEADER_LEN + 8 + n) as u32;
        chunk.extend_from_slice(&FrameHeader { kind: FrameType::FILESTREAM, len }.to_bytes());
        chunk.push(StreamKind::CHUNK.0);
        chunk.extend_from_slice(&id.0);
        chunk.extend_from_slice(&offset.to_be_bytes());
        let read = (&mut file).take(n as u64).read_to_end(&mut chunk)?;
        if read < n {
            return Err(std::io::Error::new(
                std::io::ErrorKind::UnexpectedEof,
                "the file became shorter while it was sent",
            ));
        }
        offset += n as u64;
        if chunks.blocking_send(chunk.into()).is_err() {
            break;
        }
    }
    Ok(())
}

/// Why the reading thread stopped early.
async fn gone(reading: tokio::task::JoinHandle<std::io::Result<()>>, path: &Path) -> TransferError {
    let cause = match reading.await {
        Ok(Err(cause)) => cause,
        _ => std::io::Error::other("reading stopped"),
    };
    TransferError::File { path: path.to_owned(), cause }
}
