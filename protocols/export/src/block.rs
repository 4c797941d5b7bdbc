//! A disk, as every block protocol sees it.

use std::any::Any;

use bytes::Bytes;

use crate::{ExportError, Segments};

/// A disk that can be read and, if its properties say so, written.
///
/// All offsets and lengths are bytes and multiples of [`BlockProperties::block_size_bytes`]; anything else is
/// [`ExportError::OutOfRange`]. Calls may run at once from many threads; a read that starts after a write returned
/// sees that write. Overlapping calls that run at the same time may be seen in either order, block by block.
///
/// A write that was answered survives the end of the process. It survives power failure once a [`flush`] that began
/// after the answer has returned, or at once with [`Durability::Stable`].
///
/// [`flush`]: BlockExport::flush
pub trait BlockExport: Any + Send + Sync {
    /// Size, block sizes and abilities. Constant while the export lives.
    fn properties(&self) -> BlockProperties;

    /// Reads exactly `length` bytes at `offset`; may wait for a disk.
    fn read(&self, offset: u64, length: u32) -> Result<Segments, ExportError>;

    /// Reads if memory alone can answer; `None` says that [`read`](BlockExport::read) would have to wait.
    fn read_cached(&self, offset: u64, length: u32) -> Option<Result<Segments, ExportError>> {
        let _ = (offset, length);
        None
    }

    /// Writes the pieces of `data` one after the other at `offset`.
    fn write(&self, offset: u64, data: &[Bytes], durability: Durability)
    -> Result<(), ExportError>;

    /// Writes if that takes microseconds (an append to memory the kernel owns); `None` says that it might wait and
    /// that nothing was done. Never offered for [`Durability::Stable`].
    fn try_write(&self, offset: u64, data: &[Bytes]) -> Option<Result<(), ExportError>> {
        let _ = (offset, data);
        None
    }

    /// Longest write, wherever it begins, that power failure leaves whole or not at all: one block, unless more is said.
    fn atomic_write_bytes(&self) -> u32 {
        self.properties().block_size_bytes
    }

    /// Makes the range read as zeroes.
    fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        mode: ZeroMode,
        durability: Durability,
    ) -> Result<(), ExportError>;

    /// Says that the content of the range is no longer needed. Here it reads as zeroes afterwards.
    fn discard(&self, offset: u64, length: u64, durability: Durability) -> Result<(), ExportError>;

    /// Returns when every write answered before the call is on stable storage, through whichever connection it came.
    fn flush(&self) -> Result<(), ExportError>;

    /// Describes the range from `offset` in order, without gaps, merging equal neighbours; stops at `length` bytes or
    /// after `limit` extents, whichever is first, and always gives at least one.
    fn extents(&self, offset: u64, length: u64, limit: usize) -> Result<Vec<Extent>, ExportError>;

    /// Names of the change maps this export can show: what differs from some earlier state.
    fn change_maps(&self) -> Vec<String> {
        Vec::new()
    }

    /// Like [`extents`](BlockExport::extents) for one change map: `(length, changed)` pairs.
    fn changes(
        &self,
        map: &str,
        offset: u64,
        length: u64,
        limit: usize,
    ) -> Result<Vec<(u64, bool)>, ExportError> {
        let _ = (map, offset, length, limit);
        Err(ExportError::NotSupported)
    }

    /// Copies from another disk if that is a step of a map that both have in common, and not a transfer of bytes.
    ///
    /// `Ok(false)` says that it is not possible for these two, or for these places, and that nothing was done; a copy of
    /// what overlaps on one disk may be answered so. Afterwards both are as if the bytes had been read and written.
    fn copy_from(
        &self,
        offset: u64,
        source: &dyn BlockExport,
        source_offset: u64,
        length: u64,
        durability: Durability,
    ) -> Result<bool, ExportError> {
        let _ = (offset, source, source_offset, length, durability);
        Ok(false)
    }

    /// Brings the range into memory if that is cheap to arrange. A hint: it may do nothing.
    fn prefetch(&self, offset: u64, length: u64) {
        let _ = (offset, length);
    }
}

/// What a disk is and can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockProperties {
    /// Capacity.
    pub size_bytes: u64,
    /// Smallest unit of any call, a power of two from 512.
    pub block_size_bytes: u32,
    /// Unit that costs least, a power of two and a multiple of the block size.
    pub preferred_size_bytes: u32,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Name that stays the same for ever, for serial numbers and device identifiers.
    pub identity: [u8; 16],
}

/// When a change must be safe from power failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// At the next flush.
    Unstable,
    /// Before the call returns (NBD FUA, SCSI FUA, NFS FILE_SYNC).
    Stable,
}

/// How zeroes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZeroMode {
    /// The range may lose its space.
    Deallocate,
    /// The range keeps its space, so that later writes cannot run out of it.
    KeepAllocated,
}

/// A stretch of a disk that is all in one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Bytes.
    pub length: u64,
    /// What is there.
    pub state: BlockState,
    /// Which layer holds it: 1 the export's own, 2 the one below, and so on; 0 none.
    pub depth: u32,
}

/// What a stretch of a disk holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockState {
    /// Bytes that were written.
    Data,
    /// Space that is kept and reads as zeroes.
    Zero,
    /// No space; reads as zeroes.
    Hole,
}

impl BlockProperties {
    /// Refuses a range that is empty, beyond the end, or not aligned.
    pub fn check(&self, offset: u64, length: u64) -> Result<(), ExportError> {
        let aligned = (offset | length).is_multiple_of(u64::from(self.block_size_bytes));
        match offset.checked_add(length) {
            Some(end) if aligned && length > 0 && end <= self.size_bytes => Ok(()),
            _ => Err(ExportError::OutOfRange { offset, length }),
        }
    }
}
