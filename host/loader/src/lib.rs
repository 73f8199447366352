//! The loader: from a directory of `.so` files to running plugins, and back.
//!
//! [`Loader::load`] does everything in an order that never runs foreign code before it was judged: list the directory
//! ([`scan`]), read each file once and judge its static header ([`inspect`]) and who vouches for it ([`trust`]), open
//! exactly those bytes and compare the interface both ways, and only when all files have passed, create and start them
//! one after another in name order. [`Loaded`] then holds them, says how they are, starts, stops and replaces each by
//! itself, and shuts them all down in reverse order with enforced deadlines. The [`ledger`] counts what went wrong and
//! keeps out who fails too often.
//!
//! Used by the host program. It knows the treaty (plugin-abi) and nothing of engine, network or configuration files. A
//! library is never unloaded: its code stays mapped until the process ends.

pub mod child;
mod config;
pub mod conformance;
mod info;
pub mod inspect;
mod instance;
mod judge;
pub mod ledger;
mod load;
mod open;
pub mod probe;
mod refusal;
pub mod scan;
mod set;
pub mod trust;

pub use config::{Children, FIRST_PARTY, Isolation, IsolationPolicy, LoaderConfig, PluginHost};
pub use info::{PluginInfo, PluginState};
pub use ledger::Ledger;
pub use load::{LoadError, Loader};
pub use open::OpenVia;
pub use plugin_abi::host::{Fault, FaultSource};
pub use plugin_abi::registry::{ShutdownReport, ShutdownStep};
pub use probe::Probe;
pub use refusal::{Code, Refusal};
pub use set::{ChangeError, Loaded};
pub use trust::{Trust, TrustMode, TrustPolicy};
