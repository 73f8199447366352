//! One accepted connection: takes frame after frame, stores, answers (dataexchange.md section 2). Called by the service,
//! on a thread of its own.
//!
//! Every frame is answered before the next one is looked at; FILESTREAM answers by its own rules, see `transfers`.

use std::sync::Arc;

use pilot_wire::dataexchange::{self, ERR_PREFIX, FrameType, TimingReply, Trace};
use plugin_abi::{Addr, Connection};
use serde_json::{Map, Value, json};

use crate::body::Body;
use crate::channel::{Channel, Cut, Flush, Frame};
use crate::inbox::Inbox;
use crate::received::{StoreError, Stored};
use crate::service::Service;
use crate::transfers::Transfers;

/// Bytes of a payload stored at a time.
const PIECE: usize = 64 << 10;

/// Serves `conn` until it ends.
pub(crate) fn serve(service: &Service, conn: Arc<dyn Connection>) {
    let from = conn.info().remote;
    let end = Session::new(service, conn.clone()).run();
    conn.close();
    match &end {
        Cut::Finished | Cut::Stopping => tracing::debug!(%from, reason = %end, "connection ended"),
        _ => tracing::info!(%from, reason = %end, "connection ended"),
    }
    if let Cut::Write { answered, error } = end {
        publish(
            service,
            "dataexchange.ack_failed",
            json!({
                // The one address on the bus that is not text (dataexchange.md section 2).
                "remote": {"Network": from.network, "Node": from.node},
                "frame_type": answered.to_string(),
                "error": error.message(),
            }),
        );
    }
}

/// A message whose payload was taken from the connection.
struct Message {
    /// When the last byte of the payload was here, Unix nanoseconds.
    received_at: i64,
    /// The error is the peer's answer.
    stored: Result<(), StoreError>,
}

struct Session<'a> {
    service: &'a Service,
    channel: Channel,
    from: Addr,
    transfers: Transfers,
}

impl<'a> Session<'a> {
    fn new(service: &'a Service, conn: Arc<dyn Connection>) -> Session<'a> {
        let from = conn.info().remote;
        let transfers = Transfers::new(service.partials.clone(), service.received.clone(), from.node);
        Session { service, channel: service.channel(conn), from, transfers }
    }

    fn run(mut self) -> Cut {
        let end = match self.frames() {
            Ok(never) => match never {},
            Err(end) => end,
        };
        // Answers to earlier frames are owed even when a later frame breaks the rules.
        self.channel.flush().err().unwrap_or(end)
    }

    fn frames(&mut self) -> Result<std::convert::Infallible, Cut> {
        self.channel.arm()?;
        loop {
            let frame = self.channel.next_frame()?;
            match frame.kind {
                FrameType::TEXT | FrameType::BINARY | FrameType::JSON => {
                    let message = self.message(frame.kind)?;
                    self.acknowledge(frame.kind, frame.len, message.stored)?;
                }
                FrameType::FILE => self.file(&frame)?,
                FrameType::TRACE => self.trace()?,
                FrameType::FILESTREAM => {
                    let service = self.service;
                    self.transfers.handle(&mut self.channel, |file, size| {
                        file_received(service, &file.name, file, size);
                    })?;
                }
                unknown => {
                    self.channel.skip()?;
                    self.acknowledge(unknown, frame.len, Ok(()))?;
                }
            }
        }
    }

    /// Takes the rest of the payload and stores it as a message of type `kind`.
    fn message(&mut self, kind: FrameType) -> Result<Message, Cut> {
        let size = self.channel.remaining();
        let body = self.collect(&self.service.inbox)?;
        // After a failure the rest of the payload is still on its way.
        self.channel.skip()?;
        let received_at = self.service.stamps.unix_nanoseconds();
        let stored = body.and_then(|body| self.service.inbox.save(kind, self.from, body));
        let (from, kind) = (self.from.to_string(), kind.to_string());
        match &stored {
            Ok(()) => {
                publish(self.service, "message.received", json!({"type": kind, "from": from, "size": size}));
            }
            Err(StoreError::InboxFull(full)) => publish(
                self.service,
                "inbox.full",
                json!({"from": from, "type": kind, "frame_bytes": size, "max_bytes": full.max}),
            ),
            Err(error) => tracing::warn!(%from, %kind, %error, "message not stored"),
        }
        Ok(Message { received_at, stored })
    }

    /// The outer error ends the connection, the inner one is the peer's answer.
    fn collect(&mut self, inbox: &Inbox) -> Result<Result<Body, StoreError>, Cut> {
        let mut body = match inbox.begin(self.channel.remaining() as u64) {
            Ok(body) => body,
            Err(e) => return Ok(Err(e)),
        };
        while self.channel.remaining() > 0 {
            if let Err(e) = body.push(self.channel.take(PIECE)?) {
                return Ok(Err(e.into()));
            }
        }
        Ok(Ok(body))
    }

    /// A FILE frame. Without a name there is nothing to store it under; it is acknowledged all the same.
    fn file(&mut self, frame: &Frame) -> Result<(), Cut> {
        let name = frame.name.as_deref().unwrap_or_default();
        let stored = if name.is_empty() { Ok(()) } else { self.collect_file(name)? };
        // After a failure the rest of the content is still on its way.
        self.channel.skip()?;
        match &stored {
            Err(StoreError::ReceivedFull(full)) => publish(
                self.service,
                "received.full",
                json!({"type": frame.kind.to_string(), "frame_bytes": frame.len, "max_bytes": full.max}),
            ),
            Err(error) => tracing::warn!(from = %self.from, %error, "file not stored"),
            Ok(()) => {}
        }
        self.acknowledge(frame.kind, frame.len, stored)
    }

    /// The outer error ends the connection, the inner one is the peer's answer.
    fn collect_file(&mut self, name: &str) -> Result<Result<(), StoreError>, Cut> {
        let size = self.channel.remaining();
        let mut file = match self.service.received.begin(size as u64) {
            Ok(file) => file,
            Err(e) => return Ok(Err(e)),
        };
        while self.channel.remaining() > 0 {
            if let Err(e) = file.write(self.channel.take(PIECE)?) {
                return Ok(Err(e));
            }
        }
        Ok(file.finish(name).map(|file| file_received(self.service, name, &file, size as u64)))
    }

    /// A TRACE frame: stored as a message of its inner type and answered with four times (dataexchange.md section 2.1).
    fn trace(&mut self) -> Result<(), Cut> {
        let head = self.channel.take(Trace::HEADER_LEN)?;
        let Trace { inner, sent_at_ns, .. } = match Trace::decode(FrameType::TRACE, head) {
            Ok(trace) => trace,
            Err(e) => return self.text(FrameType::TRACE, &format!("{ERR_PREFIX}trace parse: {e}")),
        };
        let size = self.channel.remaining();
        let message = self.message(inner)?;
        let stamps = &self.service.stamps;
        let mut reply = TimingReply {
            ack_sent_at_ns: 0,
            inbox_written_at_ns: stamps.unix_nanoseconds(),
            inner_ack: answer_text(inner, size, message.stored),
            received_at_ns: message.received_at,
            sent_at_ns,
        };
        reply.ack_sent_at_ns = stamps.unix_nanoseconds();
        let json = reply.to_json().unwrap_or_default();
        self.reply(FrameType::TRACE, FrameType::JSON, json.as_bytes())
    }

    fn acknowledge(
        &mut self,
        kind: FrameType,
        size: usize,
        stored: Result<(), StoreError>,
    ) -> Result<(), Cut> {
        self.text(kind, &answer_text(kind, size, stored))
    }

    fn text(&mut self, answered: FrameType, text: &str) -> Result<(), Cut> {
        self.reply(answered, FrameType::TEXT, text.as_bytes())
    }

    fn reply(&mut self, answered: FrameType, kind: FrameType, payload: &[u8]) -> Result<(), Cut> {
        self.channel.reply(answered, Flush::Now, |out| dataexchange::encode_frame(kind, payload, out))
    }
}

/// What clients match on by its first word (dataexchange.md section 2).
fn answer_text(kind: FrameType, size: usize, stored: Result<(), StoreError>) -> String {
    match stored {
        Ok(()) => dataexchange::ack_text(kind, size as u64),
        Err(cause) => dataexchange::save_failed_text(kind, cause),
    }
}

fn file_received(service: &Service, name: &str, file: &Stored, size: u64) {
    publish(service, "file.received", json!({"filename": name, "size": size, "path": file.location}));
}

fn publish(service: &Service, topic: &str, payload: Value) {
    let payload: Option<Map<String, Value>> = match payload {
        Value::Object(map) => Some(map),
        _ => None,
    };
    service.daemon.publish(topic, payload);
}
