//! What can go wrong with a registry request. The texts are those of the Go peer's client, because callers (and their
//! users) match on them: registry.md section 5.

use std::io;

/// Why a registry request failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The registry answered, and refused. The text is its own.
    #[error("registry: {text}")]
    Refused {
        /// What the registry said.
        text: String,
    },
    /// The registry answered with something that is no answer to this request. Its fault.
    #[error("registry: malformed response ({what})")]
    Malformed {
        /// What is missing or wrong.
        what: String,
    },
    /// The registry's answer lacks what the operation is for. Its fault.
    #[error("{op}: missing {what} in response")]
    Incomplete {
        /// The operation.
        op: &'static str,
        /// The missing member.
        what: &'static str,
    },
    /// The connection was lost and could not be made again. Try later; check the address and whether the registry runs.
    #[error("send failed and reconnect failed: {0}")]
    Unreachable(#[from] ReconnectError),
    /// The connection was made again but failed once more with the same request.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The operation has to be signed and the client has no key to sign with. Our fault.
    #[error("registry client: no signer configured (call SetSigner first)")]
    NoSigner,
    /// The signer gave nothing, most likely because there is no identity any more.
    #[error("registry client: signer returned empty signature for {}", pilot_wire::goquote::quote(challenge))]
    EmptySignature {
        /// What was to be signed.
        challenge: String,
    },
    /// The request is larger than the protocol allows. The caller's fault.
    #[error("send: message too large: {len} bytes (max 67108864)")]
    TooLarge {
        /// Its encoded length in bytes.
        len: usize,
    },
    /// The client was closed while, or before, the request ran.
    #[error("client closed")]
    Closed,
}

impl RegistryError {
    /// Whether the registry gave no answer at all: it may or may not have acted on the request.
    pub fn is_transport(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Transport(_))
    }

    /// The registry's own words, when it refused.
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Refused { text } => Some(text),
            _ => None,
        }
    }

    /// Whether the registry says that something (a node, a name, a network) does not exist.
    pub fn is_not_found(&self) -> bool {
        self.refusal().is_some_and(|text| text.contains("not found"))
    }
}

/// Reconnecting was given up.
#[derive(Debug, thiserror::Error)]
#[error("reconnect failed after {attempts} attempts: {cause}")]
pub struct ReconnectError {
    /// How often it was tried.
    pub attempts: u32,
    /// Why the last attempt failed.
    #[source]
    pub cause: io::Error,
}

/// One exchange failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The request could not be written.
    #[error("send: {0}")]
    Send(#[source] io::Error),
    /// No whole answer came.
    #[error("recv: {0}")]
    Recv(#[source] io::Error),
}
