//! Engines in a simulated network: a made-up clock, links that lose, repeat, reorder and delay, a beacon, and a registry
//! that answers at once. Minutes of protocol time take milliseconds and are the same each run.
#![allow(clippy::unwrap_used)] // a test crate

mod feb;
mod flood;
mod hostile;
mod life;
mod nat;
mod net;
mod paths;
mod table;
mod transfer;
