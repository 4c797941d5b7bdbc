//! Records of the log.

use super::super::checksum;
use super::super::device::SECTOR;
use super::{Log, Moment};
use crate::bytes::{View, to_usize};
use crate::{GuestError, Place};

/// The head of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Which block of the log it is.
    pub at: u64,
    /// When.
    pub moment: Moment,
    /// From where the log had to be replayed when it was written.
    pub tail: Moment,
    pub operations: u32,
    /// Blocks of heads, and blocks of data behind.
    pub head_blocks: u64,
    pub data_blocks: u64,
    /// The longest record that the writer made.
    pub size_bytes: u32,
    data_bytes: u32,
    checksum: u32,
    is_our_order: bool,
}

/// A record that was proven.
pub(super) struct Record {
    pub header: Header,
    pub data: Vec<u8>,
}

/// A record that cannot be used, and where it is.
pub(super) struct Bad {
    pub at: u64,
    pub error: GuestError,
}

impl Header {
    pub(super) fn total_blocks(&self) -> u64 {
        self.head_blocks + self.data_blocks
    }
}

impl Log<'_> {
    /// The head of a record, if one begins at `at`.
    pub(super) fn header(&self, at: u64) -> Result<Option<Header>, GuestError> {
        let bytes = self.read(at, 1)?;
        self.decode_header(&bytes, at)
    }

    pub(super) fn decode_header(
        &self,
        bytes: &[u8],
        at: u64,
    ) -> Result<Option<Header>, GuestError> {
        let view = View::new(bytes, Place::Journal { block: at });
        if view.big32(0)? != MAGIC {
            return Ok(None);
        }
        let version = view.big32(8)?;
        if version == 0 || version & !3 != 0 {
            return Err(view.corrupt("the version of a record is unknown"));
        }
        let uuid = view.slice(304, 16)?;
        if uuid != self.superblock.uuid && uuid != [0; 16] {
            return Err(view.corrupt("a record belongs to another filesystem"));
        }
        let data_bytes = view.big32(12)?;
        let operations = view.big32(40)?;
        let size_bytes = if version & 2 != 0 {
            view.big32(320)?
        } else {
            OLD_RECORD_BYTES
        };
        // A record that mkfs wrote may be longer than it says that records are.
        let is_too_long = data_bytes > size_bytes.max(OLD_RECORD_BYTES) && operations != 1;
        if size_bytes > RECORD_BYTES_MAX || data_bytes > RECORD_BYTES_MAX || is_too_long {
            return Err(view.corrupt("a record is too long"));
        }
        let head_blocks = u64::from(size_bytes).div_ceil(u64::from(OLD_RECORD_BYTES));
        Ok(Some(Header {
            at,
            moment: Moment(view.big64(16)?),
            tail: Moment(view.big64(24)?),
            operations,
            head_blocks: head_blocks.max(1),
            data_blocks: u64::from(data_bytes).div_ceil(SECTOR as u64),
            size_bytes,
            data_bytes,
            checksum: view.u32(32)?,
            is_our_order: view.big32(300)? == LINUX_LITTLE_ENDIAN,
        }))
    }

    /// Calls `visit` with every record between two places.
    pub(super) fn walk(
        &self,
        from: u64,
        to: u64,
        visit: &mut dyn FnMut(Record) -> Result<(), GuestError>,
    ) -> Result<(), Bad> {
        let mut left = self.distance(from, to);
        let mut at = from;
        while left > 0 {
            let record = self.record(at, left).map_err(|error| Bad { at, error })?;
            let length = record.header.total_blocks();
            visit(record).map_err(|error| Bad { at, error })?;
            left -= length;
            at = (at + length) % self.blocks;
        }
        Ok(())
    }

    /// The record that begins at `at` and ends within `left` blocks.
    fn record(&self, at: u64, left: u64) -> Result<Record, GuestError> {
        let header = self
            .header(at)?
            .ok_or_else(|| Self::corrupt(at, "a record does not begin where one should"))?;
        if header.moment.block() != at {
            return Err(Self::corrupt(at, "a record belongs to another place"));
        }
        if header.data_bytes == 0 || header.total_blocks() > left {
            return Err(Self::corrupt(at, "a record has an impossible length"));
        }
        let bytes = self.read(at, header.total_blocks())?;
        let (heads, data) = bytes
            .split_at_checked(to_usize(header.head_blocks) * SECTOR)
            .ok_or_else(|| Self::corrupt(at, "a record is cut"))?;
        let heads = View::new(heads, Place::Journal { block: at });
        let mut data = data.to_vec();
        data.truncate(header.data_bytes as usize);
        self.prove(&header, heads, &data)?;
        if !header.is_our_order {
            return Err(GuestError::unsupported(
                "an XFS log of a machine with another order of bytes, which would have to be replayed",
            ));
        }
        unpack(heads, &mut data)?;
        Ok(Record { header, data })
    }

    fn prove(&self, header: &Header, heads: View<'_>, data: &[u8]) -> Result<(), GuestError> {
        // Version 4 came without, later kernels make one for it too.
        if header.checksum == 0 && (!self.superblock.is_v5() || header.operations == 1) {
            return Ok(());
        }
        let further =
            (data.len().div_ceil(OLD_RECORD_BYTES as usize)).min(to_usize(header.head_blocks));
        // The length of the first head depends on how a machine aligns numbers.
        for first in [328, 324] {
            let mut parts = vec![heads.slice(0, 32)?, &[0; 4], heads.slice(36, first - 36)?];
            for number in 1..further {
                parts.push(heads.slice(number * SECTOR, FURTHER_HEAD_BYTES)?);
            }
            parts.push(data);
            if checksum::of(&parts) == header.checksum {
                return Ok(());
            }
        }
        Err(heads.corrupt("the checksum of a record is wrong"))
    }
}

/// Puts back what the number of the turn took the place of in each block.
fn unpack(heads: View<'_>, data: &mut [u8]) -> Result<(), GuestError> {
    for (number, block) in data.chunks_mut(SECTOR).enumerate() {
        let (head, slot) = (number / HEAD_SLOTS, number % HEAD_SLOTS);
        let at = if head == 0 {
            44 + slot * 4
        } else {
            head * SECTOR + 4 + slot * 4
        };
        let word = heads.slice(at, 4)?;
        let length = block.len().min(4);
        if let (Some(start), Some(word)) = (block.get_mut(..length), word.get(..length)) {
            start.copy_from_slice(word);
        }
    }
    Ok(())
}

/// The number of the turn in which a block was written.
pub(super) fn turn(block: &[u8]) -> u32 {
    let word = |at: usize| {
        let bytes = block.get(at..at + 4).unwrap_or_default();
        bytes
            .iter()
            .fold(0_u32, |word, byte| word << 8 | u32::from(*byte))
    };
    if word(0) == MAGIC { word(4) } else { word(0) }
}

const MAGIC: u32 = 0xFEED_BABE;
const LINUX_LITTLE_ENDIAN: u32 = 1;
/// Records of logs of version 1, and what one head can put back.
const OLD_RECORD_BYTES: u32 = 32 << 10;
pub(super) const RECORD_BYTES_MAX: u32 = 256 << 10;
/// Blocks of data that one head speaks of.
const HEAD_SLOTS: usize = 64;
const FURTHER_HEAD_BYTES: usize = 4 + 4 * HEAD_SLOTS;
