//! Restore points with marks: what may not be expired, and who may change that.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use super::marks::{self, FolderMarks, MarkName};
use super::{
    AuthorityAge, Catalog, Lock, LockMark, LockMode, Marks, PackRanges, PointMarks, PointName,
    list_workload_folders,
};
use crate::clock::{Clock, UnixNanoseconds};
use crate::disk::{Disk, Protection};
use crate::error::RepoError;
use crate::keys::KeyRing;
use crate::trusted_clock::{ClockState, TrustedClock};

impl Catalog {
    /// The time that locks and retention go by, and how it stands to the machine's.
    pub(crate) fn clock_state(&self) -> ClockState {
        self.trusted.look()
    }

    pub(crate) fn trusted(&self) -> &TrustedClock {
        &self.trusted
    }

    /// The marks of a point.
    pub(crate) fn marks(&self, name: &PointName) -> PointMarks {
        let now = self.trusted.now();
        let marks = self.marks.read();
        marks
            .get(&self.key(name))
            .map(|found| found.view(now))
            .unwrap_or_default()
    }

    /// Refuses if a star or lock keeps the point. Whoever takes a manifest away asks this first, under the lock of the
    /// points.
    pub(crate) fn check_unmarked(&self, name: &PointName) -> Result<(), RepoError> {
        let marks = self.marks(name);
        if let Some(detail) = marks.damaged {
            return Err(RepoError::MarkDamaged {
                point: name.clone(),
                detail,
            });
        }
        if let Some(lock) = marks
            .locks
            .iter()
            .max_by_key(|lock| (lock.mode, lock.until))
        {
            return Err(locked(name, *lock));
        }
        match marks.starred {
            true => Err(RepoError::Starred(name.clone())),
            false => Ok(()),
        }
    }

    /// Keeps a point for ever.
    pub(crate) fn star(&self, name: &PointName) -> Result<(), RepoError> {
        let _changing = self.changing.lock();
        self.point(name)?;
        let now = self.trusted.now();
        let folder = self.keys.workload_folder(&name.workload);
        self.place(&folder).publish_star(name.sequence, now)?;
        self.marks
            .write()
            .entry(self.key(name))
            .or_default()
            .starred = true;
        Ok(())
    }

    /// Takes a star off. A point that has none is left as it is.
    pub(crate) fn unstar(&self, name: &PointName) -> Result<(), RepoError> {
        let _changing = self.changing.lock();
        self.point(name)?;
        let mut marks = self.marks_of(name);
        if !marks.starred {
            return Ok(());
        }
        let folder = self.keys.workload_folder(&name.workload);
        self.remove_protected(&MarkName::Star.path(&folder, name.sequence))?;
        self.disk.sync_directory(&folder)?;
        marks.starred = false;
        self.marks.write().insert(self.key(name), marks);
        Ok(())
    }

    /// Adds a lock to a point. Says whether the file system holds manifest and mark, too.
    pub(crate) fn lock(
        &self,
        name: &PointName,
        lock: Lock,
        packs: PackRanges,
        inherited: u32,
    ) -> Result<Protection, RepoError> {
        let _changing = self.changing.lock();
        self.point(name)?;
        let now = self.trusted.now();
        self.check_longer(name, lock, now)?;
        let folder = self.keys.workload_folder(&name.workload);
        let held = self.marks_of(name).locks;
        let highest = held.iter().map(|mark| mark.number).max().unwrap_or(0);
        let mark = LockMark {
            number: highest
                .checked_add(1)
                .ok_or(RepoError::Refused("no numbers are left for this lock"))?,
            lock,
            // Later than that of every lock before, whatever the clock did, so that ages can be compared.
            placed: self.next_placing(now),
            packs,
            inherited,
        };
        let path = self.place(&folder).publish_lock(name.sequence, &mark)?;
        let number = mark.number;
        self.marks
            .write()
            .entry(self.key(name))
            .or_default()
            .locks
            .push(mark);
        self.trusted.store()?;
        let protection = self.protect(&path)?;
        for manifest in self.manifests_in(&folder, name.sequence)? {
            self.protect(&manifest)?;
        }
        // The mark that is stronger in everything makes these needless. A governance lock is not: authorities that are
        // too young for an older one may lift it.
        self.remove_locks(name, &|old| {
            let shorter = old.lock.mode <= lock.mode && old.lock.until <= lock.until;
            let needless = lock.mode == LockMode::Compliance || old.lock.until <= now;
            old.number != number && shorter && needless
        })?;
        Ok(protection)
    }

    /// Refuses a lock that is over already, or that another one makes needless.
    pub(crate) fn check_longer(
        &self,
        name: &PointName,
        lock: Lock,
        now: UnixNanoseconds,
    ) -> Result<(), RepoError> {
        if lock.until <= now {
            return Err(RepoError::LockInPast {
                until: lock.until,
                now,
            });
        }
        let marks = self.marks(name);
        if let Some(detail) = marks.damaged {
            return Err(RepoError::MarkDamaged {
                point: name.clone(),
                detail,
            });
        }
        let longer = marks
            .locks
            .iter()
            .find(|held| held.mode >= lock.mode && held.until >= lock.until);
        match longer {
            Some(held) => Err(RepoError::LockNotLonger {
                point: name.clone(),
                until: held.until,
            }),
            None => Ok(()),
        }
    }

    /// The age of an authority that is made now: younger than every lock that there is.
    pub(crate) fn authority_age(&self) -> AuthorityAge {
        AuthorityAge(self.next_placing(self.trusted.now()))
    }

    fn next_placing(&self, now: UnixNanoseconds) -> UnixNanoseconds {
        let newest = self.marks.read().values().filter_map(Marks::newest).max();
        let after = newest.map_or(0, |newest| newest.0.saturating_add(1));
        UnixNanoseconds(now.0.max(after))
    }

    /// When the oldest lock that holds was made.
    pub(crate) fn oldest_lock(&self) -> Option<UnixNanoseconds> {
        let now = self.trusted.now();
        let marks = self.marks.read();
        marks.values().filter_map(|marks| marks.oldest(now)).min()
    }

    /// How many points have a lock that holds.
    pub(crate) fn locked_count(&self) -> u64 {
        let now = self.trusted.now();
        let marks = self.marks.read();
        marks.values().filter(|marks| marks.is_locked(now)).count() as u64
    }

    /// Refuses if the point has no lock that could be lifted, by an authority of this age if there is one.
    pub(crate) fn check_liftable(
        &self,
        name: &PointName,
        authority: Option<AuthorityAge>,
    ) -> Result<(), RepoError> {
        self.point(name)?;
        let view = self.marks(name);
        if let Some(detail) = view.damaged {
            return Err(RepoError::MarkDamaged {
                point: name.clone(),
                detail,
            });
        }
        let mut locks = view.locks.iter();
        if locks.any(|lock| lock.mode == LockMode::Governance) {
            let now = self.trusted.now();
            let marks = self.marks_of(name);
            let mut held = marks.locks.iter().filter(|mark| mark.lock.until > now);
            let yields =
                authority.is_none_or(|authority| held.any(|mark| mark.yields_to(authority)));
            return match yields {
                true => Ok(()),
                false => Err(RepoError::AuthorityTooYoung(name.clone())),
            };
        }
        Err(match view.locks.first() {
            Some(lock) => locked(name, *lock),
            None => RepoError::NotLocked(name.clone()),
        })
    }

    /// Lifts the locks in governance mode before their time that are younger than the authority, and gives the packs
    /// that they named. Whoever calls has had it confirmed by that authority.
    pub(crate) fn lift(
        &self,
        name: &PointName,
        authority: AuthorityAge,
    ) -> Result<Vec<PackRanges>, RepoError> {
        let _changing = self.changing.lock();
        self.check_liftable(name, Some(authority))?;
        let lifted = |mark: &LockMark| mark.yields_to(authority);
        let marks = self.marks_of(name);
        let packs = marks.locks.iter().filter(|mark| lifted(mark));
        let packs = packs.map(|mark| mark.packs.clone()).collect();
        self.remove_locks(name, &lifted)?;
        if self.marks(name).locks.is_empty() {
            let folder = self.keys.workload_folder(&name.workload);
            for manifest in self.manifests_in(&folder, name.sequence)? {
                self.disk.set_immutable(&manifest, false)?;
            }
        }
        Ok(packs)
    }

    /// Whether a locked point needs the pack.
    pub(crate) fn holds(&self, pack: u32) -> bool {
        let now = self.trusted.now();
        let marks = self.marks.read();
        let held = |mark: &LockMark| mark.lock.until > now && mark.packs.contains(pack);
        marks.values().any(|marks| marks.locks.iter().any(held))
    }

    /// The newest lock that holds of an earlier point of the workload: what it needs, its successor needs in great
    /// part, too.
    pub(crate) fn locked_before(&self, name: &PointName) -> Option<(PointName, PackRanges, u32)> {
        let now = self.trusted.now();
        let (folder, sequence) = self.key(name);
        let marks = self.marks.read();
        let earlier = marks.range((folder.clone(), 0)..(folder, sequence)).rev();
        earlier
            .filter_map(|((_, sequence), marks)| {
                let mark = marks.locks.iter().rfind(|mark| mark.lock.until > now)?;
                let point = PointName {
                    workload: name.workload.clone(),
                    sequence: *sequence,
                };
                Some((point, mark.packs.clone(), mark.inherited))
            })
            .next()
    }

    /// All packs that locked points need, and the files of these points in the catalog.
    pub(crate) fn held(&self) -> Result<(Vec<PackRanges>, Vec<PathBuf>), RepoError> {
        let now = self.trusted.now();
        let mut packs = Vec::new();
        let mut files = Vec::new();
        for ((folder, sequence), marks) in self.marks.read().iter() {
            let holding = marks.locks.iter().filter(|mark| mark.lock.until > now);
            for mark in holding {
                packs.push(mark.packs.clone());
                files.push(MarkName::Lock(mark.number).path(folder, *sequence));
            }
            if marks.is_locked(now) {
                files.extend(self.manifests_in(folder, *sequence)?);
            }
        }
        Ok((packs, files))
    }

    /// Lets nobody change a file, if the file system can and it is wanted.
    pub(crate) fn protect(&self, path: &Path) -> Result<Protection, RepoError> {
        match self.protect_files {
            true => Ok(self.disk.set_immutable(path, true)?),
            false => Ok(Protection::Unsupported),
        }
    }

    /// Removes a file that may have been protected. Whoever calls knows that it may go; that it is gone is fine.
    pub(super) fn remove_protected(&self, path: &Path) -> Result<(), RepoError> {
        let removed = self
            .disk
            .set_immutable(path, false)
            .and_then(|_| self.disk.remove(path));
        match removed {
            Err(error) if !error.is_missing() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Removes what is left of the marks of a point that is gone.
    pub(super) fn drop_marks(&self, name: &PointName) -> Result<(), RepoError> {
        self.remove_locks(name, &|_| true)?;
        self.marks.write().remove(&self.key(name));
        Ok(())
    }

    fn remove_locks(
        &self,
        name: &PointName,
        which: &dyn Fn(&LockMark) -> bool,
    ) -> Result<(), RepoError> {
        let folder = self.keys.workload_folder(&name.workload);
        let mut marks = self.marks_of(name);
        let gone: Vec<u32> = marks
            .locks
            .iter()
            .filter(|mark| which(mark))
            .map(|mark| mark.number)
            .collect();
        if gone.is_empty() {
            return Ok(());
        }
        for number in &gone {
            self.remove_protected(&MarkName::Lock(*number).path(&folder, name.sequence))?;
        }
        self.disk.sync_directory(&folder)?;
        marks.locks.retain(|mark| !gone.contains(&mark.number));
        self.marks.write().insert(self.key(name), marks);
        Ok(())
    }

    /// Under which a point's marks are kept.
    fn key(&self, name: &PointName) -> (PathBuf, u64) {
        (self.keys.workload_folder(&name.workload), name.sequence)
    }

    fn marks_of(&self, name: &PointName) -> Marks {
        self.marks
            .read()
            .get(&self.key(name))
            .cloned()
            .unwrap_or_default()
    }

    fn place<'a>(&'a self, folder: &'a Path) -> marks::Place<'a> {
        marks::Place {
            disk: self.disk.as_ref(),
            keys: &self.keys,
            repository: self.repository,
            folder,
        }
    }

    pub(super) fn manifests_in(
        &self,
        folder: &Path,
        sequence: u64,
    ) -> Result<Vec<PathBuf>, RepoError> {
        let is_manifest = |name: &String| {
            super::format::parse_point_file(name).is_some_and(|(number, _)| number == sequence)
        };
        let names = self.disk.names(folder)?.into_iter();
        Ok(names
            .filter(is_manifest)
            .map(|name| folder.join(name))
            .collect())
    }
}

/// When the oldest lock that holds was made, in a repository whose catalog is not open. Nothing is written.
pub(crate) fn oldest_lock_on(
    disk: &Arc<dyn Disk>,
    keys: &Arc<KeyRing>,
    clock: &Arc<dyn Clock>,
    repository: Uuid,
) -> Result<Option<UnixNanoseconds>, RepoError> {
    let mut found = Vec::new();
    for folder in list_workload_folders(disk.as_ref(), keys)? {
        let folder = Path::new("points").join(folder);
        let place = marks::Place {
            disk: disk.as_ref(),
            keys,
            repository,
            folder: &folder,
        };
        let mut marks = FolderMarks::new();
        for name in disk.names(&folder)? {
            place.read(&name, &mut marks);
        }
        found.extend(marks.into_values());
    }
    let placed = found.iter().filter_map(Marks::newest).max();
    let (disk, keys, clock) = (Arc::clone(disk), Arc::clone(keys), Arc::clone(clock));
    let now = TrustedClock::look_into(disk, keys, clock, placed).now();
    Ok(found.iter().filter_map(|marks| marks.oldest(now)).min())
}

fn locked(name: &PointName, lock: Lock) -> RepoError {
    RepoError::Locked {
        point: name.clone(),
        mode: lock.mode,
        until: lock.until,
    }
}
