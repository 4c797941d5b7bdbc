//! Long appends past the page cache.
//!
//! A journal only grows, so through the page cache every append takes fresh pages, fills them, and has them written out
//! later. For long appends that costs far more than the bytes are worth: here they are put together in one buffer that
//! is used again, and the disk takes them from there.

use std::io::IoSlice;

use crate::disk::{AlignedBuffer, DiskError, DiskFile};

/// A buffer that gathers slices for direct writes.
#[derive(Debug)]
pub(super) struct Staging {
    buffer: AlignedBuffer,
}

impl Staging {
    pub(super) fn new() -> Self {
        Self {
            buffer: AlignedBuffer::zeroed(STAGING_BYTES),
        }
    }

    /// Writes all slices one after the other to `file`, which may be open for direct writes. `at` and the length of all
    /// are multiples of [`DIRECT_ALIGNMENT`](crate::disk::DIRECT_ALIGNMENT).
    pub(super) fn write(
        &mut self,
        file: &dyn DiskFile,
        at: u64,
        slices: &[IoSlice<'_>],
    ) -> Result<(), DiskError> {
        let mut at = at;
        let mut filled = 0;
        for slice in slices {
            let mut rest: &[u8] = slice;
            while !rest.is_empty() {
                let room = self.buffer.get_mut(filled..).unwrap_or_default();
                let (now, later) = rest.split_at(rest.len().min(room.len()));
                if let Some(target) = room.get_mut(..now.len()) {
                    target.copy_from_slice(now);
                }
                filled += now.len();
                rest = later;
                if filled == STAGING_BYTES {
                    self.put(file, at, filled)?;
                    at += filled as u64;
                    filled = 0;
                }
            }
        }
        self.put(file, at, filled)
    }

    fn put(&self, file: &dyn DiskFile, at: u64, filled: usize) -> Result<(), DiskError> {
        match self.buffer.get(..filled) {
            Some(bytes) if filled > 0 => file.write_at(at, &[IoSlice::new(bytes)]),
            _ => Ok(()),
        }
    }
}

/// Bytes of one direct write, a megabyte of a disk with the heads of its records.
const STAGING_BYTES: usize = (1 << 20) + (16 << 10);

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::disk::{Caching, DIRECT_ALIGNMENT, Disk as _, SystemDisk};

    #[test]
    fn pieces_of_any_length_are_written_as_one() {
        let folder = tempfile::tempdir().unwrap();
        let disk = SystemDisk::new(folder.path());
        let file = disk.create(Path::new("a"), Caching::Direct).unwrap();
        let mut staging = Staging::new();
        for length in [
            DIRECT_ALIGNMENT,
            STAGING_BYTES,
            2 * STAGING_BYTES + DIRECT_ALIGNMENT,
        ] {
            let bytes: Vec<u8> = (0..length)
                .map(|at| u8::try_from(at * 131 % 251).unwrap())
                .collect();
            let slices: Vec<_> = bytes.chunks(70_001).map(IoSlice::new).collect();
            staging
                .write(&*file, DIRECT_ALIGNMENT as u64, &slices)
                .unwrap();
            let whole = disk.read(Path::new("a"), 1 << 30).unwrap();
            assert!(whole[DIRECT_ALIGNMENT..][..length] == bytes, "{length}");
        }
    }
}
