//! Memory for payloads on their way from a socket to a disk.

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

/// Page-aligned buffers that are used again and again.
///
/// A long payload that is received to the start of a page can go to the disk from where it is: an export that writes
/// past the page cache need not move it first. And memory that was used before need not be fetched from the system
/// page by page.
#[derive(Debug)]
pub struct PayloadBuffers {
    free: Mutex<Free>,
    kept_bytes_max: usize,
}

#[derive(Debug, Default)]
struct Free {
    buffers: Vec<BytesMut>,
    bytes: usize,
}

impl PayloadBuffers {
    /// A set that keeps at most `kept_bytes_max` bytes for later.
    pub fn new(kept_bytes_max: usize) -> Self {
        Self {
            free: Mutex::default(),
            kept_bytes_max,
        }
    }

    /// An empty buffer with room for `length_bytes`, the first of which lies at the start of a page.
    pub fn take(&self, length_bytes: usize) -> BytesMut {
        let reused = {
            let mut free = self.free.lock();
            let fits = |buffer: &BytesMut| {
                buffer.capacity() >= length_bytes
                    && buffer.capacity() / 4 <= length_bytes.max(PAGE_BYTES)
            };
            let found = free.buffers.iter().rposition(fits);
            found.map(|at| {
                let buffer = free.buffers.swap_remove(at);
                free.bytes -= buffer.capacity();
                buffer
            })
        };
        reused.unwrap_or_else(|| fresh(length_bytes))
    }

    /// Keeps the memory of `payload` for later if nobody else holds a part of it.
    pub fn give_back(&self, payload: Bytes) {
        let Ok(mut buffer) = payload.try_into_mut() else {
            return;
        };
        buffer.clear();
        if !is_aligned(&buffer) {
            return;
        }
        let mut free = self.free.lock();
        if free.bytes + buffer.capacity() <= self.kept_bytes_max {
            free.bytes += buffer.capacity();
            free.buffers.push(buffer);
        }
    }
}

fn fresh(length_bytes: usize) -> BytesMut {
    let mut buffer = BytesMut::with_capacity(length_bytes + PAGE_BYTES);
    let ahead = buffer.as_ptr().align_offset(PAGE_BYTES);
    buffer.resize(ahead, 0);
    buffer.split_off(ahead)
}

fn is_aligned(buffer: &BytesMut) -> bool {
    buffer.as_ptr().addr().is_multiple_of(PAGE_BYTES)
}

/// What memory and disks are aligned to.
const PAGE_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_come_back() {
        let buffers = PayloadBuffers::new(1 << 20);
        for length in [1, 4096, 70_000, 1 << 19] {
            let mut buffer = buffers.take(length);
            assert!(
                is_aligned(&buffer) && buffer.capacity() >= length,
                "{length}"
            );
            buffer.resize(length, 7);
            let address = buffer.as_ptr();
            buffers.give_back(buffer.freeze());
            let again = buffers.take(length);
            assert_eq!(again.as_ptr(), address, "{length}");
            assert!(again.is_empty());
        }
    }

    #[test]
    fn what_is_still_used_or_too_much_is_not_kept() {
        let buffers = PayloadBuffers::new(100_000);
        let filled = |byte| {
            let mut buffer = buffers.take(60_000);
            buffer.resize(60_000, byte);
            buffer.freeze()
        };
        let shared = filled(1);
        let part = shared.slice(5..6);
        buffers.give_back(shared);
        let other = filled(2);
        assert_eq!(part, [1].as_slice(), "its memory was not given to another");
        let third = filled(3);
        buffers.give_back(other);
        buffers.give_back(third);
        let kept = buffers.free.lock();
        assert_eq!(kept.buffers.len(), 1);
        assert!(kept.bytes <= 100_000);
    }

    #[test]
    fn a_long_buffer_does_not_go_to_a_short_payload() {
        let buffers = PayloadBuffers::new(10 << 20);
        let mut long = buffers.take(8 << 20);
        long.resize(8 << 20, 0);
        buffers.give_back(long.freeze());
        assert!(buffers.take(64 << 10).capacity() < 1 << 20);
    }
}
