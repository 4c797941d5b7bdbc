//! Where the content of a file or folder lies.

use std::ops::Range;

use ::bytes::Bytes;
use export::Segments;

use crate::bytes::to_usize;
use crate::pages::Pages;
use crate::{GuestError, Place, Source};

/// Pieces of a disk that are the content of something, one after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Extents {
    pieces: Vec<Piece>,
    length_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    /// Where it begins in the content.
    start: u64,
    /// Where it begins on the disk.
    place: u64,
}

impl Extents {
    /// One piece of `length` bytes at `place`.
    pub(crate) fn one(place: u64, length: u64) -> Self {
        let pieces = vec![Piece { start: 0, place }];
        Self {
            pieces: if length == 0 { Vec::new() } else { pieces },
            length_bytes: length,
        }
    }

    /// Goes on with `length` bytes at `place`.
    pub(crate) fn push(&mut self, place: u64, length: u64) -> Result<(), GuestError> {
        let start = self.length_bytes;
        let goes_on = self
            .pieces
            .last()
            .is_some_and(|last| last.place + (start - last.start) == place);
        if !goes_on && length > 0 {
            if self.pieces.len() >= PIECES_MAX {
                return Err(GuestError::TooLarge {
                    what: "the number of pieces of a file",
                    limit: PIECES_MAX as u64,
                });
            }
            self.pieces.push(Piece { start, place });
        }
        self.length_bytes += length;
        Ok(())
    }

    pub(crate) fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    /// How many pieces there are, for those who keep them.
    pub(crate) fn count(&self) -> usize {
        self.pieces.len()
    }

    /// Where byte `offset` of the content lies, and how many bytes follow it there; `None` behind the end.
    pub(crate) fn find(&self, offset: u64) -> Option<(u64, u64)> {
        if offset >= self.length_bytes {
            return None;
        }
        let behind = self.pieces.partition_point(|piece| piece.start <= offset);
        let piece = self.pieces.get(behind.checked_sub(1)?)?;
        let end = self
            .pieces
            .get(behind)
            .map_or(self.length_bytes, |next| next.start);
        Some((piece.place + (offset - piece.start), end - offset))
    }

    /// Bytes of the content, all of which there must be; `place` names what they belong to.
    pub(crate) fn read(
        &self,
        source: &dyn Source,
        offset: u64,
        length: u64,
        place: Place,
    ) -> Result<Segments, GuestError> {
        let mut result = Segments::new();
        let mut at = offset;
        let end = offset.saturating_add(length);
        while at < end {
            let Some((from, there)) = self.find(at) else {
                return Err(GuestError::corrupt(
                    place,
                    "it has less room on the disk than its size needs",
                ));
            };
            let taken = there.min(end - at);
            result.append(source.read(from, to_usize(taken))?);
            at += taken;
        }
        Ok(result)
    }

    /// A few bytes of the content from `offset` on, as they lie together; `None` behind the end.
    pub(crate) fn chunk(&self, pages: &Pages, offset: u64) -> Result<Option<Bytes>, GuestError> {
        let Some((place, there)) = self.find(offset) else {
            return Ok(None);
        };
        let chunk = pages.within_page(place, there)?;
        if chunk.is_empty() {
            // Behind the end of the disk, which says so.
            pages.source().read(place, 1)?;
            return Ok(None);
        }
        Ok(Some(chunk))
    }

    /// The pieces as ranges of the disk, in the order of the content.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = Range<u64>> {
        let ends = self.pieces.iter().skip(1).map(|piece| piece.start);
        let ends = ends.chain([self.length_bytes]);
        let pieces = self.pieces.iter().zip(ends);
        pieces.map(|(piece, end)| piece.place..piece.place + (end - piece.start))
    }

    /// Whether a part of the disk is in it twice.
    pub(crate) fn overlaps_itself(&self) -> bool {
        let mut ranges: Vec<Range<u64>> = self.ranges().collect();
        ranges.sort_unstable_by_key(|range| range.start);
        let neighbours = ranges.iter().zip(ranges.iter().skip(1));
        neighbours
            .into_iter()
            .any(|(one, next)| next.start < one.end)
    }
}

/// Of one file: 16 MiB of memory.
const PIECES_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_together_is_one_piece() {
        let mut extents = Extents::default();
        for (place, length) in [(100, 10), (110, 5), (50, 20), (0, 0), (70, 1)] {
            extents.push(place, length).unwrap();
        }
        assert_eq!(extents.ranges().collect::<Vec<_>>(), [100..115, 50..71]);
        assert_eq!(extents.find(14), Some((114, 1)));
        assert_eq!(extents.find(15), Some((50, 21)));
        assert_eq!(extents.find(36), None);
        assert!(!extents.overlaps_itself());
        extents.push(60, 1).unwrap();
        assert!(extents.overlaps_itself());
    }
}
