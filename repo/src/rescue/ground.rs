//! What a rescue stands on: which repository it is, its keys, and its points.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::catalog::{
    Found, Marks, Point, PointMarks, PointName, list_workload_folders, read_folder,
    repository_of_manifest,
};
use crate::clock::UnixNanoseconds;
use crate::disk::Disk;
use crate::error::RepoError;
use crate::keys::{KeyRing, KeySlots, Secret};
use crate::pack::{PackOwner, owner_of_pack, packs_on};
use crate::superblock::Superblock;

/// Facts of a repository that is only read.
pub(super) struct Ground {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) keys: Arc<KeyRing>,
    pub(super) repository: Uuid,
    pub(super) points: Vec<Arc<Point>>,
    marks: BTreeMap<(PathBuf, u64), Marks>,
    pub(super) complaints: Vec<String>,
}

impl Ground {
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        root: &Path,
        secret: Option<&Secret>,
    ) -> Result<Self, RepoError> {
        let mut complaints = Vec::new();
        let (repository, keys) = match Superblock::open(disk.as_ref(), root) {
            Ok(superblock) => {
                let master = crate::repository::unlock(disk.as_ref(), root, &superblock, secret)?;
                let keys = match master {
                    None => KeyRing::plain(),
                    Some(master) => KeyRing::new(master, superblock.repository),
                };
                (superblock.repository, keys)
            }
            Err(error @ RepoError::TooNew { .. }) => return Err(error),
            Err(error) => {
                let owner = guess_owner(disk.as_ref()).ok_or(error)?;
                complaints.push(format!(
                    "the superblock cannot be read; going by what packs and manifests say, this is repository {}",
                    owner.repository
                ));
                (
                    owner.repository,
                    keys_of(disk.as_ref(), root, &owner, secret)?,
                )
            }
        };
        let mut ground = Self {
            disk,
            keys: Arc::new(keys),
            repository,
            points: Vec::new(),
            marks: BTreeMap::new(),
            complaints,
        };
        ground.read_points();
        Ok(ground)
    }

    /// Every folder and every manifest stands for itself.
    fn read_points(&mut self) {
        let folders = match list_workload_folders(self.disk.as_ref(), &self.keys) {
            Ok(folders) => folders,
            Err(error) => {
                self.complain(&error);
                return;
            }
        };
        for folder in folders {
            match read_folder(self.disk.as_ref(), self.repository, &self.keys, &folder) {
                Ok(Found {
                    points,
                    damaged,
                    marks,
                }) => {
                    self.points.extend(points.into_iter().map(Arc::new));
                    for error in &damaged {
                        self.complain(error);
                    }
                    let path = Path::new("points").join(&folder);
                    let marks = marks.into_iter();
                    self.marks
                        .extend(marks.map(|(number, found)| ((path.clone(), number), found)));
                }
                Err(error) => self.complain(&error),
            }
        }
        self.points
            .sort_by(|left, right| left.name.cmp(&right.name));
    }

    pub(super) fn marks(&self, name: &PointName, now: UnixNanoseconds) -> PointMarks {
        let folder = self.keys.workload_folder(&name.workload);
        let found = self.marks.get(&(folder, name.sequence));
        found.map(|marks| marks.view(now)).unwrap_or_default()
    }

    pub(super) fn complain(&mut self, error: &RepoError) {
        self.complaints.push(sentence(error));
    }
}

/// An error with its causes.
pub(super) fn sentence(error: &RepoError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = inner.source();
    }
    text
}

/// The keys of a repository without a superblock: a slot proves a secret, and the secret the slot.
fn keys_of(
    disk: &dyn Disk,
    root: &Path,
    owner: &PackOwner,
    secret: Option<&Secret>,
) -> Result<KeyRing, RepoError> {
    if !owner.encrypted {
        return Ok(KeyRing::plain());
    }
    let secret = secret.ok_or_else(|| RepoError::KeyNeeded {
        path: root.to_owned(),
    })?;
    match KeySlots::unlock(disk, owner.repository, secret)? {
        Some(master) => Ok(KeyRing::new(master, owner.repository)),
        None => Err(RepoError::WrongKey {
            path: root.to_owned(),
        }),
    }
}

/// Whose the packs and manifests are, by most of those that are looked at.
fn guess_owner(disk: &dyn Disk) -> Option<PackOwner> {
    let mut votes: BTreeMap<PackOwner, u32> = BTreeMap::new();
    let packs = packs_on(disk, &mut |_| {});
    for pack in packs.iter().take(VOTES_MAX) {
        if let Some(owner) = owner_of_pack(disk, pack) {
            *votes.entry(owner).or_default() += 1;
        }
    }
    if votes.is_empty() {
        for repository in repository_of_manifest(disk).take(VOTES_MAX) {
            let owner = PackOwner {
                repository,
                encrypted: false,
            };
            *votes.entry(owner).or_default() += 1;
        }
    }
    votes
        .into_iter()
        .max_by_key(|(_, count)| *count)
        .map(|(owner, _)| owner)
}

/// Files that are asked whose they are.
const VOTES_MAX: usize = 100;
