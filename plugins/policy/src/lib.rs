//! The policy plugin.
