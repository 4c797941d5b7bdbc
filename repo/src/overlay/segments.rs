//! The files of a journal.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use uuid::Uuid;

use super::format::{SEGMENT_HEADER_BYTES, SEGMENT_VERSION, SegmentError, SegmentHeader};
use super::keys::{JournalKeys, OverlayKeys};
use super::record::folder;
use crate::disk::{Access, Caching, Disk, DiskFile};
use crate::error::RepoError;

/// Finds, opens and makes segments, and keeps some of them open.
pub(super) struct Segments {
    disk: Arc<dyn Disk>,
    overlay: Uuid,
    keys: Option<Arc<JournalKeys>>,
    folder: PathBuf,
    open: Mutex<HashMap<u32, Arc<dyn DiskFile>>>,
}

impl Segments {
    pub(super) fn new(disk: Arc<dyn Disk>, overlay: Uuid, keys: &OverlayKeys) -> Self {
        Self {
            disk,
            overlay,
            keys: keys.journal().cloned(),
            folder: folder(overlay),
            open: Mutex::default(),
        }
    }

    pub(super) fn overlay(&self) -> Uuid {
        self.overlay
    }

    /// What the journal is encrypted with, if it is.
    pub(super) fn keys(&self) -> Option<&Arc<JournalKeys>> {
        self.keys.as_ref()
    }

    pub(super) fn path(&self, number: u32) -> PathBuf {
        self.folder.join(format!("{PREFIX}{number:08}"))
    }

    /// Numbers and lengths of the segments. They are numbered from 1 without gaps.
    pub(super) fn list(&self) -> Result<BTreeMap<u32, u64>, RepoError> {
        let mut segments = BTreeMap::new();
        for item in self.disk.list(&self.folder)? {
            if let Some(number) = item
                .name
                .strip_prefix(PREFIX)
                .and_then(|number| number.parse().ok())
            {
                segments.insert(number, item.length_bytes);
            }
        }
        for (expected, number) in (1_u32..).zip(
            segments
                .keys()
                .copied()
                .chain(segments.is_empty().then_some(0)),
        ) {
            if number != expected {
                return Err(self.corrupt(expected, "the file is gone"));
            }
        }
        Ok(segments)
    }

    /// Opens a segment for reading, or gives it if it is open.
    pub(super) fn open(&self, number: u32) -> Result<Arc<dyn DiskFile>, RepoError> {
        let mut open = self.open.lock();
        if let Some(file) = open.get(&number) {
            return Ok(Arc::clone(file));
        }
        let file = self
            .disk
            .open(&self.path(number), Access::Read, Caching::Cached)?;
        if open.len() >= OPEN_MAX
            && let Some(other) = open.keys().next().copied()
        {
            open.remove(&other);
        }
        open.insert(number, Arc::clone(&file));
        Ok(file)
    }

    /// Makes a segment, durably. One of that number that nothing was written to yet gives way.
    pub(super) fn create(&self, header: &SegmentHeader) -> Result<Arc<dyn DiskFile>, RepoError> {
        let path = self.path(header.number);
        self.open.lock().remove(&header.number);
        self.disk
            .replace(&path, &header.encode(self.keys.as_deref()))?;
        Ok(self.disk.open(&path, Access::ReadWrite, Caching::Cached)?)
    }

    /// Opens a segment for writes past the page cache.
    pub(super) fn open_direct(&self, number: u32) -> Result<Arc<dyn DiskFile>, RepoError> {
        let path = self.path(number);
        Ok(self.disk.open(&path, Access::ReadWrite, Caching::Direct)?)
    }

    pub(super) fn header(&self, number: u32) -> Result<SegmentHeader, RepoError> {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        self.open(number)?.read_at(0, &mut bytes)?;
        let header =
            SegmentHeader::decode(&bytes, self.keys.as_deref()).map_err(|error| match error {
                SegmentError::Damaged => {
                    self.corrupt(number, "its header does not match its check")
                }
                SegmentError::Version(found) => RepoError::TooNew {
                    what: self.path(number).display().to_string(),
                    found,
                    known: SEGMENT_VERSION,
                },
            })?;
        if header.number != number || header.overlay != *self.overlay.as_bytes() {
            return Err(self.corrupt(number, "its header belongs to another file"));
        }
        Ok(header)
    }

    pub(super) fn corrupt(&self, number: u32, detail: impl Into<String>) -> RepoError {
        RepoError::Corrupt {
            what: self.path(number).display().to_string(),
            detail: detail.into(),
        }
    }
}

impl fmt::Debug for Segments {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Segments")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

const PREFIX: &str = "journal.";

/// Segments kept open for reading, per overlay.
const OPEN_MAX: usize = 32;
