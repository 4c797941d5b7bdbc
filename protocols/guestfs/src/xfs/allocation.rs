//! Which blocks are in use.
//!
//! Each allocation group has a tree of its free extents; what is not in it is in use, headers, the log and the blocks that
//! the trees keep for themselves among it. After a crash the trees on disk may be older than the log, and not even of one
//! moment: a block is free only if the tree on disk and the tree after the replay both say so, and if the log writes
//! nothing there. Where the older tree cannot be read, the whole group is in use.

use std::collections::VecDeque;
use std::ops::Range;

use ::bytes::Bytes;

use super::Xfs;
use super::blocks::short_header_bytes;
use super::checksum;
use super::device::SECTOR;
use crate::bytes::{View, to_usize};
use crate::{GuestError, Place};

/// Ranges of bytes that are in use, one group after the other.
pub(crate) struct UsedSpace {
    xfs: Xfs,
    group: u32,
    /// The walk through the group that is being read.
    walk: Option<GroupWalk>,
    ready: VecDeque<Range<u64>>,
}

/// The free extents of one group.
struct GroupWalk {
    newest: FreeExtents,
    /// Those on disk, if they may differ; `None` behind where they cannot be read.
    older: Option<Ahead>,
    is_dirty: bool,
    /// Up to here, the group is done.
    done: u64,
    length: u64,
}

/// Extents on disk, of which one is looked at.
struct Ahead {
    extents: FreeExtents,
    current: Option<Range<u64>>,
}

/// Free extents in order, leaf by leaf.
struct FreeExtents {
    group: u32,
    state: State,
    leaf: Option<Bytes>,
    index: usize,
    /// Behind the last extent.
    last: u64,
    sum: u64,
    expected: u64,
}

/// Which of two contents of the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    OnDisk,
    Replayed,
}

/// How much is free.
pub(super) struct Counts {
    pub free_blocks: u64,
    pub inodes: u64,
    pub free_inodes: u64,
}

impl UsedSpace {
    pub(crate) fn of(xfs: Xfs) -> Result<Self, GuestError> {
        if xfs.superblock.realtime_blocks > 0 {
            return Err(GuestError::unsupported(
                "a map of used blocks of an XFS with a realtime device",
            ));
        }
        let unknown = xfs.superblock.unknown_read_only();
        if unknown != 0 {
            return Err(GuestError::unsupported(format!(
                "a map of used blocks of an XFS with unknown features, read-only bits {unknown:#x}"
            )));
        }
        Ok(Self {
            xfs,
            group: 0,
            walk: None,
            ready: VecDeque::new(),
        })
    }

    /// Where the filesystem ends. What lies behind it is nobody's to leave out.
    pub(crate) fn end_bytes(&self) -> u64 {
        self.xfs.superblock.blocks * u64::from(self.xfs.superblock.block_bytes)
    }

    /// Goes on to the next free extent, or the next group.
    fn step(&mut self) -> Result<(), GuestError> {
        let mut walk = match self.walk.take() {
            Some(walk) => walk,
            None => GroupWalk::begin(&self.xfs, self.group)?,
        };
        let start = self.xfs.superblock.group_bytes(self.group);
        let block = u64::from(self.xfs.superblock.block_bytes);
        let Some(free) = walk.newest.next(&self.xfs)? else {
            let rest = walk.done..walk.length;
            self.ready
                .push_back(start + rest.start * block..start + rest.end * block);
            self.group += 1;
            return Ok(());
        };
        for free in walk.also_free_on_disk(&self.xfs, free) {
            for free in self.without_replayed(start, &free) {
                self.ready
                    .push_back(start + walk.done * block..start + free.start * block);
                walk.done = free.end;
            }
        }
        self.walk = Some(walk);
        Ok(())
    }

    /// The parts of a free extent to which the log writes nothing.
    fn without_replayed(&self, start: u64, free: &Range<u64>) -> Vec<Range<u64>> {
        let block = u64::from(self.xfs.superblock.block_bytes);
        let at = start + free.start * block;
        let length = to_usize((free.end - free.start) * block);
        let mut parts = Vec::new();
        let mut from = free.start;
        for (sector, _) in self.xfs.device.overlay().within(at, length) {
            let written = (sector * SECTOR as u64 - start) / block;
            if written > from {
                parts.push(from..written);
            }
            from = from.max(written + 1);
        }
        if from < free.end {
            parts.push(from..free.end);
        }
        parts
    }
}

impl Iterator for UsedSpace {
    type Item = Result<Range<u64>, GuestError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() {
            if self.group == self.xfs.superblock.groups {
                return None;
            }
            if let Err(error) = self.step() {
                return Some(Err(error));
            }
        }
        self.ready.pop_front().map(Ok)
    }
}

impl GroupWalk {
    fn begin(xfs: &Xfs, group: u32) -> Result<Self, GuestError> {
        let older = if xfs.is_dirty {
            match FreeExtents::begin(xfs, group, State::OnDisk) {
                Err(error) if error.is_of_one_place() => None,
                begun => Some(Ahead {
                    extents: begun?,
                    current: Some(0..0),
                }),
            }
        } else {
            None
        };
        Ok(Self {
            newest: FreeExtents::begin(xfs, group, State::Replayed)?,
            older,
            is_dirty: xfs.is_dirty,
            done: 0,
            length: xfs.superblock.group_length(group),
        })
    }

    /// What the tree on disk calls free too.
    fn also_free_on_disk(&mut self, xfs: &Xfs, free: Range<u64>) -> Vec<Range<u64>> {
        if !self.is_dirty {
            return vec![free];
        }
        let mut both = Vec::new();
        let Some(ahead) = &mut self.older else {
            return both;
        };
        while let Some(current) = ahead.current.clone() {
            let common = current.start.max(free.start)..current.end.min(free.end);
            if !common.is_empty() {
                both.push(common);
            }
            if current.end > free.end {
                break;
            }
            ahead.current = match ahead.extents.next(xfs) {
                Ok(next) => next,
                Err(error) => {
                    tracing::debug!(%error, "free space on disk is of different moments");
                    None
                }
            };
        }
        both
    }
}

impl FreeExtents {
    fn begin(xfs: &Xfs, group: u32, state: State) -> Result<Self, GuestError> {
        let place = Place::AllocationGroup(group);
        let header = xfs.group_header(group, 1, 216, state)?;
        let view = View::new(&header, place);
        if view.slice(0, 4)? != b"XAGF"
            || view.big32(4)? != 1
            || view.big32(8)? != group
            || u64::from(view.big32(12)?) != xfs.superblock.group_length(group)
        {
            return Err(view.corrupt("the header of its free space is not one"));
        }
        xfs.prove_owner(view, 64)?;
        let mut extents = Self {
            group,
            state,
            leaf: None,
            index: 0,
            last: 0,
            sum: 0,
            expected: u64::from(view.big32(52)?),
        };
        let levels = view.big32(28)?;
        if levels == 0 || levels > LEVELS_MAX {
            return Err(view.corrupt("the tree of its free space has an impossible height"));
        }
        let mut number = u64::from(view.big32(16)?);
        for level in (0..levels).rev() {
            let block = extents.block(xfs, number, level)?;
            let view = View::new(&block, extents.place(number));
            let start = short_header_bytes(xfs.superblock.is_v5());
            let room = (view.len() - start) / (EXTENT_BYTES + POINTER_BYTES);
            let count = usize::from(view.big16(6)?);
            if level == 0 {
                extents.leaf = Some(block);
                break;
            }
            if count == 0 || count > room {
                return Err(view.corrupt("it leads nowhere or has no room for its children"));
            }
            number = u64::from(view.big32(start + room * EXTENT_BYTES)?);
        }
        Ok(extents)
    }

    fn place(&self, block: u64) -> Place {
        Place::FreeSpace {
            group: self.group,
            block,
        }
    }

    fn block(&self, xfs: &Xfs, number: u64, level: u32) -> Result<Bytes, GuestError> {
        let place = self.place(number);
        let at = xfs
            .superblock
            .group_extent(self.group, number, 1)
            .ok_or(GuestError::corrupt(
                Place::AllocationGroup(self.group),
                "the tree of its free space leads out of it",
            ))?;
        let length = xfs.superblock.block_bytes as usize;
        let bytes = xfs.structure(at, length, 52, self.state, place)?;
        let view = View::new(&bytes, place);
        let is_v5 = xfs.superblock.is_v5();
        let magic: &[u8] = if is_v5 { b"AB3B" } else { b"ABTB" };
        if view.slice(0, 4)? != magic || u32::from(view.big16(4)?) != level {
            return Err(view.corrupt("it is not the block that it should be"));
        }
        if is_v5 {
            xfs.prove_home(view, 16, 32, at)?;
            if view.big32(48)? != self.group {
                return Err(view.corrupt("it belongs to another group"));
            }
        }
        Ok(bytes)
    }

    fn next(&mut self, xfs: &Xfs) -> Result<Option<Range<u64>>, GuestError> {
        let start = short_header_bytes(xfs.superblock.is_v5());
        while let Some(leaf) = self.leaf.clone() {
            let view = View::new(&leaf, self.place(0));
            let count = usize::from(view.big16(6)?);
            if count > (view.len() - start) / EXTENT_BYTES {
                return Err(view.corrupt("there is no room for so many extents"));
            }
            if self.index < count {
                let at = start + self.index * EXTENT_BYTES;
                self.index += 1;
                let first = u64::from(view.big32(at)?);
                let end = first + u64::from(view.big32(at + 4)?);
                if first <= self.last && self.last > 0
                    || end <= first
                    || xfs
                        .superblock
                        .group_extent(self.group, first, end - first)
                        .is_none()
                {
                    return Err(view.corrupt("its extents are out of order or bounds"));
                }
                self.last = end;
                self.sum += end - first;
                return Ok(Some(first..end));
            }
            let next = view.big32(12)?;
            if next == u32::MAX {
                self.leaf = None;
            } else if count == 0 {
                return Err(view.corrupt("a leaf without extents leads on"));
            } else {
                self.leaf = Some(self.block(xfs, u64::from(next), 0)?);
                self.index = 0;
            }
        }
        // Without checksums nothing else tells that a part of the tree was lost.
        if self.sum != self.expected {
            return Err(GuestError::corrupt(
                Place::AllocationGroup(self.group),
                "its free extents are not as many blocks as it says",
            ));
        }
        Ok(None)
    }
}

impl Xfs {
    /// How much is free; counted if there was a crash, as the superblock is brought up to date only now and then.
    pub(super) fn counts(&self) -> Result<Counts, GuestError> {
        let superblock = &self.superblock;
        let mut counts = Counts {
            free_blocks: superblock.free_blocks,
            inodes: superblock.inodes,
            free_inodes: superblock.free_inodes,
        };
        if !self.is_dirty || superblock.groups > COUNTED_MAX {
            return Ok(counts);
        }
        (counts.free_blocks, counts.inodes, counts.free_inodes) = (0, 0, 0);
        for group in 0..superblock.groups {
            let place = Place::AllocationGroup(group);
            let space = self.group_header(group, 1, 216, State::Replayed)?;
            let space = View::new(&space, place);
            // Free, kept for the trees, and in the trees of free space.
            for at in [52, 48, 60] {
                counts.free_blocks += u64::from(space.big32(at)?);
            }
            let inodes = self.group_header(group, 2, 312, State::Replayed)?;
            let inodes = View::new(&inodes, place);
            counts.inodes += u64::from(inodes.big32(16)?);
            counts.free_inodes += u64::from(inodes.big32(28)?);
        }
        Ok(counts)
    }

    /// One of the sectors with which a group begins.
    fn group_header(
        &self,
        group: u32,
        sector: u64,
        checksum_at: u32,
        state: State,
    ) -> Result<Bytes, GuestError> {
        let length = self.superblock.sector_bytes;
        let at = self.superblock.group_bytes(group) + sector * u64::from(length);
        let place = Place::AllocationGroup(group);
        self.structure(at, length as usize, checksum_at, state, place)
    }

    fn prove_owner(&self, view: View<'_>, uuid_at: usize) -> Result<(), GuestError> {
        if self.superblock.is_v5() && view.slice(uuid_at, 16)? != self.superblock.meta_uuid {
            return Err(view.corrupt("it belongs to another filesystem"));
        }
        Ok(())
    }

    fn structure(
        &self,
        at: u64,
        length: usize,
        checksum_at: u32,
        state: State,
        place: Place,
    ) -> Result<Bytes, GuestError> {
        use super::device::Checksum;
        let is_v5 = self.superblock.is_v5();
        if state == State::Replayed {
            let checksum = if is_v5 {
                Checksum::At(checksum_at)
            } else {
                Checksum::None
            };
            return self.device.metadata(at, length, checksum, place);
        }
        let bytes = Bytes::from(self.device.source().read(at, length)?.to_vec());
        let view = View::new(&bytes, place);
        if is_v5 && !checksum::is_right(view, checksum_at as usize)? {
            return Err(view.corrupt("the checksum is wrong"));
        }
        Ok(bytes)
    }
}

const EXTENT_BYTES: usize = 8;
const POINTER_BYTES: usize = 4;
const LEVELS_MAX: u32 = 9;
/// Groups whose headers are read to know how much is free.
const COUNTED_MAX: u32 = 4096;
