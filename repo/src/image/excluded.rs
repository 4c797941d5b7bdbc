//! Stretches of a disk that its backup left out, as free space is.
//!
//! They read as zeroes like everything that was never stored, but a zero that is the guest's and one that stands for
//! something unknown are different things to whoever compares, and to the backup that comes next: what was left out
//! before and is in use now must be sent, whether it changed or not. `docs/formats/image.md` has the stored form.

use std::ops::Range;

use super::writer::SECTOR_BYTES;

/// Stretches of a disk in bytes: ascending, none empty or touching another, in multiples of 512.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Excluded {
    ranges: Vec<Range<u64>>,
}

impl Excluded {
    /// The stretches.
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }

    /// Whether nothing was left out.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How much was left out.
    pub fn total_bytes(&self) -> u64 {
        self.ranges
            .iter()
            .map(|range| range.end - range.start)
            .sum()
    }

    /// The parts that lie in `range`.
    pub fn within(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let first = self.ranges.partition_point(|own| own.end <= range.start);
        let reaching = self.ranges.iter().skip(first);
        reaching
            .take_while(move |own| own.start < range.end)
            .map(move |own| own.start.max(range.start)..own.end.min(range.end))
    }

    /// Adds a stretch behind all others.
    fn push(&mut self, range: Range<u64>) {
        match self.ranges.last_mut() {
            _ if range.is_empty() => {}
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.ranges.push(range),
        }
    }

    /// As it is stored; `None` if there is too much to be stored.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        (self.ranges.len() <= RANGES_MAX).then_some(())?;
        let mut bytes = Vec::with_capacity(MAGIC.len() + self.ranges.len() * RANGE_BYTES);
        bytes.extend_from_slice(MAGIC);
        for range in &self.ranges {
            bytes.extend_from_slice(&range.start.to_le_bytes());
            bytes.extend_from_slice(&(range.end - range.start).to_le_bytes());
        }
        Some(bytes)
    }

    /// From what is stored for a disk of `size_bytes`.
    pub(crate) fn decode(bytes: &[u8], size_bytes: u64) -> Result<Self, &'static str> {
        let Some(pairs) = bytes.strip_prefix(MAGIC) else {
            return Err("it does not begin as it should");
        };
        let (pairs, rest) = pairs.as_chunks::<RANGE_BYTES>();
        if !rest.is_empty() || pairs.len() > RANGES_MAX {
            return Err("its length cannot be right");
        }
        let mut excluded = Self {
            ranges: Vec::with_capacity(pairs.len()),
        };
        let mut behind = None;
        for pair in pairs {
            let (start, length) = pair.split_at(RANGE_BYTES / 2);
            let number = |half: &[u8]| half.try_into().map_or(0, u64::from_le_bytes);
            let (start, length) = (number(start), number(length));
            let end = start.checked_add(length).filter(|end| *end <= size_bytes);
            let sectors = (start | length).is_multiple_of(SECTOR_BYTES) && length > 0;
            let (Some(end), true, true) = (end, sectors, behind.is_none_or(|end| start > end))
            else {
                return Err("its stretches are not in order or not inside the disk");
            };
            excluded.ranges.push(start..end);
            behind = Some(end);
        }
        Ok(excluded)
    }

    /// The longest stored form.
    pub(crate) const STORED_BYTES_MAX: u64 = (MAGIC.len() + RANGES_MAX * RANGE_BYTES) as u64;
}

/// Finds what is left out of a disk that is written in ascending order over one of which something was left out.
#[derive(Debug, Default)]
pub(super) struct ExcludedTracker {
    below: Excluded,
    /// Everything before is decided.
    position: u64,
    now: Excluded,
}

impl ExcludedTracker {
    pub(super) fn over(below: Excluded) -> Self {
        Self {
            below,
            ..Self::default()
        }
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// `range` was written: it is there, whatever it was below.
    pub(super) fn written(&mut self, range: Range<u64>) {
        self.take_over_until(range.start);
        self.position = range.end;
    }

    /// `range` is left out. Gives the parts of it that were there below.
    pub(super) fn exclude(&mut self, range: Range<u64>) -> Vec<Range<u64>> {
        self.take_over_until(range.start);
        let mut fresh = Vec::new();
        let mut at = range.start;
        for part in self.below.within(range.clone()) {
            fresh.push(at..part.start);
            at = part.end;
        }
        fresh.push(at..range.end);
        fresh.retain(|part| !part.is_empty());
        self.position = range.end;
        self.now.push(range);
        fresh
    }

    /// All that is left out of a disk of `size_bytes`.
    pub(super) fn finish(mut self, size_bytes: u64) -> Excluded {
        self.take_over_until(size_bytes);
        self.now
    }

    /// What was neither written nor left out is as it was below.
    fn take_over_until(&mut self, end: u64) {
        if end <= self.position {
            return;
        }
        for part in self.below.within(self.position..end) {
            self.now.push(part);
        }
        self.position = end;
    }
}

#[doc(hidden)]
pub fn fuzz_excluded(bytes: &[u8]) {
    let size_bytes = 1 << 40;
    if let Ok(excluded) = Excluded::decode(bytes, size_bytes) {
        assert!(excluded.total_bytes() <= size_bytes);
        assert_eq!(excluded.encode().as_deref(), Some(bytes));
    }
}

const MAGIC: &[u8] = b"HFEXCL01";
const RANGE_BYTES: usize = 16;
/// Stretches of one disk: 64 MiB of them.
const RANGES_MAX: usize = 1 << 22;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn excluded(ranges: &[Range<u64>]) -> Excluded {
        let mut excluded = Excluded::default();
        ranges.iter().for_each(|range| excluded.push(range.clone()));
        excluded
    }

    #[test]
    fn what_is_stored_reads_back_and_nonsense_is_refused() {
        let some = excluded(&[0..512, 1024..4096, 4096..8192, 1 << 20..2 << 20]);
        assert_eq!(some.ranges().len(), 3, "touching ones are one");
        let stored = some.encode().unwrap();
        assert_eq!(Excluded::decode(&stored, 2 << 20).unwrap(), some);
        assert!(
            Excluded::decode(&stored, 1 << 20).is_err(),
            "beyond the disk"
        );
        assert!(Excluded::decode(&stored[..stored.len() - 1], 2 << 20).is_err());
        assert!(Excluded::decode(b"HFEXCL02", 512).is_err());
        let pairs = |pairs: &[[u64; 2]]| {
            let numbers = pairs
                .iter()
                .flatten()
                .flat_map(|number| number.to_le_bytes());
            let bytes: Vec<u8> = MAGIC.iter().copied().chain(numbers).collect();
            Excluded::decode(&bytes, 1 << 40)
        };
        assert!(pairs(&[[0, 512], [1024, 512]]).is_ok());
        for wrong in [
            &[[0, 0]][..],
            &[[1, 512]],
            &[[0, 513]],
            &[[0, 512], [512, 512]],
            &[[1024, 512], [0, 512]],
            &[[u64::MAX - 511, 512]],
        ] {
            assert!(pairs(wrong).is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn it_follows_every_sector(
            below in prop::collection::vec(any::<bool>(), 64),
            calls in prop::collection::vec((0_usize..12, 1_usize..12, any::<bool>()), 0..12),
        ) {
            let of = |sectors: &[bool]| {
                let marked = sectors.iter().enumerate().filter(|(_, out)| **out);
                let ranges: Vec<_> = marked.map(|(at, _)| at as u64 * 512..(at as u64 + 1) * 512).collect();
                excluded(&ranges)
            };
            let mut tracker = ExcludedTracker::over(of(&below));
            let (mut model, mut at) = (below.clone(), 0);
            for (skip, length, written) in calls {
                let start = at + skip;
                let end = (start + length).min(model.len());
                if start >= end {
                    break;
                }
                at = end;
                let range = start as u64 * 512..end as u64 * 512;
                if written {
                    tracker.written(range);
                } else {
                    let fresh: u64 = tracker.exclude(range).iter().map(|part| part.end - part.start).sum();
                    let expected = below[start..end].iter().filter(|out| !**out).count() as u64;
                    prop_assert_eq!(fresh, expected * 512);
                }
                model[start..end].fill(!written);
            }
            prop_assert_eq!(tracker.finish(64 * 512), of(&model));
        }
    }
}
