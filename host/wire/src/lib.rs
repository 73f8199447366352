//! Everything that crosses a wire, a socket or the plugin border as bytes: addresses, packets, tunnel frames, beacon and
//! registry messages, blueprints, and the frames of the services both a plugin and the command line speak.
//!
//! Called by every other room. This crate is pure: it opens nothing, reads no clock and no randomness, holds no keys and
//! (outside the modules `secure` and `zwing`, which have to be asked for) does no cryptography. Decoders take a byte slice that arrived from anywhere and either give a typed value or say which
//! field was wrong; they never panic and never allocate by a length that has not been compared with what is there.
//! Encoders append to the caller's buffer, or fill fixed arrays where a header is put in front of bytes that are already
//! in place.
//!
//! Integers are big-endian on every wire of this crate unless an item says otherwise.
//!
//! Where | what
//! ---|---
//! between two daemons | [`tunnel`] around [`packet`] (with [`sack`]), [`addr`], [`ports`]
//! between a daemon and the rendezvous | [`beacon`] over UDP, [`registry`] over TCP, [`blueprint`] inside it
//! between a daemon and local programs | [`ipc`]
//! between the services of two nodes | [`dataexchange`], [`eventstream`], `secure` (with the feature of that name)
//! between the network runner and its clients | [`zap`] over `zwing` (with the feature of that name)
//! in texts that the Go peer compares or prints | [`gojson`], [`goquote`], [`goduration`]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod cursor;
mod read;
mod split;

pub mod addr;
pub mod beacon;
pub mod blueprint;
pub mod compat;
pub mod dataexchange;
pub mod eventstream;
pub mod goduration;
pub mod gojson;
pub mod goquote;
pub mod ipc;
pub mod packet;
pub mod ports;
pub mod registry;
pub mod sack;
#[cfg(feature = "secure")]
pub mod secure;
pub mod tunnel;
pub mod zap;
#[cfg(feature = "zwing")]
pub mod zwing;

pub use split::Split;
