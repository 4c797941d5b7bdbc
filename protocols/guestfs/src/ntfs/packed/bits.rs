//! Bits of XPRESS and LZX: 16 of them at a time, the upper ones first, with whole bytes in between.

/// Bytes that are read bit by bit. Beyond their end there are zeroes, as the last codes need.
#[derive(Debug)]
pub(super) struct Bits<'a> {
    rest: &'a [u8],
    /// The next ones, from the top.
    held: u32,
    count: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            held: 0,
            count: 0,
        }
    }

    /// The next `count` bits, at most 16, which stay.
    pub(super) fn peek(&mut self, count: u32) -> u32 {
        if self.count < count {
            let unit = match self.rest.split_first_chunk() {
                Some((unit, rest)) => {
                    self.rest = rest;
                    u16::from_le_bytes(*unit)
                }
                None => {
                    self.rest = &[];
                    0
                }
            };
            self.held |= u32::from(unit) << (16 - self.count);
            self.count += 16;
        }
        // In two steps, as none may be asked for.
        self.held >> 1 >> (31 - count)
    }

    /// Goes on by bits that were peeked at.
    pub(super) fn skip(&mut self, count: u32) {
        self.held <<= count;
        self.count -= count;
    }

    /// The next `count` bits, at most 16.
    pub(super) fn take(&mut self, count: u32) -> u32 {
        let bits = self.peek(count);
        self.skip(count);
        bits
    }

    /// The next `count` bits, at most 8.
    pub(super) fn take_small(&mut self, count: u32) -> u8 {
        u8::try_from(self.take(count)).unwrap_or(u8::MAX)
    }

    /// The byte behind all bits that were looked at.
    pub(super) fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*byte)
    }

    /// As many bytes behind all bits that were looked at.
    pub(super) fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(bytes)
    }

    /// Drops what is left of the unit that is being read; all of the next one if nothing is.
    pub(super) fn align(&mut self) {
        self.peek(1);
        (self.held, self.count) = (0, 0);
    }
}

/// Adds to `output` what it had `distance` bytes before, `length` bytes of it, as far as `limit` has room. `None` if that lies
/// before its start.
pub(super) fn repeat(
    output: &mut Vec<u8>,
    distance: usize,
    length: usize,
    limit: usize,
) -> Option<()> {
    let from = output
        .len()
        .checked_sub(distance)
        .filter(|_| distance > 0)?;
    let mut left = length.min(limit.saturating_sub(output.len()));
    // What is added may be its own source: then it grows by more with each step.
    while left > 0 {
        let step = left.min(output.len() - from);
        output.extend_from_within(from..from + step);
        left -= step;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_come_from_the_top_of_each_pair_and_bytes_from_behind_it() {
        let mut bits = Bits::new(&[0x34, 0x12, 0xAB, 0xCD, 0xEF]);
        assert_eq!((bits.take(4), bits.take(8)), (1, 0x23));
        assert_eq!(bits.byte(), Some(0xAB));
        assert_eq!(bits.take(0), 0);
        assert_eq!(bits.take(4), 4);
        bits.align();
        assert_eq!((bits.byte(), bits.take(16)), (None, 0));
    }

    #[test]
    fn what_is_repeated_may_overlap_itself() {
        let mut output = b"xab".to_vec();
        repeat(&mut output, 2, 7, 100).unwrap();
        assert_eq!(output, b"xababababa");
        repeat(&mut output, 1, 7, 12).unwrap();
        assert_eq!(output, b"xababababaaa");
        assert!(repeat(&mut output, 13, 1, 20).is_none());
        assert!(repeat(&mut output, 0, 1, 20).is_none());
    }
}
