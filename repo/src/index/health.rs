//! The health of packs in RocksDB.

use std::fmt;
use std::sync::Arc;

use rocksdb::{ColumnFamily, DB, Direction, IteratorMode, WriteBatch, WriteOptions};

use crate::chunk::ChunkId;
use crate::clock::UnixNanoseconds;
use crate::error::RepoError;
use crate::health::HealthStore;
use crate::pack::Place;

/// Proofs and losses in the column family [`RocksHealth::FAMILY`].
pub(crate) struct RocksHealth {
    database: Arc<DB>,
    unlogged: WriteOptions,
}

impl RocksHealth {
    /// The column family that must be there.
    pub(crate) const FAMILY: &'static str = "health";

    pub(crate) fn new(database: Arc<DB>) -> Self {
        let mut unlogged = WriteOptions::default();
        unlogged.disable_wal(true);
        Self { database, unlogged }
    }

    fn family(&self) -> Result<&ColumnFamily, RepoError> {
        self.database
            .cf_handle(Self::FAMILY)
            .ok_or(RepoError::Refused(
                "the index was opened without room for the health of packs",
            ))
    }

    fn time(&self, key: &[u8]) -> Result<Option<UnixNanoseconds>, RepoError> {
        let value = self
            .database
            .get_cf(self.family()?, key)
            .map_err(failed("find a proof"))?;
        let bytes = value.and_then(|value| <[u8; 8]>::try_from(value).ok());
        Ok(bytes.map(|bytes| UnixNanoseconds(u64::from_le_bytes(bytes))))
    }

    fn set_time(&self, key: &[u8], at: UnixNanoseconds) -> Result<(), RepoError> {
        self.database
            .put_cf_opt(self.family()?, key, at.0.to_le_bytes(), &self.unlogged)
            .map_err(failed("remember a proof"))
    }

    fn write(&self, batch: WriteBatch) -> Result<(), RepoError> {
        self.database
            .write_opt(batch, &self.unlogged)
            .map_err(failed("remember lost records"))
    }
}

impl HealthStore for RocksHealth {
    fn proof(&self, pack: u32) -> Result<Option<UnixNanoseconds>, RepoError> {
        self.time(&pack_key(pack))
    }

    fn set_proof(&self, pack: u32, at: UnixNanoseconds) -> Result<(), RepoError> {
        self.set_time(&pack_key(pack), at)
    }

    fn walked(&self, name: &str) -> Result<Option<UnixNanoseconds>, RepoError> {
        self.time(&walked_key(name))
    }

    fn set_walked(&self, name: &str, at: UnixNanoseconds) -> Result<(), RepoError> {
        self.set_time(&walked_key(name), at)
    }

    fn lost(&self) -> Result<Vec<(ChunkId, Place)>, RepoError> {
        let from = IteratorMode::From(LOST, Direction::Forward);
        let mut entries = Vec::new();
        for item in self.database.iterator_cf(self.family()?, from) {
            let (key, _) = item.map_err(failed("list lost records"))?;
            let Some(rest) = key.strip_prefix(LOST) else {
                break;
            };
            let entry = rest.split_first_chunk::<32>().and_then(|(id, place)| {
                Some((ChunkId::from_bytes(*id), Place::from_bytes(place)?))
            });
            entries.extend(entry);
        }
        Ok(entries)
    }

    fn set_lost(&self, entries: &[(ChunkId, Place)]) -> Result<(), RepoError> {
        let family = self.family()?;
        let mut batch = WriteBatch::default();
        for (id, place) in entries {
            batch.put_cf(family, lost_key(*id, *place), b"");
        }
        self.write(batch)
    }

    fn clear_lost(&self, entries: &[(ChunkId, Place)]) -> Result<(), RepoError> {
        let family = self.family()?;
        let mut batch = WriteBatch::default();
        for (id, place) in entries {
            batch.delete_cf(family, lost_key(*id, *place));
        }
        self.write(batch)
    }

    fn flush(&self) -> Result<(), RepoError> {
        self.database
            .flush_cf(self.family()?)
            .map_err(failed("flush the health of packs"))
    }
}

impl fmt::Debug for RocksHealth {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RocksHealth")
            .finish_non_exhaustive()
    }
}

fn pack_key(pack: u32) -> [u8; 5] {
    let [a, b, c, d] = pack.to_be_bytes();
    [b'p', a, b, c, d]
}

fn walked_key(name: &str) -> Vec<u8> {
    [b"w", name.as_bytes()].concat()
}

fn lost_key(id: ChunkId, place: Place) -> Vec<u8> {
    [LOST, id.as_bytes().as_slice(), &place.to_bytes()].concat()
}

fn failed(action: &'static str) -> impl Fn(rocksdb::Error) -> RepoError {
    move |source| RepoError::Index { action, source }
}

const LOST: &[u8] = b"l";

#[cfg(test)]
mod tests {
    use rocksdb::Options;

    use super::*;

    #[test]
    fn proofs_and_losses_are_there_again_after_a_flush() {
        let folder = tempfile::tempdir().unwrap();
        let open = || {
            let mut options = Options::default();
            options.create_if_missing(true);
            options.create_missing_column_families(true);
            let families = [RocksHealth::FAMILY];
            RocksHealth::new(Arc::new(
                DB::open_cf(&options, folder.path(), families).unwrap(),
            ))
        };
        let (one, two) = (ChunkId::of(b"one"), ChunkId::of(b"two"));
        let place = |slot| Place { pack: 3, slot };
        {
            let health = open();
            health.set_proof(9, UnixNanoseconds(77)).unwrap();
            health.set_walked("web@1", UnixNanoseconds(78)).unwrap();
            let lost = [(one, place(1)), (one, place(2)), (two, place(3))];
            health.set_lost(&lost).unwrap();
            health.clear_lost(&[(one, place(2))]).unwrap();
            health.flush().unwrap();
        }
        let health = open();
        assert_eq!(health.proof(9).unwrap(), Some(UnixNanoseconds(77)));
        assert_eq!(health.proof(8).unwrap(), None);
        assert_eq!(health.walked("web@1").unwrap(), Some(UnixNanoseconds(78)));
        let mut lost = health.lost().unwrap();
        lost.sort_by_key(|(_, place)| place.slot);
        assert_eq!(lost, [(one, place(1)), (two, place(3))]);
    }
}
