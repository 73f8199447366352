//! The dataexchange plugin.
