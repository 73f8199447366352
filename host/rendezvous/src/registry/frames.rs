//! The binary mode: the three hot requests as fixed layouts, everything else as JSON in a frame (registry.md section
//! 1.3). Its errors are not filtered and partly have texts of their own.

use pilot_wire::registry::{
    DecodeError, HeartbeatResp, LookupView, MSG_ERROR, MSG_HEARTBEAT, MSG_HEARTBEAT_OK, MSG_LOOKUP,
    MSG_LOOKUP_OK, MSG_RESOLVE, MSG_RESOLVE_OK, ResolveResult, decode_heartbeat_req, decode_lookup_req,
    decode_resolve_req, encode_error, encode_heartbeat_resp, encode_lookup_resp, encode_resolve_resp,
    unknown_message_type_text,
};

use super::{Registry, Reply};
use crate::refusal::Refusal;

/// Why a frame gets an error frame.
#[derive(Debug, thiserror::Error)]
enum FrameRefusal {
    #[error(transparent)]
    Layout(#[from] DecodeError),
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl Registry {
    /// Answers a frame that changes nothing and is not signed (a lookup, the most frequent of all): type and payload.
    /// `None` for all others, which [`handle`](Self::handle) answers as it does this one.
    pub fn read_frame(&self, kind: u8, payload: &[u8]) -> Option<(u8, Vec<u8>)> {
        if kind != MSG_LOOKUP {
            return None;
        }
        let outcome = self.lookup_frame(payload);
        self.counters.count("lookup", outcome.is_err());
        Some(match outcome {
            Ok(payload) => (MSG_LOOKUP_OK, payload),
            Err(e) => (MSG_ERROR, encode_error(&e.to_string())),
        })
    }

    /// Handles one frame that holds no JSON.
    pub(super) fn handle_frame(&mut self, now: i64, kind: u8, payload: &[u8]) -> Reply {
        let (op, outcome) = match kind {
            MSG_HEARTBEAT => ("heartbeat", self.heartbeat_frame(now, payload).map(|p| (MSG_HEARTBEAT_OK, p))),
            MSG_LOOKUP => ("lookup", self.lookup_frame(payload).map(|p| (MSG_LOOKUP_OK, p))),
            MSG_RESOLVE => ("resolve", self.resolve_frame(now, payload).map(|p| (MSG_RESOLVE_OK, p))),
            unknown => return Reply::error_frame(&unknown_message_type_text(unknown)),
        };
        self.counters.count(op, outcome.is_err());
        match outcome {
            Ok((kind, payload)) => Reply::frame(kind, payload),
            Err(e) => Reply::error_frame(&e.to_string()),
        }
    }

    fn heartbeat_frame(&mut self, now: i64, payload: &[u8]) -> Result<Vec<u8>, FrameRefusal> {
        let request = decode_heartbeat_req(payload)?;
        let beat = self.heartbeat_raw(now, request.node_id, &request.signature)?;
        let response = HeartbeatResp { unix_time: now, key_expiry_warning: beat.key_expiry_warning };
        Ok(encode_heartbeat_resp(&response).to_vec())
    }

    fn lookup_frame(&self, payload: &[u8]) -> Result<Vec<u8>, FrameRefusal> {
        let id = decode_lookup_req(payload)?;
        let node = self.state.node(id).ok_or(Refusal::NodeNotFoundBinary(id))?;
        Ok(encode_lookup_resp(LookupView {
            node_id: id,
            public: node.public,
            task_exec: node.task_exec,
            networks: &self.all_networks(id),
            pub_key: self.state.identity(id).map_or(&[][..], |i| i.key.as_bytes()),
            hostname: node.hostname(),
            tags: &node.tags,
            real_addr: if node.public { self.reachable_at(node) } else { "" },
            external_id: "",
        }))
    }

    fn resolve_frame(&self, now: i64, payload: &[u8]) -> Result<Vec<u8>, FrameRefusal> {
        let request = decode_resolve_req(payload)?;
        let (requester, id) = (request.requester_id, request.node_id);
        self.check_resolve_signature(requester, id, &request.signature)?;
        if self.state.node(id).is_none() {
            return Err(Refusal::NodeNotFoundBinary(id).into());
        }
        let found = self.locate(now, requester, id)?;
        Ok(encode_resolve_resp(&ResolveResult {
            node_id: id,
            real_addr: found.real_addr.to_owned(),
            lan_addrs: found.lan_addrs.to_vec(),
            key_age_days: Some(found.key_age_days),
        }))
    }
}
