//! What host and child say to each other: the treaty's plain traits, one variant per method. Maps travel as JSON text,
//! as they do across the library border; stream data travels beside the message, raw.
//!
//! Both ends are always the same build of the same program, so this has no versions.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use plugin_abi::{
    Addr, ConnectionInfo, Direction, Error, ErrorKind, EventText, HandshakePendingRecord,
    HandshakeTrustRecord, PolicyEvent, PortGate, Result, VersionInfo, WebhookStats,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The first byte on the socket; the sealed file rides on it.
pub(super) const GREETING: u8 = b'P';

/// How the reason starts when a session ended because the plugin panicked at the border.
pub(super) const PANICKED: &str = "panicked";

/// The host asks its child.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToChild {
    /// Open the library and make an instance.
    Create(Birth),
    /// [`plugin_abi::Plugin::init`].
    Init(Facts),
    /// [`plugin_abi::Plugin::shutdown`].
    Shutdown { deadline: Duration },
    /// Are you there? With the levels that the host's log keeps, one bit each.
    Ping { levels: u8 },
    /// [`plugin_abi::TrustChecker::is_trusted`] of the checker that the plugin registered.
    TrustCheck { node: u32 },
    /// The handshake service that the plugin registered.
    Handshake(Handshake),
    /// The policy manager that the plugin registered.
    Policy(Policy),
    /// Its runner of one network.
    Runner { network: u16, ask: Runner },
    /// The webhook manager that the plugin registered.
    Webhook(Webhook),
}

/// What a child needs before it opens the file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Birth {
    /// The file's path, for texts.
    pub path: PathBuf,
    pub host_version: String,
    /// Where copies go if the system does not open files in memory; `None` lets the child choose.
    pub private_copy: Option<PathBuf>,
    /// Limit of the child's address space, bytes.
    pub address_space: Option<u64>,
    pub levels: u8,
}

/// What does not change while the plugin lives; and the log's levels, which a ping may change.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Facts {
    pub treaty: (u16, u16),
    pub identity_path: Option<PathBuf>,
    pub trust_auto_approve: bool,
    pub version: VersionInfo,
    pub config_json: String,
    pub state_dir: PathBuf,
    pub levels: u8,
}

/// Methods of [`plugin_abi::HandshakeService`]; both sides may ask.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Handshake {
    IsTrusted { node: u32 },
    IsTrustedWithKey { node: u32, key: String },
    TrustedPeers,
    PendingRequests,
    PendingCount,
    SendRequest { peer: u32, justification: String },
    Approve { peer: u32 },
    Reject { peer: u32, reason: String },
    Revoke { peer: u32 },
    WaitForTrust { peer: u32, timeout: Duration },
    RelayedRequest { from: u32, justification: String },
    RelayedApproval { from: u32 },
    RelayedRejection { from: u32 },
    Stop,
}

/// Methods of [`plugin_abi::PolicyManager`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Policy {
    Start { network: u16, document: String },
    Stop { network: u16 },
    Has { network: u16 },
    All,
    StopAll,
    LoadPersisted,
    Explain { document: String, event: String, context: String },
}

/// Methods of [`plugin_abi::PolicyRunner`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Runner {
    HasMember { node: u32 },
    Gate(Gate),
    Actions { event: String, context: String },
    Status,
    Peers,
    ForceCycle,
    Reconcile,
    Document,
    Stop,
}

/// Methods of [`plugin_abi::WebhookManager`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Webhook {
    SetUrl { url: String },
    Url,
    Stats,
}

/// [`PortGate`] on its way.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Gate {
    event: u8,
    port: u16,
    peer: u32,
    payload_size: u32,
    outward: bool,
    local_tags: Vec<String>,
    node_info_tags: Vec<String>,
}

const EVENTS: [PolicyEvent; 6] = [
    PolicyEvent::Connect,
    PolicyEvent::Dial,
    PolicyEvent::Datagram,
    PolicyEvent::Join,
    PolicyEvent::Leave,
    PolicyEvent::Cycle,
];

impl From<&PortGate> for Gate {
    fn from(g: &PortGate) -> Self {
        let event = EVENTS.iter().position(|e| *e == g.event).and_then(|i| u8::try_from(i).ok());
        Gate {
            event: event.unwrap_or(u8::MAX),
            port: g.port,
            peer: g.peer,
            payload_size: g.payload_size,
            outward: g.direction == Direction::Out,
            local_tags: g.local_tags.clone(),
            node_info_tags: g.node_info_tags.clone(),
        }
    }
}

impl Gate {
    pub fn into_port_gate(self) -> Result<PortGate, String> {
        Ok(PortGate {
            event: *EVENTS.get(usize::from(self.event)).ok_or("unknown policy event")?,
            port: self.port,
            peer: self.peer,
            payload_size: self.payload_size,
            direction: if self.outward { Direction::Out } else { Direction::In },
            local_tags: self.local_tags,
            node_info_tags: self.node_info_tags,
        })
    }
}

/// The child asks its host. Numbers named `stream`, `listener` and `subscription` are handles that the host gave.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToHost {
    NodeId,
    Addr,
    Identity,
    /// The message is the raw part.
    Sign,
    AdminToken,
    Dial {
        addr: u64,
        port: u16,
        timeout: Duration,
    },
    /// Ends early by [`Mention::Cancel`].
    DialAsync {
        addr: u64,
        port: u16,
    },
    /// The datagram is the raw part.
    SendDatagram {
        addr: u64,
        port: u16,
    },
    Read {
        stream: u32,
        max: u32,
    },
    /// The data is the raw part.
    Write {
        stream: u32,
    },
    SetReadTimeout {
        stream: u32,
        timeout: Option<Duration>,
    },
    Bind {
        port: u16,
    },
    Unbind {
        port: u16,
    },
    Accept {
        listener: u32,
    },
    CloseListener {
        listener: u32,
    },
    RemovePeer {
        node: u32,
    },
    Subscribe {
        pattern: String,
    },
    Receive {
        subscription: u32,
        timeout: Duration,
    },
    RegistryCall {
        op: String,
        params: String,
    },
    ListNodes {
        network: u16,
        token: String,
    },
    SetMemberTags {
        network: u16,
        tags: Vec<String>,
    },
    HasTrustChecker,
    TrustCheck {
        node: u32,
    },
    HasHandshake,
    Handshake(Handshake),
    Register(Service),
    TrustedPeers,
    RevokeTrust {
        node: u32,
    },
    SendRequest {
        node: u32,
        reason: String,
    },
    OpenReplyWindow {
        node: u32,
    },
    SetWebhookUrl {
        url: String,
    },
}

/// What a plugin may answer for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Service {
    TrustChecker,
    Handshake,
    Policy,
    Webhook,
}

/// The child mentions.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Mention {
    Publish {
        topic: String,
        payload: Option<String>,
    },
    Logs {
        lines: Vec<Line>,
        dropped: u64,
    },
    /// `failed`: the plugin panicked at the border and is not to be called any more.
    Fault {
        op: String,
        message: String,
        failed: bool,
    },
    CloseStream {
        stream: u32,
    },
    ReleaseStream {
        stream: u32,
    },
    ReleaseListener {
        listener: u32,
    },
    CancelSubscription {
        subscription: u32,
    },
    ReleaseSubscription {
        subscription: u32,
    },
    /// The answer to this call is not wanted any more.
    Cancel {
        call: u32,
    },
}

/// The host mentions nothing.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Silence {}

/// One line of the plugin's log.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Line {
    pub level: u8,
    pub target: String,
    pub message: String,
    pub fields: String,
}

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Failed {
        code: u32,
        message: String,
    },
    Done,
    Flag(bool),
    Number(u64),
    Text(String),
    Name(Option<String>),
    /// The raw part.
    Data,
    /// As `Data`, where nothing is possible too.
    Nothing,
    Stream(Stream),
    Handle(u32),
    Events {
        events: Vec<SentEvent>,
        more: bool,
    },
    Networks(Vec<u16>),
    Trusted(Vec<HandshakeTrustRecord>),
    Pending(Vec<HandshakePendingRecord>),
    Stats(WebhookStats),
}

/// A stream and what never changes about it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Stream {
    pub handle: u32,
    pub id: u32,
    local: u64,
    local_port: u16,
    remote: u64,
    remote_port: u16,
}

impl Stream {
    pub fn new(handle: u32, id: u32, info: ConnectionInfo) -> Self {
        Stream {
            handle,
            id,
            local: info.local.to_u64(),
            local_port: info.local_port,
            remote: info.remote.to_u64(),
            remote_port: info.remote_port,
        }
    }

    pub fn info(&self) -> ConnectionInfo {
        ConnectionInfo {
            local: Addr::from_u64(self.local),
            local_port: self.local_port,
            remote: Addr::from_u64(self.remote),
            remote_port: self.remote_port,
        }
    }
}

/// [`EventText`] on its way.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SentEvent {
    topic: String,
    node_id: u32,
    since_epoch: Duration,
    payload: Option<String>,
}

impl From<EventText> for SentEvent {
    fn from(e: EventText) -> Self {
        SentEvent {
            topic: e.topic,
            node_id: e.node_id,
            since_epoch: e.time.duration_since(UNIX_EPOCH).unwrap_or_default(),
            payload: e.payload,
        }
    }
}

impl SentEvent {
    /// About how much of a frame it takes, bytes.
    pub fn size(&self) -> usize {
        32 + self.topic.len() + self.payload.as_ref().map_or(0, String::len)
    }

    pub fn into_event(self) -> EventText {
        EventText {
            topic: self.topic,
            node_id: self.node_id,
            time: UNIX_EPOCH.checked_add(self.since_epoch).unwrap_or(SystemTime::UNIX_EPOCH),
            payload: self.payload,
        }
    }
}

/// A map as JSON text.
pub(super) fn map_text(map: &Map<String, Value>) -> Result<String> {
    Ok(serde_json::to_string(map)?)
}

/// A map from JSON text.
pub(super) fn map_from(text: &str) -> Result<Map<String, Value>> {
    Ok(serde_json::from_str(text)?)
}

impl From<Error> for Answer {
    fn from(e: Error) -> Self {
        Answer::Failed { code: e.kind().code(), message: e.message().to_owned() }
    }
}

impl From<Result<Answer>> for Answer {
    fn from(result: Result<Answer>) -> Self {
        result.unwrap_or_else(Answer::from)
    }
}

impl From<Result<()>> for Answer {
    fn from(result: Result<()>) -> Self {
        result.map_or_else(Answer::from, |()| Answer::Done)
    }
}

/// The other side answered with something that does not answer the question.
pub(super) fn odd<T>(op: &str) -> Result<T> {
    Err(Error::new(ErrorKind::Other, format!("{op}: the answer is of another kind")))
}

/// Unpacks the one variant of an [`Answer`] that fits.
macro_rules! unpack {
    ($result:expr, $op:expr, $pattern:pat => $value:expr) => {
        match $result {
            Ok(($pattern, _)) => Ok($value),
            Ok(_) => crate::child::message::odd($op),
            Err(e) => Err(e),
        }
    };
}
pub(super) use unpack;
