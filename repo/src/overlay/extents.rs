//! What an overlay says about its content without reading it.

use std::ops::ControlFlow;

use super::Overlay;
use super::format::SECTOR_BYTES;
use super::map::{Content, Fill, Look};
use crate::CHUNK_BYTES;
use crate::error::RepoError;

/// A stretch of the disk that is all in one state and in one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverlayExtent {
    /// Bytes.
    pub length: u64,
    /// What is there.
    pub state: OverlayState,
    /// Whether it was written here, not in the point below.
    pub own: bool,
}

/// What a stretch of the disk holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverlayState {
    /// Bytes.
    Data,
    /// Zeroes that keep their space.
    Zero,
    /// Zeroes without space.
    Hole,
}

/// A stretch as the map has it.
struct Stretch {
    offset: u64,
    length: u64,
    layer: Layer,
}

/// Where a stretch comes from.
enum Layer {
    /// The point has it there.
    Point,
    /// It was copied from there, from this offset on.
    PointFrom(u64),
    /// It was written.
    Own(OverlayState),
}

impl Overlay {
    /// Describes a range in order, without gaps, merging equal neighbours; ends after `length` bytes or `limit`
    /// extents (at least one), whichever is first.
    pub fn extents(
        &self,
        offset: u64,
        length: u64,
        limit: usize,
    ) -> Result<Vec<OverlayExtent>, RepoError> {
        let mut runs = Runs::new(limit);
        self.stretches(offset, length, |stretch| match stretch.layer {
            Layer::Own(state) => Ok(runs.add(stretch.length, (state, true))),
            Layer::Point => self.describe_below(stretch.offset, stretch.length, false, &mut runs),
            Layer::PointFrom(offset) => {
                self.describe_below(offset, stretch.length, true, &mut runs)
            }
        })?;
        let extent = |(length, (state, own))| OverlayExtent { length, state, own };
        Ok(runs.runs.into_iter().map(extent).collect())
    }

    /// Tells for a range which bytes were written here: `(length, changed)` in order, with the same ends as
    /// [`extents`](Self::extents).
    pub fn changes(
        &self,
        offset: u64,
        length: u64,
        limit: usize,
    ) -> Result<Vec<(u64, bool)>, RepoError> {
        let mut runs = Runs::new(limit);
        self.stretches(offset, length, |stretch| {
            let own = !matches!(stretch.layer, Layer::Point);
            Ok(runs.add(stretch.length, own))
        })?;
        Ok(runs.runs)
    }

    fn describe_below(
        &self,
        offset: u64,
        length: u64,
        own: bool,
        runs: &mut Runs<(OverlayState, bool)>,
    ) -> Result<ControlFlow<()>, RepoError> {
        let chunk_bytes = CHUNK_BYTES as u64;
        let end = offset + length;
        let mut at = offset;
        while at < end {
            let chunk = at / chunk_bytes;
            let part_end = end.min((chunk + 1) * chunk_bytes);
            let state = if self.source.is_zero(chunk)? {
                OverlayState::Hole
            } else {
                OverlayState::Data
            };
            if runs.add(part_end - at, (state, own)).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            at = part_end;
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Shows the stretches of a range, without holding the map while `visit` is at work.
    fn stretches(
        &self,
        offset: u64,
        length: u64,
        mut visit: impl FnMut(&Stretch) -> Result<ControlFlow<()>, RepoError>,
    ) -> Result<(), RepoError> {
        self.check_range(offset, length)?;
        let end = offset + length;
        let mut at = offset;
        while at < end {
            let mut batch = Vec::new();
            {
                let mut map = self.map.lock();
                map.walk(
                    at / SECTOR_BYTES,
                    (end - at) / SECTOR_BYTES,
                    Look::Everywhere,
                    &mut |span| {
                        let layer = match span.content {
                            Content::Below => Layer::Point,
                            Content::PointFrom { sector } => {
                                Layer::PointFrom(sector * SECTOR_BYTES)
                            }
                            Content::Fill(Fill::Zero) => Layer::Own(OverlayState::Zero),
                            Content::Fill(Fill::Hole) => Layer::Own(OverlayState::Hole),
                            Content::Data { .. } => Layer::Own(OverlayState::Data),
                        };
                        let (offset, length) =
                            (span.sector * SECTOR_BYTES, span.sectors * SECTOR_BYTES);
                        batch.push(Stretch {
                            offset,
                            length,
                            layer,
                        });
                        if batch.len() < BATCH {
                            ControlFlow::Continue(())
                        } else {
                            ControlFlow::Break(())
                        }
                    },
                )?;
                map.shrink();
            }
            for stretch in &batch {
                at = stretch.offset + stretch.length;
                if visit(stretch)?.is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Gathers equal neighbours, up to a number of runs.
struct Runs<T> {
    runs: Vec<(u64, T)>,
    limit: usize,
}

impl<T: PartialEq> Runs<T> {
    fn new(limit: usize) -> Self {
        Self {
            runs: Vec::new(),
            limit: limit.max(1),
        }
    }

    /// Breaks when there is no room for this one.
    fn add(&mut self, length: u64, what: T) -> ControlFlow<()> {
        let full = self.runs.len() == self.limit;
        match self.runs.last_mut() {
            Some((total, last)) if *last == what => *total += length,
            _ if full => return ControlFlow::Break(()),
            _ => self.runs.push((length, what)),
        }
        ControlFlow::Continue(())
    }
}

/// Stretches looked up at once.
const BATCH: usize = 1024;
