//! `pilotctl` as people and scripts see it: its contract with scripts, and sessions whose output is kept and compared.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests are tests

mod contract;
mod session;
#[path = "../support/mod.rs"]
mod support;
