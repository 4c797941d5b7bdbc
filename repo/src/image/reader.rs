//! Reading an image.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::ChunkSource;
use super::node::{FAN_OUT_BITS, ImageNode, Pointer, depth_for, slot_of};
use crate::chunk::CHUNK_BYTES;
use crate::error::RepoError;
use crate::store::ChunkStore;
use crate::uses::PointUse;

/// One disk of a restore point. Cheap to clone; reads run at once from any number of threads.
#[derive(Clone)]
pub struct Image {
    store: Arc<ChunkStore>,
    size_bytes: u64,
    depth: u8,
    root: Pointer,
    /// Keeps what it leads to.
    point: Option<Arc<PointUse>>,
}

/// A stretch of an image that is all of one sort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageExtent {
    /// Bytes.
    pub length: u64,
    /// Whether something is stored for it; if not, it reads as zeroes.
    pub data: bool,
}

impl Image {
    pub(crate) fn new(store: Arc<ChunkStore>, size_bytes: u64, root: Pointer) -> Self {
        Self {
            store,
            size_bytes,
            depth: depth_for(size_bytes),
            root,
            point: None,
        }
    }

    /// The same, of a point whose space is not given back as long as this lives.
    pub(crate) fn of_point(mut self, point: Arc<PointUse>) -> Self {
        self.point = Some(point);
        self
    }

    /// Capacity.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub(crate) fn depth(&self) -> u8 {
        self.depth
    }

    pub(crate) fn root(&self) -> Pointer {
        self.root
    }

    pub(crate) fn store(&self) -> &Arc<ChunkStore> {
        &self.store
    }

    pub(crate) fn chunk_count(&self) -> u64 {
        self.size_bytes.div_ceil(CHUNK_BYTES as u64)
    }

    /// Appends the `length` bytes at `offset` to `out`, borrowed from memory where that has them.
    ///
    /// # Errors
    /// If the range is not inside the disk, or what is stored is hurt or gone; nothing is appended then.
    pub fn read(&self, offset: u64, length: u32, out: &mut Vec<Bytes>) -> Result<(), RepoError> {
        self.check(offset, u64::from(length))?;
        let wanted: Vec<Piece> = pieces(offset, u64::from(length)).collect();
        let mut found: Vec<Option<Bytes>> = wanted
            .iter()
            .map(|piece| self.cached_chunk(piece.index))
            .collect();
        self.read_missing(&wanted, &mut found)?;
        let chunks = found.into_iter().flatten().zip(wanted);
        out.extend(chunks.map(|(chunk, piece)| chunk.slice(piece.within)));
        Ok(())
    }

    /// Reads the chunks that memory did not have, neighbours together.
    fn read_missing(&self, wanted: &[Piece], found: &mut [Option<Bytes>]) -> Result<(), RepoError> {
        let mut pointers = Vec::new();
        for (piece, _) in wanted
            .iter()
            .zip(found.iter())
            .filter(|(_, found)| found.is_none())
        {
            pointers.push(self.pointer(piece.index)?);
        }
        let mut read = self.store.chunks(&pointers)?.into_iter();
        for slot in found.iter_mut().filter(|slot| slot.is_none()) {
            *slot = read.next();
        }
        Ok(())
    }

    /// Like [`read`](Self::read) from memory alone; `false` says that it has not all of it, and nothing was appended.
    pub fn read_cached(&self, offset: u64, length: u32, out: &mut Vec<Bytes>) -> bool {
        if self.check(offset, u64::from(length)).is_err() {
            return false;
        }
        let before = out.len();
        for piece in pieces(offset, u64::from(length)) {
            let Some(chunk) = self.cached_chunk(piece.index) else {
                out.truncate(before);
                return false;
            };
            out.push(chunk.slice(piece.within));
        }
        true
    }

    /// Describes the range in order, merging neighbours of one sort: up to `limit` extents, at least one.
    ///
    /// # Errors
    /// If the range is not inside the disk, or the map is hurt.
    pub fn extents(
        &self,
        offset: u64,
        length: u64,
        limit: usize,
    ) -> Result<Vec<ImageExtent>, RepoError> {
        self.check(offset, length)?;
        let mut found = Runs::new(offset, length, limit);
        while let Some(index) = found.next_chunk() {
            let (pointer, span) = self.pointer_and_span(index)?;
            found.push(span, !pointer.id.is_zero());
        }
        let extents = found.finish().into_iter();
        Ok(extents
            .map(|(length, data)| ImageExtent { length, data })
            .collect())
    }

    /// Where this image differs from `older`, chunk by chunk, by comparing the maps: `(length, changed)` in order.
    ///
    /// # Errors
    /// If the range is not inside the disk, or a map is hurt.
    pub fn changes_since(
        &self,
        older: &Self,
        offset: u64,
        length: u64,
        limit: usize,
    ) -> Result<Vec<(u64, bool)>, RepoError> {
        self.check(offset, length)?;
        let mut found = Runs::new(offset, length, limit);
        while let Some(index) = found.next_chunk() {
            let (span, changed) = self.compare(older, index)?;
            found.push(span, changed);
        }
        Ok(found.finish())
    }

    /// Pointer to the chunk at `index`.
    pub(crate) fn pointer(&self, index: u64) -> Result<Pointer, RepoError> {
        self.pointer_and_span(index).map(|(pointer, _)| pointer)
    }

    /// Pointers to `count` chunks from `first` on; beyond the end they point to nothing.
    pub(crate) fn pointers(&self, first: u64, count: u64) -> Result<Vec<Pointer>, RepoError> {
        let mut found = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
        let mut index = first;
        while index < first + count {
            if index >= self.chunk_count() {
                found.push(Pointer::ZERO);
                index += 1;
                continue;
            }
            let leaf = self.node_at(0, index)?;
            let slot = slot_of(index, 0);
            let here = (first + count - index).min((ImageNode::FAN_OUT - slot) as u64);
            for step in 0..here {
                let slot = slot + usize::try_from(step).unwrap_or(0);
                found.push(
                    leaf.as_ref()
                        .map_or(Pointer::ZERO, |leaf| leaf.pointer(slot)),
                );
            }
            index += here;
        }
        Ok(found)
    }

    /// The node of `level` over chunk `index`, or `None` where all is zero.
    pub(crate) fn node_at(
        &self,
        level: u8,
        index: u64,
    ) -> Result<Option<Arc<ImageNode>>, RepoError> {
        let mut pointer = self.root;
        let mut at = self.depth - 1;
        loop {
            if pointer.id.is_zero() {
                return Ok(None);
            }
            let node = self.store.node(pointer.id, pointer.place, at)?;
            if at == level {
                return Ok(Some(node));
            }
            pointer = node.pointer(slot_of(index, at));
            at -= 1;
        }
    }

    /// The pointer to a chunk, and how many chunks from it on are known to share its being zero or not.
    fn pointer_and_span(&self, index: u64) -> Result<(Pointer, u64), RepoError> {
        let mut pointer = self.root;
        for level in (0..self.depth).rev() {
            if pointer.id.is_zero() {
                let reach = 1_u64 << (u32::from(level + 1) * FAN_OUT_BITS).min(63);
                return Ok((Pointer::ZERO, reach - index % reach));
            }
            let node = self.store.node(pointer.id, pointer.place, level)?;
            pointer = node.pointer(slot_of(index, level));
        }
        Ok((pointer, 1))
    }

    /// How many chunks from `index` on are all changed or all not, and which.
    fn compare(&self, older: &Self, index: u64) -> Result<(u64, bool), RepoError> {
        if self.depth != older.depth || index >= older.chunk_count() {
            let differs =
                index >= older.chunk_count() || self.pointer(index)?.id != older.pointer(index)?.id;
            return Ok((1, differs));
        }
        let (mut ours, mut theirs) = (self.root, older.root);
        for level in (0..self.depth).rev() {
            if ours.id == theirs.id {
                let reach = 1_u64 << (u32::from(level + 1) * FAN_OUT_BITS).min(63);
                return Ok((reach - index % reach, false));
            }
            let below = |store: &ChunkStore, pointer: Pointer| match pointer.id.is_zero() {
                true => Ok(Pointer::ZERO),
                false => store
                    .node(pointer.id, pointer.place, level)
                    .map(|node| node.pointer(slot_of(index, level))),
            };
            ours = below(&self.store, ours)?;
            theirs = below(&older.store, theirs)?;
        }
        Ok((1, ours.id != theirs.id))
    }

    fn check(&self, offset: u64, length: u64) -> Result<(), RepoError> {
        match offset.checked_add(length) {
            Some(end) if end <= self.size_bytes => Ok(()),
            _ => Err(RepoError::BadRange {
                offset,
                length,
                size_bytes: self.size_bytes,
                rule: "it ends behind the disk",
            }),
        }
    }
}

impl ChunkSource for Image {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn chunk(&self, index: u64) -> Result<Bytes, RepoError> {
        let pointer = self.pointer(index)?;
        if pointer.id.is_zero() {
            return Ok(self.store.zero_chunk());
        }
        self.store.chunk(pointer.id, pointer.place)
    }

    fn cached_chunk(&self, index: u64) -> Option<Bytes> {
        let mut pointer = self.root;
        for level in (0..self.depth).rev() {
            if pointer.id.is_zero() {
                break;
            }
            let node = self.store.cached_node(pointer.id)?;
            pointer = node.pointer(slot_of(index, level));
        }
        self.store.cached_chunk(pointer.id)
    }

    fn is_zero(&self, index: u64) -> Result<bool, RepoError> {
        Ok(self.pointer(index)?.id.is_zero())
    }

    fn prefetch(&self, first: u64, count: u64) {
        for index in first..(first + count).min(self.chunk_count()) {
            if self.cached_chunk(index).is_none() {
                drop(self.chunk(index));
            }
        }
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Image")
            .field("size_bytes", &self.size_bytes)
            .field("root", &self.root.id)
            .finish_non_exhaustive()
    }
}

/// A part of one chunk.
struct Piece {
    index: u64,
    within: Range<usize>,
}

/// Cuts a range at the chunk grid.
fn pieces(offset: u64, length: u64) -> impl Iterator<Item = Piece> {
    let chunk = CHUNK_BYTES as u64;
    let end = offset + length;
    let mut at = offset;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let index = at / chunk;
        let stop = end.min((index + 1) * chunk);
        let within = |place: u64| usize::try_from(place - index * chunk).unwrap_or(CHUNK_BYTES);
        let piece = Piece {
            index,
            within: within(at)..within(stop),
        };
        at = stop;
        Some(piece)
    })
}

/// Merges stretches that a map tells chunk by chunk into runs of bytes within a range.
struct Runs {
    at: u64,
    end: u64,
    limit: usize,
    runs: Vec<(u64, bool)>,
    full: bool,
}

impl Runs {
    fn new(offset: u64, length: u64, limit: usize) -> Self {
        Self {
            at: offset,
            end: offset + length,
            limit: limit.max(1),
            runs: Vec::new(),
            full: false,
        }
    }

    fn next_chunk(&self) -> Option<u64> {
        (self.at < self.end && !self.full).then_some(self.at / CHUNK_BYTES as u64)
    }

    /// The next `chunks` chunks, counted from the one that holds the present place, are of one sort.
    fn push(&mut self, chunks: u64, sort: bool) {
        let chunk = CHUNK_BYTES as u64;
        let stop = (self.at / chunk)
            .saturating_add(chunks)
            .saturating_mul(chunk)
            .min(self.end);
        let count = self.runs.len();
        match self.runs.last_mut() {
            Some((length, last)) if *last == sort => *length += stop - self.at,
            _ if count == self.limit => {
                self.full = true;
                return;
            }
            _ => self.runs.push((stop - self.at, sort)),
        }
        self.at = stop;
    }

    fn finish(self) -> Vec<(u64, bool)> {
        self.runs
    }
}
