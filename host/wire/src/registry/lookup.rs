//! Binary lookup (registry.md section 1.3).

use super::{DecodeError, LIST_CAP};
use crate::cursor::Cursor;

const FLAG_PUBLIC: u8 = 1;
const FLAG_TASK_EXEC: u8 = 2;
/// Node id, flags, reserved, network count.
const RESP_MIN_LEN: usize = 11;

/// `LookupResult`: what a lookup response says about a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LookupResult {
    /// The node.
    pub node_id: u32,
    /// Whether everyone may resolve it.
    pub public: bool,
    /// Whether it runs tasks (older versions).
    pub task_exec: bool,
    /// Networks it is a member of; a decoder takes at most [`LIST_CAP`].
    pub networks: Vec<u16>,
    /// Raw Ed25519 key, 32 bytes when the server behaves; at most 255.
    pub pub_key: Vec<u8>,
    /// Hostname, at most 255 bytes; bytes that are not UTF-8 come out as U+FFFD, here and below.
    pub hostname: String,
    /// Tags, at most 255 of at most 255 bytes.
    pub tags: Vec<String>,
    /// `host:port`, empty unless the node is public; at most 65535 bytes.
    pub real_addr: String,
    /// Verified external identity, at most 255 bytes.
    pub external_id: String,
}

/// What a [`LookupResult`] says, borrowed from where a server keeps it. The fields are the same.
#[derive(Clone, Copy, Debug, Default)]
pub struct LookupView<'a> {
    /// The node.
    pub node_id: u32,
    /// Whether everyone may resolve it.
    pub public: bool,
    /// Whether it runs tasks (older versions).
    pub task_exec: bool,
    /// Networks it is a member of.
    pub networks: &'a [u16],
    /// Raw Ed25519 key.
    pub pub_key: &'a [u8],
    /// Hostname.
    pub hostname: &'a str,
    /// Tags.
    pub tags: &'a [String],
    /// `host:port`, empty unless the node is public.
    pub real_addr: &'a str,
    /// Verified external identity.
    pub external_id: &'a str,
}

impl<'a> From<&'a LookupResult> for LookupView<'a> {
    fn from(result: &'a LookupResult) -> Self {
        Self {
            node_id: result.node_id,
            public: result.public,
            task_exec: result.task_exec,
            networks: &result.networks,
            pub_key: &result.pub_key,
            hostname: &result.hostname,
            tags: &result.tags,
            real_addr: &result.real_addr,
            external_id: &result.external_id,
        }
    }
}

/// `EncodeLookupReq`.
pub const fn encode_lookup_req(node_id: u32) -> [u8; 4] {
    node_id.to_be_bytes()
}

/// `DecodeLookupReq`: further bytes are ignored.
///
/// # Errors
/// [`DecodeError::TooShort`].
pub fn decode_lookup_req(payload: &[u8]) -> Result<u32, DecodeError> {
    Cursor::new(payload).u32().ok_or(DecodeError::TooShort { what: "lookup request", len: payload.len() })
}

/// `EncodeLookupResp`: fields that are too long for their length byte are cut, as are lists too long for their count.
pub fn encode_lookup_resp<'a>(result: impl Into<LookupView<'a>>) -> Vec<u8> {
    let result = result.into();
    let mut out = Vec::with_capacity(128);
    out.extend_from_slice(&result.node_id.to_be_bytes());
    let public = if result.public { FLAG_PUBLIC } else { 0 };
    let task_exec = if result.task_exec { FLAG_TASK_EXEC } else { 0 };
    out.push(public | task_exec);
    out.extend_from_slice(&[0; 4]); // reserved, once a score
    let count = u16::try_from(result.networks.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&count.to_be_bytes());
    for network in result.networks.iter().take(usize::from(count)) {
        out.extend_from_slice(&network.to_be_bytes());
    }
    push_short(&mut out, result.pub_key);
    push_short(&mut out, result.hostname.as_bytes());
    let count = u8::try_from(result.tags.len()).unwrap_or(u8::MAX);
    out.push(count);
    for tag in result.tags.iter().take(usize::from(count)) {
        push_short(&mut out, tag.as_bytes());
    }
    push_long(&mut out, result.real_addr.as_bytes());
    push_short(&mut out, result.external_id.as_bytes());
    out
}

/// Length byte and at most 255 bytes.
fn push_short(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
    out.push(len);
    out.extend_from_slice(&bytes[..usize::from(len)]);
}

/// u16 length and at most 65535 bytes.
pub(super) fn push_long(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&bytes[..usize::from(len)]);
}

/// `DecodeLookupResp`: unknown flags, the reserved field and further bytes are ignored.
///
/// # Errors
/// [`DecodeError`], naming the first field that is not whole.
pub fn decode_lookup_resp(payload: &[u8]) -> Result<LookupResult, DecodeError> {
    if payload.len() < RESP_MIN_LEN {
        return Err(DecodeError::TooShort { what: "lookup response", len: payload.len() });
    }
    let mut c = Cursor::new(payload);
    let cut = |what| DecodeError::Truncated { what };
    let node_id = c.u32().ok_or(cut("node_id"))?;
    let flags = c.u8().ok_or(cut("flags"))?;
    c.take(4).ok_or(cut("reserved"))?;
    let count = usize::from(c.u16().ok_or(cut("network count"))?);
    if count > LIST_CAP {
        return Err(DecodeError::OverCap { what: "network count", count });
    }
    let mut networks = Vec::with_capacity(count.min(c.rest().len() / 2));
    for index in 0..count {
        networks.push(c.u16().ok_or(DecodeError::TruncatedAt { what: "networks", index })?);
    }
    let pub_key = short(&mut c).map_err(|part| cut(part.of("pubkey length", "pubkey data")))?.to_vec();
    let hostname = text(short(&mut c).map_err(|part| cut(part.of("hostname length", "hostname data")))?);
    // The count is one byte, so the cap of 1024 cannot be passed.
    let count = usize::from(c.u8().ok_or(cut("tags count"))?);
    let mut tags = Vec::with_capacity(count.min(c.rest().len()));
    for index in 0..count {
        let tag = short(&mut c)
            .map_err(|part| DecodeError::TruncatedAt { what: part.of("tag length", "tag data"), index })?;
        tags.push(text(tag));
    }
    let real_addr = text(long(&mut c).map_err(|part| cut(part.of("real_addr length", "real_addr data")))?);
    let external_id =
        text(short(&mut c).map_err(|part| cut(part.of("external_id length", "external_id data")))?);
    Ok(LookupResult {
        node_id,
        public: flags & FLAG_PUBLIC != 0,
        task_exec: flags & FLAG_TASK_EXEC != 0,
        networks,
        pub_key,
        hostname,
        tags,
        real_addr,
        external_id,
    })
}

/// Which half of a length-prefixed field is missing.
pub(super) enum Part {
    Length,
    Data,
}

impl Part {
    pub(super) fn of(self, length: &'static str, data: &'static str) -> &'static str {
        match self {
            Self::Length => length,
            Self::Data => data,
        }
    }
}

fn short<'a>(c: &mut Cursor<'a>) -> Result<&'a [u8], Part> {
    let len = c.u8().ok_or(Part::Length)?;
    c.take(usize::from(len)).ok_or(Part::Data)
}

pub(super) fn long<'a>(c: &mut Cursor<'a>) -> Result<&'a [u8], Part> {
    let len = c.u16().ok_or(Part::Length)?;
    c.take(usize::from(len)).ok_or(Part::Data)
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
