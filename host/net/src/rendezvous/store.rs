//! The registry's store on disk: one file with one table, every commit synced before it returns.
//!
//! Called by the committer's thread, which owns it. The file is locked while it is open, so two servers cannot write to
//! the same directory. What the records mean is the registry's business.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use pilot_rendezvous::{Change, RecordKey, Store, StoreError};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

const FILE: &str = "registry.redb";
/// Bytes of the file kept in memory. The registry holds all records itself, so that only writing needs any.
const CACHE: usize = 8 << 20;
const RECORDS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("records");

/// A store in a directory.
pub struct RedbStore {
    database: Database,
}

impl std::fmt::Debug for RedbStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedbStore").finish_non_exhaustive()
    }
}

impl RedbStore {
    /// Opens the store in `dir`; makes both when they are missing, the directory for its owner only.
    ///
    /// # Errors
    /// [`StoreError`]: the directory or file cannot be made or read, is damaged, or another server has it open.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(FILE);
        let failed = |cause: redb::Error| StoreError::new(format!("open {}", path.display()), cause);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|cause| StoreError::new(format!("make {}", dir.display()), cause))?;
        let database =
            Database::builder().set_cache_size(CACHE).create(&path).map_err(|e| failed(e.into()))?;
        let open_table = || -> Result<(), redb::Error> {
            let transaction = database.begin_write()?;
            transaction.open_table(RECORDS)?;
            transaction.commit()?;
            Ok(())
        };
        open_table().map_err(failed)?;
        Ok(Self { database })
    }

    fn read(&self) -> Result<Vec<(Vec<u8>, Vec<u8>)>, redb::Error> {
        let transaction = self.database.begin_read()?;
        let table = transaction.open_table(RECORDS)?;
        let mut records = Vec::new();
        for record in table.iter()? {
            let (key, value) = record?;
            records.push((key.value().to_vec(), value.value().to_vec()));
        }
        Ok(records)
    }

    fn write(&self, changes: &[Change]) -> Result<(), redb::Error> {
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
}

impl Store for RedbStore {
    fn load(&mut self) -> Result<Vec<(RecordKey, Vec<u8>)>, StoreError> {
        let records = self.read().map_err(|e| StoreError::new("read the records", e))?;
        let known = |(key, value): (Vec<u8>, Vec<u8>)| match RecordKey::from_bytes(&key) {
            Some(key) => Ok((key, value)),
            None => Err(StoreError::new("read the records", format!("a key of unknown kind: {key:02x?}"))),
        };
        records.into_iter().map(known).collect()
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        self.write(changes).map_err(|e| StoreError::new("write changes", e))
    }
}
