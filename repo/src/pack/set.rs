//! All packs of a repository.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use uuid::Uuid;
use zerocopy::little_endian::{U32, U64};

use super::adopt::FoundPack;
use super::condemned::{Condemned, condemned_pack, read_mark};
use super::files::PackFile;
use super::format::{
    PACK_ENCRYPTED, PACK_MAGIC, PACK_PLAIN, PACK_VERSION, PackHeader, Place, pack_path,
    parse_pack_name,
};
use super::parity::{
    NoParity, ParityFile, ParityOwner, mend_pages, pack_files, parity_path, parse_parity_name,
};
use super::table::{Ending, PackTable, read_ending};
use super::writer::{OpenPack, Telling};
use crate::chunk::ChunkId;
use crate::clock::{Clock, SystemClock, UnixNanoseconds};
use crate::disk::{Access, Caching, Disk};
use crate::error::RepoError;
use crate::health::{Care, Health};
use crate::index::{IndexStore, SimulatedIndex};
use crate::keys::KeyRing;

/// What a pack is for. Map nodes lie apart from chunks, so that a catalog of maps can be read without the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PackClass {
    Chunks,
    Nodes,
}

/// What is known of a pack without opening it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PackSummary {
    pub(crate) epoch: u32,
    pub(crate) length_bytes: u64,
    /// A scan after a crash sealed it: the index may tell of records that were lost.
    pub(crate) recovered: bool,
    /// It has its table and does not grow.
    pub(crate) sealed: bool,
    /// A parity file is beside it.
    pub(crate) has_parity: bool,
}

/// What new packs say of where they come from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    repository: Uuid,
    epoch: u32,
}

impl Origin {
    pub(crate) fn new(repository: Uuid, epoch: u32) -> Self {
        Self { repository, epoch }
    }
}

/// All packs of a repository, the open ones among them.
pub(crate) struct PackSet {
    pub(super) disk: Arc<dyn Disk>,
    index: Arc<dyn IndexStore>,
    pub(super) clock: Arc<dyn Clock>,
    keys: Arc<KeyRing>,
    health: Arc<Health>,
    repository: Uuid,
    epoch: u32,
    state: Mutex<SetState>,
    tables: Cache<u32, Arc<PackTable>, TableWeight>,
    /// Packs that are about to be removed.
    pub(super) condemned: RwLock<BTreeMap<u32, Condemned>>,
    /// Records that were read from condemned packs.
    pub(super) needed: Mutex<Vec<(u32, ChunkId)>>,
    poisoned: AtomicBool,
    /// Packs that lost records because a write failed.
    losses: Arc<AtomicU64>,
}

/// Whether a pack has its table, so that it does not grow any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sealed {
    Yes,
    No,
}

/// What is in the folder of packs.
#[derive(Default)]
struct Listed {
    /// Number, epoch and length.
    packs: Vec<(u32, u32, u64)>,
    parities: BTreeSet<(u32, u32)>,
    condemned: Vec<u32>,
}

#[derive(Default)]
struct SetState {
    packs: BTreeMap<u32, PackSummary>,
    last_number: u32,
    /// Not sealed; in use by a writer or waiting for one.
    open: Vec<Arc<OpenPack>>,
    /// Those of `open` that no writer uses.
    idle: Vec<Arc<OpenPack>>,
}

impl PackSet {
    /// Lists the packs, seals those that a crash left open, and tells the index of every record it does not know.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        index: Arc<dyn IndexStore>,
        clock: Arc<dyn Clock>,
        keys: Arc<KeyRing>,
        health: Arc<Health>,
        origin: Origin,
        progress: &dyn Fn(u64, u64),
    ) -> Result<Arc<Self>, RepoError> {
        let Origin { repository, epoch } = origin;
        let set = Self {
            disk,
            index,
            clock,
            keys,
            health,
            repository,
            epoch,
            state: Mutex::default(),
            tables: Cache::with_weighter(TABLES_EXPECTED, TABLES_BYTES_MAX, TableWeight),
            condemned: RwLock::default(),
            needed: Mutex::default(),
            poisoned: AtomicBool::new(false),
            losses: Arc::default(),
        };
        let mut listed = set.list()?;
        set.note_condemned(&listed)?;
        let last_number = set.note_numbers(&listed)?;
        let all = listed.packs.len() as u64;
        for ((number, epoch, length_bytes), done) in listed.packs.into_iter().zip(0_u64..) {
            progress(done, all);
            let has_parity = listed.parities.remove(&(number, epoch));
            if set.is_condemned(number) {
                // No backup relies on it, so the index need not know it.
                let summary = PackSummary {
                    epoch,
                    length_bytes,
                    recovered: true,
                    sealed: true,
                    has_parity,
                };
                set.state.lock().packs.insert(number, summary);
                continue;
            }
            let found = FoundPack {
                number,
                epoch,
                length_bytes,
                header: set.header(number, PackClass::Chunks),
                has_parity,
            };
            let summary = found.adopt(set.disk.as_ref(), set.index())?;
            set.state.lock().packs.insert(number, summary);
        }
        set.remove_orphans(&listed.parities);
        set.state.lock().last_number = last_number;
        Ok(Arc::new(set))
    }

    /// The highest number ever given, which the index knows before anything else of these packs: the name of one may
    /// be lost with the power, and what the index was told of it would be believed of another.
    fn note_numbers(&self, listed: &Listed) -> Result<u32, RepoError> {
        let known = self.index.highest_pack()?;
        let there = listed.packs.iter().map(|(number, ..)| *number).max();
        match there.filter(|there| *there > known) {
            Some(there) => {
                self.index.set_highest_pack(there)?;
                Ok(there)
            }
            None => Ok(known),
        }
    }

    /// The packs of a repository that is only read: nothing is sealed, and no index is told.
    pub(crate) fn to_read(
        disk: Arc<dyn Disk>,
        keys: Arc<KeyRing>,
        repository: Uuid,
        files: &[PackFile],
    ) -> Arc<Self> {
        let packs = files.iter().map(|file| {
            let summary = PackSummary {
                epoch: file.epoch,
                length_bytes: file.length_bytes,
                recovered: false,
                sealed: true,
                has_parity: file.has_parity,
            };
            (file.number, summary)
        });
        let index = SimulatedIndex::new().opened();
        Arc::new(Self {
            disk,
            index: index.index,
            clock: Arc::new(SystemClock),
            keys,
            health: Arc::new(Health::open(index.health)),
            repository,
            epoch: 1,
            state: Mutex::new(SetState {
                packs: packs.collect(),
                ..SetState::default()
            }),
            tables: Cache::with_weighter(TABLES_EXPECTED, TABLES_BYTES_MAX, TableWeight),
            condemned: RwLock::default(),
            needed: Mutex::default(),
            poisoned: AtomicBool::new(true),
            losses: Arc::default(),
        })
    }

    pub(crate) fn index(&self) -> &dyn IndexStore {
        self.index.as_ref()
    }

    /// What names, encrypts and decrypts the records.
    pub(crate) fn keys(&self) -> &Arc<KeyRing> {
        &self.keys
    }

    /// Makes everything appended so far, by anyone, durable.
    pub(crate) fn sync_all(&self) -> Result<(), RepoError> {
        self.check_sound()?;
        let open = self.state.lock().open.clone();
        for pack in open {
            self.guard(&pack, pack.sync(self.index()))?;
            if pack.has_failed() {
                // What reached the file is durable now and found again when the repository is opened.
                self.state
                    .lock()
                    .open
                    .retain(|open| open.number != pack.number);
            }
        }
        Ok(())
    }

    /// How many packs have lost records because a write failed. A backup during which this changed may have lost some
    /// of its own and must not be committed.
    pub(crate) fn losses(&self) -> u64 {
        self.losses.load(Ordering::Acquire)
    }

    /// Seals all open packs; for an orderly end. After a failed sync there is none: a table would vouch for records
    /// that may be lost.
    pub(crate) fn close(&self) -> Result<(), RepoError> {
        self.check_sound()?;
        let open = self.state.lock().open.clone();
        for pack in open {
            if !pack.has_failed() {
                self.seal(&pack)?;
            }
        }
        self.index.flush()
    }

    pub(crate) fn check_sound(&self) -> Result<(), RepoError> {
        if self.poisoned.load(Ordering::Acquire) {
            Err(RepoError::Poisoned)
        } else {
            Ok(())
        }
    }

    /// No more writes until the repository is opened again.
    pub(crate) fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
    }

    pub(crate) fn summary(&self, number: u32) -> Option<PackSummary> {
        self.state.lock().packs.get(&number).copied()
    }

    pub(crate) fn summaries(&self) -> Vec<(u32, PackSummary)> {
        self.state
            .lock()
            .packs
            .iter()
            .map(|(number, summary)| (*number, *summary))
            .collect()
    }

    /// Packs that are not sealed yet.
    pub(crate) fn open_numbers(&self) -> Vec<u32> {
        let state = self.state.lock();
        state.open.iter().map(|pack| pack.number).collect()
    }

    /// Where a pack lies.
    pub(crate) fn path_of(&self, number: u32) -> PathBuf {
        pack_path(number, self.epoch_of(number))
    }

    /// The name of a pack for a person.
    pub(crate) fn describe(&self, number: u32) -> String {
        pack_path(number, self.epoch_of(number))
            .display()
            .to_string()
    }

    /// Whether a new backup may rely on the index saying that `id` is at `place`. Where a table must be asked and cannot
    /// be read, it may not, and stores again.
    pub(crate) fn vouches_for(&self, place: Place, id: ChunkId) -> bool {
        if self.is_condemned(place.pack) {
            return false;
        }
        match self.summary(place.pack) {
            None => false,
            Some(summary) if !summary.recovered => true,
            Some(_) => match self.table(place.pack) {
                Ok(table) => table.is_some_and(|table| table.holds(id, place.slot)),
                Err(error) => {
                    tracing::debug!(pack = self.describe(place.pack), %error, "a table cannot be read");
                    false
                }
            },
        }
    }

    /// The table of a sealed pack; `None` for one that has none (yet).
    pub(crate) fn table(&self, number: u32) -> Result<Option<Arc<PackTable>>, RepoError> {
        if let Some(table) = self.tables.get(&number) {
            return Ok(Some(table));
        }
        let Some(summary) = self.summary(number) else {
            return Ok(None);
        };
        let path = pack_path(number, summary.epoch);
        let file = self.disk.open(&path, Access::Read, Caching::Direct)?;
        let Ending::Sealed { table, .. } = read_ending(file.as_ref())? else {
            return Ok(None);
        };
        let table = Arc::new(table);
        self.tables.insert(number, Arc::clone(&table));
        Ok(Some(table))
    }

    /// Gives a writer a pack to append to.
    pub(super) fn open_pack(
        &self,
        class: PackClass,
        telling: Telling,
    ) -> Result<Arc<OpenPack>, RepoError> {
        let number = {
            let mut state = self.state.lock();
            state.idle.retain(|pack| !pack.has_failed());
            if let Some(found) = state
                .idle
                .iter()
                .position(|pack| pack.class == class && pack.telling == telling)
            {
                return Ok(state.idle.swap_remove(found));
            }
            state.last_number = state
                .last_number
                .checked_add(1)
                .ok_or(RepoError::Refused("no pack numbers are left"))?;
            state.last_number
        };
        // Before any record of it: the index must never know more of a number than of its having been given.
        self.index.set_highest_pack(number)?;
        let path = pack_path(number, self.epoch);
        let folder = path.parent().unwrap_or(Path::new(""));
        self.disk.create_directory(folder)?;
        let file = self.disk.create(&path, Caching::Direct)?;
        self.disk.sync_directory(folder)?;
        let header = self.header(number, class).encode();
        let pack = Arc::new(OpenPack::new(
            number,
            class,
            telling,
            file,
            match telling {
                Telling::Early => Arc::clone(&self.losses),
                Telling::Durable => Arc::default(),
            },
            &header,
        ));
        let mut state = self.state.lock();
        state.packs.insert(
            number,
            PackSummary {
                epoch: self.epoch,
                length_bytes: 0,
                recovered: false,
                sealed: false,
                has_parity: false,
            },
        );
        state.open.push(Arc::clone(&pack));
        Ok(pack)
    }

    /// Seals those of the packs `wanted` that no writer uses, and says which it could not.
    pub(crate) fn seal_idle(&self, wanted: &dyn Fn(u32) -> bool) -> Result<Vec<u32>, RepoError> {
        let mut idle = Vec::new();
        self.state.lock().idle.retain(|pack| {
            let take = wanted(pack.number) && !pack.has_failed();
            if take {
                idle.push(Arc::clone(pack));
            }
            !take
        });
        for pack in idle {
            self.seal(&pack)?;
        }
        let state = self.state.lock();
        let still_open = state.open.iter().map(|pack| pack.number);
        Ok(still_open.filter(|number| wanted(*number)).collect())
    }

    /// Seals packs to which a write failed, as the next opening would, so that what nobody needs of them can be
    /// collected. No writer may be using those that are `wanted`.
    pub(crate) fn recover_failed(&self, wanted: &dyn Fn(u32) -> bool) -> Result<(), RepoError> {
        self.sync_all()?;
        let failed: Vec<(u32, PackSummary)> = {
            let state = self.state.lock();
            let is_open = |number| state.open.iter().any(|open| open.number == number);
            let packs = state.packs.iter();
            packs
                .filter(|(number, summary)| {
                    !summary.sealed && wanted(**number) && !is_open(**number)
                })
                .map(|(number, summary)| (*number, *summary))
                .collect()
        };
        for (number, summary) in failed {
            let found = FoundPack {
                number,
                epoch: summary.epoch,
                length_bytes: summary.length_bytes,
                header: self.header(number, PackClass::Chunks),
                has_parity: summary.has_parity,
            };
            let summary = found.adopt(self.disk.as_ref(), self.index())?;
            self.state.lock().packs.insert(number, summary);
            if summary.sealed {
                self.health.want_care(number, Care::Parity);
            }
        }
        Ok(())
    }

    /// Takes a pack back from a writer that ends.
    pub(super) fn give_back(&self, pack: Arc<OpenPack>) {
        if !pack.has_failed() {
            self.state.lock().idle.push(pack);
        }
    }

    /// Ends a pack with its table.
    pub(super) fn seal(&self, pack: &Arc<OpenPack>) -> Result<(), RepoError> {
        let length_bytes = self.guard(pack, pack.seal(self.index()))?;
        {
            let mut state = self.state.lock();
            state.open.retain(|open| open.number != pack.number);
            state.idle.retain(|idle| idle.number != pack.number);
            if let Some(summary) = state.packs.get_mut(&pack.number) {
                summary.length_bytes = length_bytes;
                summary.sealed = true;
            }
        }
        self.health.want_care(pack.number, Care::Parity);
        Ok(())
    }

    /// After a failed sync nobody knows what is on the disk, so nothing more is written. It does not matter why it
    /// failed: only a write that finds no space leaves everything else as it was.
    fn guard<T>(&self, pack: &OpenPack, result: Result<T, RepoError>) -> Result<T, RepoError> {
        let harmless = |error: &RepoError| error.is_full() && !pack.is_unknown();
        if result.as_ref().is_err_and(|error| !harmless(error)) {
            self.poison();
        }
        result
    }

    fn header(&self, number: u32, class: PackClass) -> PackHeader {
        PackHeader {
            magic: PACK_MAGIC,
            version: U32::new(PACK_VERSION),
            number: U32::new(number),
            epoch: U32::new(self.epoch),
            class: match class {
                PackClass::Chunks => 1,
                PackClass::Nodes => 2,
            },
            reserved: [0; 3],
            repository: *self.repository.as_bytes(),
            created: U64::new(self.clock.now().0),
            encryption: U32::new(match self.keys.is_encrypted() {
                true => PACK_ENCRYPTED,
                false => PACK_PLAIN,
            }),
            checksum: U32::ZERO,
        }
    }

    /// How far each open pack is filled.
    pub(crate) fn open_ends(&self) -> BTreeMap<u32, u64> {
        let state = self.state.lock();
        let open = state.open.iter();
        open.map(|pack| (pack.number, pack.end())).collect()
    }

    /// The lowest number of a pack that somebody may be writing to, now or from now on.
    pub(crate) fn lowest_open(&self) -> u32 {
        let state = self.state.lock();
        let open = state.open.iter().map(|pack| pack.number).min();
        open.unwrap_or(state.last_number.saturating_add(1))
    }

    /// Forgets a pack whose file is gone.
    pub(super) fn forget(&self, number: u32) {
        self.state.lock().packs.remove(&number);
        self.tables.remove(&number);
        self.health.clear_lost(number);
    }

    /// Takes the marks of condemned packs into memory.
    fn note_condemned(&self, listed: &Listed) -> Result<(), RepoError> {
        for number in &listed.condemned {
            let pack = listed.packs.iter().find(|(pack, ..)| pack == number);
            let Some((_, epoch, _)) = pack else {
                self.drop_stray_mark(*number)?;
                continue;
            };
            let since = read_mark(self.disk.as_ref(), *number, *epoch, self.clock.as_ref())?;
            let entry = Condemned { since, turn: 0 };
            self.condemned.write().insert(*number, entry);
        }
        Ok(())
    }

    /// Every pack file and what lies beside it. What is not where a pack belongs is none.
    fn list(&self) -> Result<Listed, RepoError> {
        let mut listed = Listed::default();
        for folder in self.disk.list(Path::new("packs"))? {
            if !folder.is_directory {
                continue;
            }
            let folder = Path::new("packs").join(&folder.name);
            for item in self.disk.list(&folder)? {
                if let Some(number) = condemned_pack(&item.name) {
                    listed.condemned.push(number);
                    continue;
                }
                let path = folder.join(&item.name);
                let parity = parse_parity_name(&item.name)
                    .filter(|(number, epoch)| parity_path(*number, *epoch) == path);
                if let Some(owner) = parity {
                    listed.parities.insert(owner);
                    continue;
                }
                let known = parse_pack_name(&item.name);
                let Some((number, epoch)) =
                    known.filter(|(number, epoch)| pack_path(*number, *epoch) == path)
                else {
                    tracing::warn!(folder = %folder.display(), name = item.name, "a file that is no pack is left alone");
                    continue;
                };
                listed.packs.push((number, epoch, item.length_bytes));
            }
        }
        listed.packs.sort_unstable();
        Ok(listed)
    }

    /// Removes parity of packs that are not there. A number could be given again one day.
    fn remove_orphans(&self, parities: &BTreeSet<(u32, u32)>) {
        for (number, epoch) in parities {
            let path = parity_path(*number, *epoch);
            match self.disk.remove(&path) {
                Ok(()) => {
                    tracing::info!(path = %path.display(), "removed parity of a pack that is gone");
                }
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "parity of a pack that is gone cannot be removed");
                }
            }
        }
    }

    /// Opens the parity of a pack.
    pub(crate) fn parity(&self, number: u32) -> Result<ParityFile, NoParity> {
        ParityFile::open(self.disk.as_ref(), self.parity_owner(number))
    }

    /// Puts a parity file beside a pack, in place of an earlier one.
    pub(crate) fn store_parity(&self, number: u32, content: &[u8]) -> Result<(), RepoError> {
        let [_, path] = pack_files(number, self.epoch_of(number));
        self.disk.replace(&path, content)?;
        if let Some(summary) = self.state.lock().packs.get_mut(&number) {
            summary.has_parity = true;
            return Ok(());
        }
        // The pack was removed meanwhile.
        Ok(self.disk.remove(&path)?)
    }

    pub(crate) fn parity_owner(&self, number: u32) -> ParityOwner {
        ParityOwner {
            repository: self.repository,
            number,
            epoch: self.epoch_of(number),
        }
    }

    /// How far a pack is durable, and whether it is sealed, so that it does not grow. Nothing is known of one whose
    /// writing failed.
    pub(crate) fn durable_length(&self, number: u32) -> Result<(u64, Sealed), RepoError> {
        {
            let state = self.state.lock();
            if let Some(open) = state.open.iter().find(|open| open.number == number) {
                return Ok((open.synced(), Sealed::No));
            }
        }
        if !self.is_sealed(number) {
            return Ok((0, Sealed::No));
        }
        let path = pack_path(number, self.epoch_of(number));
        let file = self.disk.open(&path, Access::Read, Caching::Direct)?;
        Ok((file.length()?, Sealed::Yes))
    }

    /// Puts rebuilt pages back, durably, and cuts what is behind `whole_length`. Gives how many can be read back afterwards.
    pub(crate) fn mend(
        &self,
        number: u32,
        pages: &BTreeMap<u32, Vec<u8>>,
        whole_length: Option<u64>,
    ) -> Result<u64, RepoError> {
        self.check_sound()?;
        let [path, _] = pack_files(number, self.epoch_of(number));
        let open = || self.disk.open(&path, Access::ReadWrite, Caching::Direct);
        match open() {
            Err(error) if error.source.kind() == std::io::ErrorKind::PermissionDenied => {
                // A locked point holds it. Mending gives back what the lock is there to keep.
                self.disk.set_immutable(&path, false)?;
                let mended = open().and_then(|file| mend_pages(file.as_ref(), pages, whole_length));
                self.disk.set_immutable(&path, true)?;
                Ok(mended?)
            }
            opened => Ok(mend_pages(opened?.as_ref(), pages, whole_length)?),
        }
    }

    /// Forgets what was read of a pack's end before it was mended.
    pub(crate) fn forget_table(&self, number: u32) {
        self.tables.remove(&number);
    }

    /// Whether a pack has its table, or had it.
    pub(crate) fn is_sealed(&self, number: u32) -> bool {
        self.summary(number).is_some_and(|summary| summary.sealed)
    }

    /// What the repository's clock says.
    pub(crate) fn now(&self) -> UnixNanoseconds {
        self.clock.now()
    }

    fn epoch_of(&self, number: u32) -> u32 {
        self.summary(number)
            .map_or(self.epoch, |summary| summary.epoch)
    }

    /// Bytes of all packs, the open ones as far as they are filled.
    pub(crate) fn stored_bytes(&self) -> u64 {
        let state = self.state.lock();
        let sealed: u64 = state.packs.values().map(|pack| pack.length_bytes).sum();
        sealed + state.open.iter().map(|pack| pack.end()).sum::<u64>()
    }
}

impl fmt::Debug for PackSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PackSet")
            .field("repository", &self.repository)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct TableWeight;

impl Weighter<u32, Arc<PackTable>> for TableWeight {
    fn weight(&self, _: &u32, table: &Arc<PackTable>) -> u64 {
        table.memory_bytes() as u64
    }
}

/// Memory for tables. Most have some hundred kilobytes.
const TABLES_BYTES_MAX: u64 = 32 << 20;
const TABLES_EXPECTED: usize = 64;
