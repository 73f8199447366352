//! The dataexchange plugin: takes messages and files on port 1001, stores them, and answers every frame
//! (dataexchange.md). Whoever passes the engine's trust gate and policy may send; there is no further check here.
//!
//! | module | job |
//! |---|---|
//! | `service` | the plugin object, the accept loop, a thread per connection |
//! | `connections` | how many connections there may be, and how they end |
//! | `session` | one connection: which frame is stored where and answered how |
//! | `channel` | frames in, replies out, bounded in memory and time |
//! | `inbox`, `body` | messages as JSON files |
//! | `received`, `budget` | files that came in one frame, names, quota |
//! | `remote` | received files in an object store instead of a directory |
//! | `transfers`, `partial` | files that come in chunks and may be continued later |
//! | `config`, `stamp`, `disk` | settings, times and numbers, atomic files |
//!
//! The keys of `[plugin.dataexchange]` are those of `config::Config`; the ones people change: `inbox_dir`, `received_dir`,
//! `received_url` (an object store instead), `received_max_bytes`, `inbox_max_bytes`, `include_base64`, `max_frame`.
//!
//! Two rules hold everywhere: memory per connection is bounded whatever a peer announces, and a file under its final
//! name is complete, whenever the process is killed. The sending side of transfers is not here; it belongs to clients.
#![forbid(unsafe_code)]

mod body;
mod budget;
mod channel;
mod config;
mod connections;
mod disk;
mod inbox;
mod partial;
mod received;
mod remote;
mod service;
mod session;
mod stamp;
#[cfg(test)]
mod tests;
mod transfers;

plugin_abi::export_plugin!("dataexchange", service::DataExchange::new);
