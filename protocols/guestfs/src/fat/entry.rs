//! Entries of folders: what is known of a file.

use export::{FileKind, Timestamp};

use super::Fat;
use super::boot::{Root, Width};
use crate::bytes::{View, to_usize};
use crate::dos::{DosAttributes, timestamp};
use crate::{GuestError, Place};

/// A file or folder.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    /// Where its entry lies, in units of an entry; [`ROOT`] for the folder at the top.
    pub id: u64,
    pub attributes: DosAttributes,
    /// Where its chain begins; 0 for an empty file.
    pub cluster: u32,
    /// Of a file.
    pub size_bytes: u64,
    pub modified: Timestamp,
    pub accessed: Timestamp,
    pub created: Option<Timestamp>,
}

impl Object {
    pub(super) fn kind(&self) -> FileKind {
        if self.attributes.is_folder() {
            FileKind::Directory
        } else {
            FileKind::File
        }
    }

    pub(super) fn place(&self) -> Place {
        Place::Entry {
            offset_bytes: self.id * ENTRY_BYTES,
        }
    }

    pub(super) fn decode(id: u64, view: View<'_>, width: Width) -> Result<Self, GuestError> {
        let attributes = DosAttributes(u16::from(view.u8(11)?));
        let high = match width {
            Width::ThirtyTwo => u32::from(view.u16(20)?) << 16,
            _ => 0,
        };
        let made = (view.u16(16)?, view.u16(14)?);
        Ok(Self {
            id,
            attributes,
            cluster: u32::from(view.u16(26)?) | high,
            size_bytes: if attributes.is_folder() {
                0
            } else {
                u64::from(view.u32(28)?)
            },
            modified: timestamp(view.u16(24)?, view.u16(22)?, 0, 0),
            accessed: timestamp(view.u16(18)?, 0, 0, 0),
            created: (made.0 != 0).then_some(timestamp(made.0, made.1, view.u8(13)?, 0)),
        })
    }
}

impl Fat {
    /// The folder at the top, which has no entry.
    pub(super) fn top(&self) -> Object {
        let first = timestamp(0, 0, 0, 0);
        Object {
            id: ROOT,
            attributes: DosAttributes(DosAttributes::FOLDER),
            cluster: match self.geometry.root {
                Root::Chain { cluster } => cluster,
                Root::Fixed { .. } => 0,
            },
            size_bytes: 0,
            modified: first,
            accessed: first,
            created: None,
        }
    }

    /// What has its entry at a place.
    pub(super) fn at(&self, id: u64) -> Result<Object, GuestError> {
        if id == ROOT {
            return Ok(self.top());
        }
        let geometry = &self.geometry;
        let offset = id.checked_mul(ENTRY_BYTES).ok_or(GuestError::NotFound)?;
        let first = match geometry.root {
            Root::Fixed { at, .. } => at,
            Root::Chain { .. } => geometry.data_at,
        };
        if !(first..geometry.end).contains(&offset) {
            return Err(GuestError::NotFound);
        }
        let bytes = self.pages.read(offset, to_usize(ENTRY_BYTES))?;
        let view = View::new(
            &bytes,
            Place::Entry {
                offset_bytes: offset,
            },
        );
        if !names_something(view)? {
            return Err(GuestError::NotFound);
        }
        Object::decode(id, view, geometry.width)
    }
}

/// Whether an entry is that of a file or folder other than the one it lies in and the one above.
pub(super) fn names_something(view: View<'_>) -> Result<bool, GuestError> {
    Ok(!matches!(view.u8(0)?, END | REMOVED)
        && !DosAttributes(u16::from(view.u8(11)?)).has(DosAttributes::VOLUME_LABEL)
        && !matches!(view.slice(0, 11)?, b".          " | b"..         "))
}

/// The name of the folder at the top: there is no entry in the boot sector.
pub(super) const ROOT: u64 = 1;
pub(super) const ENTRY_BYTES: u64 = 32;
/// The first byte of an entry behind which there is nothing.
pub(super) const END: u8 = 0;
/// The first byte of an entry that is free again.
pub(super) const REMOVED: u8 = 0xE5;
