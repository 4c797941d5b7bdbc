//! Blocks of journals that were written or read lately.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;

use super::buffers::Buffers;
use super::format::BLOCK_BYTES;
use super::map::Place;
use crate::memory::{CacheKey, MemoryCache};

/// A bounded memory of blocks, shared by all overlays, and with others if it was made so. Journals never change, so it
/// is never wrong.
pub struct BlockCache {
    memory: Arc<MemoryCache>,
    buffers: Arc<Buffers>,
    overlays: AtomicU32,
}

impl BlockCache {
    /// Makes a cache that takes about `limit_bytes`.
    pub fn new(limit_bytes: u64) -> Self {
        Self::within(Arc::new(MemoryCache::new(limit_bytes)))
    }

    /// Makes one that shares its memory with others. There is one for each memory.
    pub(crate) fn within(memory: Arc<MemoryCache>) -> Self {
        Self {
            memory,
            buffers: Arc::default(),
            overlays: AtomicU32::new(0),
        }
    }

    /// A number for an overlay's blocks.
    pub(super) fn join(&self) -> u32 {
        self.overlays.fetch_add(1, Ordering::Relaxed)
    }

    /// Memory to read payloads into.
    pub(super) fn buffers(&self) -> &Arc<Buffers> {
        &self.buffers
    }

    /// The bytes that `place` covers, all or none.
    pub(super) fn find(&self, overlay: u32, place: &Place, out: &mut Vec<Bytes>) -> bool {
        let before = out.len();
        let covered = place.covered_bytes();
        let mut found = 0;
        while found < covered {
            let Some(bytes) = self.memory.get(&key(overlay, place, found)) else {
                out.truncate(before);
                return false;
            };
            let wanted = bytes.len().min(covered - found);
            found += wanted;
            out.push(bytes.slice(..wanted));
        }
        true
    }

    /// Keeps `bytes`, which `place` covers, as one. They should be all there is of the memory that they lie in.
    pub(super) fn insert(&self, overlay: u32, place: &Place, bytes: Bytes) {
        self.memory.insert(key(overlay, place, 0), bytes);
    }

    /// Keeps a copy of `bytes`, which `place` covers, block by block.
    pub(super) fn insert_blocks(&self, overlay: u32, place: &Place, bytes: &[u8]) {
        for (at, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
            let key = key(overlay, place, at * BLOCK_BYTES);
            self.memory.insert(key, Bytes::copy_from_slice(block));
        }
    }
}

impl fmt::Debug for BlockCache {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("BlockCache")
            .field("memory", &self.memory)
            .finish_non_exhaustive()
    }
}

fn key(overlay: u32, place: &Place, after_bytes: usize) -> CacheKey {
    CacheKey::Journal {
        overlay,
        segment: place.segment,
        position: place.position + after_bytes as u64,
    }
}
