//! `pilot-host rendezvous` as a process: killed under load, followed by a standby, and filled from a Go registry.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test that cannot go on says so by its panic; figures are printed

mod import;
mod kill;
mod standby;
#[path = "../support/mod.rs"]
mod support;
