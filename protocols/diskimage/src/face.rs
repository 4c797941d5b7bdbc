//! A disk and what its format puts around it, as one file.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use export::{
    BlockExport, BlockProperties, BlockState, Durability, ExportError, Extent, Segments, ZeroMode,
};
use parking_lot::Mutex;

use crate::layout::{Content, Layout, Part, Region};

/// A disk as the file of a format. Its size is the file's.
///
/// Writes to blocks of the disk reach the disk. Writes to what the format puts around it succeed where they change
/// nothing; where a format notes that a file is in use, such notes are kept until the face is dropped; anything else is
/// [`ExportError::NotPermitted`], because the place of a block must not change.
pub struct Face {
    disk: Arc<dyn BlockExport>,
    layout: Layout,
    properties: BlockProperties,
    /// Content of [`Content::Scratch`] regions that was changed, by their number.
    scratch: Mutex<BTreeMap<usize, Vec<u8>>>,
    refused: AtomicBool,
}

impl Face {
    pub(crate) fn new(disk: Arc<dyn BlockExport>, layout: Layout, identity: [u8; 16]) -> Self {
        let properties = BlockProperties {
            size_bytes: layout.length(),
            identity,
            ..disk.properties()
        };
        Self {
            disk,
            layout,
            properties,
            scratch: Mutex::default(),
            refused: AtomicBool::new(false),
        }
    }

    /// What a part that is not of the disk reads as.
    fn own_bytes(&self, part: &Part<'_>) -> Segments {
        let length = usize::try_from(part.length).unwrap_or(usize::MAX);
        let changed = matches!(part.region.content, Content::Scratch(_))
            .then(|| self.scratch.lock().get(&part.number).cloned())
            .flatten();
        let mut segments = Segments::new();
        match (&part.region.content, changed) {
            (Content::Table(table), _) => segments.push(table.bytes(part.offset, length).into()),
            (_, Some(bytes)) => segments.push(piece(&bytes.into(), part)),
            (Content::Fixed(bytes) | Content::Scratch(bytes), None) => {
                segments.push(piece(bytes, part))
            }
            (Content::Empty | Content::Disk(_), None) => {}
        }
        segments.push_zeroes(length - segments.len());
        segments
    }

    /// Refuses a change of what the format puts around the disk, and says once in the log what that means.
    fn refuse(&self, part: &Part<'_>) -> ExportError {
        if !self.refused.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                offset = part.region.start + part.offset,
                "a program tries to change the tables of a disk image, whose blocks have fixed places; it is refused. \
                 Discards and snapshots of the format do that: switch them off for this disk"
            );
        }
        ExportError::NotPermitted
    }

    /// Refuses a write if any of it would change what must stay.
    fn check_write(&self, offset: u64, data: &[Bytes]) -> Result<(), ExportError> {
        let length = data.iter().map(|piece| piece.len() as u64).sum();
        self.check_change(offset, length)?;
        let mut rest = Rest::new(data);
        for part in self.layout.parts(offset, length) {
            let pieces = rest.take(part.length);
            let free = matches!(part.region.content, Content::Disk(_) | Content::Scratch(_));
            if !free
                && !self
                    .own_bytes(&part)
                    .to_vec()
                    .iter()
                    .eq(pieces.iter().flatten())
            {
                return Err(self.refuse(&part));
            }
        }
        Ok(())
    }

    fn check_change(&self, offset: u64, length: u64) -> Result<(), ExportError> {
        if self.properties.read_only {
            return Err(ExportError::ReadOnly);
        }
        self.properties.check(offset, length)
    }

    /// Changes a part of a scratch region.
    fn scribble(&self, part: &Part<'_>, change: impl FnOnce(&mut [u8])) {
        let mut scratch = self.scratch.lock();
        let bytes = scratch.entry(part.number).or_insert_with(|| {
            let whole = Part {
                offset: 0,
                length: part.region.length,
                ..*part
            };
            let mut bytes = match &part.region.content {
                Content::Scratch(bytes) => piece(bytes, &whole).to_vec(),
                _ => Vec::new(),
            };
            bytes.resize(usize::try_from(part.region.length).unwrap_or(0), 0);
            bytes
        });
        let start = usize::try_from(part.offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(usize::try_from(part.length).unwrap_or(usize::MAX));
        change(bytes.get_mut(start..end).unwrap_or_default());
    }

    /// Does something with a range of which only the disk and scratch regions may be touched.
    fn change_range(
        &self,
        offset: u64,
        length: u64,
        on_disk: impl Fn(u64, u64) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        self.check_change(offset, length)?;
        let kept =
            |region: &Region| matches!(region.content, Content::Fixed(_) | Content::Table(_));
        if let Some(part) = self
            .layout
            .parts(offset, length)
            .find(|part| kept(part.region))
        {
            return Err(self.refuse(&part));
        }
        for part in self.layout.parts(offset, length) {
            match part.region.content {
                Content::Disk(start) => on_disk(start + part.offset, part.length)?,
                Content::Scratch(_) => self.scribble(&part, |bytes| bytes.fill(0)),
                Content::Fixed(_) | Content::Table(_) | Content::Empty => {}
            }
        }
        Ok(())
    }

    /// The only part of a range, if the disk has all of it: where on the disk it starts.
    fn on_disk(&self, offset: u64, length: u64) -> Option<u64> {
        let mut parts = self.layout.parts(offset, length);
        let (part, None) = (parts.next()?, parts.next()) else {
            return None;
        };
        match part.region.content {
            Content::Disk(start) if part.length == length => Some(start + part.offset),
            _ => None,
        }
    }
}

impl BlockExport for Face {
    fn properties(&self) -> BlockProperties {
        self.properties
    }

    fn read(&self, offset: u64, length: u32) -> Result<Segments, ExportError> {
        self.properties.check(offset, u64::from(length))?;
        let mut segments = Segments::new();
        for part in self.layout.parts(offset, u64::from(length)) {
            segments.append(match part.region.content {
                Content::Disk(start) => self.disk.read(start + part.offset, narrow(part.length))?,
                _ => self.own_bytes(&part),
            });
        }
        Ok(segments)
    }

    fn read_cached(&self, offset: u64, length: u32) -> Option<Result<Segments, ExportError>> {
        if let Err(error) = self.properties.check(offset, u64::from(length)) {
            return Some(Err(error));
        }
        let mut segments = Segments::new();
        for part in self.layout.parts(offset, u64::from(length)) {
            let found = match part.region.content {
                Content::Disk(start) => self
                    .disk
                    .read_cached(start + part.offset, narrow(part.length))?,
                _ => Ok(self.own_bytes(&part)),
            };
            match found {
                Ok(found) => segments.append(found),
                Err(error) => return Some(Err(error)),
            }
        }
        Some(Ok(segments))
    }

    fn write(
        &self,
        offset: u64,
        data: &[Bytes],
        durability: Durability,
    ) -> Result<(), ExportError> {
        let length = data.iter().map(|piece| piece.len() as u64).sum();
        if let Some(place) = self.on_disk(offset, length) {
            return self.disk.write(place, data, durability);
        }
        self.check_write(offset, data)?;
        let mut rest = Rest::new(data);
        for part in self.layout.parts(offset, length) {
            let pieces = rest.take(part.length);
            match part.region.content {
                Content::Disk(start) => {
                    self.disk.write(start + part.offset, &pieces, durability)?;
                }
                Content::Scratch(_) => self.scribble(&part, |bytes| {
                    for (byte, new) in bytes.iter_mut().zip(pieces.iter().flatten()) {
                        *byte = *new;
                    }
                }),
                Content::Fixed(_) | Content::Table(_) | Content::Empty => {}
            }
        }
        Ok(())
    }

    fn try_write(&self, offset: u64, data: &[Bytes]) -> Option<Result<(), ExportError>> {
        let length = data.iter().map(|piece| piece.len() as u64).sum();
        self.disk.try_write(self.on_disk(offset, length)?, data)
    }

    fn atomic_write_bytes(&self) -> u32 {
        self.disk.atomic_write_bytes()
    }

    fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        mode: ZeroMode,
        durability: Durability,
    ) -> Result<(), ExportError> {
        self.change_range(offset, length, |offset, length| {
            self.disk.write_zeroes(offset, length, mode, durability)
        })
    }

    fn discard(&self, offset: u64, length: u64, durability: Durability) -> Result<(), ExportError> {
        self.change_range(offset, length, |offset, length| {
            self.disk.discard(offset, length, durability)
        })
    }

    fn flush(&self) -> Result<(), ExportError> {
        self.disk.flush()
    }

    fn extents(&self, offset: u64, length: u64, limit: usize) -> Result<Vec<Extent>, ExportError> {
        self.properties.check(offset, length)?;
        let mut extents: Vec<Extent> = Vec::new();
        for part in self.layout.parts(offset, length) {
            let own = |state, depth| {
                vec![Extent {
                    length: part.length,
                    state,
                    depth,
                }]
            };
            let found = match part.region.content {
                Content::Disk(start) => {
                    let room = limit.saturating_sub(extents.len()).max(1);
                    self.disk.extents(start + part.offset, part.length, room)?
                }
                Content::Empty => own(BlockState::Hole, 0),
                _ => own(BlockState::Data, 1),
            };
            let told: u64 = found.iter().map(|extent| extent.length).sum();
            for extent in found {
                let full = extents.len() >= limit.max(1);
                match extents.last_mut() {
                    Some(last) if (last.state, last.depth) == (extent.state, extent.depth) => {
                        last.length += extent.length;
                    }
                    _ if full => return Ok(extents),
                    _ => extents.push(extent),
                }
            }
            if told < part.length {
                break;
            }
        }
        Ok(extents)
    }

    fn prefetch(&self, offset: u64, length: u64) {
        for part in self.layout.parts(offset, length) {
            if let Content::Disk(start) = part.region.content {
                self.disk.prefetch(start + part.offset, part.length);
            }
        }
    }
}

impl fmt::Debug for Face {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Face")
            .field("size_bytes", &self.properties.size_bytes)
            .finish_non_exhaustive()
    }
}

/// The bytes of a part of a region that starts with `bytes`.
fn piece(bytes: &Bytes, part: &Part<'_>) -> Bytes {
    let place = |offset: u64| {
        usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(bytes.len())
    };
    bytes.slice(place(part.offset)..place(part.offset + part.length))
}

/// Parts of a read are no longer than the read.
fn narrow(length: u64) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// Pieces that are taken from the front.
struct Rest<'a> {
    pieces: std::slice::Iter<'a, Bytes>,
    first: Bytes,
}

impl<'a> Rest<'a> {
    fn new(pieces: &'a [Bytes]) -> Self {
        Self {
            pieces: pieces.iter(),
            first: Bytes::new(),
        }
    }

    fn take(&mut self, mut length: u64) -> Vec<Bytes> {
        let mut taken = Vec::new();
        while length > 0 {
            if self.first.is_empty() {
                match self.pieces.next() {
                    Some(next) => self.first = next.clone(),
                    None => break,
                }
            }
            let step = usize::try_from(length)
                .unwrap_or(usize::MAX)
                .min(self.first.len());
            taken.push(self.first.split_to(step));
            length -= step as u64;
        }
        taken
    }
}
