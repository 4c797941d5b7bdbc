//! The pages and nodes of a map that are in memory: those changed since the last checkpoint, and the most used.

use std::collections::HashMap;
use std::fmt;

use super::node::Node;
use super::page::Page;
use crate::overlay::PageKey;

/// A page or a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Resident {
    Page(Page),
    Node(Node),
}

/// Keeps changed ones until they are stored, others by the clock algorithm (a hand goes round and takes what was not
/// used since it last came by).
#[derive(Default)]
pub(crate) struct Residents {
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    index: HashMap<PageKey, usize>,
    hand: usize,
    bytes: usize,
    dirty_bytes: usize,
    /// Keys that became dirty, perhaps more than once or gone again.
    dirty: Vec<PageKey>,
    version: u64,
}

struct Slot {
    key: PageKey,
    resident: Resident,
    used: bool,
    dirty: bool,
    /// Changes with every change of content.
    version: u64,
    bytes: usize,
}

/// A changed page on its way to the store.
#[derive(Debug)]
pub(crate) struct Changed {
    pub(crate) key: PageKey,
    pub(crate) content: Vec<u8>,
    version: u64,
}

impl Residents {
    pub(crate) fn contains(&self, key: PageKey) -> bool {
        self.index.contains_key(&key)
    }

    pub(crate) fn page(&mut self, key: PageKey) -> Option<&Page> {
        match self.slot(key)? {
            Slot {
                resident: Resident::Page(page),
                ..
            } => Some(page),
            _ => None,
        }
    }

    pub(crate) fn node(&mut self, key: PageKey) -> Option<&Node> {
        match self.slot(key)? {
            Slot {
                resident: Resident::Node(node),
                ..
            } => Some(node),
            _ => None,
        }
    }

    /// Changes a page in place.
    pub(crate) fn change_page<R>(
        &mut self,
        key: PageKey,
        change: impl FnOnce(&mut Page) -> R,
    ) -> Option<R> {
        self.change(key, |resident| match resident {
            Resident::Page(page) => Some(change(page)),
            Resident::Node(_) => None,
        })
    }

    /// Changes a node in place.
    pub(crate) fn change_node<R>(
        &mut self,
        key: PageKey,
        change: impl FnOnce(&mut Node) -> R,
    ) -> Option<R> {
        self.change(key, |resident| match resident {
            Resident::Node(node) => Some(change(node)),
            Resident::Page(_) => None,
        })
    }

    /// Adds one that the store has.
    pub(crate) fn insert_stored(&mut self, key: PageKey, resident: Resident) {
        self.insert(key, resident, false);
    }

    /// Adds one that the store does not have, in place of any other of that name.
    pub(crate) fn insert_new(&mut self, key: PageKey, resident: Resident) {
        self.insert(key, resident, true);
        self.dirty.push(key);
    }

    pub(crate) fn remove(&mut self, key: PageKey) {
        if let Some(at) = self.index.remove(&key) {
            self.vacate(at);
        }
    }

    /// Memory of all.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Memory of those that the store does not have.
    pub(crate) fn dirty_bytes(&self) -> usize {
        self.dirty_bytes
    }

    /// Drops the least used of those that the store has until the rest needs at most `limit_bytes`, except `pinned`.
    pub(crate) fn shrink(&mut self, limit_bytes: usize, pinned: PageKey) {
        let mut steps = self.slots.len() * 2;
        while self.bytes > limit_bytes && self.bytes > self.dirty_bytes && steps > 0 {
            steps -= 1;
            self.hand = (self.hand + 1) % self.slots.len().max(1);
            let Some(Some(slot)) = self.slots.get_mut(self.hand) else {
                continue;
            };
            if slot.dirty || slot.key == pinned || std::mem::take(&mut slot.used) {
                continue;
            }
            let key = slot.key;
            self.remove(key);
        }
    }

    /// All that the store does not have, as it is now. They stay until [`stored`](Self::stored) says that they came
    /// there.
    pub(crate) fn changed(&mut self) -> Vec<Changed> {
        let mut keys = std::mem::take(&mut self.dirty);
        keys.sort_unstable();
        keys.dedup();
        let mut changed = Vec::with_capacity(keys.len());
        for key in keys {
            if let Some(slot) = self
                .index
                .get(&key)
                .and_then(|at| self.slots.get(*at)?.as_ref())
                .filter(|slot| slot.dirty)
            {
                let content = match &slot.resident {
                    Resident::Page(page) => page.encode(),
                    Resident::Node(node) => node.encode(),
                };
                changed.push(Changed {
                    key,
                    content,
                    version: slot.version,
                });
            }
        }
        changed
    }

    /// The store has these, or (`done` false) it does not.
    pub(crate) fn stored(&mut self, changed: &[Changed], done: bool) {
        for Changed { key, version, .. } in changed {
            let Some(Some(slot)) = self.index.get(key).and_then(|at| self.slots.get_mut(*at))
            else {
                continue;
            };
            if done && slot.version == *version {
                slot.dirty = false;
                self.dirty_bytes -= slot.bytes;
            } else {
                self.dirty.push(*key);
            }
        }
    }

    fn slot(&mut self, key: PageKey) -> Option<&mut Slot> {
        let at = *self.index.get(&key)?;
        let slot = self.slots.get_mut(at)?.as_mut()?;
        slot.used = true;
        Some(slot)
    }

    fn change<R>(
        &mut self,
        key: PageKey,
        change: impl FnOnce(&mut Resident) -> Option<R>,
    ) -> Option<R> {
        self.version += 1;
        let version = self.version;
        let slot = self.slot(key)?;
        let result = change(&mut slot.resident)?;
        let was_dirty = std::mem::replace(&mut slot.dirty, true);
        slot.version = version;
        let before = std::mem::replace(&mut slot.bytes, weight(&slot.resident));
        let after = slot.bytes;
        self.bytes = self.bytes - before + after;
        if was_dirty {
            self.dirty_bytes -= before;
        } else {
            self.dirty.push(key);
        }
        self.dirty_bytes += after;
        Some(result)
    }

    fn insert(&mut self, key: PageKey, resident: Resident, dirty: bool) {
        self.remove(key);
        self.version += 1;
        let bytes = weight(&resident);
        self.bytes += bytes;
        if dirty {
            self.dirty_bytes += bytes;
        }
        let slot = Some(Slot {
            key,
            resident,
            used: true,
            dirty,
            version: self.version,
            bytes,
        });
        let at = match self.free.pop() {
            Some(at) => {
                if let Some(place) = self.slots.get_mut(at) {
                    *place = slot;
                }
                at
            }
            None => {
                self.slots.push(slot);
                self.slots.len() - 1
            }
        };
        self.index.insert(key, at);
    }

    fn vacate(&mut self, at: usize) {
        if let Some(slot) = self.slots.get_mut(at).and_then(Option::take) {
            self.bytes -= slot.bytes;
            if slot.dirty {
                self.dirty_bytes -= slot.bytes;
            }
            self.free.push(at);
        }
    }
}

impl fmt::Debug for Residents {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Residents")
            .field("count", &self.index.len())
            .field("bytes", &self.bytes)
            .finish()
    }
}

fn weight(resident: &Resident) -> usize {
    OVERHEAD_BYTES
        + match resident {
            Resident::Page(page) => page.weight(),
            Resident::Node(node) => node.weight(),
        }
}

/// Memory of a slot and its entry in the table.
const OVERHEAD_BYTES: usize = size_of::<Slot>() + 32;

#[cfg(test)]
mod tests {
    use super::super::node::State;
    use super::*;

    fn node(live_sectors: u64) -> Resident {
        let mut node = Node::uniform(State::Below);
        node.live_sectors = live_sectors;
        Resident::Node(node)
    }

    #[test]
    fn only_stored_ones_are_dropped_and_the_pinned_one_stays() {
        let mut residents = Residents::default();
        for key in 0..10 {
            residents.insert_stored(PageKey(key), node(key));
        }
        residents.insert_new(PageKey(10), node(10));
        residents.shrink(0, PageKey(3));
        assert!(residents.contains(PageKey(3)) && residents.contains(PageKey(10)));
        assert_eq!(residents.index.len(), 2);
        let changed = residents.changed();
        assert_eq!(changed.len(), 1);
        residents.stored(&changed, true);
        assert_eq!(residents.dirty_bytes(), 0);
        residents.shrink(0, PageKey(3));
        assert!(!residents.contains(PageKey(10)));
        residents.remove(PageKey(3));
        assert_eq!(residents.bytes(), 0);
    }

    #[test]
    fn what_changes_on_the_way_to_the_store_stays_dirty() {
        let mut residents = Residents::default();
        residents.insert_new(PageKey(1), node(1));
        let changed = residents.changed();
        residents.change_node(PageKey(1), |node| node.live_sectors = 2);
        residents.stored(&changed, true);
        let again = residents.changed();
        assert_eq!(again.len(), 1);
        residents.stored(&again, false);
        assert_eq!(residents.changed().len(), 1);
    }
}
