//! Reading one pack whole: what of it proves itself?

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::pace::Pace;
use crate::chunk::ChunkId;
use crate::error::RepoError;
use crate::keys::KeyRing;
use crate::pack::{
    BadPages, Fetch, PackFault, PackTable, PackView, Place, RecordDecoder, RecordKind, pack_table,
    scan_pack,
};

/// What reading a pack showed.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub(super) read_bytes: u64,
    /// Records that were read, padding among them.
    pub(super) records: u64,
    /// Slots and names of those that proved themselves.
    pub(super) proven: HashSet<(u32, ChunkId)>,
    /// What is wrong with the pack as a whole.
    pub(super) faults: Vec<String>,
    /// Records that are known of and not there, or hurt.
    pub(super) hurt: Vec<(ChunkId, Place)>,
    pub(super) bad_pages: BadPages,
    /// Where the pack ends, if it does so with a sound table.
    pub(super) sealed_at: Option<u64>,
}

impl Survey {
    /// Whether nothing is wrong.
    pub(super) fn is_sound(&self) -> bool {
        self.faults.is_empty() && self.hurt.is_empty() && self.bad_pages.is_empty()
    }

    /// Whether all that `other` proved is proven here, too, and a sound end is where it was.
    pub(super) fn includes(&self, other: &Self) -> bool {
        let ends = other.sealed_at.is_none() || other.sealed_at == self.sealed_at;
        ends && self.proven.is_superset(&other.proven)
    }
}

/// Reads pack `number` through `view` and proves every record. `sealed` says that it must have a table.
pub(super) fn survey(
    view: &PackView,
    keys: &Arc<KeyRing>,
    number: u32,
    sealed: bool,
    pace: &Pace<'_>,
) -> Result<Survey, RepoError> {
    let mut found = Survey::default();
    let mut decoder = RecordDecoder::new(Arc::clone(keys))?;
    let mut failed: BTreeSet<(u32, ChunkId)> = BTreeSet::new();
    let mut unpaid = 0;
    let faults = scan_pack(view, number, Fetch::Ahead, &mut |record| {
        unpaid += record.bytes.len() as u64;
        if unpaid >= PAYMENT_BYTES {
            pace.spend(std::mem::take(&mut unpaid))?;
        }
        found.records += 1;
        if record.header.kind == RecordKind::Padding {
            return Ok(());
        }
        let key = (record.place.slot, record.header.id);
        match decoder.open(&record.header, record.bytes) {
            Ok(_) => drop(found.proven.insert(key)),
            Err(_) => drop(failed.insert(key)),
        }
        Ok(())
    })?;
    pace.spend(unpaid)?;
    found.faults = faults.iter().map(PackFault::to_string).collect();
    found.read_bytes = crate::disk::DiskFile::length(view)?;
    let table: Option<Arc<PackTable>> = pack_table(view)?.map(Arc::new);
    if sealed && table.is_none() && found.faults.is_empty() {
        found
            .faults
            .push("its table is gone: its end is cut off or damaged".to_owned());
    }
    found.sealed_at = table.is_some().then_some(found.read_bytes);
    let place = |slot| Place { pack: number, slot };
    match table {
        Some(table) => {
            let listed = table.iter().filter(|(id, _)| !id.is_zero());
            let missing = listed.filter(|(id, slot)| !found.proven.contains(&(*slot, *id)));
            found.hurt = missing.map(|(id, slot)| (id, place(slot))).collect();
        }
        None => {
            found.hurt = failed
                .iter()
                .map(|(slot, id)| (*id, place(*slot)))
                .collect();
        }
    }
    found.bad_pages = view.bad_pages();
    Ok(found)
}

/// Bytes between two looks at the pace.
const PAYMENT_BYTES: u64 = 1 << 20;
