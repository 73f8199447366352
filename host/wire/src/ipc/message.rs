//! What the daemon sends: replies to requests, and pushes that may come at any moment (ipc.md sections 3 to 14).
//!
//! The daemon encodes [`Reply`] and [`Push`]; a client decodes [`Incoming`]. The older fork's codes share numbers with
//! the newest protocol's; a client of ours reads them as the newest protocol does and ignores the rest.

use bytes::Bytes;
use serde_json::Value;

use super::command;
use super::frame::{Builder, Encoded, Fields, Frame, FrameTooLarge};
use crate::addr::Addr;

/// How a tracked send ended (ipc.md section 14, "Send result codes").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendCode {
    /// Taken over by the stream.
    Ok,
    /// No such connection.
    NotFound,
    /// The stream is not open yet.
    NotEstablished,
    /// The stream is closing.
    Closing,
    /// Anything else.
    Failed,
}

impl SendCode {
    /// The number on the wire.
    pub const fn code(self) -> u16 {
        match self {
            SendCode::Ok => 0,
            SendCode::NotFound => 1,
            SendCode::NotEstablished => 2,
            SendCode::Closing => 3,
            SendCode::Failed => 4,
        }
    }
}

/// The one answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// 0x02.
    BindOk {
        /// The bound port.
        port: u16,
    },
    /// 0x04.
    DialOk {
        /// The new connection.
        conn: u32,
    },
    /// 0x09; also for unknown ids.
    CloseOk {
        /// The closed connection.
        conn: u32,
    },
    /// 0x0A: the request failed; the code field is always 1.
    Error {
        /// The reason, complete with its `<op>: ` prefix.
        message: String,
    },
    /// 0x28 or 0x38, as the request was 0x27 or 0x37.
    UnbindOk {
        /// Whether the request was the May 2026 form.
        v1: bool,
        /// The released port.
        port: u16,
    },
    /// A JSON object under the reply code of its request.
    Json {
        /// The reply code.
        command: u8,
        /// UTF-8 JSON.
        body: Bytes,
    },
    /// An empty answer: 0x2A, 0x3A, or the fork's 0x33.
    Done {
        /// The reply code.
        command: u8,
    },
    /// 0x31 (May 2026 fork).
    Subscribed {
        /// The topic.
        topic: String,
        /// Its state now.
        snapshot: Bytes,
    },
    /// 0x37 (May 2026 fork).
    SendTracked {
        /// Connection id of the request.
        conn: u32,
        /// Its send id.
        send_id: u64,
        /// How it ended.
        code: SendCode,
        /// Why, when it failed.
        message: String,
    },
}

impl Reply {
    /// A JSON reply.
    pub fn json(command: u8, value: &Value) -> Reply {
        Reply::Json { command, body: value.to_string().into() }
    }

    /// An error reply.
    pub fn error(message: impl Into<String>) -> Reply {
        Reply::Error { message: message.into() }
    }

    /// The frame to write.
    pub fn encode(&self) -> Result<Encoded, FrameTooLarge> {
        match self {
            Reply::BindOk { port } => Builder::new(command::BIND_OK).u16(*port).end(),
            Reply::DialOk { conn } => Builder::new(command::DIAL_OK).u32(*conn).end(),
            Reply::CloseOk { conn } => Builder::new(command::CLOSE_OK).u32(*conn).end(),
            Reply::Error { message } => Builder::new(command::ERROR).u16(1).text(message),
            Reply::UnbindOk { v1, port } => {
                let code = if *v1 { command::UNBIND_V1_OK } else { command::UNBIND_OK };
                Builder::new(code).u16(*port).end()
            }
            Reply::Json { command, body } => Builder::new(*command).body(body.clone()),
            Reply::Done { command } => Builder::new(*command).end(),
            Reply::Subscribed { topic, snapshot } => topic_frame(command::SUBSCRIBE_OK, topic, snapshot),
            Reply::SendTracked { conn, send_id, code, message } => {
                Builder::new(command::SEND_TRACKED_OK).u32(*conn).u64(*send_id).u16(code.code()).text(message)
            }
        }
    }
}

/// Topic and state as the fork frames them: u16 length, topic, u32 length, payload.
fn topic_frame(command: u8, topic: &str, payload: &[u8]) -> Result<Encoded, FrameTooLarge> {
    let n = u16::try_from(topic.len()).map_err(|_| FrameTooLarge { length: topic.len() })?;
    let m = u32::try_from(payload.len()).map_err(|_| FrameTooLarge { length: payload.len() })?;
    Builder::new(command).u16(n).body([topic.as_bytes(), &m.to_be_bytes(), payload].concat().into())
}

/// What the daemon says unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Push {
    /// 0x05: a stream arrived on a port this client bound.
    Accept {
        /// The bound port.
        port: u16,
        /// The new connection.
        conn: u32,
        /// Who dialled.
        remote: Addr,
        /// From which port.
        remote_port: u16,
    },
    /// 0x07: stream data.
    Recv {
        /// Connection id.
        conn: u32,
        /// The bytes.
        data: Bytes,
    },
    /// 0x09: the stream has ended; nothing more comes for it.
    Closed {
        /// Connection id.
        conn: u32,
    },
    /// 0x0C: a datagram; goes to every client.
    Datagram {
        /// Who sent it.
        from: Addr,
        /// From which port.
        src_port: u16,
        /// To which of our ports.
        dst_port: u16,
        /// The payload.
        data: Bytes,
    },
    /// 0x34 (May 2026 fork): news on a subscribed topic.
    Notify {
        /// The topic.
        topic: String,
        /// Its new state.
        payload: Bytes,
    },
}

impl Push {
    /// The frame to write.
    pub fn encode(&self) -> Result<Encoded, FrameTooLarge> {
        match self {
            Push::Accept { port, conn, remote, remote_port } => {
                Builder::new(command::ACCEPT).u16(*port).u32(*conn).addr(*remote).u16(*remote_port).end()
            }
            Push::Recv { conn, data } => Builder::new(command::RECV).u32(*conn).body(data.clone()),
            Push::Closed { conn } => Builder::new(command::CLOSE_OK).u32(*conn).end(),
            Push::Datagram { from, src_port, dst_port, data } => {
                Builder::new(command::RECV_FROM).addr(*from).u16(*src_port).u16(*dst_port).body(data.clone())
            }
            Push::Notify { topic, payload } => topic_frame(command::NOTIFY, topic, payload),
        }
    }
}

/// A frame of the daemon as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// The answer to the outstanding request.
    Reply(Reply),
    /// Unasked.
    Push(Push),
    /// 0x09 is both: the answer to a close, and the news that a stream has ended. Which one only the client's own state
    /// can tell.
    Closed {
        /// Connection id.
        conn: u32,
    },
    /// A code that this client does not know; to be ignored (ipc.md section 4, rule 7).
    Unknown {
        /// The code.
        command: u8,
    },
}

/// A known code with a body that is too short: the daemon is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed message 0x{command:02X} from the daemon: {length} bytes are too short")]
pub struct MalformedMessage {
    /// The code.
    pub command: u8,
    /// The length of its body.
    pub length: usize,
}

impl Incoming {
    /// Decodes a frame of the daemon.
    pub fn decode(frame: Frame) -> Result<Incoming, MalformedMessage> {
        let (code, length) = (frame.command, frame.body.len());
        Self::parse(code, Fields(frame.body)).ok_or(MalformedMessage { command: code, length })
    }

    fn parse(code: u8, mut f: Fields) -> Option<Incoming> {
        Some(match code {
            command::BIND_OK => Incoming::Reply(Reply::BindOk { port: f.u16()? }),
            command::DIAL_OK => Incoming::Reply(Reply::DialOk { conn: f.u32()? }),
            command::ACCEPT => Incoming::Push(Push::Accept {
                port: f.u16()?,
                conn: f.u32()?,
                remote: f.addr()?,
                remote_port: f.u16()?,
            }),
            command::RECV => Incoming::Push(Push::Recv { conn: f.u32()?, data: f.rest() }),
            command::CLOSE_OK => Incoming::Closed { conn: f.u32()? },
            // A body shorter than the code field is shown as a plain "daemon error" (ipc.md section 4).
            command::ERROR => Incoming::Reply(match f.u16() {
                Some(_) => Reply::Error { message: f.text() },
                None => Reply::error("daemon error"),
            }),
            command::RECV_FROM => Incoming::Push(Push::Datagram {
                from: f.addr()?,
                src_port: f.u16()?,
                dst_port: f.u16()?,
                data: f.rest(),
            }),
            command::UNBIND_V1_OK => Incoming::Reply(Reply::UnbindOk { v1: true, port: f.u16()? }),
            command::UNBIND_OK => Incoming::Reply(Reply::UnbindOk { v1: false, port: f.u16()? }),
            command::BROADCAST_OK | command::SEND_TO_CONFIRMED_OK => {
                Incoming::Reply(Reply::Done { command: code })
            }
            command::INFO_OK
            | command::HANDSHAKE_OK
            | command::RESOLVE_HOSTNAME_OK
            | command::SET_HOSTNAME_OK
            | command::SET_VISIBILITY_OK
            | command::DEREGISTER_OK
            | command::SET_TAGS_OK
            | command::SET_WEBHOOK_OK
            | command::NETWORK_OK
            | command::HEALTH_OK
            | command::MANAGED_OK
            | command::ROTATE_KEY_OK
            | command::PREFER_DIRECT_OK
            | command::SUBMIT_BADGE_OK
            | command::ENROLL_RECOVERY_OK
            | command::SIGN_ENVELOPE_OK
            | command::VERIFY_ENVELOPE_OK
            | command::HOST_OK => Incoming::Reply(Reply::Json { command: code, body: f.rest() }),
            other => Incoming::Unknown { command: other },
        })
    }
}
