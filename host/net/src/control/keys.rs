//! The file that holds a control identity: 160 bytes of seeds, mode 0600 (zap.md section 5.2; the format is ours, the Go
//! peer keeps its identities in memory).

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use pilot_wire::zwing::{Expected, Identity, KEM_SEEDS_LEN, PublicIdentity, SEEDS_LEN, ZwingError};
use zeroize::Zeroizing;

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeysError {
    /// Others may read it.
    #[error("control identity {} has mode {mode:o}, others may read it; run: chmod 600 {}", path.display(), path.display())]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is not 160 bytes.
    #[error("control identity {} is {size} bytes, expected {SEEDS_LEN}; move it away and a new one will be made", path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// Its size, as far as it was read.
        size: usize,
    },
    /// The file system.
    #[error("control identity {}: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What failed.
        cause: std::io::Error,
    },
    /// The operating system gives no random bytes.
    #[error("no random bytes from the operating system: {0}")]
    Random(getrandom::Error),
}

/// The seeds of one control identity, erased when dropped.
#[derive(Clone)]
pub struct Keys(Zeroizing<[u8; SEEDS_LEN]>);

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(..)")
    }
}

impl Keys {
    /// New ones, kept nowhere.
    ///
    /// # Errors
    /// [`KeysError::Random`].
    pub fn generate() -> Result<Self, KeysError> {
        random().map(|seeds| Keys(Zeroizing::new(seeds))).map_err(KeysError::Random)
    }

    /// From seeds that are known, for tests and derived identities.
    pub fn from_seeds(seeds: [u8; SEEDS_LEN]) -> Self {
        Keys(Zeroizing::new(seeds))
    }

    /// Reads `path`, or makes new keys and writes them there (directory 0700, file 0600, synced before it gets its name)
    /// when the file is missing. A file that exists is never replaced.
    ///
    /// # Errors
    /// See [`KeysError`].
    pub fn load_or_create(path: &Path) -> Result<Self, KeysError> {
        let io = |cause| KeysError::Io { path: path.to_owned(), cause };
        match fs::File::open(path) {
            Ok(file) => Self::read(path, file),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let keys = Self::generate()?;
                match keys.write(path) {
                    // Another process was first: its keys count.
                    Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                        Self::read(path, fs::File::open(path).map_err(io)?)
                    }
                    written => written.map(|()| keys).map_err(io),
                }
            }
            Err(e) => Err(io(e)),
        }
    }

    fn read(path: &Path, file: fs::File) -> Result<Self, KeysError> {
        let io = |cause| KeysError::Io { path: path.to_owned(), cause };
        let mode = file.metadata().map_err(io)?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeysError::Permissions { path: path.to_owned(), mode });
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(SEEDS_LEN + 1));
        file.take(SEEDS_LEN as u64 + 1).read_to_end(&mut bytes).map_err(io)?;
        let seeds = <[u8; SEEDS_LEN]>::try_from(bytes.as_slice());
        seeds
            .map(|seeds| Keys(Zeroizing::new(seeds)))
            .map_err(|_| KeysError::Size { path: path.to_owned(), size: bytes.len() })
    }

    fn write(&self, path: &Path) -> std::io::Result<()> {
        let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let mut temp = tempfile::Builder::new()
            .permissions(fs::Permissions::from_mode(0o600))
            .make_in(dir, |p| fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(p))?;
        temp.write_all(self.0.as_slice())?;
        temp.as_file().sync_all()?;
        temp.persist_noclobber(path).map_err(|e| e.error)?;
        fs::File::open(dir)?.sync_all()
    }

    /// The identity for many connections.
    pub fn identity(&self) -> Identity {
        Identity::from_seeds(&self.0)
    }

    /// The identity for one connection: same signing keys, fresh key-agreement keys.
    ///
    /// # Errors
    /// [`KeysError::Random`].
    pub fn fresh(&self) -> Result<Identity, KeysError> {
        let kem: Zeroizing<[u8; KEM_SEEDS_LEN]> = Zeroizing::new(random().map_err(KeysError::Random)?);
        let mut seeds = self.0.clone();
        seeds[SEEDS_LEN - KEM_SEEDS_LEN..].copy_from_slice(kem.as_slice());
        Ok(Identity::from_seeds(&seeds))
    }
}

/// Random bytes of the operating system.
pub(super) fn random<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map(|()| bytes)
}

/// The text that people exchange: all 3200 bytes as lower-case hex digits.
pub fn to_text(public: &PublicIdentity) -> String {
    use std::fmt::Write;
    public.as_bytes().iter().fold(String::with_capacity(6400), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads the hex text of an identity as a pin: by its signing keys, so that fresh key-agreement keys are accepted, or with
/// `whole` by all its bytes. 1984 bytes, the signing part alone, are taken as well.
///
/// # Errors
/// [`ZwingError::IdentitySize`] for anything that is not such a text.
pub fn pin_from_text(text: &str, whole: bool) -> Result<Expected, ZwingError> {
    let digits = text.trim().as_bytes();
    let nibble = |d: u8| char::from(d).to_digit(16).ok_or(ZwingError::IdentitySize);
    if !digits.len().is_multiple_of(2) || digits.len() > 6400 {
        return Err(ZwingError::IdentitySize);
    }
    let mut bytes = Vec::with_capacity(digits.len() / 2);
    for pair in digits.chunks_exact(2) {
        bytes.push((nibble(pair[0])? << 4 | nibble(pair[1])?) as u8);
    }
    match Expected::from_bytes(&bytes)? {
        Expected::Whole(identity) if !whole => Expected::from_bytes(identity.signing_identity()),
        pin => Ok(pin),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_once_then_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/control.key");
        let first = Keys::load_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = Keys::load_or_create(&path).unwrap();
        assert_eq!(first.identity().public(), again.identity().public());
        let fresh = first.fresh().unwrap();
        assert_ne!(fresh.public(), again.identity().public());
        let pin = pin_from_text(&to_text(again.identity().public()), false).unwrap();
        pilot_wire::zwing::Expect::OneOf(vec![pin]).check(fresh.public()).unwrap();
    }

    #[test]
    fn a_loose_or_damaged_file_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.key");
        fs::write(&path, [1; 159]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let text = Keys::load_or_create(&path).unwrap_err().to_string();
        assert!(text.contains("has mode 640") && text.contains("chmod 600"), "{text}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let text = Keys::load_or_create(&path).unwrap_err().to_string();
        assert!(text.contains("is 159 bytes, expected 160"), "{text}");
        assert_eq!(fs::read(&path).unwrap(), [1; 159]);
    }

    #[test]
    fn pins_that_are_none() {
        for text in ["", "0", "zz", &"00".repeat(100), &"0".repeat(6402)] {
            assert_eq!(pin_from_text(text, false), Err(ZwingError::IdentitySize), "{text:.10}");
        }
    }
}
