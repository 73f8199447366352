//! Binary resolve (registry.md section 1.3).

use super::heartbeat::copy_cut;
use super::lookup::{long, push_long, text};
use super::{DecodeError, LIST_CAP};
use crate::cursor::Cursor;

/// Length of a resolve request: node id, requester id, signature.
pub const RESOLVE_REQ_LEN: usize = 72;
/// Node id, two empty lists, key age.
const RESP_MIN_LEN: usize = 12;
/// The key age on the wire when it is not known.
const AGE_UNKNOWN: u32 = 0xFFFF_FFFF;

/// What a resolve request asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResolveReq {
    /// The node to reach.
    pub node_id: u32,
    /// The node that asks.
    pub requester_id: u32,
    /// The requester's signature over [`challenge::resolve`](super::challenge::resolve).
    pub signature: [u8; 64],
}

/// `ResolveResult`: where a node can be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolveResult {
    /// The node.
    pub node_id: u32,
    /// `host:port`, empty when unknown; at most 65535 bytes. Bytes that are not UTF-8 come out as U+FFFD, here and below.
    pub real_addr: String,
    /// `host:port` in the node's own LAN; a decoder takes at most [`LIST_CAP`].
    pub lan_addrs: Vec<String>,
    /// Age of the node's key in days, `None` when unknown.
    pub key_age_days: Option<u32>,
}

/// `EncodeResolveReq`: a shorter signature is padded with zeros, a longer one is cut.
pub fn encode_resolve_req(node_id: u32, requester_id: u32, signature: &[u8]) -> [u8; RESOLVE_REQ_LEN] {
    let mut payload = [0; RESOLVE_REQ_LEN];
    payload[..4].copy_from_slice(&node_id.to_be_bytes());
    payload[4..8].copy_from_slice(&requester_id.to_be_bytes());
    copy_cut(&mut payload[8..], signature);
    payload
}

/// `DecodeResolveReq`: further bytes are ignored.
///
/// # Errors
/// [`DecodeError::TooShort`].
pub fn decode_resolve_req(payload: &[u8]) -> Result<ResolveReq, DecodeError> {
    let mut c = Cursor::new(payload);
    match (c.u32(), c.u32(), c.array()) {
        (Some(node_id), Some(requester_id), Some(signature)) => {
            Ok(ResolveReq { node_id, requester_id, signature: *signature })
        }
        _ => Err(DecodeError::TooShort { what: "resolve request", len: payload.len() }),
    }
}

/// `EncodeResolveResp`. What is too long for its length or count field is cut; an older server's key suffix is not written.
pub fn encode_resolve_resp(result: &ResolveResult) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    out.extend_from_slice(&result.node_id.to_be_bytes());
    push_long(&mut out, result.real_addr.as_bytes());
    let count = u16::try_from(result.lan_addrs.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&count.to_be_bytes());
    for addr in result.lan_addrs.iter().take(usize::from(count)) {
        push_long(&mut out, addr.as_bytes());
    }
    out.extend_from_slice(&result.key_age_days.unwrap_or(AGE_UNKNOWN).to_be_bytes());
    out
}

/// `DecodeResolveResp`: bytes behind the key age (an older server's key suffix) are ignored.
///
/// # Errors
/// [`DecodeError`], naming the first field that is not whole.
pub fn decode_resolve_resp(payload: &[u8]) -> Result<ResolveResult, DecodeError> {
    if payload.len() < RESP_MIN_LEN {
        return Err(DecodeError::TooShort { what: "resolve response", len: payload.len() });
    }
    let mut c = Cursor::new(payload);
    let cut = |what| DecodeError::Truncated { what };
    let node_id = c.u32().ok_or(cut("node_id"))?;
    let real_addr = text(long(&mut c).map_err(|part| cut(part.of("addr length", "addr data")))?);
    let count = usize::from(c.u16().ok_or(cut("lan_addrs count"))?);
    if count > LIST_CAP {
        return Err(DecodeError::OverCap { what: "lan_addrs count", count });
    }
    let mut lan_addrs = Vec::with_capacity(count.min(c.rest().len() / 2));
    for index in 0..count {
        let addr = long(&mut c).map_err(|part| DecodeError::TruncatedAt {
            what: part.of("lan addr length", "lan addr data"),
            index,
        })?;
        lan_addrs.push(text(addr));
    }
    let age = c.u32().ok_or(cut("key_age_days"))?;
    Ok(ResolveResult { node_id, real_addr, lan_addrs, key_age_days: Some(age).filter(|a| *a != AGE_UNKNOWN) })
}
