//! What is known of the health of packs: when each was last proven, which records are lost, which packs need care.
//!
//! All of it is kept beside the index and can be lost with it: a pack without a proof counts as never proven, and a
//! lost record is found again by the next read or verification.

mod keeper;
mod store;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};

pub(crate) use keeper::Keeper;
pub(crate) use store::{HealthStore, MemoryHealth};

use crate::chunk::ChunkId;
use crate::clock::UnixNanoseconds;
use crate::error::RepoError;
use crate::pack::Place;

/// The health of all packs.
pub(crate) struct Health {
    store: Arc<dyn HealthStore>,
    /// Places where a record is lost for good, by its name. Mostly there are none.
    lost: RwLock<HashMap<ChunkId, Vec<Place>>>,
    any_lost: AtomicBool,
    /// When packs were last proven whole.
    proofs: RwLock<HashMap<u32, UnixNanoseconds>>,
    /// When packs were last read whole, whatever came of it.
    examined: Mutex<HashMap<u32, UnixNanoseconds>>,
    care: Mutex<BTreeMap<u32, Care>>,
    care_wanted: Condvar,
    counters: RepairCounters,
    listener: Mutex<Option<Listener>>,
}

/// Is told what came of looking after packs.
type Listener = Box<dyn Fn(CareReport) + Send>;

/// What came of looking after a damaged pack unasked, upon a read that met the damage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CareReport {
    /// Damage that was mended, as a sentence.
    pub mended: Option<String>,
    /// Damage that is rebuilt for each read and could not be written back, as a sentence.
    pub mendable: Option<String>,
    /// What nothing could rebuild, as sentences that begin with the pack.
    pub lost: Vec<String>,
}

/// What a pack needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Care {
    /// Parity, which it has not.
    Parity,
    /// To be examined and mended: a read met something hurt.
    Mend,
}

/// What was repaired, or could not be, since the repository was opened.
#[derive(Debug, Default)]
pub struct RepairCounters {
    /// Records that a read found hurt and rebuilt from parity.
    pub rebuilt_reads: AtomicU64,
    /// Records that a read found hurt and could not rebuild.
    pub lost_reads: AtomicU64,
    /// Pages of packs that were rebuilt and written back.
    pub mended_pages: AtomicU64,
    /// Packs that were made whole again.
    pub mended_packs: AtomicU64,
    /// Parity files made, for new packs or in place of damaged ones.
    pub parity_files: AtomicU64,
    /// Bytes of these.
    pub parity_bytes: AtomicU64,
    /// Packs proven by verification.
    pub proven_packs: AtomicU64,
    /// Bytes of packs that verification read.
    pub verified_bytes: AtomicU64,
}

impl Health {
    /// Takes over what is remembered.
    pub(crate) fn open(store: Arc<dyn HealthStore>) -> Self {
        let mut lost: HashMap<ChunkId, Vec<Place>> = HashMap::new();
        match store.lost() {
            Ok(entries) => {
                for (id, place) in entries {
                    lost.entry(id).or_default().push(place);
                }
            }
            Err(error) => tracing::warn!(%error, "lost records are not remembered"),
        }
        let proofs = store.proofs().unwrap_or_else(|error| {
            tracing::warn!(%error, "proofs of packs are not remembered");
            Vec::new()
        });
        Self {
            store,
            proofs: RwLock::new(proofs.into_iter().collect()),
            any_lost: AtomicBool::new(!lost.is_empty()),
            lost: RwLock::new(lost),
            examined: Mutex::default(),
            care: Mutex::default(),
            care_wanted: Condvar::new(),
            counters: RepairCounters::default(),
            listener: Mutex::default(),
        }
    }

    /// Has `listener` told what comes of looking after packs, in place of who was told before.
    pub(crate) fn set_listener(&self, listener: Listener) {
        *self.listener.lock() = Some(listener);
    }

    /// Tells what came of looking after a pack.
    pub(crate) fn tell(&self, report: CareReport) {
        if report != CareReport::default()
            && let Some(listener) = self.listener.lock().as_ref()
        {
            listener(report);
        }
    }

    pub(crate) fn counters(&self) -> &RepairCounters {
        &self.counters
    }

    /// When a pack was last proven whole.
    pub(crate) fn proof(&self, pack: u32) -> Option<UnixNanoseconds> {
        self.proofs.read().get(&pack).copied()
    }

    /// When a pack was last read whole, so that one which cannot be proven does not hold up the others. A time after `now` is
    /// that of a wrong clock, and says nothing.
    pub(crate) fn examined(&self, pack: u32, now: UnixNanoseconds) -> Option<UnixNanoseconds> {
        let examined = self.examined.lock().get(&pack).copied();
        let known = [examined, self.proof(pack)].into_iter().flatten();
        known.filter(|time| *time <= now).max()
    }

    /// Remembers that a pack of so many bytes was read whole.
    pub(crate) fn set_examined(&self, pack: u32, bytes: u64, at: UnixNanoseconds) {
        self.counters
            .verified_bytes
            .fetch_add(bytes, Ordering::Relaxed);
        self.examined.lock().insert(pack, at);
    }

    /// Remembers that a pack was proven.
    pub(crate) fn set_proof(&self, pack: u32, at: UnixNanoseconds) {
        self.counters.proven_packs.fetch_add(1, Ordering::Relaxed);
        self.proofs.write().insert(pack, at);
        note(self.store.set_proof(pack, at));
    }

    /// When a part of the catalog, by its name, was last walked and found whole.
    pub(crate) fn walked(&self, name: &str) -> Option<UnixNanoseconds> {
        self.store.walked(name).unwrap_or_default()
    }

    /// Remembers that all of it was there.
    pub(crate) fn set_walked(&self, name: &str, at: UnixNanoseconds) {
        note(self.store.set_walked(name, at));
    }

    /// Makes what was remembered last.
    pub(crate) fn flush(&self) {
        note(self.store.flush());
    }

    /// Whether the record of that name cannot be read any more, at one place at least.
    pub(crate) fn is_lost(&self, id: ChunkId) -> bool {
        self.any_lost.load(Ordering::Acquire) && self.lost.read().contains_key(&id)
    }

    /// Whether the record of that name at that place is lost. Elsewhere it may have been stored again.
    pub(crate) fn is_lost_at(&self, id: ChunkId, place: Place) -> bool {
        self.any_lost.load(Ordering::Acquire)
            && self
                .lost
                .read()
                .get(&id)
                .is_some_and(|places| places.contains(&place))
    }

    /// Remembers records that nothing can rebuild, so that the next backup which brings them stores them again.
    pub(crate) fn set_lost(&self, entries: &[(ChunkId, Place)]) {
        let mut fresh = Vec::new();
        {
            let mut lost = self.lost.write();
            for (id, place) in entries {
                let places = lost.entry(*id).or_default();
                if !places.contains(place) {
                    places.push(*place);
                    fresh.push((*id, *place));
                }
            }
        }
        self.any_lost.store(true, Ordering::Release);
        if !fresh.is_empty() {
            note(self.store.set_lost(&fresh));
        }
    }

    /// Forgets losses of a pack whose records are all sound again, or that is gone.
    pub(crate) fn clear_lost(&self, pack: u32) {
        if !self.any_lost.load(Ordering::Acquire) {
            return;
        }
        let mut cleared = Vec::new();
        {
            let mut lost = self.lost.write();
            for (id, places) in lost.iter_mut() {
                let here = places.iter().filter(|place| place.pack == pack);
                cleared.extend(here.map(|place| (*id, *place)));
                places.retain(|place| place.pack != pack);
            }
            lost.retain(|_, places| !places.is_empty());
        }
        note(self.store.clear_lost(&cleared));
    }

    /// Where records are lost.
    pub(crate) fn lost_places(&self) -> HashSet<Place> {
        self.lost.read().values().flatten().copied().collect()
    }

    /// How many records are lost.
    pub(crate) fn lost_count(&self) -> u64 {
        self.lost.read().len() as u64
    }

    /// Asks for a pack to be looked after. Says whether that is news.
    pub(crate) fn want_care(&self, pack: u32, care: Care) -> bool {
        let mut wanted = self.care.lock();
        let before = wanted.get(&pack).copied();
        if before >= Some(care) {
            return false;
        }
        wanted.insert(pack, care);
        self.care_wanted.notify_all();
        true
    }

    /// Packs that wait to be looked after.
    pub(crate) fn care_count(&self) -> u64 {
        self.care.lock().len() as u64
    }

    /// The next pack to look after; waits a little for one, unless all shall end.
    fn next_care(&self, wait: Duration, ends: &AtomicBool) -> Option<(u32, Care)> {
        let mut care = self.care.lock();
        if care.is_empty() && !ends.load(Ordering::Acquire) {
            self.care_wanted.wait_for(&mut care, wait);
        }
        care.pop_first()
    }

    /// The next pack to look after, if there is one.
    pub(crate) fn take_care(&self) -> Option<(u32, Care)> {
        self.care.lock().pop_first()
    }

    /// Wakes whoever waits for a pack.
    fn wake(&self) {
        // With the lock, so that nobody is between looking and waiting.
        let _care = self.care.lock();
        self.care_wanted.notify_all();
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Health")
            .field("lost", &self.lost_count())
            .field("care", &self.care_count())
            .finish_non_exhaustive()
    }
}

/// What is remembered of health is worth no failed call.
fn note(result: Result<(), RepoError>) {
    if let Err(error) = result {
        tracing::debug!(%error, "the health of packs is not remembered");
    }
}
