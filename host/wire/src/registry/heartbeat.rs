//! Binary heartbeat (registry.md section 1.3).

use super::DecodeError;
use crate::cursor::Cursor;

/// Length of a heartbeat request: node id, signature.
pub const HEARTBEAT_REQ_LEN: usize = 68;
/// Length of a heartbeat response: time, flags.
pub const HEARTBEAT_RESP_LEN: usize = 9;

const FLAG_KEY_EXPIRY_WARNING: u8 = 1;

/// `HeartbeatReq`: a decoded heartbeat request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatReq {
    /// The node that lives.
    pub node_id: u32,
    /// Ed25519 signature over [`challenge::heartbeat`](super::challenge::heartbeat).
    pub signature: [u8; 64],
}

/// What a heartbeat response says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatResp {
    /// The server's clock, unix seconds.
    pub unix_time: i64,
    /// The node's key expires in less than a day.
    pub key_expiry_warning: bool,
}

/// `EncodeHeartbeatReq`: a shorter signature is padded with zeros, a longer one is cut.
pub fn encode_heartbeat_req(node_id: u32, signature: &[u8]) -> [u8; HEARTBEAT_REQ_LEN] {
    let mut payload = [0; HEARTBEAT_REQ_LEN];
    payload[..4].copy_from_slice(&node_id.to_be_bytes());
    copy_cut(&mut payload[4..], signature);
    payload
}

/// Copies as much of `from` as fits.
pub(super) fn copy_cut(to: &mut [u8], from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}

/// `DecodeHeartbeatReq`: bytes behind the signature are ignored.
///
/// # Errors
/// [`DecodeError::TooShort`].
pub fn decode_heartbeat_req(payload: &[u8]) -> Result<HeartbeatReq, DecodeError> {
    let mut c = Cursor::new(payload);
    match (c.u32(), c.array()) {
        (Some(node_id), Some(signature)) => Ok(HeartbeatReq { node_id, signature: *signature }),
        _ => Err(DecodeError::TooShort { what: "heartbeat request", len: payload.len() }),
    }
}

/// `EncodeHeartbeatResp`.
pub fn encode_heartbeat_resp(response: &HeartbeatResp) -> [u8; HEARTBEAT_RESP_LEN] {
    let mut payload = [0; HEARTBEAT_RESP_LEN];
    payload[..8].copy_from_slice(&response.unix_time.to_be_bytes());
    payload[8] = if response.key_expiry_warning { FLAG_KEY_EXPIRY_WARNING } else { 0 };
    payload
}

/// `DecodeHeartbeatResp`: unknown flags and further bytes are ignored.
///
/// # Errors
/// [`DecodeError::TooShort`].
pub fn decode_heartbeat_resp(payload: &[u8]) -> Result<HeartbeatResp, DecodeError> {
    let mut c = Cursor::new(payload);
    match (c.array(), c.u8()) {
        (Some(time), Some(flags)) => Ok(HeartbeatResp {
            unix_time: i64::from_be_bytes(*time),
            key_expiry_warning: flags & FLAG_KEY_EXPIRY_WARNING != 0,
        }),
        _ => Err(DecodeError::TooShort { what: "heartbeat response", len: payload.len() }),
    }
}
