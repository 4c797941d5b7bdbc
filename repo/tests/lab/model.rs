//! What was acknowledged, and may therefore be relied on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use repo::{PointName, WorkloadName};
use uuid::Uuid;

use crate::content::{Disk, Tag};

/// Everything that the repository was told and answered.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) points: BTreeMap<PointName, Arc<PointModel>>,
    /// Commits that were not answered with success: each may turn out to be there, whole.
    pub(crate) maybe: Vec<(WorkloadName, Arc<PointModel>)>,
    /// Points whose expiry was not answered.
    pub(crate) leaving: BTreeSet<PointName>,
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
