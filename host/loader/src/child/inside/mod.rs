//! The child's side: takes the socket and the sealed file, opens the library by the same path as a host would
//! ([`crate::open`]), and gives the plugin a [`Daemon`](plugin_abi::Daemon) whose every method is a message.
//!
//! The process ends when its host does, or lets go of it: the kernel kills it with its parent, and the end of the socket
//! does the same.

mod daemon;
mod executor;
mod home;
mod logs;
mod start;
mod stream;

pub use start::child_main;
