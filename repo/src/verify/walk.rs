//! Walking maps: is all there that they point to?

use std::collections::HashSet;
use std::sync::Arc;

use super::{Damage, VerifyReport};
use crate::catalog::{ImageRecord, Point, StreamRecord};
use crate::chunk::{CHUNK_BYTES, ChunkId};
use crate::error::RepoError;
use crate::image::{Pointer, depth_for};
use crate::pack::{Place, RecordKind};
use crate::store::ChunkStore;
use crate::stream::{StreamPart, StreamReader};

/// How chunks are looked at.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reading<'a> {
    /// They were proven where they lie; only see that they are there and not among the `hurt`.
    MapsOnly { hurt: &'a HashSet<Place> },
    /// Read and prove each.
    Everything,
}

/// A walk over maps that visits each node once.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    store: &'a Arc<ChunkStore>,
    reading: Reading<'a>,
    sound: HashSet<ChunkId>,
}

/// A part of a point.
struct Part<'a> {
    point: &'a Point,
    name: &'a str,
    size_bytes: u64,
}

impl<'a> Walk<'a> {
    pub(super) fn new(store: &'a Arc<ChunkStore>, reading: Reading<'a>) -> Self {
        Self {
            store,
            reading,
            sound: HashSet::new(),
        }
    }

    /// Walks all disks and streams of a point.
    pub(super) fn point(
        &mut self,
        point: &Point,
        report: &mut VerifyReport,
    ) -> Result<(), RepoError> {
        for image in &point.images {
            self.image(point, image, report)?;
            report.images += 1;
        }
        for stream in &point.streams {
            self.stream(point, stream, report);
            report.streams += 1;
        }
        Ok(())
    }

    fn image(
        &mut self,
        point: &Point,
        image: &ImageRecord,
        report: &mut VerifyReport,
    ) -> Result<(), RepoError> {
        let part = Part {
            point,
            name: &image.name,
            size_bytes: image.size_bytes,
        };
        let level = depth_for(image.size_bytes) - 1;
        self.node(&part, image.root, level, 0, report).map(drop)
    }

    /// Walks what lies below a node over the disk from chunk `first` on. Says whether all of it is sound.
    fn node(
        &mut self,
        part: &Part<'_>,
        pointer: Pointer,
        level: u8,
        first: u64,
        report: &mut VerifyReport,
    ) -> Result<bool, RepoError> {
        if pointer.id.is_zero() || self.sound.contains(&pointer.id) {
            return Ok(true);
        }
        let span = 1_u64 << (u32::from(level) * 10);
        let node = match self.store.node(pointer.id, pointer.place, level) {
            Ok(node) => node,
            Err(RepoError::Stopped) => return Err(RepoError::Stopped),
            Err(error) => {
                report.note(part.damaged_chunks(&error, first, span * 1024));
                return Ok(false);
            }
        };
        report.records += 1;
        let mut sound = true;
        for (below, step) in node.pointers().iter().zip(0_u64..) {
            let at = first + step * span;
            if below.id.is_zero() {
                continue;
            }
            sound &= match level.checked_sub(1) {
                Some(level) => self.node(part, *below, level, at, report)?,
                None => self.chunk(part, *below, at, report),
            };
        }
        if sound {
            // To walk a part again costs time, to remember all of a large store memory.
            if self.sound.len() >= SOUND_MAX {
                self.sound.clear();
            }
            self.sound.insert(pointer.id);
        }
        Ok(sound)
    }

    fn chunk(
        &self,
        part: &Part<'_>,
        pointer: Pointer,
        index: u64,
        report: &mut VerifyReport,
    ) -> bool {
        match self.look_at(pointer, CHUNK_BYTES as u64) {
            Ok(read_bytes) => {
                report.read_bytes += read_bytes;
                true
            }
            Err(error) => {
                report.note(part.damaged_chunks(&error, index, 1));
                false
            }
        }
    }

    /// Proves a chunk, or that it is where it was proven. Gives the bytes that were read for it.
    fn look_at(&self, pointer: Pointer, length: u64) -> Result<u64, RepoError> {
        if pointer.id.is_zero() {
            return Ok(0);
        }
        if let Reading::MapsOnly { hurt } = self.reading
            && !hurt.contains(&pointer.place)
            && let Ok(Some(table)) = self.store.packs().table(pointer.place.pack)
            && table.holds(pointer.id, pointer.place.slot)
        {
            return Ok(0);
        }
        // To be read, or not in a table: in a pack still open, moved, or hurt. Reading tells.
        let chunk = self
            .store
            .record(pointer.id, pointer.place, RecordKind::Chunk)?;
        if chunk.len() as u64 == length {
            return Ok(length);
        }
        Err(RepoError::Corrupt {
            what: format!("the map that names chunk {}", pointer.id),
            detail: format!("the chunk has {} bytes", chunk.len()),
        })
    }

    fn stream(&self, point: &Point, stream: &StreamRecord, report: &mut VerifyReport) {
        let part = Part {
            point,
            name: &stream.name,
            size_bytes: stream.size_bytes,
        };
        let mut reader =
            StreamReader::new(self.store, stream.root, stream.depth, stream.size_bytes);
        let mut offset = 0_u64;
        while let Some(next) = reader.next_part() {
            let length = match next {
                StreamPart::Chunk(entry) => {
                    match self.look_at(entry.pointer, entry.length_bytes) {
                        Ok(read_bytes) => report.read_bytes += read_bytes,
                        Err(error) => report.note(part.damage(&error, offset, entry.length_bytes)),
                    }
                    entry.length_bytes
                }
                StreamPart::Lost {
                    error,
                    length_bytes,
                } => {
                    report.note(part.damage(&error, offset, length_bytes));
                    length_bytes
                }
            };
            offset = offset.saturating_add(length);
        }
    }
}

/// Nodes that are remembered: about 100 MiB. Each stands for 64 MiB of a disk and more.
const SOUND_MAX: usize = 2 << 20;

impl Part<'_> {
    /// A hurt stretch, as far as it lies on the disk or stream.
    fn damage(&self, error: &RepoError, offset: u64, length: u64) -> Damage {
        let end = offset.saturating_add(length).min(self.size_bytes);
        Damage {
            what: error.to_string(),
            point: Some(self.point.name.clone()),
            part: Some(self.name.to_owned()),
            offset: Some(offset),
            length: Some(end.saturating_sub(offset)),
        }
    }

    /// A hurt stretch of chunks.
    fn damaged_chunks(&self, error: &RepoError, first: u64, count: u64) -> Damage {
        let bytes = |chunks: u64| chunks.saturating_mul(CHUNK_BYTES as u64);
        self.damage(error, bytes(first), bytes(count))
    }
}
