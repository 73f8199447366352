//! Messages: one JSON file each, in a directory that never grows beyond its limits (dataexchange.md section 3). Called by
//! the session.
//!
//! A full inbox loses its oldest messages, never the new one, unless the new one alone is larger than the limit.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use base64::engine::general_purpose::STANDARD;
use base64::write::EncoderWriter;
use pilot_wire::dataexchange::{self, FrameType};
use pilot_wire::gojson;
use plugin_abi::Addr;
use tempfile::NamedTempFile;

use crate::body::Body;
use crate::budget::Full;
use crate::disk;
use crate::received::StoreError;
use crate::stamp::Stamps;

/// Start of the hidden name of a message that is being written. Finished ones start with a type name.
const TEMP_PREFIX: &str = ".message-";
/// What a message counts in addition to its payload before it is written (dataexchange.md section 3.1).
const OVERHEAD: u64 = 256;
/// Messages after which the directory is counted anew and the number of files is looked at.
const TIDY_AFTER: u32 = 64;

/// What the inbox may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of all files; `None` = no limit.
    pub max_bytes: Option<u64>,
    /// Number of files; may be exceeded by up to [`TIDY_AFTER`].
    pub max_files: usize,
}

/// The directory of messages.
pub(crate) struct Inbox {
    dir: PathBuf,
    limits: Limits,
    include_base64: bool,
    fsync: bool,
    stamps: Arc<Stamps>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Bytes in the directory; `None` until counted.
    used: Option<u64>,
    since_tidy: u32,
}

/// One file of the directory.
struct Stored {
    modified: SystemTime,
    path: PathBuf,
    bytes: u64,
}

impl Inbox {
    /// Removes what a crash left of unfinished messages.
    pub fn open(
        dir: PathBuf,
        limits: Limits,
        include_base64: bool,
        fsync: bool,
        stamps: Arc<Stamps>,
    ) -> Inbox {
        disk::sweep(&dir, TEMP_PREFIX);
        Inbox { dir, limits, include_base64, fsync, stamps, state: Mutex::default() }
    }

    /// Starts a message of `bytes` bytes: refuses at once what no deletion can make room for, so that it need not be
    /// collected.
    pub fn begin(&self, bytes: u64) -> Result<Body, StoreError> {
        self.refuse_if_too_large(bytes + OVERHEAD)?;
        disk::make_dir(&self.dir).map_err(StoreError::Directory)?;
        Ok(Body::new(&self.dir))
    }

    /// Stores a message. When this returns `Ok`, it is on the disk under its final name.
    pub fn save(&self, kind: FrameType, from: Addr, mut body: Body) -> Result<(), StoreError> {
        let mut file = disk::hidden_file(&self.dir, TEMP_PREFIX)?;
        self.write(&mut file, kind, from, &mut body)?;
        if self.fsync {
            file.as_file().sync_all()?;
        }
        let bytes = file.as_file().metadata()?.len();
        // Escapes and base64 can make the file larger than the estimate that the fact sheet names.
        self.insert(file, bytes, bytes.max(body.len() + OVERHEAD), kind)?;
        if self.fsync {
            disk::sync_dir(&self.dir)?;
        }
        Ok(())
    }

    /// The JSON object, keys in alphabetical order as the Go peer writes them.
    fn write(
        &self,
        file: &mut NamedTempFile,
        kind: FrameType,
        from: Addr,
        body: &mut Body,
    ) -> io::Result<()> {
        let mut out = BufWriter::with_capacity(64 << 10, file);
        write!(out, "{{\"bytes\":{}", body.len())?;
        if self.include_base64 || kind == FrameType::BINARY || !body.is_utf8() {
            out.write_all(b",\"data_b64\":\"")?;
            let mut encoder = EncoderWriter::new(&mut out, &STANDARD);
            body.read_bytes(|piece| encoder.write_all(piece))?;
            encoder.finish()?;
            drop(encoder);
            out.write_all(b"\",\"data_encoding\":\"base64\"")?;
        } else {
            out.write_all(b",\"data\":\"")?;
            body.read_text(|piece| {
                let quoted = gojson::quote(piece);
                out.write_all(&quoted.as_bytes()[1..quoted.len() - 1])
            })?;
            out.write_all(b"\",\"data_encoding\":\"utf8\"")?;
        }
        let received_at = self.stamps.rfc3339();
        write!(out, ",\"from\":\"{from}\",\"received_at\":\"{received_at}\",\"type\":\"{kind}\"}}")?;
        out.flush()
    }

    /// Makes room for `needed` bytes and gives the file of `bytes` bytes its name, as one step for other connections.
    fn insert(
        &self,
        file: NamedTempFile,
        bytes: u64,
        needed: u64,
        kind: FrameType,
    ) -> Result<(), StoreError> {
        self.refuse_if_too_large(needed)?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.make_room(&mut state, needed)?;
        disk::place(file.into_temp_path(), &self.dir, &self.stamps, |stamp, number| {
            dataexchange::inbox_name(kind, stamp, number)
        })
        .map_err(|e| e.error)?;
        if let Some(used) = &mut state.used {
            *used += bytes;
        }
        Ok(())
    }

    fn refuse_if_too_large(&self, needed: u64) -> Result<(), StoreError> {
        match self.limits.max_bytes {
            Some(max) if needed > max => {
                let used = self.stored().iter().map(|s| s.bytes).sum();
                Err(StoreError::InboxFull(Full { used, needed, max }))
            }
            _ => Ok(()),
        }
    }

    /// Deletes the oldest messages until `needed` more bytes fit, and now and then those beyond the number of files.
    fn make_room(&self, state: &mut State, needed: u64) -> Result<(), StoreError> {
        let max = self.limits.max_bytes.unwrap_or(u64::MAX);
        let fits = |used: u64| used.checked_add(needed).is_some_and(|sum| sum <= max);
        state.since_tidy += 1;
        if state.since_tidy < TIDY_AFTER && state.used.is_some_and(fits) {
            return Ok(());
        }
        state.since_tidy = 0;
        let stored = self.stored();
        let mut used = stored.iter().map(|s| s.bytes).sum();
        // One place for the new message.
        let mut surplus = (stored.len() + 1).saturating_sub(self.limits.max_files);
        for oldest in &stored {
            if surplus == 0 && fits(used) {
                break;
            }
            if disk::remove(&oldest.path) {
                tracing::debug!(path = %oldest.path.display(), "inbox full, oldest message deleted");
                surplus = surplus.saturating_sub(1);
                used -= oldest.bytes;
            }
        }
        state.used = Some(used);
        if fits(used) { Ok(()) } else { Err(StoreError::InboxFull(Full { used, needed, max })) }
    }

    /// All regular files, oldest first; files of the same age in the order of stamp and number.
    fn stored(&self) -> Vec<Stored> {
        let mut all: Vec<Stored> = disk::list(&self.dir)
            .filter(|entry| !is_temp(&entry.path()))
            .filter_map(|entry| {
                let meta = entry.metadata().ok().filter(|m| m.is_file())?;
                Some(Stored { modified: meta.modified().ok()?, path: entry.path(), bytes: meta.len() })
            })
            .collect();
        all.sort_by(|a, b| (a.modified, after_type(&a.path)).cmp(&(b.modified, after_type(&b.path))));
        all
    }
}

/// Whether this is a message that is still being written.
fn is_temp(path: &Path) -> bool {
    path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(TEMP_PREFIX.as_bytes()))
}

/// The part of a message's name that tells its age: stamp and number.
fn after_type(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()?.split_once('-').map(|(_, rest)| rest)
}
