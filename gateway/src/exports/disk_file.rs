//! A disk as a file: any byte range over an export of 512-byte blocks.

use std::sync::Arc;

use bytes::Bytes;
use export::{BlockExport, Durability, ExportError, Segments};
use parking_lot::RwLock;

/// A disk that is read and written at any byte.
pub(crate) struct DiskFile {
    export: Arc<dyn BlockExport>,
    block_bytes: u64,
    size_bytes: u64,
    /// Held alone while a block is read, changed in part and written back, so that no other write that comes through
    /// the file meanwhile is undone; held together by all other writes.
    edges: RwLock<()>,
}

impl DiskFile {
    pub(crate) fn new(export: Arc<dyn BlockExport>) -> Self {
        let properties = export.properties();
        Self {
            export,
            block_bytes: properties.block_size_bytes.into(),
            size_bytes: properties.size_bytes,
            edges: RwLock::new(()),
        }
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.export.properties().read_only
    }

    /// Reads a range inside the disk.
    pub(crate) fn read(&self, offset: u64, length: u32) -> Result<Segments, ExportError> {
        if length == 0 {
            return Ok(Segments::new());
        }
        if self.is_aligned(offset, length.into()) {
            return self.export.read(offset, length);
        }
        let (start, wide) = self.widen(offset, length)?;
        let all = self.export.read(start, wide)?;
        Ok(cut(all, offset - start, length))
    }

    pub(crate) fn read_cached(
        &self,
        offset: u64,
        length: u32,
    ) -> Option<Result<Segments, ExportError>> {
        if length == 0 {
            return Some(Ok(Segments::new()));
        }
        if self.is_aligned(offset, length.into()) {
            return self.export.read_cached(offset, length);
        }
        let (start, wide) = self.widen(offset, length).ok()?;
        let all = self.export.read_cached(start, wide)?;
        Some(all.map(|all| cut(all, offset - start, length)))
    }

    /// Writes a range; gives its end. A disk does not grow.
    pub(crate) fn write(
        &self,
        offset: u64,
        data: &[Bytes],
        durability: Durability,
    ) -> Result<u64, ExportError> {
        let (length, end) = self.check(offset, data)?;
        if length == 0 {
            return Ok(0);
        }
        if self.is_aligned(offset, length) {
            let _together = self.edges.read();
            self.export.write(offset, data, durability)?;
            return Ok(end);
        }
        let _alone = self.edges.write();
        let wide = self.complete(offset, end, data)?;
        self.export
            .write(offset - offset % self.block_bytes, &wide, durability)?;
        Ok(end)
    }

    pub(crate) fn try_write(
        &self,
        offset: u64,
        data: &[Bytes],
    ) -> Option<Result<u64, ExportError>> {
        match self.check(offset, data) {
            Ok((0, _)) => Some(Ok(0)),
            Ok((length, end)) if self.is_aligned(offset, length) => {
                let _together = self.edges.try_read()?;
                Some(self.export.try_write(offset, data)?.map(|()| end))
            }
            Ok(_) => None,
            Err(refused) => Some(Err(refused)),
        }
    }

    pub(crate) fn flush(&self) -> Result<(), ExportError> {
        self.export.flush()
    }

    fn check(&self, offset: u64, data: &[Bytes]) -> Result<(u64, u64), ExportError> {
        let length: u64 = data.iter().map(|piece| piece.len() as u64).sum();
        match offset.checked_add(length) {
            Some(end) if end <= self.size_bytes => Ok((length, end)),
            _ => Err(ExportError::TooLarge),
        }
    }

    fn is_aligned(&self, offset: u64, length: u64) -> bool {
        (offset | length).is_multiple_of(self.block_bytes)
    }

    /// The blocks that hold a range.
    fn widen(&self, offset: u64, length: u32) -> Result<(u64, u32), ExportError> {
        let start = offset - offset % self.block_bytes;
        let end = (offset + u64::from(length)).next_multiple_of(self.block_bytes);
        let length = u32::try_from(end - start).map_err(|_| ExportError::Invalid)?;
        Ok((start, length))
    }

    /// The data with what stands before and after it in its first and last block.
    fn complete(&self, offset: u64, end: u64, data: &[Bytes]) -> Result<Vec<Bytes>, ExportError> {
        let start = offset - offset % self.block_bytes;
        let wide_end = end.next_multiple_of(self.block_bytes);
        let block = u32::try_from(self.block_bytes).map_err(|_| ExportError::Invalid)?;
        let part = |start: u64, from: u64, to: u64| -> Result<Segments, ExportError> {
            let length = u32::try_from(to - from).map_err(|_| ExportError::Invalid)?;
            Ok(cut(self.export.read(start, block)?, from - start, length))
        };
        let mut pieces = Vec::with_capacity(data.len() + 2);
        if offset > start {
            pieces.extend(part(start, start, offset)?.into_pieces());
        }
        pieces.extend(data.iter().cloned());
        if wide_end > end {
            pieces.extend(part(wide_end - self.block_bytes, end, wide_end)?.into_pieces());
        }
        Ok(pieces)
    }
}

/// `length` bytes from `skip` on; nothing is copied.
fn cut(all: Segments, skip: u64, length: u32) -> Segments {
    let mut answer = Segments::new();
    let mut skip = usize::try_from(skip).unwrap_or(usize::MAX);
    let mut left = length as usize;
    for piece in all.into_pieces() {
        let from = skip.min(piece.len());
        let to = from.saturating_add(left).min(piece.len());
        skip -= from;
        left -= to - from;
        answer.push(piece.slice(from..to));
    }
    answer
}
