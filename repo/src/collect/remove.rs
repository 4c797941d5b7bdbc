//! Removing condemned packs, after everybody who may need them had the chance to say so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Collection, step};
use crate::account::{Entry, Standing};
use crate::chunk::ChunkId;
use crate::clock::UnixNanoseconds;
use crate::collect::CollectPhase;
use crate::error::RepoError;
use crate::pack::{PackTable, Place};

/// A line of a pack's table, and what the account has of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line {
    pub(super) id: ChunkId,
    pub(super) place: Place,
    pub(super) entry: Option<Entry>,
}

impl Collection<'_> {
    /// Removes the condemned packs whose time is over and that nothing needs.
    pub(super) fn remove_due(&mut self) -> Result<(), RepoError> {
        let due = self.due();
        // Backups that may rely on these packs have ended: what they committed is accounted for here.
        self.settle()?;
        self.heed_needs()?;
        let standing = self.settle()?;
        if due.is_empty() {
            return Ok(());
        }
        self.repository
            .check_samples(&standing, self.options.samples, &mut || {
                step(self.progress, CollectPhase::Removing, 0, due.len() as u64)
            })?;
        self.repository.store().packs().sync_all()?;
        self.is_ahead = true;
        let total = due.len() as u64;
        for (done, number) in (0_u64..).zip(due) {
            step(self.progress, CollectPhase::Removing, done, total)?;
            if self.repository.store().packs().is_condemned(number) {
                self.remove_pack(number, &standing)?;
            }
        }
        Ok(())
    }

    /// Condemned packs whose grace is over and that no backup under way may rely on.
    fn due(&self) -> Vec<u32> {
        let now = self.repository.trusted_now();
        let uses = self.repository.uses();
        let packs = self.repository.store().packs();
        packs
            .all_condemned()
            .into_iter()
            .filter(|(_, condemned)| self.grace_is_over(condemned.since, now))
            .filter(|(_, condemned)| !uses.backup_before(condemned.turn))
            .map(|(number, _)| number)
            .collect()
    }

    fn grace_is_over(&self, since: UnixNanoseconds, now: UnixNanoseconds) -> bool {
        let grace = u64::try_from(self.options.grace.as_nanos()).unwrap_or(u64::MAX);
        // Time that a clock which was wrong has left behind is waited for only where waiting was asked for.
        self.report.reserve_used || grace == 0 || now.0 >= since.0.saturating_add(grace)
    }

    /// Pardons packs that were read because nothing else has what was asked for. If the account did not know of the need,
    /// it is thrown away.
    fn heed_needs(&mut self) -> Result<(), RepoError> {
        let needed = self.repository.store().packs().take_needed();
        let mut packs = BTreeSet::new();
        let mut unknown = None;
        for (number, id) in needed {
            let entry = self.repository.account().entries(&[id])?.pop().flatten();
            packs.insert(number);
            if entry.is_none() {
                unknown = Some(id);
            }
        }
        for number in packs {
            if self.repository.store().packs().is_condemned(number) {
                self.pardon(number)?;
            }
        }
        if let Some(id) = unknown {
            // Somebody read what the account says nobody needs. It may be a reader of a point that is gone by now;
            // it may be a fault. Counting again costs time only.
            tracing::warn!(%id, "a record was read that the account does not know: it is made again");
            self.repository.account().lock().clear()?;
        }
        Ok(())
    }

    /// Looks at every record of a condemned pack once more and removes the pack, or pardons it.
    fn remove_pack(&mut self, number: u32, standing: &Standing) -> Result<(), RepoError> {
        let packs = Arc::clone(self.repository.store().packs());
        let table = match packs.table(number) {
            Ok(Some(table)) => table,
            Ok(None) => {
                self.report.hurt_packs.push(packs.describe(number));
                return self.pardon(number);
            }
            // One that cannot be read, or that somebody took away, must not keep the others from going.
            Err(error) => {
                tracing::warn!(pack = packs.describe(number), %error, "a condemned pack is left alone");
                self.report.hurt_packs.push(packs.describe(number));
                return Ok(());
            }
        };
        if self.repository.holds_pack(number) {
            return self.pardon(number);
        }
        let lines = self.lines(number, &table)?;
        for line in &lines {
            if line.entry.is_some() && !self.is_kept_elsewhere(line)? {
                return self.pardon(number);
            }
        }
        self.make_known()?;
        self.repository.check_kept(standing)?;
        self.repository.release_pack(number)?;
        self.repository.store().reader().let_go(number);
        let removed_bytes = packs.remove(number)?;
        // Again: somebody may have opened it in between.
        self.repository.store().reader().let_go(number);
        for part in lines.chunks(INDEX_BATCH) {
            let entries: Vec<_> = part.iter().map(|line| (line.id, line.place)).collect();
            packs.index().remove(&entries)?;
        }
        packs.index().forget_pack(number)?;
        self.report.removed_packs += 1;
        self.report.removed_bytes += removed_bytes;
        tracing::info!(
            pack = packs.describe(number),
            removed_bytes,
            "removed a pack"
        );
        Ok(())
    }

    /// Makes durable where records are by now. A pack must not go before: after a crash nobody would know of the other
    /// places of what was in it.
    fn make_known(&mut self) -> Result<(), RepoError> {
        if std::mem::take(&mut self.is_ahead) {
            self.repository.account().flush()?;
            self.repository.store().index().flush()?;
        }
        Ok(())
    }

    /// Whether a record that is needed can be read and proven at another place, which the account and the index know.
    pub(super) fn is_kept_elsewhere(&mut self, line: &Line) -> Result<bool, RepoError> {
        let packs = Arc::clone(self.repository.store().packs());
        let indexed = packs.index().find(&[line.id])?.pop().flatten();
        let counted = line.entry.map(|entry| entry.place);
        for place in [counted, indexed].into_iter().flatten() {
            if place.pack == line.place.pack
                || packs.is_condemned(place.pack)
                || !self.repository.store().is_proven_at(line.id, place)?
            {
                continue;
            }
            if indexed != Some(place) {
                packs.index().insert(&[(line.id, place)])?;
                self.is_ahead = true;
            }
            if let Some(counted) = counted.filter(|counted| *counted != place) {
                let moves = [(line.id, counted, place)];
                self.repository.account().lock().moved(&moves)?;
                self.is_ahead = true;
            }
            return Ok(true);
        }
        Ok(false)
    }

    /// Takes a condemnation back, and makes sure that what is needed in the pack is found there.
    fn pardon(&mut self, number: u32) -> Result<(), RepoError> {
        let packs = Arc::clone(self.repository.store().packs());
        if let Some(table) = packs.table(number)? {
            for line in self.lines(number, &table)? {
                let Some(entry) = line.entry else { continue };
                let indexed = packs.index().find(&[line.id])?.pop().flatten();
                let found = indexed.is_some_and(|place| packs.summary(place.pack).is_some());
                if !found || entry.place == line.place {
                    packs.index().insert(&[(line.id, line.place)])?;
                    self.is_ahead = true;
                }
            }
        }
        // Before its mark goes: the next opening takes a pack without one for known.
        self.make_known()?;
        packs.pardon(number)?;
        self.report.pardoned_packs += 1;
        tracing::info!(
            pack = packs.describe(number),
            "a condemned pack is needed and stays"
        );
        Ok(())
    }

    /// The records of a pack, with what the account has of each.
    pub(super) fn lines(&self, number: u32, table: &PackTable) -> Result<Vec<Line>, RepoError> {
        let named: Vec<_> = table.iter().filter(|(id, _)| !id.is_zero()).collect();
        let mut known: BTreeMap<ChunkId, Entry> = BTreeMap::new();
        for part in named.chunks(INDEX_BATCH) {
            let ids: Vec<_> = part.iter().map(|(id, _)| *id).collect();
            let entries = self.repository.account().entries(&ids)?;
            let found = ids.iter().zip(entries);
            known.extend(found.filter_map(|(id, entry)| Some((*id, entry?))));
        }
        Ok(named
            .into_iter()
            .map(|(id, slot)| Line {
                id,
                place: Place { pack: number, slot },
                entry: known.get(&id).copied(),
            })
            .collect())
    }
}

const INDEX_BATCH: usize = 4096;
