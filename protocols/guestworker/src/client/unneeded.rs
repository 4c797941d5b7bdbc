//! What is not needed of disks, as a worker says.

use std::collections::BTreeSet;
use std::ops::Range;

use guestfs::Unneeded;

use crate::reader::{Refusal, UnneededBytes};
use crate::wire::{ALL_DISKS, Ask, Malformed, Request};

use super::verdicts::Subject;
use super::{Worker, take};

impl Worker {
    /// Which bytes of each disk nobody needs back, as far as that is `wanted`. All disks are looked at together, which may take
    /// long: the worker's patience has to be long, too.
    ///
    /// # Errors
    /// If nothing can be said of the disks, or looking at them ended the process.
    pub fn unneeded(&self, wanted: &BTreeSet<Unneeded>) -> Result<Vec<UnneededBytes>, Refusal> {
        let disk = |(disk, size_bytes): (u32, &u64)| {
            let request = Request {
                volume: ALL_DISKS,
                ask: Ask::Unneeded {
                    disk,
                    wanted: wanted.clone(),
                },
            };
            self.0.retry(Subject::of(&request), |connection| {
                take(connection.ask(request.clone())?, |found| {
                    check(found, *size_bytes, wanted)
                })
            })
        };
        (0..).zip(&self.0.sizes).map(disk).collect()
    }
}

/// What is told must lie on the disk, make sense, and be what was wanted.
fn check(
    found: &UnneededBytes,
    size_bytes: u64,
    wanted: &BTreeSet<Unneeded>,
) -> Result<(), Malformed> {
    let mut reached = None;
    for Range { start, end } in &found.ranges {
        let is_apart = reached.is_none_or(|reached| *start > reached);
        let is_whole = start.is_multiple_of(512) && end.is_multiple_of(512);
        if !is_apart || !is_whole || start >= end || *end > size_bytes {
            return Err(Malformed("ranges that are not in order or not on the disk"));
        }
        reached = Some(*end);
    }
    let mut told = found.by.values();
    let told = told.try_fold(0_u64, |sum, bytes| sum.checked_add(*bytes));
    let ranges = found.ranges.iter();
    let all: u64 = ranges.map(|range| range.end - range.start).sum();
    match told == Some(all) && found.by.keys().all(|kind| wanted.contains(kind)) {
        true => Ok(()),
        false => Err(Malformed("ranges that are not what was asked for")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_not_believed() {
        let wanted = BTreeSet::from([Unneeded::Free]);
        let is_believed = |ranges: &[Range<u64>], bytes: u64| {
            let found = UnneededBytes {
                ranges: ranges.to_vec(),
                by: [(Unneeded::Free, bytes)].into(),
                whole: Vec::new(),
            };
            check(&found, 8192, &wanted).is_ok()
        };
        assert!(is_believed(&[0..512, 1024..8192], 7680));
        assert!(!is_believed(&[0..512, 1024..8192], 7681));
        assert!(!is_believed(&[0..512, 512..8192], 8192), "they touch");
        assert!(!is_believed(&[1024..2048, 0..512], 1536));
        assert!(!is_believed(&[0..512, 1024..8704], 8192), "beyond the end");
        assert!(!is_believed(&[1..513, 1024..1536], 1024));
        let other = UnneededBytes {
            ranges: std::iter::once(0..512).collect(),
            by: [(Unneeded::Gaps, 512)].into(),
            whole: Vec::new(),
        };
        assert!(check(&other, 8192, &wanted).is_err());
    }
}
