//! The local protocol between the daemon and its clients over a Unix socket (fact sheet ipc.md): command codes, frames,
//! and every request, reply and push as a typed value.
//!
//! Called by `pilot-net` (framing on a real socket), by the daemon's dispatcher and by `pilotctl`. Opens nothing, knows
//! no connection state, and does not decide what a request means.
//!
//! ```text
//! client ──▶ Request::decode(frame) ──▶ dispatcher ──▶ Reply / Push ──▶ encode() ──▶ client: Incoming::decode(frame)
//! ```
//!
//! A frame is `u32 length (big-endian, counts what follows) | u8 command | body`. All integers are big-endian. Decoding
//! is total: a body that is too short gives the exact error text that clients of the Go peer know ([`Refusal`]), extra
//! bytes after a fixed body are ignored, and nothing is allocated by a length that was not compared with what is there.

mod family;
mod frame;
mod go_error;
mod json_body;
mod message;
mod request;

pub use family::{HandshakeRequest, ManagedRequest, NetworkRequest};
pub use frame::{Encoded, Frame, FrameTooLarge, MAX_FRAME, MAX_JSON, MAX_SEND_DATA, decode_frame};
pub use go_error::{go_json_error, go_string_list};
pub use message::{Incoming, MalformedMessage, Push, Reply, SendCode};
pub use request::{Refusal, Request, SignBody};

/// Command bytes (ipc.md section 3). Requests are answered by the code in the constant's own doc line, or by
/// [`ERROR`](command::ERROR).
pub mod command {
    /// Bind a port; answered by [`BIND_OK`].
    pub const BIND: u8 = 0x01;
    /// Answer to [`BIND`].
    pub const BIND_OK: u8 = 0x02;
    /// Open a stream; answered by [`DIAL_OK`].
    pub const DIAL: u8 = 0x03;
    /// Answer to [`DIAL`].
    pub const DIAL_OK: u8 = 0x04;
    /// Push: a stream arrived on a bound port.
    pub const ACCEPT: u8 = 0x05;
    /// Stream data from the client; never answered.
    pub const SEND: u8 = 0x06;
    /// Push: stream data for the client.
    pub const RECV: u8 = 0x07;
    /// Close a stream; answered by [`CLOSE_OK`].
    pub const CLOSE: u8 = 0x08;
    /// Answer to [`CLOSE`], and push when a stream has ended.
    pub const CLOSE_OK: u8 = 0x09;
    /// The answer to any request that failed.
    pub const ERROR: u8 = 0x0A;
    /// Datagram from the client; never answered.
    pub const SEND_TO: u8 = 0x0B;
    /// Push to every client: a datagram arrived.
    pub const RECV_FROM: u8 = 0x0C;
    /// State of the node; answered by [`INFO_OK`].
    pub const INFO: u8 = 0x0D;
    /// Answer to [`INFO`], JSON.
    pub const INFO_OK: u8 = 0x0E;
    /// Trust family, sub-command in the first body byte; answered by [`HANDSHAKE_OK`].
    pub const HANDSHAKE: u8 = 0x0F;
    /// Answer to [`HANDSHAKE`], JSON.
    pub const HANDSHAKE_OK: u8 = 0x10;
    /// Host name to address; answered by [`RESOLVE_HOSTNAME_OK`].
    pub const RESOLVE_HOSTNAME: u8 = 0x11;
    /// Answer to [`RESOLVE_HOSTNAME`], JSON.
    pub const RESOLVE_HOSTNAME_OK: u8 = 0x12;
    /// Set or clear the host name; answered by [`SET_HOSTNAME_OK`].
    pub const SET_HOSTNAME: u8 = 0x13;
    /// Answer to [`SET_HOSTNAME`], JSON.
    pub const SET_HOSTNAME_OK: u8 = 0x14;
    /// Public or private; answered by [`SET_VISIBILITY_OK`].
    pub const SET_VISIBILITY: u8 = 0x15;
    /// Answer to [`SET_VISIBILITY`], JSON.
    pub const SET_VISIBILITY_OK: u8 = 0x16;
    /// Leave the registry; answered by [`DEREGISTER_OK`].
    pub const DEREGISTER: u8 = 0x17;
    /// Answer to [`DEREGISTER`], JSON.
    pub const DEREGISTER_OK: u8 = 0x18;
    /// Replace the node's tags; answered by [`SET_TAGS_OK`].
    pub const SET_TAGS: u8 = 0x19;
    /// Answer to [`SET_TAGS`], JSON.
    pub const SET_TAGS_OK: u8 = 0x1A;
    /// Set or clear the webhook URL; answered by [`SET_WEBHOOK_OK`].
    pub const SET_WEBHOOK: u8 = 0x1B;
    /// Answer to [`SET_WEBHOOK`], JSON.
    pub const SET_WEBHOOK_OK: u8 = 0x1C;
    /// Networks family, sub-command in the first body byte; answered by [`NETWORK_OK`].
    pub const NETWORK: u8 = 0x1F;
    /// Answer to [`NETWORK`], JSON.
    pub const NETWORK_OK: u8 = 0x20;
    /// Counters that never wait for the network; answered by [`HEALTH_OK`].
    pub const HEALTH: u8 = 0x21;
    /// Answer to [`HEALTH`], JSON.
    pub const HEALTH_OK: u8 = 0x22;
    /// Policies and member tags, sub-command in the first body byte; answered by [`MANAGED_OK`].
    pub const MANAGED: u8 = 0x23;
    /// Answer to [`MANAGED`], JSON.
    pub const MANAGED_OK: u8 = 0x24;
    /// New key pair (empty body); answered by [`ROTATE_KEY_OK`]. With a body it is the older fork's "set peer endpoints".
    pub const ROTATE_KEY: u8 = 0x25;
    /// Answer to [`ROTATE_KEY`], JSON.
    pub const ROTATE_KEY_OK: u8 = 0x26;
    /// Release a port, as the May 2026 driver asks; answered by [`UNBIND_V1_OK`].
    pub const UNBIND_V1: u8 = 0x27;
    /// Answer to [`UNBIND_V1`].
    pub const UNBIND_V1_OK: u8 = 0x28;
    /// Datagram to every member of a network; answered by [`BROADCAST_OK`].
    pub const BROADCAST: u8 = 0x29;
    /// Answer to [`BROADCAST`].
    pub const BROADCAST_OK: u8 = 0x2A;
    /// Abandon all dials of this client; never answered.
    pub const CANCEL_DIALS: u8 = 0x2B;
    /// Forget the relay for a peer; answered by [`PREFER_DIRECT_OK`].
    pub const PREFER_DIRECT: u8 = 0x2D;
    /// Answer to [`PREFER_DIRECT`], JSON.
    pub const PREFER_DIRECT_OK: u8 = 0x2E;
    /// Hand a verified badge to the registry; answered by [`SUBMIT_BADGE_OK`].
    pub const SUBMIT_BADGE: u8 = 0x2F;
    /// Answer to [`SUBMIT_BADGE`], JSON.
    pub const SUBMIT_BADGE_OK: u8 = 0x30;
    /// As a request (older fork): subscribe to a topic; answered by [`SUBSCRIBE_OK`].
    pub const SUBSCRIBE: u8 = 0x30;
    /// As a reply (older fork): answer to [`SUBSCRIBE`].
    pub const SUBSCRIBE_OK: u8 = 0x31;
    /// As a request: deposit a recovery enrolment; answered by [`ENROLL_RECOVERY_OK`].
    pub const ENROLL_RECOVERY: u8 = 0x31;
    /// Answer to [`ENROLL_RECOVERY`], JSON.
    pub const ENROLL_RECOVERY_OK: u8 = 0x32;
    /// As a request (older fork): unsubscribe; answered by [`UNSUBSCRIBE_OK`].
    pub const UNSUBSCRIBE: u8 = 0x32;
    /// As a reply (older fork): answer to [`UNSUBSCRIBE`].
    pub const UNSUBSCRIBE_OK: u8 = 0x33;
    /// As a request: sign a request envelope; answered by [`SIGN_ENVELOPE_OK`].
    pub const SIGN_ENVELOPE: u8 = 0x33;
    /// Answer to [`SIGN_ENVELOPE`], JSON.
    pub const SIGN_ENVELOPE_OK: u8 = 0x34;
    /// As a push (older fork): news on a subscribed topic.
    pub const NOTIFY: u8 = 0x34;
    /// As a request: verify a request envelope; answered by [`VERIFY_ENVELOPE_OK`].
    pub const VERIFY_ENVELOPE: u8 = 0x35;
    /// As a push (older fork): the fate of a [`SEND`].
    pub const SEND_RESULT: u8 = 0x35;
    /// Answer to [`VERIFY_ENVELOPE`], JSON.
    pub const VERIFY_ENVELOPE_OK: u8 = 0x36;
    /// As a request (older fork): a send with an answer; answered by [`SEND_TRACKED_OK`].
    pub const SEND_TRACKED: u8 = 0x36;
    /// As a reply (older fork): answer to [`SEND_TRACKED`].
    pub const SEND_TRACKED_OK: u8 = 0x37;
    /// As a request: release a port; answered by [`UNBIND_OK`].
    pub const UNBIND: u8 = 0x37;
    /// Answer to [`UNBIND`].
    pub const UNBIND_OK: u8 = 0x38;
    /// As a request (older fork): a node's public key; answered by [`LOOKUP_NODE_OK`].
    pub const LOOKUP_NODE: u8 = 0x38;
    /// As a reply (older fork): answer to [`LOOKUP_NODE`], JSON.
    pub const LOOKUP_NODE_OK: u8 = 0x39;
    /// As a request: a datagram that is confirmed; answered by [`SEND_TO_CONFIRMED_OK`].
    pub const SEND_TO_CONFIRMED: u8 = 0x39;
    /// Answer to [`SEND_TO_CONFIRMED`].
    pub const SEND_TO_CONFIRMED_OK: u8 = 0x3A;
    /// As a request (older fork): prove the identity; answered by [`SIGN_CHALLENGE_OK`].
    pub const SIGN_CHALLENGE: u8 = 0x3A;
    /// As a reply (older fork): answer to [`SIGN_CHALLENGE`], JSON.
    pub const SIGN_CHALLENGE_OK: u8 = 0x3B;

    /// Our own: one request for everything that only this host has (plugins, stop, ping), JSON with a member `op`;
    /// answered by [`HOST_OK`]. The code is far above the Go peers' so that neither side's growth collides; a Go daemon
    /// answers `unknown command: 0x50`.
    pub const HOST: u8 = 0x50;
    /// Answer to [`HOST`], JSON.
    pub const HOST_OK: u8 = 0x51;
}

#[cfg(test)]
mod tests;
