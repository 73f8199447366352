//! A rendezvous in a process of its own under load, under attack, and killed: what it needs per node, what hostile clients
//! cost, and that nothing acknowledged is lost. Sizes are small by default; `PILOT_LONG=1` runs the full ones
//! (`scripts/check --long`). Figures are printed, never asserted, except for bounds on memory.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test that cannot go on says so by its panic; figures are printed

mod beacon;
mod compat;
mod hostile;
mod kill;
mod scale;
mod server;
#[path = "../rendezvous/ws.rs"]
mod ws;
