//! Bytes of the volume as they are after the log is replayed.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::bytes::Bytes;
use export::Segments;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::checksum;
use crate::bytes::{View, to_usize};
use crate::{GuestError, Place, Source};

/// The volume with what the log has of it. Metadata is kept in a small cache.
pub(super) struct Device {
    source: Arc<dyn Source>,
    overlay: Overlay,
    cache: Cache<Key, Bytes, Length>,
}

/// Place, length, and where the checksum is that was found to be right.
type Key = (u64, u32, u32);

/// Whether metadata is proven by a checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checksum {
    None,
    At(u32),
}

impl Device {
    pub(super) fn new(source: Arc<dyn Source>, overlay: Overlay) -> Self {
        Self {
            source,
            overlay,
            cache: Cache::with_weighter(CACHED_MAX, CACHE_BYTES, Length),
        }
    }

    pub(super) fn source(&self) -> &Arc<dyn Source> {
        &self.source
    }

    pub(super) fn overlay(&self) -> &Overlay {
        &self.overlay
    }

    /// Bytes with what the log has of them.
    pub(super) fn read(&self, at: u64, length: usize) -> Result<Segments, GuestError> {
        self.overlay.read(&*self.source, at, length)
    }

    /// A structure that `place` names. What the log has a part of was proven by the log's own checksums; the one in the
    /// structure is older, as XFS makes it only when it writes the structure home.
    pub(super) fn metadata(
        &self,
        at: u64,
        length: usize,
        checksum: Checksum,
        place: Place,
    ) -> Result<Bytes, GuestError> {
        let checksum_at = match checksum {
            Checksum::None => u32::MAX,
            Checksum::At(at) => at,
        };
        let short = u32::try_from(length).expect("structures are short");
        let key = (at, short, checksum_at);
        if let Some(bytes) = self.cache.get(&key) {
            return Ok(bytes);
        }
        // Copied, as what a disk gives may be a small part of a large piece, which must not stay in memory for it.
        let bytes = Bytes::from(self.read(at, length)?.to_vec());
        let view = View::new(&bytes, place);
        if let Checksum::At(field) = checksum
            && !self.overlay.touches(at, length)
            && !checksum::is_right(view, field as usize)?
        {
            return Err(view.corrupt("the checksum is wrong"));
        }
        self.cache.insert(key, bytes.clone());
        Ok(bytes)
    }

    /// A piece of the volume of one length in which `at` lies, and where in it: neighbours are read together.
    pub(super) fn window(&self, at: u64) -> Result<(Bytes, usize), GuestError> {
        let start = at - at % WINDOW_BYTES;
        let length = WINDOW_BYTES.min(self.source.length_bytes().saturating_sub(start));
        let bytes = self.metadata(start, to_usize(length), Checksum::None, Place::Head)?;
        Ok((bytes, to_usize(at - start)))
    }
}

/// Sectors of 512 bytes that the log has a newer content of.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    sectors: BTreeMap<u64, Box<[u8; SECTOR]>>,
}

impl Overlay {
    /// How many sectors there are.
    pub(super) fn len(&self) -> usize {
        self.sectors.len()
    }

    /// Whether any byte of a range is newer.
    pub(super) fn touches(&self, at: u64, length: usize) -> bool {
        self.within(at, length).next().is_some()
    }

    /// Newer sectors of a range.
    pub(super) fn within(
        &self,
        at: u64,
        length: usize,
    ) -> impl Iterator<Item = (u64, &[u8; SECTOR])> {
        let end = at.saturating_add(length as u64).div_ceil(SECTOR as u64);
        let range = at / SECTOR as u64..end.max(at / SECTOR as u64);
        self.sectors
            .range(range)
            .map(|(sector, bytes)| (*sector, &**bytes))
    }

    pub(super) fn read(
        &self,
        source: &dyn Source,
        at: u64,
        length: usize,
    ) -> Result<Segments, GuestError> {
        let end = at.saturating_add(length as u64);
        let mut done = at;
        let mut result = Segments::new();
        for (sector, bytes) in self.within(at, length) {
            let first = sector * SECTOR as u64;
            let start = first.max(at);
            if start > done {
                result.append(source.read(done, to_usize(start - done))?);
            }
            done = (first + SECTOR as u64).min(end);
            let part = to_usize(start - first)..to_usize(done - first);
            result.push(Bytes::copy_from_slice(bytes.get(part).unwrap_or_default()));
        }
        if done < end {
            result.append(source.read(done, to_usize(end - done))?);
        }
        Ok(result)
    }

    /// Puts `bytes` at a place of the volume.
    pub(super) fn write(
        &mut self,
        source: &dyn Source,
        at: u64,
        bytes: &[u8],
    ) -> Result<(), GuestError> {
        let unit = SECTOR as u64;
        let start = at - at % unit;
        let end = at.saturating_add(bytes.len() as u64).next_multiple_of(unit);
        let whole = if start == at && end == at + bytes.len() as u64 {
            bytes.to_vec()
        } else {
            let length = to_usize(end - start);
            let mut whole = self.read(source, start, length)?.to_vec();
            let skip = to_usize(at - start);
            if let Some(part) = whole.get_mut(skip..skip + bytes.len()) {
                part.copy_from_slice(bytes);
            }
            whole
        };
        for (sector, bytes) in (start / unit..).zip(whole.chunks_exact(SECTOR)) {
            let content: &[u8; SECTOR] = bytes.try_into().expect("chunks have this length");
            self.sectors.insert(sector, Box::new(*content));
        }
        if self.sectors.len() > SECTORS_MAX {
            return Err(GuestError::TooLarge {
                what: "the number of sectors that the log has newer copies of",
                limit: SECTORS_MAX as u64,
            });
        }
        Ok(())
    }
}

#[derive(Clone)]
struct Length;

impl Weighter<Key, Bytes> for Length {
    fn weight(&self, _: &Key, value: &Bytes) -> u64 {
        value.len() as u64 + 64
    }
}

/// The unit in which XFS counts on a device.
pub(super) const SECTOR: usize = 512;
/// Memory for metadata of one filesystem.
const CACHE_BYTES: u64 = 16 << 20;
/// How many structures are expected in it.
const CACHED_MAX: usize = 4096;
/// As large as a chunk of 32 inodes of the usual size.
const WINDOW_BYTES: u64 = 16 << 10;
/// 256 MiB.
const SECTORS_MAX: usize = 512 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    struct Memory(Vec<u8>);

    impl Source for Memory {
        fn length_bytes(&self) -> u64 {
            self.0.len() as u64
        }

        fn read(&self, offset: u64, length: usize) -> Result<Segments, GuestError> {
            let start = to_usize(offset);
            Ok(Bytes::copy_from_slice(&self.0[start..start + length]).into())
        }
    }

    #[test]
    fn what_is_written_is_read_over_what_lies_below() {
        let mut expected: Vec<u8> = (0..8192_u32).map(|at| at.to_le_bytes()[0]).collect();
        let source = Memory(expected.clone());
        let mut overlay = Overlay::default();
        for (at, length, byte) in [(512, 512, 1), (1500, 100, 2), (1530, 1100, 3), (8191, 1, 4)] {
            overlay
                .write(&source, at as u64, &vec![byte; length])
                .unwrap();
            expected[at..at + length].fill(byte);
        }
        assert_eq!(overlay.len(), 6);
        for at in (0..8192).step_by(97) {
            for length in [0, 1, 600, 3000] {
                let length = length.min(8192 - at);
                let found = overlay.read(&source, at as u64, length).unwrap().to_vec();
                assert!(found == expected[at..at + length], "{length} at {at}");
            }
        }
        assert!(overlay.touches(1000, 25) && !overlay.touches(0, 512));
    }
}
