//! The host as a service of a machine: what its manager is told, reloads, and who may use its socket.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests are tests

#[path = "../support/mod.rs"]
mod support;

mod clients;
mod manager;
mod sighup;
mod sink;
mod socket_group;
mod spans;
