//! Memory for payloads on their way from a socket to a disk.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

/// Buffers in whole pages that are used again and again.
///
/// A long payload that is received to the start of a page can go to the disk from where it is: an export that writes
/// past the page cache need not move it first. And memory that was used before need not be fetched from the system
/// page by page.
#[derive(Debug, Clone)]
pub struct PayloadBuffers(Arc<Shelf>);

/// A payload that is being received. Its memory goes back to where it came from when the last share of it is dropped.
pub struct PayloadBuffer {
    storage: Vec<u8>,
    start: usize,
    filled: usize,
    length: usize,
    home: Arc<Shelf>,
}

#[derive(Debug)]
struct Shelf {
    free: Mutex<Free>,
    kept_bytes_max: usize,
}

#[derive(Debug, Default)]
struct Free {
    storages: Vec<Vec<u8>>,
    bytes: usize,
}

impl PayloadBuffers {
    /// A set that keeps at most `kept_bytes_max` bytes for later.
    pub fn new(kept_bytes_max: usize) -> Self {
        Self(Arc::new(Shelf {
            free: Mutex::default(),
            kept_bytes_max,
        }))
    }

    /// A buffer of `length` bytes, the first of which lies at the start of a page.
    pub fn take(&self, length: usize) -> PayloadBuffer {
        self.take_with(length, 0)
    }

    /// A buffer of `length` bytes, the last of which lies at the end of a page: for a message that ends with its
    /// payload, which then lies in whole pages if it is whole pages long.
    pub fn take_ending_with_page(&self, length: usize) -> PayloadBuffer {
        self.take_with(length, length.next_multiple_of(PAGE_BYTES) - length)
    }

    /// `ahead` bytes behind the start of a page.
    fn take_with(&self, length: usize, ahead: usize) -> PayloadBuffer {
        let wanted = length + ahead + PAGE_BYTES;
        let storage = self.0.take(wanted).unwrap_or_else(|| vec![0; wanted]);
        PayloadBuffer {
            start: storage.as_ptr().align_offset(PAGE_BYTES) + ahead,
            storage,
            filled: 0,
            length,
            home: Arc::clone(&self.0),
        }
    }
}

impl Shelf {
    /// Memory of at least `wanted` bytes, and not far more.
    fn take(&self, wanted: usize) -> Option<Vec<u8>> {
        let mut free = self.free.lock();
        let fits = |storage: &Vec<u8>| (wanted..=wanted * 4).contains(&storage.len());
        let found = free.storages.iter().rposition(fits)?;
        let storage = free.storages.swap_remove(found);
        free.bytes -= storage.len();
        Some(storage)
    }

    fn put_back(&self, storage: Vec<u8>) {
        let mut free = self.free.lock();
        if free.bytes + storage.len() <= self.kept_bytes_max {
            free.bytes += storage.len();
            free.storages.push(storage);
        }
    }
}

impl PayloadBuffer {
    /// Where the next bytes belong; empty when all have come.
    pub fn unfilled(&mut self) -> &mut [u8] {
        let (start, end) = (self.start + self.filled, self.start + self.length);
        self.storage.get_mut(start..end).unwrap_or_default()
    }

    /// Says that `count` more bytes have come to where [`unfilled`](Self::unfilled) showed.
    pub fn advance(&mut self, count: usize) {
        self.filled = self.length.min(self.filled + count);
    }

    /// Takes from the front of `bytes` what there is room for and says how much that was.
    pub fn put(&mut self, bytes: &[u8]) -> usize {
        let room = self.unfilled();
        let count = room.len().min(bytes.len());
        if let (Some(target), Some(source)) = (room.get_mut(..count), bytes.get(..count)) {
            target.copy_from_slice(source);
        }
        self.advance(count);
        count
    }

    /// How many bytes have not come yet.
    pub fn missing(&self) -> usize {
        self.length - self.filled
    }

    /// What has come.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for PayloadBuffer {
    fn as_ref(&self) -> &[u8] {
        // Not behind what has come: that may be of another peer.
        self.storage
            .get(self.start..self.start + self.filled)
            .unwrap_or_default()
    }
}

impl Drop for PayloadBuffer {
    fn drop(&mut self) {
        self.home.put_back(std::mem::take(&mut self.storage));
    }
}

impl fmt::Debug for PayloadBuffer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PayloadBuffer")
            .field("length", &self.length)
            .field("missing", &self.missing())
            .finish_non_exhaustive()
    }
}

/// What memory and disks are aligned to.
const PAGE_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(mut buffer: PayloadBuffer, byte: u8) -> Bytes {
        let length = buffer.missing();
        assert_eq!(buffer.put(&vec![byte; length + 5]), length);
        assert!(buffer.unfilled().is_empty());
        buffer.freeze()
    }

    #[test]
    fn buffers_are_aligned_and_come_back() {
        let buffers = PayloadBuffers::new(1 << 20);
        for length in [1, 4096, 70_000, 1 << 19] {
            let payload = filled(buffers.take(length), 7);
            assert!(
                payload.as_ptr().addr().is_multiple_of(PAGE_BYTES),
                "{length}"
            );
            assert_eq!(payload, vec![7; length]);
            let address = payload.as_ptr();
            drop(payload);
            let mut again = buffers.take(length);
            assert_eq!(again.unfilled().as_ptr(), address, "{length}");
            assert!(again.as_ref().is_empty(), "what was there is not shown");
        }
    }

    #[test]
    fn the_end_of_a_message_can_be_the_end_of_a_page() {
        let buffers = PayloadBuffers::new(1 << 20);
        for length in [1, 4096, 70_000, (1 << 19) + 132] {
            let message = filled(buffers.take_ending_with_page(length), 3);
            let end = message.as_ptr().addr() + message.len();
            assert!(end.is_multiple_of(PAGE_BYTES), "{length}");
            assert_eq!(message.len(), length);
        }
    }

    #[test]
    fn what_comes_in_parts_comes_together() {
        let buffers = PayloadBuffers::new(0);
        let mut buffer = buffers.take(5);
        assert_eq!(buffer.put(b"ab"), 2);
        buffer.unfilled()[..2].copy_from_slice(b"cd");
        buffer.advance(2);
        assert_eq!(buffer.missing(), 1);
        assert_eq!(buffer.put(b"ef"), 1);
        assert_eq!(buffer.put(b"g"), 0);
        assert_eq!(buffer.freeze(), b"abcde".as_slice());
    }

    #[test]
    fn what_is_still_used_or_too_much_is_not_kept() {
        let buffers = PayloadBuffers::new(100_000);
        let shared = filled(buffers.take(60_000), 1);
        let part = shared.slice(5..6);
        drop(shared);
        let (other, third) = (
            filled(buffers.take(60_000), 2),
            filled(buffers.take(60_000), 3),
        );
        assert_eq!(part, [1].as_slice(), "its memory was not given to another");
        drop((other, third, part));
        let free = buffers.0.free.lock();
        assert_eq!(free.storages.len(), 1);
        assert!(free.bytes <= 100_000);
    }

    #[test]
    fn a_long_buffer_does_not_go_to_a_short_payload() {
        let buffers = PayloadBuffers::new(10 << 20);
        drop(filled(buffers.take(8 << 20), 0));
        assert!(buffers.take(64 << 10).storage.len() < 1 << 20);
    }
}
