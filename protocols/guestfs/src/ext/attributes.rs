//! Extended attributes: in the inode, in a block of their own, or in inodes of their own.

use export::ExtendedAttribute;

use super::Ext;
use super::checksum::crc32c;
use super::inode::{Inode, Purpose, flag};
use crate::bytes::View;
use crate::{GuestError, Place};

/// An attribute as it is stored.
struct Stored<'a> {
    index: u8,
    name: &'a [u8],
    offset: usize,
    inode: u32,
    length: u32,
}

impl Ext {
    /// What an inode carries, by the names that Linux shows.
    pub(super) fn extended_attributes(
        &self,
        inode: &Inode,
    ) -> Result<Vec<ExtendedAttribute>, GuestError> {
        let place = Place::Attributes {
            inode: u64::from(inode.number),
        };
        let mut found = Vec::new();
        let mut budget = TOTAL_MAX;
        if let Some(area) = in_inode(inode)? {
            self.collect(area, area, &mut found, &mut budget)?;
        }
        if inode.attribute_block != 0 {
            let bytes = self.blocks.block(inode.attribute_block, place)?;
            let view = View::new(&bytes, place);
            self.prove_attributes(view, inode.attribute_block)?;
            let entries = View::new(view.slice(HEADER_BYTES, view.len() - HEADER_BYTES)?, place);
            self.collect(entries, view, &mut found, &mut budget)?;
        }
        Ok(found)
    }

    /// The content of an inode that holds it itself.
    pub(super) fn inline_content(&self, inode: &Inode) -> Result<Vec<u8>, GuestError> {
        let mut content = inode.block_area().to_vec();
        let Some(area) = in_inode(inode)? else {
            return Ok(content);
        };
        let mut at = 0;
        while let Some((stored, next)) = entry(area, at)? {
            if stored.index == SYSTEM && stored.name == b"data" && stored.inode == 0 {
                content.extend_from_slice(area.slice(stored.offset, stored.length as usize)?);
                break;
            }
            at = next;
        }
        Ok(content)
    }

    fn collect(
        &self,
        entries: View<'_>,
        values: View<'_>,
        found: &mut Vec<ExtendedAttribute>,
        budget: &mut usize,
    ) -> Result<(), GuestError> {
        let mut at = 0;
        while let Some((stored, next)) = entry(entries, at)? {
            at = next;
            let Some(name) = full_name(&stored) else {
                continue;
            };
            let length = stored.length as usize;
            if length > VALUE_MAX {
                return Err(entries.corrupt("a value is too long"));
            }
            *budget = budget.checked_sub(length).ok_or(GuestError::TooLarge {
                what: "the sum of extended attributes",
                limit: TOTAL_MAX as u64,
            })?;
            let value = if stored.inode == 0 {
                values.slice(stored.offset, length)?.to_vec()
            } else {
                self.value_inode(stored.inode, stored.length)?
            };
            let value = match stored.index {
                ACCESS_LIST | DEFAULT_LIST => access_list(View::new(&value, Place::Superblock))
                    .map_err(|_| entries.corrupt("an access control list is malformed"))?,
                _ => value,
            };
            found.push(ExtendedAttribute { name, value });
        }
        Ok(())
    }

    fn value_inode(&self, number: u32, length: u32) -> Result<Vec<u8>, GuestError> {
        let inode = self.inode(number, Purpose::Internal)?;
        if !inode.has(flag::ATTRIBUTE_VALUE) || inode.size_bytes != u64::from(length) {
            return Err(GuestError::corrupt(
                inode.place(),
                "it is not the value of an extended attribute",
            ));
        }
        Ok(self.read(&inode, 0, u64::from(length))?.to_vec())
    }

    fn prove_attributes(&self, view: View<'_>, block: u64) -> Result<(), GuestError> {
        if view.u32(0)? != MAGIC || view.u32(8)? != 1 {
            return Err(view.corrupt("the magic number is missing"));
        }
        if !self.superblock.has_metadata_checksums() {
            return Ok(());
        }
        let state = crc32c(self.superblock.seed, &block.to_le_bytes());
        let state = crc32c(crc32c(state, view.slice(0, 16)?), &[0; 4]);
        if crc32c(state, view.slice(20, view.len() - 20)?) != view.u32(16)? {
            return Err(view.corrupt("the checksum is wrong"));
        }
        Ok(())
    }
}

/// The attributes in an inode, from their first entry, if there are any.
fn in_inode(inode: &Inode) -> Result<Option<View<'_>>, GuestError> {
    let place = Place::Attributes {
        inode: u64::from(inode.number),
    };
    let area = View::new(inode.attribute_area(), place);
    if area.len() < 8 || area.u32(0)? != MAGIC {
        return Ok(None);
    }
    Ok(Some(View::new(area.slice(4, area.len() - 4)?, place)))
}

/// The entry at `at`, and where the next one is; `None` at the end.
fn entry(view: View<'_>, at: usize) -> Result<Option<(Stored<'_>, usize)>, GuestError> {
    if at + 4 > view.len() || view.u32(at)? == 0 {
        return Ok(None);
    }
    let name_length = usize::from(view.u8(at)?);
    let stored = Stored {
        index: view.u8(at + 1)?,
        name: view.slice(at + ENTRY_BYTES, name_length)?,
        offset: usize::from(view.u16(at + 2)?),
        inode: view.u32(at + 4)?,
        length: view.u32(at + 8)?,
    };
    let next = at + (ENTRY_BYTES + name_length).next_multiple_of(4);
    Ok(Some((stored, next)))
}

/// The name with what its index stands for; `None` for what Linux does not show.
fn full_name(stored: &Stored<'_>) -> Option<Vec<u8>> {
    let prefix: &[u8] = match stored.index {
        1 => b"user.",
        ACCESS_LIST => b"system.posix_acl_access",
        DEFAULT_LIST => b"system.posix_acl_default",
        4 => b"trusted.",
        6 => b"security.",
        _ => return None,
    };
    let name = [prefix, stored.name].concat();
    (!name.is_empty() && !name.contains(&0)).then_some(name)
}

/// Makes of a stored access control list the form in which Linux gives it to programs.
fn access_list(stored: View<'_>) -> Result<Vec<u8>, GuestError> {
    if stored.u32(0)? != 1 {
        return Err(stored.corrupt("the version is unknown"));
    }
    let mut list = 2_u32.to_le_bytes().to_vec();
    let mut at = 4;
    while at < stored.len() {
        let tag = stored.u16(at)?;
        list.extend_from_slice(stored.slice(at, 4)?);
        at += 4;
        // Entries of one user or group say of whom.
        if matches!(tag, 0x02 | 0x08) {
            list.extend_from_slice(stored.slice(at, 4)?);
            at += 4;
        } else {
            list.extend_from_slice(&u32::MAX.to_le_bytes());
        }
    }
    Ok(list)
}

const MAGIC: u32 = 0xEA02_0000;
const HEADER_BYTES: usize = 32;
const ENTRY_BYTES: usize = 16;
const ACCESS_LIST: u8 = 2;
const DEFAULT_LIST: u8 = 3;
const SYSTEM: u8 = 7;
/// As Linux has it.
const VALUE_MAX: usize = 65536;
/// For all attributes of one inode together.
const TOTAL_MAX: usize = 4 << 20;
