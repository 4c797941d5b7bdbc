//! The record of workloads and restore points: with the packs, the only truth.
//!
//! `docs/formats/catalog.md` specifies the files. A restore point is one file that is made in one step and never
//! changed; making it is the commit of a backup.

mod expired;
mod format;
mod marked;
mod marks;
mod names;
mod text;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use serde::Serialize;
use uuid::Uuid;

pub(crate) use expired::Expired;
pub use format::fuzz_manifest;
pub(crate) use marked::oldest_lock_on;
pub use marks::{AuthorityAge, Lock, LockMode, PointMarks, fuzz_mark};
pub(crate) use marks::{LockMark, Marks, PackRanges};
pub use names::{PointName, WorkloadName};
pub(crate) use text::{check_head, open_head, seal_head};

use crate::clock::{Clock, UnixNanoseconds};
use crate::disk::Disk;
use crate::error::RepoError;
use crate::image::Pointer;
use crate::keys::KeyRing;
use crate::trusted_clock::TrustedClock;

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
    /// What its backup left out, if anything.
    pub excluded: Option<ExcludedRecord>,
    #[serde(skip)]
    pub(crate) root: Pointer,
}

/// What was left out of a disk. It reads as zeroes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExcludedRecord {
    /// How much.
    pub total_bytes: u64,
    /// The stream of the point that says which stretches.
    pub stream: String,
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
    keys: Arc<KeyRing>,
    repository: Uuid,
    epoch: u32,
    /// Held by whoever makes or drops a point, through all its waits for the storage. Taken before `points`.
    changing: Mutex<()>,
    /// Held for moments only, so that readers never wait for the storage.
    points: RwLock<BTreeMap<PointName, Arc<Point>>>,
    /// Expired points whose space was not given back yet. Locked behind `points`.
    expired: RwLock<BTreeMap<PointName, Expired>>,
    damaged: Vec<RepoError>,
    /// By folder and sequence, those of damaged manifests included. Changed under `changing`; held for moments only.
    marks: RwLock<BTreeMap<(PathBuf, u64), Marks>>,
    trusted: TrustedClock,
    /// Locks are held by the file system, too.
    protect_files: bool,
}

impl Catalog {
    /// Reads every manifest. Those that are damaged are kept apart and told of by
    /// [`damaged`](Self::damaged); the others stay usable.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        keys: Arc<KeyRing>,
        clock: Arc<dyn Clock>,
        repository: Uuid,
        epoch: u32,
        protect_files: bool,
    ) -> Result<Self, RepoError> {
        let mut points = BTreeMap::new();
        let mut expired = BTreeMap::new();
        let mut damaged = Vec::new();
        let mut marks = BTreeMap::new();
        for folder in list_workload_folders(disk.as_ref(), &keys)? {
            let path = Path::new("points").join(&folder);
            // A point that is shown can be built upon, so it must not go again with the next power failure: whoever
            // made its name may have come to his end before that was durable.
            disk.sync_directory(&path)?;
            let tombstones = expired::Tombstones {
                disk: disk.as_ref(),
                repository,
                keys: &keys,
                epoch,
                folder: &folder,
            };
            expired.extend(tombstones.read(&disk.list(&path)?));
            let found = read_folder(disk.as_ref(), repository, &keys, &folder)?;
            let named = found.points.into_iter();
            points.extend(named.map(|point| (point.name.clone(), Arc::new(point))));
            damaged.extend(found.damaged);
            let marked = found.marks.into_iter();
            marks.extend(marked.map(|(number, found)| ((path.clone(), number), found)));
        }
        let placed = marks.values().filter_map(Marks::newest).max();
        let trusted = TrustedClock::open(Arc::clone(&disk), Arc::clone(&keys), clock, placed);
        // A crash between the two steps of an expiry leaves the point as it was.
        expired.retain(|name, _| !points.contains_key(name));
        Ok(Self {
            disk,
            keys,
            repository,
            epoch,
            changing: Mutex::new(()),
            points: RwLock::new(points),
            expired: RwLock::new(expired),
            damaged,
            marks: RwLock::new(marks),
            trusted,
            protect_files,
        })
    }

    /// Manifests that could not be read when the catalog was opened.
    pub(crate) fn damaged(&self) -> &[RepoError] {
        &self.damaged
    }

    pub(crate) fn workloads(&self) -> Vec<WorkloadName> {
        let points = self.points.read();
        let mut names: Vec<WorkloadName> = Vec::new();
        for name in points.keys() {
            if names.last() != Some(&name.workload) {
                names.push(name.workload.clone());
            }
        }
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
        let folder = self.keys.workload_folder(&workload);
        self.disk.create_directory(&folder)?;
        let _changing = self.changing.lock();
        let newest = self.latest(&workload);
        if must_follow.is_some() && must_follow != newest.as_ref().map(|point| &point.name) {
            return Err(RepoError::Overtaken(workload));
        }
        draft.name.sequence = self.next_sequence(&workload)?;
        let path = folder.join(format!("{:020}.{:08x}", draft.name.sequence, self.epoch));
        let text = format::encode_point(&draft, self.repository, &self.keys, &path)?;
        self.disk.publish(&path, &text)?;
        let point = Arc::new(draft);
        self.points
            .write()
            .insert(point.name.clone(), Arc::clone(&point));
        Ok(point)
    }

    /// One above every number that was ever given: those of damaged and of expired points are not given again.
    fn next_sequence(&self, workload: &WorkloadName) -> Result<u64, RepoError> {
        let names = self.disk.names(&self.keys.workload_folder(workload))?;
        let highest = names
            .iter()
            .filter_map(|name| format::sequence_of(name))
            .max()
            .unwrap_or(0);
        highest
            .checked_add(1)
            .ok_or(RepoError::Refused("no numbers are left for this workload"))
    }
}

/// What the folder of a workload holds.
pub(crate) struct Found {
    pub(crate) points: Vec<Point>,
    pub(crate) damaged: Vec<RepoError>,
    /// By sequence.
    pub(crate) marks: BTreeMap<u64, Marks>,
}

/// The folders of all workloads.
pub(crate) fn list_workload_folders(
    disk: &dyn Disk,
    keys: &KeyRing,
) -> Result<Vec<String>, RepoError> {
    let mut folders = Vec::new();
    for folder in disk.list(Path::new("points"))? {
        if !keys.is_folder_name(&folder.name) {
            continue;
        }
        if folder.is_directory {
            folders.push(folder.name);
        } else {
            tracing::warn!(
                name = folder.name,
                "a file among the workloads is left alone"
            );
        }
    }
    Ok(folders)
}

/// Reads all manifests and marks of a workload's folder.
pub(crate) fn read_folder(
    disk: &dyn Disk,
    repository: Uuid,
    keys: &KeyRing,
    folder: &str,
) -> Result<Found, RepoError> {
    let path = Path::new("points").join(folder);
    let place = marks::Place {
        disk,
        keys,
        repository,
        folder: &path,
    };
    let mut found = Found {
        points: Vec::new(),
        damaged: Vec::new(),
        marks: BTreeMap::new(),
    };
    for item in disk.list(&path)? {
        if place.read(&item.name, &mut found.marks) || item.name.ends_with(".expired") {
            continue;
        }
        match read_point(disk, repository, keys, folder, &item.name) {
            Ok(point) => found.points.push(point),
            Err(error) => found.damaged.push(error),
        }
    }
    Ok(found)
}

/// The repositories that manifests which are not encrypted say they belong to, whatever else is in them.
pub(crate) fn repository_of_manifest(disk: &dyn Disk) -> impl Iterator<Item = Uuid> + '_ {
    let folders = list_workload_folders(disk, &KeyRing::plain()).unwrap_or_default();
    let files = folders.into_iter().flat_map(move |folder| {
        let path = Path::new("points").join(folder);
        let items = disk.list(&path).unwrap_or_default();
        items.into_iter().map(move |item| path.join(item.name))
    });
    files.filter_map(move |path| {
        let text = disk.read(&path, format::MANIFEST_BYTES_MAX).ok()?;
        format::repository_of(&text)
    })
}

/// Reads the manifest in `file` of a workload's folder; it must say that it belongs there.
fn read_point(
    disk: &dyn Disk,
    repository: Uuid,
    keys: &KeyRing,
    folder: &str,
    file: &str,
) -> Result<Point, RepoError> {
    let path = Path::new("points").join(folder).join(file);
    let corrupt = |detail: String| RepoError::Corrupt {
        what: format!("manifest {}", path.display()),
        detail,
    };
    let (sequence, _) = format::parse_point_file(file)
        .ok_or_else(|| corrupt("the name of the file is no number".to_owned()))?;
    let text = disk.read(&path, format::MANIFEST_BYTES_MAX)?;
    let point = format::decode_point(&text, repository, keys, &path)?;
    if point.name.sequence != sequence || keys.folder_name(&point.name.workload) != folder {
        return Err(corrupt(format!("it is that of {}", point.name)));
    }
    Ok(point)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimulatedDisk;
    use crate::keys::MasterKey;

    #[test]
    fn a_manifest_in_another_place_is_refused() {
        let master = MasterKey::from_bytes([3; 32]);
        for keys in [KeyRing::plain(), KeyRing::new(master, Uuid::nil())] {
            let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::new());
            disk.create_directory(Path::new("points")).unwrap();
            let keys = Arc::new(keys);
            let clock = Arc::new(crate::clock::ManualClock::default());
            let open = || {
                let (disk, keys) = (Arc::clone(&disk), Arc::clone(&keys));
                let clock = Arc::<crate::clock::ManualClock>::clone(&clock);
                Catalog::open(disk, keys, clock, Uuid::nil(), 1, false)
            };
            let draft = Point {
                name: "web@0".parse().unwrap(),
                kind: PointKind::Full,
                created: UnixNanoseconds(7),
                parent: None,
                images: Vec::new(),
                streams: Vec::new(),
                configuration: serde_json::Value::Null,
            };
            open().unwrap().commit(draft, None).unwrap();
            assert_eq!(open().unwrap().points(None).len(), 1);
            let [web, db] =
                ["web", "db"].map(|name| keys.workload_folder(&WorkloadName::parse(name).unwrap()));
            let file = "00000000000000000001.00000001";
            let text = disk.read(&web.join(file), 1 << 20).unwrap();
            disk.create_directory(&db).unwrap();
            for copy in [
                web.join("00000000000000000002.00000001"),
                db.join(file),
                db.join("strange"),
            ] {
                disk.publish(&copy, &text).unwrap();
            }
            let catalog = open().unwrap();
            assert_eq!(catalog.points(None).len(), 1);
            assert_eq!(catalog.damaged().len(), 3);
        }
    }
}
