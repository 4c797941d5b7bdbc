//! Which clusters are in use.
//!
//! What the bitmap on disk, any record of the table of files, or any change of the bitmap that is still in the log calls
//! used is used. So nothing is left out that a replay of the log would allocate or still need.

use std::collections::VecDeque;
use std::ops::Range;

use ::bytes::Bytes;
use quick_cache::sync::Cache;

use super::node::Attribute;
use super::record::{Form, Part, Record};
use super::runs::Runs;
use super::{Ntfs, Weight};
use crate::bitmap::Bitmap;
use crate::bytes::to_usize;
use crate::{GuestError, Place};

/// Ranges of bytes that are in use, one piece of the bitmap after the other.
pub(crate) struct UsedClusters {
    ntfs: Ntfs,
    bitmap: Attribute,
    /// What the bitmap does not mark and is in use all the same: sorted.
    more: Vec<Range<u64>>,
    piece: u64,
    ready: VecDeque<Range<u64>>,
}

impl UsedClusters {
    pub(crate) fn of(ntfs: Ntfs) -> Result<Self, GuestError> {
        let bitmap = ntfs.bitmap()?;
        let mut more = ntfs.unmarked(&bitmap)?;
        more.extend(ntfs.log()?.touched);
        merge(&mut more);
        Ok(Self {
            bitmap,
            more,
            piece: 0,
            ready: VecDeque::new(),
            ntfs,
        })
    }

    /// Where the filesystem ends. What lies behind it is nobody's to leave out.
    pub(crate) fn end_bytes(&self) -> u64 {
        self.ntfs.boot.clusters * self.ntfs.boot.cluster_bytes
    }

    fn read_piece(&mut self) -> Result<(), GuestError> {
        let start = self.piece * PIECE_CLUSTERS;
        let clusters = PIECE_CLUSTERS.min(self.ntfs.boot.clusters - start);
        let bytes = self.ntfs.bitmap_piece(&self.bitmap, self.piece)?;
        let mut used = Bitmap::new(clusters, 1);
        used.add(&bytes);
        let reaching = self.more.partition_point(|range| range.end <= start);
        let reaching = self.more.iter().skip(reaching);
        for range in reaching.take_while(|range| range.start < start + clusters) {
            let end = range.end.min(start + clusters) - start;
            used.mark(range.start.max(start) - start, end);
        }
        let cluster = self.ntfs.boot.cluster_bytes;
        for run in used.runs(clusters) {
            self.ready
                .push_back((start + run.start) * cluster..(start + run.end) * cluster);
        }
        Ok(())
    }
}

impl Iterator for UsedClusters {
    type Item = Result<Range<u64>, GuestError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() {
            if self.piece * PIECE_CLUSTERS >= self.ntfs.boot.clusters {
                return None;
            }
            if let Err(error) = self.read_piece() {
                return Some(Err(error));
            }
            self.piece += 1;
        }
        self.ready.pop_front().map(Ok)
    }
}

impl Ntfs {
    fn bitmap(&self) -> Result<Attribute, GuestError> {
        let node = self.node(BITMAP)?;
        let data = node.data();
        let data = data.ok_or_else(|| node.corrupt("the bitmap has no content"))?;
        if data.size_bytes() < self.boot.clusters.div_ceil(8) {
            return Err(node.corrupt("the bitmap is too short"));
        }
        Ok(data.clone())
    }

    fn bitmap_piece(&self, bitmap: &Attribute, piece: u64) -> Result<Bytes, GuestError> {
        let bytes = self.read(BITMAP, bitmap, piece * PIECE_BYTES, PIECE_BYTES)?;
        Ok(Bytes::from(bytes.to_vec()))
    }

    /// Space that the bitmap calls free.
    pub(super) fn free_bytes(&self) -> Result<u64, GuestError> {
        let bitmap = self.bitmap()?;
        let mut used = 0;
        let mut piece = 0;
        while piece * PIECE_CLUSTERS < self.boot.clusters {
            let clusters = PIECE_CLUSTERS.min(self.boot.clusters - piece * PIECE_CLUSTERS);
            let mut bits = Bitmap::new(clusters, 1);
            bits.add(&self.bitmap_piece(&bitmap, piece)?);
            used += bits.marked(clusters).count() as u64;
            piece += 1;
        }
        Ok((self.boot.clusters - used) * self.boot.cluster_bytes)
    }

    /// Clusters that some record has, and that the bitmap does not mark.
    fn unmarked(&self, bitmap: &Attribute) -> Result<Vec<Range<u64>>, GuestError> {
        let pieces: Cache<u64, Bytes, Weight> = Cache::with_weighter(64, PIECES_KEPT, Weight);
        let mut unmarked: Vec<Range<u64>> = Vec::new();
        let mut all = 0_u64;
        self.each_record(|record| {
            for range in self.clusters_of(&record)? {
                all += range.end - range.start;
                if all > self.boot.clusters {
                    return Err(GuestError::corrupt(
                        Place::Record(record.number),
                        "it has clusters that other files have too",
                    ));
                }
                let mut at = range.start;
                while at < range.end {
                    let piece = at / PIECE_CLUSTERS;
                    let end = range.end.min((piece + 1) * PIECE_CLUSTERS);
                    let bits =
                        pieces.get_or_insert_with(&piece, || self.bitmap_piece(bitmap, piece))?;
                    if !is_marked(&bits, at % PIECE_CLUSTERS, end - piece * PIECE_CLUSTERS) {
                        add(&mut unmarked, at..end)?;
                    }
                    at = end;
                }
            }
            Ok(())
        })?;
        Ok(unmarked)
    }

    /// Clusters that one record says to be its file's.
    fn clusters_of(&self, record: &Record) -> Result<Vec<Range<u64>>, GuestError> {
        let mut ranges = Vec::new();
        for part in record.parts()? {
            ranges.extend(self.clusters_of_part(record.number, &part)?);
        }
        Ok(ranges)
    }

    pub(super) fn clusters_of_part(
        &self,
        record: u64,
        part: &Part,
    ) -> Result<Vec<Range<u64>>, GuestError> {
        let Form::Mapped(mapped) = &part.form else {
            return Ok(Vec::new());
        };
        let mut runs = Runs::from(mapped.first);
        let (first, end) = (mapped.first, mapped.end);
        runs.append(
            &mapped.pairs,
            first,
            end,
            self.boot.clusters,
            Place::Record(record),
        )?;
        Ok(runs.on_volume().collect())
    }
}

fn add(ranges: &mut Vec<Range<u64>>, range: Range<u64>) -> Result<(), GuestError> {
    if let Some(last) = ranges.last_mut()
        && last.end == range.start
    {
        last.end = range.end;
        return Ok(());
    }
    if ranges.len() >= UNMARKED_MAX {
        return Err(GuestError::TooLarge {
            what: "what the bitmap has forgotten",
            limit: UNMARKED_MAX as u64,
        });
    }
    ranges.push(range);
    Ok(())
}

/// Sorts ranges, and makes one of those that touch.
pub(super) fn merge(ranges: &mut Vec<Range<u64>>) {
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup_by(|next, last| {
        let touches = next.start <= last.end;
        if touches {
            last.end = last.end.max(next.end);
        }
        touches
    });
}

/// Whether bits `start` to `end` are all set.
fn is_marked(bits: &[u8], start: u64, end: u64) -> bool {
    let mut at = start;
    while at < end {
        let byte = bits.get(to_usize(at / 8)).copied().unwrap_or(0);
        if at.is_multiple_of(8) && end - at >= 8 {
            if byte != 0xFF {
                return false;
            }
            at += 8;
        } else {
            if byte >> (at % 8) & 1 == 0 {
                return false;
            }
            at += 1;
        }
    }
    true
}

const BITMAP: u64 = 6;
const PIECE_BYTES: u64 = 64 << 10;
const PIECE_CLUSTERS: u64 = PIECE_BYTES * 8;
const PIECES_KEPT: u64 = 8 << 20;
const UNMARKED_MAX: usize = 1 << 20;
