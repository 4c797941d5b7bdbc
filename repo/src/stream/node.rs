//! One node of the map of a stream (`docs/formats/image.md`).

use crate::chunk::ChunkId;
use crate::image::Pointer;
use crate::keys::{KeyRing, NodeKind};
use crate::pack::Place;

/// Up to [`StreamNode::FAN_OUT`] pointers to chunks (level 0) or nodes, each with the bytes below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StreamNode {
    pub(crate) level: u8,
    pub(crate) entries: Vec<StreamEntry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamEntry {
    pub(crate) pointer: Pointer,
    pub(crate) length_bytes: u64,
}

impl StreamNode {
    /// Entries in a node.
    pub(super) const FAN_OUT: usize = 1024;

    pub(super) fn new(level: u8) -> Self {
        Self {
            level,
            entries: Vec::new(),
        }
    }

    /// Bytes of the stream below this node.
    pub(crate) fn length_bytes(&self) -> u64 {
        self.entries.iter().map(|entry| entry.length_bytes).sum()
    }

    /// The name: a hash of the level and of names and lengths below, not of the hints.
    pub(super) fn id(&self, keys: &KeyRing) -> ChunkId {
        let mut hasher = keys.node_hasher(NodeKind::Stream);
        hasher.update(&[self.level]);
        for entry in &self.entries {
            hasher.update(entry.pointer.id.as_bytes());
            hasher.update(&entry.length_bytes.to_le_bytes());
        }
        ChunkId::from_bytes(*hasher.finalize().as_bytes())
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let count = u32::try_from(self.entries.len()).expect("a node has at most FAN_OUT entries");
        let mut bytes = Vec::with_capacity(HEAD_BYTES + self.entries.len() * ENTRY_BYTES);
        bytes.extend_from_slice(&[self.level, 0, 0, 0]);
        bytes.extend_from_slice(&count.to_le_bytes());
        for entry in &self.entries {
            bytes.extend_from_slice(entry.pointer.id.as_bytes());
            bytes.extend_from_slice(&entry.pointer.place.to_bytes());
            bytes.extend_from_slice(&entry.length_bytes.to_le_bytes());
        }
        bytes
    }

    /// Reads a node and proves that it is the one named `id`.
    pub(crate) fn decode(
        bytes: &[u8],
        id: ChunkId,
        level: u8,
        keys: &KeyRing,
    ) -> Result<Self, &'static str> {
        let (head, rest) = bytes
            .split_first_chunk::<HEAD_BYTES>()
            .ok_or("a stream's map node is cut off")?;
        let [found, _, _, _, count @ ..] = head;
        if *found != level {
            return Err("the stream's map node is of another level");
        }
        let count = usize::try_from(u32::from_le_bytes(*count)).unwrap_or(usize::MAX);
        if count > Self::FAN_OUT || rest.len() != count * ENTRY_BYTES {
            return Err("the stream's map node has another length");
        }
        let entries = rest
            .chunks_exact(ENTRY_BYTES)
            .map(decode_entry)
            .collect::<Option<Vec<_>>>();
        let node = Self {
            level,
            entries: entries.ok_or("the stream's map node is cut off")?,
        };
        let sum = node
            .entries
            .iter()
            .try_fold(0_u64, |sum, entry| sum.checked_add(entry.length_bytes));
        // An entry of nothing would let a few forged nodes be walked for ever.
        if sum.is_none() || node.entries.iter().any(|entry| entry.length_bytes == 0) {
            return Err("the lengths in the stream's map node make no sense");
        }
        if node.id(keys) == id {
            Ok(node)
        } else {
            Err("the stream's map node does not have the hash that is its name")
        }
    }
}

/// Whether `bytes` are the node named `id`.
pub(crate) fn is_node(bytes: &[u8], id: ChunkId, level: u8, keys: &KeyRing) -> bool {
    StreamNode::decode(bytes, id, level, keys).is_ok()
}

fn decode_entry(bytes: &[u8]) -> Option<StreamEntry> {
    let (id, rest) = bytes.split_first_chunk::<32>()?;
    let (place, length) = rest.split_at_checked(8)?;
    Some(StreamEntry {
        pointer: Pointer {
            id: ChunkId::from_bytes(*id),
            place: Place::from_bytes(place)?,
        },
        length_bytes: u64::from_le_bytes(length.try_into().ok()?),
    })
}

/// Feeds `bytes` to the decoder. Whatever they are, nothing panics.
#[doc(hidden)]
pub fn fuzz_stream_node(bytes: &[u8]) {
    for level in 0..4 {
        drop(StreamNode::decode(
            bytes,
            ChunkId::ZERO,
            level,
            &KeyRing::plain(),
        ));
    }
}

const HEAD_BYTES: usize = 8;
const ENTRY_BYTES: usize = 48;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_reads_back_and_any_flipped_byte_but_a_hint_is_found() {
        let pointer = Pointer {
            id: ChunkId::of(b"x"),
            place: Place { pack: 1, slot: 2 },
        };
        let node = StreamNode {
            level: 1,
            entries: vec![
                StreamEntry {
                    pointer,
                    length_bytes: 70_000
                };
                3
            ],
        };
        let bytes = node.encode();
        let keys = KeyRing::plain();
        let id = node.id(&keys);
        assert_eq!(StreamNode::decode(&bytes, id, 1, &keys).unwrap(), node);
        assert_eq!(node.length_bytes(), 210_000);
        for place in 0..bytes.len() {
            let in_entry = place
                .checked_sub(HEAD_BYTES)
                .map(|place| place % ENTRY_BYTES);
            let unread =
                matches!(place, 1..=3) || in_entry.is_some_and(|place| (32..40).contains(&place));
            let mut hurt = bytes.clone();
            hurt[place] ^= 0x40;
            assert_eq!(
                StreamNode::decode(&hurt, id, 1, &keys).is_ok(),
                unread,
                "byte {place}"
            );
        }
    }
}
