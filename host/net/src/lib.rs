//! The I/O floor: sockets, clock and drivers around the sans-I/O rooms below.
//!
//! `node` drives one engine over UDP (`udp`) or over one WebSocket to a beacon (`compat`); `bus` fans events out; `registry_client` and `rendezvous` are both ends of the
//! registry, with `tls` between them where it is wanted; `ipc` both ends of the local socket; `control` both ends of the network runner's control port. Knows nothing of plugins or of configuration files.
#![forbid(unsafe_code)]

pub mod bus;
pub mod clock;
pub mod compat;
pub mod control;
mod framed;
pub mod identity_file;
pub mod ipc;
pub mod node;
pub mod queue;
pub mod registry_client;
pub mod rendezvous;
pub mod tls;
mod transport;
pub mod udp;
mod websocket;
