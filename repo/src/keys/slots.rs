//! All key slots of a repository.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use uuid::Uuid;

use super::secret::{MasterKey, Secret};
use super::slot::{KeySlot, NewKeySlot, SLOT_BYTES_MAX, StoredSlot, check_name};
use crate::catalog::AuthorityAge;
use crate::clock::{Clock, UnixNanoseconds};
use crate::disk::Disk;
use crate::error::RepoError;

/// The key slots of an encrypted repository that has been opened. There is always at least one.
pub struct KeySlots {
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    repository: Uuid,
    master: MasterKey,
    locks: SlotLocks,
    /// One change at a time, so that the last slot is known to be the last.
    changing: Mutex<()>,
    counters: KeySlotCounters,
    /// The repository's lock, where nobody else holds it.
    _lock: Option<Box<dyn Send + Sync>>,
}

/// What the locks of restore points mean for key slots: whoever can read a locked point now must be able to until the lock
/// ends.
pub(crate) struct SlotLocks {
    /// When the oldest lock that holds was made.
    pub(crate) oldest: Box<dyn Fn() -> Option<UnixNanoseconds> + Send + Sync>,
    /// The file system holds slots, too.
    pub(crate) protect_files: bool,
}

/// What was done with key slots since they were opened.
#[derive(Debug, Default)]
pub struct KeySlotCounters {
    /// Slots that were added, changed or removed.
    pub changes: AtomicU64,
    /// Secrets that did not open the slot they were meant for.
    pub refused: AtomicU64,
}

impl KeySlots {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        repository: Uuid,
        master: MasterKey,
        locks: SlotLocks,
    ) -> Self {
        Self {
            disk,
            clock,
            repository,
            master,
            locks,
            changing: Mutex::new(()),
            counters: KeySlotCounters::default(),
            _lock: None,
        }
    }

    /// Keeps other processes from the repository as long as these are in use.
    pub(crate) fn with_lock(mut self, lock: Box<dyn Send + Sync>) -> Self {
        self._lock = Some(lock);
        self
    }

    /// Makes the first slots of a repository in the making.
    pub(crate) fn create(
        disk: &dyn Disk,
        clock: &dyn Clock,
        repository: Uuid,
        master: &MasterKey,
        slots: &[NewKeySlot],
    ) -> Result<(), RepoError> {
        if slots.is_empty() {
            return Err(RepoError::Refused(
                "an encrypted repository has at least one key slot",
            ));
        }
        disk.create_directory(Path::new(FOLDER))?;
        for new in slots {
            let slot = StoredSlot::make(master, repository, new, clock.now())?;
            publish(disk, &new.name, &slot)?;
        }
        Ok(())
    }

    /// The master key, by whichever slot `secret` opens; `None` if it opens none.
    pub(crate) fn unlock(
        disk: &dyn Disk,
        repository: Uuid,
        secret: &Secret,
    ) -> Result<Option<MasterKey>, RepoError> {
        for name in names(disk)? {
            match read(disk, repository, &name) {
                Ok(slot) => {
                    if let Some(master) = slot.unwrap(secret)? {
                        return Ok(Some(master));
                    }
                }
                Err(error) => tracing::error!(%error, "a key slot cannot be used"),
            }
        }
        Ok(None)
    }

    /// All slots that are sound, by name.
    ///
    /// # Errors
    /// If the storage fails.
    pub fn list(&self) -> Result<Vec<KeySlot>, RepoError> {
        let names = names(self.disk.as_ref())?.into_iter();
        let slots = names.filter_map(|name| self.read(&name).ok());
        Ok(slots.map(|slot| slot.describe()).collect())
    }

    /// Adds a slot: from now on its secret opens the repository, too.
    ///
    /// # Errors
    /// If the name is taken or not allowed, there are too many, or the storage fails.
    pub fn add(&self, new: &NewKeySlot) -> Result<KeySlot, RepoError> {
        let _guard = self.changing.lock();
        if names(self.disk.as_ref())?.len() >= SLOTS_MAX {
            return Err(RepoError::Refused("a repository has at most 32 key slots"));
        }
        let slot = self.make(new)?;
        publish(self.disk.as_ref(), &new.name, &slot)?;
        self.protect_one(&new.name)?;
        self.note_change(&new.name, "a key slot was added");
        Ok(slot.describe())
    }

    /// Gives a slot another secret, in one step: before it the old one opens it, after it the new one. Nothing else
    /// is written. While a restore point is locked, a lock authority of the age that is given has confirmed it.
    ///
    /// # Errors
    /// If there is no such slot, a lock is in the way, or the storage fails.
    pub fn replace(
        &self,
        new: &NewKeySlot,
        confirmed: Option<AuthorityAge>,
    ) -> Result<KeySlot, RepoError> {
        let _guard = self.changing.lock();
        self.require(&new.name)?;
        self.check_free(&new.name, confirmed)?;
        let slot = self.make(new)?;
        let path = path(&new.name);
        self.disk.set_immutable(&path, false)?;
        let replaced = self.disk.replace(&path, &slot.encode());
        // Whichever of the two it is now.
        self.protect_one(&new.name)?;
        replaced?;
        self.note_change(&new.name, "a key slot has another secret");
        Ok(slot.describe())
    }

    /// Removes a slot: its secret opens nothing from now on, but on copies made before. While a restore point is locked,
    /// a lock authority of the age that is given has confirmed it.
    ///
    /// # Errors
    /// If there is no such slot, no sound one would be left, a lock is in the way, or the storage fails.
    pub fn remove(&self, name: &str, confirmed: Option<AuthorityAge>) -> Result<(), RepoError> {
        let _guard = self.changing.lock();
        self.require(name)?;
        if !self.list()?.iter().any(|slot| slot.name != name) {
            return Err(RepoError::Refused(
                "this is the last key slot: without one nobody can open the repository; add another first",
            ));
        }
        self.check_free(name, confirmed)?;
        self.disk.set_immutable(&path(name), false)?;
        self.disk.remove(&path(name))?;
        self.disk.sync_directory(Path::new(FOLDER))?;
        self.note_change(name, "a key slot was removed");
        Ok(())
    }

    /// Has the file system hold all slots while a lock holds, and let go of them afterwards.
    pub(crate) fn protect(&self) -> Result<(), RepoError> {
        let _guard = self.changing.lock();
        for name in names(self.disk.as_ref())? {
            self.protect_one(&name)?;
        }
        Ok(())
    }

    fn protect_one(&self, name: &str) -> Result<(), RepoError> {
        let wanted = self.locks.protect_files && (self.locks.oldest)().is_some();
        self.disk.set_immutable(&path(name), wanted)?;
        Ok(())
    }

    /// Refuses what may make locked points unreadable to their owner, unless an authority that is older than the locks
    /// confirmed it.
    fn check_free(&self, name: &str, confirmed: Option<AuthorityAge>) -> Result<(), RepoError> {
        match ((self.locks.oldest)(), confirmed) {
            (None, _) => Ok(()),
            (Some(_), None) => Err(RepoError::KeySlotHeld(name.to_owned())),
            (Some(oldest), Some(authority)) if oldest < authority.0 => {
                Err(RepoError::KeySlotHeldLonger(name.to_owned()))
            }
            (Some(_), Some(_)) => Ok(()),
        }
    }

    /// Whether `secret` opens the slot.
    ///
    /// # Errors
    /// If there is no such slot, it is damaged, or the storage fails.
    pub fn opens(&self, name: &str, secret: &Secret) -> Result<bool, RepoError> {
        // One at a time: each passphrase that is tried takes memory.
        let _guard = self.changing.lock();
        self.require(name)?;
        let opened = self.read(name)?.unwrap(secret)?.is_some();
        if !opened {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
            tracing::info!(slot = name, "a secret did not open a key slot");
        }
        Ok(opened)
    }

    /// What was done since the slots were opened.
    pub fn counters(&self) -> &KeySlotCounters {
        &self.counters
    }

    fn note_change(&self, name: &str, what: &'static str) {
        self.counters.changes.fetch_add(1, Ordering::Relaxed);
        tracing::info!(slot = name, what, "key slots changed");
    }

    fn require(&self, name: &str) -> Result<(), RepoError> {
        check_name(name)?;
        if names(self.disk.as_ref())?.iter().any(|found| found == name) {
            return Ok(());
        }
        Err(RepoError::NoSuchKeySlot(name.to_owned()))
    }

    fn make(&self, new: &NewKeySlot) -> Result<StoredSlot, RepoError> {
        StoredSlot::make(&self.master, self.repository, new, self.clock.now())
    }

    fn read(&self, name: &str) -> Result<StoredSlot, RepoError> {
        read(self.disk.as_ref(), self.repository, name)
    }

    /// The folder of all slots.
    pub(crate) const FOLDER: &str = FOLDER;
}

impl fmt::Debug for KeySlots {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("KeySlots")
            .field("repository", &self.repository)
            .finish_non_exhaustive()
    }
}

/// Names of the files that can be slots.
fn names(disk: &dyn Disk) -> Result<Vec<String>, RepoError> {
    let items = match disk.list(Path::new(FOLDER)) {
        Err(error) if error.is_missing() => Vec::new(),
        other => other?,
    };
    let slots = items
        .into_iter()
        .filter(|item| !item.is_directory && check_name(&item.name).is_ok());
    Ok(slots.map(|item| item.name).take(SLOTS_MAX).collect())
}

fn read(disk: &dyn Disk, repository: Uuid, name: &str) -> Result<StoredSlot, RepoError> {
    let text = disk.read(&path(name), SLOT_BYTES_MAX)?;
    StoredSlot::decode(&text, repository, name)
}

fn publish(disk: &dyn Disk, name: &str, slot: &StoredSlot) -> Result<(), RepoError> {
    match disk.publish(&path(name), &slot.encode()) {
        Err(error) if error.is_taken() => Err(RepoError::KeySlotTaken(name.to_owned())),
        other => Ok(other?),
    }
}

fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

const FOLDER: &str = "keys";

/// So many passphrases are tried at most.
const SLOTS_MAX: usize = 32;
