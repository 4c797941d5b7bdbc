//! The points of a workload as trees, for a share that shows one of them and lists the others as earlier versions.

use std::sync::Arc;

use export::ExportError;
use guestworker::WorkerOptions;
use repo::{PointName, RepoError, Repository};

use crate::browse::{BrowsedDisk, DiskTree, Points, PointsTree};
use crate::exports::{DiskFormat, EarlierPoints, PointDisk, chain, timestamp};

/// Points are looked up when they are asked for: one that was expired meanwhile is shown no more.
pub(super) struct WorkloadPoints {
    pub(super) repository: Repository,
    /// The point that is shown.
    pub(super) shown: PointName,
    /// The disks that are shown, by number.
    pub(super) disks: Vec<usize>,
    pub(super) formats: Vec<DiskFormat>,
    /// How what lies on disks is read.
    pub(super) worker: WorkerOptions,
}

impl WorkloadPoints {
    /// The tree of the point that is shown.
    pub(super) fn tree(self) -> Result<PointsTree, RepoError> {
        let point = self.repository.point(&self.shown)?;
        let (shown, time) = (self.shown.sequence, timestamp(point.created));
        let top = self.open_point(&self.shown)?;
        Ok(PointsTree::new(Box::new(self), shown, top, time))
    }

    fn open_point(&self, name: &PointName) -> Result<DiskTree, RepoError> {
        let point = self.repository.point(name)?;
        let there = 0..point.images.len();
        let mut disks = Vec::new();
        for number in self
            .disks
            .iter()
            .copied()
            .filter(|disk| there.contains(disk))
        {
            let image = self.repository.image(&point, number)?;
            let earlier = EarlierPoints::new(self.repository.clone(), &point, number)?;
            // Nobody who reads files asks for what the disk is called.
            let disk = PointDisk::new(image, earlier, [0; 16]);
            disks.push(BrowsedDisk {
                number,
                disk: Arc::new(disk),
            });
        }
        Ok(DiskTree::new(
            disks,
            &self.formats,
            timestamp(point.created),
            self.worker.clone(),
        ))
    }
}

impl Points for WorkloadPoints {
    fn list(&self) -> Vec<(u64, i64)> {
        let points = self.repository.points(Some(&self.shown.workload));
        let seconds =
            |nanoseconds: u64| i64::try_from(nanoseconds / 1_000_000_000).unwrap_or(i64::MAX);
        points
            .iter()
            .map(|point| (point.name.sequence, seconds(point.created.0)))
            .collect()
    }

    fn open(&self, sequence: u64) -> Result<DiskTree, ExportError> {
        let name = PointName {
            workload: self.shown.workload.clone(),
            sequence,
        };
        self.open_point(&name).map_err(|error| match error {
            RepoError::NoSuchPoint(_) => ExportError::Stale,
            error => ExportError::Storage {
                detail: chain(&error).into(),
            },
        })
    }
}
