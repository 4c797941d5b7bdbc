//! One node of the map of a disk (`docs/formats/image.md`).

use crate::chunk::{CHUNK_BYTES, ChunkId};
use crate::keys::{KeyRing, NodeKind};
use crate::pack::Place;

/// A node or chunk by name, with a hint of where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Pointer {
    pub(crate) id: ChunkId,
    pub(crate) place: Place,
}

impl Default for ChunkId {
    fn default() -> Self {
        Self::ZERO
    }
}

impl Pointer {
    /// Points to nothing: all zeroes.
    pub(crate) const ZERO: Self = Self {
        id: ChunkId::ZERO,
        place: Place { pack: 0, slot: 0 },
    };
}

/// A node: [`ImageNode::FAN_OUT`] pointers to chunks (level 0) or to nodes of the level below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageNode {
    level: u8,
    pointers: Box<[Pointer]>,
}

impl ImageNode {
    /// Pointers in a node.
    pub(crate) const FAN_OUT: usize = 1 << FAN_OUT_BITS;

    /// About what a node takes in memory.
    pub(crate) const MEMORY_BYTES: usize = Self::FAN_OUT * size_of::<Pointer>() + 128;

    /// A node that points to nothing.
    pub(crate) fn empty(level: u8) -> Self {
        Self {
            level,
            pointers: vec![Pointer::ZERO; Self::FAN_OUT].into_boxed_slice(),
        }
    }

    pub(crate) fn level(&self) -> u8 {
        self.level
    }

    /// The pointer in `slot`; beyond the node it points to nothing.
    pub(crate) fn pointer(&self, slot: usize) -> Pointer {
        self.pointers.get(slot).copied().unwrap_or(Pointer::ZERO)
    }

    pub(crate) fn set(&mut self, slot: usize, pointer: Pointer) {
        if let Some(target) = self.pointers.get_mut(slot) {
            *target = pointer;
        }
    }

    pub(crate) fn pointers(&self) -> &[Pointer] {
        &self.pointers
    }

    /// The name: a hash of the level and of the names below, not of the hints.
    pub(crate) fn id(&self, keys: &KeyRing) -> ChunkId {
        if self.pointers.iter().all(|pointer| pointer.id.is_zero()) {
            return ChunkId::ZERO;
        }
        let mut hasher = keys.node_hasher(NodeKind::Image);
        hasher.update(&[self.level]);
        let mut names = Vec::with_capacity(Self::FAN_OUT * 32);
        for pointer in &self.pointers {
            names.extend_from_slice(pointer.id.as_bytes());
        }
        hasher.update(&names);
        ChunkId::from_bytes(*hasher.finalize().as_bytes())
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(NODE_BYTES);
        bytes.extend_from_slice(&[self.level, 0, 0, 0, 0, 0, 0, 0]);
        for pointer in &self.pointers {
            bytes.extend_from_slice(pointer.id.as_bytes());
        }
        for pointer in &self.pointers {
            bytes.extend_from_slice(&pointer.place.to_bytes());
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
        if bytes.len() != NODE_BYTES {
            return Err("a map node has another length");
        }
        let (head, rest) = bytes.split_at(HEAD_BYTES);
        if head.first() != Some(&level) {
            return Err("the map node is of another level");
        }
        let (names, places) = rest.split_at(Self::FAN_OUT * 32);
        let (names, _) = names.as_chunks::<32>();
        let pointers = names
            .iter()
            .zip(places.chunks_exact(8))
            .map(|(name, place)| Pointer {
                id: ChunkId::from_bytes(*name),
                place: Place::from_bytes(place).unwrap_or_default(),
            });
        let node = Self {
            level,
            pointers: pointers.collect(),
        };
        if node.id(keys) == id {
            Ok(node)
        } else {
            Err("the map node does not have the hash that is its name")
        }
    }
}

/// Levels of the map of a disk: one up to 64 MiB, two up to 64 GiB, three up to 64 TiB.
pub(crate) fn depth_for(size_bytes: u64) -> u8 {
    let mut depth = 1;
    let mut reach = (CHUNK_BYTES as u64) << FAN_OUT_BITS;
    while reach < size_bytes {
        depth += 1;
        reach = reach.saturating_mul(1 << FAN_OUT_BITS);
    }
    depth
}

/// The slot, in the node of `level` that covers it, under which chunk `index` lies.
pub(crate) fn slot_of(index: u64, level: u8) -> usize {
    usize::try_from(index >> (u32::from(level) * FAN_OUT_BITS) & (ImageNode::FAN_OUT as u64 - 1))
        .unwrap_or(0)
}

pub(crate) const FAN_OUT_BITS: u32 = 10;

const HEAD_BYTES: usize = 8;
const NODE_BYTES: usize = HEAD_BYTES + ImageNode::FAN_OUT * (32 + 8);

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> ImageNode {
        let mut node = ImageNode::empty(0);
        for slot in [0, 5, 1023] {
            node.set(
                slot,
                Pointer {
                    id: ChunkId::of(&[1, 2]),
                    place: Place { pack: 4, slot: 99 },
                },
            );
        }
        node
    }

    #[test]
    fn the_name_covers_names_and_level_but_not_hints() {
        let node = node();
        let mut moved = node.clone();
        moved.set(
            5,
            Pointer {
                place: Place { pack: 5, slot: 1 },
                ..node.pointer(5)
            },
        );
        let keys = KeyRing::plain();
        assert_eq!(moved.id(&keys), node.id(&keys));
        let mut higher = node.clone();
        higher.level = 1;
        assert_ne!(higher.id(&keys), node.id(&keys));
        assert_eq!(ImageNode::empty(3).id(&keys), ChunkId::ZERO);
    }

    #[test]
    fn a_node_reads_back_and_a_flipped_name_is_found() {
        let node = node();
        let keys = KeyRing::plain();
        let id = node.id(&keys);
        let bytes = node.encode();
        assert_eq!(ImageNode::decode(&bytes, id, 0, &keys).unwrap(), node);
        assert!(ImageNode::decode(&bytes, id, 1, &keys).is_err());
        assert!(ImageNode::decode(&bytes[1..], id, 0, &keys).is_err());
        let mut hurt = bytes;
        hurt[HEAD_BYTES + 5 * 32] ^= 1;
        assert!(ImageNode::decode(&hurt, id, 0, &keys).is_err());
    }

    #[test]
    fn depth_follows_size() {
        let steps = [
            (1, 1),
            (64 << 20, 1),
            ((64 << 20) + 1, 2),
            (64 << 30, 2),
            (64 << 40, 3),
            (1 << 60, 5),
        ];
        for (size, depth) in steps {
            assert_eq!(depth_for(size), depth, "{size}");
        }
    }
}
