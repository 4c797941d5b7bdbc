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
use crate::stream::StreamReader;

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
                report.note(part.damage(&error, first, span * 1024));
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
        match self.look_at(pointer) {
            Ok(read_bytes) => {
                report.read_bytes += read_bytes;
                true
            }
            Err(error) => {
                report.note(part.damage(&error, index, 1));
                false
            }
        }
    }

    /// Proves a chunk, or that it is where it was proven. Gives the bytes that were read for it.
    fn look_at(&self, pointer: Pointer) -> Result<u64, RepoError> {
        let Reading::MapsOnly { hurt } = self.reading else {
            return self
                .store
                .chunk_once(pointer.id, pointer.place)
                .map(|chunk| chunk.len() as u64);
        };
        let there = |place: Place| -> Result<bool, RepoError> {
            let table = self.store.packs().table(place.pack)?;
            Ok(!hurt.contains(&place)
                && table.is_some_and(|table| table.holds(pointer.id, place.slot)))
        };
        if there(pointer.place)? {
            return Ok(0);
        }
        // Not in a table: in a pack still open, moved, or hurt. Reading tells.
        self.store
            .record(pointer.id, pointer.place, RecordKind::Chunk)
            .map(|chunk| chunk.len() as u64)
    }

    fn stream(&self, point: &Point, stream: &StreamRecord, report: &mut VerifyReport) {
        let part = Part {
            point,
            name: &stream.name,
        };
        let mut reader =
            StreamReader::new(self.store, stream.root, stream.depth, stream.size_bytes);
        let mut offset = 0;
        loop {
            match reader.next_chunk() {
                Ok(None) => return,
                Ok(Some(chunk)) => offset += chunk.len() as u64,
                Err(error) => {
                    let mut damage = part.damage(&error, 0, 0);
                    damage.offset = Some(offset);
                    damage.length = stream.size_bytes.checked_sub(offset);
                    report.note(damage);
                    return;
                }
            }
        }
    }
}

impl Part<'_> {
    fn damage(&self, error: &RepoError, first_chunk: u64, chunks: u64) -> Damage {
        Damage {
            what: error.to_string(),
            point: Some(self.point.name.clone()),
            part: Some(self.name.to_owned()),
            offset: Some(first_chunk.saturating_mul(CHUNK_BYTES as u64)),
            length: Some(chunks.saturating_mul(CHUNK_BYTES as u64)),
        }
    }
}
