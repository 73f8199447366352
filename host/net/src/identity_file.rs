//! The identity file: mode check, reading, atomic writing (identity.md, "File"). The encoding belongs to the engine.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use pilot_engine::identity::Identity;

/// Why an identity could not be loaded. The texts are the Go peer's where it has one.
#[derive(Debug, thiserror::Error)]
pub enum IdentityFileError {
    /// Others may read the private key.
    #[error("identity file has loose permissions (mode {mode:o}); chmod 600 {} and retry", path.display())]
    LoosePermissions {
        /// The file's permission bits.
        mode: u32,
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("read identity: {0}")]
    Read(std::io::Error),
    /// The content is not an identity.
    #[error("{0}")]
    Content(String),
}

/// Reads `path`, or makes an identity from `seed` and saves it there when the file is missing. The second value is the
/// reason why a new identity could not be saved (a warning, not an error: identity.md, "Loading").
///
/// # Errors
/// See [`IdentityFileError`]; a file that exists is never replaced.
pub fn load_or_create(
    path: &Path,
    seed: [u8; 32],
) -> Result<(Identity, Option<std::io::Error>), IdentityFileError> {
    match fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let identity = Identity::generate(seed);
            let saved = save(path, &identity).err();
            return Ok((identity, saved));
        }
        Err(e) => return Err(IdentityFileError::Read(e)),
        Ok(meta) => {
            let mode = meta.permissions().mode() & 0o7777;
            if mode & 0o077 != 0 {
                return Err(IdentityFileError::LoosePermissions { mode, path: path.to_owned() });
            }
        }
    }
    let bytes = fs::read(path).map_err(IdentityFileError::Read)?;
    let identity = Identity::from_file_json(&bytes).map_err(|e| IdentityFileError::Content(e.to_string()))?;
    Ok((identity, None))
}

/// Writes the identity: parent directory 0700, temporary file 0600, sync, rename, sync of the directory. A symbolic
/// link at `path` is followed.
///
/// # Errors
/// Those of the file system; the old file stays.
pub fn save(path: &Path, identity: &Identity) -> std::io::Result<()> {
    let target = follow_link(path);
    let dir = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mut name = target.file_name().map(ToOwned::to_owned).unwrap_or_default();
    name.push(".tmp");
    let temp = dir.join(name);
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temp)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(identity.to_file_json().as_bytes())?;
    file.sync_all()?;
    fs::rename(&temp, &target)?;
    if let Ok(dir) = fs::File::open(dir) {
        let _ = dir.sync_all();
    }
    Ok(())
}

fn follow_link(path: &Path) -> PathBuf {
    match fs::read_link(path) {
        Ok(link) if link.is_absolute() => link,
        Ok(link) => path.parent().unwrap_or(Path::new(".")).join(link),
        Err(_) => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_once_then_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/identity.json");
        let (first, warning) = load_or_create(&path, [7; 32]).unwrap();
        assert!(warning.is_none());
        let (second, _) = load_or_create(&path, [8; 32]).unwrap();
        assert_eq!(first.public_key(), second.public_key());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn loose_file_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.json");
        load_or_create(&path, [7; 32]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let text = load_or_create(&path, [7; 32]).unwrap_err().to_string();
        assert!(text.contains("loose permissions (mode 644); chmod 600"), "{text}");
    }

    #[test]
    fn damaged_file_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.json");
        fs::write(&path, "{").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(load_or_create(&path, [7; 32]).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "{");
    }
}
