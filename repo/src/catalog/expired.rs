//! Points that were dropped: their manifests stay in their tombstones until their space is given back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use super::{Catalog, Point, PointName, format};
use crate::disk::{DirectoryItem, Disk};
use crate::error::RepoError;
use crate::keys::KeyRing;

/// An expired point whose tombstone still has its manifest.
#[derive(Debug, Clone)]
pub(crate) struct Expired {
    pub(crate) point: Arc<Point>,
    /// Its space is being given back, so that it cannot be brought back.
    pub(crate) released: bool,
    /// It was to be brought back and that failed half-way, so it may be back at the next opening: its space stays.
    pub(crate) in_doubt: bool,
}

impl Catalog {
    /// Drops a restore point, durably. Its manifest is kept in the tombstone, for [`unexpire`](Self::unexpire) and
    /// for the collection.
    pub(crate) fn expire(&self, name: &PointName) -> Result<(), RepoError> {
        let _changing = self.changing.lock();
        let point = self.point(name)?;
        self.check_unmarked(name)?;
        let folder = self.keys.workload_folder(&name.workload);
        let manifests = self.manifests_in(&folder, name.sequence)?;
        let Some(manifest) = manifests.first() else {
            return Err(RepoError::Vanished(name.clone()));
        };
        let manifest = self.disk.read(manifest, format::MANIFEST_BYTES_MAX)?;
        let tombstone = self.tombstone_path(name);
        match self.disk.publish(&tombstone, &manifest) {
            Err(error) if error.is_taken() => self.disk.replace(&tombstone, &manifest)?,
            other => other?,
        }
        for manifest in &manifests {
            self.remove_protected(manifest)?;
        }
        self.disk.sync_directory(&folder)?;
        let expired = Expired {
            point,
            released: false,
            in_doubt: false,
        };
        {
            let mut points = self.points.write();
            self.expired.write().insert(name.clone(), expired);
            points.remove(name);
        }
        self.drop_marks(name)
    }

    /// Marks a point as gone that has neither manifest nor tombstone: somebody removed the file.
    pub(crate) fn expire_vanished(&self, name: &PointName) -> Result<(), RepoError> {
        let _changing = self.changing.lock();
        match self.disk.publish(&self.tombstone_path(name), b"") {
            Err(error) if !error.is_taken() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Brings an expired point back, durably.
    pub(crate) fn unexpire(&self, name: &PointName) -> Result<Arc<Point>, RepoError> {
        let _changing = self.changing.lock();
        let point = match self.expired.read().get(name) {
            None if self.contains(name) => {
                return Err(RepoError::Refused("this restore point is not expired"));
            }
            None => return Err(RepoError::NoSuchPoint(name.clone())),
            Some(found) if found.released => return Err(RepoError::GivenBack(name.clone())),
            Some(found) => Arc::clone(&found.point),
        };
        let folder = self.keys.workload_folder(&name.workload);
        if let Err(error) = self.put_back(name, &folder) {
            let is_there = self.manifests_in(&folder, name.sequence);
            if !is_there.is_ok_and(|found| found.is_empty())
                && let Some(expired) = self.expired.write().get_mut(name)
            {
                expired.in_doubt = true;
            }
            return Err(error);
        }
        let mut points = self.points.write();
        self.expired.write().remove(name);
        points.insert(name.clone(), Arc::clone(&point));
        Ok(point)
    }

    /// Makes a tombstone a manifest again. May be done once more after it failed.
    fn put_back(&self, name: &PointName, folder: &Path) -> Result<(), RepoError> {
        // One that could not be made may be there all the same, and would tell against the point when it is expired
        // the next time.
        self.remove_if_there(&self.release_path(name))?;
        let tombstone = self.tombstone_path(name);
        let path = folder.join(manifest_name(name, self.epoch));
        let manifest = match self.disk.read(&tombstone, format::MANIFEST_BYTES_MAX) {
            Err(error) if error.is_missing() => {
                self.disk.read(&path, format::MANIFEST_BYTES_MAX)?
            }
            other => other?,
        };
        match self.disk.publish(&path, &manifest) {
            Err(error) if error.is_taken() => self.disk.replace(&path, &manifest)?,
            other => other?,
        }
        self.remove_if_there(&tombstone)?;
        Ok(self.disk.sync_directory(folder)?)
    }

    fn remove_if_there(&self, path: &Path) -> Result<(), RepoError> {
        match self.disk.remove(path) {
            Err(error) if !error.is_missing() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Makes that an expired point cannot be brought back, durably: from now on its space is given back.
    pub(crate) fn release(&self, name: &PointName) -> Result<Option<Arc<Point>>, RepoError> {
        let _changing = self.changing.lock();
        if self
            .expired
            .read()
            .get(name)
            .is_none_or(|expired| expired.in_doubt)
        {
            return Ok(None);
        }
        match self.disk.publish(&self.release_path(name), b"") {
            Err(error) if !error.is_taken() => return Err(error.into()),
            _ => {}
        }
        let mut expired = self.expired.write();
        Ok(expired.get_mut(name).map(|found| {
            found.released = true;
            Arc::clone(&found.point)
        }))
    }

    /// Empties the tombstone of a released point whose space was given back.
    pub(crate) fn bury(&self, name: &PointName) -> Result<(), RepoError> {
        let _changing = self.changing.lock();
        self.disk.replace(&self.tombstone_path(name), b"")?;
        self.remove_if_there(&self.release_path(name))?;
        self.expired.write().remove(name);
        Ok(())
    }

    /// All expired points whose space was not given back.
    pub(crate) fn expired(&self) -> Vec<Expired> {
        self.expired.read().values().cloned().collect()
    }

    /// Whether a point can be read: it is there and not expired.
    pub(crate) fn contains(&self, name: &PointName) -> bool {
        self.points.read().contains_key(name)
    }

    /// A point that takes up space: one that is there, or was expired and is not buried yet.
    pub(crate) fn accountable(&self, name: &PointName) -> Option<Arc<Point>> {
        let points = self.points.read();
        points.get(name).cloned().or_else(|| {
            let expired = self.expired.read();
            expired.get(name).map(|found| Arc::clone(&found.point))
        })
    }

    /// The points that must be accounted for and are not in `accounted`, in the order of their names. Those that were
    /// released are on their way out and need not be.
    pub(crate) fn unaccounted(
        &self,
        accounted: &BTreeMap<PointName, Arc<Point>>,
    ) -> Vec<Arc<Point>> {
        let points = self.points.read();
        let expired = self.expired.read();
        let dropped = expired.values().filter(|expired| !expired.released);
        let mut missing = not_in(points.values(), accounted);
        missing.extend(not_in(dropped.map(|expired| &expired.point), accounted));
        missing.sort_by(|left, right| left.name.cmp(&right.name));
        missing
    }

    /// Whether a tombstone says that a point was dropped.
    pub(crate) fn was_expired(&self, name: &PointName) -> Result<bool, RepoError> {
        let folder = self.keys.workload_folder(&name.workload);
        let wanted = tombstone_name(name);
        match self.disk.names(&folder) {
            Err(error) if error.is_missing() => Ok(false),
            names => Ok(names?.contains(&wanted)),
        }
    }

    fn tombstone_path(&self, name: &PointName) -> PathBuf {
        let folder = self.keys.workload_folder(&name.workload);
        folder.join(tombstone_name(name))
    }

    fn release_path(&self, name: &PointName) -> PathBuf {
        let folder = self.keys.workload_folder(&name.workload);
        folder.join(release_name(name.sequence))
    }
}

#[cfg(test)]
impl Catalog {
    /// Makes an expired point as if it had never been.
    pub(crate) fn make_vanish(&self, name: &PointName) {
        self.expired.write().remove(name);
        self.disk.remove(&self.tombstone_path(name)).unwrap();
    }

    /// Brings a released point back, which nobody else may.
    pub(crate) fn revive(&self, name: &PointName) {
        self.disk.remove(&self.release_path(name)).unwrap();
        if let Some(expired) = self.expired.write().get_mut(name) {
            expired.released = false;
        }
        self.unexpire(name).unwrap();
    }
}

/// The tombstones in one workload's folder.
pub(super) struct Tombstones<'a> {
    pub(super) disk: &'a dyn Disk,
    pub(super) repository: Uuid,
    pub(super) keys: &'a KeyRing,
    pub(super) epoch: u32,
    pub(super) folder: &'a str,
}

impl Tombstones<'_> {
    /// The expired points whose tombstones have their manifests.
    pub(super) fn read(&self, items: &[DirectoryItem]) -> BTreeMap<PointName, Expired> {
        let mut expired = BTreeMap::new();
        for item in items.iter().filter(|item| item.length_bytes > 0) {
            let stem = item.name.strip_suffix(".expired");
            let sequence = stem
                .filter(|stem| !stem.contains('.'))
                .and_then(|_| format::sequence_of(&item.name));
            let Some(sequence) = sequence else {
                continue;
            };
            match self.read_one(&item.name, sequence) {
                Ok(point) => {
                    let mark = release_name(sequence);
                    let released = items.iter().any(|item| item.name == mark);
                    let point = Arc::new(point);
                    expired.insert(
                        point.name.clone(),
                        Expired {
                            point,
                            released,
                            in_doubt: false,
                        },
                    );
                }
                Err(error) => {
                    tracing::warn!(%error, "a tombstone cannot be read: that point cannot be brought back");
                }
            }
        }
        expired
    }

    fn read_one(&self, file: &str, sequence: u64) -> Result<Point, RepoError> {
        let folder = Path::new("points").join(self.folder);
        let text = self
            .disk
            .read(&folder.join(file), format::MANIFEST_BYTES_MAX)?;
        // The text was sealed for the place that it had as a manifest.
        let path = folder.join(format!("{sequence:020}.{:08x}", self.epoch));
        let point = format::decode_point(&text, self.repository, self.keys, &path)?;
        let is_here = point.name.sequence == sequence
            && self.keys.folder_name(&point.name.workload) == self.folder;
        match is_here {
            true => Ok(point),
            false => Err(RepoError::Corrupt {
                what: format!("tombstone {}", folder.join(file).display()),
                detail: format!("it is that of {}", point.name),
            }),
        }
    }
}

/// Those of `points`, which are in the order of their names, that are not in `known`.
fn not_in<'a>(
    points: impl Iterator<Item = &'a Arc<Point>>,
    known: &BTreeMap<PointName, Arc<Point>>,
) -> Vec<Arc<Point>> {
    let mut known = known.keys().peekable();
    points
        .filter(|point| {
            while known.next_if(|name| **name < point.name).is_some() {}
            known.peek() != Some(&&point.name)
        })
        .cloned()
        .collect()
}

fn manifest_name(name: &PointName, epoch: u32) -> String {
    format!("{:020}.{epoch:08x}", name.sequence)
}

fn tombstone_name(name: &PointName) -> String {
    format!("{:020}.expired", name.sequence)
}

/// Ends like a tombstone's name, so that whoever knows only those passes over it.
fn release_name(sequence: u64) -> String {
    format!("{sequence:020}.released.expired")
}
