//! Finding a name in a folder, by the index over the hashes of its names.

use ::bytes::Bytes;

use super::Xfs;
use super::blocks::first_behind;
use super::folder::{ENTRIES_END, INDEX_ENTRY_BYTES, INDEX_TAIL_BYTES};
use super::inode::Inode;
use crate::bytes::{View, to_usize};
use crate::{GuestError, Place};

/// A search that goes on until the very name is found; one that differs in case alone is remembered.
struct Search<'a> {
    name: &'a [u8],
    hash: u32,
    alike: Option<u64>,
    candidates: u64,
}

/// A node or leaf of the index.
struct IndexBlock {
    bytes: Bytes,
    place: Place,
    kind: Kind,
    /// Where its entries begin, and how many there are.
    start: usize,
    count: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Node { level: u16 },
    Leaf { next: u32 },
}

impl Xfs {
    /// The inode of a name; `.` and `..` too, where the folder stores them.
    pub(super) fn find(&self, folder: &Inode, name: &[u8]) -> Result<u64, GuestError> {
        let mut search = Search {
            name,
            hash: self.name_hash(name),
            alike: None,
            candidates: 0,
        };
        if folder.content().is_local() {
            let mut found = None;
            self.scan(folder, 0, &mut |entry| {
                let stop = self.compare(&mut search, entry.name, entry.inode);
                if stop {
                    found = Some(entry.inode);
                }
                Ok(if stop {
                    std::ops::ControlFlow::Break(())
                } else {
                    std::ops::ControlFlow::Continue(())
                })
            })?;
            return found.or(search.alike).ok_or(GuestError::NotFound);
        }
        let found = if let Some(found) = self.find_in_one_block(folder, &mut search)? {
            found
        } else {
            self.find_by_tree(folder, &mut search)?
        };
        found.or(search.alike).ok_or(GuestError::NotFound)
    }

    /// `None` if the index is elsewhere.
    fn find_in_one_block(
        &self,
        folder: &Inode,
        search: &mut Search<'_>,
    ) -> Result<Option<Option<u64>>, GuestError> {
        if folder.size_bytes > self.superblock.folder_block_bytes() as u64 {
            return Ok(None);
        }
        let block = self.entry_block(folder, 0)?;
        if !block.has_index {
            return Ok(None);
        }
        let view = View::new(&block.bytes, block.place);
        let count = (view.len() - INDEX_TAIL_BYTES - block.end) / INDEX_ENTRY_BYTES;
        self.search_leaf(folder, view, block.end, count, search)
            .map(|(found, _)| Some(found))
    }

    fn find_by_tree(
        &self,
        folder: &Inode,
        search: &mut Search<'_>,
    ) -> Result<Option<u64>, GuestError> {
        let mut number = ENTRIES_END / u64::from(self.superblock.block_bytes);
        let mut above = DEPTH_MAX;
        let mut leaf = loop {
            let block = self.index_block(folder, number)?;
            let view = View::new(&block.bytes, block.place);
            let Kind::Node { level } = block.kind else {
                break block;
            };
            if level == 0 || level >= above || block.count == 0 {
                return Err(view.corrupt("it is on another level of the index"));
            }
            above = level;
            let at = |index: usize| block.start + index * INDEX_ENTRY_BYTES;
            let behind =
                first_behind(
                    block.count,
                    |index| Ok(view.big32(at(index))? < search.hash),
                )?;
            // A hash behind all of them could only be in the last.
            number = u64::from(view.big32(at(behind.min(block.count - 1)) + 4)?);
        };
        // Names of one hash may go on in the next leaf.
        for _ in 0..LEAVES_MAX {
            let view = View::new(&leaf.bytes, leaf.place);
            let (found, goes_on) =
                self.search_leaf(folder, view, leaf.start, leaf.count, search)?;
            match leaf.kind {
                Kind::Leaf { next } if found.is_none() && goes_on && next != 0 => {
                    leaf = self.index_block(folder, u64::from(next))?;
                }
                _ => return Ok(found),
            }
        }
        Err(too_many())
    }

    /// Looks at the entries with the hash, and says whether there may be more of them behind.
    fn search_leaf(
        &self,
        folder: &Inode,
        view: View<'_>,
        start: usize,
        count: usize,
        search: &mut Search<'_>,
    ) -> Result<(Option<u64>, bool), GuestError> {
        let at = |index: usize| start + index * INDEX_ENTRY_BYTES;
        let first = first_behind(count, |index| Ok(view.big32(at(index))? < search.hash))?;
        for index in first..count {
            if view.big32(at(index))? != search.hash {
                return Ok((None, false));
            }
            let address = u64::from(view.big32(at(index) + 4)?) * 8;
            // Of an entry that was removed.
            if address == 0 {
                continue;
            }
            search.candidates += 1;
            if search.candidates > CANDIDATES_MAX {
                return Err(too_many());
            }
            let block_bytes = self.superblock.folder_block_bytes() as u64;
            let block = self.entry_block(folder, address / block_bytes)?;
            let (inode, name, _) = self.entry_at(&block, to_usize(address % block_bytes))?;
            if self.compare(search, name, inode) {
                return Ok((Some(inode), false));
            }
        }
        Ok((None, true))
    }

    /// Whether a name is the one that is looked for.
    fn compare(&self, search: &mut Search<'_>, name: &[u8], inode: u64) -> bool {
        if name == search.name {
            return true;
        }
        if search.alike.is_none() && self.superblock.ignores_case() {
            let is_alike = name.len() == search.name.len()
                && name
                    .iter()
                    .zip(search.name)
                    .all(|(one, other)| lower(*one) == lower(*other));
            search.alike = is_alike.then_some(inode);
        }
        false
    }

    fn index_block(&self, folder: &Inode, number: u64) -> Result<IndexBlock, GuestError> {
        let place = Place::Folder {
            inode: folder.number,
            block: number >> self.superblock.folder_block_log,
        };
        let is_v5 = self.superblock.is_v5();
        let (bytes, at) = self.folder_block(folder, number, 12, place)?;
        let view = View::new(&bytes, place);
        let header = if is_v5 { 56 } else { 12 };
        let count = usize::from(view.big16(header)?);
        let (kind, tail) = match (view.big16(8)?, is_v5) {
            (0x3EBE, true) | (0xFEBE, false) => {
                let level = view.big16(header + 2)?;
                (Kind::Node { level }, 0)
            }
            (0x3DF1, true) | (0xD2F1, false) => (Kind::Leaf { next: 0 }, 4),
            (0x3DFF, true) | (0xD2FF, false) => {
                let next = view.big32(0)?;
                (Kind::Leaf { next }, 0)
            }
            _ => return Err(view.corrupt("the magic number is missing")),
        };
        if is_v5 {
            self.prove_home(view, 16, 32, at)?;
            if view.big64(48)? != folder.number {
                return Err(view.corrupt("it belongs to another inode"));
            }
        }
        let start = if is_v5 { 64 } else { 16 };
        if count > (view.len() - start - tail) / INDEX_ENTRY_BYTES {
            return Err(view.corrupt("there is no room for so many entries"));
        }
        Ok(IndexBlock {
            bytes,
            place,
            kind,
            start,
            count,
        })
    }

    fn name_hash(&self, name: &[u8]) -> u32 {
        if self.superblock.ignores_case() {
            return name.iter().fold(0_u32, |hash, byte| {
                u32::from(lower(*byte)) ^ hash.rotate_left(7)
            });
        }
        hash(name)
    }
}

/// The hash over a name, by which folders and extended attributes are sorted.
fn hash(name: &[u8]) -> u32 {
    name.iter()
        .fold(0_u32, |hash, byte| u32::from(*byte) ^ hash.rotate_left(7))
}

/// As XFS has it: Latin letters, with those of ISO 8859-1.
fn lower(byte: u8) -> u8 {
    match byte {
        b'A'..=b'Z' | 0xC0..=0xD6 | 0xD8..=0xDE => byte + 0x20,
        _ => byte,
    }
}

fn too_many() -> GuestError {
    GuestError::TooLarge {
        what: "the number of names of one hash",
        limit: CANDIDATES_MAX,
    }
}

/// One more than the highest level of a node.
const DEPTH_MAX: u16 = 6;
const LEAVES_MAX: u32 = 65536;
const CANDIDATES_MAX: u64 = 1 << 20;
