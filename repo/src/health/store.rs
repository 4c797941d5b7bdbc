//! Where the health of packs is remembered.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use parking_lot::Mutex;

use crate::chunk::ChunkId;
use crate::clock::UnixNanoseconds;
use crate::error::RepoError;
use crate::pack::Place;

/// Remembers, or not: nothing that a restore needs is here (`docs/formats/index.md`).
pub(crate) trait HealthStore: Send + Sync + fmt::Debug {
    /// When packs were last proven.
    fn proofs(&self) -> Result<Vec<(u32, UnixNanoseconds)>, RepoError>;

    /// Remembers a proof.
    fn set_proof(&self, pack: u32, at: UnixNanoseconds) -> Result<(), RepoError>;

    /// When something of this name was last walked and found whole.
    fn walked(&self, name: &str) -> Result<Option<UnixNanoseconds>, RepoError>;

    /// Remembers a walk.
    fn set_walked(&self, name: &str, at: UnixNanoseconds) -> Result<(), RepoError>;

    /// All lost records and their places.
    fn lost(&self) -> Result<Vec<(ChunkId, Place)>, RepoError>;

    /// Remembers lost records.
    fn set_lost(&self, entries: &[(ChunkId, Place)]) -> Result<(), RepoError>;

    /// Forgets lost records.
    fn clear_lost(&self, entries: &[(ChunkId, Place)]) -> Result<(), RepoError>;

    /// Makes what was remembered last.
    fn flush(&self) -> Result<(), RepoError>;
}

/// Memory that ends with the process.
#[derive(Debug, Default)]
pub(crate) struct MemoryHealth {
    proofs: Mutex<BTreeMap<u32, UnixNanoseconds>>,
    walked: Mutex<BTreeMap<String, UnixNanoseconds>>,
    lost: Mutex<BTreeSet<(ChunkId, Place)>>,
}

impl HealthStore for MemoryHealth {
    fn proofs(&self) -> Result<Vec<(u32, UnixNanoseconds)>, RepoError> {
        let proofs = self.proofs.lock();
        Ok(proofs.iter().map(|(pack, at)| (*pack, *at)).collect())
    }

    fn set_proof(&self, pack: u32, at: UnixNanoseconds) -> Result<(), RepoError> {
        self.proofs.lock().insert(pack, at);
        Ok(())
    }

    fn walked(&self, name: &str) -> Result<Option<UnixNanoseconds>, RepoError> {
        Ok(self.walked.lock().get(name).copied())
    }

    fn set_walked(&self, name: &str, at: UnixNanoseconds) -> Result<(), RepoError> {
        self.walked.lock().insert(name.to_owned(), at);
        Ok(())
    }

    fn lost(&self) -> Result<Vec<(ChunkId, Place)>, RepoError> {
        Ok(self.lost.lock().iter().copied().collect())
    }

    fn set_lost(&self, entries: &[(ChunkId, Place)]) -> Result<(), RepoError> {
        self.lost.lock().extend(entries.iter().copied());
        Ok(())
    }

    fn clear_lost(&self, entries: &[(ChunkId, Place)]) -> Result<(), RepoError> {
        let mut lost = self.lost.lock();
        for entry in entries {
            lost.remove(entry);
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), RepoError> {
        Ok(())
    }
}
