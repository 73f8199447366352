//! The receiving side of FILESTREAM for one connection: which transfers are open, and what each frame of theirs is
//! answered with (dataexchange.md section 5.1). Called by the session; files and hashes are in `partial`.
//!
//! | frame | transfer | answer |
//! |---|---|---|
//! | INIT | any | INIT-ACK with the resume position, or COMPLETE with a refusal |
//! | CHUNK | open | ACK with the contiguous bytes stored, or COMPLETE with the failure |
//! | CHUNK | unknown | ABORT |
//! | DONE | open or unknown | COMPLETE |
//! | ABORT | any | none; the transfer is forgotten, its file kept |
//! | other kinds, or no whole head | | none |

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use pilot_wire::dataexchange::{
    self, ERR_PREFIX, FrameType, NameError, STREAM_HEADER_LEN, StreamFrame, StreamKind, StreamMessage,
    TransferId, WINDOW,
};

use crate::channel::{Channel, Cut, Flush};
use crate::disk;
use crate::partial::{AppendError, Outcome, Partial, Partials};
use crate::received::{Received, Stored};

/// Longest INIT body: size, hash, chunk size, name length, name.
const INIT_MAX: usize = 8 + 32 + 4 + 2 + u16::MAX as usize;
/// Pieces handed to the file at a time; a usual chunk is one piece.
const PIECE: usize = 256 << 10;
/// Transfers that one connection may have open.
const MAX_OPEN: usize = 16;
/// Bytes of chunks ahead of the cursor that are kept for one transfer (dataexchange.md section 5).
const AHEAD_BYTES: usize = WINDOW as usize;
/// Number of such chunks, so that tiny ones cannot cost more than their bytes.
const AHEAD_CHUNKS: usize = 1024;

const NO_TRANSFER: &str = "no active transfer";
const NO_TRANSFER_FOR_CHUNK: &str = "no active transfer (send INIT first)";

/// The open transfers of one connection.
pub(crate) struct Transfers {
    partials: Arc<Partials>,
    received: Arc<Received>,
    node: u32,
    open: HashMap<TransferId, Transfer>,
}

struct Transfer {
    partial: Partial,
    sha256: [u8; 32],
    name: String,
    ahead: BTreeMap<u64, Vec<u8>>,
    ahead_bytes: usize,
}

impl Transfers {
    /// For a connection from `node`.
    pub fn new(partials: Arc<Partials>, received: Arc<Received>, node: u32) -> Transfers {
        Transfers { partials, received, node, open: HashMap::new() }
    }

    /// Handles one FILESTREAM frame, whose payload the channel is about to give. `stored` is called when a file is
    /// complete, before the sender is told.
    pub fn handle(&mut self, channel: &mut Channel, stored: impl FnOnce(&Stored, u64)) -> Result<(), Cut> {
        let Some(head) = StreamFrame::decode(channel.take(STREAM_HEADER_LEN)?) else { return Ok(()) };
        let (kind, id) = (head.kind, head.id);
        match kind {
            StreamKind::INIT => self.init(channel, id),
            StreamKind::CHUNK => self.chunk(channel, id),
            StreamKind::DONE => {
                channel.skip()?;
                self.done(channel, id, stored)
            }
            StreamKind::ABORT => {
                self.open.remove(&id);
                Ok(())
            }
            // Unknown, or the answer of a receiver, which means nothing to a receiver.
            _ => Ok(()),
        }
    }

    fn init(&mut self, channel: &mut Channel, id: TransferId) -> Result<(), Cut> {
        let body = channel.take(INIT_MAX)?.to_vec();
        channel.skip()?;
        if let Err(e) = disk::make_dir(self.received.dir()) {
            let text = format!("{ERR_PREFIX}mkdir: {e}");
            let encode =
                |out: &mut Vec<u8>| dataexchange::encode_frame(FrameType::TEXT, text.as_bytes(), out);
            channel.reply(FrameType::FILESTREAM, Flush::Now, encode)?;
            return Err(Cut::Refused(text));
        }
        // The same id again replaces the transfer, also when the new one is refused.
        self.open.remove(&id);
        match self.start(id, &body) {
            Ok(offset) => reply(channel, id, StreamMessage::InitAck { offset }, Flush::Now),
            Err(text) => refuse(channel, id, &text),
        }
    }

    /// Opens a transfer and gives its resume position, or the text of the refusal.
    fn start(&mut self, id: TransferId, body: &[u8]) -> Result<u64, String> {
        let frame = StreamFrame { kind: StreamKind::INIT, id, body };
        let StreamMessage::Init(init) = frame.message().map_err(|e| e.to_string())? else {
            return Err("malformed INIT".into());
        };
        if init.size > i64::MAX as u64 {
            return Err(format!("file size {} is not possible", init.size));
        }
        if id != TransferId::of_hash(init.sha256) {
            return Err("transfer id is not the start of the file's hash".into());
        }
        let name = file_name(init.name)?;
        if self.open.len() >= MAX_OPEN {
            return Err(format!("too many transfers on one connection (max {MAX_OPEN})"));
        }
        let partial = self.partials.open(id, init.size, self.node).map_err(|e| e.to_string())?;
        let resume = partial.cursor();
        let transfer =
            Transfer { partial, sha256: *init.sha256, name, ahead: BTreeMap::new(), ahead_bytes: 0 };
        self.open.insert(id, transfer);
        Ok(resume)
    }

    fn chunk(&mut self, channel: &mut Channel, id: TransferId) -> Result<(), Cut> {
        // The data behind the offset stays in the channel.
        let frame = StreamFrame { kind: StreamKind::CHUNK, id, body: channel.take(size_of::<u64>())? };
        let offset = match frame.message() {
            Ok(StreamMessage::Chunk { offset, .. }) => offset,
            Ok(_) => return Ok(()),
            Err(e) => return refuse(channel, id, &e.to_string()),
        };
        let Some(transfer) = self.open.get_mut(&id) else {
            return abort(channel, id);
        };
        match transfer.chunk(channel, offset)? {
            Ok(()) => {
                let offset = transfer.partial.cursor();
                reply(channel, id, StreamMessage::Ack { offset }, Flush::WithOthers)
            }
            Err(AppendError::TakenOver) => {
                self.open.remove(&id);
                abort(channel, id)
            }
            Err(AppendError::Quota(text) | AppendError::Write(text)) => refuse(channel, id, &text),
        }
    }

    fn done(
        &mut self,
        channel: &mut Channel,
        id: TransferId,
        stored: impl FnOnce(&Stored, u64),
    ) -> Result<(), Cut> {
        let Some(transfer) = self.open.get_mut(&id) else { return refuse(channel, id, NO_TRANSFER) };
        let (cursor, size) = (transfer.partial.cursor(), transfer.partial.size());
        if cursor != size {
            return refuse(channel, id, &format!("incomplete: have {cursor} of {size} bytes"));
        }
        let outcome = transfer.partial.finish(&transfer.sha256, &transfer.name);
        if !matches!(outcome, Outcome::Failed(_)) {
            self.open.remove(&id);
        }
        match outcome {
            Outcome::Stored(file) => {
                stored(&file, size);
                reply(channel, id, StreamMessage::Complete { good: true, text: b"" }, Flush::Now)
            }
            Outcome::TakenOver => refuse(channel, id, NO_TRANSFER),
            // The text is part of the protocol; the partial itself is not retained here.
            Outcome::Corrupt => refuse(channel, id, "sha256 mismatch — file corrupt, .partial retained"),
            Outcome::Failed(text) => refuse(channel, id, &text),
        }
    }
}

impl Transfer {
    /// Takes the data of a chunk from the channel and stores it, keeps it for later, or drops it. The outer error ends
    /// the connection, the inner one is the peer's answer.
    fn chunk(&mut self, channel: &mut Channel, offset: u64) -> Result<Result<(), AppendError>, Cut> {
        if offset == self.partial.cursor() {
            while channel.remaining() > 0 {
                if let Err(e) = self.partial.append(channel.take(PIECE)?) {
                    return Ok(Err(e));
                }
            }
            return Ok(self.append_ahead());
        }
        let len = channel.remaining();
        let room = self.ahead_bytes + len <= AHEAD_BYTES && self.ahead.len() < AHEAD_CHUNKS;
        let wanted = offset > self.partial.cursor() && offset < self.partial.size() && len > 0;
        if wanted && room && !self.ahead.contains_key(&offset) {
            let mut data = Vec::with_capacity(len);
            while channel.remaining() > 0 {
                data.extend_from_slice(channel.take(PIECE)?);
            }
            self.ahead_bytes += len;
            self.ahead.insert(offset, data);
        }
        Ok(Ok(()))
    }

    /// Stores the kept chunks that start exactly at the cursor; drops those that it has passed.
    fn append_ahead(&mut self) -> Result<(), AppendError> {
        while let Some(entry) = self.ahead.first_entry() {
            let cursor = self.partial.cursor();
            if *entry.key() > cursor {
                break;
            }
            let (offset, data) = entry.remove_entry();
            self.ahead_bytes -= data.len();
            if offset == cursor {
                self.partial.append(&data)?;
            }
        }
        Ok(())
    }
}

fn reply(channel: &mut Channel, id: TransferId, message: StreamMessage<'_>, flush: Flush) -> Result<(), Cut> {
    channel.reply(FrameType::FILESTREAM, flush, |out| dataexchange::encode_stream(id, &message, out))
}

/// COMPLETE with a failure.
fn refuse(channel: &mut Channel, id: TransferId, text: &str) -> Result<(), Cut> {
    reply(channel, id, StreamMessage::Complete { good: false, text: text.as_bytes() }, Flush::Now)
}

fn abort(channel: &mut Channel, id: TransferId) -> Result<(), Cut> {
    reply(channel, id, StreamMessage::Abort { text: NO_TRANSFER_FOR_CHUNK.as_bytes() }, Flush::Now)
}

/// The name a file is stored under, before the stamp. `..` is taken as it is: the stamp makes it a harmless name.
fn file_name(announced: &[u8]) -> Result<String, String> {
    match dataexchange::stream_file_name(announced) {
        Ok(name) if name.contains('\0') => Err("invalid filename: NUL not allowed".into()),
        Ok(name) => Ok(name.to_owned()),
        Err(NameError::Dots { name }) => Ok(name),
        Err(e) => Err(e.to_string()),
    }
}
