//! What a seal stores: the chunks that are not the point's any more.

use std::ops::ControlFlow;

use bytes::{Bytes, BytesMut};

use super::Overlay;
use super::format::SECTOR_BYTES;
use super::map::{CHUNK_SECTORS, Content, Look, State};
use super::read::Keep;
use crate::CHUNK_BYTES;
use crate::error::RepoError;

/// Chunks of the disk in which something was written, discarded or made zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TouchedRange {
    /// Whole chunks that are zero now.
    Zeroes {
        /// Index of the first.
        first: u64,
        /// How many.
        count: u64,
    },
    /// Whole chunks that are what the point has from another chunk on.
    PointFrom {
        /// Index of the first.
        first: u64,
        /// Index of the first in the point.
        source: u64,
        /// How many.
        count: u64,
    },
    /// One chunk.
    Chunk {
        /// Its index.
        index: u64,
        /// All of it as it reads now, [`CHUNK_BYTES`] long, zeroes behind the end of the disk.
        content: Bytes,
    },
}

/// Gives the touched chunks in ascending order.
#[derive(Debug)]
pub struct TouchedChunks<'a> {
    overlay: &'a Overlay,
    /// No touched chunk before this one is left.
    next: u64,
}

impl Overlay {
    /// The chunks that are not the point's any more, each once, with their content. Freeze the overlay first, or they
    /// change on the way.
    pub fn touched(&self) -> TouchedChunks<'_> {
        TouchedChunks {
            overlay: self,
            next: 0,
        }
    }

    /// One chunk as it reads now.
    fn chunk(&self, index: u64) -> Result<Bytes, RepoError> {
        let offset = index * CHUNK_BYTES as u64;
        let length = (self.size_bytes - offset).min(CHUNK_BYTES as u64);
        let mut pieces = Vec::new();
        let length_u32 = u32::try_from(length).unwrap_or(u32::MAX);
        // Nobody reads it again for having been sealed.
        self.read_keeping(Keep::Nothing, offset, length_u32, &mut pieces)?;
        if pieces.len() == 1 && length == CHUNK_BYTES as u64 {
            return Ok(pieces.remove(0));
        }
        let mut content = BytesMut::with_capacity(CHUNK_BYTES);
        for piece in &pieces {
            content.extend_from_slice(piece);
        }
        content.resize(CHUNK_BYTES, 0);
        Ok(content.freeze())
    }

    /// The first run of touched chunks from `from` on: where, how many, and in what state.
    fn next_touched(&self, from: u64) -> Result<Option<(u64, u64, State)>, RepoError> {
        let chunks = self.size_bytes.div_ceil(CHUNK_BYTES as u64);
        let mut map = self.map.lock();
        let mut at = from;
        let mut found = None;
        while at < chunks && found.is_none() {
            match map.locate(at, Look::Everywhere)? {
                Some((State::Below, count)) => at += count,
                Some((state, count)) => found = Some((at, count, state)),
                None => break,
            }
        }
        map.shrink();
        Ok(found)
    }

    /// The chunk of the point that a whole chunk shows, if it shows one.
    fn point_chunk(&self, chunk: u64) -> Result<Option<u64>, RepoError> {
        let sectors = u64::from(CHUNK_SECTORS);
        let mut found = None;
        if (chunk + 1) * CHUNK_BYTES as u64 > self.size_bytes {
            return Ok(None);
        }
        let mut map = self.map.lock();
        map.walk(chunk * sectors, sectors, Look::Everywhere, &mut |span| {
            found = match span.content {
                Content::PointFrom { sector } if span.sectors == sectors => {
                    sector.is_multiple_of(sectors).then_some(sector / sectors)
                }
                _ => None,
            };
            ControlFlow::Break(())
        })?;
        Ok(found)
    }

    /// How many chunks from `first` on show those of the point from `source` on; at least that one does.
    fn point_run(&self, first: u64, source: u64) -> Result<u64, RepoError> {
        let mut count = 1;
        while count < POINT_RUN_MAX && self.point_chunk(first + count)? == Some(source + count) {
            count += 1;
        }
        self.map.lock().shrink();
        Ok(count)
    }

    /// Whether the page of a chunk, which is in memory, says zero everywhere.
    fn is_all_zero(&self, chunk: u64) -> Result<bool, RepoError> {
        let sector = chunk * u64::from(CHUNK_SECTORS);
        let sectors = (self.size_bytes / SECTOR_BYTES - sector).min(u64::from(CHUNK_SECTORS));
        let mut zero = true;
        self.map
            .lock()
            .walk(sector, sectors, Look::Everywhere, &mut |span| {
                zero &= span.is_zero();
                if zero {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })?;
        Ok(zero)
    }
}

impl TouchedChunks<'_> {
    fn advance(&mut self) -> Result<Option<TouchedRange>, RepoError> {
        let Some((first, count, state)) = self.overlay.next_touched(self.next)? else {
            return Ok(None);
        };
        if state == State::Child
            && let Some(source) = self.overlay.point_chunk(first)?
        {
            let count = self.overlay.point_run(first, source)?;
            self.next = first + count;
            return Ok(Some(TouchedRange::PointFrom {
                first,
                source,
                count,
            }));
        }
        if state == State::Child && !self.overlay.is_all_zero(first)? {
            let content = self.overlay.chunk(first)?;
            self.next = first + 1;
            return Ok(Some(TouchedRange::Chunk {
                index: first,
                content,
            }));
        }
        self.next = first + count;
        Ok(Some(TouchedRange::Zeroes { first, count }))
    }
}

impl Iterator for TouchedChunks<'_> {
    type Item = Result<TouchedRange, RepoError>;

    fn next(&mut self) -> Option<Self::Item> {
        let result = self.advance().transpose();
        if let Some(Err(_)) = result {
            // After an error there is no more.
            self.next = u64::MAX;
        }
        result
    }
}

/// Chunks that are given as one range at most.
const POINT_RUN_MAX: u64 = 1024;
