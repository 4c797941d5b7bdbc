//! Blocks of a filesystem as they are after the journal is replayed.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::bytes::Bytes;
use export::Segments;
use quick_cache::sync::Cache;

use crate::bytes::to_usize;
use crate::{GuestError, Place, Source};

/// Blocks by number. Those that are asked for one by one, which is metadata, are kept in a small cache.
pub(super) struct Blocks {
    source: Arc<dyn Source>,
    block_bytes: usize,
    count: u64,
    overlay: Overlay,
    cache: Cache<u64, Bytes>,
}

/// Which blocks the journal has a newer content of.
pub(super) type Overlay = BTreeMap<u64, JournalCopy>;

/// Where in the filesystem the newer content lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct JournalCopy {
    pub block: u64,
    /// Whether the first four bytes were taken out, as they would have looked like the journal's own.
    pub escaped: bool,
}

impl Blocks {
    pub(super) fn new(
        source: Arc<dyn Source>,
        block_bytes: u32,
        count: u64,
        overlay: Overlay,
    ) -> Self {
        let block_bytes = block_bytes as usize;
        Self {
            source,
            block_bytes,
            count,
            overlay,
            cache: Cache::new(CACHE_BYTES / block_bytes),
        }
    }

    /// The same for a filesystem that has grown.
    pub(super) fn with_count(self, count: u64) -> Self {
        Self { count, ..self }
    }

    pub(super) fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    pub(super) fn source(&self) -> &Arc<dyn Source> {
        &self.source
    }

    pub(super) fn is_replayed(&self) -> bool {
        !self.overlay.is_empty()
    }

    /// Refuses blocks that the filesystem does not have; `place` points to them.
    pub(super) fn check(&self, first: u64, count: u64, place: Place) -> Result<(), GuestError> {
        match first.checked_add(count) {
            Some(end) if first > 0 && end <= self.count => Ok(()),
            _ => Err(GuestError::corrupt(
                place,
                "it points to blocks that the filesystem does not have",
            )),
        }
    }

    /// One block of metadata that `place` points to.
    pub(super) fn block(&self, number: u64, place: Place) -> Result<Bytes, GuestError> {
        if let Some(block) = self.cache.get(&number) {
            return Ok(block);
        }
        if number != 0 {
            self.check(number, 1, place)?;
        }
        // Copied, as what a disk gives may be a small part of a large piece, which must not stay in memory for it.
        let block = Bytes::from(self.read(number, 0, self.block_bytes)?.to_vec());
        self.cache.insert(number, block.clone());
        Ok(block)
    }

    /// A block as it lies on disk, without what the journal has.
    pub(super) fn raw(&self, number: u64, place: Place) -> Result<Bytes, GuestError> {
        if number != 0 {
            self.check(number, 1, place)?;
        }
        let at = number * self.block_bytes as u64;
        Ok(Bytes::from(
            self.source.read(at, self.block_bytes)?.to_vec(),
        ))
    }

    /// `length` bytes from byte `skip` of block `first` on. The blocks were checked.
    pub(super) fn read(
        &self,
        first: u64,
        skip: usize,
        length: usize,
    ) -> Result<Segments, GuestError> {
        let block = self.block_bytes as u64;
        let mut at = first * block + skip as u64;
        let end = at + length as u64;
        let mut result = Segments::new();
        for (number, copy) in self.overlay.range(at / block..end.div_ceil(block)) {
            let start = (number * block).max(at);
            if start > at {
                result.append(self.source.read(at, to_usize(start - at))?);
            }
            let stop = ((number + 1) * block).min(end);
            let newer = self.journal_copy(*copy)?;
            result.push(newer.slice(to_usize(start % block)..to_usize(stop - number * block)));
            at = stop;
        }
        if at < end {
            result.append(self.source.read(at, to_usize(end - at))?);
        }
        Ok(result)
    }

    fn journal_copy(&self, copy: JournalCopy) -> Result<Bytes, GuestError> {
        let at = copy.block * self.block_bytes as u64;
        let mut content = self.source.read(at, self.block_bytes)?.to_vec();
        if copy.escaped
            && let Some(start) = content.first_chunk_mut()
        {
            *start = super::journal::MAGIC.to_be_bytes();
        }
        Ok(Bytes::from(content))
    }
}

/// Memory for metadata of one filesystem.
const CACHE_BYTES: usize = 16 << 20;
