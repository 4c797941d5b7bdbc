//! A repository: the way in to everything stored.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use serde::Serialize;
use uuid::Uuid;

use crate::account::Account;
use crate::adopt::PackProgress;
use crate::backup::Backup;
use crate::catalog::{Catalog, Point, PointKind, PointName, WorkloadName};
use crate::clock::{Clock, SystemClock};
use crate::disk::{Disk, DiskError, ForeignChange, SystemDisk, Watch};
use crate::error::RepoError;
use crate::health::{Health, Keeper, RepairCounters};
use crate::image::Image;
use crate::index::{IndexStore, OpenedIndex, RocksIndex, SimulatedIndex};
use crate::keys::{KeyRing, KeySlots, MasterKey, NewKeySlot, Secret};
use crate::overlay::{BlockCache, Overlay, OverlayKeys, OverlayRecord, OverlaySettings, PageStore};
use crate::pack::{Origin, PackReader, PackSet, ParityShare};
use crate::store::{ChunkStore, StoreCounters};
use crate::stream::StreamReader;
use crate::superblock::Superblock;
use crate::uses::{PointUse, Uses};

/// How a repository is made.
#[derive(Debug, Clone, Default)]
pub struct CreateOptions {
    /// The first key slots. With none, the repository is not encrypted, and can never be.
    pub key_slots: Vec<NewKeySlot>,
}

/// How a repository is opened. What is cached is bounded by these, whatever is stored.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Memory for decompressed chunks and for what was lately read and written of overlays.
    pub chunk_cache_bytes: u64,
    /// Map nodes kept in memory.
    pub node_cache_bytes: u64,
    /// The index's block cache.
    pub index_cache_bytes: u64,
    /// Threads that hash and compress for each disk being backed up. With 0 the caller does it all, and the same calls
    /// give the same files.
    pub workers: usize,
    /// How overlays keep their journal and map.
    pub overlay: OverlaySettings,
    /// What opens it, if it is encrypted.
    pub secret: Option<Secret>,
    /// Have the file system hold what a locked point needs, where it can.
    pub protect_files: bool,
    /// How much parity packs get beside them, to be repaired from.
    pub parity_share: ParityShare,
    /// Is told how far opening is.
    pub on_pack: Option<OnPack>,
}

impl OpenOptions {
    fn tell_packs(&self, done: u64, all: u64) {
        if let Some(OnPack(progress)) = &self.on_pack {
            progress(done, all);
        }
    }
}

/// Someone who is told of packs that are done, and of all.
#[derive(Clone)]
pub struct OnPack(PackProgress);

impl From<PackProgress> for OnPack {
    fn from(progress: PackProgress) -> Self {
        Self(progress)
    }
}

impl fmt::Debug for OnPack {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("OnPack")
    }
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            chunk_cache_bytes: 256 << 20,
            node_cache_bytes: 64 << 20,
            index_cache_bytes: 64 << 20,
            workers: std::thread::available_parallelism().map_or(2, std::num::NonZero::get),
            overlay: OverlaySettings::default(),
            secret: None,
            protect_files: true,
            parity_share: ParityShare::default(),
            on_pack: None,
        }
    }
}

/// An open repository. Clones are the same one.
#[derive(Clone)]
pub struct Repository {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    superblock: Superblock,
    key_slots: Option<KeySlots>,
    catalog: Catalog,
    store: Arc<ChunkStore>,
    pages: Arc<dyn PageStore>,
    account: Account,
    uses: Arc<Uses>,
    /// Held by the collection under way.
    collecting: Mutex<()>,
    overlay_keys: OverlayKeys,
    options: OpenOptions,
    overlays: Mutex<HashMap<Uuid, Weak<Overlay>>>,
    /// Packs that the file system protects, as far as is known.
    protected: Mutex<HashSet<u32>>,
    keeper: Mutex<Option<Keeper>>,
    _lock: Box<dyn Send + Sync>,
}

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RepositoryStatistics {
    /// Workloads with at least one point.
    pub workloads: u64,
    /// Restore points.
    pub points: u64,
    /// Capacity of all disks of all points, as if each was whole.
    pub logical_bytes: u64,
    /// Pack files.
    pub packs: u64,
    /// Their bytes.
    pub stored_bytes: u64,
    /// About how many records the index knows.
    pub index_entries: u64,
    /// Writable overlays.
    pub overlays: u64,
    /// Manifests that were found damaged when the repository was opened.
    pub damaged_manifests: u64,
    /// Space left on the storage.
    pub free_bytes: u64,
    /// All space of the storage.
    pub total_bytes: u64,
}

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
        let cache = usize::try_from(options.index_cache_bytes).unwrap_or(usize::MAX);
        let index = RocksIndex::open(&root.join("index"), cache)?;
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
        let clock = Arc::new(SystemClock);
        Ok(KeySlots::new(disk, clock, superblock.repository, master).with_lock(lock))
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
        let keys = Arc::new(match &ground.master {
            None => KeyRing::plain(),
            Some(master) => KeyRing::new(master.clone(), ground.superblock.repository),
        });
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
        let key_slots = master
            .map(|master| KeySlots::new(Arc::clone(&disk), Arc::clone(&clock), repository, master));
        let overlay_keys = OverlayKeys::new(Arc::clone(&keys));
        let pages = opened.pages;
        store.want_parity();
        let catalog = Catalog::open(
            Arc::clone(&disk),
            keys,
            Arc::clone(&clock),
            repository,
            EPOCH,
            options.protect_files,
        )?;
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

    /// Ends in good order: packs get their tables, so that the next opening has nothing to mend. Backups that are not
    /// committed are lost.
    ///
    /// # Errors
    /// If the storage fails. Nothing that was committed depends on it.
    pub fn close(&self) -> Result<(), RepoError> {
        for overlay in self
            .inner
            .overlays
            .lock()
            .values()
            .filter_map(Weak::upgrade)
        {
            overlay.checkpoint()?;
        }
        // It writes beside packs and must not go on once somebody else has the repository.
        drop(self.inner.keeper.lock().take());
        self.inner.store.packs().close()?;
        self.protect_held();
        self.inner.account.flush()?;
        self.inner.pages.flush()?;
        self.inner.store.health().flush();
        self.inner.catalog.trusted().store()
    }

    /// The repository's own name, for ever.
    pub fn uuid(&self) -> Uuid {
        self.inner.superblock.repository
    }

    /// When it was made.
    pub fn created(&self) -> crate::UnixNanoseconds {
        self.inner.superblock.created
    }

    /// The key slots; none if the repository is not encrypted.
    pub fn key_slots(&self) -> Option<&KeySlots> {
        self.inner.key_slots.as_ref()
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// All workloads that have a point, sorted.
    pub fn workloads(&self) -> Vec<WorkloadName> {
        self.inner.catalog.workloads()
    }

    /// All points, or those of one workload, by workload and number.
    pub fn points(&self, workload: Option<&WorkloadName>) -> Vec<Arc<Point>> {
        self.inner.catalog.points(workload)
    }

    /// A point by name.
    ///
    /// # Errors
    /// If there is none.
    pub fn point(&self, name: &PointName) -> Result<Arc<Point>, RepoError> {
        self.inner.catalog.point(name)
    }

    /// The newest point of a workload.
    pub fn latest(&self, workload: &WorkloadName) -> Option<Arc<Point>> {
        self.inner.catalog.latest(workload)
    }

    /// Manifests that were found damaged when the repository was opened, as sentences.
    pub fn damaged_manifests(&self) -> Vec<String> {
        self.inner
            .catalog
            .damaged()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    /// Starts a backup of a workload, over its newest point.
    ///
    /// # Errors
    /// If the repository takes no more writes.
    pub fn begin(&self, workload: &WorkloadName, kind: PointKind) -> Result<Backup, RepoError> {
        self.inner.store.packs().check_sound()?;
        let parent = self.latest(workload);
        let parent_use = match &parent {
            Some(parent) => Some(self.read_point(&parent.name)?),
            None => None,
        };
        let workload = workload.clone();
        Ok(Backup::new(
            self.clone(),
            workload,
            kind,
            parent,
            parent_use,
        ))
    }

    /// A disk of a point. Nothing is read for it.
    ///
    /// # Errors
    /// If the point has no such disk.
    pub fn image(&self, point: &Point, disk: usize) -> Result<Image, RepoError> {
        let image = self.image_of(point, disk)?;
        Ok(image.of_point(self.read_point(&point.name)?))
    }

    /// A disk of a point that is kept by the caller.
    pub(crate) fn image_of(&self, point: &Point, disk: usize) -> Result<Image, RepoError> {
        let record = point
            .images
            .get(disk)
            .ok_or_else(|| RepoError::NoSuchDisk {
                point: point.name.clone(),
                disk,
                count: point.images.len(),
            })?;
        let store = Arc::clone(&self.inner.store);
        Ok(Image::new(store, record.size_bytes, record.root))
    }

    /// A stream of a point.
    ///
    /// # Errors
    /// If the point has no such stream.
    pub fn stream(&self, point: &Point, name: &str) -> Result<StreamReader, RepoError> {
        let found = point.streams.iter().find(|stream| stream.name == name);
        let record = found.ok_or_else(|| RepoError::NoSuchStream {
            point: point.name.clone(),
            name: name.to_owned(),
        })?;
        let reading = self.read_point(&point.name)?;
        let store = &self.inner.store;
        Ok(
            StreamReader::new(store, record.root, record.depth, record.size_bytes)
                .of_point(reading),
        )
    }

    /// Keeps the space of a point from being given back while it is read.
    pub(crate) fn read_point(&self, name: &PointName) -> Result<Arc<PointUse>, RepoError> {
        let reading = self.inner.uses.read(name);
        // Asked afterwards: whoever gives space back looks for readers after the point has left the catalog.
        match self.inner.catalog.contains(name) {
            true => Ok(reading),
            false => Err(RepoError::NoSuchPoint(name.clone())),
        }
    }

    /// Drops a restore point. The others are not touched; what only this one used is freed by a later collection, and
    /// until then the point can be brought back.
    ///
    /// # Errors
    /// If there is none of that name, an overlay stands on it, or the storage fails.
    pub fn expire(&self, name: &PointName) -> Result<(), RepoError> {
        // Held so that no overlay comes to stand on the point meanwhile.
        let _overlays = self.inner.overlays.lock();
        if let Some(user) = self
            .overlays()?
            .into_iter()
            .find(|record| record.point == *name)
        {
            return Err(RepoError::PointInUse {
                point: name.clone(),
                overlay: user.id,
            });
        }
        self.with_reserve(|| match self.inner.catalog.expire(name) {
            Err(RepoError::NoSuchPoint(_)) if self.has_vanished(name) => {
                self.inner.catalog.expire_vanished(name)
            }
            other => other,
        })
    }

    /// Makes a writable overlay over a disk of a point. The point is not touched by it.
    ///
    /// # Errors
    /// If the point has no such disk or the storage fails.
    pub fn create_overlay(&self, point: &Point, disk: usize) -> Result<Arc<Overlay>, RepoError> {
        let image = self.image(point, disk)?;
        let mut overlays = self.inner.overlays.lock();
        self.inner.catalog.point(&point.name)?;
        let record = OverlayRecord {
            id: Uuid::new_v4(),
            point: point.name.clone(),
            disk,
            created: self.inner.clock.now(),
            size_bytes: image.size_bytes(),
        };
        let id = record.id;
        let overlay = Overlay::create(
            Arc::clone(&self.inner.disk),
            &self.inner.overlay_keys,
            Arc::clone(&self.inner.clock),
            Arc::clone(&self.inner.pages),
            Arc::new(image),
            self.inner.options.overlay.clone(),
            record,
        )?;
        let overlay = Arc::new(overlay);
        overlays.insert(id, Arc::downgrade(&overlay));
        Ok(overlay)
    }

    /// An overlay that was made before: the one in use, or from its journal.
    ///
    /// # Errors
    /// If there is none, its point is gone, or its journal is damaged.
    pub fn open_overlay(&self, id: Uuid) -> Result<Arc<Overlay>, RepoError> {
        let mut overlays = self.inner.overlays.lock();
        if let Some(overlay) = overlays.get(&id).and_then(Weak::upgrade) {
            return Ok(overlay);
        }
        let record = crate::overlay::find(self.inner.disk.as_ref(), &self.inner.overlay_keys, id)?;
        let image = self.image(&*self.point(&record.point)?, record.disk)?;
        let overlay = Overlay::open(
            Arc::clone(&self.inner.disk),
            &self.inner.overlay_keys,
            Arc::clone(&self.inner.clock),
            Arc::clone(&self.inner.pages),
            Arc::new(image),
            self.inner.options.overlay.clone(),
            id,
        )?;
        let overlay = Arc::new(overlay);
        overlays.insert(id, Arc::downgrade(&overlay));
        Ok(overlay)
    }

    /// All overlays, in use or not.
    ///
    /// # Errors
    /// If the storage fails.
    pub fn overlays(&self) -> Result<Vec<OverlayRecord>, RepoError> {
        crate::overlay::overlays(self.inner.disk.as_ref(), &self.inner.overlay_keys)
    }

    /// Drops an overlay and all that was written to it. Whoever still has it open gets errors.
    ///
    /// # Errors
    /// If there is none or the storage fails.
    pub fn discard_overlay(&self, id: Uuid) -> Result<(), RepoError> {
        let mut overlays = self.inner.overlays.lock();
        if let Some(overlay) = overlays.remove(&id).and_then(|overlay| overlay.upgrade()) {
            // One whose storage failed cannot be frozen, and may be dropped all the same.
            if let Err(error) = overlay.freeze() {
                tracing::info!(overlay = %id, %error, "an overlay is discarded as it is");
            }
        }
        crate::overlay::discard(
            self.inner.disk.as_ref(),
            &self.inner.overlay_keys,
            self.inner.pages.as_ref(),
            id,
        )
    }

    /// What the repository holds.
    ///
    /// # Errors
    /// If the storage cannot be asked.
    pub fn statistics(&self) -> Result<RepositoryStatistics, RepoError> {
        let points = self.points(None);
        let packs = self.inner.store.packs().summaries();
        let space = self.inner.disk.space()?;
        let images = points.iter().flat_map(|point| &point.images);
        Ok(RepositoryStatistics {
            workloads: self.workloads().len() as u64,
            points: points.len() as u64,
            logical_bytes: images.fold(0, |sum, image| sum.saturating_add(image.size_bytes)),
            packs: packs.len() as u64,
            stored_bytes: self.inner.store.packs().stored_bytes(),
            index_entries: self.inner.store.index().entry_count(),
            overlays: self.overlays().map_or(0, |records| records.len() as u64),
            damaged_manifests: self.inner.catalog.damaged().len() as u64,
            free_bytes: space.available_bytes,
            total_bytes: space.total_bytes,
        })
    }

    /// Reports what somebody else does to packs, manifests, marks, keys and the superblock, for as long as the value
    /// lives. Changes that are found at once come together. `None` if the repository lies on no folder of this machine.
    ///
    /// # Errors
    /// If the system refuses to watch.
    pub fn watch(
        &self,
        report: impl Fn(Vec<ForeignChange>) + Send + 'static,
    ) -> Result<Option<Watch>, RepoError> {
        let Some(files) = self.inner.disk.known_files() else {
            return Ok(None);
        };
        let watch = Watch::start(Arc::clone(files), report);
        Ok(Some(watch.map_err(|error| {
            DiskError::new("watch", &self.inner.root, error)
        })?))
    }

    /// What was done since the repository was opened.
    pub fn counters(&self) -> &StoreCounters {
        self.inner.store.counters()
    }

    /// Packs that wait for parity or to be mended.
    pub fn care_count(&self) -> u64 {
        self.inner.store.health().care_count()
    }

    /// What was repaired, or could not be, since the repository was opened.
    pub fn repair_counters(&self) -> &RepairCounters {
        self.inner.store.health().counters()
    }

    pub(crate) fn store(&self) -> &Arc<ChunkStore> {
        &self.inner.store
    }

    pub(crate) fn account(&self) -> &Account {
        &self.inner.account
    }

    pub(crate) fn uses(&self) -> &Arc<Uses> {
        &self.inner.uses
    }

    pub(crate) fn collecting(&self) -> &Mutex<()> {
        &self.inner.collecting
    }

    pub(crate) fn catalog(&self) -> &Catalog {
        &self.inner.catalog
    }

    pub(crate) fn protected(&self) -> &Mutex<HashSet<u32>> {
        &self.inner.protected
    }

    pub(crate) fn disk(&self) -> &dyn Disk {
        self.inner.disk.as_ref()
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        self.inner.clock.as_ref()
    }

    pub(crate) fn workers(&self) -> usize {
        self.inner.options.workers
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.keeper.lock().take());
        if let Err(error) = self.store.packs().close() {
            tracing::debug!(%error, "packs stay open and are mended when the repository is opened");
        }
    }
}

impl fmt::Debug for Repository {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Repository")
            .field("root", &self.inner.root)
            .finish_non_exhaustive()
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
