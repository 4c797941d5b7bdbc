//! Stars and locks of restore points, down to the packs that they need (`docs/operations/locks.md`).
//!
//! The catalog refuses to expire a marked point. What a locked point needs is also held by the file system, where it
//! can: its manifest, its marks and its packs cannot be changed or removed by anyone before the attribute is taken off.
//! The attribute is taken off here only, and only from what no lock holds any more.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;

use crate::catalog::{AuthorityAge, ImageRecord, Lock, PackRanges, Point, PointMarks, PointName};
use crate::clock::UnixNanoseconds;
use crate::disk::Protection;
use crate::error::RepoError;
use crate::image::{Pointer, depth_for};
use crate::keys::KeySlots;
use crate::repository::Repository;
use crate::store::ChunkStore;
use crate::stream::StreamReader;
use crate::superblock::Superblock;
use crate::trusted_clock::ClockState;

/// What a new lock holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LockReport {
    /// Packs that the point needs.
    pub packs: u64,
    /// Packs among them that a backup under way still appends to; they are protected when it is done.
    pub packs_open: u64,
    /// Whether the file system holds the files, too.
    pub files: Protection,
}

impl Repository {
    /// The time that locks and retention go by: it only goes forward, whatever becomes of the machine's clock.
    pub fn trusted_now(&self) -> UnixNanoseconds {
        self.clock_state().trusted
    }

    /// The trusted time beside the machine's clock.
    pub fn clock_state(&self) -> ClockState {
        self.catalog().clock_state()
    }

    /// What keeps a point from being expired.
    pub fn marks(&self, point: &PointName) -> PointMarks {
        self.catalog().marks(point)
    }

    /// Keeps a point until the star is taken off.
    ///
    /// # Errors
    /// If there is no such point or the storage fails.
    pub fn star(&self, point: &PointName) -> Result<(), RepoError> {
        self.catalog().star(point)
    }

    /// Takes a star off.
    ///
    /// # Errors
    /// If there is no such point or the storage fails.
    pub fn unstar(&self, point: &PointName) -> Result<(), RepoError> {
        self.catalog().unstar(point)
    }

    /// Locks a point, or makes its lock longer or stronger. It is held from the moment when this returns.
    ///
    /// # Errors
    /// If there is no such point, the time has passed, the lock would change nothing, or the storage fails.
    pub fn lock(&self, name: &PointName, lock: Lock) -> Result<LockReport, RepoError> {
        let catalog = self.catalog();
        let point = catalog.point(name)?;
        catalog.check_longer(name, lock, catalog.clock_state().trusted)?;
        let (packs, inherited) = self.packs_needed(&point)?;
        let files = catalog.lock(name, lock, packs.clone(), inherited)?;
        self.protect_way_in()?;
        let set = self.store().packs();
        let open = set.seal_idle(&|number| packs.contains(number))?;
        self.protect_packs(&|number| packs.contains(number), &open)?;
        Ok(LockReport {
            packs: set
                .summaries()
                .iter()
                .filter(|(number, _)| packs.contains(*number))
                .count() as u64,
            packs_open: open.len() as u64,
            files,
        })
    }

    /// The age of a lock authority that is made now: it has no say over any lock that there is.
    pub fn authority_age(&self) -> AuthorityAge {
        self.catalog().authority_age()
    }

    /// How many restore points have a lock that holds, or a mark that counts as one.
    pub fn locked_count(&self) -> u64 {
        self.catalog().locked_count()
    }

    /// Refuses if the point has no lock that could be lifted; with an authority, none that this one could lift.
    ///
    /// # Errors
    /// As for [`lift_lock`](Self::lift_lock).
    pub fn check_liftable(
        &self,
        point: &PointName,
        authority: Option<AuthorityAge>,
    ) -> Result<(), RepoError> {
        self.catalog().check_liftable(point, authority)
    }

    /// Lifts the locks in governance mode of a point before their time that are younger than the authority. It is the
    /// caller's part to have had this confirmed by that authority.
    ///
    /// # Errors
    /// If the point is not locked, or locked in compliance mode or before there was the authority, or the storage fails.
    pub fn lift_lock(&self, point: &PointName, authority: AuthorityAge) -> Result<(), RepoError> {
        let packs = self.catalog().lift(point, authority)?;
        self.protect_way_in()?;
        for (number, _) in self.store().packs().summaries() {
            if packs.iter().any(|ranges| ranges.contains(number)) && !self.holds_pack(number) {
                self.release_pack(number)?;
            }
        }
        Ok(())
    }

    /// Whether the file system can hold the files of locked points, as tried on a file made for it.
    ///
    /// # Errors
    /// If the storage fails.
    pub fn protection(&self) -> Result<Protection, RepoError> {
        let path = Path::new("protection-test");
        self.disk().replace(path, b"")?;
        let found = self.disk().set_immutable(path, true)?;
        self.disk().set_immutable(path, false)?;
        self.disk().remove(path)?;
        Ok(found)
    }

    /// Whether a locked point needs the pack, so that it must stay as it is.
    pub fn holds_pack(&self, number: u32) -> bool {
        self.catalog().holds(number)
    }

    /// Takes the file system's protection off a pack that is to be removed.
    ///
    /// # Errors
    /// If a locked point needs it, or the storage fails.
    pub fn release_pack(&self, number: u32) -> Result<(), RepoError> {
        if self.catalog().holds(number) {
            return Err(RepoError::PackHeld(number));
        }
        let path = self.store().packs().path_of(number);
        self.disk().set_immutable(&path, false)?;
        self.protected().lock().remove(&number);
        Ok(())
    }

    /// Protects whatever locks hold and the file system does not know of: packs that were open when the lock was made,
    /// and everything in a repository that was copied.
    pub(crate) fn protect_held(&self) {
        let protect = || -> Result<(), RepoError> {
            self.protected().lock().clear();
            let (packs, files) = self.catalog().held()?;
            for file in files {
                self.catalog().protect(&file)?;
            }
            self.protect_way_in()?;
            let open = self.store().packs().open_numbers();
            self.protect_packs(
                &|number| packs.iter().any(|ranges| ranges.contains(number)),
                &open,
            )
        };
        if let Err(error) = protect() {
            tracing::error!(%error, "not all files of locked restore points are protected by the file system");
        }
    }

    /// Has the file system hold what no locked point can be read without, superblock and key slots, while a lock holds,
    /// and let go of it afterwards.
    fn protect_way_in(&self) -> Result<(), RepoError> {
        let superblock = Path::new(Superblock::PATH);
        match self.catalog().oldest_lock() {
            Some(_) => self.catalog().protect(superblock)?,
            None => self.disk().set_immutable(superblock, false)?,
        };
        self.key_slots().map_or(Ok(()), KeySlots::protect)
    }

    /// Protects the packs that are `held`, but for those still open and those that are protected already.
    fn protect_packs(&self, held: &dyn Fn(u32) -> bool, open: &[u32]) -> Result<(), RepoError> {
        let mut protected = self.protected().lock();
        let packs = self.store().packs();
        for (number, _) in packs.summaries() {
            if held(number) && !open.contains(&number) && !protected.contains(&number) {
                self.catalog().protect(&packs.path_of(number))?;
                protected.insert(number);
            }
        }
        Ok(())
    }

    /// The packs that hold what a point needs. Those of the locked point before it are taken over and only what differs
    /// is looked at, so that a lock costs what changed; now and then everything is, so that packs which nobody needs
    /// any more are not held for ever.
    fn packs_needed(&self, point: &Point) -> Result<(PackRanges, u32), RepoError> {
        let mut needed = Needed {
            store: self.store(),
            packs: BTreeSet::new(),
        };
        let before = self.catalog().locked_before(&point.name);
        let before = before.filter(|(_, _, inherited)| *inherited < INHERITED_MAX);
        let base = before
            .and_then(|(name, packs, inherited)| Some((self.point(&name).ok()?, packs, inherited)));
        for image in &point.images {
            let same = base.as_ref().and_then(|(base, _, _)| {
                let found = base.images.iter().find(|old| old.name == image.name)?;
                let as_deep = depth_for(found.size_bytes) == depth_for(image.size_bytes);
                as_deep.then_some(found)
            });
            needed.image(image, same)?;
        }
        for stream in &point.streams {
            let mut reader =
                StreamReader::new(self.store(), stream.root, stream.depth, stream.size_bytes);
            while let Some(pointer) = reader.next_pointer()? {
                needed.note(pointer)?;
            }
        }
        Ok(match base {
            Some((_, packs, inherited)) => {
                let there = self.store().packs().summaries();
                let numbers = there.into_iter().map(|(number, _)| number);
                let taken_over = numbers.filter(|number| packs.contains(*number));
                needed.packs.extend(taken_over);
                (PackRanges::new(needed.packs), inherited + 1)
            }
            None => (PackRanges::new(needed.packs), 0),
        })
    }
}

/// Gathers packs by walking maps.
struct Needed<'a> {
    store: &'a ChunkStore,
    packs: BTreeSet<u32>,
}

impl Needed<'_> {
    fn image(&mut self, image: &ImageRecord, base: Option<&ImageRecord>) -> Result<(), RepoError> {
        let below = base.map_or(Pointer::ZERO, |base| base.root);
        self.node(image.root, below, depth_for(image.size_bytes) - 1)
    }

    /// Walks what is below `pointer` and not below `base`, nodes of one level.
    fn node(&mut self, pointer: Pointer, base: Pointer, level: u8) -> Result<(), RepoError> {
        if pointer.id.is_zero() || pointer.id == base.id {
            return Ok(());
        }
        self.note(pointer)?;
        let node = self.store.node(pointer.id, pointer.place, level)?;
        let old = match base.id.is_zero() {
            true => None,
            // Of a base that is hurt nothing is taken over.
            false => self.store.node(base.id, base.place, level).ok(),
        };
        for (slot, below) in node.pointers().iter().enumerate() {
            let before = old.as_ref().map_or(Pointer::ZERO, |old| old.pointer(slot));
            match level.checked_sub(1) {
                Some(level) => self.node(*below, before, level)?,
                None if below.id != before.id => self.note(*below)?,
                None => {}
            }
        }
        Ok(())
    }

    /// A hint is right as long as its pack is there and stays: packs never change.
    fn note(&mut self, pointer: Pointer) -> Result<(), RepoError> {
        if pointer.id.is_zero() || self.packs.contains(&pointer.place.pack) {
            return Ok(());
        }
        let packs = self.store.packs();
        let pack = pointer.place.pack;
        if packs.summary(pack).is_some() && !packs.is_condemned(pack) {
            self.packs.insert(pointer.place.pack);
            return Ok(());
        }
        let found = self.store.index().find(&[pointer.id])?;
        self.packs
            .extend(found.into_iter().flatten().map(|place| place.pack));
        Ok(())
    }
}

/// After so many locks that took over packs, the next one looks at everything.
const INHERITED_MAX: u32 = 16;
