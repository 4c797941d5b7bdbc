//! An index in RAM.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::{Coverage, IndexStore, Place};
use crate::chunk::ChunkId;
use crate::error::RepoError;

/// An index that ends with the process.
#[derive(Debug, Default)]
pub(crate) struct MemoryIndex {
    places: Mutex<HashMap<ChunkId, Place>>,
    coverage: Mutex<HashMap<u32, Coverage>>,
    highest_pack: Mutex<u32>,
}

impl IndexStore for MemoryIndex {
    fn find(&self, ids: &[ChunkId]) -> Result<Vec<Option<Place>>, RepoError> {
        let places = self.places.lock();
        Ok(ids.iter().map(|id| places.get(id).copied()).collect())
    }

    fn insert(&self, entries: &[(ChunkId, Place)]) -> Result<(), RepoError> {
        self.places.lock().extend(entries.iter().copied());
        Ok(())
    }

    fn coverage(&self, pack: u32) -> Result<Option<Coverage>, RepoError> {
        Ok(self.coverage.lock().get(&pack).copied())
    }

    fn set_coverage(&self, pack: u32, coverage: Coverage) -> Result<(), RepoError> {
        self.coverage.lock().insert(pack, coverage);
        Ok(())
    }

    fn highest_pack(&self) -> Result<u32, RepoError> {
        Ok(*self.highest_pack.lock())
    }

    fn set_highest_pack(&self, pack: u32) -> Result<(), RepoError> {
        *self.highest_pack.lock() = pack;
        Ok(())
    }

    fn entry_count(&self) -> u64 {
        self.places.lock().len() as u64
    }

    fn flush(&self) -> Result<(), RepoError> {
        Ok(())
    }
}
