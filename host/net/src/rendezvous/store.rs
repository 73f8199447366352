//! The registry's store on disk: one file, every commit synced before it returns.
//!
//! Called by the committer's thread, which owns it. The file is locked while it is open, so two servers cannot write to
//! the same directory. What the records mean is the registry's business.
//!
//! There are two tables. `records` has one entry per record. `journal` has one per large commit, with all its changes in a
//! row, and for commits behind it until it is empty again: when thousands of nodes come at once, that takes a third of the
//! time that as many places in the other table take. Its entries go over to `records`, oldest first, when there is time
//! ([`Store::tidy`]), when there are too many, and at the next start before anything is read.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use pilot_rendezvous::{Change, RecordKey, Store, StoreError};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

const FILE: &str = "registry.redb";
/// Bytes of the file kept in memory. The registry holds all records itself, so that only writing needs any.
const CACHE: usize = 8 << 20;
const RECORDS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("records");
const JOURNAL: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("journal");
/// From this many changes on a commit goes into the journal.
const MANY: usize = 64;
/// Bytes of the journal that go over to the records at a time: a few milliseconds of work.
const SLICE: usize = 128 << 10;
/// Bytes in the journal at most; a commit that finds more does the work of its own size twice.
const JOURNAL_MAX: usize = 64 << 20;
/// In a journal entry, for a record that is gone.
const GONE: u32 = u32::MAX;

/// A store in a directory.
pub struct RedbStore {
    database: Database,
    /// Numbers of the journal's entries.
    journal: Range<u64>,
    /// Their bytes.
    journal_bytes: usize,
}

impl std::fmt::Debug for RedbStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedbStore").field("journal_bytes", &self.journal_bytes).finish_non_exhaustive()
    }
}

/// What a transaction takes out of the journal.
struct Moved {
    entries: u64,
    bytes: usize,
}

/// Why the store's content cannot be worked with.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Database(#[from] redb::Error),
    #[error("journal entry {0} is damaged")]
    Journal(u64),
}

macro_rules! from_redb {
    ($($error:ident)*) => {$(
        impl From<redb::$error> for Trouble {
            fn from(e: redb::$error) -> Self {
                Self::Database(e.into())
            }
        }
    )*};
}
from_redb!(TransactionError TableError StorageError CommitError);

impl RedbStore {
    /// Opens the store in `dir`; makes both when they are missing, the directory for its owner only.
    ///
    /// # Errors
    /// [`StoreError`]: the directory or file cannot be made or read, is damaged, or another server has it open.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(FILE);
        let failed = |cause: Trouble| StoreError::new(format!("open {}", path.display()), cause);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|cause| StoreError::new(format!("make {}", dir.display()), cause))?;
        let database = Database::builder()
            .set_cache_size(CACHE)
            .create(&path)
            .map_err(|e| failed(Trouble::Database(e.into())))?;
        let mut store = Self { database, journal: 0..0, journal_bytes: 0 };
        store.recover().map_err(failed)?;
        Ok(store)
    }

    /// Makes the tables when they are missing, and empties the journal.
    fn recover(&mut self) -> Result<(), Trouble> {
        let transaction = self.database.begin_write()?;
        transaction.open_table(RECORDS)?;
        {
            let journal = transaction.open_table(JOURNAL)?;
            if let (Some((first, _)), Some((last, _))) = (journal.first()?, journal.last()?) {
                self.journal = first.value()..last.value() + 1;
            }
            for entry in journal.iter()? {
                self.journal_bytes += entry?.1.value().len();
            }
        }
        transaction.commit()?;
        while self.move_slice()? {}
        Ok(())
    }

    fn read(&self) -> Result<Vec<(Vec<u8>, Vec<u8>)>, Trouble> {
        let transaction = self.database.begin_read()?;
        let table = transaction.open_table(RECORDS)?;
        let mut records = Vec::new();
        for record in table.iter()? {
            let (key, value) = record?;
            records.push((key.value().to_vec(), value.value().to_vec()));
        }
        Ok(records)
    }

    /// A large commit, or one behind a large one: one journal entry.
    fn append(&mut self, changes: &[Change]) -> Result<(), Trouble> {
        let entry = encode(changes);
        let transaction = self.database.begin_write()?;
        transaction.open_table(JOURNAL)?.insert(self.journal.end, &entry[..])?;
        let moved = if self.journal_bytes > JOURNAL_MAX {
            self.take_oldest(&transaction, 2 * entry.len())?
        } else {
            Moved { entries: 0, bytes: 0 }
        };
        transaction.commit()?;
        self.journal.end += 1;
        self.journal_bytes += entry.len();
        self.forget(&moved);
        Ok(())
    }

    /// A small one, with nothing of an earlier one in the journal.
    fn write_few(&self, changes: &[Change]) -> Result<(), Trouble> {
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(RECORDS)?;
            for change in changes {
                let key = change.key.to_bytes();
                match &change.value {
                    Some(value) => drop(table.insert(&key[..], &value[..])?),
                    None => drop(table.remove(&key[..])?),
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// Moves some of the journal's entries; whether there are more.
    fn move_slice(&mut self) -> Result<bool, Trouble> {
        if self.journal.is_empty() {
            return Ok(false);
        }
        let transaction = self.database.begin_write()?;
        let moved = self.take_oldest(&transaction, SLICE)?;
        transaction.commit()?;
        self.forget(&moved);
        Ok(!self.journal.is_empty())
    }

    /// Moves the oldest entries, at least one if there are any, until they have so many bytes.
    fn take_oldest(&self, transaction: &WriteTransaction, bytes: usize) -> Result<Moved, Trouble> {
        let mut moved = Moved { entries: 0, bytes: 0 };
        if self.journal.is_empty() {
            return Ok(moved);
        }
        let mut journal = transaction.open_table(JOURNAL)?;
        // Of several changes to one record only the last one counts, and sorted ones are written faster.
        let mut changes = BTreeMap::new();
        for number in self.journal.clone() {
            if moved.bytes >= bytes {
                break;
            }
            let entry = journal.remove(number)?.ok_or(Trouble::Journal(number))?;
            decode(entry.value(), &mut changes).ok_or(Trouble::Journal(number))?;
            moved.entries += 1;
            moved.bytes += entry.value().len();
        }
        let mut table = transaction.open_table(RECORDS)?;
        for (key, value) in &changes {
            match value {
                Some(value) => drop(table.insert(&key[..], &value[..])?),
                None => drop(table.remove(&key[..])?),
            }
        }
        Ok(moved)
    }

    fn forget(&mut self, moved: &Moved) {
        self.journal.start += moved.entries;
        self.journal_bytes -= moved.bytes;
    }
}

/// Changes in a row: length of the key (u8), key, length of the value (u32, little-endian; [`GONE`] without one), value.
fn encode(changes: &[Change]) -> Vec<u8> {
    let value_len = |change: &Change| change.value.as_ref().map_or(0, |value| value.len());
    let mut entry = Vec::with_capacity(changes.iter().map(|change| 14 + value_len(change)).sum());
    for change in changes {
        let key = change.key.to_bytes();
        // Keys have at most nine bytes; no record comes near the four billion that a length can say.
        entry.push(key.len() as u8);
        entry.extend_from_slice(&key);
        let len = change.value.as_ref().map_or(GONE, |value| value.len() as u32);
        entry.extend_from_slice(&len.to_le_bytes());
        entry.extend_from_slice(change.value.as_deref().unwrap_or_default());
    }
    entry
}

/// Adds an entry's changes to others; `None` when it is cut off.
fn decode(mut entry: &[u8], changes: &mut BTreeMap<Vec<u8>, Option<Vec<u8>>>) -> Option<()> {
    while let Some((len, rest)) = entry.split_first() {
        let (key, rest) = rest.split_at_checked(usize::from(*len))?;
        let (len, rest) = rest.split_first_chunk()?;
        let (value, rest) = match u32::from_le_bytes(*len) {
            GONE => (None, rest),
            len => {
                let (value, rest) = rest.split_at_checked(usize::try_from(len).ok()?)?;
                (Some(value.to_vec()), rest)
            }
        };
        changes.insert(key.to_vec(), value);
        entry = rest;
    }
    Some(())
}

impl Store for RedbStore {
    fn load(&mut self) -> Result<Vec<(RecordKey, Vec<u8>)>, StoreError> {
        let failed = |e: Trouble| StoreError::new("read the records", e);
        // Nothing is left in it after opening, so this is for whoever loads later.
        while self.move_slice().map_err(failed)? {}
        let records = self.read().map_err(failed)?;
        let known = |(key, value): (Vec<u8>, Vec<u8>)| match RecordKey::from_bytes(&key) {
            Some(key) => Ok((key, value)),
            None => Err(StoreError::new("read the records", format!("a key of unknown kind: {key:02x?}"))),
        };
        records.into_iter().map(known).collect()
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        // A change must not overtake an earlier one to the same record.
        let few = changes.len() < MANY && self.journal.is_empty();
        let written = if few { self.write_few(changes) } else { self.append(changes) };
        written.map_err(|e| StoreError::new("write changes", e))
    }

    fn tidy(&mut self) -> Result<bool, StoreError> {
        self.move_slice().map_err(|e| StoreError::new("move changes from the journal", e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(node: u32, value: Option<&str>) -> Change {
        Change { key: RecordKey::Node(node), value: value.map(|v| v.to_owned().into()) }
    }

    /// What a server finds that is started on the directory as it is now, after a kill -9.
    fn after_a_crash(dir: &Path) -> Vec<(RecordKey, Vec<u8>)> {
        let copy = tempfile::tempdir().unwrap();
        std::fs::copy(dir.join(FILE), copy.path().join(FILE)).unwrap();
        RedbStore::open(copy.path()).unwrap().load().unwrap()
    }

    #[test]
    fn large_and_small_commits_in_any_order_read_as_if_each_had_been_written_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = RedbStore::open(dir.path()).unwrap();
        let mut want: BTreeMap<RecordKey, Vec<u8>> = BTreeMap::new();
        let long = "x".repeat(3000);
        for round in 0..12_u32 {
            // Large: 100 records, some of them again in every round, some of them gone. They are more than a slice.
            let value = format!("{round}{long}");
            let mut changes: Vec<_> = (0..100).map(|n| change(n * (1 + round % 3), Some(&value))).collect();
            changes.push(change(round, None));
            let few = [change(1, Some("few")), change(round + 1, None)];
            for changes in [&changes[..], &few] {
                store.commit(changes).unwrap();
                for change in changes {
                    match &change.value {
                        Some(value) => drop(want.insert(change.key, value.to_vec())),
                        None => drop(want.remove(&change.key)),
                    }
                }
                let whole: Vec<_> = want.clone().into_iter().collect();
                assert_eq!(after_a_crash(dir.path()), whole, "round {round}");
            }
            if round % 4 == 3 {
                assert_eq!(store.tidy().unwrap(), !store.journal.is_empty());
            }
        }
        assert!(!store.journal.is_empty(), "large commits are put off");
        while store.tidy().unwrap() {}
        assert_eq!((store.journal_bytes, store.journal.is_empty()), (0, true));
        assert_eq!(store.load().unwrap(), want.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn the_journal_does_not_grow_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = RedbStore::open(dir.path()).unwrap();
        let value = "x".repeat(64 << 10);
        let changes: Vec<_> = (0..128).map(|n| change(n, Some(&value))).collect();
        let entry = encode(&changes).len();
        for _ in 0..JOURNAL_MAX / entry + 4 {
            store.commit(&changes).unwrap();
            assert!(store.journal_bytes <= JOURNAL_MAX + entry);
        }
    }

    #[test]
    fn a_damaged_journal_is_no_empty_one() {
        let entry = encode(&[change(1, Some("abc")), change(2, None)]);
        let mut changes = BTreeMap::new();
        assert_eq!(decode(&entry, &mut changes), Some(()));
        assert_eq!(changes.len(), 2);
        // Cut anywhere but between two changes.
        let between = encode(&[change(1, Some("abc"))]).len();
        for cut in (1..entry.len()).filter(|cut| *cut != between) {
            assert_eq!(decode(&entry[..cut], &mut BTreeMap::new()), None, "{cut}");
        }
        let dir = tempfile::tempdir().unwrap();
        let store = RedbStore::open(dir.path()).unwrap();
        let transaction = store.database.begin_write().unwrap();
        transaction.open_table(JOURNAL).unwrap().insert(7, &entry[..5]).unwrap();
        transaction.commit().unwrap();
        drop(store);
        let error = RedbStore::open(dir.path()).unwrap_err();
        assert_eq!(error.cause.to_string(), "journal entry 7 is damaged");
    }
}
