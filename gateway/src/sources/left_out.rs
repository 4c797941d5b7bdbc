//! What a backup of disks need not have: free blocks, gaps between partitions, swap and the like.
//!
//! What cannot be told with certainty is kept: a map that is too large costs space, one that is too small costs data.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use guestfs::{GuestError, Leavable, Source, UsedDisk};
use serde::Serialize;

use super::ranges::{complement, intersection};
use crate::exports::chain;

/// What may be left out of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LeaveOut {
    /// Blocks that a filesystem does not use.
    Free,
    /// What is in no partition.
    Gaps,
    /// Swap of Linux, but for its first page.
    Swap,
    /// Windows' pagefile.sys and swapfile.sys.
    PageFiles,
    /// Windows' hiberfil.sys: the machine starts anew and does not resume.
    Hibernation,
    /// What was thrown away and is still there.
    RecycleBin,
}

impl LeaveOut {
    /// Everything.
    pub fn all() -> BTreeSet<Self> {
        use clap::ValueEnum as _;
        Self::value_variants().iter().copied().collect()
    }

    fn of(leavable: Leavable) -> Option<Self> {
        match leavable {
            Leavable::Swap => Some(Self::Swap),
            Leavable::PageFile => Some(Self::PageFiles),
            Leavable::Hibernation => Some(Self::Hibernation),
            Leavable::RecycleBin => Some(Self::RecycleBin),
            _ => None,
        }
    }
}

impl fmt::Display for LeaveOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Free => "free blocks",
            Self::Gaps => "gaps between partitions",
            Self::Swap => "swap",
            Self::PageFiles => "page files",
            Self::Hibernation => "hibernation",
            Self::RecycleBin => "recycle bin",
        })
    }
}

/// What is left out of one disk.
#[derive(Debug, Clone, Default, Serialize)]
pub struct LeftOut {
    /// How much.
    pub bytes: u64,
    /// How much of what.
    pub by: BTreeMap<LeaveOut, u64>,
    /// What is backed up whole, and why.
    pub whole: Vec<KeptWhole>,
    /// Stretches of the disk: ascending, not touching, in multiples of 512.
    #[serde(skip)]
    pub ranges: Vec<Range<u64>>,
}

/// A volume of which free blocks could not be told from others.
#[derive(Debug, Clone, Serialize)]
pub struct KeptWhole {
    /// Its name.
    pub volume: String,
    /// What is in the way.
    pub reason: String,
}

impl LeftOut {
    /// Looks at the disks of a machine for what is `wanted` to be left out of each.
    pub fn find(disks: &[Arc<dyn Source>], wanted: &BTreeSet<LeaveOut>) -> Vec<Self> {
        let set = guestfs::open_sources(disks);
        let kept = set.used();
        let mut found: Vec<_> = disks.iter().map(|_| Collector::default()).collect();
        if wanted.contains(&LeaveOut::Free) {
            for ((used, disk), own) in kept.iter().zip(disks).zip(&mut found) {
                let free = complement(&used.ranges, disk.length_bytes());
                free.into_iter()
                    .for_each(|range| own.add(LeaveOut::Free, range));
            }
        }
        for kind in set.leavable() {
            let Some(what) = LeaveOut::of(kind).filter(|what| wanted.contains(what)) else {
                continue;
            };
            let less = set.used_without(&BTreeSet::from([kind]));
            for ((used, less), own) in kept.iter().zip(&less).zip(&mut found) {
                let end = used.ranges.last().map_or(0, |last| last.end);
                let left = intersection(&used.ranges, &complement(&less.ranges, end));
                left.into_iter().for_each(|range| own.add(what, range));
            }
        }
        let disks = disks.iter().zip(kept).zip(found);
        disks
            .map(|((disk, used), found)| Self::of_disk(disk, &used, found, wanted))
            .collect()
    }

    fn of_disk(
        disk: &Arc<dyn Source>,
        used: &UsedDisk,
        mut found: Collector,
        wanted: &BTreeSet<LeaveOut>,
    ) -> Self {
        let mut whole = Vec::new();
        if wanted.contains(&LeaveOut::Free) {
            let named = used.whole.iter();
            whole.extend(named.map(|whole| KeptWhole::new(&whole.name, &whole.reason)));
        }
        if wanted.contains(&LeaveOut::Gaps) {
            match guestfs::gaps(disk) {
                Ok(gaps) => gaps
                    .into_iter()
                    .for_each(|gap| found.add(LeaveOut::Gaps, gap)),
                Err(error) => whole.push(KeptWhole::new("the partition table", &error)),
            }
        }
        let (ranges, by) = found.finish(disk.length_bytes());
        Self {
            bytes: by.values().sum(),
            by,
            whole,
            ranges,
        }
    }
}

impl KeptWhole {
    fn new(volume: &str, error: &GuestError) -> Self {
        Self {
            volume: volume.to_owned(),
            reason: chain(error),
        }
    }
}

/// Stretches to be left out. Of too many only the longest are kept.
#[derive(Default)]
struct Collector {
    stretches: Vec<(Range<u64>, LeaveOut)>,
    /// Shorter ones are not worth it.
    shortest_bytes: u64,
}

impl Collector {
    fn add(&mut self, what: LeaveOut, range: Range<u64>) {
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
    fn finish(mut self, length_bytes: u64) -> (Vec<Range<u64>>, BTreeMap<LeaveOut, u64>) {
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
/// Stretches of one disk that are sent to the daemon.
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
            collector.add(LeaveOut::Free, start..start + 4096 + 512 * (number % 2));
        }
        collector.add(LeaveOut::Free, 4097 + (1 << 20)..(1 << 20) + 9000);
        let (ranges, by) = collector.finish(1 << 50);
        assert_eq!(ranges.len(), STRETCHES_MAX);
        let long = ranges
            .iter()
            .filter(|range| range.end - range.start == 4608)
            .count();
        assert_eq!(long, STRETCHES_MAX / 2 + 50);
        assert_eq!(by.keys().collect::<Vec<_>>(), [&LeaveOut::Free]);
    }

    #[test]
    fn what_overlaps_counts_once_and_sectors_stay_whole() {
        let mut collector = Collector::default();
        collector.add(LeaveOut::Free, 100..10_000);
        collector.add(LeaveOut::Gaps, 5_120..20_000);
        collector.add(LeaveOut::Swap, 100_000..101_000);
        let (ranges, by) = collector.finish(18_000);
        assert_eq!(ranges, std::slice::from_ref(&(512..17_920)));
        assert_eq!(by[&LeaveOut::Free] + by[&LeaveOut::Gaps], 17_408);
    }
}
