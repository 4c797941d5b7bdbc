//! Memory for whole payloads, used again and again.
//!
//! A fresh buffer of 64 KiB is cleared before it is read into, and often has to be fetched from the system page by
//! page; one that was used before costs nothing.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::format::PAYLOAD_BYTES_MAX;

/// Buffers of [`PAYLOAD_BYTES_MAX`] that are free.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    free: Mutex<Vec<Vec<u8>>>,
}

impl Buffers {
    /// A buffer of `length` bytes with any content.
    pub(super) fn take(&self, length: usize) -> Vec<u8> {
        let reused = (length == PAYLOAD_BYTES_MAX)
            .then(|| self.free.lock().pop())
            .flatten();
        reused.unwrap_or_else(|| vec![0; length])
    }

    /// Shares a buffer, which comes back when nobody has it any more.
    pub(super) fn share(self: &Arc<Self>, buffer: Vec<u8>) -> Bytes {
        if buffer.len() != PAYLOAD_BYTES_MAX {
            return Bytes::from(buffer);
        }
        Bytes::from_owner(Lent {
            buffer,
            home: Arc::clone(self),
        })
    }
}

struct Lent {
    buffer: Vec<u8>,
    home: Arc<Buffers>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut free = self.home.free.lock();
        if free.len() < FREE_MAX {
            free.push(std::mem::take(&mut self.buffer));
        }
    }
}

/// Buffers kept for later: 8 MiB.
const FREE_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_the_last_share_of_it_goes() {
        let buffers = Arc::new(Buffers::default());
        let mut buffer = buffers.take(PAYLOAD_BYTES_MAX);
        buffer[9] = 9;
        let address = buffer.as_ptr();
        let shared = buffers.share(buffer);
        let part = shared.slice(9..10);
        drop(shared);
        assert!(buffers.free.lock().is_empty());
        assert_eq!(part, [9].as_slice());
        drop(part);
        let again = buffers.take(PAYLOAD_BYTES_MAX);
        assert_eq!(again.as_ptr(), address);
        drop(buffers.share(buffers.take(512)));
        assert!(buffers.free.lock().is_empty(), "only whole ones are kept");
    }
}
