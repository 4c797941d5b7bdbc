//! Up to where the stored pages of a map show the journal.

use super::journal::{Position, Totals};
use crate::checksum::crc32c;

pub(super) fn encode(position: &Position) -> Vec<u8> {
    let Position {
        segment,
        end,
        sequence,
        time,
        totals,
    } = position;
    let Totals {
        records,
        flushes,
        written_bytes,
        journal_bytes,
    } = totals;
    let mut out = vec![VERSION];
    out.extend(segment.to_le_bytes());
    for number in [
        end,
        sequence,
        time,
        records,
        flushes,
        written_bytes,
        journal_bytes,
    ] {
        out.extend(number.to_le_bytes());
    }
    out.extend(crc32c(&out).to_le_bytes());
    out
}

/// Reads a checkpoint back; `None` if it is damaged or of another version.
pub(super) fn decode(bytes: &[u8]) -> Option<Position> {
    let (content, check) = bytes.split_last_chunk::<4>()?;
    let (version, rest) = content.split_first()?;
    if *version != VERSION || u32::from_le_bytes(*check) != crc32c(content) {
        return None;
    }
    let (segment, rest) = rest.split_first_chunk::<4>()?;
    let numbers: Vec<u64> = rest
        .chunks_exact(8)
        .filter_map(|number| number.try_into().ok().map(u64::from_le_bytes))
        .collect();
    let [
        end,
        sequence,
        time,
        records,
        flushes,
        written_bytes,
        journal_bytes,
    ] = numbers.try_into().ok()?;
    let totals = Totals {
        records,
        flushes,
        written_bytes,
        journal_bytes,
    };
    Some(Position {
        segment: u32::from_le_bytes(*segment),
        end,
        sequence,
        time,
        totals,
    })
}

const VERSION: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_come_back_and_every_bit_counts() {
        let totals = Totals {
            records: 5,
            flushes: 6,
            written_bytes: 7,
            journal_bytes: 8,
        };
        let position = Position {
            segment: 1,
            end: 2,
            sequence: 3,
            time: 4,
            totals,
        };
        let bytes = encode(&position);
        assert_eq!(decode(&bytes), Some(position));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&damaged), None);
        }
    }
}
