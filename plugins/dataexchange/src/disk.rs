//! Files that are either whole or not there: written under a hidden name, then renamed. Called by the stores.
//!
//! A crash at any moment leaves at most hidden files, which [`sweep`] removes at the next start. Nothing here knows what
//! is in the files.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, PathPersistError, TempPath};

use crate::stamp::Stamps;

/// How many further sequence numbers are tried before a taken name counts as an error. Names carry milliseconds and a
/// number, so even one retry is rare.
const NAME_ATTEMPTS: u32 = 1000;

/// Creates `dir` and its parents with mode 0700 where they are missing.
pub(crate) fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// A new file with mode 0600 and a random name that starts with `prefix`; deleted when dropped.
pub(crate) fn hidden_file(dir: &Path, prefix: &str) -> io::Result<NamedTempFile> {
    tempfile::Builder::new().prefix(prefix).tempfile_in(dir)
}

/// Deletes what an earlier process left behind: regular files in `dir` whose names start with `prefix`.
pub(crate) fn sweep(dir: &Path, prefix: &str) {
    for entry in list(dir) {
        if entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes()) {
            remove(&entry.path());
        }
    }
}

/// Deletes a file; says whether it is gone. An error other than "gone already" is logged.
pub(crate) fn remove(path: &Path) -> bool {
    match std::fs::remove_file(path) {
        Ok(()) => true,
        Err(e) if e.kind() == io::ErrorKind::NotFound => true,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot delete");
            false
        }
    }
}

/// The entries of `dir`; unreadable ones are left out, and a missing directory has none.
pub(crate) fn list(dir: &Path) -> impl Iterator<Item = std::fs::DirEntry> + use<> {
    std::fs::read_dir(dir).into_iter().flatten().flatten()
}

/// Renames `source` to the first free name of `dir` that `name` makes of the time stamp and a sequence number, and
/// gives that path. Never overwrites. On an error the file is where it was, and the caller decides about it.
pub(crate) fn place(
    mut source: TempPath,
    dir: &Path,
    stamps: &Stamps,
    name: impl Fn(&str, u64) -> String,
) -> Result<PathBuf, PathPersistError> {
    let stamp = stamps.stamp();
    let mut attempts = 0;
    loop {
        let path = dir.join(name(&stamp, stamps.next()));
        match source.persist_noclobber(&path) {
            Ok(()) => return Ok(path),
            Err(PathPersistError { error, path })
                if error.kind() == io::ErrorKind::AlreadyExists && attempts < NAME_ATTEMPTS =>
            {
                source = path;
                attempts += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Makes a rename in `dir` survive a power cut.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
