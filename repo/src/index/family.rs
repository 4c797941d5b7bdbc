//! One column family of the index's database, without a log.

use std::fmt;
use std::sync::Arc;

use rocksdb::{ColumnFamily, DB, Direction, IteratorMode, WriteBatch, WriteOptions};

use crate::error::RepoError;

/// A family, and how it is written. One batch in one family is one step, also for what is left after a crash:
/// memtables are flushed whole and in order.
pub(super) struct Family {
    database: Arc<DB>,
    name: &'static str,
    unlogged: WriteOptions,
}

/// Takes what follows the prefix in a key, and the value.
type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), RepoError> + 'a;

impl Family {
    /// The family `name`, with which the database was opened.
    pub(super) fn new(database: Arc<DB>, name: &'static str) -> Self {
        let mut unlogged = WriteOptions::default();
        unlogged.disable_wal(true);
        Self {
            database,
            name,
            unlogged,
        }
    }

    /// For batches.
    pub(super) fn handle(&self) -> Result<&ColumnFamily, RepoError> {
        self.database.cf_handle(self.name).ok_or(RepoError::Refused(
            "the index was opened without one of its families",
        ))
    }

    pub(super) fn get(
        &self,
        key: impl AsRef<[u8]>,
        action: &'static str,
    ) -> Result<Option<Vec<u8>>, RepoError> {
        let found = self.database.get_cf(self.handle()?, key);
        found.map_err(failed(action))
    }

    /// The values of all keys, in order.
    pub(super) fn get_all<K: AsRef<[u8]>>(
        &self,
        keys: impl Iterator<Item = K>,
        action: &'static str,
    ) -> Result<Vec<Option<Vec<u8>>>, RepoError> {
        let family = self.handle()?;
        let found = self.database.multi_get_cf(keys.map(|key| (family, key)));
        let found = found.into_iter();
        found.map(|answer| answer.map_err(failed(action))).collect()
    }

    /// Everything whose key starts with `prefix`.
    pub(super) fn visit(
        &self,
        prefix: &[u8],
        action: &'static str,
        visit: &mut Visit<'_>,
    ) -> Result<(), RepoError> {
        let mode = IteratorMode::From(prefix, Direction::Forward);
        for item in self.database.iterator_cf(self.handle()?, mode) {
            let (key, value) = item.map_err(failed(action))?;
            match key.strip_prefix(prefix) {
                Some(rest) => visit(rest, &value)?,
                None => break,
            }
        }
        Ok(())
    }

    pub(super) fn write(&self, batch: WriteBatch, action: &'static str) -> Result<(), RepoError> {
        let written = self.database.write_opt(batch, &self.unlogged);
        written.map_err(failed(action))
    }

    /// Makes all writes so far last.
    pub(super) fn flush(&self, action: &'static str) -> Result<(), RepoError> {
        let flushed = self.database.flush_cf(self.handle()?);
        flushed.map_err(failed(action))
    }
}

#[cfg(test)]
impl Family {
    /// The family in a database of its own.
    pub(super) fn alone(folder: &std::path::Path, name: &'static str) -> Arc<DB> {
        let mut options = rocksdb::Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        Arc::new(DB::open_cf(&options, folder, [name]).unwrap())
    }
}

pub(super) fn failed(action: &'static str) -> impl Fn(rocksdb::Error) -> RepoError {
    move |source| RepoError::Index { action, source }
}

impl fmt::Debug for Family {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Family")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
