//! Making the map of a disk: copy on write, in ascending order.

use std::fmt;
use std::sync::Arc;

use super::node::{FAN_OUT_BITS, ImageNode, Pointer, depth_for, slot_of};
use super::reader::Image;
use crate::chunk::ChunkId;
use crate::error::RepoError;
use crate::pack::{PackClass, PackWriter, RecordEncoder, RecordKind};
use crate::store::ChunkStore;

/// Builds a map from an earlier one (or none) by setting chunks in ascending order. Nodes that do not change are
/// taken over; one node a level is in memory.
pub(crate) struct TreeWriter {
    store: Arc<ChunkStore>,
    packs: PackWriter,
    encoder: RecordEncoder,
    base: Option<Image>,
    chunk_count: u64,
    /// The node being changed at each level, from the leaves up.
    open: Vec<Option<OpenNode>>,
    /// Nodes that had to be stored.
    stored_nodes: u64,
    /// Bytes of packs they took.
    stored_bytes: u64,
}

struct OpenNode {
    /// Ordinal of the node in its level.
    number: u64,
    node: ImageNode,
    /// What it was made from.
    origin: Pointer,
}

impl TreeWriter {
    /// Starts the map of a disk of `size_bytes`, from `base` where one is given.
    pub(crate) fn new(
        store: Arc<ChunkStore>,
        size_bytes: u64,
        base: Option<Image>,
    ) -> Result<Self, RepoError> {
        let packs = PackWriter::new(Arc::clone(store.packs()), PackClass::Nodes);
        let depth = depth_for(size_bytes);
        let encoder = RecordEncoder::new(NODE_LEVEL, Arc::clone(store.keys()))?;
        let mut tree = Self {
            store,
            packs,
            encoder,
            base: base.filter(|base| !base.root().id.is_zero()),
            chunk_count: size_bytes.div_ceil(crate::chunk::CHUNK_BYTES as u64),
            open: (0..depth).map(|_| None).collect(),
            stored_nodes: 0,
            stored_bytes: 0,
        };
        tree.take_over_grown_root()?;
        tree.open_cut_edge()?;
        Ok(tree)
    }

    /// The disk grew by a level: the old root becomes the first child of a new node.
    fn take_over_grown_root(&mut self) -> Result<(), RepoError> {
        let Some((depth, root)) = self.base.as_ref().map(|base| (base.depth(), base.root())) else {
            return Ok(());
        };
        if usize::from(depth) < self.open.len() {
            self.put(depth, 0, root)?;
        }
        Ok(())
    }

    /// The disk shrank: the nodes over its new end are opened, which drops what lies behind.
    fn open_cut_edge(&mut self) -> Result<(), RepoError> {
        let shrank = self
            .base
            .as_ref()
            .is_some_and(|base| base.chunk_count() > self.chunk_count);
        if !shrank {
            return Ok(());
        }
        // A map of its own, made before the rest, so that chunks can still be set from the first one on.
        let last = self.chunk_count.saturating_sub(1);
        let base = self.base.take();
        let mut cut = Self {
            store: Arc::clone(&self.store),
            packs: PackWriter::new(Arc::clone(self.store.packs()), PackClass::Nodes),
            encoder: RecordEncoder::new(NODE_LEVEL, Arc::clone(self.store.keys()))?,
            base,
            chunk_count: self.chunk_count,
            open: (0..self.open.len()).map(|_| None).collect(),
            stored_nodes: 0,
            stored_bytes: 0,
        };
        for level in 0..cut.open.len() {
            let level = u8::try_from(level).unwrap_or(u8::MAX);
            cut.open_node(level, last >> ((u32::from(level) + 1) * FAN_OUT_BITS))?;
        }
        let root = cut.finish()?;
        // Records can be read once they are in their files. Disks shrink seldom enough.
        self.store.packs().sync_all()?;
        self.base = Some(Image::new(
            Arc::clone(&self.store),
            self.size_of_grid(),
            root,
        ))
        .filter(|_| !root.id.is_zero());
        Ok(())
    }

    fn size_of_grid(&self) -> u64 {
        self.chunk_count * crate::chunk::CHUNK_BYTES as u64
    }

    /// Sets the chunk at `index`, which is behind all set before.
    pub(crate) fn set(&mut self, index: u64, pointer: Pointer) -> Result<(), RepoError> {
        self.put(0, index, pointer)
    }

    /// Nodes and bytes stored so far.
    pub(crate) fn stored(&self) -> (u64, u64) {
        (self.stored_nodes, self.stored_bytes)
    }

    /// Ends the map and gives its root.
    pub(crate) fn finish(&mut self) -> Result<Pointer, RepoError> {
        let levels = self.open.len();
        for level in 0..levels {
            if let Some(node) = self.open.get_mut(level).and_then(Option::take) {
                let number = node.number;
                let pointer = self.store_node(node)?;
                if level + 1 == levels {
                    return Ok(pointer);
                }
                self.put(u8::try_from(level + 1).unwrap_or(u8::MAX), number, pointer)?;
            }
        }
        // Nothing was set: the map is the old one.
        Ok(self.base.as_ref().map_or(Pointer::ZERO, Image::root))
    }

    /// Puts a pointer into the node of `level` that has it in its care: entry `ordinal` of that level's entries.
    fn put(&mut self, level: u8, ordinal: u64, pointer: Pointer) -> Result<(), RepoError> {
        let number = ordinal >> FAN_OUT_BITS;
        let at = usize::from(level);
        let open = self
            .open
            .get(at)
            .and_then(Option::as_ref)
            .map(|node| node.number);
        if open != Some(number) {
            if let Some(full) = self.open.get_mut(at).and_then(Option::take) {
                assert!(full.number < number, "chunks are set in ascending order");
                let full_number = full.number;
                let stored = self.store_node(full)?;
                self.put(level + 1, full_number, stored)?;
            }
            self.open_node(level, number)?;
        }
        let slot = usize::try_from(ordinal & (ImageNode::FAN_OUT as u64 - 1)).unwrap_or(0);
        if let Some(Some(open)) = self.open.get_mut(at) {
            open.node.set(slot, pointer);
        }
        Ok(())
    }

    /// Opens a node for change: the old map's, without what lies behind the end of the disk.
    fn open_node(&mut self, level: u8, number: u64) -> Result<(), RepoError> {
        let first = number << ((u32::from(level) + 1) * FAN_OUT_BITS);
        let base = self
            .base
            .as_ref()
            .filter(|base| level < base.depth() && first < base.chunk_count());
        let old = match base {
            Some(base) => base.node_at(level, first)?,
            None => None,
        };
        let origin = match &old {
            Some(old) => Pointer {
                id: old.id(self.store.keys()),
                place: self.origin_place(level, first)?,
            },
            None => Pointer::ZERO,
        };
        let mut node = old.map_or_else(|| ImageNode::empty(level), |old| old.as_ref().clone());
        let step = 1_u64 << (u32::from(level) * FAN_OUT_BITS);
        for slot in 0..ImageNode::FAN_OUT {
            if first + slot as u64 * step >= self.chunk_count {
                node.set(slot, Pointer::ZERO);
            }
        }
        if let Some(open) = self.open.get_mut(usize::from(level)) {
            *open = Some(OpenNode {
                number,
                node,
                origin,
            });
        }
        Ok(())
    }

    /// Where the old map's node lies.
    fn origin_place(&self, level: u8, first: u64) -> Result<crate::pack::Place, RepoError> {
        let Some(base) = &self.base else {
            return Ok(Pointer::ZERO.place);
        };
        if level + 1 == base.depth() {
            return Ok(base.root().place);
        }
        let above = base.node_at(level + 1, first)?;
        Ok(above
            .map_or(Pointer::ZERO, |above| {
                above.pointer(slot_of(first, level + 1))
            })
            .place)
    }

    /// The pointer to a finished node: the old one, one that is stored already, or a new record.
    fn store_node(&mut self, open: OpenNode) -> Result<Pointer, RepoError> {
        let id = open.node.id(self.store.keys());
        if id.is_zero() {
            return Ok(Pointer::ZERO);
        }
        if id == open.origin.id && !self.store.health().is_lost(id) {
            return Ok(open.origin);
        }
        if let Some(place) = self.store.find(&[id])?.pop().flatten() {
            return Ok(Pointer { id, place });
        }
        let place = self.append(id, &open.node)?;
        Ok(Pointer { id, place })
    }

    fn append(&mut self, id: ChunkId, node: &ImageNode) -> Result<crate::pack::Place, RepoError> {
        let record = self
            .encoder
            .encode(RecordKind::ImageNode, id, &node.encode())?;
        self.stored_nodes += 1;
        self.stored_bytes += record.length() as u64;
        self.packs.append(&record)
    }
}

impl fmt::Debug for TreeWriter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TreeWriter")
            .field("chunk_count", &self.chunk_count)
            .finish_non_exhaustive()
    }
}

/// Map nodes are mostly hashes; the zero runs of sparse ones shrink at any level.
const NODE_LEVEL: i32 = 1;
