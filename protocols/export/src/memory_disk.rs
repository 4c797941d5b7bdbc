//! A disk in RAM.
//!
//! Content is kept in blocks of 64 KiB that are made when they are first written. A read hands out references to
//! the blocks; a write changes a block in place unless a read still holds it, and then changes a copy.

use std::any::Any;
use std::fmt;
use std::mem;
use std::sync::OnceLock;

use bytes::{Bytes, BytesMut};
use parking_lot::RwLock;

use crate::{
    BlockExport, BlockProperties, BlockState, Durability, ExportError, Extent, Segments, ZeroMode,
};

/// A sparse disk in RAM, empty at first.
///
/// Nothing survives the end of the process, so flushes and stable writes have nothing to do.
pub struct MemoryDisk {
    properties: BlockProperties,
    groups: Box<[OnceLock<Group>]>,
}

impl MemoryDisk {
    /// Makes a disk of `size_bytes` that takes calls in units of 512 bytes.
    ///
    /// # Panics
    /// If the size is zero or not a multiple of 512.
    pub fn new(size_bytes: u64) -> Self {
        Self::with_block_size(size_bytes, 512)
    }

    /// Makes a disk of `size_bytes` that takes calls in units of `block_size_bytes`.
    ///
    /// # Panics
    /// If the block size is not a power of two from 512 to 65536, or the size is not a multiple of it or is zero.
    pub fn with_block_size(size_bytes: u64, block_size_bytes: u32) -> Self {
        assert!(
            block_size_bytes.is_power_of_two() && (512..=65536).contains(&block_size_bytes),
            "the block size is a power of two from 512 to 65536"
        );
        assert!(
            size_bytes > 0 && size_bytes.is_multiple_of(u64::from(block_size_bytes)),
            "the size is a multiple of the block size"
        );
        let groups = size_bytes.div_ceil(BLOCK_BYTES * BLOCKS_PER_GROUP);
        Self {
            properties: BlockProperties {
                size_bytes,
                block_size_bytes,
                preferred_size_bytes: block_size_bytes.max(4096),
                read_only: false,
                identity: *b"holdfast-memory\0",
            },
            groups: (0..groups).map(|_| OnceLock::new()).collect(),
        }
    }

    /// Gives the disk a name of its own.
    #[must_use]
    pub fn with_identity(mut self, identity: [u8; 16]) -> Self {
        self.properties.identity = identity;
        self
    }

    /// Refuses every further change.
    #[must_use]
    pub fn into_read_only(mut self) -> Self {
        self.properties.read_only = true;
        self
    }

    /// Refuses a change that must not happen.
    fn check_change(&self, offset: u64, length: u64) -> Result<(), ExportError> {
        if self.properties.read_only {
            return Err(ExportError::ReadOnly);
        }
        self.properties.check(offset, length)
    }

    /// The block at `index`, unless nothing near it was ever written.
    fn block(&self, index: u64) -> Option<&RwLock<Block>> {
        let group = self.groups.get(to_usize(index / BLOCKS_PER_GROUP))?.get()?;
        group.get(to_usize(index % BLOCKS_PER_GROUP))
    }

    /// The block at `index`, with room made for its neighbours.
    fn block_or_new(&self, index: u64) -> &RwLock<Block> {
        let group = self
            .groups
            .get(to_usize(index / BLOCKS_PER_GROUP))
            .expect("the range was checked");
        let group = group.get_or_init(|| {
            (0..BLOCKS_PER_GROUP)
                .map(|_| RwLock::new(Block::Hole))
                .collect()
        });
        group
            .get(to_usize(index % BLOCKS_PER_GROUP))
            .expect("a group is complete")
    }

    /// Length of the block at `index`; the last may be short.
    fn block_length(&self, index: u64) -> usize {
        to_usize((self.properties.size_bytes - index * BLOCK_BYTES).min(BLOCK_BYTES))
    }

    fn read_checked(&self, offset: u64, length: u32) -> Segments {
        let mut segments = Segments::new();
        for span in spans(offset, u64::from(length)) {
            match self.block(span.block).map(|block| block.read()).as_deref() {
                Some(Block::Data(bytes)) => {
                    segments.push(bytes.slice(span.start..span.start + span.length))
                }
                Some(Block::Zero | Block::Hole) | None => segments.push_zeroes(span.length),
            }
        }
        segments
    }

    fn write_checked(&self, mut offset: u64, data: &[Bytes]) {
        for piece in data {
            let mut rest = &piece[..];
            for span in spans(offset, to_u64(piece.len())) {
                let (now, later) = rest.split_at(span.length);
                let mut block = self.block_or_new(span.block).write();
                block.change(
                    self.block_length(span.block),
                    span.start,
                    |target| target.copy_from_slice(now),
                    span.length,
                );
                rest = later;
            }
            offset += to_u64(piece.len());
        }
    }

    fn zero_checked(&self, offset: u64, length: u64, mode: ZeroMode) {
        for span in spans(offset, length) {
            let block = match mode {
                ZeroMode::KeepAllocated => self.block_or_new(span.block),
                ZeroMode::Deallocate => match self.block(span.block) {
                    Some(block) => block,
                    None => continue,
                },
            };
            block
                .write()
                .zero(self.block_length(span.block), &span, mode);
        }
    }

    /// State of one block.
    fn state(&self, index: u64) -> BlockState {
        match self.block(index).map(|block| block.read()).as_deref() {
            Some(Block::Data(_)) => BlockState::Data,
            Some(Block::Zero) => BlockState::Zero,
            Some(Block::Hole) | None => BlockState::Hole,
        }
    }

    /// First block of the next group, if nothing in the group of `index` was ever written.
    fn skip_empty_group(&self, index: u64) -> Option<u64> {
        let group = index / BLOCKS_PER_GROUP;
        self.groups
            .get(to_usize(group))?
            .get()
            .is_none()
            .then_some((group + 1) * BLOCKS_PER_GROUP)
    }
}

impl BlockExport for MemoryDisk {
    fn properties(&self) -> BlockProperties {
        self.properties
    }

    fn read(&self, offset: u64, length: u32) -> Result<Segments, ExportError> {
        self.properties.check(offset, u64::from(length))?;
        Ok(self.read_checked(offset, length))
    }

    fn read_cached(&self, offset: u64, length: u32) -> Option<Result<Segments, ExportError>> {
        Some(self.read(offset, length))
    }

    fn write(&self, offset: u64, data: &[Bytes], _: Durability) -> Result<(), ExportError> {
        self.check_change(offset, data.iter().map(|piece| to_u64(piece.len())).sum())?;
        self.write_checked(offset, data);
        Ok(())
    }

    fn try_write(&self, offset: u64, data: &[Bytes]) -> Option<Result<(), ExportError>> {
        Some(self.write(offset, data, Durability::Unstable))
    }

    /// Whole blocks are shared with another disk in RAM; parts of blocks are not.
    fn copy_from(
        &self,
        offset: u64,
        source: &dyn BlockExport,
        source_offset: u64,
        length: u64,
        _: Durability,
    ) -> Result<bool, ExportError> {
        self.check_change(offset, length)?;
        source.properties().check(source_offset, length)?;
        let whole = (offset | source_offset | length).is_multiple_of(BLOCK_BYTES);
        let any: &dyn Any = source;
        let Some(source) = any.downcast_ref::<Self>().filter(|_| whole) else {
            return Ok(false);
        };
        if std::ptr::eq(self, source) && offset.abs_diff(source_offset) < length {
            return Ok(false);
        }
        for number in 0..length / BLOCK_BYTES {
            let from = source.block(source_offset / BLOCK_BYTES + number);
            let block = from.map_or(Block::Hole, |block| block.read().share());
            *self.block_or_new(offset / BLOCK_BYTES + number).write() = block;
        }
        Ok(true)
    }

    /// Power failure leaves nothing at all.
    fn atomic_write_bytes(&self) -> u32 {
        1 << 20
    }

    fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        mode: ZeroMode,
        _: Durability,
    ) -> Result<(), ExportError> {
        self.check_change(offset, length)?;
        self.zero_checked(offset, length, mode);
        Ok(())
    }

    fn discard(&self, offset: u64, length: u64, _: Durability) -> Result<(), ExportError> {
        self.check_change(offset, length)?;
        self.zero_checked(offset, length, ZeroMode::Deallocate);
        Ok(())
    }

    fn flush(&self) -> Result<(), ExportError> {
        Ok(())
    }

    fn extents(&self, offset: u64, length: u64, limit: usize) -> Result<Vec<Extent>, ExportError> {
        self.properties.check(offset, length)?;
        let mut extents: Vec<Extent> = Vec::new();
        let end = offset + length;
        let mut at = offset;
        while at < end {
            let index = at / BLOCK_BYTES;
            let state = self.state(index);
            let next = self
                .skip_empty_group(index)
                .unwrap_or(index + 1)
                .saturating_mul(BLOCK_BYTES)
                .min(end);
            let depth = u32::from(state != BlockState::Hole);
            let full = extents.len() >= limit.max(1);
            match extents.last_mut() {
                Some(last) if last.state == state => last.length += next - at,
                _ if full => break,
                _ => extents.push(Extent {
                    length: next - at,
                    state,
                    depth,
                }),
            }
            at = next;
        }
        Ok(extents)
    }
}

impl fmt::Debug for MemoryDisk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("MemoryDisk")
            .field("properties", &self.properties)
            .finish_non_exhaustive()
    }
}

type Group = Box<[RwLock<Block>]>;

/// What one block holds.
enum Block {
    Hole,
    Zero,
    Data(Bytes),
}

impl Block {
    /// The same content, not copied.
    fn share(&self) -> Self {
        match self {
            Self::Hole => Self::Hole,
            Self::Zero => Self::Zero,
            Self::Data(bytes) => Self::Data(bytes.clone()),
        }
    }

    /// Lets `change` work on `length` bytes from `start`, after making the block's bytes its own.
    fn change(
        &mut self,
        block_length: usize,
        start: usize,
        change: impl FnOnce(&mut [u8]),
        length: usize,
    ) {
        let mut bytes = match mem::replace(self, Self::Hole) {
            Self::Data(bytes) => bytes
                .try_into_mut()
                .unwrap_or_else(|held| BytesMut::from(&held[..])),
            Self::Zero | Self::Hole => BytesMut::zeroed(block_length),
        };
        change(
            bytes
                .get_mut(start..start + length)
                .expect("a span lies inside its block"),
        );
        *self = Self::Data(bytes.freeze());
    }

    fn zero(&mut self, block_length: usize, span: &Span, mode: ZeroMode) {
        let whole = span.length == block_length;
        match (&self, mode) {
            (_, ZeroMode::KeepAllocated) if whole => *self = Self::Zero,
            (_, ZeroMode::Deallocate) if whole => *self = Self::Hole,
            (Self::Hole, ZeroMode::KeepAllocated) => *self = Self::Zero,
            (Self::Hole | Self::Zero, _) => {}
            (Self::Data(_), _) => self.change(
                block_length,
                span.start,
                |target| target.fill(0),
                span.length,
            ),
        }
    }
}

/// The part of a range that lies in one block.
struct Span {
    block: u64,
    start: usize,
    length: usize,
}

/// Cuts a range at the block borders.
fn spans(offset: u64, length: u64) -> impl Iterator<Item = Span> {
    let end = offset + length;
    let mut at = offset;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let start = at % BLOCK_BYTES;
        let step = (BLOCK_BYTES - start).min(end - at);
        let span = Span {
            block: at / BLOCK_BYTES,
            start: to_usize(start),
            length: to_usize(step),
        };
        at += step;
        Some(span)
    })
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).expect("a place in memory fits a usize")
}

fn to_u64(number: usize) -> u64 {
    u64::try_from(number).expect("a usize fits 64 bits")
}

/// Unit of allocation and of copying.
const BLOCK_BYTES: u64 = 64 * 1024;
/// Blocks whose table entries are made together.
const BLOCKS_PER_GROUP: u64 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_keeps_what_it_saw() {
        let disk = MemoryDisk::new(256 * 1024);
        disk.write(0, &[Bytes::from(vec![1; 128 * 1024])], Durability::Unstable)
            .unwrap();
        let before = disk.read(60 * 1024, 8192).unwrap();
        disk.write(
            60 * 1024,
            &[Bytes::from(vec![2; 8192])],
            Durability::Unstable,
        )
        .unwrap();
        assert_eq!(before.to_vec(), vec![1; 8192]);
        assert_eq!(disk.read(60 * 1024, 8192).unwrap().to_vec(), vec![2; 8192]);
    }

    #[test]
    fn reads_refer_to_the_blocks() {
        let disk = MemoryDisk::new(256 * 1024);
        disk.write(0, &[Bytes::from(vec![1; 65536])], Durability::Unstable)
            .unwrap();
        let (one, other) = (disk.read(0, 4096).unwrap(), disk.read(0, 4096).unwrap());
        assert_eq!(one.pieces()[0].as_ptr(), other.pieces()[0].as_ptr());
    }

    #[test]
    fn a_large_empty_disk_costs_little_and_is_one_hole() {
        let disk = MemoryDisk::new(64 << 40);
        let extents = disk.extents(0, 64 << 40, 10).unwrap();
        assert_eq!(
            extents,
            [Extent {
                length: 64 << 40,
                state: BlockState::Hole,
                depth: 0
            }]
        );
    }
}
