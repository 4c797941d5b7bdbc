//! Making and opening a repository.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use uuid::Uuid;

use super::{CreateOptions, Inner, OpenOptions, Repository};
use crate::account::Account;
use crate::catalog::{Catalog, oldest_lock_on};
use crate::clock::{Clock, SystemClock};
use crate::collect::make_room_to_open;
use crate::disk::{Disk, SystemDisk};
use crate::error::RepoError;
use crate::health::{Health, Keeper};
use crate::index::{IndexStore, OpenedIndex, RocksIndex, SimulatedIndex};
use crate::keys::{KeyRing, KeySlots, MasterKey, Secret, SlotLocks};
use crate::overlay::{BlockCache, OverlayKeys};
use crate::pack::{Origin, PackReader, PackSet};
use crate::store::ChunkStore;
use crate::superblock::Superblock;

impl Repository {
    /// Makes an empty repository in `root`, a new or empty folder.
    ///
    /// # Errors
    /// If the folder has something in it or cannot be written.
    pub fn create(root: &Path, options: &CreateOptions) -> Result<(), RepoError> {
        let disk = SystemDisk::new(root);
        disk.create_directory(Path::new(""))?;
        Self::create_on(&disk, root, &SystemClock, options)
    }

    /// Makes an empty repository on any disk; `root` is only named in errors.
    ///
    /// # Errors
    /// As for [`create`](Self::create).
    pub fn create_on(
        disk: &dyn Disk,
        root: &Path,
        clock: &dyn Clock,
        options: &CreateOptions,
    ) -> Result<(), RepoError> {
        let items = disk.list(Path::new(""))?;
        if items.iter().any(|item| item.name == Superblock::PATH) {
            return Err(RepoError::AlreadyARepository {
                path: root.to_owned(),
            });
        }
        // A try that was cut off before the superblock leaves these folders, empty.
        if items
            .iter()
            .any(|item| !MADE_FIRST.contains(&item.name.as_str()) && item.name != "lost+found")
        {
            return Err(RepoError::NotEmpty {
                path: root.to_owned(),
            });
        }
        for item in items
            .iter()
            .filter(|item| FOLDERS.contains(&item.name.as_str()))
        {
            if !disk.list(Path::new(&item.name))?.is_empty() {
                return Err(RepoError::NotEmpty {
                    path: root.to_owned(),
                });
            }
        }
        if items.iter().any(|item| item.name == KeySlots::FOLDER) {
            // Of that try, and of no use to anybody: nothing was ever stored with that key.
            disk.remove_directory(Path::new(KeySlots::FOLDER))?;
        }
        for folder in FOLDERS {
            disk.create_directory(Path::new(folder))?;
        }
        let repository = Uuid::new_v4();
        let mut master = None;
        if !options.key_slots.is_empty() {
            let made = master.insert(MasterKey::random()?);
            KeySlots::create(disk, clock, repository, made, &options.key_slots)?;
        }
        Superblock::new(repository, clock.now(), master.as_ref()).create(disk)
    }

    /// Opens the repository in `root` for reading and writing. A second process is refused.
    ///
    /// # Errors
    /// If there is none, it is in use, it is too new, or its storage fails. Damaged packs and manifests do not keep it
    /// from opening.
    pub fn open(root: &Path, options: &OpenOptions) -> Result<Self, RepoError> {
        let disk: Arc<dyn Disk> = Arc::new(SystemDisk::watched(root));
        let superblock = Superblock::open(disk.as_ref(), root)?;
        let lock = take_lock(disk.as_ref(), root)?;
        let master = unlock(disk.as_ref(), root, &superblock, options.secret.as_ref())?;
        if let (Some(files), Some(folder)) = (disk.known_files(), &options.watch_record) {
            files.remember_in(&folder.join(superblock.repository.to_string()));
        }
        make_room_to_open(disk.as_ref(), root)?;
        let cache = usize::try_from(options.index_cache_bytes).unwrap_or(usize::MAX);
        let keys = key_ring(master.as_ref(), &superblock);
        let index = RocksIndex::open(&root.join("index"), cache, &keys)?;
        let ground = Ground {
            disk,
            root,
            clock: Arc::new(SystemClock),
            superblock,
            master,
            lock,
        };
        let repository = Self::assemble(ground, index, options)?;
        let keeper = Keeper::start(Arc::clone(repository.store()))?;
        *repository.inner.keeper.lock() = Some(keeper);
        Ok(repository)
    }

    /// Opens the key slots of the encrypted repository in `root` and nothing else. No daemon may run on it.
    ///
    /// # Errors
    /// If there is none, it is in use, it is not encrypted, the secret does not open it, or its storage fails.
    pub fn open_key_slots(root: &Path, secret: &Secret) -> Result<KeySlots, RepoError> {
        let disk: Arc<dyn Disk> = Arc::new(SystemDisk::new(root));
        let superblock = Superblock::open(disk.as_ref(), root)?;
        let lock = take_lock(disk.as_ref(), root)?;
        let master = unlock(disk.as_ref(), root, &superblock, Some(secret))?;
        let master = master.expect("a repository that a secret opens is encrypted");
        let repository = superblock.repository;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let keys = Arc::new(KeyRing::new(master.clone(), repository));
        let oldest = oldest_lock_on(&disk, &keys, &clock, repository)?;
        let locks = SlotLocks {
            oldest: Box::new(move || oldest),
            protect_files: true,
        };
        Ok(KeySlots::new(disk, clock, repository, master, locks).with_lock(lock))
    }

    /// Whether the repository in `root` is encrypted, so that it needs a secret to be opened.
    ///
    /// # Errors
    /// If there is none, or its superblock cannot be read.
    pub fn is_encrypted_at(root: &Path) -> Result<bool, RepoError> {
        let superblock = Superblock::open(&SystemDisk::new(root), root)?;
        Ok(superblock.is_encrypted())
    }

    /// Opens a repository on any disk, with an index in memory that is made from the packs. No thread looks after
    /// packs by itself: [`verify`](Self::verify) does what is to be done.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn open_on(
        disk: Arc<dyn Disk>,
        root: &Path,
        clock: Arc<dyn Clock>,
        options: &OpenOptions,
    ) -> Result<Self, RepoError> {
        Self::open_with(disk, root, clock, &SimulatedIndex::new(), options)
    }

    /// Opens a repository on any disk, with an index that may know of earlier openings.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn open_with(
        disk: Arc<dyn Disk>,
        root: &Path,
        clock: Arc<dyn Clock>,
        index: &SimulatedIndex,
        options: &OpenOptions,
    ) -> Result<Self, RepoError> {
        let lock = take_lock(disk.as_ref(), root)?;
        let superblock = Superblock::open(disk.as_ref(), root)?;
        let master = unlock(disk.as_ref(), root, &superblock, options.secret.as_ref())?;
        let ground = Ground {
            disk,
            root,
            clock,
            superblock,
            master,
            lock,
        };
        Self::assemble(ground, index.opened(), options)
    }

    fn assemble(
        ground: Ground<'_>,
        opened: OpenedIndex,
        options: &OpenOptions,
    ) -> Result<Self, RepoError> {
        for folder in FOLDERS {
            ground.disk.remove_unfinished(Path::new(folder));
        }
        let keys = Arc::new(key_ring(ground.master.as_ref(), &ground.superblock));
        let health = Arc::new(Health::open(opened.health));
        let store = ground.open_store(&keys, opened.index, health, options)?;
        let Ground {
            disk,
            root,
            clock,
            superblock,
            master,
            lock,
        } = ground;
        let repository = superblock.repository;
        let overlay_keys = OverlayKeys::new(Arc::clone(&keys));
        let pages = opened.pages;
        store.want_parity();
        let catalog = Arc::new(Catalog::open(
            Arc::clone(&disk),
            keys,
            Arc::clone(&clock),
            repository,
            EPOCH,
            options.protect_files,
        )?);
        let held = Arc::clone(&catalog);
        let locks = SlotLocks {
            oldest: Box::new(move || held.oldest_lock()),
            protect_files: options.protect_files,
        };
        let key_slots = master.map(|master| {
            let (disk, clock) = (Arc::clone(&disk), Arc::clone(&clock));
            KeySlots::new(disk, clock, repository, master, locks)
        });
        for error in catalog.damaged() {
            tracing::error!(%error, "a restore point cannot be used");
        }
        crate::overlay::finish_discards(disk.as_ref(), &overlay_keys, pages.as_ref())?;
        let mut options = options.clone();
        options.overlay.blocks = Arc::new(BlockCache::within(Arc::clone(store.memory())));
        let inner = Inner {
            account: Account::new(opened.account, Arc::clone(&store)),
            uses: Arc::default(),
            collecting: Mutex::default(),
            root: root.to_owned(),
            disk,
            clock,
            superblock,
            key_slots,
            catalog,
            store,
            pages,
            overlay_keys,
            options,
            overlays: Mutex::default(),
            protected: Mutex::default(),
            keeper: Mutex::default(),
            _lock: lock,
        };
        let opened = Self {
            inner: Arc::new(inner),
        };
        opened.protect_held();
        Ok(opened)
    }
}

/// What a repository stands on when it is opened.
struct Ground<'a> {
    disk: Arc<dyn Disk>,
    root: &'a Path,
    clock: Arc<dyn Clock>,
    superblock: Superblock,
    master: Option<MasterKey>,
    lock: Box<dyn Send + Sync>,
}

impl Ground<'_> {
    /// Opens the packs, and what finds and reads in them.
    fn open_store(
        &self,
        keys: &Arc<KeyRing>,
        index: Arc<dyn IndexStore>,
        health: Arc<Health>,
        options: &OpenOptions,
    ) -> Result<Arc<ChunkStore>, RepoError> {
        let packs = PackSet::open(
            Arc::clone(&self.disk),
            Arc::clone(&index),
            Arc::clone(&self.clock),
            Arc::clone(keys),
            Arc::clone(&health),
            Origin::new(self.superblock.repository, EPOCH),
            &|done, all| options.tell_packs(done, all),
        )?;
        let reader = PackReader::new(Arc::clone(&self.disk), Arc::clone(&packs));
        Ok(Arc::new(ChunkStore::new(
            packs, reader, index, health, options,
        )))
    }
}

fn key_ring(master: Option<&MasterKey>, superblock: &Superblock) -> KeyRing {
    match master {
        None => KeyRing::plain(),
        Some(master) => KeyRing::new(master.clone(), superblock.repository),
    }
}

/// The master key of an encrypted repository; none for another. A key that is given for a repository without one is
/// refused: somebody may have put it there to be written to in clear.
pub(crate) fn unlock(
    disk: &dyn Disk,
    root: &Path,
    superblock: &Superblock,
    secret: Option<&Secret>,
) -> Result<Option<MasterKey>, RepoError> {
    let path = || root.to_owned();
    let secret = match (superblock.is_encrypted(), secret) {
        (false, None) => return Ok(None),
        (false, Some(_)) => return Err(RepoError::NotEncrypted { path: path() }),
        (true, None) => return Err(RepoError::KeyNeeded { path: path() }),
        (true, Some(secret)) => secret,
    };
    let master = KeySlots::unlock(disk, superblock.repository, secret)?
        .ok_or_else(|| RepoError::WrongKey { path: path() })?;
    if superblock.belongs_to(&master) {
        return Ok(Some(master));
    }
    Err(RepoError::Corrupt {
        what: format!("file {}", Superblock::PATH),
        detail: "it is not the one that this key's repository was made with".to_owned(),
    })
}

pub(crate) fn take_lock(disk: &dyn Disk, root: &Path) -> Result<Box<dyn Send + Sync>, RepoError> {
    match disk.lock(Path::new("lock")) {
        Err(error) if error.source.kind() == std::io::ErrorKind::WouldBlock => {
            Err(RepoError::InUse {
                path: root.to_owned(),
            })
        }
        other => Ok(other?),
    }
}

/// Writers of one folder follow each other under its lock; more at once will each get an epoch of their own.
const EPOCH: u32 = 1;

const FOLDERS: [&str; 3] = ["packs", "points", "overlays"];

/// What may be there before the superblock.
const MADE_FIRST: [&str; 4] = ["packs", "points", "overlays", KeySlots::FOLDER];
