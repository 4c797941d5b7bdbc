//! Data between its place in the shared memory and ours. It is copied once each way: what the kernel could change under
//! a disk's hands is no data to write.

use bytes::Bytes;
use export::{PayloadBuffers, Segments};

use crate::wire::{SharedMemory, Span};

/// Takes the first `length` bytes of what lies at `spans`.
pub(super) fn gather(
    memory: &SharedMemory,
    spans: &[Span],
    length: usize,
    buffers: &PayloadBuffers,
) -> Bytes {
    let mut buffer = buffers.take(length);
    for span in spans {
        let room = buffer.unfilled();
        let count = room
            .len()
            .min(usize::try_from(span.length).unwrap_or(usize::MAX));
        let room = room.get_mut(..count).unwrap_or_default();
        memory.copy_out(span.at, room).expect(IN_MEMORY);
        buffer.advance(count);
    }
    buffer.freeze()
}

/// Puts `data` to `spans`, and zeroes behind it: what was there before is another's. Says how much of it fitted.
pub(super) fn scatter(memory: &SharedMemory, spans: &[Span], data: &Segments) -> u64 {
    let mut pieces = data.pieces().iter();
    let mut piece: &[u8] = &[];
    let mut put = 0;
    for span in spans {
        let (mut at, mut left) = (span.at, span.length);
        while left > 0 {
            if piece.is_empty() {
                match pieces.next() {
                    Some(next) => piece = next,
                    None => break,
                }
            }
            let count = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let (now, rest) = piece.split_at(count);
            memory.copy_in(at, now).expect(IN_MEMORY);
            piece = rest;
            at += count as u64;
            left -= count as u64;
            put += count as u64;
        }
        memory.fill_with_zeroes(at, left).expect(IN_MEMORY);
    }
    put
}

const IN_MEMORY: &str =
    "spans were compared with the memory when they were read, and that does not shrink";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_goes_through_pieces_of_any_size_and_what_is_left_is_zero() {
        let memory = SharedMemory::anonymous(1 << 16).unwrap();
        assert!(memory.write(0, &[0xee; 1 << 16]));
        let spans = [(100, 3), (200, 0), (5000, 10_000), (40_000, 7)]
            .map(|(at, length)| Span { at, length });
        let mut data = Segments::new();
        let bytes: Vec<u8> = (0..9000)
            .map(|number: usize| number.to_le_bytes()[0] | 1)
            .collect();
        data.push(Bytes::copy_from_slice(&bytes[..1]));
        data.push(Bytes::copy_from_slice(&bytes[1..8000]));
        data.push(Bytes::copy_from_slice(&bytes[8000..]));
        assert_eq!(scatter(&memory, &spans, &data), 9000);
        let buffers = PayloadBuffers::new(0);
        let all = gather(&memory, &spans, 10_010, &buffers);
        assert_eq!(all[..9000], bytes);
        assert!(all.len() == 10_010 && all[9000..].iter().all(|byte| *byte == 0));
        let mut around = [0; 5];
        assert!(memory.read(99, &mut around));
        assert_eq!(around, [0xee, bytes[0], bytes[1], bytes[2], 0xee]);
        let long = Segments::from(Bytes::from(vec![7; 20_000]));
        assert_eq!(scatter(&memory, &spans, &long), 10_010, "what fits");
    }
}
