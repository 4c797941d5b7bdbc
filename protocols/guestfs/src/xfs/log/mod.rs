//! The log, replayed in memory.
//!
//! The log is a ring of blocks of 512 bytes. Records lie in it, each with the number of its turn around the ring; they
//! carry pieces of transactions, which count only if their end is there. What comes of it is a map of sectors with a newer
//! content, and what transactions had announced but not done. Nothing is written.
//!
//! Lists of inodes that were removed while open are not looked at: such inodes have no name, and keep none.

mod buffers;
mod ends;
mod inodes;
mod pending;
mod record;
mod replay;
mod transaction;

use super::Superblock;
use super::device::{Overlay, SECTOR};
use crate::bytes::to_usize;
use crate::{GuestError, Place, Source};

pub(super) use self::pending::Pending;

/// What a log says.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    pub overlay: Overlay,
    pub pending: Pending,
}

/// Finds what the log has that is not in the filesystem yet; `None` if the guest had unmounted it.
pub(super) fn replay(
    source: &dyn Source,
    superblock: &Superblock,
) -> Result<Option<Replayed>, GuestError> {
    if superblock.log_start == 0 {
        return Err(GuestError::unsupported(
            "an XFS log on another device, which alone knows whether it must be replayed first",
        ));
    }
    let log = Log::new(source, superblock)?;
    let Some(ends) = log.ends()? else {
        return Ok(None);
    };
    replay::all(&log, ends).map(Some)
}

/// The part of the log from which to replay: blocks, the second not included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ends {
    tail: u64,
    head: u64,
}

/// A moment in the log: turn around the ring, and block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Moment(u64);

impl Moment {
    fn block(self) -> u64 {
        self.0 & 0xFFFF_FFFF
    }

    /// As structures say when they were written; neither zero nor all ones is a moment.
    fn of(stored: u64) -> Option<Self> {
        (stored != 0 && stored != u64::MAX).then_some(Self(stored))
    }
}

/// The ring of blocks.
struct Log<'a> {
    source: &'a dyn Source,
    superblock: &'a Superblock,
    at_bytes: u64,
    blocks: u64,
}

impl<'a> Log<'a> {
    fn new(source: &'a dyn Source, superblock: &'a Superblock) -> Result<Self, GuestError> {
        let count = u64::from(superblock.log_blocks);
        let at_bytes =
            superblock
                .extent_bytes(superblock.log_start, count)
                .ok_or(GuestError::corrupt(
                    Place::Superblock,
                    "the log is out of bounds",
                ))?;
        let blocks = count * u64::from(superblock.block_bytes) / SECTOR as u64;
        if blocks > LOG_BLOCKS_MAX {
            return Err(GuestError::TooLarge {
                what: "the length of the log in sectors",
                limit: LOG_BLOCKS_MAX,
            });
        }
        Ok(Self {
            source,
            superblock,
            at_bytes,
            blocks,
        })
    }

    /// Blocks of the ring, of which there are not more than it has.
    fn read(&self, first: u64, count: u64) -> Result<Vec<u8>, GuestError> {
        let unit = SECTOR as u64;
        let first = first % self.blocks;
        let before_end = count.min(self.blocks - first);
        let mut bytes = self
            .source
            .read(self.at_bytes + first * unit, to_usize(before_end * unit))?
            .to_vec();
        if before_end < count {
            let rest = to_usize((count - before_end) * unit);
            bytes.extend(self.source.read(self.at_bytes, rest)?.to_vec());
        }
        Ok(bytes)
    }

    /// How many blocks there are from one place on to another.
    fn distance(&self, from: u64, to: u64) -> u64 {
        (to + self.blocks - from) % self.blocks
    }

    fn corrupt(block: u64, detail: &'static str) -> GuestError {
        GuestError::corrupt(Place::Journal { block }, detail)
    }
}

/// 2 GiB, as XFS has it, and some more.
const LOG_BLOCKS_MAX: u64 = 5 << 20;
