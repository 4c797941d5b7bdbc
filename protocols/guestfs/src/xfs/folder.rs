//! Folders: in the inode, or in blocks of entries that are read from front to back.

use std::ops::ControlFlow;

use ::bytes::{Bytes, BytesMut};
use export::FileKind;

use super::Xfs;
use super::device::Checksum;
use super::inode::Inode;
use crate::bytes::{View, to_usize};
use crate::{GuestError, Place};

/// A name in a folder.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    pub inode: u64,
    pub name: &'a [u8],
    /// Behind it in the folder; more than 2, as blocks begin with a header.
    pub end: u64,
}

pub(super) type Visit<'v> = &'v mut dyn FnMut(Entry<'_>) -> Result<ControlFlow<()>, GuestError>;

/// A block of entries, proven.
pub(super) struct EntryBlock {
    pub bytes: Bytes,
    pub place: Place,
    /// Where the entries end; behind them is the index of a folder that has one block.
    pub end: usize,
    pub has_index: bool,
}

impl Xfs {
    /// Calls `visit` with the entries that end behind `from`; `.` and `..` are among them where the folder stores them.
    pub(super) fn scan(
        &self,
        folder: &Inode,
        from: u64,
        visit: Visit<'_>,
    ) -> Result<(), GuestError> {
        if folder.kind() != FileKind::Directory {
            return Err(GuestError::NotDirectory);
        }
        if folder.content().is_local() {
            return self.scan_local(folder, from, visit);
        }
        let block_bytes = self.superblock.folder_block_bytes() as u64;
        let blocks = folder.size_bytes.div_ceil(block_bytes);
        if blocks > ENTRIES_END / block_bytes {
            return Err(folder_error(folder, 0, "it is longer than a folder may be"));
        }
        let mut number = from / block_bytes;
        let (mut scanned, mut without) = (0, 0);
        while number < blocks {
            scanned += 1;
            if scanned > SCANNED_MAX {
                return Err(GuestError::TooLarge {
                    what: "the number of blocks of a folder",
                    limit: SCANNED_MAX,
                });
            }
            let logical = number << self.superblock.folder_block_log;
            let run = self.map(&folder.content(), logical)?;
            if run.at_bytes.is_none() {
                number = (logical.saturating_add(run.blocks) >> self.superblock.folder_block_log)
                    .max(number + 1);
                continue;
            }
            let block = self.entry_block(folder, number)?;
            let mut found = false;
            let flow = self.walk(&block, number * block_bytes, from, &mut |entry| {
                found = true;
                visit(entry)
            })?;
            if flow.is_break() || block.has_index {
                return Ok(());
            }
            without = if found { 0 } else { without + 1 };
            if without > EMPTY_BLOCKS_MAX {
                let detail = "too many blocks without an entry";
                return Err(folder_error(folder, number, detail));
            }
            number += 1;
        }
        Ok(())
    }

    /// The folder that a folder is in.
    pub(super) fn parent(&self, folder: &Inode) -> Result<u64, GuestError> {
        if folder.number == self.superblock.root_inode {
            return Ok(folder.number);
        }
        if folder.content().is_local() {
            let (view, wide) = local(folder)?;
            return local_number(view, 2, wide);
        }
        self.find(folder, b"..")
    }

    fn scan_local(&self, folder: &Inode, from: u64, visit: Visit<'_>) -> Result<(), GuestError> {
        let (view, wide) = local(folder)?;
        let number_bytes = if wide { 8 } else { 4 };
        let type_bytes = usize::from(self.superblock.has_entry_types());
        let mut at = 2 + number_bytes;
        let mut last = 0;
        for _ in 0..view.u8(0)? {
            let length = usize::from(view.u8(at)?);
            let offset = u64::from(view.big16(at + 1)?);
            let name = view.slice(at + 3, length)?;
            let inode = local_number(view, at + 3 + length + type_bytes, wide)?;
            at += 3 + length + type_bytes + number_bytes;
            // The offset is where the entry would be in a block, so that it may get there without being listed twice.
            let end = offset + self.entry_bytes(length) as u64;
            if offset < last || offset == 0 {
                return Err(view.corrupt("its entries are out of order"));
            }
            last = end;
            self.check_entry(view, name, inode)?;
            if end > from && visit(Entry { inode, name, end })?.is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// A block of entries, by its number in the folder.
    pub(super) fn entry_block(
        &self,
        folder: &Inode,
        number: u64,
    ) -> Result<EntryBlock, GuestError> {
        let place = Place::Folder {
            inode: folder.number,
            block: number,
        };
        let logical = number << self.superblock.folder_block_log;
        let is_v5 = self.superblock.is_v5();
        let (bytes, at) = self.folder_block(folder, logical, 4, place)?;
        let view = View::new(&bytes, place);
        let has_index = match (view.slice(0, 4)?, is_v5) {
            (b"XDB3", true) | (b"XD2B", false) => true,
            (b"XDD3", true) | (b"XD2D", false) => false,
            _ => return Err(view.corrupt("the magic number is missing")),
        };
        if is_v5 {
            self.prove_home(view, 8, 24, at)?;
            if view.big64(40)? != folder.number {
                return Err(view.corrupt("it belongs to another inode"));
            }
        }
        let end = if has_index {
            let count = view.big32(view.len() - INDEX_TAIL_BYTES)? as usize;
            count
                .checked_mul(INDEX_ENTRY_BYTES)
                .and_then(|length| view.len().checked_sub(length + INDEX_TAIL_BYTES))
                .filter(|end| *end >= self.entries_start())
                .ok_or_else(|| view.corrupt("its index is longer than it"))?
        } else {
            view.len()
        };
        Ok(EntryBlock {
            bytes,
            place,
            end,
            has_index,
        })
    }

    /// A block of a folder of whatever kind, put together if it lies in pieces, and where its first piece lies.
    pub(super) fn folder_block(
        &self,
        folder: &Inode,
        logical: u64,
        checksum_at: u32,
        place: Place,
    ) -> Result<(Bytes, u64), GuestError> {
        let count = 1 << self.superblock.folder_block_log;
        let block = self.superblock.block_bytes as usize;
        let checksum = if self.superblock.is_v5() {
            Checksum::At(checksum_at)
        } else {
            Checksum::None
        };
        let mut pieces: Vec<(u64, u64)> = Vec::new();
        let mut done = 0;
        while done < count {
            let run = self.map(&folder.content(), logical + done)?;
            let at = run
                .at_bytes
                .ok_or(GuestError::corrupt(place, "it has a hole"))?;
            let blocks = run.blocks.min(count - done);
            pieces.push((at, blocks));
            done += blocks;
        }
        let first = pieces.first().map_or(0, |(at, _)| *at);
        if let [(at, _)] = *pieces {
            let length = self.superblock.folder_block_bytes();
            return Ok((self.device.metadata(at, length, checksum, place)?, at));
        }
        let mut whole = BytesMut::new();
        let mut is_newer = false;
        for (at, blocks) in pieces {
            let length = to_usize(blocks) * block;
            let piece = self.device.metadata(at, length, Checksum::None, place)?;
            is_newer |= self.device.overlay().touches(at, length);
            whole.extend_from_slice(&piece);
        }
        let view = View::new(&whole, place);
        if checksum != Checksum::None
            && !is_newer
            && !super::checksum::is_right(view, checksum_at as usize)?
        {
            return Err(view.corrupt("the checksum is wrong"));
        }
        Ok((whole.freeze(), first))
    }

    /// Entries of a block whose first byte is byte `base` of the folder.
    fn walk(
        &self,
        block: &EntryBlock,
        base: u64,
        from: u64,
        visit: Visit<'_>,
    ) -> Result<ControlFlow<()>, GuestError> {
        let view = View::new(&block.bytes, block.place);
        let mut at = self.entries_start();
        while at < block.end {
            if view.big16(at)? == UNUSED {
                let length = usize::from(view.big16(at + 2)?);
                // As a number of 16 bits, 64 KiB would be zero; but no block is without a header.
                if length == 0 || !length.is_multiple_of(8) || length > block.end - at {
                    return Err(view.corrupt("unused space in it has an impossible length"));
                }
                at += length;
                continue;
            }
            let (inode, name, length) = self.entry_at(block, at)?;
            at += length;
            let end = base + at as u64;
            if end > from && visit(Entry { inode, name, end })?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The entry that begins at `at`: inode, name, and its length.
    pub(super) fn entry_at<'a>(
        &self,
        block: &'a EntryBlock,
        at: usize,
    ) -> Result<(u64, &'a [u8], usize), GuestError> {
        let view = View::new(&block.bytes, block.place);
        let name_bytes = usize::from(view.u8(at.saturating_add(8))?);
        let length = self.entry_bytes(name_bytes);
        if at < self.entries_start() || at > block.end || length > block.end - at {
            return Err(view.corrupt("an entry is longer than it"));
        }
        // Each entry ends with its place in the block.
        if usize::from(view.big16(at + length - 2)?) != at {
            return Err(view.corrupt("there is no entry where one should be"));
        }
        let inode = view.big64(at)?;
        let name = view.slice(at + 9, name_bytes)?;
        self.check_entry(view, name, inode)?;
        Ok((inode, name, length))
    }

    fn check_entry(&self, view: View<'_>, name: &[u8], inode: u64) -> Result<(), GuestError> {
        if name.is_empty() || name.contains(&b'/') || name.contains(&0) {
            return Err(view.corrupt("a name has bytes that no name may have"));
        }
        if self.superblock.inode_place(inode).is_none() || inode >> 48 != 0 {
            return Err(view.corrupt("a name leads to an inode that there cannot be"));
        }
        Ok(())
    }

    /// What an entry with a name of this length takes in a block.
    fn entry_bytes(&self, name_bytes: usize) -> usize {
        let type_bytes = usize::from(self.superblock.has_entry_types());
        (8 + 1 + name_bytes + type_bytes + 2).next_multiple_of(8)
    }

    fn entries_start(&self) -> usize {
        if self.superblock.is_v5() { 64 } else { 16 }
    }
}

/// A folder in its inode, and whether its numbers of inodes have 64 bits.
fn local(folder: &Inode) -> Result<(View<'_>, bool), GuestError> {
    let area = folder.content().local(folder.size_bytes)?;
    let place = Place::Folder {
        inode: folder.number,
        block: 0,
    };
    let view = View::new(area, place);
    let wide = view.u8(1)? != 0;
    Ok((view, wide))
}

fn local_number(view: View<'_>, at: usize, wide: bool) -> Result<u64, GuestError> {
    if wide {
        view.big64(at)
    } else {
        view.big32(at).map(u64::from)
    }
}

pub(super) fn folder_error(folder: &Inode, block: u64, detail: &'static str) -> GuestError {
    let inode = folder.number;
    GuestError::corrupt(Place::Folder { inode, block }, detail)
}

/// Entries lie before this byte of a folder, its index behind.
pub(super) const ENTRIES_END: u64 = 32 << 30;
pub(super) const INDEX_TAIL_BYTES: usize = 8;
pub(super) const INDEX_ENTRY_BYTES: usize = 8;
const UNUSED: u16 = 0xFFFF;
/// Blocks that are read for one call.
const SCANNED_MAX: u64 = 4 << 20;
/// Blocks without a name in a row.
const EMPTY_BLOCKS_MAX: u64 = 512 << 10;
