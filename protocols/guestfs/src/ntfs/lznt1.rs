//! LZNT1, by which NTFS compresses units of 16 clusters.

/// Unpacks one unit of `length` bytes. What the packed bytes do not say is zero; `None` says that they make no sense.
pub(super) fn unpack(packed: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut result = vec![0; length];
    let mut rest = packed;
    for room in result.chunks_mut(CHUNK_BYTES) {
        let Some((head, tail)) = rest.split_first_chunk() else {
            break;
        };
        let head = u16::from_le_bytes(*head);
        if head == 0 {
            break;
        }
        let (chunk, tail) = tail.split_at_checked(usize::from(head & 0x0FFF) + 1)?;
        rest = tail;
        if head & 0x8000 == 0 {
            let taken = chunk.len().min(room.len());
            room.get_mut(..taken)?.copy_from_slice(chunk.get(..taken)?);
        } else {
            unpack_chunk(chunk, room)?;
        }
    }
    Some(result)
}

/// A chunk is groups of eight: bits that tell bytes from references back, then these.
fn unpack_chunk(mut packed: &[u8], room: &mut [u8]) -> Option<()> {
    let mut at = 0;
    while let Some((flags, rest)) = packed.split_first() {
        packed = rest;
        for bit in 0..8 {
            if packed.is_empty() || at == room.len() {
                break;
            }
            if flags >> bit & 1 == 0 {
                let (byte, rest) = packed.split_first()?;
                *room.get_mut(at)? = *byte;
                packed = rest;
                at += 1;
                continue;
            }
            let (pair, rest) = packed.split_first_chunk()?;
            packed = rest;
            let pair = u16::from_le_bytes(*pair);
            // The farther in, the more bits the distance needs, and the fewer are left for the length.
            let distance_bits = (usize::BITS - at.checked_sub(1)?.leading_zeros()).max(4);
            let length_bits = 16 - distance_bits;
            let distance = usize::from(pair >> length_bits) + 1;
            let length = usize::from(pair & ((1 << length_bits) - 1)) + 3;
            let from = at.checked_sub(distance)?;
            for step in 0..length.min(room.len() - at) {
                let byte = *room.get(from + step)?;
                *room.get_mut(at + step)? = byte;
            }
            at = room.len().min(at + length);
        }
        if at == room.len() {
            break;
        }
    }
    Some(())
}

const CHUNK_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_references_and_short_chunks_are_unpacked() {
        // "ab", then four bytes from two back, in a chunk that ends early; then a chunk as it is.
        let mut packed = vec![0x04, 0xB0, 0b100, b'a', b'b', 0x01, 0x10];
        packed.extend([0xFF, 0x3F]);
        packed.extend([7; 4096]);
        packed.extend([0, 0, 1, 2, 3]);
        let unpacked = unpack(&packed, 3 * 4096).unwrap();
        assert_eq!(&unpacked[..8], b"ababab\0\0");
        assert!(unpacked[8..4096].iter().all(|byte| *byte == 0));
        assert!(unpacked[4096..8192].iter().all(|byte| *byte == 7));
        assert!(unpacked[8192..].iter().all(|byte| *byte == 0));
        assert_eq!(unpack(&packed[..6], 4096), None, "cut off");
        assert_eq!(
            unpack(&[0x02, 0xB0, 1, 0, 0], 4096),
            None,
            "before the start"
        );
    }
}
