//! LZX as WIM images and the overlay filter have it: chunks that stand alone, with a window of their own size, and addresses of
//! calls in programs of Intel's processors told from the start of the chunk (MS-PATCH, section 2).

use super::bits::{Bits, repeat};
use super::codes::Codes;

/// Content of a chunk, but for the last one.
pub(super) const CHUNK_BYTES: usize = 32768;

/// Unpacks a chunk of `length` bytes; `None` if it makes no sense.
pub(super) fn unpack(packed: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut chunk = Chunk {
        bits: Bits::new(packed),
        recent: [1; 3],
        main: [0; LITERALS + 8 * SLOTS],
        lengths: [0; LONG_LENGTHS],
        output: Vec::with_capacity(length),
        limit: length,
    };
    while chunk.output.len() < length {
        chunk.block()?;
    }
    let mut output = chunk.output;
    absolute_to_relative(&mut output);
    Some(output)
}

struct Chunk<'a> {
    bits: Bits<'a>,
    /// The distances that were used last.
    recent: [usize; 3],
    /// Lengths of the codes of the block before, from which those of the next are told.
    main: [u8; LITERALS + 8 * SLOTS],
    lengths: [u8; LONG_LENGTHS],
    output: Vec<u8>,
    limit: usize,
}

impl Chunk<'_> {
    fn block(&mut self) -> Option<()> {
        let kind = self.bits.take(3);
        let size = match self.bits.take(1) {
            1 => CHUNK_BYTES,
            _ => self.bits.take(16) as usize,
        };
        let end = self.output.len() + size;
        // One without anything in it would be read for ever.
        if size == 0 || end > self.limit {
            return None;
        }
        match kind {
            VERBATIM => self.compressed(end, None),
            ALIGNED => {
                let lengths = [(); 8].map(|()| self.bits.take_small(3));
                self.compressed(end, Some(&Codes::new(&lengths)?))
            }
            STORED => self.stored(size),
            _ => None,
        }
    }

    fn stored(&mut self, size: usize) -> Option<()> {
        self.bits.align();
        for recent in &mut self.recent {
            let distance = self.bits.bytes(4)?.first_chunk()?;
            *recent = u32::from_le_bytes(*distance) as usize;
        }
        self.output.extend_from_slice(self.bits.bytes(size)?);
        if size % 2 == 1 && self.output.len() < self.limit {
            self.bits.byte()?;
        }
        Some(())
    }

    fn compressed(&mut self, end: usize, aligned: Option<&Codes>) -> Option<()> {
        let (literals, references) = self.main.split_at_mut(LITERALS);
        read_lengths(&mut self.bits, literals)?;
        read_lengths(&mut self.bits, references)?;
        read_lengths(&mut self.bits, &mut self.lengths)?;
        let main = Codes::new(&self.main)?;
        let long = Codes::new(&self.lengths)?;
        while self.output.len() < end {
            let symbol = main.read(&mut self.bits)?;
            let Err(_) = u8::try_from(symbol).map(|literal| self.output.push(literal)) else {
                continue;
            };
            let reference = usize::from(symbol) - LITERALS;
            let mut count = reference % 8 + LENGTH_MIN;
            if reference % 8 == 7 {
                count += usize::from(long.read(&mut self.bits)?);
            }
            let distance = self.distance(reference / 8, aligned)?;
            if self.output.len() + count > end {
                return None;
            }
            repeat(&mut self.output, distance, count, end)?;
        }
        Some(())
    }

    /// The distance of a slot: one of the last three, or what follows in bits.
    fn distance(&mut self, slot: usize, aligned: Option<&Codes>) -> Option<usize> {
        if slot < 3 {
            self.recent.swap(0, slot);
            return Some(self.recent[0]);
        }
        let (base, extra) = slot_of(slot);
        let more = match aligned {
            Some(codes) if extra >= 3 => {
                let upper = (self.bits.take(extra - 3) as usize) << 3;
                upper | usize::from(codes.read(&mut self.bits)?)
            }
            _ => self.bits.take(extra) as usize,
        };
        let distance = base + more - DISTANCES_FROM;
        self.recent = [distance, self.recent[0], self.recent[1]];
        Some(distance)
    }
}

/// Where a slot of distances begins, and how many bits tell which of it. There are two for each number of bits.
fn slot_of(slot: usize) -> (usize, u32) {
    match slot {
        0..4 => (slot, 0),
        _ => {
            let extra = slot / 2 - 1;
            ((2 | slot & 1) << extra, u32::try_from(extra).unwrap_or(0))
        }
    }
}

/// Lengths of codes, each told by its difference from the one that stood there, with codes of their own.
fn read_lengths(bits: &mut Bits<'_>, lengths: &mut [u8]) -> Option<()> {
    let codes = Codes::new(&[(); 20].map(|()| bits.take_small(4)))?;
    let mut at = 0;
    while let Some(before) = lengths.get(at).copied() {
        let symbol = codes.read(bits)?;
        let changed = |difference: u16| {
            let difference = u8::try_from(difference).ok().filter(|one| *one <= 16)?;
            Some((before + 17 - difference) % 17)
        };
        let (run, length) = match symbol {
            17 => (4 + bits.take(4), 0),
            18 => (20 + bits.take(5), 0),
            19 => {
                let run = 4 + bits.take(1);
                (run, changed(codes.read(bits)?)?)
            }
            difference => (1, changed(difference)?),
        };
        let end = lengths.len().min(at + run as usize);
        lengths.get_mut(at..end)?.fill(length);
        at = end;
    }
    Some(())
}

/// Calls were told by where they lead, which repeats more often than how far that is. The last ten bytes were left alone.
fn absolute_to_relative(output: &mut [u8]) {
    let end = output.len().saturating_sub(10);
    let mut at = 0;
    while let Some(found) = output.get(at..end).and_then(call_in) {
        at += found;
        let place = i32::try_from(at).unwrap_or(i32::MAX);
        if let Some(field) = output.get_mut(at + 1..).and_then(<[u8]>::first_chunk_mut) {
            let target = i32::from_le_bytes(*field);
            if (0..PROGRAM_BYTES).contains(&target) {
                *field = (target - place).to_le_bytes();
            } else if (-place..0).contains(&target) {
                *field = (target + PROGRAM_BYTES).to_le_bytes();
            }
        }
        at += 5;
    }
}

fn call_in(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == 0xE8)
}

const VERBATIM: u32 = 1;
const ALIGNED: u32 = 2;
const STORED: u32 = 3;
const LITERALS: usize = 256;
/// Slots of distances that a window of a chunk's size needs.
const SLOTS: usize = 30;
const LONG_LENGTHS: usize = 249;
const LENGTH_MIN: usize = 2;
/// The first numbers of distances stand for the last three.
const DISTANCES_FROM: usize = 2;
/// The size of a program that the filter for calls takes for granted.
const PROGRAM_BYTES: i32 = 12_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_follow_one_another() {
        let mut next = 0;
        for slot in 0..SLOTS {
            let (base, extra) = slot_of(slot);
            assert_eq!(base, next, "{slot}");
            next += 1 << extra;
        }
        assert_eq!(next, CHUNK_BYTES);
    }

    #[test]
    fn calls_are_told_from_where_they_stand_again() {
        let mut program = vec![0x90; 32];
        program[4] = 0xE8;
        program[5..9].copy_from_slice(&100_i32.to_le_bytes());
        program[12] = 0xE8;
        program[13..17].copy_from_slice(&(-3_i32).to_le_bytes());
        program[23] = 0xE8;
        let before = program.clone();
        absolute_to_relative(&mut program);
        assert_eq!(program[5..9], 96_i32.to_le_bytes());
        assert_eq!(program[13..17], (PROGRAM_BYTES - 3).to_le_bytes());
        assert_eq!(program[22..], before[22..]);
    }

    #[test]
    fn stored_blocks_are_taken_as_they_are() {
        // Kind 3, 16 bits of length 5, then the distances, the bytes, and one that fills up.
        let head: u32 = 0b0110_0000_0000_0000_0101 << 12;
        let [d, c, b, a] = head.to_le_bytes();
        let mut packed = vec![b, a, d, c];
        packed.extend([1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]);
        packed.extend(b"hello");
        assert_eq!(unpack(&packed, 5).unwrap(), b"hello");
        assert!(unpack(&packed, 6).is_none(), "nothing follows");
        assert!(unpack(&[0; 64], 6).is_none(), "no such kind");
    }
}
