//! Where the log begins and ends.
//!
//! Blocks bear the number of the turn in which they were written. The end is where it falls; but several records may have
//! been on their way when the machine stopped, so that there may be holes, half records and wrong checksums before it.
//! The last record that is whole says where to begin.

use super::super::device::SECTOR;
use super::record::{Bad, Header, RECORD_BYTES_MAX, turn};
use super::{Ends, Log};
use crate::GuestError;
use crate::bytes::View;

impl Log<'_> {
    /// The part to be replayed; `None` if there is none.
    pub(super) fn ends(&self) -> Result<Option<Ends>, GuestError> {
        let Some(head) = self.find_head()? else {
            return Ok(None);
        };
        let last = self
            .header_before(head, self.blocks, 1)?
            .ok_or_else(|| Self::corrupt(head, "there is no record before the end"))?;
        if self.is_unmounted(&last, head)? {
            return Ok(None);
        }
        let (ends, last) = self.without_torn(head, last)?;
        if ends.head != head && self.is_unmounted(&last, ends.head)? {
            return Ok(None);
        }
        Ok((ends.head != ends.tail).then_some(ends))
    }

    /// The block behind the newest record; `None` if nothing was ever written.
    fn find_head(&self) -> Result<Option<u64>, GuestError> {
        let first = self.turn_of(0)?;
        let last = self.turn_of(self.blocks - 1)?;
        if first == 0 {
            return Ok(None);
        }
        if last == 0 {
            return self.find_head_of_first_turn().map(Some);
        }
        let (mut head, stop) = if first == last {
            (self.blocks, last.wrapping_sub(1))
        } else {
            (self.first_of_turn(last)?, last)
        };
        let scanned = IN_FLIGHT_BLOCKS.min(self.blocks);
        let early = if head >= scanned {
            self.find_turn(head - scanned, scanned, stop)?
        } else {
            let at_end = scanned - head;
            match self.find_turn(self.blocks - at_end, at_end, stop.wrapping_sub(1))? {
                None => self.find_turn(0, head, stop)?,
                found => found,
            }
        };
        head = early.unwrap_or(head);
        head = self.without_half(head)?;
        Ok(Some(head % self.blocks))
    }

    /// The same in a ring that was not gone around yet, and is zero behind.
    fn find_head_of_first_turn(&self) -> Result<u64, GuestError> {
        let head = self.first_of_turn(0)?;
        let scanned = IN_FLIGHT_BLOCKS.min(head);
        let early = self.find_turn(head - scanned, scanned, 0)?;
        self.without_half(early.unwrap_or(head))
    }

    /// Halves the ring until the first block of the turn that ends it is found.
    fn first_of_turn(&self, wanted: u32) -> Result<u64, GuestError> {
        let (mut before, mut at) = (0, self.blocks - 1);
        while at - before > 1 {
            let middle = u64::midpoint(before, at);
            if self.turn_of(middle)? == wanted {
                at = middle;
            } else {
                before = middle;
            }
        }
        Ok(at)
    }

    fn turn_of(&self, block: u64) -> Result<u32, GuestError> {
        self.read(block, 1).map(|bytes| turn(&bytes))
    }

    /// The first block of a turn in a part of the ring.
    fn find_turn(&self, first: u64, count: u64, wanted: u32) -> Result<Option<u64>, GuestError> {
        let mut at = first;
        while at < first + count {
            let step = READ_BLOCKS.min(first + count - at);
            let bytes = self.read(at, step)?;
            let mut blocks = (at..).zip(bytes.chunks_exact(SECTOR));
            if let Some((found, _)) = blocks.find(|(_, block)| turn(block) == wanted) {
                return Ok(Some(found));
            }
            at += step;
        }
        Ok(None)
    }

    /// The end without a record that is not whole.
    fn without_half(&self, head: u64) -> Result<u64, GuestError> {
        let reach = u64::from(RECORD_BYTES_MAX) / SECTOR as u64 + HEADS_MAX;
        let last = self.header_before(head, reach.min(self.blocks), 1)?;
        let last = last
            .ok_or_else(|| Self::corrupt(head % self.blocks, "no record begins before the end"))?;
        let gap = match self.distance(last.at, head % self.blocks) {
            0 => self.blocks,
            gap => gap,
        };
        Ok(if gap == last.total_blocks() {
            head
        } else {
            last.at
        })
    }

    /// The head of a record at most `reach` blocks before a place: of the `count` nearest the farthest.
    fn header_before(
        &self,
        place: u64,
        reach: u64,
        count: usize,
    ) -> Result<Option<Header>, GuestError> {
        let mut found = None;
        let mut seen = 0;
        let mut done = 0;
        while done < reach {
            let step = READ_BLOCKS.min(reach - done);
            let first = (place + 2 * self.blocks - done - step) % self.blocks;
            let bytes = self.read(first, step)?;
            for (number, block) in bytes.chunks_exact(SECTOR).enumerate().rev() {
                let at = (first + number as u64) % self.blocks;
                if let Some(header) = self.decode_header(block, at)? {
                    found = Some(header);
                    seen += 1;
                    if seen == count {
                        return Ok(found);
                    }
                }
            }
            done += step;
        }
        Ok(found)
    }

    /// The `count`th head of a record from a place on.
    fn header_after(
        &self,
        place: u64,
        reach: u64,
        count: usize,
    ) -> Result<Option<Header>, GuestError> {
        let mut seen = 0;
        let mut done = 0;
        while done < reach {
            let step = READ_BLOCKS.min(reach - done);
            let bytes = self.read(place + done, step)?;
            for (number, block) in (done..).zip(bytes.chunks_exact(SECTOR)) {
                let at = (place + number) % self.blocks;
                if let Some(header) = self.decode_header(block, at)? {
                    seen += 1;
                    if seen == count {
                        return Ok(Some(header));
                    }
                }
            }
            done += step;
        }
        Ok(None)
    }

    /// Whether the last record says that the filesystem was unmounted.
    fn is_unmounted(&self, last: &Header, head: u64) -> Result<bool, GuestError> {
        let behind = (last.at + last.total_blocks()) % self.blocks;
        if behind != head || last.operations != 1 {
            return Ok(false);
        }
        let bytes = self.read(last.at + last.head_blocks, 1)?;
        let place = crate::Place::Journal { block: last.at };
        // The flags of an operation are not in the word that the number of the turn took.
        Ok(View::new(&bytes, place).u8(9)? & UNMOUNT != 0)
    }

    /// Leaves out records at the end whose checksums are wrong, and such at the beginning that they had overwritten.
    fn without_torn(&self, head: u64, last: Header) -> Result<(Ends, Header), GuestError> {
        let mut ends = Ends {
            tail: self.tail_of(&last)?,
            head,
        };
        let mut last = last;
        let reach = |ends: Ends| match self.distance(ends.tail, ends.head) {
            0 => self.blocks,
            reach => reach,
        };
        let first = self
            .header_before(head, reach(ends), IN_FLIGHT)?
            .unwrap_or(last);
        if let Some(bad) = self.first_bad(first.at, head)? {
            tracing::debug!(block = bad.at, error = %bad.error, "the end of the log is torn");
            ends.head = bad.at;
            last = self
                .header_before(bad.at, reach(ends), 1)?
                .ok_or(bad.error)?;
            ends.tail = self.tail_of(&last)?;
            if ends.tail == ends.head {
                let detail = "no whole record is left";
                return Err(Self::corrupt(ends.head, detail));
            }
        }
        ends.tail = self.whole_tail(ends, &last)?;
        Ok((ends, last))
    }

    fn whole_tail(&self, ends: Ends, last: &Header) -> Result<u64, GuestError> {
        let Ends { mut tail, head } = ends;
        if tail == head {
            return Ok(tail);
        }
        let next = |from: u64, count| -> Result<u64, GuestError> {
            self.header_after(from, self.distance(from, head), count)?
                .map(|header| header.at)
                .ok_or_else(|| Self::corrupt(from, "no record follows"))
        };
        tail = next(tail, 1)?;
        let in_flight = IN_FLIGHT as u64 * u64::from(last.size_bytes) / SECTOR as u64;
        for _ in 0..RETRIES_MAX {
            let Some(bad) = self.first_bad(tail, head)? else {
                return Ok(tail);
            };
            if self.distance(head, bad.at) > in_flight {
                return Err(bad.error);
            }
            tail = next(bad.at, 2)?;
        }
        Err(Self::corrupt(tail, "too many records are damaged"))
    }

    /// The first record of a part that is not whole.
    fn first_bad(&self, from: u64, to: u64) -> Result<Option<Bad>, GuestError> {
        match self.walk(from, to, &mut |_| Ok(())) {
            Ok(()) => Ok(None),
            Err(bad) if matches!(bad.error, GuestError::Corrupt { .. }) => Ok(Some(bad)),
            Err(bad) => Err(bad.error),
        }
    }

    fn tail_of(&self, header: &Header) -> Result<u64, GuestError> {
        let tail = header.tail.block();
        if tail < self.blocks {
            Ok(tail)
        } else {
            Err(Self::corrupt(
                header.at,
                "a record says that the log begins outside of it",
            ))
        }
    }
}

/// Records that may be on their way at once.
const IN_FLIGHT: usize = 8;
const IN_FLIGHT_BLOCKS: u64 = IN_FLIGHT as u64 * RECORD_BYTES_MAX as u64 / SECTOR as u64;
/// Blocks of heads that a record has at most.
const HEADS_MAX: u64 = 8;
/// What is read at once.
const READ_BLOCKS: u64 = 512;
const UNMOUNT: u8 = 0x20;
/// As many records as may have been overwritten, and some more.
const RETRIES_MAX: usize = 64;
