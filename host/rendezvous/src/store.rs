//! Where acknowledged changes are kept: the face a store shows to the registry's driver.
//!
//! Implemented by the I/O floor over some database; a registry that may forget needs none. No type of any database
//! appears in this face.

use std::error::Error;

use crate::state::{Change, RecordKey};

/// Keeps records across restarts.
pub trait Store: Send {
    /// All records there are, in any order.
    ///
    /// # Errors
    /// [`StoreError`]: the store cannot be read. A registry that starts anyway would give numbers away a second time.
    fn load(&mut self) -> Result<Vec<(RecordKey, Vec<u8>)>, StoreError>;

    /// Writes the changes, all or none, in order. When this returns they survive the end of the process.
    ///
    /// # Errors
    /// [`StoreError`]: nothing was written. The driver answers the requests concerned with an error and writes the
    /// changes together with the next ones; writing a change twice does no harm.
    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError>;

    /// Called now and then when there is nothing to write: does a part of the work that earlier commits have put off, a few
    /// milliseconds of it, and says whether there is more. A store that puts nothing off has nothing to do.
    ///
    /// # Errors
    /// [`StoreError`]: nothing was done; nothing is lost either.
    fn tidy(&mut self) -> Result<bool, StoreError> {
        Ok(false)
    }
}

/// Why a store failed; the cause is the database's own error.
#[derive(Debug, thiserror::Error)]
#[error("registry store: {doing}")]
pub struct StoreError {
    /// What it was about.
    pub doing: String,
    /// Why it failed.
    #[source]
    pub cause: Box<dyn Error + Send + Sync>,
}

impl StoreError {
    /// An error while `doing` something (an infinitive or a noun phrase), for `cause`.
    pub fn new(doing: impl Into<String>, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { doing: doing.into(), cause: cause.into() }
    }
}
