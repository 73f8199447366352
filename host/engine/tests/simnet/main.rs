//! Engines in a simulated network: a made-up clock, links that lose, repeat, reorder and delay, a beacon, and a registry
//! that answers at once. Minutes of protocol time take milliseconds and are the same each run.
#![allow(clippy::unwrap_used)] // a test crate
#![allow(clippy::disallowed_methods)] // the rules of the floor are the engine's; its tests have threads, files and a clock

mod feb;
mod flood;
mod hostile;
mod life;
mod nat;
mod net;
mod paths;
mod table;
mod transfer;
