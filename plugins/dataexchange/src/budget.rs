//! How many bytes a directory holds, and how many it may. Called by the store of received files.
//!
//! Counting a directory costs a system call per file, so the count is kept in memory, moved along with our own writes,
//! and taken anew now and then, and always before anything is refused. Deletions by people are therefore noticed when
//! they matter.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::disk;

/// Reservations after which the directory is counted again even though there is room.
const RECOUNT_AFTER: u32 = 64;

/// The bytes below one directory, all levels.
pub(crate) struct Budget {
    dir: PathBuf,
    /// Tells files whose bytes are reserved already and therefore not counted.
    is_reserved: fn(&Path) -> bool,
    max: Option<u64>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// `None` until counted.
    on_disk: Option<u64>,
    /// Promised to files that are being written.
    reserved: u64,
    since_count: u32,
}

/// There is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full {
    /// Bytes in use.
    pub used: u64,
    /// Bytes asked for.
    pub needed: u64,
    /// Bytes allowed.
    pub max: u64,
}

impl Budget {
    /// `max` = `None`: no limit, nothing is counted.
    pub fn new(dir: PathBuf, is_reserved: fn(&Path) -> bool, max: Option<u64>) -> Arc<Budget> {
        Arc::new(Budget { dir, is_reserved, max, state: Mutex::default() })
    }

    /// The limit.
    pub fn max(&self) -> Option<u64> {
        self.max
    }

    /// Promises `bytes` to a file that is about to be written.
    pub fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reservation, Full> {
        if let Some(max) = self.max {
            let mut state = self.lock();
            state.since_count += 1;
            if state.since_count >= RECOUNT_AFTER {
                state.on_disk = None;
            }
            if !self.fits(&mut state, bytes, max) {
                state.on_disk = None;
                if !self.fits(&mut state, bytes, max) {
                    return Err(Full { used: self.used(&mut state), needed: bytes, max });
                }
            }
            state.reserved += bytes;
        }
        Ok(Reservation { budget: self.clone(), bytes })
    }

    /// A file of ours with `bytes` is gone.
    pub fn release(&self, bytes: u64) {
        if let Some(on_disk) = &mut self.lock().on_disk {
            *on_disk = on_disk.saturating_sub(bytes);
        }
    }

    /// Bytes that the directory could give to the file at `path`: the limit without everything else, counted anew.
    /// `None`: no limit.
    pub fn room_for(&self, path: &Path) -> Option<u64> {
        let max = self.max?;
        let mut state = self.lock();
        state.on_disk = None;
        let used = self.used(&mut state);
        let own = std::fs::symlink_metadata(path).map_or(0, |m| m.len());
        Some(max.saturating_sub(used.saturating_sub(own)))
    }

    fn fits(&self, state: &mut State, bytes: u64, max: u64) -> bool {
        self.used(state).checked_add(bytes).is_some_and(|sum| sum <= max)
    }

    fn used(&self, state: &mut State) -> u64 {
        let on_disk = *state.on_disk.get_or_insert_with(|| {
            state.since_count = 0;
            count(&self.dir, self.is_reserved)
        });
        on_disk.saturating_add(state.reserved)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A count is never left half-changed, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A promise of bytes; given back when dropped, turned into bytes on disk by [`settle`](Self::settle).
pub(crate) struct Reservation {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Reservation {
    /// The bytes are where they are counted. A count taken between that moment and this call has them twice until the
    /// next one, which is taken before anything is refused.
    pub fn settle(mut self) {
        if self.budget.max.is_some() {
            let mut state = self.budget.lock();
            state.reserved -= self.bytes;
            if let Some(on_disk) = &mut state.on_disk {
                *on_disk += self.bytes;
            }
        }
        self.bytes = 0;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 && self.budget.max.is_some() {
            self.budget.lock().reserved -= self.bytes;
        }
    }
}

/// Bytes of all regular files below `dir`; links are not followed, what cannot be read counts nothing.
fn count(dir: &Path, is_reserved: fn(&Path) -> bool) -> u64 {
    let mut sum = 0u64;
    let mut open = vec![dir.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in disk::list(&dir) {
            match entry.metadata() {
                Ok(m) if m.is_dir() => open.push(entry.path()),
                Ok(m) if m.is_file() && !is_reserved(&entry.path()) => sum = sum.saturating_add(m.len()),
                _ => {}
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_temp(path: &Path) -> bool {
        path.ends_with("sub/temp")
    }

    fn write(dir: &Path, name: &str, bytes: usize) {
        std::fs::write(dir.join(name), vec![0; bytes]).unwrap();
    }

    #[test]
    fn counts_all_levels_but_not_what_is_reserved() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        write(dir.path(), "a", 3);
        write(dir.path(), "sub/b", 4);
        write(dir.path(), "sub/temp", 100);
        assert_eq!(count(dir.path(), is_temp), 7);
    }

    #[test]
    fn refuses_only_what_does_not_fit_together_with_promises() {
        let dir = tempfile::tempdir().unwrap();
        let budget = Budget::new(dir.path().into(), is_temp, Some(10));
        let six = budget.reserve(6).unwrap();
        assert_eq!(budget.reserve(5).err(), Some(Full { used: 6, needed: 5, max: 10 }));
        drop(six);
        let six = budget.reserve(6).unwrap();
        write(dir.path(), "six", 6);
        six.settle();
        assert_eq!(budget.reserve(5).err(), Some(Full { used: 6, needed: 5, max: 10 }));
        assert!(budget.reserve(4).is_ok());
    }

    #[test]
    fn a_deletion_by_someone_else_is_noticed_before_a_refusal() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "old", 10);
        let budget = Budget::new(dir.path().into(), is_temp, Some(10));
        assert!(budget.reserve(1).is_err());
        std::fs::remove_file(dir.path().join("old")).unwrap();
        assert!(budget.reserve(10).is_ok());
    }

    #[test]
    fn the_room_for_a_file_includes_what_it_has() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "partial", 4);
        write(dir.path(), "other", 5);
        let budget = Budget::new(dir.path().into(), is_temp, Some(10));
        assert_eq!(budget.room_for(&dir.path().join("partial")), Some(5));
        assert_eq!(budget.room_for(&dir.path().join("absent")), Some(1));
    }
}
