//! Where the blocks of a file, folder or set of attributes lie: lists and trees of extents.

use super::device::Checksum;
use super::inode::{Fork, Which, format};
use super::{Xfs, blocks};
use crate::bytes::View;
use crate::{GuestError, Place};

/// Blocks that are alike and lie one behind the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// Where the first one begins on the volume; `None` for blocks that read as zeroes.
    pub at_bytes: Option<u64>,
    /// How many, at least 1.
    pub blocks: u64,
}

/// An extent as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extent {
    logical: u64,
    physical: u64,
    blocks: u64,
    is_unwritten: bool,
}

/// A part of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mapped {
    /// As the filesystem numbers blocks.
    pub physical: Option<u64>,
    pub blocks: u64,
}

impl Xfs {
    /// The run that block `logical` of a fork begins or is within.
    pub(super) fn map(&self, fork: &Fork<'_>, logical: u64) -> Result<Run, GuestError> {
        let mapped = match fork.format {
            format::EXTENTS => self.map_list(fork, logical)?,
            format::TREE => self.map_tree(fork, logical)?,
            _ => {
                let detail = "it has no extents";
                return Err(GuestError::corrupt(fork.inode.place(), detail));
            }
        };
        let mapped = self.pending.remap(fork, logical, mapped)?;
        let Some(physical) = mapped.physical else {
            return Ok(Run {
                at_bytes: None,
                blocks: mapped.blocks,
            });
        };
        if fork.which == Which::Content && fork.inode.is_realtime() {
            return Err(GuestError::unsupported(format!(
                "inode {}, whose content lies on the realtime device",
                fork.inode.number
            )));
        }
        let at_bytes = self.superblock.extent_bytes(physical, mapped.blocks);
        Ok(Run {
            at_bytes: Some(at_bytes.ok_or(GuestError::corrupt(
                fork.inode.place(),
                "it points to blocks that the filesystem does not have",
            ))?),
            blocks: mapped.blocks,
        })
    }

    fn map_list(&self, fork: &Fork<'_>, logical: u64) -> Result<Mapped, GuestError> {
        let place = fork.place(0);
        let count = usize::try_from(fork.extents)
            .ok()
            .filter(|count| *count <= fork.area.len() / EXTENT_BYTES)
            .ok_or(GuestError::corrupt(
                place,
                "there is no room for so many extents",
            ))?;
        self.find_extent(View::new(fork.area, place), 0, count, logical, u64::MAX)
    }

    fn map_tree(&self, fork: &Fork<'_>, logical: u64) -> Result<Mapped, GuestError> {
        let root = View::new(fork.area, fork.place(0));
        let (mut level, count) = (root.big16(0)?, usize::from(root.big16(2)?));
        let room = (fork.area.len().saturating_sub(ROOT_HEADER_BYTES)) / KEY_AND_POINTER_BYTES;
        if level == 0 || level > LEVELS_MAX || count == 0 || count > room {
            return Err(root.corrupt("the root of its tree is malformed"));
        }
        let keys = Keys {
            view: root,
            at: ROOT_HEADER_BYTES,
            count,
            room,
        };
        let (mut child, mut limit) = keys.child(logical, u64::MAX)?;
        loop {
            level -= 1;
            let place = fork.place(child);
            let bytes = self.tree_block(fork, child, level)?;
            let node = View::new(&bytes, place);
            let header = blocks::long_header_bytes(self.superblock.is_v5());
            let count = usize::from(node.big16(6)?);
            if level == 0 {
                if count > (node.len() - header) / EXTENT_BYTES {
                    return Err(node.corrupt("there is no room for so many extents"));
                }
                return self.find_extent(node, header, count, logical, limit);
            }
            let room = (node.len() - header) / KEY_AND_POINTER_BYTES;
            if count == 0 || count > room {
                return Err(node.corrupt("it leads nowhere or has no room for its children"));
            }
            let keys = Keys {
                view: node,
                at: header,
                count,
                room,
            };
            (child, limit) = keys.child(logical, limit)?;
        }
    }

    fn tree_block(
        &self,
        fork: &Fork<'_>,
        block: u64,
        level: u16,
    ) -> Result<::bytes::Bytes, GuestError> {
        let place = fork.place(block);
        let at = self
            .superblock
            .extent_bytes(block, 1)
            .ok_or(GuestError::corrupt(
                fork.place(0),
                "it points to blocks that the filesystem does not have",
            ))?;
        let is_v5 = self.superblock.is_v5();
        let checksum = if is_v5 {
            Checksum::At(64)
        } else {
            Checksum::None
        };
        let length = self.superblock.block_bytes as usize;
        let bytes = self.device.metadata(at, length, checksum, place)?;
        let view = View::new(&bytes, place);
        let magic: &[u8] = if is_v5 { b"BMA3" } else { b"BMAP" };
        if view.slice(0, 4)? != magic {
            return Err(view.corrupt("the magic number is missing"));
        }
        if view.big16(4)? != level {
            return Err(view.corrupt("it is on another level of the tree"));
        }
        if is_v5 {
            let owner = (view.big64(56)? != fork.inode.number
                && !self.pending.has_new_owner(fork.inode.number))
            .then_some("it belongs to another inode");
            self.prove_home(view, 24, 40, at)?;
            if let Some(detail) = owner {
                return Err(view.corrupt(detail));
            }
        }
        Ok(bytes)
    }

    /// Looks among `count` extents; behind them, what follows begins at `limit`.
    fn find_extent(
        &self,
        view: View<'_>,
        at: usize,
        count: usize,
        logical: u64,
        limit: u64,
    ) -> Result<Mapped, GuestError> {
        let extent = |index: usize| -> Result<Extent, GuestError> {
            let extent = Extent::decode(view, at + index * EXTENT_BYTES)?;
            if extent.is_unwritten && !self.superblock.has_unwritten() {
                return Err(view.corrupt("an extent is unwritten where there is no such thing"));
            }
            if extent.blocks == 0 {
                return Err(view.corrupt("an extent is empty"));
            }
            Ok(extent)
        };
        let behind = blocks::first_behind(count, |index| Ok(extent(index)?.logical <= logical))?;
        if let Some(before) = behind.checked_sub(1) {
            let found = extent(before)?;
            let skip = logical - found.logical;
            if skip < found.blocks {
                return Ok(Mapped {
                    physical: (!found.is_unwritten).then_some(found.physical + skip),
                    blocks: found.blocks - skip,
                });
            }
        }
        let next = if behind < count {
            extent(behind)?.logical
        } else {
            limit
        };
        if next <= logical {
            return Err(view.corrupt("extents are out of order"));
        }
        Ok(Mapped {
            physical: None,
            blocks: next - logical,
        })
    }
}

impl Fork<'_> {
    /// A node of its tree, or its inode.
    fn place(&self, block: u64) -> Place {
        Place::ExtentNode {
            inode: self.inode.number,
            block,
        }
    }
}

impl Extent {
    fn decode(view: View<'_>, at: usize) -> Result<Self, GuestError> {
        let (high, low) = (view.big64(at)?, view.big64(at + 8)?);
        Ok(Self {
            is_unwritten: high >> 63 == 1,
            logical: high >> 9 & ((1 << 54) - 1),
            physical: (high & 0x1FF) << 43 | low >> 21,
            blocks: low & ((1 << 21) - 1),
        })
    }
}

/// Keys of a node, and behind the room for more of them the children.
struct Keys<'a> {
    view: View<'a>,
    at: usize,
    count: usize,
    room: usize,
}

impl Keys<'_> {
    /// The child that has `logical`, and where the next one begins.
    fn child(&self, logical: u64, limit: u64) -> Result<(u64, u64), GuestError> {
        let key = |index: usize| self.view.big64(self.at + index * 8);
        let behind = blocks::first_behind(self.count, |index| Ok(key(index)? <= logical))?;
        let index = behind.saturating_sub(1);
        let child = self.view.big64(self.at + self.room * 8 + index * 8)?;
        let limit = match index + 1 < self.count {
            true => limit.min(key(index + 1)?),
            false => limit,
        };
        Ok((child, limit))
    }
}

const ROOT_HEADER_BYTES: usize = 4;
const KEY_AND_POINTER_BYTES: usize = 16;
const EXTENT_BYTES: usize = 16;
const LEVELS_MAX: u16 = 9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extent_is_three_numbers_in_two_words() {
        let mut bytes = [0; 16];
        let high = 1_u64 << 63 | 0x2A_BCDE_F012_3456 << 9 | 0x1F5;
        bytes[..8].copy_from_slice(&high.to_be_bytes());
        bytes[8..].copy_from_slice(&(0x7FF_0000_0001_u64 << 21 | 0x1F_FFFF).to_be_bytes());
        let extent = Extent::decode(View::new(&bytes, Place::Head), 0).unwrap();
        let expected = Extent {
            logical: 0x2A_BCDE_F012_3456,
            physical: 0x1F5 << 43 | 0x7FF_0000_0001,
            blocks: 0x1F_FFFF,
            is_unwritten: true,
        };
        assert_eq!(extent, expected);
    }
}
