//! Chunks: the unit of deduplication, named by the hash of its bytes.

mod codec;
mod cut;

use std::fmt;

use crate::error::RepoError;

pub(crate) use codec::{Codec, Decoder, Encoder};
pub(crate) use cut::Cutter;

/// The grid of every image. A disk that ends inside a chunk has its last chunk padded with zeroes.
pub const CHUNK_BYTES: usize = 64 * 1024;

/// Bytes of the longest chunk or map node that a record may hold before compression.
pub(crate) const RAW_LENGTH_MAX: usize = 1024 * 1024;

/// Name of a chunk: BLAKE3 of its bytes, or all zero for a chunk of zeroes, which is never stored.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::Immutable,
    zerocopy::KnownLayout,
    zerocopy::Unaligned,
)]
#[repr(transparent)]
pub struct ChunkId([u8; 32]);

impl ChunkId {
    /// The name of any chunk that is all zero.
    pub const ZERO: Self = Self([0; 32]);

    /// Names `bytes`, which are not all zero.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Takes a hash that was made elsewhere (map nodes, stored names).
    pub(crate) const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(crate) fn from_hex(text: &str) -> Option<Self> {
        blake3::Hash::from_hex(text)
            .ok()
            .map(|hash| Self(*hash.as_bytes()))
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether this names a chunk of zeroes.
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }

    pub(crate) fn missing(self) -> RepoError {
        RepoError::ChunkMissing {
            id: self.to_string(),
        }
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Whether all bytes are zero, at memory speed.
pub(crate) fn is_all_zero(bytes: &[u8]) -> bool {
    let (head, blocks) = bytes.as_chunks::<64>();
    head.iter()
        .all(|block| block.iter().fold(0, |any, byte| any | byte) == 0)
        && blocks.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_set_bit_is_found_wherever_it_is() {
        let mut bytes = vec![0; 1000];
        assert!(is_all_zero(&bytes));
        for place in 0..bytes.len() {
            bytes[place] = 1;
            assert!(!is_all_zero(&bytes), "{place}");
            bytes[place] = 0;
        }
    }

    #[test]
    fn names_are_blake3_and_read_back_from_hex() {
        let id = ChunkId::of(b"abc");
        assert_eq!(
            id.to_string(),
            "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"
        );
        assert_eq!(ChunkId::from_hex(&id.to_string()), Some(id));
        assert_eq!(ChunkId::from_hex("64"), None);
    }
}
