//! Bytes of files and links.

use ::bytes::Bytes;
use export::{FileKind, Segments};

use super::Ext;
use super::inode::{Inode, flag};
use crate::GuestError;
use crate::bytes::to_usize;

impl Ext {
    /// Up to `length` bytes of an inode's content; fewer only at its end. Holes are zeroes.
    pub(super) fn read(
        &self,
        inode: &Inode,
        offset: u64,
        length: u64,
    ) -> Result<Segments, GuestError> {
        if inode.has(flag::ENCRYPTED) {
            return Err(GuestError::Encrypted {
                inode: u64::from(inode.number),
            });
        }
        let end = offset.saturating_add(length).min(inode.size_bytes);
        let mut result = Segments::new();
        if offset >= end {
            return Ok(result);
        }
        if inode.has(flag::INLINE) {
            let content = self.inline_content(inode)?;
            // What is not stored is zero, as it is for Linux: a hole may follow.
            let stored = end.min(content.len() as u64).max(offset);
            if let Some(content) = content.get(to_usize(offset)..to_usize(stored)) {
                result.push(Bytes::copy_from_slice(content));
            }
            result.push_zeroes(to_usize(end - offset) - result.len());
            return Ok(result);
        }
        let block = self.blocks.block_bytes() as u64;
        let mut at = offset;
        while at < end {
            let run = self.map(inode, at / block)?;
            let skip = at % block;
            let wanted = (end - at + skip).div_ceil(block);
            let bytes = (run.blocks.min(wanted) * block - skip).min(end - at);
            match run.physical {
                Some(first) => {
                    result.append(self.blocks.read(first, to_usize(skip), to_usize(bytes))?);
                }
                None => result.push_zeroes(to_usize(bytes)),
            }
            at += bytes;
        }
        Ok(result)
    }

    /// What a symbolic link holds.
    pub(super) fn link_target(&self, inode: &Inode) -> Result<Vec<u8>, GuestError> {
        if inode.kind() != FileKind::Symlink {
            return Err(GuestError::Invalid);
        }
        if inode.size_bytes == 0 || inode.size_bytes > TARGET_MAX {
            return Err(inode_error(
                inode,
                "the length of the link is out of bounds",
            ));
        }
        let in_inode = inode.size_bytes < inode.block_area().len() as u64
            && !inode.has(flag::EXTENTS)
            && !inode.has(flag::INLINE)
            && !inode.has(flag::ENCRYPTED);
        let target = if in_inode {
            let area = inode.block_area().get(..to_usize(inode.size_bytes));
            area.unwrap_or_default().to_vec()
        } else {
            self.read(inode, 0, inode.size_bytes)?.to_vec()
        };
        if target.contains(&0) {
            return Err(inode_error(inode, "the link has a NUL in it"));
        }
        Ok(target)
    }
}

fn inode_error(inode: &Inode, detail: &'static str) -> GuestError {
    GuestError::corrupt(inode.place(), detail)
}

/// Longest path that Linux takes.
const TARGET_MAX: u64 = 4096;
