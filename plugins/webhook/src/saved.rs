//! The URL that survives a restart: `webhook_url` in the host's state directory (webhook.md section 3).

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

/// Longest URL that is read back.
const MAX_URL: u64 = 64 * 1024;

/// The file.
#[derive(Clone, Debug)]
pub struct SavedUrl {
    folder: PathBuf,
}

impl SavedUrl {
    /// The file in this folder.
    pub fn new(folder: PathBuf) -> Self {
        SavedUrl { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.join("webhook_url")
    }

    /// The saved URL, trimmed; empty when there is none.
    ///
    /// # Errors
    /// The file is there but cannot be read, or is no text.
    pub fn load(&self) -> io::Result<String> {
        let mut text = String::new();
        match File::open(self.path()).and_then(|f| f.take(MAX_URL).read_to_string(&mut text)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            Err(e) => Err(e),
            Ok(_) => Ok(text.trim().to_owned()),
        }
    }

    /// Saves a URL without a newline; an empty one deletes the file. A crash leaves the old file or the new one.
    ///
    /// # Errors
    /// Of the file system.
    pub fn store(&self, url: &str) -> io::Result<()> {
        if url.is_empty() {
            return ignore_missing(fs::remove_file(self.path()));
        }
        if !self.folder.exists() {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        }
        let temporary = self.folder.join("webhook_url.tmp");
        ignore_missing(fs::remove_file(&temporary))?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(url.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, self.path())
    }
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn saved_read_and_deleted() {
        let folder = tempfile::tempdir().expect("tempdir");
        let saved = SavedUrl::new(folder.path().join("state"));
        assert_eq!(saved.load().expect("none"), "");
        saved.store("").expect("nothing to delete");
        saved.store("http://h/").expect("saves");
        assert_eq!(fs::read(saved.path()).expect("exists"), b"http://h/");
        let mode = |p: PathBuf| fs::metadata(p).expect("exists").permissions().mode() & 0o777;
        assert_eq!((mode(saved.path()), mode(folder.path().join("state"))), (0o600, 0o700));
        fs::write(saved.path(), " http://other/ \n").expect("writes");
        assert_eq!(saved.load().expect("reads"), "http://other/");
        saved.store("").expect("deletes");
        assert!(!saved.path().exists());
    }
}
