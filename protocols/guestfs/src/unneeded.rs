//! Which bytes of the disks of a machine nobody needs back: free blocks, gaps between partitions, swap and the like.
//!
//! What cannot be told with certainty is needed: whoever keeps too much loses space, whoever keeps too little loses data.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use crate::assembly::{UsedDisk, Whole, open_sources};
use crate::{Leavable, Source, gaps};

/// Why bytes are not needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unneeded {
    /// Blocks that a filesystem does not use.
    Free,
    /// What is in no partition.
    Gaps,
    /// What is in use and made again or thrown away.
    Left(Leavable),
}

/// What is not needed of one disk.
#[derive(Debug, Clone, Default)]
pub struct UnneededOnDisk {
    /// Ascending, not touching, in multiples of 512.
    pub ranges: Vec<Range<u64>>,
    /// How much of what they are.
    pub by: BTreeMap<Unneeded, u64>,
    /// What counts as needed as a whole, although it was asked for.
    pub whole: Vec<Whole>,
}

impl Unneeded {
    /// All that there are.
    pub const ALL: [Self; 6] = [
        Self::Free,
        Self::Gaps,
        Self::Left(Leavable::Swap),
        Self::Left(Leavable::PageFile),
        Self::Left(Leavable::Hibernation),
        Self::Left(Leavable::RecycleBin),
    ];
}

/// Looks at the disks of a machine for what is not needed of each, as far as it is `wanted`. Of too many stretches only the
/// longest are told.
pub fn unneeded(disks: &[Arc<dyn Source>], wanted: &BTreeSet<Unneeded>) -> Vec<UnneededOnDisk> {
    let set = open_sources(disks);
    let kept = set.used();
    let mut found: Vec<_> = disks.iter().map(|_| Collector::default()).collect();
    if wanted.contains(&Unneeded::Free) {
        for ((used, disk), own) in kept.iter().zip(disks).zip(&mut found) {
            let all = 0..disk.length_bytes();
            without(std::slice::from_ref(&all), &used.ranges, &mut |range| {
                own.add(Unneeded::Free, range);
            });
        }
    }
    for kind in set.leavable() {
        let what = Unneeded::Left(kind);
        if !wanted.contains(&what) {
            continue;
        }
        let less = set.used_without(&BTreeSet::from([kind]));
        for ((used, less), own) in kept.iter().zip(&less).zip(&mut found) {
            without(&used.ranges, &less.ranges, &mut |range| {
                own.add(what, range)
            });
        }
    }
    let disks = disks.iter().zip(kept).zip(found);
    disks
        .map(|((disk, used), found)| of_disk(disk, used, found, wanted))
        .collect()
}

fn of_disk(
    disk: &Arc<dyn Source>,
    used: UsedDisk,
    mut found: Collector,
    wanted: &BTreeSet<Unneeded>,
) -> UnneededOnDisk {
    let mut whole = match wanted.contains(&Unneeded::Free) {
        true => used.whole,
        false => Vec::new(),
    };
    if wanted.contains(&Unneeded::Gaps) {
        match gaps(disk) {
            Ok(gaps) => gaps
                .into_iter()
                .for_each(|gap| found.add(Unneeded::Gaps, gap)),
            Err(reason) => whole.push(Whole {
                name: "the partition table".to_owned(),
                reason,
            }),
        }
    }
    let (ranges, by) = found.finish(disk.length_bytes());
    UnneededOnDisk { ranges, by, whole }
}

/// Tells what is in `all` and not in `less`; both ascend and do not overlap.
fn without(all: &[Range<u64>], less: &[Range<u64>], tell: &mut dyn FnMut(Range<u64>)) {
    let mut less = less.iter().peekable();
    for range in all {
        let mut at = range.start;
        while let Some(next) = less.peek().filter(|next| next.start < range.end) {
            if next.start > at {
                tell(at..next.start);
            }
            at = at.max(next.end);
            if next.end > range.end {
                break;
            }
            less.next();
        }
        if at < range.end {
            tell(at..range.end);
        }
    }
}

/// Stretches. Of too many only the longest are kept.
#[derive(Default)]
struct Collector {
    stretches: Vec<(Range<u64>, Unneeded)>,
    /// Shorter ones are not worth it.
    shortest_bytes: u64,
}

impl Collector {
    fn add(&mut self, what: Unneeded, range: Range<u64>) {
        let range = range.start.next_multiple_of(SECTOR)..range.end - range.end % SECTOR;
        let length = range.end.saturating_sub(range.start);
        if length < self.shortest_bytes.max(SHORTEST_BYTES) {
            return;
        }
        self.stretches.push((range, what));
        while self.stretches.len() > COLLECTED_MAX {
            self.shortest_bytes = self.shortest_bytes.max(SHORTEST_BYTES) * 2;
            let shortest = self.shortest_bytes;
            self.stretches
                .retain(|(range, _)| range.end - range.start >= shortest);
        }
    }

    /// The longest, in order, on a disk of `length_bytes`; and how much of what they are.
    fn finish(mut self, length_bytes: u64) -> (Vec<Range<u64>>, BTreeMap<Unneeded, u64>) {
        if self.stretches.len() > STRETCHES_MAX {
            self.stretches
                .sort_unstable_by_key(|(range, _)| std::cmp::Reverse(range.end - range.start));
            self.stretches.truncate(STRETCHES_MAX);
        }
        self.stretches
            .sort_unstable_by_key(|(range, _)| range.start);
        let mut ranges: Vec<Range<u64>> = Vec::new();
        let mut by = BTreeMap::new();
        for (range, what) in self.stretches {
            // Volumes may overlap on a disk whose table is wrong.
            let start = range.start.max(ranges.last().map_or(0, |last| last.end));
            let end = range.end.min(length_bytes - length_bytes % SECTOR);
            if start >= end {
                continue;
            }
            *by.entry(what).or_default() += end - start;
            match ranges.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => ranges.push(start..end),
            }
        }
        (ranges, by)
    }
}

const SECTOR: u64 = 512;
/// A gap that is shorter than a page saves nothing.
const SHORTEST_BYTES: u64 = 4096;
/// Stretches of one disk that are told.
const STRETCHES_MAX: usize = 50_000;
/// Stretches of one disk that are held at once: 40 MiB.
const COLLECTED_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_the_longest_are_taken() {
        let mut collector = Collector::default();
        for number in 0..STRETCHES_MAX as u64 + 100 {
            let start = number << 20;
            collector.add(Unneeded::Free, start..start + 4096 + 512 * (number % 2));
        }
        collector.add(Unneeded::Free, 4097 + (1 << 20)..(1 << 20) + 9000);
        let (ranges, by) = collector.finish(1 << 50);
        assert_eq!(ranges.len(), STRETCHES_MAX);
        let long = ranges
            .iter()
            .filter(|range| range.end - range.start == 4608)
            .count();
        assert_eq!(long, STRETCHES_MAX / 2 + 50);
        assert_eq!(by.keys().collect::<Vec<_>>(), [&Unneeded::Free]);
    }

    #[test]
    fn what_overlaps_counts_once_and_sectors_stay_whole() {
        let mut collector = Collector::default();
        collector.add(Unneeded::Free, 100..10_000);
        collector.add(Unneeded::Gaps, 5_120..20_000);
        collector.add(Unneeded::Left(Leavable::Swap), 100_000..101_000);
        let (ranges, by) = collector.finish(18_000);
        assert_eq!(ranges, std::slice::from_ref(&(512..17_920)));
        assert_eq!(by[&Unneeded::Free] + by[&Unneeded::Gaps], 17_408);
    }

    #[test]
    fn lists_are_cut_like_sets() {
        let marks = |bits: u32| -> Vec<Range<u64>> {
            let set = (0..16).filter(|bit| bits >> bit & 1 == 1);
            let mut ranges: Vec<Range<u64>> = Vec::new();
            for bit in set {
                match ranges.last_mut() {
                    Some(last) if last.end == bit => last.end = bit + 1,
                    _ => ranges.push(bit..bit + 1),
                }
            }
            ranges
        };
        let mut state = 1_u32;
        for _ in 0..20_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (all, less) = (state & 0xFFFF, state >> 16);
            let mut left = 0;
            without(&marks(all), &marks(less), &mut |range| {
                range.for_each(|bit| left |= 1 << bit);
            });
            assert_eq!(left, all & !less, "{all:#x} without {less:#x}");
        }
    }
}
