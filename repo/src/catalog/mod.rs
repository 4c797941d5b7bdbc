//! The record of workloads and restore points: with the packs, the only truth.
//!
//! `docs/formats/catalog.md` specifies the files. A restore point is one file that is made in one step and never
//! changed; making it is the commit of a backup.

mod format;
mod names;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use serde::Serialize;
use uuid::Uuid;

pub use format::fuzz_manifest;
pub(crate) use format::{open_text, seal_text};
pub use names::{PointName, WorkloadName};

use crate::clock::UnixNanoseconds;
use crate::disk::Disk;
use crate::error::RepoError;
use crate::image::Pointer;

/// What a restore point was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PointKind {
    /// Everything was sent.
    Full,
    /// What changed since the point before was sent.
    Incremental,
    /// A recovery session's disk was kept.
    Sealed,
}

/// One moment of a workload that can be restored. Always complete.
#[derive(Debug, Clone, Serialize)]
pub struct Point {
    /// Its name.
    pub name: PointName,
    /// What was sent for it.
    pub kind: PointKind,
    /// When it was committed, by this machine's clock, in nanoseconds since 1970.
    pub created: UnixNanoseconds,
    /// The point it was made over.
    pub parent: Option<PointName>,
    /// Its disks, numbered from 0.
    pub images: Vec<ImageRecord>,
    /// Its streams.
    pub streams: Vec<StreamRecord>,
    /// What the source said of the machine, as it said it.
    pub configuration: serde_json::Value,
}

/// One disk of a point.
#[derive(Debug, Clone, Serialize)]
pub struct ImageRecord {
    /// Its name within the point.
    pub name: String,
    /// Capacity.
    pub size_bytes: u64,
    /// Bytes that the source sent.
    pub sent_bytes: u64,
    /// Bytes of packs that it took.
    pub stored_bytes: u64,
    /// Chunks that were new to the repository.
    pub new_chunks: u64,
    /// Chunks that differ from the parent's disk.
    pub changed_chunks: u64,
    /// Name of the map's root: equal for equal disks in any repository.
    pub root_id: String,
    #[serde(skip)]
    pub(crate) root: Pointer,
}

/// One stream of a point.
#[derive(Debug, Clone, Serialize)]
pub struct StreamRecord {
    /// Its name within the point.
    pub name: String,
    /// Length.
    pub size_bytes: u64,
    /// Bytes of packs that it took.
    pub stored_bytes: u64,
    /// Levels of its map.
    pub(crate) depth: u8,
    #[serde(skip)]
    pub(crate) root: Pointer,
}

/// All restore points.
#[derive(Debug)]
pub(crate) struct Catalog {
    disk: Arc<dyn Disk>,
    repository: Uuid,
    epoch: u32,
    /// Held by whoever makes or drops a point, through all its waits for the storage. Taken before `points`.
    changing: Mutex<()>,
    /// Held for moments only, so that readers never wait for the storage.
    points: RwLock<BTreeMap<PointName, Arc<Point>>>,
    damaged: Vec<RepoError>,
}

impl Catalog {
    /// Reads every manifest. Those that are damaged are kept apart and told of by
    /// [`damaged`](Self::damaged); the others stay usable.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        repository: Uuid,
        epoch: u32,
    ) -> Result<Self, RepoError> {
        let mut points = BTreeMap::new();
        let mut damaged = Vec::new();
        for folder in disk.list(Path::new("points"))? {
            let Ok(workload) = WorkloadName::parse(&folder.name) else {
                continue;
            };
            if !folder.is_directory {
                tracing::warn!(
                    name = folder.name,
                    "a file among the workloads is left alone"
                );
                continue;
            }
            for item in disk.list(&workload_folder(&workload))? {
                if item.name.ends_with(".expired") {
                    continue;
                }
                match read_point(disk.as_ref(), repository, &workload, &item.name) {
                    Ok(point) => drop(points.insert(point.name.clone(), Arc::new(point))),
                    Err(error) => damaged.push(error),
                }
            }
        }
        Ok(Self {
            disk,
            repository,
            epoch,
            changing: Mutex::new(()),
            points: RwLock::new(points),
            damaged,
        })
    }

    /// Manifests that could not be read when the catalog was opened.
    pub(crate) fn damaged(&self) -> &[RepoError] {
        &self.damaged
    }

    pub(crate) fn workloads(&self) -> Vec<WorkloadName> {
        let points = self.points.read();
        let mut names: Vec<_> = points.keys().map(|name| name.workload.clone()).collect();
        names.dedup();
        names
    }

    pub(crate) fn points(&self, workload: Option<&WorkloadName>) -> Vec<Arc<Point>> {
        let points = self.points.read();
        let wanted =
            |point: &&Arc<Point>| workload.is_none_or(|workload| point.name.workload == *workload);
        points.values().filter(wanted).cloned().collect()
    }

    pub(crate) fn point(&self, name: &PointName) -> Result<Arc<Point>, RepoError> {
        self.points
            .read()
            .get(name)
            .cloned()
            .ok_or_else(|| RepoError::NoSuchPoint(name.clone()))
    }

    pub(crate) fn latest(&self, workload: &WorkloadName) -> Option<Arc<Point>> {
        let first = PointName {
            workload: workload.clone(),
            sequence: 0,
        };
        let last = PointName {
            workload: workload.clone(),
            sequence: u64::MAX,
        };
        self.points
            .read()
            .range(first..=last)
            .next_back()
            .map(|(_, point)| Arc::clone(point))
    }

    /// Makes a restore point visible, in one durable step, under the next free number. `draft` has the name it would
    /// have if nothing else was committed; where `must_follow` is set and something was, it is refused.
    pub(crate) fn commit(
        &self,
        mut draft: Point,
        must_follow: Option<&PointName>,
    ) -> Result<Arc<Point>, RepoError> {
        let workload = draft.name.workload.clone();
        self.disk.create_directory(&workload_folder(&workload))?;
        let _changing = self.changing.lock();
        let newest = self.latest(&workload);
        if must_follow.is_some() && must_follow != newest.as_ref().map(|point| &point.name) {
            return Err(RepoError::Overtaken(workload));
        }
        draft.name.sequence = self.next_sequence(&workload)?;
        let text = format::encode_point(&draft, self.repository);
        self.disk
            .publish(&point_path(&draft.name, self.epoch), text.as_bytes())?;
        let point = Arc::new(draft);
        self.points
            .write()
            .insert(point.name.clone(), Arc::clone(&point));
        Ok(point)
    }

    /// Drops a restore point, durably. What only it used is freed by a later collection.
    pub(crate) fn expire(&self, name: &PointName) -> Result<(), RepoError> {
        let _changing = self.changing.lock();
        self.point(name)?;
        let folder = workload_folder(&name.workload);
        let tombstone = folder.join(format!("{:020}.expired", name.sequence));
        match self.disk.publish(&tombstone, b"") {
            Err(error) if !error.is_taken() => return Err(error.into()),
            _ => {}
        }
        for item in self.disk.list(&folder)? {
            if format::parse_point_file(&item.name)
                .is_some_and(|(sequence, _)| sequence == name.sequence)
            {
                self.disk.remove(&folder.join(&item.name))?;
            }
        }
        self.disk.sync_directory(&folder)?;
        self.points.write().remove(name);
        Ok(())
    }

    /// One above every number that was ever given: those of damaged and of expired points are not given again.
    fn next_sequence(&self, workload: &WorkloadName) -> Result<u64, RepoError> {
        let items = self.disk.list(&workload_folder(workload))?;
        let highest = items
            .iter()
            .filter_map(|item| format::sequence_of(&item.name))
            .max()
            .unwrap_or(0);
        highest
            .checked_add(1)
            .ok_or(RepoError::Refused("no numbers are left for this workload"))
    }
}

fn workload_folder(workload: &WorkloadName) -> PathBuf {
    Path::new("points").join(workload.as_str())
}

fn point_path(name: &PointName, epoch: u32) -> PathBuf {
    workload_folder(&name.workload).join(format!("{:020}.{epoch:08x}", name.sequence))
}

fn read_point(
    disk: &dyn Disk,
    repository: Uuid,
    workload: &WorkloadName,
    file: &str,
) -> Result<Point, RepoError> {
    let path = workload_folder(workload).join(file);
    let corrupt = |detail: &str| RepoError::Corrupt {
        what: format!("manifest {}", path.display()),
        detail: detail.to_owned(),
    };
    let (sequence, _) = format::parse_point_file(file)
        .ok_or_else(|| corrupt("the name of the file is no number"))?;
    let text = disk.read(&path, format::MANIFEST_BYTES_MAX)?;
    let name = PointName {
        workload: workload.clone(),
        sequence,
    };
    format::decode_point(&text, repository, &name, &path.display().to_string())
}
