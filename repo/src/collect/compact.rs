//! Condemning packs that are dead, and those that are mostly dead once what is alive was copied out of them.

use std::collections::HashSet;
use std::sync::Arc;

use super::remove::Line;
use super::{CollectPhase, Collection, step};
use crate::chunk::ChunkId;
use crate::error::RepoError;
use crate::health::Care;
use crate::pack::{PackClass, PackWriter, Place, RecordKind, Telling};

impl Collection<'_> {
    /// Goes over the packs below `floor`, where no backup under way may write, the deadest first. Says whether it came
    /// to the end: if not, there was no room for a copy.
    pub(super) fn compact(&mut self, floor: Option<u32>) -> Result<bool, RepoError> {
        let packs = Arc::clone(self.repository.store().packs());
        let alive = self.alive();
        let percent = u64::from(self.options.compact_below_percent.min(100));
        let is_sparse = |number: u32, length_bytes: u64| {
            let alive_bytes = alive.get(&number).copied().unwrap_or(0);
            let is_free =
                floor.is_none_or(|floor| number < floor) && !self.repository.holds_pack(number);
            is_free && alive_bytes.saturating_mul(100) < length_bytes.saturating_mul(percent)
        };
        // Where a full disk ended a pack, what nobody needs of it is what must go first.
        let is_free = |number| floor.is_none_or(|floor| number < floor);
        match packs.recover_failed(&is_free) {
            Err(error) if error.is_full() => {
                tracing::warn!(%error, "there is no room to seal packs to which a write failed");
            }
            other => other?,
        }
        let open = packs.open_ends();
        packs.seal_idle(&|number| open.get(&number).is_some_and(|end| is_sparse(number, *end)))?;
        let mut sparse: Vec<u32> = packs
            .summaries()
            .into_iter()
            .filter(|(number, summary)| summary.sealed && !packs.is_condemned(*number))
            .filter(|(number, summary)| is_sparse(*number, summary.length_bytes))
            .map(|(number, _)| number)
            .collect();
        sparse.sort_by_key(|number| alive.get(number).copied().unwrap_or(0));
        let total = sparse.len() as u64;
        let mut writers = Writers::default();
        for (done, number) in (0_u64..).zip(sparse) {
            step(self.progress, CollectPhase::Compacting, done, total)?;
            match self.empty_pack(number, &mut writers) {
                Err(error) if error.is_full() => {
                    tracing::warn!(%error, "there is no room for copies of what is alive");
                    return Ok(false);
                }
                other => other?,
            }
        }
        Ok(true)
    }

    /// Copies what is alive in a pack and condemns it. One that cannot be read is left as it is.
    fn empty_pack(&mut self, number: u32, writers: &mut Writers) -> Result<(), RepoError> {
        let packs = Arc::clone(self.repository.store().packs());
        let table = match packs.table(number) {
            Ok(Some(table)) => table,
            Ok(None) => return Ok(()),
            Err(error) => {
                tracing::warn!(pack = packs.describe(number), %error, "a pack is left alone");
                self.report.hurt_packs.push(packs.describe(number));
                return Ok(());
            }
        };
        let mut moves = Vec::new();
        let mut copied_bytes = 0;
        let mut copied = HashSet::new();
        for line in self.lines(number, &table)? {
            let Some(entry) = line.entry else { continue };
            // Of two records of one name, the other may be the one that counts, in this pack or in another.
            let other_counts = entry.place != line.place
                && (entry.place.pack == number && table.holds(line.id, entry.place.slot)
                    || self.is_kept_elsewhere(&line)?);
            if other_counts || !copied.insert(line.id) {
                continue;
            }
            let Some((place, length)) = self.copy(&line, writers)? else {
                // A later backup may have stored it again.
                if self.is_kept_elsewhere(&line)? {
                    continue;
                }
                self.repository
                    .store()
                    .health()
                    .want_care(number, Care::Mend);
                self.report.hurt_packs.push(packs.describe(number));
                return Ok(());
            };
            moves.push((line.id, entry.place, place));
            copied_bytes += length;
        }
        if !moves.is_empty() {
            self.settle_copies(&moves)?;
            self.report.compacted_packs += 1;
            self.report.copied_bytes += copied_bytes;
        }
        let now = self.repository.trusted_now();
        packs.condemn(number, now, || self.repository.uses().take_turn())?;
        self.report.condemned_packs += 1;
        tracing::info!(
            pack = packs.describe(number),
            copied_bytes,
            "condemned a pack"
        );
        Ok(())
    }

    /// Copies a record as it is stored, proven. `None` if it cannot be.
    fn copy(&self, line: &Line, writers: &mut Writers) -> Result<Option<(Place, u64)>, RepoError> {
        let store = self.repository.store();
        if !store.is_proven_at(line.id, line.place)? {
            return Ok(None);
        }
        let Some(record) = store.reader().read_stored(line.place, line.id)? else {
            return Ok(None);
        };
        let class = match record.header.kind {
            RecordKind::ImageNode | RecordKind::StreamNode => PackClass::Nodes,
            RecordKind::Chunk | RecordKind::Padding => PackClass::Chunks,
        };
        let place = writers.of(store, class).append(&record)?;
        Ok(Some((place, record.length() as u64)))
    }

    /// Makes copies durable, upon which the index hears of them, and has the account count them where they are now.
    fn settle_copies(&mut self, moves: &[(ChunkId, Place, Place)]) -> Result<(), RepoError> {
        self.repository.store().packs().sync_all()?;
        self.repository.account().lock().moved(moves)
    }
}

/// The packs that copies go to, one for each class, as long as the collection lasts.
#[derive(Debug, Default)]
struct Writers {
    chunks: Option<PackWriter>,
    nodes: Option<PackWriter>,
}

impl Writers {
    fn of(&mut self, store: &crate::store::ChunkStore, class: PackClass) -> &mut PackWriter {
        let slot = match class {
            PackClass::Chunks => &mut self.chunks,
            PackClass::Nodes => &mut self.nodes,
        };
        slot.get_or_insert_with(|| {
            PackWriter::telling(Arc::clone(store.packs()), class, Telling::Durable)
        })
    }
}
