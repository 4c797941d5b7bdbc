//! Where the parts of an overlay's map go that memory does not keep.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use parking_lot::Mutex;
use uuid::Uuid;

use crate::error::RepoError;

/// Keeps pages of overlay maps. All of it can be thrown away: the journal has everything.
///
/// A store holds for each overlay the pages and the checkpoint as one [`put`](PageStore::put) after the other left
/// them. After a crash it may have lost the latest puts, each whole, but none before the last
/// [`flush`](PageStore::flush).
pub trait PageStore: Send + Sync + fmt::Debug + 'static {
    /// The newest content of a page.
    fn get(&self, overlay: Uuid, key: PageKey) -> Result<Option<Vec<u8>>, RepoError>;

    /// Stores pages and the checkpoint that belongs to them in one step.
    fn put(
        &self,
        overlay: Uuid,
        pages: &[(PageKey, &[u8])],
        checkpoint: &[u8],
    ) -> Result<(), RepoError>;

    /// The checkpoint of the newest put.
    fn checkpoint(&self, overlay: Uuid) -> Result<Option<Vec<u8>>, RepoError>;

    /// Makes all puts so far last.
    fn flush(&self) -> Result<(), RepoError>;

    /// Drops everything of an overlay.
    fn forget(&self, overlay: Uuid) -> Result<(), RepoError>;
}

/// Names a page of a map: a level in the top byte, and a number within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageKey(pub u64);

/// Pages in memory, for tests. It can lose what was not flushed.
#[derive(Debug, Default)]
pub struct MemoryPages {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    current: Overlays,
    /// What a crash may go back to: the content at the last flush and after each put since.
    history: Vec<Overlays>,
}

type Overlays = HashMap<Uuid, Stored>;

#[derive(Debug, Default, Clone)]
struct Stored {
    pages: BTreeMap<PageKey, Vec<u8>>,
    checkpoint: Option<Vec<u8>>,
}

impl MemoryPages {
    /// Makes an empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the store as a crash would leave it: `seed` chooses how many of the puts since the last flush are lost.
    pub fn crash(&self, seed: u64) -> Self {
        let state = self.state.lock();
        let choices = state.history.len() + 1;
        let choice = usize::try_from(seed).unwrap_or(0) % choices;
        let current = state.history.get(choice).unwrap_or(&state.current).clone();
        Self {
            state: Mutex::new(State {
                history: vec![current.clone()],
                current,
            }),
        }
    }

    /// Number of pages of an overlay.
    pub fn page_count(&self, overlay: Uuid) -> usize {
        self.state
            .lock()
            .current
            .get(&overlay)
            .map_or(0, |stored| stored.pages.len())
    }

    fn change(&self, change: impl FnOnce(&mut Overlays)) {
        let mut state = self.state.lock();
        if state.history.is_empty() {
            state.history.push(Overlays::new());
        }
        change(&mut state.current);
        // Tests that put very often need not remember every step.
        if state.history.len() < HISTORY_MAX {
            let copy = state.current.clone();
            state.history.push(copy);
        }
    }
}

impl PageStore for MemoryPages {
    fn get(&self, overlay: Uuid, key: PageKey) -> Result<Option<Vec<u8>>, RepoError> {
        let state = self.state.lock();
        Ok(state
            .current
            .get(&overlay)
            .and_then(|stored| stored.pages.get(&key).cloned()))
    }

    fn put(
        &self,
        overlay: Uuid,
        pages: &[(PageKey, &[u8])],
        checkpoint: &[u8],
    ) -> Result<(), RepoError> {
        self.change(|overlays| {
            let stored = overlays.entry(overlay).or_default();
            stored
                .pages
                .extend(pages.iter().map(|(key, content)| (*key, content.to_vec())));
            stored.checkpoint = Some(checkpoint.to_vec());
        });
        Ok(())
    }

    fn checkpoint(&self, overlay: Uuid) -> Result<Option<Vec<u8>>, RepoError> {
        let state = self.state.lock();
        Ok(state
            .current
            .get(&overlay)
            .and_then(|stored| stored.checkpoint.clone()))
    }

    fn flush(&self) -> Result<(), RepoError> {
        let mut state = self.state.lock();
        let copy = state.current.clone();
        state.history = vec![copy];
        Ok(())
    }

    fn forget(&self, overlay: Uuid) -> Result<(), RepoError> {
        self.change(|overlays| {
            overlays.remove(&overlay);
        });
        Ok(())
    }
}

const HISTORY_MAX: usize = 64;
