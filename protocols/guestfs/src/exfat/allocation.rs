//! Which clusters are in use: those of which the bitmap says so, and, if the filesystem was in use, those that files have.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::ExFat;
use super::entry::Stream;
use crate::bitmap::Bitmap;
use crate::bytes::to_usize;
use crate::entry_walk::{Owned, owned};
use crate::extents::Extents;
use crate::{GuestError, Place, Source};

/// Ranges of bytes that are in use, one part of the bitmap after the other.
pub(crate) struct UsedClusters {
    exfat: ExFat,
    bitmaps: Vec<(Stream, Arc<Extents>)>,
    /// What is in use whatever the bitmaps say.
    owned: VecDeque<Range<u64>>,
    /// The cluster with which the next part begins, from 0.
    next: u64,
    ready: VecDeque<Range<u64>>,
}

impl UsedClusters {
    pub(crate) fn of(source: Arc<dyn Source>) -> Result<Self, GuestError> {
        let exfat = ExFat::open(source)?;
        let geometry = &exfat.geometry;
        let mut bitmaps = Vec::new();
        for bitmap in exfat.system.bitmaps.iter().take(geometry.tables) {
            let stream = bitmap.ok_or(damage("there is none"))?;
            if stream.length_bytes < u64::from(geometry.clusters).div_ceil(8) {
                return Err(damage("it is too short"));
            }
            bitmaps.push((stream, exfat.extents(&stream)?));
        }
        let mut system = exfat.system_ranges()?;
        if !exfat.says_used(&bitmaps, &system)? {
            return Err(damage("it calls free what the filesystem itself lies in"));
        }
        if geometry.is_dirty {
            system.extend(owned(&exfat)?.into_iter().map(|Owned { range, .. }| range));
            system.sort_unstable_by_key(|range| range.start);
        }
        let before = 0..geometry.heap_at;
        Ok(Self {
            bitmaps,
            owned: system.into(),
            next: 0,
            ready: VecDeque::from([before]),
            exfat,
        })
    }

    pub(crate) fn end_bytes(&self) -> u64 {
        self.exfat.geometry.heap_end()
    }

    /// Adds what is in use of the next part.
    fn read_part(&mut self) -> Result<(), GuestError> {
        let geometry = &self.exfat.geometry;
        let clusters = (u64::from(geometry.clusters) - self.next).min(PART_CLUSTERS);
        let mut used = Bitmap::new(clusters, 1);
        for (_, extents) in &self.bitmaps {
            used.add(&self.exfat.bitmap_part(extents, self.next, clusters)?);
        }
        let start = geometry.heap_at + self.next * geometry.cluster_bytes;
        let end = start + clusters * geometry.cluster_bytes;
        while let Some(range) = self.owned.pop_front() {
            if range.start >= end {
                self.owned.push_front(range);
                break;
            }
            let first = range.start.max(start) - start;
            let last = range.end.min(end).saturating_sub(start);
            used.mark(
                first / geometry.cluster_bytes,
                last.div_ceil(geometry.cluster_bytes),
            );
            if range.end > end {
                // Others that begin before the end lie within this one as far as it.
                self.owned.push_front(end..range.end);
                break;
            }
        }
        for run in used.runs(clusters) {
            let at = |cluster: u64| start + cluster * geometry.cluster_bytes;
            self.ready.push_back(at(run.start)..at(run.end));
        }
        self.next += clusters;
        Ok(())
    }
}

impl Iterator for UsedClusters {
    type Item = Result<Range<u64>, GuestError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() {
            if self.next >= self.exfat.geometry.clusters.into() {
                return None;
            }
            if let Err(error) = self.read_part() {
                return Some(Err(error));
            }
        }
        self.ready.pop_front().map(Ok)
    }
}

impl ExFat {
    /// Where the filesystem's own structures lie, ascending.
    fn system_ranges(&self) -> Result<Vec<Range<u64>>, GuestError> {
        let bitmaps = self.system.bitmaps.iter().flatten();
        let upcase = self.system.upcase.iter().map(|(stream, _)| stream);
        let mut ranges = Vec::new();
        for stream in bitmaps.chain(upcase) {
            ranges.extend(self.extents(stream)?.ranges());
        }
        ranges.extend(self.chain(self.geometry.root_cluster)?.ranges());
        ranges.sort_unstable_by_key(|range| range.start);
        Ok(ranges)
    }

    /// Whether the bitmap in use marks all of `ranges`: one that was lost and reads as zeroes does not.
    fn says_used(
        &self,
        bitmaps: &[(Stream, Arc<Extents>)],
        ranges: &[Range<u64>],
    ) -> Result<bool, GuestError> {
        let (_, extents) = bitmaps
            .get(self.geometry.active)
            .ok_or(damage("there is none"))?;
        for range in ranges {
            let cluster = |at: u64| (at - self.geometry.heap_at) / self.geometry.cluster_bytes;
            let clusters = cluster(range.start)..cluster(range.end);
            let from = clusters.start / 8 * 8;
            let count = clusters.end - from;
            if count > PART_CLUSTERS {
                return Ok(false);
            }
            let mut part = Bitmap::new(count, 1);
            part.add(&self.bitmap_part(extents, from, count)?);
            let runs = part.runs(count);
            let (start, end) = (clusters.start - from, count);
            if !runs.iter().any(|run| run.start <= start && end <= run.end) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Bits of clusters from `first`, which is the first of a byte.
    fn bitmap_part(
        &self,
        extents: &Extents,
        first: u64,
        clusters: u64,
    ) -> Result<Vec<u8>, GuestError> {
        let source = &**self.pages.source();
        let (at, length) = (first / 8, clusters.div_ceil(8));
        let bits = extents.read(source, at, length, Place::AllocationBitmap)?;
        Ok(bits.to_vec())
    }

    /// How many clusters are free; none where that cannot be read.
    pub(super) fn count_free(&self) -> u64 {
        let clusters = u64::from(self.geometry.clusters);
        let bitmap = self.system.bitmaps.get(self.geometry.active);
        let Some(stream) = bitmap.copied().flatten() else {
            return 0;
        };
        let Ok(extents) = self.extents(&stream) else {
            return 0;
        };
        let mut used = 0;
        for first in (0..clusters).step_by(to_usize(PART_CLUSTERS)) {
            let count = PART_CLUSTERS.min(clusters - first);
            let Ok(bits) = self.bitmap_part(&extents, first, count) else {
                return 0;
            };
            let mut part = Bitmap::new(count, 1);
            part.add(&bits);
            used += part.marked(count).count() as u64;
        }
        clusters - used
    }
}

fn damage(detail: &'static str) -> GuestError {
    GuestError::corrupt(Place::AllocationBitmap, detail)
}

/// Clusters whose bits are read at once: 256 KiB of them.
const PART_CLUSTERS: u64 = 2 << 20;
