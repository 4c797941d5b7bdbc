//! One disk of a restore point, read-only.

use bytes::Bytes;
use export::{
    BlockExport, BlockProperties, BlockState, Durability, ExportError, Extent, Segments, ZeroMode,
};
use repo::Image;

use super::earlier_points::EarlierPoints;
use super::pieces;
use super::status::status;

/// A disk of a restore point as a read-only block export. Its change maps show what differs from earlier points.
pub struct PointDisk {
    image: Image,
    earlier: EarlierPoints,
    properties: BlockProperties,
}

impl PointDisk {
    /// Serves `image`; `identity` must stay the same for this disk of this point.
    pub fn new(image: Image, earlier: EarlierPoints, identity: [u8; 16]) -> Self {
        let properties = BlockProperties {
            size_bytes: image.size_bytes(),
            block_size_bytes: 512,
            preferred_size_bytes: 64 * 1024,
            read_only: true,
            identity,
        };
        Self {
            image,
            earlier,
            properties,
        }
    }
}

impl BlockExport for PointDisk {
    fn properties(&self) -> BlockProperties {
        self.properties
    }

    fn read(&self, offset: u64, length: u32) -> Result<Segments, ExportError> {
        pieces::read(&self.properties, offset, length, |found| {
            self.image.read(offset, length, found)
        })
    }

    fn read_cached(&self, offset: u64, length: u32) -> Option<Result<Segments, ExportError>> {
        pieces::read_cached(&self.properties, offset, length, |found| {
            self.image.read_cached(offset, length, found)
        })
    }

    fn write(&self, _: u64, _: &[Bytes], _: Durability) -> Result<(), ExportError> {
        Err(ExportError::ReadOnly)
    }

    fn write_zeroes(&self, _: u64, _: u64, _: ZeroMode, _: Durability) -> Result<(), ExportError> {
        Err(ExportError::ReadOnly)
    }

    fn discard(&self, _: u64, _: u64, _: Durability) -> Result<(), ExportError> {
        Err(ExportError::ReadOnly)
    }

    fn flush(&self) -> Result<(), ExportError> {
        Ok(())
    }

    fn extents(&self, offset: u64, length: u64, limit: usize) -> Result<Vec<Extent>, ExportError> {
        self.properties.check(offset, length)?;
        let extents = self
            .image
            .extents(offset, length, limit)
            .map_err(|error| status(&error))?;
        Ok(extents
            .into_iter()
            .map(|extent| match extent.data {
                true => Extent {
                    length: extent.length,
                    state: BlockState::Data,
                    depth: 1,
                },
                false => Extent {
                    length: extent.length,
                    state: BlockState::Hole,
                    depth: 0,
                },
            })
            .collect())
    }

    fn change_maps(&self) -> Vec<String> {
        self.earlier.maps()
    }

    fn changes(
        &self,
        map: &str,
        offset: u64,
        length: u64,
        limit: usize,
    ) -> Result<Vec<(u64, bool)>, ExportError> {
        self.properties.check(offset, length)?;
        self.earlier.changes(map, offset, length, limit)
    }
}

impl std::fmt::Debug for PointDisk {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("PointDisk")
            .field("properties", &self.properties)
            .finish_non_exhaustive()
    }
}
