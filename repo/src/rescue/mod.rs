//! Getting data out of a repository that may be hurt: without a daemon, an index, a lock or a single write.
//!
//! Every manifest stands for itself, places in maps are followed as they are, and only what is not where a place says
//! is looked for in the tables of all packs. Whatever is damaged costs what it held; the rest is given, and what is
//! missing is named. `docs/operations/rescue.md` is the operator's view.

mod ground;
mod overlays;
mod places;
mod records;
mod walk;

use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use self::ground::Ground;
use self::records::Records;
use self::walk::Walk;
use crate::catalog::{Point, PointMarks, PointName};
use crate::clock::UnixNanoseconds;
use crate::disk::{Disk, ReadOnlyDisk, SystemDisk};
use crate::error::RepoError;
use crate::keys::Secret;
use crate::overlay::OverlayRecord;

/// A repository that is only read, as far as it can be.
pub struct Rescue {
    ground: Ground,
    records: Arc<Records>,
    overlays: Vec<OverlayRecord>,
}

/// What was read of a disk or stream, and what could not be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RescueReport {
    /// Length of the disk or stream.
    pub size_bytes: u64,
    /// Bytes read and proven. The rest is zeroes, or missing.
    pub data_bytes: u64,
    /// Bytes of the stretches that are missing.
    pub missing_bytes: u64,
    /// What is missing, in order; neighbours that fail in one way are one.
    pub missing: Vec<MissingExtent>,
    /// More is missing than is listed.
    pub more_missing: bool,
}

/// A stretch that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MissingExtent {
    /// Where it starts.
    pub offset: u64,
    /// How long it is.
    pub length: u64,
    /// What is hurt.
    pub why: String,
}

/// Takes proven bytes at an offset, ascending. What is not given is zero or missing.
pub type RescueTarget<'a> = dyn FnMut(u64, &[u8]) -> io::Result<()> + 'a;

/// Is told how many bytes of the disk or stream are done, and may stop the work.
pub type RescueProgress<'a> = dyn FnMut(u64) -> ControlFlow<()> + 'a;

impl Rescue {
    /// Opens the repository in `root`, whatever is left of it. Nothing is written and no lock is taken: a daemon may go
    /// on using it, and the medium may be read-only.
    ///
    /// # Errors
    /// If there is nothing like a repository, it needs a secret that is not given or does not fit, or the storage
    /// cannot be read at all. Damage is no error: it stands in [`complaints`](Self::complaints).
    pub fn open(root: &Path, secret: Option<&Secret>) -> Result<Self, RepoError> {
        Self::open_on(Arc::new(SystemDisk::new(root)), root, secret)
    }

    /// Opens a repository on any disk; `root` is only named in errors.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn open_on(
        disk: Arc<dyn Disk>,
        root: &Path,
        secret: Option<&Secret>,
    ) -> Result<Self, RepoError> {
        let disk: Arc<dyn Disk> = Arc::new(ReadOnlyDisk::new(disk));
        let mut ground = Ground::open(disk, root, secret)?;
        let records = Arc::new(Records::open(&ground));
        let mut unreadable = Vec::new();
        let overlays = overlays::list(&ground, &mut |error| unreadable.push(error));
        for error in &unreadable {
            ground.complain(error);
        }
        Ok(Self {
            ground,
            records,
            overlays,
        })
    }

    /// The repository's name.
    pub fn uuid(&self) -> Uuid {
        self.ground.repository
    }

    /// Whether what is stored is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.ground.keys.is_encrypted()
    }

    /// The points whose manifests are sound, by workload and number.
    pub fn points(&self) -> &[Arc<Point>] {
        &self.ground.points
    }

    /// A point by name, or the newest of a workload.
    ///
    /// # Errors
    /// If there is none, or its manifest is damaged.
    pub fn point(&self, name: &PointName) -> Result<&Arc<Point>, RepoError> {
        let found = self.ground.points.iter().find(|point| point.name == *name);
        found.ok_or_else(|| RepoError::NoSuchPoint(name.clone()))
    }

    /// The marks of a point that stand at `now`.
    pub fn marks(&self, name: &PointName, now: UnixNanoseconds) -> PointMarks {
        self.ground.marks(name, now)
    }

    /// What was found hurt so far, beside what points miss: superblock, manifests, packs as a whole.
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = self.ground.complaints.clone();
        complaints.extend(self.records.complaints());
        complaints
    }

    /// Packs that are there, and their bytes.
    pub fn packs(&self) -> (u64, u64) {
        self.records.packs()
    }

    /// Gives all of a disk that can be proven to `target`.
    ///
    /// # Errors
    /// If the point has no such disk, `target` fails, or `progress` stops it. What cannot be read is no error: it
    /// stands in the report.
    pub fn restore_disk(
        &self,
        point: &Point,
        disk: usize,
        target: &mut RescueTarget<'_>,
        progress: &mut RescueProgress<'_>,
    ) -> Result<RescueReport, RepoError> {
        let record = point
            .images
            .get(disk)
            .ok_or_else(|| RepoError::NoSuchDisk {
                point: point.name.clone(),
                disk,
                count: point.images.len(),
            })?;
        let mut walk = Walk::new(&self.records, record.size_bytes, target, progress);
        walk.disk(record.root)?;
        Ok(walk.finish())
    }

    /// Disks of recovery sessions that were neither sealed nor discarded.
    pub fn overlays(&self) -> &[OverlayRecord] {
        &self.overlays
    }

    /// Gives all of the disk of an overlay that can be proven to `target`: what was written to it, and the point below.
    /// What was being written when its process ended may be left out, as it was never flushed.
    ///
    /// # Errors
    /// If there is no such overlay, the heads of its journal are hurt, `target` fails, or `progress` stops it. What
    /// else cannot be read is no error: it stands in the report.
    pub fn restore_overlay(
        &self,
        id: Uuid,
        target: &mut RescueTarget<'_>,
        progress: &mut RescueProgress<'_>,
    ) -> Result<RescueReport, RepoError> {
        let (record, overlay) = overlays::open(&self.ground, &self.records, id)?;
        let mut walk = Walk::new(&self.records, record.size_bytes, target, progress);
        walk.overlay(&overlay)?;
        Ok(walk.finish())
    }

    /// Gives all of a stream that can be proven to `target`, zeroes included.
    ///
    /// # Errors
    /// As for [`restore_disk`](Self::restore_disk).
    pub fn restore_stream(
        &self,
        point: &Point,
        name: &str,
        target: &mut RescueTarget<'_>,
        progress: &mut RescueProgress<'_>,
    ) -> Result<RescueReport, RepoError> {
        let found = point.streams.iter().find(|stream| stream.name == name);
        let record = found.ok_or_else(|| RepoError::NoSuchStream {
            point: point.name.clone(),
            name: name.to_owned(),
        })?;
        let mut walk = Walk::new(&self.records, record.size_bytes, target, progress);
        walk.stream(record.root, record.depth)?;
        Ok(walk.finish())
    }
}

impl RescueReport {
    /// Whether everything could be read.
    pub fn is_whole(&self) -> bool {
        self.missing.is_empty()
    }

    fn miss(&mut self, offset: u64, length: u64, why: String) {
        self.missing_bytes += length;
        let full = self.missing.len() == MISSING_MAX;
        match self.missing.last_mut() {
            Some(last) if last.offset + last.length == offset && last.why == why => {
                last.length += length;
            }
            _ if full => self.more_missing = true,
            _ => self.missing.push(MissingExtent {
                offset,
                length,
                why,
            }),
        }
    }
}

impl fmt::Debug for Rescue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Rescue")
            .field("repository", &self.ground.repository)
            .field("points", &self.ground.points.len())
            .finish_non_exhaustive()
    }
}

/// Stretches listed one by one.
const MISSING_MAX: usize = 10_000;
