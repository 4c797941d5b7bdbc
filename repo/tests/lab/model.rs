//! What was acknowledged, and may therefore be relied on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use repo::{Lock, PointMarks, PointName, WorkloadName};
use uuid::Uuid;

use crate::content::{Disk, Tag};

/// Everything that the repository was told and answered.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) points: BTreeMap<PointName, Arc<PointModel>>,
    /// Commits that were not answered with success: each may turn out to be there, whole.
    pub(crate) maybe: Vec<(WorkloadName, Arc<PointModel>)>,
    /// Points whose expiry, or return from it, was not answered.
    pub(crate) leaving: BTreeSet<PointName>,
    /// Those among them that a collection has met.
    pub(crate) met_leaving: BTreeSet<PointName>,
    /// Expired points that may be brought back.
    pub(crate) expired: BTreeMap<PointName, ExpiredModel>,
    /// Points whose space was given back.
    pub(crate) gone: BTreeSet<PointName>,
    pub(crate) marks: BTreeMap<PointName, MarksModel>,
    /// Every name that a point has or had.
    pub(crate) given: BTreeSet<PointName>,
    pub(crate) overlays: BTreeMap<Uuid, OverlayModel>,
    /// Overlays whose end was not answered.
    pub(crate) ending: BTreeSet<Uuid>,
    /// Overlays whose making was not answered, by point and disk.
    pub(crate) maybe_overlays: Vec<(PointName, usize)>,
}

/// A restore point.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct PointModel {
    pub(crate) disks: Vec<(String, Disk)>,
    pub(crate) streams: Vec<(String, Arc<Vec<u8>>)>,
}

/// An expired point.
#[derive(Debug, Clone)]
pub(crate) struct ExpiredModel {
    pub(crate) content: Arc<PointModel>,
    /// A collection that did not come to its end may have given its space back.
    pub(crate) may_be_gone: bool,
}

/// What keeps a point from being expired.
#[derive(Debug, Clone, Default)]
pub(crate) struct MarksModel {
    pub(crate) starred: bool,
    /// A change of the star was not answered.
    pub(crate) star_in_doubt: bool,
    pub(crate) locks: Vec<LockModel>,
}

/// A lock.
#[derive(Debug, Clone)]
pub(crate) struct LockModel {
    pub(crate) lock: Lock,
    /// When it was placed, by the time that the machine is up.
    pub(crate) placed: u64,
    /// For how long.
    pub(crate) nanoseconds: u64,
    /// Its making or lifting was not answered, or its point has gone meanwhile.
    pub(crate) in_doubt: bool,
}

/// An overlay.
#[derive(Debug, Clone)]
pub(crate) struct OverlayModel {
    pub(crate) point: PointName,
    pub(crate) disk: usize,
    /// What every answer so far adds up to.
    pub(crate) now: Disk,
    /// What else power failure may leave: earlier content since the last flush.
    pub(crate) unflushed: BTreeMap<u64, Vec<Tag>>,
    /// What else any end may leave: writes that were not answered.
    pub(crate) unanswered: BTreeMap<u64, Vec<Tag>>,
}

impl Model {
    pub(crate) fn latest(&self, workload: &WorkloadName) -> Option<&PointName> {
        self.points.keys().rfind(|name| name.workload == *workload)
    }

    /// Whether an overlay that is there for sure lies over a point.
    pub(crate) fn in_use(&self, point: &PointName) -> bool {
        self.overlays
            .iter()
            .any(|(id, overlay)| overlay.point == *point && !self.ending.contains(id))
    }

    /// Whether an overlay may lie over a point, if only one whose making or end was not answered.
    pub(crate) fn may_be_in_use(&self, point: &PointName) -> bool {
        let mut overlays = self.overlays.values();
        overlays.any(|overlay| overlay.point == *point)
            || self.maybe_overlays.iter().any(|(below, _)| below == point)
    }
}

impl MarksModel {
    /// Whether the point must not go, however the clock was set: a trusted hour is at least eight ninths of one.
    pub(crate) fn keeps(&self, uptime: u64) -> bool {
        let holds = |lock: &&LockModel| !lock.in_doubt && lock.holds_at(uptime);
        (self.starred && !self.star_in_doubt) || self.locks.iter().any(|lock| holds(&lock))
    }

    /// Whether the point may be kept. Where the trusted time may have been lost, a lock may last longer.
    pub(crate) fn may_keep(&self, uptime: u64, time_was_lost: bool) -> bool {
        let over = |lock: &LockModel| !time_was_lost && lock.is_over_at(uptime);
        self.starred || self.star_in_doubt || self.locks.iter().any(|lock| !over(lock))
    }

    /// What was found after an end, if that can be.
    pub(crate) fn settle(&mut self, found: &PointMarks, uptime: u64) -> Result<(), String> {
        if let Some(damage) = &found.damaged {
            return Err(format!("a mark of it is damaged: {damage}"));
        }
        if found.starred != self.starred && !self.star_in_doubt {
            return Err(format!(
                "it is starred: {}, it was: {}",
                found.starred, self.starred
            ));
        }
        (self.starred, self.star_in_doubt) = (found.starred, false);
        for lock in self
            .locks
            .iter()
            .filter(|lock| !lock.in_doubt && lock.holds_at(uptime))
        {
            let as_strong =
                |there: &Lock| there.mode >= lock.lock.mode && there.until >= lock.lock.until;
            if !found.locks.iter().any(as_strong) {
                return Err(format!("its lock {:?} is not there any more", lock.lock));
            }
        }
        for there in &found.locks {
            match self.locks.iter_mut().find(|lock| lock.lock == *there) {
                Some(lock) => lock.in_doubt = false,
                None => return Err(format!("nobody made its lock {there:?}")),
            }
        }
        // One that a stronger lock hides may still be there.
        self.locks.retain(|lock| {
            let hidden =
                |there: &Lock| there.mode == lock.lock.mode && there.until >= lock.lock.until;
            !lock.in_doubt || found.locks.iter().any(hidden)
        });
        Ok(())
    }
}

impl LockModel {
    fn holds_at(&self, uptime: u64) -> bool {
        let passed = uptime - self.placed;
        passed + passed / 8 + 1 < self.nanoseconds
    }

    fn is_over_at(&self, uptime: u64) -> bool {
        let passed = uptime - self.placed;
        passed - passed / 8 > self.nanoseconds + 1
    }
}

impl OverlayModel {
    pub(crate) fn new(point: PointName, disk: usize, content: Disk) -> Self {
        Self {
            point,
            disk,
            now: content,
            unflushed: BTreeMap::new(),
            unanswered: BTreeMap::new(),
        }
    }

    /// A call that puts these tags there begins.
    pub(crate) fn begin(&mut self, sector: u64, tags: &[Tag]) {
        for (sector, tag) in (sector..).zip(tags) {
            self.unanswered.entry(sector).or_default().push(*tag);
        }
    }

    /// It was answered with success.
    pub(crate) fn answered(&mut self, sector: u64, tags: &[Tag]) {
        for (sector, tag) in (sector..).zip(tags) {
            let before = self.now.get(sector);
            let left = self.unanswered.remove(&sector).unwrap_or_default();
            let possible = self.unflushed.entry(sector).or_default();
            possible.push(before);
            possible.extend(left);
            self.now.set(sector, *tag);
        }
    }

    pub(crate) fn flushed(&mut self) {
        self.unflushed.clear();
    }

    /// Nothing could be seen after an end, so whatever it may have left may be there after the next, too.
    pub(crate) fn doubt_everything(&mut self) {
        for (sector, tags) in std::mem::take(&mut self.unflushed) {
            self.unanswered.entry(sector).or_default().extend(tags);
        }
    }

    /// Whether a sector may hold `tag` after an end.
    pub(crate) fn allows(&self, sector: u64, tag: Tag, power_failed: bool) -> bool {
        let among = |tags: &BTreeMap<u64, Vec<Tag>>| {
            tags.get(&sector).is_some_and(|tags| tags.contains(&tag))
        };
        self.now.get(sector) == tag
            || among(&self.unanswered)
            || (power_failed && among(&self.unflushed))
    }

    /// Sectors that may hold something else than `now`.
    pub(crate) fn doubtful(&self) -> BTreeSet<u64> {
        self.unflushed
            .keys()
            .chain(self.unanswered.keys())
            .copied()
            .collect()
    }

    /// What was found after an end counts from now on.
    pub(crate) fn settle(&mut self, found: impl IntoIterator<Item = (u64, Tag)>) {
        for (sector, tag) in found {
            self.now.set(sector, tag);
        }
        self.unflushed.clear();
        self.unanswered.clear();
    }
}
