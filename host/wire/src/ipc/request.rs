//! What a client asks of the daemon (ipc.md sections 5 to 14): one enum, decoded from a frame and encoded into one.
//!
//! Decoding refuses malformed bodies with the exact text the reply must carry; whether the request can be fulfilled is
//! the dispatcher's business.

use bytes::Bytes;
use serde_json::{Map, Value};

use super::family::{HandshakeRequest, ManagedRequest, NetworkRequest};
use super::frame::{Builder, Encoded, Fields, Frame, FrameTooLarge};
use super::json_body::{Object, json_list, json_object};
use super::{command, go_string_list};
use crate::addr::Addr;

/// Why a frame is not a request that can be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Answer with error reply 0x0A and this text.
    #[error("{0}")]
    Answer(String),
    /// The request kind has no reply: log it and say nothing, since a stray error would be taken for the answer to
    /// another request (ipc.md section 4).
    #[error("{0}")]
    Silent(&'static str),
}

impl From<&str> for Refusal {
    fn from(text: &str) -> Self {
        Refusal::Answer(text.to_owned())
    }
}

impl From<String> for Refusal {
    fn from(text: String) -> Self {
        Refusal::Answer(text)
    }
}

/// What the signature of an envelope covers (ipc.md section 13, "sign envelope").
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignBody {
    /// SHA-256 of the body, 64 lower-case hex digits; form not checked here.
    Hash(String),
    /// The body itself in base64; not decoded here.
    Base64(String),
}

/// A request of a client.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Bind a port (section 5).
    Bind {
        /// The port; 0 is not special.
        port: u16,
    },
    /// Open a stream (section 6).
    Dial {
        /// The peer.
        to: Addr,
        /// Its port.
        port: u16,
    },
    /// Stream data; never answered (section 6).
    Send {
        /// Connection id.
        conn: u32,
        /// The bytes; may be empty.
        data: Bytes,
    },
    /// Close a stream (section 6).
    Close {
        /// Connection id.
        conn: u32,
    },
    /// A datagram; never answered (section 7).
    SendTo {
        /// The peer.
        to: Addr,
        /// Its port.
        port: u16,
        /// The payload.
        data: Bytes,
    },
    /// A datagram whose acceptance is confirmed (section 7).
    SendToConfirmed {
        /// The peer.
        to: Addr,
        /// Its port.
        port: u16,
        /// The payload.
        data: Bytes,
    },
    /// A datagram to all members of a network (section 7).
    Broadcast {
        /// The network.
        network: u16,
        /// Destination port.
        port: u16,
        /// Admin token.
        token: String,
        /// The payload.
        data: Bytes,
    },
    /// State of the node (section 8).
    Info,
    /// Counters, answered without waiting (section 8).
    Health,
    /// The trust family (section 9).
    Handshake(HandshakeRequest),
    /// Host name to address (section 10).
    ResolveHostname(String),
    /// Set the host name, or clear it with an empty text (section 10).
    SetHostname(String),
    /// Public (`true`) or private (section 10).
    SetVisibility(bool),
    /// Leave the registry (section 10).
    Deregister,
    /// Replace the node's tags (section 10).
    SetTags(Vec<String>),
    /// Set the webhook URL, or clear it with an empty text (section 10).
    SetWebhook(String),
    /// The networks family (section 11).
    Network(NetworkRequest),
    /// The managed and policy family (section 12).
    Managed(ManagedRequest),
    /// New key pair (section 13).
    RotateKey,
    /// Release a port: newest form (section 5).
    Unbind {
        /// The port.
        port: u16,
    },
    /// Release a port: May 2026 form (section 5).
    UnbindV1 {
        /// The port.
        port: u16,
    },
    /// Abandon all dials of this client; never answered (section 6).
    CancelDials,
    /// Forget relay and tunnel for a peer so that the next dial tries the direct path (section 13).
    PreferDirect {
        /// The peer.
        node: u32,
    },
    /// Hand a badge to the registry (section 13).
    SubmitBadge {
        /// The badge text.
        badge: String,
        /// The issuer's signature.
        badge_sig: String,
    },
    /// Deposit a recovery enrolment at the registry (section 13).
    EnrollRecovery {
        /// The enrolment text.
        enrollment: String,
        /// The issuer's signature.
        enrollment_sig: String,
    },
    /// Sign a request envelope (section 13).
    SignEnvelope {
        /// Who it is for.
        audience: String,
        /// What it covers.
        body: SignBody,
        /// Caller's nonce, or empty.
        nonce: String,
    },
    /// Verify a request envelope (section 13).
    VerifyEnvelope {
        /// The envelope text.
        envelope: String,
        /// Its signature, base64.
        signature: String,
        /// Allowed clock difference in whole seconds; 0 or less means the default.
        max_skew_secs: i64,
        /// Ask the registry about the signer as well.
        check_standing: bool,
    },
    /// Subscribe to a topic (section 14, May 2026 fork).
    Subscribe {
        /// The topic.
        topic: String,
    },
    /// End a subscription (section 14, May 2026 fork).
    Unsubscribe {
        /// The topic.
        topic: String,
    },
    /// Stream data with an answer (section 14, May 2026 fork).
    SendTracked {
        /// Connection id.
        conn: u32,
        /// Chosen by the client, echoed in the answer.
        send_id: u64,
        /// The bytes.
        data: Bytes,
    },
    /// A node's public key (section 14, May 2026 fork).
    LookupNode {
        /// The node.
        node: u32,
    },
    /// Prove the identity (section 14, May 2026 fork).
    SignChallenge {
        /// 1 to 4096 bytes.
        challenge: Bytes,
    },
    /// Our own request family (see [`command::HOST`]).
    Host {
        /// Which operation.
        op: String,
        /// The whole object, `op` included.
        params: Map<String, Value>,
    },
}

impl Request {
    /// Decodes a client's frame.
    pub fn decode(frame: Frame) -> Result<Request, Refusal> {
        let mut f = Fields(frame.body);
        Ok(match frame.command {
            command::BIND => Request::Bind { port: f.u16().ok_or("bind: missing port")? },
            command::DIAL => {
                let (to, port) = target(&mut f).ok_or("dial: missing address/port")?;
                Request::Dial { to, port }
            }
            command::SEND => Request::Send {
                conn: f.u32().ok_or(Refusal::Silent("send: missing conn_id"))?,
                data: f.rest(),
            },
            command::CLOSE => Request::Close { conn: f.u32().ok_or("close: missing conn_id")? },
            command::SEND_TO => {
                let (to, port) = target(&mut f).ok_or(Refusal::Silent("sendto: missing address/port"))?;
                Request::SendTo { to, port, data: f.rest() }
            }
            command::SEND_TO_CONFIRMED => {
                let (to, port) = target(&mut f).ok_or("sendto: missing header")?;
                Request::SendToConfirmed { to, port, data: f.rest() }
            }
            command::BROADCAST => {
                const SHORT: &str = "broadcast: missing header";
                let (network, port) = (f.u16().ok_or(SHORT)?, f.u16().ok_or(SHORT)?);
                let n = f.u16().ok_or(SHORT)?;
                let token = f.bytes(n.into()).ok_or("broadcast: truncated token")?;
                Request::Broadcast { network, port, token: super::frame::text(&token), data: f.rest() }
            }
            command::INFO => Request::Info,
            command::HEALTH => Request::Health,
            command::HANDSHAKE => Request::Handshake(HandshakeRequest::decode(f.rest())?),
            command::RESOLVE_HOSTNAME => match f.text() {
                name if name.is_empty() => return Err("resolve_hostname: missing hostname".into()),
                name => Request::ResolveHostname(name),
            },
            command::SET_HOSTNAME => Request::SetHostname(f.text()),
            command::SET_VISIBILITY => {
                Request::SetVisibility(f.u8().ok_or("set_visibility: missing value")? == 1)
            }
            command::DEREGISTER => Request::Deregister,
            command::SET_TAGS => {
                let tags = go_string_list(&f.rest()).map_err(|e| format!("set_tags: invalid JSON: {e}"))?;
                if tags.len() > 3 {
                    return Err("set_tags: maximum 3 tags allowed".into());
                }
                Request::SetTags(tags)
            }
            command::SET_WEBHOOK => Request::SetWebhook(f.text()),
            command::NETWORK => Request::Network(NetworkRequest::decode(f.rest())?),
            command::MANAGED => Request::Managed(ManagedRequest::decode(f.rest())?),
            command::ROTATE_KEY if f.0.is_empty() => Request::RotateKey,
            command::ROTATE_KEY => return Err("set_peer_endpoints: not supported by this daemon".into()),
            command::UNBIND if f.0.len() != 2 => return Err("unbind: port is required".into()),
            command::UNBIND => Request::Unbind { port: f.u16().ok_or("unbind: port is required")? },
            command::UNBIND_V1 => Request::UnbindV1 { port: f.u16().ok_or("unbind: missing port")? },
            command::CANCEL_DIALS => Request::CancelDials,
            command::PREFER_DIRECT => {
                const SIZE: &str = "prefer_direct: payload must be 4 bytes (node_id)";
                match (f.u32(), f.0.is_empty()) {
                    (Some(node), true) => Request::PreferDirect { node },
                    _ => return Err(SIZE.into()),
                }
            }
            command::SUBMIT_BADGE => {
                let o = Object::parse("submit_badge", &f.rest())?;
                let (badge, badge_sig) = (o.text("badge")?, o.text("badge_sig")?);
                if badge.is_empty() || badge_sig.is_empty() {
                    return Err("submit_badge: badge and badge_sig required".into());
                }
                Request::SubmitBadge { badge, badge_sig }
            }
            command::ENROLL_RECOVERY => {
                let o = Object::parse("enroll_recovery", &f.rest())?;
                let (enrollment, enrollment_sig) = (o.text("enrollment")?, o.text("enrollment_sig")?);
                if enrollment.is_empty() || enrollment_sig.is_empty() {
                    return Err("enroll_recovery: enrollment and enrollment_sig required".into());
                }
                Request::EnrollRecovery { enrollment, enrollment_sig }
            }
            command::SIGN_ENVELOPE => Self::decode_sign(&f.rest())?,
            command::VERIFY_ENVELOPE => {
                let o = Object::parse("verify_envelope", &f.rest())?;
                let (envelope, signature) = (o.text("envelope")?, o.text("signature")?);
                let (max_skew_secs, check_standing) =
                    (o.seconds("max_skew_secs")?, o.flag("check_standing")?);
                if envelope.is_empty() || signature.is_empty() {
                    return Err("verify_envelope: envelope and signature required".into());
                }
                Request::VerifyEnvelope { envelope, signature, max_skew_secs, check_standing }
            }
            command::SUBSCRIBE => Request::Subscribe { topic: topic("subscribe", f)? },
            command::UNSUBSCRIBE => Request::Unsubscribe { topic: topic("unsubscribe", f)? },
            command::SEND_TRACKED => {
                const SHORT: &str = "send_tracked: missing conn_id or send_id";
                let (conn, send_id) = (f.u32().ok_or(SHORT)?, f.u64().ok_or(SHORT)?);
                Request::SendTracked { conn, send_id, data: f.rest() }
            }
            command::LOOKUP_NODE => {
                Request::LookupNode { node: f.u32().ok_or("lookup_node: missing node_id")? }
            }
            command::SIGN_CHALLENGE => match f.rest() {
                challenge if (1..=4096).contains(&challenge.len()) => Request::SignChallenge { challenge },
                challenge => {
                    let n = challenge.len();
                    return Err(format!("sign_challenge: challenge must be 1-4096 bytes, got {n}").into());
                }
            },
            command::HOST => {
                let o = Object::parse("host", &f.rest())?;
                let op = o.text("op")?;
                if op.is_empty() {
                    return Err("host: op required".into());
                }
                Request::Host { op, params: o.members }
            }
            other => return Err(format!("unknown command: 0x{other:02X}").into()),
        })
    }

    fn decode_sign(body: &[u8]) -> Result<Request, Refusal> {
        let o = Object::parse("sign_envelope", body)?;
        let (audience, nonce) = (o.text("audience")?, o.text("nonce")?);
        let (hash, b64) = (o.text("body_hash")?, o.text("body_b64")?);
        if audience.is_empty() {
            return Err("sign_envelope: audience required".into());
        }
        let body = match (hash.is_empty(), b64.is_empty()) {
            (false, false) => {
                return Err("sign_envelope: body_hash and body_b64 are mutually exclusive".into());
            }
            (true, true) => return Err("sign_envelope: body_hash or body_b64 required".into()),
            (false, true) => SignBody::Hash(hash),
            (true, false) => SignBody::Base64(b64),
        };
        Ok(Request::SignEnvelope { audience, body, nonce })
    }

    /// Whether the daemon answers this kind (ipc.md section 4, rule 1).
    pub fn expects_reply(&self) -> bool {
        !matches!(self, Request::Send { .. } | Request::SendTo { .. } | Request::CancelDials)
    }

    /// The command byte.
    pub fn command(&self) -> u8 {
        match self {
            Request::Bind { .. } => command::BIND,
            Request::Dial { .. } => command::DIAL,
            Request::Send { .. } => command::SEND,
            Request::Close { .. } => command::CLOSE,
            Request::SendTo { .. } => command::SEND_TO,
            Request::SendToConfirmed { .. } => command::SEND_TO_CONFIRMED,
            Request::Broadcast { .. } => command::BROADCAST,
            Request::Info => command::INFO,
            Request::Health => command::HEALTH,
            Request::Handshake(_) => command::HANDSHAKE,
            Request::ResolveHostname(_) => command::RESOLVE_HOSTNAME,
            Request::SetHostname(_) => command::SET_HOSTNAME,
            Request::SetVisibility(_) => command::SET_VISIBILITY,
            Request::Deregister => command::DEREGISTER,
            Request::SetTags(_) => command::SET_TAGS,
            Request::SetWebhook(_) => command::SET_WEBHOOK,
            Request::Network(_) => command::NETWORK,
            Request::Managed(_) => command::MANAGED,
            Request::RotateKey => command::ROTATE_KEY,
            Request::Unbind { .. } => command::UNBIND,
            Request::UnbindV1 { .. } => command::UNBIND_V1,
            Request::CancelDials => command::CANCEL_DIALS,
            Request::PreferDirect { .. } => command::PREFER_DIRECT,
            Request::SubmitBadge { .. } => command::SUBMIT_BADGE,
            Request::EnrollRecovery { .. } => command::ENROLL_RECOVERY,
            Request::SignEnvelope { .. } => command::SIGN_ENVELOPE,
            Request::VerifyEnvelope { .. } => command::VERIFY_ENVELOPE,
            Request::Subscribe { .. } => command::SUBSCRIBE,
            Request::Unsubscribe { .. } => command::UNSUBSCRIBE,
            Request::SendTracked { .. } => command::SEND_TRACKED,
            Request::LookupNode { .. } => command::LOOKUP_NODE,
            Request::SignChallenge { .. } => command::SIGN_CHALLENGE,
            Request::Host { .. } => command::HOST,
        }
    }

    /// The frame to write.
    pub fn encode(&self) -> Result<Encoded, FrameTooLarge> {
        let b = Builder::new(self.command());
        match self {
            Request::Bind { port } | Request::Unbind { port } | Request::UnbindV1 { port } => {
                b.u16(*port).end()
            }
            Request::Dial { to, port } => b.addr(*to).u16(*port).end(),
            Request::Send { conn, data } => b.u32(*conn).body(data.clone()),
            Request::Close { conn } => b.u32(*conn).end(),
            Request::SendTo { to, port, data } | Request::SendToConfirmed { to, port, data } => {
                b.addr(*to).u16(*port).body(data.clone())
            }
            Request::Broadcast { network, port, token, data } => {
                let token_len =
                    u16::try_from(token.len()).map_err(|_| FrameTooLarge { length: token.len() })?;
                let b = b.u16(*network).u16(*port).u16(token_len);
                b.body([token.as_bytes(), data].concat().into())
            }
            Request::Info
            | Request::Health
            | Request::Deregister
            | Request::RotateKey
            | Request::CancelDials => b.end(),
            Request::Handshake(r) => r.encode(),
            Request::Network(r) => r.encode(),
            Request::Managed(r) => r.encode(),
            Request::ResolveHostname(text) | Request::SetHostname(text) | Request::SetWebhook(text) => {
                b.text(text)
            }
            Request::SetVisibility(public) => b.u8(u8::from(*public)).end(),
            Request::SetTags(tags) => b.body(json_list(tags)),
            Request::PreferDirect { node } | Request::LookupNode { node } => b.u32(*node).end(),
            Request::SubmitBadge { badge, badge_sig } => b.body(json_object([
                ("badge", badge.as_str().into()),
                ("badge_sig", badge_sig.as_str().into()),
            ])),
            Request::EnrollRecovery { enrollment, enrollment_sig } => b.body(json_object([
                ("enrollment", enrollment.as_str().into()),
                ("enrollment_sig", enrollment_sig.as_str().into()),
            ])),
            Request::SignEnvelope { audience, body, nonce } => {
                let mut members = vec![("audience", Value::from(audience.as_str()))];
                members.push(match body {
                    SignBody::Hash(h) => ("body_hash", h.as_str().into()),
                    SignBody::Base64(b) => ("body_b64", b.as_str().into()),
                });
                if !nonce.is_empty() {
                    members.push(("nonce", nonce.as_str().into()));
                }
                b.body(json_object(members))
            }
            Request::VerifyEnvelope { envelope, signature, max_skew_secs, check_standing } => {
                b.body(json_object([
                    ("envelope", envelope.as_str().into()),
                    ("signature", signature.as_str().into()),
                    ("max_skew_secs", (*max_skew_secs).into()),
                    ("check_standing", (*check_standing).into()),
                ]))
            }
            Request::Subscribe { topic } | Request::Unsubscribe { topic } => {
                let n = u16::try_from(topic.len()).map_err(|_| FrameTooLarge { length: topic.len() })?;
                b.u16(n).text(topic)
            }
            Request::SendTracked { conn, send_id, data } => b.u32(*conn).u64(*send_id).body(data.clone()),
            Request::SignChallenge { challenge } => b.body(challenge.clone()),
            Request::Host { op, params } => {
                let mut object = params.clone();
                object.insert("op".to_owned(), op.as_str().into());
                b.text(&Value::Object(object).to_string())
            }
        }
    }
}

/// Address and port at the front of a body.
fn target(f: &mut Fields) -> Option<(Addr, u16)> {
    Some((f.addr()?, f.u16()?))
}

/// A topic with its length (section 14).
fn topic(op: &str, mut f: Fields) -> Result<String, Refusal> {
    let n = usize::from(f.u16().ok_or_else(|| format!("{op}: missing topic length"))?);
    if n == 0 {
        return Err(format!("{op}: empty topic").into());
    }
    let have = f.0.len();
    let topic = f
        .bytes(n)
        .ok_or_else(|| format!("{op}: topic length {n} overruns payload ({have} bytes after header)"))?;
    Ok(super::frame::text(&topic))
}
