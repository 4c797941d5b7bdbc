//! Which blocks of an ext2, ext3 or ext4 are in use.
//!
//! After a crash the bitmap on disk is older than the journal, and the journal is older than nothing: what either calls
//! used is used. The bitmap on disk alone would leave out blocks that the replay needs, and vice versa.

use std::collections::VecDeque;
use std::ops::Range;

use super::{Ext, Superblock};
use crate::bitmap::Bitmap;
use crate::{GuestError, Place};

/// Ranges of bytes that are in use, one group after the other.
pub(crate) struct UsedGroups {
    ext: Ext,
    /// Blocks that groups need for themselves, which may lie in other groups: sorted, and none twice.
    own: Vec<Range<u64>>,
    group: u64,
    ready: VecDeque<Range<u64>>,
}

impl UsedGroups {
    pub(crate) fn of(ext: Ext) -> Result<Self, GuestError> {
        let superblock = ext.superblock();
        superblock.check_bitmaps()?;
        if superblock.groups() > GROUPS_MAX {
            return Err(GuestError::TooLarge {
                what: "the number of block groups",
                limit: GROUPS_MAX,
            });
        }
        let table_bytes =
            u64::from(superblock.inodes_per_group) * u64::from(superblock.inode_bytes);
        let table_blocks = table_bytes.div_ceil(u64::from(superblock.block_bytes));
        let mut own: Vec<Range<u64>> = Vec::new();
        let mut add = |first: u64, count: u64, place: Place| {
            if first == 0
                || first
                    .checked_add(count)
                    .is_none_or(|end| end > superblock.blocks)
            {
                return Err(GuestError::corrupt(
                    place,
                    "its own blocks are out of bounds",
                ));
            }
            match own.last_mut() {
                Some(last) if last.end == first => last.end += count,
                _ => own.push(first..first + count),
            }
            Ok(())
        };
        for number in 0..superblock.groups() {
            let group = ext.group(number)?;
            let place = Place::Group(number);
            add(group.block_bitmap, 1, place)?;
            add(group.inode_bitmap, 1, place)?;
            add(group.inode_table, table_blocks, place)?;
        }
        own.sort_unstable_by_key(|range| range.start);
        own.dedup_by(|next, last| {
            let touches = next.start <= last.end;
            if touches {
                last.end = last.end.max(next.end);
            }
            touches
        });
        // Whatever is before the first group, as a boot sector.
        let before = 0..superblock.first_data_block * u64::from(superblock.block_bytes);
        Ok(Self {
            own,
            group: 0,
            ready: VecDeque::from([before]),
            ext,
        })
    }

    /// Adds what is in use of the next group.
    fn read_group(&mut self) -> Result<(), GuestError> {
        let superblock = self.ext.superblock().clone();
        let group = self.group;
        let start = superblock.group_start(group);
        let blocks = superblock.blocks_per_group.min(superblock.blocks - start);
        let mut used = self.bitmaps(&superblock, blocks)?;
        used.mark(0, superblock.head_blocks(group).min(blocks));
        let end = start + blocks;
        let reaching = self.own.partition_point(|range| range.end <= start);
        let reaching = self.own.iter().skip(reaching);
        for range in reaching.take_while(|range| range.start < end) {
            used.mark(range.start.max(start) - start, range.end.min(end) - start);
        }
        let block = u64::from(superblock.block_bytes);
        for run in used.runs(blocks) {
            let run = (start + run.start) * block..(start + run.end) * block;
            self.ready.push_back(run);
        }
        Ok(())
    }

    /// The bitmap as it lies on disk together with the one after the replay.
    fn bitmaps(&self, superblock: &Superblock, blocks: u64) -> Result<Bitmap, GuestError> {
        let clusters = superblock.blocks_per_group / superblock.cluster_blocks;
        let mut used = Bitmap::new(clusters, superblock.cluster_blocks);
        let replayed = self.ext.group(self.group)?;
        if !replayed.bitmap_is_unwritten {
            used.add(&self.ext.bitmap(self.group, &replayed)?);
            // Without checksums nothing else tells that a bitmap was lost and reads as zeroes.
            let clusters = blocks.div_ceil(superblock.cluster_blocks);
            let free = clusters - used.marked(clusters).count() as u64;
            if free != replayed.free_clusters {
                return Err(GuestError::corrupt(
                    Place::Bitmap(self.group),
                    "it has not as many free blocks as its group says",
                ));
            }
        }
        if self.ext.is_replayed() {
            let raw = self.ext.raw_group(self.group)?;
            if !raw.bitmap_is_unwritten {
                used.add(&self.ext.raw_bitmap(self.group, &raw)?);
            }
        }
        Ok(used)
    }

    /// Where the filesystem ends. What lies behind it is nobody's to leave out.
    pub(crate) fn end_bytes(&self) -> u64 {
        let superblock = self.ext.superblock();
        superblock.blocks * u64::from(superblock.block_bytes)
    }
}

impl Iterator for UsedGroups {
    type Item = Result<Range<u64>, GuestError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() {
            if self.group == self.ext.superblock().groups() {
                return None;
            }
            if let Err(error) = self.read_group() {
                return Some(Err(error));
            }
            self.group += 1;
        }
        self.ready.pop_front().map(Ok)
    }
}

/// Groups whose places are kept in memory: 128 TiB with blocks of 4 KiB.
const GROUPS_MAX: u64 = 1 << 20;
