//! Files that peers sent whole, in one FILE frame, and the naming rule for all received files. Called by the session
//! (FILE) and by the transfers (names, budget, directories).
//!
//! A file is written under a hidden name in `.partial` while its frame arrives and renamed when it is complete
//! (dataexchange.md section 4). Which names a sender may use is decided where the frame is read.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pilot_wire::dataexchange;
use tempfile::{NamedTempFile, PathPersistError, TempPath};

use crate::budget::{Budget, Full, Reservation};
use crate::disk;
use crate::remote::Remote;
use crate::stamp::Stamps;

/// Where unfinished files live, below the directory of received files.
const PARTIAL_DIR: &str = ".partial";
/// Start of the hidden name of a FILE frame that is still arriving; transfers use plain hex names beside it.
const FRAME_PREFIX: &str = "frame-";
/// Longest file name of the usual file systems, in bytes.
const NAME_MAX: usize = 255;

/// Why something was not stored; the text is the cause in an `ERR` reply (dataexchange.md section 2).
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The directory cannot be made.
    #[error("mkdir: {0}")]
    Directory(io::Error),
    /// The file cannot be written, finished or renamed.
    #[error("write: {0}")]
    Write(#[from] io::Error),
    /// The received directory is full.
    #[error("received-files quota exceeded: {} + {} > {}", .0.used, .0.needed, .0.max)]
    ReceivedFull(Full),
    /// The inbox is full and deleting older messages cannot change it.
    #[error("inbox byte budget exceeded: {} + {} > {}", .0.used, .0.needed, .0.max)]
    InboxFull(Full),
}

/// The directory of received files.
pub(crate) struct Received {
    dir: PathBuf,
    partial_dir: PathBuf,
    /// Shared by whole files and transfers.
    pub budget: Arc<Budget>,
    stamps: Arc<Stamps>,
    fsync: bool,
    /// Where complete files go instead of `dir`.
    remote: Option<Remote>,
}

/// A file under its final name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    /// The name, with stamp and number.
    pub name: String,
    /// Its path, or its URL in an object store.
    pub location: String,
}

impl Received {
    /// Removes what a crash left of whole files; unfinished transfers stay, they can be resumed.
    pub fn open(
        dir: PathBuf,
        max: Option<u64>,
        fsync: bool,
        stamps: Arc<Stamps>,
        remote: Option<Remote>,
    ) -> Received {
        let partial_dir = dir.join(PARTIAL_DIR);
        disk::sweep(&partial_dir, FRAME_PREFIX);
        let budget = Budget::new(dir.clone(), is_frame, max);
        Received { dir, partial_dir, budget, stamps, fsync, remote }
    }

    /// Where finished files are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where unfinished transfers are.
    pub fn partial_dir(&self) -> &Path {
        &self.partial_dir
    }

    /// Starts a file of exactly `bytes` bytes.
    pub fn begin(&self, bytes: u64) -> Result<Incoming<'_>, StoreError> {
        disk::make_dir(&self.partial_dir).map_err(StoreError::Directory)?;
        let reservation = self.budget.reserve(bytes).map_err(StoreError::ReceivedFull)?;
        let file = disk::hidden_file(&self.partial_dir, FRAME_PREFIX)?;
        Ok(Incoming { store: self, file, reservation })
    }

    /// Gives `file`, complete and inside the partial directory, its final name, made of the sender's `name`, here or in
    /// the object store. On an error the file is where it was, and the caller decides about it.
    pub fn publish(&self, file: TempPath, name: &str) -> Result<Stored, PathPersistError> {
        if let Some(remote) = &self.remote {
            let made = || final_name(name, &self.stamps.stamp(), self.stamps.next());
            return match remote.upload(&file, made) {
                // Dropping the file deletes the local copy.
                Ok((name, location)) => Ok(Stored { name, location }),
                Err(error) => Err(PathPersistError { error, path: file }),
            };
        }
        let path =
            disk::place(file, &self.dir, &self.stamps, |stamp, number| final_name(name, stamp, number))?;
        if self.fsync
            && let Err(error) = disk::sync_dir(&self.dir)
        {
            // The file is there for everyone; only a power cut in the next seconds could still lose its name.
            tracing::warn!(dir = %self.dir.display(), %error, "cannot sync the directory");
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Stored { name, location: path.to_string_lossy().into_owned() })
    }

    /// Whether published files leave this machine, and with it the quota.
    pub fn is_remote(&self) -> bool {
        self.remote.is_some()
    }

    /// Whether acknowledged bytes are forced to the disk.
    pub fn fsync(&self) -> bool {
        self.fsync
    }
}

/// A file whose frame is still arriving. Dropped unfinished, nothing of it stays.
pub(crate) struct Incoming<'a> {
    store: &'a Received,
    file: NamedTempFile,
    reservation: Reservation,
}

impl Incoming<'_> {
    /// Appends.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        Ok(self.file.write_all(bytes)?)
    }

    /// Gives the file its final name, made of the sender's `name`.
    pub fn finish(self, name: &str) -> Result<Stored, StoreError> {
        if self.store.fsync {
            self.file.as_file().sync_all()?;
        }
        let stored = self.store.publish(self.file.into_temp_path(), name).map_err(|e| e.error)?;
        if !self.store.is_remote() {
            self.reservation.settle();
        }
        Ok(stored)
    }
}

fn is_frame(path: &Path) -> bool {
    let starts = |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(FRAME_PREFIX.as_bytes());
    path.parent().is_some_and(|p| p.ends_with(PARTIAL_DIR)) && path.file_name().is_some_and(starts)
}

/// The stored name (dataexchange.md section 4). A stem that would make it too long for the file system is shortened: the
/// bytes matter more than the end of their name.
fn final_name(name: &str, stamp: &str, number: u64) -> String {
    let full = dataexchange::stored_name(name, stamp, number);
    let excess = full.len().saturating_sub(NAME_MAX);
    let dot = name.rfind('.').unwrap_or(name.len());
    let stem = &name[..name.floor_char_boundary(dot.saturating_sub(excess))];
    if excess == 0 {
        full
    } else {
        dataexchange::stored_name(&format!("{stem}{}", &name[dot..]), stamp, number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_keep_their_extension_and_fit() {
        let name = format!("{}.txt", "ü".repeat(125));
        let made = final_name(&name, "20260102-030405.678", 7);
        assert!(made.len() <= NAME_MAX && made.len() >= NAME_MAX - 1, "{}", made.len());
        assert!(made.ends_with("ü-20260102-030405.678-000007.txt"));
        // Nothing can be done about an extension of that length; the file system refuses it.
        assert!(final_name(&format!(".{}", "x".repeat(254)), "S", 1).len() > NAME_MAX);
        assert_eq!(final_name("a.b", "S", 12_345_678), "a-S-12345678.b");
    }
}
