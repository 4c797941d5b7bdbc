//! Buffers for long data, used again when the disk has let go of them.

use bytes::{Bytes, BytesMut};

/// A few free buffers of a connection.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    free: Vec<BytesMut>,
    bytes: usize,
}

impl Buffers {
    /// An empty buffer for `length` bytes. Long ones begin at a page, because disks are written past the page cache.
    pub(super) fn take(&mut self, length: usize) -> BytesMut {
        if length < KEPT_MIN {
            return BytesMut::with_capacity(length);
        }
        let fits =
            |buffer: &BytesMut| buffer.capacity() >= length && buffer.capacity() / 4 <= length;
        if let Some(at) = self.free.iter().position(fits) {
            let buffer = self.free.swap_remove(at);
            self.bytes -= buffer.capacity();
            return buffer;
        }
        let mut buffer = BytesMut::with_capacity(length + PAGE);
        let ahead = buffer.as_ptr().align_offset(PAGE);
        if ahead < PAGE {
            buffer.resize(ahead, 0);
            drop(buffer.split_to(ahead));
        }
        buffer
    }

    /// Keeps those of `pieces` that nobody else holds.
    pub(super) fn give(&mut self, pieces: Vec<Bytes>) {
        for piece in pieces {
            if piece.len() < KEPT_MIN || self.bytes >= KEPT_BYTES {
                continue;
            }
            if let Ok(mut buffer) = piece.try_into_mut()
                && self.bytes + buffer.capacity() <= KEPT_BYTES
            {
                buffer.clear();
                self.bytes += buffer.capacity();
                self.free.push(buffer);
            }
        }
    }
}

const PAGE: usize = 4096;
/// Buffers below this are not worth it.
const KEPT_MIN: usize = 48 * 1024;
/// Most bytes that lie ready.
const KEPT_BYTES: usize = 2 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_buffers_begin_at_a_page_and_come_back() {
        let mut buffers = Buffers::default();
        for length in [64 * 1024, 256 * 1024, 1 << 20] {
            let mut buffer = buffers.take(length);
            assert_eq!(buffer.as_ptr().align_offset(PAGE), 0);
            let start = buffer.as_ptr();
            buffer.resize(length, 1);
            assert_eq!(buffer.as_ptr(), start, "it is not moved");
            buffers.give(vec![buffer.freeze()]);
            let again = buffers.take(length);
            assert_eq!((again.as_ptr(), again.len()), (start, 0));
        }
    }

    #[test]
    fn few_are_kept() {
        let mut buffers = Buffers::default();
        let taken: Vec<Bytes> = (0..100)
            .map(|_| {
                let mut buffer = buffers.take(64 * 1024);
                buffer.resize(64 * 1024, 0);
                buffer.freeze()
            })
            .collect();
        let held = taken[0].clone();
        buffers.give(taken);
        assert!(buffers.bytes <= KEPT_BYTES && !buffers.free.is_empty());
        assert!(
            buffers
                .free
                .iter()
                .all(|free| free.as_ptr() != held.as_ptr())
        );
    }
}
