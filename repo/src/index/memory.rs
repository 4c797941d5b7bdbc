//! An index in RAM.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Coverage, IndexStore, OpenedIndex, Place};
use crate::account::MemoryAccount;
use crate::chunk::ChunkId;
use crate::error::RepoError;
use crate::health::MemoryHealth;
use crate::overlay::MemoryPages;

/// An index that ends with the process, unless a [`SimulatedIndex`] keeps it. Like the one in use it has no log: a crash
/// takes a tail of what was inserted since the last flush, in order.
#[derive(Debug, Default)]
pub(crate) struct MemoryIndex {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    current: Content,
    /// The content at the last flush, and what was inserted since.
    flushed: Content,
    since: Vec<Insertion>,
}

#[derive(Debug, Default, Clone)]
struct Content {
    places: HashMap<ChunkId, Place>,
    coverage: HashMap<u32, Coverage>,
    highest_pack: u32,
}

#[derive(Debug, Clone)]
enum Insertion {
    Places(Vec<(ChunkId, Place)>),
    Removed(Vec<(ChunkId, Place)>),
    Coverage(u32, Coverage),
    Forgotten(u32),
    HighestPack(u32),
}

impl MemoryIndex {
    fn insert_one(&self, insertion: Insertion) {
        let mut state = self.state.lock();
        state.current.take(&insertion);
        state.since.push(insertion);
    }

    /// The index as a crash leaves it: `choice` says how many of the last insertions are lost.
    fn crash(&self, choice: u64) -> Self {
        let state = self.state.lock();
        let kept = usize::try_from(choice).unwrap_or(0) % (state.since.len() + 1);
        let mut content = state.flushed.clone();
        for insertion in state.since.iter().take(kept) {
            content.take(insertion);
        }
        Self {
            state: Mutex::new(State {
                flushed: content.clone(),
                current: content,
                since: Vec::new(),
            }),
        }
    }
}

impl Content {
    fn take(&mut self, insertion: &Insertion) {
        match insertion {
            Insertion::Places(entries) => self.places.extend(entries.iter().copied()),
            Insertion::Removed(entries) => {
                for (id, place) in entries {
                    if self.places.get(id) == Some(place) {
                        self.places.remove(id);
                    }
                }
            }
            Insertion::Forgotten(pack) => drop(self.coverage.remove(pack)),
            Insertion::Coverage(pack, coverage) => {
                self.coverage.insert(*pack, *coverage);
            }
            Insertion::HighestPack(number) => self.highest_pack = *number,
        }
    }
}

impl IndexStore for MemoryIndex {
    fn find(&self, ids: &[ChunkId]) -> Result<Vec<Option<Place>>, RepoError> {
        let state = self.state.lock();
        let places = &state.current.places;
        Ok(ids.iter().map(|id| places.get(id).copied()).collect())
    }

    fn insert(&self, entries: &[(ChunkId, Place)]) -> Result<(), RepoError> {
        self.insert_one(Insertion::Places(entries.to_vec()));
        Ok(())
    }

    fn remove(&self, entries: &[(ChunkId, Place)]) -> Result<(), RepoError> {
        self.insert_one(Insertion::Removed(entries.to_vec()));
        Ok(())
    }

    fn coverage(&self, pack: u32) -> Result<Option<Coverage>, RepoError> {
        Ok(self.state.lock().current.coverage.get(&pack).copied())
    }

    fn set_coverage(&self, pack: u32, coverage: Coverage) -> Result<(), RepoError> {
        self.insert_one(Insertion::Coverage(pack, coverage));
        Ok(())
    }

    fn forget_pack(&self, pack: u32) -> Result<(), RepoError> {
        self.insert_one(Insertion::Forgotten(pack));
        Ok(())
    }

    fn highest_pack(&self) -> Result<u32, RepoError> {
        Ok(self.state.lock().current.highest_pack)
    }

    fn set_highest_pack(&self, pack: u32) -> Result<(), RepoError> {
        self.insert_one(Insertion::HighestPack(pack));
        Ok(())
    }

    fn entry_count(&self) -> u64 {
        self.state.lock().current.places.len() as u64
    }

    fn flush(&self) -> Result<(), RepoError> {
        let state = &mut *self.state.lock();
        for insertion in state.since.drain(..) {
            state.flushed.take(&insertion);
        }
        Ok(())
    }
}

/// What the index of a repository on a [`SimulatedDisk`](crate::disk::SimulatedDisk) keeps from one opening to the
/// next. It can be thrown away at any time.
#[derive(Clone, Default)]
pub struct SimulatedIndex {
    index: Arc<MemoryIndex>,
    pages: Arc<MemoryPages>,
    health: Arc<MemoryHealth>,
    account: Arc<MemoryAccount>,
}

impl SimulatedIndex {
    /// Makes an empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// The index as a crash leaves it, of whatever kind: a tail of what was not flushed is lost, perhaps all, perhaps
    /// nothing, and of overlay maps another tail than of chunks. `seed` chooses.
    #[must_use]
    pub fn crash(&self, seed: u64) -> Self {
        Self {
            index: Arc::new(self.index.crash(seed)),
            pages: Arc::new(self.pages.crash(seed / 7)),
            health: Arc::clone(&self.health),
            account: Arc::new(self.account.crash(seed / 13)),
        }
    }

    pub(crate) fn opened(&self) -> OpenedIndex {
        OpenedIndex {
            index: Arc::clone(&self.index) as Arc<dyn IndexStore>,
            pages: Arc::clone(&self.pages) as _,
            health: Arc::clone(&self.health) as _,
            account: Arc::clone(&self.account) as _,
        }
    }
}

impl fmt::Debug for SimulatedIndex {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SimulatedIndex")
            .field("entries", &self.index.entry_count())
            .finish_non_exhaustive()
    }
}
