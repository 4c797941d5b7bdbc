//! The health of packs in RocksDB.

use std::sync::Arc;

use rocksdb::{DB, WriteBatch};

use super::family::Family;
use super::names::IndexNames;
use crate::chunk::ChunkId;
use crate::clock::UnixNanoseconds;
use crate::error::RepoError;
use crate::health::HealthStore;
use crate::pack::Place;

/// Proofs and losses in a column family of its own.
#[derive(Debug)]
pub(crate) struct RocksHealth {
    family: Family,
    names: Arc<IndexNames>,
}

impl RocksHealth {
    /// The column family that must be there: one for names in clear, one for others.
    pub(super) const FAMILY: &'static str = "health";
    pub(super) const HIDDEN_FAMILY: &'static str = "health-hidden";

    pub(super) fn new(database: Arc<DB>, names: Arc<IndexNames>) -> Self {
        let family = match names.are_hidden() {
            true => Self::HIDDEN_FAMILY,
            false => Self::FAMILY,
        };
        Self {
            family: Family::new(database, family),
            names,
        }
    }

    fn walked_key(&self, name: &str) -> Vec<u8> {
        [b"w", self.names.in_key(name).as_slice()].concat()
    }

    fn time(&self, key: &[u8]) -> Result<Option<UnixNanoseconds>, RepoError> {
        let value = self.family.get(key, "find a proof")?;
        let bytes = value.and_then(|value| <[u8; 8]>::try_from(value).ok());
        Ok(bytes.map(|bytes| UnixNanoseconds(u64::from_le_bytes(bytes))))
    }

    fn set_time(&self, key: &[u8], at: UnixNanoseconds) -> Result<(), RepoError> {
        let mut batch = WriteBatch::default();
        batch.put_cf(self.family.handle()?, key, at.0.to_le_bytes());
        self.family.write(batch, "remember a proof")
    }
}

impl HealthStore for RocksHealth {
    fn proofs(&self) -> Result<Vec<(u32, UnixNanoseconds)>, RepoError> {
        let mut proofs = Vec::new();
        self.family.visit(PACK, "list proofs", &mut |pack, at| {
            let pack = <[u8; 4]>::try_from(pack).ok().map(u32::from_be_bytes);
            let at = <[u8; 8]>::try_from(at).ok().map(u64::from_le_bytes);
            proofs.extend(pack.zip(at.map(UnixNanoseconds)));
            Ok(())
        })?;
        Ok(proofs)
    }

    fn set_proof(&self, pack: u32, at: UnixNanoseconds) -> Result<(), RepoError> {
        self.set_time(&pack_key(pack), at)
    }

    fn walked(&self, name: &str) -> Result<Option<UnixNanoseconds>, RepoError> {
        self.time(&self.walked_key(name))
    }

    fn set_walked(&self, name: &str, at: UnixNanoseconds) -> Result<(), RepoError> {
        self.set_time(&self.walked_key(name), at)
    }

    fn lost(&self) -> Result<Vec<(ChunkId, Place)>, RepoError> {
        let mut entries = Vec::new();
        self.family
            .visit(LOST, "list lost records", &mut |rest, _| {
                let entry = rest.split_first_chunk::<32>().and_then(|(id, place)| {
                    Some((ChunkId::from_bytes(*id), Place::from_bytes(place)?))
                });
                entries.extend(entry);
                Ok(())
            })?;
        Ok(entries)
    }

    fn set_lost(&self, entries: &[(ChunkId, Place)]) -> Result<(), RepoError> {
        let family = self.family.handle()?;
        let mut batch = WriteBatch::default();
        for (id, place) in entries {
            batch.put_cf(family, lost_key(*id, *place), b"");
        }
        self.family.write(batch, "remember lost records")
    }

    fn clear_lost(&self, entries: &[(ChunkId, Place)]) -> Result<(), RepoError> {
        let family = self.family.handle()?;
        let mut batch = WriteBatch::default();
        for (id, place) in entries {
            batch.delete_cf(family, lost_key(*id, *place));
        }
        self.family.write(batch, "remember lost records")
    }

    fn flush(&self) -> Result<(), RepoError> {
        self.family.flush("flush the health of packs")
    }
}

fn pack_key(pack: u32) -> Vec<u8> {
    [PACK, &pack.to_be_bytes()].concat()
}

fn lost_key(id: ChunkId, place: Place) -> Vec<u8> {
    [LOST, id.as_bytes().as_slice(), &place.to_bytes()].concat()
}

const LOST: &[u8] = b"l";
const PACK: &[u8] = b"p";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proofs_and_losses_are_there_again_after_a_flush() {
        let folder = tempfile::tempdir().unwrap();
        let open = || {
            let database = Family::alone(folder.path(), RocksHealth::FAMILY);
            RocksHealth::new(database, IndexNames::plain())
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
        assert_eq!(health.proofs().unwrap(), [(9, UnixNanoseconds(77))]);
        assert_eq!(health.walked("web@1").unwrap(), Some(UnixNanoseconds(78)));
        let mut lost = health.lost().unwrap();
        lost.sort_by_key(|(_, place)| place.slot);
        assert_eq!(lost, [(one, place(1)), (two, place(3))]);
    }
}
