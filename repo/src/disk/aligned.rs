//! Memory that direct input and output can use.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// What offsets, lengths and addresses of direct reads and writes are multiples of.
pub const DIRECT_ALIGNMENT: usize = 4096;

/// A zeroed buffer whose address is a multiple of [`DIRECT_ALIGNMENT`].
pub struct AlignedBuffer {
    storage: Vec<u8>,
    start: usize,
    length: usize,
}

impl AlignedBuffer {
    /// Makes a buffer of `length` zero bytes.
    pub fn zeroed(length: usize) -> Self {
        let storage = vec![0; length + DIRECT_ALIGNMENT];
        let start = storage.as_ptr().align_offset(DIRECT_ALIGNMENT);
        Self {
            storage,
            start,
            length,
        }
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.storage
            .get(self.start..self.start + self.length)
            .unwrap_or_default()
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.storage
            .get_mut(self.start..self.start + self.length)
            .unwrap_or_default()
    }
}

impl AsRef<[u8]> for AlignedBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for AlignedBuffer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("AlignedBuffer")
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_aligned_and_the_length_exact() {
        for length in [0, 1, 4096, 70_000] {
            let buffer = AlignedBuffer::zeroed(length);
            assert_eq!(buffer.len(), length);
            assert_eq!(buffer.as_ptr().align_offset(DIRECT_ALIGNMENT), 0);
        }
    }
}
