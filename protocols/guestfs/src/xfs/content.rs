//! Bytes of files and links.

use export::{FileKind, Segments};

use super::Xfs;
use super::device::Checksum;
use super::inode::Inode;
use crate::bytes::{View, to_usize};
use crate::{GuestError, Place};

impl Xfs {
    /// Up to `length` bytes of a file's content; fewer only at its end. Holes and unwritten extents are zeroes.
    pub(super) fn read(
        &self,
        inode: &Inode,
        offset: u64,
        length: u64,
    ) -> Result<Segments, GuestError> {
        self.pending.check_content(inode.number)?;
        let end = offset.saturating_add(length).min(inode.size_bytes);
        let mut result = Segments::new();
        let block = u64::from(self.superblock.block_bytes);
        let fork = inode.content();
        let mut at = offset;
        while at < end {
            let run = self.map(&fork, at / block)?;
            let skip = at % block;
            let wanted = (end - at + skip).div_ceil(block);
            let bytes = (run.blocks.min(wanted) * block - skip).min(end - at);
            match run.at_bytes {
                Some(first) => {
                    result.append(self.device.read(first + skip, to_usize(bytes))?);
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
        let corrupt = |detail| GuestError::corrupt(inode.place(), detail);
        if inode.size_bytes == 0 || inode.size_bytes > TARGET_MAX {
            return Err(corrupt("the length of the link is out of bounds"));
        }
        let fork = inode.content();
        let target = if fork.is_local() {
            fork.local(inode.size_bytes)?.to_vec()
        } else {
            self.remote_target(inode)?
        };
        if target.contains(&0) {
            return Err(corrupt("the link has a NUL in it"));
        }
        Ok(target)
    }

    fn remote_target(&self, inode: &Inode) -> Result<Vec<u8>, GuestError> {
        let fork = inode.content();
        let block = u64::from(self.superblock.block_bytes);
        let wanted = to_usize(inode.size_bytes);
        let mut target = Vec::new();
        let mut logical = 0;
        while target.len() < wanted {
            let place = Place::ExtentNode {
                inode: inode.number,
                block: logical,
            };
            let run = self.map(&fork, logical)?;
            let Some(at) = run.at_bytes else {
                return Err(GuestError::corrupt(inode.place(), "the link has a hole"));
            };
            let missing = wanted - target.len();
            if self.superblock.is_v5() {
                // The blocks of an extent have one header together.
                let length = to_usize(run.blocks.min(LINK_BLOCKS_MAX) * block);
                let checksum = Checksum::At(12);
                let bytes = self.device.metadata(at, length, checksum, place)?;
                let view = View::new(&bytes, place);
                let content = self.link_part(view, inode, at, target.len())?;
                target.extend_from_slice(content.get(..content.len().min(missing)).unwrap_or(&[]));
            } else {
                let length = missing.min(to_usize(run.blocks.min(LINK_BLOCKS_MAX) * block));
                target.extend(self.device.read(at, length)?.to_vec());
            }
            logical += run.blocks;
        }
        Ok(target)
    }

    fn link_part<'a>(
        &self,
        view: View<'a>,
        inode: &Inode,
        at: u64,
        done: usize,
    ) -> Result<&'a [u8], GuestError> {
        self.prove_home(view, 40, 16, at)?;
        let length = view.big32(8)? as usize;
        if view.slice(0, 4)? != b"XSLM"
            || view.big64(32)? != inode.number
            || view.big32(4)? as usize != done
            || length == 0
        {
            return Err(view.corrupt("it is not the part of a link that it should be"));
        }
        view.slice(LINK_HEADER_BYTES, length)
    }
}

/// As XFS has it.
const TARGET_MAX: u64 = 1024;
const LINK_HEADER_BYTES: usize = 56;
/// Enough for the longest target in the smallest blocks.
const LINK_BLOCKS_MAX: u64 = 4;
