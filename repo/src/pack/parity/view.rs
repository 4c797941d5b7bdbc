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
/// records proves them, so that none is taken for what it is not. Parity that cannot be this pack's is not used.
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
        let parity = parity.filter(|parity| parity.may_be_of(file.as_ref()));
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
        let rebuilt = state.rebuilt.get(&page).cloned();
        rebuilt.or_else(|| {
            // Somebody may have mended it since it was read.
            let again = read_page(self.file.as_ref(), at_page(page))?;
            parity.is_page(page, &again).then(|| again.to_vec())
        })
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

    /// How long the pack is, with what is cut off. Only what is rebuilt ends where parity says: what there is behind may be
    /// records, of a pack that parity was not made of.
    fn length(&self) -> Result<u64, DiskError> {
        let length = self.file.length()?;
        Ok(match (&self.parity, self.whole_length()) {
            (_, Some(whole)) if self.rebuild == Rebuild::Yes => whole,
            (Some(parity), _) => length.max(parity.covered_bytes()),
            (None, _) => length,
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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::disk::{Caching, Disk as _, SimulatedDisk};
    use crate::pack::parity::{ParityOwner, ParityShare, make_parity};

    /// A file that somebody mends between its first reading and the next.
    #[derive(Debug)]
    struct Mended {
        before: Arc<dyn DiskFile>,
        after: Arc<dyn DiskFile>,
        was_read: AtomicBool,
    }

    impl DiskFile for Mended {
        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
            match self.was_read.swap(true, Ordering::Relaxed) {
                false => self.before.read_at(offset, buffer),
                true => self.after.read_at(offset, buffer),
            }
        }

        fn write_at(&self, _: u64, _: &[IoSlice<'_>]) -> Result<(), DiskError> {
            Err(read_only())
        }

        fn sync(&self) -> Result<(), DiskError> {
            Err(read_only())
        }

        fn start_writeback(&self, _: u64, _: u64) {}

        fn length(&self) -> Result<u64, DiskError> {
            self.after.length()
        }

        fn set_length(&self, _: u64) -> Result<(), DiskError> {
            Err(read_only())
        }

        fn punch(&self, _: u64, _: u64) {}
    }

    #[test]
    fn a_page_that_is_mended_while_it_is_looked_at_is_read_again() {
        let disk = SimulatedDisk::new();
        let make = |name: &str, bytes: &[u8]| {
            let file = disk.create(Path::new(name), Caching::Cached).unwrap();
            file.write_at(0, &[IoSlice::new(bytes)]).unwrap();
            file
        };
        let sound = vec![0x5A; 40 * PAGE_BYTES];
        let after = make("after", &sound);
        let owner = ParityOwner {
            repository: uuid::Uuid::nil(),
            number: 1,
            epoch: 1,
        };
        let length = after.length().unwrap();
        let share = ParityShare::default();
        let parity = make_parity(
            after.as_ref(),
            length,
            Covered::Whole,
            owner,
            share,
            &mut |_| Ok(()),
        );
        let parity = ParityFile::read(make("parity", &parity.unwrap()), owner).unwrap();
        // More than parity could give back.
        let mut hurt = sound.clone();
        hurt[PAGE_BYTES..30 * PAGE_BYTES].fill(1);
        let file = Mended {
            before: make("before", &hurt),
            after,
            was_read: AtomicBool::new(false),
        };
        let view = PackView::new(Arc::new(file), Some(Arc::new(parity)), Rebuild::Yes);
        let mut read = vec![0; sound.len()];
        view.read_at(0, &mut read).unwrap();
        assert!(read == sound);
        assert_eq!(view.bad_pages().count(), 29);
        assert!(
            view.rebuilt_pages().is_empty(),
            "nothing is to be written back"
        );
    }
}
