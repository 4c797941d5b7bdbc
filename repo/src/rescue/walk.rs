//! Walking a map and giving what can be proven, in order.

use std::ops::ControlFlow;

use super::ground::sentence;
use super::records::Records;
use super::{RescueProgress, RescueReport, RescueTarget};
use crate::chunk::{CHUNK_BYTES, RAW_LENGTH_MAX};
use crate::error::RepoError;
use crate::image::{Pointer, depth_for};
use crate::overlay::{Overlay, OverlayState};

/// A walk over one disk or stream.
pub(super) struct Walk<'a, 'b> {
    records: &'a Records,
    target: &'a mut RescueTarget<'b>,
    progress: &'a mut RescueProgress<'b>,
    report: RescueReport,
}

impl<'a, 'b> Walk<'a, 'b> {
    pub(super) fn new(
        records: &'a Records,
        size_bytes: u64,
        target: &'a mut RescueTarget<'b>,
        progress: &'a mut RescueProgress<'b>,
    ) -> Self {
        Self {
            records,
            target,
            progress,
            report: RescueReport {
                size_bytes,
                ..RescueReport::default()
            },
        }
    }

    pub(super) fn finish(self) -> RescueReport {
        self.report
    }

    pub(super) fn disk(&mut self, root: Pointer) -> Result<(), RepoError> {
        self.image_node(root, depth_for(self.report.size_bytes) - 1, 0)
    }

    /// Gives what is below a node over the disk from chunk `first` on.
    fn image_node(&mut self, pointer: Pointer, level: u8, first: u64) -> Result<(), RepoError> {
        let start = first.saturating_mul(CHUNK_BYTES as u64);
        if pointer.id.is_zero() || start >= self.report.size_bytes {
            return Ok(());
        }
        let span = 1_u64 << (u32::from(level) * 10);
        let node = match self.records.image_node(pointer, level) {
            Ok(node) => node,
            Err(error) => {
                let reach = (span * 1024).saturating_mul(CHUNK_BYTES as u64);
                self.miss(start, reach, &error);
                return Ok(());
            }
        };
        match level.checked_sub(1) {
            Some(below) => {
                for (pointer, step) in node.pointers().iter().zip(0_u64..) {
                    self.image_node(*pointer, below, first + step * span)?;
                }
            }
            None => self.leaf(node.pointers(), first)?,
        }
        Ok(())
    }

    /// Gives the chunks of a leaf, some at a time.
    fn leaf(&mut self, pointers: &[Pointer], first: u64) -> Result<(), RepoError> {
        let chunk = CHUNK_BYTES as u64;
        let end = self.report.size_bytes.div_ceil(chunk);
        let stored: Vec<(u64, Pointer)> = (first..end)
            .zip(pointers.iter().copied())
            .filter(|(_, pointer)| !pointer.id.is_zero())
            .collect();
        for batch in stored.chunks(BATCH_CHUNKS) {
            let wanted: Vec<Pointer> = batch.iter().map(|(_, pointer)| *pointer).collect();
            for ((index, _), chunk) in batch.iter().zip(self.records.chunks(&wanted)) {
                let offset = index * CHUNK_BYTES as u64;
                match chunk {
                    Ok(bytes) => self.give(offset, &bytes)?,
                    Err(error) => self.miss(offset, CHUNK_BYTES as u64, &error),
                }
            }
        }
        self.step((first + pointers.len() as u64).saturating_mul(chunk))
    }

    pub(super) fn stream(&mut self, root: Pointer, depth: u8) -> Result<(), RepoError> {
        self.stream_part(root, depth, 0, self.report.size_bytes)
    }

    /// Gives what is below an entry of a stream's map.
    fn stream_part(
        &mut self,
        pointer: Pointer,
        depth: u8,
        offset: u64,
        length: u64,
    ) -> Result<(), RepoError> {
        let Some(level) = depth.checked_sub(1) else {
            return self.stream_chunk(pointer, offset, length);
        };
        let node = match self.records.stream_node(pointer, level, length) {
            Ok(node) => node,
            Err(error) => {
                self.miss(offset, length, &error);
                return Ok(());
            }
        };
        let mut at = offset;
        for entry in &node.entries {
            self.stream_part(entry.pointer, level, at, entry.length_bytes)?;
            at += entry.length_bytes;
        }
        self.step(at)
    }

    fn stream_chunk(
        &mut self,
        pointer: Pointer,
        offset: u64,
        length: u64,
    ) -> Result<(), RepoError> {
        let bytes = usize::try_from(length)
            .ok()
            .filter(|length| *length <= RAW_LENGTH_MAX);
        let chunk = match bytes {
            None => Err(RepoError::Corrupt {
                what: format!("the map that names chunk {}", pointer.id),
                detail: "the chunk is longer than any can be".to_owned(),
            }),
            Some(length) if pointer.id.is_zero() => Ok(vec![0; length].into()),
            Some(length) => self.records.chunk(pointer, length),
        };
        match chunk {
            Ok(bytes) => self.give(offset, &bytes),
            Err(error) => {
                self.miss(offset, length, &error);
                Ok(())
            }
        }
    }

    pub(super) fn overlay(&mut self, overlay: &Overlay) -> Result<(), RepoError> {
        let end = overlay.size_bytes();
        let mut at = 0;
        while at < end {
            for extent in overlay.extents(at, end - at, EXTENTS_AT_ONCE)? {
                if extent.state == OverlayState::Data {
                    self.overlay_data(overlay, at, at + extent.length)?;
                }
                at += extent.length;
                self.step(at)?;
            }
        }
        Ok(())
    }

    /// Gives a stretch of an overlay chunk by chunk, and sector by sector where a chunk cannot be read whole.
    fn overlay_data(&mut self, overlay: &Overlay, start: u64, end: u64) -> Result<(), RepoError> {
        let chunk = CHUNK_BYTES as u64;
        let mut at = start;
        while at < end {
            let part_end = end.min((at / chunk + 1) * chunk);
            if self.overlay_part(overlay, at, part_end).is_err() {
                for sector in (at..part_end).step_by(SECTOR_BYTES) {
                    let sector_end = part_end.min(sector + SECTOR_BYTES as u64);
                    match self.overlay_part(overlay, sector, sector_end) {
                        Err(error @ RepoError::Transfer { .. }) => return Err(error),
                        Err(error) => self.miss(sector, sector_end - sector, &error),
                        Ok(()) => {}
                    }
                }
            }
            at = part_end;
        }
        Ok(())
    }

    fn overlay_part(&mut self, overlay: &Overlay, start: u64, end: u64) -> Result<(), RepoError> {
        let length = u32::try_from(end - start).expect("a part lies within a chunk");
        let mut pieces = Vec::new();
        overlay.read(start, length, &mut pieces)?;
        let mut at = start;
        for piece in pieces {
            self.give(at, &piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn give(&mut self, offset: u64, bytes: &[u8]) -> Result<(), RepoError> {
        let room = self.report.size_bytes.saturating_sub(offset);
        let length = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        let bytes = bytes.get(..length).unwrap_or_default();
        self.report.data_bytes += bytes.len() as u64;
        (self.target)(offset, bytes).map_err(|source| RepoError::Transfer {
            action: "write the restored bytes",
            offset,
            source,
        })
    }

    fn miss(&mut self, offset: u64, length: u64, error: &RepoError) {
        let length = length.min(self.report.size_bytes.saturating_sub(offset));
        self.report.miss(offset, length, sentence(error));
    }

    fn step(&mut self, done: u64) -> Result<(), RepoError> {
        match (self.progress)(done.min(self.report.size_bytes)) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(RepoError::Stopped),
        }
    }
}

/// Extents of an overlay that are looked up together.
const EXTENTS_AT_ONCE: usize = 1024;
const SECTOR_BYTES: usize = 512;

/// Chunks that are read together.
const BATCH_CHUNKS: usize = 16;
