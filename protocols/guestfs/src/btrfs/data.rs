//! Bytes of extents, proven by their checksums.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use ::bytes::Bytes;
use export::Segments;

use super::Btrfs;
use super::key::{Key, kind, object};
use crate::bytes::to_usize;
use crate::source::cut;
use crate::{GuestError, Place};

/// Whether bytes have to have checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    Needed,
    None,
}

/// Checksums of sectors that only the log has, by where the first of each run lies. Runs do not overlap.
#[derive(Debug, Default)]
pub(super) struct LoggedChecksums(BTreeMap<u64, Bytes>);

impl LoggedChecksums {
    /// Adds checksums of sectors, which replace those that are there.
    pub(super) fn add(&mut self, start: u64, sums: Bytes, sum_bytes: usize, sector: u64) {
        let end_of = |start: u64, sums: &Bytes| {
            start.saturating_add((sums.len() / sum_bytes) as u64 * sector)
        };
        let end = end_of(start, &sums);
        let reaching: Vec<u64> = self
            .0
            .range(..end)
            .rev()
            .take_while(|(other, sums)| end_of(**other, sums) > start)
            .map(|(other, _)| *other)
            .collect();
        for other in reaching {
            let Some(old) = self.0.remove(&other) else {
                continue;
            };
            let sectors = |bytes: u64| to_usize(bytes / sector) * sum_bytes;
            if other < start {
                let kept = sectors(start - other).min(old.len());
                self.0.insert(other, old.slice(..kept));
            }
            if end_of(other, &old) > end {
                let skipped = sectors(end.saturating_sub(other)).min(old.len());
                self.0.insert(end, old.slice(skipped..));
            }
        }
        self.0.insert(start, sums);
    }

    fn run(&self, logical: u64) -> Option<(u64, &Bytes)> {
        let (start, sums) = self.0.range(..=logical).next_back()?;
        Some((*start, sums))
    }
}

impl Btrfs {
    /// Bytes of an extent: `length` of them from `logical` on, with any place and length.
    pub(super) fn data(
        &self,
        logical: u64,
        length: u64,
        proof: Proof,
    ) -> Result<Segments, GuestError> {
        let sector = u64::from(self.superblock.sector_bytes);
        let outside = || GuestError::corrupt(Place::Data(logical), "it is out of bounds");
        let mut at = logical - logical % sector;
        let end = logical.checked_add(length).ok_or_else(outside)?;
        let aligned_end = end.checked_next_multiple_of(sector).ok_or_else(outside)?;
        let mut result = Segments::new();
        while at < aligned_end {
            let step = to_usize((aligned_end - at).min(STEP_BYTES));
            result.append(match proof {
                Proof::Needed => self.proven(at, step)?,
                Proof::None => self.unproven(at, step)?,
            });
            at += step as u64;
        }
        Ok(cut(result, to_usize(logical % sector), to_usize(length)))
    }

    /// What the first way that can be read gives.
    fn unproven(&self, logical: u64, length: usize) -> Result<Segments, GuestError> {
        let storage = self.nodes.storage();
        let (mut at, end) = (logical, logical + length as u64);
        let mut result = Segments::new();
        while at < end {
            let (together, ways) = storage.extent_of(at)?;
            let step = together.min(end - at);
            result.append(first_sound(ways, |way| {
                storage.read(at, to_usize(step), way)
            })?);
            at += step;
        }
        Ok(result)
    }

    /// Whole sectors, each as one of the ways gives it that fits its checksum.
    fn proven(&self, logical: u64, length: usize) -> Result<Segments, GuestError> {
        let sums = self.checksums_of(logical, length)?;
        let sector = self.superblock.sector_bytes as usize;
        let sum_bytes = self.superblock.checksum.bytes();
        let sums: Vec<&[u8]> = sums.chunks_exact(sum_bytes).collect();
        if let Ok(read) = self.unproven(logical, length)
            && self.is_proven(&read, &sums)
        {
            return Ok(read);
        }
        let mut result = Segments::new();
        for (index, sum) in sums.iter().enumerate() {
            let at = logical + (index * sector) as u64;
            let (_, ways) = self.nodes.storage().extent_of(at)?;
            result.append(first_sound(ways, |way| {
                let read = self.nodes.storage().read(at, sector, way)?;
                match self.is_proven(&read, &[*sum]) {
                    true => Ok(read),
                    false => Err(GuestError::corrupt(
                        Place::Data(at),
                        "the checksum is wrong",
                    )),
                }
            })?);
        }
        Ok(result)
    }

    fn is_proven(&self, read: &Segments, sums: &[&[u8]]) -> bool {
        let sector = self.superblock.sector_bytes as usize;
        let mut pieces = read.pieces().iter();
        let mut rest: &[u8] = &[];
        let mut parts: Vec<&[u8]> = Vec::new();
        sums.iter().all(|sum| {
            parts.clear();
            let mut missing = sector;
            while missing > 0 {
                if rest.is_empty() {
                    match pieces.next() {
                        Some(piece) => rest = piece,
                        None => return false,
                    }
                }
                let (part, behind) = rest.split_at(missing.min(rest.len()));
                parts.push(part);
                rest = behind;
                missing -= part.len();
            }
            let checksum = self.superblock.checksum;
            checksum.fits(parts.iter().copied(), Some(*sum))
        })
    }

    /// The checksums of whole sectors, one after the other.
    fn checksums_of(&self, logical: u64, length: usize) -> Result<Vec<u8>, GuestError> {
        let sector = u64::from(self.superblock.sector_bytes);
        let sum_bytes = self.superblock.checksum.bytes();
        let end = logical + length as u64;
        let mut sums = vec![0; length / to_usize(sector) * sum_bytes];
        let mut have = vec![false; length / to_usize(sector)];
        let mut take = |start: u64, item: &[u8]| {
            for (at, sum) in (0_u64..).zip(item.chunks_exact(sum_bytes)) {
                let at = start.saturating_add(at.saturating_mul(sector));
                if at < logical || at >= end {
                    continue;
                }
                let index = to_usize((at - logical) / sector);
                if let Some(place) = sums.chunks_exact_mut(sum_bytes).nth(index)
                    && let Some(have) = have.get_mut(index)
                {
                    place.copy_from_slice(sum);
                    *have = true;
                }
            }
        };
        let key = |at| Key::new(object::CHECKSUMS, kind::CHECKSUMS, at);
        if let Some(items) = &self.checksums {
            let first = items.last_until(&self.nodes, key(logical), key(0))?;
            let first = first.map_or(key(logical), |(first, _)| first);
            items.scan(&self.nodes, first, key(end - 1), &mut |key, item| {
                take(key.offset, item);
                Ok(ControlFlow::Continue(()))
            })?;
        }
        if let Some((start, _)) = self.logged_checksums.run(logical) {
            take_range(&self.logged_checksums.0, start, end, &mut take);
        } else {
            take_range(&self.logged_checksums.0, logical, end, &mut take);
        }
        match have.iter().position(|have| !have) {
            None => Ok(sums),
            Some(index) => Err(GuestError::corrupt(
                Place::Data(logical + index as u64 * sector),
                "it has no checksum",
            )),
        }
    }
}

fn take_range(runs: &BTreeMap<u64, Bytes>, start: u64, end: u64, take: &mut dyn FnMut(u64, &[u8])) {
    for (start, sums) in runs.range(start..end) {
        take(*start, sums);
    }
}

/// What the first of `ways` gives that has no fault.
fn first_sound<T>(
    ways: usize,
    read: impl Fn(usize) -> Result<T, GuestError>,
) -> Result<T, GuestError> {
    let mut first_fault = None;
    for way in 0..ways {
        match read(way) {
            Err(error) if error.is_of_one_place() => {
                first_fault.get_or_insert(error);
            }
            other => return other,
        }
    }
    Err(first_fault.unwrap_or(GuestError::NotFound))
}

/// What is read and proven at once.
const STEP_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_checksums_replace_older_ones() {
        let mut logged = LoggedChecksums::default();
        let sums = |from: u8, count: u8| Bytes::from_iter(from..from + count);
        logged.add(4096, sums(10, 4), 1, 4096);
        logged.add(40960, sums(50, 2), 1, 4096);
        logged.add(8192, sums(90, 2), 1, 4096);
        let all: Vec<_> = logged
            .0
            .iter()
            .map(|(at, sums)| (*at, sums[..].to_vec()))
            .collect();
        assert_eq!(
            all,
            [
                (4096, vec![10]),
                (8192, vec![90, 91]),
                (16384, vec![13]),
                (40960, vec![50, 51]),
            ]
        );
        logged.add(0, sums(1, 20), 1, 4096);
        assert_eq!(logged.0.len(), 1);
    }
}
