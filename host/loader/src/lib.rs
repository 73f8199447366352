//! The loader: from a directory of `.so` files to running plugins, and back.
//!
//! [`Loader::load`] does everything in an order that never runs foreign code before it was judged: list the directory
//! ([`scan`]), read each file once and judge its static header ([`inspect`]) and who vouches for it ([`trust`]), open
//! exactly those bytes and compare the interface both ways, and only when all files have passed, create and start them
//! one after another in name order. [`Loaded`] then holds them, says how they are, and shuts them down in reverse order
//! with enforced deadlines.
//!
//! Used by the host program. It knows the treaty (plugin-abi) and nothing of engine, network or configuration files. A
//! library is never unloaded: its code stays mapped until the process ends.

pub mod inspect;
mod lifecycle;
mod open;
mod refusal;
pub mod scan;
pub mod trust;

pub use lifecycle::{LoadError, Loaded, Loader, LoaderConfig, PluginInfo, PluginState};
pub use open::OpenVia;
pub use plugin_abi::host::{Fault, FaultSource};
pub use plugin_abi::registry::{ShutdownReport, ShutdownStep};
pub use refusal::{Code, Refusal};
pub use trust::{Trust, TrustMode, TrustPolicy};
