//! Peers behind the fake daemon's streams: an echo service and a small receiver of messages and files, of the newest kind
//! or of the one that knows neither traces nor streamed files.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, Bytes, BytesMut};
use pilot_wire::addr::Addr;
use pilot_wire::dataexchange::{
    FrameType, HEADER_LEN, StreamFrame, StreamMessage, TransferId, ack_text, encode_frame, encode_stream,
};
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex as AsyncMutex, mpsc};

use super::fake::PEER;
use crate::ipc::{IpcStream, Later};

/// The local end, as the dispatcher sees it.
pub struct Looped {
    id: u32,
    incoming: AsyncMutex<mpsc::Receiver<Bytes>>,
    outgoing: Mutex<Option<mpsc::Sender<Bytes>>>,
}

/// The peer's end.
pub struct Far {
    pub incoming: mpsc::Receiver<Bytes>,
    pub outgoing: mpsc::Sender<Bytes>,
}

/// A stream with somebody at its other end.
pub fn looped(id: u32) -> (Arc<dyn IpcStream>, Far) {
    let (to_far, incoming) = mpsc::channel(64);
    let (outgoing, from_far) = mpsc::channel(64);
    let near = Looped { id, incoming: AsyncMutex::new(from_far), outgoing: Mutex::new(Some(to_far)) };
    (Arc::new(near), Far { incoming, outgoing })
}

impl IpcStream for Looped {
    fn id(&self) -> u32 {
        self.id
    }

    fn remote(&self) -> (Addr, u16) {
        (PEER, 50_000)
    }

    fn read(&self) -> Later<'_, Option<Bytes>> {
        Box::pin(async { self.incoming.lock().await.recv().await })
    }

    fn write(&self, data: Bytes) -> Later<'_, Result<(), String>> {
        Box::pin(async move {
            let tx = self.outgoing.lock().unwrap().clone().ok_or("closed")?;
            tx.send(data).await.map_err(|_| "connection closed".to_owned())
        })
    }

    fn close(&self) {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Port 7.
pub async fn echo(mut far: Far) {
    while let Some(data) = far.incoming.recv().await {
        if far.outgoing.send(data).await.is_err() {
            return;
        }
    }
}

/// What a receiver got, and how it behaves.
#[derive(Default)]
pub struct Receiver {
    /// Knows frames 1 to 4 only.
    pub old: bool,
    /// Says this to every offer of a file.
    pub refuses: Option<&'static str>,
    /// Bytes of the next file that are there already.
    pub partial: Mutex<Vec<u8>>,
    /// Type and payload of every message.
    pub messages: Mutex<Vec<(u32, Vec<u8>)>>,
    /// Name and content of every file.
    pub files: Mutex<Vec<(String, Vec<u8>)>>,
    /// Bytes that came in chunks.
    pub streamed: Mutex<u64>,
}

struct Transfer {
    id: TransferId,
    name: String,
    size: u64,
    sha256: [u8; 32],
    content: Vec<u8>,
}

impl Receiver {
    /// Port 1001.
    pub async fn serve(self: Arc<Self>, mut far: Far) {
        let mut buffer = BytesMut::new();
        let mut transfer: Option<Transfer> = None;
        while let Some(data) = far.incoming.recv().await {
            buffer.extend_from_slice(&data);
            while let Some((kind, payload)) = next_frame(&mut buffer) {
                let reply = match kind {
                    FrameType::FILESTREAM if !self.old => self.stream(&payload, &mut transfer),
                    other => Some(self.frame(other, &payload)),
                };
                if let Some(reply) = reply
                    && far.outgoing.send(reply.into()).await.is_err()
                {
                    return;
                }
            }
        }
    }

    fn frame(&self, kind: FrameType, payload: &[u8]) -> Vec<u8> {
        let mut content = payload;
        if kind == FrameType::FILE {
            let n = usize::from(content.get_u16());
            let (name, rest) = content.split_at(n);
            content = rest;
            self.files.lock().unwrap().push((String::from_utf8(name.to_vec()).unwrap(), content.to_vec()));
        } else {
            self.messages.lock().unwrap().push((kind.0, payload.to_vec()));
        }
        let mut out = Vec::new();
        encode_frame(FrameType::TEXT, ack_text(kind, content.len() as u64).as_bytes(), &mut out).unwrap();
        out
    }

    fn stream(&self, payload: &[u8], transfer: &mut Option<Transfer>) -> Option<Vec<u8>> {
        let frame = StreamFrame::decode(payload)?;
        let complete = |good, text: &'static str| StreamMessage::Complete { good, text: text.as_bytes() };
        let answer = match frame.message().unwrap() {
            StreamMessage::Init(_) if self.refuses.is_some() => complete(false, self.refuses?),
            StreamMessage::Init(init) => {
                let content = std::mem::take(&mut *self.partial.lock().unwrap());
                let offset = content.len() as u64;
                *transfer = Some(Transfer {
                    id: frame.id,
                    name: String::from_utf8(init.name.to_vec()).unwrap(),
                    size: init.size,
                    sha256: *init.sha256,
                    content,
                });
                StreamMessage::InitAck { offset }
            }
            StreamMessage::Chunk { offset, data } => {
                let t = transfer.as_mut().filter(|t| t.id == frame.id).expect("INIT comes first");
                assert_eq!(offset, t.content.len() as u64, "chunks ascend without gaps");
                t.content.extend_from_slice(data);
                *self.streamed.lock().unwrap() += data.len() as u64;
                StreamMessage::Ack { offset: t.content.len() as u64 }
            }
            StreamMessage::Done => {
                let t = transfer.take().expect("INIT comes first");
                let hash: [u8; 32] = Sha256::digest(&t.content).into();
                let good = hash == t.sha256 && t.content.len() as u64 == t.size;
                self.files.lock().unwrap().push((t.name, t.content));
                if good { complete(true, "") } else { complete(false, "sha256 mismatch") }
            }
            _ => return None,
        };
        let mut out = Vec::new();
        encode_stream(frame.id, &answer, &mut out).unwrap();
        Some(out)
    }
}

fn next_frame(buffer: &mut BytesMut) -> Option<(FrameType, Bytes)> {
    let head = buffer.first_chunk::<HEADER_LEN>()?;
    let (kind, len) =
        (u32::from_be_bytes(head[..4].try_into().ok()?), u32::from_be_bytes(head[4..].try_into().ok()?));
    if buffer.len() < HEADER_LEN + len as usize {
        buffer.reserve(HEADER_LEN + len as usize - buffer.len());
        return None;
    }
    buffer.advance(HEADER_LEN);
    Some((FrameType(kind), buffer.split_to(len as usize).freeze()))
}
