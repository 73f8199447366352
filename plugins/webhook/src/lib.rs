//! The webhook plugin.
