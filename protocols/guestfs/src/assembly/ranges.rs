//! Sets of bytes, as ranges.

use std::ops::Range;

/// Bytes of something. Takes up a bounded amount of memory: beyond that, small gaps are taken in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ranges {
    /// In order and apart up to `sorted`, behind that as they came.
    ranges: Vec<Range<u64>>,
    sorted: usize,
    /// Gaps below this length count as in the set.
    gap_bytes: u64,
}

impl Ranges {
    pub(super) fn add(&mut self, range: Range<u64>) {
        if range.start >= range.end {
            return;
        }
        if let Some(last) = self.ranges.last_mut()
            && last.start <= range.start
            && range.start <= last.end.saturating_add(self.gap_bytes)
        {
            last.end = last.end.max(range.end);
            return;
        }
        self.ranges.push(range);
        // Sorted anew only when it has doubled.
        if self.ranges.len() >= (self.sorted * 2).max(SORTED_MIN) {
            self.merge();
        }
    }

    fn merge(&mut self) {
        self.ranges.sort_unstable_by_key(|range| range.start);
        loop {
            let mut merged: Vec<Range<u64>> = Vec::with_capacity(self.ranges.len());
            for range in self.ranges.drain(..) {
                match merged.last_mut() {
                    Some(last) if range.start <= last.end.saturating_add(self.gap_bytes) => {
                        last.end = last.end.max(range.end);
                    }
                    _ => merged.push(range),
                }
            }
            self.ranges = merged;
            if self.ranges.len() <= RANGES_MAX {
                break;
            }
            self.gap_bytes = (self.gap_bytes * 2).max(4096);
        }
        self.sorted = self.ranges.len();
    }

    /// All, in order and apart, as far as `end`.
    pub(super) fn finish(mut self, end: u64) -> Vec<Range<u64>> {
        self.merge();
        let cut = self
            .ranges
            .into_iter()
            .map(|range| range.start..range.end.min(end));
        cut.filter(|range| range.start < range.end).collect()
    }
}

const SORTED_MIN: usize = 4096;
/// 16 MiB of memory, twice that while they are sorted.
const RANGES_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_come_out_in_order() {
        let mut ranges = Ranges::default();
        for start in (0..10_000_u64).rev() {
            ranges.add(start * 10..start * 10 + 3);
        }
        ranges.add(5..5);
        ranges.add(1..17);
        let all = ranges.finish(99_992);
        assert_eq!(all.len(), 9_999);
        assert_eq!(all[..2], [0..17, 20..23]);
        assert_eq!(all[9_998], 99_990..99_992);
    }

    #[test]
    fn too_many_take_gaps_in() {
        let mut ranges = Ranges::default();
        for number in 0..3_000_000_u64 {
            ranges.add(number * 8192..number * 8192 + 4096);
        }
        let all = ranges.finish(u64::MAX);
        assert!(all.len() <= RANGES_MAX, "{}", all.len());
        assert_eq!(all.first().map(|range| range.start), Some(0));
    }
}
