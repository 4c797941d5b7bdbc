//! The account of space: how often each chunk and node is needed, and how much of each pack is alive.
//!
//! An id is needed as often as it has runs (see [`walk`]) in the maps of the points, and once for each place in a
//! stream. It is alive while that is more than 0. A point that comes or goes costs what it differs from its neighbours,
//! never what is stored. The account can be thrown away: it is made again by adding every point.
//!
//! Counts may be too high after damage, which keeps space in use; they are never too low.
//! `docs/formats/index.md` says how it is kept, `docs/design/0008-space.md` why it is so.

mod deltas;
mod estimate;
mod operation;
mod settle;
mod store;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};

pub use estimate::SpaceEstimate;
pub(crate) use store::{AccountStore, Changes, Entry, MemoryAccount};

use crate::catalog::{Catalog, Point, PointName};
use crate::chunk::ChunkId;
use crate::error::RepoError;
use crate::image::Pointer;
use crate::pack::Place;
use crate::store::ChunkStore;

use self::deltas::Delta;

/// Counts, and the points that they stand for.
pub(crate) struct Account {
    store: Arc<dyn AccountStore>,
    records: Arc<ChunkStore>,
    state: Mutex<Option<State>>,
    /// How often it was thrown away.
    restarts: AtomicU64,
}

/// What is in memory of an account.
#[derive(Debug)]
struct State {
    /// Points that are accounted for.
    points: BTreeMap<PointName, Arc<Point>>,
    /// Bytes alive in each pack.
    alive: BTreeMap<u32, u64>,
}

/// What an account stood for at a moment. An entry that is absent from then on says that none of these points needs the
/// record, as long as the account [has kept](Account::has_kept) it.
#[derive(Debug)]
pub(crate) struct Standing {
    /// Points that were accounted for.
    pub(crate) points: Vec<Arc<Point>>,
    restarts: u64,
}

/// What became dead by a change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Freed {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
}

/// An account in use by one caller; others wait.
pub(crate) struct OpenAccount<'a> {
    account: &'a Account,
    state: MutexGuard<'a, Option<State>>,
}

impl Account {
    pub(crate) fn new(store: Arc<dyn AccountStore>, records: Arc<ChunkStore>) -> Self {
        Self {
            store,
            records,
            state: Mutex::new(None),
            restarts: AtomicU64::new(0),
        }
    }

    /// Waits for others to be done with it.
    pub(crate) fn lock(&self) -> OpenAccount<'_> {
        OpenAccount {
            account: self,
            state: self.state.lock(),
        }
    }

    /// As [`lock`](Self::lock), unless somebody is at it for long.
    pub(crate) fn try_lock(&self, wait: std::time::Duration) -> Option<OpenAccount<'_>> {
        Some(OpenAccount {
            account: self,
            state: self.state.try_lock_for(wait)?,
        })
    }

    /// Whether it was not thrown away since.
    pub(crate) fn has_kept(&self, standing: &Standing) -> bool {
        self.restarts.load(Ordering::SeqCst) == standing.restarts
    }

    /// The entries of `ids`, in order.
    pub(crate) fn entries(&self, ids: &[ChunkId]) -> Result<Vec<Option<Entry>>, RepoError> {
        self.store.entries(ids)
    }

    /// Makes everything so far last.
    pub(crate) fn flush(&self) -> Result<(), RepoError> {
        self.store.flush()
    }
}

impl OpenAccount<'_> {
    /// Bytes alive in each pack.
    pub(crate) fn alive(&self) -> BTreeMap<u32, u64> {
        self.state
            .as_ref()
            .map(|state| state.alive.clone())
            .unwrap_or_default()
    }

    /// Bytes alive in all packs.
    pub(crate) fn alive_bytes(&self) -> u64 {
        let state = self.state.as_ref();
        state.map_or(0, |state| state.alive.values().sum())
    }

    /// Points of the catalog that are still to be accounted for, in the order of their names.
    pub(crate) fn unaccounted(&self, catalog: &Catalog) -> Vec<Arc<Point>> {
        match self.state.as_ref() {
            Some(state) => catalog.unaccounted(&state.points),
            None => catalog.unaccounted(&BTreeMap::new()),
        }
    }

    /// What it stands for now.
    pub(crate) fn standing(&self) -> Standing {
        let state = self.state.as_ref();
        Standing {
            points: state.map_or_else(Vec::new, |state| state.points.values().cloned().collect()),
            restarts: self.account.restarts.load(Ordering::SeqCst),
        }
    }

    /// Whether a point is accounted for.
    fn has(&self, name: &PointName) -> bool {
        self.state
            .as_ref()
            .is_some_and(|state| state.points.contains_key(name))
    }

    /// Forgets everything, to be made again.
    pub(crate) fn clear(&mut self) -> Result<(), RepoError> {
        // Before anything is missing.
        self.account.restarts.fetch_add(1, Ordering::SeqCst);
        *self.state = None;
        self.account.store.clear()
    }

    /// Notes that records were copied to other places.
    pub(crate) fn moved(&mut self, moves: &[(ChunkId, Place, Place)]) -> Result<(), RepoError> {
        let ids: Vec<_> = moves.iter().map(|(id, _, _)| *id).collect();
        let entries = self.account.store.entries(&ids)?;
        let mut changes = Changes::default();
        let mut alive = AliveChanges::default();
        for ((id, from, to), entry) in moves.iter().zip(entries) {
            if let Some(entry) = entry.filter(|entry| entry.place == *from) {
                alive.leave(&entry);
                let entry = Entry {
                    place: *to,
                    ..entry
                };
                alive.arrive(&entry);
                changes.entries.push((*id, Some(entry)));
            }
        }
        self.write(changes, alive)
    }

    /// Changes counts, together with what else belongs to the same step.
    fn apply(
        &mut self,
        deltas: &[(ChunkId, Delta)],
        mut changes: Changes,
    ) -> Result<Freed, RepoError> {
        let ids: Vec<_> = deltas.iter().map(|(id, _)| *id).collect();
        let entries = self.account.store.entries(&ids)?;
        let mut freed = Freed::default();
        let mut alive = AliveChanges::default();
        for ((id, delta), entry) in deltas.iter().zip(entries) {
            if delta.by == 0 {
                continue;
            }
            let count = entry.map_or(0, |entry| entry.count);
            let count = count
                .checked_add_signed(delta.by)
                .ok_or_else(|| Account::inexact(*id))?;
            let next = match (entry, count) {
                (Some(entry), 0) => {
                    alive.leave(&entry);
                    freed.records += 1;
                    freed.bytes += u64::from(entry.length);
                    None
                }
                (_, 0) => continue,
                (Some(entry), count) => Some(Entry { count, ..entry }),
                (None, count) => {
                    let (place, length) = self.account.records.locate(*id, delta.hint)?;
                    let entry = Entry {
                        count,
                        place,
                        length,
                    };
                    alive.arrive(&entry);
                    Some(entry)
                }
            };
            changes.entries.push((*id, next));
        }
        self.write(changes, alive)?;
        Ok(freed)
    }

    fn write(&mut self, mut changes: Changes, alive: AliveChanges) -> Result<(), RepoError> {
        let Some(state) = self.state.as_mut() else {
            return Err(RepoError::Refused("the account of space is not open"));
        };
        for (pack, by) in &alive.packs {
            let before = state.alive.get(pack).copied().unwrap_or(0);
            let after = before.saturating_add_signed(*by);
            changes.alive.push((*pack, after));
        }
        self.account.store.write(&changes)?;
        for (pack, bytes) in changes.alive {
            match bytes {
                0 => drop(state.alive.remove(&pack)),
                bytes => drop(state.alive.insert(pack, bytes)),
            }
        }
        Ok(())
    }
}

/// By how much more or fewer bytes of packs are alive.
#[derive(Debug, Default)]
struct AliveChanges {
    packs: BTreeMap<u32, i64>,
}

impl AliveChanges {
    fn arrive(&mut self, entry: &Entry) {
        *self.packs.entry(entry.place.pack).or_default() += i64::from(entry.length);
    }

    fn leave(&mut self, entry: &Entry) {
        *self.packs.entry(entry.place.pack).or_default() -= i64::from(entry.length);
    }
}

impl Account {
    fn inexact(id: ChunkId) -> RepoError {
        RepoError::Inexact {
            detail: format!("record {id} is needed less than never"),
        }
    }
}

/// The map of the disk of that name, if the point has one.
fn map_of(point: Option<&Arc<Point>>, disk: &str) -> Option<(Pointer, u64)> {
    let image = point?.images.iter().find(|image| image.name == disk)?;
    Some((image.root, image.size_bytes))
}

/// The points before and after `name` in `points` that have a disk of that name, passing over those in `gone`.
fn neighbours<'a>(
    points: &'a BTreeMap<PointName, Arc<Point>>,
    gone: &BTreeSet<PointName>,
    name: &PointName,
    disk: &str,
) -> (Option<&'a Arc<Point>>, Option<&'a Arc<Point>>) {
    let fits = |(other, point): &(&PointName, &Arc<Point>)| {
        !gone.contains(*other) && map_of(Some(point), disk).is_some()
    };
    let same_workload = |(other, _): &(&PointName, &Arc<Point>)| other.workload == name.workload;
    let before = points
        .range(..name)
        .rev()
        .take_while(same_workload)
        .find(fits)
        .map(|(_, point)| point);
    let after = points
        .range(name..)
        .skip_while(|(other, _)| *other == name)
        .take_while(same_workload)
        .find(fits)
        .map(|(_, point)| point);
    (before, after)
}

impl fmt::Debug for Account {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Account")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for OpenAccount<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.account.fmt(formatter)
    }
}
