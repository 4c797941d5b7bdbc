//! Images: one disk of a restore point, as a copy-on-write map with a root.
//!
//! `docs/formats/image.md` specifies the map. [`Image`] reads one, [`ImageWriter`] makes one, taking over from an
//! earlier one whatever did not change.

mod ahead;
mod excluded;
mod node;
mod pipeline;
mod reader;
mod restore;
mod source;
mod target;
mod tree;
mod writer;

use bytes::Bytes;

pub use excluded::{Excluded, fuzz_excluded};
pub(crate) use node::{ImageNode, Pointer, depth_for, slot_of};
pub use reader::{Image, ImageExtent};
pub(crate) use writer::Base;
pub use writer::{ImageTotals, ImageWriter};

use crate::error::RepoError;

/// What an overlay needs of the disk below it.
pub trait ChunkSource: Send + Sync + std::fmt::Debug + 'static {
    /// Capacity.
    fn size_bytes(&self) -> u64;

    /// The chunk at `index`: always [`CHUNK_BYTES`](crate::CHUNK_BYTES) long, zeroes behind the end of the disk.
    fn chunk(&self, index: u64) -> Result<Bytes, RepoError>;

    /// The chunk if memory has it.
    fn cached_chunk(&self, index: u64) -> Option<Bytes>;

    /// Whether the chunk reads as zeroes, without reading it.
    fn is_zero(&self, index: u64) -> Result<bool, RepoError>;

    /// Brings chunks into memory soon. A hint.
    fn prefetch(&self, first: u64, count: u64) {
        let _ = (first, count);
    }
}

/// The largest disk: 1 EiB.
pub const IMAGE_BYTES_MAX: u64 = 1 << 60;

#[doc(hidden)]
pub fn fuzz_image_node(bytes: &[u8]) {
    for level in 0..6 {
        let keys = crate::keys::KeyRing::plain();
        drop(ImageNode::decode(
            bytes,
            crate::chunk::ChunkId::ZERO,
            level,
            &keys,
        ));
    }
}
