//! The network runner's control protocol: ZAP frames, primitives and messages (zap.md sections 1 to 4).
//!
//! Called by both ends of the control connection. The secure channel underneath is `zwing`: these frames are a
//! byte stream inside it, and a frame may be spread over several of its records. What each call does is the runner's
//! business; how calls, answers and streams are matched up is the connection's.

mod buffer;
mod frame;
mod message;
mod rpc;

pub use buffer::{DecodeError, Reader, Writer};
pub use frame::{
    Frame, FrameError, HEADER_LEN, MAX_PAYLOAD, TypeOctet, encode_frame, read_frame, split_frame,
};
pub use message::{
    AddNode, ChainInfo, ChainSpec, ClusterInfo, LoadSnapshot, NodeInfo, RestartNode, SendOutboundMessage,
    Start, StringMap,
};
pub use rpc::{Answer, Reply, Request, RequestError, Rpc, encode_error, keep_alive_frame};

/// Where a control server listens unless told otherwise.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:9999";
/// The port in [`DEFAULT_ADDRESS`].
pub const DEFAULT_PORT: u16 = 9999;
/// What [`Request::RpcVersion`] is answered with.
pub const PROTOCOL_VERSION: u32 = 1;
/// The request id of keep-alive frames; real calls skip it.
pub const KEEP_ALIVE_ID: u32 = 0;
/// The error text that ends a stream in good order.
pub const STREAM_ENDED: &str = "stream ended";
/// The error text for an operation that has a number but no backend.
pub const UNSUPPORTED: &str = "unsupported by this backend";
/// The error text when a connection has too many calls in flight.
pub const TOO_MANY_REQUESTS: &str = "too many concurrent requests";
