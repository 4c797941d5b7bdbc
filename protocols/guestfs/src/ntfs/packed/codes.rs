//! Canonical Huffman codes: shorter ones first, equally long ones in the order of their symbols.

use super::bits::Bits;

/// Longest code.
pub(super) const LENGTH_MAX: u32 = 16;

/// A way to read symbols.
#[derive(Debug)]
pub(super) struct Codes {
    /// Symbol and length for the next bits, where the code is not longer than they are; 0 where it is, or none begins so.
    quick: Vec<u16>,
    /// Symbols with a code, in the order of the codes.
    symbols: Vec<u16>,
    lengths: [Length; LENGTHS],
}

/// The codes of one length.
#[derive(Debug, Clone, Copy, Default)]
struct Length {
    first_code: u32,
    codes: u32,
    /// Where their symbols begin.
    first_symbol: usize,
}

impl Codes {
    /// Codes of the symbols from 0 on by their lengths, where 0 says that there is none. At most 2048 symbols, and lengths up
    /// to [`LENGTH_MAX`]. `None` if there cannot be so many.
    pub(super) fn new(lengths: &[u8]) -> Option<Self> {
        let mut by_length = [Length::default(); LENGTHS];
        for length in lengths {
            by_length.get_mut(usize::from(*length))?.codes += 1;
        }
        by_length[0].codes = 0;
        let (mut code, mut first_symbol) = (0, 0);
        for (bits, length) in by_length.iter_mut().enumerate() {
            code <<= 1;
            length.first_code = code;
            length.first_symbol = first_symbol;
            code += length.codes;
            first_symbol += length.codes as usize;
            if code > 1 << bits {
                return None;
            }
        }
        let mut symbols = vec![0; first_symbol];
        let mut next = by_length.map(|length| length.first_symbol);
        for (symbol, length) in (0_u16..).zip(lengths).filter(|(_, length)| **length > 0) {
            let next = next.get_mut(usize::from(*length))?;
            *symbols.get_mut(*next)? = symbol;
            *next += 1;
        }
        let mut codes = Self {
            quick: vec![0; 1 << QUICK_BITS],
            symbols,
            lengths: by_length,
        };
        codes.fill_quick()?;
        Some(codes)
    }

    fn fill_quick(&mut self) -> Option<()> {
        for (bits, length) in (0_u16..).zip(self.lengths) {
            let Some(unused) = QUICK_BITS.checked_sub(u32::from(bits)) else {
                break;
            };
            let span = 1 << unused;
            let end = length.first_symbol + length.codes as usize;
            let symbols = self.symbols.get(length.first_symbol..end)?;
            let start = length.first_code as usize * span;
            let places = self.quick.get_mut(start..start + symbols.len() * span)?;
            for (places, symbol) in places.chunks_mut(span).zip(symbols) {
                places.fill(symbol << LENGTH_BITS | bits);
            }
        }
        Some(())
    }

    /// The next symbol, if there is such a code.
    pub(super) fn read(&self, bits: &mut Bits<'_>) -> Option<u16> {
        let ahead = bits.peek(LENGTH_MAX);
        let quick = *self
            .quick
            .get(ahead as usize >> (LENGTH_MAX - QUICK_BITS))?;
        if quick != 0 {
            bits.skip(u32::from(quick & LENGTH_MASK));
            return Some(quick >> LENGTH_BITS);
        }
        for (length, codes) in (0_u32..)
            .zip(self.lengths)
            .filter(|(length, _)| *length > QUICK_BITS)
        {
            let code = ahead >> (LENGTH_MAX - length);
            let place = code.wrapping_sub(codes.first_code);
            if place < codes.codes {
                bits.skip(length);
                return self
                    .symbols
                    .get(codes.first_symbol + place as usize)
                    .copied();
            }
        }
        None
    }
}

/// Longest code that is found in one step.
const QUICK_BITS: u32 = 10;
/// With that of no code at all.
const LENGTHS: usize = 17;
const LENGTH_BITS: u16 = 5;
const LENGTH_MASK: u16 = (1 << LENGTH_BITS) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_given_by_length_and_then_by_symbol() {
        let codes = Codes::new(&[2, 0, 1, 3, 3]).unwrap();
        // 0 is symbol 2, 10 symbol 0, 110 symbol 3, 111 symbol 4.
        let bytes = 0b1001_1011_1000_0000_u16.to_le_bytes();
        let mut bits = Bits::new(&bytes);
        let read = [(); 4].map(|()| codes.read(&mut bits));
        assert_eq!(read, [Some(0), Some(2), Some(3), Some(4)]);
        assert!(Codes::new(&[1, 1, 1]).is_none(), "three codes of one bit");
        let few = Codes::new(&[0, 2]).unwrap();
        let mut bits = Bits::new(&[0, 0x40]);
        assert_eq!(few.read(&mut bits), None, "01 is no code");
    }

    #[test]
    fn long_codes_are_found_too() {
        // One code of each length, and two of the longest.
        let lengths: Vec<u8> = (1..=16).chain([16]).collect();
        let codes = Codes::new(&lengths).unwrap();
        for (symbol, length) in (0_u16..).zip(&lengths) {
            let code = match symbol {
                16 => u16::MAX,
                symbol => !(u16::MAX >> symbol) & !(1 << (15 - symbol)),
            };
            let mut bytes = code.to_le_bytes().to_vec();
            bytes.extend([0xFF; 2]);
            let mut bits = Bits::new(&bytes);
            assert_eq!(codes.read(&mut bits), Some(symbol), "{length}");
        }
    }
}
