//! Where the blocks of a file lie: trees of extents, and the older trees of block numbers.

use ::bytes::Bytes;

use super::Ext;
use super::checksum::crc32c;
use super::inode::{Inode, flag};
use crate::bytes::{View, to_usize};
use crate::{GuestError, Place};

/// Blocks of a file that are alike and lie one behind the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// The first one on the volume; `None` for blocks that read as zeroes.
    pub physical: Option<u64>,
    /// How many, at least 1.
    pub blocks: u64,
}

impl Ext {
    /// The run that block `logical` of a file begins or is within.
    pub(super) fn map(&self, inode: &Inode, logical: u64) -> Result<Run, GuestError> {
        let run = if inode.has(flag::EXTENTS) {
            self.map_extents(inode, logical)?
        } else {
            self.map_numbers(inode, logical)?
        };
        if let Some(first) = run.physical {
            self.blocks.check(first, run.blocks, inode.place())?;
        }
        Ok(run)
    }

    fn map_extents(&self, inode: &Inode, logical: u64) -> Result<Run, GuestError> {
        let owner = u64::from(inode.number);
        let mut block = 0;
        let mut bytes = Bytes::copy_from_slice(inode.block_area());
        let mut depth = None;
        // What follows the node that is looked at begins here.
        let mut limit = u64::MAX;
        loop {
            let place = Place::ExtentNode {
                inode: owner,
                block,
            };
            let node = Node::decode(View::new(&bytes, place), depth)?;
            if node.depth == 0 {
                return node.find_extent(logical, limit);
            }
            let (child, next) = node.find_child(logical)?;
            limit = limit.min(next);
            let Some(child) = child else {
                return Ok(hole(logical, limit));
            };
            depth = Some(node.depth - 1);
            self.blocks.check(child, 1, place)?;
            block = child;
            bytes = self.blocks.block(child, place)?;
            let place = Place::ExtentNode {
                inode: owner,
                block,
            };
            self.prove_extent_node(inode, View::new(&bytes, place))?;
        }
    }

    fn prove_extent_node(&self, inode: &Inode, node: View<'_>) -> Result<(), GuestError> {
        if !self.superblock.has_metadata_checksums() {
            return Ok(());
        }
        let tail = HEADER_BYTES + usize::from(node.u16(4)?) * ENTRY_BYTES;
        if crc32c(inode.seed, node.slice(0, tail)?) != node.u32(tail)? {
            return Err(node.corrupt("the checksum is wrong"));
        }
        Ok(())
    }

    fn map_numbers(&self, inode: &Inode, logical: u64) -> Result<Run, GuestError> {
        let owner = u64::from(inode.number);
        let area = View::new(inode.block_area(), inode.place());
        if logical < DIRECT {
            let direct = area.slice(0, to_usize(DIRECT) * 4)?;
            return scan_numbers(View::new(direct, inode.place()), to_usize(logical));
        }
        let per_block = self.blocks.block_bytes() as u64 / 4;
        let mut rest = logical - DIRECT;
        let mut span = per_block;
        let mut slot = 12;
        while rest >= span {
            rest -= span;
            span *= per_block;
            slot += 1;
            if slot > 14 {
                return Err(area.corrupt("it is longer than its block map can be"));
            }
        }
        let mut number = u64::from(area.u32(slot * 4)?);
        let mut place = inode.place();
        loop {
            if number == 0 {
                return Ok(hole(rest, span));
            }
            self.blocks.check(number, 1, place)?;
            let bytes = self.blocks.block(number, place)?;
            place = Place::BlockMap {
                inode: owner,
                block: number,
            };
            let table = View::new(&bytes, place);
            span /= per_block;
            if span == 1 {
                return scan_numbers(table, to_usize(rest));
            }
            number = u64::from(table.u32(to_usize(rest / span) * 4)?);
            rest %= span;
        }
    }
}

/// A hole from `start` to `end`.
fn hole(start: u64, end: u64) -> Run {
    Run {
        physical: None,
        blocks: end.saturating_sub(start).max(1),
    }
}

/// The run that begins with the number at `index`.
fn scan_numbers(table: View<'_>, index: usize) -> Result<Run, GuestError> {
    let first = table.u32(index * 4)?;
    let mut blocks = 1_u32;
    for at in index + 1..table.len() / 4 {
        let expected = if first == 0 {
            Some(0)
        } else {
            first.checked_add(blocks)
        };
        if Some(table.u32(at * 4)?) != expected {
            break;
        }
        blocks += 1;
    }
    Ok(Run {
        physical: (first != 0).then_some(u64::from(first)),
        blocks: u64::from(blocks),
    })
}

/// A node of a tree of extents, of which the head is checked.
struct Node<'a> {
    view: View<'a>,
    entries: usize,
    depth: u16,
}

impl<'a> Node<'a> {
    /// Checks that depth goes down by one from node to node, so that every way ends.
    fn decode(view: View<'a>, depth: Option<u16>) -> Result<Self, GuestError> {
        let (entries, room) = (view.u16(2)?, view.u16(4)?);
        let node = Self {
            view,
            entries: usize::from(entries),
            depth: view.u16(6)?,
        };
        if view.u16(0)? != EXTENT_MAGIC {
            return Err(view.corrupt("the magic number is missing"));
        }
        if entries > room || HEADER_BYTES + usize::from(room) * ENTRY_BYTES > view.len() {
            return Err(view.corrupt("it has more entries than room"));
        }
        if entries == 0 && node.depth > 0 {
            return Err(view.corrupt("it leads nowhere"));
        }
        if node.depth > DEPTH_MAX || depth.is_some_and(|depth| depth != node.depth) {
            return Err(view.corrupt("its depth is wrong"));
        }
        Ok(node)
    }

    /// First block and place of an entry.
    fn entry(&self, index: usize) -> Result<(u64, usize), GuestError> {
        let at = HEADER_BYTES + index * ENTRY_BYTES;
        Ok((u64::from(self.view.u32(at)?), at))
    }

    /// The child that has `logical`, if one begins before it, and where the next one begins.
    fn find_child(&self, logical: u64) -> Result<(Option<u64>, u64), GuestError> {
        let mut found = None;
        let mut before = None;
        for index in 0..self.entries {
            let (start, at) = self.entry(index)?;
            if before.is_some_and(|before| before >= start) {
                return Err(self.view.corrupt("its entries are not in order"));
            }
            before = Some(start);
            if start > logical {
                return Ok((found, start));
            }
            let high = u64::from(self.view.u16(at + 8)?) << 32;
            found = Some(u64::from(self.view.u32(at + 4)?) | high);
        }
        Ok((found, u64::MAX))
    }

    fn find_extent(&self, logical: u64, limit: u64) -> Result<Run, GuestError> {
        let mut before = 0;
        for index in 0..self.entries {
            let (start, at) = self.entry(index)?;
            let length = u64::from(self.view.u16(at + 4)?);
            if start < before || length == 0 {
                return Err(self.view.corrupt("its entries are not in order"));
            }
            if start > logical {
                return Ok(hole(logical, start.min(limit)));
            }
            let unwritten = length > WRITTEN_MAX;
            let length = if unwritten {
                length - WRITTEN_MAX
            } else {
                length
            };
            before = start + length;
            if logical < before {
                let high = u64::from(self.view.u16(at + 6)?) << 32;
                let first = u64::from(self.view.u32(at + 8)?) | high;
                return Ok(Run {
                    physical: (!unwritten).then_some(first + (logical - start)),
                    blocks: before - logical,
                });
            }
        }
        Ok(hole(logical, limit))
    }
}

const DIRECT: u64 = 12;
const EXTENT_MAGIC: u16 = 0xF30A;
const HEADER_BYTES: usize = 12;
const ENTRY_BYTES: usize = 12;
const DEPTH_MAX: u16 = 5;
/// Longest extent that is written; a longer number says that so many blocks more are not.
const WRITTEN_MAX: u64 = 32768;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_children_is_damage_and_a_leaf_without_extents_a_hole() {
        let head = |depth: u8| [0x0A, 0xF3, 0, 0, 4, 0, depth, 0, 0, 0, 0, 0];
        let decode = |depth: u8| {
            let mut bytes = head(depth).to_vec();
            bytes.resize(60, 0);
            let node = Node::decode(View::new(&bytes, Place::Superblock), None);
            node.and_then(|node| node.find_extent(7, 9))
        };
        assert_eq!(decode(0).unwrap(), hole(7, 9));
        assert!(decode(1).unwrap_err().to_string().contains("leads nowhere"));
    }
}
