//! The handshake plugin.
