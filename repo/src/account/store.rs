//! Where the account is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use parking_lot::Mutex;

use crate::catalog::PointName;
use crate::chunk::ChunkId;
use crate::error::RepoError;
use crate::pack::Place;

/// What is known of a chunk or node that some point needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// How often it is needed; never 0.
    pub(crate) count: u64,
    /// The record that is kept for it.
    pub(crate) place: Place,
    /// Bytes of that record.
    pub(crate) length: u32,
}

/// Changes that are made in one step.
#[derive(Debug, Clone, Default)]
pub(crate) struct Changes {
    /// Entries by name; `None` drops one.
    pub(crate) entries: Vec<(ChunkId, Option<Entry>)>,
    /// Bytes that are alive in a pack; 0 drops the line.
    pub(crate) alive: Vec<(u32, u64)>,
    /// Points that come in (true) or go.
    pub(crate) points: Vec<(PointName, bool)>,
    /// What is under way from now on, if that changes.
    pub(crate) operation: Option<Option<Vec<u8>>>,
}

/// Keeps the account. All of it can be thrown away: manifests and maps have everything.
///
/// A store holds what one [`write`](AccountStore::write) after the other left. After a crash it may have lost the
/// latest of them, each whole, but none before the last [`flush`](AccountStore::flush).
pub(crate) trait AccountStore: Send + Sync + fmt::Debug {
    /// The entry of each of `ids`, in order.
    fn entries(&self, ids: &[ChunkId]) -> Result<Vec<Option<Entry>>, RepoError>;

    /// Bytes alive in each pack.
    fn alive(&self) -> Result<BTreeMap<u32, u64>, RepoError>;

    /// The points that are accounted for.
    fn points(&self) -> Result<BTreeSet<PointName>, RepoError>;

    /// What was under way at the last write.
    fn operation(&self) -> Result<Option<Vec<u8>>, RepoError>;

    /// Makes all changes in one step.
    fn write(&self, changes: &Changes) -> Result<(), RepoError>;

    /// Forgets everything.
    fn clear(&self) -> Result<(), RepoError>;

    /// Makes all writes so far last.
    fn flush(&self) -> Result<(), RepoError>;
}

/// An account in memory, for tests. It can refuse a write, as a crash before it would, and lose what was not flushed.
#[derive(Debug, Default)]
pub(crate) struct MemoryAccount {
    state: Mutex<MemoryState>,
}

#[derive(Debug, Default)]
struct MemoryState {
    current: Content,
    /// The content at the last flush, and what was written since.
    flushed: Content,
    since: Vec<Changes>,
    /// Writes that are still taken.
    writes_left: Option<u64>,
}

#[derive(Debug, Default, Clone)]
struct Content {
    entries: BTreeMap<ChunkId, Entry>,
    alive: BTreeMap<u32, u64>,
    points: BTreeSet<PointName>,
    operation: Option<Vec<u8>>,
}

impl MemoryAccount {
    /// The account as a crash leaves it: `choice` says how many of the last writes are lost.
    pub(crate) fn crash(&self, choice: u64) -> Self {
        let state = self.state.lock();
        let kept = usize::try_from(choice).unwrap_or(0) % (state.since.len() + 1);
        let mut content = state.flushed.clone();
        for changes in state.since.iter().take(kept) {
            content.take(changes);
        }
        Self {
            state: Mutex::new(MemoryState {
                current: content.clone(),
                flushed: content,
                ..MemoryState::default()
            }),
        }
    }
}

#[cfg(test)]
impl MemoryAccount {
    /// Takes so many more writes, or any number.
    pub(crate) fn allow_writes(&self, count: Option<u64>) {
        self.state.lock().writes_left = count;
    }

    /// Everything but what is under way.
    pub(crate) fn content(
        &self,
    ) -> (
        BTreeMap<ChunkId, Entry>,
        BTreeMap<u32, u64>,
        BTreeSet<PointName>,
    ) {
        let content = self.state.lock().current.clone();
        (content.entries, content.alive, content.points)
    }
}

impl Content {
    fn take(&mut self, changes: &Changes) {
        for (id, entry) in &changes.entries {
            match entry {
                Some(entry) => drop(self.entries.insert(*id, *entry)),
                None => drop(self.entries.remove(id)),
            }
        }
        for (pack, bytes) in &changes.alive {
            match bytes {
                0 => drop(self.alive.remove(pack)),
                bytes => drop(self.alive.insert(*pack, *bytes)),
            }
        }
        for (point, present) in &changes.points {
            match present {
                true => drop(self.points.insert(point.clone())),
                false => drop(self.points.remove(point)),
            }
        }
        if let Some(operation) = &changes.operation {
            self.operation.clone_from(operation);
        }
    }
}

impl AccountStore for MemoryAccount {
    fn entries(&self, ids: &[ChunkId]) -> Result<Vec<Option<Entry>>, RepoError> {
        let state = self.state.lock();
        let entries = &state.current.entries;
        Ok(ids.iter().map(|id| entries.get(id).copied()).collect())
    }

    fn alive(&self) -> Result<BTreeMap<u32, u64>, RepoError> {
        Ok(self.state.lock().current.alive.clone())
    }

    fn points(&self) -> Result<BTreeSet<PointName>, RepoError> {
        Ok(self.state.lock().current.points.clone())
    }

    fn operation(&self) -> Result<Option<Vec<u8>>, RepoError> {
        Ok(self.state.lock().current.operation.clone())
    }

    fn write(&self, changes: &Changes) -> Result<(), RepoError> {
        let mut state = self.state.lock();
        if let Some(left) = &mut state.writes_left {
            *left = left.checked_sub(1).ok_or(RepoError::Stopped)?;
        }
        state.current.take(changes);
        state.since.push(changes.clone());
        Ok(())
    }

    fn clear(&self) -> Result<(), RepoError> {
        let mut state = self.state.lock();
        *state = MemoryState {
            writes_left: state.writes_left,
            ..MemoryState::default()
        };
        Ok(())
    }

    fn flush(&self) -> Result<(), RepoError> {
        let mut state = self.state.lock();
        state.flushed = state.current.clone();
        state.since.clear();
        Ok(())
    }
}
