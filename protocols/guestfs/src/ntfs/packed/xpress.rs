//! XPRESS with Huffman codes (MS-XCA, section 2.2).

use super::bits::{Bits, repeat};
use super::codes::Codes;

/// Unpacks a chunk of `length` bytes; `None` if it makes no sense.
pub(super) fn unpack(packed: &[u8], length: usize) -> Option<Vec<u8>> {
    let (table, stream) = packed.split_at_checked(SYMBOLS / 2)?;
    let lengths: Vec<u8> = table
        .iter()
        .flat_map(|pair| [pair & 0xF, pair >> 4])
        .collect();
    let codes = Codes::new(&lengths)?;
    let mut bits = Bits::new(stream);
    let mut output = Vec::with_capacity(length);
    while output.len() < length {
        let symbol = codes.read(&mut bits)?;
        match u8::try_from(symbol) {
            Ok(literal) => output.push(literal),
            Err(_) => {
                let distance_bits = u32::from(symbol >> 4 & 0xF);
                // All 16 are looked at, as the length may follow in the bytes behind them.
                bits.peek(16);
                let distance = 1_usize << distance_bits | bits.take(distance_bits) as usize;
                let count = match usize::from(symbol & 0xF) {
                    15 => long(&mut bits)?,
                    short => short,
                };
                repeat(&mut output, distance, count + LENGTH_MIN, length)?;
            }
        }
    }
    Some(output)
}

/// A length that does not fit its symbol: a byte more, or if that does not do, two in its stead.
fn long(bits: &mut Bits<'_>) -> Option<usize> {
    match bits.byte()? {
        u8::MAX => {
            let pair = bits.bytes(2)?.first_chunk()?;
            Some(usize::from(u16::from_le_bytes(*pair)))
        }
        more => Some(15 + usize::from(more)),
    }
}

const SYMBOLS: usize = 512;
const LENGTH_MIN: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    /// Codes: `a` and `b` with two bits, references of up to 15 and more at distance 2 with two, the end with two.
    fn chunk(stream: &[u8]) -> Vec<u8> {
        let mut lengths = [0_u8; SYMBOLS];
        for symbol in [usize::from(b'a'), usize::from(b'b'), 256, 0x11F] {
            lengths[symbol] = 2;
        }
        let mut packed: Vec<u8> = lengths
            .chunks(2)
            .map(|pair| pair[0] | pair[1] << 4)
            .collect();
        packed.extend(stream);
        packed
    }

    #[test]
    fn literals_and_long_references_are_unpacked() {
        // a, b, then a reference at distance 2 (its one bit is 0); its length stands behind the bits: 15 + 4 + 3.
        let first = 0b0001_1100_0000_0000_u16.to_le_bytes();
        let unpacked = unpack(&chunk(&[first[0], first[1], 0, 0, 4]), 24).unwrap();
        assert_eq!(unpacked, b"abababababababababababab");
        let unpacked = unpack(&chunk(&[first[0], first[1], 0, 0, 255, 19, 0]), 24).unwrap();
        assert_eq!(unpacked, b"abababababababababababab");
        assert_eq!(unpack(&chunk(&[first[0], first[1]]), 24), None, "cut off");
        assert_eq!(
            unpack(&chunk(&[0, 0xC0, 0, 0, 0]), 24),
            None,
            "before the start"
        );
    }
}
