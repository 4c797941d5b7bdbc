//! Folders, read from front to back whether they have an index or not.

use std::ops::ControlFlow;

use export::FileKind;

use super::Ext;
use super::checksum::crc32c;
use super::inode::{Inode, ROOT, flag};
use crate::bytes::{View, to_usize};
use crate::{GuestError, Place};

/// A name in a folder.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    pub inode: u32,
    pub name: &'a [u8],
    /// Where it begins in the folder.
    pub start: u64,
    /// Where the next begins; more than 2, as no entry is shorter than twelve bytes.
    pub end: u64,
}

type Visit<'v> = &'v mut dyn FnMut(Entry<'_>) -> Result<ControlFlow<()>, GuestError>;

impl Ext {
    /// Calls `visit` with the entries that end behind `from`, `.` and `..` among them if the folder stores them.
    pub(super) fn scan(
        &self,
        folder: &Inode,
        from: u64,
        visit: Visit<'_>,
    ) -> Result<(), GuestError> {
        check_folder(folder)?;
        if folder.has(flag::INLINE) {
            return self.scan_inline(folder, from, visit);
        }
        let block_bytes = self.blocks.block_bytes() as u64;
        let blocks = folder.size_bytes / block_bytes;
        if blocks > self.superblock.blocks {
            return Err(folder_error(folder, 0, "it is longer than the filesystem"));
        }
        let mut logical = from / block_bytes;
        let mut without = 0;
        let mut scanned = 0;
        while logical < blocks {
            let run = self.map(folder, logical)?;
            scanned += 1;
            check_scanned(scanned)?;
            let Some(first) = run.physical else {
                logical = logical.saturating_add(run.blocks);
                continue;
            };
            for number in 0..run.blocks.min(blocks - logical) {
                let mut found = false;
                let at = logical + number;
                let flow = self.scan_block(folder, at, first + number, from, &mut |entry| {
                    found = true;
                    visit(entry)
                })?;
                if flow.is_break() {
                    return Ok(());
                }
                without = if found { 0 } else { without + 1 };
                if without > EMPTY_BLOCKS_MAX {
                    return Err(folder_error(folder, at, "too many blocks without an entry"));
                }
                scanned += 1;
                check_scanned(scanned)?;
            }
            logical = logical.saturating_add(run.blocks);
        }
        Ok(())
    }

    fn scan_block(
        &self,
        folder: &Inode,
        logical: u64,
        physical: u64,
        from: u64,
        visit: Visit<'_>,
    ) -> Result<ControlFlow<()>, GuestError> {
        let place = Place::Folder {
            inode: u64::from(folder.number),
            block: logical,
        };
        let bytes = self.blocks.block(physical, place)?;
        let view = View::new(&bytes, place);
        if self.superblock.has_metadata_checksums() {
            prove(view, folder)?;
        }
        let base = logical * bytes.len() as u64;
        self.walk(view, base, from, visit)
    }

    /// Entries in `view`, whose first byte is byte `base` of the folder.
    fn walk(
        &self,
        view: View<'_>,
        base: u64,
        from: u64,
        visit: Visit<'_>,
    ) -> Result<ControlFlow<()>, GuestError> {
        let mut at = 0;
        while at + HEAD_BYTES <= view.len() {
            let inode = view.u32(at)?;
            let length = entry_length(view.u16(at + 4)?, view.len());
            let name_length = usize::from(view.u8(at + 6)?);
            if length < HEAD_BYTES + 4
                || !length.is_multiple_of(4)
                || length > view.len() - at
                || HEAD_BYTES + name_length > length
            {
                return Err(view.corrupt("an entry has an impossible length"));
            }
            let end = base + (at + length) as u64;
            if inode != 0 && end > from {
                let name = view.slice(at + HEAD_BYTES, name_length)?;
                if name.is_empty() || name.contains(&b'/') || name.contains(&0) {
                    return Err(view.corrupt("a name has bytes that no name may have"));
                }
                if inode > self.superblock.inodes {
                    return Err(view.corrupt("a name leads to an inode that there is not"));
                }
                let start = base + at as u64;
                let entry = Entry {
                    inode,
                    name,
                    start,
                    end,
                };
                if visit(entry)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            at += length;
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The first part lies behind the parent's number in the inode, the second in an extended attribute.
    fn scan_inline(&self, folder: &Inode, from: u64, visit: Visit<'_>) -> Result<(), GuestError> {
        let content = self.inline_content(folder)?;
        let place = Place::Folder {
            inode: u64::from(folder.number),
            block: 0,
        };
        let size = to_usize(folder.size_bytes.min(content.len() as u64));
        let view = View::new(&content, place);
        let area = folder.block_area().len().min(size);
        if area < PARENT_BYTES {
            return Err(view.corrupt("it is too short"));
        }
        let inner = View::new(view.slice(PARENT_BYTES, area - PARENT_BYTES)?, place);
        if self
            .walk(inner, PARENT_BYTES as u64, from, &mut *visit)?
            .is_break()
        {
            return Ok(());
        }
        let outer = View::new(view.slice(area, size - area)?, place);
        self.walk(outer, area as u64, from, visit).map(drop)
    }

    /// The folder that a folder lies in.
    pub(super) fn parent(&self, folder: &Inode) -> Result<u32, GuestError> {
        check_folder(folder)?;
        if folder.number == ROOT {
            return Ok(ROOT);
        }
        if folder.has(flag::INLINE) {
            return View::new(folder.block_area(), folder.place()).u32(0);
        }
        let mut parent = None;
        let mut seen = 0;
        self.scan(folder, 0, &mut |entry| {
            seen += 1;
            if entry.name == b".." {
                parent = Some(entry.inode);
            }
            Ok(if parent.is_some() || seen == 2 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })?;
        parent.ok_or_else(|| folder_error(folder, 0, "it does not say in which folder it lies"))
    }
}

/// Bounds what is looked through, holes too: a hostile folder may have more of them than anybody waits for.
fn check_scanned(scanned: u64) -> Result<(), GuestError> {
    match scanned > SCANNED_MAX {
        true => Err(GuestError::TooLarge {
            what: "the number of blocks of a folder to look through",
            limit: SCANNED_MAX,
        }),
        false => Ok(()),
    }
}

fn check_folder(folder: &Inode) -> Result<(), GuestError> {
    if folder.kind() != FileKind::Directory {
        return Err(GuestError::NotDirectory);
    }
    if folder.has(flag::ENCRYPTED) {
        return Err(GuestError::Encrypted {
            inode: u64::from(folder.number),
        });
    }
    Ok(())
}

fn folder_error(folder: &Inode, block: u64, detail: &'static str) -> GuestError {
    let inode = u64::from(folder.number);
    GuestError::corrupt(Place::Folder { inode, block }, detail)
}

/// The length of an entry; blocks of 64 KiB need a seventeenth bit.
fn entry_length(stored: u16, block_bytes: usize) -> usize {
    let stored = usize::from(stored);
    if block_bytes < 65536 {
        stored
    } else if stored == 0 || stored == 65535 {
        block_bytes
    } else {
        stored & 0xFFFC | (stored & 3) << 16
    }
}

/// Checks the checksum of a block: at the end of a list of names, or behind the room of a node of the index.
fn prove(view: View<'_>, folder: &Inode) -> Result<(), GuestError> {
    let index = if folder.has(flag::INDEXED) {
        index_offset(view)?
    } else {
        None
    };
    let (stored, computed) = if let Some(at) = index {
        let (room, used) = (usize::from(view.u16(at)?), usize::from(view.u16(at + 2)?));
        let tail = at + room * INDEX_ENTRY_BYTES;
        if used > room {
            return Err(view.corrupt("its index has more entries than room"));
        }
        let state = crc32c(folder.seed, view.slice(0, at + used * INDEX_ENTRY_BYTES)?);
        let state = crc32c(state, view.slice(tail, 4)?);
        (view.u32(tail + 4)?, crc32c(state, &[0; 4]))
    } else {
        let tail = view.len().saturating_sub(TAIL_BYTES);
        if view.u32(tail)? != 0 || view.u32(tail + 4)? != TAIL_HEAD {
            return Err(view.corrupt("the checksum is missing"));
        }
        (
            view.u32(tail + 8)?,
            crc32c(folder.seed, view.slice(0, tail)?),
        )
    };
    if stored == computed {
        Ok(())
    } else {
        Err(view.corrupt("the checksum is wrong"))
    }
}

/// Where the index begins in a block that is a node of it.
fn index_offset(view: View<'_>) -> Result<Option<usize>, GuestError> {
    let length = |at: usize| Ok::<_, GuestError>(entry_length(view.u16(at)?, view.len()));
    let first = length(4)?;
    if first == view.len() && view.u32(0)? == 0 {
        return Ok(Some(8));
    }
    let root = first == 12 && length(16)? == view.len() - 12;
    let sound = root && view.u32(24)? == 0 && view.u8(29)? == 8;
    Ok(sound.then_some(32))
}

const HEAD_BYTES: usize = 8;
const PARENT_BYTES: usize = 4;
const INDEX_ENTRY_BYTES: usize = 8;
const TAIL_BYTES: usize = 12;
/// Length 12, no name, and the type that no entry has.
const TAIL_HEAD: u32 = 0xDE00_000C;
/// So many blocks without a name have never been; they would only take time.
const EMPTY_BLOCKS_MAX: u32 = 1 << 19;
/// What one call looks through: blocks of a hostile folder may all be the same one, and have no end.
const SCANNED_MAX: u64 = 1 << 22;
