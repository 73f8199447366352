//! The three request families whose first body byte is a sub-command: trust, networks, policies (ipc.md sections 9, 11
//! and 12).
//!
//! Decoding takes the body after the command byte; the error is the text of the reply. Called by `request.rs` only.

use bytes::Bytes;

use super::frame::{Builder, Encoded, Fields, FrameTooLarge};
use super::{command, go_string_list};

/// Requests of the trust family (command 0x0F, ipc.md section 9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandshakeRequest {
    /// Ask `node` for trust.
    Request {
        /// The peer.
        node: u32,
        /// What its operator will read.
        justification: String,
    },
    /// Approve a pending request.
    Approve {
        /// Who asked.
        node: u32,
    },
    /// Reject a pending request.
    Reject {
        /// Who asked.
        node: u32,
        /// Told to the requester; may be empty.
        reason: String,
    },
    /// List requests that wait for a decision.
    Pending,
    /// List trusted peers.
    Trusted,
    /// Take trust back.
    Revoke {
        /// The peer.
        node: u32,
    },
    /// Wait until `node` is trusted.
    Wait {
        /// The peer.
        node: u32,
        /// Milliseconds; 0 asks for the state now. The daemon caps it at 30 000.
        timeout_ms: u32,
    },
}

impl HandshakeRequest {
    pub(super) fn decode(body: Bytes) -> Result<Self, String> {
        let mut f = Fields(body);
        let sub = f.u8().ok_or("handshake: missing sub-command")?;
        Ok(match sub {
            0x01 => HandshakeRequest::Request {
                node: f.u32().ok_or("handshake request: missing node_id")?,
                justification: f.text(),
            },
            0x02 => HandshakeRequest::Approve { node: f.u32().ok_or("handshake approve: missing node_id")? },
            0x03 => HandshakeRequest::Reject {
                node: f.u32().ok_or("handshake reject: missing node_id")?,
                reason: f.text(),
            },
            0x04 => HandshakeRequest::Pending,
            0x05 => HandshakeRequest::Trusted,
            0x06 => HandshakeRequest::Revoke { node: f.u32().ok_or("handshake revoke: missing node_id")? },
            0x07 => {
                const SHORT: &str = "handshake wait: payload must be [nodeID(4)][timeoutMs(4)]";
                HandshakeRequest::Wait { node: f.u32().ok_or(SHORT)?, timeout_ms: f.u32().ok_or(SHORT)? }
            }
            _ => return Err(format!("handshake: unknown sub-command 0x{sub:02X}")),
        })
    }

    pub(super) fn encode(&self) -> Result<Encoded, FrameTooLarge> {
        let b = Builder::new(command::HANDSHAKE);
        match self {
            HandshakeRequest::Request { node, justification } => b.u8(0x01).u32(*node).text(justification),
            HandshakeRequest::Approve { node } => b.u8(0x02).u32(*node).end(),
            HandshakeRequest::Reject { node, reason } => b.u8(0x03).u32(*node).text(reason),
            HandshakeRequest::Pending => b.u8(0x04).end(),
            HandshakeRequest::Trusted => b.u8(0x05).end(),
            HandshakeRequest::Revoke { node } => b.u8(0x06).u32(*node).end(),
            HandshakeRequest::Wait { node, timeout_ms } => b.u8(0x07).u32(*node).u32(*timeout_ms).end(),
        }
    }
}

/// Requests of the networks family (command 0x1F, ipc.md section 11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkRequest {
    /// Networks that the registry knows.
    List,
    /// Become a member.
    Join {
        /// The network.
        network: u16,
        /// Join token; may be empty.
        token: String,
    },
    /// Give up membership.
    Leave {
        /// The network.
        network: u16,
    },
    /// Members of a network.
    Members {
        /// The network.
        network: u16,
    },
    /// Invite a node.
    Invite {
        /// The network.
        network: u16,
        /// Who is invited.
        node: u32,
    },
    /// Invitations for this node; consumes nothing.
    PollInvites,
    /// Answer an invitation.
    Respond {
        /// The network.
        network: u16,
        /// Accept or decline.
        accept: bool,
    },
}

impl NetworkRequest {
    pub(super) fn decode(body: Bytes) -> Result<Self, String> {
        let mut f = Fields(body);
        let sub = f.u8().ok_or("network: missing sub-command")?;
        Ok(match sub {
            0x01 => NetworkRequest::List,
            0x02 => NetworkRequest::Join {
                network: f.u16().ok_or("network join: missing network_id")?,
                token: f.text(),
            },
            0x03 => NetworkRequest::Leave { network: f.u16().ok_or("network leave: missing network_id")? },
            0x04 => {
                NetworkRequest::Members { network: f.u16().ok_or("network members: missing network_id")? }
            }
            0x05 => {
                const SHORT: &str = "network invite: missing network_id or target_node_id";
                NetworkRequest::Invite { network: f.u16().ok_or(SHORT)?, node: f.u32().ok_or(SHORT)? }
            }
            0x06 => NetworkRequest::PollInvites,
            0x07 => {
                const SHORT: &str = "network respond-invite: missing network_id or accept flag";
                NetworkRequest::Respond { network: f.u16().ok_or(SHORT)?, accept: f.u8().ok_or(SHORT)? == 1 }
            }
            _ => return Err(format!("network: unknown sub-command 0x{sub:02X}")),
        })
    }

    pub(super) fn encode(&self) -> Result<Encoded, FrameTooLarge> {
        let b = Builder::new(command::NETWORK);
        match self {
            NetworkRequest::List => b.u8(0x01).end(),
            NetworkRequest::Join { network, token } => b.u8(0x02).u16(*network).text(token),
            NetworkRequest::Leave { network } => b.u8(0x03).u16(*network).end(),
            NetworkRequest::Members { network } => b.u8(0x04).u16(*network).end(),
            NetworkRequest::Invite { network, node } => b.u8(0x05).u16(*network).u32(*node).end(),
            NetworkRequest::PollInvites => b.u8(0x06).end(),
            NetworkRequest::Respond { network, accept } => {
                b.u8(0x07).u16(*network).u8(u8::from(*accept)).end()
            }
        }
    }
}

/// Requests of the managed and policy family (command 0x23, ipc.md section 12).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManagedRequest {
    /// Score a peer (May 2026 fork).
    Score {
        /// The network.
        network: u16,
        /// Whose score.
        node: u32,
        /// Added to it.
        delta: i32,
        /// What it is about; may be empty.
        topic: String,
    },
    /// State of a network's engine.
    Status {
        /// The network; 0 means the first engine.
        network: u16,
    },
    /// Ranked peers (May 2026 fork).
    Rankings {
        /// The network; 0 means the first engine.
        network: u16,
    },
    /// Run a cycle now.
    Cycle {
        /// The network; 0 means the first engine.
        network: u16,
    },
    /// The policy in force.
    PolicyGet {
        /// The network.
        network: u16,
    },
    /// Replace the policy in force.
    PolicySet {
        /// The network.
        network: u16,
        /// Admin token; empty in the May 2026 form, which has no token field.
        token: String,
        /// The policy document.
        document: Bytes,
    },
    /// Member tags as the registry has them.
    MemberTagsGet {
        /// The network.
        network: u16,
        /// Whose; 0 asks for all members.
        node: u32,
    },
    /// Replace a member's tags at the registry.
    MemberTagsSet {
        /// The network.
        network: u16,
        /// Whose.
        node: u32,
        /// The new tags; empty clears them.
        tags: Vec<String>,
    },
    /// Compare the policy's peers with the registry now.
    Reconcile {
        /// The network; 0 means the first runner.
        network: u16,
    },
}

impl ManagedRequest {
    pub(super) fn decode(body: Bytes) -> Result<Self, String> {
        let mut f = Fields(body);
        let sub = f.u8().ok_or("managed: missing sub-command")?;
        Ok(match sub {
            0x01 => {
                const SHORT: &str = "managed score: missing fields (need netID + nodeID + delta)";
                let (network, node) = (f.u16().ok_or(SHORT)?, f.u32().ok_or(SHORT)?);
                ManagedRequest::Score { network, node, delta: f.i32().ok_or(SHORT)?, topic: f.text() }
            }
            0x02 => ManagedRequest::Status { network: f.u16().unwrap_or(0) },
            0x03 => ManagedRequest::Rankings { network: f.u16().unwrap_or(0) },
            0x04 => ManagedRequest::Cycle { network: f.u16().unwrap_or(0) },
            0x05 => return Self::decode_policy(f),
            0x06 => return Self::decode_member_tags(f),
            0x07 => ManagedRequest::Reconcile { network: f.u16().unwrap_or(0) },
            _ => return Err(format!("managed: unknown sub-command 0x{sub:02X}")),
        })
    }

    fn decode_policy(mut f: Fields) -> Result<Self, String> {
        const SHORT: &str = "managed policy: missing sub-sub-command and network_id";
        let (action, network) = (f.u8().ok_or(SHORT)?, f.u16().ok_or(SHORT)?);
        match action {
            0 => Ok(ManagedRequest::PolicyGet { network }),
            1 => {
                const EMPTY: &str = "managed policy set: missing policy JSON";
                // The May 2026 form goes straight on with the document; nobody has a token of 0x7Bxx bytes. Nothing at
                // all is that form with an empty document.
                let (token, document) = match f.0.first() {
                    None => return Err(EMPTY.to_owned()),
                    Some(b'{' | b' ' | b'\t' | b'\r' | b'\n') => (String::new(), f.rest()),
                    Some(_) => {
                        let n = f.u16().ok_or("managed policy set: missing token length")?;
                        let token = f.bytes(n.into()).ok_or("managed policy set: truncated token")?;
                        (super::frame::text(&token), f.rest())
                    }
                };
                // An empty document is refused by the dispatcher, after the token: whoever lacks it learns nothing more.
                Ok(ManagedRequest::PolicySet { network, token, document })
            }
            _ => Err(format!("managed policy: unknown action 0x{action:02X}")),
        }
    }

    fn decode_member_tags(mut f: Fields) -> Result<Self, String> {
        const SHORT: &str = "managed member-tags: missing action, network_id, or node_id";
        let action = f.u8().ok_or(SHORT)?;
        let (network, node) = (f.u16().ok_or(SHORT)?, f.u32().ok_or(SHORT)?);
        match action {
            0 => Ok(ManagedRequest::MemberTagsGet { network, node }),
            1 => {
                let json = f.rest();
                if json.is_empty() {
                    return Err("managed member-tags set: missing tags JSON".to_owned());
                }
                let tags =
                    go_string_list(&json).map_err(|e| format!("member-tags set: invalid tags JSON: {e}"))?;
                Ok(ManagedRequest::MemberTagsSet { network, node, tags })
            }
            _ => Err(format!("managed member-tags: unknown action 0x{action:02X}")),
        }
    }

    pub(super) fn encode(&self) -> Result<Encoded, FrameTooLarge> {
        let b = Builder::new(command::MANAGED);
        match self {
            ManagedRequest::Score { network, node, delta, topic } => {
                b.u8(0x01).u16(*network).u32(*node).u32(delta.cast_unsigned()).text(topic)
            }
            ManagedRequest::Status { network } => b.u8(0x02).u16(*network).end(),
            ManagedRequest::Rankings { network } => b.u8(0x03).u16(*network).end(),
            ManagedRequest::Cycle { network } => b.u8(0x04).u16(*network).end(),
            ManagedRequest::PolicyGet { network } => b.u8(0x05).u8(0).u16(*network).end(),
            ManagedRequest::PolicySet { network, token, document } => {
                let token_len =
                    u16::try_from(token.len()).map_err(|_| FrameTooLarge { length: token.len() })?;
                let b = b.u8(0x05).u8(1).u16(*network).u16(token_len);
                b.body([token.as_bytes(), document].concat().into())
            }
            ManagedRequest::MemberTagsGet { network, node } => {
                b.u8(0x06).u8(0).u16(*network).u32(*node).end()
            }
            ManagedRequest::MemberTagsSet { network, node, tags } => {
                b.u8(0x06).u8(1).u16(*network).u32(*node).body(super::json_body::json_list(tags))
            }
            ManagedRequest::Reconcile { network } => b.u8(0x07).u16(*network).end(),
        }
    }
}
