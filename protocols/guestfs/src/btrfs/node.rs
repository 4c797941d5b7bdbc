//! Nodes of trees, checked before anything in them is believed.

use ::bytes::Bytes;

use super::checksum::Checksum;
use super::key::{KEY_BYTES, Key};
use super::superblock::Root;
use crate::bytes::View;
use crate::{GuestError, Place};

/// A node in order: keys ascend, and every item is inside.
#[derive(Debug, Clone)]
pub(super) struct Node {
    bytes: Bytes,
    logical: u64,
    pub level: u8,
    pub generation: u64,
    pub owner: u64,
    entries: usize,
}

/// What leads to a node, and says what must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pointer {
    pub logical: u64,
    pub generation: u64,
    pub level: u8,
    /// Its first key, if it is not the uppermost node.
    pub first: Option<Key>,
}

impl Pointer {
    pub(super) fn to_root(root: Root) -> Self {
        Self {
            logical: root.logical,
            generation: root.generation,
            level: root.level,
            first: None,
        }
    }
}

impl Node {
    pub(super) fn decode(
        bytes: Bytes,
        logical: u64,
        checksum: Checksum,
        filesystem: &[u8; 16],
    ) -> Result<Self, GuestError> {
        let view = View::new(&bytes, Place::Node(logical));
        let covered = view.slice(32, view.len() - 32)?;
        if !checksum.fits([covered].into_iter(), bytes.get(..32)) {
            return Err(view.corrupt("the checksum is wrong"));
        }
        if view.slice(32, 16)? != filesystem {
            return Err(view.corrupt("it belongs to another filesystem"));
        }
        if view.u64(48)? != logical {
            return Err(view.corrupt("it is not where it says"));
        }
        let node = Self {
            logical,
            generation: view.u64(80)?,
            owner: view.u64(88)?,
            entries: view.u32(96)? as usize,
            level: view.u8(100)?,
            bytes: bytes.clone(),
        };
        if node.level > LEVEL_MAX {
            return Err(view.corrupt("its level is out of bounds"));
        }
        node.check_entries(view)?;
        Ok(node)
    }

    fn check_entries(&self, view: View<'_>) -> Result<(), GuestError> {
        let entry = self.entry_bytes();
        let room = (view.len() - HEAD_BYTES) / entry;
        if self.entries > room {
            return Err(view.corrupt("it has more entries than room"));
        }
        if self.entries == 0 && self.level > 0 {
            return Err(view.corrupt("it leads nowhere"));
        }
        let mut last: Option<Key> = None;
        // Content of items lies from the end of the node towards the entries.
        let mut end = view.len() - HEAD_BYTES;
        for index in 0..self.entries {
            let at = HEAD_BYTES + index * entry;
            let key = Key::decode(view, at)?;
            if last.is_some_and(|last| last >= key) {
                return Err(view.corrupt("its keys are not in order"));
            }
            last = Some(key);
            if self.level == 0 {
                let start = view.u32(at + KEY_BYTES)? as usize;
                let length = view.u32(at + KEY_BYTES + 4)? as usize;
                if start.checked_add(length) != Some(end) || start < self.entries * entry {
                    return Err(view.corrupt("an item is out of bounds"));
                }
                end = start;
            }
        }
        Ok(())
    }

    fn entry_bytes(&self) -> usize {
        if self.level == 0 {
            ITEM_BYTES
        } else {
            POINTER_BYTES
        }
    }

    fn view(&self) -> View<'_> {
        View::new(&self.bytes, Place::Node(self.logical))
    }

    pub(super) fn entries(&self) -> usize {
        self.entries
    }

    pub(super) fn logical(&self) -> u64 {
        self.logical
    }

    pub(super) fn key(&self, index: usize) -> Result<Key, GuestError> {
        Key::decode(self.view(), HEAD_BYTES + index * self.entry_bytes())
    }

    /// How many keys are before `key`.
    pub(super) fn count_before(&self, key: Key) -> Result<usize, GuestError> {
        let (mut low, mut high) = (0, self.entries);
        while low < high {
            let middle = low.midpoint(high);
            if self.key(middle)? < key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// The last entry that is not behind `key`.
    pub(super) fn last_until(&self, key: Key) -> Result<Option<usize>, GuestError> {
        let before = self.count_before(key)?;
        if before < self.entries && self.key(before)? == key {
            return Ok(Some(before));
        }
        Ok(before.checked_sub(1))
    }

    /// Content of the item of a leaf.
    pub(super) fn item(&self, index: usize) -> Result<&[u8], GuestError> {
        let view = self.view();
        let at = HEAD_BYTES + index * ITEM_BYTES + KEY_BYTES;
        let (start, length) = (view.u32(at)? as usize, view.u32(at + 4)? as usize);
        view.slice(HEAD_BYTES + start, length)
    }

    /// The same as a part of the node.
    pub(super) fn item_bytes(&self, index: usize) -> Result<Bytes, GuestError> {
        let item = self.item(index)?;
        Ok(if item.is_empty() {
            Bytes::new()
        } else {
            self.bytes.slice_ref(item)
        })
    }

    /// What an entry of an inner node leads to.
    pub(super) fn pointer(&self, index: usize) -> Result<Pointer, GuestError> {
        let view = self.view();
        let at = HEAD_BYTES + index * POINTER_BYTES + KEY_BYTES;
        let level = self
            .level
            .checked_sub(1)
            .ok_or_else(|| view.corrupt("it is a leaf"))?;
        Ok(Pointer {
            logical: view.u64(at)?,
            generation: view.u64(at + 8)?,
            level,
            first: Some(self.key(index)?),
        })
    }

    /// Checks that all keys are before that of the node behind.
    pub(super) fn check_end(&self, end: Option<Key>) -> Result<(), GuestError> {
        match (end, self.entries.checked_sub(1)) {
            (Some(end), Some(last)) if self.key(last)? >= end => {
                Err(self.view().corrupt("it reaches into the next node"))
            }
            _ => Ok(()),
        }
    }

    /// Checks that this is what `pointer` leads to.
    pub(super) fn check(&self, pointer: &Pointer) -> Result<(), GuestError> {
        let view = self.view();
        if self.generation != pointer.generation {
            return Err(view.corrupt("it is not of the generation that leads to it"));
        }
        if self.level != pointer.level {
            return Err(view.corrupt("it is not of the level that leads to it"));
        }
        if let Some(first) = pointer.first
            && (self.entries == 0 || self.key(0)? != first)
        {
            return Err(view.corrupt("it does not begin with the key that leads to it"));
        }
        Ok(())
    }
}

const HEAD_BYTES: usize = 101;
const ITEM_BYTES: usize = KEY_BYTES + 8;
const POINTER_BYTES: usize = KEY_BYTES + 16;
const LEVEL_MAX: u8 = 7;
