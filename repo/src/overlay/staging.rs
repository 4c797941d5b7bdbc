//! Long appends past the page cache.
//!
//! A journal only grows, so through the page cache every append takes fresh pages, fills them, and has them written out
//! later. For long appends that costs far more than the bytes are worth: here the disk takes them from where they are,
//! if that is the start of a page, and what is not (heads, padding, payloads that came in odd pieces) is put together in
//! one buffer that is used again.

use std::io::IoSlice;
use std::ops::Range;

use crate::disk::{AlignedBuffer, DIRECT_ALIGNMENT, DiskError, DiskFile};

/// A buffer that gathers slices for direct writes.
#[derive(Debug)]
pub(super) struct Staging {
    buffer: AlignedBuffer,
}

/// What is written at once.
#[derive(Debug, Default)]
struct Batch<'a> {
    parts: Vec<Part<'a>>,
    staged_bytes: usize,
    length_bytes: u64,
}

#[derive(Debug)]
enum Part<'a> {
    /// Bytes of the buffer.
    Staged(Range<usize>),
    /// Pages that are written from where they are.
    InPlace(&'a [u8]),
}

/// Whether a direct write can take `bytes` from where they are.
pub(super) fn is_in_pages(bytes: &[u8]) -> bool {
    bytes.as_ptr().addr().is_multiple_of(DIRECT_ALIGNMENT)
        && bytes.len().is_multiple_of(DIRECT_ALIGNMENT)
}

impl Staging {
    pub(super) fn new() -> Self {
        Self {
            buffer: AlignedBuffer::zeroed(STAGING_BYTES),
        }
    }

    /// Writes all slices one after the other to `file`, which may be open for direct writes. `at` and the length of all
    /// are multiples of [`DIRECT_ALIGNMENT`].
    pub(super) fn write(
        &mut self,
        file: &dyn DiskFile,
        mut at: u64,
        slices: &[IoSlice<'_>],
    ) -> Result<(), DiskError> {
        let mut batch = Batch::default();
        for slice in slices {
            let slice: &[u8] = slice;
            if batch.ends_with_page() && !slice.is_empty() && is_in_pages(slice) {
                batch.length_bytes += slice.len() as u64;
                batch.parts.push(Part::InPlace(slice));
            } else {
                let mut rest = slice;
                while !rest.is_empty() {
                    if batch.staged_bytes == STAGING_BYTES {
                        at = self.put(file, at, std::mem::take(&mut batch))?;
                    }
                    rest = batch.stage(&mut self.buffer, rest);
                }
            }
            if batch.parts.len() >= PARTS_MAX && batch.ends_with_page() {
                at = self.put(file, at, std::mem::take(&mut batch))?;
            }
        }
        self.put(file, at, batch).map(|_| ())
    }

    /// Gives the place behind it.
    fn put(&self, file: &dyn DiskFile, at: u64, batch: Batch<'_>) -> Result<u64, DiskError> {
        let bytes = |part| match part {
            Part::Staged(range) => self.buffer.get(range).unwrap_or_default(),
            Part::InPlace(pages) => pages,
        };
        let end = at + batch.length_bytes;
        let slices: Vec<IoSlice<'_>> = batch
            .parts
            .into_iter()
            .map(|part| IoSlice::new(bytes(part)))
            .collect();
        if !slices.is_empty() {
            file.write_at(at, &slices)?;
        }
        Ok(end)
    }
}

impl Batch<'_> {
    fn ends_with_page(&self) -> bool {
        self.length_bytes.is_multiple_of(DIRECT_ALIGNMENT as u64)
    }

    /// Takes what there is room for into the buffer and gives the rest.
    fn stage<'b>(&mut self, buffer: &mut AlignedBuffer, bytes: &'b [u8]) -> &'b [u8] {
        let room = buffer.get_mut(self.staged_bytes..).unwrap_or_default();
        let (now, later) = bytes.split_at(bytes.len().min(room.len()));
        if let Some(target) = room.get_mut(..now.len()) {
            target.copy_from_slice(now);
        }
        let start = self.staged_bytes;
        self.staged_bytes += now.len();
        self.length_bytes += now.len() as u64;
        match self.parts.last_mut() {
            Some(Part::Staged(range)) => range.end = self.staged_bytes,
            _ => self.parts.push(Part::Staged(start..self.staged_bytes)),
        }
        later
    }
}

/// Parts of one write; the system takes 1024.
const PARTS_MAX: usize = 512;

/// Bytes of one direct write, a megabyte of a disk with the heads of its records.
const STAGING_BYTES: usize = (1 << 20) + (16 << 10);

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::disk::{Caching, Disk as _, SystemDisk};

    const PAGE: usize = DIRECT_ALIGNMENT;

    fn check(pieces: &[&[u8]]) {
        let folder = tempfile::tempdir().unwrap();
        let disk = SystemDisk::new(folder.path());
        let file = disk.create(Path::new("a"), Caching::Direct).unwrap();
        let slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        Staging::new().write(&*file, PAGE as u64, &slices).unwrap();
        let whole = disk.read(Path::new("a"), 1 << 30).unwrap();
        assert!(whole[PAGE..] == pieces.concat());
    }

    fn pages(count: usize) -> AlignedBuffer {
        let mut pages = AlignedBuffer::zeroed(count * PAGE);
        for (at, byte) in pages.iter_mut().enumerate() {
            *byte = u8::try_from(at * 131 % 251).unwrap();
        }
        pages
    }

    #[test]
    fn pieces_of_any_length_are_written_as_one() {
        for length in [PAGE, STAGING_BYTES, 2 * STAGING_BYTES + PAGE] {
            let bytes = pages(length / PAGE);
            check(&bytes.chunks(70_001).collect::<Vec<_>>());
        }
    }

    #[test]
    fn pages_are_written_from_where_they_are_between_what_is_staged() {
        let bytes = pages(100);
        let odd = &pages(3)[..];
        let (head, rest) = odd.split_at(100);
        let (mid, end) = rest.split_at(PAGE - 100);
        check(&[
            &bytes[..PAGE * 20],
            head,
            mid,
            &bytes[PAGE * 20..PAGE * 60],
            end,
            &bytes[PAGE * 60..],
        ]);
        // Pages in memory, but not in the file.
        check(&[head, &bytes, mid]);
        // More parts than one write takes.
        let many: Vec<&[u8]> = bytes.chunks(PAGE).cycle().take(PARTS_MAX * 3).collect();
        check(&many);
    }
}
