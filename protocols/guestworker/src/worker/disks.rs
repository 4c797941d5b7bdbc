//! Disks of the guest, as the worker has them: every byte comes from the parent.

use std::cell::RefCell;

use bytes::Bytes;
use export::{BlockExport, BlockProperties, Durability, ExportError, Extent, Segments, ZeroMode};
use quick_cache::sync::Cache;

use crate::lane::{Frame, Lane, LaneFault, Stream};
use crate::wire::{BLOCK_BYTES_MAX, BlockAsk, Body, Fields, Kind};

thread_local! {
    // The one way out that a thread has. A reader is called by many threads and calls a disk back, which has to know
    // through which of them; no argument gets that far.
    static LANE: RefCell<Option<Lane<Stream>>> = const { RefCell::new(None) };
}

/// Gives this thread its lane.
pub(super) fn take_lane(lane: Lane<Stream>) {
    LANE.set(Some(lane));
}

/// Does something with the lane of this thread.
pub(super) fn with_lane<T>(
    what: impl FnOnce(&mut Lane<Stream>) -> Result<T, LaneFault>,
) -> Result<T, LaneFault> {
    LANE.with_borrow_mut(|lane| match lane {
        Some(lane) => what(lane),
        None => Err(LaneFault::Closed),
    })
}

/// A disk that the parent reads. Of one that nobody writes, what was read is remembered for a while, with its
/// surroundings.
pub(super) struct ParentDisk {
    number: u32,
    properties: BlockProperties,
    memory: Option<Cache<u64, Bytes>>,
}

impl ParentDisk {
    pub(super) fn new(number: u32, properties: BlockProperties) -> Self {
        Self {
            number,
            properties,
            memory: properties.read_only.then(|| Cache::new(PIECES_MAX)),
        }
    }

    fn fetch(&self, offset: u64, length: u32) -> Result<Bytes, ExportError> {
        let ask = Body::of(BlockAsk {
            disk: self.number,
            offset,
            length,
        });
        let Frame { kind, body } = with_lane(|lane| {
            lane.send(Kind::Block, &ask, &mut || true)?;
            lane.receive(&mut || true)
        })
        .map_err(|_| ExportError::ShuttingDown)?;
        match kind {
            Kind::BlockGiven if body.len() == length as usize => Ok(body),
            Kind::BlockFailed => Err(Fields::only(body).unwrap_or(ExportError::ShuttingDown)),
            _ => Err(ExportError::ShuttingDown),
        }
    }

    /// The piece of that number.
    fn piece(&self, memory: &Cache<u64, Bytes>, number: u64) -> Result<Bytes, ExportError> {
        if let Some(piece) = memory.get(&number) {
            return Ok(piece);
        }
        let start = number * u64::from(PIECE_BYTES);
        let left = self.properties.size_bytes - start;
        let length = u32::try_from(left).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        let piece = self.fetch(start, length)?;
        memory.insert(number, piece.clone());
        Ok(piece)
    }
}

impl BlockExport for ParentDisk {
    fn properties(&self) -> BlockProperties {
        self.properties
    }

    fn read(&self, offset: u64, length: u32) -> Result<Segments, ExportError> {
        self.properties.check(offset, length.into())?;
        let (mut at, end) = (offset, offset + u64::from(length));
        let mut found = Segments::new();
        if let Some(memory) = self.memory.as_ref().filter(|_| length < PIECE_BYTES) {
            while at < end {
                let (number, skip) = (at / u64::from(PIECE_BYTES), at % u64::from(PIECE_BYTES));
                let piece = self.piece(memory, number)?;
                let from = usize::try_from(skip).map_err(|_| ExportError::Invalid)?;
                let wanted = usize::try_from(end - at).map_err(|_| ExportError::Invalid)?;
                let to = piece.len().min(from + wanted);
                found.push(piece.slice(from..to));
                at += (to - from) as u64;
            }
            return Ok(found);
        }
        while at < end {
            let step = u32::try_from(end - at).unwrap_or(BLOCK_BYTES_MAX);
            let step = step.min(BLOCK_BYTES_MAX);
            found.push(self.fetch(at, step)?);
            at += u64::from(step);
        }
        Ok(found)
    }

    fn write(&self, _: u64, _: &[Bytes], _: Durability) -> Result<(), ExportError> {
        Err(ExportError::ReadOnly)
    }

    fn write_zeroes(&self, _: u64, _: u64, _: ZeroMode, _: Durability) -> Result<(), ExportError> {
        Err(ExportError::ReadOnly)
    }

    fn discard(&self, _: u64, _: u64, _: Durability) -> Result<(), ExportError> {
        Err(ExportError::ReadOnly)
    }

    fn flush(&self) -> Result<(), ExportError> {
        Ok(())
    }

    fn extents(&self, _: u64, _: u64, _: usize) -> Result<Vec<Extent>, ExportError> {
        Err(ExportError::NotSupported)
    }
}

/// What is asked for when less is wanted. Half of a chunk: whatever asks for an inode soon asks for its neighbour.
const PIECE_BYTES: u32 = 32 << 10;

/// 16 MiB of them for each disk.
const PIECES_MAX: usize = 512;
