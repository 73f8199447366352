//! Files that arrive in chunks and may be continued after a break (dataexchange.md section 5.1). Called by the transfers.
//!
//! One partial file per transfer id, one writer per partial file: a second connection of the same node takes the file
//! over (the sender came back before its old connection was given up), one of another node is refused. The hash is
//! computed while the bytes pass by; only what an earlier connection stored is read again.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pilot_wire::dataexchange::TransferId;
use sha2::{Digest, Sha256};
use tempfile::TempPath;

use crate::disk;
use crate::received::{Received, Stored};
use crate::stamp::Stamps;

/// Bytes read at a time when stored bytes are hashed.
const PIECE: usize = 256 << 10;
/// Partial files that are kept; over it those go first that nobody continued for longest. The quota counts bytes, and a
/// peer that begins transfers without sending any would fill the directory without it.
pub(crate) const MAX_FILES: usize = 1024;

/// The directory of partial files.
pub(crate) struct Partials {
    received: Arc<Received>,
    stamps: Arc<Stamps>,
    max_age: Option<Duration>,
    owners: Mutex<HashMap<TransferId, Owner>>,
}

struct Owner {
    node: u32,
    writer: Writer,
}

/// Holds `true` while its connection may write to the file. Held locked during each step, so that a takeover happens
/// between steps.
type Writer = Arc<Mutex<bool>>;

/// Why a transfer cannot start; the text is sent to the peer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("mkdir partial: {0}")]
    Directory(io::Error),
    #[error("open partial: {0}")]
    Open(io::Error),
    #[error("receiver disk quota exceeded: need {need}, {room} of {max} available")]
    Quota { need: u64, room: u64, max: u64 },
    #[error("this file is being received from another node")]
    Foreign,
}

/// Why bytes were not stored.
#[derive(Debug)]
pub(crate) enum AppendError {
    /// Another connection owns the file now.
    TakenOver,
    /// No room; the text is sent to the peer.
    Quota(String),
    /// The file system said no; the text is sent to the peer.
    Write(String),
}

/// How a transfer ended that had all its bytes.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Stored under its final name.
    Stored(Stored),
    /// Another connection owns the file now.
    TakenOver,
    /// The bytes are not those that were announced; they are deleted.
    Corrupt,
    /// Something local failed; the transfer can be tried again. The text is sent to the peer.
    Failed(String),
}

impl Partials {
    pub fn new(received: Arc<Received>, stamps: Arc<Stamps>, max_age: Option<Duration>) -> Arc<Partials> {
        let partials = Partials { received, stamps, max_age, owners: Mutex::default() };
        partials.expire();
        Arc::new(partials)
    }

    /// Opens or creates the partial file of `id` for a file of `size` bytes that `node` sends.
    pub fn open(self: &Arc<Self>, id: TransferId, size: u64, node: u32) -> Result<Partial, OpenError> {
        let dir = self.received.partial_dir();
        disk::make_dir(dir).map_err(OpenError::Directory)?;
        self.expire();
        let path = dir.join(id.to_string());
        let budget = &self.received.budget;
        if let (Some(room), Some(max)) = (budget.room_for(&path), budget.max())
            && size > room
        {
            return Err(OpenError::Quota { need: size, room, max });
        }
        let writer = self.claim(id, node).ok_or(OpenError::Foreign)?;
        let claim = Claim { partials: self.clone(), id, writer };
        let (file, stored) = open_file(&path, size).map_err(OpenError::Open)?;
        Ok(Partial { claim, path, file, size, cursor: stored, hasher: Sha256::new(), hashed: 0 })
    }

    /// Makes the caller the writer of `id`, unless another node is.
    fn claim(&self, id: TransferId, node: u32) -> Option<Writer> {
        let mut owners = self.owners();
        if let Some(owner) = owners.get(&id) {
            if owner.node != node {
                return None;
            }
            *lock(&owner.writer) = false;
        }
        let writer = Arc::new(Mutex::new(true));
        owners.insert(id, Owner { node, writer: writer.clone() });
        Some(writer)
    }

    /// Deletes partial files that nobody continued for too long, and the oldest of too many.
    fn expire(&self) {
        let now = std::time::SystemTime::from(self.stamps.wall());
        let owners = self.owners();
        let open: HashSet<String> = owners.keys().map(TransferId::to_string).collect();
        let mut idle: Vec<(std::time::SystemTime, PathBuf, u64)> = disk::list(self.received.partial_dir())
            .filter(|entry| entry.file_name().to_str().is_none_or(|name| !open.contains(name)))
            .filter_map(|entry| {
                let meta = entry.metadata().ok().filter(std::fs::Metadata::is_file)?;
                Some((meta.modified().ok()?, entry.path(), meta.len()))
            })
            .collect();
        idle.sort();
        let surplus = (idle.len() + open.len()).saturating_sub(MAX_FILES);
        for (i, (modified, path, bytes)) in idle.into_iter().enumerate() {
            let age = now.duration_since(modified).ok();
            let too_old = self.max_age.is_some_and(|max| age.is_some_and(|age| age > max));
            if (too_old || i < surplus) && disk::remove(&path) {
                self.received.budget.release(bytes);
                tracing::info!(path = %path.display(), "unfinished transfer expired");
            }
        }
    }

    fn owners(&self) -> MutexGuard<'_, HashMap<TransferId, Owner>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lock(writer: &Writer) -> MutexGuard<'_, bool> {
    writer.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The file and how many of its bytes count: all of them, or none when it is longer than the announced size.
fn open_file(path: &Path, size: u64) -> io::Result<(File, u64)> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    // The mode above is for new files only.
    file.set_permissions(Permissions::from_mode(0o600))?;
    let stored = file.metadata()?.len();
    if stored <= size {
        return Ok((file, stored));
    }
    file.set_len(0)?;
    Ok((file, 0))
}

/// The right to write; given up when dropped.
struct Claim {
    partials: Arc<Partials>,
    id: TransferId,
    writer: Writer,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut owners = self.partials.owners();
        if owners.get(&self.id).is_some_and(|owner| Arc::ptr_eq(&owner.writer, &self.writer)) {
            owners.remove(&self.id);
        }
    }
}

/// One partial file, open for appending. Dropped, the file stays for a later connection.
pub(crate) struct Partial {
    claim: Claim,
    path: PathBuf,
    file: File,
    size: u64,
    /// Bytes stored; the length of the file.
    cursor: u64,
    hasher: Sha256,
    /// Bytes that went through `hasher`: all stored ones, or none while those of an earlier connection are missing.
    hashed: u64,
}

impl Partial {
    /// Bytes stored, from the start, without a gap.
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// The announced size.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Stores `bytes` at the cursor and moves it.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), AppendError> {
        let mine = lock(&self.claim.writer);
        if !*mine {
            return Err(AppendError::TakenOver);
        }
        let at = self.cursor;
        if bytes.len() as u64 > self.size - at {
            return Err(AppendError::Write(format!(
                "write at {at}: past the announced size of {} bytes",
                self.size
            )));
        }
        let reservation = (self.claim.partials.received.budget.reserve(bytes.len() as u64))
            .map_err(|_| AppendError::Quota(format!("receiver disk quota exceeded at offset {at}")))?;
        if let Err(e) = self.file.write_all_at(bytes, at) {
            // The length of the file is where a later connection resumes, so half a write must not stay.
            if let Err(error) = self.file.set_len(at) {
                tracing::warn!(path = %self.path.display(), %error, "cannot cut a half-written piece");
            }
            return Err(AppendError::Write(format!("write at {at}: {e}")));
        }
        reservation.settle();
        if self.hashed == at {
            self.hasher.update(bytes);
            self.hashed += bytes.len() as u64;
        }
        self.cursor += bytes.len() as u64;
        Ok(())
    }

    /// Checks the complete file against `expected` and gives it its final name, made of `name`. On
    /// [`Outcome::Failed`] the caller may try again.
    pub fn finish(&mut self, expected: &[u8; 32], name: &str) -> Outcome {
        let writer = self.claim.writer.clone();
        let mine = lock(&writer);
        if !*mine {
            return Outcome::TakenOver;
        }
        let received = self.claim.partials.received.clone();
        if received.fsync()
            && let Err(e) = self.file.sync_all()
        {
            return Outcome::Failed(format!("fsync: {e}"));
        }
        if let Err(e) = self.hash_stored() {
            return Outcome::Failed(format!("read for verify: {e}"));
        }
        if self.hasher.clone().finalize().as_slice() != expected {
            // Kept, it would make every later attempt resume at its end and fail again.
            if disk::remove(&self.path) {
                received.budget.release(self.cursor);
            }
            return Outcome::Corrupt;
        }
        let renamed = TempPath::try_from_path(&self.path).and_then(|path| {
            received.publish(path, name).map_err(|e| match e.path.keep() {
                Ok(_) => e.error,
                Err(kept) => kept.error,
            })
        });
        match renamed {
            Ok(stored) => {
                if received.is_remote() {
                    received.budget.release(self.cursor);
                }
                Outcome::Stored(stored)
            }
            Err(e) => Outcome::Failed(format!("rename: {e}")),
        }
    }

    /// Hashes what is stored but did not pass by.
    fn hash_stored(&mut self) -> io::Result<()> {
        let mut piece = vec![0; PIECE];
        while self.hashed < self.cursor {
            let wanted = piece.len().min(usize::try_from(self.cursor - self.hashed).unwrap_or(usize::MAX));
            self.file.read_exact_at(&mut piece[..wanted], self.hashed)?;
            self.hasher.update(&piece[..wanted]);
            self.hashed += wanted as u64;
        }
        Ok(())
    }
}
