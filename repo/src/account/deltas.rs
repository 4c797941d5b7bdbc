//! Changes of counts, gathered before they are made.

use std::collections::HashMap;

use super::walk::Sink;
use crate::chunk::ChunkId;
use crate::error::RepoError;
use crate::image::Pointer;
use crate::pack::Place;

/// Whether a point comes or goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Add,
    Remove,
}

/// By how much counts change.
#[derive(Debug)]
pub(super) struct Deltas {
    direction: Direction,
    changes: HashMap<ChunkId, Delta>,
}

/// The change of one count.
#[derive(Debug, Clone, Copy)]
pub(super) struct Delta {
    pub(super) by: i64,
    /// Where the map says that the record is.
    pub(super) hint: Place,
}

impl Deltas {
    pub(super) fn new(direction: Direction) -> Self {
        Self {
            direction,
            changes: HashMap::new(),
        }
    }

    /// Something is needed once more, or once less if the point goes.
    pub(super) fn count(&mut self, pointer: Pointer) {
        if pointer.id.is_zero() {
            return;
        }
        let delta = self.changes.entry(pointer.id).or_insert(Delta {
            by: 0,
            hint: pointer.place,
        });
        match self.direction {
            Direction::Add => delta.by += 1,
            Direction::Remove => delta.by -= 1,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.changes.len()
    }

    /// Gives what was gathered, sorted by name as the store has it, and starts anew.
    pub(super) fn take(&mut self) -> Vec<(ChunkId, Delta)> {
        let mut changes: Vec<_> = self.changes.drain().collect();
        changes.sort_unstable_by_key(|(id, _)| *id);
        changes
    }
}

impl Sink for Deltas {
    fn own_run(&mut self, pointer: Pointer) {
        self.count(pointer);
    }

    fn split_run(&mut self, pointer: Pointer) {
        self.count(pointer);
    }

    fn passed(&mut self, _: u64) -> Result<(), RepoError> {
        Ok(())
    }
}
