//! A pack as it was: bad pages found, and rebuilt if wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::IoSlice;
use std::sync::Arc;

use parking_lot::Mutex;

use super::file::{ParityFile, read_page};
use super::format::{Covered, at_page, page_count};
use crate::disk::{DiskError, DiskFile};
use crate::pack::format::PAGE_BYTES;

/// Shows a pack past its bad pages. Pages that cannot be read, and are not rebuilt, show as zeroes: whoever reads
/// records proves them, so that none is taken for what it is not.
pub(crate) struct PackView {
    file: Arc<dyn DiskFile>,
    parity: Option<Arc<ParityFile>>,
    rebuild: Rebuild,
    state: Mutex<ViewState>,
}

/// What a view does about bad pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rebuild {
    /// Notes them.
    No,
    /// Makes them again from parity, where that suffices.
    Yes,
}

/// Bad pages that a view met.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct BadPages {
    /// They are not what parity was made of, or are cut off.
    pub(crate) changed: BTreeSet<u32>,
    /// The disk does not give them.
    pub(crate) unreadable: BTreeSet<u32>,
}

#[derive(Default)]
struct ViewState {
    bad: BadPages,
    rebuilt: BTreeMap<u32, Vec<u8>>,
    /// Groups that parity was tried for.
    tried: BTreeSet<u32>,
}

impl BadPages {
    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.unreadable.is_empty()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        (self.changed.len() + self.unreadable.len()) as u64
    }
}

impl PackView {
    pub(crate) fn new(
        file: Arc<dyn DiskFile>,
        parity: Option<Arc<ParityFile>>,
        rebuild: Rebuild,
    ) -> Self {
        Self {
            file,
            parity,
            rebuild,
            state: Mutex::default(),
        }
    }

    /// Bad pages met so far.
    pub(crate) fn bad_pages(&self) -> BadPages {
        self.state.lock().bad.clone()
    }

    /// Pages rebuilt so far, with their bytes.
    pub(crate) fn rebuilt_pages(&self) -> BTreeMap<u32, Vec<u8>> {
        self.state.lock().rebuilt.clone()
    }

    /// The length that the pack must have, if parity tells.
    pub(crate) fn whole_length(&self) -> Option<u64> {
        let parity = self.parity.as_ref()?;
        (parity.covers() == Covered::Whole).then(|| parity.covered_bytes())
    }

    /// Reads what can be read. Gives how many bytes the file has of `buffer`, and the pages that failed.
    fn read_past_errors(&self, offset: u64, buffer: &mut [u8]) -> (usize, BTreeSet<u32>) {
        let mut unreadable = BTreeSet::new();
        if let Ok(got) = self.file.read_at(offset, buffer) {
            return (got, unreadable);
        }
        let there = self
            .file
            .length()
            .unwrap_or(u64::MAX)
            .saturating_sub(offset);
        let there = usize::try_from(there)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        for (page, number) in buffer.chunks_mut(PAGE_BYTES).zip(page_count(offset)..) {
            if at_page(number) >= offset + there as u64 {
                break;
            }
            match self.file.read_at(at_page(number), page) {
                Ok(_) => {}
                Err(_) => {
                    page.fill(0);
                    unreadable.insert(number);
                }
            }
        }
        (there, unreadable)
    }

    /// The page as it was, if parity has it.
    fn rebuilt(&self, parity: &ParityFile, page: u32) -> Option<Vec<u8>> {
        let group = parity.group_of(page);
        let mut state = self.state.lock();
        if state.tried.insert(group) {
            match parity.rebuild(self.file.as_ref(), group) {
                Ok(pages) => state.rebuilt.extend(pages),
                Err(_) => tracing::debug!(group, "parity does not suffice for a group of pages"),
            }
        }
        state.rebuilt.get(&page).cloned()
    }
}

impl DiskFile for PackView {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
        let length = self.length()?.saturating_sub(offset);
        let wanted = usize::try_from(length)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let (got, unreadable) = self.read_past_errors(offset, buffer);
        if let Some(behind) = buffer.get_mut(got..) {
            behind.fill(0);
        }
        let pages = buffer.get_mut(..wanted).unwrap_or_default();
        for (bytes, page) in pages.chunks_mut(PAGE_BYTES).zip(page_count(offset)..) {
            let parity = self
                .parity
                .as_ref()
                .filter(|parity| page < parity.data_pages());
            let failed = unreadable.contains(&page);
            let changed = parity.is_some_and(|parity| {
                at_page(page) + PAGE_BYTES as u64 > offset + got as u64
                    || !parity.is_page(page, bytes)
            });
            if !failed && !changed {
                continue;
            }
            {
                let bad = &mut self.state.lock().bad;
                match failed {
                    true => bad.unreadable.insert(page),
                    false => bad.changed.insert(page),
                };
            }
            if self.rebuild == Rebuild::Yes
                && let Some(parity) = parity
                && let Some(rebuilt) = self.rebuilt(parity, page)
            {
                bytes.copy_from_slice(rebuilt.get(..bytes.len()).unwrap_or_default());
            }
        }
        Ok(wanted)
    }

    fn length(&self) -> Result<u64, DiskError> {
        let length = self.file.length()?;
        Ok(match (&self.parity, self.whole_length()) {
            (_, Some(whole)) => whole,
            (Some(parity), None) => length.max(parity.covered_bytes()),
            (None, None) => length,
        })
    }

    fn write_at(&self, _: u64, _: &[IoSlice<'_>]) -> Result<(), DiskError> {
        Err(read_only())
    }

    fn sync(&self) -> Result<(), DiskError> {
        Err(read_only())
    }

    fn start_writeback(&self, _: u64, _: u64) {}

    fn set_length(&self, _: u64) -> Result<(), DiskError> {
        Err(read_only())
    }

    fn punch(&self, _: u64, _: u64) {}
}

impl fmt::Debug for PackView {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PackView")
            .field("file", &self.file)
            .field("parity", &self.parity)
            .field("rebuild", &self.rebuild)
            .finish_non_exhaustive()
    }
}

fn read_only() -> DiskError {
    DiskError::new(
        "change",
        std::path::Path::new("a view of a pack"),
        std::io::ErrorKind::ReadOnlyFilesystem,
    )
}

/// Whether page `page` of `file` is `bytes`, read from the disk again.
pub(super) fn has_page(file: &dyn DiskFile, page: u32, bytes: &[u8]) -> bool {
    read_page(file, at_page(page)).is_some_and(|found| &found[..] == bytes)
}
