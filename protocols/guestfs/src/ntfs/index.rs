//! Sorted trees in which folders, and the volume's security descriptors, are found by their key.

use std::cmp::Ordering;

use ::bytes::Bytes;

use super::Ntfs;
use super::node::{Attribute, Node, Value};
use super::record::{kind, mend};
use crate::bytes::{View, to_usize};
use crate::{GuestError, Place};

/// The parts of a tree.
pub(super) struct Index<'a> {
    ntfs: &'a Ntfs,
    node: &'a Node,
    root: &'a Bytes,
    blocks: Option<&'a Attribute>,
    block_bytes: u64,
    /// What a block's number counts.
    unit_bytes: u64,
}

/// A place between entries, from which one goes on in order.
#[derive(Debug, Clone)]
pub(super) struct Cursor {
    /// Blocks from the root down, and which byte of each comes next.
    path: Vec<Step>,
    /// Blocks that may still be gone into: no tree has one twice.
    blocks_left: u64,
}

#[derive(Debug, Clone, Copy)]
struct Step {
    block: Option<u64>,
    at: usize,
    /// Whether the blocks below the entry at `at` are behind us.
    below_done: bool,
}

/// An entry.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// What it leads to, in a folder.
    pub reference: u64,
    pub key: Bytes,
    /// What comes with the key, in other indexes than folders.
    pub data: Bytes,
}

impl<'a> Index<'a> {
    /// The tree of a name: that of a folder is `$I30`.
    pub(super) fn open(ntfs: &'a Ntfs, node: &'a Node, name: &str) -> Result<Self, GuestError> {
        let name: Vec<u16> = name.encode_utf16().collect();
        let root = node.find(kind::INDEX_ROOT, &name).map(|root| &root.value);
        let Some(Value::Resident(root)) = root else {
            return Err(if node.is_folder {
                node.corrupt("it has no root of its entries")
            } else {
                GuestError::NotDirectory
            });
        };
        let block_bytes = u64::from(View::new(root, node.place()).u32(8)?);
        if !block_bytes.is_power_of_two() || !(512..=BLOCK_MAX).contains(&block_bytes) {
            return Err(node.corrupt("blocks of its entries have an impossible size"));
        }
        let cluster = ntfs.boot.cluster_bytes;
        Ok(Self {
            ntfs,
            node,
            root,
            blocks: node.find(kind::INDEX, &name),
            block_bytes,
            unit_bytes: if cluster <= block_bytes { cluster } else { 512 },
        })
    }

    /// The place before the first entry.
    pub(super) fn start(&self) -> Cursor {
        let blocks = self.blocks.map_or(0, Attribute::size_bytes) / self.block_bytes;
        Cursor {
            path: vec![Step::into(None)],
            blocks_left: blocks,
        }
    }

    /// The next entry, and the place behind it.
    pub(super) fn next(&self, cursor: &mut Cursor) -> Result<Option<Entry>, GuestError> {
        self.seek(cursor, |_| Ok(Ordering::Greater))
    }

    /// The next entry that `is` not less than what is looked for. Only from the start, or with one that is always greater.
    pub(super) fn seek(
        &self,
        cursor: &mut Cursor,
        is: impl Fn(&Entry) -> Result<Ordering, GuestError>,
    ) -> Result<Option<Entry>, GuestError> {
        while let Some(step) = cursor.path.last().copied() {
            let bytes = self.block(step.block)?;
            let block = Block::decode(&bytes, self.place(step.block))?;
            let at = if step.at == 0 { block.first } else { step.at };
            let parsed = block.entry(at)?;
            let found = parsed.entry;
            let less = match &found {
                Some(entry) => is(entry)? == Ordering::Less,
                None => false,
            };
            if !less && !step.below_done {
                set(cursor, at, true);
                if let Some(below) = parsed.below {
                    self.descend(cursor, below)?;
                    continue;
                }
            }
            if let Some(entry) = found {
                set(cursor, parsed.next, false);
                if !less {
                    return Ok(Some(entry));
                }
            } else {
                cursor.path.pop();
            }
        }
        Ok(None)
    }

    fn descend(&self, cursor: &mut Cursor, below: u64) -> Result<(), GuestError> {
        let left = cursor.blocks_left.checked_sub(1);
        let Some(left) = left.filter(|_| cursor.path.len() < DEPTH_MAX) else {
            return Err(GuestError::corrupt(
                self.place(Some(below)),
                "the way to it goes round in a circle",
            ));
        };
        cursor.blocks_left = left;
        cursor.path.push(Step::into(Some(below)));
        Ok(())
    }

    fn place(&self, block: Option<u64>) -> Place {
        match block {
            Some(block) => Place::Folder {
                inode: self.node.number,
                block,
            },
            None => self.node.place(),
        }
    }

    fn block(&self, number: Option<u64>) -> Result<Bytes, GuestError> {
        let Some(number) = number else {
            return Ok(self.root.slice(ROOT_HEAD.min(self.root.len())..));
        };
        let place = self.place(Some(number));
        let key = (self.node.number, number);
        self.ntfs.blocks.get_or_insert_with(&key, || {
            let at = number.checked_mul(self.unit_bytes);
            let (Some(at), Some(blocks)) = (at, self.blocks) else {
                return Err(GuestError::corrupt(place, "it lies nowhere"));
            };
            let bytes = self
                .ntfs
                .read(self.node.number, blocks, at, self.block_bytes)?;
            let mut bytes = bytes.to_vec();
            if bytes.len() != to_usize(self.block_bytes) {
                return Err(GuestError::corrupt(place, "it lies beyond the end"));
            }
            mend(&mut bytes, *b"INDX", place)?;
            if View::new(&bytes, place).u64(16)? != number {
                return Err(GuestError::corrupt(place, "it is another block"));
            }
            Ok(Bytes::from(bytes).slice(BLOCK_HEAD..))
        })
    }
}

fn set(cursor: &mut Cursor, at: usize, below_done: bool) {
    if let Some(last) = cursor.path.last_mut() {
        *last = Step {
            at,
            below_done,
            ..*last
        };
    }
}

impl Step {
    fn into(block: Option<u64>) -> Self {
        Self {
            block,
            at: 0,
            below_done: false,
        }
    }
}

/// Entries from their head on.
struct Block<'a> {
    bytes: &'a Bytes,
    view: View<'a>,
    first: usize,
}

struct Parsed {
    /// `None` for the one that ends the block.
    entry: Option<Entry>,
    below: Option<u64>,
    next: usize,
}

impl<'a> Block<'a> {
    fn decode(bytes: &'a Bytes, place: Place) -> Result<Self, GuestError> {
        let whole = View::new(bytes, place);
        let first = usize::try_from(whole.u32(0)?).unwrap_or(usize::MAX);
        let end = usize::try_from(whole.u32(4)?).unwrap_or(usize::MAX);
        let view = View::new(whole.slice(0, end)?, place);
        if first < 16 {
            return Err(whole.corrupt("its entries begin in its head"));
        }
        Ok(Self { bytes, view, first })
    }

    fn entry(&self, at: usize) -> Result<Parsed, GuestError> {
        let length = usize::from(self.view.u16(at + 8)?);
        let key_length = usize::from(self.view.u16(at + 10)?);
        let flags = self.view.u16(at + 12)?;
        if length < 16 || length % 8 != 0 {
            return Err(self.view.corrupt("an entry has an impossible length"));
        }
        self.view.slice(at, length)?;
        let below = if flags & HAS_BELOW != 0 {
            let place = length.checked_sub(8).filter(|place| *place >= 16);
            let place = place.ok_or_else(|| self.view.corrupt("an entry is too short"))?;
            Some(self.view.u64(at + place)?)
        } else {
            None
        };
        let entry = if flags & IS_END != 0 {
            None
        } else {
            let data_at = usize::from(self.view.u16(at)?);
            let data_length = usize::from(self.view.u16(at + 2)?);
            if key_length > length - 16 {
                return Err(self.view.corrupt("a key is longer than its entry"));
            }
            let data = (data_at >= 16 && data_at + data_length <= length)
                .then(|| self.bytes.slice(at + data_at..at + data_at + data_length));
            Some(Entry {
                reference: self.view.u64(at)?,
                key: self.bytes.slice(at + 16..at + 16 + key_length),
                data: data.unwrap_or_default(),
            })
        };
        Ok(Parsed {
            entry,
            below,
            next: at + length,
        })
    }
}

const HAS_BELOW: u16 = 1;
const IS_END: u16 = 2;
const DEPTH_MAX: usize = 32;
const BLOCK_MAX: u64 = 1 << 20;
/// What stands before the head of the entries.
const ROOT_HEAD: usize = 16;
const BLOCK_HEAD: usize = 24;
