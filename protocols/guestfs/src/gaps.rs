//! What of a disk belongs to no partition and to no table.

use std::ops::Range;
use std::sync::Arc;

use crate::partitions::{Table, claims_gpt, find_gpt};
use crate::recognition::recognize;
use crate::volume::{MbrReading, mbr_readings};
use crate::{Content, GuestError, Source};

/// Ranges of bytes of a disk that are in no partition, ascending: nobody looks for anything there. The first and the last
/// mebibyte, where boot loaders, tables and marks of volume managers lie, are never among them. Without a table there are
/// none. An error says that nothing is to be left out.
pub fn gaps(disk: &Arc<dyn Source>) -> Result<Vec<Range<u64>>, GuestError> {
    let length = disk.length_bytes();
    if length < 2 * KEPT_BYTES || is_part_of_more(disk)? {
        return Ok(Vec::new());
    }
    let first = disk.read(0, 512)?.to_vec();
    let mut kept = vec![0..KEPT_BYTES, length - KEPT_BYTES..length];
    if claims_gpt(&first) {
        let Some(table) = find_gpt(&**disk)? else {
            return Ok(Vec::new());
        };
        keep(&table, &mut kept);
    } else {
        let readings = mbr_readings(disk)?;
        // Where none is better than another, what is in a partition by any of them is kept.
        let best = readings.first().map_or(0, |reading| reading.known);
        let all = readings.iter().all(|reading| reading.table.is_whole);
        let equals = readings.iter().take_while(|reading| reading.known == best);
        let trusted = match equals.count() {
            0 => return Ok(Vec::new()),
            1 if best > 0 => readings.get(..1),
            _ if all => Some(&readings[..]),
            _ => None,
        };
        let sound =
            |reading: &MbrReading| reading.table.is_whole && !reading.table.entries.is_empty();
        let Some(trusted) = trusted.filter(|trusted| trusted.iter().all(sound)) else {
            return Ok(Vec::new());
        };
        trusted
            .iter()
            .for_each(|reading| keep(&reading.table, &mut kept));
    }
    Ok(complement(kept, length))
}

/// Whether the table, if there is one, may be that of something larger, as of an array of which the disk is a member: then
/// its places are not those of this disk. Firmware that makes arrays leaves its mark at the end.
fn is_part_of_more(disk: &Arc<dyn Source>) -> Result<bool, GuestError> {
    if recognize(&**disk)?.0 != Content::Unknown {
        return Ok(true);
    }
    let end = disk.length_bytes();
    let tail = disk.read(end - 1024, 1024)?.to_vec();
    Ok(FIRMWARE_MARKS.iter().any(|(from_end, mark)| {
        tail.get(1024 - from_end..)
            .is_some_and(|tail| tail.starts_with(mark))
    }))
}

fn keep(table: &Table, kept: &mut Vec<Range<u64>>) {
    let partitions = table.entries.iter();
    kept.extend(
        partitions.map(|entry| entry.offset_bytes..entry.offset_bytes + entry.length_bytes),
    );
    let around = |own: &u64| own.saturating_sub(KEPT_BYTES)..own.saturating_add(KEPT_BYTES);
    kept.extend(table.own.iter().map(around));
}

/// What no range of `kept` has of `0..length`.
fn complement(mut kept: Vec<Range<u64>>, length: u64) -> Vec<Range<u64>> {
    kept.sort_unstable_by_key(|range| range.start);
    let mut gaps = Vec::new();
    let mut at = 0;
    for range in kept {
        if range.start.min(length) > at {
            gaps.push(at..range.start.min(length));
        }
        at = at.max(range.end);
    }
    gaps
}

/// Distance from the end and first bytes of what Intel's firmware, and the common format DDF, write.
const FIRMWARE_MARKS: [(usize, &[u8]); 2] = [
    (1024, b"Intel Raid ISM Cfg Sig. "),
    (512, &[0xDE, 0x11, 0xDE, 0x11]),
];
/// At both ends of the disk and around each structure of a table.
const KEPT_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_overlaps_and_what_leaves_the_disk_makes_no_gap() {
        let kept = vec![90..200, 0..10, 5..20, 30..40, 35..36];
        assert_eq!(complement(kept, 100), [20..30, 40..90]);
    }
}
