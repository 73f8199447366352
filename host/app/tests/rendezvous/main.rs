//! `pilot-host rendezvous` as a process: killed under load, followed by a standby, filled from a Go registry,
//! and started by a program that reads where it is.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test that cannot go on says so by its panic; figures are printed

mod import;
mod kill;
mod ready;
mod standby;
#[path = "../support/mod.rs"]
mod support;
