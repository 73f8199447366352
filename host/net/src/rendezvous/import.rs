//! Takes a Go registry's state file over into an empty store of ours (registry.md section 8).
//!
//! Called by `pilot-host rendezvous import`, with no server running on the store.

use std::path::Path;

use pilot_rendezvous::{Change, Snapshot, SnapshotError, Store, StoreError};
use sha2::{Digest, Sha256};

use super::store::RedbStore;

/// Records written in one transaction.
const BATCH: usize = 10_000;

/// What an import did.
#[derive(Debug, PartialEq, Eq)]
pub struct Imported {
    /// Node numbers with a key.
    pub nodes: usize,
    /// Networks besides the backbone.
    pub networks: usize,
    /// Trust pairs.
    pub trust_pairs: usize,
    /// What contradicted itself and was left out, one line each; at most a hundred.
    pub notes: Vec<String>,
    /// Whether the file's own checksum fits; `None`: it has none. The peer only logs a wrong one too.
    pub checksum: Option<bool>,
}

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The file is no registry snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The store cannot be opened, read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is a registry already.
    #[error("the store holds {0} records already: import into an empty directory")]
    NotEmpty(usize),
}

/// Reads `file`, the content of the peer's state file, into the store in `dir`, which is made when it is missing. Blocks.
///
/// # Errors
/// [`ImportError`]. When the store fails half way, remove the directory before trying again.
pub fn import(file: &[u8], dir: &Path) -> Result<Imported, ImportError> {
    let snapshot = Snapshot::parse(file)?;
    let mut store = RedbStore::open(dir)?;
    let present = store.load()?.len();
    if present > 0 {
        return Err(ImportError::NotEmpty(present));
    }
    let (nodes, networks, trust_pairs) = snapshot.counts();
    let notes = snapshot.notes().to_vec();
    let changes: Vec<Change> = snapshot.into_changes();
    for batch in changes.chunks(BATCH) {
        store.commit(batch)?;
    }
    Ok(Imported { nodes, networks, trust_pairs, notes, checksum: check(file) })
}

/// Compares the file with its last member, the SHA-256 of everything before it.
fn check(file: &[u8]) -> Option<bool> {
    const MARK: &[u8] = b",\"checksum\":\"";
    let file = file.trim_ascii_end();
    let at = file.windows(MARK.len()).rposition(|w| w == MARK)?;
    let (content, rest) = (&file[..at], &file[at + MARK.len()..]);
    let sum = rest.strip_suffix(b"\"}")?;
    let mut hash = Sha256::new();
    hash.update(content);
    hash.update(b"}");
    Some(hex::encode(hash.finalize()).as_bytes() == sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_imported_once() {
        let dir = tempfile::tempdir().unwrap();
        let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let content = format!(r#"{{"version":1,"next_node":8,"pub_key_idx":{{"{key}":7}}"#);
        let sum = hex::encode(Sha256::digest(format!("{content}}}")));
        let file = format!(r#"{content},"checksum":"{sum}"}}"#);
        let imported = import(file.as_bytes(), dir.path()).unwrap();
        assert_eq!((imported.nodes, imported.notes.len(), imported.checksum), (1, 0, Some(true)));
        assert!(matches!(import(file.as_bytes(), dir.path()), Err(ImportError::NotEmpty(2))));
        let other = dir.path().join("other");
        assert_eq!(import(file.replace(":8,", ":9,").as_bytes(), &other).unwrap().checksum, Some(false));
        assert!(matches!(import(b"[]", dir.path()), Err(ImportError::Snapshot(_))));
    }
}
