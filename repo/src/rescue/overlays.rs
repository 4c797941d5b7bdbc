//! Overlays of a repository that is only read: a journal over what is left of the point below it.
//!
//! The overlay opens as it always does, over a disk that takes no writes and with a map that lives in memory; a torn
//! tail is left out. Nothing is answered but what is proven.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use uuid::Uuid;

use super::ground::Ground;
use super::records::Records;
use crate::chunk::CHUNK_BYTES;
use crate::clock::SystemClock;
use crate::error::RepoError;
use crate::image::{ChunkSource, ImageNode, Pointer, depth_for, slot_of};
use crate::overlay::{MemoryPages, Overlay, OverlayKeys, OverlayRecord, OverlaySettings};

/// Opens the overlay of that name over what is left of its point.
pub(super) fn open(
    ground: &Ground,
    records: &Arc<Records>,
    id: Uuid,
) -> Result<(OverlayRecord, Overlay), RepoError> {
    let keys = OverlayKeys::new(Arc::clone(&ground.keys));
    let record = crate::overlay::find(ground.disk.as_ref(), &keys, id)?;
    let point = ground
        .points
        .iter()
        .find(|point| point.name == record.point);
    let image = point.and_then(|point| point.images.get(record.disk));
    let below = Below {
        records: Arc::clone(records),
        size_bytes: record.size_bytes,
        depth: depth_for(record.size_bytes),
        root: image
            .filter(|image| image.size_bytes == record.size_bytes)
            .map(|image| image.root),
        name: format!("disk {} of restore point {}", record.disk, record.point),
        leaf: Mutex::default(),
    };
    let overlay = Overlay::open(
        Arc::clone(&ground.disk),
        &keys,
        Arc::new(SystemClock),
        Arc::new(MemoryPages::new()),
        Arc::new(below),
        OverlaySettings::default(),
        id,
    )?;
    Ok((record, overlay))
}

/// The overlays whose documents are sound; `unreadable` is told of the others.
pub(super) fn list(ground: &Ground, unreadable: &mut dyn FnMut(RepoError)) -> Vec<OverlayRecord> {
    let keys = OverlayKeys::new(Arc::clone(&ground.keys));
    crate::overlay::readable(ground.disk.as_ref(), &keys, unreadable)
}

/// What is left of the disk below an overlay.
struct Below {
    records: Arc<Records>,
    size_bytes: u64,
    depth: u8,
    /// None: its manifest is gone.
    root: Option<Pointer>,
    name: String,
    /// The leaf that was asked last, by the first chunk below it.
    leaf: Mutex<Option<(u64, Option<ImageNode>)>>,
}

impl Below {
    fn pointer(&self, index: u64) -> Result<Pointer, RepoError> {
        let first = index - index % ImageNode::FAN_OUT as u64;
        let mut leaf = self.leaf.lock();
        let known = match leaf.take().filter(|(start, _)| *start == first) {
            Some((_, node)) => node,
            None => self.leaf(index)?,
        };
        let pointer = known
            .as_ref()
            .map_or(Pointer::ZERO, |node| node.pointer(slot_of(index, 0)));
        *leaf = Some((first, known));
        Ok(pointer)
    }

    /// The leaf above a chunk; none where all is zero.
    fn leaf(&self, index: u64) -> Result<Option<ImageNode>, RepoError> {
        let mut pointer = self.root.ok_or_else(|| RepoError::Corrupt {
            what: self.name.clone(),
            detail: "its manifest is gone or damaged".to_owned(),
        })?;
        for level in (0..self.depth).rev() {
            if pointer.id.is_zero() {
                return Ok(None);
            }
            let node = self.records.image_node(pointer, level)?;
            if level == 0 {
                return Ok(Some(node));
            }
            pointer = node.pointer(slot_of(index, level));
        }
        Ok(None)
    }
}

impl ChunkSource for Below {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn chunk(&self, index: u64) -> Result<Bytes, RepoError> {
        let pointer = self.pointer(index)?;
        if pointer.id.is_zero() {
            return Ok(Bytes::from_static(&[0; CHUNK_BYTES]));
        }
        let mut chunks = self.records.chunks(&[pointer]);
        chunks.pop().unwrap_or_else(|| {
            Err(RepoError::ChunkMissing {
                id: pointer.id.to_string(),
            })
        })
    }

    fn cached_chunk(&self, _: u64) -> Option<Bytes> {
        None
    }

    /// What cannot be told is no zero, so that whoever reads it hears why.
    fn is_zero(&self, index: u64) -> Result<bool, RepoError> {
        Ok(self
            .pointer(index)
            .is_ok_and(|pointer| pointer.id.is_zero()))
    }
}

impl fmt::Debug for Below {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Below")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
