//! Where bytes come from: a disk, a part of one, or whatever is put together from some.

use std::fmt;
use std::sync::Arc;

use export::{BlockExport, BlockProperties, Segments};

use crate::GuestError;
use crate::bytes::to_usize;

/// Bytes that can be read at any place, from many threads. What reads filesystems asks for nothing else, so that
/// sections and, later, logical volumes stack.
pub trait Source: Send + Sync {
    /// How many there are.
    fn length_bytes(&self) -> u64;

    /// Reads exactly `length` bytes at `offset`, aligned to nothing.
    fn read(&self, offset: u64, length: usize) -> Result<Segments, GuestError>;
}

/// A disk.
#[derive(Clone)]
pub struct Disk {
    export: Arc<dyn BlockExport>,
    properties: BlockProperties,
}

/// A part of a source.
#[derive(Clone)]
pub struct Section {
    below: Arc<dyn Source>,
    offset_bytes: u64,
    length_bytes: u64,
}

impl Disk {
    /// Reads from `export`.
    pub fn new(export: Arc<dyn BlockExport>) -> Self {
        let properties = export.properties();
        Self { export, properties }
    }
}

impl Source for Disk {
    fn length_bytes(&self) -> u64 {
        self.properties.size_bytes
    }

    fn read(&self, offset: u64, length: usize) -> Result<Segments, GuestError> {
        let end = end_within(offset, length, self.length_bytes())?;
        let unit = u64::from(self.properties.block_size_bytes);
        let mut at = offset - offset % unit;
        let aligned_end = end.next_multiple_of(unit).min(self.properties.size_bytes);
        let mut gathered = Segments::new();
        while at < aligned_end {
            let step = (aligned_end - at).min(STEP_BYTES);
            let asked = u32::try_from(step).expect("a step is small");
            let read = self.export.read(at, asked).map_err(|source| {
                let length = to_usize(step);
                let offset = at;
                GuestError::Disk {
                    offset,
                    length,
                    source,
                }
            })?;
            gathered.append(read);
            at += step;
        }
        Ok(cut(gathered, to_usize(offset % unit), length))
    }
}

impl Section {
    /// The part of `below` from `offset_bytes`; ends where `below` does, if that is before.
    pub fn new(below: Arc<dyn Source>, offset_bytes: u64, length_bytes: u64) -> Self {
        let room = below.length_bytes().saturating_sub(offset_bytes);
        Self {
            below,
            offset_bytes,
            length_bytes: length_bytes.min(room),
        }
    }
}

impl Source for Section {
    fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    fn read(&self, offset: u64, length: usize) -> Result<Segments, GuestError> {
        end_within(offset, length, self.length_bytes)?;
        self.below.read(self.offset_bytes + offset, length)
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk")
            .field("properties", &self.properties)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Section")
            .field("offset_bytes", &self.offset_bytes)
            .field("length_bytes", &self.length_bytes)
            .finish_non_exhaustive()
    }
}

/// Bytes of `segments` from `start`, `length` of them.
pub(crate) fn cut(segments: Segments, start: usize, length: usize) -> Segments {
    if start == 0 && segments.len() == length {
        return segments;
    }
    let (mut skipped, mut missing) = (start, length);
    let mut result = Segments::new();
    for piece in segments.into_pieces() {
        let from = skipped.min(piece.len());
        let taken = missing.min(piece.len() - from);
        skipped -= from;
        missing -= taken;
        result.push(piece.slice(from..from + taken));
    }
    result
}

pub(crate) fn end_within(offset: u64, length: usize, size: u64) -> Result<u64, GuestError> {
    offset
        .checked_add(length as u64)
        .filter(|end| *end <= size)
        .ok_or(GuestError::Disk {
            offset,
            length,
            source: export::ExportError::OutOfRange {
                offset,
                length: length as u64,
            },
        })
}

/// What is asked of a disk at once.
const STEP_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use export::{Durability, MemoryDisk};

    use super::*;

    #[test]
    fn reads_are_aligned_to_nothing_and_stay_inside() {
        let disk = MemoryDisk::with_block_size(4 << 20, 4096);
        let content: Vec<u8> = (0..4 << 20).map(|at: u32| at.to_le_bytes()[1]).collect();
        let data = [Bytes::from(content.clone())];
        disk.write(0, &data, Durability::Unstable).unwrap();
        let whole: Arc<dyn Source> = Arc::new(Disk::new(Arc::new(disk)));
        for (at, length) in [
            (0, 1),
            (5000, 70_000),
            (4095, 2),
            (1, 3 << 20),
            (4 << 20, 0),
        ] {
            let read = whole.read(at as u64, length).unwrap().to_vec();
            assert!(read == content[at..at + length], "{length} at {at}");
        }
        let part: Arc<dyn Source> = Arc::new(Section::new(whole, 1000, 5000));
        let inner = Section::new(part, 4000, u64::MAX);
        assert_eq!(inner.length_bytes(), 1000);
        assert!(inner.read(10, 990).unwrap().to_vec() == content[5010..6000]);
        assert!(inner.read(10, 991).is_err());
        assert!(inner.read(u64::MAX, 2).is_err());
    }
}
