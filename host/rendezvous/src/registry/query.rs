//! Requests as connections bring them, in both modes, and what the registry makes of one: read without the registry,
//! worked on with it, written down without it again, so that whoever shares one registry among threads holds it for the
//! middle part only.
//!
//! Called by the TCP driver. Frames around requests and answers are made here, buffers are the driver's.

use std::net::SocketAddr;

use pilot_wire::registry::{
    MSG_ERROR, MSG_JSON, MessageError, decode_message, encode_error, encode_frame, encode_raw_message,
};
use serde_json::{Map, Value};

use super::{Call, Proof, Registry};
use crate::message::{Answer, Members, Request};
use crate::refusal::Refusal;

const NO_REPLICATION: &str = "replication not supported over binary protocol";
/// What a client reads when its change could not be stored.
const NOT_STORED: &str = "request failed";

/// One request, read but not worked on.
#[derive(Debug)]
pub struct Query<'a>(pub(super) Form<'a>);

#[derive(Debug)]
pub(super) enum Form<'a> {
    /// JSON mode.
    Message(Members<'a>),
    /// JSON in a frame of binary mode.
    Framed(Members<'a>),
    /// The same, but not readable; the text says why.
    Unreadable(String),
    /// Any other frame of binary mode.
    Frame { kind: u8, payload: &'a [u8] },
}

impl<'a> Query<'a> {
    /// A message of JSON mode: the text of its body.
    ///
    /// # Errors
    /// [`MessageError::Json`]: it is no JSON object. The connection is of no more use then.
    pub fn message(text: &'a str) -> Result<Self, MessageError> {
        members(text).map(|members| Self(Form::Message(members)))
    }

    /// A frame of binary mode that holds JSON: the text of its payload.
    pub fn json_frame(text: &'a str) -> Self {
        Self(match members(text) {
            Ok(members) => Form::Framed(members),
            Err(e) => Form::Unreadable(e.to_string()),
        })
    }

    /// Any other frame of binary mode.
    pub fn frame(kind: u8, payload: &'a [u8]) -> Self {
        Self(Form::Frame { kind, payload })
    }
}

fn members(text: &str) -> Result<Members<'_>, MessageError> {
    // The wire's own reader has the words for what is wrong.
    let explained = |cause: serde_json::Error| match decode_message(text.as_bytes()) {
        Err(e) => e,
        Ok(_) => MessageError::Json { detail: cause.to_string() },
    };
    Members::parse(text).map_err(explained)
}

/// What came of one request.
#[derive(Debug)]
pub struct Reply {
    pub(super) body: Body,
    /// It has changed records: the answer may be sent once they are safe.
    pub changed: bool,
    /// Nodes for which a handshake message now waits; a beacon in the same process may tell them.
    pub notify: Vec<u32>,
    /// Close the connection behind the answer.
    pub close: bool,
    /// The client wants the whole content and all news from now on; there is no answer to send.
    pub subscribed: bool,
    /// What to tell the webhook, if there is one.
    pub audit: Option<Map<String, Value>>,
}

/// An answer in the mode of its request.
#[derive(Debug)]
pub(super) enum Body {
    Message(Answer),
    Framed(Answer),
    Frame(u8, Vec<u8>),
}

/// An answer that no message can hold; the connection is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an answer is larger than a message can be")]
pub struct AnswerTooLarge;

impl Reply {
    pub(super) fn frame(kind: u8, payload: Vec<u8>) -> Self {
        Self {
            body: Body::Frame(kind, payload),
            changed: false,
            notify: Vec::new(),
            close: false,
            subscribed: false,
            audit: None,
        }
    }

    pub(super) fn error_frame(text: &str) -> Self {
        Self::frame(MSG_ERROR, encode_error(text))
    }

    /// Appends the answer as it goes over the connection, and lets go of it. `scratch` is for the text on its way; whoever
    /// writes many answers passes the same one.
    ///
    /// # Errors
    /// [`AnswerTooLarge`]; `out` is then unchanged.
    pub fn write(&mut self, scratch: &mut String, out: &mut Vec<u8>) -> Result<(), AnswerTooLarge> {
        scratch.clear();
        match &mut self.body {
            Body::Message(answer) => {
                answer.take().write(scratch);
                encode_raw_message(scratch.as_bytes(), out).map_err(|_| AnswerTooLarge)
            }
            Body::Framed(answer) => {
                answer.take().write(scratch);
                encode_frame(MSG_JSON, scratch.as_bytes(), out).map_err(|_| AnswerTooLarge)
            }
            Body::Frame(kind, payload) => {
                encode_frame(*kind, &std::mem::take(payload), out).map_err(|_| AnswerTooLarge)
            }
        }
    }

    /// The same request's reply when its changes could not be made safe: a refusal, and no news to anybody.
    #[must_use]
    pub fn not_stored(&self) -> Self {
        let body = match self.body {
            Body::Message(_) => Body::Message(Answer::error(NOT_STORED)),
            Body::Framed(_) | Body::Frame(..) => Body::Frame(MSG_ERROR, encode_error(NOT_STORED)),
        };
        Self { body, changed: false, notify: Vec::new(), close: self.close, subscribed: false, audit: None }
    }
}

impl Registry {
    /// Handles one request. `now` is unix seconds, `source` where the connection comes from, `proof` what became of the
    /// request's [`claim`](Self::signature_claim), if that is known. What it changes waits for [`take_changes`](Self::take_changes).
    pub fn handle(&mut self, now: i64, source: SocketAddr, query: &Query<'_>, proof: Option<Proof>) -> Reply {
        self.state.begin();
        self.proof = proof;
        let mut reply = match &query.0 {
            Form::Message(members) => self.handle_members(now, source, members, Body::Message),
            Form::Framed(members) if Request(members).kind() == "subscribe_replication" => {
                Reply::error_frame(NO_REPLICATION)
            }
            Form::Framed(members) => self.handle_members(now, source, members, Body::Framed),
            Form::Unreadable(text) => Reply::error_frame(text),
            Form::Frame { kind, payload } => self.handle_frame(now, *kind, payload),
        };
        self.proof = None;
        reply.changed = self.state.has_changed();
        reply
    }

    fn handle_members(
        &mut self,
        now: i64,
        source: SocketAddr,
        members: &Members<'_>,
        body: fn(Answer) -> Body,
    ) -> Reply {
        let call = Call { now, source, request: Request(members) };
        let outcome = self.check_standby(&call).and_then(|()| self.dispatch(&call));
        let subscribed = matches!(outcome, Err(Refusal::Subscribed));
        self.counters.count(call.request.kind(), outcome.is_err() && !subscribed);
        let close = matches!(outcome, Err(Refusal::NoReplication | Refusal::ReplicationToken));
        let done = outcome.is_ok();
        let standby = matches!(outcome, Err(Refusal::Standby));
        let answer = outcome.unwrap_or_else(|refusal| Answer::error(&refusal.shown()));
        // The text for it is hidden, so that our clients would not know that another server can help.
        let answer = answer.with_true("standby", standby);
        let audit = if done { self.audit(&call, &answer) } else { None };
        let notify = std::mem::take(&mut self.notify);
        Reply { body: body(answer), changed: false, notify, close, subscribed, audit }
    }
}
