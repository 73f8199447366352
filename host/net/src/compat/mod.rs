//! The compat transport: one WebSocket to a beacon in place of the UDP socket, for hosts whose network lets nothing but
//! TCP 443 out. Fact sheet wss.md.
//!
//! `run` in the host makes the two ends with [`Client::new`] before the driver starts, gives [`Datagrams`] to the driver
//! and, once the registry has given a node number, dials with [`Client::connect`]. From then on a supervisor keeps the
//! connection: what the driver sends becomes one binary message each, what the beacon sends is a datagram from
//! [`BEACON_PLACEHOLDER`](pilot_wire::compat::BEACON_PLACEHOLDER).
//!
//! | queue | bound | when it is full |
//! |---|---|---|
//! | messages from the beacon | [`CompatConfig::receive_queue`] | nothing more is read from the connection |
//! | datagrams to the beacon | [`SEND_QUEUE_BYTES`] | the driver keeps the datagram, as with a full UDP socket |
//! | datagrams while there is no connection | none | [`Down::Reconnecting`] at once |
//!
//! Knows no tunnel frame and no peer. That frames to peers are wrapped for the beacon is the engine's doing
//! (`relay_only` with a beacon); [`Datagrams`] lets nothing else through in either direction.

mod choose;
mod client;
mod config;
mod datagrams;
mod dial;
mod proxy;
mod session;
#[cfg(test)]
mod tests;

pub use choose::{Check, Decision, Situation, check, decide, udp_answers};
pub use client::{Client, State, Status};
pub use config::{CompatConfig, Credentials, Timing};
pub use datagrams::{Datagrams, Down, SEND_QUEUE_BYTES};
pub use dial::DialError;
pub use proxy::{Proxy, ProxyError, ProxySetting};
