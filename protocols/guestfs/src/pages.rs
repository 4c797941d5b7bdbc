//! Metadata by its place on the disk, through a bounded cache.

use std::sync::Arc;

use ::bytes::Bytes;
use quick_cache::sync::Cache;

use crate::bytes::to_usize;
use crate::{GuestError, Source};

/// Bytes of a source that are asked for in small parts, again and again.
pub(crate) struct Pages {
    source: Arc<dyn Source>,
    length_bytes: u64,
    cache: Cache<u64, Bytes>,
}

impl Pages {
    pub(crate) fn new(source: Arc<dyn Source>) -> Self {
        Self {
            length_bytes: source.length_bytes(),
            source,
            cache: Cache::new(CACHE_BYTES / PAGE_BYTES),
        }
    }

    pub(crate) fn source(&self) -> &Arc<dyn Source> {
        &self.source
    }

    /// From `offset` to the end of its page or of the source, up to `length` bytes; nothing behind the end.
    pub(crate) fn within_page(&self, offset: u64, length: u64) -> Result<Bytes, GuestError> {
        let page = self.page(offset / PAGE_BYTES as u64)?;
        let start = to_usize(offset % PAGE_BYTES as u64).min(page.len());
        let end = to_usize(length.min(PAGE_BYTES as u64))
            .saturating_add(start)
            .min(page.len());
        Ok(page.slice(start..end))
    }

    /// Exactly `length` bytes, which are few.
    pub(crate) fn read(&self, offset: u64, length: usize) -> Result<Bytes, GuestError> {
        let first = self.within_page(offset, length as u64)?;
        if first.len() == length {
            return Ok(first);
        }
        let mut all = first.to_vec();
        while all.len() < length {
            let missing = (length - all.len()) as u64;
            let more = self.within_page(offset.saturating_add(all.len() as u64), missing)?;
            if more.is_empty() {
                // The source says what is wrong with it.
                return self
                    .source
                    .read(offset, length)
                    .map(|bytes| bytes.to_vec().into());
            }
            all.extend_from_slice(&more);
        }
        Ok(all.into())
    }

    fn page(&self, number: u64) -> Result<Bytes, GuestError> {
        if let Some(page) = self.cache.get(&number) {
            return Ok(page);
        }
        let Some(start) = number.checked_mul(PAGE_BYTES as u64) else {
            return Ok(Bytes::new());
        };
        let length = self.length_bytes.saturating_sub(start);
        let length = to_usize(length.min(PAGE_BYTES as u64));
        if length == 0 {
            return Ok(Bytes::new());
        }
        // Copied, as what a disk gives may be a small part of a large piece, which must not stay in memory for it.
        let page = Bytes::from(self.source.read(start, length)?.to_vec());
        self.cache.insert(number, page.clone());
        Ok(page)
    }
}

/// No smaller than what a chain or a folder is followed by, no larger than what one entry is worth.
const PAGE_BYTES: usize = 4096;
/// Memory for metadata of one filesystem.
const CACHE_BYTES: usize = 16 << 20;
