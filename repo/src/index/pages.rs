//! Pages of overlay maps in RocksDB.

use std::sync::Arc;

use rocksdb::{DB, WriteBatch};
use uuid::Uuid;

use super::family::Family;
use crate::error::RepoError;
use crate::overlay::{PageKey, PageStore};

/// Pages in the column family [`RocksPages::FAMILY`]: the key is the overlay's id and the page key, big endian.
#[derive(Debug)]
pub(crate) struct RocksPages {
    family: Family,
}

impl RocksPages {
    /// The column family that must be there.
    pub(crate) const FAMILY: &'static str = "overlay";

    pub(crate) fn new(database: Arc<DB>) -> Self {
        Self {
            family: Family::new(database, Self::FAMILY),
        }
    }
}

impl PageStore for RocksPages {
    fn get(&self, overlay: Uuid, page: PageKey) -> Result<Option<Vec<u8>>, RepoError> {
        let key = key(overlay, page);
        self.family.get(key, "find a page of an overlay")
    }

    fn put(
        &self,
        overlay: Uuid,
        pages: &[(PageKey, &[u8])],
        checkpoint: &[u8],
    ) -> Result<(), RepoError> {
        let family = self.family.handle()?;
        let mut batch = WriteBatch::default();
        for (page, content) in pages {
            batch.put_cf(family, key(overlay, *page), content);
        }
        batch.put_cf(family, key(overlay, CHECKPOINT), checkpoint);
        self.family.write(batch, "store pages of an overlay")
    }

    fn checkpoint(&self, overlay: Uuid) -> Result<Option<Vec<u8>>, RepoError> {
        self.get(overlay, CHECKPOINT)
    }

    fn flush(&self) -> Result<(), RepoError> {
        self.family.flush("flush pages of overlays")
    }

    fn forget(&self, overlay: Uuid) -> Result<(), RepoError> {
        let family = self.family.handle()?;
        let mut batch = WriteBatch::default();
        // The checkpoint has the last key of all and the end of the range is exclusive.
        batch.delete_range_cf(family, key(overlay, PageKey(0)), key(overlay, CHECKPOINT));
        batch.delete_cf(family, key(overlay, CHECKPOINT));
        self.family.write(batch, "forget an overlay")?;
        self.flush()
    }
}

fn key(overlay: Uuid, page: PageKey) -> [u8; 24] {
    let mut key = [0; 24];
    let (name, number) = key.split_at_mut(16);
    name.copy_from_slice(overlay.as_bytes());
    number.copy_from_slice(&page.0.to_be_bytes());
    key
}

const CHECKPOINT: PageKey = PageKey(u64::MAX);

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &std::path::Path) -> RocksPages {
        RocksPages::new(Family::alone(folder, RocksPages::FAMILY))
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
