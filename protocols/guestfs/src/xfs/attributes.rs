//! Extended attributes: in the inode, in leaves, or with values in blocks of their own.

use std::collections::HashSet;

use ::bytes::Bytes;
use export::ExtendedAttribute;

use super::Xfs;
use super::device::Checksum;
use super::inode::{Fork, Inode};
use crate::bytes::{View, to_usize};
use crate::{GuestError, Place};

/// What was found of an inode, and how much more may be.
struct Found {
    attributes: Vec<ExtendedAttribute>,
    budget: usize,
}

impl Xfs {
    /// What an inode carries, by the names that Linux shows.
    pub(super) fn extended_attributes(
        &self,
        inode: &Inode,
    ) -> Result<Vec<ExtendedAttribute>, GuestError> {
        self.pending.check_attributes(inode.number)?;
        let mut found = Found {
            attributes: Vec::new(),
            budget: TOTAL_MAX,
        };
        let Some(fork) = inode.attributes() else {
            return Ok(found.attributes);
        };
        if fork.is_local() {
            collect_local(&fork, &mut found)?;
        } else if fork.extents > 0 {
            self.collect_leaves(&fork, &mut found)?;
        }
        Ok(found.attributes)
    }

    /// All leaves in their order.
    fn collect_leaves(&self, fork: &Fork<'_>, found: &mut Found) -> Result<(), GuestError> {
        let place = place(fork.inode);
        let mut number = 0;
        let mut above = DEPTH_MAX;
        let mut block = loop {
            let (magic, block) = self.attribute_block(fork, number)?;
            let view = View::new(&block, place);
            if magic == LEAF {
                break block;
            }
            let header = self.attribute_header();
            let (count, level) = (view.big16(header)?, view.big16(header + 2)?);
            if level == 0 || level >= above || count == 0 {
                return Err(view.corrupt("a node of their index is malformed"));
            }
            above = level;
            number =
                u64::from(view.big32(header + if self.superblock.is_v5() { 8 } else { 4 } + 4)?);
        };
        let mut seen = HashSet::from([number]);
        loop {
            let view = View::new(&block, place);
            self.collect_leaf(fork, view, found)?;
            number = u64::from(view.big32(0)?);
            if number == 0 {
                return Ok(());
            }
            if !seen.insert(number) || seen.len() > LEAVES_MAX {
                return Err(view.corrupt("their leaves go in a circle or are too many"));
            }
            let (magic, next) = self.attribute_block(fork, number)?;
            if magic != LEAF {
                return Err(view.corrupt("a leaf leads to something else"));
            }
            block = next;
        }
    }

    /// A block of their tree and which kind it is of, proven.
    fn attribute_block(&self, fork: &Fork<'_>, logical: u64) -> Result<(u16, Bytes), GuestError> {
        let place = place(fork.inode);
        let run = self.map(fork, logical)?;
        let at = run
            .at_bytes
            .ok_or(GuestError::corrupt(place, "their tree has a hole"))?;
        let is_v5 = self.superblock.is_v5();
        let checksum = if is_v5 {
            Checksum::At(12)
        } else {
            Checksum::None
        };
        let length = self.superblock.block_bytes as usize;
        let bytes = self.device.metadata(at, length, checksum, place)?;
        let view = View::new(&bytes, place);
        let magic = match (view.big16(8)?, is_v5) {
            (0x3BEE, true) | (0xFBEE, false) => LEAF,
            (0x3EBE, true) | (0xFEBE, false) => NODE,
            _ => return Err(view.corrupt("the magic number is missing")),
        };
        if is_v5 {
            self.prove_home(view, 16, 32, at)?;
            if view.big64(48)? != fork.inode.number {
                return Err(view.corrupt("a block of theirs belongs to another inode"));
            }
        }
        Ok((magic, bytes))
    }

    fn attribute_header(&self) -> usize {
        if self.superblock.is_v5() { 56 } else { 12 }
    }

    fn collect_leaf(
        &self,
        fork: &Fork<'_>,
        view: View<'_>,
        found: &mut Found,
    ) -> Result<(), GuestError> {
        let count = usize::from(view.big16(self.attribute_header())?);
        let start = if self.superblock.is_v5() { 80 } else { 32 };
        if count > (view.len() - start) / LEAF_ENTRY_BYTES {
            return Err(view.corrupt("there is no room for so many"));
        }
        for index in 0..count {
            let entry = start + index * LEAF_ENTRY_BYTES;
            let at = usize::from(view.big16(entry + 4)?);
            let flags = view.u8(entry + 6)?;
            if flags & flag::HIDDEN != 0 {
                continue;
            }
            if flags & flag::LOCAL != 0 {
                let length = usize::from(view.big16(at)?);
                let name_length = usize::from(view.u8(at + 2)?);
                let name = view.slice(at + 3, name_length)?;
                let value = view.slice(at + 3 + name_length, length)?.to_vec();
                found.add(view, flags, name, value)?;
            } else {
                let block = u64::from(view.big32(at)?);
                let length = view.big32(at + 4)? as usize;
                let name_length = usize::from(view.u8(at + 8)?);
                let name = view.slice(at + 9, name_length)?;
                if length > VALUE_MAX {
                    return Err(view.corrupt("a value is too long"));
                }
                let value = self.remote_value(fork, block, length)?;
                found.add(view, flags, name, value)?;
            }
        }
        Ok(())
    }

    fn remote_value(
        &self,
        fork: &Fork<'_>,
        first: u64,
        length: usize,
    ) -> Result<Vec<u8>, GuestError> {
        let place = place(fork.inode);
        let block = self.superblock.block_bytes as usize;
        let mut value = Vec::new();
        let mut logical = first;
        while value.len() < length {
            let run = self.map(fork, logical)?;
            let at = run
                .at_bytes
                .ok_or(GuestError::corrupt(place, "a value has a hole"))?;
            let missing = length - value.len();
            if self.superblock.is_v5() {
                let bytes = self.device.metadata(at, block, Checksum::At(12), place)?;
                let view = View::new(&bytes, place);
                let part = self.value_part(view, fork.inode, at, value.len())?;
                value.extend_from_slice(part.get(..part.len().min(missing)).unwrap_or(&[]));
                logical += 1;
            } else {
                let blocks = run.blocks.min(missing.div_ceil(block) as u64);
                let bytes = missing.min(to_usize(blocks) * block);
                value.extend(self.device.read(at, bytes)?.to_vec());
                logical += blocks;
            }
        }
        Ok(value)
    }

    fn value_part<'a>(
        &self,
        view: View<'a>,
        inode: &Inode,
        at: u64,
        done: usize,
    ) -> Result<&'a [u8], GuestError> {
        self.prove_home(view, 40, 16, at)?;
        let length = view.big32(8)? as usize;
        if view.slice(0, 4)? != b"XARM"
            || view.big64(32)? != inode.number
            || view.big32(4)? as usize != done
            || length == 0
        {
            return Err(view.corrupt("a block is not the part of a value that it should be"));
        }
        view.slice(VALUE_HEADER_BYTES, length)
    }
}

impl Found {
    fn add(
        &mut self,
        view: View<'_>,
        flags: u8,
        name: &[u8],
        value: Vec<u8>,
    ) -> Result<(), GuestError> {
        self.budget = self
            .budget
            .checked_sub(value.len() + name.len() + OVERHEAD_BYTES)
            .ok_or(GuestError::TooLarge {
                what: "the sum of extended attributes",
                limit: TOTAL_MAX as u64,
            })?;
        if name.is_empty() || name.contains(&0) {
            return Err(view.corrupt("a name has bytes that no name may have"));
        }
        let prefix: &[u8] = match flags & (flag::TRUSTED | flag::SECURE) {
            0 => b"user.",
            flag::TRUSTED => b"trusted.",
            flag::SECURE => b"security.",
            _ => return Err(view.corrupt("a name is of two kinds")),
        };
        let list: Option<&[u8]> = match (flags & flag::TRUSTED != 0, name) {
            (true, b"SGI_ACL_FILE") => Some(b"system.posix_acl_access"),
            (true, b"SGI_ACL_DEFAULT") => Some(b"system.posix_acl_default"),
            _ => None,
        };
        if let Some(list) = list {
            self.attributes.push(ExtendedAttribute {
                name: list.to_vec(),
                value: access_list(View::new(&value, Place::Head))
                    .map_err(|_| view.corrupt("an access control list is malformed"))?,
            });
        }
        // Linux shows the lists under their stored names too.
        self.attributes.push(ExtendedAttribute {
            name: [prefix, name].concat(),
            value,
        });
        Ok(())
    }
}

fn collect_local(fork: &Fork<'_>, found: &mut Found) -> Result<(), GuestError> {
    let view = View::new(fork.area, place(fork.inode));
    let view = View::new(
        view.slice(0, usize::from(view.big16(0)?))?,
        place(fork.inode),
    );
    let mut at = 4;
    for _ in 0..view.u8(2)? {
        let name_length = usize::from(view.u8(at)?);
        let length = usize::from(view.u8(at + 1)?);
        let flags = view.u8(at + 2)?;
        let name = view.slice(at + 3, name_length)?;
        let value = view.slice(at + 3 + name_length, length)?;
        at += 3 + name_length + length;
        if flags & flag::HIDDEN == 0 {
            found.add(view, flags, name, value.to_vec())?;
        }
    }
    Ok(())
}

/// Makes of a stored access control list the form in which Linux gives it to programs.
fn access_list(stored: View<'_>) -> Result<Vec<u8>, GuestError> {
    let count = stored.big32(0)? as usize;
    if count > stored.len() / LIST_ENTRY_BYTES {
        return Err(stored.corrupt("it has not so many entries"));
    }
    let mut list = 2_u32.to_le_bytes().to_vec();
    for at in (0..count).map(|index| 4 + index * LIST_ENTRY_BYTES) {
        let tag = stored.big32(at)?;
        let tag = u16::try_from(tag).map_err(|_| stored.corrupt("a tag is unknown"))?;
        list.extend_from_slice(&tag.to_le_bytes());
        list.extend_from_slice(&stored.big16(at + 8)?.to_le_bytes());
        // Entries of one user or group say of whom.
        let of = match tag {
            0x02 | 0x08 => stored.big32(at + 4)?,
            _ => u32::MAX,
        };
        list.extend_from_slice(&of.to_le_bytes());
    }
    Ok(list)
}

fn place(inode: &Inode) -> Place {
    Place::Attributes {
        inode: inode.number,
    }
}

mod flag {
    pub(super) const LOCAL: u8 = 0x1;
    pub(super) const TRUSTED: u8 = 0x2;
    pub(super) const SECURE: u8 = 0x4;
    /// Pointers to parents, and what a crash left unfinished.
    pub(super) const HIDDEN: u8 = 0x8 | 0x80;
}

const LEAF: u16 = 0;
const NODE: u16 = 1;
/// One more than the highest level of a node.
const DEPTH_MAX: u16 = 6;
const LEAVES_MAX: usize = 65536;
const LEAF_ENTRY_BYTES: usize = 8;
const VALUE_HEADER_BYTES: usize = 56;
const LIST_ENTRY_BYTES: usize = 12;
/// As Linux has it.
const VALUE_MAX: usize = 65536;
/// What each takes in memory besides.
const OVERHEAD_BYTES: usize = 64;
/// For all attributes of one inode together.
const TOTAL_MAX: usize = 4 << 20;
