//! A writable disk: the overlay of a recovery session.

use std::any::Any;
use std::sync::Arc;

use bytes::Bytes;
use export::{
    BlockExport, BlockProperties, BlockState, Durability, ExportError, Extent, Segments, ZeroMode,
};
use repo::overlay::{Overlay, OverlayState};

use super::earlier_points::{EarlierPoints, either};
use super::pieces;
use super::status::status;

/// An overlay as a block export. Its change map `written` shows what differs from the restore point below, the others
/// what differs from earlier points.
pub struct OverlayDisk {
    overlay: Arc<Overlay>,
    earlier: EarlierPoints,
    properties: BlockProperties,
}

/// The change map of what was written since the session began.
const WRITTEN: &str = "written";

/// More than any database writes at once; the journal would keep longer ones whole, too.
const ATOMIC_WRITE_BYTES: u32 = 1 << 20;

impl OverlayDisk {
    /// Serves `overlay`; `earlier` are the points before the one below it.
    pub fn new(overlay: Arc<Overlay>, earlier: EarlierPoints) -> Self {
        let properties = BlockProperties {
            size_bytes: overlay.size_bytes(),
            block_size_bytes: 512,
            preferred_size_bytes: 4096,
            read_only: false,
            identity: *overlay.id().as_bytes(),
        };
        Self {
            overlay,
            earlier,
            properties,
        }
    }

    fn check_data(&self, offset: u64, data: &[Bytes]) -> Result<(), ExportError> {
        self.properties
            .check(offset, data.iter().map(|piece| piece.len() as u64).sum())
    }
}

impl BlockExport for OverlayDisk {
    fn properties(&self) -> BlockProperties {
        self.properties
    }

    fn read(&self, offset: u64, length: u32) -> Result<Segments, ExportError> {
        pieces::read(&self.properties, offset, length, |found| {
            self.overlay.read(offset, length, found)
        })
    }

    fn read_cached(&self, offset: u64, length: u32) -> Option<Result<Segments, ExportError>> {
        pieces::read_cached(&self.properties, offset, length, |found| {
            self.overlay.read_cached(offset, length, found)
        })
    }

    fn write(
        &self,
        offset: u64,
        data: &[Bytes],
        durability: Durability,
    ) -> Result<(), ExportError> {
        self.check_data(offset, data)?;
        self.overlay
            .write(offset, data, is_stable(durability))
            .map_err(|error| status(&error))
    }

    fn try_write(&self, offset: u64, data: &[Bytes]) -> Option<Result<(), ExportError>> {
        if let Err(refused) = self.check_data(offset, data) {
            return Some(Err(refused));
        }
        Some(
            self.overlay
                .try_write(offset, data)?
                .map_err(|error| status(&error)),
        )
    }

    /// A write is one call in the journal, which is there in whole or not at all.
    fn atomic_write_bytes(&self) -> u32 {
        ATOMIC_WRITE_BYTES
    }

    fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        mode: ZeroMode,
        durability: Durability,
    ) -> Result<(), ExportError> {
        self.properties.check(offset, length)?;
        let keep_allocated = mode == ZeroMode::KeepAllocated;
        let stable = is_stable(durability);
        self.overlay
            .write_zeroes(offset, length, keep_allocated, stable)
            .map_err(|error| status(&error))
    }

    fn discard(&self, offset: u64, length: u64, durability: Durability) -> Result<(), ExportError> {
        self.properties.check(offset, length)?;
        self.overlay
            .discard(offset, length, is_stable(durability))
            .map_err(|error| status(&error))
    }

    fn copy_from(
        &self,
        offset: u64,
        source: &dyn BlockExport,
        source_offset: u64,
        length: u64,
        durability: Durability,
    ) -> Result<bool, ExportError> {
        self.properties.check(offset, length)?;
        source.properties().check(source_offset, length)?;
        let Some(source) = (source as &dyn Any).downcast_ref::<Self>() else {
            return Ok(false);
        };
        let stable = is_stable(durability);
        self.overlay
            .copy_from(offset, &source.overlay, source_offset, length, stable)
            .map_err(|error| status(&error))
    }

    fn flush(&self) -> Result<(), ExportError> {
        self.overlay.flush().map_err(|error| status(&error))
    }

    fn extents(&self, offset: u64, length: u64, limit: usize) -> Result<Vec<Extent>, ExportError> {
        self.properties.check(offset, length)?;
        let extents = self
            .overlay
            .extents(offset, length, limit)
            .map_err(|error| status(&error))?;
        let mut answer: Vec<Extent> = Vec::with_capacity(extents.len());
        for extent in extents {
            let state = match extent.state {
                OverlayState::Data => BlockState::Data,
                OverlayState::Zero => BlockState::Zero,
                OverlayState::Hole => BlockState::Hole,
            };
            let depth = match (extent.own, state) {
                (true, _) => 1,
                (false, BlockState::Hole) => 0,
                (false, _) => 2,
            };
            match answer.last_mut() {
                Some(last) if (last.state, last.depth) == (state, depth) => {
                    last.length += extent.length
                }
                _ => answer.push(Extent {
                    length: extent.length,
                    state,
                    depth,
                }),
            }
        }
        Ok(answer)
    }

    fn change_maps(&self) -> Vec<String> {
        let mut maps = vec![WRITTEN.to_owned()];
        maps.extend(self.earlier.maps());
        maps
    }

    fn changes(
        &self,
        map: &str,
        offset: u64,
        length: u64,
        limit: usize,
    ) -> Result<Vec<(u64, bool)>, ExportError> {
        self.properties.check(offset, length)?;
        let written = self
            .overlay
            .changes(offset, length, limit)
            .map_err(|error| status(&error));
        if map == WRITTEN {
            return written;
        }
        let below = self.earlier.changes(map, offset, length, limit)?;
        Ok(either(&written?, &below, limit))
    }
}

impl std::fmt::Debug for OverlayDisk {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("OverlayDisk")
            .field("properties", &self.properties)
            .finish_non_exhaustive()
    }
}

fn is_stable(durability: Durability) -> bool {
    durability == Durability::Stable
}
