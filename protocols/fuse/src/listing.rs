//! Folders, entry by entry, with attributes where they are wanted.

use export::{Attributes, DirectoryEntry, ExportError};
use fuser::INodeNo;

use crate::filesystem::Filesystem;

/// What goes into a reply: an object, the place after it, its name, and its attributes.
pub(crate) type Add<'a> = &'a mut dyn FnMut(Listed<'_>) -> Result<Room, ExportError>;

/// One entry for the kernel.
#[derive(Debug)]
pub(crate) struct Listed<'a> {
    pub(crate) next: u64,
    pub(crate) name: &'a [u8],
    pub(crate) attributes: &'a Attributes,
}

/// Whether a reply took an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    Left,
    Full,
}

impl Filesystem {
    /// Gives the entries after `place` to `add` until it has no room or the folder ends.
    ///
    /// A failure after the first entry is kept for the next call, so that what was found is shown.
    pub(crate) fn list(&self, inode: INodeNo, place: u64, add: Add<'_>) -> Result<(), ExportError> {
        let directory = self.file(inode);
        if place == 0 {
            let attributes = self.tree.attributes(directory)?;
            let itself = listed(AFTER_ITSELF, b".", &attributes);
            if add(itself)? == Room::Full {
                return Ok(());
            }
        }
        if place <= AFTER_ITSELF {
            // A folder that does not say where it lies is still a folder.
            let parent = self.tree.lookup(directory, b"..");
            let attributes = parent
                .and_then(|parent| self.tree.attributes(parent))
                .or_else(|_| self.tree.attributes(directory))?;
            if add(listed(AFTER_PARENT, b"..", &attributes))? == Room::Full {
                return Ok(());
            }
        }
        let mut cookie = if place <= AFTER_PARENT { 0 } else { place };
        let mut has_some = place <= AFTER_ITSELF;
        loop {
            let entries = match self.tree.list(directory, cookie, ENTRIES_AT_ONCE) {
                Ok(entries) => entries,
                Err(_) if has_some => return Ok(()),
                Err(error) => return Err(error),
            };
            let is_last = entries.len() < ENTRIES_AT_ONCE;
            for entry in entries {
                cookie = entry.cookie;
                if self.can_show(&entry) {
                    let shown = listed(entry.cookie, &entry.name, &entry.attributes);
                    if add(shown)? == Room::Full {
                        return Ok(());
                    }
                    has_some = true;
                }
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// One name that the kernel does not take would cost the whole folder.
    fn can_show(&self, entry: &DirectoryEntry) -> bool {
        let is_name = (1..=NAME_BYTES_MAX).contains(&entry.name.len())
            && !entry.name.iter().any(|byte| matches!(byte, 0 | b'/'))
            && !matches!(entry.name.as_slice(), b"." | b"..");
        let is_shown = is_name && self.numbers.inode(entry.attributes.file).is_ok();
        if !is_shown {
            tracing::debug!(file = entry.file.0, "an entry cannot be shown");
        }
        is_shown
    }
}

fn listed<'a>(next: u64, name: &'a [u8], attributes: &'a Attributes) -> Listed<'a> {
    Listed {
        next,
        name,
        attributes,
    }
}

const AFTER_ITSELF: u64 = 1;
const AFTER_PARENT: u64 = 2;

/// About what a reply to getdents(2) as the C library asks holds.
const ENTRIES_AT_ONCE: usize = 128;

/// The kernel's own limit.
const NAME_BYTES_MAX: usize = 1024;
