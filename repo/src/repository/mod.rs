//! A repository: the way in to everything stored.

mod opening;
mod options;
mod overlays;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use serde::Serialize;
use uuid::Uuid;

use crate::account::Account;
use crate::backup::Backup;
use crate::catalog::{Catalog, ImageRecord, Point, PointKind, PointName, WorkloadName};
use crate::clock::Clock;
use crate::disk::{Disk, DiskError, ForeignChange, Space, Watch};
use crate::error::RepoError;
use crate::health::{CareReport, Keeper, RepairCounters};
use crate::image::{Excluded, Image};
use crate::keys::KeySlots;
use crate::overlay::{Overlay, OverlayKeys, PageStore};
use crate::store::{ChunkStore, StoreCounters};
use crate::stream::StreamReader;
use crate::superblock::Superblock;
use crate::uses::{PointUse, Uses};

pub(crate) use opening::{take_lock, unlock};
pub use options::{CreateOptions, OnPack, OpenOptions};

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
    catalog: Arc<Catalog>,
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
        let record = image_record(point, disk)?;
        let store = Arc::clone(&self.inner.store);
        Ok(Image::new(store, record.size_bytes, record.root))
    }

    /// What was left out of a disk of a point.
    ///
    /// # Errors
    /// If the point has no such disk, or what is stored of it is hurt.
    pub fn excluded(&self, point: &Point, disk: usize) -> Result<Excluded, RepoError> {
        let _reading = self.read_point(&point.name)?;
        self.excluded_of(point, disk)
    }

    /// What was left out of a disk of a point that is kept by the caller.
    pub(crate) fn excluded_of(&self, point: &Point, disk: usize) -> Result<Excluded, RepoError> {
        let record = image_record(point, disk)?;
        let Some(excluded) = &record.excluded else {
            return Ok(Excluded::default());
        };
        let corrupt = |detail: &str| RepoError::Corrupt {
            what: format!("stream {} of {}", excluded.stream, point.name),
            detail: detail.to_owned(),
        };
        let mut streams = point.streams.iter();
        let stream = streams
            .find(|stream| stream.name == excluded.stream)
            .filter(|stream| stream.size_bytes <= Excluded::STORED_BYTES_MAX)
            .ok_or_else(|| corrupt("it is missing or longer than it can be"))?;
        let store = &self.inner.store;
        let mut reader = StreamReader::new(store, stream.root, stream.depth, stream.size_bytes);
        let mut stored = Vec::new();
        while let Some(chunk) = reader.next_chunk()? {
            stored.extend_from_slice(&chunk);
        }
        Excluded::decode(&stored, record.size_bytes).map_err(corrupt)
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

    /// The space of the storage that it lies on.
    ///
    /// # Errors
    /// If the storage cannot be asked.
    pub fn space(&self) -> Result<Space, RepoError> {
        Ok(self.inner.disk.space()?)
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

    /// Has `listener` told of damage that reads met, once the pack was looked after. It must not keep the repository
    /// alive.
    pub fn on_care(&self, listener: impl Fn(CareReport) + Send + 'static) {
        self.inner.store.health().set_listener(Box::new(listener));
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
        if let Some(files) = self.disk.known_files() {
            files.close();
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
fn image_record(point: &Point, disk: usize) -> Result<&ImageRecord, RepoError> {
    point.images.get(disk).ok_or_else(|| RepoError::NoSuchDisk {
        point: point.name.clone(),
        disk,
        count: point.images.len(),
    })
}
