//! One budget of memory for what was lately read and written: chunks of points, and blocks of overlays.

use std::fmt;

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::chunk::{CHUNK_BYTES, ChunkId};

/// A bounded memory of bytes that never change under their key.
pub(crate) struct MemoryCache {
    entries: Cache<CacheKey, Bytes, Weight>,
}

/// What some bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum CacheKey {
    /// A chunk, proven by its name.
    Chunk(ChunkId),
    /// Bytes of a journal from `position` on, checked.
    Journal {
        /// The overlay, by a number that is given once while the cache lives.
        overlay: u32,
        segment: u32,
        position: u64,
    },
}

impl MemoryCache {
    /// Makes a cache that takes about `limit_bytes`.
    pub(crate) fn new(limit_bytes: u64) -> Self {
        let count = usize::try_from(limit_bytes).unwrap_or(usize::MAX) / (CHUNK_BYTES / 4) + 8;
        Self {
            entries: Cache::with_weighter(count, limit_bytes, Weight),
        }
    }

    pub(crate) fn get(&self, key: &CacheKey) -> Option<Bytes> {
        self.entries.get(key)
    }

    /// Keeps `bytes`, which should be all there is of the memory that they lie in.
    pub(crate) fn insert(&self, key: CacheKey, bytes: Bytes) {
        self.entries.insert(key, bytes);
    }
}

impl fmt::Debug for MemoryCache {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("MemoryCache")
            .field("entries", &self.entries.len())
            .field("bytes", &self.entries.weight())
            .finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct Weight;

impl Weighter<CacheKey, Bytes> for Weight {
    fn weight(&self, _: &CacheKey, bytes: &Bytes) -> u64 {
        bytes.len() as u64 + ENTRY_BYTES
    }
}

/// Memory of an entry beside its bytes.
const ENTRY_BYTES: u64 = 128;
