//! Blocks of journals that were written or read lately.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::format::BLOCK_BYTES;
use super::map::Place;

/// A bounded memory of blocks, shared by all overlays. Journals never change, so it is never wrong.
pub struct BlockCache {
    blocks: Cache<BlockKey, Bytes, Weight>,
    overlays: AtomicU32,
}

/// Which overlay, counted since the cache was made; which segment; where in it.
type BlockKey = (u32, u32, u64);

impl BlockCache {
    /// Makes a cache that takes about `limit_bytes`.
    pub fn new(limit_bytes: u64) -> Self {
        let count = usize::try_from(limit_bytes).unwrap_or(usize::MAX) / BLOCK_BYTES + 8;
        Self {
            blocks: Cache::with_weighter(count, limit_bytes, Weight),
            overlays: AtomicU32::new(0),
        }
    }

    /// A number for an overlay's blocks.
    pub(super) fn join(&self) -> u32 {
        self.overlays.fetch_add(1, Ordering::Relaxed)
    }

    /// The blocks of `place`, all or none.
    pub(super) fn find(&self, overlay: u32, place: &Place, out: &mut Vec<Bytes>) -> bool {
        let before = out.len();
        for at in 0..place.checks().len() {
            match self.blocks.get(&key(overlay, place, at)) {
                Some(block) => out.push(block),
                None => {
                    out.truncate(before);
                    return false;
                }
            }
        }
        true
    }

    /// Keeps the blocks of `place`, whose bytes these are, in memory of their own.
    pub(super) fn insert(&self, overlay: u32, place: &Place, bytes: &[u8]) {
        for (at, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
            self.blocks
                .insert(key(overlay, place, at), Bytes::copy_from_slice(block));
        }
    }
}

impl fmt::Debug for BlockCache {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("BlockCache")
            .field("blocks", &self.blocks.len())
            .finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct Weight;

impl Weighter<BlockKey, Bytes> for Weight {
    fn weight(&self, _key: &BlockKey, block: &Bytes) -> u64 {
        block.len() as u64 + ENTRY_BYTES
    }
}

fn key(overlay: u32, place: &Place, block: usize) -> BlockKey {
    (
        overlay,
        place.segment,
        place.position + (block * BLOCK_BYTES) as u64,
    )
}

/// Memory of an entry beside its block.
const ENTRY_BYTES: u64 = 96;
