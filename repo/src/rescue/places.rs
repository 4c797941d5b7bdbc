//! Where records lie, by the tables of all packs: made when the first place turns out stale.

use crate::chunk::ChunkId;
use crate::disk::{Access, Caching, Disk};
use crate::error::RepoError;
use crate::pack::{PackFile, PackTable, Place, table_or_scan};

/// The records of all packs, sorted by the first eight bytes of their names. Packs for which there is no memory
/// are searched one by one.
#[derive(Debug, Default)]
pub(super) struct Places {
    known: Vec<Known>,
    /// Packs that are not in `known`.
    rest: Vec<PackFile>,
    pub(super) complaints: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Known {
    prefix: u64,
    place: Place,
}

impl Places {
    /// Reads the tables of `packs`, up to `records_max` records; a pack without a sound table is scanned.
    pub(super) fn gather(disk: &dyn Disk, packs: &[PackFile], records_max: usize) -> Self {
        let mut places = Self::default();
        for pack in packs {
            if places.known.len() >= records_max {
                places.rest.push(pack.clone());
                continue;
            }
            match read_table(disk, pack) {
                Ok(table) => {
                    let named = table.iter().filter(|(id, _)| !id.is_zero());
                    places.known.extend(named.map(|(id, slot)| Known {
                        prefix: prefix(id),
                        place: Place {
                            pack: pack.number,
                            slot,
                        },
                    }));
                }
                Err(error) => places.complaints.push(super::ground::sentence(&error)),
            }
        }
        places.known.sort_unstable();
        if !places.rest.is_empty() {
            tracing::warn!(
                packs = places.rest.len(),
                "more records than memory is meant for: these packs are searched one by one"
            );
        }
        places
    }

    /// All places where a record of that name may be.
    pub(super) fn find(&self, disk: &dyn Disk, id: ChunkId) -> Vec<Place> {
        let wanted = prefix(id);
        let first = self.known.partition_point(|known| known.prefix < wanted);
        let mut found: Vec<Place> = self
            .known
            .iter()
            .skip(first)
            .take_while(|known| known.prefix == wanted)
            .map(|known| known.place)
            .collect();
        for pack in &self.rest {
            let Ok(table) = read_table(disk, pack) else {
                continue;
            };
            let slots = table.iter().filter(|(name, _)| *name == id);
            found.extend(slots.map(|(_, slot)| Place {
                pack: pack.number,
                slot,
            }));
        }
        found
    }
}

fn read_table(disk: &dyn Disk, pack: &PackFile) -> Result<PackTable, RepoError> {
    let file = disk.open(&pack.path, Access::Read, Caching::Direct)?;
    table_or_scan(file.as_ref(), pack.number)
}

fn prefix(id: ChunkId) -> u64 {
    let first = id.as_bytes().first_chunk::<8>();
    first.map_or(0, |bytes| u64::from_be_bytes(*bytes))
}
