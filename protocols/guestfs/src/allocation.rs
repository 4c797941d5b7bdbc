//! Which bytes of a filesystem are in use.
//!
//! After a crash the bitmap on disk is older than the journal, and the journal is older than nothing: what either calls
//! used is used. The bitmap on disk alone would leave out blocks that the replay needs, and vice versa.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;

use crate::bytes::to_usize;
use crate::ext::{Ext, Superblock};
use crate::{GuestError, Place};

/// Ranges of bytes of a volume that are in use, in order and merged, one group after the other.
///
/// An error ends it. Whoever gets one takes the whole volume for used.
pub struct Allocation {
    ext: Ext,
    /// Blocks that groups need for themselves, which may lie in other groups: sorted, and none twice.
    own: Vec<Range<u64>>,
    group: u64,
    ready: VecDeque<Range<u64>>,
    /// What may still grow.
    last: Option<Range<u64>>,
    finished: bool,
}

impl Allocation {
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
        Ok(Self {
            own,
            group: 0,
            ready: VecDeque::new(),
            // Whatever is before the first group, as a boot sector.
            last: Some(0..superblock.first_data_block * u64::from(superblock.block_bytes)),
            finished: false,
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
            self.add((start + run.start) * block..(start + run.end) * block);
        }
        Ok(())
    }

    /// The bitmap as it lies on disk together with the one after the replay.
    fn bitmaps(&self, superblock: &Superblock, blocks: u64) -> Result<Bitmap, GuestError> {
        let clusters = superblock.blocks_per_group / superblock.cluster_blocks;
        let mut used = Bitmap {
            bytes: vec![0; to_usize(clusters.div_ceil(8))],
            cluster_blocks: superblock.cluster_blocks,
        };
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

    fn add(&mut self, range: Range<u64>) {
        match &mut self.last {
            Some(last) if last.end == range.start => last.end = range.end,
            last => {
                let done = last.replace(range);
                self.ready.extend(done.filter(|done| !done.is_empty()));
            }
        }
    }

    /// What lies behind the filesystem is nobody's to leave out.
    fn finish(&mut self) {
        let superblock = self.ext.superblock();
        let end = superblock.blocks * u64::from(superblock.block_bytes);
        let volume = self.ext.source().length_bytes();
        if end < volume {
            self.add(end..volume);
        }
        self.ready.extend(self.last.take());
        self.finished = true;
    }
}

impl Iterator for Allocation {
    type Item = Result<Range<u64>, GuestError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() && !self.finished {
            if self.group == self.ext.superblock().groups() {
                self.finish();
                break;
            }
            if let Err(error) = self.read_group() {
                self.finished = true;
                return Some(Err(error));
            }
            self.group += 1;
        }
        self.ready.pop_front().map(Ok)
    }
}

impl fmt::Debug for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Allocation")
            .field("group", &self.group)
            .finish_non_exhaustive()
    }
}

/// A bit for each cluster of a group.
struct Bitmap {
    bytes: Vec<u8>,
    cluster_blocks: u64,
}

impl Bitmap {
    fn add(&mut self, other: &[u8]) {
        for (byte, more) in self.bytes.iter_mut().zip(other) {
            *byte |= more;
        }
    }

    /// Marks the clusters of blocks from `start` to `end`.
    fn mark(&mut self, start: u64, end: u64) {
        for cluster in start / self.cluster_blocks..end.div_ceil(self.cluster_blocks) {
            if let Some(byte) = self.bytes.get_mut(to_usize(cluster / 8)) {
                *byte |= 1 << (cluster % 8);
            }
        }
    }

    /// The marked ones among the first `clusters`.
    fn marked(&self, clusters: u64) -> impl Iterator<Item = u64> {
        let bytes = (0_u64..).zip(&self.bytes).filter(|(_, byte)| **byte != 0);
        bytes
            .flat_map(|(at, byte)| {
                let bits = (0..8).filter(move |bit| byte >> bit & 1 == 1);
                bits.map(move |bit| at * 8 + bit)
            })
            .take_while(move |cluster| *cluster < clusters)
    }

    /// Runs of marked blocks among the first `blocks`.
    fn runs(&self, blocks: u64) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for cluster in self.marked(blocks.div_ceil(self.cluster_blocks)) {
            let start = cluster * self.cluster_blocks;
            let end = (start + self.cluster_blocks).min(blocks);
            match runs.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => runs.push(start..end),
            }
        }
        runs
    }
}

/// Groups whose places are kept in memory: 128 TiB with blocks of 4 KiB.
const GROUPS_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marked_clusters_make_runs_of_blocks() {
        let mut bitmap = Bitmap {
            bytes: vec![0; 4],
            cluster_blocks: 4,
        };
        bitmap.mark(5, 6);
        bitmap.mark(8, 9);
        bitmap.mark(100, 1000);
        assert_eq!(bitmap.runs(110), [4..12, 100..110]);
        bitmap.add(&[0b1001, 0, 0, 0]);
        assert_eq!(bitmap.runs(110), [0..16, 100..110]);
    }
}
