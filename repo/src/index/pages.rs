//! Pages of overlay maps in RocksDB.

use std::fmt;
use std::sync::Arc;

use rocksdb::{ColumnFamily, DB, WriteBatch, WriteOptions};
use uuid::Uuid;

use crate::error::RepoError;
use crate::overlay::{PageKey, PageStore};

/// Pages in the column family [`RocksPages::FAMILY`]: the key is the overlay's id and the page key, big endian.
pub(crate) struct RocksPages {
    database: Arc<DB>,
    unlogged: WriteOptions,
}

impl RocksPages {
    /// The column family that must be there.
    pub(crate) const FAMILY: &'static str = "overlay";

    pub(crate) fn new(database: Arc<DB>) -> Self {
        let mut unlogged = WriteOptions::default();
        unlogged.disable_wal(true);
        Self { database, unlogged }
    }

    fn family(&self) -> Result<&ColumnFamily, RepoError> {
        self.database
            .cf_handle(Self::FAMILY)
            .ok_or(RepoError::Refused(
                "the index was opened without room for overlays",
            ))
    }
}

impl PageStore for RocksPages {
    fn get(&self, overlay: Uuid, page: PageKey) -> Result<Option<Vec<u8>>, RepoError> {
        self.database
            .get_cf(self.family()?, key(overlay, page))
            .map_err(failed("find a page of an overlay"))
    }

    /// One batch in one family is one step, also for what is left after a crash: memtables are flushed whole and in
    /// order.
    fn put(
        &self,
        overlay: Uuid,
        pages: &[(PageKey, &[u8])],
        checkpoint: &[u8],
    ) -> Result<(), RepoError> {
        let family = self.family()?;
        let mut batch = WriteBatch::default();
        for (page, content) in pages {
            batch.put_cf(family, key(overlay, *page), content);
        }
        batch.put_cf(family, key(overlay, CHECKPOINT), checkpoint);
        self.database
            .write_opt(batch, &self.unlogged)
            .map_err(failed("store pages of an overlay"))
    }

    fn checkpoint(&self, overlay: Uuid) -> Result<Option<Vec<u8>>, RepoError> {
        self.get(overlay, CHECKPOINT)
    }

    fn flush(&self) -> Result<(), RepoError> {
        self.database
            .flush_cf(self.family()?)
            .map_err(failed("flush pages of overlays"))
    }

    fn forget(&self, overlay: Uuid) -> Result<(), RepoError> {
        let family = self.family()?;
        let mut batch = WriteBatch::default();
        // The checkpoint has the last key of all and the end of the range is exclusive.
        batch.delete_range_cf(family, key(overlay, PageKey(0)), key(overlay, CHECKPOINT));
        batch.delete_cf(family, key(overlay, CHECKPOINT));
        self.database
            .write_opt(batch, &self.unlogged)
            .map_err(failed("forget an overlay"))?;
        self.flush()
    }
}

impl fmt::Debug for RocksPages {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RocksPages").finish_non_exhaustive()
    }
}

fn key(overlay: Uuid, page: PageKey) -> [u8; 24] {
    let mut key = [0; 24];
    let (name, number) = key.split_at_mut(16);
    name.copy_from_slice(overlay.as_bytes());
    number.copy_from_slice(&page.0.to_be_bytes());
    key
}

fn failed(action: &'static str) -> impl Fn(rocksdb::Error) -> RepoError {
    move |source| RepoError::Index { action, source }
}

const CHECKPOINT: PageKey = PageKey(u64::MAX);

#[cfg(test)]
mod tests {
    use rocksdb::Options;

    use super::*;

    fn open(folder: &std::path::Path) -> RocksPages {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        RocksPages::new(Arc::new(
            DB::open_cf(&options, folder, [RocksPages::FAMILY]).unwrap(),
        ))
    }

    #[test]
    fn pages_of_one_overlay_are_kept_and_forgotten_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        {
            let pages = open(folder.path());
            for overlay in [one, two] {
                pages
                    .put(
                        overlay,
                        &[(PageKey(7), &[1]), (PageKey(1 << 56), &[2])],
                        b"first",
                    )
                    .unwrap();
                pages
                    .put(overlay, &[(PageKey(7), &[3])], b"second")
                    .unwrap();
            }
            pages.forget(one).unwrap();
        }
        let pages = open(folder.path());
        assert_eq!(pages.get(one, PageKey(7)).unwrap(), None);
        assert_eq!(pages.checkpoint(one).unwrap(), None);
        assert_eq!(pages.get(two, PageKey(7)).unwrap(), Some(vec![3]));
        assert_eq!(pages.get(two, PageKey(1 << 56)).unwrap(), Some(vec![2]));
        assert_eq!(pages.checkpoint(two).unwrap(), Some(b"second".to_vec()));
    }
}
