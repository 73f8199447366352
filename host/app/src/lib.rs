//! Pilot Host: configuration, assembly, the daemon's face to plugins, the local socket's requests, the control tool. The
//! two programs, `pilot-host` and `pilotctl`, are thin; nothing imports this crate but them and its tests.
#![forbid(unsafe_code)]

pub mod admission;
pub mod backend;
pub mod capability;
pub mod cli;
pub mod compat;
pub mod config;
pub mod core;
pub mod ctl;
pub mod embedded;
pub mod face;
pub mod history;
pub mod ipc;
pub mod logging;
pub mod membership;
pub mod metrics;
pub mod notify;
pub mod operations;
pub mod plugin_cmd;
pub mod program;
pub mod reload;
pub mod run;
pub mod runner;
pub mod services;
pub mod status;
pub mod supervision;
pub mod telemetry;
pub mod testing;
pub mod transport;
pub mod version;
