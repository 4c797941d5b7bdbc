//! Giving back the space of what nobody needs any more.
//!
//! The only place that removes packs. A collection brings the account in step, gives the counts of expired points back,
//! condemns packs that are dead, copies what is alive out of packs that are mostly dead, and removes condemned packs
//! after a time of grace in which anything that still needs them brings them back. Each step can be the last one:
//! whatever a crash or a stop leaves is taken up by the next collection. `docs/design/0008-space.md` has the reasons.

mod audit;
mod compact;
mod remove;
mod reserve;
mod space;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

use serde::Serialize;

pub use audit::AuditReport;
pub(crate) use reserve::make_room_to_open;
pub use space::{ExpiredPoint, SpaceStatistics};

use crate::account::{Freed, Standing};
use crate::catalog::PointName;
use crate::error::RepoError;
use crate::repository::Repository;

/// How a collection is done.
#[derive(Debug, Clone, Copy)]
pub struct CollectOptions {
    /// How long condemned packs stay. Cut short when the storage is so full that the reserve had to be given up.
    pub grace: Duration,
    /// A pack is compacted when less than this share of it is alive, in percent.
    pub compact_below_percent: u8,
    /// Places of maps that are looked up before packs are removed, to see that the account is right.
    pub samples: u32,
    /// Space that is kept free of backups, so that a collection can work on a full disk.
    pub reserve_bytes: u64,
}

impl Default for CollectOptions {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(24 * 60 * 60),
            compact_below_percent: 60,
            samples: 256,
            reserve_bytes: 64 << 20,
        }
    }
}

/// What a collection is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CollectPhase {
    /// Bringing the account in step with the catalog.
    Accounting,
    /// Taking expired points out of the account.
    Releasing,
    /// Looking for packs that are dead or mostly dead, and copying what is alive.
    Compacting,
    /// Removing packs whose grace is over.
    Removing,
}

/// How far a collection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CollectProgress {
    /// What it is at.
    pub phase: CollectPhase,
    /// Points or packs done in this phase.
    pub done: u64,
    /// Of how many, as far as is known.
    pub total: u64,
}

/// What a collection did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CollectReport {
    /// Expired points whose space was given back.
    pub points: u64,
    /// Expired points that are still being read, so that they wait.
    pub points_in_use: Vec<PointName>,
    /// Chunks and map nodes that became dead.
    pub dead_records: u64,
    /// Their bytes.
    pub dead_bytes: u64,
    /// Packs that were condemned, compacted ones included.
    pub condemned_packs: u64,
    /// Packs whose living records were copied.
    pub compacted_packs: u64,
    /// Bytes of these records.
    pub copied_bytes: u64,
    /// Packs that were removed.
    pub removed_packs: u64,
    /// Their bytes: what the storage has free again.
    pub removed_bytes: u64,
    /// Condemned packs that turned out to be needed.
    pub pardoned_packs: u64,
    /// Condemned packs that wait for the end of their grace, or of a backup.
    pub waiting_packs: u64,
    /// Their bytes.
    pub waiting_bytes: u64,
    /// Packs with records that are alive and cannot be read: they are left as they are.
    pub hurt_packs: Vec<String>,
    /// The storage was full: the reserve was given up and no grace was granted.
    pub reserve_used: bool,
}

/// One collection under way.
struct Collection<'a> {
    repository: &'a Repository,
    options: &'a CollectOptions,
    progress: &'a mut dyn FnMut(CollectProgress) -> ControlFlow<()>,
    report: CollectReport,
    /// The index or the account was told of other places since they were last made durable.
    is_ahead: bool,
}

impl Repository {
    /// Gives back the space of expired points and of what nobody needs. Backups, restores and exports go on beside it.
    /// `progress` is called now and then and may stop the work, which a later collection takes up.
    ///
    /// # Errors
    /// If it was stopped, another one is under way, manifests are damaged or gone, or the storage fails. What was done
    /// until then is sound.
    pub fn collect(
        &self,
        options: &CollectOptions,
        progress: &mut dyn FnMut(CollectProgress) -> ControlFlow<()>,
    ) -> Result<CollectReport, RepoError> {
        let _alone = self
            .collecting()
            .try_lock()
            .ok_or(RepoError::CollectionUnderWay)?;
        self.check_collectable()?;
        let mut collection = Collection {
            repository: self,
            options,
            progress,
            report: CollectReport {
                reserve_used: self.give_up_reserve_if_full()?,
                ..CollectReport::default()
            },
            is_ahead: false,
        };
        let outcome = collection.run();
        let report = collection.report;
        outcome?;
        self.make_reserve(options.reserve_bytes)?;
        Ok(report)
    }

    /// Refuses to free anything while it is not known what is needed.
    pub(crate) fn check_collectable(&self) -> Result<(), RepoError> {
        self.store().packs().check_sound()?;
        match self.catalog().damaged().len() {
            0 => Ok(()),
            count => Err(RepoError::DamagedManifests { count }),
        }
    }
}

impl Collection<'_> {
    fn run(&mut self) -> Result<(), RepoError> {
        // Packs that a backup under way may write to look dead and are not. Asked before the account is settled, so
        // that a backup that ends in between is either accounted for or still counts.
        let floor = self.writable_from();
        // Before new points come in: one that was expired because it is damaged must not keep the others from being
        // accounted for.
        self.release()?;
        self.settle()?;
        self.remove_due()?;
        loop {
            let removed_before = self.report.removed_packs;
            let complete = self.compact(floor)?;
            self.remove_due()?;
            // On a full disk, each pack that goes makes room for copies out of the next.
            if complete || self.report.removed_packs == removed_before {
                break;
            }
        }
        self.count_waiting();
        Ok(())
    }

    fn writable_from(&self) -> Option<u32> {
        self.repository.uses().floor()
    }

    /// Every point of the catalog is in the account afterwards. Gives what it stands for then.
    fn settle(&mut self) -> Result<Standing, RepoError> {
        let progress = &mut *self.progress;
        let mut go_on = || step(progress, CollectPhase::Accounting, 0, 0);
        let repository = self.repository;
        let mut account = repository.account().lock();
        account.settle(repository.catalog(), &mut go_on)?;
        Ok(account.standing())
    }

    /// Takes expired points that nobody reads out of the account.
    fn release(&mut self) -> Result<(), RepoError> {
        let repository = self.repository;
        let expired = repository.catalog().expired();
        let total = expired.len() as u64;
        let mut buried = Vec::new();
        for (done, entry) in (0_u64..).zip(expired) {
            step(self.progress, CollectPhase::Releasing, done, total)?;
            let name = &entry.point.name;
            if repository.uses().is_read(name) {
                self.report.points_in_use.push(name.clone());
                continue;
            }
            // From here on it cannot be brought back.
            let Some(point) = repository.catalog().release(name)? else {
                continue;
            };
            let progress = &mut *self.progress;
            let mut go_on = || step(progress, CollectPhase::Releasing, done, total);
            let freed = {
                let mut account = repository.account().lock();
                account.open(repository.catalog(), &mut go_on)?;
                match account.take_out(&point, &mut go_on) {
                    Err(error @ RepoError::Inexact { .. }) => {
                        tracing::warn!(%error, "the account of space is made again, without this point");
                        account.clear()?;
                        Freed::default()
                    }
                    other => other?,
                }
            };
            self.report.points += 1;
            self.report.dead_records += freed.records;
            self.report.dead_bytes += freed.bytes;
            buried.push(name.clone());
        }
        if buried.is_empty() {
            return Ok(());
        }
        // The manifest is what the counts are taken back by: it must not go before they have.
        repository.account().flush()?;
        for name in buried {
            repository.catalog().bury(&name)?;
        }
        Ok(())
    }

    fn alive(&self) -> BTreeMap<u32, u64> {
        self.repository.account().lock().alive()
    }

    fn count_waiting(&mut self) {
        let packs = self.repository.store().packs();
        for (number, _) in packs.all_condemned() {
            self.report.waiting_packs += 1;
            self.report.waiting_bytes += packs
                .summary(number)
                .map_or(0, |summary| summary.length_bytes);
        }
    }
}

fn step(
    progress: &mut dyn FnMut(CollectProgress) -> ControlFlow<()>,
    phase: CollectPhase,
    done: u64,
    total: u64,
) -> Result<(), RepoError> {
    match progress(CollectProgress { phase, done, total }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(RepoError::Stopped),
    }
}
