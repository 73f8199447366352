//! Calls and answers (zap.md sections 3 and 4).
//!
//! Requests are told apart by opcode and, for the fan-out opcode, by a sub-opcode. Answers carry neither: which reader
//! applies is known only from the call they belong to.

use super::buffer::{DecodeError, Reader, Writer};
use super::frame::{Frame, FrameError, TypeOctet, encode_frame};
use super::message::{
    AddNode, ChainSpec, ClusterInfo, LoadSnapshot, RestartNode, SendOutboundMessage, Start,
};
use super::{KEEP_ALIVE_ID, PROTOCOL_VERSION};

const OP_PING: u8 = 60;
const OP_RPC_VERSION: u8 = 61;
/// "Start" by name, in truth the opcode under which all calls with a sub-opcode go.
const OP_FAN_OUT: u8 = 62;
const OP_STOP: u8 = 63;

/// Which call it is, without its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rpc {
    /// Answers with the runner's process id.
    Ping,
    /// Answers with the protocol version.
    RpcVersion,
    /// Stops the network.
    Stop,
    /// State and health, at once.
    Health,
    /// As health, once all are healthy.
    WaitForHealthy,
    /// Where the nodes can be reached.
    Uris,
    /// State.
    Status,
    /// State, again and again (project-defined body).
    StreamStatus,
    /// Creates networks (project-defined body).
    CreateBlockchains,
    /// Creates networks (project-defined body).
    CreateChains,
    /// Reserved, no body defined.
    TransformElasticChains,
    /// Reserved, no body defined.
    AddPermissionlessValidator,
    /// Reserved, no body defined.
    RemoveChainValidator,
    /// Adds a node.
    AddNode,
    /// Removes a node.
    RemoveNode,
    /// Restarts a node.
    RestartNode,
    /// Pauses a node.
    PauseNode,
    /// Resumes a node.
    ResumeNode,
    /// Attaches a test peer to a node.
    AttachPeer,
    /// Sends a message through an attached peer.
    SendOutboundMessage,
    /// Saves and stops (project-defined body).
    SaveSnapshot,
    /// Saves while running (project-defined body).
    SaveHotSnapshot,
    /// Starts from a snapshot (project-defined body).
    LoadSnapshot,
    /// Removes a snapshot (project-defined body).
    RemoveSnapshot,
    /// Lists snapshots (project-defined body).
    GetSnapshotNames,
    /// Starts the network (project-defined number and body).
    Start,
    /// Ends a stream (project-defined number and body).
    CancelStream,
}

impl Rpc {
    /// Opcode, and sub-opcode where there is one.
    const fn code(self) -> (u8, Option<u8>) {
        let sub = match self {
            Self::Ping => return (OP_PING, None),
            Self::RpcVersion => return (OP_RPC_VERSION, None),
            Self::Stop => return (OP_STOP, None),
            Self::Health => 1,
            Self::WaitForHealthy => 2,
            Self::Uris => 3,
            Self::Status => 4,
            Self::StreamStatus => 5,
            Self::CreateBlockchains => 10,
            Self::CreateChains => 11,
            Self::TransformElasticChains => 12,
            Self::AddPermissionlessValidator => 13,
            Self::RemoveChainValidator => 14,
            Self::AddNode => 20,
            Self::RemoveNode => 21,
            Self::RestartNode => 22,
            Self::PauseNode => 23,
            Self::ResumeNode => 24,
            Self::AttachPeer => 30,
            Self::SendOutboundMessage => 31,
            Self::SaveSnapshot => 40,
            Self::SaveHotSnapshot => 41,
            Self::LoadSnapshot => 42,
            Self::RemoveSnapshot => 43,
            Self::GetSnapshotNames => 44,
            Self::Start => 0xC0,
            Self::CancelStream => 0xC1,
        };
        (OP_FAN_OUT, Some(sub))
    }

    const fn of_sub_opcode(sub: u8) -> Option<Self> {
        Some(match sub {
            1 => Self::Health,
            2 => Self::WaitForHealthy,
            3 => Self::Uris,
            4 => Self::Status,
            5 => Self::StreamStatus,
            10 => Self::CreateBlockchains,
            11 => Self::CreateChains,
            12 => Self::TransformElasticChains,
            13 => Self::AddPermissionlessValidator,
            14 => Self::RemoveChainValidator,
            20 => Self::AddNode,
            21 => Self::RemoveNode,
            22 => Self::RestartNode,
            23 => Self::PauseNode,
            24 => Self::ResumeNode,
            30 => Self::AttachPeer,
            31 => Self::SendOutboundMessage,
            40 => Self::SaveSnapshot,
            41 => Self::SaveHotSnapshot,
            42 => Self::LoadSnapshot,
            43 => Self::RemoveSnapshot,
            44 => Self::GetSnapshotNames,
            0xC0 => Self::Start,
            0xC1 => Self::CancelStream,
            _ => return None,
        })
    }

    /// The type octet of a request for it.
    pub const fn type_octet(self) -> TypeOctet {
        TypeOctet(self.code().0)
    }
}

/// A call with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// See [`Rpc::Ping`].
    Ping,
    /// See [`Rpc::RpcVersion`].
    RpcVersion,
    /// See [`Rpc::Stop`].
    Stop,
    /// See [`Rpc::Health`].
    Health,
    /// See [`Rpc::WaitForHealthy`].
    WaitForHealthy,
    /// See [`Rpc::Uris`].
    Uris,
    /// See [`Rpc::Status`].
    Status,
    /// See [`Rpc::StreamStatus`].
    StreamStatus {
        /// Time between two snapshots in nanoseconds.
        push_interval_ns: i64,
    },
    /// See [`Rpc::CreateBlockchains`].
    CreateBlockchains(Vec<ChainSpec>),
    /// See [`Rpc::CreateChains`].
    CreateChains(Vec<ChainSpec>),
    /// A call that has a number but no body; answered with [`UNSUPPORTED`](super::UNSUPPORTED).
    Reserved(Rpc),
    /// See [`Rpc::AddNode`].
    AddNode(AddNode),
    /// See [`Rpc::RemoveNode`].
    RemoveNode {
        /// The node.
        name: String,
    },
    /// See [`Rpc::RestartNode`].
    RestartNode(RestartNode),
    /// See [`Rpc::PauseNode`].
    PauseNode {
        /// The node.
        name: String,
    },
    /// See [`Rpc::ResumeNode`].
    ResumeNode {
        /// The node.
        name: String,
    },
    /// See [`Rpc::AttachPeer`].
    AttachPeer {
        /// The node.
        node_name: String,
    },
    /// See [`Rpc::SendOutboundMessage`].
    SendOutboundMessage(SendOutboundMessage),
    /// See [`Rpc::SaveSnapshot`].
    SaveSnapshot {
        /// The snapshot.
        name: String,
    },
    /// See [`Rpc::SaveHotSnapshot`].
    SaveHotSnapshot {
        /// The snapshot.
        name: String,
    },
    /// See [`Rpc::LoadSnapshot`].
    LoadSnapshot(LoadSnapshot),
    /// See [`Rpc::RemoveSnapshot`].
    RemoveSnapshot {
        /// The snapshot.
        name: String,
    },
    /// See [`Rpc::GetSnapshotNames`].
    GetSnapshotNames,
    /// See [`Rpc::Start`].
    Start(Start),
    /// See [`Rpc::CancelStream`].
    CancelStream {
        /// Request id of the stream.
        target: u32,
    },
}

impl Request {
    /// Which call it is.
    pub const fn rpc(&self) -> Rpc {
        match self {
            Self::Ping => Rpc::Ping,
            Self::RpcVersion => Rpc::RpcVersion,
            Self::Stop => Rpc::Stop,
            Self::Health => Rpc::Health,
            Self::WaitForHealthy => Rpc::WaitForHealthy,
            Self::Uris => Rpc::Uris,
            Self::Status => Rpc::Status,
            Self::StreamStatus { .. } => Rpc::StreamStatus,
            Self::CreateBlockchains(_) => Rpc::CreateBlockchains,
            Self::CreateChains(_) => Rpc::CreateChains,
            Self::Reserved(rpc) => *rpc,
            Self::AddNode(_) => Rpc::AddNode,
            Self::RemoveNode { .. } => Rpc::RemoveNode,
            Self::RestartNode(_) => Rpc::RestartNode,
            Self::PauseNode { .. } => Rpc::PauseNode,
            Self::ResumeNode { .. } => Rpc::ResumeNode,
            Self::AttachPeer { .. } => Rpc::AttachPeer,
            Self::SendOutboundMessage(_) => Rpc::SendOutboundMessage,
            Self::SaveSnapshot { .. } => Rpc::SaveSnapshot,
            Self::SaveHotSnapshot { .. } => Rpc::SaveHotSnapshot,
            Self::LoadSnapshot(_) => Rpc::LoadSnapshot,
            Self::RemoveSnapshot { .. } => Rpc::RemoveSnapshot,
            Self::GetSnapshotNames => Rpc::GetSnapshotNames,
            Self::Start(_) => Rpc::Start,
            Self::CancelStream { .. } => Rpc::CancelStream,
        }
    }

    /// Reads the body of a request frame (what [`Frame::call`] gives behind the id). The whole type octet counts, so a
    /// response octet is an unknown opcode. Octets behind the last field are ignored.
    ///
    /// # Errors
    /// [`RequestError`], whose text is the answer: see [`encode_error`].
    pub fn decode(kind: TypeOctet, body: &[u8]) -> Result<Self, RequestError> {
        let mut r = Reader::new(body);
        let rpc = match kind.0 {
            OP_PING => Rpc::Ping,
            OP_RPC_VERSION => Rpc::RpcVersion,
            OP_STOP => Rpc::Stop,
            OP_FAN_OUT => {
                let sub = r.u8().map_err(|_| RequestError::MissingSubOpcode)?;
                Rpc::of_sub_opcode(sub).ok_or(RequestError::UnknownSubOpcode { sub })?
            }
            opcode => return Err(RequestError::UnknownOpcode { opcode }),
        };
        Ok(Self::read(rpc, &mut r)?)
    }

    fn read(rpc: Rpc, r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match rpc {
            Rpc::Ping => Self::Ping,
            Rpc::RpcVersion => Self::RpcVersion,
            Rpc::Stop => Self::Stop,
            Rpc::Health => Self::Health,
            Rpc::WaitForHealthy => Self::WaitForHealthy,
            Rpc::Uris => Self::Uris,
            Rpc::Status => Self::Status,
            Rpc::StreamStatus => Self::StreamStatus { push_interval_ns: r.i64()? },
            Rpc::CreateBlockchains => Self::CreateBlockchains(r.list(ChainSpec::MIN_SIZE, ChainSpec::read)?),
            Rpc::CreateChains => Self::CreateChains(r.list(ChainSpec::MIN_SIZE, ChainSpec::read)?),
            Rpc::TransformElasticChains | Rpc::AddPermissionlessValidator | Rpc::RemoveChainValidator => {
                Self::Reserved(rpc)
            }
            Rpc::AddNode => Self::AddNode(AddNode::read(r)?),
            Rpc::RemoveNode => Self::RemoveNode { name: r.string()? },
            Rpc::RestartNode => Self::RestartNode(RestartNode::read(r)?),
            Rpc::PauseNode => Self::PauseNode { name: r.string()? },
            Rpc::ResumeNode => Self::ResumeNode { name: r.string()? },
            Rpc::AttachPeer => Self::AttachPeer { node_name: r.string()? },
            Rpc::SendOutboundMessage => Self::SendOutboundMessage(SendOutboundMessage::read(r)?),
            Rpc::SaveSnapshot => Self::SaveSnapshot { name: r.string()? },
            Rpc::SaveHotSnapshot => Self::SaveHotSnapshot { name: r.string()? },
            Rpc::LoadSnapshot => Self::LoadSnapshot(LoadSnapshot::read(r)?),
            Rpc::RemoveSnapshot => Self::RemoveSnapshot { name: r.string()? },
            Rpc::GetSnapshotNames => Self::GetSnapshotNames,
            Rpc::Start => Self::Start(Start::read(r)?),
            Rpc::CancelStream => Self::CancelStream { target: r.u32()? },
        })
    }

    /// Appends the request frame to `out`.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`]; `out` is then unchanged.
    pub fn encode(&self, id: u32, out: &mut Vec<u8>) -> Result<(), FrameError> {
        let (opcode, sub) = self.rpc().code();
        encode_frame(TypeOctet(opcode), out, |out| {
            let mut w = Writer::new(out);
            w.u32(id);
            if let Some(sub) = sub {
                w.u8(sub);
            }
            self.write(&mut w);
        })
    }

    fn write(&self, w: &mut Writer<'_>) {
        match self {
            Self::Ping
            | Self::RpcVersion
            | Self::Stop
            | Self::Health
            | Self::WaitForHealthy
            | Self::Uris
            | Self::Status => {}
            Self::Reserved(_) | Self::GetSnapshotNames => {}
            Self::StreamStatus { push_interval_ns } => w.i64(*push_interval_ns),
            Self::CreateBlockchains(specs) | Self::CreateChains(specs) => {
                w.count(specs.len());
                specs.iter().for_each(|spec| spec.write(w));
            }
            Self::AddNode(add) => add.write(w),
            Self::RestartNode(restart) => restart.write(w),
            Self::RemoveNode { name } | Self::PauseNode { name } | Self::ResumeNode { name } => {
                w.string(name)
            }
            Self::AttachPeer { node_name } => w.string(node_name),
            Self::SendOutboundMessage(message) => message.write(w),
            Self::SaveSnapshot { name } | Self::SaveHotSnapshot { name } | Self::RemoveSnapshot { name } => {
                w.string(name)
            }
            Self::LoadSnapshot(load) => load.write(w),
            Self::Start(start) => start.write(w),
            Self::CancelStream { target } => w.u32(*target),
        }
    }
}

/// What a call is answered with when it goes well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To `Ping`: the runner's process id.
    Pid(i32),
    /// To `RpcVersion`.
    Version(u32),
    /// To most calls: the state, absent when no network runs.
    Cluster(Option<ClusterInfo>),
    /// To `Uris` and `GetSnapshotNames`.
    Texts(Vec<String>),
    /// To `AttachPeer`.
    Attached {
        /// The state.
        cluster: Option<ClusterInfo>,
        /// The peer's id.
        peer_id: Option<String>,
    },
    /// To `SendOutboundMessage`.
    Sent(bool),
    /// To `CreateChains`, `CreateBlockchains` and `Start`.
    Chains {
        /// The state.
        cluster: Option<ClusterInfo>,
        /// Ids of what was created.
        chain_ids: Vec<String>,
    },
    /// To `SaveSnapshot` and `SaveHotSnapshot`: where it was put.
    Path(String),
    /// To `RemoveSnapshot` and `CancelStream`.
    Empty,
}

impl Answer {
    /// The answer to [`Request::RpcVersion`].
    pub const VERSION: Self = Self::Version(PROTOCOL_VERSION);

    /// Reads the body of a good answer to a call of `rpc`. Octets behind the last field are ignored.
    ///
    /// # Errors
    /// [`DecodeError`]: the server is at fault.
    pub fn decode(rpc: Rpc, body: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(body);
        let cluster = |r: &mut Reader<'_>| r.optional(ClusterInfo::read);
        Ok(match rpc {
            Rpc::Ping => Self::Pid(r.i32()?),
            Rpc::RpcVersion => Self::Version(r.u32()?),
            Rpc::Uris | Rpc::GetSnapshotNames => Self::Texts(r.strings()?),
            Rpc::AttachPeer => Self::Attached {
                cluster: r.optional_if_one(ClusterInfo::read)?,
                peer_id: r.optional_if_one(Reader::string)?,
            },
            Rpc::SendOutboundMessage => Self::Sent(r.bool()?),
            Rpc::CreateBlockchains | Rpc::CreateChains | Rpc::Start => {
                Self::Chains { cluster: cluster(&mut r)?, chain_ids: r.strings()? }
            }
            Rpc::SaveSnapshot | Rpc::SaveHotSnapshot => Self::Path(r.string()?),
            Rpc::RemoveSnapshot | Rpc::CancelStream => Self::Empty,
            Rpc::TransformElasticChains | Rpc::AddPermissionlessValidator | Rpc::RemoveChainValidator => {
                Self::Empty
            }
            Rpc::Stop | Rpc::Health | Rpc::WaitForHealthy | Rpc::Status | Rpc::StreamStatus => {
                Self::Cluster(cluster(&mut r)?)
            }
            Rpc::AddNode
            | Rpc::RemoveNode
            | Rpc::RestartNode
            | Rpc::PauseNode
            | Rpc::ResumeNode
            | Rpc::LoadSnapshot => Self::Cluster(cluster(&mut r)?),
        })
    }

    /// Appends the answer frame for a request of type `to` to `out`.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`]; `out` is then unchanged.
    pub fn encode(&self, to: TypeOctet, id: u32, out: &mut Vec<u8>) -> Result<(), FrameError> {
        encode_frame(to.success(), out, |out| {
            let mut w = Writer::new(out);
            w.u32(id);
            self.write(&mut w);
        })
    }

    fn write(&self, w: &mut Writer<'_>) {
        let cluster = |w: &mut Writer<'_>, info: &Option<ClusterInfo>| {
            w.optional(info.as_ref(), |w, info| info.write(w));
        };
        match self {
            Self::Pid(pid) => w.i32(*pid),
            Self::Version(version) => w.u32(*version),
            Self::Cluster(info) => cluster(w, info),
            Self::Texts(texts) => w.strings(texts),
            Self::Attached { cluster: info, peer_id } => {
                cluster(w, info);
                w.optional_string(peer_id.as_deref());
            }
            Self::Sent(sent) => w.bool(*sent),
            Self::Chains { cluster: info, chain_ids } => {
                cluster(w, info);
                w.strings(chain_ids);
            }
            Self::Path(path) => w.string(path),
            Self::Empty => {}
        }
    }
}

/// A response frame as a client sorts it: by id and error bit alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// The call went well; the body is for [`Answer::decode`].
    Success(&'a [u8]),
    /// It did not; the text is raw and perhaps not UTF-8.
    Error(&'a [u8]),
}

impl<'a> Reply<'a> {
    /// Request id and reply; `None` when the frame is too short for an id and is to be skipped.
    pub fn of_frame(frame: &Frame<'a>) -> Option<(u32, Self)> {
        let (id, rest) = frame.call()?;
        Some((id, if frame.kind.is_error() { Self::Error(rest) } else { Self::Success(rest) }))
    }
}

/// Appends an error answer for a request of type `to`, whatever that was. The text is the rest of the payload and cut
/// where the frame limit demands it.
pub fn encode_error(to: TypeOctet, id: u32, text: &str, out: &mut Vec<u8>) {
    /// Far beyond any real text; keeps an error answer from being too large itself.
    const TEXT_MAX: usize = 64 * 1024;
    let text = &text.as_bytes()[..text.len().min(TEXT_MAX)];
    let written = encode_frame(to.error(), out, |out| {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(text);
    });
    debug_assert!(written.is_ok(), "a text of 64 KiB fits every frame");
}

/// The frame a server sends so that a waiting Go client's read deadline starts anew: an answer to a call nobody made.
pub const fn keep_alive_frame() -> [u8; 9] {
    let [a, b, c, d] = KEEP_ALIVE_ID.to_be_bytes();
    [0, 0, 0, 4, TypeOctet(OP_PING).success().0, a, b, c, d]
}

/// Why a request is refused before anyone looks at it: the client's fault. Clients match on the texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// No such opcode.
    #[error("zapwire: unknown opcode 0x{opcode:02x}")]
    UnknownOpcode {
        /// The whole type octet.
        opcode: u8,
    },
    /// The fan-out opcode without a sub-opcode.
    #[error("zapwire: missing sub-opcode byte")]
    MissingSubOpcode,
    /// No such sub-opcode.
    #[error("zapwire: unknown SubOp 0x{sub:02x} for OpStart")]
    UnknownSubOpcode {
        /// The sub-opcode.
        sub: u8,
    },
    /// The body cannot be read.
    #[error(transparent)]
    Body(#[from] DecodeError),
}
