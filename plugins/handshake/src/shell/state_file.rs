//! `trust.json` on disk: read once, replaced as a whole (handshake.md section 6).
//!
//! Called by `init` and by the keeper. A crash at any moment leaves the old file or the new one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::protocol::store::Store;
use crate::protocol::trustfile;

/// Longest file that is read: a full store of automatic grants has about 13 MB.
const MAX_FILE: u64 = 64 * 1024 * 1024;

/// Where the state is kept.
#[derive(Clone, Debug)]
pub struct StateFile {
    path: PathBuf,
}

impl StateFile {
    /// The state file beside an identity file.
    pub fn beside(identity: &Path) -> Self {
        StateFile { path: identity.with_file_name("trust.json") }
    }

    /// Reads the state. A missing file is an empty state; an unreadable one too, with a warning, and it stays as it is
    /// until something changes.
    pub fn load(&self, now: Timestamp) -> Store {
        let loaded = match self.read() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Store::default(),
            Err(e) => Err(e.to_string()),
            Ok(bytes) => trustfile::decode(&bytes, now).map_err(|e| e.to_string()),
        };
        loaded.unwrap_or_else(|cause| {
            tracing::warn!(path = %self.path.display(), cause, "trust state unreadable, starting with none");
            Store::default()
        })
    }

    fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(&self.path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(io::Error::other(format!("longer than {MAX_FILE} bytes")));
        }
        Ok(bytes)
    }

    /// Replaces the file: temporary file beside it, synced, renamed, directory synced.
    pub fn save(&self, text: &str) -> io::Result<()> {
        let folder = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if !folder.exists() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let temporary = self.path.with_file_name("trust.json.tmp");
        // A leftover may have another mode or be a link; ours is made anew.
        match fs::remove_file(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        // The rename has happened; not every file system can sync a directory.
        let _ = File::open(folder).and_then(|d| d.sync_all());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn the_file_is_replaced_whole_and_private() {
        let folder = tempfile::tempdir().expect("tempdir");
        let file = StateFile::beside(&folder.path().join("new/identity.json"));
        file.save("one").expect("saves");
        let path = folder.path().join("new/trust.json");
        let mode = |p: &Path| fs::metadata(p).expect("exists").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&folder.path().join("new"))), (0o600, 0o700));
        // Neither a loose leftover nor a link at the temporary name matters.
        symlink(folder.path().join("elsewhere"), folder.path().join("new/trust.json.tmp")).expect("link");
        file.save("two").expect("saves");
        assert_eq!(fs::read_to_string(&path).expect("reads"), "two");
        assert!(!folder.path().join("elsewhere").exists());
        assert!(!folder.path().join("new/trust.json.tmp").exists());
    }

    #[test]
    fn unreadable_state_is_no_state_and_stays() {
        let folder = tempfile::tempdir().expect("tempdir");
        let file = StateFile::beside(&folder.path().join("identity.json"));
        assert!(file.load(Timestamp::UNIX_EPOCH).trusted().is_empty());
        fs::write(folder.path().join("trust.json"), "{").expect("writes");
        assert!(file.load(Timestamp::UNIX_EPOCH).trusted().is_empty());
        assert_eq!(fs::read_to_string(folder.path().join("trust.json")).expect("reads"), "{");
    }
}
