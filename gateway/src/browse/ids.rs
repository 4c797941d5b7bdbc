//! Numbers of all that a tree of disks shows.
//!
//! What lies in a volume keeps the number that it has there, below that of the volume. So numbers stay what they are as long
//! as volumes keep their slots, for which `super::volumes` sees.

use export::{ExportError, FileId};

/// What a number stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Id {
    Top,
    /// A file in the top folder.
    File(usize),
    /// The folder of a disk, or of [`ASSEMBLED`].
    Folder(usize),
    /// Something in a volume, or what stands in its place.
    Inside(Inside),
}

/// A place in the folder of a disk, and an object there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inside {
    /// Which folder.
    pub(super) folder: usize,
    /// Which of its volumes.
    pub(super) slot: usize,
    /// Which object of that.
    pub(super) inner: FileId,
}

impl Id {
    pub(super) fn of(file: FileId) -> Option<Self> {
        let number = file.0;
        if number == TOP {
            return Some(Self::Top);
        }
        if let Some(volume) = (number >> VOLUME_SHIFT).checked_sub(1) {
            return Some(Self::Inside(Inside {
                folder: index(volume / SLOTS),
                slot: index(volume % SLOTS),
                inner: FileId(number & INNER_MASK),
            }));
        }
        if let Some(folder) = number.checked_sub(FOLDERS_FROM) {
            return Some(Self::Folder(index(folder)));
        }
        number
            .checked_sub(FILES_FROM)
            .map(|file| Self::File(index(file)))
    }

    /// Fails for what has no room.
    pub(super) fn file(self) -> Result<FileId, ExportError> {
        Ok(FileId(match self {
            Self::Top => TOP,
            Self::File(number) => FILES_FROM + number as u64,
            Self::Folder(folder) => FOLDERS_FROM + folder as u64,
            Self::Inside(inside) => {
                let has_room = inside.inner.0 <= INNER_MASK
                    && inside.folder <= ASSEMBLED
                    && inside.slot < SLOTS_MAX;
                if !has_room {
                    return Err(ExportError::NotSupported);
                }
                let volume = inside.folder as u64 * SLOTS + inside.slot as u64 + 1;
                volume << VOLUME_SHIFT | inside.inner.0
            }
        }))
    }
}

impl Inside {
    /// Another object of the same volume.
    pub(super) fn with(self, inner: FileId) -> Self {
        Self { inner, ..self }
    }

    pub(super) fn file(self) -> Result<FileId, ExportError> {
        Id::Inside(self).file()
    }
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The top folder.
pub(super) const ROOT: FileId = FileId(TOP);

/// The number of the folder of what is put together from several disks.
pub(super) const ASSEMBLED: usize = 255;

/// Volumes of one folder that are shown.
pub(super) const SLOTS_MAX: usize = 255;
const SLOTS: u64 = 256;

const TOP: u64 = 1;
const FILES_FROM: u64 = 16;
const FOLDERS_FROM: u64 = 1 << 32;

/// Numbers within a volume lie below that of the volume.
const VOLUME_SHIFT: u32 = 48;
const INNER_MASK: u64 = (1 << VOLUME_SHIFT) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lead_back() {
        let inside = |folder, slot, inner| {
            Id::Inside(Inside {
                folder,
                slot,
                inner: FileId(inner),
            })
        };
        for id in [
            Id::Top,
            Id::File(0),
            Id::File(500),
            Id::Folder(0),
            Id::Folder(63),
            Id::Folder(ASSEMBLED),
            inside(0, 0, 0),
            inside(63, 254, INNER_MASK),
            inside(ASSEMBLED, 0, 2),
            inside(ASSEMBLED, SLOTS_MAX - 1, INNER_MASK),
        ] {
            assert_eq!(Id::of(id.file().unwrap()), Some(id));
        }
        for id in [
            inside(0, 0, INNER_MASK + 1),
            inside(0, SLOTS_MAX, 1),
            inside(ASSEMBLED + 1, 0, 1),
        ] {
            assert!(matches!(id.file(), Err(ExportError::NotSupported)));
        }
        assert_eq!(Id::of(FileId(0)), None);
    }
}
